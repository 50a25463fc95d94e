/* The tokenizer of tokenizer.h: checks a vocabulary, builds its tables (bpe.c, spm.c), and drives encoding:
 *
 *   bytes -> valid UTF-8 -> split at added tokens -> NFC (if the vocabulary asks) -> bpe.c or spm.c -> ids
 *
 * Everything after qn_tokenizer_new only reads the tokenizer, so any thread may call it. */
#include "model/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/text/unicode.h"
#include "model/text/utf8.h"
#include "model/text/vocab.h"

/* --- shared with the builders --- */

bool qn_vocab_split_merge(struct qn_str merge, size_t nth, struct qn_str *left, struct qn_str *right) {
    for (size_t i = 1; i + 1 < merge.n; i++) {
        if (merge.p[i] != ' ' || nth-- > 0) continue;
        *left = (struct qn_str){merge.p, i};
        *right = (struct qn_str){merge.p + i + 1, merge.n - i - 1};
        return true;
    }
    return false;
}

int qn_vocab_bad_merge(struct qn_err *err, size_t i, struct qn_str merge) {
    const int shown = merge.n < 80 ? (int)merge.n : 80;
    return qn_err_set(err, QN_ERR_FORMAT, "merge %zu (\"%.*s\") does not join two tokens into a third", i,
                      shown, merge.n > 0 ? merge.p : "");
}

int qn_encoding_push(struct qn_encoding *e, uint32_t id) {
    if (e->max > 0 && e->n >= e->max) return QN_ERR_TOO_LONG;
    if (e->n == e->cap) {
        size_t cap, bytes;
        if (!qn_size_mul(e->cap, 2, &cap)) return QN_ERR_NOMEM;
        if (cap < 64) cap = 64;
        if (!qn_size_mul(cap, sizeof *e->ids, &bytes)) return QN_ERR_NOMEM;
        int32_t *p = realloc(e->ids, bytes);
        if (!p) return QN_ERR_NOMEM;
        e->ids = p;
        e->cap = cap;
    }
    e->ids[e->n++] = (int32_t)id;
    return QN_OK;
}

/* --- building --- */

static bool id_ok(int32_t id, uint32_t n_tokens) {
    return id == -1 || (id >= 0 && (uint32_t)id < n_tokens);
}

static int check_ids(const struct qn_vocab_desc *d, struct qn_err *err) {
    const struct {
        const char *name;
        int32_t id;
    } named[] = {{"beginning-of-sequence", d->bos},
                 {"end-of-sequence", d->eos},
                 {"unknown", d->unk},
                 {"padding", d->pad}};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (!id_ok(named[i].id, d->n_tokens))
            return qn_err_set(err, QN_ERR_FORMAT, "the %s token is %d, but there are %u tokens",
                              named[i].name, named[i].id, d->n_tokens);
    for (uint32_t i = 0; i < d->n_eog; i++)
        if (d->eog[i] < 0 || !id_ok(d->eog[i], d->n_tokens))
            return qn_err_set(err, QN_ERR_FORMAT, "end-of-generation token %d is out of range", d->eog[i]);
    return QN_OK;
}

/* Checks the description's bounds; *total is the bytes of all token texts. */
static int check_desc(const struct qn_vocab_desc *d, size_t *total, struct qn_err *err) {
    if (d->n_tokens == 0 || !d->tokens || !d->attrs || (d->n_merges > 0 && !d->merges))
        return qn_err_set(err, QN_ERR_FORMAT, "the vocabulary is empty");
    if (d->n_tokens > QN_VOCAB_MAX || d->n_merges > 4 * QN_VOCAB_MAX)
        return qn_err_set(err, QN_ERR_UNSUPPORTED, "a vocabulary of %u tokens and %u merges is too large",
                          d->n_tokens, d->n_merges);
    if (d->kind != QN_TOK_BPE && d->kind != QN_TOK_SPM)
        return qn_err_set(err, QN_ERR_UNSUPPORTED, "unknown kind of tokenizer");
    *total = 0;
    for (uint32_t i = 0; i < d->n_tokens; i++) {
        if (d->tokens[i].n > QN_TOKEN_BYTES_MAX)
            return qn_err_set(err, QN_ERR_FORMAT, "token %u has %zu bytes, more than %u", i, d->tokens[i].n,
                              QN_TOKEN_BYTES_MAX);
        if (!qn_size_add(*total, d->tokens[i].n, total))
            return qn_err_set(err, QN_ERR_FORMAT, "the token texts are too large");
    }
    return check_ids(d, err);
}

