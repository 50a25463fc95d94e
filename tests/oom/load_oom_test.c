/* Every allocation fails in turn while checkpoints of several structures are opened, synthetic models are
 * made, and averages and conversions are prepared: each failure is an error, leaks nothing, and the run that
 * succeeds is the same as the first. The linker wraps the allocators. jansson's own allocations are let be:
 * the lexer of 2.14 drops a character when its buffer can't grow, and then reads past the end of the token.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#include "model/internal.h"
#include "tests/support/oom.h"

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

struct life {
    const char *path, *attention, *ffn, *sharing;
    bool exact;
    enum { NO_MMAP = 0, MMAP_WRITE, MMAP_READ } mmap; /* its packed weights are there already: READ */
};

/* A copy of a fixture: beside it its packed weights are written. */
static char mapped[64], panels[80];

static int live(const struct life *l, struct qn_err *err) {
    struct qn_model *m = NULL;
    struct qn_variant *v = NULL;
    struct qn_open_options opt = {.state_bytes = (size_t)4 << 20,
                                  .convert_bytes = (size_t)64 << 20,
                                  .max_step_tokens = 16,
                                  .exact = l->exact,
                                  .mmap = l->mmap != NO_MMAP};
    if (l->mmap == MMAP_WRITE) unlink(panels);
    int rc = qn_model_open(l->path, &opt, &m, err);
    if (rc) {
        assert_null(m);
        return rc;
    }
    struct qn_structure_request req = {.convert = true};
    qn_part_init(&req.attention, l->attention);
    qn_part_init(&req.ffn, l->ffn);
    qn_part_init(&req.sharing, l->sharing);
    rc = qn_variant_resolve(m, &req, &v, err);
    if (rc == QN_OK) rc = qn_variant_prepare(v, NULL, err);
    if (rc == QN_OK) assert_true(v->attn_weights && v->ffn_weights);
    if (v) qn_variant_unref(v);
    qn_model_close(&m);
    return rc;
}

static void every_allocation(const struct life *l, bool ever) {
    struct qn_err err = {0};
    countdown = -1;
    if (live(l, &err) != QN_OK) fail_msg("%s: %s", l->path, err.msg);
    for (long n = 0; n < 1000000; n++) {
        memset(&err, 0, sizeof err);
        failed = false;
        for_ever = ever;
        countdown = n;
        int rc = live(l, &err);
        countdown = -1;
        if (!failed) {
            assert_int_equal(rc, QN_OK);
            assert_true(n > 20);
            return;
        }
        /* The tokenizer may do without one allocation; nothing else may. */
        if (rc != QN_OK && err.msg[0] == 0) fail_msg("%s: failure %ld has no message", l->path, n);
        if (rc == QN_OK && ever) fail_msg("%s: allocation %ld failed unseen", l->path, n);
    }
    fail_msg("it never ends");
}

static const struct life lives[] = {
    {"tests/golden/quern/forms", "", "", "", false, NO_MMAP},
    {"tests/golden/quern/all", "performer", "moe", "groups", false, NO_MMAP},
    {"tests/golden/quern/factored", "linformer", "moe", "groups", false, NO_MMAP},
    {"synthetic:hidden=32,layers=2,heads=4,head_dim=8,vocab=260,n=32,attention=gqa,type=f32", "mha", "moe",
     "all", false, NO_MMAP},
    {"synthetic:hidden=32,layers=2,heads=4,head_dim=8,vocab=40,n=32,attention=linformer,k=4,ffn=moe,experts="
     "2,type=f16,lags=1,norm=layer,pos=learned,tied=false",
     "", "", "all", false, NO_MMAP},
    {"synthetic:hidden=32,layers=2,heads=4,head_dim=8,vocab=260,n=32,ffn=moe,experts=2,sharing=all,type=q8_0",
     "", "", "", true, NO_MMAP},
    {mapped, "", "", "", false, MMAP_WRITE},
    {mapped, "", "", "", false, MMAP_READ},
};

static void copy_fixture(void) {
    char bytes[1 << 16];
    size_t n;
    snprintf(mapped, sizeof mapped, "/tmp/quern-load-oom-%d.gguf", (int)getpid());
    snprintf(panels, sizeof panels, "%s.quern-panels", mapped);
    FILE *from = fopen("tests/golden/models/llama/f16.gguf", "re"), *to = fopen(mapped, "we");
    assert_true(from && to);
    while ((n = fread(bytes, 1, sizeof bytes, from)) > 0) assert_int_equal(fwrite(bytes, 1, n, to), n);
    fclose(from);
    fclose(to);
}

static void once(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof lives / sizeof *lives; i++) every_allocation(&lives[i], false);
}

static void for_ever_after(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof lives / sizeof *lives; i++) every_allocation(&lives[i], true);
}

int main(void) {
    json_set_alloc_funcs(__real_malloc, free);
    copy_fixture();
    const struct CMUnitTest tests[] = {cmocka_unit_test(once), cmocka_unit_test(for_ever_after)};
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(panels);
    unlink(mapped);
    return bad;
}
