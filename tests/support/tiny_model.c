/* Canonical weights of the tiny models, and their GGUF form. */
#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/tiny_vocab.h"

static bool is(const struct qn_test_tiny *t, const char *family) {
    return strcmp(t->family, family) == 0;
}

static bool gpt_like(const struct qn_test_tiny *t) {
    return is(t, "gpt2") || is(t, "gpt_bigcode");
}

struct qn_test_tiny qn_test_tiny_default(const char *family) {
    struct qn_test_tiny t = {.family = family,
                             .layers = 2,
                             .d_model = 64,
                             .heads = 4,
                             .kv_heads = 2,
                             .head_dim = 16,
                             .ffn = 96,
                             .vocab = 272,
                             .context = 64,
                             .type = QN_F32,
                             .tied = true,
                             .tokenizer = true,
                             .seed = 1};
    if (is(&t, "gemma")) t.kv_heads = 1, t.head_dim = 32;
    if (is(&t, "qwen3")) t.head_dim = 24;
    if (is(&t, "gpt2")) t.kv_heads = 4;
    if (is(&t, "gpt_bigcode")) t.kv_heads = 1;
    if (is(&t, "qwen3moe")) t.head_dim = 24;
    if (is(&t, "mixtral") || is(&t, "qwen2moe") || is(&t, "qwen3moe") || is(&t, "olmoe"))
        t.experts = 5, t.used = 2, t.ffn = 32;
    if (is(&t, "qwen2moe")) t.shared_dim = 64;
    return t;
}

bool qn_test_tiny_has(const struct qn_test_tiny *t, enum qn_test_part part) {
    switch (part) {
    case QN_PART_OUTPUT:
        return !t->tied;
    case QN_PART_ROPE_FACTORS:
        return t->rope_factors && !gpt_like(t);
    case QN_PART_BQ:
    case QN_PART_BK:
    case QN_PART_BV:
        return t->attn_bias || gpt_like(t) || is(t, "qwen2") || is(t, "qwen2moe");
    case QN_PART_POS:
    case QN_PART_OUT_NORM_B:
    case QN_PART_ATTN_NORM_B:
    case QN_PART_FFN_NORM_B:
    case QN_PART_BO:
    case QN_PART_B_UP:
    case QN_PART_B_DOWN:
        return gpt_like(t);
    case QN_PART_Q_NORM:
    case QN_PART_K_NORM:
        return is(t, "qwen3") || is(t, "qwen3moe") || is(t, "olmoe");
    case QN_PART_GATE:
        return !gpt_like(t) && !t->experts;
    case QN_PART_UP:
    case QN_PART_DOWN:
        return !t->experts;
    case QN_PART_ROUTER:
    case QN_PART_EXPERT_GATE:
    case QN_PART_EXPERT_UP:
    case QN_PART_EXPERT_DOWN:
        return t->experts > 0;
    case QN_PART_SHARED_SCALE:
    case QN_PART_SHARED_GATE:
    case QN_PART_SHARED_UP:
    case QN_PART_SHARED_DOWN:
        return t->shared_dim > 0;
    default:
        return part < QN_PART_COUNT;
    }
}

