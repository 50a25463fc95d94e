/* Every allocation fails in turn while checkpoints are converted: each failure is an error with a message,
 * leaves no file and leaks nothing, and the run that succeeds writes what the first one wrote. jansson's own
 * allocations are let be (load_oom_test.c says why). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "model/load/mapfile.h"
#include "model/save/save.h"
#include "tests/support/oom.h"
#include "tests/support/tiny_model.h"

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

static char dir[64], first[96], out[96], gguf[96], hf[96];

static int convert(const char *path, const char *type, const char *to, struct qn_err *err) {
    struct qn_convert_report r;
    struct qn_convert_options opt = {.type = type, .out = to, .replace = true};
    memset(err, 0, sizeof *err);
    return qn_model_convert(path, &opt, &r, err);
}

static void same_files(void) {
    struct qn_mapfile a, b;
    assert_int_equal(qn_mapfile_open(&a, first, NULL), QN_OK);
    assert_int_equal(qn_mapfile_open(&b, out, NULL), QN_OK);
    assert_int_equal(a.size, b.size);
    assert_memory_equal(a.data, b.data, a.size);
    qn_mapfile_close(&a);
    qn_mapfile_close(&b);
}

static void every_allocation(const char *path, const char *type, bool ever) {
    struct qn_err err;
    if (convert(path, type, first, &err) != QN_OK) fail_msg("%s: %s", path, err.msg);
    unlink(out);
    for (long n = 0; n < 1000000; n++) {
        failed = false;
        for_ever = ever;
        countdown = n;
        int rc = convert(path, type, out, &err);
        countdown = -1;
        if (!failed) {
            assert_int_equal(rc, QN_OK);
            assert_true(n > 20);
            same_files();
            return;
        }
        if (rc != QN_OK && err.msg[0] == 0) fail_msg("%s: failure %ld has no message", path, n);
        if (rc != QN_OK) assert_int_not_equal(access(out, F_OK), 0);
        if (rc == QN_OK && ever) fail_msg("%s: allocation %ld failed unseen", path, n);
        if (rc == QN_OK) same_files();
        unlink(out);
    }
    fail_msg("it never ends");
}

static void all(bool ever) {
    every_allocation(gguf, "q8_0", ever);
    every_allocation(hf, "q4_0", ever);
    every_allocation("synthetic:hidden=256,layers=1,heads=4,vocab=260,n=32,ffn_dim=256,ffn=moe,experts=2",
                     "q4_k_m", ever);
    every_allocation("synthetic:hidden=32,layers=1,heads=4,vocab=40,n=32", "f16", ever);
}

static void once(void **state) {
    (void)state;
    all(false);
}

static void for_ever_after(void **state) {
    (void)state;
    all(true);
}

static int make(void **state) {
    (void)state;
    struct qn_test_tiny t = qn_test_tiny_default("llama"), q = qn_test_tiny_default("qwen2");
    snprintf(dir, sizeof dir, "/tmp/quern-save-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(first, sizeof first, "%s/first", dir);
    snprintf(out, sizeof out, "%s/out", dir);
    snprintf(gguf, sizeof gguf, "%s/gguf", dir);
    snprintf(hf, sizeof hf, "%s/hf", dir);
    t.type = QN_Q4_1;
    return qn_test_write_tiny_gguf(gguf, &t) != 0 || qn_test_write_tiny_hf(hf, &q) != 0 ? -1 : 0;
}

/* Nothing but what was made on purpose may be there. */
static int clear(void **state) {
    (void)state;
    char command[512];
    snprintf(command, sizeof command, "cd %s && rm -rf first out gguf hf && cd / && rmdir %s", dir, dir);
    return system(command);
}

int main(void) {
    json_set_alloc_funcs(__real_malloc, free);
    const struct CMUnitTest tests[] = {cmocka_unit_test(once), cmocka_unit_test(for_ever_after)};
    return cmocka_run_group_tests(tests, make, clear);
}
