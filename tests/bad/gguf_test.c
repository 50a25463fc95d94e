/* Malformed GGUF: a table of named kinds, each refused with a message that names the fault; truncations; bit
 * flips. Files lie in exactly sized heap blocks, so that the address sanitizer sees one byte too many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/load/open.h"
#include "tests/support/tiny_model.h"

struct kind {
    const char *name, *expect; /* a part of the message */
    void (*edit)(struct qn_test_gguf *g, const struct kind *k);
    const char *key; /* metadata key or tensor */
    uint64_t v;
    const char *s;
    const char *family; /* NULL: llama; "mixtral/split": its experts one by one */
};

static uint8_t *find(struct qn_test_buf *b, const char *text) {
    struct qn_test_buf needle = {0};
    qn_test_put_str(&needle, text); /* with its length: whole names only */
    uint8_t *p = memmem(b->p, b->n, needle.p, needle.n);
    if (!p) fail_msg("'%s' is not in the file", text);
    qn_test_buf_free(&needle);
    return p + 8;
}

/* ---- edits of metadata ---- */

static void drop(struct qn_test_gguf *g, const struct kind *k) {
    *find(&g->kv, k->key) = '#';
}

static void set_u32(struct qn_test_gguf *g, const struct kind *k) {
    drop(g, k);
    qn_test_gguf_u32(g, k->key, (uint32_t)k->v);
}

static void add_u32(struct qn_test_gguf *g, const struct kind *k) {
    qn_test_gguf_u32(g, k->key, (uint32_t)k->v);
}

static void set_i32(struct qn_test_gguf *g, const struct kind *k) {
    int32_t v = (int32_t)k->v;
    drop(g, k);
    qn_test_gguf_raw(g, k->key, 5, &v, 4);
}

static void set_u64(struct qn_test_gguf *g, const struct kind *k) {
    drop(g, k);
    qn_test_gguf_raw(g, k->key, 10, &k->v, 8);
}

/* The value's bits as given. */
static void set_f32(struct qn_test_gguf *g, const struct kind *k) {
    uint32_t bits = (uint32_t)k->v;
    drop(g, k);
    qn_test_gguf_raw(g, k->key, 6, &bits, 4);
}

static void set_str(struct qn_test_gguf *g, const struct kind *k) {
    drop(g, k);
    qn_test_gguf_str(g, k->key, k->s);
}

static void add_str(struct qn_test_gguf *g, const struct kind *k) {
    qn_test_gguf_str(g, k->key, k->s);
}

static void add_bool(struct qn_test_gguf *g, const struct kind *k) {
    uint8_t v = (uint8_t)k->v;
    qn_test_gguf_raw(g, k->key, 7, &v, 1);
}

/* A value of type v whose bytes are zeros. */
static void add_type(struct qn_test_gguf *g, const struct kind *k) {
    qn_test_gguf_raw(g, k->key, (uint32_t)k->v, "\0\0\0\0\0\0\0\0", 8);
}

/* An array: element type in the low half of v, its claimed length in the high half, 16 zero bytes follow. */
static void add_array(struct qn_test_gguf *g, const struct kind *k) {
    uint8_t bytes[28] = {0};
    uint32_t elem = (uint32_t)k->v;
    uint64_t n = k->v >> 32 == 0xffffffff ? 1ull << 61 : k->v >> 32;
    memcpy(bytes, &elem, 4);
    memcpy(bytes + 4, &n, 8);
    if (k->s) drop(g, k);
    qn_test_gguf_raw(g, k->key, 9, bytes, sizeof bytes);
}

/* An array of v/4-byte elements of zeros, well-formed: v = element type << 32 | count. */
static void set_array4(struct qn_test_gguf *g, const struct kind *k) {
    size_t n = (size_t)(k->v & 0xffffffff);
    void *zeros = calloc(n ? n : 1, 4);
    drop(g, k);
    qn_test_gguf_array4(g, k->key, (uint32_t)(k->v >> 32), zeros, n);
    free(zeros);
}

/* The CVE: scores declared u8[], read as f32[]. */
static void set_u8_array(struct qn_test_gguf *g, const struct kind *k) {
    drop(g, k);
    qn_test_gguf_raw(g, k->key, 9, NULL, 0);
    qn_test_put_u32(&g->kv, 0);
    qn_test_put_u64(&g->kv, k->v);
    for (uint64_t i = 0; i < k->v; i++) qn_test_put(&g->kv, "", 1);
}

static void set_strs(struct qn_test_gguf *g, const struct kind *k) {
    const char *one[] = {k->s};
    drop(g, k);
    qn_test_gguf_strs(g, k->key, one, (size_t)k->v);
}

/* Overwrites element v of an array of 4-byte values with the number in s. */
static void poke_array(struct qn_test_gguf *g, const struct kind *k) {
    uint8_t *p = find(&g->kv, k->key) + strlen(k->key) + 4 + 4 + 8;
    uint32_t bits = (uint32_t)strtoul(k->s, NULL, 0);
    memcpy(p + 4 * k->v, &bits, 4);
}

/* Overwrites a token's text by another of the same length. */
static void retext(struct qn_test_gguf *g, const struct kind *k) {
    memcpy(find(&g->kv, k->key), k->s, strlen(k->s));
}

