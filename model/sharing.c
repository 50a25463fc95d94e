/* Sharing of weight blocks between layers: see sharing.h. Thread: any (constant). */
#include "model/sharing.h"

#include <string.h>

/* --- none: every layer has blocks of its own --- */
static bool none_native(const struct qn_spec *spec) {
    (void)spec;
    return true;
}

static int none_resolve(const struct qn_sharing_ops *self, const struct qn_spec *spec,
                        const struct qn_part *ask, struct qn_sharing *out, struct qn_err *err) {
    memset(out, 0, sizeof *out);
    out->ops = self;
    qn_part_init(&out->choice.part, self->name);
    out->choice.origin = self->native(spec) ? QN_ORIGIN_NATIVE : QN_ORIGIN_CONVERTED;
    out->choice.exactness = QN_EXACT;
    return qn_part_check(ask, &out->choice.part, "sharing", err);
}

static uint32_t own_block(const struct qn_sharing *s, uint32_t layer) {
    (void)s;
    return layer;
}

static const struct qn_sharing_ops sharing_none = {
    .name = "none",
    .resolve = none_resolve,
    .native = none_native,
    .attn_block = own_block,
    .ffn_block = own_block,
};

/* --- the list --- */
const struct qn_sharing_ops *const qn_sharing_registry[] = {
    &sharing_none,
    NULL,
};

const struct qn_sharing_ops *qn_sharing_find(const struct qn_spec *spec, const char *name) {
    for (size_t i = 0; qn_sharing_registry[i]; i++) {
        const struct qn_sharing_ops *ops = qn_sharing_registry[i];
        if (name[0] ? strcmp(name, ops->name) == 0 : ops->native(spec)) return ops;
    }
    return NULL;
}
