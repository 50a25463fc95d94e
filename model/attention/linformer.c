/* Linformer attention (Wang et al. 2020): keys and values of all tokens are mixed into k slots, and the
 * softmax runs over slots.
 *
 * Causal prefix form: Kbar = sum over tokens t of E[:, t] k_t, Vbar = sum of F[:, t] v_t; row t reads
 * softmax(scale q Kbar^T) Vbar over the tokens up to t, which equals the published operator applied to the
 * prefix. State of a KV head, folded every QN_FOLD tokens (recurrent.h):
 *
 *   kbar [head_dim, slots], vbar [slots, head_dim]   sums over the folded blocks
 *   k [head_dim, 16], v [16, head_dim]               the open block's tokens
 *
 * A read inside a block: scores = q Kbar^T + (q k_s^T) E_s^T over the block's tokens s <= t; P = softmax;
 * out = P Vbar + (P F_s) v_s. That is exact.
 *
 * Without causality: the published operator over the whole sequence of t <= n tokens, with columns E[:, :t].
 * Projections apply to K and V after their projection matrices and biases (project first, as the paper
 * writes; fairseq compresses the inputs first, which differs once there is a bias).
 *
 * Sharing of E and F (per head, per layer, F = E, one for the model) is a matter of the weights' pointers.
 * Conversion from softmax: E = F = mean over segments of context / k tokens, made block by block in work
 * memory, so it takes no weights. It is untrained: slots that no token has reached yet have score 0.
 * Thread: engine for run (with the pool), any for the rest. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/attention/recurrent.h"

#define DEFAULT_SLOTS 256

enum { ARG_SLOTS, ARG_CONTEXT, ARG_POOLED /* E and F are segment means */ };

static size_t slots_of(const struct qn_attention *a) {
    return (size_t)a->arg[ARG_SLOTS];
}

/* --- what a request's part means --- */
static uint32_t most_slots(const struct qn_spec *spec) {
    return spec->context < QN_SLOTS_MAX ? spec->context : QN_SLOTS_MAX;
}

static void label(const struct qn_attn_member *m, const struct qn_attention *a, struct qn_choice *c) {
    c->exactness = QN_UNTRAINED;
    if (m->features > 0) {
        c->exactness = QN_UNAVAILABLE;
        snprintf(c->why, sizeof c->why,
                 "the weights were trained with %.15s, which has no softmax over tokens", m->type);
    } else if (a->arg[ARG_POOLED]) {
        snprintf(c->why, sizeof c->why, "untrained projection: %s means over segments of the context",
                 m->slots ? "not the trained slots but" : "slots are");
    } else if (!a->causal) {
        snprintf(c->why, sizeof c->why,
                 "every row reads the whole sequence; the weights read backwards only");
    } else {
        c->origin = QN_ORIGIN_NATIVE;
        c->exactness = QN_EXACT;
    }
}

static int resolve(const struct qn_spec *spec, uint32_t member, const struct qn_part *ask,
                   struct qn_attention *out, struct qn_err *err) {
    const struct qn_attn_member *m = &spec->attn[member];
    uint32_t most = most_slots(spec), k = most < DEFAULT_SLOTS ? most : DEFAULT_SLOTS;
    bool causal = true;
    if (m->slots) k = m->slots;
    int rc = qn_part_uint(ask, "attention", "k", k > most ? k : most, &k, err);
    if (rc == QN_OK) rc = qn_attention_bool(ask, "causal", &causal, err);
    if (rc) return rc;
    qn_recurrent_fill(spec, member, &qn_attention_linformer, out);
    out->causal = causal;
    out->arg[ARG_SLOTS] = k;
    out->arg[ARG_CONTEXT] = spec->context;
    out->arg[ARG_POOLED] = out->unprojected = k != m->slots;
    qn_part_add(&out->choice.part, "k", QN_PARAM_INT, k);
    qn_part_add(&out->choice.part, "n", QN_PARAM_INT, spec->context);
    qn_part_add(&out->choice.part, "causal", QN_PARAM_BOOL, causal);
    label(m, out, &out->choice);
    return qn_part_check(ask, &out->choice.part, "attention", err);
}

static size_t options(const struct qn_spec *spec, struct qn_part *out, size_t max) {
    (void)spec;
    if (max > 0) qn_part_init(&out[0], "linformer");
    return 1;
}

static void rules(const struct qn_spec *spec, struct qn_rules *out) {
    qn_rule_int(out, "k", 1, most_slots(spec));
}

/* --- memory --- */
struct state {
    float *kbar, *vbar, *k, *v;
};

static size_t state_floats(const struct qn_attention *a) {
    size_t dh = a->head_dim;
    return 2 * qn_pad16(slots_of(a) * dh) + 2 * QN_FOLD * dh;
}

