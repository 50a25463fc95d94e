/* Attention with AVX-512; the arithmetic of kernels/ref/attend.c bit for bit. Score lanes are the 16 tokens
 * of a block; up to HEADS query heads of a group share every load of K and V.
 *
 * Whole blocks are taken several at a time: their scores are independent chains, and their weights follow
 * from running maxima in the order of the reference. Blocks lie far apart in memory (one holds all layers),
 * where the hardware's prefetchers do not follow: the lines of the next group are asked for while this one is
 * worked on. Thread: any. */
#include "kernels/x86/avx512.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define HEADS   6
#define MANY    4 /* blocks at a time, most */
#define DIM_MAX 512
#define WIDE    4 /* vectors of out that are held at once */

/* Blocks at a time for G heads: as many chains as registers hold. */
#define BLOCKS_OF(G) ((G) <= 4 ? MANY : 2)

struct softmax {
    float max[HEADS], sum[HEADS], shrink[MANY][HEADS];
    float p[MANY][HEADS][QN_KV_BLOCK];
    float q[DIM_MAX * HEADS]; /* [head_dim][G]: what one load of keys meets lies together */
};

/* N blocks, and where the same ones of the next group are. */
struct group {
    const uint8_t *k[MANY], *v[MANY], *next_k[MANY], *next_v[MANY];
};

INLINE __m512 load_kv(enum qn_kv_type t, const uint8_t *base, size_t i, __mmask16 lanes) {
    if (t == QN_KV_F32) return _mm512_maskz_loadu_ps(lanes, base + 4 * i);
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, base + 2 * i));
}

INLINE __m512 load_keys(enum qn_kv_type t, const uint8_t *base, size_t i) {
    if (t == QN_KV_F32) return _mm512_loadu_ps(base + 4 * i);
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(base + 2 * i)));
}

/* Asks for bytes [at, at + n), or a little before them where a row is not whole lines. */
INLINE void prefetch(const uint8_t *base, size_t at, size_t n) {
    UNROLL for (size_t i = 0; i < n; i += 64) _mm_prefetch((const char *)base + at + i, _MM_HINT_T0);
}

/* Scores of N blocks for G heads. q: [head_dim][G]. */
INLINE void block_dots(enum qn_kv_type t, unsigned G, unsigned N, const struct qn_attend *a, const float *q,
                       const struct group *b, __m512 dot[HEADS][MANY]) {
    const size_t row = QN_KV_BLOCK * (t == QN_KV_F32 ? 4u : 2u);
    UNROLL for (unsigned g = 0; g < G; g++) {
        UNROLL for (unsigned i = 0; i < N; i++) dot[g][i] = _mm512_setzero_ps();
    }
    for (size_t d = 0; d < a->head_dim; d += 2) { /* head_dim is a multiple of 8 */
        UNROLL for (unsigned i = 0; i < N; i++) prefetch(b->next_k[i], d * row, 2 * row);
        UNROLL for (unsigned e = 0; e < 2; e++) {
            __m512 k[MANY];
            UNROLL for (unsigned i = 0; i < N; i++) k[i] = load_keys(t, b->k[i], (d + e) * QN_KV_BLOCK);
            UNROLL for (unsigned g = 0; g < G; g++) {
                __m512 x = _mm512_set1_ps(q[(d + e) * G + g]);
                UNROLL for (unsigned i = 0; i < N; i++) dot[g][i] = _mm512_fmadd_ps(x, k[i], dot[g][i]);
            }
        }
    }
}

