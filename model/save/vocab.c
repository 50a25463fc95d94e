/* A vocabulary as tokenizer.ggml.*, the inverse of model/load/vocab_gguf.c. See source.h. */
#include <stdlib.h>
#include <string.h>

#include "model/save/source.h"

#define K "tokenizer.ggml."

enum token_type { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

static int32_t type_of(uint8_t attr) {
    if (attr & QN_ATTR_UNKNOWN) return TYPE_UNKNOWN;
    if (attr & QN_ATTR_BYTE) return TYPE_BYTE;
    if (attr & QN_ATTR_UNUSED) return TYPE_UNUSED;
    if (attr & QN_ATTR_SPECIAL) return TYPE_CONTROL;
    return attr & QN_ATTR_ADDED ? TYPE_USER_DEFINED : TYPE_NORMAL;
}

static void put_id(struct qn_gguf_writer *w, const char *key, int32_t id) {
    if (id >= 0) qn_gguf_put_u32(w, key, (uint32_t)id);
}

static struct qn_str text(const char *s) {
    return (struct qn_str){s, strlen(s)};
}

/* Where a token's text stands among the tokens, by a sorted list. */
struct named {
    struct qn_str text;
    uint32_t id;
};

static int by_text(const void *a, const void *b) {
    return qn_str_compare(((const struct named *)a)->text, ((const struct named *)b)->text);
}

/* A SentencePiece vocabulary told by merges: the earlier a token is merged, the higher its score, which is
 * what the scores were made from. */
static void score_by_merges(const struct qn_vocab_desc *d, struct named *names, float *scores, char *joined,
                            size_t room) {
    for (uint32_t i = 0; i < d->n_tokens; i++) {
        names[i] = (struct named){d->tokens[i], i};
        scores[i] = -(float)d->n_merges - 1;
    }
    qsort(names, d->n_tokens, sizeof *names, by_text);
    for (uint32_t i = d->n_merges; i-- > 0;) {
        struct qn_str m = d->merges[i];
        for (size_t cut = 1; cut + 1 < m.n && m.n <= room; cut++) {
            if (m.p[cut] != ' ') continue;
            memcpy(joined, m.p, cut);
            memcpy(joined + cut, m.p + cut + 1, m.n - cut - 1);
            struct named key = {{joined, m.n - 1}, 0};
            const struct named *hit = bsearch(&key, names, d->n_tokens, sizeof key, by_text);
            if (hit) scores[hit->id] = -(float)i;
        }
    }
}

static int put_scores(struct qn_gguf_writer *w, const struct qn_vocab_desc *d, struct qn_err *err) {
    size_t longest = 1;
    if (d->kind != QN_TOK_SPM) return QN_OK;
    if (d->scores) {
        qn_gguf_put_array4(w, K "scores", QN_GGUF_F32, d->scores, d->n_tokens);
        return QN_OK;
    }
    for (uint32_t i = 0; i < d->n_merges; i++)
        if (d->merges[i].n > longest) longest = d->merges[i].n;
    struct named *names = qn_mem_alloc_array(d->n_tokens, sizeof *names);
    float *scores = qn_mem_alloc_array(d->n_tokens, sizeof *scores);
    char *joined = qn_mem_alloc(longest);
    int rc = QN_OK;
    if (names && scores && joined) {
        score_by_merges(d, names, scores, joined, longest);
        qn_gguf_put_array4(w, K "scores", QN_GGUF_F32, scores, d->n_tokens);
    } else {
        rc = qn_err_set(err, QN_ERR_NOMEM, "out of memory for the vocabulary");
    }
    qn_mem_free(names);
    qn_mem_free(scores);
    qn_mem_free(joined);
    return rc;
}

static int put_types(struct qn_gguf_writer *w, const struct qn_vocab_desc *d, struct qn_err *err) {
    int32_t *types = qn_mem_alloc_array(d->n_tokens, sizeof *types);
    if (!types) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the vocabulary");
    for (uint32_t i = 0; i < d->n_tokens; i++) types[i] = type_of(d->attrs[i]);
    qn_gguf_put_array4(w, K "token_type", QN_GGUF_I32, types, d->n_tokens);
    qn_mem_free(types);
    return QN_OK;
}

int qn_save_vocab(struct qn_gguf_writer *w, const struct qn_vocab_desc *d, struct qn_err *err) {
    static const char *const pre[] = {[QN_PRETOK_GPT2] = "gpt-2",
                                      [QN_PRETOK_LLAMA3] = "llama-bpe",
                                      [QN_PRETOK_QWEN2] = "qwen2",
                                      [QN_PRETOK_SMOLLM] = "smollm"};
    bool spm = d->kind == QN_TOK_SPM;
    qn_gguf_put_str(w, K "model", text(spm ? "llama" : "gpt2"));
    if (!spm) qn_gguf_put_str(w, K "pre", text(pre[d->pretok]));
    qn_gguf_put_strs(w, K "tokens", d->tokens, d->n_tokens);
    int rc = put_types(w, d, err);
    if (rc == QN_OK) rc = put_scores(w, d, err);
    if (!spm) qn_gguf_put_strs(w, K "merges", d->merges, d->n_merges);
    put_id(w, K "bos_token_id", d->bos);
    put_id(w, K "eos_token_id", d->eos);
    put_id(w, K "unknown_token_id", d->unk);
    put_id(w, K "padding_token_id", d->pad);
    qn_gguf_put_bool(w, K "add_bos_token", d->add_bos);
    qn_gguf_put_bool(w, K "add_eos_token", d->add_eos);
    if (spm) qn_gguf_put_bool(w, K "add_space_prefix", d->add_space_prefix);
    return rc;
}