/* A string whose length says v. */
static void long_string(struct qn_test_gguf *g, const struct kind *k) {
    qn_test_gguf_raw(g, k->key, 8, &k->v, 8);
}

/* ---- edits of tensor infos ---- */

static uint8_t *info(struct qn_test_gguf *g, const struct kind *k) {
    return find(&g->info, k->key) + strlen(k->key);
}

static void set_n_dims(struct qn_test_gguf *g, const struct kind *k) {
    uint32_t v = (uint32_t)k->v;
    memcpy(info(g, k), &v, 4);
}

static void set_dim0(struct qn_test_gguf *g, const struct kind *k) {
    memcpy(info(g, k) + 4, &k->v, 8);
}

static void set_dim1(struct qn_test_gguf *g, const struct kind *k) {
    memcpy(info(g, k) + 12, &k->v, 8);
}

static void set_dim2(struct qn_test_gguf *g, const struct kind *k) {
    memcpy(info(g, k) + 20, &k->v, 8);
}

static void set_dims(struct qn_test_gguf *g, const struct kind *k) {
    set_dim0(g, k);
    set_dim1(g, k);
}

static void set_dims_32_64(struct qn_test_gguf *g, const struct kind *k) {
    set_dim0(g, &(struct kind){.key = k->key, .v = 32});
    set_dim1(g, &(struct kind){.key = k->key, .v = 64});
}

static void set_tensor_type(struct qn_test_gguf *g, const struct kind *k) {
    uint32_t v = (uint32_t)k->v;
    uint32_t n_dims;
    uint8_t *p = info(g, k);
    memcpy(&n_dims, p, 4);
    memcpy(p + 4 + 8 * n_dims, &v, 4);
}

static void set_offset(struct qn_test_gguf *g, const struct kind *k) {
    uint32_t n_dims;
    uint8_t *p = info(g, k);
    memcpy(&n_dims, p, 4);
    memcpy(p + 8 + 8 * n_dims, &k->v, 8);
}

static void rename_tensor(struct qn_test_gguf *g, const struct kind *k) {
    memcpy(find(&g->info, k->key), k->s, strlen(k->s));
}

/* Renames every tensor of the layers: far more problems than a message holds. */
static void rename_blocks(struct qn_test_gguf *g, const struct kind *k) {
    (void)k;
    for (size_t i = 0; i + 4 < g->info.n; i++)
        if (memcmp(g->info.p + i, "blk.", 4) == 0) g->info.p[i] = 'B';
}

static void add_tensor(struct qn_test_gguf *g, const struct kind *k) {
    uint64_t dim = k->v;
    struct qn_test_buf data = {0};
    for (uint64_t i = 0; i < dim; i++) qn_test_put_f32(&data, 0);
    qn_test_gguf_tensor(g, k->key, 0, &dim, 1, &data);
    qn_test_buf_free(&data);
}

static void add_long_name(struct qn_test_gguf *g, const struct kind *k) {
    char name[400];
    memset(name, 'n', sizeof name);
    name[k->v] = 0;
    add_tensor(g, &(struct kind){.key = name, .v = 4});
}

static void poison_factor(struct qn_test_gguf *g, const struct kind *k) {
    uint32_t bits = (uint32_t)k->v;
    uint64_t dim = 8;
    struct qn_test_buf data = {0};
    for (int i = 0; i < 7; i++) qn_test_put_f32(&data, 1);
    qn_test_put_u32(&data, bits);
    qn_test_gguf_tensor(g, "rope_freqs.weight", 0, &dim, 1, &data);
    qn_test_buf_free(&data);
}

static void alignment_64k(struct qn_test_gguf *g, const struct kind *k) {
    uint32_t v = (uint32_t)k->v;
    qn_test_gguf_raw(g, "general.alignment", 4, &v, 4);
}

static void none(struct qn_test_gguf *g, const struct kind *k) {
    (void)g;
    (void)k;
}

#define T        "tokenizer.ggml."
#define NAN_BITS 0x7fc00000
#define INF_BITS 0x7f800000

