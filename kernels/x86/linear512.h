/* Quantised products with 16 lanes = 16 output rows, for the AVX-512 files that include this: with VNNI a
 * four-way byte dot product is one instruction and serves one plane of the activations; without it codes are
 * widened to 16 bits and meet both planes at once (kernels/x86/pairs.h). Everything is inlined with a
 * constant type and a constant number of rows, so each pair becomes its own loop; accumulators stay in
 * registers.
 *
 * Per panel and tile of R activation rows, for each 32 values of K ascending: the codes of 16 rows x 32 k are
 * unpacked once into 8 registers, then used by both planes of every row. The arithmetic is the one of
 * kernels/ref/linear.c.
 */
#ifndef QN_KERNELS_X86_LINEAR512_H
#define QN_KERNELS_X86_LINEAR512_H

#include <immintrin.h>
#include <string.h>

#include "kernels/act.h"
#include "kernels/quant.h"
#include "kernels/x86/pairs.h"

#define QN_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define QN_UNROLL _Pragma("unroll")
#define QN_LOOP   _Pragma("nounroll")
#else
#define QN_UNROLL _Pragma("GCC unroll 16")
#define QN_LOOP   _Pragma("GCC unroll 1")
#endif

/* K is walked in chunks of this many 32-value blocks, for which the rows' scale * sum lie ready on the stack.
 */
#define CHUNK    64
#define MAX_ROWS 12
/* Rows whose dot products run side by side: two sums each with VNNI, one without. */
#if defined(__AVX512VNNI__)
#define GROUP 4
#else
#define GROUP 6
#endif

/* What the integer dot product of a block starts from, so that it ends as the one of values: -offset * sum.
 */
QN_INLINE __m512i dot_start(enum qn_type t, int32_t sum) {
    if (t == QN_Q8_0) return _mm512_set1_epi32(-128 * sum);
    if (t == QN_Q4_0) return _mm512_set1_epi32(-8 * sum);
    if (t == QN_Q5_0) return _mm512_set1_epi32(-16 * sum);
    return _mm512_setzero_si512();
}

/* Codes of sub-block `sub` of a packed block: w[chunk]. */
QN_INLINE void unpack(enum qn_type t, const uint8_t *block, size_t sub, __m512i w[8]) {
    const __m512i low = _mm512_set1_epi8(15);
    size_t lo_at = 0, hi_at = 0;
    switch (t) {
    case QN_Q8_0:
        lo_at = offsetof(struct qn_panel_q8_0, q);
        break;
    case QN_Q4_0:
        lo_at = offsetof(struct qn_panel_q4_0, lo);
        break;
    case QN_Q4_1:
        lo_at = offsetof(struct qn_panel_q4_1, lo);
        break;
    case QN_Q5_0:
        lo_at = offsetof(struct qn_panel_q5_0, lo);
        hi_at = offsetof(struct qn_panel_q5_0, hi);
        break;
    case QN_Q5_1:
        lo_at = offsetof(struct qn_panel_q5_1, lo);
        hi_at = offsetof(struct qn_panel_q5_1, hi);
        break;
    case QN_Q4_K:
        lo_at = offsetof(struct qn_panel_q4_k, lo) + 256 * sub;
        break;
    case QN_Q5_K:
        lo_at = offsetof(struct qn_panel_q5_k, lo) + 256 * sub;
        hi_at = offsetof(struct qn_panel_q5_k, hi) + 64 * sub;
        break;
    default:
        lo_at = offsetof(struct qn_panel_q6_k, lo) + 256 * sub;
        hi_at = offsetof(struct qn_panel_q6_k, hi) + 128 * sub;
        break;
    }
    const uint8_t *lo = block + lo_at, *hi = block + hi_at;
    if (t == QN_Q8_0) {
        QN_UNROLL for (int c = 0; c < 8; c++) w[c] = _mm512_loadu_si512(lo + 64 * c);
        return;
    }
    QN_UNROLL for (int j = 0; j < 4; j++) {
        __m512i v = _mm512_loadu_si512(lo + 64 * j);
        w[2 * j] = _mm512_and_si512(v, low);
        w[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
    }
    if (t == QN_Q5_0 || t == QN_Q5_1 || t == QN_Q5_K) {
        const __m512i bit = _mm512_set1_epi8(16);
        __m512i h = _mm512_loadu_si512(hi);
        QN_UNROLL for (unsigned c = 0; c < 8; c++) {
            __m512i s = c < 4 ? _mm512_slli_epi32(h, 4 - c) : _mm512_srli_epi32(h, c - 4);
            w[c] = _mm512_ternarylogic_epi64(w[c], s, bit, 0xf8); /* w | (s & bit) */
        }
    } else if (t == QN_Q6_K) {
        const __m512i bits = _mm512_set1_epi8(48);
        QN_UNROLL for (unsigned c = 0; c < 8; c++) {
            __m512i h = _mm512_loadu_si512(hi + 64 * (c / 4));
            unsigned f = c % 4;
            __m512i s = f < 2 ? _mm512_slli_epi32(h, 4 - 2 * f) : _mm512_srli_epi32(h, 2 * f - 4);
            w[c] = _mm512_ternarylogic_epi64(w[c], s, bits, 0xf8);
        }
    }
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

/* Row-side terms of a chunk: scale * sum (types with a minimum) or -32 * the sums of both halves (Q6_K). */
struct row_terms {
    float ss[MAX_ROWS][CHUNK];
    int32_t half[MAX_ROWS][CHUNK][2];
};

/* Sum of 16 bytes: each + 128, added in eights. */
QN_INLINE int32_t sum_bytes(const int8_t *q) {
    __m128i u = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)q), _mm_set1_epi8((char)0x80));
    __m128i s = _mm_sad_epu8(u, _mm_setzero_si128());
    return _mm_cvtsi128_si32(s) + _mm_extract_epi16(s, 4) - 16 * 128;
}

