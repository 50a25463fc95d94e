/* Attention with AVX-512: the arithmetic of kernels/ref/attend.c bit for bit. Score lanes are the 16 tokens
 * of a block, and a group's four blocks are four independent chains for every head. The including file may
 * define ADD_DOT_I16(acc, a, b), which adds the products of 32 pairs of 16-bit numbers, before.
 * Private to kernels/x86. Thread: any. */
#ifndef QN_KERNELS_X86_ATTEND512_H
#define QN_KERNELS_X86_ATTEND512_H

#include "kernels/x86/attend.h"
#include "kernels/x86/avx512.h"

#ifndef ADD_DOT_I16
#define ADD_DOT_I16(acc, a, b) acc = _mm512_add_epi32(acc, _mm512_madd_epi16(a, b))
#endif

#define WIDE_OUT 4 /* vectors of out that are held at once */

INLINE __m512 load_floats(enum form f, const uint8_t *base, size_t i, __mmask16 lanes) {
    if (f == FORM_F32 || f == FORM_WIDE) return _mm512_maskz_loadu_ps(lanes, base + 4 * i);
    __m256i half = _mm256_maskz_loadu_epi16(lanes, base + 2 * i);
    if (f == FORM_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* 16 elements or, of Q8's pairs, 32. */
INLINE __m512 load_keys(enum form f, const uint8_t *base, size_t i) {
    if (f == FORM_F32 || f == FORM_WIDE) return _mm512_loadu_ps(base + 4 * i);
    if (f == FORM_WIDE_Q8) return _mm512_loadu_ps(base + 2 * i);
    if (f == FORM_Q8)
        return _mm512_castsi512_ps(_mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)(base + i))));
    __m256i half = _mm256_loadu_si256((const void *)(base + 2 * i));
    if (f == FORM_F16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* Asks for bytes [at, at + n), or a little before them where a row is not whole lines. */
INLINE void prefetch(const uint8_t *base, size_t at, size_t n) {
    UNROLL for (size_t i = 0; i < n; i += 64) _mm_prefetch((const char *)base + at + i, _MM_HINT_T0);
}

/* Scores of N blocks from block `from` on. */
INLINE void float_scores(enum form f, unsigned G, unsigned N, struct tile *s, unsigned h, const float *q,
                         const struct group *g, unsigned from) {
    const size_t row = g->k_row, bytes = QN_KV_BLOCK * form_bytes(f); /* of a row as stored */
    __m512 dot[HEADS][BLOCKS], scale = _mm512_set1_ps(s->a->scale);
    UNROLL for (unsigned i = 0; i < G; i++) {
        UNROLL for (unsigned b = 0; b < N; b++) dot[i][b] = _mm512_setzero_ps();
    }
    for (size_t d = 0; d < s->a->head_dim; d += 2) {
        if (f != FORM_WIDE) {
            UNROLL for (unsigned b = 0; b < N; b++) prefetch(g->next_k[from + b], d * bytes, 2 * bytes);
        }
        UNROLL for (unsigned e = 0; e < 2; e++) {
            __m512 k[BLOCKS];
            UNROLL for (unsigned b = 0; b < N; b++) k[b] = load_keys(f, g->k[from + b], (d + e) * row);
            UNROLL for (unsigned i = 0; i < G; i++) {
                __m512 x = _mm512_set1_ps(q[(d + e) * G + i]);
                UNROLL for (unsigned b = 0; b < N; b++) dot[i][b] = _mm512_fmadd_ps(x, k[b], dot[i][b]);
            }
        }
    }
    UNROLL for (unsigned i = 0; i < G; i++) {
        UNROLL for (unsigned b = 0; b < N; b++)
            _mm512_storeu_ps(s->p[h + i].f + (from + b) * QN_KV_BLOCK, _mm512_mul_ps(dot[i][b], scale));
    }
}

/* The same of 8-bit keys: exact integers, then the scales of token and query. */
INLINE void pair_scores(enum form f, unsigned G, unsigned N, struct tile *s, unsigned h, const float *q,
                        const struct group *g, unsigned from) {
    const size_t row = 2 * g->k_row;
    __m512i dot[HEADS][BLOCKS];
    UNROLL for (unsigned i = 0; i < G; i++) {
        UNROLL for (unsigned b = 0; b < N; b++) dot[i][b] = _mm512_setzero_si512();
    }
    for (size_t d = 0; d < s->a->head_dim / 2; d++) {
        __m512i k[BLOCKS];
        UNROLL for (unsigned b = 0; b < N; b++) k[b] =
            _mm512_castps_si512(load_keys(f, g->k[from + b], d * row));
        UNROLL for (unsigned i = 0; i < G; i++) {
            __m512i x = _mm512_castps_si512(_mm512_set1_ps(q[d * G + i]));
            UNROLL for (unsigned b = 0; b < N; b++) ADD_DOT_I16(dot[i][b], x, k[b]);
        }
    }
    UNROLL for (unsigned i = 0; i < G; i++) {
        __m512 step = _mm512_set1_ps(s->step[h + i]);
        UNROLL for (unsigned b = 0; b < N; b++) {
            __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[i][b]), _mm512_loadu_ps(g->k_scale[from + b]));
            _mm512_storeu_ps(s->p[h + i].f + (from + b) * QN_KV_BLOCK, _mm512_mul_ps(x, step));
        }
    }
}

