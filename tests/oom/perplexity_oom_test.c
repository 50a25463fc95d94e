/* Every allocation fails in turn while a text is scored: each failure is an error with a message, gives all
 * state back and leaks nothing, and the run that succeeds has the sums of the first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "server/perplexity.h"
#include "tests/support/oom.h"
#include "tests/support/tiny_open.h"

#define TOKENS 100

static long countdown = -1; /* -1: never fail */
static bool for_ever;
static bool failed;

static bool fail_now(void) {
    if (countdown < 0) return false;
    if (countdown > 0) {
        countdown--;
        return false;
    }
    if (!for_ever) countdown = -1;
    failed = true;
    return true;
}

static void every_allocation(bool ever) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    struct qn_open_options opt = {.state_bytes = 4 << 20, .max_step_tokens = 64};
    struct qn_perplexity_options how = {.ctx = 16, .batch = 2, .step_tokens = 64};
    struct qn_perplexity first, got;
    int32_t text[TOKENS];
    for (int i = 0; i < TOKENS; i++) text[i] = i * 7 % 272;
    t.tokenizer = false;
    for (long n = 0; n < 100000; n++) {
        struct qn_err err = {0};
        struct qn_model *m = qn_test_tiny_open(&t, &opt);
        struct qn_variant *v = qn_test_variant(m, "", 0);
        if (n == 0) assert_int_equal(qn_perplexity_run(v, text, TOKENS, &how, &first, NULL), QN_OK);
        failed = false;
        for_ever = ever;
        countdown = n;
        int rc = qn_perplexity_run(v, text, TOKENS, &how, &got, &err);
        countdown = -1;
        assert_int_equal(qn_model_state(m).used, 0);
        qn_variant_unref(v);
        qn_model_close(&m);
        if (rc == QN_OK) assert_true(got.nll == first.nll && got.scored == first.scored);
        if (!failed) {
            assert_int_equal(rc, QN_OK);
            assert_true(n > 6);
            return;
        }
        if (rc != QN_OK && err.msg[0] == 0) fail_msg("failure %ld has no message", n);
    }
    fail_msg("it never ends");
}

static void once(void **state) {
    (void)state;
    every_allocation(false);
}

static void for_ever_after(void **state) {
    (void)state;
    every_allocation(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(once), cmocka_unit_test(for_ever_after)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