static void copy_flags(struct qn_tokenizer *t, const struct qn_vocab_desc *d) {
    t->kind = d->kind;
    t->pretok = d->pretok;
    t->n_tokens = d->n_tokens;
    t->bos = d->bos;
    t->eos = d->eos;
    t->pad = d->pad;
    t->unk = d->unk;
    t->add_bos = d->add_bos && d->bos >= 0;
    t->add_eos = d->add_eos && d->eos >= 0;
    t->add_space_prefix = d->add_space_prefix;
    t->ignore_merges = d->ignore_merges;
    t->nfc = d->nfc;
}

static void copy_attrs(struct qn_tokenizer *t, const struct qn_vocab_desc *d) {
    for (uint32_t i = 0; i < t->n_tokens; i++) t->attrs[i] = d->attrs[i] & (uint8_t)~QN_ATTR_EOG;
    if (d->eos >= 0) t->attrs[d->eos] |= QN_ATTR_EOG;
    for (uint32_t i = 0; i < d->n_eog; i++) t->attrs[d->eog[i]] |= QN_ATTR_EOG;
}

static int build(struct qn_tokenizer *t, const struct qn_vocab_desc *d, size_t total, struct qn_err *err) {
    copy_flags(t, d);
    t->attrs = calloc(t->n_tokens, sizeof *t->attrs);
    t->piece = calloc(t->n_tokens, sizeof *t->piece);
    t->blob = malloc(total > 0 ? total : 1);
    t->blob_bytes = total;
    bool ok = t->attrs && t->piece && t->blob && qn_added_init(&t->added);
    if (ok) copy_attrs(t, d);
    for (uint32_t i = 0; ok && i < t->n_tokens; i++)
        if (t->attrs[i] & QN_ATTR_ADDED) ok = qn_added_put(&t->added, d->tokens[i], i);
    if (!ok) return qn_err_set(err, QN_ERR_NOMEM, "no memory for a vocabulary of %u tokens", d->n_tokens);
    return t->kind == QN_TOK_BPE ? qn_bpe_build(t, d, err) : qn_spm_build(t, d, err);
}

int qn_tokenizer_new(const struct qn_vocab_desc *d, struct qn_tokenizer **out, struct qn_err *err) {
    size_t total = 0;
    *out = NULL;
    int rc = check_desc(d, &total, err);
    if (rc != QN_OK) return rc;
    struct qn_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return qn_err_set(err, QN_ERR_NOMEM, "no memory for a tokenizer");
    rc = build(t, d, total, err);
    if (rc != QN_OK) {
        qn_tokenizer_free(t);
        return rc;
    }
    *out = t;
    return QN_OK;
}

void qn_tokenizer_free(struct qn_tokenizer *t) {
    if (!t) return;
    free(t->attrs);
    free(t->piece);
    free(t->blob);
    free(t->loose);
    qn_added_free(&t->added);
    qn_pair_map_free(&t->pairs);
    qn_pair_map_free(&t->chars);
    qn_text_table_free(&t->words);
    free(t);
}

/* --- encoding --- */

/* A stretch without added tokens. */
static int encode_section(const struct qn_tokenizer *t, const uint8_t *s, size_t n, struct qn_encoding *e) {
    uint8_t *nfc = NULL;
    if (n == 0) return QN_OK;
    if (t->nfc) {
        size_t nfc_n = n;
        if (qn_nfc(s, n, &nfc, &nfc_n) != 0) return QN_ERR_NOMEM;
        if (nfc) {
            s = nfc;
            n = nfc_n;
        }
    }
    const int rc = t->kind == QN_TOK_BPE ? qn_bpe_encode(t, s, n, e) : qn_spm_encode(t, s, n, e);
    free(nfc);
    return rc;
}

/* The whole text: sections and added tokens in turn. */
static int encode_text(const struct qn_tokenizer *t, const uint8_t *s, size_t n, bool plain,
                       struct qn_encoding *e) {
    const struct qn_str text = {(const char *)s, n};
    struct qn_added_match m;
    size_t at = 0;
    int rc = QN_OK;
    while (rc == QN_OK && !plain && qn_added_find(&t->added, t->attrs, text, at, &m)) {
        rc = encode_section(t, s + at, m.start - at, e);
        if (rc == QN_OK) rc = qn_encoding_push(e, m.id);
        at = m.end;
    }
    return rc == QN_OK ? encode_section(t, s + at, n - at, e) : rc;
}

