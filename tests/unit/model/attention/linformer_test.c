/* Linformer against its definition: row t of the prefix form equals the published operator on the prefix, in
 * double; identity or permuted projections over a full length equal softmax, unequal E and F and orthogonal
 * ones must not; bits don't depend on chunks, threads or neighbours; segment means partition the context. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "tests/support/recurrent.h"

#define TOLERANCE 1e-5

static const struct qn_attn_member native = {.type = "linformer", .kv_heads = 2, .slots = 24};
static const struct qn_attn_member softmax = {.type = "gqa", .kv_heads = 2};
static const struct qn_att_shape shape = {4, 24, 160};

static struct qn_part ask(bool causal) {
    struct qn_part p;
    qn_part_init(&p, "linformer");
    qn_part_add(&p, "causal", QN_PARAM_BOOL, causal);
    return p;
}

/* --- the published operator over tokens [0, n) for one query, in double --- */
static void published(const struct qn_att *t, const struct qn_att_seq *s, size_t n, size_t row, size_t head,
                      const float *e, const float *f, double *out) {
    const struct qn_attention *a = &t->a;
    size_t dh = a->head_dim, slots = (size_t)a->arg[0], g = head / (a->heads / a->kv_heads);
    double *score = calloc(slots, sizeof *score), top = -INFINITY, sum = 0;
    assert_non_null(score);
    for (size_t i = 0; i < slots; i++) {
        for (size_t d = 0; d < dh; d++) {
            double kbar = 0;
            for (size_t u = 0; u < n; u++)
                kbar += (double)e[u * slots + i] * (double)s->k[(u * a->kv_heads + g) * dh + d];
            score[i] += kbar * (double)s->q[(row * a->heads + head) * dh + d];
        }
        score[i] /= sqrt((double)dh);
        top = fmax(top, score[i]);
    }
    for (size_t i = 0; i < slots; i++) sum += exp(score[i] - top);
    for (size_t d = 0; d < dh; d++) {
        out[d] = 0;
        for (size_t i = 0; i < slots; i++) {
            double vbar = 0;
            for (size_t u = 0; u < n; u++)
                vbar += (double)f[u * slots + i] * (double)s->v[(u * a->kv_heads + g) * dh + d];
            out[d] += exp(score[i] - top) / sum * vbar;
        }
    }
    free(score);
}

static void all_published(const struct qn_att *t, const struct qn_att_seq *s, double *want) {
    size_t dh = t->a.head_dim, heads = t->a.heads, group = heads / t->a.kv_heads, slots = (size_t)t->a.arg[0];
    for (size_t r = 0; r < s->n; r++) {
        for (size_t h = 0; h < heads; h++) {
            size_t at = t->w.proj_heads > 1 ? h / group * t->spec.context * slots : 0;
            published(t, s, t->a.causal ? r + 1 : s->n, r, h, t->w.e + at, t->w.f + at,
                      want + (r * heads + h) * dh);
        }
    }
}

static void check(const struct qn_attn_member *m, bool causal, double std) {
    struct rng rng;
    struct qn_att t;
    struct qn_part p = ask(causal);
    rng_init(&rng);
    qn_att_open(&t, &rng, m, &shape, &p, 2);
    struct qn_att_seq *s = qn_att_seq_new(&t, &rng, 75, std);
    size_t all = (size_t)75 * 4 * 24;
    double *want = calloc(all, sizeof *want);
    assert_non_null(want);
    qn_att_chunks(&t, s, causal ? 7 : 75);
    all_published(&t, s, want);
    assert_true(qn_att_error(s->out, want, all) <= TOLERANCE);
    free(want);
    qn_att_seq_free(s);
    qn_att_close(&t);
}

static void equals_the_published_form_on_prefixes(void **state) {
    (void)state;
    static const struct qn_attn_member odd = {.type = "linformer", .kv_heads = 4, .slots = 37},
                                       mqa = {.type = "linformer", .kv_heads = 1, .slots = 16};
    check(&native, true, 1);
    check(&odd, true, 2);
    check(&mqa, true, 1);
    check(&native, false, 1);
    check(&odd, false, 2);
}

/* --- identities with softmax --- */
enum projection { IDENTITY, PERMUTED, UNEQUAL, ORTHOGONAL };

/* Orthogonal, symmetric, no permutation: I - 2/n. Its own inverse, so that slots could be told apart again,
 * and only a softmax over them is none over tokens. */
