/* One layer's attention without a model around it: a spec of one member, weights, and sequences whose q, k, v
 * are random or the test's own. Steps run any number of sequences together, through the same run() as the
 * forward pass.
 *
 *   qn_att_open(member, shape, part) -[qn_att_seq_new]-> sequences -[qn_att_step | qn_att_chunks]-> out
 *
 * Any failure is a failed assertion of the running test. Thread: one. */
#ifndef QN_TESTS_SUPPORT_RECURRENT_H
#define QN_TESTS_SUPPORT_RECURRENT_H

#include "model/attention/attention.h"
#include "tests/support/guard.h"

struct qn_att_shape {
    uint32_t heads, head_dim, context;
};

struct qn_att {
    struct qn_spec spec;
    struct qn_attention a;
    struct qn_attn_weights src; /* the member's: random directions or projections, owned */
    struct qn_attn_weights w;   /* what run() gets: src, or converted from it */
    struct qn_pool *pool;
    float *work;
    size_t work_floats;
};

struct qn_att_seq {
    uint32_t n, done; /* rows in all, rows that have run */
    float *q, *k, *v, *out;
    uint8_t *fixed, **blocks;
    size_t fixed_bytes;
    uint32_t n_blocks;
};

/* ask: NULL or "" type asks for the member's own type. Random weights from *rng. */
void qn_att_open(struct qn_att *t, struct rng *rng, const struct qn_attn_member *m,
                 const struct qn_att_shape *shape, const struct qn_part *ask, unsigned threads);
void qn_att_close(struct qn_att *t);

/* q, k ~ N(0, std^2), v ~ N(0, 1). */
struct qn_att_seq *qn_att_seq_new(struct qn_att *t, struct rng *rng, uint32_t n, double std);
struct qn_att_seq *qn_att_seq_copy(struct qn_att *t, const struct qn_att_seq *s); /* done = 0 */
void qn_att_seq_free(struct qn_att_seq *s);

/* Runs the next n[i] rows of every sequence in one step. */
void qn_att_step(struct qn_att *t, struct qn_att_seq *const *s, const uint32_t *n, uint32_t count);
/* Runs what is left of one sequence, `chunk` rows per step. */
void qn_att_chunks(struct qn_att *t, struct qn_att_seq *s, uint32_t chunk);

double qn_att_normal(struct rng *rng);
/* max |a - b| / max |b| over n floats, b in double. */
double qn_att_error(const float *a, const double *b, size_t n);

#endif
