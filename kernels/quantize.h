/* What the two ways of rounding floats to blocks share: taking a scale as it will be stored, the nearest
 * code, and the layout of a file's block. quantize.c takes scales from extremes, fit.c searches for better
 * ones. Private to kernels/. Thread: any; no state. */
#ifndef QN_KERNELS_QUANTIZE_H
#define QN_KERNELS_QUANTIZE_H

#include "kernels/quant.h"

/* v, or the nearer end of [low, high]; a NaN is the lower one, so that the cast of the result is defined. */
static inline float qn_within(float v, float low, float high) {
    return v > low ? v < high ? v : high : low;
}

/* To the nearest code in [0, top]; halves go up. */
static inline uint8_t qn_code_of(float v, float top) {
    return (uint8_t)qn_within(v + 0.5f, 0, top);
}

/* To the nearest in [low, high]; halves go outwards. */
static inline int8_t qn_signed_code(float v, float low, float high) {
    return (int8_t)qn_within(v + (v < 0 ? -0.5f : 0.5f), low, high);
}

/* Of a scale as it is stored. */
static inline float qn_inverse(float d) {
    return d != 0 ? 1.0f / d : 0;
}

/* Stores a scale; returns what reads will find. */
static inline float qn_stored(float d, uint16_t *half) {
    *half = qn_f32_to_f16(d);
    return qn_f16_to_f32(*half);
}

/* Q4_0, Q4_1, Q5_0, Q5_1: one block of 32. m: 0 for types without a minimum. */
struct qn_small_parts {
    uint16_t d, m;
    uint8_t code[32];
};
/* Q4_K, Q5_K: scales and minima of the eight sub-blocks in units of d and dmin. */
struct qn_k_parts {
    uint16_t d, dmin;
    uint8_t scale[8], min[8], code[256];
};
/* Q6_K: scales of the sixteen sub-blocks in units of d. */
struct qn_q6_parts {
    uint16_t d;
    int8_t scale[16];
    uint8_t code[256];
};
/* Parts to the bytes of a file's block. */
void qn_small_put(enum qn_type t, const struct qn_small_parts *p, void *dst);
void qn_k_put(enum qn_type t, const struct qn_k_parts *p, void *dst);
void qn_q6_put(const struct qn_q6_parts *p, void *dst);

/* Parts by the block's extremes. */
void qn_small_parts(enum qn_type t, const float x[32], struct qn_small_parts *p);
void qn_k_parts(enum qn_type t, const float x[256], struct qn_k_parts *p);
void qn_q6_parts(const float x[256], struct qn_q6_parts *p);

#endif
