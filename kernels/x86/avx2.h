/* The AVX2 kernels of this folder, and the vector exp that they share: the arithmetic of qn_exp1 in
 * kernels/ref/ref.h, 8 lanes at a time, bit for bit. Private to kernels/x86. */
#ifndef QN_KERNELS_X86_AVX2_H
#define QN_KERNELS_X86_AVX2_H

#include <immintrin.h>

#include "kernels/ref/ref.h"

void qn_avx2_fill_quant(struct qn_ops *ops);
void qn_avx2_linear_f32(const struct qn_linear_args *args);
void qn_avx2_linear_f16(const struct qn_linear_args *args);
void qn_avx2_linear_bf16(const struct qn_linear_args *args);
void qn_avx2_quantize_row(const float *x, size_t cols, struct qn_act_block *q);
void qn_avx2_attend(const struct qn_attend *args);
void qn_avx2_attend_join(float *sum, const float *part, bool first, uint32_t group, uint32_t head_dim);
void qn_avx2_kv_write(const struct qn_kv_write *args);
void qn_avx2_mix(const struct qn_mix *args);
void qn_avx2_dots(float *y, const float *x, const float *b, size_t ldb, size_t rows, size_t n);
float qn_avx2_softmax(float *x, size_t n, float scale);
void qn_avx2_favor_append(const struct qn_favor *args);
float qn_avx2_favor_read(const struct qn_favor *args);
void qn_avx2_rmsnorm(float *y, const float *x, const float *g, size_t n, float eps);
void qn_avx2_layernorm(float *y, const float *x, const float *g, const float *b, size_t n, float eps);
void qn_avx2_rope(float *x, size_t heads, size_t head_dim, size_t rot, const float *cs);
void qn_avx2_activate(float *y, const float *x, size_t n, enum qn_act_fn f);
void qn_avx2_gated(float *y, const float *gate, const float *up, size_t n, enum qn_act_fn f);
void qn_avx2_add(float *y, const float *x, size_t n);
void qn_avx2_scale(float *y, float s, size_t n);
float qn_avx2_logsumexp(const float *x, size_t n, size_t *argmax);

static inline __m256 qn_exp8(__m256 x) {
    __m256 c = _mm256_min_ps(_mm256_set1_ps(QN_EXP_HI), x); /* NaN stays: min gives its second operand */
    __m256 magic = _mm256_set1_ps(QN_EXP_MAGIC);
    __m256 t = _mm256_fmadd_ps(c, _mm256_set1_ps(QN_EXP_LOG2E), magic), n = _mm256_sub_ps(t, magic);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-QN_EXP_LN2HI), c);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-QN_EXP_LN2LO), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(QN_EXP_C0), r, _mm256_set1_ps(QN_EXP_C1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(QN_EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(QN_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(QN_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(QN_EXP_C5));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i e = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(0x4b400000 - 127));
    __m256 two_n = _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
    __m256 tiny = _mm256_cmp_ps(x, _mm256_set1_ps(QN_EXP_LO), _CMP_LT_OQ);
    return _mm256_andnot_ps(tiny, _mm256_mul_ps(p, two_n));
}

/* qn_fold16 of the reference; lo = lanes 0..7, hi = lanes 8..15. */
static inline float qn_fold256(__m256 lo, __m256 hi) {
    __m256 a = _mm256_add_ps(lo, hi);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

static inline float qn_max8(__m256 v) {
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* All ones in the first n lanes (n < 8: the tail; negative counts give none). */
static inline __m256i qn_tail8(ptrdiff_t n) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n > 8 ? 8 : (int)n), lane);
}

#endif
