/* The pool: every item runs exactly once, results are visible to the caller, workers wake after parking. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kernels/pool.h"

struct job {
    uint32_t runs[512]; /* plain on purpose: a race shows under TSan */
    unsigned threads;
    uint32_t bad;
};

static void item(void *arg, size_t i, unsigned thread) {
    struct job *j = arg;
    if (thread >= j->threads) j->bad = 1;
    j->runs[i]++;
}

static void every_item_once(void **state) {
    (void)state;
    for (unsigned threads = 1; threads <= 5; threads++) {
        struct qn_pool *pool = qn_pool_new(threads);
        struct job j = {.threads = threads};
        size_t total[512] = {0};
        assert_non_null(pool);
        assert_int_equal(qn_pool_threads(pool), threads);
        for (size_t round = 0; round < 4000; round++) {
            size_t n = round * 7 % 513;
            qn_pool_run(pool, n, item, &j);
            for (size_t i = 0; i < n; i++) total[i]++;
        }
        for (size_t i = 0; i < 512; i++) assert_int_equal(j.runs[i], total[i]);
        assert_int_equal(j.bad, 0);
        qn_pool_free(&pool);
        assert_null(pool);
    }
}

static void sleep_ms(long ms) {
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

static void slow_item(void *arg, size_t i, unsigned thread) {
    unsigned *by = arg;
    sleep_ms(2);
    by[i] = thread + 1;
}

/* After a pause workers are parked; they must come back and share the work. */
static void parked_workers_wake(void **state) {
    struct qn_pool *pool = qn_pool_new(2);
    unsigned helped = 0;
    (void)state;
    assert_non_null(pool);
    for (int round = 0; round < 5; round++) {
        unsigned by[40] = {0};
        sleep_ms(20);
        qn_pool_run(pool, 40, slow_item, by);
        for (int i = 0; i < 40; i++) {
            assert_true(by[i] == 1 || by[i] == 2);
            helped += by[i] == 2;
        }
    }
    assert_true(helped > 0);
    qn_pool_free(&pool);
}

static void edges(void **state) {
    struct job j = {.threads = 1};
    struct qn_pool *none = NULL;
    (void)state;
    assert_null(qn_pool_new(0));
    qn_pool_free(NULL);
    qn_pool_free(&none);
    assert_int_equal(qn_pool_threads(NULL), 1);
    qn_pool_run(NULL, 3, item, &j);
    assert_int_equal(j.runs[0] + j.runs[1] + j.runs[2], 3);
    for (int i = 0; i < 50; i++) { /* freed at once: workers may not even have started */
        struct qn_pool *p = qn_pool_new(3);
        assert_non_null(p);
        qn_pool_free(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_item_once),
                                       cmocka_unit_test(parked_workers_wake), cmocka_unit_test(edges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
