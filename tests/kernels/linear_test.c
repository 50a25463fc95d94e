/* Products: every type at every ISA level of this CPU gives the reference's bits, whatever M, split or thread
 * count, and touches nothing outside its arrays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "kernels/act.h"
#include "kernels/mem.h"
#include "tests/support/guard.h"

/* One product with everything it reads and writes between guard pages. */
struct product {
    struct rng rng;
    struct qn_matrix w;
    struct qn_act a;
    struct guarded gw, gx, gq, gb, gy;
    float *bias, *want;
    size_t ldy;
};

/* Extremes of high and low bytes throughout a block. */
static void set_extremes(struct qn_act_block *q, unsigned which) {
    static const int n[] = {QN_ACT_STEPS, -QN_ACT_STEPS, 0, 8, -8},
                     m[] = {-QN_ACT_STEPS, QN_ACT_STEPS - 9, 7, -8, 1};
    q->sum = 0;
    for (unsigned k = 0; k < 32; k += k % 8 == 3 ? 5 : 1) qn_act_split(q, k, n[which % 5], m[which / 5 % 5]);
    for (unsigned k = 0; k < 32; k++) {
        q->sum += qn_act_join(q, k);
        if (k < 16) q->first = q->sum;
    }
    q->scaled_sum = q->scale * (float)q->sum;
}

static void product_new(struct product *p, enum qn_type t, uint32_t rows, uint32_t cols, uint32_t m,
                        bool at_end) {
    size_t stride = qn_act_stride(cols), blocks = qn_act_blocks(cols), ldx = cols + rng_below(&p->rng, 3);
    random_matrix(&p->rng, t, rows, cols, &p->w, &p->gw, at_end);
    guarded_new(&p->gx, ((m - 1) * ldx + cols) * 4, at_end);
    guarded_new(&p->gq, ((m - 1) * stride + blocks) * sizeof *p->a.q, at_end);
    guarded_new(&p->gb, rows * 4, at_end);
    p->ldy = rows + rng_below(&p->rng, 5);
    guarded_new(&p->gy, ((m - 1) * p->ldy + rows) * 4, at_end);
    p->a = (struct qn_act){.x = (float *)(void *)p->gx.p, .ldx = ldx, .rows = m, .cols = cols};
    p->a.q = (struct qn_act_block *)(void *)p->gq.p;
    rng_fill(&p->rng, (float *)(void *)p->gx.p, p->gx.n / 4);
    p->bias = rng_below(&p->rng, 2) ? (float *)(void *)p->gb.p : NULL;
    rng_fill(&p->rng, (float *)(void *)p->gb.p, rows);
    for (uint32_t r = 0; r < m; r++) {
        struct qn_act_block *q = p->a.q + r * stride;
        qn_ops()->quantize_row(p->a.x + r * ldx, cols, q);
        if (r % 2 == 0) set_extremes(q, r / 2);
    }
    p->want = calloc(p->gy.n / 4, 4);
    assert_non_null(p->want);
}

static void product_free(struct product *p) {
    free(p->want);
    assert_true(guarded_free(&p->gw));
    assert_true(guarded_free(&p->gx));
    assert_true(guarded_free(&p->gq));
    assert_true(guarded_free(&p->gb));
    assert_true(guarded_free(&p->gy));
}

static void run(const struct qn_ops *ops, const struct product *p, struct qn_act a, float *y, uint32_t from,
                uint32_t to) {
    struct qn_linear_args args = {.w = &p->w, .a = &a, .bias = p->bias, .y = y, .ldy = p->ldy};
    args.panel_begin = from;
    args.panel_end = to;
    ops->linear[p->w.type](&args);
}

/* Gaps between rows of y must stay as they were. */
static bool gaps_kept(const struct product *p) {
    const uint8_t *y = p->gy.p;
    for (size_t i = 0; i < p->gy.n; i++) {
        if (i / 4 % p->ldy >= p->w.rows && y[i] != 0xa5) return false;
    }
    return true;
}

static bool rows_same(const struct product *p, const char *what, const float *got) {
    for (uint32_t m = 0; m < p->a.rows; m++) {
        if (!same_floats(&p->rng, what, got + m * p->ldy, p->want + m * p->ldy, p->w.rows)) return false;
    }
    return true;
}

