/* config.json of Hugging Face transformers -> struct qn_spec, by the family's row. Thread: one loader. */
#ifndef QN_MODEL_LOAD_HF_CONFIG_H
#define QN_MODEL_LOAD_HF_CONFIG_H

#include <jansson.h>

#include "model/load/names.h"
#include "model/load/tensors.h"

struct qn_hf_model {
    struct qn_spec spec;
    const struct qn_family *family;
    enum qn_qkv_layout qkv; /* gpt_bigcode without multi_query interleaves heads */
};

/* cfg: parsed config.json. dir (indexed; may be NULL) tells whether an output matrix exists when the config
 * doesn't say. QN_ERR_UNSUPPORTED for a model type or feature that quern doesn't run, QN_ERR_FORMAT for a
 * missing or mistyped key. */
int qn_hf_config(const json_t *cfg, const struct qn_tensor_dir *dir, struct qn_hf_model *m,
                 struct qn_err *err);

#endif