static const struct kind kinds[] = {
    /* architecture and hyper-parameters */
    {"no architecture", "'general.architecture' is missing", drop, "general.architecture", 0, 0, 0},
    {"architecture is a number", "of type u32, expected a string", set_u32, "general.architecture", 1, 0, 0},
    {"unknown architecture", "'mamba' is not supported", set_str, "general.architecture", 0, "mamba", 0},
    {"empty architecture", "'' is not supported", set_str, "general.architecture", 0, "", 0},
    {"no block_count", "'llama.block_count' is missing", drop, "llama.block_count", 0, 0, 0},
    {"block_count 0", "layers is 0", set_u32, "llama.block_count", 0, 0, 0},
    {"block_count 1025", "layers is 1025", set_u32, "llama.block_count", 1025, 0, 0},
    {"block_count 2^32-1", "layers is 4294967295", set_u32, "llama.block_count", 0xffffffff, 0, 0},
    {"block_count 2^40", "out of range", set_u64, "llama.block_count", 1ull << 40, 0, 0},
    {"block_count negative", "expected an integer >= 0", set_i32, "llama.block_count", 0xffffffff, 0, 0},
    {"block_count a float", "of type f32, expected an integer", set_f32, "llama.block_count", 0x40000000, 0,
     0},
    {"block_count a string", "of type string, expected an integer", set_str, "llama.block_count", 0, "2", 0},
    {"block_count 3 with 2 stored", "'blk.2.attn_norm.weight' is missing", set_u32, "llama.block_count", 3, 0,
     0},
    {"block_count 1 with 2 stored", "'blk.1.attn_norm.weight' is not part", set_u32, "llama.block_count", 1,
     0, 0},
    {"no embedding_length", "'llama.embedding_length' is missing", drop, "llama.embedding_length", 0, 0, 0},
    {"embedding_length 0", "d_model is 0", set_u32, "llama.embedding_length", 0, 0, 0},
    {"embedding_length 2^31", "d_model is 2147483648", set_u32, "llama.embedding_length", 1u << 31, 0, 0},
    {"embedding_length off by 8", "expected [272, 72]", set_u32, "llama.embedding_length", 72, 0, 0},
    {"no feed_forward_length", "'llama.feed_forward_length' is missing", drop, "llama.feed_forward_length", 0,
     0, 0},
    {"feed_forward_length 0", "ffn_dim is 0", set_u32, "llama.feed_forward_length", 0, 0, 0},
    {"feed_forward_length differs by layer", "differs between layers", poke_array,
     "llama.feed_forward_length", 1, "99", "array"},
    {"no context_length", "'llama.context_length' is missing", drop, "llama.context_length", 0, 0, 0},
    {"context_length 0", "context is 0", set_u32, "llama.context_length", 0, 0, 0},
    {"context_length 2^31", "context is 2147483648", set_u32, "llama.context_length", 1u << 31, 0, 0},
    {"head_count 0 (divide by zero)", "heads is 0", set_u32, "llama.attention.head_count", 0, 0, 0},
    {"head_count 2000", "heads is 2000", set_u32, "llama.attention.head_count", 2000, 0, 0},
    {"head_count_kv 0 (divide by zero)", "kv_heads is 0", set_u32, "llama.attention.head_count_kv", 0, 0, 0},
    {"head_count_kv does not divide", "does not divide", set_u32, "llama.attention.head_count_kv", 3, 0, 0},
    {"head_count_kv above heads", "does not divide", set_u32, "llama.attention.head_count_kv", 8, 0, 0},
    {"key_length 0", "different width", set_u32, "llama.attention.key_length", 0, 0, 0},
    {"key_length 2^20", "different width", set_u32, "llama.attention.key_length", 1 << 20, 0, 0},
    {"value_length differs", "different width", set_u32, "llama.attention.value_length", 8, 0, 0},
    {"rope dimension_count odd", "rope_dim is not even", set_u32, "llama.rope.dimension_count", 7, 0, 0},
    {"rope dimension_count 0", "rope_dim is not even", set_u32, "llama.rope.dimension_count", 0, 0, 0},
    {"rope dimension_count beyond the head", "rope_dim is not even", set_u32, "llama.rope.dimension_count",
     32, 0, 0},
    {"rope freq_base 0", "rope_base is not above 1", set_f32, "llama.rope.freq_base", 0, 0, 0},
    {"rope freq_base NaN", "not a finite number", set_f32, "llama.rope.freq_base", NAN_BITS, 0, 0},
    {"rope freq_base an integer", "expected a number", set_u32, "llama.rope.freq_base", 10000, 0, 0},
    {"rope scaling yarn", "RoPE scaling 'yarn' is not supported", add_str, "llama.rope.scaling.type", 0,
     "yarn", 0},
    {"rope scaling linear without factor", "'llama.rope.scaling.factor' is missing", add_str,
     "llama.rope.scaling.type", 0, "linear", 0},
    {"rope factor 0", "is not above 0", poison_factor, 0, 0, 0, 0},
    {"rope factor NaN", "is not above 0", poison_factor, 0, NAN_BITS, 0, 0},
    {"epsilon missing", "layer_norm_rms_epsilon' is missing", drop, "llama.attention.layer_norm_rms_epsilon",
     0, 0, 0},
    {"epsilon 0", "norm_eps is not between", set_f32, "llama.attention.layer_norm_rms_epsilon", 0, 0, 0},
    {"epsilon infinite", "not a finite number", set_f32, "llama.attention.layer_norm_rms_epsilon", INF_BITS,
     0, 0},
    {"vocab_size differs", "but 'token_embd.weight' has 272 rows", add_u32, "llama.vocab_size", 300, 0, 0},
    /* mixtures of experts */
    {"experts announced, none there", "'llama.expert_used_count' is missing", add_u32, "llama.expert_count",
     8, 0, 0},
    {"expert_count 0", "'blk.0.ffn_gate.weight' is missing", set_u32, "llama.expert_count", 0, 0, "mixtral"},
    {"expert_count dropped", "'qwen2moe' is not supported without experts", drop, "qwen2moe.expert_count", 0,
     0, "qwen2moe"},
    {"expert_count on a dense architecture", "'qwen2' is not supported with experts", add_u32,
     "qwen2.expert_count", 4, 0, "qwen2"},
    {"expert_count 1025", "experts is 1025", set_u32, "llama.expert_count", 1025, 0, "mixtral"},
    {"expert_count 2^32-1", "experts is 4294967295", set_u32, "llama.expert_count", 0xffffffff, 0, "mixtral"},
    {"expert_count 2^40", "out of range", set_u64, "llama.expert_count", 1ull << 40, 0, "mixtral"},
    {"expert_count negative", "expected an integer >= 0", set_i32, "llama.expert_count", 0xffffffff, 0,
     "mixtral"},
    {"expert_count a string", "expected an integer", set_str, "llama.expert_count", 0, "5", "mixtral"},
    {"expert_count off by one", "expected [6, 32, 64]", set_u32, "llama.expert_count", 6, 0, "mixtral"},
    {"one expert too many, one by one", "'blk.0.ffn_gate.5.weight' is missing", set_u32, "llama.expert_count",
     6, 0, "mixtral/split"},
    {"one expert too few, one by one", "'blk.0.ffn_down.4.weight' is not part", set_u32, "llama.expert_count",
     4, 0, "mixtral/split"},
    {"a thousand experts that are not there", "and ", set_u32, "llama.expert_count", 1024, 0,
     "mixtral/split"},
    {"no expert_used_count", "'llama.expert_used_count' is missing", drop, "llama.expert_used_count", 0, 0,
     "mixtral"},
    {"expert_used_count 0", "experts_per_token is 0, outside 1 to 5", set_u32, "llama.expert_used_count", 0,
     0, "mixtral"},
    {"expert_used_count 0 (divide by zero)", "experts_per_token is 0", set_u32, "qwen2moe.expert_used_count",
     0, 0, "qwen2moe"},
    {"expert_used_count above expert_count", "experts_per_token is 6, outside 1 to 5", set_u32,
     "llama.expert_used_count", 6, 0, "mixtral"},
    {"expert width 0", "ffn_dim is 0", set_u32, "llama.expert_feed_forward_length", 0, 0, "mixtral"},
    {"expert width 2^31", "ffn_dim is 2147483648", set_u32, "llama.expert_feed_forward_length", 1u << 31, 0,
     "mixtral"},
    {"expert width off by 8", "expected [5, 40, 64]", set_u32, "llama.expert_feed_forward_length", 40, 0,
     "mixtral"},
    {"shared width 0", "shared_dim is 0, below 8", set_u32, "qwen2moe.expert_shared_feed_forward_length", 0,
     0, "qwen2moe"},
    {"shared width 2^31", "shared_dim is 2147483648", set_u32, "qwen2moe.expert_shared_feed_forward_length",
     1u << 31, 0, "qwen2moe"},
    {"sigmoid routing", "only softmax routing is supported", add_u32, "olmoe.expert_gating_func", 2, 0,
     "olmoe"},
    {"weights_norm a number", "expected a bool", add_u32, "olmoe.expert_weights_norm", 1, 0, "olmoe"},
    {"weights_scale an integer", "expected a number", add_u32, "olmoe.expert_weights_scale", 2, 0, "olmoe"},
    {"missing stack of experts", "'blk.1.ffn_up_exps.weight' is missing", rename_tensor,
     "blk.1.ffn_up_exps.weight", 0, "blk.1.ffn_uq", "mixtral"},
    {"missing expert", "'blk.1.ffn_up.3.weight' is missing", rename_tensor, "blk.1.ffn_up.3.weight", 0,
     "blk.1.ffn_uq", "mixtral/split"},
    {"missing merged stack", "'blk.1.ffn_gate_up_exps.weight' is missing", rename_tensor,
     "blk.1.ffn_gate_up_exps.weight", 0, "blk.1.ffn_gate_uq", "mixtral/merged"},
    {"merged stack of odd height", "is [5, 63, 64], expected [5, 64, 64]", set_dim1,
     "blk.1.ffn_gate_up_exps.weight", 63, 0, "mixtral/merged"},
    {"missing router", "'blk.0.ffn_gate_inp.weight' is missing", rename_tensor, "blk.0.ffn_gate_inp.weight",
     0, "blk.0.ffn_gate_inq", "mixtral"},
    {"missing shared expert", "'blk.0.ffn_up_shexp.weight' is missing", rename_tensor,
     "blk.0.ffn_up_shexp.weight", 0, "blk.0.ffn_uq", "qwen2moe"},
    {"missing shared gate", "'blk.0.ffn_gate_inp_shexp.weight' is missing", rename_tensor,
     "blk.0.ffn_gate_inp_shexp.weight", 0, "blk.0.ffn_gate_inq", "qwen2moe"},
    {"a dense matrix beside experts", "'blk.0.ffn_gate.weight' is not part", add_tensor,
     "blk.0.ffn_gate.weight", 64, 0, "mixtral"},
    {"a router's bias", "'blk.0.exp_probs_b.bias' is not part", add_tensor, "blk.0.exp_probs_b.bias", 5, 0,
     "qwen3moe"},
    {"stack with an expert less", "is [4, 64, 32], expected [5, 64, 32]", set_dim2,
     "blk.1.ffn_down_exps.weight", 4, 0, "mixtral"},
    {"stack with rows and columns swapped", "is [5, 64, 32], expected [5, 32, 64]", set_dims_32_64,
     "blk.1.ffn_gate_exps.weight", 0, 0, "mixtral"},
    {"stack of 2^62 experts", "its size overflows", set_dim2, "blk.1.ffn_gate_exps.weight", 1ull << 62, 0,
     "mixtral"},
    {"stack beyond the file", "beyond the end of the file", set_dim2, "blk.1.ffn_down_exps.weight", 1 << 20,
     0, "mixtral"},
    {"stack of type I8", "has type I8, which is not supported", set_tensor_type, "blk.0.ffn_gate_exps.weight",
     24, 0, "mixtral"},
    {"router of type Q8_0", "has type Q8_0, but must be F32, F16 or BF16", set_tensor_type,
     "blk.0.ffn_gate_inp.weight", 8, 0, "mixtral"},
    {"q_norm over one head", "is [24], expected [64]", set_dim0, "blk.0.attn_q_norm.weight", 24, 0, "olmoe"},
    /* metadata encoding */
    {"duplicate key", "'llama.block_count' occurs twice", add_u32, "llama.block_count", 2, 0, 0},
    {"empty key", "metadata key is empty", add_u32, "", 1, 0, 0},
    {"unknown value type 13", "unknown value type 13", add_type, "x", 13, 0, 0},
    {"unknown value type 2^32-1", "unknown value type 4294967295", add_type, "x", 0xffffffff, 0, 0},
    {"bool 2", "neither 0 nor 1", add_bool, "x", 2, 0, 0},
    {"array of arrays", "arrays of arrays", add_array, "x", 9 | 1ull << 32, 0, 0},
    {"array of unknown type", "unknown value type 77", add_array, "x", 77 | 1ull << 32, 0, 0},
    {"array of 2^61 u64 (product wraps)", "more than the rest of the file", add_array, "x",
     10 | 0xffffffffull << 32, 0, 0},
    {"array of 2^61 strings", "more than the rest of the file", add_array, "x", 8 | 0xffffffffull << 32, 0,
     0},
    {"array of 2^61 u8", "more than the rest of the file", add_array, "x", 0 | 0xffffffffull << 32, 0, 0},
    {"string of 2^64-1 bytes", "the file ends inside", long_string, "x", UINT64_MAX, 0, 0},
    {"string of 2^63 bytes", "the file ends inside", long_string, "x", 1ull << 63, 0, 0},
    {"string of 1 GiB", "the file ends inside", long_string, "x", 1u << 30, 0, 0},
    /* alignment */
    {"alignment 0", "not a power of two", alignment_64k, 0, 0, 0, 0},
    {"alignment 3", "not a power of two", alignment_64k, 0, 3, 0, 0},
    {"alignment 0x80000000", "not a power of two of at most", alignment_64k, 0, 0x80000000, 0, 0},
    {"alignment 128 KiB", "not a power of two of at most", alignment_64k, 0, 131072, 0, 0},
    {"alignment a string", "general.alignment must be a u32", add_str, "general.alignment", 0, "32", 0},
    {"alignment an array", "general.alignment must be a u32", add_array, "general.alignment", 4 | 4ull << 32,
     0, 0},
    {"offsets not on the alignment", "not a multiple of the alignment", alignment_64k, 0, 65536, 0, 0},
    /* tensor infos */
    {"no dimensions", "has 0 dimensions", set_n_dims, "blk.0.attn_q.weight", 0, 0, 0},
    {"5 dimensions", "has 5 dimensions", set_n_dims, "blk.0.attn_q.weight", 5, 0, 0},
    {"2^32-1 dimensions", "has 4294967295 dimensions", set_n_dims, "blk.0.attn_q.weight", 0xffffffff, 0, 0},
    {"a dimension of 0", "a dimension of 0", set_dim0, "blk.0.attn_q.weight", 0, 0, 0},
    {"second dimension 0", "a dimension of 0", set_dim1, "blk.0.attn_q.weight", 0, 0, 0},
    {"dims 2^32 x 2^32 (product wraps to 0)", "its size overflows", set_dims, "blk.0.attn_q.weight",
     1ull << 32, 0, 0},
    {"dims 2^63", "its size overflows", set_dim0, "blk.0.attn_q.weight", 1ull << 63, 0, 0},
    {"dims 2^62 (bytes wrap)", "its size overflows", set_dim0, "blk.0.attn_norm.weight", 1ull << 62, 0, 0},
    {"dims beyond the file", "beyond the end of the file", set_dim1, "blk.0.attn_q.weight", 1 << 20, 0, 0},
    {"last tensor a row longer", "beyond the end of the file", set_dim1, "blk.1.ffn_down.weight", 65, 0, 0},
    {"rows too few", "is [32, 64], expected [64, 64]", set_dim1, "blk.0.attn_q.weight", 32, 0, 0},
    {"vector too short", "is [32], expected [64]", set_dim0, "output_norm.weight", 32, 0, 0},
    {"tensor type 4 (removed)", "unknown type 4", set_tensor_type, "blk.0.attn_q.weight", 4, 0, 0},
    {"tensor type 2^31", "unknown type 2147483648", set_tensor_type, "blk.0.attn_q.weight", 1u << 31, 0, 0},
    {"tensor type I8", "has type I8, which is not supported", set_tensor_type, "blk.0.attn_q.weight", 24, 0,
     0},
    {"tensor type IQ4_NL", "has type IQ4_NL, which is not supported", set_tensor_type, "blk.0.attn_q.weight",
     20, 0, 0},
    {"tensor type Q2_K, rows of 64", "not whole blocks of Q2_K", set_tensor_type, "blk.0.attn_q.weight", 10,
     0, 0},
    {"tensor type Q4_K, rows of 64", "not whole blocks of Q4_K", set_tensor_type, "blk.0.attn_q.weight", 12,
     0, 0},
    {"a norm of type Q8_0", "must be F32, F16 or BF16", set_tensor_type, "output_norm.weight", 8, 0, 0},
    {"a norm of type F64", "beyond the end of the file|overlap", set_tensor_type, "output_norm.weight", 28, 0,
     0},
    {"offset beyond the file", "beyond the end of the file", set_offset, "blk.0.attn_q.weight", 1 << 30, 0,
     0},
    {"offset 2^64-32 (sum wraps)", "beyond the end of the file", set_offset, "blk.0.attn_q.weight",
     UINT64_MAX - 31, 0, 0},
    {"offset 2^63", "beyond the end of the file", set_offset, "blk.0.attn_q.weight", 1ull << 63, 0, 0},
    {"offset odd", "not a multiple of the alignment", set_offset, "blk.0.attn_q.weight", 33, 0, 0},
    {"overlap with the first tensor", "overlap", set_offset, "blk.0.attn_q.weight", 0, 0, 0},
    {"duplicate tensor", "occurs twice", rename_tensor, "blk.0.attn_k.weight", 0, "blk.0.attn_v.weight", 0},
    {"empty tensor name", "a tensor's name is empty", add_tensor, "", 4, 0, 0},
    {"tensor name of 256 bytes", "at most 255", add_long_name, 0, 256, 0, 0},
    {"missing tensor", "'blk.1.ffn_up.weight' is missing", rename_tensor, "blk.1.ffn_up.weight", 0,
     "blk.1.ffn_uq", 0},
    {"missing embedding", "'token_embd.weight' is missing", rename_tensor, "token_embd.weight", 0,
     "tokem_embd", 0},
    {"36 problems in one message", "36 tensors of this llama checkpoint", rename_blocks, 0, 0, 0, 0},
    {"layer number in a name", "is not part of such a model", add_tensor,
     "blk.99999999999999999999.attn_q.weight", 4, 0, 0},
    {"negative layer number", "is not part of such a model", add_tensor, "blk.-1.attn_q.weight", 4, 0, 0},
    {"name with control bytes", "'??[31mred' is not part", add_tensor, "\x1b\n[31mred", 4, 0, 0},
    {"missing fused tensor", "'blk.0.attn_qkv.weight' is missing", rename_tensor, "blk.0.attn_qkv.weight", 0,
     "blk.0.attn_qkw", "gpt2"},
    {"missing bias", "'blk.1.attn_output.bias' is missing", rename_tensor, "blk.1.attn_output.bias", 0,
     "blk.1.attn_x", "gpt_bigcode"},
    {"missing qwen2 bias", "'blk.0.attn_v.bias' is missing", rename_tensor, "blk.0.attn_v.bias", 0,
     "blk.0.attn_w", "qwen2"},
    {"missing q_norm", "'blk.0.attn_q_norm.weight' is missing", rename_tensor, "blk.0.attn_q_norm.weight", 0,
     "blk.0.attn_p", "qwen3"},
    {"missing positions", "'position_embd.weight' is missing", rename_tensor, "position_embd.weight", 0,
     "Position", "gpt2"},
    /* vocabulary */
    {"tokenizer model unknown", "tokenizer model 'unigram' is not supported", set_str, T "model", 0,
     "unigram", 0},
    {"tokenizer model a number", "expected a string", set_u32, T "model", 1, 0, 0},
    {"pre-tokenizer unknown", "pre-tokenizer 'nonsense' is not supported", set_str, T "pre", 0, "nonsense",
     "gpt2"},
    {"no tokens", "'tokenizer.ggml.tokens' is missing", drop, T "tokens", 0, 0, 0},
    {"tokens empty", "is empty", set_strs, T "tokens", 0, "", 0},
    {"tokens are integers", "array of i32, expected an array of strings", set_array4, T "tokens",
     5ull << 32 | 267, 0, 0},
    {"tokens a single string", "of type string, expected an array of strings", set_str, T "tokens", 0, "a",
     0},
    {"more tokens than rows", "the embedding table 200 rows", set_dim1, "token_embd.weight", 200, 0, 0},
    {"scores declared u8", "array of u8, expected an array of f32", set_u8_array, T "scores", 272, 0, 0},
    {"scores missing", "'tokenizer.ggml.scores' is missing", drop, T "scores", 0, 0, 0},
    {"scores too short", "another length than the tokens", set_array4, T "scores", 6ull << 32 | 10, 0, 0},
    {"scores too long", "another length than the tokens", set_array4, T "scores", 6ull << 32 | 4000, 0, 0},
    {"a score is NaN", "not finite", poke_array, T "scores", 7, "0x7fc00000", 0},
    {"token types u32", "array of u32, expected an array of i32", set_array4, T "token_type",
     4ull << 32 | 272, 0, 0},
    {"token types too short", "another length than the tokens", set_array4, T "token_type", 5ull << 32 | 1, 0,
     0},
    {"token type 0", "holds an unknown type", poke_array, T "token_type", 0, "0", 0},
    {"token type 99", "holds an unknown type", poke_array, T "token_type", 5, "99", 0},
    {"token type negative", "holds an unknown type", poke_array, T "token_type", 5, "0xffffffff", 0},
    {"byte token <0x-1>", "is a byte, but not <0xNN>", retext, "<0x00>", 0, "<0x-1>", 0},
    {"byte token <0x 1>", "is a byte, but not <0xNN>", retext, "<0x00>", 0, "<0x 1>", 0},
    {"byte token <0x+1>", "is a byte, but not <0xNN>", retext, "<0x00>", 0, "<0x+1>", 0},
    {"byte token <0xGG>", "is a byte, but not <0xNN>", retext, "<0xFF>", 0, "<0xGG>", 0},
    {"merges missing", "'tokenizer.ggml.merges' is missing", drop, T "merges", 0, 0, "gpt2"},
    {"merges are integers", "expected an array of strings", set_array4, T "merges", 5ull << 32 | 4, 0,
     "gpt2"},
    {"merge without a blank", "merge 0", set_strs, T "merges", 1, "he", "gpt2"},
    {"merge of unknown tokens", "merge 0", set_strs, T "merges", 1, "zz qq", "gpt2"},
    {"bos outside the vocabulary", "outside the vocabulary", set_u32, T "bos_token_id", 272, 0, 0},
    {"eos outside the vocabulary", "outside the vocabulary", set_u32, T "eos_token_id", 1u << 31, 0, 0},
    {"eos negative", "expected an integer >= 0", set_i32, T "eos_token_id", 0xfffffffe, 0, 0},
    {"eot outside the vocabulary", "outside the vocabulary", add_u32, T "eot_token_id", 9999, 0, 0},
    {"add_bos_token a number", "of type u32, expected a bool", set_u32, T "add_bos_token", 1, 0, 0},
};

