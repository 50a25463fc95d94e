/* Every allocation of a conversion of attention weights fails in turn: the error is QN_ERR_NOMEM, and release
 * gives back what was made. The linker wraps the allocators. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/oom.h"
#include "tests/support/recurrent.h"

static long countdown = -1; /* -1: never fail */

static bool fail_now(void) {
    return countdown >= 0 && countdown-- == 0;
}

/* How many allocations a conversion makes. */
static long fail_each(const struct qn_attn_member *m, const struct qn_part *ask) {
    static const struct qn_att_shape shape = {4, 16, 64};
    struct rng rng;
    struct qn_att t;
    rng_init(&rng);
    qn_att_open(&t, &rng, m, &shape, ask, 1);
    assert_true(t.a.made);
    for (long n = 0;; n++) {
        struct qn_attn_weights dst = {0};
        struct qn_err err = {0};
        countdown = n;
        int rc = t.a.ops->convert(&t.a, 0, &t.src, &dst, &err);
        bool failed = countdown < 0;
        countdown = -1;
        assert_int_equal(rc, failed ? QN_ERR_NOMEM : QN_OK);
        assert_int_equal(err.code, rc);
        t.a.ops->release(&dst);
        if (failed) continue;
        qn_att_close(&t);
        return n;
    }
}

static void conversions_report_it(void **state) {
    (void)state;
    static const struct qn_attn_member gqa = {.type = "gqa", .kv_heads = 2};
    struct qn_part p;
    qn_part_init(&p, "performer");
    assert_int_equal(fail_each(&gqa, &p), 2);
    qn_part_init(&p, "mha");
    assert_true(fail_each(&gqa, &p) >= 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(conversions_report_it)};
    qn_kernels_ensure();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
