/* The kinds of FFN that quern knows: one line each. Thread: any (constant). */
#include "model/ffn/ffn.h"

#include <string.h>

const struct qn_ffn_ops *const qn_ffn_registry[] = {
    &qn_ffn_relu, &qn_ffn_gelu,     &qn_ffn_swiglu, &qn_ffn_geglu, &qn_ffn_reglu,
    &qn_ffn_glu,  &qn_ffn_bilinear, &qn_ffn_moe,    NULL,
};

const struct qn_ffn_ops *qn_ffn_find(const struct qn_spec *spec, const char *name) {
    if (!name[0]) name = spec->ffn[0].type;
    for (size_t i = 0; qn_ffn_registry[i]; i++) {
        const struct qn_ffn_ops *ops = qn_ffn_registry[i];
        if (strcmp(name, ops->name) == 0) return ops;
    }
    return NULL;
}
