/* Error replies: all four keys always, the right status, valid UTF-8 whatever the message quotes, first one
 * wins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <string.h>

#include "api/error.h"

static void every_code(void **state) {
    (void)state;
    static const unsigned status[QN_API_CODE_COUNT] = {200, 400, 400, 400, 400, 400, 400, 400, 401,
                                                       404, 404, 405, 413, 415, 431, 400, 429, 500,
                                                       501, 503, 503, 503, 503, 503, 408};
    for (int c = 1; c < QN_API_CODE_COUNT; c++) {
        struct qn_api_err e = {0};
        struct qn_buf b = {0};
        enum qn_api_code code = (enum qn_api_code)c;
        assert_int_equal(qn_api_fail(&e, code, c % 2 ? "n" : "", "it is %d", c), -1);
        assert_int_equal(qn_api_status(code), status[c]);
        qn_api_error_write(&b, &e);
        json_t *root = json_loadb(b.p, b.n, 0, NULL), *err = json_object_get(root, "error");
        assert_int_equal(json_object_size(root), 1);
        assert_int_equal(json_object_size(err), 4);
        assert_true(json_is_string(json_object_get(err, "message")));
        assert_string_equal(json_string_value(json_object_get(err, "type")), qn_api_type(code));
        assert_string_equal(json_string_value(json_object_get(err, "code")), qn_api_code_name(code));
        assert_true(strlen(qn_api_type(code)) > 0 && strlen(qn_api_code_name(code)) > 0);
        assert_true(c % 2 ? json_is_string(json_object_get(err, "param"))
                          : json_is_null(json_object_get(err, "param")));
        json_decref(root);
        qn_buf_free(&b);
    }
    assert_int_equal(qn_api_status((enum qn_api_code)999), 500);
}

static void exact_text(void **state) {
    (void)state;
    struct qn_api_err e = {0};
    struct qn_buf b = {0};
    qn_api_fail(&e, QN_API_QUEUE_FULL, NULL, "the queue is \"full\"");
    qn_api_fail(&e, QN_API_INTERNAL, "x", "second");
    qn_api_error_write(&b, &e);
    assert_string_equal(b.p,
                        "{\"error\":{\"message\":\"the queue is \\\"full\\\"\",\"type\":\"rate_limit_error\","
                        "\"param\":null,\"code\":\"queue_full\"}}");
    qn_buf_free(&b);
}

static void messages_are_utf8(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"a\xFFz", "a?z"},
        {"a\x01\nz", "a??z"},
        {"\xC3\xA9", "\xC3\xA9"},
        {"\xE2\x82\xAC", "\xE2\x82\xAC"},
        {"\xED\xA0\x80", "???"},
        {"x\xE2\x82", "x"},
        {"\xC0\x80", "??"},
        {"\xE2(\xA1", "?(?"},
        {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
        {"\x7F", "?"},
        {"\xC2\x9B", "??"}, /* U+009B begins commands of terminals */
        {"\xC2\xA0", "\xC2\xA0"},
        {"\xC2\xA9", "\xC2\xA9"},
        {"\xDF\xBF", "\xDF\xBF"},
        {"\xC3(", "?("},
        {"\xE0\x80\x80", "???"},
        {"\xF4\x90\x80\x80", "????"},
        {"\xF0\x80\x80\x80", "????"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct qn_api_err e = {0};
        qn_api_fail(&e, QN_API_INVALID, rows[i].in, "%s", rows[i].in);
        assert_string_equal(e.msg, rows[i].out);
        assert_string_equal(e.param, rows[i].out);
    }
    struct qn_api_err e = {0};
    char big[3000];
    for (size_t i = 0; i + 3 < sizeof big; i += 3) memcpy(big + i, "\xE2\x82\xAC", 4);
    qn_api_fail(&e, QN_API_INVALID, big, "%s", big); /* cut inside a character */
    json_t *j = json_string(e.msg), *p = json_string(e.param);
    assert_non_null(j);
    assert_non_null(p);
    json_decref(j);
    json_decref(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_code), cmocka_unit_test(exact_text),
                                       cmocka_unit_test(messages_are_utf8)};
    return cmocka_run_group_tests_name("api/error", tests, NULL, NULL);
}
