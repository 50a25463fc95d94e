/* Performer attention (Choromanski et al. 2021, FAVOR+) with a fixed-size state.
 *
 * With x = q s, y = k s, s^2 = head_dim^-1/2: exp(x.y) = E over w ~ N(0, I) of exp(w.x - x.x/2) exp(w.y -
 * y.y/2). State of a KV head, folded every QN_FOLD tokens (recurrent.h):
 *
 *   S [M, head_dim]  sums of exp(l_j - top_j at the fold) v, where l_j = w_j.y - y.y/2 is a log feature
 *   z [M]            the same sums without v
 *   top [M]          running maximum of l_j over all tokens, shrink [M] = exp(top at the fold - top)
 *   keys [M, 16], v [16, head_dim]   exp(l_j - top_j) and v of the open block's tokens
 *
 * A read weighs feature j with p_j = exp(w_j.x + top_j - their maximum): output = (sum_j p_j shrink_j S_j +
 * sum_s (sum_j p_j keys_js) v_s) / the same with z and 1. The feature with p_j = 1 adds at least 1 to the
 * denominator, so no epsilon is needed, and none is used: with one, a running state can't be exact, and
 * checkpoints trained with a stabiliser that leaks later keys ("reference") can't be loaded by any family
 * here, so no such mode is offered.
 *
 * Options: `features` m directions; `hyperbolic` uses exp(w.u) and exp(-w.u), M = 2m (hyp+; else M = m);
 * `orthogonal` directions; `seed`. `relu`: generalised attention phi(u) = max(w.(u s), 0) + 0.001, the
 * convention {normalize: head_dim^-1/4, projection: yes, ratio: 1, eps: 0.001 added after relu}; same state
 * with top = 0 and shrink = 1. One set of directions serves all query heads of a KV group.
 *
 * Conversion borrows q, k, v, o of its member and draws directions: for softmax members an unbiased estimate
 * of the kernel. A sliding window is not kept. Thread: engine for run (with the pool) and convert, any for
 * the rest. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/attention/features.h"
#include "model/attention/recurrent.h"

#define RELU_EPS        1e-3f
#define DEFAULT_PER_DIM 4 /* features per dimension of a head */

enum { ARG_FEATURES, ARG_SEED, ARG_FLAGS };
enum { HYPERBOLIC = 1, ORTHOGONAL = 2, RELU = 4 };

static bool flag(const struct qn_attention *a, unsigned f) {
    return (a->arg[ARG_FLAGS] & f) != 0;
}

static size_t directions(const struct qn_attention *a) {
    return (size_t)a->arg[ARG_FEATURES];
}

static size_t features(const struct qn_attention *a) {
    return directions(a) * (flag(a, HYPERBOLIC) ? 2 : 1);
}

/* --- what a request's part means --- */
struct options {
    uint32_t features;
    uint64_t seed;
    bool hyperbolic, orthogonal, relu, causal;
    bool drawn;
};

static int read_seed(const struct qn_part *ask, uint64_t *seed, struct qn_err *err) {
    const struct qn_param *p = qn_part_find(ask, "seed");
    if (!p) return QN_OK;
    if ((p->kind != QN_PARAM_INT && p->kind != QN_PARAM_NUMBER) || !(p->value >= 0 && p->value < 0x1p53) ||
        p->value != floor(p->value)) {
        return qn_err_param(err, QN_ERR_INVALID, "attention",
                            "attention parameter \"seed\" must be an integer from 0 to 2^53 - 1");
    }
    *seed = (uint64_t)p->value;
    return QN_OK;
}

