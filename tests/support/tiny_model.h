/* Tiny random models of every family, in GGUF and in Hugging Face form, from one set of weights.
 *
 * The weights are a function of (seed, part, layer, row) alone and are defined in the canonical layout: q and
 * k in rotate-half order, q k v apart, matrices [out, in], gemma's norms with their 1. The writers turn them
 * into what each format and family stores (permuted, fused, transposed, minus one), so that loading either
 * file must give the canonical weights back. Thread: any. */
#ifndef QN_TESTS_SUPPORT_TINY_MODEL_H
#define QN_TESTS_SUPPORT_TINY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "tests/support/write_gguf.h"

/* How the file holds the experts of a mixture. */
enum qn_test_experts {
    QN_TEST_EXPERTS_USUAL = 0, /* GGUF: stacked; safetensors: one by one */
    QN_TEST_EXPERTS_SPLIT,     /* GGUF: one by one, as before 2024 */
    QN_TEST_EXPERTS_MERGED     /* stacked, gate and up in one */
};

struct qn_test_tiny {
    const char *family; /* llama qwen2 qwen3 gemma gpt2 gpt_bigcode mixtral qwen2moe qwen3moe olmoe */
    uint32_t layers, d_model, heads, kv_heads, head_dim, ffn, vocab, context;
    uint32_t experts, used, shared_dim; /* mixtures; 0 else. ffn is the width of one expert */
    enum qn_test_experts layout;        /* of the experts in the file */
    enum qn_type type;                  /* of the matrices; vectors and routers are F32 */
    bool tied;                          /* no output matrix in the file */
    bool tokenizer;                     /* write a small vocabulary (264 tokens or fewer) */
    bool attn_bias;                     /* q, k, v biases where the family leaves them open (llama) */
    bool rope_factors;                  /* GGUF: a rope_freqs tensor */
    bool sharded;                       /* safetensors: two files and an index */
    bool no_prefix;                     /* safetensors: names without "model." / "transformer." */
    uint64_t seed;
};

/* Parts of a model. */
enum qn_test_part {
    QN_PART_EMBED = 0,
    QN_PART_POS,
    QN_PART_OUT_NORM,
    QN_PART_OUT_NORM_B,
    QN_PART_OUTPUT,
    QN_PART_ROPE_FACTORS,
    QN_PART_ATTN_NORM,
    QN_PART_ATTN_NORM_B,
    QN_PART_Q,
    QN_PART_K,
    QN_PART_V,
    QN_PART_O,
    QN_PART_BQ,
    QN_PART_BK,
    QN_PART_BV,
    QN_PART_BO,
    QN_PART_Q_NORM,
    QN_PART_K_NORM,
    QN_PART_FFN_NORM,
    QN_PART_FFN_NORM_B,
    QN_PART_GATE,
    QN_PART_UP,
    QN_PART_DOWN,
    QN_PART_B_UP,
    QN_PART_B_DOWN,
    QN_PART_ROUTER,
    QN_PART_SHARED_SCALE,
    QN_PART_SHARED_GATE,
    QN_PART_SHARED_UP,
    QN_PART_SHARED_DOWN,
    QN_PART_EXPERT_GATE, /* rows of all experts, one after the other */
    QN_PART_EXPERT_UP,
    QN_PART_EXPERT_DOWN,
    QN_PART_COUNT
};

/* 2 layers, d_model 64, 4 heads, vocab 272, context 64, F32, tied, with tokenizer; kv_heads and head_dim as
 * the family likes them; mixtures have 5 experts of which a token uses 2. */
struct qn_test_tiny qn_test_tiny_default(const char *family);
/* True when the family's models have this part. */
bool qn_test_tiny_has(const struct qn_test_tiny *t, enum qn_test_part part);
/* rows and cols of a part in the canonical layout; cols 0: a vector of `rows`. */
void qn_test_tiny_shape(const struct qn_test_tiny *t, enum qn_test_part part, uint32_t *rows, uint32_t *cols);
/* The type of a part's rows in the file. */
enum qn_type qn_test_tiny_type(const struct qn_test_tiny *t, enum qn_test_part part);
/* Appends canonical row `row` of a matrix in file form, or a whole vector as F32 (row 0). */
void qn_test_tiny_row(const struct qn_test_tiny *t, enum qn_test_part part, uint32_t layer, uint32_t row,
                      struct qn_test_buf *out);
/* Appends all rows of one expert's gate, up or down. */
void qn_test_tiny_expert(const struct qn_test_tiny *t, enum qn_test_part part, uint32_t layer,
                         uint32_t expert, struct qn_test_buf *out);

/* A GGUF file in memory, or at `path`; 0, or -1 with errno. */
void qn_test_tiny_gguf(const struct qn_test_tiny *t, struct qn_test_buf *out);
/* The same before it is joined, for tests that spoil parts. *g is zeroed by the caller. */
void qn_test_tiny_gguf_parts(const struct qn_test_tiny *t, struct qn_test_gguf *g);
int qn_test_write_tiny_gguf(const char *path, const struct qn_test_tiny *t);
/* One safetensors file in memory (not sharded), config.json, tokenizer.json. */
void qn_test_tiny_safetensors(const struct qn_test_tiny *t, struct qn_test_buf *out);
void qn_test_tiny_config(const struct qn_test_tiny *t, struct qn_test_buf *out);
void qn_test_tiny_tokenizer_json(const struct qn_test_tiny *t, struct qn_test_buf *out);
/* A checkpoint directory (created if missing) with config.json, tokenizer.json and weights. t->type must be
 * F32, F16 or BF16. 0, or -1 with errno. */
int qn_test_write_tiny_hf(const char *dir, const struct qn_test_tiny *t);

#endif
