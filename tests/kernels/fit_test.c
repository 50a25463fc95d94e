/* The search for scales: its error is at most that of rounding by extremes, block by block, in the measure
 * that it minimises; it comes near a slow reference that tries every scale a half can hold (and a grid of
 * minima) in double; and on data like a model's weights it is better by a known part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "kernels/kernels.h"

#define COLS 4096

static uint64_t seed;

static double unit(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return ((double)(seed >> 32) + 0.5) * 0x1p-32;
}

static void gauss(float *x, size_t n, double sd) {
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(sd * sqrt(-2 * log(unit())) * cos(2 * 3.14159265358979 * unit()));
}

/* Values that share a scale: 16 in Q6_K, else 32. */
static size_t group(enum qn_type t) {
    return t == QN_Q6_K ? 16 : 32;
}

/* The weight of element i of a group: the group's root mean square plus its own size. */
static double weight(const float *x, size_t n, size_t i) {
    double sum = 0;
    for (size_t k = 0; k < n; k++) sum += (double)x[k] * (double)x[k];
    return sqrt(sum / (double)n) + fabs((double)x[i]);
}

static double error_of(enum qn_type t, const float *x, const float *y, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        size_t at = i / group(t) * group(t);
        double off = (double)y[i] - (double)x[i];
        sum += weight(x + at, group(t), i - at) * off * off;
    }
    return sum;
}

static void both(enum qn_type t, const float *x, float *simple, float *fit) {
    static uint8_t row[COLS * 4];
    qn_type_row_from_f32(t, x, row, COLS);
    qn_type_row_to_f32(t, row, simple, COLS);
    qn_type_row_fit_f32(t, x, row, COLS);
    qn_type_row_to_f32(t, row, fit, COLS);
}

static void never_worse_than_extremes(void **state) {
    (void)state;
    static float x[COLS], simple[COLS], fit[COLS];
    for (int t = QN_Q8_0; t < QN_TYPE_COUNT; t++) {
        size_t block = qn_type_block((enum qn_type)t);
        seed = 11;
        for (int round = 0; round < 12; round++) {
            gauss(x, COLS, ldexp(1, round - 9));
            for (size_t i = 0; i < COLS; i++) { /* outliers, blocks of one sign, constants, zeros */
                if (round % 4 == 1 && i % 97 == 0) x[i] *= 20;
                if (round % 4 == 2) x[i] = fabsf(x[i]) + 0.1f;
                if (round % 4 == 3 && i / 32 % 3 == 0) x[i] = i / 32 % 2 ? 0.25f : 0;
            }
            both((enum qn_type)t, x, simple, fit);
            for (size_t b = 0; b < COLS; b += block) {
                double e = error_of((enum qn_type)t, x + b, fit + b, block),
                       bound = error_of((enum qn_type)t, x + b, simple + b, block);
                if (e > bound * (1 + 1e-5))
                    fail_msg("%s: block %zu has error %g, %g by extremes", qn_type_name((enum qn_type)t),
                             b / block, e, bound);
            }
        }
    }
}

/* The least error of values d * (code - half), d any half-precision number. */
static double least_symmetric(const float *x, double half) {
    double least = INFINITY, e = 0;
    for (int i = 0; i < 32; i++) e = fabs((double)x[i]) > fabs(e) ? (double)x[i] : e;
    for (uint32_t h = 0; h < 0x10000; h++) {
        double d = (double)qn_f16_to_f32((uint16_t)h), sum = 0;
        if (!(fabs(d) > fabs(e) / half / 2 && fabs(d) < fabs(e) / half * 2)) continue;
        for (int i = 0; i < 32; i++) {
            double c = floor((double)x[i] / d + 0.5);
            c = c < -half ? -half : c > half - 1 ? half - 1 : c;
            sum += weight(x, 32, (size_t)i) * (c * d - (double)x[i]) * (c * d - (double)x[i]);
        }
        if (sum < least) least = sum;
    }
    return least;
}

/* The same of d * code + m over a grid. */
static double least_affine(const float *x, double top) {
    double least = INFINITY, min = (double)x[0], max = min;
    for (int i = 1; i < 32; i++) {
        min = (double)x[i] < min ? (double)x[i] : min;
        max = (double)x[i] > max ? (double)x[i] : max;
    }
    for (int a = 0; a <= 60; a++) {
        for (int b = 0; b <= 60; b++) {
            double d = (max - min) / top * (0.8 + 0.005 * a), m = min + (max - min) * 0.004 * (b - 10),
                   sum = 0;
            for (int i = 0; i < 32; i++) {
                double c = floor(((double)x[i] - m) / d + 0.5);
                c = c < 0 ? 0 : c > top ? top : c;
                double off = c * d + m - (double)x[i];
                sum += weight(x, 32, (size_t)i) * off * off;
            }
            if (sum < least) least = sum;
        }
    }
    return least;
}

static void near_what_trying_everything_finds(void **state) {
    (void)state;
    static float x[COLS], simple[COLS], fit[COLS];
    static const struct {
        enum qn_type t;
        double half, top, allowed;
    } cases[] = {
        {QN_Q4_0, 8, 0, 1.02}, {QN_Q5_0, 16, 0, 1.02}, {QN_Q4_1, 0, 15, 1.04}, {QN_Q5_1, 0, 31, 1.04}};
    seed = 5;
    gauss(x, COLS, 0.02);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        double want = 0, got = 0;
        both(cases[c].t, x, simple, fit);
        for (size_t b = 0; b < 24 * 32; b += 32) {
            want +=
                cases[c].half > 0 ? least_symmetric(x + b, cases[c].half) : least_affine(x + b, cases[c].top);
            got += error_of(cases[c].t, x + b, fit + b, 32);
        }
        if (got > cases[c].allowed * want)
            fail_msg("%s: error %g, trying everything %g", qn_type_name(cases[c].t), got, want);
    }
}

/* Of normally distributed values, and what is left of the error of rounding by extremes. K types hold no
 * minimum above 0: their blocks of positive values are fitted without one. */
static void better_by_a_known_part(void **state) {
    (void)state;
    static const double left[QN_TYPE_COUNT][2] = {
        [QN_Q4_0] = {0.91, 0.9},  [QN_Q5_0] = {0.9, 0.87},  [QN_Q4_1] = {0.82, 0.83},
        [QN_Q5_1] = {0.83, 0.81}, [QN_Q4_K] = {0.85, 0.87}, [QN_Q5_K] = {0.93, 0.89},
        [QN_Q6_K] = {0.85, 0.81}};
    static float x[COLS], simple[COLS], fit[COLS];
    for (int positive = 0; positive < 2; positive++) {
        seed = 3;
        gauss(x, COLS, 0.02);
        for (size_t i = 0; i < COLS && positive; i++) x[i] = fabsf(x[i]) + 0.01f;
        for (int t = 0; t < QN_TYPE_COUNT; t++) {
            if (left[t][0] == 0) continue;
            both((enum qn_type)t, x, simple, fit);
            double part =
                error_of((enum qn_type)t, x, fit, COLS) / error_of((enum qn_type)t, x, simple, COLS);
            if (part > left[t][positive])
                fail_msg("%s: %.3f of the error is left", qn_type_name((enum qn_type)t), part);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(never_worse_than_extremes),
                                       cmocka_unit_test(near_what_trying_everything_finds),
                                       cmocka_unit_test(better_by_a_known_part)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