static struct state state_of(const struct qn_recurrent *h) {
    size_t dh = h->call->a->head_dim, slots = slots_of(h->call->a);
    float *at = h->state;
    struct state s;
    s.kbar = qn_take(&at, slots * dh);
    s.vbar = qn_take(&at, slots * dh);
    s.k = qn_take(&at, QN_FOLD * dh);
    s.v = qn_take(&at, QN_FOLD * dh);
    return s;
}

struct work {
    float *x;   /* [rows, head_dim] queries of a tile, token by token */
    float *p;   /* [rows, slots] scores, then their exponentials */
    float *c;   /* [rows, QN_FOLD] products with the block's keys, then the weights of its values */
    float *o;   /* [rows, head_dim] */
    float *den; /* [rows] */
    float *e;   /* [QN_FOLD, slots] columns of segment means */
};

static size_t work_of(const struct qn_attention *a, float *at, struct work *w) {
    size_t rows = qn_tile_rows(a), dh = a->head_dim, slots = slots_of(a);
    size_t total =
        2 * qn_pad16(rows * dh) + qn_pad16(rows * slots) + rows * QN_FOLD + qn_pad16(rows) + QN_FOLD * slots;
    if (!w) return total;
    w->x = qn_take(&at, rows * dh);
    w->p = qn_take(&at, rows * slots);
    w->c = qn_take(&at, rows * QN_FOLD);
    w->o = qn_take(&at, rows * dh);
    w->den = qn_take(&at, rows);
    w->e = qn_take(&at, QN_FOLD * slots);
    return total;
}

static size_t tile_floats(const struct qn_attention *a) {
    return work_of(a, NULL, NULL);
}

static void most(const struct qn_spec *spec, struct qn_attention *a) {
    uint32_t k = most_slots(spec);
    if (a->arg[ARG_SLOTS] < k) a->arg[ARG_SLOTS] = k;
}

/* --- one tile --- */
/* Columns of E and F for the tokens of one block: [tokens, slots] each. */
struct columns {
    const float *e, *f;
};

/* Segment i of n tokens in k slots holds the tokens t with floor(t k / n) = i. */
static void segment_means(float *e, uint32_t pos, size_t tokens, uint64_t k, uint64_t n) {
    memset(e, 0, tokens * k * sizeof *e);
    for (uint64_t t = pos; t < pos + tokens && t < n; t++) {
        uint64_t slot = t * k / n, first = (slot * n + k - 1) / k, end = ((slot + 1) * n + k - 1) / k;
        e[(t - pos) * k + slot] = 1.0f / (float)(end - first);
    }
}

static struct columns columns_of(const struct qn_recurrent *h, uint32_t pos, uint32_t n, float *work) {
    const struct qn_attention *a = h->call->a;
    const struct qn_attn_weights *w = h->call->w;
    size_t slots = slots_of(a);
    if (a->arg[ARG_POOLED]) {
        segment_means(work, pos, n, slots, a->arg[ARG_CONTEXT]);
        return (struct columns){work, work};
    }
    size_t at = ((w->proj_heads > 1 ? h->g * a->arg[ARG_CONTEXT] : 0) + pos) * slots;
    return (struct columns){w->e + at, w->f + at};
}

static void clear(const struct qn_recurrent *h) {
    memset(h->state, 0, state_floats(h->call->a) * sizeof(float));
}

static void append(const struct qn_recurrent *h, const struct state *s, const struct qn_tile *t) {
    const struct qn_attention *a = h->call->a;
    size_t dh = a->head_dim;
    for (uint32_t i = 0; i < t->n; i++) {
        size_t at = ((t->row + i) * a->kv_heads + h->g) * dh, slot = (t->pos + i) % QN_FOLD;
        for (size_t d = 0; d < dh; d++) s->k[d * QN_FOLD + slot] = h->call->k[at + d];
        memcpy(s->v + slot * dh, h->call->v + at, dh * sizeof(float));
    }
}

/* y [rows, cols] = or += x [rows, depth] b [depth, cols], all rows without gaps but x. */
static void product(float *y, const float *x, size_t x_row, const float *b, const size_t shape[3], bool add) {
    struct qn_mix mix = {.x = x,
                         .x_row = x_row,
                         .x_k = 1,
                         .b = b,
                         .ldb = shape[2],
                         .y = y,
                         .ldy = shape[2],
                         .rows = shape[0],
                         .depth = shape[1],
                         .cols = shape[2],
                         .start = add ? QN_MIX_ADD : QN_MIX_ZERO};
    qn_ops()->mix(&mix);
}

/* The block's own part of the output: rows r .. r + group - 1 belong to the token at `slot`. p holds the
 * exponentials. */
