/* Which weight blocks serve which layer: the third part of a structure.
 *
 * A kind says how many attention blocks and FFN blocks a checkpoint of so many layers has: layer i runs with
 * block floor(i * blocks / layers). Where the checkpoint has exactly these (of several members, the one of
 * that name) it is native; where a member has fewer and each asked-for block lies inside one of them, layers
 * refer to the same weights (exact: that member's function); else blocks are averaged over the layers that
 * they serve (untrained). With several members the part's "from" says whose blocks it runs with. A kind is
 * one function in sharing.c and one line of its list. Pure. Thread: any. */
#ifndef QN_MODEL_SHARING_H
#define QN_MODEL_SHARING_H

#include "model/part.h"
#include "model/spec.h"

struct qn_sharing_ops;

/* Resolved sharing. */
struct qn_sharing {
    const struct qn_sharing_ops *ops;
    struct qn_choice choice;
    uint32_t member; /* of the checkpoint: whose blocks it runs with or averages */
    uint32_t layers;
    uint32_t attn_blocks, ffn_blocks; /* that the structure has */
    bool mean;       /* blocks of either half are averages of the member's, made by convert.c */
    bool mean_of[2]; /* the attention's, the FFN's: else layers refer to the member's blocks */
};

struct qn_sharing_ops {
    const char *name;
    /* Fills attn_blocks and ffn_blocks (1 to layers) and adds the kind's parameters to `part`; QN_ERR_INVALID
     * with param "sharing" for parameters that make no sense. */
    int (*shape)(const struct qn_spec *spec, const struct qn_part *ask, struct qn_part *part,
                 uint32_t blocks[2], struct qn_err *err);
    /* Appends the parameters that a request may set. NULL: none. */
    void (*rules)(const struct qn_spec *spec, struct qn_rules *out);
};

extern const struct qn_sharing_ops *const qn_sharing_registry[];
/* By name; "" gives the kind of the checkpoint's first member. NULL when unknown. */
const struct qn_sharing_ops *qn_sharing_find(const struct qn_spec *spec, const char *name);
/* What the part `ask` means for this checkpoint; as qn_attention_ops.resolve, the best member is chosen. */
int qn_sharing_resolve(const struct qn_sharing_ops *ops, const struct qn_spec *spec,
                       const struct qn_part *ask, struct qn_sharing *out, struct qn_err *err);
/* The trained block, attention or FFN, that layer `layer` has with the checkpoint's member: what it runs
 * with, or what goes into the mean. */
uint32_t qn_sharing_source(const struct qn_sharing *s, const struct qn_spec *spec, bool ffn, uint32_t layer);
/* The block that it runs with: of the checkpoint (mean false), or of the averaged ones (mean true). */
uint32_t qn_sharing_block(const struct qn_sharing *s, const struct qn_spec *spec, bool ffn, uint32_t layer);

#endif