void qn_test_tiny_shape(const struct qn_test_tiny *t, enum qn_test_part part, uint32_t *rows,
                        uint32_t *cols) {
    uint32_t dq = t->heads * t->head_dim, dk = t->kv_heads * t->head_dim, d = t->d_model;
    *cols = 0;
    switch (part) {
    case QN_PART_EMBED:
    case QN_PART_OUTPUT:
        *rows = t->vocab, *cols = d;
        break;
    case QN_PART_POS:
        *rows = t->context, *cols = d;
        break;
    case QN_PART_ROPE_FACTORS:
        *rows = t->head_dim / 2;
        break;
    case QN_PART_Q:
        *rows = dq, *cols = d;
        break;
    case QN_PART_K:
    case QN_PART_V:
        *rows = dk, *cols = d;
        break;
    case QN_PART_O:
        *rows = d, *cols = dq;
        break;
    case QN_PART_BQ:
        *rows = dq;
        break;
    case QN_PART_BK:
    case QN_PART_BV:
        *rows = dk;
        break;
    case QN_PART_Q_NORM:
        *rows = is(t, "olmoe") ? dq : t->head_dim;
        break;
    case QN_PART_K_NORM:
        *rows = is(t, "olmoe") ? dk : t->head_dim;
        break;
    case QN_PART_ROUTER:
        *rows = t->experts, *cols = d;
        break;
    case QN_PART_SHARED_GATE:
    case QN_PART_SHARED_UP:
        *rows = t->shared_dim, *cols = d;
        break;
    case QN_PART_SHARED_DOWN:
        *rows = d, *cols = t->shared_dim;
        break;
    case QN_PART_EXPERT_GATE:
    case QN_PART_EXPERT_UP:
        *rows = t->experts * t->ffn, *cols = d;
        break;
    case QN_PART_EXPERT_DOWN:
        *rows = t->experts * d, *cols = t->ffn;
        break;
    case QN_PART_GATE:
    case QN_PART_UP:
        *rows = t->ffn, *cols = d;
        break;
    case QN_PART_DOWN:
        *rows = d, *cols = t->ffn;
        break;
    case QN_PART_B_UP:
        *rows = t->ffn;
        break;
    default:
        *rows = d;
        break;
    }
}

