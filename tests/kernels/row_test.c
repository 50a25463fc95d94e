/* Row operations: every level gives the reference's bits on any length, and the reference agrees with libm in
 * double within the tolerances named here. */
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
#include "kernels/ref/ref.h"
#include "tests/support/guard.h"

#define EXP_ULP        2.0  /* of exp, in units of the last place */
#define ACT_TOLERANCE  4e-7 /* of activations, relative to max(|x|, 1e-3) */
#define NORM_TOLERANCE 2e-6 /* of norms, relative to the largest output */
#define LSE_TOLERANCE  1e-5 /* of log-sum-exp, absolute, at |x| <= 30 */

static const size_t lengths[] = {1,  2,  3,  7,  8,  9,  15,  16,  17,  31,
                                 32, 33, 47, 63, 64, 65, 127, 131, 576, 577};
#define LENGTHS (sizeof lengths / sizeof *lengths)

/* Input arrays and an output between guard pages. */
struct rows {
    struct rng rng;
    struct guarded g[4];
    float *x, *y, *u, *v;
    size_t n;
};

static void rows_new(struct rows *r, size_t n, bool at_end) {
    for (int i = 0; i < 4; i++) guarded_new(&r->g[i], n * 4, at_end);
    r->x = (float *)(void *)r->g[0].p;
    r->y = (float *)(void *)r->g[1].p;
    r->u = (float *)(void *)r->g[2].p;
    r->v = (float *)(void *)r->g[3].p;
    r->n = n;
    rng_fill(&r->rng, r->x, n);
    rng_fill(&r->rng, r->u, n);
    rng_fill(&r->rng, r->v, n);
}

static void rows_free(struct rows *r) {
    for (int i = 0; i < 4; i++) assert_true(guarded_free(&r->g[i]));
}

enum op {
    RMSNORM,
    LAYERNORM,
    LAYERNORM_PLAIN,
    ADD,
    SCALE,
    ROPE,
    GATED,
    ACTIVATE,
    OPS = ACTIVATE + QN_ACT_COUNT
};

/* Runs one operation into r->y; in place where the contract allows it. */
static void apply(const struct qn_ops *ops, const struct rows *r, int op) {
    memcpy(r->y, r->x, r->n * 4);
    switch (op) {
    case RMSNORM:
        ops->rmsnorm(r->y, r->y, r->u, r->n, 1e-5f);
        break;
    case LAYERNORM:
        ops->layernorm(r->y, r->x, r->u, r->v, r->n, 1e-5f);
        break;
    case LAYERNORM_PLAIN:
        ops->layernorm(r->y, r->y, r->u, NULL, r->n, 1e-5f);
        break;
    case ADD:
        ops->add(r->y, r->u, r->n);
        break;
    case SCALE:
        ops->scale(r->y, 0.7f, r->n);
        break;
    case ROPE:
        ops->rope(r->y, 1, r->n, r->n & ~(size_t)1, r->u);
        break;
    case GATED:
        ops->gated(r->y, r->y, r->u, r->n, QN_ACT_SILU);
        break;
    default:
        ops->activate(r->y, r->x, r->n, (enum qn_act_fn)(op - ACTIVATE));
        break;
    }
}

static void levels_agree(void **state) {
    struct rows r;
    (void)state;
    rng_init(&r.rng);
    for (size_t i = 0; i < 2 * LENGTHS; i++) {
        rows_new(&r, lengths[i / 2], i % 2);
        if (i % 4 == 3) { /* large arguments: both ends of exp's range */
            for (size_t k = 0; k < r.n; k++) r.x[k] *= 60;
        }
        float *want = calloc(r.n, 4);
        assert_non_null(want);
        for (int op = 0; op < OPS; op++) {
            for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
                struct qn_ops ops;
                char what[64];
                qn_ops_fill(&ops, (enum qn_isa)isa);
                apply(&ops, &r, op);
                if (isa == 0) memcpy(want, r.y, r.n * 4);
                snprintf(what, sizeof what, "op %d n %zu %s", op, r.n, qn_isa_name((enum qn_isa)isa));
                assert_true(same_floats(&r.rng, what, r.y, want, r.n));
            }
        }
        free(want);
        rows_free(&r);
    }
}

