/* Quantised products with AVX2: a panel's 16 rows are two halves of 8 lanes, taken side by side so that each
 * broadcast activation serves both. Codes are widened to 16-bit pairs (kernels/x86/pairs.h) and multiplied by
 * whole 16-bit activations: one vpmaddwd where bytes would need two planes and, for 8-bit codes, a way around
 * saturation. One row of activations takes the widened codes as they come; for more the codes of a block are
 * widened onto the stack first and serve every group of rows. The arithmetic is that of kernels/ref/linear.c.
 * Thread: any. */
#include "kernels/act.h"
#include "kernels/quant.h"
#include "kernels/x86/avx2.h"
#include "kernels/x86/pairs.h"
#include "kernels/x86/x86.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#define LOOP   _Pragma("nounroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#define LOOP   _Pragma("GCC unroll 1")
#endif
#define GROUP      4 /* activation rows whose dot products run side by side: 8 sums in registers */
#define MAX_GROUPS 4

INLINE __m256i load256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Where one sub-block's codes lie. */
struct code_at {
    const uint8_t *lo, *hi;
};

/* Codes of one chunk and half, widened: w[0] = k 0 and 2 of each row, w[1] = k 1 and 3. Q6_K: less 32, for
 * its halves of 16 have no sums of their own in struct qn_act. */
INLINE void widen(enum qn_type t, const struct code_at *at, unsigned c, unsigned half, __m256i w[2]) {
    const __m256i byte = _mm256_set1_epi16(255), nibble = _mm256_set1_epi16(15);
    __m256i v = load256(at->lo + (t == QN_Q8_0 ? 64 * c : 64 * (c / 2)) + 32 * half);
    if (t == QN_Q4_0 || t == QN_Q4_1 || t == QN_Q4_K) {
        w[0] = _mm256_and_si256(c % 2 ? _mm256_srli_epi16(v, 4) : v, nibble);
        w[1] = c % 2 ? _mm256_srli_epi16(v, 12) : _mm256_and_si256(_mm256_srli_epi16(v, 8), nibble);
        return;
    }
    if (t != QN_Q8_0) {
        v = _mm256_and_si256(c % 2 ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
        const bool two = t == QN_Q6_K;
        __m256i h = load256(at->hi + (two ? 64 * (c / 4) : 0) + 32 * half);
        int up = two ? 4 - 2 * (int)(c % 4) : 4 - (int)c; /* from the bits of this chunk to bit 4 */
        h = up >= 0 ? _mm256_slli_epi16(h, up) : _mm256_srli_epi16(h, -up);
        v = _mm256_or_si256(v, _mm256_and_si256(h, _mm256_set1_epi8(two ? 48 : 16)));
    }
    w[0] = _mm256_and_si256(v, byte);
    w[1] = _mm256_srli_epi16(v, 8);
    if (t != QN_Q6_K) return;
    const __m256i offset = _mm256_set1_epi16(32);
    w[0] = _mm256_sub_epi16(w[0], offset);
    w[1] = _mm256_sub_epi16(w[1], offset);
}

/* dot += 4 products per lane, of G rows with both halves of chunk c. */
INLINE void step(unsigned G, const __m256i w[2][2], int32_t (*pairs)[16], unsigned c, __m256i (*dot)[2]) {
    UNROLL for (unsigned r = 0; r < G; r++) {
        const __m256i even = _mm256_set1_epi32(pairs[r][c]), odd = _mm256_set1_epi32(pairs[r][8 + c]);
        UNROLL for (unsigned half = 0; half < 2; half++) {
            __m256i sum = _mm256_add_epi32(dot[r][half], _mm256_madd_epi16(w[half][0], even));
            dot[r][half] = _mm256_add_epi32(sum, _mm256_madd_epi16(w[half][1], odd));
        }
    }
}

/* Of chunks from .. from + n - 1; codes: all chunks widened before, or NULL. With those a loop: unrolled, it
 * would keep more in flight than there are registers. */
INLINE void dots(enum qn_type t, unsigned G, const struct code_at *at, __m256i (*codes)[2][2],
                 int32_t (*pairs)[16], unsigned from, unsigned n, __m256i (*dot)[2]) {
    if (codes) {
        LOOP for (unsigned c = from; c < from + n; c++) step(G, (const __m256i(*)[2])codes[c], pairs, c, dot);
        return;
    }
    UNROLL for (unsigned c = from; c < from + n; c++) {
        __m256i w[2][2];
        widen(t, at, c, 0, w[0]);
        widen(t, at, c, 1, w[1]);
        step(G, (const __m256i(*)[2])w, pairs, c, dot);
    }
}

INLINE bool has_min(enum qn_type t) {
    return t == QN_Q4_1 || t == QN_Q5_1 || t == QN_Q4_K || t == QN_Q5_K;
}

/* Scales of both halves: value = d * code + m; Q6_K: d for its first 16 values, d1 for the others. */
struct lane_scales {
    __m256 d[2], d1[2], m[2];
};

INLINE __m256 half8(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE __m128i load64(const uint8_t *p) {
    return _mm_loadl_epi64((const __m128i *)(const void *)p);
}

INLINE __m256 load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load64(p)));
}

