/* Chat templates against Hugging Face's rendering (tests/golden/chat/chat.bin, made by
 * tools/golden/chat_templates.py, which draws the layout): every text is recognised by what it holds, every
 * conversation comes out byte for byte or is refused.
 *
 * QN_CHAT_TEXTS=DIR names a folder with the whole published texts, NAME.jinja; those of no known template
 * begin with an underscore. Without it that test is skipped: some licences keep texts out of the tree. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/text/chat_template.h"

#define FILE_NAME "tests/golden/chat/chat.bin"
#define MOST      16 /* messages of a conversation */

struct cursor {
    const uint8_t *at, *end;
};

static const void *take(struct cursor *c, size_t bytes) {
    const uint8_t *p = c->at;
    assert_true((size_t)(c->end - p) >= bytes);
    c->at += bytes;
    return p;
}

static uint32_t number(struct cursor *c) {
    uint32_t v;
    memcpy(&v, take(c, sizeof v), sizeof v);
    return v;
}

static struct qn_str_ref text(struct cursor *c) {
    uint32_t n = number(c);
    return (struct qn_str_ref){take(c, n), n};
}

/* Terminated; the caller frees. */
static char *word(struct cursor *c) {
    struct qn_str_ref s = text(c);
    char *w = strndup(s.p, s.n);
    assert_non_null(w);
    return w;
}

static uint8_t *read_all(const char *path, size_t *n) {
    FILE *f = fopen(path, "rbe");
    if (!f) fail_msg("can't open %s", path);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *n = (size_t)ftell(f);
    rewind(f);
    uint8_t *p = malloc(*n + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, *n, f), *n);
    fclose(f);
    return p;
}

struct talk {
    uint32_t n;
    struct qn_chat_message m[MOST];
};

static void run_case(struct cursor *c, const struct qn_chat_template *t, const struct qn_chat_context *ctx,
                     const struct talk *talks) {
    uint32_t at = number(c);
    bool prompt = *(const uint8_t *)take(c, 1), refused = *(const uint8_t *)take(c, 1);
    struct qn_str_ref want = text(c);
    struct qn_err err = {0};
    char *out = NULL;
    size_t n = 0;
    int rc = qn_chat_render(t, ctx, talks[at].m, talks[at].n, prompt, &out, &n, &err);
    if (refused) {
        if (rc != QN_ERR_INVALID)
            fail_msg("%s: conversation %u was not refused, but became \"%.*s\"", qn_chat_name(t), at, (int)n,
                     out);
        assert_null(out);
        assert_int_equal(strncmp(err.param, "messages[", 9), 0);
        return;
    }
    if (rc != QN_OK) fail_msg("%s: conversation %u: %s", qn_chat_name(t), at, err.msg);
    if (n != want.n || memcmp(out, want.p, n) != 0)
        fail_msg("%s: conversation %u became\n%.*s\nand should be\n%.*s", qn_chat_name(t), at, (int)n, out,
                 (int)want.n, want.p);
    free(out);
}

static uint32_t run_template(struct cursor *c, const char *today, const struct talk *talks) {
    char *name = word(c);
    struct qn_str_ref own = text(c), bos = text(c), eos = text(c);
    const struct qn_chat_context ctx = {.bos = bos, .eos = eos, .today = today};
    const struct qn_chat_template *t = qn_chat_find(name), *seen = NULL;
    if (!t) fail_msg("there is no template %s", name);
    assert_int_equal(qn_chat_recognise(own.p, own.n, &seen, NULL), QN_OK);
    if (seen != t) fail_msg("%s is recognised as %s", name, seen ? qn_chat_name(seen) : "nothing");
    assert_non_null(strstr(qn_chat_names(), name));
    uint32_t n = number(c);
    for (uint32_t i = 0; i < n; i++) run_case(c, t, &ctx, talks);
    free(name);
    return n;
}

static void golden(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *file = read_all(FILE_NAME, &bytes);
    struct cursor c = {file, file + bytes};
    assert_memory_equal(take(&c, 8), "QNCHAT01", 8);
    char *today = word(&c);
    uint32_t n_talks = number(&c), n = 0;
    struct talk *talks = calloc(n_talks, sizeof *talks);
    assert_non_null(talks);
    for (uint32_t i = 0; i < n_talks; i++) {
        talks[i].n = number(&c);
        assert_in_range(talks[i].n, 1, MOST);
        for (uint32_t k = 0; k < talks[i].n; k++) {
            talks[i].m[k].role = word(&c);
            struct qn_str_ref s = text(&c);
            talks[i].m[k].content = s.p;
            talks[i].m[k].n = s.n;
        }
    }
    uint32_t n_templates = number(&c);
    assert_true(n_templates >= 18);
    for (uint32_t i = 0; i < n_templates; i++) n += run_template(&c, today, talks);
    assert_ptr_equal(c.at, c.end);
    print_message("%u templates, %u conversations rendered\n", n_templates, n);
    for (uint32_t i = 0; i < n_talks; i++)
        for (uint32_t k = 0; k < talks[i].n; k++) free((void *)(uintptr_t)talks[i].m[k].role);
    free(talks);
    free(today);
    free(file);
}

static void whole_texts(void **state) {
    (void)state;
    const char *folder = getenv("QN_CHAT_TEXTS");
    DIR *d = folder ? opendir(folder) : NULL;
    unsigned n = 0;
    if (!d) skip();
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[4096], name[256];
        size_t bytes, stem = strlen(e->d_name);
        if (stem <= 6 || strcmp(e->d_name + stem - 6, ".jinja") != 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        snprintf(name, sizeof name, "%.*s", (int)(stem - 6), e->d_name);
        uint8_t *p = read_all(path, &bytes);
        const struct qn_chat_template *seen;
        assert_int_equal(qn_chat_recognise((const char *)p, bytes, &seen, NULL), QN_OK);
        if (seen != (name[0] == '_' ? NULL : qn_chat_find(name)))
            fail_msg("%s is recognised as %s", name, seen ? qn_chat_name(seen) : "nothing");
        free(p);
        n++;
    }
    closedir(d);
    print_message("%u whole texts\n", n);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden), cmocka_unit_test(whole_texts)};
    return cmocka_run_group_tests_name("chat", tests, NULL, NULL);
}
