/* Reference attention over paged KV blocks, and the writing of one token into its block.
 *
 * Online softmax over groups of QN_ATTEND_GROUP tokens, cut at absolute positions, so a row's result depends
 * on its own position and the KV contents only. Per group: scores of the seen tokens; running maximum; out[d]
 * and 16 partial sums (token t in sum t mod 16) are scaled by exp(old - new maximum); p[t] = exp(score -
 * maximum), 0 for unseen tokens; sum[i] = fma(sum[i], factor, (p[i] + p[i + 16]) + (p[i + 32] + p[i + 48])),
 * folded 8, 4, 2, 1 at the end. What unseen slots hold is never touched by arithmetic that matters.
 *
 * Float types: score = scale * (fma(q[d], k[d][t]), d ascending); out[d] = fma(p[t], v[t][d]), t ascending
 * over seen tokens only.
 *
 * Q8: keys, queries and values are rotated first, by Hadamard transforms over the largest power of two n that
 * divides head_dim: no product q.k changes (but for a factor n), and outliers in a few dimensions, which
 * would set the scale of all, are spread (Ashkboos et al. 2024, QuaRot). Products are exact integers: a query
 * is rounded once to 16 bits (its largest magnitude / 32767); score = (I * k's scale) * (query's step / n *
 * scale). Weights times v's scales are rounded to 16 bits too, by the largest of the group; out[d] = fma(I,
 * step, out[d]); the sum of all groups is rotated back.
 *
 * Parts of a row's tokens are put together the same way, in order: maximum, exp(old - new maximum) as the
 * factor of what was there, exp(part's - new maximum) as that of what comes. Thread: any. */
#include <assert.h>
#include <math.h>

#include "kernels/ref/ref.h"

#define GROUP QN_ATTEND_GROUP

/* 16-bit codes times 8-bit codes over the longest head, and over a group: kernels may sum in any order. */
static_assert(512ll * QN_ATTEND_STEPS * 127 <= INT32_MAX, "scores are exact in 32 bits");

const char *qn_kv_type_name(enum qn_kv_type t) {
    static const char *const names[QN_KV_TYPE_COUNT] = {"f32", "f16", "bf16", "q8"};
    return (unsigned)t < QN_KV_TYPE_COUNT ? names[t] : "?";
}

static float kv_get(enum qn_kv_type t, const uint8_t *base, size_t i) {
    if (t == QN_KV_F32) {
        float f;
        memcpy(&f, base + 4 * i, sizeof f);
        return f;
    }
    uint16_t h;
    memcpy(&h, base + 2 * i, sizeof h);
    return t == QN_KV_F16 ? qn_f16_to_f32(h) : qn_bf16_to_f32(h);
}

static void kv_put(enum qn_kv_type t, uint8_t *base, size_t i, float v) {
    if (t == QN_KV_F32) {
        memcpy(base + 4 * i, &v, sizeof v);
    } else {
        uint16_t h = t == QN_KV_F16 ? qn_f32_to_f16(v) : qn_f32_to_bf16(v);
        memcpy(base + 2 * i, &h, sizeof h);
    }
}

/* --- Q8 --- */
/* Where the codes of dimension d and slot t lie, and the slot's scale. */
static size_t key_at(size_t d, size_t t) {
    return (d / 2 * QN_KV_BLOCK + t) * 2 + d % 2;
}

static size_t value_at(size_t head_dim, size_t d, size_t t) {
    return (t / 2 * head_dim + d) * 2 + t % 2;
}

static float scale_of(const uint8_t *half, size_t head_dim, size_t t) {
    return kv_get(QN_KV_F32, half + QN_KV_BLOCK * head_dim, t);
}

