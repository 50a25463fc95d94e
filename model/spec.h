/* The typed hyper-parameters of a checkpoint, range-checked by model/spec.c before anything is built from
 * them. A family (llama, qwen2, qwen3, gemma, gpt2, gpt_bigcode …) is a row of names and flags in
 * model/load/names.c that fills this struct; the forward pass reads only this, never a family's name.
 *
 * A checkpoint may hold weights for more than one structure: each attention, each FFN and each way of sharing
 * blocks between layers that it was trained with is a member; the first of each list is its default. Most
 * checkpoints have one of each. Weights come in blocks: attn_blocks of them for every attention member,
 * ffn_blocks for every FFN member; a sharing member tells which block serves which layer. */
#ifndef QN_MODEL_SPEC_H
#define QN_MODEL_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "model/err.h"

enum qn_norm_kind { QN_NORM_RMS = 0, QN_NORM_LAYER };
enum qn_pos_kind { QN_POS_ROPE = 0, QN_POS_LEARNED };
enum qn_rope_scaling { QN_ROPE_NONE = 0, QN_ROPE_LINEAR, QN_ROPE_LLAMA3 };

#define QN_LAYERS_MAX   1024
#define QN_HEADS_MAX    1024
#define QN_MEMBERS      8  /* of each kind in one checkpoint */
#define QN_LAGS_MAX     15 /* preceding tokens whose tables add to a position's embedding */
#define QN_BLOCKS_MAX   2048
#define QN_SLOTS_MAX    4096
#define QN_FEATURES_MAX 4096
#define QN_EXPERTS_MAX  1024
#define QN_FFN_DIM_MAX  1048576

/* An attention that the checkpoint was trained with. */
struct qn_attn_member {
    char type[16];     /* the registry's name: "mha", "linformer" … */
    uint32_t kv_heads; /* divides heads */
    bool no_rope;      /* q and k are not rotated, although the model has RoPE */
    uint32_t slots;    /* linformer: rows of E and F, [1, 4096]; else 0 */
    uint32_t features; /* performer: random features, [1, 4096]; else 0 */
    bool relu;         /* performer: ReLU features instead of positive exponential ones */
};

/* How a router turns logits into the weights of the chosen experts (Jiang et al. 2024, Fedus et al. 2021,
 * DeepSeek-V3; the order of top-k and softmax and the renormalisation differ). */
enum qn_gating {
    QN_GATING_NONE = 0,
    QN_GATING_TOPK_SOFTMAX,   /* A: softmax over the chosen logits */
    QN_GATING_SOFTMAX_RENORM, /* B: softmax over all, chosen ones divided by their sum; equals A */
    QN_GATING_SOFTMAX,        /* C: softmax over all, not renormalised */
    QN_GATING_SIGMOID         /* D: sigmoid; a bias takes part in the choice only */
};

/* "A" to "D" as above; QN_GATING_NONE for any other word. */
enum qn_gating qn_gating_find(const char *letter);

/* An FFN that the checkpoint was trained with. */
struct qn_ffn_member {
    char type[16];      /* the registry's name: "swiglu", "moe" … */
    enum qn_act_fn act; /* its activation (of its experts): tells erf from tanh GELU */
    uint32_t dim;       /* hidden width, of one expert with moe; [8, 1048576] */
    char expert[16];    /* moe: what one expert is, "swiglu" …; "" else */
    uint32_t experts;   /* moe: [1, 1024]; else 0 */
    uint32_t used;      /* moe: experts per token, [1, experts] */
    enum qn_gating gating;
    uint32_t shared_dim;         /* moe: hidden width of the shared expert, 0 = none */
    bool shared_gate;            /* moe: the shared expert's output is multiplied by sigmoid(x . g) */
    float route_scale;           /* moe, sigmoid gating: factor of the renormalised weights; 0 = 1 */
    uint32_t groups, top_groups; /* moe, sigmoid gating: group limit of DeepSeek-V3; 0 = none */
};

/* A way of sharing that the checkpoint was trained with: layer i runs with the attention block
 * attn_first + floor(i * attn_blocks / layers), and with its FFN block likewise. */
struct qn_share_member {
    char type[16]; /* the registry's name: "none", "all" … */
    uint32_t attn_first, attn_blocks;
    uint32_t ffn_first, ffn_blocks;
};

struct qn_spec {
    char family[24];   /* "llama", "qwen2", … : for people, not for code */
    uint32_t layers;   /* [1, QN_LAYERS_MAX] */
    uint32_t d_model;  /* [8, 65536] */
    uint32_t d_embed;  /* width of the embedding tables when a map leads from them to d_model, [8, d_model];
                          0: they are as wide as the model, and there is no map */
    uint32_t heads;    /* query heads, [1, QN_HEADS_MAX] */
    uint32_t head_dim; /* multiple of 8, [8, 512]; not always d_model / heads */
    uint32_t vocab;    /* [2, 2097152] */
    uint32_t context;  /* longest sequence, [1, 16777216] */
    uint32_t window;   /* sliding window in tokens, 0 = none */
    enum qn_norm_kind norm;
    float norm_eps;
    enum qn_pos_kind pos;
    uint32_t rope_dim; /* rotated part of a head, even, <= head_dim; 0 without RoPE */
    float rope_base;
    enum qn_rope_scaling rope_scaling;
    float rope_factor, rope_low_freq, rope_high_freq; /* llama3 and linear scaling */
    uint32_t rope_original_context;
    bool qk_norm;                    /* RMSNorm per head on q and k before RoPE (qwen3) */
    bool qk_norm_whole;              /* the RMSNorm runs over the whole q and k vectors instead (olmoe) */
    bool tied;                       /* output matrix is the embedding table */
    float embed_scale;               /* 1, or sqrt(d_model) for gemma */
    uint32_t embed_lags;             /* tables of preceding tokens added to the embedding, [0, QN_LAGS_MAX] */
    uint32_t n_attn, n_ffn, n_share; /* members, each [1, QN_MEMBERS] */
    struct qn_attn_member attn[QN_MEMBERS];
    struct qn_ffn_member ffn[QN_MEMBERS];
    struct qn_share_member share[QN_MEMBERS];
    uint32_t attn_blocks, ffn_blocks; /* weight blocks of every member, [1, 2048] */
};

/* Checks every range and cross-rule above. QN_OK, or QN_ERR_UNSUPPORTED naming the value. */
int qn_spec_check(const struct qn_spec *spec, struct qn_err *err);

/* Width of the tables that a token's embedding is read from. */
static inline uint32_t qn_spec_table_width(const struct qn_spec *spec) {
    return spec->d_embed ? spec->d_embed : spec->d_model;
}

/* "mha", "gqa" or "mqa": what softmax attention with so many KV heads is called. */
const char *qn_softmax_name(uint32_t heads, uint32_t kv_heads);

/* Fills inv_freq[rope_dim / 2] with the scaled inverse frequencies (f64 arithmetic; freq_factors [rope_dim/2]
 * from the file's rope_freqs tensor divides them when not NULL). */
void qn_spec_rope_freqs(const struct qn_spec *spec, const float *freq_factors, float *inv_freq);

#endif
