/* Malformed safetensors, config.json and shard indexes: tables of named kinds, each refused with a message
 * that names the fault; truncations; bit flips. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/load/json.h"
#include "model/load/open.h"
#include "tests/support/tiny_model.h"
#include "tests/support/write_safetensors.h"

/* ---- headers alone ---- */

static const struct {
    const char *name, *expect, *header;
    size_t data; /* bytes after the header */
} headers[] = {
    {"no data", "bytes after the last tensor", "{}", 4},
    {"not an object", "does not start with '{'", "[]", 0},
    {"blank before the object", "does not start with '{'", " {}", 0},
    {"one byte", "does not start with '{'", "{", 0},
    {"unterminated", "safetensors header:", "{\"a\":", 0},
    {"two objects", "end of file expected", "{}{}", 0},
    {"not UTF-8", "unable to decode byte", "{\"\xff\":{}}", 0},
    {"duplicate tensor", "duplicate object key",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
     "\"data_offsets\":[4,8]}}",
     8},
    {"duplicate field", "duplicate object key",
     "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
    {"nested too deep", "nested deeper than", "{\"a\":[[[[[[[[1]]]]]]]]}", 0},
    {"entry a number", "not an object of", "{\"a\":1}", 0},
    {"entry null", "not an object of", "{\"a\":null}", 0},
    {"entry empty", "not an object of", "{\"a\":{}}", 0},
    {"extra field", "not an object of",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4},
    {"no dtype", "'dtype' is not a string", "{\"a\":{\"d\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4},
    {"dtype a number", "'dtype' is not a string",
     "{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
    {"unknown dtype", "unknown 'dtype'", "{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}",
     4},
    {"dtype with a NUL", "unknown 'dtype'",
     "{\"a\":{\"dtype\":\"F32\\u0000\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
    {"dtype of 4 bits", "unknown 'dtype'", "{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,1]}}",
     1},
    {"no shape", "'shape' is not an array", "{\"a\":{\"dtype\":\"F32\",\"s\":[1],\"data_offsets\":[0,4]}}",
     4},
    {"shape negative", "integers >= 0", "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}",
     4},
    {"shape a float", "integers >= 0", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}",
     4},
    {"shape of strings", "integers >= 0",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", 4},
    {"9 dimensions", "more than 8 dimensions",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4},
    {"shape product wraps to 0", "product of 'shape' overflows",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0},
    {"shape product 2^63", "size overflows",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[2147483648,4294967296],\"data_offsets\":[0,0]}}", 0},
    {"bytes wrap to 0", "size overflows",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0},
    {"shape beyond 2^63", "too big integer",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}", 4},
    {"no offsets", "'data_offsets' is not", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"o\":[0,4]}}", 4},
    {"one offset", "'data_offsets' is not", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}",
     4},
    {"three offsets", "'data_offsets' is not",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4},
    {"negative offset", "'data_offsets' is not",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4},
    {"offsets swapped", "'data_offsets' is not",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4},
    {"offsets of floats", "'data_offsets' is not",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]}}", 4},
    {"offsets of 1 GB in a tiny file", "beyond the end of the file",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[250000000],\"data_offsets\":[0,1000000000]}}", 4},
    {"end one byte beyond", "beyond the end of the file",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}}", 4},
    {"offsets shorter than the shape", "do not match",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4},
    {"offsets longer than the shape", "do not match",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8},
    {"hole before the first", "leaves a hole",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8},
    {"hole between", "leaves a hole",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],"
     "\"data_offsets\":[8,12]}}",
     12},
    {"overlap", "overlaps the tensor before it",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[2],"
     "\"data_offsets\":[4,12]}}",
     12},
    {"same bytes twice", "overlaps the tensor before it",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],"
     "\"data_offsets\":[0,4]}}",
     4},
    {"trailing bytes (polyglot)", "1 bytes after the last tensor",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5},
    {"empty name", "name is empty", "{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
    {"NUL in a name", "NUL byte in object key",
     "{\"a\\u0000\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4},
    {"metadata an array", "__metadata__ is not an object", "{\"__metadata__\":[]}", 0},
    {"metadata with a number", "something else than strings", "{\"__metadata__\":{\"a\":1}}", 0},
    {"metadata nested", "something else than strings", "{\"__metadata__\":{\"a\":{\"b\":\"c\"}}}", 0},
};

static int parse_copy(const uint8_t *p, size_t n, struct qn_err *err) {
    struct qn_tensor_dir dir = {0};
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n) memcpy(copy, p, n);
    int rc = qn_safetensors_parse(copy, n, &dir, err);
    if (rc == QN_OK) rc = qn_tensor_dir_index(&dir, err);
    qn_tensor_dir_free(&dir);
    free(copy);
    return rc;
}