static float largest(const float *x, size_t n) {
    float top = 0;
    for (size_t i = 0; i < n; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
    return top;
}

/* Unscaled: twice gives n times what was there. Returns 1 / n. */
static float hadamard(float *x, size_t dims) {
    size_t n = dims & (~dims + 1);
    for (size_t h = 1; h < n; h *= 2) {
        for (size_t i = 0; i < dims; i++) {
            if (i & h) continue;
            float a = x[i], b = x[i + h];
            x[i] = a + b;
            x[i + h] = a - b;
        }
    }
    return 1.0f / (float)n;
}

static void put_codes(const struct qn_kv_write *w, const float *from, uint8_t *half, bool keys) {
    float x[512];
    memcpy(x, from, w->head_dim * sizeof *x);
    hadamard(x, w->head_dim);
    float top = largest(x, w->head_dim), inverse = top > QN_ATTEND_TINY ? 127.0f / top : 0;
    for (size_t d = 0; d < w->head_dim; d++) {
        int8_t code = (int8_t)qn_code1(x[d], inverse, 127.0f);
        half[keys ? key_at(d, w->slot) : value_at(w->head_dim, d, w->slot)] = (uint8_t)code;
    }
    kv_put(QN_KV_F32, half + QN_KV_BLOCK * (size_t)w->head_dim, w->slot, top / 127.0f);
}

void qn_ref_kv_write(const struct qn_kv_write *w) {
    if (w->type == QN_KV_Q8) {
        put_codes(w, w->k, w->block + w->k_offset, true);
        put_codes(w, w->v, w->block + w->v_offset, false);
        return;
    }
    for (size_t d = 0; d < w->head_dim; d++) {
        kv_put(w->type, w->block + w->k_offset, d * QN_KV_BLOCK + w->slot, w->k[d]);
        kv_put(w->type, w->block + w->v_offset, w->slot * (size_t)w->head_dim + d, w->v[d]);
    }
}

/* --- one head of one row --- */
struct head {
    const float *q;
    float *out, max, sum[QN_KV_BLOCK];
    float step;     /* Q8: of the query's codes, times the scale of scores */
    int code[512];  /* Q8: the query */
    float p[GROUP]; /* weights of a group */
};

static float score(const struct qn_attend *a, const struct head *h, uint32_t t) {
    const uint8_t *k = a->blocks[t / QN_KV_BLOCK] + a->k_offset;
    size_t slot = t % QN_KV_BLOCK;
    if (a->type == QN_KV_Q8) {
        int32_t dot = 0;
        for (size_t d = 0; d < a->head_dim; d++) dot += h->code[d] * (int8_t)k[key_at(d, slot)];
        return ((float)dot * scale_of(k, a->head_dim, slot)) * h->step;
    }
    float dot = 0;
    for (size_t d = 0; d < a->head_dim; d++)
        dot = fmaf(h->q[d], kv_get(a->type, k, d * QN_KV_BLOCK + slot), dot);
    return dot * a->scale;
}

/* out += weights times values of tokens base + [lo, hi). */
static void add_codes(const struct qn_attend *a, struct head *h, uint32_t base, uint32_t lo, uint32_t hi) {
    int code[GROUP] = {0};
    float top, inverse, step;
    for (uint32_t i = lo; i < hi; i++) {
        const uint8_t *v = a->blocks[(base + i) / QN_KV_BLOCK] + a->v_offset;
        h->p[i] = h->p[i] * scale_of(v, a->head_dim, i % QN_KV_BLOCK);
    }
    top = largest(h->p, GROUP);
    inverse = top > QN_ATTEND_TINY ? QN_ATTEND_STEPS / top : 0;
    step = top * (1.0f / QN_ATTEND_STEPS);
    for (uint32_t i = lo; i < hi; i++) code[i] = qn_code1(h->p[i], inverse, QN_ATTEND_STEPS);
    for (size_t d = 0; d < a->head_dim; d++) {
        int32_t dot = 0;
        for (uint32_t i = lo; i < hi; i++) {
            const uint8_t *v = a->blocks[(base + i) / QN_KV_BLOCK] + a->v_offset;
            dot += code[i] * (int8_t)v[value_at(a->head_dim, d, i % QN_KV_BLOCK)];
        }
        h->out[d] = fmaf((float)dot, step, h->out[d]);
    }
}

static void add_floats(const struct qn_attend *a, struct head *h, uint32_t base, uint32_t lo, uint32_t hi) {
    for (size_t d = 0; d < a->head_dim; d++) {
        for (uint32_t i = lo; i < hi; i++) {
            const uint8_t *v = a->blocks[(base + i) / QN_KV_BLOCK] + a->v_offset;
            size_t at = (i % QN_KV_BLOCK) * (size_t)a->head_dim + d;
            h->out[d] = fmaf(h->p[i], kv_get(a->type, v, at), h->out[d]);
        }
    }
}

/* Seen tokens of the group from `base` on: base + [lo, hi). */
static void attend_group(const struct qn_attend *a, struct head *h, uint32_t base, uint32_t lo, uint32_t hi) {
    float *p = h->p, max = h->max;
    for (uint32_t i = 0; i < GROUP; i++) p[i] = 0;
    for (uint32_t i = lo; i < hi; i++) {
        p[i] = score(a, h, base + i);
        max = p[i] > max ? p[i] : max;
    }
    float shrink = qn_exp1(h->max - max);
    h->max = max;
    for (uint32_t i = lo; i < hi; i++) p[i] = qn_exp1(p[i] - max);
    for (uint32_t i = 0; i < QN_KV_BLOCK; i++)
        h->sum[i] = fmaf(h->sum[i], shrink, (p[i] + p[i + 16]) + (p[i + 32] + p[i + 48]));
    for (size_t d = 0; d < a->head_dim; d++) h->out[d] *= shrink;
    if (a->type == QN_KV_Q8) {
        add_codes(a, h, base, lo, hi);
    } else {
        add_floats(a, h, base, lo, hi);
    }
}

static void attend_head(const struct qn_attend *a, uint32_t row, uint32_t head) {
    struct head h = {.q = a->q + row * a->q_row + head * a->ldq,
                     .out = a->out + row * a->out_row + head * a->ldo,
                     .max = -INFINITY};
    uint32_t first, end;
    qn_attend_seen(a, row, &first, &end);
    for (size_t d = 0; d < a->head_dim; d++) h.out[d] = 0;
    float turned[512], back = 1;
    if (a->type == QN_KV_Q8) {
        memcpy(turned, h.q, a->head_dim * sizeof *turned);
        back = hadamard(turned, a->head_dim);
        float top = largest(turned, a->head_dim), inverse = top > QN_ATTEND_TINY ? QN_ATTEND_STEPS / top : 0;
        for (size_t d = 0; d < a->head_dim; d++) h.code[d] = qn_code1(turned[d], inverse, QN_ATTEND_STEPS);
        h.step = ((top * (1.0f / QN_ATTEND_STEPS)) * back) * a->scale;
    }
    for (uint32_t base = first - first % GROUP; base < end; base += GROUP) {
        attend_group(a, &h, base, base < first ? first - base : 0, end - base < GROUP ? end - base : GROUP);
    }
    if (a->type == QN_KV_Q8) {
        hadamard(h.out, a->head_dim);
        for (size_t d = 0; d < a->head_dim; d++) h.out[d] *= back;
    }
    float sum = qn_fold16(h.sum), inv = 1.0f / sum;
    if (a->part) {
        h.out[a->head_dim] = h.max;
        h.out[a->head_dim + 1] = sum;
        return;
    }
    for (size_t d = 0; d < a->head_dim; d++) h.out[d] *= inv;
}

void qn_ref_attend(const struct qn_attend *a) {
    for (uint32_t r = 0; r < a->rows; r++) {
        for (uint32_t h = 0; h < a->group; h++) attend_head(a, r, h);
    }
}

/* --- parts --- */
void qn_ref_attend_join(float *sum, const float *part, bool first, uint32_t group, uint32_t head_dim) {
    size_t ld = (size_t)head_dim + 2;
    for (size_t h = 0; h < group; h++) {
        float *s = sum + h * ld, max = first ? -INFINITY : s[head_dim], total = first ? 0 : s[head_dim + 1];
        const float *p = part + h * ld;
        float top = p[head_dim] > max ? p[head_dim] : max;
        float keep = qn_exp1(max - top), take = qn_exp1(p[head_dim] - top);
        for (size_t d = 0; d < head_dim; d++) s[d] = fmaf(p[d], take, (first ? 0 : s[d]) * keep);
        s[head_dim + 1] = fmaf(p[head_dim + 1], take, total * keep);
        s[head_dim] = top;
    }
}

void qn_attend_finish(const float *sum, uint32_t group, uint32_t head_dim, float *out, size_t ldo) {
    for (size_t h = 0; h < group; h++) {
        const float *s = sum + h * ((size_t)head_dim + 2);
        float inv = 1.0f / s[head_dim + 1];
        for (size_t d = 0; d < head_dim; d++) out[h * ldo + d] = s[d] * inv;
    }
}
