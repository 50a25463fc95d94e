/* The tiny models in Hugging Face form. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/support/tiny_model.h"
#include "tests/support/write_safetensors.h"

static bool is(const struct qn_test_tiny *t, const char *family) {
    return strcmp(t->family, family) == 0;
}

static bool gpt_like(const struct qn_test_tiny *t) {
    return is(t, "gpt2") || is(t, "gpt_bigcode");
}

/* The first name is llama's, the second GPT-2's. */
static const char *const names[QN_PART_COUNT][2] = {
    [QN_PART_EMBED] = {"embed_tokens.weight", "wte.weight"},
    [QN_PART_POS] = {NULL, "wpe.weight"},
    [QN_PART_OUT_NORM] = {"norm.weight", "ln_f.weight"},
    [QN_PART_OUT_NORM_B] = {NULL, "ln_f.bias"},
    [QN_PART_OUTPUT] = {"lm_head.weight", "lm_head.weight"},
    [QN_PART_ATTN_NORM] = {"input_layernorm.weight", "ln_1.weight"},
    [QN_PART_ATTN_NORM_B] = {NULL, "ln_1.bias"},
    [QN_PART_Q] = {"self_attn.q_proj.weight", NULL},
    [QN_PART_K] = {"self_attn.k_proj.weight", NULL},
    [QN_PART_V] = {"self_attn.v_proj.weight", NULL},
    [QN_PART_O] = {"self_attn.o_proj.weight", "attn.c_proj.weight"},
    [QN_PART_BQ] = {"self_attn.q_proj.bias", NULL},
    [QN_PART_BK] = {"self_attn.k_proj.bias", NULL},
    [QN_PART_BV] = {"self_attn.v_proj.bias", NULL},
    [QN_PART_BO] = {NULL, "attn.c_proj.bias"},
    [QN_PART_Q_NORM] = {"self_attn.q_norm.weight", NULL},
    [QN_PART_K_NORM] = {"self_attn.k_norm.weight", NULL},
    [QN_PART_FFN_NORM] = {"post_attention_layernorm.weight", "ln_2.weight"},
    [QN_PART_FFN_NORM_B] = {NULL, "ln_2.bias"},
    [QN_PART_GATE] = {"mlp.gate_proj.weight", NULL},
    [QN_PART_UP] = {"mlp.up_proj.weight", "mlp.c_fc.weight"},
    [QN_PART_DOWN] = {"mlp.down_proj.weight", "mlp.c_proj.weight"},
    [QN_PART_B_UP] = {NULL, "mlp.c_fc.bias"},
    [QN_PART_B_DOWN] = {NULL, "mlp.c_proj.bias"},
    [QN_PART_ROUTER] = {"mlp.gate.weight", NULL},
    [QN_PART_SHARED_SCALE] = {"mlp.shared_expert_gate.weight", NULL},
    [QN_PART_SHARED_GATE] = {"mlp.shared_expert.gate_proj.weight", NULL},
    [QN_PART_SHARED_UP] = {"mlp.shared_expert.up_proj.weight", NULL},
    [QN_PART_SHARED_DOWN] = {"mlp.shared_expert.down_proj.weight", NULL},
};

static const char *dtype_of(enum qn_type t) {
    return t == QN_F32 ? "F32" : t == QN_F16 ? "F16" : "BF16";
}

/* Two of these when sharded; tensors alternate. */
struct writer {
    const struct qn_test_tiny *t;
    struct qn_test_st st[2];
    struct qn_test_buf map; /* members of weight_map */
    unsigned n;
};

static void put_dims(struct writer *w, const char *name, const char *dtype, const uint64_t *dims, uint32_t n,
                     struct qn_test_buf *data) {
    unsigned shard = w->t->sharded ? w->n % 2 : 0;
    qn_test_st_tensor(&w->st[shard], name, dtype, dims, n, data);
    qn_test_printf(&w->map, "%s\"%s\":\"model-0000%u-of-00002.safetensors\"", w->n ? "," : "", name,
                   shard + 1);
    w->n++;
    qn_test_buf_free(data);
}