static void rope_leaves_the_rest(void **state) {
    struct rng rng;
    (void)state;
    rng_init(&rng);
    for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
        float x[3 * 40], y[3 * 40], cs[24];
        struct qn_ops ops;
        qn_ops_fill(&ops, (enum qn_isa)isa);
        rng_fill(&rng, x, 120);
        for (int i = 0; i < 12; i++) {
            cs[i] = cosf((float)i);
            cs[12 + i] = sinf((float)i);
        }
        memcpy(y, x, sizeof x);
        ops.rope(y, 3, 40, 24, cs);
        for (int h = 0; h < 3; h++) {
            for (int i = 0; i < 12; i++) {
                double a = (double)x[40 * h + i], b = (double)x[40 * h + 12 + i], c = (double)cs[i],
                       s = (double)cs[12 + i];
                assert_true(fabs(a * c - b * s - (double)y[40 * h + i]) < 1e-6);
                assert_true(fabs(b * c + a * s - (double)y[40 * h + 12 + i]) < 1e-6);
            }
            assert_memory_equal(x + 40 * h + 24, y + 40 * h + 24, 16 * 4);
        }
    }
}

/* What the reference made of n values (or more: the first 32). */
static void check_block(const struct qn_act_block *q, const float *x, size_t n) {
    double s = (double)q->scale;
    int sum = 0;
    for (unsigned k = 0; k < 32; k++) {
        int v = qn_act_join(q, k);
        sum += v;
        if (k == 15) assert_int_equal(q->first, sum);
        assert_in_range(v + QN_ACT_MAX + 8, 0, 2 * (QN_ACT_MAX + 8));
        if (k >= n) { /* the byte it shares may not leave it 0 */
            assert_in_range(v + 8, 0, 16);
        } else if (s > 0) { /* 1.5 float roundings of up to 2^11 steps of 16 come on top of the half step */
            assert_true(fabs((double)x[k] - s * v) <= 16 * 0.501 * s);
        }
    }
    assert_int_equal(q->sum, sum);
}

static void quantise_agrees(void **state) {
    struct rng rng;
    (void)state;
    rng_init(&rng);
    for (size_t i = 0; i < 2 * LENGTHS; i++) {
        size_t n = lengths[i / 2], blocks = (n + 31) / 32;
        struct guarded gx, gq;
        struct qn_act_block *want = calloc(blocks, sizeof *want), *got;
        assert_non_null(want);
        guarded_new(&gx, n * 4, i % 2);
        guarded_new(&gq, blocks * sizeof *want, i % 2);
        got = (struct qn_act_block *)(void *)gq.p;
        float *x = (float *)(void *)gx.p;
        rng_fill(&rng, x, n);
        if (n > 40) {
            for (int k = 0; k < 32; k++) x[k] = i % 3 ? 0.0f : 1e-38f;
            x[33] = -300.0f;
        }
        if (n > 100) x[70] = i % 2 ? NAN : -INFINITY;
        for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
            struct qn_ops ops;
            qn_ops_fill(&ops, (enum qn_isa)isa);
            ops.quantize_row(x, n, got);
            if (isa == 0) memcpy(want, got, blocks * sizeof *want);
            for (size_t b = 0; b < blocks; b++) { /* NaN may have any bits */
                assert_true(same_floats(&rng, "scale", &got[b].scale, &want[b].scale, 1));
                assert_true(same_floats(&rng, "scaled sum", &got[b].scaled_sum, &want[b].scaled_sum, 1));
                got[b].scale = want[b].scale;
                got[b].scaled_sum = want[b].scaled_sum;
            }
            assert_memory_equal(want, got, blocks * sizeof *want);
        }
        for (size_t b = 0; b < blocks; b++) check_block(&want[b], x + 32 * b, n - 32 * b);
        free(want);
        assert_true(guarded_free(&gx));
        assert_true(guarded_free(&gq));
    }
}

static void exp_is_close(void **state) {
    (void)state;
    for (double x = -87.2; x < 88.3; x += 0.00317) {
        float f = (float)x, got = qn_exp1(f);
        double want = exp((double)f), ulp = ldexp(1, ilogb(want) - 23);
        assert_true(fabs((double)got - want) <= EXP_ULP * ulp);
    }
    assert_true(qn_exp1(0.0f) == 1.0f); /* the shrink factor of an unchanged maximum */
    assert_true(qn_exp1(-INFINITY) == 0.0f);
    assert_true(qn_exp1(-1e30f) == 0.0f);
    assert_true(isinf(qn_exp1(1000.0f)));
    assert_true(isnan(qn_exp1(NAN)));
}

static double act_double(double x, enum qn_act_fn f) {
    switch (f) {
    case QN_ACT_RELU:
        return x > 0 ? x : 0;
    case QN_ACT_GELU_ERF:
        return 0.5 * x * erfc(-x / sqrt(2.0));
    case QN_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
    case QN_ACT_SILU:
        return x / (1 + exp(-x));
    case QN_ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    default:
        return x;
    }
}

