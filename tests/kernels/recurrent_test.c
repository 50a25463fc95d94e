/* Kernels of fixed-size states: every level gives the reference's bits on random shapes between guard pages;
 * the reference agrees with double; a row's result doesn't depend on how many rows share the call. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "tests/support/guard.h"

struct buf { /* floats between guard pages, with a copy to start every level from */
    struct guarded g;
    float *p, *first, *want;
    size_t n;
};

static void buf_new(struct buf *b, struct rng *r, size_t n, bool at_end) {
    b->n = n;
    guarded_new(&b->g, n * sizeof(float), at_end);
    b->p = (float *)(void *)b->g.p;
    rng_fill(r, b->p, n);
    b->first = calloc(n + 1, 2 * sizeof(float));
    assert_non_null(b->first);
    b->want = b->first + n;
    memcpy(b->first, b->p, n * sizeof(float));
}

static void buf_restart(struct buf *b) {
    memcpy(b->p, b->first, b->n * sizeof(float));
}

static void buf_keep(struct buf *b) {
    memcpy(b->want, b->p, b->n * sizeof(float));
}

static void buf_check(struct buf *b, const struct rng *r, const char *what) {
    assert_true(same_floats(r, what, b->p, b->want, b->n));
}

static void buf_free(struct buf *b) {
    assert_true(guarded_free(&b->g));
    free(b->first);
}

static uint32_t size_of(struct rng *r, uint32_t max) { /* often a multiple of 8, 16 or 64 */
    static const uint32_t unit[] = {1, 1, 8, 16, 64};
    uint32_t u = unit[rng_below(r, 5)], n = 1 + rng_below(r, max);
    return n < u ? n : n / u * u;
}

/* --- mix --- */
static void mix_in_double(const struct qn_mix *m, const struct buf *y) {
    for (size_t r = 0; r < m->rows; r++) {
        for (size_t n = 0; n < m->cols; n++) {
            double was = m->start == QN_MIX_ZERO ? 0 : (double)y->first[r * m->ldy + n];
            if (m->start == QN_MIX_SCALE) was *= (double)m->scale[r];
            double size = fabs(was);
            for (size_t k = 0; k < m->depth; k++) {
                double p = (double)m->x[r * m->x_row + k * m->x_k] * (double)m->b[k * m->ldb + n];
                was += p;
                size += fabs(p);
            }
            assert_true(fabs(was - (double)m->y[r * m->ldy + n]) <= 1e-7 * (double)(m->depth + 4) * size);
        }
    }
}

static void mix_levels_agree(void **state) {
    (void)state;
    struct rng rng;
    rng_init(&rng);
    for (int round = 0; round < 300; round++) {
        struct qn_mix m = {.rows = 1 + rng_below(&rng, 21),
                           .depth = rng_below(&rng, 70),
                           .cols = size_of(&rng, 300),
                           .start = (enum qn_mix_start)(round % 3)};
        bool end = round & 4, across = round & 8; /* x column by column */
        m.x_row = across ? 1 : m.depth + rng_below(&rng, 3);
        m.x_k = across ? m.rows : 1;
        m.ldb = m.cols + rng_below(&rng, 3);
        m.ldy = m.cols + rng_below(&rng, 3);
        struct buf x, b, y, s;
        buf_new(&x, &rng, across ? m.depth * m.rows : (m.rows - 1) * m.x_row + m.depth, end);
        buf_new(&b, &rng, m.depth ? (m.depth - 1) * m.ldb + m.cols : 0, end);
        buf_new(&y, &rng, (m.rows - 1) * m.ldy + m.cols, end);
        buf_new(&s, &rng, m.rows, end);
        m.x = x.p;
        m.b = b.p;
        m.y = y.p;
        m.scale = s.p;
        for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
            struct qn_ops ops;
            qn_ops_fill(&ops, (enum qn_isa)isa);
            buf_restart(&y);
            ops.mix(&m);
            if (isa == 0) {
                mix_in_double(&m, &y);
                buf_keep(&y);
            }
            buf_check(&y, &rng, qn_isa_name((enum qn_isa)isa));
        }
        buf_free(&x);
        buf_free(&b);
        buf_free(&y);
        buf_free(&s);
    }
}

