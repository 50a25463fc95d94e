/* JSON conformance of the request parser, in the manner of JSONTestSuite: y must be read (and is then refused
 * only for not being a request), n must be refused as not JSON, r is JSON that is refused by value: numbers
 * out of range, U+0000, duplicate keys. Also the bounds that hold before a tree is built. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/infer.h"
#include "api/jload.h"

#define T(s) s, sizeof s - 1

static const struct {
    const char *text;
    size_t n;
    char kind; /* y: JSON, n: not JSON, r: JSON that is refused by value (numbers out of range, U+0000,
                  duplicates) */
} rows[] = {
    {T("{}"), 'y'},
    {T("{\"a\":1}"), 'y'},
    {T("[]"), 'y'},
    {T("[1,[2,[3]]]"), 'y'},
    {T(" [ ] "), 'y'},
    {T("\t\r\n{}\n"), 'y'},
    {T("\"\""), 'y'},
    {T("0"), 'y'},
    {T("-0"), 'y'},
    {T("-0.0"), 'y'},
    {T("1e5"), 'y'},
    {T("1E+5"), 'y'},
    {T("1.5e-5"), 'y'},
    {T("123456789012345678"), 'y'},
    {T("1e-400"), 'y'}, /* becomes 0 */
    {T("true"), 'y'},
    {T("false"), 'y'},
    {T("null"), 'y'},
    {T("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""), 'y'},
    {T("\"\\u00e9\\u20ac\""), 'y'},
    {T("\"\\uD83D\\uDE00\""), 'y'},
    {T("\"\xC3\xA9\xF0\x9F\x98\x80\""), 'y'},
    {T("\"\x7F\""), 'y'},
    {T("\"\xE2\x80\xA8\""), 'y'}, /* U+2028 */
    {T("\"\xEF\xBF\xBF\""), 'y'}, /* U+FFFF */
    {T("{\"\":0}"), 'y'},
    {T("{\"a\":{\"a\":1}}"), 'y'},
    {T("\"\\u0012\""), 'y'},
    {T(""), 'n'},
    {T(" "), 'n'},
    {T("\xEF\xBB\xBF{}"), 'n'}, /* byte order mark */
    {T("{\0}\0"), 'n'},
    {T("{"), 'n'},
    {T("}"), 'n'},
    {T("["), 'n'},
    {T("]"), 'n'},
    {T("[1,]"), 'n'},
    {T("[,1]"), 'n'},
    {T("[1,,2]"), 'n'},
    {T("[1 2]"), 'n'},
    {T("[1}"), 'n'},
    {T("{\"a\"}"), 'n'},
    {T("{\"a\":}"), 'n'},
    {T("{\"a\" 1}"), 'n'},
    {T("{\"a\":1,}"), 'n'},
    {T("{a:1}"), 'n'},
    {T("{'a':1}"), 'n'},
    {T("{1:1}"), 'n'},
    {T("{\"a\":1 \"b\":2}"), 'n'},
    {T("{}{}"), 'n'},
    {T("{} x"), 'n'},
    {T("{}/**/"), 'n'},
    {T("//\n{}"), 'n'},
    {T("True"), 'n'},
    {T("nul"), 'n'},
    {T("nulll"), 'n'},
    {T("NaN"), 'n'},
    {T("-NaN"), 'n'},
    {T("Infinity"), 'n'},
    {T("-Infinity"), 'n'},
    {T("01"), 'n'},
    {T("-01"), 'n'},
    {T("+1"), 'n'},
    {T("1."), 'n'},
    {T(".5"), 'n'},
    {T("-"), 'n'},
    {T("1e"), 'n'},
    {T("1e+"), 'n'},
    {T("0x10"), 'n'},
    {T("1_000"), 'n'},
    {T("\""), 'n'},
    {T("\"abc"), 'n'},
    {T("\"\\\""), 'n'},
    {T("\"\\x41\""), 'n'},
    {T("\"\\u12\""), 'n'},
    {T("\"\\u12G4\""), 'n'},
    {T("\"a\nb\""), 'n'},
    {T("\"a\tb\""), 'n'},
    {T("\"a\0b\""), 'n'},
    {T("\"\\uD800\""), 'n'},
    {T("\"\\uD800\\u0041\""), 'n'},
    {T("\"\\uDC00\""), 'n'},
    {T("\"\xFF\""), 'n'},
    {T("\"\xC3\""), 'n'},
    {T("\"\xC0\x80\""), 'n'},
    {T("\"\xED\xA0\x80\""), 'n'},
    {T("\"\xF4\x90\x80\x80\""), 'n'},
    {T("\xFE\xFF\0{\0}"), 'n'}, /* UTF-16 */
    {T("{\0}\0"), 'n'},
    {T("[1\0,2]"), 'n'},
    {T("[1\0]"), 'n'},
    {T("[true\0]"), 'n'},
    {T("{\"a\":\"b\"}#"), 'n'},
    {T("[\"a\"\xFF]"), 'n'},
    {T("\"\\u0000\""), 'r'},
    {T("{\"\\u0000\":1}"), 'r'},
    {T("9223372036854775808"), 'r'},
    {T("-9223372036854775809"), 'r'},
    {T("1e999"), 'r'},
    {T("-1e999"), 'r'},
    {T("{\"a\":1,\"a\":1}"), 'r'},
    {T("{\"a\":1,\"\\u0061\":1}"), 'r'},
};

static void check(const char *body, size_t n, char kind) {
    static const struct qn_api_limits lim = {8, 4096, 64, 20000, 0};
    struct qn_api_infer r;
    struct qn_api_err e = {0};
    char *exact = malloc(n ? n : 1); /* no byte past the end may be read */
    assert_non_null(exact);
    memcpy(exact, body, n);
    assert_int_equal(qn_api_infer_parse(exact, n, &lim, &r, &e), -1); /* none of them is a request */
    qn_api_infer_free(&r);
    bool bad = e.code == QN_API_BAD_JSON;
    bool by_value =
        e.code == QN_API_INVALID && !strstr(e.msg, "JSON object") && !strstr(e.msg, "is required");
    if (bad != (kind == 'n') || (kind == 'r' && !by_value) || !e.msg[0])
        fail_msg("%.*s (%c): code %d, %s", (int)n, body, kind, (int)e.code, e.msg);
    free(exact);
}

static void suite(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) check(rows[i].text, rows[i].n, rows[i].kind);
}

/* The same texts inside a request: never taken for something valid. */
static void suite_nested(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char body[200];
        struct qn_api_infer r;
        struct qn_api_err e = {0};
        int head = snprintf(body, sizeof body, "{\"sequence\":\"a\",\"zzz\":");
        memcpy(body + head, rows[i].text, rows[i].n);
        body[(size_t)head + rows[i].n] = '}';
        assert_int_equal(qn_api_infer_parse(body, (size_t)head + rows[i].n + 1, NULL, &r, &e), -1);
        if ((rows[i].kind == 'y') != (e.code == QN_API_UNKNOWN_FIELD)) fail_msg("row %zu: %s", i, e.msg);
        qn_api_infer_free(&r);
    }
}

