/* Quantised products with 16 lanes = 16 output rows, for the AVX-512 files that include this: with VNNI a
 * four-way byte dot product is one instruction; without it codes are widened to 16 bits and meet whole
 * activations (kernels/x86/pairs.h). Everything is inlined with a constant type and a constant number of
 * rows, so each pair becomes its own loop; accumulators stay in registers.
 *
 * Per panel and tile of R activation rows, for each 32 values of K ascending, with VNNI: each row has two
 * sums, of products with high bytes and with low bytes (kernels/act.h). 4-bit codes meet the low bytes as
 * they lie in memory, two in a byte: three instructions for what takes wider codes four. Those meet the low
 * bytes of values k + 4 first; that sum times 16 is where the products of values k go on. The integer sums
 * are exact, so their order is free; the arithmetic is the one of kernels/ref/linear.c.
 */
#ifndef QN_KERNELS_X86_LINEAR512_H
#define QN_KERNELS_X86_LINEAR512_H

#include <immintrin.h>
#include <string.h>

#include "kernels/act.h"
#include "kernels/quant.h"
#include "kernels/x86/avx512.h"
#include "kernels/x86/pairs.h"

#define QN_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define QN_UNROLL _Pragma("unroll")
#define QN_LOOP   _Pragma("nounroll")
#else
#define QN_UNROLL _Pragma("GCC unroll 16")
#define QN_LOOP   _Pragma("GCC unroll 1")
#endif

/* Rows of a tile: as many as leave registers for two sums and an accumulator each. */
#if defined(__AVX512VNNI__)
#define MAX_ROWS 8
#else
#define MAX_ROWS 6
#endif

/* Rows from which on the next panel is asked for, and tiles that share that out. */
#define AHEAD_ROWS  4
#define AHEAD_TILES 8

/* Where the codes of a sub-block lie. */
struct code_at {
    const uint8_t *lo, *hi;
};

QN_INLINE struct code_at codes_at(enum qn_type t, const uint8_t *block, size_t sub) {
    switch (t) {
    case QN_Q8_0:
        return (struct code_at){block + offsetof(struct qn_panel_q8_0, q), NULL};
    case QN_Q4_0:
        return (struct code_at){block + offsetof(struct qn_panel_q4_0, lo), NULL};
    case QN_Q4_1:
        return (struct code_at){block + offsetof(struct qn_panel_q4_1, lo), NULL};
    case QN_Q5_0:
        return (struct code_at){block + offsetof(struct qn_panel_q5_0, lo),
                                block + offsetof(struct qn_panel_q5_0, hi)};
    case QN_Q5_1:
        return (struct code_at){block + offsetof(struct qn_panel_q5_1, lo),
                                block + offsetof(struct qn_panel_q5_1, hi)};
    case QN_Q4_K:
        return (struct code_at){block + offsetof(struct qn_panel_q4_k, lo) + 256 * sub, NULL};
    case QN_Q5_K:
        return (struct code_at){block + offsetof(struct qn_panel_q5_k, lo) + 256 * sub,
                                block + offsetof(struct qn_panel_q5_k, hi) + 64 * sub};
    default:
        return (struct code_at){block + offsetof(struct qn_panel_q6_k, lo) + 256 * sub,
                                block + offsetof(struct qn_panel_q6_k, hi) + 128 * sub};
    }
}

