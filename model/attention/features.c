/* Drawing random directions: own generator (splitmix64, Box-Muller in double), so that a seed means the same
 * features everywhere. Pure but for its buffer. Thread: any. */
#include "model/attention/features.h"

#include <math.h>
#include <string.h>

#include "kernels/mem.h"

#define TAU 6.283185307179586476925286766559

struct gauss {
    uint64_t state;
    double spare;
    bool has_spare;
};

static uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static uint64_t next(struct gauss *g) {
    return mix64(g->state += 0x9e3779b97f4a7c15ull);
}

static double uniform(struct gauss *g) { /* (0, 1) */
    return ((double)(next(g) >> 11) + 0.5) * 0x1p-53;
}

static double normal(struct gauss *g) {
    if (g->has_spare) {
        g->has_spare = false;
        return g->spare;
    }
    double r = sqrt(-2.0 * log(uniform(g))), angle = TAU * uniform(g);
    g->spare = r * sin(angle);
    g->has_spare = true;
    return r * cos(angle);
}

/* Four sums, so that the additions don't wait for each other. n is a multiple of 4. */
static double dot(const double *a, const double *b, size_t n) {
    double s[4] = {0};
    for (size_t i = 0; i < n; i += 4) {
        for (size_t k = 0; k < 4; k++) s[k] += a[i + k] * b[i + k];
    }
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* Row i less its parts along rows 0 .. i-1, of length 1. Twice is enough for full precision. */
static void orthonormalise(double *rows, size_t i, size_t n) {
    double *r = rows + i * n;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t k = 0; k < i; k++) {
            double along = dot(r, rows + k * n, n);
            for (size_t d = 0; d < n; d++) r[d] -= along * rows[k * n + d];
        }
    }
    double inv = 1.0 / sqrt(dot(r, r, n));
    for (size_t d = 0; d < n; d++) r[d] *= inv;
}

bool qn_features_draw(const struct qn_features_key *key, uint32_t head_dim, uint32_t m, bool orthogonal,
                      float *w) {
    size_t n = head_dim;
    double *rows = qn_mem_alloc_array(n * n, sizeof *rows);
    if (!rows) return false;
    struct gauss g = {0};
    g.state = mix64(mix64(key->seed + 0x9e3779b97f4a7c15ull) ^ ((uint64_t)key->block << 32 | key->head));
    for (size_t j = 0; j < m; j++) {
        double *r = rows + j % n * n, length = 1;
        for (size_t d = 0; d < n; d++) r[d] = normal(&g);
        if (orthogonal) {
            /* Lengths of Gaussian rows are a function of R in their decomposition into Q R, and Q is
             * independent of R: so this is an independent chi(head_dim) length without a second draw. */
            length = sqrt(dot(r, r, n));
            orthonormalise(rows, j % n, n);
        }
        for (size_t d = 0; d < n; d++) w[d * m + j] = (float)(length * r[d]);
    }
    qn_mem_free(rows);
    return true;
}
