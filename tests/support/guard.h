/* For kernel tests: a seeded generator, buffers between guard pages, random weights, and the list of ISA
 * levels. A read or write outside a buffer faults at the page or changes a canary. Thread: one. */
#ifndef QN_TESTS_SUPPORT_GUARD_H
#define QN_TESTS_SUPPORT_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

/* Deterministic; QN_SEED in the environment replaces the default. */
struct rng {
    uint64_t seed, state;
};
void rng_init(struct rng *r);
uint32_t rng_u32(struct rng *r);
uint32_t rng_below(struct rng *r, uint32_t n); /* [0, n) */
float rng_float(struct rng *r, float lo, float hi);
void rng_fill(struct rng *r, float *x, size_t n); /* [-2, 2] */

/* n bytes that end at an unreadable page (`at_end`) or begin right after one; slack holds a canary. */
struct guarded {
    uint8_t *p;
    size_t n, map_bytes;
    uint8_t *map;
};
void guarded_new(struct guarded *g, size_t n, bool at_end);
/* Checks the canary and unmaps; false when something wrote outside. */
bool guarded_free(struct guarded *g);

/* One file row of `cols` elements: random codes (extremes included) with scales of moderate size. */
void random_row(struct rng *r, enum qn_type t, size_t cols, uint8_t *out);
/* m's shape and random rows; m->data lies in g. */
void random_matrix(struct rng *r, enum qn_type t, uint32_t rows, uint32_t cols, struct qn_matrix *m,
                   struct guarded *g, bool at_end);

/* Same bits, or both NaN. Prints the first difference with `what` and the seed. */
bool same_floats(const struct rng *r, const char *what, const float *a, const float *b, size_t n);

#endif
