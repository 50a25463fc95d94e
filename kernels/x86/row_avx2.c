/* Row operations with AVX2; the arithmetic of kernels/ref/row.c bit for bit: horizontal sums keep 16 partial
 * sums in two vectors. Tails are masked, so nothing past an array's end is touched. Thread: any. */
#include "kernels/act.h"
#include "kernels/x86/avx2.h"

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i abs_bits(__m256 v) {
    return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
}

INLINE uint32_t max_epi32(__m256i v) { /* values below 2^31 */
    __m128i b = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    b = _mm_max_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epi32(b, _mm_shuffle_epi32(b, 0xb1)));
}

INLINE int32_t add_epi32(__m256i v) {
    __m128i b = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    b = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xb1)));
}

/* Low bytes of 16 values, in order. */
INLINE __m128i bytes16(__m256i a, __m256i b) {
    __m256i v = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8); /* packing works within 128 bits */
    return _mm_packs_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

/* Of 16 values' groups of four, values k and k + 4 by turns: rounded, and written apart. */
INLINE __m256i split16(__m256 a, __m256 b, __m256 by, __m256i bytes[3]) {
    const __m256i eight = _mm256_set1_epi32(8);
    __m256 even = _mm256_permute2f128_ps(a, b, 0x20), odd = _mm256_permute2f128_ps(a, b, 0x31);
    __m256i m = _mm256_cvtps_epi32(_mm256_mul_ps(odd, by));
    __m256i low =
        _mm256_sub_epi32(_mm256_and_si256(_mm256_add_epi32(m, eight), _mm256_set1_epi32(15)), eight);
    __m256 back = _mm256_mul_ps(_mm256_cvtepi32_ps(low), _mm256_set1_ps(-0.0625f));
    __m256i n = _mm256_cvtps_epi32(_mm256_fmadd_ps(even, by, back));
    __m256i v = _mm256_add_epi32(_mm256_slli_epi32(n, 4), low);
    bytes[0] = _mm256_srai_epi32(_mm256_slli_epi32(v, 24), 24);
    bytes[1] = _mm256_srai_epi32(_mm256_sub_epi32(v, bytes[0]), 8);
    bytes[2] = _mm256_srai_epi32(_mm256_sub_epi32(m, bytes[0]), 4);
    return _mm256_add_epi32(v, _mm256_slli_epi32(m, 4));
}

/* One whole block of 32. */
INLINE void quantize_block(const float *x, struct qn_act_block *q) {
    __m256 v[4];
    __m256i top4 = _mm256_setzero_si256(), bytes[2][3];
    for (int j = 0; j < 4; j++) {
        v[j] = _mm256_loadu_ps(x + 8 * j);
        top4 = _mm256_max_epi32(top4, abs_bits(v[j]));
    }
    uint32_t top = max_epi32(top4);
    float amax, inv = 0;
    memcpy(&amax, &top, sizeof amax);
    q->scale = 0;
    if (top >= 0x7f800000u) {
        q->scale = NAN;
    } else if (amax >= 1e-30f) {
        q->scale = amax / (float)QN_ACT_MAX;
        inv = (float)QN_ACT_STEPS / amax;
    }
    __m256 on = _mm256_castsi256_ps(_mm256_set1_epi32(inv > 0 ? -1 : 0)), by = _mm256_set1_ps(inv);
    for (int j = 0; j < 4; j++) v[j] = _mm256_and_ps(v[j], on);
    q->first = add_epi32(split16(v[0], v[1], by, bytes[0]));
    q->sum = q->first + add_epi32(split16(v[2], v[3], by, bytes[1]));
    q->scaled_sum = q->scale * (float)q->sum;
    __m128i h = bytes16(bytes[0][1], bytes[1][1]), g = bytes16(bytes[0][2], bytes[1][2]);
    _mm_storeu_si128((__m128i *)(void *)q->high, _mm_unpacklo_epi32(h, g));
    _mm_storeu_si128((__m128i *)(void *)(q->high + 16), _mm_unpackhi_epi32(h, g));
    _mm_storeu_si128((__m128i *)(void *)q->low, bytes16(bytes[0][0], bytes[1][0]));
}

void qn_avx2_quantize_row(const float *x, size_t cols, struct qn_act_block *q) {
    size_t b = 0;
    for (; 32 * b + 32 <= cols; b++) quantize_block(x + 32 * b, q + b);
    if (32 * b < cols) qn_ref_quantize_row(x + 32 * b, cols - 32 * b, q + b);
}

