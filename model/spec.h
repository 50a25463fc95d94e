/* The typed hyper-parameters of a checkpoint, range-checked by model/spec.c before anything is built from
 * them. A family (llama, qwen2, qwen3, gemma, gpt2, gpt_bigcode) is a row of names and flags in
 * model/load/names.c that fills this struct; the forward pass reads only this, never a family's name. */
#ifndef QN_MODEL_SPEC_H
#define QN_MODEL_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "model/err.h"

enum qn_norm_kind { QN_NORM_RMS = 0, QN_NORM_LAYER };
enum qn_pos_kind { QN_POS_ROPE = 0, QN_POS_LEARNED };
enum qn_rope_scaling { QN_ROPE_NONE = 0, QN_ROPE_LINEAR, QN_ROPE_LLAMA3 };

struct qn_spec {
    char family[24];   /* "llama", "qwen2", … : for people, not for code */
    uint32_t layers;   /* [1, 1024] */
    uint32_t d_model;  /* [8, 65536] */
    uint32_t heads;    /* query heads, [1, 1024] */
    uint32_t kv_heads; /* divides heads */
    uint32_t head_dim; /* multiple of 8, [8, 512]; not always d_model / heads */
    uint32_t ffn_dim;  /* [8, 1048576] */
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
    char ffn[16];       /* native FFN's registry name: "swiglu", "geglu", "gelu", "relu" … */
    enum qn_act_fn act; /* its activation: tells erf from tanh GELU */
    bool qk_norm;       /* RMSNorm per head on q and k before RoPE (qwen3) */
    bool tied;          /* output matrix is the embedding table */
    float embed_scale;  /* 1, or sqrt(d_model) for gemma */
};

/* Checks every range and cross-rule above. QN_OK, or QN_ERR_UNSUPPORTED naming the value. */
int qn_spec_check(const struct qn_spec *spec, struct qn_err *err);

/* Fills inv_freq[rope_dim / 2] with the scaled inverse frequencies (f64 arithmetic; freq_factors [rope_dim/2]
 * from the file's rope_freqs tensor divides them when not NULL). */
void qn_spec_rope_freqs(const struct qn_spec *spec, const float *freq_factors, float *inv_freq);

#endif
