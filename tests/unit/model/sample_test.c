/* The sampler: drawn frequencies against the distribution it should draw from (chi-square, fixed seeds), each
 * filter against its definition, penalties by hand, and rows that no model should give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>

#include "model/random.h"
#include "model/sample.h"

#define V 12
static const struct qn_sampling off = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};

static struct qn_sampled sample(const struct qn_sampling *p, const float *logits, uint32_t vocab,
                                uint32_t position) {
    float row[64];
    uint64_t work[64 * 2];
    struct qn_sampled out;
    assert_true(qn_sample_work_bytes(vocab) <= sizeof work);
    memcpy(row, logits, vocab * sizeof *row);
    struct qn_sample_input in = {.logits = row, .vocab = vocab, .position = position, .work = work};
    qn_sample(p, &in, &out);
    assert_true(out.id >= 0 && (uint32_t)out.id < vocab);
    return out;
}

static const float logits[V] = {0.3F, 2.0F, -1.0F, 1.0F, 2.0F, -3.0F, 0.0F, 0.5F, 1.5F, -0.5F, 0.9F, -2.0F};

/* Draws n tokens and compares with `weight` (unnormalised; 0 = must not occur). */
static void chi_square(const struct qn_sampling *base, const double *weight, uint32_t n) {
    for (uint64_t seed = 1; seed <= 5; seed++) {
        uint32_t count[V] = {0};
        struct qn_sampling p = *base;
        p.seed = seed;
        for (uint32_t i = 0; i < n; i++) count[sample(&p, logits, V, i).id]++;
        double total = 0, chi = 0;
        uint32_t cells = 0;
        for (int i = 0; i < V; i++) total += weight[i];
        for (int i = 0; i < V; i++) {
            double want = n * weight[i] / total;
            if (weight[i] == 0) {
                assert_int_equal(count[i], 0);
                continue;
            }
            chi += (count[i] - want) * (count[i] - want) / want;
            cells++;
        }
        /* mean cells - 1, standard deviation sqrt(2 (cells - 1)): five deviations above */
        assert_true(chi < cells - 1 + 5 * sqrt(2.0 * cells));
    }
}

static void softmax_weights(double t, double *w) {
    for (int i = 0; i < V; i++) w[i] = exp((double)logits[i] / t);
}

static void draws_the_distribution(void **state) {
    (void)state;
    double w[V];
    struct qn_sampling p = off;
    softmax_weights(1, w);
    chi_square(&p, w, 20000);
    p.temperature = 0.5F;
    softmax_weights(0.5, w);
    chi_square(&p, w, 20000);
    p.temperature = 3;
    softmax_weights(3, w);
    chi_square(&p, w, 20000);
}

static void draws_within_filters(void **state) {
    (void)state;
    double w[V];
    struct qn_sampling p = off;
    p.top_k = 4; /* ids 1, 4, 8, 3 */
    softmax_weights(1, w);
    for (int i = 0; i < V; i++) w[i] = i == 1 || i == 4 || i == 8 || i == 3 ? w[i] : 0;
    chi_square(&p, w, 20000);
    /* top_p over what top_k left: 1 and 4 have e^2 each of 2e^2 + e^1.5 + e^1 = 21.98, 0.672 together */
    p.top_p = 0.67F;
    w[8] = w[3] = 0;
    chi_square(&p, w, 20000);
    p.top_p = 0.68F;
    w[8] = exp(1.5);
    chi_square(&p, w, 20000);
    /* top_p alone: all twelve sum to 32.94, so two have 0.4486 and the third brings 0.5847 */
    p.top_k = 0;
    p.top_p = 0.5F;
    chi_square(&p, w, 20000);
    /* min_p before temperature: keeps logits >= 2 + ln 0.3 = 0.796, whatever the temperature */
    p = off;
    p.min_p = 0.3F;
    p.temperature = 2;
    softmax_weights(2, w);
    for (int i = 0; i < V; i++) w[i] = (double)logits[i] >= 0.796 ? w[i] : 0;
    chi_square(&p, w, 20000);
}

