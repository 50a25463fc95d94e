/* The mixture of experts: every way of gating against a double-precision reference that sorts instead of
 * scanning, the identities that mixtures must satisfy, bit identity across batches, what replies say, and
 * upcycling. Rows whose choice hangs on a difference below 1e-4 are left out of comparisons. Thread: the
 * test's and a pool of two. */
#include "tests/unit/model/ffn/kit.h"

#define D    40
#define DIM  24
#define MOST 12 /* experts */
#define ROWS 33

struct mixture {
    struct qn_ffn_member m;
    struct qn_spec spec;
    struct kit_net expert[MOST], shared;
    struct qn_ffn_matrices list[MOST];
    float *router, *bias, *gate, *x;
    struct qn_ffn_weights w;
};

struct shape {
    const char *expert;
    uint32_t experts, used;
    enum qn_gating gating;
    uint32_t shared_dim;
    bool shared_gate, biased;
    float route_scale;
    uint32_t groups, top_groups;
};

/* Random weights; logits spread by about 1. */
static struct mixture *mixture_new(const struct shape *s, uint64_t seed) {
    struct mixture *x = calloc(1, sizeof *x);
    assert_non_null(x);
    struct qn_spec none = {0};
    const struct qn_ffn_ops *kind = qn_ffn_find(&none, s->expert);
    assert_non_null(kind);
    x->m = (struct qn_ffn_member){.type = "moe",
                                  .act = kind->act,
                                  .dim = DIM,
                                  .experts = s->experts,
                                  .used = s->used,
                                  .gating = s->gating,
                                  .shared_dim = s->shared_dim,
                                  .shared_gate = s->shared_gate,
                                  .route_scale = s->route_scale,
                                  .groups = s->groups,
                                  .top_groups = s->top_groups};
    memcpy(x->m.expert, s->expert, strlen(s->expert) + 1);
    x->spec = kit_spec(D, &x->m);
    for (uint32_t e = 0; e < s->experts; e++) {
        x->expert[e] = kit_net_new(&seed, D, DIM, kind->gated);
        x->list[e] = x->expert[e].w;
    }
    x->router = kit_floats(&seed, (size_t)s->experts * D, 0.5f);
    x->x = kit_floats(&seed, ROWS * D, 1);
    kit_pack(&x->w.router, x->router, s->experts, D);
    x->w.experts = x->list;
    x->w.n_experts = s->experts;
    if (s->shared_dim) {
        x->shared = kit_net_new(&seed, D, s->shared_dim, kind->gated);
        x->w.dense = x->shared.w;
    }
    if (s->shared_gate) x->gate = x->w.shared_gate = kit_floats(&seed, D, 0.5f);
    if (s->biased) x->bias = x->w.route_bias = kit_floats(&seed, s->experts, 0.3f);
    return x;
}

static void mixture_free(struct mixture *x) {
    for (uint32_t e = 0; e < x->m.experts; e++) kit_net_free(&x->expert[e]);
    kit_net_free(&x->shared);
    qn_matrix_free(&x->w.router);
    qn_mem_free(x->router);
    qn_mem_free(x->bias);
    qn_mem_free(x->gate);
    qn_mem_free(x->x);
    free(x);
}

static void run_rows(const struct mixture *x, struct qn_pool *pool, uint32_t rows, const float *in,
                     float *out) {
    struct qn_ffn f;
    struct qn_err err;
    assert_int_equal(kit_resolve(&x->spec, &qn_ffn_moe, NULL, &f, &err), QN_OK);
    assert_int_equal(f.choice.origin, QN_ORIGIN_NATIVE);
    kit_run(&x->spec, &f, &x->w, pool, rows, in, out);
}

static void repack_router(struct mixture *x) {
    qn_matrix_free(&x->w.router);
    kit_pack(&x->w.router, x->router, x->m.experts, D);
}

/* ---- the reference ---- */

struct ranked {
    double rank;
    uint32_t index;
};

static int by_rank(const void *a, const void *b) {
    const struct ranked *p = a, *q = b;
    if (p->rank != q->rank) return p->rank > q->rank ? -1 : 1;
    return p->index < q->index ? -1 : 1;
}

/* Sorts and says how far the last one taken is from the first one left. */
static double sort_ranks(struct ranked *r, uint32_t n, uint32_t taken) {
    qsort(r, n, sizeof *r, by_rank);
    return taken < n ? r[taken - 1].rank - r[taken].rank : INFINITY;
}

