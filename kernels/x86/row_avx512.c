/* Row operations with AVX-512; the arithmetic of kernels/ref/row.c bit for bit. Tails are masked, so nothing
 * past an array's end is touched. Thread: any. */
#include "kernels/act.h"
#include "kernels/x86/avx512.h"

#define INLINE static inline __attribute__((always_inline))

/* One whole block of 32: x's groups of four are values k and k + 4 by turns. */
INLINE void quantize_block(const float *x, struct qn_act_block *q) {
    const __m512i abs_bits = _mm512_set1_epi32(0x7fffffff), eight = _mm512_set1_epi32(8);
    __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
    __m512i a0 = _mm512_and_si512(_mm512_castps_si512(x0), abs_bits);
    __m512i a1 = _mm512_and_si512(_mm512_castps_si512(x1), abs_bits);
    uint32_t top = _mm512_reduce_max_epu32(_mm512_max_epu32(a0, a1));
    float amax, inv = 0, scale = 0;
    memcpy(&amax, &top, sizeof amax);
    if (top >= 0x7f800000u) {
        scale = NAN;
    } else if (amax >= 1e-30f) {
        scale = amax / (float)QN_ACT_MAX;
        inv = (float)QN_ACT_STEPS / amax;
    }
    __mmask16 on = (__mmask16)(inv > 0 ? 0xffffu : 0u);
    __m512 by = _mm512_set1_ps(inv);
    __m512 even = _mm512_maskz_shuffle_f32x4(on, x0, x1, 0x88),
           odd = _mm512_maskz_shuffle_f32x4(on, x0, x1, 0xdd);
    __m512i m = _mm512_cvtps_epi32(_mm512_mul_ps(odd, by));
    __m512i low =
        _mm512_sub_epi32(_mm512_and_si512(_mm512_add_epi32(m, eight), _mm512_set1_epi32(15)), eight);
    __m512 back = _mm512_mul_ps(_mm512_cvtepi32_ps(low), _mm512_set1_ps(-0.0625f));
    __m512i n = _mm512_cvtps_epi32(_mm512_fmadd_ps(even, by, back));
    __m512i v = _mm512_add_epi32(_mm512_slli_epi32(n, 4), low), u = _mm512_slli_epi32(m, 4);
    __m512i byte = _mm512_srai_epi32(_mm512_slli_epi32(v, 24), 24);
    __m128i h = _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_sub_epi32(v, byte), 8));
    __m128i g = _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_sub_epi32(m, byte), 4));
    _mm_storeu_si128((__m128i *)(void *)q->high, _mm_unpacklo_epi32(h, g));
    _mm_storeu_si128((__m128i *)(void *)(q->high + 16), _mm_unpackhi_epi32(h, g));
    _mm_storeu_si128((__m128i *)(void *)q->low, _mm512_cvtepi32_epi8(byte));
    __m512i both = _mm512_add_epi32(v, u);
    q->scale = scale;
    q->sum = _mm512_reduce_add_epi32(both);
    q->first = _mm512_mask_reduce_add_epi32(0xff, both); /* groups 0 to 3 are the first 16 values */
    q->scaled_sum = scale * (float)q->sum;
}

void qn_avx512_quantize_row(const float *x, size_t cols, struct qn_act_block *q) {
    size_t b = 0;
    for (; 32 * b + 32 <= cols; b++) quantize_block(x + 32 * b, q + b);
    if (32 * b < cols) qn_ref_quantize_row(x + 32 * b, cols - 32 * b, q + b);
}

static float sum_squares(const float *x, size_t n, float mean) {
    __m512 acc = _mm512_setzero_ps(), mu = _mm512_set1_ps(mean);
    for (size_t k = 0; k < n; k += 16) {
        __mmask16 m = qn_tail16(n - k);
        __m512 v = _mm512_maskz_sub_ps(m, _mm512_maskz_loadu_ps(m, x + k), mu);
        acc = _mm512_fmadd_ps(v, v, acc);
    }
    return qn_fold512(acc);
}

void qn_avx512_rmsnorm(float *y, const float *x, const float *g, size_t n, float eps) {
    __m512 inv = _mm512_set1_ps(1.0f / sqrtf(sum_squares(x, n, 0.0f) / (float)n + eps));
    for (size_t k = 0; k < n; k += 16) {
        __mmask16 m = qn_tail16(n - k);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + k), inv);
        _mm512_mask_storeu_ps(y + k, m, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, g + k)));
    }
}

void qn_avx512_layernorm(float *y, const float *x, const float *g, const float *b, size_t n, float eps) {
    __m512 acc = _mm512_setzero_ps();
    for (size_t k = 0; k < n; k += 16)
        acc = _mm512_add_ps(acc, _mm512_maskz_loadu_ps(qn_tail16(n - k), x + k));
    float mean = qn_fold512(acc) / (float)n;
    __m512 inv = _mm512_set1_ps(1.0f / sqrtf(sum_squares(x, n, mean) / (float)n + eps));
    for (size_t k = 0; k < n; k += 16) {
        __mmask16 m = qn_tail16(n - k);
        __m512 v = _mm512_sub_ps(_mm512_maskz_loadu_ps(m, x + k), _mm512_set1_ps(mean));
        __m512 w = _mm512_maskz_loadu_ps(m, g + k);
        v = _mm512_mul_ps(v, inv);
        v = b ? _mm512_fmadd_ps(v, w, _mm512_maskz_loadu_ps(m, b + k)) : _mm512_mul_ps(v, w);
        _mm512_mask_storeu_ps(y + k, m, v);
    }
}

