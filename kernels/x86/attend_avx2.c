/* Attention with AVX2; the arithmetic of kernels/ref/attend.c bit for bit. A block's 16 score lanes are two
 * vectors; the writing of a token serves the levels above as well. Thread: any. */
#include "kernels/x86/attend.h"
#include "kernels/x86/avx2.h"

#define WIDE_OUT 2 /* vectors of out that are held at once */

/* 8 elements, or with Q8 16. */
INLINE __m256 load_kv(enum form f, const uint8_t *base, size_t i) {
    if (f == FORM_F32 || f == FORM_WIDE) return _mm256_loadu_ps((const float *)(const void *)(base + 4 * i));
    if (f == FORM_WIDE_Q8) return _mm256_loadu_ps((const float *)(const void *)(base + 2 * i));
    if (f == FORM_Q8)
        return _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(base + i))));
    __m128i half = _mm_loadu_si128((const void *)(base + 2 * i));
    if (f == FORM_F16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

INLINE __m256 product(enum form f, __m256 x, __m256 k, __m256 acc) {
    if (!form_q8(f)) return _mm256_fmadd_ps(x, k, acc);
    __m256i dot = _mm256_madd_epi16(_mm256_castps_si256(x), _mm256_castps_si256(k));
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(acc), dot));
}

INLINE void chunk_scores(enum form f, unsigned G, struct tile *s, unsigned h, const float *q,
                         const struct group *g, unsigned blocks) {
    const bool q8 = form_q8(f);
    const size_t per = q8 ? 2 : 1, rows = s->a->head_dim / per, row = g->k_row * per;
    for (unsigned b = 0; b < blocks; b++) {
        __m256 dot[HEADS][2];
        UNROLL for (unsigned i = 0; i < G; i++) dot[i][0] = dot[i][1] = _mm256_setzero_ps();
        for (size_t d = 0; d < rows; d++) {
            __m256 k0 = load_kv(f, g->k[b], d * row), k1 = load_kv(f, g->k[b], d * row + 8 * per);
            UNROLL for (unsigned i = 0; i < G; i++) {
                __m256 x = _mm256_broadcast_ss(q + d * G + i);
                dot[i][0] = product(f, x, k0, dot[i][0]);
                dot[i][1] = product(f, x, k1, dot[i][1]);
            }
        }
        UNROLL for (unsigned i = 0; i < G; i++) {
            __m256 scale = _mm256_set1_ps(q8 ? s->step[h + i] : s->a->scale);
            for (unsigned e = 0; e < 2; e++) {
                __m256 x = dot[i][e];
                if (q8) {
                    __m256 own = _mm256_loadu_ps((const float *)(const void *)g->k_scale[b] + (size_t)8 * e);
                    x = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_castps_si256(x)), own);
                }
                _mm256_storeu_ps(s->p[h + i].f + b * QN_KV_BLOCK + (size_t)8 * e, _mm256_mul_ps(x, scale));
            }
        }
    }
}

/* Lanes from first on, below end. */
INLINE __m256 seen_lanes(int first, int end) {
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane);
    return _mm256_castsi256_ps(_mm256_andnot_si256(below, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane)));
}

/* Q8: weights times values' scales to codes; the weights of unseen tokens are 0. */
INLINE void weight_codes(struct tile *s, unsigned h, const struct group *g, uint32_t lo, uint32_t hi) {
    float *p = s->p[h].f, top, inverse;
    for (unsigned i = 0; i < GROUP; i += 8) {
        __m256 seen = seen_lanes((int)lo - (int)i, (int)hi - (int)i);
        const float *scale = (const float *)(const void *)g->v_scale[i / QN_KV_BLOCK] + i % QN_KV_BLOCK;
        __m256 x = _mm256_mul_ps(_mm256_loadu_ps(p + i), _mm256_loadu_ps(scale));
        _mm256_storeu_ps(p + i, _mm256_and_ps(seen, x));
    }
    top = largest(p, GROUP);
    inverse = top > QN_ATTEND_TINY ? QN_ATTEND_STEPS / top : 0;
    s->weight_step[h] = top * (1.0f / QN_ATTEND_STEPS);
    for (unsigned i = 0; i < GROUP; i += 8) { /* codes take the place of weights that were read */
        __m256i seen = _mm256_castps_si256(seen_lanes((int)lo - (int)i, (int)hi - (int)i));
        __m256i code = _mm256_and_si256(seen, codes8(_mm256_loadu_ps(p + i), inverse, QN_ATTEND_STEPS));
        _mm_storeu_si128((void *)(s->p[h].q + i), narrow8(code));
    }
}