static double limit_groups(const struct qn_ffn_member *m, const double *rank, bool *open) {
    struct ranked group[MOST];
    uint32_t size = m->experts / m->groups;
    for (uint32_t g = 0; g < m->groups; g++) {
        struct ranked in[MOST];
        for (uint32_t i = 0; i < size; i++) in[i] = (struct ranked){rank[g * size + i], i};
        sort_ranks(in, size, 1);
        group[g] = (struct ranked){in[0].rank + (size > 1 ? in[1].rank : 0), g};
    }
    double gap = sort_ranks(group, m->groups, m->top_groups);
    for (uint32_t e = 0; e < m->experts; e++) open[e] = false;
    for (uint32_t g = 0; g < m->top_groups; g++)
        for (uint32_t i = 0; i < size; i++) open[group[g].index * size + i] = true;
    return gap;
}

/* Weights of one row, and the smallest difference that a choice rested on. */
static double reference_route(const struct mixture *x, const float *row, double *w) {
    const struct qn_ffn_member *m = &x->m;
    double value[MOST], rank[MOST], sum = 0, gap = INFINITY, most = -INFINITY, total = 0;
    struct ranked list[MOST];
    bool open[MOST], sigmoid = m->gating == QN_GATING_SIGMOID;
    uint32_t n = 0;
    for (uint32_t e = 0; e < m->experts; e++) {
        double logit = kit_dot(x->router + (size_t)e * D, row, D);
        value[e] = sigmoid ? kit_sigmoid(logit) : logit;
        rank[e] = value[e] + (x->bias ? (double)x->bias[e] : 0);
        open[e] = true;
        w[e] = 0;
        most = fmax(most, value[e]);
    }
    if (m->groups > 1) gap = limit_groups(m, rank, open);
    for (uint32_t e = 0; e < m->experts; e++)
        if (open[e]) list[n++] = (struct ranked){rank[e], e};
    gap = fmin(gap, sort_ranks(list, n, m->used));
    for (uint32_t e = 0; e < m->experts; e++) {
        if (!sigmoid) value[e] = exp(value[e] - most);
        total += value[e];
    }
    for (uint32_t i = 0; i < m->used; i++) sum += value[list[i].index];
    for (uint32_t i = 0; i < m->used; i++)
        w[list[i].index] = value[list[i].index] / (m->gating == QN_GATING_SOFTMAX ? total : sum) *
                           (m->route_scale > 0 ? (double)m->route_scale : 1);
    return gap;
}

/* One row's output; false when its choice is too close to call. */
static bool reference_row(const struct mixture *x, const float *row, double *y) {
    double w[MOST];
    bool clear = reference_route(x, row, w) >= 1e-4;
    memset(y, 0, D * sizeof *y);
    for (uint32_t e = 0; e < x->m.experts; e++)
        if (w[e] != 0) kit_reference(&x->expert[e], x->m.act, NULL, NULL, row, w[e], y);
    double gate = x->gate ? kit_sigmoid(kit_dot(x->gate, row, D)) : 1;
    if (x->m.shared_dim) kit_reference(&x->shared, x->m.act, NULL, NULL, row, gate, y);
    return clear;
}

/* Runs all rows and compares those that are clear. */
static void check(const struct mixture *x, const char *what) {
    float out[ROWS * D];
    double want[D];
    uint32_t compared = 0;
    run_rows(x, NULL, ROWS, x->x, out);
    for (uint32_t r = 0; r < ROWS; r++) {
        if (!reference_row(x, x->x + r * D, want)) continue;
        double off = kit_distance(out + r * D, want, D);
        if (!(off < 1e-5)) fail_msg("%s: row %u is off by %.1e", what, r, off);
        compared++;
    }
    assert_true(compared > ROWS / 2);
}

/* ---- against the reference ---- */

static const enum qn_gating all_gatings[] = {QN_GATING_TOPK_SOFTMAX, QN_GATING_SOFTMAX_RENORM,
                                             QN_GATING_SOFTMAX, QN_GATING_SIGMOID};

static void every_gating(void **state) {
    (void)state;
    for (size_t g = 0; g < 4; g++) {
        for (uint32_t used = 1; used <= 8; used++) {
            struct shape s = {.expert = "swiglu", .experts = 8, .used = used, .gating = all_gatings[g]};
            struct mixture *x = mixture_new(&s, 10 * g + used);
            check(x, "plain");
            mixture_free(x);
        }
    }
}