/* Scores and weights of N blocks for G heads. */
INLINE void block_scores(enum qn_kv_type t, unsigned G, unsigned N, const struct qn_attend *a, const float *q,
                         const struct group *b, __mmask16 seen, struct softmax *s) {
    __m512 dot[HEADS][MANY], none = _mm512_set1_ps(-INFINITY), scale = _mm512_set1_ps(a->scale);
    block_dots(t, G, N, a, q, b, dot);
    UNROLL for (unsigned g = 0; g < G; g++) {
        UNROLL for (unsigned i = 0; i < N; i++) {
            __m512 x = _mm512_mask_mul_ps(none, seen, dot[g][i], scale);
            float top = _mm512_reduce_max_ps(x);
            s->shrink[i][g] = 1.0f; /* exp(0) exactly, when the maximum stays */
            if (top > s->max[g]) {
                s->shrink[i][g] = _mm512_cvtss_f32(qn_exp16(_mm512_set1_ps(s->max[g] - top)));
                s->max[g] = top;
            }
            __m512 p = _mm512_maskz_mov_ps(seen, qn_exp16(_mm512_sub_ps(x, _mm512_set1_ps(s->max[g]))));
            s->sum[g] = _mm_cvtss_f32(
                _mm_fmadd_ss(_mm_set_ss(s->sum[g]), _mm_set_ss(s->shrink[i][g]), _mm_set_ss(qn_fold512(p))));
            _mm512_storeu_ps(s->p[i][g], p);
        }
    }
}

/* out[g][d .. d + 16 W) = out * shrink + sum of p * v over slots [lo, hi), block by block; the last vector
 * has `lanes`. */
INLINE void block_values(enum qn_kv_type t, unsigned G, unsigned N, unsigned W, const struct qn_attend *a,
                         float *out, const struct group *b, size_t d, uint32_t lo, uint32_t hi,
                         __mmask16 lanes, const struct softmax *s) {
    const size_t elem = t == QN_KV_F32 ? 4 : 2;
    __m512 acc[HEADS][WIDE];
    out += d;
    UNROLL for (unsigned g = 0; g < G; g++) {
        UNROLL for (unsigned i = 0; i < W; i++) {
            acc[g][i] =
                _mm512_maskz_loadu_ps((__mmask16)(i + 1 < W ? 0xffffu : lanes), out + g * a->ldo + 16 * i);
        }
    }
    for (unsigned n = 0; n < N; n++) {
        UNROLL for (unsigned g = 0; g < G; g++) {
            __m512 shrink = _mm512_set1_ps(s->shrink[n][g]);
            UNROLL for (unsigned i = 0; i < W; i++) acc[g][i] = _mm512_mul_ps(acc[g][i], shrink);
        }
        for (uint32_t slot = lo; slot < hi; slot++) {
            size_t at = slot * (size_t)a->head_dim + d;
            __m512 row[WIDE];
            prefetch(b->next_v[n], at * elem, 16 * W * elem);
            UNROLL for (unsigned i = 0; i < W; i++) {
                row[i] = load_kv(t, b->v[n], at + 16 * i, (__mmask16)(i + 1 < W ? 0xffffu : lanes));
            }
            UNROLL for (unsigned g = 0; g < G; g++) {
                __m512 p = _mm512_set1_ps(s->p[n][g][slot]);
                UNROLL for (unsigned i = 0; i < W; i++) acc[g][i] = _mm512_fmadd_ps(p, row[i], acc[g][i]);
            }
        }
    }
    UNROLL for (unsigned g = 0; g < G; g++) {
        UNROLL for (unsigned i = 0; i < W; i++) {
            _mm512_mask_storeu_ps(out + g * a->ldo + 16 * i, (__mmask16)(i + 1 < W ? 0xffffu : lanes),
                                  acc[g][i]);
        }
    }
}

/* N blocks from block `at` on, whose slots [lo, hi) are seen, for G heads; blocks up to `last` exist. */
INLINE void blocks(enum qn_kv_type t, unsigned G, unsigned N, const struct qn_attend *a, size_t h,
                   uint32_t at, uint32_t last, uint32_t lo, uint32_t hi, struct softmax *s) {
    struct group b;
    float *out = a->out + h * a->ldo;
    UNROLL for (unsigned i = 0; i < N; i++) {
        uint32_t next = at + N + i <= last ? at + N + i : last;
        b.k[i] = a->blocks[at + i] + a->k_offset;
        b.v[i] = a->blocks[at + i] + a->v_offset;
        b.next_k[i] = a->blocks[next] + a->k_offset;
        b.next_v[i] = a->blocks[next] + a->v_offset;
    }
    __mmask16 seen = (__mmask16)(((1u << hi) - 1) & ~((1u << lo) - 1));
    block_scores(t, G, N, a, s->q, &b, seen, s);
    size_t d = 0;
    for (; d + 16 * WIDE <= a->head_dim; d += 16 * WIDE) {
        block_values(t, G, N, WIDE, a, out, &b, d, lo, hi, 0xffff, s);
    }
    for (; d < a->head_dim; d += 16) {
        block_values(t, G, N, 1, a, out, &b, d, lo, hi, qn_tail16(a->head_dim - d), s);
    }
}

