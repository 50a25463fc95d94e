/* Vocabulary from GGUF metadata: tokenizer.ggml.*. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/load/vocab.h"

#define K "tokenizer.ggml."

/* tokenizer.ggml.pre -> pre-tokenizer. Several names stand for one and the same split. */
static const struct pre {
    const char *name;
    enum qn_pretok pretok;
    bool add_bos; /* when the file doesn't say */
    bool ignore_merges, nfc;
} pres[] = {
    {"default", QN_PRETOK_GPT2, false, false, false},
    {"gpt-2", QN_PRETOK_GPT2, false, false, false},
    {"gpt2", QN_PRETOK_GPT2, false, false, false},
    {"phi-2", QN_PRETOK_GPT2, false, false, false},
    {"llama3", QN_PRETOK_LLAMA3, true, true, false},
    {"llama-v3", QN_PRETOK_LLAMA3, true, true, false},
    {"llama-bpe", QN_PRETOK_LLAMA3, true, true, false},
    {"falcon3", QN_PRETOK_LLAMA3, true, true, false},
    {"pixtral", QN_PRETOK_LLAMA3, true, true, false},
    {"smaug-bpe", QN_PRETOK_LLAMA3, false, false, false},
    {"dbrx", QN_PRETOK_LLAMA3, false, false, false},
    {"qwen2", QN_PRETOK_QWEN2, false, false, true},
    {"deepseek-r1-qwen", QN_PRETOK_QWEN2, false, false, true},
    {"smollm", QN_PRETOK_SMOLLM, false, false, false},
    {"starcoder", QN_PRETOK_SMOLLM, false, false, false},
    {"refact", QN_PRETOK_SMOLLM, false, false, false},
    {"codeshell", QN_PRETOK_SMOLLM, false, false, false},
};