static void every_expert_kind(void **state) {
    (void)state;
    static const char *const kinds[] = {"relu", "gelu", "swiglu", "geglu", "reglu", "glu", "bilinear"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct shape s = {.expert = kinds[i],
                          .experts = 5,
                          .used = 2,
                          .gating = QN_GATING_SOFTMAX_RENORM,
                          .shared_dim = i % 2 ? 0 : 56};
        struct mixture *x = mixture_new(&s, 100 + i);
        check(x, kinds[i]);
        mixture_free(x);
    }
}

static void shared_experts(void **state) {
    (void)state;
    for (int gated = 0; gated < 2; gated++) {
        for (uint32_t dim = 8; dim <= 64; dim += 56) { /* narrower and wider than an expert */
            struct shape s = {.expert = "swiglu",
                              .experts = 6,
                              .used = 2,
                              .gating = QN_GATING_SOFTMAX,
                              .shared_dim = dim,
                              .shared_gate = gated};
            struct mixture *x = mixture_new(&s, 200 + dim);
            check(x, gated ? "gated shared expert" : "shared expert");
            if (gated) memset(x->gate, 0, D * sizeof *x->gate); /* sigmoid is 1/2, silu(z)/z not a number */
            check(x, "no opinion");
            mixture_free(x);
        }
    }
}

static void sigmoid_with_bias_and_groups(void **state) {
    (void)state;
    static const uint32_t groups[][3] = {{0, 0, 3}, {2, 1, 3}, {3, 2, 4}, {4, 2, 6}, {6, 3, 4}, {12, 5, 5}};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        struct shape s = {.expert = "swiglu",
                          .experts = 12,
                          .used = groups[i][2],
                          .gating = QN_GATING_SIGMOID,
                          .biased = true,
                          .route_scale = 2.5f,
                          .groups = groups[i][0],
                          .top_groups = groups[i][1]};
        struct mixture *x = mixture_new(&s, 300 + i);
        check(x, "groups");
        mixture_free(x);
    }
}

/* ---- identities ---- */

/* Output of a single network of the mixture's kind. */
static void run_dense(const struct mixture *x, const struct qn_ffn_matrices *net, uint32_t dim, float *out) {
    struct qn_ffn_member m = {.act = x->m.act, .dim = dim};
    memcpy(m.type, x->m.expert, sizeof m.type);
    struct qn_spec s = kit_spec(D, &m);
    struct qn_ffn f;
    struct qn_err err;
    assert_int_equal(kit_resolve(&s, qn_ffn_find(&s, ""), NULL, &f, &err), QN_OK);
    struct qn_ffn_weights w = {0};
    w.dense = *net;
    kit_run(&s, &f, &w, NULL, ROWS, x->x, out);
}

static void one_expert_is_the_dense_ffn(void **state) {
    (void)state;
    for (size_t g = 0; g < 4; g++) {
        struct shape s = {.expert = "swiglu", .experts = 1, .used = 1, .gating = all_gatings[g]};
        struct mixture *x = mixture_new(&s, 400 + g);
        float a[ROWS * D], b[ROWS * D];
        run_rows(x, NULL, ROWS, x->x, a);
        run_dense(x, &x->expert[0].w, DIM, b);
        for (size_t i = 0; i < ROWS * D; i++) assert_true(a[i] == b[i]);
        mixture_free(x);
    }
}

/* With A and B the chosen weights sum to 1, and the result is the one network's in every bit; with C they sum
 * to the chosen share of the softmax. */
static void identical_experts(void **state) {
    (void)state;
    for (size_t g = 0; g < 3; g++) {
        struct shape s = {.expert = "swiglu", .experts = 6, .used = 2, .gating = all_gatings[g]};
        struct mixture *x = mixture_new(&s, 500 + g);
        float a[ROWS * D], b[ROWS * D];
        for (uint32_t e = 0; e < 6; e++) x->list[e] = x->expert[3].w;
        run_rows(x, NULL, ROWS, x->x, a);
        run_dense(x, &x->expert[3].w, DIM, b);
        for (uint32_t r = 0; r < ROWS; r++) {
            double w[MOST], sum = 0, want[D];
            reference_route(x, x->x + r * D, w);
            for (uint32_t e = 0; e < 6; e++) sum += w[e];
            assert_true(g == 2 ? sum < 0.999 : fabs(sum - 1) < 1e-12);
            for (uint32_t i = 0; i < D; i++) want[i] = sum * (double)b[r * D + i];
            for (uint32_t i = r * D; g < 2 && i < (r + 1) * D; i++) assert_true(a[i] == b[i]);
            assert_true(kit_distance(a + r * D, want, D) < 1e-6);
        }
        mixture_free(x);
    }
}