/* G query heads from head h on. */
INLINE void heads(enum qn_kv_type t, unsigned G, const struct qn_attend *a, size_t h) {
    float *out = a->out + h * a->ldo;
    uint32_t at = a->first / QN_KV_BLOCK, last = (a->length - 1) / QN_KV_BLOCK;
    uint32_t lo = a->first % QN_KV_BLOCK, tail = a->length - last * QN_KV_BLOCK;
    struct softmax s;
    for (unsigned g = 0; g < G; g++) {
        float *o = out + g * a->ldo;
        s.max[g] = a->resume ? o[a->head_dim] : -INFINITY;
        s.sum[g] = a->resume ? o[a->head_dim + 1] : 0;
        if (!a->resume) memset(o, 0, a->head_dim * sizeof *o);
        for (size_t d = 0; d < a->head_dim; d++) s.q[d * G + g] = a->q[(h + g) * a->ldq + d];
    }
    while (at <= last) {
        if (lo == 0 && at + BLOCKS_OF(G) <= last) {
            blocks(t, G, BLOCKS_OF(G), a, h, at, last, 0, QN_KV_BLOCK, &s);
            at += BLOCKS_OF(G);
        } else {
            blocks(t, G, 1, a, h, at, last, lo, at == last ? tail : QN_KV_BLOCK, &s);
            at++;
            lo = 0;
        }
    }
    for (unsigned g = 0; g < G; g++) {
        float *o = out + g * a->ldo;
        if (a->part) {
            o[a->head_dim] = s.max[g];
            o[a->head_dim + 1] = s.sum[g];
        } else {
            qn_avx512_scale(o, 1.0f / s.sum[g], a->head_dim);
        }
    }
}

INLINE void attend(enum qn_kv_type t, const struct qn_attend *a) {
    size_t h = 0;
    /* As even as can be: 7 heads are 4 and 3, not 6 and 1. */
    for (size_t parts = (a->group + HEADS - 1) / HEADS; parts > 0; parts--) {
        size_t n = (a->group - h + parts - 1) / parts;
        if (n == 6) heads(t, 6, a, h);
        if (n == 5) heads(t, 5, a, h);
        if (n == 4) heads(t, 4, a, h);
        if (n == 3) heads(t, 3, a, h);
        if (n == 2) heads(t, 2, a, h);
        if (n == 1) heads(t, 1, a, h);
        h += n;
    }
}

void qn_avx512_attend(const struct qn_attend *args) {
    if (args->type == QN_KV_F32) {
        attend(QN_KV_F32, args);
    } else {
        attend(QN_KV_F16, args);
    }
}

void qn_avx512_kv_write(const struct qn_kv_write *w) {
    if (w->type == QN_KV_F32) {
        float *k = (float *)(void *)(w->block + w->k_offset) + w->slot;
        for (size_t d = 0; d < w->head_dim; d++) k[d * QN_KV_BLOCK] = w->k[d];
        memcpy(w->block + w->v_offset + 4 * w->slot * (size_t)w->head_dim, w->v, 4 * (size_t)w->head_dim);
        return;
    }
    uint16_t *k = (uint16_t *)(void *)(w->block + w->k_offset) + w->slot;
    uint16_t *v = (uint16_t *)(void *)(w->block + w->v_offset) + w->slot * (size_t)w->head_dim;
    for (size_t d = 0; d < w->head_dim; d += 8) {
        uint16_t h[8];
        __m128i kh = _mm256_cvtps_ph(_mm256_loadu_ps(w->k + d), _MM_FROUND_TO_NEAREST_INT);
        __m128i vh = _mm256_cvtps_ph(_mm256_loadu_ps(w->v + d), _MM_FROUND_TO_NEAREST_INT);
        _mm_storeu_si128((__m128i *)(void *)h, kh);
        for (size_t i = 0; i < 8; i++) k[(d + i) * QN_KV_BLOCK] = h[i];
        _mm_storeu_si128((__m128i *)(void *)(v + d), vh);
    }
}