static void reflect(float *e, size_t n) {
    for (size_t i = 0; i < n * n; i++) e[i] = (i % (n + 1) == 0 ? 1.0f : 0.0f) - 2.0f / (float)n;
}

/* E and F [n tokens][n slots] as the case wants; distance of the last row (causal) or all rows from softmax.
 */
static double from_softmax(enum projection which, bool causal) {
    enum { N = 48 };
    static const struct qn_att_shape full = {4, 24, N};
    struct qn_attn_member m = {.type = "linformer", .kv_heads = 2, .slots = N};
    struct rng rng;
    struct qn_att t, exact;
    struct qn_part p = ask(causal), q;
    rng_init(&rng);
    qn_att_open(&t, &rng, &m, &full, &p, 1);
    qn_part_init(&q, "gqa");
    qn_part_add(&q, "causal", QN_PARAM_BOOL, causal);
    qn_att_open(&exact, &rng, &softmax, &full, &q, 1);
    t.w.proj_heads = 1;
    memset(t.w.e, 0, sizeof(float) * N * N);
    memset(t.w.f, 0, sizeof(float) * N * N);
    for (size_t i = 0; i < N; i++) {
        size_t e = which == IDENTITY ? i : (i * 5 + 3) % N, f = which == UNEQUAL ? (i * 7 + 1) % N : e;
        t.w.e[i * N + e] = 1;
        t.w.f[i * N + f] = 1;
    }
    if (which == ORTHOGONAL) {
        reflect(t.w.e, N);
        reflect(t.w.f, N);
    }
    struct qn_att_seq *s = qn_att_seq_new(&t, &rng, N, 1), *want = qn_att_seq_copy(&exact, s);
    qn_att_chunks(&t, s, N);
    qn_att_chunks(&exact, want, N);
    double worst = 0;
    for (size_t i = causal ? (size_t)(N - 1) * 96 : 0; i < (size_t)N * 96; i++)
        worst = fmax(worst, fabs((double)s->out[i] - (double)want->out[i]));
    qn_att_seq_free(s);
    qn_att_seq_free(want);
    qn_att_close(&t);
    qn_att_close(&exact);
    return worst;
}

static void full_rank_equals_softmax(void **state) {
    (void)state;
    for (int causal = 0; causal < 2; causal++) {
        assert_true(from_softmax(IDENTITY, causal) <= TOLERANCE);
        assert_true(from_softmax(PERMUTED, causal) <= TOLERANCE);
        assert_true(from_softmax(UNEQUAL, causal) >= 0.1);    /* keys and values of different tokens */
        assert_true(from_softmax(ORTHOGONAL, causal) >= 0.1); /* full rank alone is not enough */
    }
}

