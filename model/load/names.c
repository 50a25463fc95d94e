/* The family table. */
#include "model/load/names.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "model/load/tensors.h"

/* llama.cpp gives every architecture the same names. */
static const struct qn_name_table gguf_names = {
    .prefix = "",
    .name =
        {
            [QN_SLOT_EMBED] = "token_embd",
            [QN_SLOT_POS] = "position_embd",
            [QN_SLOT_OUT_NORM] = "output_norm",
            [QN_SLOT_OUTPUT] = "output",
            [QN_SLOT_ROPE_FACTORS] = "rope_freqs",
            [QN_SLOT_ATTN_NORM] = "blk.%u.attn_norm",
            [QN_SLOT_Q] = "blk.%u.attn_q",
            [QN_SLOT_K] = "blk.%u.attn_k",
            [QN_SLOT_V] = "blk.%u.attn_v",
            [QN_SLOT_QKV] = "blk.%u.attn_qkv",
            [QN_SLOT_O] = "blk.%u.attn_output",
            [QN_SLOT_Q_NORM] = "blk.%u.attn_q_norm",
            [QN_SLOT_K_NORM] = "blk.%u.attn_k_norm",
            [QN_SLOT_FFN_NORM] = "blk.%u.ffn_norm",
            [QN_SLOT_GATE] = "blk.%u.ffn_gate",
            [QN_SLOT_UP] = "blk.%u.ffn_up",
            [QN_SLOT_DOWN] = "blk.%u.ffn_down",
            [QN_SLOT_ROUTER] = "blk.%u.ffn_gate_inp",
            [QN_SLOT_SHARED_SCALE] = "blk.%u.ffn_gate_inp_shexp",
            [QN_SLOT_SHARED_GATE] = "blk.%u.ffn_gate_shexp",
            [QN_SLOT_SHARED_UP] = "blk.%u.ffn_up_shexp",
            [QN_SLOT_SHARED_DOWN] = "blk.%u.ffn_down_shexp",
            [QN_SLOT_GATE_EXPS] = "blk.%u.ffn_gate_exps",
            [QN_SLOT_UP_EXPS] = "blk.%u.ffn_up_exps",
            [QN_SLOT_DOWN_EXPS] = "blk.%u.ffn_down_exps",
            [QN_SLOT_GATE_UP_EXPS] = "blk.%u.ffn_gate_up_exps",
            [QN_SLOT_EXPERT_GATE] = "blk.%u.ffn_gate.%u",
            [QN_SLOT_EXPERT_UP] = "blk.%u.ffn_up.%u",
            [QN_SLOT_EXPERT_DOWN] = "blk.%u.ffn_down.%u",
        },
};

/* What llama and its descendants share. */
#define HF_COMMON                                                                                            \
    [QN_SLOT_EMBED] = "embed_tokens", [QN_SLOT_OUT_NORM] = "norm", [QN_SLOT_OUTPUT] = "/lm_head",            \
    [QN_SLOT_ATTN_NORM] = "layers.%u.input_layernorm", [QN_SLOT_Q] = "layers.%u.self_attn.q_proj",           \
    [QN_SLOT_K] = "layers.%u.self_attn.k_proj", [QN_SLOT_V] = "layers.%u.self_attn.v_proj",                  \
    [QN_SLOT_O] = "layers.%u.self_attn.o_proj", [QN_SLOT_Q_NORM] = "layers.%u.self_attn.q_norm",             \
    [QN_SLOT_K_NORM] = "layers.%u.self_attn.k_norm",                                                         \
    [QN_SLOT_FFN_NORM] = "layers.%u.post_attention_layernorm"
#define HF_SHARED_EXPERT                                                                                     \
    [QN_SLOT_SHARED_SCALE] = "layers.%u.mlp.shared_expert_gate",                                             \
    [QN_SLOT_SHARED_GATE] = "layers.%u.mlp.shared_expert.gate_proj",                                         \
    [QN_SLOT_SHARED_UP] = "layers.%u.mlp.shared_expert.up_proj",                                             \
    [QN_SLOT_SHARED_DOWN] = "layers.%u.mlp.shared_expert.down_proj"

