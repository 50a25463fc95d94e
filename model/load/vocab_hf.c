/* Vocabulary from tokenizer.json and its side files.
 *
 *   model (vocab, merges) + added_tokens -> tokens, attrs, merges
 *   normalizer, pre_tokenizer            -> kind, pre-tokenizer, blank before the text (vocab_hf_pipeline.c)
 *   post_processor, *_config.json        -> bos, eos, end-of-generation ids */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/load/json.h"
#include "model/load/vocab.h"
#include "model/load/vocab_hf.h"

static int bad(struct qn_err *err, const char *what) {
    return qn_err_set(err, QN_ERR_FORMAT, "tokenizer.json: %s", what);
}

static int no_memory(struct qn_err *err) {
    return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the vocabulary");
}

/* A token id in [0, limit), else -1. */
static int64_t id_of(const json_t *v, uint32_t limit) {
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= (json_int_t)limit)
        return -1;
    return (int64_t)json_integer_value(v);
}

static int bad_row(struct qn_err *err, const char *whose, uint32_t limit) {
    return qn_err_set(err, QN_ERR_FORMAT,
                      "tokenizer.json: %s's id is not an integer from 0 to %" PRIu32
                      " (the embedding table's last row)",
                      whose, limit - 1);
}

/* The number of ids: one more than the largest. Holes are allowed, but not so many that a small file asks for
 * a large table. */
static int count_tokens(const json_t *vocab, const json_t *added, uint32_t limit, uint32_t *n,
                        struct qn_err *err) {
    const char *key;
    json_t *v;
    size_t i, entries = json_object_size(vocab) + json_array_size(added);
    int64_t max = -1;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, v) {
        int64_t id = id_of(v, limit);
        if (id < 0) return bad_row(err, "a token", limit);
        if (id > max) max = id;
    }
    json_array_foreach(added, i, v) {
        int64_t id = id_of(json_object_get(v, "id"), limit);
        if (id < 0) return bad_row(err, "an added token", limit);
        if (id > max) max = id;
    }
    if (max < 0) return bad(err, "the vocabulary is empty");
    if ((uint64_t)max > 2 * (uint64_t)entries + 4096) return bad(err, "the token ids have too many holes");
    *n = (uint32_t)max + 1;
    return QN_OK;
}

static int read_vocab(struct qn_vocab_build *b, const json_t *vocab, bool byte_fallback, struct qn_err *err) {
    const char *key;
    json_t *v;
    b->tokens = calloc(b->d.n_tokens, sizeof *b->tokens);
    b->attrs = calloc(b->d.n_tokens, 1);
    if (!b->tokens || !b->attrs) return no_memory(err);
    memset(b->attrs, QN_ATTR_UNUSED, b->d.n_tokens);
    for (uint32_t i = 0; i < b->d.n_tokens; i++) b->tokens[i].p = "";
    json_object_foreach((json_t *)(uintptr_t)vocab, key, v) {
        int64_t id = json_integer_value(v);
        struct qn_str text = {key, strlen(key)};
        if (!(b->attrs[id] & QN_ATTR_UNUSED)) return bad(err, "two tokens have the same id");
        b->tokens[id] = text;
        b->attrs[id] = byte_fallback && qn_vocab_byte_token(text) >= 0 ? QN_ATTR_BYTE : QN_ATTR_NORMAL;
    }
    return QN_OK;
}

static int read_added(struct qn_vocab_build *b, const json_t *added, struct qn_err *err) {
    size_t i;
    json_t *v;
    json_array_foreach(added, i, v) {
        bool special = false, lstrip = false, rstrip = false, single = false;
        const json_t *content = json_object_get(v, "content");
        int rc;
        if (!json_is_string(content) || json_string_length(content) == 0)
            return bad(err, "an added token has no 'content'");
        if ((rc = qn_json_bool(v, "special", &special, err)) < 0) return rc;
        if ((rc = qn_json_bool(v, "lstrip", &lstrip, err)) < 0) return rc;
        if ((rc = qn_json_bool(v, "rstrip", &rstrip, err)) < 0) return rc;
        if ((rc = qn_json_bool(v, "single_word", &single, err)) < 0) return rc;
        if (single)
            return qn_err_set(err, QN_ERR_UNSUPPORTED,
                              "tokenizer.json: added tokens with 'single_word' are not supported");
        int64_t id = json_integer_value(json_object_get(v, "id"));
        struct qn_str text = qn_json_text(content);
        if (!(b->attrs[id] & QN_ATTR_UNUSED) && qn_str_compare(b->tokens[id], text) != 0)
            return bad(err, "an added token has another token's id");
        b->tokens[id] = text;
        b->attrs[id] = (uint8_t)(QN_ATTR_ADDED | (special ? QN_ATTR_SPECIAL : 0) |
                                 (lstrip ? QN_ATTR_LSTRIP : 0) | (rstrip ? QN_ATTR_RSTRIP : 0));
    }
    return QN_OK;
}