/* Opens an exactly sized copy; returns the loader's code. */
static int open_copy(const uint8_t *p, size_t n, bool pack, struct qn_err *err) {
    struct qn_load_options opt = {.spec_only = !pack};
    struct qn_checkpoint *c = calloc(1, sizeof *c);
    uint8_t *copy = malloc(n ? n : 1);
    assert_true(c && copy);
    if (n) memcpy(copy, p, n);
    int rc = qn_open_gguf(copy, n, &opt, c, err);
    qn_checkpoint_free(c);
    free(copy);
    return rc;
}

/* expect may hold two messages, parted by '|'. */
static bool says(const char *msg, const char *expect) {
    char first[128];
    const char *bar = strchr(expect, '|');
    if (!bar) return strstr(msg, expect) != NULL;
    snprintf(first, sizeof first, "%.*s", (int)(bar - expect), expect);
    return strstr(msg, first) || strstr(msg, bar + 1);
}

/* "family" or "family/layout" of its experts. */
static struct qn_test_tiny tiny_of(const char *text) {
    static char family[32];
    const char *slash = strchr(text, '/');
    snprintf(family, sizeof family, "%.*s", (int)(slash ? slash - text : 31), text);
    struct qn_test_tiny t = qn_test_tiny_default(family);
    if (slash) t.layout = strcmp(slash, "/split") == 0 ? QN_TEST_EXPERTS_SPLIT : QN_TEST_EXPERTS_MERGED;
    return t;
}

