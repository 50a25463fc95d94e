/* Mixture of experts: a router chooses some of many networks for every row.
 *
 *   x -[router, f32]-> logits [rows, experts] -[per row: choose, weigh]-> weights [rows, experts], 0 = not
 * chosen y = the shared expert, or 0; then, by ascending expert: gather its rows -[net]-> y += weight *
 * result
 *
 * Nothing is dropped and no expert has a capacity (a row's result would depend on its neighbours). A row's
 * sum runs over its own experts in ascending order, and a product of a row does not depend on the other rows:
 * so neither does its result, in any bit. Experts that no row chose are not touched. Routers: Jiang et al.
 * 2024 (Mixtral), Fedus et al. 2021 (Switch), DeepSeek-V3. Thread: engine (the pool's threads inside one
 * call). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/ffn/ffn.h"
#include "model/random.h"

#define UPCYCLE_MAX     64 /* experts that a dense FFN may be copied into */
#define UPCYCLE_EXPERTS 4  /* when the request doesn't say */
#define UPCYCLE_USED    2
#define ROUTER_STDDEV   0.02 /* of an upcycled router */
#define FLOATS_PER_ITEM 8192 /* that one item of the pool copies */
#define ROW_FLOATS      16u  /* pieces of work memory begin at multiples of a vector */

/* --- names of gating --- */
static const char *const gatings[] = {
    [QN_GATING_NONE] = "",
    [QN_GATING_TOPK_SOFTMAX] = "topk_softmax",
    [QN_GATING_SOFTMAX_RENORM] = "softmax_renorm",
    [QN_GATING_SOFTMAX] = "softmax",
    [QN_GATING_SIGMOID] = "sigmoid",
};

/* --- resolve --- */
static void fill_part(struct qn_ffn *f) {
    struct qn_part *p = &f->choice.part;
    const struct qn_ffn_member *m = &f->mix;
    qn_part_init(p, f->ops->name);
    qn_part_add(p, "experts", QN_PARAM_INT, m->experts);
    qn_part_add(p, "experts_per_token", QN_PARAM_INT, m->used);
    qn_part_add(p, "ffn_dim", QN_PARAM_INT, m->dim);
    qn_part_add_text(p, "gating", gatings[m->gating]);
    qn_part_add_text(p, "expert", m->expert);
    qn_ffn_part_activation(p, m->act);
    if (m->shared_dim) qn_part_add(p, "shared_dim", QN_PARAM_INT, m->shared_dim);
}

/* Experts that a row can choose from. */
static uint32_t eligible(const struct qn_ffn_member *m) {
    return m->groups > 1 ? m->experts / m->groups * m->top_groups : m->experts;
}

static int resolve_native(const struct qn_part *ask, struct qn_ffn *out, struct qn_err *err) {
    uint32_t trained = out->mix.used;
    struct qn_choice *c = &out->choice;
    int rc = qn_part_uint(ask, "ffn", "experts_per_token", eligible(&out->mix), &out->mix.used, err);
    if (rc) return rc;
    c->origin = QN_ORIGIN_NATIVE;
    c->exactness = QN_EXACT;
    if (out->mix.used != trained) {
        c->origin = QN_ORIGIN_CONVERTED;
        c->exactness = QN_APPROXIMATE;
        snprintf(c->why, sizeof c->why, "the checkpoint was trained with %u experts per token", trained);
    }
    fill_part(out);
    return QN_OK;
}

/* Sparse upcycling: every expert is the dense FFN itself, and the chosen ones' weights sum to 1. */
static int resolve_upcycled(const struct qn_part *ask, const struct qn_ffn_member *from, struct qn_ffn *out,
                            struct qn_err *err) {
    struct qn_ffn_member *m = &out->mix;
    const struct qn_param *gating = qn_part_find(ask, "gating");
    snprintf(m->expert, sizeof m->expert, "%s", from->type);
    m->experts = UPCYCLE_EXPERTS;
    m->gating = QN_GATING_SOFTMAX_RENORM;
    if (gating && gating->kind == QN_PARAM_TEXT && strcmp(gating->text, gatings[QN_GATING_TOPK_SOFTMAX]) == 0)
        m->gating = QN_GATING_TOPK_SOFTMAX;
    int rc = qn_part_uint(ask, "ffn", "experts", UPCYCLE_MAX, &m->experts, err);
    if (rc) return rc;
    m->used = m->experts < UPCYCLE_USED ? m->experts : UPCYCLE_USED;
    rc = qn_part_uint(ask, "ffn", "experts_per_token", m->experts, &m->used, err);
    if (rc) return rc;
    out->choice.origin = QN_ORIGIN_CONVERTED;
    out->choice.exactness = QN_EXACT;
    snprintf(out->choice.why, sizeof out->choice.why,
             "every expert is the checkpoint's own %.15s, the router is random: no benefit untrained",
             from->type);
    fill_part(out);
    return QN_OK;
}

