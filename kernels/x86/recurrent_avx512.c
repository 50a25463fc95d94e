/* Kernels of attention with a fixed-size state, AVX-512; the arithmetic of kernels/ref/recurrent.c bit for
 * bit. Lanes are output columns, or features where features are summed. Thread: any. */
#include "kernels/x86/avx512.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define ROWS 8
#define VECS 8 /* vectors of columns: R * N <= 16 accumulators are in flight */

/* --- mix --- */
/* R rows from row r on, N vectors of columns from n on; the last vector has `lanes`. */
INLINE void tile(unsigned R, unsigned N, const struct qn_mix *a, size_t r, size_t n, __mmask16 lanes) {
    const float *b = a->b + n, *x = a->x + r * a->x_row;
    float *y = a->y + r * a->ldy + n;
    __m512 acc[ROWS][VECS];
    UNROLL for (unsigned i = 0; i < R; i++) {
        UNROLL for (unsigned v = 0; v < N; v++) {
            __mmask16 m = v + 1 < N ? (__mmask16)0xffff : lanes;
            acc[i][v] = _mm512_setzero_ps();
            if (a->start != QN_MIX_ZERO) acc[i][v] = _mm512_maskz_loadu_ps(m, y + i * a->ldy + 16 * v);
            if (a->start == QN_MIX_SCALE)
                acc[i][v] = _mm512_mul_ps(acc[i][v], _mm512_set1_ps(a->scale[r + i]));
        }
    }
    for (size_t k = 0; k < a->depth; k++, b += a->ldb, x += a->x_k) {
        __m512 w[VECS];
        UNROLL for (unsigned v = 0; v < N; v++) w[v] =
            _mm512_maskz_loadu_ps(v + 1 < N ? (__mmask16)0xffff : lanes, b + 16 * v);
        UNROLL for (unsigned i = 0; i < R; i++) {
            __m512 s = _mm512_set1_ps(x[i * a->x_row]);
            UNROLL for (unsigned v = 0; v < N; v++) acc[i][v] = _mm512_fmadd_ps(s, w[v], acc[i][v]);
        }
    }
    UNROLL for (unsigned i = 0; i < R; i++) {
        UNROLL for (unsigned v = 0; v < N; v++)
            _mm512_mask_storeu_ps(y + i * a->ldy + 16 * v, v + 1 < N ? (__mmask16)0xffff : lanes, acc[i][v]);
    }
}

/* All columns of R rows. */
INLINE void columns(unsigned R, const struct qn_mix *a, size_t r) {
    const size_t wide = R == 8 ? 2 : R == 4 ? 4 : VECS;
    size_t n = 0;
    for (; n + 16 * wide <= a->cols; n += 16 * wide) tile(R, (unsigned)wide, a, r, n, 0xffff);
    if (wide > 4 && n + 64 <= a->cols) {
        tile(R, 4, a, r, n, 0xffff);
        n += 64;
    }
    if (wide > 2 && n + 32 <= a->cols) {
        tile(R, 2, a, r, n, 0xffff);
        n += 32;
    }
    for (; n < a->cols; n += 16) tile(R, 1, a, r, n, qn_tail16(a->cols - n));
}

void qn_avx512_mix(const struct qn_mix *args) {
    size_t r = 0;
    for (; r + 8 <= args->rows; r += 8) columns(8, args, r);
    if (r + 4 <= args->rows) {
        columns(4, args, r);
        r += 4;
    }
    if (r + 2 <= args->rows) {
        columns(2, args, r);
        r += 2;
    }
    if (r < args->rows) columns(1, args, r);
}

/* --- sums over features --- */
/* R rows from row i on. */
INLINE void dots(unsigned R, float *y, const float *x, const float *b, size_t ldb, size_t n) {
    __m512 acc[4];
    UNROLL for (unsigned i = 0; i < R; i++) acc[i] = _mm512_setzero_ps();
    for (size_t k = 0; k < n; k += 16) {
        __mmask16 m = qn_tail16(n - k);
        __m512 v = _mm512_maskz_loadu_ps(m, x + k);
        UNROLL for (unsigned i = 0; i < R; i++) acc[i] =
            _mm512_mask3_fmadd_ps(v, _mm512_maskz_loadu_ps(m, b + i * ldb + k), acc[i], m);
    }
    UNROLL for (unsigned i = 0; i < R; i++) y[i] = qn_fold512(acc[i]);
}

void qn_avx512_dots(float *y, const float *x, const float *b, size_t ldb, size_t rows, size_t n) {
    size_t i = 0;
    for (; i + 4 <= rows; i += 4) dots(4, y + i, x, b + i * ldb, ldb, n);
    for (; i < rows; i++) dots(1, y + i, x, b + i * ldb, ldb, n);
}

