/* Rounding to every storage type: what comes back is as near as the type's steps allow, values that a type
 * holds exactly come back as they went in, zeros stay zeros, and what no scale can hold ends somewhere near.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "kernels/kernels.h"

#define COLS 1024

static float random_unit(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (float)(*s >> 40) * 0x1p-23f - 1.0f;
}

/* The one that goes by extremes, or the one that searches. */
static void (*round_row)(enum qn_type t, const float *src, void *dst, size_t cols);

static void there_and_back(enum qn_type t, const float *x, float *y) {
    static uint8_t row[COLS * 4];
    size_t bytes;
    assert_true(qn_type_row_bytes(t, COLS, &bytes) && bytes <= sizeof row);
    memset(row, 0xa5, sizeof row);
    round_row(t, x, row, COLS);
    for (size_t i = bytes; i < sizeof row; i++) assert_int_equal(row[i], 0xa5);
    qn_type_row_to_f32(t, row, y, COLS);
}

/* Relative to the largest value of the block: half a step, and a little for the rounding of scales. A search
 * may cut the largest values for the good of the others. */
static void error_is_half_a_step(void **state) {
    (void)state;
    static const double bound[QN_TYPE_COUNT] = {
        [QN_F32] = 0,     [QN_F16] = 0.0005, [QN_BF16] = 0.004, [QN_Q8_0] = 0.0045,
        [QN_Q4_0] = 0.13, [QN_Q4_1] = 0.07,  [QN_Q5_0] = 0.065, [QN_Q5_1] = 0.034,
        [QN_Q4_K] = 0.1,  [QN_Q5_K] = 0.06,  [QN_Q6_K] = 0.035};
    static float x[COLS], y[COLS];
    uint64_t s = 7;
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        for (int round = 0; round < 20; round++) {
            float size = ldexpf(1.0f, round - 4);
            for (size_t i = 0; i < COLS; i++) x[i] = size * random_unit(&s);
            there_and_back((enum qn_type)t, x, y);
            for (size_t i = 0; i < COLS; i++) {
                double off = fabs((double)x[i] - (double)y[i]) / (double)size;
                double allowed = round_row == qn_type_row_fit_f32 ? 2 * bound[t] : bound[t];
                if (off > allowed) fail_msg("%s: %g becomes %g", qn_type_name((enum qn_type)t), x[i], y[i]);
            }
        }
    }
}

/* What a type's own grid holds comes back bit for bit. */
static void grid_values_stay(void **state) {
    (void)state;
    static const struct {
        enum qn_type t;
        int from, to;
    } cases[] = {
        {QN_Q8_0, -127, 127}, {QN_Q4_0, -8, 7}, {QN_Q4_1, 0, 15}, {QN_Q5_0, -16, 15}, {QN_Q5_1, 0, 31}};
    static float x[COLS], y[COLS];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int span = cases[c].to - cases[c].from + 1;
        for (int i = 0; i < COLS; i++) {
            /* each block of 32 holds both ends, which fix its scale */
            int v = i % 32 == 0 ? cases[c].from : i % 32 == 1 ? cases[c].to : cases[c].from + i * 7 % span;
            x[i] = 0.25f * (float)v;
        }
        there_and_back(cases[c].t, x, y);
        assert_memory_equal(x, y, sizeof x);
    }
}

static void zeros_and_constants(void **state) {
    (void)state;
    static float x[COLS], y[COLS];
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        memset(x, 0, sizeof x);
        there_and_back((enum qn_type)t, x, y);
        for (size_t i = 0; i < COLS; i++) assert_true(y[i] == 0);
        for (float c = -2; c <= 2; c += 4) {
            for (size_t i = 0; i < COLS; i++) x[i] = c;
            there_and_back((enum qn_type)t, x, y);
            for (size_t i = 0; i < COLS; i++) assert_true(fabsf(y[i] - c) <= 0.04f);
        }
    }
}

/* Where a scale is so small that a half holds it coarsely, codes go by the scale that is stored: multiples of
 * the least half come back as they were. Where it holds none, nothing grows. */
static void tiny_blocks_go_by_stored_scales(void **state) {
    (void)state;
    static const struct {
        enum qn_type t;
        int from, to; /* two thirds of what the type's codes reach */
    } cases[] = {
        {QN_Q8_0, -80, 80}, {QN_Q4_0, -6, 4}, {QN_Q4_1, 0, 10}, {QN_Q5_0, -12, 10}, {QN_Q5_1, 0, 20}};
    static float x[COLS], y[COLS];
    uint64_t s = 5;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int span = cases[c].to - cases[c].from + 1;
        for (int i = 0; i < COLS; i++)
            x[i] = 0x1p-24f * (float)(i % 32          ? cases[c].from + i * 7 % span
                                      : cases[c].from ? cases[c].from
                                                      : cases[c].to);
        there_and_back(cases[c].t, x, y);
        assert_memory_equal(x, y, sizeof x);
    }
    for (int t = QN_Q8_0; t < QN_TYPE_COUNT; t++) {
        for (int round = -149; round < -10; round++) {
            float size = ldexpf(1.0f, round);
            for (size_t i = 0; i < COLS; i++) x[i] = i % 32 ? size * random_unit(&s) : 0;
            there_and_back((enum qn_type)t, x, y);
            for (size_t i = 0; i < COLS; i++) assert_true(fabsf(y[i]) <= 2 * size);
        }
    }
}

/* What is no number, or too large, has no code: it spoils no more than its own block, and is never cast. */
static void odd_values_keep_to_their_block(void **state) {
    (void)state;
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f};
    static float x[COLS], y[COLS], want[COLS];
    for (int t = QN_Q8_0; t < QN_TYPE_COUNT; t++) {
        for (size_t i = 0; i < COLS; i++) x[i] = (float)(i * 7 % 61) - 30;
        there_and_back((enum qn_type)t, x, want);
        for (size_t o = 0; o < sizeof odd / sizeof *odd; o++) {
            x[300] = odd[o];
            there_and_back((enum qn_type)t, x, y);
            assert_memory_equal(y, want, 256 * sizeof *y);
            assert_memory_equal(y + 512, want + 512, (COLS - 512) * sizeof *y);
            x[300] = (float)(300 * 7 % 61) - 30;
        }
    }
}

static int by_extremes(void **state) {
    (void)state;
    round_row = qn_type_row_from_f32;
    return 0;
}

static int by_search(void **state) {
    (void)state;
    round_row = qn_type_row_fit_f32;
    return 0;
}

int main(void) {
#define BOTH(f) cmocka_unit_test_setup(f, by_extremes), cmocka_unit_test_setup(f, by_search)
    const struct CMUnitTest tests[] = {
        BOTH(error_is_half_a_step),
        BOTH(grid_values_stay),
        BOTH(zeros_and_constants),
        BOTH(tiny_blocks_go_by_stored_scales),
        BOTH(odd_values_keep_to_their_block),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