static int resolve(const struct qn_ffn_ops *self, const struct qn_spec *spec, uint32_t member,
                   const struct qn_part *ask, struct qn_ffn *out, struct qn_err *err) {
    const struct qn_ffn_member *m = &spec->ffn[member];
    bool native = strcmp(self->name, m->type) == 0;
    memset(out, 0, sizeof *out);
    out->ops = self;
    out->d_model = spec->d_model;
    out->member = member;
    out->dim = m->dim;
    out->act = m->act;
    out->mix = *m;
    out->expert = m->expert[0] || !native ? qn_ffn_find(spec, native ? m->expert : m->type) : NULL;
    if (!out->expert || !out->expert->net || native != (m->experts > 0)) {
        qn_part_init(&out->choice.part, self->name);
        qn_ffn_unavailable(out, native ? m->expert : m->type);
        return QN_OK;
    }
    out->made = !native;
    int rc = native ? resolve_native(ask, out, err) : resolve_upcycled(ask, m, out, err);
    return rc ? rc : qn_part_check(ask, &out->choice.part, "ffn", err);
}

static void rules(const struct qn_spec *spec, const struct qn_ffn *f, struct qn_rules *out) {
    static const char *const words[] = {"topk_softmax", "softmax_renorm",
                                        NULL}; /* equal weights either way */
    if (spec->ffn[f->member].experts > 0) {
        qn_rule_int(out, "experts_per_token", 1, eligible(&f->mix));
        return;
    }
    qn_rule_int(out, "experts", 1, UPCYCLE_MAX);
    qn_rule_int(out, "experts_per_token", 1, UPCYCLE_EXPERTS); /* of so many unless "experts" says more */
    qn_rule_words(out, "gating", words);
}

/* --- work memory --- */
struct work {
    float *score;   /* [rows, experts] */
    double *weight; /* [rows, experts] */
    double *sum;    /* [rows, d_model] */
    uint32_t *rows; /* of the expert at hand */
    float *x, *y;   /* [rows, d_model] their inputs and results */
    float *net;     /* a network's own */
};
enum { PIECES = 7 };

static bool piece(size_t rows, size_t cols, size_t *total, size_t *at) {
    size_t n;
    *at = *total;
    return qn_size_mul(rows, cols, &n) && qn_size_align(n, ROW_FLOATS, &n) && qn_size_add(*total, n, total);
}

/* Where the pieces lie, and how many floats they take in all; SIZE_MAX on overflow. */
static size_t lay_out(size_t rows, size_t experts, size_t d_model, size_t dim, size_t at[PIECES]) {
    size_t total = 0, two = sizeof(double) / sizeof(float);
    bool ok = piece(rows, experts, &total, &at[0]) && piece(rows, two * experts, &total, &at[1]) &&
              piece(rows, two * d_model, &total, &at[2]) && piece(rows, 1, &total, &at[3]) &&
              piece(rows, d_model, &total, &at[4]) && piece(rows, d_model, &total, &at[5]) &&
              piece(rows, QN_FFN_NET_WIDTHS * dim, &total, &at[6]);
    return ok ? total : SIZE_MAX;
}

static size_t scratch_floats(const struct qn_spec *spec, size_t rows) {
    size_t at[PIECES] = {0}, experts = UPCYCLE_MAX;
    for (uint32_t i = 0; i < spec->n_ffn; i++)
        if (spec->ffn[i].experts > experts) experts = spec->ffn[i].experts;
    return lay_out(rows, experts, spec->d_model, qn_ffn_dense_widest(spec), at);
}

static struct work carve(const struct qn_ffn_call *c) {
    const struct qn_ffn_member *m = &c->f->mix;
    size_t at[PIECES] = {0}, dim = m->dim > m->shared_dim ? m->dim : m->shared_dim;
    lay_out(c->in.rows, m->experts, c->f->d_model, dim, at);
    return (struct work){.score = c->work + at[0],
                         .weight = (double *)(void *)(c->work + at[1]),
                         .sum = (double *)(void *)(c->work + at[2]),
                         .rows = (uint32_t *)(void *)(c->work + at[3]),
                         .x = c->work + at[4],
                         .y = c->work + at[5],
                         .net = c->work + at[6]};
}