static void check_levels(struct product *p) {
    uint32_t panels = (p->w.rows + QN_PANEL - 1) / QN_PANEL;
    float *y = (float *)(void *)p->gy.p;
    struct qn_ops ops;
    qn_ops_fill(&ops, QN_ISA_REF);
    run(&ops, p, p->a, p->want, 0, panels);
    for (int isa = QN_ISA_REF; isa <= (int)qn_cpu_isa(); isa++) {
        char what[96];
        snprintf(what, sizeof what, "%s %s [%u, %u] M=%u", qn_isa_name((enum qn_isa)isa),
                 qn_type_name(p->w.type), p->w.rows, p->w.cols, p->a.rows);
        qn_ops_fill(&ops, (enum qn_isa)isa);
        memset(y, 0xa5, p->gy.n);
        run(&ops, p, p->a, y, 0, panels);
        assert_true(rows_same(p, what, y));
        assert_true(gaps_kept(p));
        /* the same in two ranges of panels, and row by row */
        uint32_t cut = rng_below(&p->rng, panels + 1);
        memset(y, 0xa5, p->gy.n);
        run(&ops, p, p->a, y, cut, panels);
        run(&ops, p, p->a, y, 0, cut);
        assert_true(rows_same(p, what, y));
        uint32_t m = rng_below(&p->rng, p->a.rows);
        struct qn_act one = p->a;
        one.rows = 1;
        one.x += m * one.ldx;
        one.q += m * qn_act_stride(one.cols);
        memset(y + m * p->ldy, 0, p->w.rows * 4);
        run(&ops, p, one, y + m * p->ldy, 0, panels);
        assert_true(rows_same(p, what, y));
        assert_true(gaps_kept(p));
    }
}

static void levels_agree(void **state) {
    static const uint32_t rows[] = {1, 2, 7, 15, 16, 17, 31, 48, 61, 80, 97, 131};
    static const uint32_t ms[] = {1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 16, 23, 31, 70};
    struct product p;
    (void)state;
    rng_init(&p.rng);
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        uint32_t block = qn_type_block((enum qn_type)t);
        for (int round = 0; round < 16; round++) {
            uint32_t n = rows[rng_below(&p.rng, sizeof rows / sizeof *rows)];
            uint32_t m = ms[rng_below(&p.rng, sizeof ms / sizeof *ms)];
            uint32_t k = block == 256 ? 256 * (1 + rng_below(&p.rng, 3)) : block * (1 + rng_below(&p.rng, 9));
            if (block == 1) k = 1 + rng_below(&p.rng, 131);
            product_new(&p, (enum qn_type)t, n, k, m, round % 2);
            check_levels(&p);
            product_free(&p);
        }
        /* longer than the chunk of K for which row terms are kept */
        product_new(&p, (enum qn_type)t, 17, 2304, 3, true);
        check_levels(&p);
        product_free(&p);
    }
}

static void threads_agree(void **state) {
    struct rng rng;
    struct qn_pool *pool = qn_pool_new(2);
    (void)state;
    rng_init(&rng);
    assert_non_null(pool);
    qn_kernels_init(QN_ISA_COUNT - 1);
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        struct qn_matrix w;
        struct guarded g;
        enum { N = 700, K = 512, M = 5 };
        size_t bytes;
        float *x = qn_mem_alloc(M * K * 4), *y1 = qn_mem_alloc(M * N * 4), *y2 = qn_mem_alloc(M * N * 4);
        assert_true(qn_act_bytes(M, K, &bytes));
        void *mem = qn_mem_alloc(bytes);
        assert_true(x && y1 && y2 && mem);
        random_matrix(&rng, (enum qn_type)t, N, K, &w, &g, true);
        rng_fill(&rng, x, M * K);
        struct qn_act a = {.x = x, .ldx = K, .rows = M, .cols = K};
        qn_act_quantize(NULL, &a, mem);
        qn_linear(NULL, &w, &a, NULL, y1, N);
        memset(mem, 0, bytes);
        qn_act_quantize(pool, &a, mem);
        qn_linear(pool, &w, &a, NULL, y2, N);
        assert_true(same_floats(&rng, qn_type_name((enum qn_type)t), y2, y1, M * N));
        qn_mem_free(x);
        qn_mem_free(y1);
        qn_mem_free(y2);
        qn_mem_free(mem);
        assert_true(guarded_free(&g));
    }
    qn_pool_free(&pool);
}

/* Products side by side, and a hidden layer, have the bits of their steps one after the other. */
struct side {
    struct qn_matrix w[3];
    struct guarded g[3];
    float *bias[3], *y[3], *want[3];
};