static void filters_keep_at_least_one(void **state) {
    (void)state;
    struct qn_sampling p = off;
    p.top_p = 1e-9F;
    for (uint32_t i = 0; i < 100; i++) assert_int_equal(sample(&p, logits, V, i).id, 1);
    p = off;
    p.top_k = 1;
    for (uint32_t i = 0; i < 100; i++) assert_int_equal(sample(&p, logits, V, i).id, 1);
    p.top_k = 4000000000U;
    p.min_p = 1;
    for (uint32_t i = 0; i < 100; i++) {
        int32_t id = sample(&p, logits, V, i).id;
        assert_true(id == 1 || id == 4);
    }
}

static void ties_go_to_the_lowest_id(void **state) {
    (void)state;
    struct qn_sampling p = off;
    p.temperature = 0;
    p.top_logprobs = 20;
    struct qn_sampled s = sample(&p, logits, V, 0);
    assert_int_equal(s.id, 1);
    assert_int_equal(s.n_top, V);
    assert_int_equal(s.top[0].id, 1);
    assert_int_equal(s.top[1].id, 4);
    double sum = 0;
    for (int i = 0; i < V; i++) {
        sum += exp((double)s.top[i].logprob);
        if (i) assert_true(s.top[i].logprob <= s.top[i - 1].logprob);
    }
    assert_true(fabs(sum - 1) < 1e-5);
    assert_true(s.logprob == s.top[0].logprob);
}

static void keyed_by_seed_choice_position(void **state) {
    (void)state;
    float row[V];
    uint64_t work[V * 2];
    uint32_t differ[3] = {0};
    for (uint32_t i = 0; i < 200; i++) {
        struct qn_sampling p = off;
        struct qn_sampled a[5];
        for (int k = 0; k < 5; k++) {
            p.seed = 7 + (k == 1);
            struct qn_sample_input in = {.logits = row, .vocab = V, .choice = k == 2, .work = work};
            in.position = i + (k == 3 ? 1000 : 0);
            memcpy(row, logits, sizeof row);
            qn_sample(&p, &in, &a[k]);
        }
        assert_int_equal(a[0].id, a[4].id);
        for (int k = 0; k < 3; k++) differ[k] += a[0].id != a[k + 1].id;
    }
    for (int k = 0; k < 3; k++) assert_true(differ[k] > 120 && differ[k] < 200);
}

static void penalties_by_hand(void **state) {
    (void)state;
    float row[4] = {2.0F, 1.9F, -1.0F, 0.5F};
    uint64_t work[8];
    int32_t history[] = {0, 3, 1, 1};
    struct qn_sampled s;
    struct qn_sampling p = {
        .top_p = 1, .repetition_penalty = 2, .presence_penalty = 0.1F, .frequency_penalty = 0.25F};
    p.logprobs = true;
    struct qn_sample_input in = {
        .logits = row, .vocab = 4, .history = history, .n_history = 4, .n_generated = 2, .work = work};
    qn_sample(&p, &in, &s);
    assert_int_equal(s.id, 0);
    /* 0 and 3: prompt only, halved. 1: halved, less 2 * 0.25 + 0.1. 2: not seen. */
    assert_true(fabsf(row[0] - 1.0F) < 1e-6F && fabsf(row[3] - 0.25F) < 1e-6F);
    assert_true(fabsf(row[1] - 0.35F) < 1e-6F && fabsf(row[2] + 1.0F) < 1e-6F);
    double z = exp(2.0) + exp(1.9) + exp(-1.0) + exp(0.5);
    assert_true(fabs((double)s.logprob - (2.0 - log(z))) < 1e-5); /* of the unpenalised row */
    float negative[4] = {-1, -9, -9, -9};
    in.logits = negative;
    qn_sample(&p, &in, &s);
    assert_true(fabsf(negative[0] + 2.0F) < 1e-6F); /* negative logits are multiplied */
}

