/* What the attention kernels of this folder share: a tile of query heads, and the walk over a row's tokens.
 *
 *   rows x heads -> tiles -> per group of 64 tokens: [keys widened] -> scores and weights of chunks of up to
 *   six heads -> [values widened] -> their sums
 *
 * Each ISA's file includes this, defines the functions declared below, and then includes attend_walk.h. A
 * chunk is what registers hold; a tile is what one pass over K and V serves. Where a tile is large, each
 * group's keys and then values are widened once, to floats (Q8: to 16 bits), for all its chunks. The
 * arithmetic is that of kernels/ref/attend.c bit for bit. Private to kernels/x86. Thread: any. */
#ifndef QN_KERNELS_X86_ATTEND_H
#define QN_KERNELS_X86_ATTEND_H

#include <immintrin.h>

#include "kernels/ref/ref.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

#define GROUP   QN_ATTEND_GROUP
#define BLOCKS  (GROUP / QN_KV_BLOCK)
#define HEADS   6  /* of a chunk */
#define TILE    48 /* heads of a tile, most: whole chunks */
#define Q_MAX   (TILE * 128)
#define DIM_MAX 512
/* Tiles of so many heads are worth widening for, where a group's floats fit. */
#define WIDE_HEADS 12
#define WIDE_DIM   128

/* How keys and values lie where they are read: as stored, or widened. */
enum form { FORM_F32, FORM_F16, FORM_BF16, FORM_Q8, FORM_WIDE, FORM_WIDE_Q8 };

INLINE bool form_q8(enum form f) {
    return f == FORM_Q8 || f == FORM_WIDE_Q8;
}

INLINE size_t form_bytes(enum form f) {
    return f == FORM_F32 || f == FORM_WIDE ? 4 : f == FORM_Q8 ? 1 : 2;
}

/* One group of tokens: its blocks, how far a chunk's reads may go, and the same blocks of the next group, of
 * which lines are asked for: blocks lie far apart in memory (one holds all layers), where the hardware's
 * prefetchers do not follow. */
struct group {
    uint32_t base;   /* its first token */
    unsigned blocks; /* that exist, up to the last token that any head sees */
    const uint8_t *k[BLOCKS], *v[BLOCKS], *next_k[BLOCKS], *next_v[BLOCKS];
    size_t k_row;                                     /* elements between rows of keys */
    const uint8_t *k_scale[BLOCKS], *v_scale[BLOCKS]; /* Q8 */
};

struct tile {
    const struct qn_attend *a;
    unsigned heads, chunks;
    unsigned first[TILE / HEADS], size[TILE / HEADS]; /* of each chunk */
    uint32_t lo[TILE], hi[TILE];                      /* tokens that a head sees */
    float *out[TILE];
    float max[TILE], shrink[TILE];
    float step[TILE];        /* Q8: of the query's codes times the scale of scores */
    float weight_step[TILE]; /* Q8: of the weights' codes */
    float sum[TILE][QN_KV_BLOCK];
    union {
        float f[GROUP];   /* scores, then weights */
        int16_t q[GROUP]; /* Q8: codes of the weights */
    } p[TILE];
    float q[Q_MAX]; /* per chunk [head_dim][heads]; Q8: pairs of codes, [head_dim / 2][heads] */
    _Alignas(64) float wide[GROUP * WIDE_DIM]; /* a group's keys [head_dim][64], or values [64][head_dim]; Q8:
                                           codes [head_dim / 2][64][2], [32][head_dim][2] */
};

/* Scores of G heads from h on for the first `blocks` blocks of a group, into p. q: the chunk's. */
INLINE void chunk_scores(enum form f, unsigned G, struct tile *s, unsigned h, const float *q,
                         const struct group *g, unsigned blocks);
/* The maximum of one head's scores so far, and by what that scales what was summed. */
INLINE void raise_max(struct tile *s, unsigned h, const struct group *g);
/* Scores of one head to weights: sum, p and, with Q8, weight_step. */
INLINE void soften(bool q8, struct tile *s, unsigned h, const struct group *g);
/* Weights times values of slots [lo, hi) to out of G heads from h on; shrinks: what is there is scaled first.
 * Q8: always all slots, and scaled. */
