/* server/metrics.c: what is recorded is what the page says, from many threads at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/metrics.h"

/* The number after `name ` at the start of a line; -1 when there is none. */
static double value(const char *page, const char *name) {
    size_t n = strlen(name);
    for (const char *s = page; s; s = strchr(s, '\n')) {
        if (*s == '\n') s++;
        if (strncmp(s, name, n) == 0 && s[n] == ' ') return strtod(s + n, NULL);
    }
    return -1;
}

static void page_of(const struct qn_metrics *m, struct qn_buf *b) {
    qn_buf_clear(b);
    qn_metrics_write(m, b);
    assert_false(b->failed);
}

static void test_every_counter_has_its_own_row(void **state) {
    (void)state;
    struct qn_metrics *m = qn_metrics_new();
    struct qn_buf b = {0};
    assert_non_null(m);
    for (unsigned c = 0; c < QN_C_COUNT; c++) qn_metrics_add(m, (enum qn_counter)c, 1000 + c);
    page_of(m, &b);
    for (unsigned c = 0; c < QN_C_COUNT; c++) {
        char want[16];
        snprintf(want, sizeof want, " %u\n", 1000 + c);
        char *at = strstr(b.p, want);
        assert_non_null(at);
        assert_null(strstr(at + 1, want));
    }
    assert_int_equal(value(b.p, "quern_requests_total{task=\"score\"}"), 1000 + QN_C_INFER_SCORE);
    assert_int_equal(value(b.p, "quern_cancelled_total{phase=\"prefill\"}"), 1000 + QN_C_CANCELLED_PREFILL);
    qn_buf_free(&b);
    qn_metrics_free(m);
}

static void test_observations_fall_into_their_buckets(void **state) {
    (void)state;
    static const struct {
        double seconds;
        const char *first; /* the lowest bound that counts it */
    } cases[] = {{0, "0.001"},    {0.001, "0.001"}, {0.00101, "0.0025"}, {0.3, "0.5"},   {600, "600.0"},
                 {600.1, "+Inf"}, {1e300, "+Inf"},  {-5, "0.001"},       {NAN, "0.001"}, {INFINITY, "+Inf"}};
    static const char *const bounds[] = {"0.001", "0.0025", "0.005", "0.01",  "0.025", "0.05", "0.1",
                                         "0.25",  "0.5",    "1.0",   "2.5",   "5.0",   "10.0", "30.0",
                                         "60.0",  "120.0",  "300.0", "600.0", "+Inf"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct qn_metrics *m = qn_metrics_new();
        struct qn_buf b = {0};
        int counted = 0;
        assert_non_null(m);
        qn_metrics_observe(m, QN_H_DECODE, cases[i].seconds);
        page_of(m, &b);
        for (size_t k = 0; k < sizeof bounds / sizeof bounds[0]; k++) {
            char name[96];
            if (strcmp(bounds[k], cases[i].first) == 0) counted = 1;
            snprintf(name, sizeof name, "quern_phase_seconds_bucket{phase=\"decode\",le=\"%s\"}", bounds[k]);
            assert_int_equal(value(b.p, name), counted);
        }
        assert_int_equal(value(b.p, "quern_phase_seconds_count{phase=\"decode\"}"), 1);
        assert_int_equal(value(b.p, "quern_phase_seconds_count{phase=\"prefill\"}"), 0);
        assert_true(value(b.p, "quern_phase_seconds_sum{phase=\"decode\"}") >= 0);
        qn_buf_free(&b);
        qn_metrics_free(m);
    }
}

static void test_refusals_and_statuses(void **state) {
    (void)state;
    struct qn_metrics *m = qn_metrics_new();
    struct qn_buf b = {0};
    assert_non_null(m);
    page_of(m, &b);
    assert_int_equal(value(b.p, "quern_refused_total{reason=\"queue_full\"}"), 0); /* there from the start */
    qn_metrics_refused(m, QN_API_QUEUE_FULL);
    qn_metrics_refused(m, QN_API_BODY_TOO_LARGE);
    qn_metrics_refused(m, QN_API_CODE_COUNT); /* ignored */
    qn_metrics_response(m, 404);
    qn_metrics_response(m, 99999); /* ignored */
    page_of(m, &b);
    assert_int_equal(value(b.p, "quern_refused_total{reason=\"queue_full\"}"), 1);
    assert_int_equal(value(b.p, "quern_refused_total{reason=\"body_too_large\"}"), 1);
    assert_int_equal(value(b.p, "quern_http_responses_total{code=\"404\"}"), 1);
    qn_buf_free(&b);
    qn_metrics_free(m);
}

static void test_labels_are_escaped(void **state) {
    (void)state;
    struct qn_buf b = {0};
    qn_metrics_label(&b, "a\"b\\c\nd");
    assert_string_equal(b.p, "a\\\"b\\\\c\\nd");
    qn_buf_free(&b);
}

static void test_null_is_fine(void **state) {
    (void)state;
    qn_metrics_add(NULL, QN_C_STEPS, 1);
    qn_metrics_observe(NULL, QN_H_STEP, 1);
    qn_metrics_refused(NULL, QN_API_QUEUE_FULL);
    qn_metrics_response(NULL, 200);
    qn_metrics_free(NULL);
}

static void *record(void *arg) {
    for (int i = 0; i < 20000; i++) {
        qn_metrics_add(arg, QN_C_STEPS, 1);
        qn_metrics_observe(arg, QN_H_STEP, 0.25);
    }
    return NULL;
}

static void test_threads_lose_nothing(void **state) {
    (void)state;
    struct qn_metrics *m = qn_metrics_new();
    struct qn_buf b = {0};
    pthread_t t[4];
    assert_non_null(m);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, record, m), 0);
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    page_of(m, &b);
    assert_int_equal(value(b.p, "quern_steps_total"), 80000);
    assert_int_equal(value(b.p, "quern_step_seconds_count"), 80000);
    assert_true(fabs(value(b.p, "quern_step_seconds_sum") - 20000) < 1e-3);
    qn_buf_free(&b);
    qn_metrics_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_counter_has_its_own_row),
                                       cmocka_unit_test(test_observations_fall_into_their_buckets),
                                       cmocka_unit_test(test_refusals_and_statuses),
                                       cmocka_unit_test(test_labels_are_escaped),
                                       cmocka_unit_test(test_null_is_fine),
                                       cmocka_unit_test(test_threads_lose_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
