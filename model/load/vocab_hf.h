/* The pipeline parts of tokenizer.json. Private to vocab_hf.c and vocab_hf_pipeline.c. Thread: one loader. */
#ifndef QN_MODEL_LOAD_VOCAB_HF_H
#define QN_MODEL_LOAD_VOCAB_HF_H

#include <jansson.h>

#include "model/err.h"
#include "model/text/tokenizer.h"

/* Which tokens the post-processor puts around a text; p NULL when none. */
struct qn_hf_template {
    bool present;
    struct qn_str bos, eos; /* texts, borrowed from the JSON tree */
};

/* normalizer + pre_tokenizer -> d->kind, pretok, nfc, add_space_prefix. QN_ERR_UNSUPPORTED for a pipeline
 * that none of the tokenizers computes: a near miss would give other tokens silently. */
int qn_hf_pipeline(const json_t *tokenizer, bool byte_fallback, struct qn_vocab_desc *d, struct qn_err *err);
int qn_hf_post_processor(const json_t *tokenizer, struct qn_hf_template *t, struct qn_err *err);

#endif
