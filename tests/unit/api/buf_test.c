/* The buffer and the hand-written JSON emitters: limits, sticky failure, escapes, and that every number reads
 * back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/buf.h"

static void limit_is_sticky(void **state) {
    (void)state;
    struct qn_buf b = {.limit = 10};
    qn_buf_str(&b, "12345");
    qn_buf_str(&b, "67890");
    assert_false(b.failed);
    assert_int_equal(b.n, 10);
    qn_buf_str(&b, "");
    assert_false(b.failed);
    qn_buf_str(&b, "x");
    assert_true(b.failed);
    qn_buf_clear(&b);
    assert_false(b.failed);
    qn_buf_printf(&b, "%s", "0123456789A");
    assert_true(b.failed);
    assert_int_equal(b.n, 0);
    qn_buf_json_str(&b, "a", 1);
    assert_int_equal(b.n, 0);
    qn_buf_free(&b);
    qn_buf_free(&b);
    qn_buf_free(NULL);
}

static void long_formats_grow(void **state) {
    (void)state;
    struct qn_buf b = {0};
    char big[5000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    for (int i = 0; i < 5; i++) qn_buf_printf(&b, "<%s>", big);
    assert_false(b.failed);
    assert_int_equal(b.n, 5 * (sizeof big + 1));
    assert_int_equal(b.p[b.n], '\0');
    qn_buf_free(&b);
}

static void strings(void **state) {
    (void)state;
    static const struct {
        const char *in;
        size_t n;
        const char *out;
    } rows[] = {
        {"", 0, "\"\""},
        {"abc", 3, "\"abc\""},
        {"a\"b\\c/", 6, "\"a\\\"b\\\\c/\""},
        {"\n\r\t\b\f", 5, "\"\\n\\r\\t\\b\\f\""},
        {"\0\x01\x1f\x7f", 4, "\"\\u0000\\u0001\\u001f\x7f\""},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", 9, "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\""},
        {"\xF4\x8F\xBF\xBF", 4, "\"\xF4\x8F\xBF\xBF\""},
        {"\xFF", 1, "\"\xEF\xBF\xBD\""},
        {"a\xC3", 2, "\"a\xEF\xBF\xBD\""},                               /* cut */
        {"\xE2\x82", 2, "\"\xEF\xBF\xBD\""},                             /* one for the beginning of one */
        {"\xE2\x82\x41", 3, "\"\xEF\xBF\xBD\x41\""},                     /* the letter survives */
        {"\xC0\x80", 2, "\"\xEF\xBF\xBD\xEF\xBF\xBD\""},                 /* overlong */
        {"\xED\xA0\x80", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""}, /* surrogate */
        {"\xF4\x90\x80\x80", 4, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""}, /* past U+10FFFF */
        {"\xF0\x9F\x98\"", 4, "\"\xEF\xBF\xBD\\\"\""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct qn_buf b = {0};
        qn_buf_json_str(&b, rows[i].in, rows[i].n);
        assert_string_equal(b.p, rows[i].out);
        qn_buf_free(&b);
    }
}

/* Random bytes: the output is always what jansson takes, and valid input comes back unchanged. */
static void random_strings_are_json(void **state) {
    (void)state;
    uint64_t x = 88172645463325252u;
    for (int round = 0; round < 20000; round++) {
        char in[24];
        size_t n = 0;
        struct qn_buf b = {0};
        for (n = 0; n < sizeof in; n++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            in[n] = (char)(x >> (round % 3 ? 33 : 57));
            if (n && (x & 15) == 0) break;
        }
        qn_buf_json_str(&b, in, n);
        json_t *v = json_loadb(b.p, b.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        if (!v) fail_msg("round %d is not JSON: %s", round, b.p);
        json_t *same = json_stringn(in, n);
        if (same) assert_true(json_equal(same, v));
        json_decref(same);
        json_decref(v);
        qn_buf_free(&b);
    }
}

static void integers(void **state) {
    (void)state;
    static const int64_t rows[] = {0,    1,     -1,        9,         10,        99,           100,
                                   -100, 12345, INT32_MAX, INT64_MAX, INT64_MIN, 1000000000000};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct qn_buf b = {0};
        char want[32];
        qn_buf_json_int(&b, rows[i]);
        snprintf(want, sizeof want, "%lld", (long long)rows[i]);
        assert_string_equal(b.p, want);
        qn_buf_clear(&b);
        qn_buf_json_uint(&b, (uint64_t)rows[i]);
        snprintf(want, sizeof want, "%llu", (unsigned long long)rows[i]);
        assert_string_equal(b.p, want);
        qn_buf_free(&b);
    }
}