INLINE __m256i left8(size_t n, size_t k) {
    return qn_tail8((ptrdiff_t)n - (ptrdiff_t)k);
}

static float sum_squares(const float *x, size_t n, float mean) {
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, mu = _mm256_set1_ps(mean);
    for (size_t k = 0; k < n; k += 8) {
        __m256i m = left8(n, k);
        __m256 v = _mm256_and_ps(_mm256_castsi256_ps(m), _mm256_sub_ps(_mm256_maskload_ps(x + k, m), mu));
        acc[k / 8 % 2] = _mm256_fmadd_ps(v, v, acc[k / 8 % 2]);
    }
    return qn_fold256(acc[0], acc[1]);
}

void qn_avx2_rmsnorm(float *y, const float *x, const float *g, size_t n, float eps) {
    __m256 inv = _mm256_set1_ps(1.0f / sqrtf(sum_squares(x, n, 0.0f) / (float)n + eps));
    for (size_t k = 0; k < n; k += 8) {
        __m256i m = left8(n, k);
        __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + k, m), inv);
        _mm256_maskstore_ps(y + k, m, _mm256_mul_ps(v, _mm256_maskload_ps(g + k, m)));
    }
}

void qn_avx2_layernorm(float *y, const float *x, const float *g, const float *b, size_t n, float eps) {
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t k = 0; k < n; k += 8)
        acc[k / 8 % 2] = _mm256_add_ps(acc[k / 8 % 2], _mm256_maskload_ps(x + k, left8(n, k)));
    float mean = qn_fold256(acc[0], acc[1]) / (float)n;
    __m256 inv = _mm256_set1_ps(1.0f / sqrtf(sum_squares(x, n, mean) / (float)n + eps));
    for (size_t k = 0; k < n; k += 8) {
        __m256i m = left8(n, k);
        __m256 v = _mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(x + k, m), _mm256_set1_ps(mean)), inv);
        __m256 w = _mm256_maskload_ps(g + k, m);
        v = b ? _mm256_fmadd_ps(v, w, _mm256_maskload_ps(b + k, m)) : _mm256_mul_ps(v, w);
        _mm256_maskstore_ps(y + k, m, v);
    }
}

void qn_avx2_rope(float *x, size_t heads, size_t head_dim, size_t rot, const float *cs) {
    size_t half = rot / 2;
    for (size_t h = 0; h < heads; h++) {
        float *a = x + h * head_dim, *b = a + half;
        for (size_t i = 0; i < half; i += 8) {
            __m256i m = left8(half, i);
            __m256 u = _mm256_maskload_ps(a + i, m), v = _mm256_maskload_ps(b + i, m);
            __m256 c = _mm256_maskload_ps(cs + i, m), s = _mm256_maskload_ps(cs + half + i, m);
            _mm256_maskstore_ps(a + i, m, _mm256_fmsub_ps(u, c, _mm256_mul_ps(v, s)));
            _mm256_maskstore_ps(b + i, m, _mm256_fmadd_ps(v, c, _mm256_mul_ps(u, s)));
        }
    }
}

INLINE __m256 phi8(__m256 x) {
    __m256 one = _mm256_set1_ps(1.0f), half = _mm256_set1_ps(0.5f);
    __m256 z = _mm256_mul_ps(_mm256_castsi256_ps(abs_bits(x)), _mm256_set1_ps(QN_SQRT_HALF));
    __m256 t = _mm256_div_ps(one, _mm256_fmadd_ps(half, z, one)), p = _mm256_set1_ps(qn_erfc_c[0]);
    for (int i = 1; i < QN_ERFC_TERMS; i++) p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(qn_erfc_c[i]));
    p = _mm256_fmadd_ps(p, t, _mm256_set1_ps(QN_ERFC_LAST));
    __m256 tail = _mm256_mul_ps(half, _mm256_mul_ps(t, qn_exp8(_mm256_fnmadd_ps(z, z, p))));
    __m256 right = _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ);
    return _mm256_blendv_ps(tail, _mm256_sub_ps(one, tail), right);
}

