/* Kernels of attention with a fixed-size state, AVX2; the arithmetic of kernels/ref/recurrent.c bit for bit:
 * 16 partial sums are two vectors. Thread: any. */
#include "kernels/x86/avx2.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define ROWS 4
#define VECS 8 /* vectors of columns: R * N <= 8 accumulators are in flight */

INLINE __m256 load(const float *p, bool whole, __m256i lanes) {
    return whole ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, lanes);
}

INLINE void store(float *p, bool whole, __m256i lanes, __m256 v) {
    if (whole) {
        _mm256_storeu_ps(p, v);
    } else {
        _mm256_maskstore_ps(p, lanes, v);
    }
}

INLINE __m256i left8(size_t n, size_t k) {
    return qn_tail8((ptrdiff_t)n - (ptrdiff_t)k);
}

/* --- mix --- */
/* R rows from row r on, N vectors of columns from n on; when not `full`, the one vector has `lanes`. */
INLINE void tile(unsigned R, unsigned N, bool full, const struct qn_mix *a, size_t r, size_t n,
                 __m256i lanes) {
    const float *b = a->b + n, *x = a->x + r * a->x_row;
    float *y = a->y + r * a->ldy + n;
    __m256 acc[ROWS][VECS];
    UNROLL for (unsigned i = 0; i < R; i++) {
        UNROLL for (unsigned v = 0; v < N; v++) {
            acc[i][v] = _mm256_setzero_ps();
            if (a->start != QN_MIX_ZERO) acc[i][v] = load(y + i * a->ldy + (size_t)8 * v, full, lanes);
            if (a->start == QN_MIX_SCALE)
                acc[i][v] = _mm256_mul_ps(acc[i][v], _mm256_set1_ps(a->scale[r + i]));
        }
    }
    for (size_t k = 0; k < a->depth; k++, b += a->ldb, x += a->x_k) {
        __m256 w[VECS];
        UNROLL for (unsigned v = 0; v < N; v++) w[v] = load(b + (size_t)8 * v, full, lanes);
        UNROLL for (unsigned i = 0; i < R; i++) {
            __m256 s = _mm256_set1_ps(x[i * a->x_row]);
            UNROLL for (unsigned v = 0; v < N; v++) acc[i][v] = _mm256_fmadd_ps(s, w[v], acc[i][v]);
        }
    }
    UNROLL for (unsigned i = 0; i < R; i++) {
        UNROLL for (unsigned v = 0; v < N; v++) store(y + i * a->ldy + (size_t)8 * v, full, lanes, acc[i][v]);
    }
}

/* All columns of R rows. */
INLINE void columns(unsigned R, const struct qn_mix *a, size_t r) {
    const size_t wide = R == 4 ? 2 : R == 2 ? 4 : VECS;
    __m256i all = _mm256_set1_epi32(-1);
    size_t n = 0;
    for (; n + 8 * wide <= a->cols; n += 8 * wide) tile(R, (unsigned)wide, true, a, r, n, all);
    if (wide > 4 && n + 32 <= a->cols) {
        tile(R, 4, true, a, r, n, all);
        n += 32;
    }
    if (wide > 2 && n + 16 <= a->cols) {
        tile(R, 2, true, a, r, n, all);
        n += 16;
    }
    for (; n + 8 <= a->cols; n += 8) tile(R, 1, true, a, r, n, all);
    if (n < a->cols) tile(R, 1, false, a, r, n, left8(a->cols, n));
}

void qn_avx2_mix(const struct qn_mix *args) {
    size_t r = 0;
    for (; r + 4 <= args->rows; r += 4) columns(4, args, r);
    if (r + 2 <= args->rows) {
        columns(2, args, r);
        r += 2;
    }
    if (r < args->rows) columns(1, args, r);
}

/* --- sums over features --- */
/* fma in the lanes that exist; the others keep what they have. */
INLINE __m256 fma_lanes(__m256i lanes, __m256 a, __m256 b, __m256 acc) {
    return _mm256_blendv_ps(acc, _mm256_fmadd_ps(a, b, acc), _mm256_castsi256_ps(lanes));
}

static float dot(const float *x, const float *b, size_t n) {
    __m256 lo = _mm256_setzero_ps(), hi = lo;
    size_t k = 0;
    for (; k + 16 <= n; k += 16) {
        lo = _mm256_fmadd_ps(_mm256_loadu_ps(x + k), _mm256_loadu_ps(b + k), lo);
        hi = _mm256_fmadd_ps(_mm256_loadu_ps(x + k + 8), _mm256_loadu_ps(b + k + 8), hi);
    }
    if (k < n) {
        __m256i m = left8(n, k), u = left8(n, k + 8);
        lo = fma_lanes(m, _mm256_maskload_ps(x + k, m), _mm256_maskload_ps(b + k, m), lo);
        hi = fma_lanes(u, _mm256_maskload_ps(x + k + 8, u), _mm256_maskload_ps(b + k + 8, u), hi);
    }
    return qn_fold256(lo, hi);
}

void qn_avx2_dots(float *y, const float *x, const float *b, size_t ldb, size_t rows, size_t n) {
    for (size_t i = 0; i < rows; i++) y[i] = dot(x, b + i * ldb, n);
}

float qn_avx2_softmax(float *x, size_t n, float scale) {
    __m256 top = _mm256_set1_ps(-INFINITY), part[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t i = 0; i < n; i += 8) {
        __m256i m = left8(n, i);
        __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, m), _mm256_set1_ps(scale));
        _mm256_maskstore_ps(x + i, m, v);
        top = _mm256_blendv_ps(top, _mm256_max_ps(v, top), _mm256_castsi256_ps(m));
    }
    __m256 max = _mm256_set1_ps(qn_max8(top));
    for (size_t i = 0; i < n; i += 8) {
        __m256i m = left8(n, i);
        __m256 e = qn_exp8(_mm256_sub_ps(_mm256_maskload_ps(x + i, m), max));
        _mm256_maskstore_ps(x + i, m, e);
        part[i / 8 % 2] = _mm256_add_ps(part[i / 8 % 2], _mm256_and_ps(_mm256_castsi256_ps(m), e));
    }
    return qn_fold256(part[0], part[1]);
}

