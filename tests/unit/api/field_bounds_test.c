/* Every field of the table against every odd value: what is refused names the field, what is accepted is one
 * of the few that its type allows. Covers alone, next to each other field, and inside structure parts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/infer_fields.h"

static const char *const values[] = {
    "0",
    "-1",
    "1",
    "1.0",
    "0.5",
    "-0.5",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740991",
    "9007199254740992",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "18446744073709551616",
    "1e308",
    "-1e308",
    "1e309",
    "1e-308",
    "NaN",
    "Infinity",
    "\"\"",
    "\"a\"",
    "\"1\"",
    "\"generate\"",
    "\"embed\"",
    "\"prompt\"",
    "\"off\"",
    "null",
    "[]",
    "[\"\"]",
    "[1]",
    "[1.5]",
    "[null]",
    "[[]]",
    "{}",
    "{\"type\":1}",
    "{\"a\":1}",
    "true",
    "false",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "%min-1",
    "%min",
    "%max",
    "%max+1",
};

/* What the table says about a number; the test's own reading of it. */
static bool number_fits(const struct qn_api_field *f, const json_t *v) {
    double d = json_number_value(v);
    bool integer = f->type == QN_FIELD_U32 || f->type == QN_FIELD_U64;
    if (integer && !json_is_integer(v)) return false;
    return d >= f->min && d <= f->max && (!f->min_open || (float)d > (float)f->min);
}

static bool expected(const struct qn_api_field *f, const json_t *v) {
    const char *s = json_is_string(v) ? json_string_value(v) : "";
    if (!v) return false;
    if (json_is_null(v)) return strcmp(f->name, "sequence") != 0;
    switch (f->type) {
    case QN_FIELD_U32:
    case QN_FIELD_U64:
    case QN_FIELD_FLOAT:
        return json_is_number(v) && number_fits(f, v);
    case QN_FIELD_BOOL:
        return json_is_boolean(v);
    case QN_FIELD_MODEL:
    case QN_FIELD_PART:
        return s[0] != '\0';
    case QN_FIELD_TASK:
        return !strcmp(s, "generate") || !strcmp(s, "embed");
    case QN_FIELD_SEQUENCE:
        if (json_is_array(v)) return json_is_integer(json_array_get(v, 0));
        return s[0] != '\0';
    case QN_FIELD_STOP:
        return s[0] != '\0' || (json_is_array(v) && json_array_size(v) == 0);
    case QN_FIELD_SPECULATIVE:
        return !strcmp(s, "off") || !strcmp(s, "prompt") || json_is_false(v);
    case QN_FIELD_REGEX:
        return s[0] != '\0';
    case QN_FIELD_SCHEMA:
        return json_is_true(v) || json_is_object(v);
    default: /* of other requests */
        return false;
    }
}

static const char *text_of(const struct qn_api_field *f, const char *value, char out[64]) {
    if (value[0] != '%') return value;
    double base = value[2] == 'i' ? f->min : f->max, step = value[4] == '-' ? -1 : value[4] == '+' ? 1 : 0;
    snprintf(out, 64, "%.0f", base + step);
    return out;
}

static size_t cases;

static void one(const struct qn_api_field *f, const char *value, const char *more) {
    char body[600], number[64];
    const char *text = text_of(f, value, number);
    bool is_seq = !strcmp(f->name, "sequence");
    struct qn_api_infer r;
    struct qn_api_err e = {0};
    json_t *v = json_loads(text, JSON_DECODE_ANY, NULL);
    bool want = expected(f, v), huge = strlen(text) > 18 || strchr(text, '9');
    bool syntax = !v && !huge && strcmp(text, "\"\\u0000\"") != 0; /* not JSON at all: no field to name */
    json_decref(v);
    snprintf(body, sizeof body, "{%s\"%s\":%s%s}", is_seq ? "" : "\"sequence\":\"a\",", f->name, text, more);
    int rc = qn_api_infer_parse(body, strlen(body), NULL, &r, &e);
    if ((rc == 0) != want) fail_msg("%s: rc %d, %s: %s", body, rc, e.param, e.msg);
    if (rc && !syntax && strncmp(e.param, f->name, strlen(f->name)))
        fail_msg("%s names \"%s\"", body, e.param);
    if (rc && qn_api_status(e.code) != 400) fail_msg("%s: status %u", body, qn_api_status(e.code));
    qn_api_infer_free(&r);
    cases++;
}

static void each_field_each_value(void **state) {
    (void)state;
    size_t n;
    const struct qn_api_field *f = qn_api_infer_fields(&n);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < sizeof values / sizeof values[0]; k++) one(&f[i], values[k], "");
}

/* A valid neighbour after it changes nothing, whichever it is. */
static void with_neighbours(void **state) {
    (void)state;
    size_t n;
    const struct qn_api_field *f = qn_api_infer_fields(&n);
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            char more[100];
            if (i == j || !f[j].def || !strcmp(f[j].name, "stop")) continue;
            snprintf(more, sizeof more, ",\"%s\":%s", f[j].name, f[j].def);
            for (size_t k = 0; k < sizeof values / sizeof values[0]; k += 3)
                if (strcmp(values[k], "\"embed\"")) one(&f[i], values[k], more);
        }
    }
    assert_true(cases > 2000);
}

static void duplicates(void **state) {
    (void)state;
    size_t n;
    const struct qn_api_field *f = qn_api_infer_fields(&n);
    for (size_t i = 0; i < n; i++) {
        char body[200];
        struct qn_api_infer r;
        struct qn_api_err e = {0};
        snprintf(body, sizeof body, "{\"%s\":null,\"%s\":null,\"sequence\":\"a\"}", f[i].name, f[i].name);
        assert_int_equal(qn_api_infer_parse(body, strlen(body), NULL, &r, &e), -1);
        assert_string_equal(e.param, f[i].name);
        assert_int_equal(e.code, QN_API_INVALID);
        qn_api_infer_free(&r);
    }
}

/* The table itself: names unique, defaults inside their bounds and equal to what the parser fills in. */
static void table_is_sound(void **state) {
    (void)state;
    size_t n;
    const struct qn_api_field *f = qn_api_infer_fields(&n);
    for (size_t i = 0; i < n; i++) {
        struct qn_api_infer a, b;
        struct qn_api_err e = {0};
        assert_ptr_equal(qn_api_infer_field(f[i].name), &f[i]);
        assert_true(f[i].doc && strlen(f[i].doc) > 10 && !strchr(f[i].doc, '"'));
        if (!f[i].def || f[i].type == QN_FIELD_STOP || f[i].type == QN_FIELD_TASK ||
            f[i].type == QN_FIELD_SPECULATIVE)
            continue;
        qn_api_infer_init(&a);
        qn_api_infer_init(&b);
        assert_int_equal(qn_api_infer_set(&a, f[i].name, f[i].def, &e), 0);
        size_t size = f[i].type == QN_FIELD_U64 ? 8 : f[i].type == QN_FIELD_BOOL ? sizeof(bool) : 4;
        assert_memory_equal((char *)&a + f[i].offset, (char *)&b + f[i].offset, size);
        qn_api_infer_free(&a);
        qn_api_infer_free(&b);
    }
    assert_null(qn_api_infer_field("nothing"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_field_each_value),
                                       cmocka_unit_test(with_neighbours), cmocka_unit_test(duplicates),
                                       cmocka_unit_test(table_is_sound)};
    return cmocka_run_group_tests_name("api/field bounds", tests, NULL, NULL);
}
