/* What attentions with a fixed-size state have in common: the walk over a step's spans in blocks of QN_FOLD
 * tokens, and their request parameters.
 *
 *   span -[blocks cut at absolute multiples of QN_FOLD]-> tiles -[kind: append, read]-> out
 *                                          block full -[kind: fold]-> state at the boundary
 *
 * The state is folded at absolute multiples of QN_FOLD tokens only. In between, every row reads the state at
 * the boundary plus the exact part of its own block's tokens up to itself, which lie in the state as well: so
 * decode and prefill do the same arithmetic, and chunking, threads and neighbours don't change a bit.
 *
 * Without causality the state lives in work memory: all tokens are folded first, then all rows read.
 *
 * Thread: items of the pool are pairs of a span and a KV head; where there are fewer than threads, they are
 * cut by query heads, and each piece keeps a state of its own. Private to model/attention. */
#ifndef QN_MODEL_ATTENTION_RECURRENT_H
#define QN_MODEL_ATTENTION_RECURRENT_H

#include "model/attention/attention.h"

#define QN_FOLD      QN_KV_BLOCK /* tokens per fold */
#define QN_TILE_ROWS 32          /* rows (keys and queries) that a kind works on at once, at least */

/* One KV head of one sequence at work, or a piece of it. */
struct qn_recurrent {
    const struct qn_attention_call *call;
    size_t g;            /* KV head */
    size_t first, heads; /* query heads of its group that read here: [first, first + heads) */
    float *state;        /* the kind's, state_floats long */
    float *work;         /* of this thread */
};

/* Rows [row, row + n) of the step, at positions pos .. pos + n - 1 of one block, n <= the kind's tile. */
struct qn_tile {
    uint32_t row, n, pos;
    bool append, read; /* what to do; both: row by row, a row sees itself */
};

struct qn_recurrent_kind {
    /* Raises the parameters to the largest that a request may choose. */
    void (*most)(const struct qn_spec *spec, struct qn_attention *a);
    /* Floats of one KV head's state, and of a thread's work memory without it; multiples of 16. */
    size_t (*state_floats)(const struct qn_attention *a);
    size_t (*work_floats)(const struct qn_attention *a);
    void (*clear)(const struct qn_recurrent *h); /* no tokens yet */
    void (*tile)(const struct qn_recurrent *h, const struct qn_tile *t);
    /* Adds the first n tokens of the block at pos to the state; the block is empty again. */
    void (*fold)(const struct qn_recurrent *h, uint32_t pos, uint32_t n);
};

/* The run hook. */
void qn_recurrent_run(const struct qn_attention_call *call, const struct qn_recurrent_kind *kind);
/* The state hook: kv_heads states, or nothing without causality. */
struct qn_state_size qn_recurrent_state(const struct qn_attention *a, const struct qn_recurrent_kind *kind);
/* The work_floats hook: work memory and a state in it. All factors are within spec.h's bounds: no overflow in
 * 64 bits. */
size_t qn_recurrent_work(const struct qn_spec *spec, const struct qn_attention_ops *ops,
                         const struct qn_recurrent_kind *kind);

/* Rows of a tile, keys and their queries: max(QN_TILE_ROWS, 1 + group); at most QN_FOLD tokens. */
size_t qn_tile_rows(const struct qn_attention *a);
/* n floats from *at on, padded to 16; moves *at. */
float *qn_take(float **at, size_t n);
/* n rounded up to a multiple of 16. */
size_t qn_pad16(size_t n);
/* Copies the queries of the tile's tokens that read here to x [n * heads, head_dim]. */
void qn_tile_queries(const struct qn_recurrent *h, const struct qn_tile *t, float *x);
/* out row of token i, query head first + j of the group = o[i * heads + j] / den[i * heads + j]. */
void qn_tile_out(const struct qn_recurrent *h, const struct qn_tile *t, const float *o, const float *den);

/* Sum over positions [begin, end) of the tokens of its own block that each sees, and the blocks that end
 * there. */
double qn_in_block(uint32_t begin, uint32_t end);
double qn_blocks_ended(uint32_t begin, uint32_t end);

/* What resolve has in common: fills out from the member, with the part's type, heads and kv_heads. */
void qn_recurrent_fill(const struct qn_spec *spec, uint32_t member, const struct qn_attention_ops *ops,
                       struct qn_attention *out);

#endif