/* --- positive random features --- */
/* keys of n features: every row times `scale` where the maximum moved, and the new token's entry. */
INLINE void put_keys(float *keys, size_t n, bool moved, const float *scale, const float *fresh, size_t slot) {
    for (size_t i = 0; i < n; i++, keys += QN_KV_BLOCK) {
        if (moved) {
            __m256 s = _mm256_set1_ps(scale[i]);
            _mm256_storeu_ps(keys, _mm256_mul_ps(_mm256_loadu_ps(keys), s));
            _mm256_storeu_ps(keys + 8, _mm256_mul_ps(_mm256_loadu_ps(keys + 8), s));
        }
        keys[slot] = fresh[i];
    }
}

void qn_avx2_favor_append(const struct qn_favor *a) {
    __m256 scale = _mm256_set1_ps(a->scale), minus = _mm256_set1_ps(-a->minus), one = _mm256_set1_ps(1.0f);
    float s[8], e[8];
    for (size_t j = 0; j < a->m; j += 8) {
        __m256i m = left8(a->m, j);
        __m256 l = _mm256_fmadd_ps(_mm256_maskload_ps(a->f + j, m), scale, minus);
        __m256 old = _mm256_maskload_ps(a->top + j, m);
        __m256 gt = _mm256_and_ps(_mm256_castsi256_ps(m), _mm256_cmp_ps(l, old, _CMP_GT_OQ));
        bool moved = _mm256_movemask_ps(gt) != 0;
        __m256 top = _mm256_blendv_ps(old, l, gt);
        _mm256_storeu_ps(e, qn_exp8(_mm256_sub_ps(l, top)));
        if (moved) {
            __m256 by = _mm256_blendv_ps(one, qn_exp8(_mm256_sub_ps(old, l)), gt);
            _mm256_storeu_ps(s, by);
            _mm256_maskstore_ps(a->top + j, m, top);
            _mm256_maskstore_ps(a->shrink + j, m, _mm256_mul_ps(_mm256_maskload_ps(a->shrink + j, m), by));
        }
        put_keys(a->keys + j * QN_KV_BLOCK, a->m - j < 8 ? a->m - j : 8, moved, s, e, a->slot);
    }
}

/* a = f * scale + top, left in f; returns the maximum. */
INLINE float exponents(const struct qn_favor *a) {
    __m256 scale = _mm256_set1_ps(a->scale), max = _mm256_set1_ps(-INFINITY);
    for (size_t j = 0; j < a->m; j += 8) {
        __m256i m = left8(a->m, j);
        __m256 v = _mm256_fmadd_ps(_mm256_maskload_ps(a->f + j, m), scale, _mm256_maskload_ps(a->top + j, m));
        _mm256_maskstore_ps(a->f + j, m, v);
        max = _mm256_blendv_ps(max, _mm256_max_ps(v, max), _mm256_castsi256_ps(m));
    }
    return qn_max8(max);
}

float qn_avx2_favor_read(const struct qn_favor *a) {
    __m256 max = _mm256_set1_ps(exponents(a)), part[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, w[4][2];
    float one[8];
    for (unsigned i = 0; i < 4; i++) w[i][0] = w[i][1] = _mm256_setzero_ps();
    for (size_t j = 0; j < a->m; j += 8) {
        __m256i m = left8(a->m, j);
        __m256 p = qn_exp8(_mm256_sub_ps(_mm256_maskload_ps(a->f + j, m), max));
        __m256 f = _mm256_mul_ps(p, _mm256_maskload_ps(a->shrink + j, m));
        _mm256_storeu_ps(one, p);
        _mm256_maskstore_ps(a->f + j, m, f);
        part[j / 8 % 2] = fma_lanes(m, f, _mm256_maskload_ps(a->z + j, m), part[j / 8 % 2]);
        const float *keys = a->keys + j * QN_KV_BLOCK;
        if (a->m - j >= 8) {
            UNROLL for (unsigned i = 0; i < 8; i++, keys += QN_KV_BLOCK) {
                __m256 s = _mm256_set1_ps(one[i]);
                w[i % 4][0] = _mm256_fmadd_ps(s, _mm256_loadu_ps(keys), w[i % 4][0]);
                w[i % 4][1] = _mm256_fmadd_ps(s, _mm256_loadu_ps(keys + 8), w[i % 4][1]);
            }
            continue;
        }
        for (size_t i = 0; i < a->m - j; i++, keys += QN_KV_BLOCK) {
            __m256 s = _mm256_set1_ps(one[i]);
            w[i % 4][0] = _mm256_fmadd_ps(s, _mm256_loadu_ps(keys), w[i % 4][0]);
            w[i % 4][1] = _mm256_fmadd_ps(s, _mm256_loadu_ps(keys + 8), w[i % 4][1]);
        }
    }
    __m256 lo = _mm256_add_ps(_mm256_add_ps(w[0][0], w[1][0]), _mm256_add_ps(w[2][0], w[3][0]));
    __m256 hi = _mm256_add_ps(_mm256_add_ps(w[0][1], w[1][1]), _mm256_add_ps(w[2][1], w[3][1]));
    _mm256_storeu_ps(a->weight, lo);
    _mm256_storeu_ps(a->weight + 8, hi);
    return qn_fold256(part[0], part[1]) + qn_fold256(lo, hi);
}
