/* A checkpoint's vocabulary -> struct qn_vocab_desc -> tokenizer. Thread: one loader. */
#ifndef QN_MODEL_LOAD_VOCAB_H
#define QN_MODEL_LOAD_VOCAB_H

#include <jansson.h>

#include "model/load/checkpoint.h"
#include "model/load/gguf.h"
#include "model/text/tokenizer.h"

/* The parsed side files of a Hugging Face checkpoint; any may be NULL but tokenizer. Borrowed. */
struct qn_hf_vocab {
    const json_t *tokenizer;  /* tokenizer.json */
    const json_t *settings;   /* tokenizer_config.json */
    const json_t *generation; /* generation_config.json */
    const json_t *config;     /* config.json */
    const char *chat;         /* chat_template.jinja, or NULL */
    size_t n_chat;            /* bytes */
};

/* vocab: rows of the embedding table; more tokens than that are QN_ERR_FORMAT. *out is NULL with QN_OK when
 * the file carries no vocabulary. */
int qn_vocab_from_gguf(const struct qn_gguf *g, uint32_t vocab, struct qn_tokenizer **out,
                       struct qn_err *err);
/* opt's on_vocab is called; opt may be NULL. */
int qn_vocab_from_hf(const struct qn_hf_vocab *files, uint32_t vocab, const struct qn_load_options *opt,
                     struct qn_tokenizer **out, struct qn_err *err);

/* ---- shared by vocab_gguf.c and vocab_hf.c ---- */

/* A description under construction: arrays that d's const pointers show. */
struct qn_vocab_build {
    struct qn_vocab_desc d;
    struct qn_str *tokens; /* [d.n_tokens] */
    uint8_t *attrs;        /* [d.n_tokens] */
    float *scores;         /* [d.n_tokens] or NULL */
    struct qn_str *merges; /* [d.n_merges] or NULL */
    char *text;            /* joined merges, or NULL */
    int32_t *eog;
    uint32_t n_eog, cap_eog;
};

/* Adds id to the end-of-generation list unless it is there. */
int qn_vocab_add_eog(struct qn_vocab_build *b, int32_t id, struct qn_err *err);
/* Special or added tokens whose text is a known end of turn or of text become end-of-generation ids. */
int qn_vocab_known_eog(struct qn_vocab_build *b, struct qn_err *err);
/* Points d at the arrays and builds the tokenizer. */
int qn_vocab_finish(struct qn_vocab_build *b, struct qn_tokenizer **out, struct qn_err *err);
void qn_vocab_build_free(struct qn_vocab_build *b);
/* The byte of "<0xNN>" (exactly two hex digits), or -1. */
int qn_vocab_byte_token(struct qn_str s);

#endif
