/* The walk over spans for attentions with a fixed-size state: see recurrent.h. Thread: engine and the pool's
 * for run, any for the rest. */
#include "model/attention/recurrent.h"

#include <math.h>
#include <string.h>

size_t qn_pad16(size_t n) {
    return (n + 15) / 16 * 16;
}

float *qn_take(float **at, size_t n) {
    float *p = *at;
    *at += qn_pad16(n);
    return p;
}

/* Rows of a span that are worth copies of states. */
#define CUT_ROWS 32

static uint32_t group_of(const struct qn_attention *a) {
    return a->heads / a->kv_heads;
}

size_t qn_tile_rows(const struct qn_attention *a) {
    size_t least = 1 + (size_t)group_of(a);
    return least > QN_TILE_ROWS ? least : QN_TILE_ROWS;
}

/* --- state --- */
static size_t head_bytes(const struct qn_attention *a, const struct qn_recurrent_kind *kind) {
    return kind->state_floats(a) * sizeof(float);
}

struct qn_state_size qn_recurrent_state(const struct qn_attention *a, const struct qn_recurrent_kind *kind) {
    return (struct qn_state_size){.fixed_bytes = a->causal ? a->kv_heads * head_bytes(a, kind) : 0};
}

size_t qn_recurrent_work(const struct qn_spec *spec, const struct qn_attention_ops *ops,
                         const struct qn_recurrent_kind *kind) {
    struct qn_part any;
    size_t most = 0;
    qn_part_init(&any, ops->name);
    for (uint32_t i = 0; i < spec->n_attn; i++) {
        struct qn_attention a;
        if (ops->resolve(spec, i, &any, &a, NULL) != QN_OK || a.choice.exactness == QN_UNAVAILABLE) continue;
        kind->most(spec, &a);
        size_t n = kind->state_floats(&a) + kind->work_floats(&a);
        most = n > most ? n : most;
    }
    return most;
}

/* --- tiles --- */
void qn_tile_queries(const struct qn_recurrent *h, const struct qn_tile *t, float *x) {
    const struct qn_attention *a = h->call->a;
    size_t width = h->heads * a->head_dim, all = (size_t)a->heads * a->head_dim;
    const float *q = h->call->q + t->row * all + (h->g * group_of(a) + h->first) * a->head_dim;
    for (uint32_t i = 0; i < t->n; i++) memcpy(x + i * width, q + i * all, width * sizeof *x);
}

void qn_tile_out(const struct qn_recurrent *h, const struct qn_tile *t, const float *o, const float *den) {
    const struct qn_attention *a = h->call->a;
    size_t dh = a->head_dim;
    for (size_t i = 0; i < t->n; i++) {
        float *out = h->call->out + ((t->row + i) * a->heads + h->g * group_of(a) + h->first) * dh;
        for (size_t j = 0; j < h->heads; j++, o += dh) {
            float inv = 1.0f / den[i * h->heads + j];
            for (size_t d = 0; d < dh; d++) out[j * dh + d] = o[d] * inv;
        }
    }
}

/* --- the walk --- */
/* The next rows of a span that lie in one block: at most a tile of them. */
static uint32_t next_rows(const struct qn_recurrent *h, uint32_t pos, uint32_t left) {
    uint32_t n = QN_FOLD - pos % QN_FOLD;
    size_t most = qn_tile_rows(h->call->a) / (1 + h->heads);
    if (n > most) n = (uint32_t)most;
    return n < left ? n : left;
}

static void causal(const struct qn_recurrent_kind *kind, const struct qn_recurrent *h,
                   const struct qn_row_span *sp) {
    for (uint32_t i = 0; i < sp->n;) {
        uint32_t pos = h->call->rows[sp->first + i].pos, n = next_rows(h, pos, sp->n - i);
        struct qn_tile t = {.row = sp->first + i, .n = n, .pos = pos, .append = true, .read = true};
        if (pos == 0) kind->clear(h);
        kind->tile(h, &t);
        if ((pos + n) % QN_FOLD == 0) kind->fold(h, pos - pos % QN_FOLD, QN_FOLD);
        i += n;
    }
}

/* The span is the whole sequence. */
static void whole(const struct qn_recurrent_kind *kind, const struct qn_recurrent *h,
                  const struct qn_row_span *sp) {
    kind->clear(h);
    for (uint32_t i = 0; i < sp->n;) {
        uint32_t n = next_rows(h, i, sp->n - i), end = i + n;
        struct qn_tile t = {.row = sp->first + i, .n = n, .pos = i, .append = true};
        kind->tile(h, &t);
        uint32_t begin = i - i % QN_FOLD;
        if (end % QN_FOLD == 0 || end == sp->n) kind->fold(h, begin, end - begin);
        i = end;
    }
    for (uint32_t i = 0; i < sp->n;) {
        uint32_t n = next_rows(h, i, sp->n - i);
        struct qn_tile t = {.row = sp->first + i, .n = n, .pos = i, .read = true};
        kind->tile(h, &t);
        i += n;
    }
}

