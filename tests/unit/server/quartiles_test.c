/* Median and interquartile range: against values worked out by hand, in any order, and for what is not there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "server/comparison.h"

static void values(void **state) {
    (void)state;
    static const struct {
        double v[6];
        uint32_t n;
        double median, spread;
    } rows[] = {{{7}, 1, 7, 0},
                {{4, 2}, 2, 3, 1},
                {{3, 1, 2}, 3, 2, 1},
                {{1, 2, 3, 4}, 4, 2.5, 1.5},
                {{5, 1, 4, 2, 100}, 5, 4, 3},
                {{6, 5, 4, 3, 2, 1}, 6, 3.5, 2.5},
                {{9, 9, 9, 9}, 4, 9, 0},
                {{0}, 0, 0, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double v[6], median, spread;
        memcpy(v, rows[i].v, sizeof v);
        qn_quartiles(v, rows[i].n, &median, &spread);
        assert_true(fabs(median - rows[i].median) < 1e-12 && fabs(spread - rows[i].spread) < 1e-12);
    }
}

static void timings(void **state) {
    (void)state;
    struct qn_api_timings s[3] = {{.queue = 1, .prefill = 10, .ttft = 5, .decode_tps = 2, .steps = 4},
                                  {.queue = 2, .prefill = 30, .ttft = 7, .decode_tps = -1, .steps = 4},
                                  {.queue = 6, .prefill = 20, .ttft = 6, .decode_tps = 3, .steps = 5}};
    struct qn_api_timings median, spread;
    double work[3];
    qn_timing_quartiles(s, 3, work, &median, &spread);
    assert_true(fabs(median.queue - 2) < 1e-12 && fabs(spread.queue - 2.5) < 1e-12);
    assert_true(fabs(median.prefill - 20) < 1e-12 && fabs(spread.prefill - 10) < 1e-12);
    assert_true(fabs(median.ttft - 6) < 1e-12 && fabs(spread.ttft - 1) < 1e-12);
    assert_true(median.decode_tps < 0 && spread.decode_tps < 0); /* one run had none */
    assert_int_equal(median.steps, 4);
    assert_true(fabs(s[1].prefill - 30) < 1e-12); /* the samples stay as they are */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(values), cmocka_unit_test(timings)};
    return cmocka_run_group_tests_name("server/quartiles", tests, NULL, NULL);
}
