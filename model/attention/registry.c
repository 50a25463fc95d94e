/* The kinds of attention that quern knows: one line each. Thread: any (constant). */
#include "model/attention/attention.h"

#include <string.h>

const struct qn_attention_ops *const qn_attention_registry[] = {
    &qn_attention_mha,
    &qn_attention_gqa,
    &qn_attention_mqa,
    NULL,
};

const struct qn_attention_ops *qn_attention_find(const struct qn_spec *spec, const char *name) {
    if (!name[0]) name = spec->attn[0].type;
    for (size_t i = 0; qn_attention_registry[i]; i++) {
        const struct qn_attention_ops *ops = qn_attention_registry[i];
        if (strcmp(name, ops->name) == 0) return ops;
    }
    return NULL;
}