INLINE void block_scores(enum form f, unsigned G, unsigned N, struct tile *s, unsigned h, const float *q,
                         const struct group *g, unsigned from) {
    if (!form_q8(f)) {
        float_scores(f, G, N, s, h, q, g, from);
        return;
    }
    if (f == FORM_Q8) { /* all of the next blocks' keys and their scales */
        size_t bytes = qn_kv_half_bytes(QN_KV_Q8, s->a->head_dim);
        for (size_t at = 0; at < bytes; at += 64) {
            UNROLL for (unsigned b = 0; b < N; b++) prefetch(g->next_k[from + b], at, 64);
        }
    }
    pair_scores(f, G, N, s, h, q, g, from);
}

INLINE void chunk_scores(enum form f, unsigned G, struct tile *s, unsigned h, const float *q,
                         const struct group *g, unsigned blocks) {
    if (blocks == BLOCKS) {
        block_scores(f, G, BLOCKS, s, h, q, g, 0);
        return;
    }
    for (unsigned b = 0; b < blocks; b++) block_scores(f, G, 1, s, h, q, g, b);
}

/* x * inverse to integers in [-most, most], as qn_code1. */
INLINE __m512i codes(__m512 x, float inverse, float most) {
    __m512 v = _mm512_mul_ps(x, _mm512_set1_ps(inverse));
    v = _mm512_max_ps(_mm512_min_ps(v, _mm512_set1_ps(most)), _mm512_set1_ps(-most));
    return _mm512_cvtps_epi32(v);
}

/* Q8: weights times values' scales to codes. */
INLINE void weight_codes(struct tile *s, unsigned h, const struct group *g, const __mmask16 *seen,
                         __m512 *p) {
    __m512 most = _mm512_setzero_ps();
    UNROLL for (unsigned i = 0; i < BLOCKS; i++) {
        p[i] = _mm512_maskz_mul_ps(seen[i], p[i], _mm512_loadu_ps(g->v_scale[i]));
        most = _mm512_max_ps(p[i], most);
    }
    float top = _mm512_reduce_max_ps(most), inverse = top > QN_ATTEND_TINY ? QN_ATTEND_STEPS / top : 0;
    s->weight_step[h] = top * (1.0f / QN_ATTEND_STEPS);
    UNROLL for (unsigned i = 0; i < BLOCKS; i++) {
        __m512i code = _mm512_maskz_mov_epi32(seen[i], codes(p[i], inverse, QN_ATTEND_STEPS));
        _mm256_storeu_si256((void *)(s->p[h].q + i * QN_KV_BLOCK), _mm512_cvtepi32_epi16(code));
    }
}

INLINE void seen_masks(const struct tile *s, unsigned h, const struct group *g, __mmask16 *seen) {
    uint32_t lo, hi;
    seen_slots(s, h, g, &lo, &hi);
    uint64_t all = lo < hi ? (UINT64_MAX >> (GROUP - hi)) & (UINT64_MAX << lo) : 0;
    UNROLL for (unsigned i = 0; i < BLOCKS; i++) seen[i] = (__mmask16)(all >> (i * QN_KV_BLOCK));
}

INLINE void raise_max(struct tile *s, unsigned h, const struct group *g) {
    __mmask16 seen[BLOCKS];
    __m512 x[BLOCKS], none = _mm512_set1_ps(-INFINITY);
    seen_masks(s, h, g, seen);
    UNROLL for (unsigned i = 0; i < BLOCKS; i++) x[i] =
        _mm512_mask_loadu_ps(none, seen[i], s->p[h].f + i * QN_KV_BLOCK);
    __m512 most = _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]));
    s->shrink[h] = 1.0f; /* exp(0) exactly, when the maximum stays */
    if (_mm512_cmp_ps_mask(most, _mm512_set1_ps(s->max[h]), _CMP_GT_OQ)) {
        float top = _mm512_reduce_max_ps(most);
        s->shrink[h] = _mm512_cvtss_f32(qn_exp16(_mm512_set1_ps(s->max[h] - top)));
        s->max[h] = top;
    }
}

