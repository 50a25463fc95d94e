/* Quantised products with AVX2: a panel's 16 rows are two halves of 8 lanes. The integer part sums pairs of
 * byte products in 16 bits, as many chunks as fit without saturation (planes of activations are within
 * +-128): 4-bit codes 8 chunks (8 * 2 * 15 * 128 = 30720), 5 bits 4 (31744), 6 bits 2 (32256), 8 bits 1
 * without their last bit (2 * 127 * 128 = 32512), which goes apart. Arithmetic of kernels/ref/linear.c.
 * Thread: any. */
#include "kernels/act.h"
#include "kernels/quant.h"
#include "kernels/x86/avx2.h"
#include "kernels/x86/x86.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define ROWS 4

INLINE __m256i load256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Codes of 8 rows of sub-block `sub`: lo and hi point at that half's 32 bytes. */
INLINE void unpack(const struct qn_layout *l, unsigned lo_bits, unsigned hi_bits, const uint8_t *block,
                   size_t sub, size_t half, __m256i w[8]) {
    const uint8_t *lo = block + l->lo + sub * (lo_bits == 8 ? 512 : 256) + 32 * half;
    const uint8_t *hi = block + l->hi + sub * 64 * hi_bits + 32 * half;
    const __m256i low = _mm256_set1_epi8(15);
    if (lo_bits == 8) {
        UNROLL for (int c = 0; c < 8; c++) w[c] = load256(lo + 64 * c);
        return;
    }
    UNROLL for (int j = 0; j < 4; j++) {
        __m256i v = load256(lo + 64 * j);
        w[2 * j] = _mm256_and_si256(v, low);
        w[2 * j + 1] = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
    }
    if (hi_bits == 1) {
        const __m256i bit = _mm256_set1_epi8(16);
        __m256i h = load256(hi);
        UNROLL for (int c = 0; c < 8; c++) {
            __m256i s = c < 4 ? _mm256_slli_epi16(h, 4 - c) : _mm256_srli_epi16(h, c - 4);
            w[c] = _mm256_or_si256(w[c], _mm256_and_si256(s, bit));
        }
    } else if (hi_bits == 2) {
        const __m256i bits = _mm256_set1_epi8(48);
        UNROLL for (int c = 0; c < 8; c++) {
            __m256i h = load256(hi + 64 * (c / 4));
            int f = c % 4;
            __m256i s = f < 2 ? _mm256_slli_epi16(h, 4 - 2 * f) : _mm256_srli_epi16(h, 2 * f - 4);
            w[c] = _mm256_or_si256(w[c], _mm256_and_si256(s, bits));
        }
    }
}

/* Sum over `n` chunks of four-way products, widened every `deep` chunks. */
INLINE __m256i dots(const __m256i *w, const int8_t *q, int n, int deep) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i total = _mm256_setzero_si256(), pairs = total;
    UNROLL for (int c = 0; c < n; c++) {
        int32_t x;
        memcpy(&x, q + 4 * c, sizeof x);
        __m256i p = _mm256_maddubs_epi16(w[c], _mm256_set1_epi32(x));
        pairs = c % deep ? _mm256_add_epi16(pairs, p) : p;
        if (c % deep == deep - 1) total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, ones));
    }
    return total;
}

/* The same for 8 chunks of 8-bit codes. */
INLINE __m256i dots_full(const __m256i *w, const int8_t *q) {
    const __m256i twos = _mm256_set1_epi16(2), low = _mm256_set1_epi8(127), bit = _mm256_set1_epi8(1);
    __m256i total = _mm256_setzero_si256(), last = total;
    UNROLL for (int c = 0; c < 8; c++) {
        int32_t x;
        memcpy(&x, q + 4 * c, sizeof x);
        __m256i v = _mm256_set1_epi32(x), upper = _mm256_and_si256(_mm256_srli_epi16(w[c], 1), low);
        last = _mm256_add_epi16(last, _mm256_maddubs_epi16(_mm256_and_si256(w[c], bit), v));
        total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_maddubs_epi16(upper, v), twos));
    }
    return _mm256_add_epi32(total, _mm256_madd_epi16(last, _mm256_set1_epi16(1)));
}

/* Both planes. */
INLINE __m256i join(__m256i high, __m256i low) {
    return _mm256_add_epi32(_mm256_slli_epi32(high, 8), low);
}