/* Softmax over the chosen logits is softmax over all, renormalised; without that it is another thing. */
static void a_is_b_but_not_c(void **state) {
    (void)state;
    struct shape s = {.expert = "swiglu", .experts = 8, .used = 3, .gating = QN_GATING_TOPK_SOFTMAX};
    struct mixture *x = mixture_new(&s, 600);
    float a[ROWS * D], b[ROWS * D];
    double same[ROWS * D];
    run_rows(x, NULL, ROWS, x->x, a);
    x->spec.ffn[0].gating = QN_GATING_SOFTMAX_RENORM;
    run_rows(x, NULL, ROWS, x->x, b);
    for (size_t i = 0; i < ROWS * D; i++) same[i] = (double)a[i];
    assert_true(kit_distance(b, same, ROWS * D) < 1e-6);
    x->spec.ffn[0].gating = QN_GATING_SOFTMAX;
    run_rows(x, NULL, ROWS, x->x, b);
    assert_true(kit_distance(b, same, ROWS * D) > 1e-2);
    mixture_free(x);
}

/* With every expert used, B is the softmax mixture of all. */
static void all_experts_are_the_softmax_mixture(void **state) {
    (void)state;
    struct shape s = {.expert = "swiglu", .experts = 7, .used = 7, .gating = QN_GATING_SOFTMAX_RENORM};
    struct mixture *x = mixture_new(&s, 700);
    float out[ROWS * D], one[ROWS * D];
    double want[ROWS * D] = {0}, share[ROWS][MOST];
    for (uint32_t r = 0; r < ROWS; r++) {
        double sum = 0;
        for (uint32_t e = 0; e < 7; e++)
            sum += share[r][e] = exp(kit_dot(x->router + (size_t)e * D, x->x + r * D, D));
        for (uint32_t e = 0; e < 7; e++) share[r][e] /= sum;
    }
    for (uint32_t e = 0; e < 7; e++) {
        run_dense(x, &x->expert[e].w, DIM, one);
        for (size_t i = 0; i < ROWS * D; i++) want[i] += share[i / D][e] * (double)one[i];
    }
    run_rows(x, NULL, ROWS, x->x, out);
    assert_true(kit_distance(out, want, ROWS * D) < 2e-6);
    mixture_free(x);
}

static void order_of_experts_is_no_matter(void **state) {
    (void)state;
    for (size_t g = 0; g < 4; g++) {
        struct shape s = {.expert = "swiglu", .experts = 8, .used = 3, .gating = all_gatings[g]};
        struct mixture *x = mixture_new(&s, 800 + g);
        float a[ROWS * D], b[ROWS * D], router[8 * D];
        double same[ROWS * D];
        run_rows(x, NULL, ROWS, x->x, a);
        memcpy(router, x->router, sizeof router);
        for (uint32_t e = 0; e < 8; e++) {
            uint32_t from = (e * 3 + 5) % 8;
            x->list[e] = x->expert[from].w;
            memcpy(x->router + e * D, router + from * D, D * sizeof(float));
        }
        repack_router(x);
        run_rows(x, NULL, ROWS, x->x, b);
        for (size_t i = 0; i < ROWS * D; i++) same[i] = (double)a[i];
        assert_true(kit_distance(b, same, ROWS * D) < 2e-6);
        mixture_free(x);
    }
}