/* Codes 4c .. 4c + 3 of 16 rows. */
QN_INLINE __m512i chunk(enum qn_type t, const struct code_at *at, unsigned c) {
    if (t == QN_Q8_0) return _mm512_loadu_si512(at->lo + (size_t)64 * c);
    __m512i v = _mm512_loadu_si512(at->lo + (size_t)64 * (c / 2));
    v = _mm512_and_si512(c % 2 ? _mm512_srli_epi16(v, 4) : v, _mm512_set1_epi8(15));
    if (t == QN_Q5_0 || t == QN_Q5_1 || t == QN_Q5_K) {
        __m512i h = _mm512_loadu_si512(at->hi);
        h = c < 4 ? _mm512_slli_epi32(h, 4 - c) : _mm512_srli_epi32(h, c - 4);
        v = _mm512_ternarylogic_epi64(v, h, _mm512_set1_epi8(16), 0xf8); /* v | (h & bit) */
    } else if (t == QN_Q6_K) {
        __m512i h = _mm512_loadu_si512(at->hi + (size_t)64 * (c / 4));
        unsigned f = c % 4;
        h = f < 2 ? _mm512_slli_epi32(h, 4 - 2 * f) : _mm512_srli_epi32(h, 2 * f - 4);
        v = _mm512_ternarylogic_epi64(v, h, _mm512_set1_epi8(48), 0xf8);
    }
    return v;
}

/* Codes of 4 bits that lie two to a byte, chunks 2j and 2j + 1. */
QN_INLINE bool is_packed(enum qn_type t) {
    return t == QN_Q4_0 || t == QN_Q4_1 || t == QN_Q4_K;
}

/* log2 of what is taken off every code. */
QN_INLINE unsigned offset_bits(enum qn_type t) {
    return t == QN_Q8_0 ? 7 : t == QN_Q4_0 ? 3 : t == QN_Q5_0 ? 4 : t == QN_Q6_K ? 5 : 0;
}

QN_INLINE __m512 load_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

QN_INLINE __m512 load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

QN_INLINE __m512 load_s8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

QN_INLINE bool has_min(enum qn_type t) {
    return t == QN_Q4_1 || t == QN_Q5_1 || t == QN_Q4_K || t == QN_Q5_K;
}

QN_INLINE unsigned subs_of(enum qn_type t) {
    return t == QN_Q4_K || t == QN_Q5_K || t == QN_Q6_K ? 8 : 1;
}

QN_INLINE size_t bytes_of(enum qn_type t) {
    switch (t) {
    case QN_Q8_0:
        return sizeof(struct qn_panel_q8_0);
    case QN_Q4_0:
        return sizeof(struct qn_panel_q4_0);
    case QN_Q4_1:
        return sizeof(struct qn_panel_q4_1);
    case QN_Q5_0:
        return sizeof(struct qn_panel_q5_0);
    case QN_Q5_1:
        return sizeof(struct qn_panel_q5_1);
    case QN_Q4_K:
        return sizeof(struct qn_panel_q4_k);
    case QN_Q5_K:
        return sizeof(struct qn_panel_q5_k);
    default:
        return sizeof(struct qn_panel_q6_k);
    }
}

/* Scales of a sub-block: value = d * code + m; Q6_K: d for its first half of 16, d1 for the second. */
struct lane_scales {
    __m512 d, d1, m;
};

QN_INLINE void load_scales(enum qn_type t, const uint8_t *block, size_t sub, struct lane_scales *s) {
    s->d = load_f16(block); /* d is the first part of every packed block, m the second where there is one */
    s->m = has_min(t) ? load_f16(block + 2 * QN_PANEL) : _mm512_setzero_ps();
    s->d1 = s->d;
    if (t == QN_Q4_K || t == QN_Q5_K) {
        const uint8_t *sc = block + offsetof(struct qn_panel_q4_k, sc) + QN_PANEL * sub;
        const uint8_t *mn = block + offsetof(struct qn_panel_q4_k, mn) + QN_PANEL * sub;
        s->d = _mm512_mul_ps(s->d, load_u8(sc));
        __m512 m = _mm512_mul_ps(s->m, load_u8(mn));
        s->m = _mm512_xor_ps(m, _mm512_set1_ps(-0.0f));
    } else if (t == QN_Q6_K) {
        const int8_t *sc = (const int8_t *)block + offsetof(struct qn_panel_q6_k, sc) + 2 * QN_PANEL * sub;
        s->d = _mm512_mul_ps(s->d, load_s8(sc));
        s->d1 = _mm512_mul_ps(s->d1, load_s8(sc + QN_PANEL));
    }
}