enum token_type { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

static int bad_key(struct qn_err *err, const char *key, const char *why) {
    return qn_err_param(err, QN_ERR_FORMAT, key, "metadata key '%s' %s", key, why);
}

static int read_kind(const struct qn_gguf *g, struct qn_vocab_build *b, bool *there, struct qn_err *err) {
    struct qn_str model, pre = {"default", 7};
    char shown[64];
    int rc = qn_gguf_str(g, K "model", &model, err);
    *there = rc == QN_OK && !qn_str_is(model, "none") && !qn_str_is(model, "no_vocab");
    if (rc < 0 || !*there) return rc < 0 ? rc : QN_OK;
    if (qn_str_is(model, "llama")) {
        b->d.kind = QN_TOK_SPM;
        b->d.pretok = QN_PRETOK_NONE;
        b->d.add_bos = b->d.add_space_prefix = true;
        return QN_OK;
    }
    if (!qn_str_is(model, "gpt2"))
        return qn_err_param(err, QN_ERR_UNSUPPORTED, K "model",
                            "tokenizer model '%s' is not supported (gpt2, llama are)",
                            qn_str_show(model, shown));
    if ((rc = qn_gguf_str(g, K "pre", &pre, err)) < 0) return rc;
    for (size_t i = 0; i < sizeof pres / sizeof *pres; i++) {
        if (!qn_str_is(pre, pres[i].name)) continue;
        b->d.kind = QN_TOK_BPE;
        b->d.pretok = pres[i].pretok;
        b->d.add_bos = pres[i].add_bos;
        b->d.ignore_merges = pres[i].ignore_merges;
        b->d.nfc = pres[i].nfc;
        return QN_OK;
    }
    return qn_err_param(err, QN_ERR_UNSUPPORTED, K "pre", "pre-tokenizer '%s' is not supported",
                        qn_str_show(pre, shown));
}

static int read_tokens(const struct qn_gguf *g, struct qn_vocab_build *b, uint32_t vocab,
                       struct qn_err *err) {
    uint64_t n;
    int rc = qn_gguf_strings(g, K "tokens", &b->tokens, &n, err);
    if (rc == QN_GGUF_ABSENT) return bad_key(err, K "tokens", "is missing");
    if (rc != QN_OK) return rc;
    if (n == 0) return bad_key(err, K "tokens", "is empty");
    if (n > vocab)
        return qn_err_param(err, QN_ERR_FORMAT, K "tokens",
                            "the vocabulary has %" PRIu64 " tokens, the embedding table %" PRIu32 " rows", n,
                            vocab);
    b->d.n_tokens = (uint32_t)n;
    b->attrs = calloc(b->d.n_tokens, 1);
    return b->attrs ? QN_OK : qn_err_set(err, QN_ERR_NOMEM, "out of memory for the vocabulary");
}

static int attr_of(uint32_t type) {
    switch (type) {
    case TYPE_NORMAL:
        return QN_ATTR_NORMAL;
    case TYPE_UNKNOWN:
        return QN_ATTR_UNKNOWN | QN_ATTR_SPECIAL | QN_ATTR_ADDED;
    case TYPE_CONTROL:
        return QN_ATTR_SPECIAL | QN_ATTR_ADDED;
    case TYPE_USER_DEFINED:
        return QN_ATTR_ADDED;
    case TYPE_UNUSED:
        return QN_ATTR_UNUSED;
    case TYPE_BYTE:
        return QN_ATTR_BYTE;
    default:
        return -1;
    }
}

static int read_types(const struct qn_gguf *g, struct qn_vocab_build *b, struct qn_err *err) {
    const uint8_t *data;
    uint64_t n;
    char shown[64];
    int rc = qn_gguf_array(g, K "token_type", QN_GGUF_I32, &data, &n, err);
    if (rc != QN_OK) return rc < 0 ? rc : QN_OK;
    if (n != b->d.n_tokens) return bad_key(err, K "token_type", "has another length than the tokens");
    for (uint32_t i = 0; i < b->d.n_tokens; i++) {
        int attr = attr_of(qn_load_u32(data + (size_t)i * 4));
        if (attr < 0) return bad_key(err, K "token_type", "holds an unknown type");
        if ((attr & QN_ATTR_BYTE) && qn_vocab_byte_token(b->tokens[i]) < 0)
            return qn_err_param(err, QN_ERR_FORMAT, K "tokens",
                                "token %" PRIu32 " '%s' is a byte, but not <0xNN>", i,
                                qn_str_show(b->tokens[i], shown));
        /* An empty text can't be found in a text. */
        if (b->tokens[i].n == 0) attr &= ~QN_ATTR_ADDED;
        b->attrs[i] = (uint8_t)attr;
    }
    return QN_OK;
}

static int read_scores(const struct qn_gguf *g, struct qn_vocab_build *b, struct qn_err *err) {
    const uint8_t *data;
    uint64_t n;
    int rc = qn_gguf_array(g, K "scores", QN_GGUF_F32, &data, &n, err);
    if (rc < 0) return rc;
    /* Byte-level vocabularies may carry scores; their merges decide. */
    if (b->d.kind != QN_TOK_SPM) return QN_OK;
    if (rc == QN_GGUF_ABSENT) return bad_key(err, K "scores", "is missing");
    if (n != b->d.n_tokens) return bad_key(err, K "scores", "has another length than the tokens");
    b->scores = calloc(b->d.n_tokens, sizeof *b->scores);
    if (!b->scores) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the vocabulary");
    for (uint32_t i = 0; i < b->d.n_tokens; i++) {
        b->scores[i] = qn_load_f32(data + (size_t)i * 4);
        if (!isfinite(b->scores[i])) return bad_key(err, K "scores", "holds a value that is not finite");
    }
    return QN_OK;
}

static int read_merges(const struct qn_gguf *g, struct qn_vocab_build *b, struct qn_err *err) {
    uint64_t n = 0;
    if (b->d.kind != QN_TOK_BPE) return QN_OK;
    int rc = qn_gguf_strings(g, K "merges", &b->merges, &n, err);
    if (rc == QN_GGUF_ABSENT) return bad_key(err, K "merges", "is missing");
    if (rc != QN_OK) return rc;
    if (n > UINT32_MAX) return bad_key(err, K "merges", "is too long");
    b->d.n_merges = (uint32_t)n;
    return QN_OK;
}

/* One special id; absent, or llama.cpp's "none" (2^32 - 1), gives -1. */
static int read_id(const struct qn_gguf *g, const struct qn_vocab_build *b, const char *key, int32_t *id,
                   struct qn_err *err) {
    uint64_t v;
    *id = -1;
    int rc = qn_gguf_u64(g, key, &v, err);
    if (rc != QN_OK) return rc < 0 ? rc : QN_OK;
    if (v == UINT32_MAX) return QN_OK;
    if (v >= b->d.n_tokens)
        return qn_err_param(err, QN_ERR_FORMAT, key,
                            "metadata key '%s' is %" PRIu64 ", outside the vocabulary", key, v);
    *id = (int32_t)v;
    return QN_OK;
}

static int read_specials(const struct qn_gguf *g, struct qn_vocab_build *b, struct qn_err *err) {
    static const char *const ends[] = {K "eos_token_id", K "eot_token_id", K "eom_token_id"};
    int rc, id;
    if ((rc = read_id(g, b, K "bos_token_id", &b->d.bos, err)) < 0) return rc;
    if ((rc = read_id(g, b, K "eos_token_id", &b->d.eos, err)) < 0) return rc;
    if ((rc = read_id(g, b, K "unknown_token_id", &b->d.unk, err)) < 0) return rc;
    if ((rc = read_id(g, b, K "padding_token_id", &b->d.pad, err)) < 0) return rc;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if ((rc = read_id(g, b, ends[i], &id, err)) < 0) return rc;
        if (id >= 0 && (rc = qn_vocab_add_eog(b, id, err)) < 0) return rc;
    }
    if ((rc = qn_gguf_bool(g, K "add_bos_token", &b->d.add_bos, err)) < 0) return rc;
    if ((rc = qn_gguf_bool(g, K "add_eos_token", &b->d.add_eos, err)) < 0) return rc;
    if ((rc = qn_gguf_bool(g, K "add_space_prefix", &b->d.add_space_prefix, err)) < 0) return rc;
    return qn_vocab_known_eog(b, err);
}

int qn_vocab_from_gguf(const struct qn_gguf *g, uint32_t vocab, struct qn_tokenizer **out,
                       struct qn_err *err) {
    struct qn_vocab_build b = {0};
    bool there;
    *out = NULL;
    int rc = read_kind(g, &b, &there, err);
    if (rc != QN_OK || !there) return rc;
    rc = read_tokens(g, &b, vocab, err);
    if (rc == QN_OK) rc = read_types(g, &b, err);
    if (rc == QN_OK) rc = read_scores(g, &b, err);
    if (rc == QN_OK) rc = read_merges(g, &b, err);
    if (rc == QN_OK) rc = read_specials(g, &b, err);
    if (rc == QN_OK) rc = qn_vocab_finish(&b, out, err);
    qn_vocab_build_free(&b);
    return rc;
}