INLINE void soften(bool q8, struct tile *s, unsigned h, const struct group *g) {
    __mmask16 seen[BLOCKS];
    __m512 p[BLOCKS], max = _mm512_set1_ps(s->max[h]);
    seen_masks(s, h, g, seen);
    UNROLL for (unsigned i = 0; i < BLOCKS; i++) {
        __m512 x = _mm512_maskz_loadu_ps(seen[i], s->p[h].f + i * QN_KV_BLOCK);
        p[i] = _mm512_maskz_mov_ps(seen[i], qn_exp16(_mm512_sub_ps(x, max)));
    }
    __m512 sum = _mm512_add_ps(_mm512_add_ps(p[0], p[1]), _mm512_add_ps(p[2], p[3]));
    sum = _mm512_fmadd_ps(_mm512_loadu_ps(s->sum[h]), _mm512_set1_ps(s->shrink[h]), sum);
    _mm512_storeu_ps(s->sum[h], sum);
    if (q8) {
        weight_codes(s, h, g, seen, p);
    } else {
        UNROLL for (unsigned i = 0; i < BLOCKS; i++) _mm512_storeu_ps(s->p[h].f + i * QN_KV_BLOCK, p[i]);
    }
}

/* Floats: out[d .. d + 16 W) of G heads, slots [lo, hi); the last vector has `lanes`. shrinks: what is there
 * is scaled first. */
INLINE void slot_values(enum form f, unsigned G, unsigned W, struct tile *s, unsigned h,
                        const struct group *g, size_t d, uint32_t lo, uint32_t hi, __mmask16 lanes,
                        bool shrinks) {
    const size_t dims = s->a->head_dim;
    __m512 acc[HEADS][WIDE_OUT];
    UNROLL for (unsigned i = 0; i < G; i++) {
        __m512 shrink = _mm512_set1_ps(shrinks ? s->shrink[h + i] : 1.0f);
        UNROLL for (unsigned w = 0; w < W; w++) {
            __mmask16 m = (__mmask16)(w + 1 < W ? 0xffffu : lanes);
            acc[i][w] = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, s->out[h + i] + d + 16 * w), shrink);
        }
    }
    for (uint32_t t = lo; t < hi; t++) {
        const uint8_t *v = f == FORM_WIDE ? g->v[0] : g->v[t / QN_KV_BLOCK]; /* widened, they lie together */
        size_t at = (f == FORM_WIDE ? t : t % QN_KV_BLOCK) * dims + d;
        __m512 x[WIDE_OUT];
        if (f != FORM_WIDE) prefetch(g->next_v[t / QN_KV_BLOCK], at * form_bytes(f), 16 * W * form_bytes(f));
        UNROLL for (unsigned w = 0; w < W; w++) {
            x[w] = load_floats(f, v, at + 16 * w, (__mmask16)(w + 1 < W ? 0xffffu : lanes));
        }
        UNROLL for (unsigned i = 0; i < G; i++) {
            __m512 p = _mm512_set1_ps(s->p[h + i].f[t]);
            UNROLL for (unsigned w = 0; w < W; w++) acc[i][w] = _mm512_fmadd_ps(p, x[w], acc[i][w]);
        }
    }
    UNROLL for (unsigned i = 0; i < G; i++) {
        UNROLL for (unsigned w = 0; w < W; w++) {
            _mm512_mask_storeu_ps(s->out[h + i] + d + 16 * w, (__mmask16)(w + 1 < W ? 0xffffu : lanes),
                                  acc[i][w]);
        }
    }
}

/* Q8: the same of all blocks that exist (codes of unseen tokens are 0); heads that see none are left alone.
 */