static void activations_are_right(void **state) {
    (void)state;
    for (int f = 0; f < QN_ACT_COUNT; f++) {
        for (double x = -30; x < 30; x += 0.00713) {
            double want = act_double((double)(float)x, (enum qn_act_fn)f);
            double got = (double)qn_act1((float)x, (enum qn_act_fn)f);
            double size = f == QN_ACT_SIGMOID ? 1 : fmax(fabs(x), 1e-3);
            assert_true(fabs(want - got) <= ACT_TOLERANCE * size);
        }
    }
}

static void norms_are_right(void **state) {
    struct rows r;
    (void)state;
    rng_init(&r.rng);
    for (size_t i = 3; i < LENGTHS; i++) {
        double sum = 0, squares = 0, var = 0;
        rows_new(&r, lengths[i], true);
        for (size_t k = 0; k < r.n; k++) sum += (double)r.x[k];
        for (size_t k = 0; k < r.n; k++) squares += (double)r.x[k] * (double)r.x[k];
        for (size_t k = 0; k < r.n; k++) var += pow((double)r.x[k] - sum / (double)r.n, 2);
        double rms = sqrt(squares / (double)r.n + 1e-5), dev = sqrt(var / (double)r.n + 1e-5);
        qn_ref_rmsnorm(r.y, r.x, r.u, r.n, 1e-5f);
        for (size_t k = 0; k < r.n; k++) {
            assert_true(fabs((double)r.x[k] / rms * (double)r.u[k] - (double)r.y[k]) < 8 * NORM_TOLERANCE);
        }
        qn_ref_layernorm(r.y, r.x, r.u, r.v, r.n, 1e-5f);
        for (size_t k = 0; k < r.n; k++) {
            double want = ((double)r.x[k] - sum / (double)r.n) / dev * (double)r.u[k] + (double)r.v[k];
            assert_true(fabs(want - (double)r.y[k]) < 8 * NORM_TOLERANCE);
        }
        rows_free(&r);
    }
}

static void logsumexp_agrees(void **state) {
    struct rows r;
    (void)state;
    rng_init(&r.rng);
    for (size_t i = 0; i < 2 * LENGTHS; i++) {
        rows_new(&r, lengths[i / 2], i % 2);
        for (size_t k = 0; k < r.n; k++) r.x[k] *= 15;
        if (r.n > 9) r.x[r.n - 1] = r.x[4] = 31; /* the first of equal maxima counts */
        double sum = 0, top = (double)r.x[0];
        size_t at = 0;
        for (size_t k = 1; k < r.n; k++) {
            if ((double)r.x[k] > top) {
                top = (double)r.x[k];
                at = k;
            }
        }
        for (size_t k = 0; k < r.n; k++) sum += exp((double)r.x[k] - top);
        float want = qn_ref_logsumexp(r.x, r.n, NULL);
        assert_true(fabs(top + log(sum) - (double)want) < LSE_TOLERANCE);
        for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
            struct qn_ops ops;
            size_t got_at = r.n;
            qn_ops_fill(&ops, (enum qn_isa)isa);
            float got = ops.logsumexp(r.x, r.n, &got_at);
            assert_true(same_floats(&r.rng, "logsumexp", &got, &want, 1));
            assert_int_equal(got_at, at);
        }
        rows_free(&r);
    }
}

/* Broken logits must give an index inside the row at every level. */
static void logsumexp_survives_nan(void **state) {
    (void)state;
    for (int isa = 0; isa <= (int)qn_cpu_isa(); isa++) {
        float x[37];
        size_t at = 99;
        struct qn_ops ops;
        qn_ops_fill(&ops, (enum qn_isa)isa);
        for (int k = 0; k < 37; k++) x[k] = NAN;
        ops.logsumexp(x, 37, &at);
        assert_int_equal(at, 0);
        x[20] = 1;
        ops.logsumexp(x, 37, &at);
        assert_int_equal(at, 20);
        for (int k = 0; k < 37; k++) x[k] = -INFINITY;
        ops.logsumexp(x, 37, &at);
        assert_int_equal(at, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels_agree),          cmocka_unit_test(rope_leaves_the_rest),
        cmocka_unit_test(quantise_agrees),       cmocka_unit_test(exp_is_close),
        cmocka_unit_test(activations_are_right), cmocka_unit_test(norms_are_right),
        cmocka_unit_test(logsumexp_agrees),      cmocka_unit_test(logsumexp_survives_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
