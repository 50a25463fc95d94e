/* What loading a checkpoint gives: spec, weights in quern's own memory, and the tokenizer.
 *
 *   path -[mapfile]-> bytes -[gguf | safetensors + hf_config]-> tensor directory, metadata
 *        -[names: the family's table]-> spec + wanted tensors -[validate all, report all]->
 *        -[pack, in parallel]-> struct qn_checkpoint (the map is closed again)
 *
 * Layers refer to weight blocks (struct qn_attn_weights, struct qn_ffn_weights) and do not own them, so that
 * sharing and conversions are a matter of pointers. A member's block b is attn[member * spec.attn_blocks + b]
 * (ffn likewise). Blocks may refer to the same matrix or vector: all of them come from qn_checkpoint_matrix
 * and its like, which write each allocation down once, and once it is freed. Thread: one loader; immutable
 * afterwards. */
#ifndef QN_MODEL_LOAD_CHECKPOINT_H
#define QN_MODEL_LOAD_CHECKPOINT_H

#include "kernels/kernels.h"
#include "kernels/mem.h"
#include "model/err.h"
#include "model/model.h"
#include "model/spec.h"
#include "model/text/tokenizer.h"

/* A norm's parameters; b is NULL for RMSNorm. Gemma's 1+gamma is already added. */
struct qn_norm_weights {
    float *g, *b; /* [n] each */
};

/* Projections of one attention block. Rows of q and k are in rotate-half order (GGUF llama files are
 * un-permuted here). Biases are NULL when the family has none. */
struct qn_attn_weights {
    struct qn_norm_weights norm; /* before attention, [d_model] */
    struct qn_matrix q;          /* [heads*head_dim, d_model] */
    struct qn_matrix k, v;       /* [kv_heads*head_dim, d_model] */
    struct qn_matrix o;          /* [d_model, heads*head_dim] */
    float *bq, *bk, *bv, *bo;
    float *q_norm,
        *k_norm;      /* [head_dim] ([heads*head_dim], [kv_heads*head_dim] with qk_norm_whole), or NULL */
    bool k_norm_made; /* a conversion of the KV heads made it; else it is borrowed */
    /* linformer: E and F, column by column: [proj_heads][context][slots]; f == e when they share. NULL else.
     */
    float *e, *f;
    /* performer: the random directions, [proj_heads][head_dim][features]; NULL else. */
    float *features;
    uint32_t proj_heads; /* 1: one projection for all KV heads; or kv_heads; 0 when there is none */
};

/* The matrices of one feed-forward network without its norm: a dense FFN, or one expert. */
struct qn_ffn_matrices {
    struct qn_matrix gate; /* [dim, d_model]; data NULL for a plain MLP */
    struct qn_matrix up;   /* [dim, d_model] */
    struct qn_matrix down; /* [d_model, dim] */
};

struct qn_ffn_weights {
    struct qn_norm_weights norm;  /* before the FFN, [d_model] */
    struct qn_ffn_matrices dense; /* the FFN itself; of a mixture: the shared expert, or all data NULL */
    /* Of dense, or of every expert where a mixture has no dense; NULL when there are none. No family has
     * b_gate: a plain MLP that runs as a gated one has. */
    float *b_gate, *b_up, *b_down;
    /* mixture of experts; all zero else */
    struct qn_matrix router;         /* [experts, d_model]; F32, F16 or BF16, so that its product is exact */
    float *route_bias;               /* [experts], sigmoid gating; or NULL */
    float *shared_gate;              /* [d_model]; or NULL */
    struct qn_ffn_matrices *experts; /* [n_experts] */
    uint32_t n_experts;
};

struct qn_panels;