static int read_options(const struct qn_spec *spec, const struct qn_attn_member *m, const struct qn_part *ask,
                        struct options *o, struct qn_err *err) {
    uint32_t usual = DEFAULT_PER_DIM * spec->head_dim;
    *o = (struct options){.features = m->features ? m->features : usual,
                          .seed = 1,
                          .orthogonal = true,
                          .relu = m->relu,
                          .causal = true};
    int rc = qn_part_uint(ask, "attention", "features", QN_FEATURES_MAX, &o->features, err);
    if (rc == QN_OK) rc = read_seed(ask, &o->seed, err);
    if (rc == QN_OK) rc = qn_attention_bool(ask, "hyperbolic", &o->hyperbolic, err);
    if (rc == QN_OK) rc = qn_attention_bool(ask, "orthogonal", &o->orthogonal, err);
    if (rc == QN_OK) rc = qn_attention_bool(ask, "relu", &o->relu, err);
    if (rc == QN_OK) rc = qn_attention_bool(ask, "causal", &o->causal, err);
    if (rc) return rc;
    if (o->hyperbolic && (o->relu || o->features > QN_FEATURES_MAX / 2)) {
        return qn_err_param(err, QN_ERR_INVALID, "attention",
                            "attention parameter \"hyperbolic\" needs exponential features, at most %d",
                            QN_FEATURES_MAX / 2);
    }
    /* The checkpoint's own directions have no seed. */
    o->drawn = m->features == 0 || o->features != m->features || o->hyperbolic || qn_part_find(ask, "seed") ||
               qn_part_find(ask, "orthogonal");
    return QN_OK;
}

static void label(const struct qn_attn_member *m, const struct options *o, struct qn_choice *c) {
    bool native = m->features > 0;
    c->exactness = QN_UNTRAINED;
    if (m->slots > 0) {
        c->exactness = QN_UNAVAILABLE;
        snprintf(c->why, sizeof c->why,
                 "the weights were trained with %.15s, which has no kernel to estimate", m->type);
    } else if (!o->causal) {
        snprintf(c->why, sizeof c->why,
                 "every row reads the whole sequence; the weights read backwards only");
    } else if (o->relu && !(native && m->relu)) {
        snprintf(c->why, sizeof c->why, "ReLU features estimate no softmax: structure only");
    } else if (native && m->relu && !o->relu) {
        snprintf(c->why, sizeof c->why, "exponential features with weights trained for ReLU features");
    } else if (native && m->relu && o->drawn) {
        snprintf(c->why, sizeof c->why, "ReLU features with other directions than those trained");
    } else if (!o->drawn) {
        c->origin = QN_ORIGIN_NATIVE;
        c->exactness = QN_EXACT;
    } else {
        c->exactness = QN_APPROXIMATE;
        snprintf(c->why, sizeof c->why, "%s; the error falls with the square root of the features",
                 native ? "other random directions than those trained"
                        : "unbiased random estimate of the softmax kernel");
    }
}

static int resolve(const struct qn_spec *spec, uint32_t member, const struct qn_part *ask,
                   struct qn_attention *out, struct qn_err *err) {
    struct options o;
    const struct qn_attn_member *m = &spec->attn[member];
    int rc = read_options(spec, m, ask, &o, err);
    if (rc) return rc;
    qn_recurrent_fill(spec, member, &qn_attention_performer, out);
    out->causal = o.causal;
    out->made = out->unprojected = o.drawn;
    out->arg[ARG_FEATURES] = o.features;
    out->arg[ARG_SEED] = o.seed;
    out->arg[ARG_FLAGS] =
        (o.hyperbolic ? HYPERBOLIC : 0u) | (o.orthogonal ? ORTHOGONAL : 0u) | (o.relu ? RELU : 0u);
    struct qn_part *p = &out->choice.part;
    qn_part_add(p, "features", QN_PARAM_INT, o.features);
    if (o.drawn) {
        qn_part_add(p, "seed", QN_PARAM_INT, (double)o.seed);
        qn_part_add(p, "orthogonal", QN_PARAM_BOOL, o.orthogonal);
    }
    qn_part_add(p, "hyperbolic", QN_PARAM_BOOL, o.hyperbolic);
    qn_part_add(p, "relu", QN_PARAM_BOOL, o.relu);
    qn_part_add(p, "causal", QN_PARAM_BOOL, o.causal);
    label(m, &o, &out->choice);
    return qn_part_check(ask, p, "attention", err);
}

static size_t options(const struct qn_spec *spec, struct qn_part *out, size_t max) {
    (void)spec;
    if (max > 0) qn_part_init(&out[0], "performer");
    return 1;
}

