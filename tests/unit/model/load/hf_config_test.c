/* config.json of real models' shapes -> spec: defaults, both spellings of RoPE, windows, activations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "model/load/hf_config.h"
#include "model/load/json.h"

static struct qn_hf_model read(const char *text) {
    struct qn_hf_model m = {0};
    struct qn_err err = {0};
    json_t *root;
    int rc = qn_json_parse(text, strlen(text), "config.json",
                           (struct qn_json_limits){.depth = 32, .nodes = 1000}, &root, &err);
    if (rc == QN_OK) rc = qn_hf_config(root, NULL, &m, &err);
    if (rc != QN_OK) fail_msg("%s: %s", text, err.msg);
    json_decref(root);
    return m;
}

#define SIZES                                                                                                \
    "\"hidden_size\":2048,\"num_hidden_layers\":16,\"num_attention_heads\":32,\"intermediate_size\":8192,"   \
    "\"vocab_size\":1000,\"max_position_embeddings\":131072"

static void llama_3(void **state) {
    (void)state;
    struct qn_spec s =
        read("{\"model_type\":\"llama\"," SIZES
             ",\"num_key_value_heads\":8,\"rope_theta\":500000.0,\"hidden_act\":"
             "\"silu\",\"rms_norm_eps\":1e-05,\"attention_bias\":false,\"mlp_bias\":false,\"pretraining_tp\":"
             "1,"
             "\"tie_word_embeddings\":true,\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4.0,"
             "\"low_freq_factor\":1.0,\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}}")
            .spec;
    assert_int_equal(s.head_dim, 64);
    assert_int_equal(s.attn[0].kv_heads, 8);
    assert_int_equal(s.rope_scaling, QN_ROPE_LLAMA3);
    assert_true(s.rope_factor == 32.0f && s.rope_low_freq == 1.0f && s.rope_high_freq == 4.0f);
    assert_int_equal(s.rope_original_context, 8192);
    assert_true(s.rope_base == 500000.0f && s.tied);
    assert_string_equal(s.ffn[0].type, "swiglu");
}

static void rope_parameters_are_the_newer_spelling(void **state) {
    (void)state;
    struct qn_spec s =
        read("{\"model_type\":\"llama\"," SIZES ",\"rope_parameters\":{\"rope_theta\":250000,\"rope_type\":"
             "\"linear\",\"factor\":4}}")
            .spec;
    assert_true(s.rope_base == 250000.0f && s.rope_factor == 4.0f);
    assert_int_equal(s.rope_scaling, QN_ROPE_LINEAR);
    s = read("{\"model_type\":\"qwen3\"," SIZES
             ",\"rope_parameters\":{\"rope_theta\":1000000,\"rope_type\":\"default\"}}")
            .spec;
    assert_true(s.rope_base == 1e6f);
    assert_int_equal(s.rope_scaling, QN_ROPE_NONE);
    assert_int_equal(s.head_dim, 128); /* qwen3's default, not d / h */
    assert_true(s.qk_norm);
}

static void defaults(void **state) {
    (void)state;
    struct qn_spec s = read("{\"model_type\":\"llama\"," SIZES "}").spec;
    assert_int_equal(s.attn[0].kv_heads, 32);
    assert_true(s.norm_eps == 1e-6f && s.rope_base == 10000.0f && s.embed_scale == 1.0f);
    assert_int_equal(s.rope_dim, 64);
    s = read("{\"model_type\":\"gpt2\",\"vocab_size\":50257,\"n_embd\":768,\"n_layer\":12,\"n_head\":12,"
             "\"n_positions\":1024,\"n_inner\":null}")
            .spec;
    assert_int_equal(s.ffn[0].dim, 3072);
    assert_true(s.norm_eps == 1e-5f);
    assert_int_equal(s.ffn[0].act, QN_ACT_GELU_TANH);
    assert_int_equal(s.pos, QN_POS_LEARNED);
    struct qn_hf_model m =
        read("{\"model_type\":\"gpt_bigcode\",\"vocab_size\":49152,\"n_embd\":768,\"n_layer\":20,"
             "\"n_head\":12,\"n_positions\":8192}");
    assert_int_equal(m.spec.attn[0].kv_heads, 1);
    assert_int_equal(m.qkv, QN_QKV_FUSED);
    m = read(
        "{\"model_type\":\"gpt_bigcode\",\"vocab_size\":49152,\"n_embd\":768,\"n_layer\":20,\"n_head\":12,"
        "\"n_positions\":8192,\"multi_query\":false}");
    assert_int_equal(m.spec.attn[0].kv_heads, 12);
    assert_int_equal(m.qkv, QN_QKV_FUSED_PER_HEAD);
}

