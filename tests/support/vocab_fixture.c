/* Reader of the flat vocabulary and case files; see vocab_fixture.h. Test code: files are trusted to be ours.
 */
#include "tests/support/vocab_fixture.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The whole file with a final zero byte; NULL with a message. */
static char *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "%s: can't open\n", path);
        return NULL;
    }
    char *buf = NULL;
    long size = -1;
    if (fseek(f, 0, SEEK_END) == 0) size = ftell(f);
    if (size >= 0 && fseek(f, 0, SEEK_SET) == 0) buf = malloc((size_t)size + 1);
    if (buf) {
        *n = fread(buf, 1, (size_t)size, f);
        buf[*n] = 0;
    }
    fclose(f);
    return buf;
}

static int nibble(char c) {
    return c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
}

/* Undoes \xNN in place up to the end of the line; the text. *line moves to the next line. */
static struct qn_str unescape(char **line) {
    char *r = *line, *w = *line;
    struct qn_str s = {*line, 0};
    while (*r != 0 && *r != '\n') {
        if (*r == '\\') {
            *w++ = (char)(nibble(r[2]) * 16 + nibble(r[3]));
            r += 4;
        } else {
            *w++ = *r++;
        }
    }
    s.n = (size_t)(w - s.p);
    *line = *r == '\n' ? r + 1 : r;
    return s;
}

static size_t count_lines(const char *s, char first) {
    size_t n = 0;
    for (const char *p = s; *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : p + strlen(p))
        if (first == 0 || (p[0] == first && p[1] == ' ')) n++;
    return n;
}

static enum qn_pretok pretok_named(const char *s) {
    static const struct {
        const char *name;
        enum qn_pretok kind;
    } known[] = {{"gpt2", QN_PRETOK_GPT2},
                 {"llama3", QN_PRETOK_LLAMA3},
                 {"qwen2", QN_PRETOK_QWEN2},
                 {"smollm", QN_PRETOK_SMOLLM},
                 {"none", QN_PRETOK_NONE}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(s, known[i].name, strlen(known[i].name)) == 0) return known[i].kind;
    return QN_PRETOK_NONE;
}

/* "flags a b c d e" */
static void read_flags(struct qn_vocab_desc *d, const char *p) {
    int v[5] = {0};
    sscanf(p, "flags %d %d %d %d %d", &v[0], &v[1], &v[2], &v[3], &v[4]);
    d->add_bos = v[0] != 0;
    d->add_eos = v[1] != 0;
    d->add_space_prefix = v[2] != 0;
    d->ignore_merges = v[3] != 0;
    d->nfc = v[4] != 0;
}

static void read_line(struct qn_vocab_fixture *f, char **line) {
    struct qn_vocab_desc *d = &f->desc;
    char *p = *line;
    if (strncmp(p, "t ", 2) == 0) {
        char *q;
        f->attrs[d->n_tokens] = (uint8_t)strtoul(p + 2, &q, 10);
        f->scores[d->n_tokens] = strtof(q + 1, &q);
        *line = q + 1;
        f->tokens[d->n_tokens++] = unescape(line);
        return;
    }
    if (strncmp(p, "m ", 2) == 0) {
        *line = p + 2;
        f->merges[d->n_merges++] = unescape(line);
        return;
    }
    if (strncmp(p, "kind ", 5) == 0) d->kind = p[5] == 'b' ? QN_TOK_BPE : QN_TOK_SPM;
    if (strncmp(p, "pretok ", 7) == 0) d->pretok = pretok_named(p + 7);
    if (strncmp(p, "ids ", 4) == 0) sscanf(p, "ids %d %d %d %d", &d->bos, &d->eos, &d->unk, &d->pad);
    if (strncmp(p, "flags ", 6) == 0) read_flags(d, p);
    if (strncmp(p, "scores ", 7) == 0) d->scores = p[7] == '1' ? f->scores : NULL;
    if (strncmp(p, "e ", 2) == 0 && d->n_eog < 32) f->eog[d->n_eog++] = (int32_t)strtol(p + 2, NULL, 10);
    char *end = strchr(p, '\n');
    *line = end ? end + 1 : p + strlen(p);
}

