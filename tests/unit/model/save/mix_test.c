/* Types of tensors, by the rules of llama-quantize: a table of names, shapes and what becomes of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "model/save/mix.h"

static struct qn_save_tensor tensor(const char *name, uint64_t rows, size_t cols, enum qn_type type) {
    struct qn_save_tensor t = {.rows = rows, .cols = cols, .type = type};
    snprintf(t.name, sizeof t.name, "%s", name);
    return t;
}

static enum qn_type type_in(const char *mix, const struct qn_save_source *s, struct qn_save_tensor t) {
    bool fell_back;
    const struct qn_type_mix *m = qn_type_mix_find(mix);
    assert_non_null(m);
    enum qn_type type = qn_type_mix_of(m, s, &t, &fell_back);
    if (fell_back) assert_int_not_equal(t.cols % 256, 0);
    return type;
}

static void names_have_file_types(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t ftype;
    } names[] = {{"f32", 0}, {"F16", 1}, {"q4_0", 2}, {"Q4_1", 3}, {"q8_0", 7}, {"Q4_K_M", 15}, {"bf16", 32}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_non_null(qn_type_mix_find(names[i].name));
        assert_int_equal(qn_type_mix_find(names[i].name)->ftype, names[i].ftype);
    }
    assert_null(qn_type_mix_find("q4_k"));
    assert_null(qn_type_mix_find(""));
}

static void what_is_no_matrix_stays(void **state) {
    (void)state;
    struct qn_save_source s = {.layers = 4, .heads = 4, .kv_heads = 2};
    static const char *const names[] = {"blk.0.attn_q_norm.weight", "blk.0.ffn_gate_inp.weight",
                                        "position_embd.weight", "blk.0.attn_rot_embd", "blk.0.attn_q.bias"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(type_in("q8_0", &s, tensor(names[i], 8, 256, QN_F16)), QN_F16);
    assert_int_equal(type_in("q8_0", &s, tensor("blk.0.attn_q.weight", 1, 256, QN_F32)), QN_F32);
    assert_int_equal(type_in("f16", &s, tensor("blk.0.attn_norm.weight", 1, 256, QN_F32)), QN_F32);
    assert_int_equal(type_in("f16", &s, tensor("blk.0.attn_q.weight", 8, 7, QN_Q8_0)), QN_F16);
}

static void better_layers_of_thirty(void **state) {
    (void)state;
    /* an eighth is 3: 0, 1, 2; then every third from 5 on; from 26 on all */
    static const char better[] = "111001001001001001001001001111";
    static const char *const parts[] = {"attn_v", "ffn_down", "attn_qkv", "ffn_down_exps"};
    struct qn_save_source s = {.layers = 30, .heads = 9, .kv_heads = 3};
    for (unsigned i = 0; i < 30; i++) {
        enum qn_type want = better[i] == '1' ? QN_Q6_K : QN_Q4_K;
        char name[64];
        for (size_t k = 0; k < 4; k++) {
            snprintf(name, sizeof name, "blk.%u.%s.weight", i, parts[k]);
            assert_int_equal(type_in("q4_k_m", &s, tensor(name, 64, 256, QN_F32)), want);
            assert_int_equal(type_in("q4_k_m", &s, tensor(name, 64, 576, QN_F32)),
                             want == QN_Q6_K ? QN_Q8_0 : QN_Q5_0);
            assert_int_equal(type_in("q4_k_m", &s, tensor(name, 64, 100, QN_F32)), QN_F16);
            assert_int_equal(type_in("q4_0", &s, tensor(name, 64, 256, QN_F32)), QN_Q4_0);
        }
        snprintf(name, sizeof name, "blk.%u.attn_k.weight", i);
        assert_int_equal(type_in("q4_k_m", &s, tensor(name, 64, 256, QN_F32)), QN_Q4_K);
    }
}

static void output_and_embedding(void **state) {
    (void)state;
    struct qn_save_tensor own[] = {tensor("token_embd.weight", 300, 256, QN_F16),
                                   tensor("output.weight", 300, 256, QN_F16)};
    struct qn_save_source tied = {.t = own, .n = 1, .layers = 2}, untied = {.t = own, .n = 2, .layers = 2};
    static const struct {
        const char *mix;
        size_t cols;
        enum qn_type as_output, as_table;
    } cases[] = {
        {"q8_0", 256, QN_Q8_0, QN_Q8_0}, {"q4_0", 256, QN_Q6_K, QN_Q4_0}, {"q4_k_m", 256, QN_Q6_K, QN_Q4_K},
        {"q4_0", 576, QN_Q8_0, QN_Q4_0}, {"q4_1", 576, QN_Q8_0, QN_Q4_1}, {"q4_k_m", 576, QN_Q8_0, QN_Q5_0},
        {"q4_0", 100, QN_F16, QN_F16},   {"f16", 576, QN_F16, QN_F16},    {"bf16", 576, QN_BF16, QN_BF16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        own[0].cols = own[1].cols = cases[i].cols;
        assert_int_equal(type_in(cases[i].mix, &tied, own[0]), cases[i].as_output);
        assert_int_equal(type_in(cases[i].mix, &untied, own[0]), cases[i].as_table);
        assert_int_equal(type_in(cases[i].mix, &untied, own[1]), cases[i].as_output);
    }
}

static void mixtures_of_eight_and_the_largest(void **state) {
    (void)state;
    struct qn_save_source eight = {.layers = 32, .heads = 32, .kv_heads = 8, .experts = 8, .arch = "llama"};
    struct qn_save_source large = {.layers = 80, .heads = 64, .kv_heads = 8, .arch = "llama"};
    assert_int_equal(type_in("q4_k_m", &eight, tensor("blk.4.attn_v.weight", 8, 256, QN_F16)), QN_Q8_0);
    assert_int_equal(type_in("q4_0", &eight, tensor("blk.4.attn_k.weight", 8, 256, QN_F16)), QN_Q8_0);
    assert_int_equal(type_in("q4_k_m", &eight, tensor("blk.4.attn_output.weight", 8, 256, QN_F16)), QN_Q5_K);
    assert_int_equal(type_in("q4_k_m", &eight, tensor("blk.4.attn_output.weight", 8, 96, QN_F16)), QN_Q5_1);
    assert_int_equal(type_in("q4_0", &eight, tensor("blk.4.attn_output.weight", 8, 256, QN_F16)), QN_Q4_0);
    assert_int_equal(type_in("f16", &eight, tensor("blk.4.attn_v.weight", 8, 256, QN_F32)), QN_F16);
    assert_int_equal(type_in("q4_k_m", &large, tensor("blk.10.attn_v.weight", 8, 256, QN_F16)), QN_Q5_K);
    assert_int_equal(type_in("q4_k_m", &large, tensor("blk.9.attn_v.weight", 8, 256, QN_F16)), QN_Q6_K);
    large.kv_heads = 64;
    assert_int_equal(type_in("q4_k_m", &large, tensor("blk.10.attn_v.weight", 8, 256, QN_F16)), QN_Q4_K);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_have_file_types),
        cmocka_unit_test(what_is_no_matrix_stays),
        cmocka_unit_test(better_layers_of_thirty),
        cmocka_unit_test(output_and_embedding),
        cmocka_unit_test(mixtures_of_eight_and_the_largest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