/* --- routing of one row --- */
#define CLOSED (-1.0) /* weight of an expert that the group limit shuts out */

static double sigmoid(double z) {
    return 1.0 / (1.0 + exp(-z));
}

static float rank_of(const float *score, const float *bias, uint32_t e) {
    return bias ? score[e] + bias[e] : score[e];
}

/* A group's rank: the sum of its two best. */
static float group_rank(const float *score, const float *bias, uint32_t first, uint32_t n) {
    float a = rank_of(score, bias, first), b = -INFINITY;
    for (uint32_t e = first + 1; e < first + n; e++) {
        float s = rank_of(score, bias, e);
        if (s > a) {
            b = a;
            a = s;
        } else if (s > b) {
            b = s;
        }
    }
    return n > 1 ? a + b : a;
}

/* Closes all groups but the top_groups best ones (DeepSeek-V3); of equal ones the lowest stay. */
static void limit_groups(const struct qn_ffn_member *m, const float *score, const float *bias, double *w) {
    uint32_t size = m->experts / m->groups;
    for (uint32_t g = 0; g < m->groups; g++) {
        float mine = group_rank(score, bias, g * size, size);
        uint32_t better = 0;
        for (uint32_t h = 0; h < m->groups; h++) {
            float other = group_rank(score, bias, h * size, size);
            better += other > mine || (other == mine && h < g);
        }
        if (better < m->top_groups) continue;
        for (uint32_t e = g * size; e < (g + 1) * size; e++) w[e] = CLOSED;
    }
}

/* Marks the `used` best ranks with weight 1; of equal ones the lowest. w: 0 = open. */
static void choose(const struct qn_ffn_member *m, const float *score, const float *bias, double *w) {
    for (uint32_t i = 0; i < m->used; i++) {
        uint32_t best = m->experts;
        for (uint32_t e = 0; e < m->experts; e++) {
            if (w[e] != 0) continue;
            if (best == m->experts || rank_of(score, bias, e) > rank_of(score, bias, best)) best = e;
        }
        if (best < m->experts) w[best] = 1.0;
    }
}

/* From marks to weights. Softmax over the chosen logits (A) and softmax over all, divided by the chosen ones'
 * sum (B), are one formula: the sum over all cancels. */
static void weigh_softmax(const struct qn_ffn_member *m, const float *score, double *w) {
    bool all = m->gating == QN_GATING_SOFTMAX;
    double sum = 0;
    float top = -INFINITY;
    for (uint32_t e = 0; e < m->experts; e++) top = score[e] > top ? score[e] : top;
    for (uint32_t e = 0; e < m->experts; e++)
        if (all || w[e] > 0) sum += exp((double)score[e] - (double)top);
    for (uint32_t e = 0; e < m->experts; e++) w[e] = w[e] > 0 ? exp((double)score[e] - (double)top) / sum : 0;
}

static void weigh_sigmoid(const struct qn_ffn_member *m, const float *score, double *w) {
    double sum = 0, scale = m->route_scale > 0 ? (double)m->route_scale : 1.0;
    for (uint32_t e = 0; e < m->experts; e++)
        if (w[e] > 0) sum += (double)score[e];
    for (uint32_t e = 0; e < m->experts; e++) {
        double part = sum > 0 ? (double)score[e] / sum : 1.0 / m->used; /* all of them underflowed */
        w[e] = w[e] > 0 ? part * scale : 0;
    }
}

/* score: logits, spoilt. bias may be NULL. w: [experts], the result. */
static void route_row(const struct qn_ffn_member *m, float *score, const float *bias, double *w) {
    memset(w, 0, m->experts * sizeof *w);
    if (m->gating != QN_GATING_SIGMOID) {
        choose(m, score, NULL, w);
        weigh_softmax(m, score, w);
        return;
    }
    for (uint32_t e = 0; e < m->experts; e++) score[e] = (float)sigmoid((double)score[e]);
    if (m->groups > 1) limit_groups(m, score, bias, w);
    choose(m, score, bias, w);
    weigh_sigmoid(m, score, w);
}

/* --- rows, shared by the pool --- */
struct job {
    const struct qn_ffn_call *c;
    struct work w;
    struct qn_act all;  /* the call's rows; without their integer form once an expert's took its memory */
    uint32_t expert, n; /* the expert at hand and how many rows it has */
    size_t per_item;    /* rows */
    void (*row)(const struct job *j, uint32_t i);
};

