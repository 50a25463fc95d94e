/* Text to token ids and back.
 *
 * A loader (GGUF metadata or tokenizer.json) fills struct qn_vocab_desc; qn_tokenizer_new checks it and
 * builds the tables; after that the tokenizer is immutable and any thread may use it. Scanners are
 * hand-written, linear in the text and constant in stack: no regular expressions. Invalid UTF-8 in the text:
 * each maximal invalid part becomes U+FFFD before anything else, as Python's errors="replace" and Hugging
 * Face see it. */
#ifndef QN_MODEL_TEXT_TOKENIZER_H
#define QN_MODEL_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/err.h"

enum qn_tok_kind { QN_TOK_BPE = 0 /* byte-level BPE */, QN_TOK_SPM /* SentencePiece BPE, byte fallback */ };
enum qn_pretok { QN_PRETOK_GPT2 = 0, QN_PRETOK_LLAMA3, QN_PRETOK_QWEN2, QN_PRETOK_SMOLLM, QN_PRETOK_NONE };
enum qn_tok_attr {
    QN_ATTR_NORMAL = 0,
    QN_ATTR_SPECIAL = 1, /* control token: hidden in text output */
    QN_ATTR_ADDED = 2,   /* matched whole in the text before BPE */
    QN_ATTR_BYTE = 4,    /* <0xNN> */
    QN_ATTR_UNUSED = 8,
    QN_ATTR_LSTRIP = 16,
    QN_ATTR_RSTRIP = 32,
    QN_ATTR_UNKNOWN = 64
};

struct qn_str {
    const char *p; /* not terminated */
    size_t n;
};

/* What a loader knows. All pointers are borrowed for the call of qn_tokenizer_new only. */
struct qn_vocab_desc {
    enum qn_tok_kind kind;
    enum qn_pretok pretok;
    uint32_t n_tokens;
    const struct qn_str *tokens; /* [n_tokens], in the file's own spelling (GPT-2 byte alphabet for BPE) */
    const float *scores;         /* [n_tokens] for SPM without merges, else NULL */
    const uint8_t *attrs;        /* [n_tokens] bits of enum qn_tok_attr */
    uint32_t n_merges;
    const struct qn_str *merges; /* [n_merges] "left right" in the file's spelling, rank order */
    int32_t bos, eos, unk, pad;  /* -1 when absent */
    const int32_t *eog;          /* further end-of-generation ids */
    uint32_t n_eog;
    bool add_bos, add_eos;
    bool add_space_prefix; /* SPM: a blank before the text */
    bool ignore_merges;    /* llama3: a word that is a token is taken whole */
    bool nfc;              /* qwen2: text is NFC-normalised first */
};

struct qn_tokenizer;

/* QN_OK and *out, or QN_ERR_FORMAT / QN_ERR_UNSUPPORTED / QN_ERR_NOMEM. */
int qn_tokenizer_new(const struct qn_vocab_desc *d, struct qn_tokenizer **out, struct qn_err *err);
void qn_tokenizer_free(struct qn_tokenizer *t);

enum qn_tok_flags {
    QN_TOK_ADD_SPECIAL = 1, /* add bos / eos as the checkpoint says */
    QN_TOK_PLAIN = 2        /* treat added tokens in the text as ordinary characters */
};
/* Encodes len bytes. *out is malloc'ed (free()), *n ids. QN_ERR_NOMEM, or QN_ERR_TOO_LONG as soon as more
 * than max_tokens ids would result (0 = no limit). */
int qn_tokenizer_encode(const struct qn_tokenizer *t, const char *text, size_t len, unsigned flags,
                        size_t max_tokens, int32_t **out, size_t *n, struct qn_err *err);
/* The bytes that token id adds to a text ("" for special ones unless `special`); borrowed from the tokenizer.
 * An SPM text's very first blank is the caller's to drop (qn_tokenizer_strips_first_blank). */
struct qn_str qn_tokenizer_piece(const struct qn_tokenizer *t, int32_t id, bool special);
bool qn_tokenizer_strips_first_blank(const struct qn_tokenizer *t);
bool qn_tokenizer_is_eog(const struct qn_tokenizer *t, int32_t id);
bool qn_tokenizer_is_special(const struct qn_tokenizer *t, int32_t id);
uint32_t qn_tokenizer_size(const struct qn_tokenizer *t);
int32_t qn_tokenizer_bos(const struct qn_tokenizer *t); /* -1 when absent */
int32_t qn_tokenizer_eos(const struct qn_tokenizer *t);
int32_t qn_tokenizer_unk(const struct qn_tokenizer *t);
int32_t qn_tokenizer_pad(const struct qn_tokenizer *t);
bool qn_tokenizer_adds_eos(const struct qn_tokenizer *t);
bool qn_tokenizer_adds_bos(const struct qn_tokenizer *t);
size_t qn_tokenizer_bytes(const struct qn_tokenizer *t); /* heap bytes held */

#endif
