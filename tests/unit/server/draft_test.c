/* N-gram lookup against its definition, spelled out over all earlier places; growth in any steps; the bound
 * on its work; memory that runs short; the pace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/draft.h"

static uint64_t rng;
static uint32_t rnd(uint32_t n) {
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33) % n;
}

/* The definition. */
static uint32_t by_hand(const int32_t *t, uint32_t n, uint32_t ngram, uint32_t most, int32_t *out) {
    uint32_t best = 0, length = 0;
    for (uint32_t p = ngram; p < n; p++) {
        uint32_t k = 0;
        while (k < QN_DRAFT_CONTEXT && k < p && t[p - 1 - k] == t[n - 1 - k]) k++;
        if (k >= ngram && k >= length) best = p, length = k;
    }
    if (!best) return 0;
    for (uint32_t i = 0; i < most; i++) out[i] = best + i < n ? t[best + i] : out[best + i - n];
    return most;
}

/* Short enough that no chain can be longer than the bound; then every place is looked at. */
static void equals_its_definition(void **state) {
    (void)state;
    uint32_t found = 0;
    for (uint64_t seed = 1; seed <= 20000; seed++) {
        int32_t t[QN_DRAFT_PLACES], a[QN_DRAFT_MOST], b[QN_DRAFT_MOST];
        struct qn_draft_index d;
        rng = seed;
        uint32_t n = 1 + rnd(QN_DRAFT_PLACES), letters = 1 + rnd(6), ngram = 1 + rnd(QN_DRAFT_NGRAM), at = 0;
        for (uint32_t i = 0; i < n; i++) t[i] = (int32_t)rnd(letters) * 70001;
        qn_draft_init(&d, ngram);
        assert_int_equal(qn_draft_guess(&d, t, 3, a), 0);
        while (at < n) {
            at += 1 + rnd(n - at);
            uint32_t most = rnd(QN_DRAFT_MOST + 1);
            assert_true(qn_draft_learn(&d, t, at));
            uint32_t k = qn_draft_guess(&d, t, most, a);
            if (k != by_hand(t, at, ngram, most, b) || memcmp(a, b, k * sizeof *a))
                fail_msg("seed %llu: another guess after %u tokens", (unsigned long long)seed, at);
            found += k > 0;
        }
        qn_draft_free(&d);
    }
    assert_true(found > 10000);
}

/* Long sequences grow the table many times; a place that nothing else resembles is found from afar. */
static void far_places(void **state) {
    (void)state;
    uint32_t n = 100000;
    int32_t *t = calloc(n, sizeof *t), out[4];
    struct qn_draft_index d;
    assert_non_null(t);
    qn_draft_init(&d, 3);
    for (uint32_t i = 0; i < n; i++) t[i] = (int32_t)i;
    for (uint32_t i = 1; i < n - 3; i = i * 2 + 1) assert_true(qn_draft_learn(&d, t, i));
    for (uint32_t i = 0; i < 3; i++) t[n - 3 + i] = t[40 + i];
    assert_true(qn_draft_learn(&d, t, n));
    assert_true(qn_draft_learn(&d, t, n)); /* nothing new */
    assert_int_equal(qn_draft_guess(&d, t, 4, out), 4);
    assert_memory_equal(out, t + 43, sizeof out);
    t[n - 1] = 7; /* not learned: the index compares the tokens themselves */
    assert_int_equal(qn_draft_guess(&d, t, 4, out), 0);
    qn_draft_free(&d);
    free(t);
}

/* One token over and over: every place is a match. The guess is right, and found without walking all. */
static void one_token_over_and_over(void **state) {
    (void)state;
    enum { N = 200000 };
    int32_t *t = calloc(N, sizeof *t), out[QN_DRAFT_MOST], zero[QN_DRAFT_MOST] = {0};
    struct qn_draft_index d;
    assert_non_null(t);
    qn_draft_init(&d, 1);
    for (uint32_t i = 1; i <= N; i++) { /* a walk over all places would take N * N / 2 steps: minutes */
        assert_true(qn_draft_learn(&d, t, i));
        assert_int_equal(qn_draft_guess(&d, t, QN_DRAFT_MOST, out), i > 1 ? QN_DRAFT_MOST : 0);
    }
    assert_memory_equal(out, zero, sizeof out);
    qn_draft_free(&d);
    free(t);
}

static void too_many_tokens_are_refused(void **state) {
    (void)state;
    int32_t t[2] = {1, 1}, out[2];
    struct qn_draft_index d;
    qn_draft_init(&d, 1);
    assert_true(qn_draft_learn(&d, t, 2));
    assert_false(qn_draft_learn(&d, t, UINT32_MAX)); /* refused before a token is read */
    assert_int_equal(qn_draft_guess(&d, t, 2, out), 2);
    qn_draft_free(&d);
}

static void pace(void **state) {
    (void)state;
    struct qn_draft_pace p;
    qn_draft_pace_init(&p, 2);
    assert_int_equal(p.length, 2);
    qn_draft_pace_init(&p, 10);
    assert_int_equal(p.length, 4);
    qn_draft_pace_ran(&p, 4, 4);
    assert_int_equal(p.length, 8);
    qn_draft_pace_ran(&p, 2, 2); /* there was no room for more: no reason to guess less */
    assert_int_equal(p.length, 8);
    qn_draft_pace_ran(&p, 8, 8);
    assert_int_equal(p.length, 10);
    qn_draft_pace_ran(&p, 10, 5);
    assert_int_equal(p.length, 6);
    qn_draft_pace_ran(&p, 6, 0);
    assert_int_equal(p.length, 1);
    assert_int_equal(p.rest, 0);
    static const uint32_t rests[] = {2, 4, 8, 16, 32, 32, 32};
    for (size_t i = 0; i < sizeof rests / sizeof *rests; i++) {
        qn_draft_pace_ran(&p, 1, 0);
        assert_int_equal(p.rest, rests[i]);
    }
    for (uint32_t i = 0; i < 40; i++) qn_draft_pace_rested(&p);
    assert_int_equal(p.rest, 0);
    qn_draft_pace_ran(&p, 1, 1);
    assert_int_equal(p.length, 2);
    qn_draft_pace_ran(&p, 2, 0); /* once is no habit */
    assert_int_equal(p.rest, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_its_definition),
        cmocka_unit_test(far_places),
        cmocka_unit_test(one_token_over_and_over),
        cmocka_unit_test(too_many_tokens_are_refused),
        cmocka_unit_test(pace),
    };
    return cmocka_run_group_tests_name("server/draft", tests, NULL, NULL);
}
