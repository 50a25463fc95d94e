/* Which weight blocks serve which layer: the third part of a structure. A kind is one file-local set of
 * functions in sharing.c and one line of its list. Pure. Thread: any. */
#ifndef QN_MODEL_SHARING_H
#define QN_MODEL_SHARING_H

#include "model/part.h"
#include "model/spec.h"

struct qn_sharing_ops;

struct qn_sharing {
    const struct qn_sharing_ops *ops;
    struct qn_choice choice;
};

struct qn_sharing_ops {
    const char *name;
    /* As qn_attention_ops.resolve; param of errors is "sharing". */
    int (*resolve)(const struct qn_sharing_ops *self, const struct qn_spec *spec, const struct qn_part *ask,
                   struct qn_sharing *out, struct qn_err *err);
    bool (*native)(const struct qn_spec *spec);
    /* The weight block of the checkpoint that layer `layer` runs with. */
    uint32_t (*attn_block)(const struct qn_sharing *s, uint32_t layer);
    uint32_t (*ffn_block)(const struct qn_sharing *s, uint32_t layer);
};

extern const struct qn_sharing_ops *const qn_sharing_registry[];
/* By name; "" gives the checkpoint's native kind. NULL when unknown. */
const struct qn_sharing_ops *qn_sharing_find(const struct qn_spec *spec, const char *name);

#endif
