/* Performer against its definition: the running recurrence equals the quadratic sum in double for every
 * option, V = 1 gives 1, constants added to key exponents cancel, the output is linear in V; bits don't
 * depend on chunks, threads or neighbours; the directions have the distribution that makes the kernel's
 * estimate unbiased, and its variance and error follow the laws. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "model/attention/features.h"
#include "tests/support/recurrent.h"

#define TOLERANCE 1e-5

static const struct qn_attn_member mqa_like = {.type = "performer", .kv_heads = 1, .features = 40};
static const struct qn_attn_member native = {.type = "performer", .kv_heads = 2, .features = 48};
static const struct qn_attn_member relu = {.type = "performer", .kv_heads = 4, .features = 37, .relu = true};
static const struct qn_attn_member softmax = {.type = "gqa", .kv_heads = 2};

static struct qn_part ask(const char *type) {
    struct qn_part p;
    qn_part_init(&p, type);
    return p;
}

/* --- the definition, in double --- */
static double log_feature(const struct qn_att *t, size_t g, size_t j, const float *x, bool key) {
    size_t dh = t->a.head_dim, n = (size_t)t->a.arg[0], at = j % n;
    const float *w = t->w.features + (t->w.proj_heads > 1 ? g * dh * n : 0);
    double s = sqrt(1.0 / sqrt((double)dh)), dot = 0, square = 0;
    for (size_t d = 0; d < dh; d++) {
        dot += (double)w[d * n + at] * (double)x[d] * s;
        square += (double)x[d] * (double)x[d] * s * s;
    }
    if (j >= n) dot = -dot;
    return key ? dot - square / 2 : dot;
}

/* Weight of key k for query q, times exp(shift). */
static double kernel(const struct qn_att *t, size_t m, bool is_relu, const double *q, const double *k,
                     double shift) {
    double sum = 0;
    for (size_t j = 0; j < m; j++)
        sum += is_relu ? (fmax(q[j], 0) + 1e-3) * (fmax(k[j], 0) + 1e-3) : exp(q[j] + k[j] + shift);
    (void)t;
    return sum;
}

static void reference(const struct qn_att *t, const struct qn_att_seq *s, double shift, double *out) {
    const struct qn_attention *a = &t->a;
    bool hyper = qn_part_find(&a->choice.part, "hyperbolic")->value != 0;
    bool is_relu = qn_part_find(&a->choice.part, "relu")->value != 0;
    size_t m = (size_t)a->arg[0] * (hyper ? 2 : 1), dh = a->head_dim, group = a->heads / a->kv_heads;
    double *fq = calloc(m, sizeof *fq), *fk = calloc(s->n * m, sizeof *fk);
    assert_true(fq && fk);
    for (size_t h = 0; h < a->heads; h++) {
        size_t g = h / group;
        for (size_t i = 0; i < s->n * m; i++)
            fk[i] = log_feature(t, g, i % m, s->k + (i / m * a->kv_heads + g) * dh, !is_relu);
        for (size_t r = 0; r < s->n; r++) {
            double den = 0, *o = out + (r * a->heads + h) * dh;
            memset(o, 0, dh * sizeof *o);
            for (size_t j = 0; j < m; j++)
                fq[j] = log_feature(t, g, j, s->q + (r * a->heads + h) * dh, false);
            for (size_t i = 0; i < (a->causal ? r + 1 : s->n); i++) {
                double w = kernel(t, m, is_relu, fq, fk + i * m, shift);
                den += w;
                for (size_t d = 0; d < dh; d++) o[d] += w * (double)s->v[(i * a->kv_heads + g) * dh + d];
            }
            for (size_t d = 0; d < dh; d++) o[d] /= den;
        }
    }
    free(fq);
    free(fk);
}