int qn_vocab_fixture_read(struct qn_vocab_fixture *f, const char *path) {
    size_t n;
    memset(f, 0, sizeof *f);
    f->file = slurp(path, &n);
    if (!f->file) return -1;
    const size_t n_tokens = count_lines(f->file, 't'), n_merges = count_lines(f->file, 'm');
    f->tokens = calloc(n_tokens + 1, sizeof *f->tokens);
    f->scores = calloc(n_tokens + 1, sizeof *f->scores);
    f->attrs = calloc(n_tokens + 1, sizeof *f->attrs);
    f->merges = calloc(n_merges + 1, sizeof *f->merges);
    if (!f->tokens || !f->scores || !f->attrs || !f->merges) return -1;
    f->desc.tokens = f->tokens;
    f->desc.attrs = f->attrs;
    f->desc.merges = f->merges;
    f->desc.eog = f->eog;
    for (char *line = f->file; *line;) read_line(f, &line);
    return 0;
}

void qn_vocab_fixture_free(struct qn_vocab_fixture *f) {
    free(f->file);
    free(f->tokens);
    free(f->scores);
    free(f->attrs);
    free(f->merges);
    memset(f, 0, sizeof *f);
}

struct qn_tokenizer *qn_vocab_fixture_tokenizer(const char *path) {
    struct qn_vocab_fixture f;
    struct qn_tokenizer *t = NULL;
    struct qn_err err = {0};
    if (qn_vocab_fixture_read(&f, path) == 0 && qn_tokenizer_new(&f.desc, &t, &err) != QN_OK)
        fprintf(stderr, "%s: %s\n", path, err.msg);
    qn_vocab_fixture_free(&f);
    return t;
}

int qn_token_cases_read(struct qn_token_cases *c, const char *path) {
    size_t bytes = 0, n_ids = 0;
    memset(c, 0, sizeof *c);
    c->file = slurp(path, &bytes);
    if (!c->file) return -1;
    c->v = calloc(count_lines(c->file, 0) + 1, sizeof *c->v);
    c->ids = calloc(bytes / 2 + 1, sizeof *c->ids); /* an id takes a digit and a separator */
    if (!c->v || !c->ids) return -1;
    for (char *p = c->file; *p;) {
        struct qn_token_case *k = &c->v[c->n++];
        k->flags = (unsigned)strtoul(p, &p, 10);
        k->ids = c->ids + n_ids;
        p++;
        if (*p == '-') p++;
        while (*p != ' ') {
            k->ids[k->n++] = (int32_t)strtol(p, &p, 10);
            if (*p == ',') p++;
        }
        n_ids += k->n;
        p++;
        k->text = unescape(&p);
    }
    return 0;
}

void qn_token_cases_free(struct qn_token_cases *c) {
    free(c->file);
    free(c->v);
    free(c->ids);
    memset(c, 0, sizeof *c);
}

static void show(const char *what, const int32_t *ids, size_t n) {
    fprintf(stderr, "  %s", what);
    for (size_t i = 0; i < n && i < 60; i++) fprintf(stderr, " %d", ids[i]);
    fprintf(stderr, "\n");
}

size_t qn_token_cases_check(const struct qn_tokenizer *t, const struct qn_token_cases *c, size_t shown) {
    size_t good = 0;
    for (size_t i = 0; i < c->n; i++) {
        const struct qn_token_case *k = &c->v[i];
        struct qn_err err = {0};
        int32_t *ids;
        size_t n;
        qn_tokenizer_encode(t, k->text.p, k->text.n, k->flags, 0, &ids, &n, &err);
        const bool same = !err.code && n == k->n && (n == 0 || memcmp(ids, k->ids, n * sizeof *ids) == 0);
        good += same;
        if (!same && shown > 0) {
            shown--;
            fprintf(stderr, "case %zu, flags %u: \"", i, k->flags);
            for (size_t b = 0; b < k->text.n && b < 200; b++) {
                const unsigned char ch = (unsigned char)k->text.p[b];
                fprintf(stderr, ch > 0x20 && ch < 0x7F ? "%c" : "\\x%02x", ch);
            }
            fprintf(stderr, "\" %s\n", err.msg);
            show("want", k->ids, k->n);
            show("got ", ids, n);
        }
        free(ids);
    }
    return good;
}