static const struct qn_name_table hf_llama_names = {
    .prefix = "model.",
    .name =
        {
            HF_COMMON,
            [QN_SLOT_GATE] = "layers.%u.mlp.gate_proj",
            [QN_SLOT_UP] = "layers.%u.mlp.up_proj",
            [QN_SLOT_DOWN] = "layers.%u.mlp.down_proj",
        },
};

static const struct qn_name_table hf_mixtral_names = {
    .prefix = "model.",
    .name =
        {
            HF_COMMON,
            [QN_SLOT_ROUTER] = "layers.%u.block_sparse_moe.gate",
            [QN_SLOT_EXPERT_GATE] = "layers.%u.block_sparse_moe.experts.%u.w1",
            [QN_SLOT_EXPERT_UP] = "layers.%u.block_sparse_moe.experts.%u.w3",
            [QN_SLOT_EXPERT_DOWN] = "layers.%u.block_sparse_moe.experts.%u.w2",
        },
};

static const struct qn_name_table hf_moe_names = {
    .prefix = "model.",
    .name =
        {
            HF_COMMON,
            HF_SHARED_EXPERT,
            [QN_SLOT_ROUTER] = "layers.%u.mlp.gate",
            [QN_SLOT_EXPERT_GATE] = "layers.%u.mlp.experts.%u.gate_proj",
            [QN_SLOT_EXPERT_UP] = "layers.%u.mlp.experts.%u.up_proj",
            [QN_SLOT_EXPERT_DOWN] = "layers.%u.mlp.experts.%u.down_proj",
        },
};

/* The modules' own names in releases 5 and later, for any of these families. */
static const struct qn_name_table hf_merged_names = {
    .prefix = "model.",
    .name =
        {
            HF_COMMON,
            HF_SHARED_EXPERT,
            [QN_SLOT_ROUTER] = "layers.%u.mlp.gate",
            [QN_SLOT_GATE_UP_EXPS] = "layers.%u.mlp.experts.gate_up_proj$",
            [QN_SLOT_DOWN_EXPS] = "layers.%u.mlp.experts.down_proj$",
        },
};

static const struct qn_name_table hf_gpt2_names = {
    .prefix = "transformer.",
    .name =
        {
            [QN_SLOT_EMBED] = "wte",
            [QN_SLOT_POS] = "wpe",
            [QN_SLOT_OUT_NORM] = "ln_f",
            [QN_SLOT_OUTPUT] = "/lm_head",
            [QN_SLOT_ATTN_NORM] = "h.%u.ln_1",
            [QN_SLOT_QKV] = "h.%u.attn.c_attn",
            [QN_SLOT_O] = "h.%u.attn.c_proj",
            [QN_SLOT_FFN_NORM] = "h.%u.ln_2",
            [QN_SLOT_UP] = "h.%u.mlp.c_fc",
            [QN_SLOT_DOWN] = "h.%u.mlp.c_proj",
        },
};

static const struct qn_config_keys llama_keys = {
    .d_model = "hidden_size",
    .layers = "num_hidden_layers",
    .heads = "num_attention_heads",
    .kv_heads = "num_key_value_heads",
    .ffn = "intermediate_size",
    .context = "max_position_embeddings",
    .eps = "rms_norm_eps",
    .act = "hidden_act",
};

/* Qwen's mixtures: intermediate_size is that of layers without experts. */
static const struct qn_config_keys qwen_moe_keys = {
    .d_model = "hidden_size",
    .layers = "num_hidden_layers",
    .heads = "num_attention_heads",
    .kv_heads = "num_key_value_heads",
    .ffn = "moe_intermediate_size",
    .context = "max_position_embeddings",
    .eps = "rms_norm_eps",
    .act = "hidden_act",
};