INLINE __m256 load_s8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load64(p)));
}

INLINE void load_scales(enum qn_type t, const struct qn_layout *l, const uint8_t *block, size_t sub,
                        struct lane_scales *s) {
    UNROLL for (size_t half = 0; half < 2; half++) {
        const uint8_t *sc = block + l->sc + 8 * half, *mn = block + l->mn + 8 * half;
        s->d[half] = half8(block + 16 * half);
        s->m[half] = has_min(t) ? half8(block + l->m + 16 * half) : _mm256_setzero_ps();
        s->d1[half] = s->d[half];
        if (t == QN_Q4_K || t == QN_Q5_K) {
            s->d[half] = _mm256_mul_ps(s->d[half], load_u8(sc + QN_PANEL * sub));
            __m256 m = _mm256_mul_ps(s->m[half], load_u8(mn + QN_PANEL * sub));
            s->m[half] = _mm256_xor_ps(m, _mm256_set1_ps(-0.0f));
        } else if (t == QN_Q6_K) {
            s->d[half] = _mm256_mul_ps(s->d[half], load_s8(sc + QN_PANEL * (2 * sub)));
            s->d1[half] = _mm256_mul_ps(s->d1[half], load_s8(sc + QN_PANEL * (2 * sub + 1)));
        }
    }
}

/* Activations of a group of rows in one block: row 0's, the others are strides apart. */
struct row_block {
    const struct qn_act_block *q;
    size_t stride;
};

/* acc = fma(d * scale, dot, acc) for G rows. */
INLINE void add_dots(unsigned G, const __m256 d[2], const struct row_block *x, __m256i (*dot)[2],
                     __m256 (*acc)[2]) {
    UNROLL for (unsigned r = 0; r < G; r++) {
        const __m256 dx = _mm256_set1_ps(x->q[r * x->stride].scale);
        UNROLL for (unsigned half = 0; half < 2; half++) {
            __m256 dd = _mm256_mul_ps(d[half], dx);
            acc[r][half] = _mm256_fmadd_ps(dd, _mm256_cvtepi32_ps(dot[r][half]), acc[r][half]);
        }
    }
}

/* One block of G rows, into acc. */
INLINE void block_step(enum qn_type t, unsigned G, const struct code_at *at, __m256i (*codes)[2][2],
                       const struct lane_scales *s, const struct row_block *x, __m256 (*acc)[2]) {
    const int offset = t == QN_Q8_0 ? 128 : t == QN_Q4_0 ? 8 : t == QN_Q5_0 ? 16 : 0;
    const bool halves = t == QN_Q6_K;
    int32_t pairs[GROUP][16];
    __m256i dot[GROUP][2];
    UNROLL for (unsigned r = 0; r < G; r++) qn_act_pairs(x->q + r * x->stride, pairs[r]);
    UNROLL for (unsigned r = 0; r < G; r++) {
        dot[r][0] = offset ? _mm256_set1_epi32(-offset * x->q[r * x->stride].sum) : _mm256_setzero_si256();
        dot[r][1] = dot[r][0];
    }
    dots(t, G, at, codes, pairs, 0, halves ? 4 : 8, dot);
    add_dots(G, s->d, x, dot, acc);
    if (halves) {
        UNROLL for (unsigned r = 0; r < G; r++) dot[r][0] = dot[r][1] = _mm256_setzero_si256();
        dots(t, G, at, codes, pairs, 4, 4, dot);
        add_dots(G, s->d1, x, dot, acc);
    }
    if (!has_min(t)) return;
    UNROLL for (unsigned r = 0; r < G; r++) {
        __m256 ss = _mm256_set1_ps(x->q[r * x->stride].scaled_sum);
        acc[r][0] = _mm256_fmadd_ps(s->m[0], ss, acc[r][0]);
        acc[r][1] = _mm256_fmadd_ps(s->m[1], ss, acc[r][1]);
    }
}

