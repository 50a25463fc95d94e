/* Golden fixtures and the way to run a model over them.
 *
 *   tests/golden/models/NAME/golden.bin -[qn_golden_read]-> ids, logits, mean hidden state
 *   tests/golden/real/smollm2.bin -[qn_real_read]-> prompts with their reference
 *   model file -[qn_bench_open]-> model + variant + pool -[qn_bench_run]-> logits or hidden states of every
 * row
 *
 * Layouts: tests/golden/README.md. Everything points into one buffer that the free function gives back.
 * Thread: the test's. */
#ifndef QN_TESTS_SUPPORT_GOLDEN_H
#define QN_TESTS_SUPPORT_GOLDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/pool.h"
#include "model/batch.h"
#include "model/model.h"

/* A tiny model's reference. */
struct qn_golden {
    uint32_t n, vocab, d;
    const int32_t *ids;  /* [n] */
    const float *logits; /* [n, vocab] */
    const float *hidden; /* [d] mean over the n last hidden states, after the final norm */
    uint8_t *bytes;      /* owns all of it */
};
/* False (and nothing to free) when the file is absent or not well-formed. */
bool qn_golden_read(const char *path, struct qn_golden *g);
void qn_golden_free(struct qn_golden *g);

/* A real model's reference: one prompt. */
struct qn_real_position {
    float lse, margin;   /* log-sum-exp of the logits; largest less second largest */
    const int32_t *ids;  /* [top], largest logit first */
    const float *logits; /* [top] */
};
struct qn_real_prompt {
    const char *text; /* not terminated */
    uint32_t text_len, n_ids, n_more, n_positions;
    const int32_t *ids;                 /* [n_ids] of the text */
    const int32_t *more;                /* [n_more] greedy continuation */
    const float *margins;               /* [n_more] */
    struct qn_real_position *positions; /* [n_positions] of ids + more */
};
struct qn_real {
    uint32_t n, top;
    struct qn_real_prompt *prompts; /* [n] */
    uint8_t *bytes;
};
bool qn_real_read(const char *path, struct qn_real *r);
void qn_real_free(struct qn_real *r);

/* A model opened for a test: kernels at the CPU's best level, a pool of `threads`, the structure resolved and
 * prepared. attention: "" for the native one. */
struct qn_bench {
    struct qn_pool *pool;
    struct qn_model *model;
    struct qn_variant *variant;
    struct qn_err err; /* why opening or running failed */
};
struct qn_bench_options {
    enum qn_state_type state;
    unsigned threads;
    uint32_t max_step_tokens;
    const char *attention; /* may be NULL */
    bool exact;            /* struct qn_open_options */
};
bool qn_bench_open(struct qn_bench *b, const char *path, const struct qn_bench_options *opt);
void qn_bench_close(struct qn_bench *b); /* half-opened ones too */

/* Runs ids[0..n) through a fresh sequence in chunks of the given sizes (repeated until all have run) and
 * copies every row's result to out [n, width]. want: QN_WANT_ALL or QN_WANT_HIDDEN; width: vocab or d_model.
 * False with b->err set, or when rows did not come once each and in order. */
struct qn_bench_run {
    const int32_t *ids;
    uint32_t n;
    const uint32_t *chunks; /* [n_chunks] */
    uint32_t n_chunks;
    enum qn_want want;
    enum qn_math math;
    float *out;
    size_t width;
};
bool qn_bench_run(struct qn_bench *b, const struct qn_bench_run *run);

/* max |a-b| / max |b|; infinity when anything is not finite. */
double qn_distance(const float *a, const float *b, size_t n);

#endif