/* One block of a tile's rows: row 0's, the others are `stride` blocks apart. */
struct row_block {
    const struct qn_act_block *q;
    size_t stride;
};

QN_INLINE __m512i broadcast4(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm512_set1_epi32(v);
}

/* dot - offset * sum of the row's values `half` (0, 1: of 16; 2: all). */
QN_INLINE __m512i less_offset(enum qn_type t, __m512i dot, const struct qn_act_block *q, unsigned half) {
    if (!offset_bits(t)) return dot;
    __m512i sum = _mm512_set1_epi32(half == 0 ? q->first : q->sum);
    if (half == 1) sum = _mm512_sub_epi32(sum, _mm512_set1_epi32(q->first));
    return _mm512_sub_epi32(dot, _mm512_slli_epi32(sum, offset_bits(t)));
}

#if defined(__AVX512VNNI__)
/* Products of chunk c: with the high bytes, and, of codes that are not packed, with the low ones. */
QN_INLINE void chunk_step(unsigned R, __m512i w, unsigned c, bool with_low, const struct row_block *x,
                          __m512i high[MAX_ROWS], __m512i low[MAX_ROWS]) {
    QN_UNROLL for (unsigned r = 0; r < R; r++) {
        const struct qn_act_block *q = x->q + r * x->stride;
        high[r] = _mm512_dpbusd_epi32(high[r], w, broadcast4(q->high + (size_t)4 * c));
        if (with_low) low[r] = _mm512_dpbusd_epi32(low[r], w, broadcast4(q->low + (size_t)4 * (c / 2)));
    }
}

/* Integer products of R rows with chunks from .. from + n - 1, offsets left in. */
QN_INLINE void dots(enum qn_type t, unsigned R, const struct code_at *at, unsigned from, unsigned n,
                    const struct row_block *x, __m512i dot[MAX_ROWS]) {
    __m512i high[MAX_ROWS];
    QN_UNROLL for (unsigned r = 0; r < R; r++) high[r] = dot[r] = _mm512_setzero_si512();
    if (is_packed(t)) {
        QN_UNROLL for (unsigned c = from; c < from + n; c += 2) {
            __m512i both = _mm512_loadu_si512(at->lo + (size_t)32 * c);
            QN_UNROLL for (unsigned r = 0; r < R; r++) {
                const int8_t *low = x->q[r * x->stride].low + (size_t)2 * c;
                dot[r] = _mm512_dpbusd_epi32(dot[r], both, broadcast4(low));
            }
            chunk_step(R, chunk(t, at, c), c, false, x, high, dot);
            chunk_step(R, chunk(t, at, c + 1), c + 1, false, x, high, dot);
        }
    } else {
        QN_UNROLL for (unsigned c = from + 1; c < from + n; c += 2)
            chunk_step(R, chunk(t, at, c), c, true, x, high, dot);
        QN_UNROLL for (unsigned r = 0; r < R; r++) dot[r] = _mm512_slli_epi32(dot[r], 4);
        /* The same low bytes again: the compiler would keep them in registers that are not there. */
        struct row_block again = *x;
        if (R > 2) __asm__("" : "+r"(again.q));
        QN_UNROLL for (unsigned c = from; c < from + n; c += 2)
            chunk_step(R, chunk(t, at, c), c, true, &again, high, dot);
    }
    QN_UNROLL for (unsigned r = 0; r < R; r++) dot[r] =
        _mm512_add_epi32(dot[r], _mm512_slli_epi32(high[r], 8));
}
#else
/* With several rows a loop: unrolled, it would keep more in flight than there are registers. */
QN_INLINE void dots(enum qn_type t, unsigned R, const struct code_at *at, unsigned from, unsigned n,
                    const struct row_block *x, __m512i dot[MAX_ROWS]) {
    int32_t pairs[MAX_ROWS][16];
    __m512i w[8];
    QN_UNROLL for (unsigned r = 0; r < R; r++) {
        qn_act_pairs(x->q + r * x->stride, pairs[r]);
        dot[r] = _mm512_setzero_si512();
    }
    QN_UNROLL for (unsigned c = from; c < from + n; c++) w[c] = chunk(t, at, c);
    QN_LOOP for (unsigned c = from; c < from + n; c++) {
        const __m512i even = _mm512_and_si512(w[c], _mm512_set1_epi16(255)), odd = _mm512_srli_epi16(w[c], 8);
        QN_UNROLL for (unsigned r = 0; r < R; r++) {
            __m512i e = _mm512_madd_epi16(even, _mm512_set1_epi32(pairs[r][c]));
            __m512i f = _mm512_madd_epi16(odd, _mm512_set1_epi32(pairs[r][8 + c]));
            dot[r] = _mm512_add_epi32(_mm512_add_epi32(dot[r], e), f);
        }
    }
}
#endif