struct qn_checkpoint {
    struct qn_spec spec;
    char name[96];   /* general.name, or the file's stem */
    char format[16]; /* "gguf" or "safetensors" */
    /* e = qn_spec_table_width */
    struct qn_matrix embed;             /* [vocab, e] */
    struct qn_matrix embed_map;         /* [d_model, e], with spec.d_embed; data NULL else */
    struct qn_matrix output_map;        /* [e, d_model], from the last norm to a tied table; data NULL else */
    struct qn_matrix output;            /* [vocab, d_model]; data NULL when tied */
    float *pos_embed;                   /* [context, e] for learned positions, else NULL */
    float *rope_factors;                /* [rope_dim/2] from rope_freqs, else NULL */
    struct qn_matrix lags[QN_LAGS_MAX]; /* [vocab, e] each: spec.embed_lags of them, lag 1 first */
    struct qn_norm_weights out_norm;
    struct qn_attn_weights *attn;   /* [n_attn * attn_blocks] */
    struct qn_ffn_weights *ffn;     /* [n_ffn * ffn_blocks] */
    bool synthetic;                 /* random weights made from a description */
    struct qn_tokenizer *tokenizer; /* NULL when the checkpoint carries none (sequence must be token ids) */
    char *chat_text;                /* its chat template as it was published, or NULL; owned */
    uint64_t params;                /* parameters in the file */
    size_t bytes_by_type[QN_TYPE_COUNT]; /* file bytes of weight tensors */
    size_t file_bytes;
    size_t weights_bytes;         /* what quern's own memory holds for them */
    struct qn_held_out *held_out; /* [n_held_out] figures that the checkpoint itself carries */
    uint32_t n_held_out;
    struct qn_arena arena;                /* what blocks refer to, as far as it was expected */
    struct qn_mem_list owned;             /* every other allocation that blocks refer to */
    struct qn_panels *panels;             /* a mapping that matrices lie in, or NULL (panels.h) */
    char note[256];                       /* why nothing is mapped although it was asked for; or "" */
    double ms_map, ms_pack, ms_tokenizer; /* phases of the load */
};

/* phase: "map", "check", "repack", "tokenizer"; done in [0,1]. Called from the loading thread only. */
typedef void (*qn_progress_fn)(void *ctx, const char *phase, double done);

struct qn_load_options {
    struct qn_pool *pool;    /* for repacking; may be NULL */
    qn_progress_fn progress; /* may be NULL */
    void *progress_ctx;
    bool spec_only; /* inspect: validate all, pack nothing */
    /* Not for GGUF: sees the vocabulary before it becomes the tokenizer (converting); may be NULL. */
    int (*on_vocab)(void *ctx, const struct qn_vocab_desc *d, struct qn_err *err);
    void *vocab_ctx;
    bool mmap; /* keep packed matrices in a file beside the checkpoint, and map it */
};

/* Opens a GGUF file, a safetensors file or a directory with config.json, or makes what a path that begins
 * with "synthetic:" describes (model/synthetic.h). Every missing or mis-shaped tensor is listed in one
 * message. On failure *out is NULL. Free with qn_checkpoint_free (NULL and half-built are fine). */
int qn_checkpoint_load(const char *path, const struct qn_load_options *opt, struct qn_checkpoint **out,
                       struct qn_err *err);
void qn_checkpoint_free(struct qn_checkpoint *c);
/* The file that weights are mapped from was cut or overwritten: whatever was computed since is not to be
 * believed. It stays so. Any thread. */
bool qn_checkpoint_lost(const struct qn_checkpoint *c);

/* Frees all weights and forgets them, as they were before a load. */
void qn_checkpoint_drop_weights(struct qn_checkpoint *c);
/* Sets memory aside for about so many bytes of weights, so that they lie side by side. They become resident
 * when they are written; without memory for all at once, they are allocated one by one. */
void qn_checkpoint_expect(struct qn_checkpoint *c, size_t bytes);
/* Memory of the checkpoint's weights: zeroed, counted in weights_bytes, freed with the checkpoint. Several
 * blocks may refer to it. false or NULL when there is no memory or the size overflows. */
bool qn_checkpoint_matrix(struct qn_checkpoint *c, struct qn_matrix *m, enum qn_type t, size_t rows,
                          size_t cols);
float *qn_checkpoint_vector(struct qn_checkpoint *c, size_t n);
struct qn_ffn_matrices *qn_checkpoint_experts(struct qn_checkpoint *c, size_t n);

/* The first weight block of a member. */
static inline const struct qn_attn_weights *qn_checkpoint_attn(const struct qn_checkpoint *c,
                                                               uint32_t member) {
    return c->attn + (size_t)member * c->spec.attn_blocks;
}
static inline const struct qn_ffn_weights *qn_checkpoint_ffn(const struct qn_checkpoint *c, uint32_t member) {
    return c->ffn + (size_t)member * c->spec.ffn_blocks;
}

#endif