static const struct qn_config_keys gpt2_keys = {
    .d_model = "n_embd",
    .layers = "n_layer",
    .heads = "n_head",
    .ffn = "n_inner",
    .context = "n_positions",
    .eps = "layer_norm_epsilon",
    .act = "activation_function",
};

#define LLAMA_LIKE                                                                                           \
    .gguf_names = &gguf_names, .hf_names = &hf_llama_names, .hf_keys = &llama_keys, .norm = QN_NORM_RMS,     \
    .pos = QN_POS_ROPE, .gated = true, .hf_eps = 1e-6f
#define MOE_LIKE(hf, keys, mode)                                                                             \
    .gguf_names = &gguf_names, .hf_names = &(hf), .hf_merged_names = &hf_merged_names, .hf_keys = &(keys),   \
    .norm = QN_NORM_RMS, .pos = QN_POS_ROPE, .gated = true, .act = QN_ACT_SILU, .moe = true,                 \
    .gating = (mode)
#define GPT2_LIKE                                                                                            \
    .gguf_names = &gguf_names, .hf_names = &hf_gpt2_names, .hf_keys = &gpt2_keys, .norm = QN_NORM_LAYER,     \
    .pos = QN_POS_LEARNED, .act = QN_ACT_GELU_TANH, .qkv_bias = QN_REQUIRED, .o_bias = QN_REQUIRED,          \
    .ffn_bias = QN_REQUIRED, .gguf_qkv = QN_QKV_FUSED, .hf_qkv = QN_QKV_FUSED, .hf_eps = 1e-5f

static const struct qn_family families[] = {
    {.name = "llama",
     .gguf_arch = "llama",
     .hf_types = {"llama", "mistral"},
     LLAMA_LIKE,
     .act = QN_ACT_SILU,
     .qkv_bias = QN_OPTIONAL,
     .o_bias = QN_OPTIONAL,
     .gguf_permuted = true},
    {.name = "qwen2",
     .gguf_arch = "qwen2",
     .hf_types = {"qwen2"},
     LLAMA_LIKE,
     .act = QN_ACT_SILU,
     .qkv_bias = QN_REQUIRED,
     .hf_window_opt_in = true},
    {.name = "qwen3",
     .gguf_arch = "qwen3",
     .hf_types = {"qwen3"},
     LLAMA_LIKE,
     .act = QN_ACT_SILU,
     .qkv_bias = QN_OPTIONAL,
     .o_bias = QN_OPTIONAL,
     .qk_norm = true,
     .hf_window_opt_in = true,
     .hf_head_dim = 128},
    {.name = "mixtral",
     .gguf_arch = "llama",
     .hf_types = {"mixtral"},
     MOE_LIKE(hf_mixtral_names, llama_keys, QN_GATING_SOFTMAX_RENORM),
     .hf_eps = 1e-5f,
     .gguf_permuted = true},
    {.name = "qwen2moe",
     .gguf_arch = "qwen2moe",
     .hf_types = {"qwen2_moe"},
     MOE_LIKE(hf_moe_names, qwen_moe_keys, QN_GATING_SOFTMAX),
     .hf_renorm_key = true,
     .hf_eps = 1e-6f,
     .shared_expert = true,
     .qkv_bias = QN_REQUIRED,
     .hf_window_opt_in = true},
    {.name = "qwen3moe",
     .gguf_arch = "qwen3moe",
     .hf_types = {"qwen3_moe"},
     MOE_LIKE(hf_moe_names, qwen_moe_keys, QN_GATING_SOFTMAX_RENORM),
     .hf_renorm_key = true,
     .hf_eps = 1e-6f,
     .qkv_bias = QN_OPTIONAL,
     .o_bias = QN_OPTIONAL,
     .qk_norm = true,
     .hf_window_opt_in = true},
    {.name = "olmoe",
     .gguf_arch = "olmoe",
     .hf_types = {"olmoe"},
     MOE_LIKE(hf_moe_names, llama_keys, QN_GATING_SOFTMAX),
     .hf_renorm_key = true,
     .hf_eps = 1e-5f,
     .qkv_bias = QN_OPTIONAL,
     .o_bias = QN_OPTIONAL,
     .qk_norm_whole = true},
    {.name = "gemma",
     .gguf_arch = "gemma",
     .hf_types = {"gemma"},
     LLAMA_LIKE,
     .act = QN_ACT_GELU_TANH,
     .act_fixed = true,
     .qkv_bias = QN_OPTIONAL,
     .o_bias = QN_OPTIONAL,
     .embed_scaled = true,
     .hf_head_dim = 256,
     .hf_norm_minus_one = true},
    {.name = "gpt2", .gguf_arch = "gpt2", .hf_types = {"gpt2"}, GPT2_LIKE, .hf_conv1d = true},
    {.name = "gpt_bigcode",
     .gguf_arch = "starcoder",
     .hf_types = {"gpt_bigcode"},
     GPT2_LIKE,
     .one_kv_head = true},
};
#define N_FAMILIES (sizeof families / sizeof *families)