/* Rows one by one, and columns of another table width, give the bits of the whole. */
static void mix_rows_are_alone(void **state) {
    (void)state;
    struct rng rng;
    rng_init(&rng);
    for (int round = 0; round < 40; round++) {
        size_t rows = 1 + rng_below(&rng, 40), depth = 1 + rng_below(&rng, 100), cols = size_of(&rng, 260);
        struct buf x, b, y;
        buf_new(&x, &rng, rows * depth, false);
        buf_new(&b, &rng, depth * cols, false);
        buf_new(&y, &rng, rows * cols, false);
        struct qn_mix m = {.x = x.p,
                           .x_row = depth,
                           .x_k = 1,
                           .b = b.p,
                           .ldb = cols,
                           .y = y.p,
                           .ldy = cols,
                           .rows = rows,
                           .depth = depth,
                           .cols = cols,
                           .start = QN_MIX_ADD};
        qn_ops()->mix(&m);
        buf_keep(&y);
        buf_restart(&y);
        for (size_t r = 0; r < rows; r++) {
            struct qn_mix one = m;
            one.x += r * depth;
            one.y += r * cols;
            one.rows = 1;
            qn_ops()->mix(&one);
        }
        buf_check(&y, &rng, "one by one");
        buf_free(&x);
        buf_free(&b);
        buf_free(&y);
    }
}

static void dots_levels_agree(void **state) {
    (void)state;
    struct rng rng;
    rng_init(&rng);
    for (int round = 0; round < 100; round++) {
        size_t rows = 1 + rng_below(&rng, 17), n = size_of(&rng, 300), ldb = n + rng_below(&rng, 3);
        struct buf x, b, y;
        buf_new(&x, &rng, n, round & 1);
        buf_new(&b, &rng, (rows - 1) * ldb + n, round & 1);
        buf_new(&y, &rng, rows, round & 1);
        for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
            struct qn_ops ops;
            qn_ops_fill(&ops, (enum qn_isa)isa);
            buf_restart(&y);
            ops.dots(y.p, x.p, b.p, ldb, rows, n);
            if (isa == 0) buf_keep(&y);
            buf_check(&y, &rng, qn_isa_name((enum qn_isa)isa));
        }
        for (size_t i = 0; i < rows; i++) {
            double sum = 0, size = 0;
            for (size_t k = 0; k < n; k++) {
                double p = (double)x.p[k] * (double)b.p[i * ldb + k];
                sum += p;
                size += fabs(p);
            }
            assert_true(fabs(sum - (double)y.p[i]) <= 1e-7 * (double)(n + 4) * size);
        }
        buf_free(&x);
        buf_free(&b);
        buf_free(&y);
    }
}

static void softmax_levels_agree(void **state) {
    (void)state;
    struct rng rng;
    rng_init(&rng);
    for (int round = 0; round < 100; round++) {
        size_t n = size_of(&rng, 300);
        float scale = rng_float(&rng, 0.1f, 20), want = 0;
        struct buf x;
        buf_new(&x, &rng, n, round & 1);
        for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
            struct qn_ops ops;
            qn_ops_fill(&ops, (enum qn_isa)isa);
            buf_restart(&x);
            float sum = ops.softmax(x.p, n, scale);
            if (isa == 0) {
                buf_keep(&x);
                want = sum;
            }
            assert_true(sum == want);
            buf_check(&x, &rng, qn_isa_name((enum qn_isa)isa));
        }
        double top = -INFINITY, sum = 0;
        for (size_t i = 0; i < n; i++) top = fmax(top, (double)(x.first[i] * scale));
        for (size_t i = 0; i < n; i++) {
            double e = exp((double)(x.first[i] * scale) - top);
            sum += e;
            assert_true(fabs(e - (double)x.p[i]) <= 1e-6);
        }
        assert_true(fabs(sum - (double)want) <= 1e-5 * sum);
        buf_free(&x);
    }
}

/* --- positive random features --- */
struct favor {
    struct buf f, top, shrink, keys, z, weight;
    struct qn_favor a;
};

