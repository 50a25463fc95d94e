/* The plain MLP: y = f(x Wup^T + b) Wdown^T + b, with f = GELU or ReLU. Thread: engine. */
#include "kernels/mem.h"
#include "model/ffn/ffn.h"

static size_t scratch_floats(const struct qn_spec *spec, size_t rows) {
    size_t n;
    return qn_size_mul(rows, qn_ffn_dense_widest(spec), &n) ? n : SIZE_MAX;
}

static void net(const struct qn_ffn_net *n) {
    qn_ffn_dense_net(n, false);
}

static double row_macs(const struct qn_ffn *f) {
    return 2.0 * f->d_model * f->dim;
}

#define MLP_OPS(kind, fn)                                                                                    \
    {                                                                                                        \
        .name = #kind, .resolve = qn_ffn_dense_resolve, .scratch_floats = scratch_floats,                    \
        .run = qn_ffn_dense_run, .net = net, .row_macs = row_macs,                                           \
        .row_weight_bytes = qn_ffn_dense_weight_bytes, .act = (fn)                                           \
    }
const struct qn_ffn_ops qn_ffn_gelu = MLP_OPS(gelu, QN_ACT_GELU_TANH);
const struct qn_ffn_ops qn_ffn_relu = MLP_OPS(relu, QN_ACT_RELU);
