/* The AVX-512 kernels of this folder, and the vector exp that they share: the arithmetic of qn_exp1 in
 * kernels/ref/ref.h, 16 lanes at a time, bit for bit. Private to kernels/x86. */
#ifndef QN_KERNELS_X86_AVX512_H
#define QN_KERNELS_X86_AVX512_H

#include <immintrin.h>

#include "kernels/ref/ref.h"

void qn_avx512_linear_f32(const struct qn_linear_args *args);
void qn_avx512_linear_f16(const struct qn_linear_args *args);
void qn_avx512_linear_bf16(const struct qn_linear_args *args);
void qn_avx512_quantize_row(const float *x, size_t cols, struct qn_act_block *q);
void qn_avx512_attend(const struct qn_attend *args);
void qn_avx512vnni_attend(const struct qn_attend *args);
void qn_avx512_mix(const struct qn_mix *args);
void qn_avx512_dots(float *y, const float *x, const float *b, size_t ldb, size_t rows, size_t n);
float qn_avx512_softmax(float *x, size_t n, float scale);
void qn_avx512_favor_append(const struct qn_favor *args);
float qn_avx512_favor_read(const struct qn_favor *args);
void qn_avx512_rmsnorm(float *y, const float *x, const float *g, size_t n, float eps);
void qn_avx512_layernorm(float *y, const float *x, const float *g, const float *b, size_t n, float eps);
void qn_avx512_rope(float *x, size_t heads, size_t head_dim, size_t rot, const float *cs);
void qn_avx512_activate(float *y, const float *x, size_t n, enum qn_act_fn f);
void qn_avx512_gated(float *y, const float *gate, const float *up, size_t n, enum qn_act_fn f);
void qn_avx512_add(float *y, const float *x, size_t n);
void qn_avx512_scale(float *y, float s, size_t n);
float qn_avx512_logsumexp(const float *x, size_t n, size_t *argmax);

static inline __m512 qn_exp16(__m512 x) {
    __m512 c = _mm512_min_ps(_mm512_set1_ps(QN_EXP_HI), x); /* NaN stays: min gives its second operand */
    __m512 magic = _mm512_set1_ps(QN_EXP_MAGIC);
    __m512 t = _mm512_fmadd_ps(c, _mm512_set1_ps(QN_EXP_LOG2E), magic), n = _mm512_sub_ps(t, magic);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-QN_EXP_LN2HI), c);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-QN_EXP_LN2LO), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(QN_EXP_C0), r, _mm512_set1_ps(QN_EXP_C1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(QN_EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(QN_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(QN_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(QN_EXP_C5));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    __m512i e = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_set1_epi32(0x4b400000 - 127));
    __m512 two_n = _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
    __mmask16 tiny = _mm512_cmp_ps_mask(x, _mm512_set1_ps(QN_EXP_LO), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(_mm512_mul_ps(p, two_n), tiny, _mm512_setzero_ps());
}

/* qn_fold16 of the reference. */
static inline float qn_fold512(__m512 v) {
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* Weights that come after those in work, of which each call asks for `step`. Addresses are numbers: the last
 * ones asked for may belong to nothing. */
struct qn_ahead {
    uintptr_t at, end;
    size_t step; /* whole lines */
};

static inline __attribute__((always_inline)) void qn_ask_ahead(struct qn_ahead *h) {
    if (h->at >= h->end) return;
    for (size_t i = 0; i < h->step; i += 64) _mm_prefetch((const char *)(h->at + i), _MM_HINT_T1);
    h->at += h->step;
}

/* Mask of the n lanes (n < 16: the tail) that exist. */
static inline __mmask16 qn_tail16(size_t n) {
    return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1);
}

#endif