/* True when the kind is refused as the table says; prints what happened otherwise. */
static bool check_kind(const struct kind *k) {
    bool array = k->family && strcmp(k->family, "array") == 0;
    struct qn_test_tiny t = tiny_of(k->family && !array ? k->family : "llama");
    struct qn_test_gguf g = {0};
    struct qn_test_buf file;
    struct qn_err err = {0};
    qn_test_tiny_gguf_parts(&t, &g);
    if (array) set_array4(&g, &(struct kind){.key = k->key, .v = 4ull << 32 | 2});
    k->edit(&g, k);
    qn_test_gguf_finish(&g, &file);
    int rc = open_copy(file.p, file.n, true, &err);
    qn_test_buf_free(&file);
    bool code_ok = rc == err.code && (rc == QN_ERR_FORMAT || rc == QN_ERR_UNSUPPORTED);
    if (code_ok && says(err.msg, k->expect)) return true;
    print_message("%s: code %d, message '%s', expected '%s'\n", k->name, rc, err.msg, k->expect);
    return false;
}

static void every_kind_is_refused(void **state) {
    size_t n = sizeof kinds / sizeof *kinds, wrong = 0;
    (void)state;
    for (size_t i = 0; i < n; i++) wrong += !check_kind(&kinds[i]);
    print_message("%zu kinds of malformed GGUF\n", n);
    assert_int_equal(wrong, 0);
}

