/* Attention with AVX2; the arithmetic of kernels/ref/attend.c bit for bit. A block's 16 score lanes are two
 * vectors; two query heads of a group share every load of K and V. Thread: any. */
#include "kernels/x86/avx2.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
#define HEADS 2
#define WIDE  4 /* vectors of out that are held at once */

struct softmax {
    float max[HEADS], sum[HEADS], shrink[HEADS];
    float p[HEADS][QN_KV_BLOCK];
};

INLINE __m256 load_kv(enum qn_kv_type t, const uint8_t *base, size_t i) {
    if (t == QN_KV_F32) return _mm256_loadu_ps((const float *)(const void *)(base + 4 * i));
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(base + 2 * i)));
}

/* Lanes from first on, below end. */
INLINE __m256 seen_lanes(int first, int end) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane);
    return _mm256_castsi256_ps(_mm256_andnot_si256(below, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane)));
}

INLINE void block_scores(enum qn_kv_type t, unsigned G, const struct qn_attend *a, const float *q,
                         const uint8_t *k, int lo, int hi, struct softmax *s) {
    __m256 dot[HEADS][2], seen[2] = {seen_lanes(lo, hi), seen_lanes(lo - 8, hi - 8)};
    UNROLL for (unsigned g = 0; g < G; g++) dot[g][0] = dot[g][1] = _mm256_setzero_ps();
    for (size_t d = 0; d < a->head_dim; d++) {
        __m256 k0 = load_kv(t, k, d * QN_KV_BLOCK), k1 = load_kv(t, k, d * QN_KV_BLOCK + 8);
        UNROLL for (unsigned g = 0; g < G; g++) {
            __m256 b = _mm256_set1_ps(q[g * a->ldq + d]);
            dot[g][0] = _mm256_fmadd_ps(b, k0, dot[g][0]);
            dot[g][1] = _mm256_fmadd_ps(b, k1, dot[g][1]);
        }
    }
    __m256 none = _mm256_set1_ps(-INFINITY), scale = _mm256_set1_ps(a->scale);
    UNROLL for (unsigned g = 0; g < G; g++) {
        __m256 x0 = _mm256_blendv_ps(none, _mm256_mul_ps(dot[g][0], scale), seen[0]);
        __m256 x1 = _mm256_blendv_ps(none, _mm256_mul_ps(dot[g][1], scale), seen[1]);
        float top = qn_max8(_mm256_max_ps(x0, x1));
        s->shrink[g] = 1.0f; /* exp(0) exactly, when the maximum stays */
        if (top > s->max[g]) {
            s->shrink[g] = _mm256_cvtss_f32(qn_exp8(_mm256_set1_ps(s->max[g] - top)));
            s->max[g] = top;
        }
        __m256 max = _mm256_set1_ps(s->max[g]);
        x0 = _mm256_and_ps(seen[0], qn_exp8(_mm256_sub_ps(x0, max)));
        x1 = _mm256_and_ps(seen[1], qn_exp8(_mm256_sub_ps(x1, max)));
        __m128 sum =
            _mm_fmadd_ss(_mm_set_ss(s->sum[g]), _mm_set_ss(s->shrink[g]), _mm_set_ss(qn_fold256(x0, x1)));
        s->sum[g] = _mm_cvtss_f32(sum);
        _mm256_storeu_ps(s->p[g], x0);
        _mm256_storeu_ps(s->p[g] + 8, x1);
    }
}

/* out[g][0 .. 8 W) = out * shrink + sum of p * v over slots [lo, hi). */
INLINE void block_values(enum qn_kv_type t, unsigned G, unsigned W, const struct qn_attend *a, float *out,
                         const uint8_t *v, int lo, int hi, const struct softmax *s) {
    __m256 acc[HEADS][WIDE];
    UNROLL for (unsigned g = 0; g < G; g++) {
        UNROLL for (unsigned i = 0; i < W; i++) acc[g][i] =
            _mm256_mul_ps(_mm256_loadu_ps(out + g * a->ldo + (size_t)8 * i), _mm256_set1_ps(s->shrink[g]));
    }
    for (int slot = lo; slot < hi; slot++) {
        UNROLL for (unsigned i = 0; i < W; i++) {
            __m256 row = load_kv(t, v, (size_t)slot * a->head_dim + (size_t)8 * i);
            UNROLL for (unsigned g = 0; g < G; g++) acc[g][i] =
                _mm256_fmadd_ps(_mm256_set1_ps(s->p[g][slot]), row, acc[g][i]);
        }
    }
    UNROLL for (unsigned g = 0; g < G; g++) {
        UNROLL for (unsigned i = 0; i < W; i++) _mm256_storeu_ps(out + g * a->ldo + (size_t)8 * i, acc[g][i]);
    }
}

INLINE void heads(enum qn_kv_type t, unsigned G, const struct qn_attend *a, size_t h) {
    const float *q = a->q + h * a->ldq;
    float *out = a->out + h * a->ldo;
    const size_t elem = t == QN_KV_F32 ? 4 : 2;
    struct softmax s;
    for (unsigned g = 0; g < G; g++) {
        float *o = out + g * a->ldo;
        s.max[g] = a->resume ? o[a->head_dim] : -INFINITY;
        s.sum[g] = a->resume ? o[a->head_dim + 1] : 0;
        if (!a->resume) memset(o, 0, a->head_dim * sizeof *o);
    }
    for (uint32_t base = a->first - a->first % QN_KV_BLOCK; base < a->length; base += QN_KV_BLOCK) {
        const uint8_t *block = a->blocks[base / QN_KV_BLOCK], *v = block + a->v_offset;
        int lo = base < a->first ? (int)(a->first - base) : 0, hi = QN_KV_BLOCK;
        if (a->length - base < QN_KV_BLOCK) hi = (int)(a->length - base);
        block_scores(t, G, a, q, block + a->k_offset, lo, hi, &s);
        size_t d = 0;
        for (; d + 8 * WIDE <= a->head_dim; d += 8 * WIDE)
            block_values(t, G, WIDE, a, out + d, v + d * elem, lo, hi, &s);
        for (; d < a->head_dim; d += 8) block_values(t, G, 1, a, out + d, v + d * elem, lo, hi, &s);
    }
    for (unsigned g = 0; g < G; g++) {
        float *o = out + g * a->ldo;
        if (a->part) {
            o[a->head_dim] = s.max[g];
            o[a->head_dim + 1] = s.sum[g];
        } else {
            qn_avx2_scale(o, 1.0f / s.sum[g], a->head_dim);
        }
    }
}

INLINE void attend(enum qn_kv_type t, const struct qn_attend *a) {
    size_t h = 0;
    for (; a->group - h >= HEADS; h += HEADS) heads(t, HEADS, a, h);
    if (a->group - h) heads(t, 1, a, h);
}

void qn_avx2_attend(const struct qn_attend *args) {
    if (args->type == QN_KV_F32) {
        attend(QN_KV_F32, args);
    } else {
        attend(QN_KV_F16, args);
    }
}

void qn_avx2_kv_write(const struct qn_kv_write *w) {
    if (w->type == QN_KV_F32) {
        qn_ref_kv_write(w); /* plain copies there as well */
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