/* Every prefix of a request is refused, without reading past it. */
static void truncations(void **state) {
    (void)state;
    static const char body[] =
        "{\"sequence\":[\"a\\n\\u20ac\xE2\x82\xAC\",[1,2]],\"temperature\":0.5,\"stop\":[\"x\"],"
        "\"attention\":{\"type\":\"gqa\",\"kv_heads\":2},\"stream\":true}";
    for (size_t n = 0; n < sizeof body - 1; n++) check(body, n, 'n');
}

static char *repeat(const char *head, const char *unit, size_t times, const char *tail) {
    size_t h = strlen(head), u = strlen(unit), t = strlen(tail);
    char *s = malloc(h + u * times + t + 1);
    assert_non_null(s);
    memcpy(s, head, h);
    for (size_t i = 0; i < times; i++) memcpy(s + h + i * u, unit, u);
    memcpy(s + h + u * times, tail, t + 1);
    return s;
}

static void depth(void **state) {
    (void)state;
    static const struct {
        size_t times;
        enum qn_api_code code;
    } d[] = {{63, QN_API_INVALID}, {64, QN_API_BAD_JSON}, {100000, QN_API_BAD_JSON}};
    for (size_t i = 0; i < sizeof d / sizeof d[0]; i++) {
        char *open = repeat("{\"sequence\":", "[", d[i].times, ""),
             *body = repeat(open, "]", d[i].times, "}");
        struct qn_api_infer r;
        struct qn_api_err e = {0};
        assert_int_equal(qn_api_infer_parse(body, strlen(body), NULL, &r, &e), -1);
        assert_int_equal(e.code, d[i].code);
        assert_true(!strncmp(e.param, "sequence", 8));
        qn_api_infer_free(&r);
        free(open);
        free(body);
    }
}