static void check_against_definition(const struct qn_attn_member *m, const struct qn_part *p,
                                     const struct qn_att_shape *shape, double std) {
    struct rng rng;
    struct qn_att t;
    rng_init(&rng);
    qn_att_open(&t, &rng, m, shape, p, 2);
    uint32_t n = 75;
    struct qn_att_seq *s = qn_att_seq_new(&t, &rng, n, std);
    size_t all = (size_t)n * t.a.heads * t.a.head_dim;
    double *want = calloc(all, sizeof *want);
    assert_non_null(want);
    qn_att_chunks(&t, s, t.a.causal ? 7 : n);
    reference(&t, s, 0, want);
    assert_true(qn_att_error(s->out, want, all) <= TOLERANCE);
    reference(&t, s, 3, want); /* a constant in every key's exponent cancels */
    assert_true(qn_att_error(s->out, want, all) <= TOLERANCE);
    free(want);
    qn_att_seq_free(s);
    qn_att_close(&t);
}

static void equals_the_quadratic_sum(void **state) {
    (void)state;
    static const struct qn_att_shape small = {4, 16, 512}, wide = {4, 64, 512}, odd = {2, 24, 512};
    check_against_definition(&native, NULL, &small, 1);
    check_against_definition(&native, NULL, &wide, 3); /* sharp: a common maximum would underflow */
    check_against_definition(&mqa_like, NULL, &odd, 1);
    check_against_definition(&relu, NULL, &small, 1);
    struct qn_part p = ask("performer");
    check_against_definition(&softmax, &p, &small, 1);
    qn_part_add(&p, "features", QN_PARAM_INT, 33);
    qn_part_add(&p, "hyperbolic", QN_PARAM_BOOL, 1);
    check_against_definition(&softmax, &p, &small, 1);
    qn_part_add(&p, "orthogonal", QN_PARAM_BOOL, 0);
    qn_part_add(&p, "causal", QN_PARAM_BOOL, 0);
    check_against_definition(&native, &p, &small, 1);
    p = ask("performer");
    qn_part_add(&p, "causal", QN_PARAM_BOOL, 0);
    check_against_definition(&relu, &p, &small, 1);
    check_against_definition(&native, &p, &wide, 2);
}

/* --- bits --- */
static void same_bits_however_it_runs(void **state) {
    (void)state;
    static const struct qn_attn_member *const members[] = {&native, &relu, &mqa_like};
    static const uint32_t chunks[] = {1, 3, 15, 16, 17, 32, 33, 64, 150};
    static const struct qn_att_shape shape = {4, 24, 512};
    for (size_t i = 0; i < 3; i++) {
        struct rng rng;
        struct qn_att t, one;
        rng_init(&rng);
        qn_att_open(&t, &rng, members[i], &shape, NULL, 3);
        rng_init(&rng);
        qn_att_open(&one, &rng, members[i], &shape, NULL, 1);
        struct qn_att_seq *s = qn_att_seq_new(&t, &rng, 150, 1), *other = qn_att_seq_new(&t, &rng, 150, 2);
        qn_att_chunks(&one, s, 150);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            struct qn_att_seq *u = qn_att_seq_copy(&t, s), *pair[2];
            other->done = 0;
            while (u->done < u->n) { /* with a neighbour before or behind it, at its own position */
                uint32_t left = u->n - u->done, n[2];
                bool first = rng_below(&rng, 2);
                pair[first ? 0 : 1] = u;
                pair[first ? 1 : 0] = other;
                n[first ? 0 : 1] = left < chunks[c] ? left : chunks[c];
                n[first ? 1 : 0] = other->n - other->done > 5 ? 5 : 1;
                if (other->done == other->n) other->done = 0;
                qn_att_step(&t, pair, n, 2);
            }
            assert_memory_equal(u->out, s->out, (size_t)s->n * 4 * 24 * sizeof(float));
            assert_memory_equal(u->fixed, s->fixed, s->fixed_bytes);
            qn_att_seq_free(u);
        }
        qn_att_seq_free(s);
        qn_att_seq_free(other);
        qn_att_close(&t);
        qn_att_close(&one);
    }
}