static void bad_headers_are_refused(void **state) {
    static const uint8_t zeros[64] = {0};
    size_t n = sizeof headers / sizeof *headers, wrong = 0;
    (void)state;
    for (size_t i = 0; i < n; i++) {
        struct qn_test_buf file;
        struct qn_err err = {0};
        qn_test_st_raw(headers[i].header, zeros, headers[i].data, &file);
        int rc = parse_copy(file.p, file.n, &err);
        if (rc != QN_ERR_FORMAT || !strstr(err.msg, headers[i].expect)) {
            print_message("%s: %d '%s'\n", headers[i].name, rc, err.msg);
            wrong++;
        }
        qn_test_buf_free(&file);
    }
    print_message("%zu kinds of malformed safetensors headers\n", n);
    assert_int_equal(wrong, 0);
}

static void bad_header_lengths_are_refused(void **state) {
    static const struct {
        uint64_t length;
        const char *expect;
    } lengths[] = {
        {0, "does not start"},         {1, "does not start"},    {UINT64_MAX, "more than 100000000"},
        {1ull << 63, "more than"},     {100000001, "more than"}, {100000000, "the file ends inside"},
        {1000, "the file ends inside"}};
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct qn_test_buf file = {0};
        struct qn_err err = {0};
        qn_test_put_u64(&file, lengths[i].length);
        qn_test_put(&file, "{}", 2);
        assert_int_equal(parse_copy(file.p, file.n, &err), QN_ERR_FORMAT);
        if (!strstr(err.msg, lengths[i].expect)) fail_msg("'%s'", err.msg);
        qn_test_buf_free(&file);
    }
}

static void a_name_of_256_bytes_is_refused(void **state) {
    char header[512], name[257];
    struct qn_test_buf file;
    struct qn_err err = {0};
    (void)state;
    memset(name, 'n', 256);
    name[256] = 0;
    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
             name);
    qn_test_st_raw(header, "\0\0\0", 4, &file);
    assert_int_equal(parse_copy(file.p, file.n, &err), QN_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "longer than 255"));
    qn_test_buf_free(&file);
}

/* Empty tensors, scalars, metadata and padding after the header are legal; values are not looked at. */
static void legal_oddities_are_accepted(void **state) {
    static const char *const legal[] = {"{}", "{}   ", "{\"__metadata__\":{\"format\":\"pt\"}}",
                                        "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[0,0]}}",
                                        "{\"a\":{\"dtype\":\"F64\",\"shape\":[0],\"data_offsets\":[0,0]},"
                                        "\"b\":{\"dtype\":\"BOOL\",\"shape\":[0],"
                                        "\"data_offsets\":[0,0]}}"};
    struct qn_test_buf file;
    struct qn_err err = {0};
    (void)state;
    for (size_t i = 0; i < sizeof legal / sizeof *legal; i++) {
        qn_test_st_raw(legal[i], NULL, 0, &file);
        if (parse_copy(file.p, file.n, &err) != QN_OK) fail_msg("%s: %s", legal[i], err.msg);
        qn_test_buf_free(&file);
    }
    qn_test_st_raw("{\"nan\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", "\0\0\xc0\x7f", 4,
                   &file);
    if (parse_copy(file.p, file.n, &err) != QN_OK) fail_msg("%s", err.msg);
    qn_test_buf_free(&file);
}

/* ---- whole checkpoints: one piece of config.json or of the header replaced ---- */

struct edit {
    const char *name, *family, *from, *to, *expect;
};