static void elements(void **state) {
    (void)state;
    static const struct qn_api_limits lim = {8, 4096, 0, 1000, 0};
    static const struct {
        const char *unit;
        size_t times;
        bool good;
    } d[] = {{"1,", 997, true},      {"1,", 998, false},     {"1,", 500000, false},
             {"{},", 300000, false}, {"[],", 300000, false}, {"\"\",", 300000, false}};
    for (size_t i = 0; i < sizeof d / sizeof d[0]; i++) {
        char *body = repeat("{\"sequence\":[", d[i].unit, d[i].times, "1]}");
        struct qn_api_infer r;
        struct qn_api_err e = {0};
        int rc = qn_api_infer_parse(body, strlen(body), &lim, &r, &e);
        assert_int_equal(rc, d[i].good ? 0 : -1);
        if (!d[i].good) {
            assert_int_equal(e.code, QN_API_TOO_LARGE_WORK);
            assert_string_equal(e.param, "sequence");
        }
        qn_api_infer_free(&r);
        free(body);
    }
}

/* The block that a tree is built in always suffices, and stays small against the body. */
static void memory_estimate(void **state) {
    (void)state;
    static const struct {
        const char *head, *unit, *tail;
        size_t per; /* most bytes of the block for one unit */
    } d[] = {
        {"{\"a\":[", "1,", "1]}", 128},
        {"{\"a\":[", "1.5,", "1]}", 128},
        {"{\"a\":[", "\"\",", "1]}", 200},
        {"{\"a\":[", "{},", "1]}", 400},
        {"{\"a\":[", "[],", "1]}", 400},
        {"{\"a\":[", "[1,1,1,1,1,1,1,1,1],", "1]}", 1400},
        {"{\"a\":[", "{\"b\":1,\"c\":\"\"},", "1]}", 1000},
        {"{\"a\":\"", "xyzxyzxyzxyzxyz", "\"}", 100},
        {"{\"a\":\"", "\\u20ac", "\"}", 40},
        {"{\"", "abcdefgh", "\":1}", 60},
    };
    for (size_t i = 0; i < sizeof d / sizeof d[0]; i++) {
        for (size_t times = 0; times < 4000; times = times * 3 + 1) {
            char *body = repeat(d[i].head, d[i].unit, times, d[i].tail);
            struct qn_jbounds lim = {.max_depth = 64, .max_elements = 1000000};
            struct qn_jdoc doc;
            struct qn_api_err e = {0};
            if (qn_jdoc_open(&doc, body, strlen(body), &lim, &e)) fail_msg("%s", e.msg);
            assert_false(doc.exhausted);
            assert_true(doc.block_used <= doc.block_size);
            assert_true(doc.block_size <= 8192 + d[i].per * times);
            qn_jdoc_close(&doc);
            qn_jdoc_close(&doc);
            free(body);
        }
    }
    /* many keys: the tables of an object grow by doubling */
    char *body = malloc(400000);
    assert_non_null(body);
    size_t n = (size_t)sprintf(body, "{\"k\":0");
    for (int i = 0; i < 20000; i++) n += (size_t)sprintf(body + n, ",\"%d\":\"%d\"", i, i);
    n += (size_t)sprintf(body + n, "}");
    struct qn_jdoc doc;
    struct qn_api_err e = {0};
    assert_int_equal(qn_jdoc_open(&doc, body, n, NULL, &e), 0);
    assert_false(doc.exhausted);
    assert_int_equal(json_object_size(doc.root), 20001);
    qn_jdoc_close(&doc);
    free(body);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(suite), cmocka_unit_test(suite_nested), cmocka_unit_test(truncations),
        cmocka_unit_test(depth), cmocka_unit_test(elements),     cmocka_unit_test(memory_estimate),
    };
    return cmocka_run_group_tests_name("api/json suite", tests, NULL, NULL);
}