/* --- identities --- */
static void ones_give_one(void **state) {
    (void)state;
    static const struct qn_att_shape shape = {4, 32, 512};
    struct rng rng;
    struct qn_att t;
    rng_init(&rng);
    qn_att_open(&t, &rng, &native, &shape, NULL, 1);
    struct qn_att_seq *s = qn_att_seq_new(&t, &rng, 100, 2);
    for (size_t i = 0; i < (size_t)100 * 2 * 32; i++) s->v[i] = 1;
    qn_att_chunks(&t, s, 9);
    for (size_t i = 0; i < (size_t)100 * 4 * 32; i++) assert_true(fabsf(s->out[i] - 1) <= 4e-6f);
    qn_att_seq_free(s);
    qn_att_close(&t);
}

static void linear_in_values(void **state) {
    (void)state;
    static const struct qn_att_shape shape = {2, 16, 512};
    struct rng rng;
    struct qn_att t;
    rng_init(&rng);
    qn_att_open(&t, &rng, &native, &shape, NULL, 1);
    struct qn_att_seq *a = qn_att_seq_new(&t, &rng, 60, 1), *b = qn_att_seq_copy(&t, a),
                      *sum = qn_att_seq_copy(&t, a);
    for (size_t i = 0; i < (size_t)60 * 2 * 16; i++) {
        b->v[i] = rng_float(&rng, -1, 1);
        sum->v[i] = 2 * a->v[i] - 3 * b->v[i];
    }
    qn_att_chunks(&t, a, 60);
    qn_att_chunks(&t, b, 60);
    qn_att_chunks(&t, sum, 60);
    for (size_t i = 0; i < (size_t)60 * 2 * 16; i++)
        assert_true(fabsf(sum->out[i] - (2 * a->out[i] - 3 * b->out[i])) <= 3e-5f);
    qn_att_seq_free(a);
    qn_att_seq_free(b);
    qn_att_seq_free(sum);
    qn_att_close(&t);
}

/* After 20,000 tokens the sums are as good as after 100: a state that holds many equal tokens still gives
 * their value. */
static void no_drift(void **state) {
    (void)state;
    static const struct qn_att_shape shape = {1, 16, 32768};
    static const struct qn_attn_member m = {.type = "performer", .kv_heads = 1, .features = 32};
    struct rng rng;
    struct qn_att t;
    rng_init(&rng);
    qn_att_open(&t, &rng, &m, &shape, NULL, 1);
    struct qn_att_seq *s = qn_att_seq_new(&t, &rng, 20000, 1);
    for (size_t i = 0; i < (size_t)20000 * 16; i++) s->v[i] = 1;
    qn_att_chunks(&t, s, 512);
    for (size_t i = (size_t)19000 * 16; i < (size_t)20000 * 16; i++)
        assert_true(fabsf(s->out[i] - 1) <= 2e-5f);
    qn_att_seq_free(s);
    qn_att_close(&t);
}

/* --- statistics of the directions --- */
static void draw(uint64_t seed, uint32_t dh, uint32_t m, bool orthogonal, float *w) {
    struct qn_features_key key = {.seed = seed};
    assert_true(qn_features_draw(&key, dh, m, orthogonal, w));
}

#define DH    8
#define M     64
#define DRAWS 20000

/* Mean and variance over draws of the estimate of exp(x.y) from m features. */
static void estimate(const double *x, const double *y, bool orthogonal, double *mean, double *variance) {
    static float w[DH * M];
    double sum = 0, squares = 0;
    for (uint64_t seed = 0; seed < DRAWS; seed++) {
        double k = 0;
        draw(seed, DH, M, orthogonal, w);
        for (size_t j = 0; j < M; j++) {
            double l = 0;
            for (size_t d = 0; d < DH; d++)
                l += (double)w[d * M + j] * (x[d] + y[d]) - (x[d] * x[d] + y[d] * y[d]) / 2;
            k += exp(l) / M;
        }
        sum += k;
        squares += k * k;
    }
    *mean = sum / DRAWS;
    *variance = (squares - sum * sum / DRAWS) / (DRAWS - 1);
}