static void side_new(struct rng *rng, struct side *s, const enum qn_type *t, const uint32_t *n, uint32_t k,
                     uint32_t rows) {
    for (int i = 0; i < 3; i++) {
        random_matrix(rng, t[i], n[i], k, &s->w[i], &s->g[i], true);
        s->bias[i] = qn_mem_alloc(n[i] * 4);
        s->y[i] = qn_mem_alloc((size_t)rows * n[i] * 4);
        s->want[i] = qn_mem_alloc((size_t)rows * n[i] * 4);
        assert_true(s->bias[i] && s->y[i] && s->want[i]);
        rng_fill(rng, s->bias[i], n[i]);
    }
}

static void side_free(struct side *s) {
    for (int i = 0; i < 3; i++) {
        qn_mem_free(s->bias[i]);
        qn_mem_free(s->y[i]);
        qn_mem_free(s->want[i]);
        assert_true(guarded_free(&s->g[i]));
    }
}

static struct qn_act act_new(struct rng *rng, uint32_t rows, uint32_t cols) {
    size_t bytes = 0, n = (size_t)rows * cols;
    float *x = qn_mem_alloc(n * 4);
    assert_true(x && qn_act_bytes(rows, cols, &bytes));
    void *mem = qn_mem_alloc(bytes);
    assert_non_null(mem);
    rng_fill(rng, x, n);
    struct qn_act a = {.x = x, .ldx = cols, .rows = rows, .cols = cols};
    qn_act_quantize(NULL, &a, mem);
    return a;
}

static void act_free(struct qn_act *a) {
    qn_mem_free((void *)(uintptr_t)a->x);
    qn_mem_free(a->q);
}

static const uint32_t side_rows[] = {1, 2, 5, 17, 70};

static void products_side_by_side(void **state) {
    struct rng rng;
    struct qn_pool *pools[2] = {NULL, qn_pool_new(3)};
    (void)state;
    rng_init(&rng);
    assert_non_null(pools[1]);
    for (int round = 0; round < 40; round++) {
        struct side s;
        enum qn_type t[3];
        uint32_t n[3], rows = side_rows[round % 5], k = 32 * (1 + rng_below(&rng, 20));
        for (int i = 0; i < 3; i++) {
            t[i] = rng_below(&rng, 2) ? QN_F32 : QN_Q8_0;
            n[i] = 1 + rng_below(&rng, 400);
        }
        side_new(&rng, &s, t, n, k, rows);
        struct qn_act a = act_new(&rng, rows, k);
        struct qn_product p[3];
        for (int i = 0; i < 3; i++) {
            p[i] = (struct qn_product){&s.w[i], i ? s.bias[i] : NULL, s.y[i], n[i]};
            qn_linear(NULL, p[i].w, &a, p[i].bias, s.want[i], n[i]);
        }
        qn_linear_all(pools[round / 5 % 2], p, 3, &a);
        for (int i = 0; i < 3; i++)
            assert_true(same_floats(&rng, "side by side", s.y[i], s.want[i], rows * n[i]));
        act_free(&a);
        side_free(&s);
    }
    qn_pool_free(&pools[1]);
}

/* want[0] = f(..) of the unfused steps. */
static void unfused(const struct qn_hidden *h, const struct qn_act *a, struct side *s) {
    size_t all = (size_t)a->rows * h->up->rows;
    qn_linear(NULL, h->up, a, h->b_up, s->want[1], h->up->rows);
    if (h->gate) {
        qn_linear(NULL, h->gate, a, h->b_gate, s->want[0], h->up->rows);
        qn_ops()->gated(s->want[0], s->want[0], s->want[1], all, h->act);
    } else {
        qn_ops()->activate(s->want[0], s->want[1], all, h->act);
    }
}