void qn_avx512_rope(float *x, size_t n_heads, size_t head_dim, size_t rot, const float *cs) {
    size_t half = rot / 2;
    for (size_t h = 0; h < n_heads; h++) {
        float *a = x + h * head_dim, *b = a + half;
        for (size_t i = 0; i < half; i += 16) {
            __mmask16 m = qn_tail16(half - i);
            __m512 u = _mm512_maskz_loadu_ps(m, a + i), v = _mm512_maskz_loadu_ps(m, b + i);
            __m512 c = _mm512_maskz_loadu_ps(m, cs + i), s = _mm512_maskz_loadu_ps(m, cs + half + i);
            _mm512_mask_storeu_ps(a + i, m, _mm512_fmsub_ps(u, c, _mm512_mul_ps(v, s)));
            _mm512_mask_storeu_ps(b + i, m, _mm512_fmadd_ps(v, c, _mm512_mul_ps(u, s)));
        }
    }
}

INLINE __m512 phi16(__m512 x) {
    __m512 one = _mm512_set1_ps(1.0f), half = _mm512_set1_ps(0.5f);
    __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(QN_SQRT_HALF));
    __m512 t = _mm512_div_ps(one, _mm512_fmadd_ps(half, z, one)), p = _mm512_set1_ps(qn_erfc_c[0]);
    for (int i = 1; i < QN_ERFC_TERMS; i++) p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(qn_erfc_c[i]));
    p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(QN_ERFC_LAST));
    __m512 e = qn_exp16(_mm512_fnmadd_ps(z, z, p));
    __m512 tail = _mm512_mul_ps(half, _mm512_mul_ps(t, e));
    __mmask16 right = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    return _mm512_mask_sub_ps(tail, right, one, tail);
}

INLINE __m512 act16(__m512 x, enum qn_act_fn f) {
    __m512 one = _mm512_set1_ps(1.0f);
    switch (f) {
    case QN_ACT_RELU:
        return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ),
                                  _mm512_setzero_ps());
    case QN_ACT_GELU_ERF:
        return _mm512_mul_ps(x, phi16(x));
    case QN_ACT_GELU_TANH: {
        __m512 u = _mm512_fmadd_ps(_mm512_set1_ps(QN_GELU_B), _mm512_mul_ps(x, x), one);
        u = _mm512_mul_ps(_mm512_mul_ps(x, u), _mm512_set1_ps(-2.0f * QN_GELU_A));
        return _mm512_div_ps(x, _mm512_add_ps(one, qn_exp16(u)));
    }
    case QN_ACT_SILU:
    case QN_ACT_SIGMOID: {
        __m512 e = qn_exp16(_mm512_xor_ps(x, _mm512_set1_ps(-0.0f)));
        return _mm512_div_ps(f == QN_ACT_SILU ? x : one, _mm512_add_ps(one, e));
    }
    default:
        return x;
    }
}

/* up may be NULL: plain activation. */
INLINE void act_loop(float *y, const float *x, const float *up, size_t n, enum qn_act_fn f) {
    for (size_t k = 0; k < n; k += 16) {
        __mmask16 m = qn_tail16(n - k);
        __m512 v = act16(_mm512_maskz_loadu_ps(m, x + k), f);
        if (up) v = _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, up + k));
        _mm512_mask_storeu_ps(y + k, m, v);
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

void qn_avx512_activate(float *y, const float *x, size_t n, enum qn_act_fn f) {
    act_switch(y, x, NULL, n, f);
}

void qn_avx512_gated(float *y, const float *gate, const float *up, size_t n, enum qn_act_fn f) {
    act_switch(y, gate, up, n, f);
}

void qn_avx512_add(float *y, const float *x, size_t n) {
    for (size_t k = 0; k < n; k += 16) {
        __mmask16 m = qn_tail16(n - k);
        __m512 v = _mm512_add_ps(_mm512_maskz_loadu_ps(m, y + k), _mm512_maskz_loadu_ps(m, x + k));
        _mm512_mask_storeu_ps(y + k, m, v);
    }
}

void qn_avx512_scale(float *y, float s, size_t n) {
    for (size_t k = 0; k < n; k += 16) {
        __mmask16 m = qn_tail16(n - k);
        _mm512_mask_storeu_ps(y + k, m, _mm512_mul_ps(_mm512_maskz_loadu_ps(m, y + k), _mm512_set1_ps(s)));
    }
}

float qn_avx512_logsumexp(const float *x, size_t n, size_t *argmax) {
    __m512 top16 = _mm512_set1_ps(-INFINITY), acc = _mm512_setzero_ps();
    for (size_t k = 0; k < n; k += 16) {
        __mmask16 m = qn_tail16(n - k); /* a NaN never wins: max gives its second operand */
        top16 = _mm512_mask_max_ps(top16, m, _mm512_maskz_loadu_ps(m, x + k), top16);
    }
    float top = _mm512_reduce_max_ps(top16);
    if (argmax) {
        *argmax = 0;
        for (size_t k = 0; k < n && top > -INFINITY; k += 16) {
            __mmask16 m = qn_tail16(n - k);
            m = _mm512_mask_cmp_ps_mask(m, _mm512_maskz_loadu_ps(m, x + k), _mm512_set1_ps(top), _CMP_EQ_OQ);
            if (!m) continue;
            *argmax = k + (size_t)__builtin_ctz(m);
            break;
        }
    }
    for (size_t k = 0; k < n; k += 16) {
        __mmask16 m = qn_tail16(n - k);
        __m512 e = qn_exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, x + k), _mm512_set1_ps(top)));
        acc = _mm512_mask_add_ps(acc, m, acc, e);
    }
    return top + logf(qn_fold512(acc));
}
