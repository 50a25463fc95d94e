/* Random directions of positive features (Choromanski et al. 2021): drawn once, constant for the life of a
 * state. */
#ifndef QN_MODEL_ATTENTION_FEATURES_H
#define QN_MODEL_ATTENTION_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

struct qn_features_key { /* same key, same directions, on every machine of one libm */
    uint64_t seed;
    uint32_t block; /* weight block of the checkpoint: its KV heads share the directions */
};

/* w [head_dim, m], head_dim a multiple of 4: column j is direction j, distributed as N(0, I). orthogonal:
 * within each head_dim of them the directions are orthogonal (Gram-Schmidt with a positive diagonal, so that
 * each is still isotropic), and their lengths are drawn apart, as chi(head_dim). False when memory is short.
 */
bool qn_features_draw(const struct qn_features_key *key, uint32_t head_dim, uint32_t m, bool orthogonal,
                      float *w) __attribute__((warn_unused_result));

#endif