/* Panel p times `groups` groups of G activation rows from m0 on. */
INLINE void tile(enum qn_type t, unsigned G, unsigned groups, const struct qn_linear_args *args, uint32_t p,
                 uint32_t m0) {
    const struct qn_act *a = args->a;
    const struct qn_layout *l = qn_type_layout(t);
    const unsigned subs = t == QN_Q4_K || t == QN_Q5_K || t == QN_Q6_K ? 8 : 1;
    size_t blocks = qn_act_blocks(a->cols), stride = qn_act_stride(a->cols), n0 = (size_t)p * QN_PANEL;
    const uint8_t *block = args->w->data + p * (blocks / subs) * l->panel_bytes;
    ptrdiff_t left = (ptrdiff_t)(args->w->rows - n0);
    const __m256i lanes[2] = {qn_tail8(left), qn_tail8(left - 8)};
    __m256 acc[MAX_GROUPS * GROUP][2], start[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    if (args->bias) {
        start[0] = _mm256_maskload_ps(args->bias + n0, lanes[0]);
        if (left > 8) start[1] = _mm256_maskload_ps(args->bias + n0 + 8, lanes[1]);
    }
    for (unsigned r = 0; r < groups * G; r++) acc[r][0] = start[0], acc[r][1] = start[1];
    for (size_t i = 0; i < blocks; i++) {
        size_t sub = subs == 8 ? i % 8 : 0;
        const struct code_at at = {block + l->lo + sub * 256,
                                   block + l->hi + sub * (t == QN_Q6_K ? 128 : 64)};
        struct lane_scales s;
        __m256i codes[8][2][2];
        load_scales(t, l, block, sub, &s);
        if (G > 1) {
            UNROLL for (unsigned c = 0; c < 8; c++) {
                widen(t, &at, c, 0, codes[c][0]);
                widen(t, &at, c, 1, codes[c][1]);
            }
        }
        for (unsigned g = 0; g < groups; g++) {
            size_t m = m0 + (size_t)g * G;
            const struct row_block x = {a->q + m * stride + i, stride};
            block_step(t, G, &at, G > 1 ? codes : NULL, &s, &x, acc + (size_t)g * G);
        }
        if (subs == 1 || sub == 7) block += l->panel_bytes;
    }
    for (unsigned r = 0; r < groups * G; r++) {
        float *y = args->y + (m0 + r) * args->ldy + n0;
        _mm256_maskstore_ps(y, lanes[0], acc[r][0]);
        if (left > 8) _mm256_maskstore_ps(y + 8, lanes[1], acc[r][1]);
    }
}

INLINE void range(enum qn_type t, const struct qn_linear_args *args) {
    uint32_t rows = args->a->rows;
    for (uint32_t p = args->panel_begin; p < args->panel_end; p++) {
        uint32_t m = 0;
        while (rows - m >= GROUP) {
            uint32_t groups = (rows - m) / GROUP;
            if (groups > MAX_GROUPS) groups = MAX_GROUPS;
            tile(t, GROUP, groups, args, p, m);
            m += GROUP * groups;
        }
        if (rows - m >= 2) tile(t, 2, 1, args, p, m), m += 2;
        if (rows - m) tile(t, 1, 1, args, p, m);
    }
}

static void linear_q8_0(const struct qn_linear_args *args) {
    range(QN_Q8_0, args);
}
static void linear_q4_0(const struct qn_linear_args *args) {
    range(QN_Q4_0, args);
}
static void linear_q4_1(const struct qn_linear_args *args) {
    range(QN_Q4_1, args);
}
static void linear_q5_0(const struct qn_linear_args *args) {
    range(QN_Q5_0, args);
}
static void linear_q5_1(const struct qn_linear_args *args) {
    range(QN_Q5_1, args);
}
static void linear_q4_k(const struct qn_linear_args *args) {
    range(QN_Q4_K, args);
}
static void linear_q5_k(const struct qn_linear_args *args) {
    range(QN_Q5_K, args);
}
static void linear_q6_k(const struct qn_linear_args *args) {
    range(QN_Q6_K, args);
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