static void the_unspoiled_file_loads(void **state) {
    static const char *const families[] = {"llama",    "qwen2",          "qwen3",   "gemma",
                                           "gpt2",     "gpt_bigcode",    "mixtral", "mixtral/split",
                                           "qwen2moe", "mixtral/merged", "olmoe",   "qwen3moe"};
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct qn_test_tiny t = tiny_of(families[i]);
        struct qn_test_gguf g = {0};
        struct qn_test_buf file;
        struct qn_err err = {0};
        qn_test_tiny_gguf_parts(&t, &g);
        none(&g, NULL);
        qn_test_gguf_finish(&g, &file);
        if (open_copy(file.p, file.n, true, &err) != QN_OK) fail_msg("%s", err.msg);
        qn_test_buf_free(&file);
    }
}

/* ---- the header, byte by byte ---- */

static const struct {
    const char *name, *expect;
    size_t at, n;
    uint64_t v;
} headers[] = {
    {"no magic", "not a GGUF file", 0, 4, 0},
    {"ggml's old magic", "not a GGUF file", 0, 4, 0x67676d6c},
    {"magic in big-endian order", "not a GGUF file", 0, 4, 0x47475546},
    {"version 0", "version 0 is not supported", 4, 4, 0},
    {"version 1", "version 1 is not supported", 4, 4, 1},
    {"version 4", "version 4 is not supported", 4, 4, 4},
    {"version 3 in big-endian order", "big-endian GGUF is not supported", 4, 4, 0x03000000},
    {"n_tensors 2^64-1", "the count of tensors is", 8, 8, UINT64_MAX},
    {"n_tensors 2^61 (product wraps)", "the count of tensors is", 8, 8, 1ull << 61},
    {"n_tensors 2^32", "the count of tensors is", 8, 8, 1ull << 32},
    {"n_tensors 0", "is missing or not a matrix", 8, 8, 0},
    {"n_kv 2^64-1", "the count of metadata keys is", 16, 8, UINT64_MAX},
    {"n_kv 2^60 (product wraps)", "the count of metadata keys is", 16, 8, 1ull << 60},
    {"n_kv 0", "", 16, 8, 0},
    {"n_kv one too many", "", 16, 8, 29},
    {"first key's length 2^64-1", "the file ends inside", 24, 8, UINT64_MAX},
    {"first key's length 65536", "at most 65535", 24, 8, 65536},
};