/* A dense FFN cut into column blocks, every block an expert with weight 1. */
static void column_blocks_sum_to_the_dense_ffn(void **state) {
    (void)state;
    enum { BLOCKS = 4 };
    struct shape s = {.expert = "swiglu",
                      .experts = BLOCKS,
                      .used = BLOCKS,
                      .gating = QN_GATING_SIGMOID,
                      .route_scale = BLOCKS};
    struct mixture *x = mixture_new(&s, 900);
    float gate[BLOCKS * DIM * D], up[BLOCKS * DIM * D], down[D * BLOCKS * DIM], a[ROWS * D], b[ROWS * D];
    struct qn_ffn_matrices whole = {0};
    double same[ROWS * D];
    for (uint32_t e = 0; e < BLOCKS; e++) {
        memcpy(gate + e * DIM * D, x->expert[e].gate, DIM * D * sizeof *gate);
        memcpy(up + e * DIM * D, x->expert[e].up, DIM * D * sizeof *up);
        for (uint32_t o = 0; o < D; o++)
            memcpy(down + (o * BLOCKS + e) * DIM, x->expert[e].down + o * DIM, DIM * sizeof *down);
    }
    kit_pack(&whole.gate, gate, BLOCKS * DIM, D);
    kit_pack(&whole.up, up, BLOCKS * DIM, D);
    kit_pack(&whole.down, down, D, BLOCKS * DIM);
    memset(x->router, 0, BLOCKS * D * sizeof *x->router); /* all scores equal: a quarter each */
    repack_router(x);
    run_rows(x, NULL, ROWS, x->x, a);
    run_dense(x, &whole, BLOCKS * DIM, b);
    for (size_t i = 0; i < ROWS * D; i++) same[i] = (double)b[i];
    assert_true(kit_distance(a, same, ROWS * D) < 2e-6);
    qn_matrix_free(&whole.gate);
    qn_matrix_free(&whole.up);
    qn_matrix_free(&whole.down);
    mixture_free(x);
}

/* ---- choices ---- */

/* Equal scores: the lowest indices are chosen; the others have no weights at all here, so touching one
 * crashes. */
static void ties_and_unused_experts(void **state) {
    (void)state;
    for (size_t g = 0; g < 4; g++) {
        struct shape s = {.expert = "swiglu", .experts = 6, .used = 2, .gating = all_gatings[g]};
        if (s.gating == QN_GATING_SIGMOID) s.groups = 3, s.top_groups = 2;
        struct mixture *x = mixture_new(&s, 1000 + g);
        float out[ROWS * D], one[ROWS * D], two[ROWS * D];
        double want[ROWS * D], share = s.gating == QN_GATING_SOFTMAX ? 1.0 / 6 : 0.5;
        memset(x->router, 0, 6 * D * sizeof *x->router);
        repack_router(x);
        for (uint32_t e = 2; e < 6; e++) memset(&x->list[e], 0, sizeof x->list[e]);
        run_rows(x, NULL, ROWS, x->x, out);
        run_dense(x, &x->expert[0].w, DIM, one);
        run_dense(x, &x->expert[1].w, DIM, two);
        for (size_t i = 0; i < ROWS * D; i++) want[i] = share * ((double)one[i] + (double)two[i]);
        assert_true(kit_distance(out, want, ROWS * D) < 1e-6);
        mixture_free(x);
    }
}

/* Every row wants the same expert: nothing is dropped. */
static void one_expert_takes_all(void **state) {
    (void)state;
    struct shape s = {.expert = "swiglu", .experts = 8, .used = 1, .gating = QN_GATING_SOFTMAX_RENORM};
    struct mixture *x = mixture_new(&s, 1100);
    float a[ROWS * D], b[ROWS * D];
    for (uint32_t r = 0; r < ROWS; r++) x->x[r * D] = 50;
    for (uint32_t e = 0; e < 8; e++) x->router[e * D] = e == 5 ? 1 : -1;
    repack_router(x);
    run_rows(x, NULL, ROWS, x->x, a);
    run_dense(x, &x->expert[5].w, DIM, b);
    for (size_t i = 0; i < ROWS * D; i++) assert_true(a[i] == b[i]);
    mixture_free(x);
}

/* Logits so far apart that exponentials vanish, in both directions, and inputs that are not numbers. */
static void extreme_logits(void **state) {
    (void)state;
    for (size_t g = 0; g < 4; g++) {
        for (int sign = -1; sign <= 1; sign += 2) {
            struct shape s = {.expert = "swiglu", .experts = 8, .used = 3, .gating = all_gatings[g]};
            struct mixture *x = mixture_new(&s, 1200 + g);
            float out[ROWS * D];
            for (uint32_t r = 0; r < ROWS; r++) x->x[r * D] = 1;
            for (uint32_t e = 0; e < 8; e++) x->router[e * D] = (float)sign * (900.0f + 200.0f * (float)e);
            repack_router(x);
            run_rows(x, NULL, ROWS, x->x, out);
            for (size_t i = 0; i < ROWS * D; i++) assert_true(isfinite(out[i]));
            x->x[5] = NAN;
            x->x[D + 5] = INFINITY;
            run_rows(x, NULL, ROWS, x->x, out);
            for (size_t i = 2 * D; i < ROWS * D; i++) assert_true(isfinite(out[i]));
            mixture_free(x);
        }
    }
}