QN_INLINE void fill_terms(enum qn_type t, const struct qn_act *a, uint32_t m0, unsigned rows, size_t from,
                          size_t n, struct row_terms *out) {
    size_t blocks = qn_act_blocks(a->cols), stride = qn_act_q_stride(a->cols);
    for (unsigned r = 0; r < rows; r++) {
        size_t at = (m0 + r) * blocks + from;
        if (has_min(t)) {
            for (size_t i = 0; i < n; i++) out->ss[r][i] = a->scale[at + i] * (float)a->sum[at + i];
        } else if (t == QN_Q6_K) {
            const int8_t *q = a->q + (m0 + r) * stride + QN_ACT_BLOCK * from;
            for (size_t i = 0; i < n; i++, q += QN_ACT_BLOCK) {
                out->half[r][i][0] = -32 * (256 * sum_bytes(q) + sum_bytes(q + QN_ACT_LO));
                out->half[r][i][1] = -32 * (256 * sum_bytes(q + 16) + sum_bytes(q + QN_ACT_LO + 16));
            }
        }
    }
}

/* What products of G rows need besides the codes: each pointer is row 0's, rows are the strides apart. */
struct row_block {
    const int8_t *q; /* one block: both planes */
    const int32_t *sum, *half;
    size_t q_stride, blocks; /* half: 2 * CHUNK */
};

#if defined(__AVX512VNNI__)
QN_INLINE __m512i broadcast4(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, sizeof v);
    return _mm512_set1_epi32(v);
}

/* Activations of a group in the form that dots reads; with VNNI the planes as they lie. */
struct operands {
    const int8_t *q;
};

QN_INLINE void load_operands(unsigned G, const struct row_block *x, struct operands *o) {
    (void)G;
    o->q = x->q;
}

/* Integer products of G rows' values 4 * from .. 4 * (from + n) - 1 with the unpacked codes, added to dot.
 * The planes of a row and the rows are chains of their own, interleaved: one alone would wait for its own
 * latency at every step. */
QN_INLINE void dots(unsigned G, const __m512i w[8], unsigned from, unsigned n, const struct row_block *x,
                    const struct operands *o, __m512i dot[GROUP]) {
    __m512i high[GROUP];
    QN_UNROLL for (unsigned r = 0; r < G; r++) high[r] = _mm512_setzero_si512();
    QN_UNROLL for (unsigned c = from; c < from + n; c++) {
        QN_UNROLL for (unsigned r = 0; r < G; r++) {
            const int8_t *q = o->q + r * x->q_stride + (size_t)4 * c;
            high[r] = _mm512_dpbusd_epi32(high[r], w[c], broadcast4(q));
            dot[r] = _mm512_dpbusd_epi32(dot[r], w[c], broadcast4(q + QN_ACT_LO));
        }
    }
    QN_UNROLL for (unsigned r = 0; r < G; r++) dot[r] =
        _mm512_add_epi32(dot[r], _mm512_slli_epi32(high[r], 8));
}
#else
struct operands {
    int32_t pairs[GROUP][16];
};

QN_INLINE void load_operands(unsigned G, const struct row_block *x, struct operands *o) {
    QN_UNROLL for (unsigned r = 0; r < G; r++) qn_act_pairs(x->q + r * x->q_stride, o->pairs[r]);
}

QN_INLINE void pair_step(unsigned G, __m512i w, const struct operands *o, unsigned c, __m512i dot[GROUP]) {
    const __m512i even = _mm512_and_si512(w, _mm512_set1_epi16(255)), odd = _mm512_srli_epi16(w, 8);
    QN_UNROLL for (unsigned r = 0; r < G; r++) {
        __m512i e = _mm512_madd_epi16(even, _mm512_set1_epi32(o->pairs[r][c]));
        __m512i f = _mm512_madd_epi16(odd, _mm512_set1_epi32(o->pairs[r][8 + c]));
        dot[r] = _mm512_add_epi32(_mm512_add_epi32(dot[r], e), f);
    }
}

/* With several rows a loop: unrolled, it would keep more in flight than there are registers. */
QN_INLINE void dots(unsigned G, const __m512i w[8], unsigned from, unsigned n, const struct row_block *x,
                    const struct operands *o, __m512i dot[GROUP]) {
    (void)x;
    if (G == 1) {
        QN_UNROLL for (unsigned c = from; c < from + n; c++) pair_step(G, w[c], o, c, dot);
    } else {
        QN_LOOP for (unsigned c = from; c < from + n; c++) pair_step(G, w[c], o, c, dot);
    }
}
#endif