static void job_item(void *arg, size_t item, unsigned thread) {
    (void)thread;
    const struct job *j = arg;
    size_t end = (item + 1) * j->per_item;
    if (end > j->n) end = j->n;
    for (size_t i = item * j->per_item; i < end; i++) j->row(j, (uint32_t)i);
}

static void each(struct job *j, size_t floats, void (*row)(const struct job *j, uint32_t i)) {
    j->row = row;
    j->per_item = floats < FLOATS_PER_ITEM ? FLOATS_PER_ITEM / floats : 1;
    size_t items = (j->n + j->per_item - 1) / j->per_item;
    qn_pool_run(items > 1 ? j->c->env->pool : NULL, items, job_item, j);
}

static void route_item(const struct job *j, uint32_t i) {
    const struct qn_ffn_member *m = &j->c->f->mix;
    size_t at = (size_t)i * m->experts;
    route_row(m, j->w.score + at, j->c->w->route_bias, j->w.weight + at);
}

/* The product runs on the packed f32 kernels whatever the step's arithmetic: a choice of experts must not
 * hang on how a product was rounded. */
static void route(struct job *j) {
    const struct qn_ffn_call *c = j->c;
    qn_linear(c->env->pool, &c->w->router, &c->in, NULL, j->w.score, c->f->mix.experts);
    j->n = c->in.rows;
    each(j, (size_t)c->f->mix.experts * 8, route_item);
}

static void gather_item(const struct job *j, uint32_t i) {
    size_t d = j->c->f->d_model;
    memcpy(j->w.x + i * d, j->c->in.x + j->w.rows[i] * d, d * sizeof(float));
}

static void scatter_item(const struct job *j, uint32_t i) {
    size_t d = j->c->f->d_model, r = j->w.rows[i];
    const float *result = j->w.y + i * d;
    double w = j->w.weight[r * j->c->f->mix.experts + j->expert], *sum = j->w.sum + r * d;
    for (size_t k = 0; k < d; k++) sum[k] += w * (double)result[k];
}

/* The shared expert's output times sigmoid(x . g). */
static void gate_item(const struct job *j, uint32_t i) {
    size_t d = j->c->f->d_model;
    const float *x = j->c->in.x + i * d, *g = j->c->w->shared_gate;
    double z = 0;
    for (size_t k = 0; k < d; k++) z += (double)x[k] * (double)g[k];
    qn_ops()->scale(j->c->y + i * d, (float)sigmoid(z), d);
}

/* y holds the shared expert's output, if there is one. */
static void finish_item(const struct job *j, uint32_t i) {
    size_t d = j->c->f->d_model;
    float *y = j->c->y + i * d;
    const double *sum = j->w.sum + i * d;
    bool shared = j->c->w->dense.up.data != NULL;
    for (size_t k = 0; k < d; k++) y[k] = (float)(shared ? (double)y[k] + sum[k] : sum[k]);
}

/* --- networks --- */
static void run_net(const struct job *j, const struct qn_ffn_matrices *w, uint32_t dim, bool biased,
                    struct qn_ffn_net net) {
    const struct qn_ffn_call *c = j->c;
    net.env = c->env;
    net.w = w;
    net.b_gate = biased ? c->w->b_gate : NULL;
    net.b_up = biased ? c->w->b_up : NULL;
    net.b_down = biased ? c->w->b_down : NULL;
    net.d_model = c->f->d_model;
    net.dim = dim;
    net.act = c->f->act;
    net.work = j->w.net;
    c->f->expert->net(&net);
}

static void run_shared(struct job *j) {
    const struct qn_ffn_call *c = j->c;
    if (!c->w->dense.up.data) return;
    struct qn_ffn_net net = {.in = c->in, .y = c->y};
    run_net(j, &c->w->dense, c->f->mix.shared_dim, true, net);
    j->n = c->in.rows;
    if (c->w->shared_gate) each(j, c->f->d_model, gate_item);
}

static void run_expert(struct job *j, uint32_t expert) {
    const struct qn_ffn_call *c = j->c;
    size_t experts = c->f->mix.experts;
    j->expert = expert;
    j->n = 0;
    for (uint32_t r = 0; r < c->in.rows; r++)
        if (j->w.weight[r * experts + expert] != 0) j->w.rows[j->n++] = r;
    if (j->n == 0) return;
    struct qn_ffn_net net = {.in = j->all, .y = j->w.y};
    if (j->n < c->in.rows) { /* else its rows are all rows, in order */
        each(j, c->f->d_model, gather_item);
        net.in = qn_linear_input(j->w.x, c->f->d_model, j->n, c->f->d_model);
        j->all.q = NULL;
    }
    run_net(j, &c->w->experts[expert], c->f->dim, !c->w->dense.up.data, net);
    each(j, c->f->d_model, scatter_item);
}

