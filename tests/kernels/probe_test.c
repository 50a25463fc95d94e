/* The probes do what they count: every level reads every byte, and its multiply-adds add up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/cpu.h"
#include "kernels/probe.h"

static void reads_every_word(void **state) {
    (void)state;
    const struct qn_probe_ops *ops = qn_probe_ops();
    for (size_t bytes = 512; bytes <= 8192; bytes += 512) {
        uint64_t *w = malloc(bytes), all = 0, rng = bytes;
        assert_non_null(w);
        for (size_t i = 0; i < bytes / 8; i++) all ^= w[i] = rng = rng * 6364136223846793005u + 1;
        assert_true(ops->read(w, bytes) == all);
        w[bytes / 16] ^= 1;
        assert_true(ops->read(w, bytes) == (all ^ 1));
        free(w);
    }
}

static void counts_what_it_does(void **state) {
    (void)state;
    const struct qn_probe_ops *ops = qn_probe_ops();
    uint64_t (*const loops[])(uint32_t) = {ops->f32, ops->bf16, ops->int8};
    assert_non_null(ops->f32);
    for (size_t i = 0; i < 3; i++) {
        if (!loops[i]) continue;
        uint64_t one = loops[i](1);
        assert_true(one >= 64 && loops[i](0) == 0);
        assert_true(loops[i](1000) == 1000 * one);
        assert_true(loops[i](QN_PROBE_ROUNDS) == QN_PROBE_ROUNDS * one);
    }
    assert_true((ops->int8 != NULL) == (qn_cpu_isa() >= QN_ISA_AVX512_VNNI));
    assert_true((ops->bf16 != NULL) == (qn_cpu_isa() >= QN_ISA_AVX512_BF16));
}

static void gives_a_rate_or_none(void **state) {
    (void)state;
    struct qn_pool *two = qn_pool_new(2);
    assert_non_null(two);
    assert_true(qn_probe_read(two, 1 << 20) > 0);
    assert_true(qn_probe_read(two, 1000) <= 0); /* less than a unit for each thread */
    assert_true(qn_probe_compute(two, NULL) <= 0);
    assert_true(qn_probe_compute(NULL, qn_probe_ops()->f32) > 0);
    qn_pool_free(&two);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(reads_every_word),
                                       cmocka_unit_test(counts_what_it_does),
                                       cmocka_unit_test(gives_a_rate_or_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