/* One merge: "left right", or ["left", "right"]. Gives its length when joined; false when it is neither. */
static bool merge_parts(const json_t *v, struct qn_str *left, struct qn_str *right) {
    *right = (struct qn_str){NULL, 0};
    if (json_is_string(v)) {
        *left = qn_json_text(v);
        return left->n >= 3 && memchr(left->p, ' ', left->n) != NULL;
    }
    const json_t *l = json_array_get(v, 0), *r = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_string(l) || !json_is_string(r)) return false;
    *left = qn_json_text(l);
    *right = qn_json_text(r);
    return left->n > 0 && right->n > 0;
}

static int read_merges(struct qn_vocab_build *b, const json_t *merges, struct qn_err *err) {
    size_t i, total = 0;
    json_t *v;
    struct qn_str left, right;
    if (!json_is_array(merges)) return bad(err, "'merges' is missing or not an array");
    if (json_array_size(merges) > UINT32_MAX) return bad(err, "'merges' is too long");
    b->d.n_merges = (uint32_t)json_array_size(merges);
    b->merges = calloc((size_t)b->d.n_merges + 1, sizeof *b->merges);
    if (!b->merges) return no_memory(err);
    json_array_foreach(merges, i, v) {
        if (!merge_parts(v, &left, &right))
            return qn_err_set(err, QN_ERR_FORMAT, "tokenizer.json: merge %zu is not a pair of strings", i);
        if (right.p && (!qn_size_add(total, left.n, &total) || !qn_size_add(total, right.n, &total) ||
                        !qn_size_add(total, 1, &total)))
            return bad(err, "'merges' is too long");
    }
    b->text = malloc(total ? total : 1);
    if (!b->text) return no_memory(err);
    char *p = b->text;
    json_array_foreach(merges, i, v) {
        (void)merge_parts(v, &left, &right);
        b->merges[i] = left;
        if (!right.p) continue;
        b->merges[i] = (struct qn_str){p, left.n + 1 + right.n};
        memcpy(p, left.p, left.n);
        p[left.n] = ' ';
        memcpy(p + left.n + 1, right.p, right.n);
        p += b->merges[i].n;
    }
    return QN_OK;
}

/* ---- special tokens ---- */

static int32_t find_token(const struct qn_vocab_build *b, struct qn_str text) {
    int32_t found = -1;
    for (uint32_t i = 0; i < b->d.n_tokens; i++) {
        if (b->attrs[i] & QN_ATTR_UNUSED || qn_str_compare(b->tokens[i], text) != 0) continue;
        /* The same text may occur as a plain token too; the added one is meant. */
        if (b->attrs[i] & QN_ATTR_ADDED) return (int32_t)i;
        if (found < 0) found = (int32_t)i;
    }
    return found;
}

/* tokenizer_config.json names tokens by text, plain or as an object with "content". */
static int32_t named_token(const struct qn_vocab_build *b, const json_t *settings, const char *key) {
    const json_t *v = settings ? json_object_get(settings, key) : NULL;
    if (json_is_object(v)) v = json_object_get(v, "content");
    return json_is_string(v) ? find_token(b, qn_json_text(v)) : -1;
}

static int bad_id(struct qn_err *err, const char *file, const char *key) {
    return qn_err_param(err, QN_ERR_FORMAT, key, "%s: '%s' is not an id of the vocabulary", file, key);
}

/* eos_token_id: one id or a list; the first becomes eos unless one is known. */
static int read_eos_ids(struct qn_vocab_build *b, const json_t *o, const char *file, struct qn_err *err) {
    const json_t *v = o ? json_object_get(o, "eos_token_id") : NULL;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (!v || json_is_null(v)) return QN_OK;
    for (size_t i = 0; i < n; i++) {
        int64_t id = id_of(json_is_array(v) ? json_array_get(v, i) : v, b->d.n_tokens);
        if (id < 0) return bad_id(err, file, "eos_token_id");
        if (b->d.eos < 0) b->d.eos = (int32_t)id;
        int rc = qn_vocab_add_eog(b, (int32_t)id, err);
        if (rc != QN_OK) return rc;
    }
    return QN_OK;
}

