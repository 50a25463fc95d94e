/* Weight blocks averaged over the layers that they serve (sharing conversions): as ALBERT would be made from
 * a checkpoint that has a block for each layer.
 *
 * A matrix's mean is kept in its own type when that is F32, F16 or BF16 for all, in F32 else; norms, biases,
 * E and F in F32; experts and routers by index. What is the same for all layers, and random directions, of
 * which a mean makes no sense (the first layer's are taken), is borrowed. Thread: engine, and the pool. */
#ifndef QN_MODEL_MEAN_H
#define QN_MODEL_MEAN_H

#include "kernels/mem.h"
#include "model/blocks.h"

struct qn_mean {
    const struct qn_spec *spec;
    struct qn_pool *pool;
    bool projections; /* E and F, or directions, are wanted too; else they are the first source's */
    bool counting;    /* only adds up bytes: blocks become what they would be, with the first source's data */
    size_t bytes;     /* made, or to be made; SIZE_MAX on overflow */
    struct qn_mem_list owned; /* what was made; qn_mean_free */
};

/* *dst = mean of src[0 .. n) (blocks of one member, repeats counting as often). dst->experts is an array of
 * its own. QN_ERR_NOMEM: what was made so far is in mean->owned. */
int qn_mean_attn(struct qn_mean *mean, uint32_t member, const struct qn_attn_weights *const *src, size_t n,
                 struct qn_attn_weights *dst, struct qn_err *err);
int qn_mean_ffn(struct qn_mean *mean, const struct qn_ffn_weights *const *src, size_t n,
                struct qn_ffn_weights *dst, struct qn_err *err);
void qn_mean_free(struct qn_mean *mean);

#endif
