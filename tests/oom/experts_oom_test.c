/* Every allocation fails in turn while mixtures of experts are loaded (stacked, one by one, from both
 * formats) and while dense networks become mixtures and gated ones: each failure comes back as an error and
 * leaks nothing, in one round where a single allocation fails and in one where all after it do. The linker
 * wraps the allocators. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/mem.h"
#include "model/ffn/ffn.h"
#include "tests/support/oom.h"
#include "tests/support/tiny_model.h"

static long countdown = -1; /* -1: never fail */
static bool for_ever, failed;

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

static char dir[] = "/tmp/quern-oom-XXXXXX";

static int load(const char *name, struct qn_err *err) {
    char path[96];
    struct qn_checkpoint *c = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int rc = qn_checkpoint_load(path, NULL, &c, err);
    assert_true((rc == QN_OK) == (c != NULL));
    if (c) assert_true(c->ffn[1].n_experts == 5 && c->ffn[1].experts[4].down.data);
    qn_checkpoint_free(c);
    return rc;
}

/* A plain MLP becomes what `name` says and is given back. */
static int convert(const char *name, struct qn_err *err) {
    static const struct qn_part any = {0};
    struct qn_spec s = {.d_model = 32, .n_ffn = 1, .ffn[0] = {.type = "relu", .act = QN_ACT_RELU, .dim = 48}};
    struct qn_ffn_weights w = {0}, made = {0};
    struct qn_ffn f;
    const struct qn_ffn_ops *ops = qn_ffn_find(&s, name);
    int rc = ops->resolve(ops, &s, 0, &any, &f, err);
    assert_int_equal(rc, QN_OK);
    bool ok = qn_matrix_alloc(&w.dense.up, QN_F32, 48, 32) && qn_matrix_alloc(&w.dense.down, QN_F32, 32, 48);
    rc = ok ? ops->convert(&f, &w, &made, err) : qn_err_set(err, QN_ERR_NOMEM, "no weights");
    ops->release(&made);
    qn_matrix_free(&w.dense.up);
    qn_matrix_free(&w.dense.down);
    return rc;
}

static void every_allocation(int (*run)(const char *, struct qn_err *), const char *name, bool ever) {
    for (long n = 0;; n++) {
        struct qn_err err = {0};
        countdown = n;
        for_ever = ever;
        failed = false;
        int rc = run(name, &err);
        bool hit = failed;
        countdown = -1;
        if (!hit) {
            if (rc) fail_msg("%s: %s", name, err.msg);
            printf("%s: %ld allocations, %s\n", name, n, ever ? "for ever after" : "once");
            return;
        }
        /* A loader may do without some memory (a message's); all else must report. */
        assert_true(rc == QN_OK || rc == QN_ERR_NOMEM || rc == QN_ERR_IO || rc == QN_ERR_FORMAT);
        if (rc) assert_int_equal(err.code, rc);
        assert_true(n < 100000);
    }
}

static void test_load(void **state) {
    static const char *const names[] = {"stacked.gguf", "split.gguf", "merged.gguf", "hf", "fused"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        every_allocation(load, names[i], false);
        every_allocation(load, names[i], true);
    }
}

static void test_convert(void **state) {
    static const char *const names[] = {"moe", "reglu"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        every_allocation(convert, names[i], false);
        every_allocation(convert, names[i], true);
    }
}

static bool write_files(void) {
    struct qn_test_tiny t = qn_test_tiny_default("qwen2moe");
    char path[96];
    t.tokenizer = false;
    for (int layout = 0; layout < 3; layout++) {
        static const char *const names[] = {"stacked.gguf", "split.gguf", "merged.gguf"};
        t.layout = (enum qn_test_experts)layout;
        snprintf(path, sizeof path, "%s/%s", dir, names[layout]);
        if (qn_test_write_tiny_gguf(path, &t)) return false;
        if (layout == QN_TEST_EXPERTS_SPLIT) continue;
        snprintf(path, sizeof path, "%s/%s", dir, layout ? "fused" : "hf");
        if (qn_test_write_tiny_hf(path, &t)) return false;
    }
    return true;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_load), cmocka_unit_test(test_convert)};
    char command[128];
    if (!mkdtemp(dir) || !write_files()) return 1;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command) ? 1 : rc;
}