INLINE void all_values(enum form f, unsigned G, struct tile *s, unsigned h, const struct group *g,
                       uint32_t lo, uint32_t hi, bool shrinks);
/* Widens one block's keys into wide + 16 * i (rows of GROUP), or its values, and asks for the next one's. */
INLINE void widen_keys(enum form f, struct tile *s, const struct group *g, unsigned i);
INLINE void widen_values(enum form f, struct tile *s, const struct group *g, unsigned i);

/* Slots [lo, hi) of a group that head h sees. */
INLINE void seen_slots(const struct tile *s, unsigned h, const struct group *g, uint32_t *lo, uint32_t *hi) {
    uint32_t end = g->base + GROUP;
    *lo = s->lo[h] > g->base ? s->lo[h] - g->base : 0;
    *hi = s->hi[h] >= end ? GROUP : s->hi[h] > g->base ? s->hi[h] - g->base : 0;
    if (*lo > *hi) *lo = *hi;
}

/* --- Q8: what is rounded once for a row or a token --- */
/* Largest magnitude of n values, a multiple of 8. */
INLINE float largest(const float *x, size_t n) {
    __m256 top = _mm256_setzero_ps(), sign = _mm256_set1_ps(-0.0f);
    for (size_t i = 0; i < n; i += 8)
        top = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)), top);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}

/* Pairs (x[i], x[i + h]) of a vector become sum and difference; other: x with the pairs swapped, second:
 * lanes of the differences. */
#define BUTTERFLY(x, other, second) _mm256_blend_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), second)

/* As the reference's: returns 1 / n. */
INLINE float hadamard(float *x, size_t dims) {
    const size_t n = dims & (~dims + 1);
    for (size_t i = 0; i < dims; i += 8) {
        __m256 v = _mm256_loadu_ps(x + i);
        v = BUTTERFLY(v, _mm256_permute_ps(v, 0xb1), 0xaa);
        v = BUTTERFLY(v, _mm256_permute_ps(v, 0x4e), 0xcc);
        v = BUTTERFLY(v, _mm256_permute2f128_ps(v, v, 1), 0xf0);
        _mm256_storeu_ps(x + i, v);
    }
    for (size_t h = 8; h < n; h *= 2) {
        for (size_t i = 0; i < dims; i += 8) {
            if (i & h) continue;
            __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + h);
            _mm256_storeu_ps(x + i, _mm256_add_ps(a, b));
            _mm256_storeu_ps(x + i + h, _mm256_sub_ps(a, b));
        }
    }
    return 1.0f / (float)n;
}

/* x * inverse to integers in [-most, most], as qn_code1. */
INLINE __m256i codes8(__m256 x, float inverse, float most) {
    __m256 v = _mm256_mul_ps(x, _mm256_set1_ps(inverse));
    v = _mm256_max_ps(_mm256_min_ps(v, _mm256_set1_ps(most)), _mm256_set1_ps(-most));
    return _mm256_cvtps_epi32(v);
}

/* 8 integers of 16 bits, in order. */
INLINE __m128i narrow8(__m256i v) {
    return _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

/* Codes of one head's query, head_dim / 2 pairs `stride` apart; returns their step. */
INLINE float query_codes(const float *from, size_t head_dim, float *out, size_t stride) {
    float q[DIM_MAX];
    memcpy(q, from, head_dim * sizeof *q);
    float back = hadamard(q, head_dim);
    float top = largest(q, head_dim), inverse = top > QN_ATTEND_TINY ? QN_ATTEND_STEPS / top : 0;
    for (size_t d = 0; d < head_dim; d += 8) {
        float pairs[4];
        _mm_storeu_si128((void *)pairs, narrow8(codes8(_mm256_loadu_ps(q + d), inverse, QN_ATTEND_STEPS)));
        for (size_t i = 0; i < 4; i++) memcpy(out + (d / 2 + i) * stride, pairs + i, sizeof *out);
    }
    return (top * (1.0f / QN_ATTEND_STEPS)) * back;
}

#endif