static void bad_headers_are_refused(void **state) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    (void)state;
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        struct qn_test_buf file;
        struct qn_err err = {0};
        qn_test_tiny_gguf(&t, &file);
        memcpy(file.p + headers[i].at, &headers[i].v, headers[i].n);
        int rc = open_copy(file.p, file.n, true, &err);
        qn_test_buf_free(&file);
        if (rc >= 0) fail_msg("%s: accepted", headers[i].name);
        if (!strstr(err.msg, headers[i].expect)) fail_msg("%s: says '%s'", headers[i].name, err.msg);
    }
}

static void truncation_at_every_64th_byte(void **state) {
    static const char *const families[] = {"llama", "gpt2", "qwen2moe"};
    (void)state;
    for (size_t f = 0; f < 3; f++) {
        struct qn_test_tiny t = qn_test_tiny_default(families[f]);
        struct qn_test_buf file;
        qn_test_tiny_gguf(&t, &file);
        for (size_t n = 0; n < file.n; n += 64) {
            struct qn_err err = {0};
            int rc = open_copy(file.p, n, true, &err);
            if (rc >= 0 || err.msg[0] == 0)
                fail_msg("%s cut to %zu bytes: %d '%s'", t.family, n, rc, err.msg);
        }
        qn_test_buf_free(&file);
    }
}

