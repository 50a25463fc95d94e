/* Drawing random directions: own generator (Box-Muller on random.h), so that a seed means the same features
 * everywhere; orthogonal ones by Gram-Schmidt on the kernels' products, which have the same bits at every
 * level.
 *
 *   key -> normals [head_dim, head_dim] -[orthogonal: each less its parts along those before]-> columns of w
 *
 * A request may bring a new seed, and the engine's thread waits while its directions are drawn: a block of
 * layers takes well below a millisecond for the usual number of features. Pure but for its buffer.
 * Thread: any. */
#include "model/attention/features.h"

#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "kernels/mem.h"
#include "model/random.h"

#define TAU    6.2831853f
#define PASSES 5

/* n values, an even number, of N(0, 1). */
static void normals(uint64_t *state, float *x, size_t n) {
    for (size_t i = 0; i < n; i += 2) {
        uint64_t bits = qn_random_next(state);
        float u = (float)(((double)(bits >> 32) + 0.5) * 0x1p-32); /* (0, 1] */
        float angle = TAU * (float)((uint32_t)bits >> 8) * 0x1p-24f;
        float r = sqrtf(-2.0f * logf(u));
        x[i] = r * cosf(angle);
        x[i + 1] = r * sinf(angle);
    }
}

/* Scales r to length 1; returns the length it had. */
static float unit(float *r, size_t n) {
    float square;
    qn_ops()->dots(&square, r, r, 0, 1, n);
    float length = sqrtf(square);
    qn_ops()->scale(r, 1.0f / length, n);
    return length;
}

/* Row i less its parts along rows 0 .. i-1, of length 1; returns the length it had before. Again while that
 * took most of it away, since then most of what is left is rounding. along: [i]. */
static float orthonormalise(float *rows, size_t i, size_t n, float *along) {
    float *r = rows + i * n, length = unit(r, n), left = 0;
    struct qn_mix less = {.x = along,
                          .x_k = 1,
                          .b = rows,
                          .ldb = n,
                          .y = r,
                          .ldy = n,
                          .rows = 1,
                          .depth = i,
                          .cols = n,
                          .start = QN_MIX_ADD};
    for (int pass = 0; i > 0 && left < 0.7f && pass < PASSES; pass++) {
        qn_ops()->dots(along, r, rows, n, i, n);
        qn_ops()->scale(along, -1.0f, i);
        qn_ops()->mix(&less);
        left = unit(r, n);
    }
    return length;
}

bool qn_features_draw(const struct qn_features_key *key, uint32_t head_dim, uint32_t m, bool orthogonal,
                      float *w) {
    size_t n = head_dim;
    float *rows = qn_mem_alloc_array(n * (n + 2), sizeof *rows);
    if (!rows) return false;
    float *length = rows + n * n, *along = length + n;
    uint64_t state = qn_random_mix(qn_random_mix(key->seed + QN_RANDOM_STEP) ^ key->block);
    for (size_t first = 0; first < m; first += n) {
        size_t count = m - first < n ? m - first : n;
        normals(&state, rows, count * n);
        for (size_t j = 0; j < count; j++) {
            /* Lengths of Gaussian rows are a function of R in their decomposition into Q R, and Q is
             * independent of R: so this is an independent chi(head_dim) length without a second draw. */
            length[j] = orthogonal ? orthonormalise(rows, j, n, along) : 1.0f;
        }
        for (size_t d = 0; d < n; d++) {
            for (size_t j = 0; j < count; j++) w[d * m + first + j] = length[j] * rows[j * n + d];
        }
    }
    qn_mem_free(rows);
    return true;
}