/* acc = fma(d * scale, dot, acc) for G rows. */
QN_INLINE void add_dots(unsigned G, __m512 d, const float *scale, size_t blocks, const __m512i dot[GROUP],
                        __m512 *acc) {
    QN_UNROLL for (unsigned r = 0; r < G; r++) {
        __m512 dd = _mm512_mul_ps(d, _mm512_set1_ps(scale[r * blocks]));
        acc[r] = _mm512_fmadd_ps(dd, _mm512_cvtepi32_ps(dot[r]), acc[r]);
    }
}

/* One block of G rows, into acc. */
QN_INLINE void block_step(enum qn_type t, unsigned G, const __m512i w[8], const struct lane_scales *s,
                          const struct row_block *x, const float *scale, __m512 *acc) {
    __m512i dot[GROUP];
    struct operands o;
    load_operands(G, x, &o);
    if (t == QN_Q6_K) {
        QN_UNROLL for (unsigned h = 0; h < 2; h++) {
            QN_UNROLL for (unsigned r = 0; r < G; r++) dot[r] =
                _mm512_set1_epi32(x->half[(size_t)2 * CHUNK * r + h]);
            dots(G, w, 4 * h, 4, x, &o, dot);
            add_dots(G, h ? s->d1 : s->d, scale, x->blocks, dot, acc);
        }
        return;
    }
    QN_UNROLL for (unsigned r = 0; r < G; r++) dot[r] = dot_start(t, x->sum[r * x->blocks]);
    dots(G, w, 0, 8, x, &o, dot);
    add_dots(G, s->d, scale, x->blocks, dot, acc);
}

/* One panel times R rows from m0 on. */
QN_INLINE void quant_tile(enum qn_type t, unsigned R, const struct qn_linear_args *args, uint32_t p,
                          uint32_t m0) {
    const struct qn_act *a = args->a;
    const unsigned subs = subs_of(t), G = R < GROUP ? R : GROUP;
    size_t blocks = qn_act_blocks(a->cols), stride = qn_act_q_stride(a->cols), n0 = (size_t)p * QN_PANEL;
    const uint8_t *block = args->w->data + p * (blocks / subs) * bytes_of(t);
    uint32_t left = args->w->rows - (uint32_t)n0;
    __mmask16 lanes = (__mmask16)(left < QN_PANEL ? (1u << left) - 1 : 0xffffu);
    struct row_terms terms;
    __m512 acc[MAX_ROWS], start = _mm512_setzero_ps();
    if (args->bias) start = _mm512_maskz_loadu_ps(lanes, args->bias + n0);
    QN_UNROLL for (unsigned r = 0; r < R; r++) acc[r] = start;
    for (size_t from = 0; from < blocks; from += CHUNK) {
        size_t n = blocks - from < CHUNK ? blocks - from : CHUNK;
        const int8_t *q = a->q + m0 * stride + QN_ACT_BLOCK * from;
        const float *scale = a->scale + m0 * blocks + from;
        const int32_t *sum = a->sum + m0 * blocks + from;
        fill_terms(t, a, m0, R, from, n, &terms);
        for (size_t i = 0; i < n; i++) {
            struct lane_scales s;
            __m512i w[8];
            size_t sub = subs == 8 ? i % 8 : 0;
            load_scales(t, block, sub, &s);
            unpack(t, block, sub, w);
            QN_UNROLL for (unsigned g = 0; g < R; g += G) {
                const struct row_block x = {q + g * stride + QN_ACT_BLOCK * i, sum + g * blocks + i,
                                            terms.half[g][i], stride, blocks};
                block_step(t, G, w, &s, &x, scale + g * blocks + i, acc + g);
                if (!has_min(t)) continue;
                QN_UNROLL for (unsigned r = 0; r < G; r++) acc[g + r] =
                    _mm512_fmadd_ps(s.m, _mm512_set1_ps(terms.ss[g + r][i]), acc[g + r]);
            }
            if (subs == 1 || sub == 7) block += bytes_of(t);
        }
    }
    QN_UNROLL for (unsigned r = 0; r < R; r++)
        _mm512_mask_storeu_ps(args->y + (m0 + r) * args->ldy + n0, lanes, acc[r]);
}

/* All rows of a panel range: whole tiles, then the rest in tiles of 4, 2 and 1. */
QN_INLINE void quant_range(enum qn_type t, const struct qn_linear_args *args) {
    uint32_t rows = args->a->rows;
    for (uint32_t p = args->panel_begin; p < args->panel_end; p++) {
        uint32_t m = 0;
        for (; rows - m >= MAX_ROWS; m += MAX_ROWS) quant_tile(t, MAX_ROWS, args, p, m);
        for (; rows - m >= 4; m += 4) quant_tile(t, 4, args, p, m);
        for (; rows - m >= 2; m += 2) quant_tile(t, 2, args, p, m);
        if (rows - m) quant_tile(t, 1, args, p, m);
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