static int encode_valid(const struct qn_tokenizer *t, const uint8_t *s, size_t n, unsigned flags,
                        struct qn_encoding *e) {
    const bool special = (flags & QN_TOK_ADD_SPECIAL) != 0;
    int rc = special && t->add_bos ? qn_encoding_push(e, (uint32_t)t->bos) : QN_OK;
    if (rc == QN_OK) rc = encode_text(t, s, n, (flags & QN_TOK_PLAIN) != 0, e);
    if (rc == QN_OK && special && t->add_eos) rc = qn_encoding_push(e, (uint32_t)t->eos);
    return rc;
}

static int encode_failed(int rc, size_t max, struct qn_err *err) {
    if (rc == QN_ERR_NOMEM) return qn_err_set(err, rc, "no memory to tokenize the text");
    if (max > 0) return qn_err_set(err, rc, "the text has more than %zu tokens", max);
    return qn_err_set(err, rc, "the text is too long to tokenize");
}

int qn_tokenizer_encode(const struct qn_tokenizer *t, const char *text, size_t len, unsigned flags,
                        size_t max_tokens, int32_t **out, size_t *n, struct qn_err *err) {
    struct qn_encoding e = {.max = max_tokens};
    const uint8_t *s = (const uint8_t *)(len > 0 ? text : "");
    uint8_t *repaired = NULL;
    *out = NULL;
    *n = 0;
    int rc = QN_OK;
    if (qn_utf8_valid_len(s, len) < len) {
        repaired = qn_utf8_repair(s, len, &len);
        s = repaired;
        if (!repaired) rc = QN_ERR_NOMEM;
    }
    if (rc == QN_OK) rc = encode_valid(t, s, len, flags, &e);
    free(repaired);
    qn_merger_free(&e.merger);
    if (rc == QN_OK && !e.ids) {
        e.ids = malloc(sizeof *e.ids);
        if (!e.ids) rc = QN_ERR_NOMEM;
    }
    if (rc != QN_OK) {
        free(e.ids);
        return encode_failed(rc, max_tokens, err);
    }
    *out = e.ids;
    *n = e.n;
    return QN_OK;
}

/* --- looking up --- */

static bool in_range(const struct qn_tokenizer *t, int32_t id) {
    return id >= 0 && (uint32_t)id < t->n_tokens;
}

struct qn_str qn_tokenizer_piece(const struct qn_tokenizer *t, int32_t id, bool special) {
    if (!in_range(t, id) || (!special && qn_vocab_hidden(t->attrs[id]))) return (struct qn_str){"", 0};
    return t->piece[id];
}

bool qn_tokenizer_strips_first_blank(const struct qn_tokenizer *t) {
    return t->kind == QN_TOK_SPM && t->add_space_prefix;
}

bool qn_tokenizer_is_eog(const struct qn_tokenizer *t, int32_t id) {
    return in_range(t, id) && (t->attrs[id] & QN_ATTR_EOG) != 0;
}

bool qn_tokenizer_is_special(const struct qn_tokenizer *t, int32_t id) {
    return in_range(t, id) && qn_vocab_hidden(t->attrs[id]);
}

uint32_t qn_tokenizer_size(const struct qn_tokenizer *t) {
    return t->n_tokens;
}

int32_t qn_tokenizer_bos(const struct qn_tokenizer *t) {
    return t->bos;
}

int32_t qn_tokenizer_eos(const struct qn_tokenizer *t) {
    return t->eos;
}

int32_t qn_tokenizer_unk(const struct qn_tokenizer *t) {
    return t->unk;
}

int32_t qn_tokenizer_pad(const struct qn_tokenizer *t) {
    return t->pad;
}

bool qn_tokenizer_adds_bos(const struct qn_tokenizer *t) {
    return t->add_bos;
}

bool qn_tokenizer_adds_eos(const struct qn_tokenizer *t) {
    return t->add_eos;
}

size_t qn_tokenizer_bytes(const struct qn_tokenizer *t) {
    return sizeof *t + t->n_tokens * (sizeof *t->attrs + sizeof *t->piece) + t->blob_bytes +
           qn_added_bytes(&t->added) + qn_pair_map_bytes(&t->pairs) + qn_pair_map_bytes(&t->chars) +
           qn_text_table_bytes(&t->words) + t->cap_loose * sizeof *t->loose;
}