INLINE void raise_max(struct tile *s, unsigned h, const struct group *g) {
    uint32_t lo, hi;
    __m256 none = _mm256_set1_ps(-INFINITY), most = none;
    seen_slots(s, h, g, &lo, &hi);
    for (unsigned i = 0; i < GROUP; i += 8) {
        __m256 seen = seen_lanes((int)lo - (int)i, (int)hi - (int)i);
        most = _mm256_max_ps(most, _mm256_blendv_ps(none, _mm256_loadu_ps(s->p[h].f + i), seen));
    }
    float top = qn_max8(most);
    s->shrink[h] = 1.0f; /* exp(0) exactly, when the maximum stays */
    if (top > s->max[h]) {
        s->shrink[h] = _mm256_cvtss_f32(qn_exp8(_mm256_set1_ps(s->max[h] - top)));
        s->max[h] = top;
    }
}

INLINE void soften(bool q8, struct tile *s, unsigned h, const struct group *g) {
    uint32_t lo, hi;
    __m256 max = _mm256_set1_ps(s->max[h]), shrink = _mm256_set1_ps(s->shrink[h]);
    float *p = s->p[h].f;
    seen_slots(s, h, g, &lo, &hi);
    for (unsigned i = 0; i < GROUP; i += 8) {
        __m256 seen = seen_lanes((int)lo - (int)i, (int)hi - (int)i);
        _mm256_storeu_ps(p + i, _mm256_and_ps(seen, qn_exp8(_mm256_sub_ps(_mm256_loadu_ps(p + i), max))));
    }
    for (unsigned i = 0; i < QN_KV_BLOCK; i += 8) {
        __m256 low = _mm256_add_ps(_mm256_loadu_ps(p + i), _mm256_loadu_ps(p + i + 16));
        __m256 high = _mm256_add_ps(_mm256_loadu_ps(p + i + 32), _mm256_loadu_ps(p + i + 48));
        __m256 sum = _mm256_fmadd_ps(_mm256_loadu_ps(s->sum[h] + i), shrink, _mm256_add_ps(low, high));
        _mm256_storeu_ps(s->sum[h] + i, sum);
    }
    if (q8) weight_codes(s, h, g, lo, hi);
}

/* Floats: out[d .. d + 8 W) of G heads, slots [lo, hi). shrinks: what is there is scaled first. */
INLINE void slot_values(enum form f, unsigned G, unsigned W, struct tile *s, unsigned h,
                        const struct group *g, size_t d, uint32_t lo, uint32_t hi, bool shrinks) {
    const size_t dims = s->a->head_dim;
    __m256 acc[HEADS][WIDE_OUT];
    UNROLL for (unsigned i = 0; i < G; i++) {
        __m256 shrink = _mm256_set1_ps(shrinks ? s->shrink[h + i] : 1.0f);
        UNROLL for (unsigned w = 0; w < W; w++) {
            acc[i][w] = _mm256_mul_ps(_mm256_loadu_ps(s->out[h + i] + d + (size_t)8 * w), shrink);
        }
    }
    for (uint32_t t = lo; t < hi; t++) {
        const uint8_t *v = g->v[t / QN_KV_BLOCK];
        __m256 x[WIDE_OUT];
        UNROLL for (unsigned w = 0; w < W; w++) {
            x[w] = load_kv(f, v, t % QN_KV_BLOCK * dims + d + (size_t)8 * w);
        }
        UNROLL for (unsigned i = 0; i < G; i++) {
            __m256 p = _mm256_broadcast_ss(s->p[h + i].f + t);
            UNROLL for (unsigned w = 0; w < W; w++) acc[i][w] = _mm256_fmadd_ps(p, x[w], acc[i][w]);
        }
    }
    UNROLL for (unsigned i = 0; i < G; i++) {
        UNROLL for (unsigned w = 0; w < W; w++) {
            _mm256_storeu_ps(s->out[h + i] + d + (size_t)8 * w, acc[i][w]);
        }
    }
}