/* One bit per byte of everything before the tensor data: refused or loaded, never more than that. */
static void flip_bits(const char *family, const char *last) {
    struct qn_test_tiny t = qn_test_tiny_default(family);
    struct qn_test_buf file;
    size_t refused = 0, loaded = 0;
    t.layers = 1;
    qn_test_tiny_gguf(&t, &file);
    const uint8_t *end = memmem(file.p, file.n, last, strlen(last));
    assert_non_null(end);
    for (size_t i = 0; i < (size_t)(end - file.p) + 64; i++) {
        struct qn_err err = {0};
        uint8_t bit = (uint8_t)(1u << (i * 5 + i / 7) % 8);
        file.p[i] ^= bit;
        int rc = open_copy(file.p, file.n, false, &err);
        if (rc < 0 && (err.msg[0] == 0 || rc != err.code)) fail_msg("bit %zu: %d '%s'", i, rc, err.msg);
        if (rc < 0)
            refused++;
        else
            loaded++;
        file.p[i] ^= bit;
    }
    print_message("%zu flips refused, %zu loaded\n", refused, loaded);
    assert_true(refused > 0 && loaded > 0);
    qn_test_buf_free(&file);
}

static void bit_flips_never_crash(void **state) {
    (void)state;
    flip_bits("llama", "ffn_down.weight");
    flip_bits("qwen2moe", "ffn_down_exps.weight");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_unspoiled_file_loads), cmocka_unit_test(every_kind_is_refused),
        cmocka_unit_test(bad_headers_are_refused),  cmocka_unit_test(truncation_at_every_64th_byte),
        cmocka_unit_test(bit_flips_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