/* Mean within 4 sigma, the iid variance within 10 % of (1/m) exp(2 x.y) (exp(|x+y|^2) - 1), orthogonal draws
 * better than iid ones. */
static void kernel_is_unbiased(void **state) {
    (void)state;
    struct rng rng;
    rng_init(&rng);
    for (int round = 0; round < 3; round++) {
        double x[DH], y[DH], size = 0, xy = 0, mean, iid, orthogonal;
        for (size_t d = 0; d < DH; d++) {
            x[d] = qn_att_normal(&rng);
            y[d] = qn_att_normal(&rng);
            size += (x[d] + y[d]) * (x[d] + y[d]);
        }
        for (size_t d = 0; d < DH; d++) { /* |x + y| = 1 */
            x[d] /= sqrt(size);
            y[d] /= sqrt(size);
            xy += x[d] * y[d];
        }
        double law = exp(2 * xy) * (exp(1) - 1) / M;
        estimate(x, y, false, &mean, &iid);
        assert_true(fabs(mean - exp(xy)) <= 4 * sqrt(iid / DRAWS));
        assert_true(fabs(iid / law - 1) <= 0.1);
        estimate(x, y, true, &mean, &orthogonal);
        assert_true(fabs(mean - exp(xy)) <= 4 * sqrt(orthogonal / DRAWS));
        assert_true(orthogonal < iid);
    }
}

/* Largest |cosine| of two directions of one block of dh. */
static double worst_cosine(const float *w, size_t dh, size_t m) {
    double worst = 0;
    for (size_t i = 0; i < m; i++) {
        for (size_t j = i / dh * dh; j < i; j++) {
            double dot = 0, a = 0, b = 0;
            for (size_t d = 0; d < dh; d++) {
                dot += (double)w[d * m + i] * (double)w[d * m + j];
                a += (double)w[d * m + i] * (double)w[d * m + i];
                b += (double)w[d * m + j] * (double)w[d * m + j];
            }
            worst = fmax(worst, fabs(dot) / sqrt(a * b));
        }
    }
    return worst;
}

/* To single precision, also where a direction is nearly spanned by those before it: the last of many. */
static void wide_directions_are_orthogonal(void **state) {
    (void)state;
    enum { WIDE = 128, COUNT = 300 };
    static float w[WIDE * COUNT];
    for (uint64_t seed = 0; seed < 8; seed++) {
        double square = 0, top = 0;
        draw(seed, WIDE, COUNT, true, w);
        assert_true(worst_cosine(w, WIDE, COUNT) <= 5e-7);
        for (size_t i = 0; i < (size_t)WIDE * COUNT; i++) {
            square += (double)w[i] * (double)w[i];
            top = fmax(top, fabs((double)w[i]));
        }
        /* entries of variance 1, within 5 standard errors */
        assert_true(fabs(square / (WIDE * COUNT) - 1) <= 5 * sqrt(2.0 / (WIDE * COUNT)));
        assert_true(top > 3 && top < 7);
    }
}

/* Directions of one block of head_dim are orthogonal, their lengths are not equal, another block or seed
 * gives others, the same key the same. */