/* acc = fma(d * scale, dot, acc) for R rows. */
QN_INLINE void add_dots(enum qn_type t, unsigned R, __m512 d, unsigned half, const struct row_block *x,
                        const __m512i dot[MAX_ROWS], __m512 *acc) {
    QN_UNROLL for (unsigned r = 0; r < R; r++) {
        const struct qn_act_block *q = x->q + r * x->stride;
        __m512 dd = _mm512_mul_ps(d, _mm512_set1_ps(q->scale));
        acc[r] = _mm512_fmadd_ps(dd, _mm512_cvtepi32_ps(less_offset(t, dot[r], q, half)), acc[r]);
    }
}

/* One block of R rows, into acc. */
QN_INLINE void block_step(enum qn_type t, unsigned R, const struct code_at *at, const struct lane_scales *s,
                          const struct row_block *x, __m512 *acc) {
    __m512i dot[MAX_ROWS];
    if (t == QN_Q6_K) {
        dots(t, R, at, 0, 4, x, dot);
        add_dots(t, R, s->d, 0, x, dot, acc);
        dots(t, R, at, 4, 4, x, dot);
        add_dots(t, R, s->d1, 1, x, dot, acc);
        return;
    }
    dots(t, R, at, 0, 8, x, dot);
    add_dots(t, R, s->d, 2, x, dot, acc);
    if (!has_min(t)) return;
    QN_UNROLL for (unsigned r = 0; r < R; r++) acc[r] =
        _mm512_fmadd_ps(s->m, _mm512_set1_ps(x->q[r * x->stride].scaled_sum), acc[r]);
}

/* The tiles of a panel share out what comes next (in this call, or in the thread's next item), so that memory
 * is as busy as the core all the time: else it would wait while tiles after the first use what that one
 * brought in. With few rows memory is the limit, and its own prefetcher does best. */
QN_INLINE struct qn_ahead ahead_of(enum qn_type t, const struct qn_linear_args *args, uint32_t p) {
    struct qn_ahead h = {0};
    size_t blocks = qn_act_blocks(args->a->cols), panel = blocks / subs_of(t) * bytes_of(t);
    size_t tiles = (args->a->rows + MAX_ROWS - 1) / MAX_ROWS;
    if (args->a->rows < AHEAD_ROWS || (size_t)(p + 1) * QN_PANEL >= args->w->rows) return h;
    h.at = (uintptr_t)args->w->data + (p + 1) * panel;
    h.end = h.at + panel;
    h.step = (panel / (tiles < AHEAD_TILES ? tiles : AHEAD_TILES) / blocks + 64) / 64 * 64;
    return h;
}

