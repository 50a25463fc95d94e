/* The kinds of attention that quern knows: one line each. Thread: any (constant). */
#include "model/attention/attention.h"

#include <string.h>

/* clang-format off */
const struct qn_attention_ops *const qn_attention_registry[] = {
    &qn_attention_mha,
    &qn_attention_gqa,
    &qn_attention_mqa,
    &qn_attention_linformer,
    &qn_attention_performer,
    NULL,
};
/* clang-format on */

int qn_attention_bool(const struct qn_part *ask, const char *name, bool *out, struct qn_err *err) {
    const struct qn_param *p = qn_part_find(ask, name);
    if (!p) return QN_OK;
    if (p->kind != QN_PARAM_BOOL) {
        return qn_err_param(err, QN_ERR_INVALID, "attention",
                            "attention parameter \"%s\" must be true or false", name);
    }
    *out = p->value != 0;
    return QN_OK;
}

const struct qn_attention_ops *qn_attention_find(const struct qn_spec *spec, const char *name) {
    if (!name[0]) name = spec->attn[0].type;
    for (size_t i = 0; qn_attention_registry[i]; i++) {
        const struct qn_attention_ops *ops = qn_attention_registry[i];
        if (strcmp(name, ops->name) == 0) return ops;
    }
    return NULL;
}