static void directions_are_orthogonal(void **state) {
    (void)state;
    static float w[DH * M], u[DH * M];
    draw(7, DH, M, true, w);
    assert_true(worst_cosine(w, DH, M) <= 5e-7);
    for (size_t i = 0; i < M; i++) {
        for (size_t j = 0; j < i; j++) {
            double a = 0, b = 0;
            for (size_t d = 0; d < DH; d++) {
                a += (double)w[d * M + i] * (double)w[d * M + i];
                b += (double)w[d * M + j] * (double)w[d * M + j];
            }
            assert_true(fabs(a - b) > 1e-9);
        }
    }
    draw(7, DH, M, true, u);
    assert_memory_equal(u, w, sizeof w);
    draw(8, DH, M, true, u);
    assert_memory_not_equal(u, w, sizeof w);
    struct qn_features_key block = {.seed = 7, .block = 1};
    assert_true(qn_features_draw(&block, DH, M, true, u));
    assert_memory_not_equal(u, w, sizeof w);
}

/* Root mean square distance from softmax attention with m features. */
static double distance(uint32_t m, uint32_t seeds) {
    static const struct qn_att_shape shape = {2, 16, 512};
    static const struct qn_attn_member mha = {.type = "mha", .kv_heads = 2};
    double sum = 0;
    size_t count = 0;
    for (uint32_t seed = 1; seed <= seeds; seed++) {
        struct rng rng, again;
        struct qn_att t, exact;
        struct qn_part p = ask("performer");
        qn_part_add(&p, "features", QN_PARAM_INT, m);
        qn_part_add(&p, "seed", QN_PARAM_INT, seed);
        rng_init(&rng);
        rng.state += seed;
        again = rng;
        qn_att_open(&t, &rng, &mha, &shape, &p, 1);
        qn_att_open(&exact, &again, &mha, &shape, NULL, 1);
        struct qn_att_seq *s = qn_att_seq_new(&t, &rng, 96, 0.25), *want = qn_att_seq_copy(&exact, s);
        qn_att_chunks(&t, s, 96);
        qn_att_chunks(&exact, want, 96);
        for (size_t i = (size_t)32 * 32; i < (size_t)96 * 32; i++, count++) {
            double d = (double)s->out[i] - (double)want->out[i];
            sum += d * d;
        }
        qn_att_seq_free(s);
        qn_att_seq_free(want);
        qn_att_close(&t);
        qn_att_close(&exact);
    }
    return sqrt(sum / (double)count);
}

/* Against softmax attention the error falls as m^-1/2. */
static void error_falls_with_features(void **state) {
    (void)state;
    double few = distance(32, 40), many = distance(512, 40);
    double slope = log(many / few) / log(512.0 / 32.0);
    assert_true(fabs(slope + 0.5) <= 0.07);
}

/* --- cost and labels --- */
static void state_is_constant(void **state) {
    (void)state;
    static const struct qn_att_shape shape = {4, 32, 1024};
    struct rng rng;
    struct qn_att t;
    rng_init(&rng);
    qn_att_open(&t, &rng, &native, &shape, NULL, 1);
    struct qn_state_size size = t.a.ops->state(&t.a, QN_KV_F16);
    assert_int_equal(size.block_bytes, 0);
    /* per KV head: S, keys, v, and z, top, shrink */
    assert_int_equal(size.fixed_bytes, 2 * 4 * (48 * 32 + 48 * 16 + 16 * 32 + 3 * 48));
    assert_false(t.a.ops->rollback);
    struct qn_attention_cost near = t.a.ops->cost(&t.a, QN_KV_F32, 0, 16, 1),
                             far = t.a.ops->cost(&t.a, QN_KV_F32, 992, 1008, 1);
    assert_true(near.flops == far.flops && near.state_bytes == far.state_bytes);
    /* two KV heads: directions and fold; four query heads: directions, sums and 136 tokens of the block */
    assert_true(far.flops ==
                2.0 * (2 * (16 * 48 * 32 + 16 * 48 * 33) + 4 * (16 * (48 * 32 + 48 * 33) + 136 * (48 + 32))));
    qn_att_close(&t);
}

static struct qn_choice choice_of(const struct qn_attn_member *m, const struct qn_part *p, int *rc) {
    struct qn_spec spec = {.heads = 4, .head_dim = 16, .context = 512, .n_attn = 1};
    struct qn_attention a = {0};
    spec.attn[0] = *m;
    *rc = qn_attention_performer.resolve(&spec, 0, p, &a, NULL);
    return a.choice;
}