static void rows_no_model_should_give(void **state) {
    (void)state;
    const float odd[][4] = {{-INFINITY, -INFINITY, -INFINITY, -INFINITY},
                            {NAN, NAN, NAN, NAN},
                            {NAN, 1, -INFINITY, 0},
                            {INFINITY, 1, INFINITY, NAN},
                            {3e38F, -3e38F, 3e38F, 0}};
    struct qn_sampling p[6] = {off, off, off, off, off, off};
    p[1].temperature = 0;
    p[2].top_k = 2;
    p[3].top_p = 0.5F;
    p[4].min_p = 0.5F;
    p[5].temperature = 1e-30F;
    for (int r = 0; r < 5; r++) {
        for (int k = 0; k < 6; k++) {
            p[k].logprobs = true;
            p[k].top_logprobs = 3;
            for (uint32_t i = 0; i < 20; i++) {
                struct qn_sampled s = sample(&p[k], odd[r], 4, i);
                assert_true(isfinite(s.logprob) && s.logprob <= 0);
                assert_int_equal(s.n_top, 3);
                if (r == 2) assert_true(s.id == 1 || s.id == 3);
            }
        }
        struct qn_sampled s;
        qn_logprob_of(odd[r], 4, 2, 2, &s);
        assert_true(isfinite(s.logprob));
    }
}

#define WIDE 3000
static const float *by_logit;

static int falling(const void *a, const void *b) {
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (by_logit[i] != by_logit[j]) return by_logit[i] > by_logit[j] ? -1 : 1;
    return i < j ? -1 : 1;
}

/* How many of the likeliest a filter leaves, by sorting all and adding up in double. */
static uint32_t left_by(const struct qn_sampling *p, const float *x, const int32_t *order) {
    uint32_t n = p->top_k ? p->top_k : WIDE, take = 0;
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < n; i++) total += exp((double)x[order[i]] - (double)x[order[0]]);
    while (take < n && (take == 0 || sum < (double)p->top_p * total))
        sum += exp((double)x[order[take++]] - (double)x[order[0]]);
    return take;
}

/* Wide rows, where what is unlikely is left aside early: the filters leave exactly what sorting leaves. The
 * last of it, made as likely as the first by the temperature, is drawn too. */
static void filters_of_wide_rows(void **state) {
    static float x[WIDE], row[WIDE];
    static uint64_t work[2 * WIDE];
    static int32_t order[WIDE], rank[WIDE];
    static const uint32_t ks[] = {0, 1, 7, 40, 2999};
    static const float ps[] = {1, 0.999F, 0.9F, 0.3F, 1e-9F};
    uint64_t seed = 11;
    (void)state;
    assert_true(qn_sample_work_bytes(WIDE) <= sizeof work);
    for (int round = 0; round < 50; round++) {
        struct qn_sampling p = off;
        float spread = round % 2 ? 20 : 3;
        uint32_t first = WIDE, last = 0;
        p.top_k = ks[round % 5];
        p.top_p = ps[round / 5 % 5];
        p.temperature = 100;
        for (int i = 0; i < WIDE; i++) {
            x[i] = spread * (float)(qn_random_next(&seed) % 1000) / 1000; /* with ties */
            order[i] = i;
        }
        by_logit = x;
        qsort(order, WIDE, sizeof *order, falling);
        for (int i = 0; i < WIDE; i++) rank[order[i]] = i;
        uint32_t left = left_by(&p, x, order);
        for (uint32_t i = 0; i < 400; i++) {
            struct qn_sampled s;
            memcpy(row, x, sizeof row);
            struct qn_sample_input in = {.logits = row, .vocab = WIDE, .position = i, .work = work};
            qn_sample(&p, &in, &s);
            uint32_t at = (uint32_t)rank[s.id];
            assert_true(at < left);
            first = at < first ? at : first;
            last = at > last ? at : last;
        }
        /* 400 draws, each near uniform: none in a tenth has probability 1e-18 */
        assert_true(first <= left / 10 && last >= left - 1 - left / 10);
    }
}

static float cleaned(float x) {
    return isnan(x) || x < -FLT_MAX ? -FLT_MAX : x > FLT_MAX ? FLT_MAX : x;
}

