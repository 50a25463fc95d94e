/* Tensor types: sizes, dequantisation against golden values, f16 and bf16 over all bit patterns, packing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "kernels/quant.h"
#include "tests/support/guard.h"
#include "tests/unit/kernels/quant_golden.h"

static const struct golden {
    enum qn_type type;
    const uint8_t *bytes;
    const uint32_t *bits;
} golden[] = {
    {QN_Q8_0, golden_q8_0_bytes, golden_q8_0_bits}, {QN_Q4_0, golden_q4_0_bytes, golden_q4_0_bits},
    {QN_Q4_1, golden_q4_1_bytes, golden_q4_1_bits}, {QN_Q5_0, golden_q5_0_bytes, golden_q5_0_bits},
    {QN_Q5_1, golden_q5_1_bytes, golden_q5_1_bits}, {QN_Q4_K, golden_q4_k_bytes, golden_q4_k_bits},
    {QN_Q5_K, golden_q5_k_bytes, golden_q5_k_bits}, {QN_Q6_K, golden_q6_k_bytes, golden_q6_k_bits},
};

static void values_match_golden(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof golden / sizeof *golden; i++) {
        const struct golden *g = &golden[i];
        size_t cols = (size_t)GOLDEN_BLOCKS * qn_type_block(g->type), bytes;
        float got[3 * 256], want[3 * 256];
        assert_true(qn_type_row_bytes(g->type, cols, &bytes));
        uint8_t *odd = malloc(bytes + 1); /* rows of a file may lie at any address */
        assert_non_null(odd);
        memcpy(odd + 1, g->bytes, bytes);
        memcpy(want, g->bits, cols * 4);
        qn_type_row_to_f32(g->type, odd + 1, got, cols);
        free(odd);
        for (size_t k = 0; k < cols; k++) {
            /* numbers equal: -0 and 0 count as the same value */
            if (!(got[k] == want[k]))
                fail_msg("%s element %zu: %g, want %g", qn_type_name(g->type), k, (double)got[k],
                         (double)want[k]);
        }
    }
}

static void sizes(void **state) {
    size_t n;
    (void)state;
    assert_true(qn_type_row_bytes(QN_Q4_1, 576, &n));
    assert_int_equal(n, 18 * 20);
    assert_false(qn_type_row_bytes(QN_Q4_1, 577, &n));
    assert_false(qn_type_row_bytes(QN_Q6_K, 576, &n));
    assert_false(qn_type_row_bytes(QN_TYPE_COUNT, 256, &n));
    assert_false(qn_type_row_bytes(QN_F32, SIZE_MAX / 2, &n));
    assert_false(qn_matrix_bytes(QN_F32, 0, 5, &n));
    assert_false(qn_matrix_bytes(QN_F32, SIZE_MAX, 5, &n));
    assert_false(qn_matrix_bytes(QN_F32, 5, SIZE_MAX, &n));
    assert_false(qn_matrix_bytes(QN_Q4_K, 5, 288, &n));
    assert_true(qn_matrix_bytes(QN_Q4_K, 17, 256, &n));
    assert_int_equal(n, 2 * 16 * 148);
    assert_false(qn_act_bytes(SIZE_MAX, 64, &n));
    assert_false(qn_act_bytes(4, SIZE_MAX, &n));
    assert_string_equal(qn_type_name(QN_Q5_K), "Q5_K");
    assert_true(qn_type_wants_int(QN_Q8_0) && !qn_type_wants_int(QN_BF16));
}

/* The value of an f16 by its definition. */
static double f16_value(unsigned h) {
    double m = h & 0x3ff, sign = h & 0x8000 ? -1 : 1;
    int e = (h >> 10) & 31;
    if (e == 31) return (h & 0x3ff) != 0 ? NAN : sign * INFINITY;
    return sign * (e ? ldexp(1024 + m, e - 25) : ldexp(m, -24));
}