static int read_specials(struct qn_vocab_build *b, const struct qn_hf_vocab *f,
                         const struct qn_hf_template *t, struct qn_err *err) {
    const json_t *unk = json_object_get(json_object_get(f->tokenizer, "model"), "unk_token");
    int rc;
    b->d.bos = t->bos.p ? find_token(b, t->bos) : -1;
    if (t->bos.p && b->d.bos < 0)
        return bad(err, "the post-processor names a token that is not in the vocabulary");
    b->d.eos = t->eos.p ? find_token(b, t->eos) : -1;
    if (t->eos.p && b->d.eos < 0)
        return bad(err, "the post-processor names a token that is not in the vocabulary");
    if (b->d.bos < 0) b->d.bos = named_token(b, f->settings, "bos_token");
    if (b->d.eos < 0) b->d.eos = named_token(b, f->settings, "eos_token");
    if (b->d.bos < 0 && f->config && qn_json_has(f->config, "bos_token_id")) {
        int64_t id = id_of(json_object_get(f->config, "bos_token_id"), b->d.n_tokens);
        if (id < 0) return bad_id(err, "config.json", "bos_token_id");
        b->d.bos = (int32_t)id;
    }
    b->d.unk = json_is_string(unk) ? find_token(b, qn_json_text(unk)) : -1;
    if (b->d.unk >= 0) b->attrs[b->d.unk] |= QN_ATTR_UNKNOWN;
    b->d.pad = named_token(b, f->settings, "pad_token");
    if ((rc = read_eos_ids(b, f->generation, "generation_config.json", err)) < 0) return rc;
    if ((rc = read_eos_ids(b, f->config, "config.json", err)) < 0) return rc;
    if (b->d.eos >= 0 && (rc = qn_vocab_add_eog(b, b->d.eos, err)) < 0) return rc;
    b->d.add_bos = t->bos.p != NULL;
    b->d.add_eos = t->eos.p != NULL;
    /* Without a template the tokenizer's class builds one from these two. */
    if (!t->present) {
        if ((rc = qn_json_bool(f->settings, "add_bos_token", &b->d.add_bos, err)) < 0) return rc;
        if ((rc = qn_json_bool(f->settings, "add_eos_token", &b->d.add_eos, err)) < 0) return rc;
    }
    return qn_vocab_known_eog(b, err);
}

static int build(struct qn_vocab_build *b, const struct qn_hf_vocab *f, uint32_t limit, struct qn_err *err) {
    const json_t *model = json_object_get(f->tokenizer, "model");
    const json_t *vocab = json_object_get(model, "vocab"),
                 *added = json_object_get(f->tokenizer, "added_tokens");
    const char *type = "BPE";
    bool byte_fallback = false;
    struct qn_hf_template template;
    char shown[64];
    int rc;
    if (!json_is_object(model)) return bad(err, "'model' is missing");
    if ((rc = qn_json_str(model, "type", &type, err)) < 0) return rc;
    if (strcmp(type, "BPE") != 0)
        return qn_err_set(err, QN_ERR_UNSUPPORTED,
                          "tokenizer.json: model type '%s' is not supported (BPE is)",
                          qn_str_show((struct qn_str){type, strlen(type)}, shown));
    if (!json_is_object(vocab)) return bad(err, "'vocab' is missing or not an object");
    if (added && !json_is_null(added) && !json_is_array(added))
        return bad(err, "'added_tokens' is not an array");
    if ((rc = qn_json_bool(model, "byte_fallback", &byte_fallback, err)) < 0) return rc;
    if ((rc = qn_json_bool(model, "ignore_merges", &b->d.ignore_merges, err)) < 0) return rc;
    if ((rc = qn_hf_pipeline(f->tokenizer, byte_fallback, &b->d, err)) < 0) return rc;
    if ((rc = qn_hf_post_processor(f->tokenizer, &template, err)) < 0) return rc;
    if ((rc = count_tokens(vocab, added, limit, &b->d.n_tokens, err)) < 0) return rc;
    if ((rc = read_vocab(b, vocab, byte_fallback, err)) < 0) return rc;
    if ((rc = read_added(b, added, err)) < 0) return rc;
    if ((rc = read_merges(b, json_object_get(model, "merges"), err)) < 0) return rc;
    return read_specials(b, f, &template, err);
}

int qn_vocab_from_hf(const struct qn_hf_vocab *files, uint32_t vocab, const struct qn_load_options *opt,
                     struct qn_tokenizer **out, struct qn_err *err) {
    struct qn_vocab_build b = {0};
    *out = NULL;
    if (!files->tokenizer) return QN_OK;
    int rc = build(&b, files, vocab, err);
    if (rc == QN_OK) rc = qn_vocab_finish(&b, out, err);
    if (rc == QN_OK && opt && opt->on_vocab) rc = opt->on_vocab(opt->vocab_ctx, &b.d, err);
    qn_vocab_build_free(&b);
    return rc;
}
