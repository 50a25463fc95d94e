/* Every allocation of a model's life fails in turn: open, resolve, prepare, sequence, match, reserve, step,
 * fork, with paged and with fixed-size state. Allocation n fails once, and in a second round n and all after
 * it, for n = 0, 1, 2, … until the whole run succeeds. Each failure must come back as an error, leak nothing
 * and leave the state pool's accounts at zero; the run that succeeds must give the same logits as the first.
 * The linker wraps the allocators. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/batch.h"
#include "model/part.h"
#include "tests/support/fold.h"
#include "tests/support/oom.h"
#include "tests/support/tiny_open.h"

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

static char path[64];

#define TOKENS 40
#define MANY   300 /* past the first copy of a fixed-size state */
#define VOCAB  272
static int32_t tokens[MANY];
static float last[2 * VOCAB]; /* of a paged and of a fixed-size state */

static void keep(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)span;
    (void)pos;
    memcpy(ctx, v, VOCAB * sizeof *v);
}

static int run_seq(struct qn_variant *v, uint32_t n, float *out, struct qn_err *err) {
    struct qn_seq *s = NULL, *copy = NULL;
    int rc = qn_seq_new(v, 1, true, &s, err);
    if (rc) return rc;
    uint32_t have = qn_seq_match(s, tokens, n);
    rc = qn_seq_reserve(s, n);
    struct qn_span span = {
        .seq = s, .tokens = tokens + have, .n = n - have, .want = QN_WANT_LAST, .snapshot = true};
    struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1, .on_row = keep, .ctx = out};
    if (rc == QN_OK) {
        bool before = failed;
        rc = qn_step_run(&step, err);
        assert_int_equal(rc, QN_OK);
        /* a step allocates nothing, or copies of a fixed-size state that it can do without */
        assert_true(before == failed || v->fixed_bytes > 0);
    }
    if (rc == QN_OK) rc = qn_seq_fork(s, &copy, err);
    if (rc == QN_OK) rc = qn_seq_reserve(copy, n + 20);
    qn_seq_free(&copy);
    qn_seq_free(&s);
    return rc;
}

/* The native structure, with fixed-size state. */
static int run_fixed(struct qn_model *m, float *out, struct qn_err *err) {
    struct qn_structure_request req = {.convert = false};
    struct qn_variant *v = NULL;
    int rc = qn_variant_resolve(m, &req, &v, err);
    if (rc) return rc;
    qn_test_fold(v, true);
    rc = qn_variant_prepare(v, NULL, err);
    for (int i = 0; i < 2 && rc == QN_OK; i++) rc = run_seq(v, MANY, out, err);
    assert_int_equal(qn_test_fold_faults(), 0);
    qn_variant_unref(v);
    return rc;
}

static int life(float *out, struct qn_err *err) {
    struct qn_model *m = NULL;
    struct qn_variant *v = NULL;
    struct qn_open_options opt = {
        .state_bytes = (size_t)4 << 20, .max_step_tokens = MANY, .prefix_cache = true};
    int rc = qn_model_open(path, &opt, &m, err);
    if (rc) {
        assert_null(m);
        return rc;
    }
    struct qn_structure_request req = {.convert = true};
    qn_part_init(&req.attention, "mha");
    rc = qn_variant_resolve(m, &req, &v, err);
    if (rc == QN_OK) rc = qn_variant_prepare(v, NULL, err);
    if (rc == QN_OK) rc = run_seq(v, TOKENS, out, err);
    if (rc == QN_OK) rc = run_seq(v, TOKENS, out, err); /* from the cache */
    if (rc == QN_OK) rc = run_fixed(m, out + VOCAB, err);
    assert_int_equal(qn_model_state(m).used, 0);
    if (v) qn_variant_unref(v);
    qn_model_close(&m);
    return rc;
}

static void every_allocation(bool ever) {
    struct qn_err err = {0};
    float first[2 * VOCAB] = {0};
    countdown = -1;
    int rc = life(first, &err);
    if (rc) fail_msg("%s", err.msg);
    for (long n = 0;; n++) {
        countdown = n;
        for_ever = ever;
        failed = false;
        err = (struct qn_err){0};
        rc = life(last, &err);
        bool hit = failed;
        countdown = -1;
        if (!hit) {
            assert_int_equal(rc, QN_OK);
            assert_memory_equal(first, last, sizeof first);
            printf("%ld allocations, %s\n", n, ever ? "for ever after" : "once");
            return;
        }
        /* match may do without memory: it only finds less; all else must report */
        if (rc == QN_OK) assert_memory_equal(first, last, sizeof first);
        assert_true(rc == QN_OK || rc == QN_ERR_NOMEM);
        if (rc && err.code) assert_int_equal(err.code, rc);
        assert_true(n < 100000);
    }
}

static void fails_once(void **state) {
    (void)state;
    every_allocation(false);
}

static void fails_for_ever(void **state) {
    (void)state;
    every_allocation(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(fails_once), cmocka_unit_test(fails_for_ever)};
    struct qn_test_tiny t = qn_test_tiny_default("qwen2");
    t.tokenizer = false;
    t.context = 512;
    for (int32_t i = 0; i < MANY; i++) tokens[i] = i * 7 % VOCAB;
    char dir[] = "/tmp/quern-oom-XXXXXX";
    if (!mkdtemp(dir)) return 1;
    snprintf(path, sizeof path, "%s/tiny.gguf", dir);
    if (qn_test_write_tiny_gguf(path, &t)) return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(dir);
    return rc;
}