static void rules(const struct qn_spec *spec, struct qn_rules *out) {
    (void)spec;
    qn_rule_int(out, "features", 1, QN_FEATURES_MAX);
    qn_rule_int(out, "seed", 0, 0x1p53 - 1);
    qn_rule_bool(out, "orthogonal");
    qn_rule_bool(out, "hyperbolic");
    qn_rule_bool(out, "relu");
}

/* --- memory --- */
struct state {
    float *s, *keys, *v, *z, *top, *shrink;
};

static size_t state_floats(const struct qn_attention *a) {
    size_t m = features(a), dh = a->head_dim;
    return qn_pad16(m * dh) + m * QN_FOLD + QN_FOLD * dh + 3 * qn_pad16(m);
}

static struct state state_of(const struct qn_recurrent *h) {
    size_t m = features(h->call->a), dh = h->call->a->head_dim;
    float *at = h->state;
    struct state s;
    s.s = qn_take(&at, m * dh);
    s.keys = qn_take(&at, m * QN_FOLD);
    s.v = qn_take(&at, QN_FOLD * dh);
    s.z = qn_take(&at, m);
    s.top = qn_take(&at, m);
    s.shrink = qn_take(&at, m);
    return s;
}

struct work {
    float *x;   /* [rows, head_dim] keys of a tile, then queries, token by token */
    float *f;   /* [rows, M] their features */
    float *o;   /* [rows, head_dim] numerators */
    float *den; /* [rows] */
    float *w;   /* [rows, QN_FOLD] weights of the block's tokens */
};

static size_t work_of(const struct qn_attention *a, float *at, struct work *w) {
    size_t rows = qn_tile_rows(a), dh = a->head_dim, m = features(a);
    size_t total = qn_pad16(rows * dh) * 2 + qn_pad16(rows * m) + qn_pad16(rows) + rows * QN_FOLD;
    if (!w) return total;
    w->x = qn_take(&at, rows * dh);
    w->f = qn_take(&at, rows * m);
    w->o = qn_take(&at, rows * dh);
    w->den = qn_take(&at, rows);
    w->w = qn_take(&at, rows * QN_FOLD);
    return total;
}

static size_t tile_floats(const struct qn_attention *a) {
    return work_of(a, NULL, NULL);
}

static void most(const struct qn_spec *spec, struct qn_attention *a) {
    (void)spec;
    a->arg[ARG_FEATURES] = QN_FEATURES_MAX;
}

/* --- one tile --- */
static void clear(const struct qn_recurrent *h) {
    struct state s = state_of(h);
    size_t m = features(h->call->a);
    memset(h->state, 0, state_floats(h->call->a) * sizeof(float));
    for (size_t j = 0; j < m; j++) {
        s.top[j] = flag(h->call->a, RELU) ? 0.0f : -INFINITY;
        s.shrink[j] = 1.0f;
    }
}

static float sqrt_scale(const struct qn_attention *a) {
    return sqrtf(a->scale);
}

/* f [rows, M] = w_j . x of every row, for ReLU the features themselves. */
static void project(const struct qn_recurrent *h, const float *x, size_t rows, float *f) {
    const struct qn_attention *a = h->call->a;
    const struct qn_attn_weights *w = h->call->w;
    size_t n = directions(a), m = features(a);
    struct qn_mix mix = {.x = x,
                         .x_row = a->head_dim,
                         .x_k = 1,
                         .b = w->features + (w->proj_heads > 1 ? h->g * a->head_dim * n : 0),
                         .ldb = n,
                         .y = f,
                         .ldy = m,
                         .rows = rows,
                         .depth = a->head_dim,
                         .cols = n};
    qn_ops()->mix(&mix);
    if (flag(a, HYPERBOLIC)) {
        for (size_t r = 0; r < rows; r++) {
            for (size_t j = 0; j < n; j++) f[r * m + n + j] = -f[r * m + j];
        }
    }
    if (!flag(a, RELU)) return;
    float scale = sqrt_scale(a);
    for (size_t i = 0; i < rows * m; i++) f[i] = (f[i] > 0 ? f[i] * scale : 0.0f) + RELU_EPS;
}