static void labels(void **state) {
    (void)state;
    static const struct qn_attn_member linformer = {.type = "linformer", .kv_heads = 4, .slots = 8};
    struct qn_part p = ask("performer");
    int rc;
    struct qn_choice c = choice_of(&native, &p, &rc);
    assert_true(rc == QN_OK && c.origin == QN_ORIGIN_NATIVE && c.exactness == QN_EXACT);
    assert_null(qn_part_find(&c.part, "seed")); /* its own directions have none */
    assert_int_equal(choice_of(&linformer, &p, &rc).exactness, QN_UNAVAILABLE);
    c = choice_of(&softmax, &p, &rc);
    assert_true(c.origin == QN_ORIGIN_CONVERTED && c.exactness == QN_APPROXIMATE);
    assert_true(qn_part_find(&c.part, "features")->value == 64 && qn_part_find(&c.part, "seed")->value == 1);
    qn_part_add(&p, "seed", QN_PARAM_INT, 0);
    c = choice_of(&native, &p, &rc);
    assert_true(c.origin == QN_ORIGIN_CONVERTED && c.exactness == QN_APPROXIMATE);
    c = choice_of(&relu, &p, &rc);
    assert_int_equal(c.exactness, QN_UNTRAINED);
    assert_string_equal(c.why, "ReLU features with other directions than those trained");
    p = ask("performer");
    qn_part_add(&p, "relu", QN_PARAM_BOOL, 0);
    c = choice_of(&relu, &p, &rc);
    assert_int_equal(c.exactness, QN_UNTRAINED);
    assert_string_equal(c.why, "exponential features with weights trained for ReLU features");
    p = ask("performer");
    qn_part_add(&p, "relu", QN_PARAM_BOOL, 1);
    c = choice_of(&softmax, &p, &rc);
    assert_int_equal(c.exactness, QN_UNTRAINED);
    assert_non_null(strstr(c.why, "estimate no softmax"));
    assert_int_equal(choice_of(&relu, &p, &rc).origin, QN_ORIGIN_NATIVE);
    p = ask("performer");
    qn_part_add(&p, "causal", QN_PARAM_BOOL, 0);
    assert_int_equal(choice_of(&native, &p, &rc).exactness, QN_UNTRAINED);
    static const struct {
        const char *name;
        enum qn_param_kind kind;
        double value;
    } bad[] = {{"features", QN_PARAM_INT, 4097}, {"features", QN_PARAM_INT, 0},
               {"features", QN_PARAM_BOOL, 1},   {"seed", QN_PARAM_INT, -1},
               {"seed", QN_PARAM_NUMBER, 0.5},   {"seed", QN_PARAM_NUMBER, NAN},
               {"hyperbolic", QN_PARAM_INT, 1},  {"k", QN_PARAM_INT, 8},
               {"kv_heads", QN_PARAM_INT, 4},    {"causal", QN_PARAM_TEXT, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        p = ask("performer");
        qn_part_add(&p, bad[i].name, bad[i].kind, bad[i].value);
        choice_of(&native, &p, &rc);
        assert_int_equal(rc, QN_ERR_INVALID);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_quadratic_sum),
        cmocka_unit_test(same_bits_however_it_runs),
        cmocka_unit_test(ones_give_one),
        cmocka_unit_test(linear_in_values),
        cmocka_unit_test(no_drift),
        cmocka_unit_test(kernel_is_unbiased),
        cmocka_unit_test(directions_are_orthogonal),
        cmocka_unit_test(wide_directions_are_orthogonal),
        cmocka_unit_test(error_falls_with_features),
        cmocka_unit_test(state_is_constant),
        cmocka_unit_test(labels),
    };
    qn_kernels_ensure();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