INLINE __m256i plane_dots(const __m256i *w, const int8_t *q, int n, int deep) {
    return join(dots(w, q, n, deep), dots(w, q + QN_ACT_LO, n, deep));
}

struct lane_scales {
    __m256 d, d1, m; /* d1: second half of Q6_K */
};

INLINE __m256 half8(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE __m128i load64(const uint8_t *p) {
    return _mm_loadl_epi64((const __m128i *)(const void *)p);
}

INLINE void load_scales(enum qn_type t, const struct qn_layout *l, const uint8_t *block, size_t sub,
                        size_t half, struct lane_scales *s) {
    s->d = half8(block + 16 * half);
    s->m = l->m ? half8(block + l->m + 16 * half) : _mm256_setzero_ps();
    s->d1 = s->d;
    if (t == QN_Q4_K || t == QN_Q5_K) {
        __m256i sc = _mm256_cvtepu8_epi32(load64(block + l->sc + QN_PANEL * sub + 8 * half));
        __m256i mn = _mm256_cvtepu8_epi32(load64(block + l->mn + QN_PANEL * sub + 8 * half));
        s->d = _mm256_mul_ps(s->d, _mm256_cvtepi32_ps(sc));
        s->m = _mm256_xor_ps(_mm256_mul_ps(s->m, _mm256_cvtepi32_ps(mn)), _mm256_set1_ps(-0.0f));
    } else if (t == QN_Q6_K) {
        __m256i sc0 = _mm256_cvtepi8_epi32(load64(block + l->sc + QN_PANEL * (2 * sub) + 8 * half));
        __m256i sc1 = _mm256_cvtepi8_epi32(load64(block + l->sc + QN_PANEL * (2 * sub + 1) + 8 * half));
        s->d = _mm256_mul_ps(s->d, _mm256_cvtepi32_ps(sc0));
        s->d1 = _mm256_mul_ps(s->d1, _mm256_cvtepi32_ps(sc1));
    }
}

/* Sum of 16 bytes. */
INLINE int32_t sum_bytes(const int8_t *q) {
    __m128i u = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)q), _mm_set1_epi8((char)0x80));
    __m128i s = _mm_sad_epu8(u, _mm_setzero_si128());
    return _mm_cvtsi128_si32(s) + _mm_extract_epi16(s, 4) - 16 * 128;
}

/* Half of a Q6_K sub-block. */
INLINE __m256 half_dot(const __m256i *w, const int8_t *q) {
    int32_t sum = 256 * sum_bytes(q) + sum_bytes(q + QN_ACT_LO);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(plane_dots(w, q, 4, 2), _mm256_set1_epi32(32 * sum)));
}

INLINE __m256i block_dot(enum qn_type t, const __m256i w[8], const int8_t *q, int32_t sum) {
    switch (t) {
    case QN_Q8_0:
        return _mm256_sub_epi32(join(dots_full(w, q), dots_full(w, q + QN_ACT_LO)),
                                _mm256_set1_epi32(128 * sum));
    case QN_Q4_0:
        return _mm256_sub_epi32(plane_dots(w, q, 8, 8), _mm256_set1_epi32(8 * sum));
    case QN_Q5_0:
        return _mm256_sub_epi32(plane_dots(w, q, 8, 4), _mm256_set1_epi32(16 * sum));
    case QN_Q5_1:
    case QN_Q5_K:
        return plane_dots(w, q, 8, 4);
    default:
        return plane_dots(w, q, 8, 8);
    }
}