/* Gemma's config says "gelu", the trained function is the tanh form; embeddings are scaled by sqrt(d). */
static void gemma(void **state) {
    (void)state;
    struct qn_spec s = read("{\"model_type\":\"gemma\"," SIZES ",\"head_dim\":256,\"num_key_value_heads\":1,"
                            "\"hidden_act\":\"gelu\",\"hidden_activation\":null}")
                           .spec;
    assert_int_equal(s.ffn[0].act, QN_ACT_GELU_TANH);
    assert_string_equal(s.ffn[0].type, "geglu");
    assert_int_equal(s.head_dim, 256);
    assert_true(s.embed_scale > 45.2548f && s.embed_scale < 45.2549f);
}

static void activations(void **state) {
    static const struct {
        const char *name;
        enum qn_act_fn act;
        const char *ffn;
    } acts[] = {{"gelu", QN_ACT_GELU_ERF, "gelu"},
                {"gelu_new", QN_ACT_GELU_TANH, "gelu"},
                {"gelu_pytorch_tanh", QN_ACT_GELU_TANH, "gelu"},
                {"relu", QN_ACT_RELU, "relu"}};
    char text[512];
    (void)state;
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        snprintf(text, sizeof text,
                 "{\"model_type\":\"gpt2\",\"vocab_size\":50257,\"n_embd\":768,\"n_layer\":12,\"n_head\":12,"
                 "\"n_positions\":1024,\"activation_function\":\"%s\"}",
                 acts[i].name);
        struct qn_spec s = read(text).spec;
        assert_int_equal(s.ffn[0].act, acts[i].act);
        assert_string_equal(s.ffn[0].type, acts[i].ffn);
    }
}

static void windows(void **state) {
    static const struct {
        const char *text;
        uint32_t window;
    } kinds[] = {
        {"{\"model_type\":\"mistral\"," SIZES ",\"sliding_window\":4096}", 4096},
        {"{\"model_type\":\"mistral\"," SIZES ",\"sliding_window\":null}", 0},
        {"{\"model_type\":\"mistral\"," SIZES ",\"sliding_window\":131072}", 0},
        {"{\"model_type\":\"qwen2\"," SIZES ",\"sliding_window\":4096}", 0},
        {"{\"model_type\":\"qwen2\"," SIZES ",\"sliding_window\":4096,\"use_sliding_window\":false}", 0},
        {"{\"model_type\":\"qwen2\"," SIZES
         ",\"sliding_window\":4096,\"use_sliding_window\":true,\"max_window_layers\":16}",
         0},
        {"{\"model_type\":\"qwen2\"," SIZES
         ",\"sliding_window\":4096,\"use_sliding_window\":true,\"max_window_layers\":0}",
         4096},
        {"{\"model_type\":\"qwen2\"," SIZES
         ",\"sliding_window\":4096,\"use_sliding_window\":true,\"layer_types\":"
         "[\"full_attention\",\"full_attention\"]}",
         0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        assert_int_equal(read(kinds[i].text).spec.window, kinds[i].window);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_3),     cmocka_unit_test(rope_parameters_are_the_newer_spelling),
        cmocka_unit_test(defaults),    cmocka_unit_test(gemma),
        cmocka_unit_test(activations), cmocka_unit_test(windows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
