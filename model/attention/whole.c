/* Softmax attention over whole sequences: tiles of query rows against blocks of 16 keys, online softmax.
 *
 *   k of a block, transposed -> scores of a tile -> exponentials -> out = out * shrink + p v
 *
 * Blocks are cut from the span's beginning and every step of the arithmetic belongs to one row, so a row's
 * bits depend on its own sequence only. Thread: engine, with the pool. */
#include "model/attention/whole.h"

#include <math.h>
#include <string.h>

#define BLOCK 16 /* keys at once */
#define ROWS  64 /* query rows of a tile: pairs of a token and a query head of one KV head */

struct work {
    float *q, *out;            /* [ROWS, head_dim] */
    float *kt;                 /* [head_dim, BLOCK] */
    float *p;                  /* [ROWS, BLOCK] */
    float *max, *sum, *shrink; /* [ROWS] */
};

size_t qn_whole_work(uint32_t head_dim) {
    return (size_t)head_dim * (2 * ROWS + BLOCK) + (BLOCK + 3) * (size_t)ROWS;
}

static struct work carve(float *at, size_t dh) {
    struct work w;
    w.q = at;
    w.out = w.q + ROWS * dh;
    w.kt = w.out + ROWS * dh;
    w.p = w.kt + BLOCK * dh;
    w.max = w.p + ROWS * BLOCK;
    w.sum = w.max + ROWS;
    w.shrink = w.sum + ROWS;
    return w;
}

struct job {
    const struct qn_attention_call *call;
    const struct qn_row_span *span;
};

/* Rows of q and out: pair i of KV head g is token i / group, query head i % group of the group. */
static size_t row_of(const struct qn_attention *a, const struct qn_row_span *sp, size_t g, size_t i) {
    size_t group = a->heads / a->kv_heads;
    return ((sp->first + i / group) * a->heads + g * group + i % group) * a->head_dim;
}

/* Exponentials of one row's n scores; the row's maximum, sum and shrink. */
static void soften(struct work *w, size_t r, size_t n, float scale) {
    float *p = w->p + r * BLOCK, top = -INFINITY;
    for (size_t i = 0; i < n; i++) top = p[i] * scale > top ? p[i] * scale : top;
    float part = qn_ops()->softmax(p, n, scale);
    float factor[2] = {w->max[r], top}; /* of what was summed so far, and of this block */
    qn_ops()->softmax(factor, 2, 1.0f);
    w->max[r] = w->max[r] > top ? w->max[r] : top;
    w->sum[r] = w->sum[r] * factor[0] + part * factor[1];
    w->shrink[r] = factor[0];
    for (size_t i = 0; i < n; i++) p[i] *= factor[1];
}

/* Keys [at, at + n) of the span for all rows of the tile. */
static void block(const struct job *j, struct work *w, size_t g, size_t at, size_t n, size_t rows) {
    const struct qn_attention *a = j->call->a;
    size_t dh = a->head_dim, step = (size_t)a->kv_heads * dh, from = (j->span->first + at) * step + g * dh;
    for (size_t i = 0; i < n; i++) {
        for (size_t d = 0; d < dh; d++) w->kt[d * BLOCK + i] = j->call->k[from + i * step + d];
    }
    struct qn_mix scores = {.x = w->q,
                            .x_row = dh,
                            .x_k = 1,
                            .b = w->kt,
                            .ldb = BLOCK,
                            .y = w->p,
                            .ldy = BLOCK,
                            .rows = rows,
                            .depth = dh,
                            .cols = n};
    qn_ops()->mix(&scores);
    for (size_t r = 0; r < rows; r++) soften(w, r, n, a->scale);
    struct qn_mix values = {.x = w->p,
                            .x_row = BLOCK,
                            .x_k = 1,
                            .b = j->call->v + from,
                            .ldb = step,
                            .y = w->out,
                            .ldy = dh,
                            .scale = w->shrink,
                            .rows = rows,
                            .depth = n,
                            .cols = dh,
                            .start = QN_MIX_SCALE};
    qn_ops()->mix(&values);
}

static void item(void *arg, size_t index, unsigned thread) {
    const struct job *j = arg;
    const struct qn_attention *a = j->call->a;
    size_t g = index % a->kv_heads, first = index / a->kv_heads * ROWS, dh = a->head_dim;
    size_t pairs = (size_t)j->span->n * (a->heads / a->kv_heads);
    size_t rows = pairs - first < ROWS ? pairs - first : ROWS;
    struct work w = carve(j->call->work + thread * j->call->work_floats, dh);
    for (size_t r = 0; r < rows; r++) {
        memcpy(w.q + r * dh, j->call->q + row_of(a, j->span, g, first + r), dh * sizeof(float));
        w.max[r] = -INFINITY;
        w.sum[r] = 0;
    }
    memset(w.out, 0, rows * dh * sizeof(float));
    for (size_t at = 0; at < j->span->n; at += BLOCK)
        block(j, &w, g, at, j->span->n - at < BLOCK ? j->span->n - at : BLOCK, rows);
    for (size_t r = 0; r < rows; r++) {
        float *out = j->call->out + row_of(a, j->span, g, first + r), inv = 1.0f / w.sum[r];
        for (size_t d = 0; d < dh; d++) out[d] = w.out[r * dh + d] * inv;
    }
}

void qn_whole_run(const struct qn_attention_call *call) {
    const struct qn_attention *a = call->a;
    for (uint32_t i = 0; i < call->n_spans; i++) {
        struct job j = {call, &call->spans[i]};
        size_t pairs = (size_t)j.span->n * (a->heads / a->kv_heads), tiles = (pairs + ROWS - 1) / ROWS;
        double macs = 2.0 * a->heads * a->head_dim * j.span->n * j.span->n;
        qn_pool_run(macs < QN_POOL_MIN_MACS ? NULL : call->pool, tiles * a->kv_heads, item, &j);
    }
}