static void fixed_point(void **state) {
    (void)state;
    static const struct {
        double v;
        unsigned digits;
        const char *out;
    } rows[] = {
        {0, 3, "0"},
        {-0.0, 3, "0"},
        {1, 3, "1"},
        {1.5, 3, "1.5"},
        {0.001, 3, "0.001"},
        {0.0004, 3, "0"},
        {-0.0004, 3, "0"},
        {0.0006, 3, "0.001"},
        {-12.25, 3, "-12.25"},
        {0.05, 3, "0.05"},
        {999.9996, 3, "1000"},
        {123456.789, 3, "123456.789"},
        {2.5, 0, "3"},
        {1e12, 0, "1000000000000"},
        {HUGE_VAL, 3, "null"},
        {-HUGE_VAL, 3, "null"},
        {(double)NAN, 3, "null"},
        {0.123456789, 9, "0.123456789"},
        {0.1, 60, "0.1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct qn_buf b = {0};
        qn_buf_json_num(&b, rows[i].v, rows[i].digits);
        assert_string_equal(b.p, rows[i].out);
        qn_buf_free(&b);
    }
    struct qn_buf b = {0};
    qn_buf_json_num(&b, 1.7e308, 3);
    assert_true(strtod(b.p, NULL) > 1.69e308);
    qn_buf_free(&b);
}

/* Reads back as the same float, directly and through a double, and no shorter %g text does. */
static void check_float(float v) {
    struct qn_buf b = {0};
    char g[40], *end;
    qn_buf_json_float(&b, v);
    float direct = strtof(b.p, &end);
    float through = (float)strtod(b.p, NULL);
    if (*end || memcmp(&direct, &v, 4) || memcmp(&through, &v, 4))
        fail_msg("%.9g was written as %s", (double)v, b.p);
    json_t *j = json_loadb(b.p, b.n, JSON_DECODE_ANY, NULL);
    assert_true(json_is_number(j));
    json_decref(j);
    size_t digits = 0, sig = 0;
    for (const char *p = b.p; *p && *p != 'e'; p++) {
        if (*p < '0' || *p > '9') continue;
        if (*p != '0' || digits) digits++;
        if (*p != '0') sig = digits;
    }
    for (int p = 1; p < (int)sig; p++) {
        snprintf(g, sizeof g, "%.*e", p - 1, (double)v);
        float w = strtof(g, NULL);
        double up = ((double)v + (double)nextafterf(v, HUGE_VALF)) / 2;
        double down = ((double)v + (double)nextafterf(v, -HUGE_VALF)) / 2, at = strtod(g, NULL);
        bool tie = !(at < up && at > down); /* half-way to a neighbour: left out on purpose */
        if (!memcmp(&w, &v, 4) && !tie) fail_msg("%.9g was written as %s, %s is shorter", (double)v, b.p, g);
    }
    qn_buf_free(&b);
}

static void floats(void **state) {
    (void)state;
    static const float rows[] = {0.0f,           1.0f,          -1.0f,       0.1f,           0.3f,    1e-45f,
                                 1.1754944e-38f, 3.4028235e38f, 16777216.0f, 8.6e9f,         9.99e9f, 1e10f,
                                 1e9f,           1e8f,          1e-5f,       1e-4f,          0.001f,  1e12f,
                                 1e13f,          9.5367e-7f,    33554432.0f, 2.3509887e-38f, -0.0f};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) check_float(rows[i]);
    for (uint32_t e = 0; e < 255; e++) /* every power of two, and its neighbours */
        for (uint32_t d = 0; d < 3; d++) {
            uint32_t bits = (e << 23) + d - (e ? 1 : 0);
            float v;
            memcpy(&v, &bits, 4);
            check_float(v);
        }
    uint64_t x = 0x9E3779B97F4A7C15u;
    for (int i = 0; i < 200000; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        uint32_t bits = (uint32_t)(x >> 32);
        float v;
        memcpy(&v, &bits, 4);
        if (i & 1) v = (float)(int32_t)bits / 2147483648.0f;
        if (isfinite(v)) check_float(v);
    }
    struct qn_buf b = {0};
    qn_buf_json_float(&b, (float)NAN);
    qn_buf_json_float(&b, -HUGE_VALF);
    qn_buf_json_float(&b, 0.25f);
    qn_buf_json_float(&b, 0.0f);
    assert_string_equal(b.p, "nullnull0.250");
    qn_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limit_is_sticky), cmocka_unit_test(long_formats_grow),
        cmocka_unit_test(strings),         cmocka_unit_test(random_strings_are_json),
        cmocka_unit_test(integers),        cmocka_unit_test(fixed_point),
        cmocka_unit_test(floats),
    };
    return cmocka_run_group_tests_name("api/buf", tests, NULL, NULL);
}