static uint64_t mix(uint64_t *s) {
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static float uniform(uint64_t *s) { /* [-1, 1), 24 bits */
    return (float)(mix(s) >> 40) * 0x1p-23f - 1.0f;
}

/* A block of random quants with small scales: half floats at the places where each type keeps them. */
static void random_block(uint64_t *s, enum qn_type type, float scale, uint8_t *block, size_t bytes) {
    static const struct {
        size_t at[2];
        float div[2];
    } scales[QN_TYPE_COUNT] = {[QN_Q8_0] = {{0, 0}, {64, 64}},  [QN_Q4_0] = {{0, 0}, {4, 4}},
                               [QN_Q4_1] = {{0, 2}, {8, -1}},   [QN_Q5_0] = {{0, 0}, {8, 8}},
                               [QN_Q5_1] = {{0, 2}, {16, -1}},  [QN_Q4_K] = {{0, 2}, {500, 60}},
                               [QN_Q5_K] = {{0, 2}, {900, 60}}, [QN_Q6_K] = {{208, 208}, {1000, 1000}}};
    for (size_t i = 0; i < bytes; i++) block[i] = (uint8_t)mix(s);
    for (int i = 0; i < 2; i++) {
        uint16_t h = qn_f32_to_f16(scale / scales[type].div[i] * (1.0f + 0.25f * uniform(s)));
        memcpy(block + scales[type].at[i], &h, 2);
    }
}

enum qn_type qn_test_tiny_type(const struct qn_test_tiny *t, enum qn_test_part part) {
    return part == QN_PART_ROUTER ? QN_F32 : t->type;
}

static void matrix_row(enum qn_type type, uint64_t *s, uint32_t cols, struct qn_test_buf *out) {
    float scale = 1.7f / sqrtf((float)cols);
    uint8_t block[256];
    size_t bytes = qn_type_block_bytes(type);
    for (uint32_t i = 0; i < cols; i += qn_type_block(type)) {
        float f = uniform(s) * scale;
        uint16_t h;
        if (type == QN_F32) {
            memcpy(block, &f, 4);
        } else if (type == QN_F16 || type == QN_BF16) {
            h = type == QN_F16 ? qn_f32_to_f16(f) : qn_f32_to_bf16(f);
            memcpy(block, &h, 2);
        } else {
            random_block(s, type, scale, block, bytes);
        }
        qn_test_put(out, block, bytes);
    }
}

void qn_test_tiny_row(const struct qn_test_tiny *t, enum qn_test_part part, uint32_t layer, uint32_t row,
                      struct qn_test_buf *out) {
    uint64_t s = t->seed;
    s = mix(&s) ^ ((uint64_t)part << 48 | (uint64_t)layer << 32 | row);
    uint32_t rows, cols;
    qn_test_tiny_shape(t, part, &rows, &cols);
    if (cols) {
        matrix_row(qn_test_tiny_type(t, part), &s, cols, out);
        return;
    }
    bool gain = part == QN_PART_OUT_NORM || part == QN_PART_ATTN_NORM || part == QN_PART_FFN_NORM ||
                part == QN_PART_Q_NORM || part == QN_PART_K_NORM || part == QN_PART_ROPE_FACTORS;
    /* Sixty-fourths: exact in every type, and adding or taking 1 loses nothing. */
    for (uint32_t i = 0; i < rows; i++)
        qn_test_put_f32(out, floorf(uniform(&s) * 32) / 64 + (gain ? 1.0f : 0.0f));
}

/* ---- GGUF ---- */

static const char *const names[QN_PART_COUNT] = {
    [QN_PART_EMBED] = "token_embd.weight",
    [QN_PART_POS] = "position_embd.weight",
    [QN_PART_OUT_NORM] = "output_norm.weight",
    [QN_PART_OUT_NORM_B] = "output_norm.bias",
    [QN_PART_OUTPUT] = "output.weight",
    [QN_PART_ROPE_FACTORS] = "rope_freqs.weight",
    [QN_PART_ATTN_NORM] = "attn_norm.weight",
    [QN_PART_ATTN_NORM_B] = "attn_norm.bias",
    [QN_PART_Q] = "attn_q.weight",
    [QN_PART_K] = "attn_k.weight",
    [QN_PART_V] = "attn_v.weight",
    [QN_PART_O] = "attn_output.weight",
    [QN_PART_BQ] = "attn_q.bias",
    [QN_PART_BK] = "attn_k.bias",
    [QN_PART_BV] = "attn_v.bias",
    [QN_PART_BO] = "attn_output.bias",
    [QN_PART_Q_NORM] = "attn_q_norm.weight",
    [QN_PART_K_NORM] = "attn_k_norm.weight",
    [QN_PART_FFN_NORM] = "ffn_norm.weight",
    [QN_PART_FFN_NORM_B] = "ffn_norm.bias",
    [QN_PART_GATE] = "ffn_gate.weight",
    [QN_PART_UP] = "ffn_up.weight",
    [QN_PART_DOWN] = "ffn_down.weight",
    [QN_PART_B_UP] = "ffn_up.bias",
    [QN_PART_B_DOWN] = "ffn_down.bias",
    [QN_PART_ROUTER] = "ffn_gate_inp.weight",
    [QN_PART_SHARED_SCALE] = "ffn_gate_inp_shexp.weight",
    [QN_PART_SHARED_GATE] = "ffn_gate_shexp.weight",
    [QN_PART_SHARED_UP] = "ffn_up_shexp.weight",
    [QN_PART_SHARED_DOWN] = "ffn_down_shexp.weight",
    [QN_PART_EXPERT_GATE] = "ffn_gate",
    [QN_PART_EXPERT_UP] = "ffn_up",
    [QN_PART_EXPERT_DOWN] = "ffn_down",
};

static uint32_t ggml_number(enum qn_type t) {
    static const uint32_t numbers[QN_TYPE_COUNT] = {
        [QN_F32] = 0,  [QN_F16] = 1,  [QN_BF16] = 30, [QN_Q8_0] = 8,  [QN_Q4_0] = 2, [QN_Q4_1] = 3,
        [QN_Q5_0] = 6, [QN_Q5_1] = 7, [QN_Q4_K] = 12, [QN_Q5_K] = 13, [QN_Q6_K] = 14};
    return numbers[t];
}

/* All rows of a part. permute: as llama.cpp's converter does for llama's q and k: reshape(heads, 2, dh/2, …),
 * swap the two middle axes. */
static void part_bytes(const struct qn_test_tiny *t, enum qn_test_part part, uint32_t layer, bool permute,
                       struct qn_test_buf *out) {
    uint32_t rows, cols, dh = t->head_dim;
    qn_test_tiny_shape(t, part, &rows, &cols);
    struct qn_test_buf vector = {0};
    if (!cols) qn_test_tiny_row(t, part, layer, 0, &vector);
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t head = r / dh, j = r % dh / 2, side = r % 2;
        uint32_t from = permute ? head * dh + side * (dh / 2) + j : r;
        if (cols)
            qn_test_tiny_row(t, part, layer, from, out);
        else
            qn_test_put(out, vector.p + (size_t)from * 4, 4);
    }
    qn_test_buf_free(&vector);
}

