/* The reference table and the scalar arithmetic that every other version repeats bit for bit.
 * Private to kernels/. Thread: any. */
#ifndef QN_KERNELS_REF_H
#define QN_KERNELS_REF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

extern const struct qn_ops qn_ref_ops;

void qn_ref_linear_float(const struct qn_linear_args *args); /* F32, F16 */
void qn_ref_linear_bf16(const struct qn_linear_args *args);
void qn_ref_linear_quant(const struct qn_linear_args *args); /* every Q type */
void qn_ref_quantize_row(const float *x, size_t cols, struct qn_act_block *q);
void qn_ref_attend(const struct qn_attend *args);
void qn_ref_attend_join(float *sum, const float *part, bool first, uint32_t group, uint32_t head_dim);
void qn_ref_kv_write(const struct qn_kv_write *args);
void qn_ref_mix(const struct qn_mix *args);
void qn_ref_dots(float *y, const float *x, const float *b, size_t ldb, size_t rows, size_t n);
float qn_ref_softmax(float *x, size_t n, float scale);
void qn_ref_favor_append(const struct qn_favor *args);
float qn_ref_favor_read(const struct qn_favor *args);
void qn_ref_rmsnorm(float *y, const float *x, const float *g, size_t n, float eps);
void qn_ref_layernorm(float *y, const float *x, const float *g, const float *b, size_t n, float eps);
void qn_ref_rope(float *x, size_t heads, size_t head_dim, size_t rot, const float *cs);
void qn_ref_activate(float *y, const float *x, size_t n, enum qn_act_fn f);
void qn_ref_gated(float *y, const float *gate, const float *up, size_t n, enum qn_act_fn f);
void qn_ref_add(float *y, const float *x, size_t n);
void qn_ref_scale(float *y, float s, size_t n);
float qn_ref_logsumexp(const float *x, size_t n, size_t *argmax);

/* x as BF16 products take it: what is smaller than the least normal number is zero. */
static inline float qn_bf16_round(float x) {
    return fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : qn_bf16_to_f32(qn_f32_to_bf16(x));
}

/* Horizontal sums: 16 partial sums (element k goes to lane k mod 16, ascending), folded 8, 4, 2, 1. Vector
 * versions do the same whatever their width. */
static inline float qn_fold16(const float *v) {
    float a[8];
    for (int i = 0; i < 8; i++) a[i] = v[i] + v[i + 8];
    for (int i = 0; i < 4; i++) a[i] = a[i] + a[i + 4];
    return (a[0] + a[2]) + (a[1] + a[3]);
}

/* Constants of exp: range reduction by log2(e), ln 2 in two parts, Cephes' polynomial. Error below 2 ulp;
 * infinity already from 127.5 ln 2 = 88.38 on (2^128 as the last factor), 0 below QN_EXP_LO. */
#define QN_EXP_LO    (-87.3f) /* below: 0 */
#define QN_EXP_HI    (89.0f)  /* arguments are cut here, where the result is infinite */
#define QN_EXP_LOG2E 1.44269504088896341f
#define QN_EXP_MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, nearest even */
#define QN_EXP_LN2HI 0.693359375f
#define QN_EXP_LN2LO (-2.12194440e-4f)
#define QN_EXP_C0    1.9875691500e-4f
#define QN_EXP_C1    1.3981999507e-3f
#define QN_EXP_C2    8.3334519073e-3f
#define QN_EXP_C3    4.1665795894e-2f
#define QN_EXP_C4    1.6666665459e-1f
#define QN_EXP_C5    5.0000001201e-1f

static inline float qn_exp1(float x) {
    float c = x > QN_EXP_HI ? QN_EXP_HI : x;
    float t = fmaf(c, QN_EXP_LOG2E, QN_EXP_MAGIC), n = t - QN_EXP_MAGIC;
    float r = fmaf(n, -QN_EXP_LN2HI, c);
    r = fmaf(n, -QN_EXP_LN2LO, r);
    float p = fmaf(QN_EXP_C0, r, QN_EXP_C1);
    p = fmaf(p, r, QN_EXP_C2);
    p = fmaf(p, r, QN_EXP_C3);
    p = fmaf(p, r, QN_EXP_C4);
    p = fmaf(p, r, QN_EXP_C5);
    p = fmaf(p, r * r, r) + 1.0f;
    uint32_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits - 0x4b400000u + 127u) << 23; /* 2^n */
    float two_n;
    memcpy(&two_n, &bits, sizeof two_n);
    return x < QN_EXP_LO ? 0.0f : p * two_n;
}

/* ---- attention ---- */
#define QN_ATTEND_STEPS 32767  /* of a 16-bit code: queries and weights against 8-bit keys and values */
#define QN_ATTEND_TINY  1e-30f /* what is not larger gets codes 0: its inverse must be finite */

/* x * inverse to the nearest integer (even where there are two) in [-most, most]; NaN gives most. */
static inline int qn_code1(float x, float inverse, float most) {
    float v = x * inverse;
    v = v < most ? v : most;
    v = v > -most ? v : -most;
    return (int)((v + QN_EXP_MAGIC) - QN_EXP_MAGIC);
}

/* The tokens of a's range that row r sees: [*first, *end). */
static inline void qn_attend_seen(const struct qn_attend *a, uint32_t r, uint32_t *first, uint32_t *end) {
    uint32_t length = a->pos + r + 1, from = a->window > 0 && length > a->window ? length - a->window : 0;
    *first = from > a->begin ? from : a->begin;
    *end = length < a->end ? length : a->end;
}

/* erfc by Chebyshev fitting (relative error 1.2e-7 everywhere); coefficients from the highest power down. */
#define QN_ERFC_TERMS 9
static const float qn_erfc_c[QN_ERFC_TERMS] = {0.17087277f,  -0.82215223f, 1.48851587f,
                                               -1.13520398f, 0.27886807f,  -0.18628806f,
                                               0.09678418f,  0.37409196f,  1.00002368f};
#define QN_ERFC_LAST (-1.26551223f)
#define QN_SQRT_HALF 0.70710678118654752f
#define QN_GELU_A    0.79788456080286536f /* sqrt(2 / pi) */
#define QN_GELU_B    0.044715f

/* The normal distribution's Phi(x) = erfc(-x / sqrt 2) / 2. */
static inline float qn_phi1(float x) {
    float z = fabsf(x) * QN_SQRT_HALF, t = 1.0f / fmaf(0.5f, z, 1.0f), p = qn_erfc_c[0];
    for (int i = 1; i < QN_ERFC_TERMS; i++) p = fmaf(p, t, qn_erfc_c[i]);
    p = fmaf(p, t, QN_ERFC_LAST);
    float tail = 0.5f * (t * qn_exp1(fmaf(-z, z, p)));
    return x > 0 ? 1.0f - tail : tail;
}

static inline float qn_act1(float x, enum qn_act_fn f) {
    switch (f) {
    case QN_ACT_RELU:
        return x < 0 ? 0.0f : x;
    case QN_ACT_GELU_ERF:
        return x * qn_phi1(x);
    case QN_ACT_GELU_TANH: { /* x (1 + tanh u) / 2 = x / (1 + exp(-2u)) */
        float u = (x * fmaf(QN_GELU_B, x * x, 1.0f)) * (-2.0f * QN_GELU_A);
        return x / (1.0f + qn_exp1(u));
    }
    case QN_ACT_SILU:
        return x / (1.0f + qn_exp1(-x));
    case QN_ACT_SIGMOID:
        return 1.0f / (1.0f + qn_exp1(-x));
    default:
        return x;
    }
}

#endif