/* ---- the same bits in every batch ---- */

static void rows_are_independent(void **state) {
    (void)state;
    struct qn_pool *pool = qn_pool_new(2);
    assert_non_null(pool);
    for (size_t g = 0; g < 4; g++) {
        struct shape s = {.expert = "swiglu",
                          .experts = 12,
                          .used = 4,
                          .gating = all_gatings[g],
                          .shared_dim = 48,
                          .shared_gate = true};
        struct mixture *x = mixture_new(&s, 1300 + g);
        float all[ROWS * D], some[ROWS * D], in[ROWS * D];
        uint64_t seed = g;
        run_rows(x, NULL, ROWS, x->x, all);
        for (int again = 0; again < 40; again++) { /* any rows, in any order */
            uint32_t n = 1 + qn_test_below(&seed, ROWS), from[ROWS];
            for (uint32_t i = 0; i < n; i++) {
                from[i] = qn_test_below(&seed, ROWS);
                memcpy(in + i * D, x->x + from[i] * D, D * sizeof *in);
            }
            run_rows(x, again % 2 ? pool : NULL, n, in, some);
            for (uint32_t i = 0; i < n; i++)
                assert_memory_equal(some + i * D, all + from[i] * D, D * sizeof *all);
        }
        mixture_free(x);
    }
    qn_pool_free(&pool);
}

/* ---- what replies say ---- */

static double number(const struct qn_part *p, const char *name) {
    const struct qn_param *q = qn_part_find(p, name);
    if (!q) fail_msg("no parameter %s", name);
    assert_int_equal(q->kind, QN_PARAM_INT);
    return q->value;
}

static void native_and_other_numbers_of_experts(void **state) {
    (void)state;
    struct qn_ffn_member m = {.type = "moe",
                              .act = QN_ACT_SILU,
                              .dim = DIM,
                              .expert = "swiglu",
                              .experts = 8,
                              .used = 2,
                              .gating = QN_GATING_SOFTMAX,
                              .shared_dim = 16};
    struct qn_spec s = kit_spec(D, &m);
    struct qn_ffn f;
    struct qn_err err;
    char text[QN_PART_TEXT];
    assert_int_equal(kit_resolve(&s, &qn_ffn_moe, NULL, &f, &err), QN_OK);
    assert_string_equal(qn_part_print(&f.choice.part, text, sizeof text),
                        "moe(experts=8,experts_per_token=2,ffn_dim=24,gating=softmax,expert=swiglu,"
                        "shared_dim=16)");
    for (uint32_t k = 1; k <= 8; k++) {
        struct qn_part ask;
        qn_part_init(&ask, "moe");
        qn_part_add(&ask, "experts_per_token", QN_PARAM_INT, k);
        assert_int_equal(kit_resolve(&s, &qn_ffn_moe, &ask, &f, &err), QN_OK);
        assert_int_equal(f.choice.origin, k == 2 ? QN_ORIGIN_NATIVE : QN_ORIGIN_CONVERTED);
        assert_int_equal(f.choice.exactness, k == 2 ? QN_EXACT : QN_APPROXIMATE);
        assert_true((strstr(f.choice.why, "trained with 2") != NULL) == (k != 2));
        assert_true(number(&f.choice.part, "experts_per_token") == k);
    }
    static const double bad[] = {0, 9, -1, 2.5, NAN};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct qn_part ask;
        qn_part_init(&ask, "moe");
        qn_part_add(&ask, "experts_per_token", QN_PARAM_NUMBER, bad[i]);
        assert_int_equal(kit_resolve(&s, &qn_ffn_moe, &ask, &f, &err), QN_ERR_INVALID);
        assert_non_null(strstr(err.msg, "from 1 to 8"));
    }
    static const char *const words[][3] = {
        {"gating", "softmax", "sigmoid"}, {"expert", "swiglu", "relu"}, {"experts", NULL, "8"}};
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 1; j < 3; j++) {
            struct qn_part ask;
            if (!words[i][j]) continue;
            qn_part_init(&ask, "moe");
            qn_part_add_text(&ask, words[i][0], words[i][j]);
            assert_int_equal(kit_resolve(&s, &qn_ffn_moe, &ask, &f, &err), j == 1 ? QN_OK : QN_ERR_INVALID);
            if (j == 2) assert_string_equal(err.param, "ffn");
        }
    }
}