static void run(const struct qn_ffn_call *c) {
    struct job j = {.c = c, .all = c->in, .w = carve(c)};
    route(&j);
    run_shared(&j);
    memset(j.w.sum, 0, (size_t)c->in.rows * c->f->d_model * sizeof *j.w.sum);
    for (uint32_t e = 0; e < c->f->mix.experts; e++) run_expert(&j, e);
    j.n = c->in.rows;
    each(&j, c->f->d_model, finish_item);
}

/* --- cost --- */
static double row_macs(const struct qn_ffn *f) {
    const struct qn_ffn_member *m = &f->mix;
    struct qn_ffn expert = {.d_model = f->d_model, .dim = m->dim};
    double macs = (double)f->d_model * m->experts + m->used * f->expert->row_macs(&expert);
    expert.dim = m->shared_dim;
    if (m->shared_dim) macs += f->expert->row_macs(&expert);
    return m->shared_gate ? macs + f->d_model : macs;
}

/* Experts that are one and the same are read once. */
static size_t row_weight_bytes(const struct qn_ffn *f, const struct qn_ffn_weights *w) {
    bool same = true;
    for (uint32_t e = 1; e < w->n_experts; e++) same = same && w->experts[e].up.data == w->experts[0].up.data;
    size_t experts = w->n_experts ? qn_ffn_matrices_bytes(&w->experts[0]) * (same ? 1 : f->mix.used) : 0;
    return w->router.bytes + experts + qn_ffn_matrices_bytes(&w->dense);
}

uint64_t qn_ffn_idle_params(const struct qn_spec *spec, uint32_t member) {
    const struct qn_ffn_member *m = &spec->ffn[member];
    const struct qn_ffn_ops *kind = m->experts > m->used ? qn_ffn_find(spec, m->expert) : NULL;
    struct qn_ffn expert = {.d_model = spec->d_model, .dim = m->dim};
    return kind && kind->net ? (m->experts - m->used) * (uint64_t)kind->row_macs(&expert) : 0;
}

/* --- conversion --- */
/* From a dense FFN; another number of experts per token changes no weights. */
static size_t convert_bytes(const struct qn_ffn *f, const struct qn_ffn_weights *src, size_t *replaced) {
    size_t n;
    (void)src;
    *replaced = 0;
    return qn_matrix_bytes(QN_F32, f->mix.experts, f->d_model, &n) ? n : SIZE_MAX;
}

static double normal(uint64_t *s) {
    double u = ((double)(qn_random_next(s) >> 11) + 0.5) * 0x1p-53,
           v = (double)(qn_random_next(s) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979323846 * v);
}

/* The same for every block, and for the same number of experts always. */
static bool random_router(struct qn_matrix *m, uint32_t experts, uint32_t d_model) {
    uint64_t seed = experts;
    float *row = qn_mem_alloc_array(d_model, sizeof *row);
    bool ok = row && qn_matrix_alloc(m, QN_F32, experts, d_model);
    for (uint32_t e = 0; ok && e < experts; e++) {
        for (uint32_t i = 0; i < d_model; i++) row[i] = (float)(ROUTER_STDDEV * normal(&seed));
        qn_matrix_set_row(m, e, row);
    }
    qn_mem_free(row);
    return ok;
}

static int convert(const struct qn_ffn *f, const struct qn_ffn_weights *src, struct qn_ffn_weights *dst,
                   struct qn_err *err) {
    *dst = *src;
    dst->dense = (struct qn_ffn_matrices){0};
    dst->experts = qn_mem_alloc_array(f->mix.experts, sizeof *dst->experts);
    if (!dst->experts || !random_router(&dst->router, f->mix.experts, f->d_model))
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory for converted feed-forward weights");
    dst->n_experts = f->mix.experts;
    for (uint32_t e = 0; e < f->mix.experts; e++) dst->experts[e] = src->dense;
    return QN_OK;
}

static void release(struct qn_ffn_weights *dst) {
    qn_matrix_free(&dst->router);
    qn_mem_free(dst->experts);
    memset(dst, 0, sizeof *dst);
}

const struct qn_ffn_ops qn_ffn_moe = {
    .name = "moe",
    .resolve = resolve,
    .rules = rules,
    .scratch_floats = scratch_floats,
    .convert_bytes = convert_bytes,
    .convert = convert,
    .release = release,
    .run = run,
    .row_macs = row_macs,
    .row_weight_bytes = row_weight_bytes,
};
