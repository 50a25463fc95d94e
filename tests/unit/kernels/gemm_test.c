/* The OpenBLAS path agrees with qn_linear and doesn't depend on the thread count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "kernels/mem.h"
#include "tests/support/guard.h"

#define GEMM_TOLERANCE 1e-4 /* relative to the sum of |terms|' root mean square size */

static void agrees_with_linear(void **state) {
    static const uint32_t shapes[][3] = {{1, 1, 1}, {7, 130, 33}, {16, 128, 64}, {33, 300, 96}, {1, 257, 64}};
    struct rng rng;
    (void)state;
    rng_init(&rng);
    qn_kernels_init(QN_ISA_COUNT - 1);
    struct qn_pool *pool = qn_pool_new(2);
    assert_non_null(pool);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        uint32_t m = shapes[i][0], n = shapes[i][1], k = shapes[i][2];
        struct qn_matrix w;
        struct guarded gw, gk[2], gy[2];
        size_t bytes, ldy = n + 3;
        float *x = qn_mem_alloc_array(m, (size_t)k * 4), *bias = qn_mem_alloc_array(n, 4);
        float *want = qn_mem_alloc_array(m, ldy * 4);
        assert_true(x && bias && want);
        random_matrix(&rng, QN_F32, n, k, &w, &gw, true);
        rng_fill(&rng, x, (size_t)m * k);
        rng_fill(&rng, bias, n);
        struct qn_act a = {.x = x, .ldx = k, .rows = m, .cols = k};
        for (int with_bias = 0; with_bias < 2; with_bias++) {
            const float *b = with_bias ? bias : NULL;
            qn_linear(NULL, &w, &a, b, want, ldy);
            for (unsigned t = 0; t < 2; t++) {
                assert_true(qn_gemm_work_bytes(t + 1, k, &bytes));
                guarded_new(&gk[t], bytes, true);
                guarded_new(&gy[t], ((m - 1) * ldy + n) * 4, true);
                qn_gemm_linear(t ? pool : NULL, &w, &a, b, (float *)(void *)gy[t].p, ldy, gk[t].p);
            }
            assert_memory_equal(gy[0].p, gy[1].p, gy[0].n);
            const float *y = (const float *)(const void *)gy[0].p;
            for (size_t r = 0; r < m; r++) {
                for (size_t c = 0; c < n; c++) {
                    double size = 1 + fabs((double)want[r * ldy + c]);
                    assert_true(fabs((double)(y[r * ldy + c] - want[r * ldy + c])) <= GEMM_TOLERANCE * size);
                }
            }
            for (int t = 0; t < 2; t++) assert_true(guarded_free(&gk[t]) && guarded_free(&gy[t]));
        }
        assert_true(guarded_free(&gw));
        qn_mem_free(x);
        qn_mem_free(bias);
        qn_mem_free(want);
    }
    qn_pool_free(&pool);
}

static void work_is_checked(void **state) {
    size_t n;
    (void)state;
    assert_false(qn_gemm_work_bytes(2, SIZE_MAX / 8, &n));
    assert_true(qn_gemm_work_bytes(0, 64, &n));
    assert_true(n >= 64 * 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_linear),
                                       cmocka_unit_test(work_is_checked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