static void f16_all_patterns(void **state) {
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        float f = qn_f16_to_f32((uint16_t)h);
        double want = f16_value(h);
        if (isnan(want)) {
            assert_true(isnan(f));
            assert_int_equal(qn_f32_to_f16(f), h | 0x200); /* quiet, payload kept */
            continue;
        }
        assert_true((double)f == want && !signbit(f) == !(h & 0x8000));
        assert_int_equal(qn_f32_to_f16(f), h);
        /* half way to the next pattern: ties go to the even one; a little less and more go down and up */
        if ((h & 0x7fff) >= 0x7bff) continue;
        double mid = (want + f16_value(h + 1)) / 2;
        assert_int_equal(qn_f32_to_f16((float)mid), h & 1 ? h + 1 : h);
        assert_int_equal(qn_f32_to_f16(nextafterf((float)mid, 0)), h);
        assert_int_equal(qn_f32_to_f16(nextafterf((float)mid, (float)want * 4 + (h & 0x8000 ? -1 : 1))),
                         h + 1);
    }
    assert_int_equal(qn_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(qn_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(qn_f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(qn_f32_to_f16(-INFINITY), 0xfc00);
}

static void bf16_all_patterns(void **state) {
    (void)state;
    for (unsigned h = 0; h < 65536; h++) {
        float f = qn_bf16_to_f32((uint16_t)h);
        if (isnan(f)) {
            assert_int_equal(qn_f32_to_bf16(f), h | 0x40);
            continue;
        }
        assert_int_equal(qn_f32_to_bf16(f), h);
        if ((h & 0x7fff) >= 0x7f7f) continue;
        uint32_t bits = (uint32_t)h << 16 | 0x8000u;
        float mid, less, more;
        memcpy(&mid, &bits, 4);
        bits--;
        memcpy(&less, &bits, 4);
        bits += 2;
        memcpy(&more, &bits, 4);
        assert_int_equal(qn_f32_to_bf16(mid), h & 1 ? h + 1 : h);
        assert_int_equal(qn_f32_to_bf16(less), h);
        assert_int_equal(qn_f32_to_bf16(more), h + 1);
    }
    assert_int_equal(qn_f32_to_bf16(3.4e38f), 0x7f80);
}

static void packing_keeps_values(void **state) {
    struct rng rng;
    (void)state;
    rng_init(&rng);
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        enum { N = 37, K = 512 };
        struct qn_matrix m;
        size_t row;
        float want[K], got[K];
        uint8_t *file[N];
        assert_true(qn_type_row_bytes((enum qn_type)t, K, &row));
        assert_true(qn_matrix_alloc(&m, (enum qn_type)t, N, K));
        for (int i = 0; i < N; i++) {
            file[i] = malloc(row);
            assert_non_null(file[i]);
            random_row(&rng, (enum qn_type)t, K, file[i]);
        }
        for (int i = 0; i < N; i++) qn_matrix_set_row(&m, (uint32_t)(i * 5 % N), file[i * 5 % N]);
        for (int i = 0; i < N; i++) {
            qn_type_row_to_f32((enum qn_type)t, file[i], want, K);
            qn_matrix_get_row(&m, (uint32_t)i, got);
            assert_memory_equal(want, got, sizeof want);
            free(file[i]);
        }
        qn_matrix_free(&m);
        qn_matrix_free(&m);
    }
}

static void gather_keeps_bits(void **state) {
    static const uint32_t index[] = {3, 3, 20, 0, 19, 19, 7, 16, 15, 1, 2, 18, 5, 5, 5, 5, 6, 20};
    struct rng rng;
    (void)state;
    rng_init(&rng);
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        struct qn_matrix src, dst, direct;
        size_t row, n = sizeof index / sizeof *index;
        uint8_t *file;
        assert_true(qn_type_row_bytes((enum qn_type)t, 256, &row));
        assert_non_null(file = malloc(21 * row));
        assert_true(qn_matrix_alloc(&src, (enum qn_type)t, 21, 256) &&
                    qn_matrix_alloc(&direct, (enum qn_type)t, n, 256));
        for (uint32_t i = 0; i < 21; i++) {
            random_row(&rng, (enum qn_type)t, 256, file + i * row);
            qn_matrix_set_row(&src, i, file + i * row);
        }
        for (uint32_t i = 0; i < n; i++) qn_matrix_set_row(&direct, i, file + index[i] * row);
        assert_true(qn_matrix_gather(&dst, &src, index, n));
        assert_int_equal(dst.bytes, direct.bytes);
        assert_memory_equal(dst.data, direct.data, dst.bytes);
        qn_matrix_free(&src);
        qn_matrix_free(&dst);
        qn_matrix_free(&direct);
        free(file);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_match_golden),  cmocka_unit_test(sizes),
        cmocka_unit_test(f16_all_patterns),     cmocka_unit_test(bf16_all_patterns),
        cmocka_unit_test(packing_keeps_values), cmocka_unit_test(gather_keeps_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