/* Items are pairs of a span and a KV head, or `cuts` pieces of each. A thread's work memory is a state and
 * then the kind's own. The first piece of a pair works on the sequence's state, the others on copies: copy c
 * lies where work memory c has its state, and there are fewer of them than threads. */
struct job {
    const struct qn_attention_call *call;
    const struct qn_recurrent_kind *kind;
    size_t pairs, cuts;
};

static float *work_at(const struct job *j, size_t i) {
    return j->call->work + i * j->call->work_floats;
}

static float *state_of(const struct job *j, size_t pair) {
    const struct qn_attention_call *c = j->call;
    uint8_t *fixed = c->spans[pair / c->a->kv_heads].fixed + c->fixed_offset;
    return (float *)(void *)(fixed + pair % c->a->kv_heads * head_bytes(c->a, j->kind));
}

static void copy_item(void *arg, size_t copy, unsigned thread) {
    (void)thread;
    const struct job *j = arg;
    memcpy(work_at(j, copy), state_of(j, copy / (j->cuts - 1)), head_bytes(j->call->a, j->kind));
}

static void item(void *arg, size_t index, unsigned thread) {
    const struct job *j = arg;
    const struct qn_attention_call *c = j->call;
    size_t pair = index / j->cuts, piece = index % j->cuts, group = group_of(c->a);
    size_t first = piece * group / j->cuts, end = (piece + 1) * group / j->cuts;
    struct qn_recurrent h = {.call = c, .g = pair % c->a->kv_heads, .first = first, .heads = end - first};
    const struct qn_row_span *sp = &c->spans[pair / c->a->kv_heads];
    h.work = work_at(j, thread) + j->kind->state_floats(c->a);
    if (!c->a->causal) {
        h.state = work_at(j, thread);
        whole(j->kind, &h, sp);
        return;
    }
    h.state = piece > 0 ? work_at(j, pair * (j->cuts - 1) + piece - 1) : state_of(j, pair);
    causal(j->kind, &h, sp);
}

/* With fewer pairs than threads, pairs are cut, if a span is long enough to be worth it: every piece brings
 * its state and appends all keys, so more pieces than threads would only be more work. */
static size_t cuts_of(const struct qn_attention_call *c, size_t pairs, size_t threads) {
    size_t group = group_of(c->a), cuts = threads / pairs;
    uint32_t longest = 0;
    for (uint32_t i = 0; i < c->n_spans; i++) longest = c->spans[i].n > longest ? c->spans[i].n : longest;
    if (longest < CUT_ROWS || cuts < 1) return 1;
    return cuts < group ? cuts : group;
}

void qn_recurrent_run(const struct qn_attention_call *call, const struct qn_recurrent_kind *kind) {
    struct job j = {.call = call, .kind = kind, .pairs = (size_t)call->n_spans * call->a->kv_heads};
    double macs = (double)call->n_rows * (double)kind->state_floats(call->a) * call->a->kv_heads;
    struct qn_pool *pool = macs < QN_POOL_MIN_MACS ? NULL : call->pool;
    j.cuts = cuts_of(call, j.pairs, pool ? qn_pool_threads(pool) : 1);
    if (j.cuts > 1 && call->a->causal) qn_pool_run(pool, j.pairs * (j.cuts - 1), copy_item, &j);
    qn_pool_run(pool, j.pairs * j.cuts, item, &j);
}

/* --- counts --- */
/* Sum of p % QN_FOLD + 1 over p < end. */
static double in_block_before(double end) {
    double blocks = floor(end / QN_FOLD), rest = end - blocks * QN_FOLD;
    return 0.5 * (blocks * QN_FOLD * (QN_FOLD + 1) + rest * (rest + 1));
}

double qn_in_block(uint32_t begin, uint32_t end) {
    return in_block_before(end) - in_block_before(begin);
}

double qn_blocks_ended(uint32_t begin, uint32_t end) {
    uint32_t blocks = end / QN_FOLD - begin / QN_FOLD;
    return blocks;
}

/* --- resolving --- */
void qn_recurrent_fill(const struct qn_spec *spec, uint32_t member, const struct qn_attention_ops *ops,
                       struct qn_attention *out) {
    memset(out, 0, sizeof *out);
    out->ops = ops;
    out->member = member;
    out->heads = spec->heads;
    out->kv_heads = spec->attn[member].kv_heads;
    out->head_dim = spec->head_dim;
    out->rope = spec->pos == QN_POS_ROPE && !spec->attn[member].no_rope;
    out->causal = true;
    out->scale = (float)(1.0 / sqrt((double)spec->head_dim));
    out->choice.origin = QN_ORIGIN_CONVERTED;
    qn_part_init(&out->choice.part, ops->name);
    qn_part_add(&out->choice.part, "heads", QN_PARAM_INT, spec->heads);
    qn_part_add(&out->choice.part, "kv_heads", QN_PARAM_INT, out->kv_heads);
}