static void hidden_layers(void **state) {
    struct rng rng;
    struct qn_pool *pools[2] = {NULL, qn_pool_new(3)};
    (void)state;
    rng_init(&rng);
    assert_non_null(pools[1]);
    for (int round = 0; round < 60; round++) {
        struct side s;
        enum qn_type one = round % 3 ? QN_Q4_0 : QN_F32;
        uint32_t dim = 1 + rng_below(&rng, 700), rows = side_rows[round % 5];
        uint32_t k = 32 * (1 + rng_below(&rng, 20));
        side_new(&rng, &s, (enum qn_type[]){one, one, one}, (uint32_t[]){dim, dim, dim}, k, rows);
        struct qn_act a = act_new(&rng, rows, k), out = act_new(&rng, rows, dim),
                      want = act_new(&rng, rows, dim);
        struct qn_hidden h = {
            .up = &s.w[1], .g = s.y[0], .u = s.y[1], .act = (enum qn_act_fn)(round % QN_ACT_COUNT)};
        if (round % 2) h.gate = &s.w[0];
        if (round % 4 > 1) h.b_gate = s.bias[0];
        if (round % 8 > 3) h.b_up = s.bias[1];
        unfused(&h, &a, &s);
        struct qn_act ref = {.x = s.want[0], .ldx = dim, .rows = rows, .cols = dim};
        qn_act_quantize(NULL, &ref, want.q);
        qn_linear_hidden(pools[round / 5 % 2], &h, &a, &out);
        for (uint32_t r = 0; r < rows; r++) {
            size_t at = r * qn_act_stride(dim);
            assert_memory_equal(out.q + at, ref.q + at, qn_act_blocks(dim) * sizeof *ref.q);
        }
        struct qn_act floats = {.x = h.g, .ldx = dim, .rows = rows, .cols = dim};
        qn_linear_hidden(pools[round / 5 % 2], &h, &a, &floats);
        assert_true(same_floats(&rng, "hidden", h.g, s.want[0], rows * dim));
        act_free(&a);
        act_free(&out);
        act_free(&want);
        side_free(&s);
    }
    qn_pool_free(&pools[1]);
}

/* Against a sum in double over dequantised weights and activations: the reference itself is right. */
static void reference_is_a_product(void **state) {
    struct rng rng;
    (void)state;
    rng_init(&rng);
    qn_kernels_init(QN_ISA_REF);
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        enum { N = 33, K = 512 };
        struct qn_matrix w;
        struct guarded g;
        static float x[K], row[K], y[N];
        size_t bytes;
        assert_true(qn_act_bytes(1, K, &bytes));
        void *mem = qn_mem_alloc(bytes);
        assert_non_null(mem);
        random_matrix(&rng, (enum qn_type)t, N, K, &w, &g, true);
        rng_fill(&rng, x, K);
        struct qn_act a = {.x = x, .ldx = K, .rows = 1, .cols = K};
        qn_act_quantize(NULL, &a, mem);
        qn_linear(NULL, &w, &a, NULL, y, N);
        for (uint32_t n = 0; n < N; n++) {
            double sum = 0, size = 0;
            qn_matrix_get_row(&w, n, row);
            for (int k = 0; k < K; k++) {
                double v = qn_type_wants_int((enum qn_type)t)
                               ? (double)a.q[k / 32].scale * qn_act_join(&a.q[k / 32], (unsigned)k % 32)
                           : t == QN_BF16 ? (double)qn_bf16_to_f32(qn_f32_to_bf16(x[k]))
                                          : (double)x[k];
                sum += v * (double)row[k];
                size += fabs(v * (double)row[k]);
            }
            assert_true(fabs(sum - (double)y[n]) <= 1e-5 * size + 1e-12);
        }
        qn_mem_free(mem);
        assert_true(guarded_free(&g));
    }
    qn_kernels_init(QN_ISA_COUNT - 1);
}

/* A NaN or infinity in an activation must reach the outputs of quantised products too. */
static void broken_activations_show(void **state) {
    struct rng rng;
    (void)state;
    rng_init(&rng);
    for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
        struct qn_matrix w;
        struct guarded g;
        float x[64], y[16];
        size_t bytes;
        qn_kernels_init((enum qn_isa)isa);
        assert_true(qn_act_bytes(1, 64, &bytes));
        void *mem = qn_mem_alloc(bytes);
        assert_non_null(mem);
        random_matrix(&rng, QN_Q8_0, 16, 64, &w, &g, true);
        for (int bad = 0; bad < 2; bad++) {
            rng_fill(&rng, x, 64);
            x[40] = bad ? INFINITY : NAN;
            struct qn_act a = {.x = x, .ldx = 64, .rows = 1, .cols = 64};
            qn_act_quantize(NULL, &a, mem);
            qn_linear(NULL, &w, &a, NULL, y, 16);
            for (int i = 0; i < 16; i++) assert_true(isnan(y[i]));
        }
        qn_mem_free(mem);
        assert_true(guarded_free(&g));
    }
    qn_kernels_init(QN_ISA_COUNT - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_agree),           cmocka_unit_test(threads_agree),
        cmocka_unit_test(products_side_by_side),  cmocka_unit_test(hidden_layers),
        cmocka_unit_test(reference_is_a_product), cmocka_unit_test(broken_activations_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