static void costs_by_hand(void **state) {
    (void)state;
    struct shape s = {.expert = "swiglu",
                      .experts = 8,
                      .used = 3,
                      .gating = QN_GATING_SOFTMAX,
                      .shared_dim = 16,
                      .shared_gate = true};
    struct mixture *x = mixture_new(&s, 1400);
    struct qn_ffn f;
    struct qn_err err;
    assert_int_equal(kit_resolve(&x->spec, &qn_ffn_moe, NULL, &f, &err), QN_OK);
    assert_true(qn_ffn_moe.row_macs(&f) == 8.0 * D + 3 * 3.0 * D * DIM + 3.0 * D * 16 + D);
    size_t one = x->list[0].gate.bytes + x->list[0].up.bytes + x->list[0].down.bytes;
    size_t shared = x->w.dense.gate.bytes + x->w.dense.up.bytes + x->w.dense.down.bytes;
    assert_int_equal(qn_ffn_moe.row_weight_bytes(&f, &x->w), x->w.router.bytes + 3 * one + shared);
    mixture_free(x);
}

/* ---- upcycling ---- */

/* From every dense kind, biases included: the FFN it was copied from, bit for bit; nothing copied. */
static void upcycled_equals_its_source(void **state) {
    (void)state;
    static const char *const kinds[] = {"relu", "gelu", "swiglu", "geglu", "reglu", "glu", "bilinear"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        uint64_t seed = 1500 + i;
        struct qn_ffn_member m = {.dim = DIM};
        memcpy(m.type, kinds[i], strlen(kinds[i]) + 1);
        struct qn_spec s = kit_spec(D, &m);
        const struct qn_ffn_ops *kind = qn_ffn_find(&s, "");
        s.ffn[0].act = kind->act;
        struct kit_net n = kit_net_new(&seed, D, DIM, kind->gated);
        float *x = kit_floats(&seed, ROWS * D, 1), *up = kit_floats(&seed, DIM, 1),
              *down = kit_floats(&seed, D, 1), a[ROWS * D], b[ROWS * D];
        struct qn_ffn f, g;
        struct qn_err err;
        struct qn_ffn_weights w = {0}, c = {0};
        w.dense = n.w;
        w.b_up = kind->gated ? NULL : up;
        w.b_down = kind->gated ? NULL : down;
        assert_int_equal(kit_resolve(&s, kind, NULL, &f, &err), QN_OK);
        assert_int_equal(kit_resolve(&s, &qn_ffn_moe, NULL, &g, &err), QN_OK);
        assert_int_equal(g.choice.origin, QN_ORIGIN_CONVERTED);
        assert_int_equal(g.choice.exactness, QN_EXACT);
        assert_true(number(&g.choice.part, "experts") == 4);
        assert_true(number(&g.choice.part, "experts_per_token") == 2);
        size_t replaced = 1, bytes = qn_ffn_moe.convert_bytes(&g, &w, &replaced);
        assert_int_equal(qn_ffn_moe.convert(&g, &w, &c, &err), QN_OK);
        assert_int_equal(replaced, 0);
        assert_int_equal(bytes, c.router.bytes);
        assert_int_equal(c.n_experts, 4);
        for (uint32_t e = 0; e < 4; e++) assert_ptr_equal(c.experts[e].up.data, n.w.up.data);
        assert_int_equal(qn_ffn_moe.row_weight_bytes(&g, &c), c.router.bytes + qn_ffn_matrices_bytes(&n.w));
        kit_run(&s, &f, &w, NULL, ROWS, x, a);
        kit_run(&s, &g, &c, NULL, ROWS, x, b);
        for (size_t j = 0; j < ROWS * D; j++) assert_true(a[j] == b[j]); /* in every bit */
        qn_ffn_moe.release(&c);
        qn_ffn_moe.release(&c);
        qn_mem_free(x);
        qn_mem_free(up);
        qn_mem_free(down);
        kit_net_free(&n);
    }
}