static void put(struct writer *w, const char *name, const char *dtype, uint64_t rows, uint64_t cols,
                struct qn_test_buf *data) {
    uint64_t dims[2] = {rows, cols};
    put_dims(w, name, dtype, dims, cols ? 2 : 1, data);
}

static void full_name(const struct qn_test_tiny *t, enum qn_test_part part, uint32_t layer, const char *leaf,
                      char name[96]) {
    const char *prefix = t->no_prefix || part == QN_PART_OUTPUT ? ""
                         : gpt_like(t)                          ? "transformer."
                                                                : "model.";
    if (part < QN_PART_ATTN_NORM)
        snprintf(name, 96, "%s%s", prefix, leaf);
    else
        snprintf(name, 96, "%s%s.%u.%s", prefix, gpt_like(t) ? "h" : "layers", layer, leaf);
}

static void transpose(struct qn_test_buf *b, size_t rows, size_t cols, size_t elem) {
    struct qn_test_buf out = {0};
    for (size_t c = 0; c < cols; c++)
        for (size_t r = 0; r < rows; r++) qn_test_put(&out, b->p + (r * cols + c) * elem, elem);
    qn_test_buf_free(b);
    *b = out;
}

/* A matrix whose rows are in `data`, stored as the family's Linear or Conv1D. */
static void put_matrix(struct writer *w, const char *name, uint32_t rows, uint32_t cols, bool block,
                       struct qn_test_buf *data) {
    bool conv1d = block && is(w->t, "gpt2");
    if (conv1d) transpose(data, rows, cols, qn_type_block_bytes(w->t->type));
    put(w, name, dtype_of(w->t->type), conv1d ? cols : rows, conv1d ? rows : cols, data);
}

static void minus_one(struct qn_test_buf *b) {
    for (size_t i = 0; i < b->n; i += 4) {
        float f;
        memcpy(&f, b->p + i, 4);
        f -= 1.0f;
        memcpy(b->p + i, &f, 4);
    }
}

static void put_part(struct writer *w, enum qn_test_part part, uint32_t layer) {
    const struct qn_test_tiny *t = w->t;
    const char *leaf = names[part][gpt_like(t)];
    struct qn_test_buf data = {0};
    uint32_t rows, cols;
    char name[96];
    if (!leaf || !qn_test_tiny_has(t, part)) return;
    qn_test_tiny_shape(t, part, &rows, &cols);
    if (part == QN_PART_ROUTER && is(t, "mixtral") && t->layout != QN_TEST_EXPERTS_MERGED)
        leaf = "block_sparse_moe.gate.weight";
    full_name(t, part, layer, leaf, name);
    for (uint32_t r = 0; r < (cols ? rows : 1); r++) qn_test_tiny_row(t, part, layer, r, &data);
    bool norm = part == QN_PART_OUT_NORM || part == QN_PART_ATTN_NORM || part == QN_PART_FFN_NORM;
    if (norm && is(t, "gemma")) minus_one(&data);
    if (part == QN_PART_ROUTER)
        put(w, name, "F32", rows, cols, &data);
    else if (part == QN_PART_SHARED_SCALE)
        put(w, name, "F32", 1, rows, &data); /* a Linear with one output */
    else if (cols)
        put_matrix(w, name, rows, cols, part >= QN_PART_ATTN_NORM, &data);
    else
        put(w, name, "F32", rows, 0, &data);
}

