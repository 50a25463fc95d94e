/* What a kind of feed-forward network must be able to do. A kind is one file (or one row of a file that
 * serves a family) and one line in registry.c. As in attention.h: resolve says what a request's part means
 * for a checkpoint, run does one layer's rows. A row's output depends on that row only. */
#ifndef QN_MODEL_FFN_FFN_H
#define QN_MODEL_FFN_FFN_H

#include "model/linear.h"
#include "model/load/checkpoint.h"
#include "model/part.h"

struct qn_ffn_ops;

struct qn_ffn {
    const struct qn_ffn_ops *ops;
    const struct qn_ffn_ops *expert; /* of a mixture: what one expert is; NULL else */
    struct qn_choice choice;
    uint32_t member;          /* of the checkpoint: whose weights it runs with or is converted from */
    bool made;                /* it runs with weights that convert makes; else with the member's own */
    uint32_t d_model, dim;    /* width of the model and of the hidden layer (of one expert) */
    enum qn_act_fn act;       /* (of one expert) */
    struct qn_ffn_member mix; /* of a mixture: as it runs, which may differ from the member; zero else */
};

/* One network over some rows: a dense FFN, or one expert of a mixture. */
struct qn_ffn_net {
    const struct qn_linear_env *env;
    const struct qn_ffn_matrices *w;
    const float *b_gate, *b_up, *b_down; /* or NULL */
    uint32_t d_model, dim;
    enum qn_act_fn act;
    struct qn_act in; /* rows of d_model floats, and their integer form if it has been made */
    float *y;         /* [rows, d_model] */
    float *work;      /* QN_FFN_NET_WIDTHS * rows * dim floats */
};
#define QN_FFN_NET_WIDTHS 2 /* hidden rows that the hungriest kind of network keeps per row */

struct qn_ffn_call {
    const struct qn_ffn *f;
    const struct qn_ffn_weights *w;
    const struct qn_linear_env *env;
    struct qn_act in; /* normalised rows of d_model floats, one after the other, and their integer form if it
                         has been made, in env->act_mem */
    float *y;         /* [rows, d_model] */
    float *work;      /* scratch_floats(f, rows) floats */
};

struct qn_ffn_ops {
    const char *name;
    /* As qn_attention_ops.resolve; param of errors is "ffn". */
    int (*resolve)(const struct qn_ffn_ops *self, const struct qn_spec *spec, uint32_t member,
                   const struct qn_part *ask, struct qn_ffn *out, struct qn_err *err);
    /* Appends the parameters that a request may set on a part that resolves to f. NULL: none. */
    void (*rules)(const struct qn_spec *spec, const struct qn_ffn *f, struct qn_rules *out);
    /* Work memory for that many rows, floats, for the hungriest FFN of this kind that a request may choose on
     * this checkpoint; SIZE_MAX on overflow. */
    size_t (*scratch_floats)(const struct qn_spec *spec, size_t rows);
    /* Conversion of one weight block, as in qn_attention_ops. */
    size_t (*convert_bytes)(const struct qn_ffn *f, const struct qn_ffn_weights *src, size_t *replaced);
    int (*convert)(const struct qn_ffn *f, const struct qn_ffn_weights *src, struct qn_ffn_weights *dst,
                   struct qn_err *err);
    void (*release)(struct qn_ffn_weights *dst);
    void (*run)(const struct qn_ffn_call *call);
    /* As run, for any network of this kind; NULL: the kind is not a single network (a mixture). */
    void (*net)(const struct qn_ffn_net *net);
    /* Multiply-adds of one row, and bytes of weights that one row reads. */
    double (*row_macs)(const struct qn_ffn *f);
    size_t (*row_weight_bytes)(const struct qn_ffn *f, const struct qn_ffn_weights *w);
    bool gated;         /* dense kinds: there is a gate matrix beside up and down */
    enum qn_act_fn act; /* of the kind; a checkpoint that says more (erf or tanh GELU) overrules it */
};

extern const struct qn_ffn_ops *const qn_ffn_registry[];
/* By name; "" gives the kind of the checkpoint's first member. NULL when unknown. */
const struct qn_ffn_ops *qn_ffn_find(const struct qn_spec *spec, const char *name);

/* Parameters of one weight block of a member that one row leaves unread: a mixture's other experts. */
uint64_t qn_ffn_idle_params(const struct qn_spec *spec, uint32_t member);

/* Common to dense kinds (dense.c): native when the member is of this kind, else unavailable. Parameters:
 * ffn_dim, and with GELU which of its two forms. */
int qn_ffn_dense_resolve(const struct qn_ffn_ops *self, const struct qn_spec *spec, uint32_t member,
                         const struct qn_part *ask, struct qn_ffn *out, struct qn_err *err);
/* Adds "activation" where a kind's name leaves it open: "erf" or "tanh" GELU. */
void qn_ffn_part_activation(struct qn_part *part, enum qn_act_fn act);
/* The choice of a kind that the member can't give. */
void qn_ffn_unavailable(struct qn_ffn *out, const char *member_type);
/* The widest hidden layer of any FFN member. */
uint32_t qn_ffn_dense_widest(const struct qn_spec *spec);
size_t qn_ffn_dense_weight_bytes(const struct qn_ffn *f, const struct qn_ffn_weights *w);
/* Runs the kind's net with the block's own matrices and biases. */
void qn_ffn_dense_run(const struct qn_ffn_call *call);
size_t qn_ffn_matrices_bytes(const struct qn_ffn_matrices *m);
/* The net of dense kinds; gated: with the gate matrix. */
void qn_ffn_dense_net(const struct qn_ffn_net *net, bool gated);

extern const struct qn_ffn_ops qn_ffn_swiglu, qn_ffn_geglu, qn_ffn_reglu, qn_ffn_glu, qn_ffn_bilinear;
extern const struct qn_ffn_ops qn_ffn_gelu, qn_ffn_relu, qn_ffn_moe;

#endif