static const struct edit config_edits[] = {
    {"no model_type", "llama", "\"model_type\"", "\"x\"", "'model_type' is missing"},
    {"model_type a number", "llama", "\"model_type\":\"llama\"", "\"model_type\":7",
     "'model_type' must be a string"},
    {"unknown model_type", "llama", "\"llama\"", "\"mamba\"", "model type 'mamba' is not supported"},
    {"not JSON", "llama", "\"vocab_size\":", "vocab_size:", "config.json:"},
    {"duplicate key", "llama", "\"vocab_size\"", "\"vocab_size\":1,\"vocab_size\"", "duplicate object key"},
    {"no vocab_size", "llama", "\"vocab_size\"", "\"x\"", "'vocab_size' is missing"},
    {"vocab_size null", "llama", "\"vocab_size\":272", "\"vocab_size\":null", "'vocab_size' is missing"},
    {"vocab_size 0", "llama", "\"vocab_size\":272", "\"vocab_size\":0", "vocab is 0"},
    {"vocab_size a string", "llama", "\"vocab_size\":272", "\"vocab_size\":\"272\"", "must be an integer"},
    {"vocab_size a float", "llama", "\"vocab_size\":272", "\"vocab_size\":272.0", "must be an integer"},
    {"vocab_size negative", "llama", "\"vocab_size\":272", "\"vocab_size\":-1", "out of range"},
    {"vocab_size 2^40", "llama", "\"vocab_size\":272", "\"vocab_size\":1099511627776", "out of range"},
    {"vocab_size off by one", "llama", "\"vocab_size\":272", "\"vocab_size\":273",
     "is [272, 64], expected [273, 64]"},
    {"hidden_size 0", "llama", "\"hidden_size\":64", "\"hidden_size\":0", "head count is 0 or absurd"},
    {"hidden_size 2^31", "llama", "\"hidden_size\":64", "\"hidden_size\":2147483648",
     "d_model is 2147483648"},
    {"layers 0", "llama", "\"num_hidden_layers\":2", "\"num_hidden_layers\":0", "layers is 0"},
    {"layers 2^32-1", "llama", "\"num_hidden_layers\":2", "\"num_hidden_layers\":4294967295",
     "layers is 4294967295"},
    {"layers 3 with 2 stored", "llama", "\"num_hidden_layers\":2", "\"num_hidden_layers\":3",
     "'model.layers.2.input_layernorm.weight' is missing"},
    {"layers 1 with 2 stored", "llama", "\"num_hidden_layers\":2", "\"num_hidden_layers\":1",
     "is not part of such"},
    {"heads 0", "llama", "\"num_attention_heads\":4", "\"num_attention_heads\":0",
     "head count is 0 or absurd"},
    {"heads 2^31", "llama", "\"num_attention_heads\":4", "\"num_attention_heads\":2147483648",
     "head count is 0 or"},
    {"kv_heads 0", "llama", "\"num_key_value_heads\":2", "\"num_key_value_heads\":0", "kv_heads is 0"},
    {"kv_heads 3", "llama", "\"num_key_value_heads\":2", "\"num_key_value_heads\":3", "does not divide"},
    {"head_dim 0", "llama", "\"head_dim\":16", "\"head_dim\":0", "head_dim is 0"},
    {"head_dim 12", "llama", "\"head_dim\":16", "\"head_dim\":12", "not a multiple of 8"},
    {"head_dim 1024", "llama", "\"head_dim\":16", "\"head_dim\":1024", "head_dim is 1024"},
    {"no intermediate_size", "llama", "\"intermediate_size\"", "\"x\"", "'intermediate_size' is missing"},
    {"no context", "llama", "\"max_position_embeddings\"", "\"x\"", "'max_position_embeddings' is missing"},
    {"context 0", "llama", "\"max_position_embeddings\":64", "\"max_position_embeddings\":0", "context is 0"},
    {"epsilon 0", "llama", "\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":0", "norm_eps is not between"},
    {"epsilon negative", "llama", "\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":-1", "norm_eps is not between"},
    {"epsilon beyond f32", "llama", "\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":1e300",
     "must be a finite number"},
    {"epsilon beyond f64", "llama", "\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":1e999",
     "real number overflow"},
    {"epsilon a string", "llama", "\"rms_norm_eps\":1e-5", "\"rms_norm_eps\":\"x\"",
     "must be a finite number"},
    {"rope_theta 1", "llama", "\"rope_theta\":50000.0", "\"rope_theta\":1", "rope_base is not above 1"},
    {"rope scaling yarn", "llama", "\"rope_theta\"", "\"rope_scaling\":{\"type\":\"yarn\"},\"rope_theta\"",
     "RoPE scaling 'yarn'"},
    {"rope scaling dynamic", "llama", "\"rope_theta\"",
     "\"rope_parameters\":{\"rope_type\":\"dynamic\",\"factor\":2},\"rope_theta\"", "RoPE scaling 'dynamic'"},
    {"rope scaling without factor", "llama", "\"rope_theta\"",
     "\"rope_scaling\":{\"type\":\"linear\"},\"rope_theta\"", "without 'factor'"},
    {"rope scaling factor 0", "llama", "\"rope_theta\"",
     "\"rope_scaling\":{\"type\":\"linear\",\"factor\":0},\"rope_theta\"", "rope_factor is not at least 1"},
    {"rope scaling an array", "llama", "\"rope_theta\"", "\"rope_scaling\":[],\"rope_theta\"",
     "is not an object"},
    {"llama3 scaling without bounds", "llama", "\"rope_theta\"",
     "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8},\"rope_theta\"",
     "rope_low_freq is not above 0"},
    {"partial rotary", "llama", "\"rope_theta\"", "\"partial_rotary_factor\":0.5,\"rope_theta\"",
     "partial RoPE"},
    {"activation unknown", "llama", "\"silu\"", "\"mish\"", "activation 'mish' is not supported"},
    {"activation a number", "llama", "\"hidden_act\":\"silu\"", "\"hidden_act\":1", "must be a string"},
    {"quantised", "llama", "\"rope_theta\"", "\"quantization_config\":{\"bits\":4},\"rope_theta\"",
     "quantised safetensors"},
    {"mlp_bias", "llama", "\"rope_theta\"", "\"mlp_bias\":true,\"rope_theta\"",
     "'mlp_bias': true is not supported"},
    {"mlp_bias a string", "llama", "\"rope_theta\"", "\"mlp_bias\":\"no\",\"rope_theta\"",
     "must be true or false"},
    {"mixed layer types", "qwen2", "\"rope_theta\"",
     "\"layer_types\":[\"full_attention\",\"sliding_attention\"],\"rope_theta\"", "mixed full and sliding"},
    {"unknown layer type", "qwen2", "\"rope_theta\"", "\"layer_types\":[\"linear_attention\"],\"rope_theta\"",
     "a layer type other than"},
    {"window on some layers", "qwen2", "\"rope_theta\"",
     "\"sliding_window\":8,\"use_sliding_window\":true,\"max_window_layers\":1,\"rope_theta\"",
     "mixed full and sliding"},
    {"untied without lm_head", "llama", "\"tie_word_embeddings\":true", "\"tie_word_embeddings\":false",
     "'lm_head.weight' is missing"},
    {"tied a number", "llama", "\"tie_word_embeddings\":true", "\"tie_word_embeddings\":1",
     "must be true or false"},
    {"gpt2: scale by layer", "gpt2", "\"n_embd\"", "\"scale_attn_by_inverse_layer_idx\":true,\"n_embd\"",
     "'scale_attn_by_inverse_layer_idx': true"},
    {"gpt2: no scale", "gpt2", "\"n_embd\"", "\"scale_attn_weights\":false,\"n_embd\"",
     "'scale_attn_weights': false"},
    {"gpt2: silu without a gate", "gpt2", "\"gelu_new\"", "\"silu\"", "no plain feed-forward structure"},
    {"gpt2: no n_layer", "gpt2", "\"n_layer\"", "\"x\"", "'n_layer' is missing"},
    {"gpt2: n_positions too many", "gpt2", "\"n_positions\":64", "\"n_positions\":65", "expected [65, 64]"},
    {"moe: no experts", "mixtral", "\"num_local_experts\"", "\"x\"", "'num_experts' is missing"},
    {"moe: 0 experts", "mixtral", "\"num_local_experts\":5", "\"num_local_experts\":0",
     "a mixture without experts"},
    {"moe: 2^32-1 experts", "mixtral", "\"num_local_experts\":5", "\"num_local_experts\":4294967295",
     "experts is 4294967295"},
    {"moe: 1024 experts, 5 stored", "olmoe", "\"num_experts\":5", "\"num_experts\":1024", "and "},
    {"moe: an expert more than stored", "olmoe", "\"num_experts\":5", "\"num_experts\":6",
     "'model.layers.0.mlp.experts.5.gate_proj.weight' is missing"},
    {"moe: an expert less than stored", "olmoe", "\"num_experts\":5", "\"num_experts\":4",
     "'model.layers.0.mlp.experts.4.down_proj.weight' is not part"},
    {"moe: experts a string", "olmoe", "\"num_experts\":5", "\"num_experts\":\"5\"", "must be an integer"},
    {"moe: no num_experts_per_tok", "olmoe", "\"num_experts_per_tok\"", "\"x\"",
     "'num_experts_per_tok' is missing"},
    {"moe: 0 experts per token", "olmoe", "\"num_experts_per_tok\":2", "\"num_experts_per_tok\":0",
     "experts_per_token is 0"},
    {"moe: more experts per token than experts", "olmoe", "\"num_experts_per_tok\":2",
     "\"num_experts_per_tok\":6", "experts_per_token is 6, outside 1 to 5"},
    {"moe: norm_topk_prob a number", "olmoe", "\"norm_topk_prob\":false", "\"norm_topk_prob\":0",
     "must be true or false"},
    {"moe: clipped q, k and v", "olmoe", "\"clip_qkv\":null", "\"clip_qkv\":8.0", "clipped queries"},
    {"moe: every second layer", "qwen2moe", "\"decoder_sparse_step\":1", "\"decoder_sparse_step\":2",
     "'decoder_sparse_step' must be 1"},
    {"moe: a dense layer", "qwen3moe", "\"mlp_only_layers\":[]", "\"mlp_only_layers\":[0]",
     "'mlp_only_layers' must be empty"},
    {"moe: dense layers a number", "qwen3moe", "\"mlp_only_layers\":[]", "\"mlp_only_layers\":0",
     "'mlp_only_layers' must be empty"},
    {"moe: no expert width", "qwen3moe", "\"moe_intermediate_size\"", "\"x\"",
     "'moe_intermediate_size' is missing"},
    {"moe: expert width 0", "qwen3moe", "\"moe_intermediate_size\":32", "\"moe_intermediate_size\":0",
     "ffn_dim is 0"},
    {"moe: no shared width", "qwen2moe", "\"shared_expert_intermediate_size\"", "\"x\"",
     "'shared_expert_intermediate_size' is missing"},
    {"moe: shared width 0", "qwen2moe", "\"shared_expert_intermediate_size\":64",
     "\"shared_expert_intermediate_size\":0", "is below 8"},
    {"moe: shared width 2^31", "qwen2moe", "\"shared_expert_intermediate_size\":64",
     "\"shared_expert_intermediate_size\":2147483648", "shared_dim is 2147483648"},
    {"moe: read as a dense model", "mixtral", "\"mixtral\"", "\"mistral\"",
     "'model.layers.0.mlp.gate_proj.weight' is missing"},
    {"bigcode: multi_query off", "gpt_bigcode", "\"multi_query\":true", "\"multi_query\":false",
     "'transformer.h.0.attn.c_attn.weight' is [96, 64], expected [192, 64]"},
};

static const struct edit weight_edits[] = {
    {"missing tensor", "llama", "layers.1.mlp.up_proj", "layers.1.mlp.uq_proj",
     "'model.layers.1.mlp.up_proj.weight'"},
    {"missing norm", "llama", "model.norm.weight", "model.norn.weight", "'model.norm.weight' is missing"},
    {"missing embedding", "llama", "model.embed_tokens", "model.embed_tokenz",
     "'model.embed_tokens.weight' is missing"},
    {"missing everything of a layer", "llama", "\"model.layers.1", "\"modem.layers.1",
     "tensors of this llama"},
    {"mis-shaped", "llama", "\"shape\":[272,64]", "\"shape\":[64,272]", "is [64, 272], expected [272, 64]"},
    {"rank 1 for a matrix", "llama", "\"shape\":[272,64]", "\"shape\":[017408]", "safetensors header"},
    {"flat matrix", "llama", "\"shape\":[272,64]", "\"shape\":[ 17408]", "is [17408], expected [272, 64]"},
    {"dtype I32", "llama", "\"dtype\":\"F32\",\"shape\":[272", "\"dtype\":\"I32\",\"shape\":[272",
     "has type I32, which is not supported"},
    {"conv1d not transposed", "gpt2", "\"shape\":[64,192]", "\"shape\":[192,64]",
     "is [192, 64], expected [64, 192]"},
    {"extra tensor", "qwen3", "layers.0.self_attn.q_norm", "layers.0.self_attn.x_norm",
     "is not part of such a model"},
    {"missing expert", "mixtral", "layers.1.block_sparse_moe.experts.3.w2",
     "layers.1.block_sparse_moe.experts.3.w4",
     "'model.layers.1.block_sparse_moe.experts.3.w2.weight' is missing"},
    {"mis-shaped expert", "mixtral", "\"shape\":[32,64]", "\"shape\":[64,32]",
     "is [64, 32], expected [32, 64]"},
    {"missing router", "qwen3moe", "layers.0.mlp.gate.", "layers.0.mlp.gata.",
     "'model.layers.0.mlp.gate.weight' is missing"},
    {"router of another height", "qwen3moe", "\"shape\":[5,64]", "\"shape\":[64,5]",
     "is [64, 5], expected [5, 64]"},
    {"shared gate of two rows", "qwen2moe", "\"shape\":[1,64]", "\"shape\":[2,32]",
     "is [2, 32], expected [64]"},
    {"missing shared expert", "qwen2moe", "layers.0.mlp.shared_expert.up", "layers.0.mlp.shared_expert.uq",
     "shared_expert.up_proj.weight' is missing"},
    {"missing q_norm", "qwen3", "layers.0.self_attn.q_norm", "layers.0.self_attn.x_norm",
     "q_norm.weight' is missing"},
    {"missing bias", "qwen2", "layers.0.self_attn.v_proj.bias", "layers.0.self_attn.v_proj.biaz",
     "v_proj.bias' is missing"},
};

/* Replaces every occurrence; the number of them. */
static size_t replace(struct qn_test_buf *b, const char *from, const char *to) {
    struct qn_test_buf out = {0};
    size_t i = 0, n = 0, len = strlen(from);
    while (i < b->n) {
        if (b->n - i >= len && memcmp(b->p + i, from, len) == 0) {
            qn_test_put(&out, to, strlen(to));
            i += len;
            n++;
        } else {
            qn_test_put(&out, b->p + i++, 1);
        }
    }
    qn_test_buf_free(b);
    *b = out;
    return n;
}

/* Opens config and weights as checkpoint.c would, from exactly sized memory. */
static int open_both(const struct qn_test_buf *config, const struct qn_test_buf *weights,
                     struct qn_err *err) {
    struct qn_load_options opt = {0};
    struct qn_tensor_dir dir = {0};
    struct qn_checkpoint *c = calloc(1, sizeof *c);
    json_t *root = NULL;
    uint8_t *copy = malloc(weights->n ? weights->n : 1);
    assert_true(c && copy);
    if (weights->n) memcpy(copy, weights->p, weights->n);
    int rc = qn_json_parse((const char *)config->p, config->n, "config.json",
                           (struct qn_json_limits){.depth = 32, .nodes = 100000}, &root, err);
    if (rc == QN_OK) rc = qn_safetensors_parse(copy, weights->n, &dir, err);
    if (rc == QN_OK) rc = qn_tensor_dir_index(&dir, err);
    if (rc == QN_OK) {
        struct qn_hf_vocab files = {.config = root};
        rc = qn_open_hf(&files, &dir, &opt, c, err);
    }
    qn_checkpoint_free(c);
    qn_tensor_dir_free(&dir);
    json_decref(root);
    free(copy);
    return rc;
}

static bool check_edit(const struct edit *e, bool of_config) {
    struct qn_test_tiny t = qn_test_tiny_default(e->family);
    struct qn_test_buf config = {0}, weights;
    struct qn_err err = {0};
    t.tokenizer = false;
    qn_test_tiny_config(&t, &config);
    qn_test_tiny_safetensors(&t, &weights);
    if (replace(of_config ? &config : &weights, e->from, e->to) == 0)
        fail_msg("%s: nothing to replace", e->name);
    int rc = open_both(&config, &weights, &err);
    qn_test_buf_free(&config);
    qn_test_buf_free(&weights);
    if ((rc == QN_ERR_FORMAT || rc == QN_ERR_UNSUPPORTED) && rc == err.code && strstr(err.msg, e->expect))
        return true;
    print_message("%s: %d '%s', expected '%s'\n", e->name, rc, err.msg, e->expect);
    return false;
}

static void bad_configs_are_refused(void **state) {
    size_t n = sizeof config_edits / sizeof *config_edits, wrong = 0;
    (void)state;
    for (size_t i = 0; i < n; i++) wrong += !check_edit(&config_edits[i], true);
    print_message("%zu kinds of malformed config.json\n", n);
    assert_int_equal(wrong, 0);
}

static void bad_weights_are_refused(void **state) {
    size_t n = sizeof weight_edits / sizeof *weight_edits, wrong = 0;
    (void)state;
    for (size_t i = 0; i < n; i++) wrong += !check_edit(&weight_edits[i], false);
    print_message("%zu kinds of unusable tensors\n", n);
    assert_int_equal(wrong, 0);
}

static void truncation_at_every_64th_byte(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("qwen3");
    struct qn_test_buf weights;
    (void)state;
    qn_test_tiny_safetensors(&t, &weights);
    for (size_t n = 0; n < weights.n; n += 64) {
        struct qn_err err = {0};
        int rc = parse_copy(weights.p, n, &err);
        if (rc != QN_ERR_FORMAT || err.msg[0] == 0) fail_msg("cut to %zu bytes: %d '%s'", n, rc, err.msg);
    }
    qn_test_buf_free(&weights);
}

static void bit_flips_never_crash(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    struct qn_test_buf config = {0}, weights;
    size_t refused = 0;
    (void)state;
    t.layers = 1;
    qn_test_tiny_config(&t, &config);
    qn_test_tiny_safetensors(&t, &weights);
    uint64_t header;
    memcpy(&header, weights.p, 8);
    for (size_t i = 0; i < header + 8; i++) {
        struct qn_err err = {0};
        uint8_t bit = (uint8_t)(1u << (i * 5 + i / 7) % 8);
        weights.p[i] ^= bit;
        int rc = open_both(&config, &weights, &err);
        if (rc < 0 && (err.msg[0] == 0 || rc != err.code)) fail_msg("bit %zu: %d '%s'", i, rc, err.msg);
        refused += rc < 0;
        weights.p[i] ^= bit;
    }
    assert_true(refused > header / 2);
    qn_test_buf_free(&config);
    qn_test_buf_free(&weights);
}

/* ---- directories and shards ---- */

static char dir[64];

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/quern-bad-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static void expect_load(const char *path, int code, const char *expect) {
    struct qn_checkpoint *c;
    struct qn_err err = {0};
    int rc = qn_checkpoint_load(path, NULL, &c, &err);
    if (rc != code || c || !strstr(err.msg, expect))
        fail_msg("%s: %d '%s', expected '%s'", path, rc, err.msg, expect);
}

static void put_file(const char *name, const char *text) {
    char path[192];
    struct qn_test_buf b = {0};
    qn_test_printf(&b, "%s", text);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(qn_test_buf_save(&b, path), 0);
    qn_test_buf_free(&b);
}

static void bad_shard_indexes_are_refused(void **state) {
    static const struct {
        const char *index, *expect;
        int code;
    } kinds[] = {
        {"[]", "not a JSON object", QN_ERR_FORMAT},
        {"{}", "has no 'weight_map'", QN_ERR_FORMAT},
        {"{\"weight_map\":{}}", "has no 'weight_map'", QN_ERR_FORMAT},
        {"{\"weight_map\":{\"a\":1}}", "not a plain file name", QN_ERR_FORMAT},
        {"{\"weight_map\":{\"a\":\"../../etc/passwd\"}}", "not a plain file name", QN_ERR_FORMAT},
        {"{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", "not a plain file name", QN_ERR_FORMAT},
        {"{\"weight_map\":{\"a\":\"..safetensors\"}}", "not a plain file name", QN_ERR_FORMAT},
        {"{\"weight_map\":{\"a\":\"sub/m.safetensors\"}}", "not a plain file name", QN_ERR_FORMAT},
        {"{\"weight_map\":{\"a\":\"m.bin\"}}", "not a plain file name", QN_ERR_FORMAT},
        {"{\"weight_map\":{\"a\":\"absent.safetensors\"}}", "cannot open", QN_ERR_IO},
        {"{\"weight_map\":{\"no.such\":\"model-00001-of-00002.safetensors\"}}", "is in no shard",
         QN_ERR_FORMAT},
        {"{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"a\":\"b.safetensors\"}}", "duplicate",
         QN_ERR_FORMAT},
    };
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    char copy[256];
    (void)state;
    t.sharded = true;
    assert_int_equal(qn_test_write_tiny_hf(dir, &t), 0);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        put_file("model.safetensors.index.json", kinds[i].index);
        expect_load(dir, kinds[i].code, kinds[i].expect);
    }
    /* The same tensors in two shards. */
    snprintf(copy, sizeof copy, "cp %s/model-00001-of-00002.safetensors %s/twin.safetensors", dir, dir);
    assert_int_equal(system(copy), 0);
    put_file("model.safetensors.index.json",
             "{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"b\":\"twin.safetensors\"}}");
    expect_load(dir, QN_ERR_FORMAT, "occurs twice");
}

static void bad_paths_are_refused(void **state) {
    char path[192];
    (void)state;
    expect_load("/nonexistent/model.gguf", QN_ERR_IO, "cannot open");
    expect_load("/dev/null", QN_ERR_IO, "not a regular file");
    snprintf(path, sizeof path, "%s/empty.gguf", dir);
    put_file("empty.gguf", "");
    expect_load(path, QN_ERR_FORMAT, "is empty");
    snprintf(path, sizeof path, "%s/text.gguf", dir);
    put_file("text.gguf", "hello, I am not a model");
    expect_load(path, QN_ERR_FORMAT, "neither GGUF nor safetensors");
    snprintf(path, sizeof path, "%s/fifo", dir);
    char command[256];
    snprintf(command, sizeof command, "mkfifo %s", path);
    assert_int_equal(system(command), 0);
    expect_load(path, QN_ERR_IO, "not a regular file");
    snprintf(path, sizeof path, "%s/void", dir);
    snprintf(command, sizeof command, "mkdir %s", path);
    assert_int_equal(system(command), 0);
    expect_load(path, QN_ERR_IO, "config.json is missing");
    put_file("void/config.json", "{\"model_type\":\"llama\"}");
    expect_load(path, QN_ERR_IO, "neither model.safetensors nor its index");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_headers_are_refused),        cmocka_unit_test(bad_header_lengths_are_refused),
        cmocka_unit_test(a_name_of_256_bytes_is_refused), cmocka_unit_test(legal_oddities_are_accepted),
        cmocka_unit_test(bad_configs_are_refused),        cmocka_unit_test(bad_weights_are_refused),
        cmocka_unit_test(truncation_at_every_64th_byte),  cmocka_unit_test(bit_flips_never_crash),
        cmocka_unit_test(bad_shard_indexes_are_refused),  cmocka_unit_test(bad_paths_are_refused),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
