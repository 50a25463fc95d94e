/* Attention with AVX-512; the arithmetic of kernels/ref/attend.c bit for bit. Score lanes are the 16 tokens
 * of a block; up to 4 query heads of a group share every load of K and V. Thread: any. */
#include "kernels/x86/avx512.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define HEADS 4
#define WIDE  4 /* vectors of out that are held at once */

struct softmax {
    float max[HEADS], sum[HEADS], shrink[HEADS];
    float p[HEADS][QN_KV_BLOCK];
};

INLINE __m512 load_kv(enum qn_kv_type t, const uint8_t *base, size_t i, __mmask16 lanes) {
    if (t == QN_KV_F32) return _mm512_maskz_loadu_ps(lanes, base + 4 * i);
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, base + 2 * i));
}

/* Scores and weights of one block for G heads. */
INLINE void block_scores(enum qn_kv_type t, unsigned G, const struct qn_attend *a, const float *q,
                         const uint8_t *k, __mmask16 seen, struct softmax *s) {
    __m512 dot[HEADS];
    UNROLL for (unsigned g = 0; g < G; g++) dot[g] = _mm512_setzero_ps();
    for (size_t d = 0; d < a->head_dim; d++) {
        __m512 kd = load_kv(t, k, d * QN_KV_BLOCK, 0xffff);
        UNROLL for (unsigned g = 0; g < G; g++) dot[g] =
            _mm512_fmadd_ps(_mm512_set1_ps(q[g * a->ldq + d]), kd, dot[g]);
    }
    __m512 none = _mm512_set1_ps(-INFINITY);
    UNROLL for (unsigned g = 0; g < G; g++) {
        __m512 x = _mm512_mask_mul_ps(none, seen, dot[g], _mm512_set1_ps(a->scale));
        float top = _mm512_reduce_max_ps(x);
        s->shrink[g] = 1.0f; /* exp(0) exactly, when the maximum stays */
        if (top > s->max[g]) {
            s->shrink[g] = _mm512_cvtss_f32(qn_exp16(_mm512_set1_ps(s->max[g] - top)));
            s->max[g] = top;
        }
        __m512 p = _mm512_maskz_mov_ps(seen, qn_exp16(_mm512_sub_ps(x, _mm512_set1_ps(s->max[g]))));
        s->sum[g] = _mm_cvtss_f32(
            _mm_fmadd_ss(_mm_set_ss(s->sum[g]), _mm_set_ss(s->shrink[g]), _mm_set_ss(qn_fold512(p))));
        _mm512_storeu_ps(s->p[g], p);
    }
}

/* out[g][d .. d + 16 W) = out * shrink + sum of p * v over slots [lo, hi); the last vector has `lanes`. */
INLINE void block_values(enum qn_kv_type t, unsigned G, unsigned W, const struct qn_attend *a, float *out,
                         const uint8_t *v, uint32_t lo, uint32_t hi, __mmask16 lanes,
                         const struct softmax *s) {
    __m512 acc[HEADS][WIDE];
    UNROLL for (unsigned g = 0; g < G; g++) {
        __m512 shrink = _mm512_set1_ps(s->shrink[g]);
        UNROLL for (unsigned i = 0; i < W; i++) {
            acc[g][i] =
                _mm512_maskz_loadu_ps((__mmask16)(i + 1 < W ? 0xffffu : lanes), out + g * a->ldo + 16 * i);
            acc[g][i] = _mm512_mul_ps(acc[g][i], shrink);
        }
    }
    for (uint32_t slot = lo; slot < hi; slot++) {
        __m512 row[WIDE];
        UNROLL for (unsigned i = 0; i < W; i++) {
            row[i] =
                load_kv(t, v, slot * (size_t)a->head_dim + 16 * i, (__mmask16)(i + 1 < W ? 0xffffu : lanes));
        }
        UNROLL for (unsigned g = 0; g < G; g++) {
            __m512 p = _mm512_set1_ps(s->p[g][slot]);
            UNROLL for (unsigned i = 0; i < W; i++) acc[g][i] = _mm512_fmadd_ps(p, row[i], acc[g][i]);
        }
    }
    UNROLL for (unsigned g = 0; g < G; g++) {
        UNROLL for (unsigned i = 0; i < W; i++) {
            _mm512_mask_storeu_ps(out + g * a->ldo + 16 * i, (__mmask16)(i + 1 < W ? 0xffffu : lanes),
                                  acc[g][i]);
        }
    }
}

/* G query heads from head h on. */
INLINE void heads(enum qn_kv_type t, unsigned G, const struct qn_attend *a, size_t h) {
    const float *q = a->q + h * a->ldq;
    float *out = a->out + h * a->ldo;
    const size_t elem = t == QN_KV_F32 ? 4 : 2;
    struct softmax s;
    for (unsigned g = 0; g < G; g++) {
        s.max[g] = -INFINITY;
        s.sum[g] = 0;
        memset(out + g * a->ldo, 0, a->head_dim * sizeof *out);
    }
    for (uint32_t base = a->first - a->first % QN_KV_BLOCK; base < a->length; base += QN_KV_BLOCK) {
        const uint8_t *block = a->blocks[base / QN_KV_BLOCK];
        uint32_t lo = base < a->first ? a->first - base : 0, hi = a->length - base;
        if (hi > QN_KV_BLOCK) hi = QN_KV_BLOCK;
        __mmask16 seen = (__mmask16)(((1u << hi) - 1) & ~((1u << lo) - 1));
        block_scores(t, G, a, q, block + a->k_offset, seen, &s);
        const uint8_t *v = block + a->v_offset;
        size_t d = 0;
        for (; d + 16 * WIDE <= a->head_dim; d += 16 * WIDE) {
            block_values(t, G, WIDE, a, out + d, v + d * elem, lo, hi, 0xffff, &s);
        }
        for (; d < a->head_dim; d += 16) {
            block_values(t, G, 1, a, out + d, v + d * elem, lo, hi, qn_tail16(a->head_dim - d), &s);
        }
    }
    for (unsigned g = 0; g < G; g++) qn_avx512_scale(out + g * a->ldo, 1.0f / s.sum[g], a->head_dim);
}

INLINE void attend(enum qn_kv_type t, const struct qn_attend *a) {
    size_t h = 0;
    for (; a->group - h >= HEADS; h += HEADS) heads(t, HEADS, a, h);
    if (a->group - h == 3) heads(t, 3, a, h);
    if (a->group - h == 2) heads(t, 2, a, h);
    if (a->group - h == 1) heads(t, 1, a, h);
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
