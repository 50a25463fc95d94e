/* Models without a file: a description such as
 *   synthetic:hidden=768,layers=12,heads=12,attention=performer,features=128,ffn=swiglu,n=4096,type=q8_0
 * becomes a checkpoint with seeded random weights, so that any structure of the registries can be run and
 * measured in any size and weight type. What such a model writes is noise; its speed and memory are real.
 *
 *   description -[synthetic.c: keys, defaults, which shape the kinds call their own]-> spec
 *     -[synthetic_fill.c: count, then fill every row from its own stream of random numbers]-> checkpoint
 *
 * Weights depend on the description alone, not on the thread count. docs/checkpoints.md lists the keys.
 * Thread: one loader. */
#ifndef QN_MODEL_SYNTHETIC_H
#define QN_MODEL_SYNTHETIC_H

#include "model/load/checkpoint.h"

#define QN_SYNTHETIC_PREFIX "synthetic:"

/* A parsed description. */
struct qn_synthetic {
    char name[64];
    struct qn_spec spec;
    enum qn_type type;   /* of the matrices; the router and vectors are F32 */
    uint64_t seed;       /* of everything */
    uint32_t proj_heads; /* of E, F and the random directions: 1 or kv_heads */
};

/* True when a model's path is a description. */
bool qn_synthetic_is(const char *path);
/* QN_ERR_INVALID names the key and, when it is unknown, the nearest one that there is. */
int qn_synthetic_parse(const char *path, struct qn_synthetic *out, struct qn_err *err);
/* Makes c (zeroed by the caller; half-built on failure: qn_checkpoint_free). opt->spec_only: counts only.
 * QN_ERR_NOMEM also when the weights would not fit the machine's memory. */
int qn_synthetic_fill(const struct qn_synthetic *s, const struct qn_load_options *opt,
                      struct qn_checkpoint *c, struct qn_err *err);
/* Both in one, for qn_checkpoint_load. */
int qn_synthetic_load(const char *path, const struct qn_load_options *opt, struct qn_checkpoint *c,
                      struct qn_err *err);

#endif