const struct qn_family *qn_family_at(unsigned i) {
    return i < N_FAMILIES ? &families[i] : NULL;
}

const struct qn_family *qn_family_by_gguf_arch(struct qn_str arch, bool moe) {
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (families[i].moe == moe && qn_str_is(arch, families[i].gguf_arch)) return &families[i];
    return NULL;
}

const struct qn_family *qn_family_by_hf_type(const char *model_type) {
    for (size_t i = 0; i < N_FAMILIES; i++)
        for (size_t j = 0; j < 3 && families[i].hf_types[j]; j++)
            if (strcmp(families[i].hf_types[j], model_type) == 0) return &families[i];
    return NULL;
}

void qn_family_fill(const struct qn_family *f, struct qn_spec *spec) {
    snprintf(spec->family, sizeof spec->family, "%s", f->name);
    spec->norm = f->norm;
    spec->pos = f->pos;
    spec->qk_norm = f->qk_norm;
    spec->qk_norm_whole = f->qk_norm_whole;
    spec->embed_scale = f->embed_scaled ? sqrtf((float)spec->d_model) : 1.0f;
    spec->n_attn = spec->n_ffn = spec->n_share = 1;
    snprintf(spec->attn[0].type, sizeof spec->attn[0].type, "%s",
             qn_softmax_name(spec->heads, spec->attn[0].kv_heads));
    spec->share[0] =
        (struct qn_share_member){.type = "none", .attn_blocks = spec->layers, .ffn_blocks = spec->layers};
    spec->attn_blocks = spec->ffn_blocks = spec->layers;
}

int qn_family_set_ffn(const struct qn_family *f, enum qn_act_fn act, struct qn_spec *spec,
                      struct qn_err *err) {
    static const char *const gated[QN_ACT_COUNT] = {
        [QN_ACT_RELU] = "reglu",  [QN_ACT_GELU_ERF] = "geglu", [QN_ACT_GELU_TANH] = "geglu",
        [QN_ACT_SILU] = "swiglu", [QN_ACT_SIGMOID] = "glu",    [QN_ACT_IDENTITY] = "bilinear"};
    static const char *const plain[QN_ACT_COUNT] = {
        [QN_ACT_RELU] = "relu", [QN_ACT_GELU_ERF] = "gelu", [QN_ACT_GELU_TANH] = "gelu"};
    const char *name = f->gated ? gated[act] : plain[act];
    if (!name)
        return qn_err_set(err, QN_ERR_UNSUPPORTED, "this activation has no plain feed-forward structure");
    struct qn_ffn_member *m = &spec->ffn[0];
    snprintf(m->type, sizeof m->type, "%s", f->moe ? "moe" : name);
    if (f->moe) snprintf(m->expert, sizeof m->expert, "%s", name);
    m->act = act;
    return QN_OK;
}