/* One panel times R rows from m0 on. */
QN_INLINE void quant_tile(enum qn_type t, unsigned R, const struct qn_linear_args *args, uint32_t p,
                          uint32_t m0, struct qn_ahead *next) {
    const struct qn_act *a = args->a;
    const unsigned subs = subs_of(t);
    size_t blocks = qn_act_blocks(a->cols), n0 = (size_t)p * QN_PANEL;
    const uint8_t *block = args->w->data + p * (blocks / subs) * bytes_of(t);
    __mmask16 lanes = qn_tail16(args->w->rows - n0);
    struct row_block x = {.stride = qn_act_stride(a->cols)};
    __m512 acc[MAX_ROWS], start = _mm512_setzero_ps();
    if (args->bias) start = _mm512_maskz_loadu_ps(lanes, args->bias + n0);
    QN_UNROLL for (unsigned r = 0; r < R; r++) acc[r] = start;
    x.q = a->q + m0 * x.stride;
    for (size_t i = 0; i < blocks; i++, x.q++) {
        struct lane_scales s;
        size_t sub = subs == 8 ? i % 8 : 0;
        qn_ask_ahead(next);
        const struct code_at at = codes_at(t, block, sub);
        load_scales(t, block, sub, &s);
        block_step(t, R, &at, &s, &x, acc);
        if (subs == 1 || sub == 7) block += bytes_of(t);
    }
    QN_UNROLL for (unsigned r = 0; r < R; r++)
        _mm512_mask_storeu_ps(args->y + (m0 + r) * args->ldy + n0, lanes, acc[r]);
}

/* All rows of a panel range: whole tiles, then the rest in tiles of 4, 2 and 1. Q6_K's halves have more to
 * keep: tiles of 4 serve it best. */
QN_INLINE void quant_range(enum qn_type t, const struct qn_linear_args *args) {
    const uint32_t rows = args->a->rows, most = t == QN_Q6_K ? 4 : MAX_ROWS;
    for (uint32_t p = args->panel_begin; p < args->panel_end; p++) {
        struct qn_ahead next = ahead_of(t, args, p);
        uint32_t m = 0;
        for (; rows - m >= most; m += most) quant_tile(t, most, args, p, m, &next);
        for (; most > 4 && rows - m >= 4; m += 4) quant_tile(t, 4, args, p, m, &next);
        for (; rows - m >= 2; m += 2) quant_tile(t, 2, args, p, m, &next);
        if (rows - m) quant_tile(t, 1, args, p, m, &next);
    }
}

static void linear_q8_0(const struct qn_linear_args *args) {
    quant_range(QN_Q8_0, args);
}
static void linear_q4_0(const struct qn_linear_args *args) {
    quant_range(QN_Q4_0, args);
}
static void linear_q4_1(const struct qn_linear_args *args) {
    quant_range(QN_Q4_1, args);
}
static void linear_q5_0(const struct qn_linear_args *args) {
    quant_range(QN_Q5_0, args);
}
static void linear_q5_1(const struct qn_linear_args *args) {
    quant_range(QN_Q5_1, args);
}
static void linear_q4_k(const struct qn_linear_args *args) {
    quant_range(QN_Q4_K, args);
}
static void linear_q5_k(const struct qn_linear_args *args) {
    quant_range(QN_Q5_K, args);
}
static void linear_q6_k(const struct qn_linear_args *args) {
    quant_range(QN_Q6_K, args);
}

QN_INLINE void fill_quant(struct qn_ops *ops) {
    ops->linear[QN_Q8_0] = linear_q8_0;
    ops->linear[QN_Q4_0] = linear_q4_0;
    ops->linear[QN_Q4_1] = linear_q4_1;
    ops->linear[QN_Q5_0] = linear_q5_0;
    ops->linear[QN_Q5_1] = linear_q5_1;
    ops->linear[QN_Q4_K] = linear_q4_k;
    ops->linear[QN_Q5_K] = linear_q5_k;
    ops->linear[QN_Q6_K] = linear_q6_k;
}

#endif
