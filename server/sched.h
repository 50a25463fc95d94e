/* The scheduler: two pure functions over a snapshot of the engine. No clock, no allocation, no model.
 *
 *   qn_sched_pick: who is admitted next. Keys (tenants) share by virtual token counters: the key that was
 * served least goes first; within a key, first come, first served. Nobody overtakes a sequence that waits for
 * memory of the same pool, so that a large request is not starved by small ones. qn_sched_step: what the next
 * step runs. Groups (sequences that can share a step) alternate by deficit round robin on tokens. Within the
 * group all decode rows go first, then prefill chunks, the one that waited longest first. While anything
 * decodes, all prefill of a step together is at most one chunk: that is the most that a long prompt can add
 * to anybody's token. A sequence that has to run whole (no causality) is not cut: it begins within the chunk
 * and may take the step's whole budget, and then it is the last of its step. Guesses of what a decode row's
 * sequence goes on with get what is left of a small step, in turns: in a crowd, or beside a prompt, there are
 * none. Growth that finds no memory
 * takes it from spare work, then from paused sequences, then from the newest; the oldest that holds any of a
 * pool is never taken from, so it finishes, and those that hold none are left alone.
 *
 * Thread: any; the engine calls both. */
#ifndef QN_SERVER_SCHED_H
#define QN_SERVER_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QN_SCHED_NONE UINT32_MAX
/* What a step costs at least, in rows: with few rows its time is that of reading the weights. */
#define QN_SCHED_STEP_FLOOR 8u
/* Rows up to which a step takes guesses: each further row costs arithmetic that others wait for. */
#define QN_SCHED_DRAFT_ROWS 16u
/* Weights of the virtual token counters: a generated token costs a row of a step, a prompt token part of one.
 */
#define QN_SCHED_PROMPT_WEIGHT 1u
#define QN_SCHED_OUTPUT_WEIGHT 2u

struct qn_sched_limits {
    uint32_t step_tokens;   /* most rows of a step, >= max_running */
    uint32_t prefill_chunk; /* most prefill rows of a step while anything decodes, but for a last whole
                               sequence, >= 1 */
    uint32_t max_running;   /* of each pool, >= 1 */
};

/* ---- admission ---- */
struct qn_sched_key {    /* one tenant, with the sequence at the head of its queue */
    uint64_t served;     /* virtual token counter */
    bool waiting;        /* has a sequence that could be admitted */
    uint64_t head_order; /* arrival number of that sequence */
    uint32_t head_pool;  /* its state pool */
    uint64_t backlog;    /* sum over its running, still prefilling sequences of min(todo, prefill_chunk) */
};
struct qn_sched_pool {
    size_t free;      /* bytes that no sequence uses */
    uint32_t running; /* sequences that hold state here; for qn_sched_pick */
    bool blocked;     /* the sequence whose turn it is finds no room here: nobody overtakes it */
};
/* Index of the key whose head is admitted next, or QN_SCHED_NONE. A key with a step's worth of unfinished
 * prompts waits: more of them would hold memory and finish no sooner. */
uint32_t qn_sched_pick(const struct qn_sched_limits *lim, const struct qn_sched_key *keys, uint32_t n_keys,
                       const struct qn_sched_pool *pools);

/* ---- step ---- */
struct qn_sched_seq {   /* one sequence that holds state */
    uint64_t order;     /* arrival number, unique */
    uint64_t served_at; /* number of the step that ran its last prefill chunk, 0 = none yet */
    uint32_t group, pool;
    uint32_t todo;     /* known tokens that its state lacks; 0 = nothing to run */
    bool decode;       /* todo == 1 and its prompt is done */
    bool paused;       /* keeps its state, runs nothing */
    bool spare;        /* its output is out, it runs for a figure beside it: never grows */
    bool whole;        /* its rows must run in one step: todo <= step_tokens, never decode; keeps no state */
    size_t grow;       /* bytes that its next row takes beyond what it has reserved (decode only) */
    uint32_t draft;    /* guesses that it would have checked behind its row (decode only) */
    size_t draft_grow; /* bytes that they take beyond grow: taken only when free, nobody gives way */
    size_t held;       /* bytes that come free when it is preempted */
};
struct qn_sched_span {
    uint32_t seq; /* index into the snapshot */
    uint32_t n;   /* rows: of a decode row, 1 and its guesses */
};
struct qn_sched_step {
    struct qn_sched_limits lim;
    const struct qn_sched_seq *seqs; /* [n_seqs] */
    uint32_t n_seqs;
    struct qn_sched_pool *pools; /* in: free bytes; out: after growth and preemption */
    int64_t *deficits;           /* [n_groups], in and out; a group without work comes out with 0 or less */
    uint32_t n_groups;
    uint32_t cursor; /* in and out: the group whose turn it is */
    uint32_t *work;  /* [max(n_seqs, n_groups)] scratch */
    /* out */
    uint32_t group;              /* QN_SCHED_NONE: nothing to run */
    struct qn_sched_span *spans; /* [n_seqs]: decode rows by age, then prefill chunks */
    uint32_t n_spans, rows;
    uint32_t *preempt; /* [n_seqs], in the order of their loss */
    uint32_t n_preempt;
};
void qn_sched_step(struct qn_sched_step *s);

#endif
