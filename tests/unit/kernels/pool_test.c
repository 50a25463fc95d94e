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

struct firsts {
    size_t first[8]; /* the first item that a thread ran, plus 1 */
    size_t items;
};

static void first_item(void *arg, size_t i, unsigned thread) {
    struct firsts *f = arg;
    if (!f->first[thread]) f->first[thread] = i + 1;
    sleep_ms(1); /* so that all threads come */
}

/* Who runs anything begins where it was said that it would, and all begin at different items. */
static void firsts_are_foretold(void **state) {
    struct qn_pool *pool = qn_pool_new(3);
    unsigned came = 0;
    (void)state;
    assert_non_null(pool);
    for (int round = 0; round < 10; round++) {
        struct firsts f = {.items = 12 + (size_t)round};
        qn_pool_run(pool, f.items, first_item, &f);
        for (unsigned t = 0; t < 3; t++) {
            size_t first = qn_pool_first(pool, f.items, t);
            came += f.first[t] == first + 1; /* else it came late, and others had taken it */
        }
        assert_int_equal(f.first[0], 1);
        assert_int_equal(qn_pool_first(pool, f.items, 0), 0);
        assert_true(qn_pool_first(pool, f.items, 1) >= f.items / 3);
        assert_true(qn_pool_first(pool, f.items, 2) >= 2 * (f.items / 3));
        assert_true(qn_pool_first(pool, f.items, 2) < f.items);
    }
    assert_true(came > 10); /* not the caller alone */
    assert_int_equal(qn_pool_first(pool, 0, 2), 0);
    qn_pool_free(&pool);
}

/* One thread's items take all the time: the others run what is left of them. */
static void slow_lane(void *arg, size_t i, unsigned thread) {
    unsigned *by = arg;
    if (i < 10) sleep_ms(5);
    by[i] = thread + 1;
}

static void lanes_are_helped_out(void **state) {
    struct qn_pool *pool = qn_pool_new(2);
    unsigned by[20] = {0}, helped = 0;
    (void)state;
    assert_non_null(pool);
    assert_int_equal(qn_pool_first(pool, 20, 1), 10);
    qn_pool_run(pool, 20, slow_lane, by);
    for (int i = 0; i < 10; i++) helped += by[i] == 2;
    assert_true(helped > 0);
    qn_pool_free(&pool);
}

/* What a thread is told to bring into its cache need not exist. */
static void ahead_of_nothing(void **state) {
    struct qn_pool *pool = qn_pool_new(2);
    struct job j = {.threads = 2};
    (void)state;
    assert_non_null(pool);
    for (int round = 0; round < 200; round++) {
        for (unsigned t = 0; t < 2; t++)
            for (unsigned slot = 0; slot < QN_POOL_AHEAD; slot++)
                qn_pool_ahead(pool, t, slot, (const void *)(uintptr_t)(4096u * (unsigned)round), 1 << 20);
        qn_pool_run(pool, 64, item, &j);
    }
    for (int i = 0; i < 64; i++) assert_int_equal(j.runs[i], 200);
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_once),     cmocka_unit_test(parked_workers_wake),
        cmocka_unit_test(firsts_are_foretold), cmocka_unit_test(lanes_are_helped_out),
        cmocka_unit_test(ahead_of_nothing),    cmocka_unit_test(edges)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