static void append(const struct qn_recurrent *h, const struct state *s, const float *k, float *f,
                   uint32_t slot) {
    const struct qn_attention *a = h->call->a;
    size_t m = features(a);
    if (flag(a, RELU)) {
        for (size_t j = 0; j < m; j++) s->keys[j * QN_FOLD + slot] = f[j];
        return;
    }
    float square;
    qn_ops()->dots(&square, k, k, 0, 1, a->head_dim);
    struct qn_favor favor = {.f = f,
                             .top = s->top,
                             .shrink = s->shrink,
                             .keys = s->keys,
                             .m = m,
                             .slot = slot,
                             .scale = sqrt_scale(a),
                             .minus = 0.5f * (square * a->scale)};
    qn_ops()->favor_append(&favor);
}

/* f becomes the state's weights, w the block's; returns the denominator. */
static float read_one(const struct qn_recurrent *h, const struct state *s, float *f, float *w) {
    const struct qn_attention *a = h->call->a;
    size_t m = features(a);
    if (flag(a, RELU)) {
        static const float ones[QN_FOLD] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
        struct qn_mix mix = {
            .x = f, .x_k = 1, .b = s->keys, .ldb = QN_FOLD, .y = w, .rows = 1, .depth = m, .cols = QN_FOLD};
        float den[2];
        qn_ops()->mix(&mix);
        qn_ops()->dots(&den[0], f, s->z, 0, 1, m);
        qn_ops()->dots(&den[1], w, ones, 0, 1, QN_FOLD);
        return den[0] + den[1];
    }
    struct qn_favor favor = {.f = f,
                             .top = s->top,
                             .shrink = s->shrink,
                             .keys = s->keys,
                             .z = s->z,
                             .weight = w,
                             .m = m,
                             .scale = sqrt_scale(a)};
    return qn_ops()->favor_read(&favor);
}

/* The query heads of one token: weights and denominators, and what the block's tokens up to `slot` give. */
static void read_token(const struct qn_recurrent *h, const struct state *s, const struct work *w, size_t i,
                       uint32_t slot) {
    const struct qn_attention *a = h->call->a;
    size_t group = h->heads, m = features(a), dh = a->head_dim;
    for (size_t r = i * group; r < (i + 1) * group; r++)
        w->den[r] = read_one(h, s, w->f + r * m, w->w + r * QN_FOLD);
    if (!a->causal) return;
    struct qn_mix mix = {.x = w->w + i * group * QN_FOLD,
                         .x_row = QN_FOLD,
                         .x_k = 1,
                         .b = s->v,
                         .ldb = dh,
                         .y = w->o + i * group * dh,
                         .ldy = dh,
                         .rows = group,
                         .depth = slot + 1,
                         .cols = dh};
    qn_ops()->mix(&mix);
}

static void tile(const struct qn_recurrent *h, const struct qn_tile *t) {
    const struct qn_attention *a = h->call->a;
    size_t dh = a->head_dim, m = features(a), group = h->heads;
    size_t keys = t->append ? t->n : 0, queries = t->read ? t->n * group : 0;
    struct state s = state_of(h);
    struct work w;
    work_of(a, h->work, &w);
    for (uint32_t i = 0; i < keys; i++) {
        size_t at = ((t->row + i) * a->kv_heads + h->g) * dh;
        memcpy(w.x + i * dh, h->call->k + at, dh * sizeof(float));
        memcpy(s.v + (t->pos + i) % QN_FOLD * dh, h->call->v + at, dh * sizeof(float));
    }
    if (t->read) qn_tile_queries(h, t, w.x + keys * dh);
    project(h, w.x, keys + queries, w.f);
    struct work reads = w;
    reads.f = w.f + keys * m;
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t slot = (t->pos + i) % QN_FOLD;
        if (t->append) append(h, &s, w.x + i * dh, w.f + i * m, slot);
        if (t->read) read_token(h, &s, &reads, i, slot);
    }
    if (!t->read) return;
    struct qn_mix mix = {.x = reads.f,
                         .x_row = m,
                         .x_k = 1,
                         .b = s.s,
                         .ldb = dh,
                         .y = w.o,
                         .ldy = dh,
                         .rows = queries,
                         .depth = m,
                         .cols = dh,
                         .start = a->causal ? QN_MIX_ADD : QN_MIX_ZERO};
    qn_ops()->mix(&mix);
    qn_tile_out(h, t, w.o, w.den);
}

