/* Inside of a tokenizer: what the builders (bpe.c, spm.c) fill and the encoders read. Private to model/text.
 */
#ifndef QN_MODEL_TEXT_VOCAB_H
#define QN_MODEL_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/err.h"
#include "model/text/added.h"
#include "model/text/merge.h"
#include "model/text/table.h"
#include "model/text/tokenizer.h"

#define QN_VOCAB_MAX       (1u << 24) /* tokens, and merges x 4 */
#define QN_TOKEN_BYTES_MAX 4096u      /* bytes of one token's text */
#define QN_ATTR_EOG        128        /* in attrs: ends a generation (the public bits end at 64) */
#define QN_BLANK           0x2581u    /* U+2581, what SentencePiece writes for a space */

struct qn_tokenizer {
    enum qn_tok_kind kind;
    enum qn_pretok pretok;
    uint32_t n_tokens;
    int32_t bos, eos, unk, pad;
    bool add_bos, add_eos, add_space_prefix, ignore_merges, nfc;
    uint8_t *attrs;       /* [n_tokens] enum qn_tok_attr | QN_ATTR_EOG */
    struct qn_str *piece; /* [n_tokens] the bytes each token stands for; point into blob */
    char *blob;
    size_t blob_bytes;
    struct qn_added added;
    struct qn_pair_map pairs;   /* merges over symbols: token ids, and from n_tokens up `loose` characters */
    uint32_t byte_id[256];      /* the token of a single byte, QN_NO_ID when there is none */
    struct qn_text_table words; /* BPE with ignore_merges: raw bytes -> id */
    struct qn_pair_map chars;   /* SPM: (character, 0) -> symbol */
    uint32_t *loose;            /* SPM by scores: characters that only occur inside longer tokens */
    size_t n_loose, cap_loose;
    bool cut_at_blanks; /* SPM: no token has a blank after another character, so none spans a word's start */
};

/* State of one encode call: growing ids and reusable merge buffers. */
struct qn_encoding {
    struct qn_merger merger;
    int32_t *ids;
    size_t n, cap;
    size_t max; /* most ids allowed, 0 = no limit */
};

/* Appends an id. QN_OK, QN_ERR_NOMEM, or QN_ERR_TOO_LONG past max. */
int qn_encoding_push(struct qn_encoding *e, uint32_t id);

/* True for tokens that ordinary text must never turn into. */
static inline bool qn_vocab_hidden(uint8_t attr) {
    return (attr & (QN_ATTR_SPECIAL | QN_ATTR_UNKNOWN)) != 0;
}

/* A merge's two sides: the split of "left right" at the blank number `nth` (0-based) that has something on
 * both sides; false when there is no such blank. Tokens may contain blanks themselves, so callers try them in
 * turn. */
bool qn_vocab_split_merge(struct qn_str merge, size_t nth, struct qn_str *left, struct qn_str *right);
/* The error for merge number i whose parts are not all tokens. */
int qn_vocab_bad_merge(struct qn_err *err, size_t i, struct qn_str merge);

/* Builders: fill pieces, byte_id, pairs (and words / chars). The tokenizer's attrs and blob exist already.
 * QN_OK or an error; the caller frees the tokenizer either way. */
int qn_bpe_build(struct qn_tokenizer *t, const struct qn_vocab_desc *d, struct qn_err *err);
int qn_spm_build(struct qn_tokenizer *t, const struct qn_vocab_desc *d, struct qn_err *err);

/* Encoders: append the ids of a stretch of valid UTF-8 that holds no added token. Status codes only. */
int qn_bpe_encode(const struct qn_tokenizer *t, const uint8_t *s, size_t n, struct qn_encoding *e);
int qn_spm_encode(const struct qn_tokenizer *t, const uint8_t *s, size_t n, struct qn_encoding *e);

#endif