static void put_part(struct qn_test_gguf *g, const struct qn_test_tiny *t, enum qn_test_part part,
                     uint32_t layer) {
    struct qn_test_buf data = {0};
    uint32_t rows, cols;
    char name[64];
    if (!qn_test_tiny_has(t, part)) return;
    qn_test_tiny_shape(t, part, &rows, &cols);
    bool qk = part == QN_PART_Q || part == QN_PART_K || part == QN_PART_BQ || part == QN_PART_BK;
    part_bytes(t, part, layer, qk && (is(t, "llama") || is(t, "mixtral")), &data);
    uint64_t dims[2] = {cols ? cols : rows, rows};
    if (part < QN_PART_ATTN_NORM)
        snprintf(name, sizeof name, "%s", names[part]);
    else
        snprintf(name, sizeof name, "blk.%u.%s", layer, names[part]);
    qn_test_gguf_tensor(g, name, cols ? ggml_number(qn_test_tiny_type(t, part)) : 0, dims, cols ? 2 : 1,
                        &data);
    qn_test_buf_free(&data);
}

void qn_test_tiny_expert(const struct qn_test_tiny *t, enum qn_test_part part, uint32_t layer,
                         uint32_t expert, struct qn_test_buf *out) {
    uint32_t rows, cols;
    qn_test_tiny_shape(t, part, &rows, &cols);
    rows /= t->experts;
    for (uint32_t r = 0; r < rows; r++) qn_test_tiny_row(t, part, layer, expert * rows + r, out);
}

/* One of gate, up and down of all experts. */
static void put_experts(struct qn_test_gguf *g, const struct qn_test_tiny *t, enum qn_test_part part,
                        uint32_t layer) {
    struct qn_test_buf data = {0};
    uint32_t rows, cols;
    char name[64];
    bool merged = t->layout == QN_TEST_EXPERTS_MERGED && part != QN_PART_EXPERT_DOWN;
    if (merged && part == QN_PART_EXPERT_UP) return; /* went with gate */
    qn_test_tiny_shape(t, part, &rows, &cols);
    uint64_t dims[3] = {cols, rows / t->experts * (merged ? 2 : 1), t->experts};
    for (uint32_t e = 0; e < t->experts; e++) {
        qn_test_tiny_expert(t, part, layer, e, &data);
        if (merged) qn_test_tiny_expert(t, QN_PART_EXPERT_UP, layer, e, &data);
        if (t->layout != QN_TEST_EXPERTS_SPLIT) continue;
        snprintf(name, sizeof name, "blk.%u.%s.%u.weight", layer, names[part], e);
        qn_test_gguf_tensor(g, name, ggml_number(t->type), dims, 2, &data);
        qn_test_buf_free(&data);
    }
    if (t->layout == QN_TEST_EXPERTS_SPLIT) return;
    snprintf(name, sizeof name, "blk.%u.%s_exps.weight", layer, merged ? "ffn_gate_up" : names[part]);
    qn_test_gguf_tensor(g, name, ggml_number(t->type), dims, 3, &data);
    qn_test_buf_free(&data);
}