static void upcycling_asked_for(void **state) {
    (void)state;
    struct qn_ffn_member m = {.type = "geglu", .act = QN_ACT_GELU_ERF, .dim = DIM};
    struct qn_spec s = kit_spec(D, &m);
    static const struct {
        double experts, used;
        const char *name, *word;
        bool good;
    } cases[] = {
        {8, 3, NULL, NULL, true},
        {1, 1, NULL, NULL, true},
        {1, 2, NULL, NULL, false},
        {64, 64, NULL, NULL, true},
        {65, 2, NULL, NULL, false},
        {0, 1, NULL, NULL, false},
        {4, 5, NULL, NULL, false},
        {4, 2, "gating", "topk_softmax", true},
        {4, 2, "gating", "softmax_renorm", true},
        {4, 2, "gating", "softmax", false}, /* would be scaled */
        {4, 2, "expert", "geglu", true},
        {4, 2, "expert", "swiglu", false},
        {4, 2, "activation", "erf", true},
        {4, 2, "activation", "tanh", false},
        {4, 2, "size", "big", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct qn_part ask;
        struct qn_ffn f;
        struct qn_err err;
        qn_part_init(&ask, "moe");
        qn_part_add(&ask, "experts", QN_PARAM_INT, cases[i].experts);
        qn_part_add(&ask, "experts_per_token", QN_PARAM_INT, cases[i].used);
        if (cases[i].name) qn_part_add_text(&ask, cases[i].name, cases[i].word);
        int rc = kit_resolve(&s, &qn_ffn_moe, &ask, &f, &err);
        if (rc != (cases[i].good ? QN_OK : QN_ERR_INVALID)) fail_msg("case %zu: %d %s", i, rc, err.msg);
        if (rc) continue;
        assert_true(number(&f.choice.part, "experts") == cases[i].experts);
        if (cases[i].name)
            assert_string_equal(qn_part_find(&f.choice.part, cases[i].name)->text, cases[i].word);
    }
}

/* Another number of experts per token borrows everything, and gives nothing back that it doesn't own. */
static void other_number_borrows(void **state) {
    (void)state;
    struct shape s = {.expert = "swiglu", .experts = 6, .used = 2, .gating = QN_GATING_SOFTMAX};
    struct mixture *x = mixture_new(&s, 1600);
    struct qn_part ask;
    struct qn_ffn f;
    struct qn_err err;
    float out[ROWS * D];
    double want[D];
    qn_part_init(&ask, "moe");
    qn_part_add(&ask, "experts_per_token", QN_PARAM_INT, 5);
    assert_int_equal(kit_resolve(&x->spec, &qn_ffn_moe, &ask, &f, &err), QN_OK);
    assert_false(f.made); /* it runs with the checkpoint's own weights */
    kit_run(&x->spec, &f, &x->w, NULL, ROWS, x->x, out);
    x->m.used = 5;
    for (uint32_t r = 0; r < ROWS; r++)
        if (reference_row(x, x->x + r * D, want)) assert_true(kit_distance(out + r * D, want, D) < 1e-5);
    mixture_free(x);
}

int main(void) {
    qn_kernels_ensure();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_gating),
        cmocka_unit_test(every_expert_kind),
        cmocka_unit_test(shared_experts),
        cmocka_unit_test(sigmoid_with_bias_and_groups),
        cmocka_unit_test(one_expert_is_the_dense_ffn),
        cmocka_unit_test(identical_experts),
        cmocka_unit_test(a_is_b_but_not_c),
        cmocka_unit_test(all_experts_are_the_softmax_mixture),
        cmocka_unit_test(order_of_experts_is_no_matter),
        cmocka_unit_test(column_blocks_sum_to_the_dense_ffn),
        cmocka_unit_test(ties_and_unused_experts),
        cmocka_unit_test(one_expert_takes_all),
        cmocka_unit_test(extreme_logits),
        cmocka_unit_test(rows_are_independent),
        cmocka_unit_test(native_and_other_numbers_of_experts),
        cmocka_unit_test(costs_by_hand),
        cmocka_unit_test(upcycled_equals_its_source),
        cmocka_unit_test(upcycling_asked_for),
        cmocka_unit_test(other_number_borrows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
