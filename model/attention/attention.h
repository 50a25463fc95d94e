/* What a kind of attention must be able to do. A kind is one file that fills struct qn_attention_ops and one
 * line in registry.c; nothing else in the tree knows its name.
 *
 *   request part -[resolve]-> struct qn_attention (how a layer runs) -[convert]-> weights of that form
 *   step: forward.c projects, normalises and rotates q, k, v of all rows; run() appends k, v to each row's
 * state and reads it with q.
 *
 * State comes in two forms, and a kind may use either or both: paged blocks of QN_KV_BLOCK tokens (one block
 * holds all layers; a kind gets `block_bytes` of it per layer) and a fixed part per sequence. Layers of one
 * checkpoint may run different kinds: each layer has its own struct qn_attention and its own place in the
 * block. */
#ifndef QN_MODEL_ATTENTION_ATTENTION_H
#define QN_MODEL_ATTENTION_ATTENTION_H

#include "kernels/kernels.h"
#include "model/load/checkpoint.h"
#include "model/model.h"
#include "model/part.h"

/* Fewer multiply-adds than this are not worth waking the pool for. */
#define QN_POOL_MIN_MACS 32768

struct qn_attention_ops;

/* An attention with all its parameters: what one or many layers run with. Immutable. */
struct qn_attention {
    const struct qn_attention_ops *ops;
    struct qn_choice choice;
    uint32_t member; /* of the checkpoint: whose weights it runs with or is converted from */
    uint32_t heads, kv_heads, head_dim;
    bool made;        /* it runs with weights that convert makes; else with the member's own */
    bool unprojected; /* the member's E and F, or directions, are read neither by run() nor by convert */
    bool rope;        /* q and k are rotated before run() */
    bool causal; /* row t depends on rows <= t only; false: a step's span is the whole sequence, no state */
    uint32_t window; /* tokens that a position sees, itself included; 0 = all */
    float scale;     /* of q.k */
    uint64_t arg[4]; /* a kind's own parameters (features, seed, slots), meaning is its own */
};

/* Bytes of state of one layer. */
struct qn_state_size {
    size_t block_bytes; /* per QN_KV_BLOCK tokens; multiple of QN_ALIGN; 0 = keeps no per-token state */
    size_t fixed_bytes; /* per sequence; multiple of QN_ALIGN */
};

/* One row of a step: a token at an absolute position of its sequence. */
struct qn_row {
    uint8_t *const *blocks; /* data of the sequence's paged blocks, in order */
    uint32_t pos;
    int32_t token;
    const int32_t *tokens; /* the sequence's, [pos + 1] */
};

/* Rows of one sequence, ascending in position. A kind with a fixed state goes by spans and walks each in
 * order: its run() may be called several times for a step, each time with the spans of part of the rows,
 * since a step stops where the state is to be copied. */
struct qn_row_span {
    uint32_t first, n; /* rows [first, first + n) */
    uint8_t *fixed;    /* the sequence's fixed state, QN_ALIGN aligned; NULL when the kind has none. Zeros at
                          position 0. */
};

struct qn_attention_call {
    const struct qn_attention *a;
    const struct qn_attn_weights *w;
    struct qn_pool *pool;
    const struct qn_row *rows;
    uint32_t n_rows;
    const struct qn_row_span *spans;
    uint32_t n_spans;
    size_t state_offset; /* of this layer in a block, bytes */
    size_t fixed_offset; /* of this layer in the fixed state, bytes */
    float *work;         /* [threads of the pool, work_floats]: each thread its own piece */
    size_t work_floats;
    enum qn_kv_type type;
    const float *q;     /* [n_rows, heads * head_dim] */
    const float *k, *v; /* [n_rows, kv_heads * head_dim] */
    float *out;         /* [n_rows, heads * head_dim] */
    /* Kinds with reads_some: all rows are appended, but only these read, and q and out are theirs alone;
     * NULL: all. */
    const struct qn_row *readers;
    uint32_t n_readers;
};

/* Arithmetic and traffic of one layer's append and read, projections not included. */
struct qn_attention_cost {
    double flops;       /* 2 per multiply-add */
    double state_bytes; /* read and written; a step reads a sequence's state once for all its rows */
};

struct qn_attention_ops {
    const char *name; /* as requests spell it */
    bool rollback;    /* the state can be cut back to any shorter length */
    bool reads_some;  /* run() can append rows that don't read */

    /* What the part `ask` (its type is this name) means for this checkpoint, taken from its attention member
     * `member`: that member itself, or a conversion of it. Fails only for parameters that make no sense
     * (QN_ERR_INVALID, param "attention"); what the member can't give is a success with choice.exactness ==
     * QN_UNAVAILABLE and choice.why. structures.c asks for every member and takes the best. */
    int (*resolve)(const struct qn_spec *spec, uint32_t member, const struct qn_part *ask,
                   struct qn_attention *out, struct qn_err *err);
    /* Fills up to max parts worth listing for this checkpoint (resolvable with resolve); returns how many. */
    size_t (*options)(const struct qn_spec *spec, struct qn_part *out, size_t max);
    /* Appends the parameters that a request may set, besides "causal", which every kind reads. NULL: none. */
    void (*rules)(const struct qn_spec *spec, struct qn_rules *out);
    struct qn_state_size (*state)(const struct qn_attention *a, enum qn_kv_type type);
    /* Work memory of run() for each of `threads` threads, floats, for the hungriest attention of this kind
     * that a request may choose on this checkpoint; SIZE_MAX on overflow. NULL: none. */
    size_t (*work_floats)(const struct qn_spec *spec, unsigned threads);

    /* Conversion of one weight block, for an attention that is `made`; NULL: the kind makes none. bytes: of
     * weights that convert will allocate (SIZE_MAX on overflow); *replaced: bytes of src that it stands in
     * for. convert: src is weight block `block` of the member; dst must be zero; what it does not change it
     * borrows from src. QN_ERR_NOMEM leaves dst for release. release frees what convert made and takes a zero
     * block. */
    size_t (*convert_bytes)(const struct qn_attention *a, const struct qn_attn_weights *src,
                            size_t *replaced);
    int (*convert)(const struct qn_attention *a, uint32_t block, const struct qn_attn_weights *src,
                   struct qn_attn_weights *dst, struct qn_err *err);
    void (*release)(struct qn_attn_weights *dst);

    /* Appends k, v of every row to its state, then reads with q. A row's output depends on its own sequence
     * only. Allocates nothing, can't fail. */
    void (*run)(const struct qn_attention_call *call);
    /* Positions [begin, end) of one sequence, `chunk` >= 1 positions per step. */
    struct qn_attention_cost (*cost)(const struct qn_attention *a, enum qn_kv_type type, uint32_t begin,
                                     uint32_t end, uint32_t chunk);
};

/* The list, NULL-terminated, in the order that /v1/structures shows. */
extern const struct qn_attention_ops *const qn_attention_registry[];
/* By name; "" gives the kind of the checkpoint's first member. NULL when unknown. */
const struct qn_attention_ops *qn_attention_find(const struct qn_spec *spec, const char *name);

/* Reads an optional true/false parameter of a part into *out (left alone when absent). QN_ERR_INVALID. */
int qn_attention_bool(const struct qn_part *ask, const char *name, bool *out, struct qn_err *err);

extern const struct qn_attention_ops qn_attention_mha, qn_attention_gqa, qn_attention_mqa,
    qn_attention_linformer, qn_attention_performer;

#endif