/* Q8: the same of all blocks that exist (codes of unseen tokens are 0); heads that see none are left alone.
 */
INLINE void pair_values(enum form f, unsigned G, unsigned W, struct tile *s, unsigned h,
                        const struct group *g, size_t d) {
    const size_t dims = s->a->head_dim;
    __m256 acc[HEADS][WIDE_OUT];
    bool sees[HEADS];
    UNROLL for (unsigned i = 0; i < G; i++) {
        uint32_t lo, hi;
        seen_slots(s, h + i, g, &lo, &hi);
        sees[i] = lo < hi;
        UNROLL for (unsigned w = 0; w < W; w++) acc[i][w] = _mm256_setzero_ps();
    }
    for (unsigned t = 0; t < g->blocks * QN_KV_BLOCK / 2; t++) {
        const uint8_t *v = g->v[t / (QN_KV_BLOCK / 2)];
        __m256 x[WIDE_OUT];
        UNROLL for (unsigned w = 0; w < W; w++) {
            x[w] = load_kv(f, v, (t % (QN_KV_BLOCK / 2) * dims + d + (size_t)8 * w) * 2);
        }
        UNROLL for (unsigned i = 0; i < G; i++) {
            __m256 p = _mm256_broadcast_ss(s->p[h + i].f + t); /* two codes */
            UNROLL for (unsigned w = 0; w < W; w++) acc[i][w] = product(f, p, x[w], acc[i][w]);
        }
    }
    UNROLL for (unsigned i = 0; i < G; i++) {
        if (!sees[i]) continue;
        __m256 shrink = _mm256_set1_ps(s->shrink[h + i]), step = _mm256_set1_ps(s->weight_step[h + i]);
        UNROLL for (unsigned w = 0; w < W; w++) {
            float *out = s->out[h + i] + d + (size_t)8 * w;
            __m256 sum = _mm256_cvtepi32_ps(_mm256_castps_si256(acc[i][w]));
            _mm256_storeu_ps(out, _mm256_fmadd_ps(sum, step, _mm256_mul_ps(_mm256_loadu_ps(out), shrink)));
        }
    }
}

/* Slots [lo, hi), or with Q8 all, for all dimensions. */
INLINE void all_values(enum form f, unsigned G, struct tile *s, unsigned h, const struct group *g,
                       uint32_t lo, uint32_t hi, bool shrinks) {
    const unsigned W =
        form_q8(f) && G > 3 ? 1 : WIDE_OUT; /* a product of codes takes a register of its own */
    size_t d = 0, dims = s->a->head_dim;
    for (; d + (size_t)8 * W <= dims; d += (size_t)8 * W) {
        if (form_q8(f)) {
            pair_values(f, G, W, s, h, g, d);
        } else {
            slot_values(f, G, W, s, h, g, d, lo, hi, shrinks);
        }
    }
    if (d == dims) return;
    if (form_q8(f)) {
        pair_values(f, G, 1, s, h, g, d);
    } else {
        slot_values(f, G, 1, s, h, g, d, lo, hi, shrinks);
    }
}

INLINE void widen_keys(enum form f, struct tile *s, const struct group *g, unsigned i) {
    const size_t per = f == FORM_Q8 ? 2 : 1, rows = s->a->head_dim / per;
    for (size_t d = 0; d < rows; d++) {
        for (size_t e = 0; e < 2; e++) {
            __m256 x = load_kv(f, g->k[i], (d * QN_KV_BLOCK + 8 * e) * per);
            _mm256_storeu_ps(s->wide + d * GROUP + i * (size_t)QN_KV_BLOCK + 8 * e, x);
        }
    }
}

INLINE void widen_values(enum form f, struct tile *s, const struct group *g, unsigned i) {
    const size_t per = f == FORM_Q8 ? 2 : 1; /* pairs of codes become 4 bytes, like a float */
    const size_t n = QN_KV_BLOCK * (size_t)s->a->head_dim / per;
    for (size_t at = 0; at < n; at += 8)
        _mm256_storeu_ps(s->wide + i * n + at, load_kv(f, g->v[i], at * per));
}

#include "kernels/x86/attend_walk.h"