/* --- bits --- */
static void same_bits_however_it_runs(void **state) {
    (void)state;
    static const struct qn_attn_member *const members[] = {&native, &softmax};
    static const uint32_t chunks[] = {1, 3, 15, 16, 17, 32, 33, 64, 150};
    for (size_t i = 0; i < 2; i++) {
        struct rng rng;
        struct qn_att t, one;
        struct qn_part p = ask(true);
        rng_init(&rng);
        qn_att_open(&t, &rng, members[i], &shape, &p, 3);
        rng_init(&rng);
        qn_att_open(&one, &rng, members[i], &shape, &p, 1);
        struct qn_att_seq *s = qn_att_seq_new(&t, &rng, 150, 1), *other = qn_att_seq_new(&t, &rng, 150, 2);
        qn_att_chunks(&one, s, 150);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            struct qn_att_seq *u = qn_att_seq_copy(&t, s), *pair[2];
            other->done = 0;
            while (u->done < u->n) {
                uint32_t left = u->n - u->done, n[2];
                bool first = rng_below(&rng, 2);
                pair[first ? 0 : 1] = u;
                pair[first ? 1 : 0] = other;
                n[first ? 0 : 1] = left < chunks[c] ? left : chunks[c];
                if (other->done == other->n) other->done = 0;
                n[first ? 1 : 0] = other->n - other->done > 5 ? 5 : 1;
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

/* --- conversion --- */
/* Segment means equal a checkpoint with those means as its E and F; every slot's entries sum to 1. */
static void segment_means_are_means(void **state) {
    (void)state;
    enum { K = 7 }; /* 160 tokens in 7 segments of 22 or 23 */
    struct qn_attn_member m = {.type = "linformer", .kv_heads = 2, .slots = K};
    struct rng rng;
    struct qn_att t, plain;
    struct qn_part p = ask(true);
    qn_part_add(&p, "k", QN_PARAM_INT, K);
    rng_init(&rng);
    qn_att_open(&t, &rng, &softmax, &shape, &p, 1);
    qn_att_open(&plain, &rng, &m, &shape, NULL, 1);
    assert_int_equal(t.a.choice.exactness, QN_UNTRAINED);
    assert_null(t.w.e); /* takes no weights */
    uint32_t size[K] = {0};
    for (uint32_t u = 0; u < 160; u++) size[u * K / 160]++;
    plain.w.proj_heads = 1;
    memset(plain.w.e, 0, sizeof(float) * 160 * K);
    for (uint32_t u = 0; u < 160; u++) plain.w.e[u * K + u * K / 160] = 1.0f / (float)size[u * K / 160];
    memcpy(plain.w.f, plain.w.e, sizeof(float) * 160 * K);
    struct qn_att_seq *s = qn_att_seq_new(&t, &rng, 160, 1), *want = qn_att_seq_copy(&plain, s);
    qn_att_chunks(&t, s, 13);
    qn_att_chunks(&plain, want, 29);
    assert_memory_equal(s->out, want->out, (size_t)160 * 4 * 24 * sizeof(float));
    qn_att_seq_free(s);
    qn_att_seq_free(want);
    qn_att_close(&t);
    qn_att_close(&plain);
}

/* --- cost and labels --- */
static void state_is_constant(void **state) {
    (void)state;
    struct rng rng;
    struct qn_att t;
    rng_init(&rng);
    qn_att_open(&t, &rng, &native, &shape, NULL, 1);
    struct qn_state_size size = t.a.ops->state(&t.a, QN_KV_F16);
    assert_int_equal(size.block_bytes, 0);
    assert_int_equal(size.fixed_bytes, 2 * 4 * (2 * 24 * 24 + 2 * 16 * 24));
    assert_false(t.a.ops->rollback);
    struct qn_attention_cost near = t.a.ops->cost(&t.a, QN_KV_F32, 0, 16, 1),
                             far = t.a.ops->cost(&t.a, QN_KV_F32, 128, 144, 1);
    assert_true(near.flops == far.flops && near.state_bytes == far.state_bytes);
    assert_true(far.flops == 2.0 * (2 * 2 * 16 * 24 * 24 + 4 * (2 * 16 * 24 * 24 + 2 * 136 * (24 + 24))));
    qn_att_close(&t);
}

static struct qn_choice choice_of(const struct qn_attn_member *m, const struct qn_part *p, int *rc) {
    struct qn_spec spec = {.heads = 4, .head_dim = 16, .context = 160, .n_attn = 1};
    struct qn_attention a = {0};
    spec.attn[0] = *m;
    *rc = qn_attention_linformer.resolve(&spec, 0, p, &a, NULL);
    return a.choice;
}

static void labels(void **state) {
    (void)state;
    static const struct qn_attn_member performer = {.type = "performer", .kv_heads = 4, .features = 8};
    int rc;
    struct qn_part p = ask(true);
    assert_int_equal(choice_of(&native, &p, &rc).origin, QN_ORIGIN_NATIVE);
    assert_int_equal(choice_of(&performer, &p, &rc).exactness, QN_UNAVAILABLE);
    struct qn_choice c = choice_of(&softmax, &p, &rc);
    assert_true(c.origin == QN_ORIGIN_CONVERTED && c.exactness == QN_UNTRAINED);
    assert_true(qn_part_find(&c.part, "k")->value == 160); /* 256, were the context longer */
    qn_part_add(&p, "k", QN_PARAM_INT, 8);
    assert_int_equal(choice_of(&native, &p, &rc).exactness, QN_UNTRAINED);
    p = ask(false);
    assert_int_equal(choice_of(&native, &p, &rc).exactness, QN_UNTRAINED);
    static const struct {
        const char *name;
        double value;
    } bad[] = {{"k", 161}, {"k", 0}, {"k", 1.5}, {"features", 8}, {"kv_heads", 4}, {"n", 161}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        p = ask(true);
        qn_part_add(&p, bad[i].name, QN_PARAM_NUMBER, bad[i].value);
        choice_of(&native, &p, &rc);
        assert_int_equal(rc, QN_ERR_INVALID);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_published_form_on_prefixes),
        cmocka_unit_test(full_rank_equals_softmax),
        cmocka_unit_test(same_bits_however_it_runs),
        cmocka_unit_test(segment_means_are_means),
        cmocka_unit_test(state_is_constant),
        cmocka_unit_test(labels),
    };
    qn_kernels_ensure();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