/* 8 output rows (one half of panel p) times R activation rows from m0 on. */
INLINE void tile(enum qn_type t, unsigned lo_bits, unsigned hi_bits, unsigned R,
                 const struct qn_linear_args *args, uint32_t p, size_t half, uint32_t m0) {
    const struct qn_act *a = args->a;
    const struct qn_layout *l = qn_type_layout(t);
    const bool k_quant = t == QN_Q4_K || t == QN_Q5_K || t == QN_Q6_K;
    const bool has_min = t == QN_Q4_1 || t == QN_Q5_1 || t == QN_Q4_K || t == QN_Q5_K;
    size_t blocks = qn_act_blocks(a->cols), stride = qn_act_q_stride(a->cols);
    size_t n0 = (size_t)p * QN_PANEL + 8 * half;
    if (n0 >= args->w->rows) return;
    const uint8_t *block = args->w->data + p * qn_matrix_blocks(args->w) * l->panel_bytes;
    const int8_t *q = a->q + m0 * stride;
    const float *scale = a->scale + m0 * blocks;
    const int32_t *sum = a->sum + m0 * blocks;
    __m256i lanes = qn_tail8((ptrdiff_t)(args->w->rows - n0));
    __m256 acc[ROWS], start = _mm256_setzero_ps();
    if (args->bias) start = _mm256_maskload_ps(args->bias + n0, lanes);
    UNROLL for (unsigned r = 0; r < R; r++) acc[r] = start;
    for (size_t i = 0; i < blocks; i++) {
        struct lane_scales s;
        __m256i w[8];
        size_t sub = k_quant ? i % 8 : 0;
        load_scales(t, l, block, sub, half, &s);
        unpack(l, lo_bits, hi_bits, block, sub, half, w);
        UNROLL for (unsigned r = 0; r < R; r++) {
            float dx = scale[r * blocks + i];
            int32_t sx = sum[r * blocks + i];
            const int8_t *qx = q + r * stride + QN_ACT_BLOCK * i;
            __m256 dd = _mm256_mul_ps(s.d, _mm256_set1_ps(dx));
            if (t == QN_Q6_K) {
                __m256 dd1 = _mm256_mul_ps(s.d1, _mm256_set1_ps(dx));
                acc[r] = _mm256_fmadd_ps(dd, half_dot(w, qx), acc[r]);
                acc[r] = _mm256_fmadd_ps(dd1, half_dot(w + 4, qx + 16), acc[r]);
            } else {
                acc[r] = _mm256_fmadd_ps(dd, _mm256_cvtepi32_ps(block_dot(t, w, qx, sx)), acc[r]);
            }
            if (has_min) acc[r] = _mm256_fmadd_ps(s.m, _mm256_set1_ps(dx * (float)sx), acc[r]);
        }
        if (!k_quant || sub == 7) block += l->panel_bytes;
    }
    UNROLL for (unsigned r = 0; r < R; r++)
        _mm256_maskstore_ps(args->y + (m0 + r) * args->ldy + n0, lanes, acc[r]);
}

INLINE void range(enum qn_type t, unsigned lo_bits, unsigned hi_bits, const struct qn_linear_args *args) {
    uint32_t rows = args->a->rows;
    for (uint32_t p = args->panel_begin; p < args->panel_end; p++) {
        for (size_t half = 0; half < 2; half++) {
            uint32_t m = 0;
            for (; rows - m >= ROWS; m += ROWS) tile(t, lo_bits, hi_bits, ROWS, args, p, half, m);
            for (; rows - m >= 1; m++) tile(t, lo_bits, hi_bits, 1, args, p, half, m);
        }
    }
}

static void linear_q8_0(const struct qn_linear_args *args) {
    range(QN_Q8_0, 8, 0, args);
}
static void linear_q4_0(const struct qn_linear_args *args) {
    range(QN_Q4_0, 4, 0, args);
}
static void linear_q4_1(const struct qn_linear_args *args) {
    range(QN_Q4_1, 4, 0, args);
}
static void linear_q5_0(const struct qn_linear_args *args) {
    range(QN_Q5_0, 4, 1, args);
}
static void linear_q5_1(const struct qn_linear_args *args) {
    range(QN_Q5_1, 4, 1, args);
}
static void linear_q4_k(const struct qn_linear_args *args) {
    range(QN_Q4_K, 4, 0, args);
}
static void linear_q5_k(const struct qn_linear_args *args) {
    range(QN_Q5_K, 4, 1, args);
}
static void linear_q6_k(const struct qn_linear_args *args) {
    range(QN_Q6_K, 4, 2, args);
}

void qn_avx2_fill_quant(struct qn_ops *ops) {
    ops->linear[QN_Q8_0] = linear_q8_0;
    ops->linear[QN_Q4_0] = linear_q4_0;
    ops->linear[QN_Q4_1] = linear_q4_1;
    ops->linear[QN_Q5_0] = linear_q5_0;
    ops->linear[QN_Q5_1] = linear_q5_1;
    ops->linear[QN_Q4_K] = linear_q4_k;
    ops->linear[QN_Q5_K] = linear_q5_k;
    ops->linear[QN_Q6_K] = linear_q6_k;
}
