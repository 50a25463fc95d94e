/* Reference attention over paged KV blocks, and the writing of one token into its block.
 *
 * Online softmax, one 16-token block at a time, blocks cut at absolute positions, so a row's result depends
 * on its own position and the KV contents only. Per block: score[t] = scale * sum_d fma(q[d], k[d][t]) with d
 * ascending; running maximum; out[d] and the sum are scaled by exp(old - new maximum); p[t] = exp(score -
 * maximum); the sum adds the block's 16 p folded 8, 4, 2, 1 (unseen tokens count 0); out[d] = fma(p[t],
 * v[t][d]) with t ascending over seen tokens only: what unseen slots hold is never touched by arithmetic that
 * matters.
 *
 * Parts of a row's tokens are put together the same way, in order: maximum, exp(old - new maximum) as the
 * factor of what was there, exp(part's - new maximum) as that of what comes. One function for every level.
 * Thread: any. */
#include <math.h>

#include "kernels/ref/ref.h"

static float kv_get(enum qn_kv_type t, const uint8_t *base, size_t i) {
    if (t == QN_KV_F32) {
        float f;
        memcpy(&f, base + 4 * i, sizeof f);
        return f;
    }
    uint16_t h;
    memcpy(&h, base + 2 * i, sizeof h);
    return qn_f16_to_f32(h);
}

static void kv_put(enum qn_kv_type t, uint8_t *base, size_t i, float v) {
    if (t == QN_KV_F32) {
        memcpy(base + 4 * i, &v, sizeof v);
    } else {
        uint16_t h = qn_f32_to_f16(v);
        memcpy(base + 2 * i, &h, sizeof h);
    }
}

void qn_ref_kv_write(const struct qn_kv_write *w) {
    for (size_t d = 0; d < w->head_dim; d++) {
        kv_put(w->type, w->block + w->k_offset, d * QN_KV_BLOCK + w->slot, w->k[d]);
        kv_put(w->type, w->block + w->v_offset, w->slot * (size_t)w->head_dim + d, w->v[d]);
    }
}

struct softmax {
    float max, sum;
};

/* Seen slots of a block are [lo, hi). */
static void attend_block(const struct qn_attend *a, size_t head, size_t block, uint32_t lo, uint32_t hi,
                         struct softmax *s) {
    const float *q = a->q + head * a->ldq;
    float *out = a->out + head * a->ldo, p[QN_KV_BLOCK] = {0}, max = s->max;
    const uint8_t *k = a->blocks[block] + a->k_offset, *v = a->blocks[block] + a->v_offset;
    for (uint32_t t = lo; t < hi; t++) {
        float dot = 0;
        for (size_t d = 0; d < a->head_dim; d++)
            dot = fmaf(q[d], kv_get(a->type, k, d * QN_KV_BLOCK + t), dot);
        p[t] = dot * a->scale;
        max = p[t] > max ? p[t] : max;
    }
    float shrink = qn_exp1(s->max - max);
    for (uint32_t t = 0; t < QN_KV_BLOCK; t++) p[t] = t >= lo && t < hi ? qn_exp1(p[t] - max) : 0.0f;
    s->sum = fmaf(s->sum, shrink, qn_fold16(p));
    s->max = max;
    for (size_t d = 0; d < a->head_dim; d++) {
        float acc = out[d] * shrink;
        for (uint32_t t = lo; t < hi; t++)
            acc = fmaf(p[t], kv_get(a->type, v, t * (size_t)a->head_dim + d), acc);
        out[d] = acc;
    }
}

void qn_attend_join(float *sum, const float *part, bool first, uint32_t group, uint32_t head_dim) {
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

void qn_ref_attend(const struct qn_attend *a) {
    for (size_t h = 0; h < a->group; h++) {
        float *out = a->out + h * a->ldo;
        struct softmax s = {-INFINITY, 0};
        if (a->resume) {
            s.max = out[a->head_dim];
            s.sum = out[a->head_dim + 1];
        } else {
            for (size_t d = 0; d < a->head_dim; d++) out[d] = 0;
        }
        for (uint32_t t = a->first; t < a->length;) {
            uint32_t base = t - t % QN_KV_BLOCK, end = a->length - base;
            if (end > QN_KV_BLOCK) end = QN_KV_BLOCK;
            attend_block(a, h, base / QN_KV_BLOCK, t - base, end, &s);
            t = base + end;
        }
        if (a->part) {
            out[a->head_dim] = s.max;
            out[a->head_dim + 1] = s.sum;
            continue;
        }
        float inv = 1.0f / s.sum;
        for (size_t d = 0; d < a->head_dim; d++) out[d] *= inv;
    }
}