/* Each expert's three matrices, or two stacks: gate above up, and down. */
static void put_experts(struct writer *w, uint32_t layer) {
    static const char *const usual[3] = {"mlp.experts.%u.gate_proj.weight", "mlp.experts.%u.up_proj.weight",
                                         "mlp.experts.%u.down_proj.weight"};
    static const char *const mixtral[3] = {"block_sparse_moe.experts.%u.w1.weight",
                                           "block_sparse_moe.experts.%u.w3.weight",
                                           "block_sparse_moe.experts.%u.w2.weight"};
    const struct qn_test_tiny *t = w->t;
    bool merged = t->layout == QN_TEST_EXPERTS_MERGED;
    char leaf[64], name[96];
    struct qn_test_buf stack[2] = {{0}};
    for (uint32_t e = 0; e < t->experts; e++) {
        for (int i = 0; i < 3; i++) {
            struct qn_test_buf one = {0};
            enum qn_test_part part = (enum qn_test_part)(QN_PART_EXPERT_GATE + i);
            const char *pattern = is(t, "mixtral") ? mixtral[i] : usual[i], *hole = strstr(pattern, "%u");
            qn_test_tiny_expert(t, part, layer, e, merged ? &stack[i == 2] : &one);
            if (merged) continue;
            snprintf(leaf, sizeof leaf, "%.*s%u%s", (int)(hole - pattern), pattern, e, hole + 2);
            full_name(t, part, layer, leaf, name);
            put(w, name, dtype_of(t->type), i == 2 ? t->d_model : t->ffn, i == 2 ? t->ffn : t->d_model, &one);
        }
    }
    if (!merged) return;
    uint64_t above[3] = {t->experts, 2 * (uint64_t)t->ffn, t->d_model},
             down[3] = {t->experts, t->d_model, t->ffn};
    full_name(t, QN_PART_EXPERT_GATE, layer, "mlp.experts.gate_up_proj", name);
    put_dims(w, name, dtype_of(t->type), above, 3, &stack[0]);
    full_name(t, QN_PART_EXPERT_DOWN, layer, "mlp.experts.down_proj", name);
    put_dims(w, name, dtype_of(t->type), down, 3, &stack[1]);
}

/* c_attn: q, k, v one after the other; GPT-BigCode without multi_query (kv_heads = heads): by head. */
static void put_fused(struct writer *w, uint32_t layer) {
    const struct qn_test_tiny *t = w->t;
    struct qn_test_buf weight = {0}, bias = {0}, part[3] = {{0}};
    bool by_head = is(t, "gpt_bigcode") && t->kv_heads == t->heads;
    char name[96];
    for (int i = 0; i < 3; i++) qn_test_tiny_row(t, (enum qn_test_part)(QN_PART_BQ + i), layer, 0, &part[i]);
    for (uint32_t head = 0; head < (by_head ? t->heads : 1); head++) {
        for (int i = 0; i < 3; i++) {
            uint32_t rows = by_head ? t->head_dim : (i ? t->kv_heads : t->heads) * t->head_dim,
                     first = head * rows;
            for (uint32_t r = first; r < first + rows; r++)
                qn_test_tiny_row(t, (enum qn_test_part)(QN_PART_Q + i), layer, r, &weight);
            qn_test_put(&bias, part[i].p + (size_t)first * 4, (size_t)rows * 4);
        }
    }
    uint32_t all = (t->heads + 2 * t->kv_heads) * t->head_dim;
    full_name(t, QN_PART_Q, layer, "attn.c_attn.weight", name);
    put_matrix(w, name, all, t->d_model, true, &weight);
    full_name(t, QN_PART_Q, layer, "attn.c_attn.bias", name);
    put(w, name, "F32", all, 0, &bias);
    for (int i = 0; i < 3; i++) qn_test_buf_free(&part[i]);
}

static void write_all(struct writer *w) {
    for (int p = 0; p < QN_PART_ATTN_NORM; p++) put_part(w, (enum qn_test_part)p, 0);
    for (uint32_t l = 0; l < w->t->layers; l++) {
        if (gpt_like(w->t)) put_fused(w, l);
        for (int p = QN_PART_ATTN_NORM; p < QN_PART_EXPERT_GATE; p++) put_part(w, (enum qn_test_part)p, l);
        if (w->t->experts) put_experts(w, l);
    }
}

void qn_test_tiny_safetensors(const struct qn_test_tiny *t, struct qn_test_buf *out) {
    struct writer w = {.t = t};
    struct qn_test_tiny whole = *t;
    whole.sharded = false;
    w.t = &whole;
    write_all(&w);
    qn_test_st_finish(&w.st[0], out);
    qn_test_buf_free(&w.map);
}

static const char *model_type(const struct qn_test_tiny *t) {
    if (is(t, "qwen2moe")) return "qwen2_moe";
    return is(t, "qwen3moe") ? "qwen3_moe" : t->family;
}