INLINE void pair_values(enum form f, unsigned G, unsigned W, struct tile *s, unsigned h,
                        const struct group *g, size_t d, __mmask16 lanes) {
    const size_t dims = s->a->head_dim;
    __m512i acc[HEADS][WIDE_OUT];
    __mmask16 sees[HEADS];
    UNROLL for (unsigned i = 0; i < G; i++) {
        uint32_t lo, hi;
        seen_slots(s, h + i, g, &lo, &hi);
        sees[i] = (__mmask16)(lo == hi ? 0 : 0xffffu);
        UNROLL for (unsigned w = 0; w < W; w++) acc[i][w] = _mm512_setzero_si512();
    }
    if (f == FORM_Q8 && d == 0) {
        UNROLL for (unsigned b = 0; b < BLOCKS; b++) prefetch(g->next_v[b], QN_KV_BLOCK * dims, 64);
    }
    for (unsigned t = 0; t < g->blocks * QN_KV_BLOCK / 2; t++) {
        const unsigned b = t / (QN_KV_BLOCK / 2);
        size_t at = (t % (QN_KV_BLOCK / 2) * dims + d) * 2;
        __m512i x[WIDE_OUT];
        if (f == FORM_Q8) prefetch(g->next_v[b], at, 32 * W);
        UNROLL for (unsigned w = 0; w < W; w++) {
            __mmask16 m = (__mmask16)(w + 1 < W ? 0xffffu : lanes);
            if (f == FORM_Q8) {
                __m256i half = _mm256_maskz_loadu_epi16(m, g->v[b] + at + 32 * w);
                x[w] = _mm512_cvtepi8_epi16(half);
            } else {
                x[w] = _mm512_maskz_loadu_epi32(m, g->v[b] + (at + 32 * w) * 2);
            }
        }
        UNROLL for (unsigned i = 0; i < G; i++) {
            int32_t pair;
            memcpy(&pair, s->p[h + i].q + 2 * (size_t)t, sizeof pair);
            __m512i p = _mm512_set1_epi32(pair);
            UNROLL for (unsigned w = 0; w < W; w++) ADD_DOT_I16(acc[i][w], p, x[w]);
        }
    }
    UNROLL for (unsigned i = 0; i < G; i++) {
        __m512 shrink = _mm512_set1_ps(s->shrink[h + i]), step = _mm512_set1_ps(s->weight_step[h + i]);
        UNROLL for (unsigned w = 0; w < W; w++) {
            __mmask16 m = (__mmask16)(sees[i] & (w + 1 < W ? 0xffffu : lanes));
            float *out = s->out[h + i] + d + 16 * w;
            __m512 old = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, out), shrink);
            _mm512_mask_storeu_ps(out, m, _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[i][w]), step, old));
        }
    }
}

/* Slots [lo, hi), or with Q8 all, for all dimensions. */
INLINE void all_values(enum form f, unsigned G, struct tile *s, unsigned h, const struct group *g,
                       uint32_t lo, uint32_t hi, bool shrinks) {
    const unsigned W = form_q8(f) && G > 4 ? 2 : WIDE_OUT; /* gcc 12 runs out of registers with 4 */
    size_t d = 0, dims = s->a->head_dim;
    for (; d + (size_t)16 * W <= dims; d += (size_t)16 * W) {
        if (form_q8(f)) {
            pair_values(f, G, W, s, h, g, d, 0xffff);
        } else {
            slot_values(f, G, W, s, h, g, d, lo, hi, 0xffff, shrinks);
        }
    }
    for (; d < dims; d += 16) {
        if (form_q8(f)) {
            pair_values(f, G, 1, s, h, g, d, qn_tail16(dims - d));
        } else {
            slot_values(f, G, 1, s, h, g, d, lo, hi, qn_tail16(dims - d), shrinks);
        }
    }
}

INLINE void widen_keys(enum form f, struct tile *s, const struct group *g, unsigned i) {
    const bool q8 = f == FORM_Q8;
    const size_t per = q8 ? 2 : 1, rows = s->a->head_dim / per, bytes = QN_KV_BLOCK * per * form_bytes(f);
    for (size_t d = 0; d < rows; d++) {
        prefetch(g->next_k[i], d * bytes, bytes);
        _mm512_storeu_ps(s->wide + d * GROUP + i * QN_KV_BLOCK, load_keys(f, g->k[i], d * QN_KV_BLOCK * per));
    }
}

INLINE void widen_values(enum form f, struct tile *s, const struct group *g, unsigned i) {
    const bool q8 = f == FORM_Q8; /* pairs of codes become 4 bytes, like a float */
    const size_t n = QN_KV_BLOCK * (size_t)s->a->head_dim / (q8 ? 2 : 1), per = q8 ? 2 : 1;
    float *to = s->wide + i * n;
    for (size_t at = 0; at < n; at += 16) {
        prefetch(g->next_v[i], at * per * form_bytes(f), 32);
        _mm512_storeu_ps(to + at, load_keys(f, g->v[i], at * per));
    }
}

#include "kernels/x86/attend_walk.h"

#endif
