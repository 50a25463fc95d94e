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
    for (size_t i = 0; qn_attention_registry[i]; i++) {
        const struct qn_attention_ops *ops = qn_attention_registry[i];
        if (name[0] ? strcmp(name, ops->name) == 0 : ops->native(spec)) return ops;
    }
    return NULL;
}
