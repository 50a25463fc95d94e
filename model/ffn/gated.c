/* The GLU family: y = (f(x Wgate^T) * x Wup^T) Wdown^T. Only the gate branch goes through f; what f is makes
 * the kind: SiLU swiglu, GELU geglu, ReLU reglu, sigmoid glu, identity bilinear. Thread: engine. */
#include "kernels/mem.h"
#include "model/ffn/ffn.h"

static size_t scratch_floats(const struct qn_spec *spec, size_t rows) {
    size_t n;
    return qn_size_mul(rows, qn_ffn_dense_widest(spec), &n) && qn_size_mul(n, 2, &n) ? n : SIZE_MAX;
}

static void gate(float *y, const float *a, const float *b, size_t n, enum qn_act_fn act) {
    qn_ops()->gated(y, a, b, n, act);
}

static void run(const struct qn_ffn_call *c) {
    size_t dim = c->f->dim, n = c->rows * dim;
    float *g = c->work, *up = c->work + n;
    struct qn_act in = qn_linear_input(c->x, c->f->d_model, c->rows, c->f->d_model);
    qn_linear_apply(c->env, &c->w->dense.gate, &in, NULL, g, dim);
    qn_linear_apply(c->env, &c->w->dense.up, &in, c->w->b_up, up, dim);
    qn_ffn_apply(c, gate, g, up);
    struct qn_act mid = qn_linear_input(g, dim, c->rows, c->f->dim);
    qn_linear_apply(c->env, &c->w->dense.down, &mid, c->w->b_down, c->y, c->f->d_model);
}

static double row_macs(const struct qn_ffn *f) {
    return 3.0 * f->d_model * f->dim;
}

#define GATED_OPS(kind, fn)                                                                                  \
    {                                                                                                        \
        .name = #kind, .resolve = qn_ffn_dense_resolve, .scratch_floats = scratch_floats, .run = run,        \
        .row_macs = row_macs, .row_weight_bytes = qn_ffn_dense_weight_bytes, .gated = true, .act = (fn)      \
    }
const struct qn_ffn_ops qn_ffn_swiglu = GATED_OPS(swiglu, QN_ACT_SILU);
const struct qn_ffn_ops qn_ffn_geglu = GATED_OPS(geglu, QN_ACT_GELU_TANH);
const struct qn_ffn_ops qn_ffn_reglu = GATED_OPS(reglu, QN_ACT_RELU);
const struct qn_ffn_ops qn_ffn_glu = GATED_OPS(glu, QN_ACT_SIGMOID);
const struct qn_ffn_ops qn_ffn_bilinear = GATED_OPS(bilinear, QN_ACT_IDENTITY);