INLINE __m256 act8(__m256 x, enum qn_act_fn f) {
    __m256 one = _mm256_set1_ps(1.0f);
    switch (f) {
    case QN_ACT_RELU:
        return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ), x);
    case QN_ACT_GELU_ERF:
        return _mm256_mul_ps(x, phi8(x));
    case QN_ACT_GELU_TANH: {
        __m256 u = _mm256_fmadd_ps(_mm256_set1_ps(QN_GELU_B), _mm256_mul_ps(x, x), one);
        u = _mm256_mul_ps(_mm256_mul_ps(x, u), _mm256_set1_ps(-2.0f * QN_GELU_A));
        return _mm256_div_ps(x, _mm256_add_ps(one, qn_exp8(u)));
    }
    case QN_ACT_SILU:
    case QN_ACT_SIGMOID: {
        __m256 e = qn_exp8(_mm256_xor_ps(x, _mm256_set1_ps(-0.0f)));
        return _mm256_div_ps(f == QN_ACT_SILU ? x : one, _mm256_add_ps(one, e));
    }
    default:
        return x;
    }
}

/* up may be NULL: plain activation. */
INLINE void act_loop(float *y, const float *x, const float *up, size_t n, enum qn_act_fn f) {
    for (size_t k = 0; k < n; k += 8) {
        __m256i m = left8(n, k);
        __m256 v = act8(_mm256_maskload_ps(x + k, m), f);
        if (up) v = _mm256_mul_ps(v, _mm256_maskload_ps(up + k, m));
        _mm256_maskstore_ps(y + k, m, v);
    }
}

/* The switch stands outside the loop. */
INLINE void act_switch(float *y, const float *x, const float *up, size_t n, enum qn_act_fn f) {
    switch (f) {
    case QN_ACT_RELU:
        act_loop(y, x, up, n, QN_ACT_RELU);
        break;
    case QN_ACT_GELU_ERF:
        act_loop(y, x, up, n, QN_ACT_GELU_ERF);
        break;
    case QN_ACT_GELU_TANH:
        act_loop(y, x, up, n, QN_ACT_GELU_TANH);
        break;
    case QN_ACT_SILU:
        act_loop(y, x, up, n, QN_ACT_SILU);
        break;
    case QN_ACT_SIGMOID:
        act_loop(y, x, up, n, QN_ACT_SIGMOID);
        break;
    default:
        act_loop(y, x, up, n, QN_ACT_IDENTITY);
        break;
    }
}

void qn_avx2_activate(float *y, const float *x, size_t n, enum qn_act_fn f) {
    act_switch(y, x, NULL, n, f);
}

void qn_avx2_gated(float *y, const float *gate, const float *up, size_t n, enum qn_act_fn f) {
    act_switch(y, gate, up, n, f);
}

void qn_avx2_add(float *y, const float *x, size_t n) {
    for (size_t k = 0; k < n; k += 8) {
        __m256i m = left8(n, k);
        _mm256_maskstore_ps(y + k, m,
                            _mm256_add_ps(_mm256_maskload_ps(y + k, m), _mm256_maskload_ps(x + k, m)));
    }
}

void qn_avx2_scale(float *y, float s, size_t n) {
    for (size_t k = 0; k < n; k += 8) {
        __m256i m = left8(n, k);
        _mm256_maskstore_ps(y + k, m, _mm256_mul_ps(_mm256_maskload_ps(y + k, m), _mm256_set1_ps(s)));
    }
}

float qn_avx2_logsumexp(const float *x, size_t n, size_t *argmax) {
    const __m256 none = _mm256_set1_ps(-INFINITY);
    __m256 top8 = none, acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t k = 0; k < n; k += 8) { /* a NaN never wins: max gives its second operand */
        __m256i m = left8(n, k);
        __m256 v = _mm256_blendv_ps(none, _mm256_maskload_ps(x + k, m), _mm256_castsi256_ps(m));
        top8 = _mm256_max_ps(v, top8);
    }
    float top = qn_max8(top8);
    if (argmax) {
        size_t k = 0;
        while (k < n && !(x[k] == top)) k++;
        *argmax = k < n && top > -INFINITY ? k : 0;
    }
    for (size_t k = 0; k < n; k += 8) {
        __m256i m = left8(n, k);
        __m256 e = qn_exp8(_mm256_sub_ps(_mm256_maskload_ps(x + k, m), _mm256_set1_ps(top)));
        acc[k / 8 % 2] = _mm256_add_ps(acc[k / 8 % 2], _mm256_and_ps(_mm256_castsi256_ps(m), e));
    }
    return top + logf(qn_fold256(acc[0], acc[1]));
}