static void favor_new(struct favor *s, struct rng *rng, bool first, bool end) {
    size_t m = size_of(rng, 150);
    buf_new(&s->f, rng, m, end);
    buf_new(&s->top, rng, m, end);
    buf_new(&s->shrink, rng, m, end);
    buf_new(&s->keys, rng, m * QN_KV_BLOCK, end);
    buf_new(&s->z, rng, m, end);
    buf_new(&s->weight, rng, QN_KV_BLOCK, end);
    for (size_t j = 0; j < m; j++) {
        s->f.first[j] *= 10;
        s->top.first[j] = first ? -INFINITY : s->top.first[j] * 10;
        s->shrink.first[j] = first ? 1 : fabsf(s->shrink.first[j]);
        s->z.first[j] = first ? 0 : fabsf(s->z.first[j]);
    }
    for (size_t i = 0; i < m * QN_KV_BLOCK; i++) s->keys.first[i] = first ? 0 : fabsf(s->keys.first[i]);
    s->a = (struct qn_favor){.f = s->f.p,
                             .top = s->top.p,
                             .shrink = s->shrink.p,
                             .keys = s->keys.p,
                             .z = s->z.p,
                             .weight = s->weight.p,
                             .m = m,
                             .slot = rng_below(rng, QN_KV_BLOCK),
                             .scale = rng_float(rng, 0.2f, 1),
                             .minus = rng_float(rng, 0, 5)};
}

static struct buf *favor_buf(struct favor *s, int i) {
    struct buf *const all[] = {&s->f, &s->top, &s->shrink, &s->keys, &s->z, &s->weight};
    return all[i];
}

static void favor_levels_agree(void **state) {
    (void)state;
    struct rng rng;
    rng_init(&rng);
    for (int round = 0; round < 200; round++) {
        struct favor s;
        float want = 0;
        favor_new(&s, &rng, round & 2, round & 1);
        for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
            struct qn_ops ops;
            qn_ops_fill(&ops, (enum qn_isa)isa);
            for (int i = 0; i < 6; i++) buf_restart(favor_buf(&s, i));
            ops.favor_append(&s.a);
            buf_restart(&s.f); /* the query is another row */
            float den = ops.favor_read(&s.a);
            if (isa == 0) {
                want = den;
                for (int i = 0; i < 6; i++) buf_keep(favor_buf(&s, i));
            }
            assert_true(den == want);
            for (int i = 0; i < 6; i++) buf_check(favor_buf(&s, i), &rng, qn_isa_name((enum qn_isa)isa));
        }
        for (int i = 0; i < 6; i++) buf_free(favor_buf(&s, i));
    }
}

/* A block of tokens into an empty state: weights are sums of exp(query exponent + log feature), up to one
 * common factor, and the denominator is at least 1. */
static void favor_is_the_sum(void **state) {
    (void)state;
    enum { M = 37 };
    struct rng rng;
    rng_init(&rng);
    float f[M], top[M], shrink[M], keys[M * QN_KV_BLOCK] = {0}, z[M] = {0}, weight[QN_KV_BLOCK];
    double l[QN_KV_BLOCK][M];
    struct qn_favor a = {
        .f = f, .top = top, .shrink = shrink, .keys = keys, .z = z, .weight = weight, .m = M, .scale = 0.5f};
    for (int j = 0; j < M; j++) {
        top[j] = -INFINITY;
        shrink[j] = 1;
    }
    for (size_t t = 0; t < QN_KV_BLOCK; t++) {
        a.slot = t;
        a.minus = rng_float(&rng, 0, 3);
        for (int j = 0; j < M; j++) {
            f[j] = rng_float(&rng, -12, 12);
            l[t][j] = (double)f[j] * 0.5 - (double)a.minus;
        }
        qn_ops()->favor_append(&a);
        double want[QN_KV_BLOCK] = {0}, sum = 0;
        float den;
        rng_fill(&rng, f, M);
        for (size_t u = 0; u <= t; u++) {
            for (int j = 0; j < M; j++) want[u] += exp((double)f[j] * 0.5 + l[u][j]);
            sum += want[u];
        }
        den = qn_ops()->favor_read(&a);
        assert_true(den >= 0.9999f);
        for (size_t u = 0; u < QN_KV_BLOCK; u++)
            assert_true(fabs(want[u] / sum - (double)(weight[u] / den)) <= 2e-6);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mix_levels_agree),   cmocka_unit_test(mix_rows_are_alone),
        cmocka_unit_test(dots_levels_agree),  cmocka_unit_test(softmax_levels_agree),
        cmocka_unit_test(favor_levels_agree), cmocka_unit_test(favor_is_the_sum),
    };
    qn_kernels_ensure();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