static void fold(const struct qn_recurrent *h, uint32_t pos, uint32_t n) {
    static const float ones[QN_FOLD] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const struct qn_attention *a = h->call->a;
    size_t m = features(a);
    struct state s = state_of(h);
    struct work w;
    (void)pos;
    work_of(a, h->work, &w);
    struct qn_mix mix = {.x = s.keys,
                         .x_row = QN_FOLD,
                         .x_k = 1,
                         .b = s.v,
                         .ldb = a->head_dim,
                         .y = s.s,
                         .ldy = a->head_dim,
                         .scale = s.shrink,
                         .rows = m,
                         .depth = n,
                         .cols = a->head_dim,
                         .start = QN_MIX_SCALE};
    qn_ops()->mix(&mix);
    qn_ops()->dots(w.f, ones, s.keys, QN_FOLD, m, QN_FOLD);
    for (size_t j = 0; j < m; j++) s.z[j] = s.z[j] * s.shrink[j] + w.f[j];
    for (size_t j = 0; j < m; j++) s.shrink[j] = 1.0f;
    memset(s.keys, 0, m * QN_FOLD * sizeof(float));
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
    return qn_recurrent_work(spec, &qn_attention_performer, &kind);
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
    double n = end - begin, m = (double)features(a), w = (double)directions(a), dh = a->head_dim;
    double seen = a->causal ? qn_in_block(begin, end) : 0;
    double folded = a->causal ? qn_blocks_ended(begin, end) * QN_FOLD : n, f = sizeof(float);
    double key = n * w * dh + folded * m * (dh + 1); /* per KV head: directions, fold */
    double query = n * (w * dh + m * (dh + 1)) + seen * (m + dh);
    struct qn_attention_cost c = {.flops = 2 * (a->kv_heads * key + a->heads * query)};
    if (!a->causal) return c;
    double steps = ceil(n / chunk), state_bytes = (double)state(a, type).fixed_bytes;
    double written = n * (3 * m + dh) * f + qn_blocks_ended(begin, end) * m * (dh + 2 + QN_FOLD) * f;
    c.state_bytes = steps * state_bytes + a->kv_heads * written;
    return c;
}

/* --- conversion --- */
static size_t convert_bytes(const struct qn_attention *a, const struct qn_attn_weights *src,
                            size_t *replaced) {
    (void)src;
    *replaced = 0;
    return directions(a) * a->head_dim * sizeof(float);
}

/* One set of directions for a block: its KV heads then share the cache lines. */
static int convert(const struct qn_attention *a, uint32_t block, const struct qn_attn_weights *src,
                   struct qn_attn_weights *dst, struct qn_err *err) {
    size_t n = directions(a) * a->head_dim;
    struct qn_features_key key = {.seed = a->arg[ARG_SEED], .block = block};
    *dst = *src;
    dst->proj_heads = 1;
    dst->features = qn_mem_alloc_array(n, sizeof *dst->features);
    bool ok = dst->features && qn_features_draw(&key, a->head_dim, (uint32_t)directions(a),
                                                flag(a, ORTHOGONAL), dst->features);
    return ok ? QN_OK : qn_err_set(err, QN_ERR_NOMEM, "out of memory for random features");
}

static void release(struct qn_attn_weights *dst) {
    qn_mem_free(dst->features);
    memset(dst, 0, sizeof *dst);
}

const struct qn_attention_ops qn_attention_performer = {
    .name = "performer",
    .rollback = false,
    .resolve = resolve,
    .options = options,
    .rules = rules,
    .state = state,
    .work_floats = work_floats,
    .convert_bytes = convert_bytes,
    .convert = convert,
    .release = release,
    .run = run,
    .cost = cost,
};
