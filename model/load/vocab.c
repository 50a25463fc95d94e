/* What GGUF and tokenizer.json vocabularies share: end-of-generation tokens, byte tokens, the finish. */
#include "model/load/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"

int qn_vocab_add_eog(struct qn_vocab_build *b, int32_t id, struct qn_err *err) {
    for (uint32_t i = 0; i < b->n_eog; i++)
        if (b->eog[i] == id) return QN_OK;
    if (b->n_eog == b->cap_eog) {
        uint32_t cap = b->cap_eog ? 2 * b->cap_eog : 8;
        size_t bytes;
        int32_t *grown = qn_size_mul(cap, sizeof *grown, &bytes) ? realloc(b->eog, bytes) : NULL;
        if (!grown) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the vocabulary");
        b->eog = grown;
        b->cap_eog = cap;
    }
    b->eog[b->n_eog++] = id;
    return QN_OK;
}

int qn_vocab_known_eog(struct qn_vocab_build *b, struct qn_err *err) {
    static const char *const known[] = {
        "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>",  "<end_of_turn>",        "<|endoftext|>",
        "<EOT>",      "_<EOT>",     "<|EOT|>",    "<|eot|>",  "<|end_of_text|>",      "<end_of_utterance>",
        "</s>",       "<eos>",      "<|return|>", "<|call|>", "<｜end▁of▁sentence｜>"};
    for (uint32_t i = 0; i < b->d.n_tokens; i++) {
        if (!(b->attrs[i] & (QN_ATTR_SPECIAL | QN_ATTR_ADDED))) continue;
        for (size_t j = 0; j < sizeof known / sizeof *known; j++) {
            if (!qn_str_is(b->tokens[i], known[j])) continue;
            int rc = qn_vocab_add_eog(b, (int32_t)i, err);
            if (rc != QN_OK) return rc;
        }
    }
    return QN_OK;
}

int qn_vocab_finish(struct qn_vocab_build *b, struct qn_tokenizer **out, struct qn_err *err) {
    b->d.tokens = b->tokens;
    b->d.attrs = b->attrs;
    b->d.scores = b->scores;
    b->d.merges = b->merges;
    b->d.eog = b->eog;
    b->d.n_eog = b->n_eog;
    return qn_tokenizer_new(&b->d, out, err);
}

void qn_vocab_build_free(struct qn_vocab_build *b) {
    free(b->tokens);
    free(b->attrs);
    free(b->scores);
    free(b->merges);
    free(b->text);
    free(b->eog);
    *b = (struct qn_vocab_build){0};
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

int qn_vocab_byte_token(struct qn_str s) {
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>') return -1;
    int high = hex_digit(s.p[3]), low = hex_digit(s.p[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}
