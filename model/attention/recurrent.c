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

static uint32_t group_of(const struct qn_attention *a) {
    return a->heads / a->kv_heads;
}

size_t qn_tile_rows(const struct qn_attention *a) {
    size_t least = 1 + (size_t)group_of(a);
    return least > QN_TILE_ROWS ? least : QN_TILE_ROWS;
}

uint32_t qn_tile_tokens(const struct qn_attention *a) {
    size_t n = qn_tile_rows(a) / (1 + (size_t)group_of(a));
    return n < QN_FOLD ? (uint32_t)n : QN_FOLD;
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
    size_t width = (size_t)group_of(a) * a->head_dim, all = (size_t)a->heads * a->head_dim;
    const float *q = h->call->q + t->row * all + h->g * width;
    for (uint32_t i = 0; i < t->n; i++) memcpy(x + i * width, q + i * all, width * sizeof *x);
}

void qn_tile_out(const struct qn_recurrent *h, const struct qn_tile *t, const float *o, const float *den) {
    const struct qn_attention *a = h->call->a;
    size_t group = group_of(a), dh = a->head_dim;
    for (size_t i = 0; i < t->n; i++) {
        float *out = h->call->out + ((t->row + i) * a->heads + h->g * group) * dh;
        for (size_t j = 0; j < group; j++, o += dh) {
            float inv = 1.0f / den[i * group + j];
            for (size_t d = 0; d < dh; d++) out[j * dh + d] = o[d] * inv;
        }
    }
}

/* --- the walk --- */
struct job {
    const struct qn_attention_call *call;
    const struct qn_recurrent_kind *kind;
};

/* The next rows of a span that lie in one block: at most a tile of them. */
static uint32_t next_rows(const struct qn_attention *a, uint32_t pos, uint32_t left) {
    uint32_t n = QN_FOLD - pos % QN_FOLD, most = qn_tile_tokens(a);
    if (n > most) n = most;
    return n < left ? n : left;
}

static void causal(const struct job *j, const struct qn_recurrent *h, const struct qn_row_span *sp) {
    const struct qn_attention_call *c = j->call;
    for (uint32_t i = 0; i < sp->n;) {
        uint32_t pos = c->rows[sp->first + i].pos, n = next_rows(c->a, pos, sp->n - i);
        struct qn_tile t = {.row = sp->first + i, .n = n, .pos = pos, .append = true, .read = true};
        if (pos == 0) j->kind->clear(h);
        j->kind->tile(h, &t);
        if ((pos + n) % QN_FOLD == 0) j->kind->fold(h, pos - pos % QN_FOLD, QN_FOLD);
        i += n;
    }
}

/* The span is the whole sequence. */
static void whole(const struct job *j, const struct qn_recurrent *h, const struct qn_row_span *sp) {
    const struct qn_attention_call *c = j->call;
    j->kind->clear(h);
    for (uint32_t i = 0; i < sp->n;) {
        uint32_t n = next_rows(c->a, i, sp->n - i), end = i + n;
        struct qn_tile t = {.row = sp->first + i, .n = n, .pos = i, .append = true};
        j->kind->tile(h, &t);
        uint32_t begin = i - i % QN_FOLD;
        if (end % QN_FOLD == 0 || end == sp->n) j->kind->fold(h, begin, end - begin);
        i = end;
    }
    for (uint32_t i = 0; i < sp->n;) {
        uint32_t n = next_rows(c->a, i, sp->n - i);
        struct qn_tile t = {.row = sp->first + i, .n = n, .pos = i, .read = true};
        j->kind->tile(h, &t);
        i += n;
    }
}

static void item(void *arg, size_t index, unsigned thread) {
    const struct job *j = arg;
    const struct qn_attention_call *c = j->call;
    const struct qn_row_span *sp = &c->spans[index / c->a->kv_heads];
    struct qn_recurrent h = {.call = c, .g = index % c->a->kv_heads};
    float *work = c->work + thread * c->work_floats;
    if (c->a->causal) {
        h.state = (float *)(void *)(sp->fixed + c->fixed_offset + h.g * head_bytes(c->a, j->kind));
        h.work = work;
        causal(j, &h, sp);
    } else {
        h.state = work;
        h.work = work + j->kind->state_floats(c->a);
        whole(j, &h, sp);
    }
}

void qn_recurrent_run(const struct qn_attention_call *call, const struct qn_recurrent_kind *kind) {
    struct job j = {call, kind};
    double macs = (double)call->n_rows * (double)kind->state_floats(call->a) * call->a->kv_heads;
    qn_pool_run(macs < QN_POOL_MIN_MACS ? NULL : call->pool, (size_t)call->n_spans * call->a->kv_heads, item,
                &j);
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