static void block_values(const struct qn_recurrent *h, const struct state *s, const struct work *w,
                         const struct columns *col, size_t r, uint32_t slot) {
    const struct qn_attention *a = h->call->a;
    size_t group = h->heads, dh = a->head_dim, slots = slots_of(a);
    for (size_t i = r; i < r + group; i++)
        qn_ops()->dots(w->c + i * QN_FOLD, w->p + i * slots, col->f, slots, slot + 1, slots);
    product(w->o + r * dh, w->c + r * QN_FOLD, QN_FOLD, s->v, (size_t[]){group, slot + 1, dh}, false);
}

static void read_rows(const struct qn_recurrent *h, const struct state *s, const struct qn_tile *t) {
    const struct qn_attention *a = h->call->a;
    size_t group = h->heads, dh = a->head_dim, slots = slots_of(a), rows = t->n * group;
    uint32_t first = t->pos % QN_FOLD;
    struct work w;
    struct columns col = {NULL, NULL};
    work_of(a, h->work, &w);
    qn_tile_queries(h, t, w.x);
    product(w.p, w.x, dh, s->kbar, (size_t[]){rows, dh, slots}, false);
    if (a->causal) {
        col = columns_of(h, t->pos - first, first + t->n, w.e);
        product(w.c, w.x, dh, s->k, (size_t[]){rows, dh, QN_FOLD}, false);
        for (uint32_t i = 0; i < t->n; i++) {
            product(w.p + i * group * slots, w.c + i * group * QN_FOLD, QN_FOLD, col.e,
                    (size_t[]){group, first + i + 1, slots}, true);
        }
    }
    for (size_t r = 0; r < rows; r++) w.den[r] = qn_ops()->softmax(w.p + r * slots, slots, a->scale);
    for (uint32_t i = 0; a->causal && i < t->n; i++) block_values(h, s, &w, &col, i * group, first + i);
    product(w.o, w.p, slots, s->vbar, (size_t[]){rows, slots, dh}, a->causal);
    qn_tile_out(h, t, w.o, w.den);
}

static void tile(const struct qn_recurrent *h, const struct qn_tile *t) {
    struct state s = state_of(h);
    if (t->append) append(h, &s, t);
    if (t->read) read_rows(h, &s, t);
}

static void fold(const struct qn_recurrent *h, uint32_t pos, uint32_t n) {
    const struct qn_attention *a = h->call->a;
    size_t dh = a->head_dim, slots = slots_of(a);
    struct state s = state_of(h);
    struct work w;
    work_of(a, h->work, &w);
    struct columns col = columns_of(h, pos, n, w.e);
    product(s.kbar, s.k, QN_FOLD, col.e, (size_t[]){dh, n, slots}, true);
    struct qn_mix mix = {.x = col.f,
                         .x_row = 1,
                         .x_k = slots,
                         .b = s.v,
                         .ldb = dh,
                         .y = s.vbar,
                         .ldy = dh,
                         .rows = slots,
                         .depth = n,
                         .cols = dh,
                         .start = QN_MIX_ADD};
    qn_ops()->mix(&mix);
}

static const struct qn_recurrent_kind kind = {
    .most = most,
    .state_floats = state_floats,
    .work_floats = tile_floats,
    .clear = clear,
    .tile = tile,
    .fold = fold,
};

static size_t work_floats(const struct qn_spec *spec, unsigned threads) {
    (void)threads;
    return qn_recurrent_work(spec, &qn_attention_linformer, &kind);
}

static void run(const struct qn_attention_call *call) {
    qn_recurrent_run(call, &kind);
}

static struct qn_state_size state(const struct qn_attention *a, enum qn_kv_type type) {
    (void)type; /* always F32: sums */
    return qn_recurrent_state(a, &kind);
}

/* --- cost --- */
static struct qn_attention_cost cost(const struct qn_attention *a, enum qn_kv_type type, uint32_t begin,
                                     uint32_t end, uint32_t chunk) {
    double n = end - begin, k = (double)slots_of(a), dh = a->head_dim, f = sizeof(float);
    double seen = a->causal ? qn_in_block(begin, end) : 0;
    double folded = a->causal ? qn_blocks_ended(begin, end) * QN_FOLD : n;
    double query = 2 * n * k * dh + 2 * seen * (k + dh);
    struct qn_attention_cost c = {.flops = 2 * (a->kv_heads * 2 * folded * k * dh + a->heads * query)};
    if (!a->causal) return c;
    double written = 2 * dh * (n + qn_blocks_ended(begin, end) * k) * f;
    c.state_bytes = ceil(n / chunk) * (double)state(a, type).fixed_bytes + a->kv_heads * written;
    return c;
}

const struct qn_attention_ops qn_attention_linformer = {
    .name = "linformer",
    .rollback = false,
    .resolve = resolve,
    .options = options,
    .rules = rules,
    .state = state,
    .work_floats = work_floats,
    .run = run,
    .cost = cost,
};