float qn_avx512_softmax(float *x, size_t n, float scale) {
    __m512 top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = qn_tail16(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), _mm512_set1_ps(scale));
        _mm512_mask_storeu_ps(x + i, m, v);
        top = _mm512_mask_max_ps(top, m, v, top);
    }
    __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = qn_tail16(n - i);
        __m512 e = qn_exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, x + i), max));
        _mm512_mask_storeu_ps(x + i, m, e);
        sum = _mm512_mask_add_ps(sum, m, sum, e);
    }
    return qn_fold512(sum);
}

/* --- positive random features --- */
/* keys of n features: every row times `scale` where the maximum moved, and the new token's entry. */
INLINE void put_keys(float *keys, size_t n, bool moved, const float *scale, const float *fresh,
                     __mmask16 slot) {
    for (size_t i = 0; i < n; i++, keys += QN_KV_BLOCK) {
        __m512 row = _mm512_loadu_ps(keys);
        if (moved) row = _mm512_mul_ps(row, _mm512_set1_ps(scale[i]));
        _mm512_storeu_ps(keys, _mm512_mask_broadcastss_ps(row, slot, _mm_load_ss(fresh + i)));
    }
}

void qn_avx512_favor_append(const struct qn_favor *a) {
    __m512 scale = _mm512_set1_ps(a->scale), minus = _mm512_set1_ps(-a->minus), one = _mm512_set1_ps(1.0f);
    float s[16], e[16];
    for (size_t j = 0; j < a->m; j += 16) {
        __mmask16 m = qn_tail16(a->m - j);
        __m512 l = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, a->f + j), scale, minus);
        __m512 old = _mm512_maskz_loadu_ps(m, a->top + j);
        __mmask16 moved = _mm512_mask_cmp_ps_mask(m, l, old, _CMP_GT_OQ);
        __m512 top = _mm512_mask_mov_ps(old, moved, l);
        _mm512_storeu_ps(e, qn_exp16(_mm512_sub_ps(l, top)));
        if (moved) {
            __m512 by = _mm512_mask_mov_ps(one, moved, qn_exp16(_mm512_sub_ps(old, l)));
            _mm512_storeu_ps(s, by);
            _mm512_mask_storeu_ps(a->top + j, m, top);
            _mm512_mask_storeu_ps(a->shrink + j, m,
                                  _mm512_mul_ps(_mm512_maskz_loadu_ps(m, a->shrink + j), by));
        }
        put_keys(a->keys + j * QN_KV_BLOCK, a->m - j < 16 ? a->m - j : 16, moved != 0, s, e,
                 (__mmask16)(1u << a->slot));
    }
}

/* a = f * scale + top, left in f; returns the maximum. */
INLINE float exponents(const struct qn_favor *a) {
    __m512 scale = _mm512_set1_ps(a->scale), max = _mm512_set1_ps(-INFINITY);
    for (size_t j = 0; j < a->m; j += 16) {
        __mmask16 m = qn_tail16(a->m - j);
        __m512 v =
            _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, a->f + j), scale, _mm512_maskz_loadu_ps(m, a->top + j));
        _mm512_mask_storeu_ps(a->f + j, m, v);
        max = _mm512_mask_max_ps(max, m, v, max);
    }
    return _mm512_reduce_max_ps(max);
}

float qn_avx512_favor_read(const struct qn_favor *a) {
    __m512 max = _mm512_set1_ps(exponents(a)), sum = _mm512_setzero_ps(), w[4];
    float one[16];
    for (unsigned i = 0; i < 4; i++) w[i] = _mm512_setzero_ps();
    for (size_t j = 0; j < a->m; j += 16) {
        __mmask16 m = qn_tail16(a->m - j);
        __m512 p = qn_exp16(_mm512_sub_ps(_mm512_maskz_loadu_ps(m, a->f + j), max));
        __m512 f = _mm512_mul_ps(p, _mm512_maskz_loadu_ps(m, a->shrink + j));
        _mm512_storeu_ps(one, p);
        _mm512_mask_storeu_ps(a->f + j, m, f);
        sum = _mm512_mask3_fmadd_ps(f, _mm512_maskz_loadu_ps(m, a->z + j), sum, m);
        const float *keys = a->keys + j * QN_KV_BLOCK;
        if (a->m - j >= 16) {
            UNROLL for (unsigned i = 0; i < 16; i++) w[i % 4] = _mm512_fmadd_ps(
                _mm512_set1_ps(one[i]), _mm512_loadu_ps(keys + (size_t)i * QN_KV_BLOCK), w[i % 4]);
        } else {
            for (size_t i = 0; i < a->m - j; i++)
                w[i % 4] = _mm512_fmadd_ps(_mm512_set1_ps(one[i]), _mm512_loadu_ps(keys + i * QN_KV_BLOCK),
                                           w[i % 4]);
        }
    }
    w[0] = _mm512_add_ps(_mm512_add_ps(w[0], w[1]), _mm512_add_ps(w[2], w[3]));
    _mm512_storeu_ps(a->weight, w[0]);
    return qn_fold512(sum) + qn_fold512(w[0]);
}
