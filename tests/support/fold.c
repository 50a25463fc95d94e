/* See fold.h. */
#include "tests/support/fold.h"

#include <string.h>

#include "kernels/mem.h"

#define SPARE 2048 /* bytes beside the state, so that it outweighs the tokens that a copy of it keeps */

static atomic_uint faults;

unsigned qn_test_fold_faults(void) {
    return faults;
}

static size_t aligned(size_t bytes) {
    return (bytes + QN_ALIGN - 1) / QN_ALIGN * QN_ALIGN;
}

static size_t width(const struct qn_attention *a) {
    return (size_t)a->kv_heads * a->head_dim;
}

static struct qn_state_size fixed_only(const struct qn_attention *a, enum qn_kv_type type) {
    (void)type;
    return (struct qn_state_size){.fixed_bytes = aligned((1 + width(a)) * sizeof(float)) + SPARE};
}

static struct qn_state_size fixed_and_paged(const struct qn_attention *a, enum qn_kv_type type) {
    struct qn_state_size s = fixed_only(a, type);
    s.block_bytes = aligned(QN_KV_BLOCK * width(a) * sizeof(float));
    return s;
}

static float *slot(const struct qn_attention_call *c, const struct qn_row *row, uint32_t pos) {
    uint8_t *block = row->blocks[pos / QN_KV_BLOCK] + c->state_offset;
    return (float *)(void *)block + pos % QN_KV_BLOCK * width(c->a);
}

static void run_row(const struct qn_attention_call *c, uint32_t r, float *state) {
    const struct qn_attention *a = c->a;
    const struct qn_row *row = &c->rows[r];
    size_t n = width(a), dh = a->head_dim, group = a->heads / a->kv_heads;
    const float *v = c->v + r * n, *back = NULL;
    if (state[0] != (float)row->pos) faults++;
    state[0] += 1;
    for (size_t i = 0; i < n; i++) state[1 + i] = 0.75f * state[1 + i] + v[i];
    if (a->ops->state == fixed_and_paged) {
        memcpy(slot(c, row, row->pos), v, n * sizeof *v);
        back = slot(c, row, row->pos / 2);
    }
    for (size_t h = 0; h < a->heads; h++) {
        const float *q = c->q + (r * a->heads + h) * dh;
        float *out = c->out + (r * a->heads + h) * dh;
        for (size_t d = 0; d < dh; d++) {
            size_t i = h / group * dh + d;
            out[d] = 0.125f * q[d] + state[1 + i] + (back ? back[i] : 0.0f);
        }
    }
}

static void run_span(void *arg, size_t item, unsigned thread) {
    const struct qn_attention_call *c = arg;
    const struct qn_row_span *s = &c->spans[item];
    (void)thread;
    for (uint32_t t = 0; t < s->n; t++)
        run_row(c, s->first + t, (float *)(void *)(s->fixed + c->fixed_offset));
}

static void run(const struct qn_attention_call *call) {
    struct qn_attention_call c = *call;
    qn_pool_run(c.pool, c.n_spans, run_span, &c);
}

static struct qn_state_size nothing(const struct qn_attention *a, enum qn_kv_type type) {
    (void)a;
    (void)type;
    return (struct qn_state_size){0};
}

static void run_whole_row(const struct qn_attention_call *c, const struct qn_row_span *s, uint32_t r) {
    const struct qn_attention *a = c->a;
    size_t n = width(a), dh = a->head_dim, group = a->heads / a->kv_heads;
    for (size_t h = 0; h < a->heads; h++) {
        const float *q = c->q + (r * a->heads + h) * dh;
        float *out = c->out + (r * a->heads + h) * dh;
        for (size_t d = 0; d < dh; d++) {
            float sum = 0;
            for (uint32_t t = 0; t < s->n; t++) sum += c->v[(s->first + t) * n + h / group * dh + d];
            out[d] = 0.125f * q[d] + sum / (float)s->n;
        }
    }
}

static void run_whole(const struct qn_attention_call *c) {
    for (uint32_t i = 0; i < c->n_spans; i++) {
        if (c->rows[c->spans[i].first].pos != 0 || c->spans[i].fixed) faults++;
        for (uint32_t t = 0; t < c->spans[i].n; t++) run_whole_row(c, &c->spans[i], c->spans[i].first + t);
    }
}

static const struct qn_attention_ops with_fixed = {.name = "fold", .state = fixed_only, .run = run},
                                     with_both = {.name = "fold", .state = fixed_and_paged, .run = run},
                                     with_none = {.name = "whole",
                                                  .rollback = true,
                                                  .state = nothing,
                                                  .run = run_whole};

static void use(struct qn_variant *v, const struct qn_attention_ops *ops) {
    uint32_t layers = v->model->ckpt->spec.layers;
    struct qn_state_size one = ops->state(&v->attention, v->model->kv_type);
    v->attention.ops = ops;
    v->info.rollback = ops->rollback;
    for (uint32_t i = 0; i < layers; i++) {
        v->layers[i].state_offset = i * one.block_bytes;
        v->layers[i].fixed_offset = i * one.fixed_bytes;
    }
    v->block_bytes = layers * one.block_bytes;
    v->fixed_bytes = layers * one.fixed_bytes;
}

void qn_test_fold(struct qn_variant *v, bool paged) {
    use(v, paged ? &with_both : &with_fixed);
}

void qn_test_whole(struct qn_variant *v) {
    use(v, &with_none);
    v->attention.causal = v->info.causal = v->info.rollback = false;
}