static void put_expert_keys(const struct qn_test_tiny *t, struct qn_test_buf *out) {
    bool norm = is(t, "qwen3moe");
    if (!t->experts) return;
    qn_test_printf(out, "\"%s\":%u,\"num_experts_per_tok\":%u,",
                   is(t, "mixtral") ? "num_local_experts" : "num_experts", t->experts, t->used);
    if (!is(t, "mixtral")) qn_test_printf(out, "\"norm_topk_prob\":%s,", norm ? "true" : "false");
    if (is(t, "qwen2moe") || is(t, "qwen3moe"))
        qn_test_printf(out, "\"moe_intermediate_size\":%u,\"decoder_sparse_step\":1,\"mlp_only_layers\":[],",
                       t->ffn);
    if (t->shared_dim) qn_test_printf(out, "\"shared_expert_intermediate_size\":%u,", t->shared_dim);
    if (is(t, "olmoe")) qn_test_printf(out, "\"clip_qkv\":null,");
}

void qn_test_tiny_config(const struct qn_test_tiny *t, struct qn_test_buf *out) {
    qn_test_printf(out, "{\"model_type\":\"%s\",\"vocab_size\":%u,\"tie_word_embeddings\":%s,", model_type(t),
                   t->vocab, t->tied ? "true" : "false");
    if (gpt_like(t)) {
        qn_test_printf(out, "\"n_embd\":%u,\"n_layer\":%u,\"n_head\":%u,\"n_positions\":%u,\"n_inner\":%u,",
                       t->d_model, t->layers, t->heads, t->context, t->ffn);
        if (is(t, "gpt_bigcode"))
            qn_test_printf(out, "\"multi_query\":%s,", t->kv_heads == t->heads ? "false" : "true");
        qn_test_printf(out, "\"layer_norm_epsilon\":1e-5,\"activation_function\":\"%s\"}",
                       is(t, "gpt2") ? "gelu_new" : "gelu_pytorch_tanh");
        return;
    }
    put_expert_keys(t, out);
    qn_test_printf(
        out,
        "\"hidden_size\":%u,\"num_hidden_layers\":%u,\"num_attention_heads\":%u,\"num_key_value_heads\":%u,"
        "\"head_dim\":%u,\"intermediate_size\":%u,\"max_position_embeddings\":%u,\"rms_norm_eps\":1e-5,"
        "\"rope_theta\":50000.0,\"hidden_act\":\"%s\"}",
        t->d_model, t->layers, t->heads, t->kv_heads, t->head_dim, t->ffn, t->context,
        is(t, "gemma") ? "gelu" : "silu");
}

static int save(struct qn_test_buf *b, const char *dir, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int rc = qn_test_buf_save(b, path);
    qn_test_buf_free(b);
    return rc;
}

static int save_weights(const struct qn_test_tiny *t, const char *dir) {
    struct writer w = {.t = t};
    struct qn_test_buf b, index = {0};
    int rc = 0;
    write_all(&w);
    for (int i = 0; i < (t->sharded ? 2 : 1); i++) {
        char name[64] = "model.safetensors";
        if (t->sharded) snprintf(name, sizeof name, "model-0000%d-of-00002.safetensors", i + 1);
        qn_test_st_finish(&w.st[i], &b);
        if (save(&b, dir, name)) rc = -1;
    }
    if (t->sharded) {
        qn_test_printf(&index, "{\"metadata\":{\"total_size\":0},\"weight_map\":{");
        qn_test_put(&index, w.map.p, w.map.n);
        qn_test_printf(&index, "}}");
        if (save(&index, dir, "model.safetensors.index.json")) rc = -1;
    }
    qn_test_buf_free(&w.map);
    return rc;
}

int qn_test_write_tiny_hf(const char *dir, const struct qn_test_tiny *t) {
    struct qn_test_buf b = {0};
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) return -1;
    qn_test_tiny_config(t, &b);
    if (save(&b, dir, "config.json")) return -1;
    if (t->tokenizer) {
        qn_test_tiny_tokenizer_json(t, &b);
        if (save(&b, dir, "tokenizer.json")) return -1;
    }
    return save_weights(t, dir);
}