void qn_avx2_attend(const struct qn_attend *args) {
    switch (args->type) {
    case QN_KV_F32:
        attend(FORM_F32, args);
        break;
    case QN_KV_F16:
        attend(FORM_F16, args);
        break;
    case QN_KV_BF16:
        attend(FORM_BF16, args);
        break;
    default:
        attend(FORM_Q8, args);
        break;
    }
}

void qn_avx2_attend_join(float *sum, const float *part, bool first, uint32_t group, uint32_t head_dim) {
    size_t n = head_dim, ld = n + 2;
    for (size_t h = 0; h < group; h++) {
        float *s = sum + h * ld, max = first ? -INFINITY : s[n], total = first ? 0 : s[n + 1];
        const float *p = part + h * ld;
        float top = p[n] > max ? p[n] : max;
        __m256 keep = qn_exp8(_mm256_set1_ps(max - top)), take = qn_exp8(_mm256_set1_ps(p[n] - top));
        for (size_t d = 0; d < n; d += 8) {
            __m256 old = first ? _mm256_setzero_ps() : _mm256_loadu_ps(s + d);
            _mm256_storeu_ps(s + d, _mm256_fmadd_ps(_mm256_loadu_ps(p + d), take, _mm256_mul_ps(old, keep)));
        }
        s[n + 1] = fmaf(p[n + 1], _mm256_cvtss_f32(take), total * _mm256_cvtss_f32(keep));
        s[n] = top;
    }
}

/* --- writing --- */
/* As qn_f32_to_bf16. */
INLINE __m128i to_bf16(__m256 x) {
    __m256i u = _mm256_castps_si256(x),
            odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i near = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    near = _mm256_blendv_epi8(near, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
    near = _mm256_srli_epi32(near, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(near), _mm256_extracti128_si256(near, 1));
}

INLINE __m128i to_half(enum qn_kv_type t, __m256 x) {
    return t == QN_KV_BF16 ? to_bf16(x) : _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
}

INLINE void write_halves(enum qn_kv_type t, const struct qn_kv_write *w) {
    uint16_t *k = (uint16_t *)(void *)(w->block + w->k_offset) + w->slot;
    uint16_t *v = (uint16_t *)(void *)(w->block + w->v_offset) + w->slot * (size_t)w->head_dim;
    for (size_t d = 0; d < w->head_dim; d += 8) {
        uint16_t h[8];
        _mm_storeu_si128((__m128i *)(void *)h, to_half(t, _mm256_loadu_ps(w->k + d)));
        for (size_t i = 0; i < 8; i++) k[(d + i) * QN_KV_BLOCK] = h[i];
        _mm_storeu_si128((__m128i *)(void *)(v + d), to_half(t, _mm256_loadu_ps(w->v + d)));
    }
}

/* Codes and scale of one token's keys or values. */
INLINE void write_codes(const struct qn_kv_write *w, const float *from, uint8_t *half, bool keys) {
    const size_t dims = w->head_dim, slot = w->slot;
    float x[DIM_MAX];
    memcpy(x, from, dims * sizeof *x);
    hadamard(x, dims);
    float top = largest(x, dims), inverse = top > QN_ATTEND_TINY ? 127.0f / top : 0, scale = top / 127.0f;
    for (size_t d = 0; d < dims; d += 8) {
        uint8_t c[8] = {0};
        __m128i code = narrow8(codes8(_mm256_loadu_ps(x + d), inverse, 127.0f));
        _mm_storel_epi64((void *)c, _mm_packs_epi16(code, code));
        for (size_t i = 0; i < 8; i++) {
            if (keys) {
                half[((d + i) / 2 * QN_KV_BLOCK + slot) * 2 + i % 2] = c[i];
            } else {
                half[(slot / 2 * dims + d + i) * 2 + slot % 2] = c[i];
            }
        }
    }
    memcpy(half + QN_KV_BLOCK * dims + slot * sizeof scale, &scale, sizeof scale);
}

void qn_avx2_kv_write(const struct qn_kv_write *w) {
    if (w->type == QN_KV_F16) {
        write_halves(QN_KV_F16, w);
    } else if (w->type == QN_KV_BF16) {
        write_halves(QN_KV_BF16, w);
    } else if (w->type == QN_KV_Q8) {
        write_codes(w, w->k, w->block + w->k_offset, true);
        write_codes(w, w->v, w->block + w->v_offset, false);
    } else {
        qn_ref_kv_write(w); /* plain copies there as well */
    }
}