static void put_fused(struct qn_test_gguf *g, const struct qn_test_tiny *t, uint32_t layer) {
    struct qn_test_buf w = {0}, b = {0};
    char name[64];
    for (int i = 0; i < 3; i++) {
        part_bytes(t, (enum qn_test_part)(QN_PART_Q + i), layer, false, &w);
        part_bytes(t, (enum qn_test_part)(QN_PART_BQ + i), layer, false, &b);
    }
    uint64_t rows = (t->heads + 2 * t->kv_heads) * t->head_dim, dims[2] = {t->d_model, rows};
    snprintf(name, sizeof name, "blk.%u.attn_qkv.weight", layer);
    qn_test_gguf_tensor(g, name, ggml_number(t->type), dims, 2, &w);
    snprintf(name, sizeof name, "blk.%u.attn_qkv.bias", layer);
    qn_test_gguf_tensor(g, name, 0, &rows, 1, &b);
    qn_test_buf_free(&w);
    qn_test_buf_free(&b);
}

static void put_u32(struct qn_test_gguf *g, const char *arch, const char *key, uint32_t v) {
    char full[96];
    snprintf(full, sizeof full, "%s.%s", arch, key);
    qn_test_gguf_u32(g, full, v);
}

static void put_keys(struct qn_test_gguf *g, const struct qn_test_tiny *t) {
    const char *arch = is(t, "gpt_bigcode") ? "starcoder" : is(t, "mixtral") ? "llama" : t->family;
    char key[96];
    qn_test_gguf_str(g, "general.architecture", arch);
    qn_test_gguf_str(g, "general.name", "tiny");
    put_u32(g, arch, "block_count", t->layers);
    put_u32(g, arch, "context_length", t->context);
    put_u32(g, arch, "embedding_length", t->d_model);
    put_u32(g, arch, "feed_forward_length", t->ffn);
    put_u32(g, arch, "attention.head_count", t->heads);
    put_u32(g, arch, "attention.head_count_kv", t->kv_heads);
    snprintf(key, sizeof key, "%s.attention.layer_norm_%sepsilon", arch, gpt_like(t) ? "" : "rms_");
    qn_test_gguf_f32(g, key, 1e-5f);
    if (gpt_like(t)) return;
    put_u32(g, arch, "attention.key_length", t->head_dim);
    put_u32(g, arch, "attention.value_length", t->head_dim);
    put_u32(g, arch, "rope.dimension_count", t->head_dim);
    if (t->experts) {
        put_u32(g, arch, "expert_count", t->experts);
        put_u32(g, arch, "expert_used_count", t->used);
        put_u32(g, arch, "expert_feed_forward_length", t->ffn);
    }
    if (t->shared_dim) put_u32(g, arch, "expert_shared_feed_forward_length", t->shared_dim);
    snprintf(key, sizeof key, "%s.rope.freq_base", arch);
    qn_test_gguf_f32(g, key, 50000.0f);
}

void qn_test_tiny_gguf_parts(const struct qn_test_tiny *t, struct qn_test_gguf *g) {
    put_keys(g, t);
    if (t->tokenizer) qn_test_tiny_vocab_gguf(t, g);
    for (int p = 0; p < QN_PART_ATTN_NORM; p++) put_part(g, t, (enum qn_test_part)p, 0);
    for (uint32_t l = 0; l < t->layers; l++) {
        if (gpt_like(t)) put_fused(g, t, l);
        for (int p = QN_PART_ATTN_NORM; p < QN_PART_COUNT; p++) {
            bool fused = p == QN_PART_Q || p == QN_PART_K || p == QN_PART_V || p == QN_PART_BQ ||
                         p == QN_PART_BK || p == QN_PART_BV;
            if (p >= QN_PART_EXPERT_GATE && t->experts)
                put_experts(g, t, (enum qn_test_part)p, l);
            else if (!gpt_like(t) || !fused)
                put_part(g, t, (enum qn_test_part)p, l);
        }
    }
}

void qn_test_tiny_gguf(const struct qn_test_tiny *t, struct qn_test_buf *out) {
    struct qn_test_gguf g = {0};
    qn_test_tiny_gguf_parts(t, &g);
    qn_test_gguf_finish(&g, out);
}

int qn_test_write_tiny_gguf(const char *path, const struct qn_test_tiny *t) {
    struct qn_test_buf b;
    qn_test_tiny_gguf(t, &b);
    int rc = qn_test_buf_save(&b, path);
    qn_test_buf_free(&b);
    return rc;
}
