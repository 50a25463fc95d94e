/* Every allocation of making a lexicon, a grammar and a constraint, and of walking it, fails once and for
 * ever after: a code, no crash, no leak (under ASan), and the next try gives the same text as without
 * failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/schema.h"
#include "model/constrain/constrain.h"
#include "tests/support/oom.h"

static bool armed, for_ever;
static long countdown;

static bool fail_now(void) {
    if (!armed) return false;
    if (countdown-- > 0) return false;
    if (for_ever) countdown = 0;
    return true;
}

#define EOS 256

static struct qn_str_ref piece(const void *ctx, int32_t id) {
    static char bytes[256];
    (void)ctx;
    bytes[id & 255] = (char)id;
    return (struct qn_str_ref){&bytes[id & 255], id < EOS ? 1 : 0};
}

static bool ends(const void *ctx, int32_t id) {
    (void)ctx;
    return id == EOS;
}

static char schema[] =
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"^x{2,40}y\"},"
    "\"b\":{\"type\":\"array\",\"items\":{\"enum\":[1,\"two\",{\"three\":[3]}]}},\"c\":{\"$ref\":"
    "\"#\"},\"d\":{}}}";

/* The first allowed token again and again; the text's hash in *sum. QN_OK or a code. */
static int follow(struct qn_constraint *c, uint32_t *sum) {
    int32_t tokens[200];
    struct qn_cursor cur;
    *sum = 0;
    qn_cursor_init(&cur, true);
    for (uint32_t n = 0; n < 200; n++) {
        struct qn_cursor_at at = {tokens, n};
        const uint64_t *mask;
        bool yes;
        int rc = qn_cursor_mask(c, &cur, &at, &mask);
        uint32_t id = (n * 37 + 90) % EOS;
        if (rc) return rc;
        for (uint32_t k = 0; k < EOS && !(mask[id / 64] >> (id % 64) & 1); k++) id = (id + 1) % EOS;
        rc = qn_cursor_allows(c, &cur, &at, (int32_t)id, &yes);
        if (rc) return rc;
        if (!yes) break; /* only the end is allowed */
        tokens[n] = (int32_t)id;
        *sum = *sum * 31 + id;
    }
    return QN_OK;
}

static int whole(uint32_t *sum) {
    struct qn_lexicon_source src = {EOS + 1, NULL, piece, ends};
    struct qn_api_constraint q = {.kind = QN_CONSTRAIN_SCHEMA, .text = schema, .n = sizeof schema - 1};
    struct qn_lexicon *l = NULL;
    struct qn_constraint *c = NULL;
    struct qn_buf grammar = {0};
    struct qn_api_err err = {0};
    struct qn_err e = {0};
    int rc = qn_lexicon_new(&src, &l, &e);
    if (!rc && qn_api_schema_grammar(&q, "json_schema", &grammar, &err)) {
        assert_int_equal(err.code, QN_API_OUT_OF_MEMORY);
        rc = QN_ERR_NOMEM;
    }
    if (!rc) rc = qn_constraint_new(l, grammar.p, grammar.n, true, &c, &e);
    if (!rc) rc = follow(c, sum);
    qn_constraint_unref(c);
    qn_lexicon_unref(l);
    qn_buf_free(&grammar);
    return rc;
}

static void torture(void **state) {
    uint32_t want, got;
    (void)state;
    assert_int_equal(whole(&want), QN_OK);
    for (int mode = 0; mode < 2; mode++) {
        long n = 0;
        for (int rc = 1; rc; n++) {
            assert_true(n < 5000);
            armed = true, for_ever = mode, countdown = n;
            rc = whole(&got);
            armed = false;
            if (rc) assert_int_equal(rc, QN_ERR_NOMEM);
            if (!rc) assert_int_equal(got, want);
        }
        assert_true(n > 50);
    }
    assert_int_equal(whole(&got), QN_OK);
    assert_int_equal(got, want);
}

/* One that failed half-way goes on when there is memory again. */
static void goes_on(void **state) {
    struct qn_lexicon_source src = {EOS + 1, NULL, piece, ends};
    struct qn_lexicon *l;
    struct qn_constraint *c, *fresh;
    struct qn_err e = {0};
    uint32_t want, got;
    (void)state;
    assert_int_equal(qn_lexicon_new(&src, &l, &e), QN_OK);
    assert_int_equal(qn_constraint_new(l, "[a-z0-9]{0,80}(?:!|[^a]{90})", 28, false, &fresh, &e), QN_OK);
    assert_int_equal(follow(fresh, &want), QN_OK);
    assert_int_equal(qn_constraint_new(l, "[a-z0-9]{0,80}(?:!|[^a]{90})", 28, false, &c, &e), QN_OK);
    int rc = QN_ERR_NOMEM;
    for (long n = 0; rc && n < 3000; n++) {
        armed = true, for_ever = false, countdown = n % 7;
        rc = follow(c, &got);
        armed = false;
        if (rc) assert_int_equal(rc, QN_ERR_NOMEM);
    }
    assert_int_equal(follow(c, &got), QN_OK);
    assert_int_equal(got, want);
    qn_constraint_unref(c);
    qn_constraint_unref(fresh);
    qn_lexicon_unref(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(torture), cmocka_unit_test(goes_on)};
    return cmocka_run_group_tests_name("constraints out of memory", tests, NULL, NULL);
}