static void argmax_is_the_first_of_the_largest(void **state) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, FLT_MAX, -FLT_MAX, 0, 1, -1};
    uint64_t seed = 5;
    float x[200];
    (void)state;
    for (int round = 0; round < 20000; round++) {
        uint32_t n = 1 + (uint32_t)(qn_random_next(&seed) % 200), best = 0, from = round % 4 ? 8 : 1;
        for (uint32_t i = 0; i < n; i++) /* many ties */
            x[i] = round % 2 ? odd[qn_random_next(&seed) % from] : (float)(qn_random_next(&seed) % 64);
        if (round % 3 == 0) x[qn_random_next(&seed) % n] = odd[qn_random_next(&seed) % 8];
        for (uint32_t i = 1; i < n; i++)
            if (cleaned(x[i]) > cleaned(x[best])) best = i;
        assert_int_equal(qn_argmax(x, n), best);
    }
}

/* Only allowed tokens come, in the proportions that they have among themselves; filters and penalties see no
 * others; log-probabilities are those of the whole row. */
static void masks(void **state) {
    static const uint64_t mask[1] = {1U << 0 | 1U << 3 | 1U << 5 | 1U << 10};
    double w[V], all = 0;
    (void)state;
    uint32_t count[V] = {0};
    for (int i = 0; i < V; i++) all += exp((double)logits[i]);
    for (int i = 0; i < V; i++) w[i] = *mask >> i & 1 ? exp((double)logits[i]) : 0;
    for (uint32_t mode = 0; mode < 6; mode++) {
        struct qn_sampling p = off;
        p.seed = 3;
        p.logprobs = mode % 2;
        p.top_logprobs = mode % 2 ? 2 : 0;
        if (mode / 2 == 1) p.temperature = 0;
        if (mode / 2 == 2) p.top_k = 2;
        for (uint32_t i = 0; i < 20000; i++) {
            float row[V];
            uint64_t work[V * 2];
            struct qn_sampled out;
            memcpy(row, logits, sizeof row);
            struct qn_sample_input in = {
                .logits = row, .vocab = V, .position = i, .work = work, .mask = mask};
            qn_sample(&p, &in, &out);
            assert_true(*mask >> out.id & 1);
            count[out.id] += mode == 0;
            if (mode / 2 == 1) assert_int_equal(out.id, 3);
            if (mode / 2 == 2) assert_true(out.id == 3 || out.id == 10);
            if (!p.logprobs) continue;
            assert_float_equal(out.logprob, (float)((double)logits[out.id] - log(all)), 1e-5);
            assert_int_equal(out.top[0].id, 1); /* not allowed, and the likeliest all the same */
        }
    }
    double total = w[0] + w[3] + w[5] + w[10];
    for (int i = 0; i < V; i++) assert_true(fabs(count[i] / 20000.0 - w[i] / total) < 0.015);
}

/* Rows without any finite logit still give an allowed token. */
static void masks_of_bad_rows(void **state) {
    static const uint64_t mask[1] = {1U << 7};
    (void)state;
    for (uint32_t mode = 0; mode < 4; mode++) {
        float row[V];
        uint64_t work[V * 2];
        struct qn_sampled out;
        struct qn_sampling p = off;
        for (int i = 0; i < V; i++) row[i] = mode % 2 ? (float)NAN : -INFINITY;
        if (mode / 2) p.temperature = 0;
        struct qn_sample_input in = {.logits = row, .vocab = V, .work = work, .mask = mask};
        qn_sample(&p, &in, &out);
        assert_int_equal(out.id, 7);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_the_distribution),
        cmocka_unit_test(draws_within_filters),
        cmocka_unit_test(filters_keep_at_least_one),
        cmocka_unit_test(ties_go_to_the_lowest_id),
        cmocka_unit_test(keyed_by_seed_choice_position),
        cmocka_unit_test(penalties_by_hand),
        cmocka_unit_test(rows_no_model_should_give),
        cmocka_unit_test(argmax_is_the_first_of_the_largest),
        cmocka_unit_test(filters_of_wide_rows),
        cmocka_unit_test(masks),
        cmocka_unit_test(masks_of_bad_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
