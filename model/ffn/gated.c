/* The GLU family: y = (f(x Wgate^T) * x Wup^T) Wdown^T. Only the gate branch goes through f; what f is makes
 * the kind: SiLU swiglu, GELU geglu, ReLU reglu, sigmoid glu, identity bilinear.
 *
 * A plain MLP f(x W^T + b) Wdown^T is the gated one of the same f whose gate is W, whose up matrix is zero
 * and whose up bias is one: that is the conversion here, exact because 0 + 1 is. Thread: engine. */
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/ffn/ffn.h"

static size_t scratch_floats(const struct qn_spec *spec, size_t rows) {
    size_t n;
    return qn_size_mul(rows, qn_ffn_dense_widest(spec), &n) && qn_size_mul(n, QN_FFN_NET_WIDTHS, &n)
               ? n
               : SIZE_MAX;
}

static void net(const struct qn_ffn_net *n) {
    qn_ffn_dense_net(n, true);
}

static double row_macs(const struct qn_ffn *f) {
    return 3.0 * f->d_model * f->dim;
}

/* --- from a plain MLP --- */
static bool is_gelu(enum qn_act_fn f) {
    return f == QN_ACT_GELU_ERF || f == QN_ACT_GELU_TANH;
}

/* True when the member is a plain MLP with the activation that makes this kind. */
static bool is_plain_form(const struct qn_ffn_ops *self, const struct qn_spec *spec,
                          const struct qn_ffn_member *m) {
    const struct qn_ffn_ops *from = qn_ffn_find(spec, m->type);
    bool same = m->act == self->act || (is_gelu(m->act) && is_gelu(self->act));
    return from && from->net && !from->gated && same;
}

static int resolve(const struct qn_ffn_ops *self, const struct qn_spec *spec, uint32_t member,
                   const struct qn_part *ask, struct qn_ffn *out, struct qn_err *err) {
    const struct qn_ffn_member *m = &spec->ffn[member];
    int rc = qn_ffn_dense_resolve(self, spec, member, ask, out, err);
    if (rc || !is_plain_form(self, spec, m)) return rc;
    struct qn_choice *c = &out->choice;
    out->act = m->act;
    out->made = true;
    c->exactness = QN_EXACT;
    snprintf(c->why, sizeof c->why,
             "%.15s with an up matrix of zeros and an up bias of one: costs its memory", m->type);
    qn_ffn_part_activation(&c->part, m->act);
    return qn_part_check(ask, &c->part, "ffn", err);
}

static size_t convert_bytes(const struct qn_ffn *f, const struct qn_ffn_weights *src, size_t *replaced) {
    size_t up, total;
    *replaced = 0;
    if (!qn_matrix_bytes(src->dense.up.type, f->dim, f->d_model, &up)) return SIZE_MAX;
    return qn_size_add(up, f->dim * sizeof(float), &total) ? total : SIZE_MAX;
}

static int convert(const struct qn_ffn *f, const struct qn_ffn_weights *src, struct qn_ffn_weights *dst,
                   struct qn_err *err) {
    *dst = *src;
    dst->dense.gate = src->dense.up;
    dst->b_gate = src->b_up;
    dst->dense.up = (struct qn_matrix){0};
    dst->b_up = qn_mem_alloc_array(f->dim, sizeof *dst->b_up);
    if (!dst->b_up || !qn_matrix_alloc(&dst->dense.up, src->dense.up.type, f->dim, f->d_model))
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory for converted feed-forward weights");
    for (uint32_t i = 0; i < f->dim; i++) dst->b_up[i] = 1.0f;
    return QN_OK;
}

static void release(struct qn_ffn_weights *dst) {
    qn_matrix_free(&dst->dense.up);
    qn_mem_free(dst->b_up);
    memset(dst, 0, sizeof *dst);
}

#define GATED_OPS(kind, fn)                                                                                  \
    {                                                                                                        \
        .name = #kind, .resolve = resolve, .scratch_floats = scratch_floats, .convert_bytes = convert_bytes, \
        .convert = convert, .release = release, .run = qn_ffn_dense_run, .net = net, .row_macs = row_macs,   \
        .row_weight_bytes = qn_ffn_dense_weight_bytes, .gated = true, .act = (fn)                            \
    }
const struct qn_ffn_ops qn_ffn_swiglu = GATED_OPS(swiglu, QN_ACT_SILU);
const struct qn_ffn_ops qn_ffn_geglu = GATED_OPS(geglu, QN_ACT_GELU_TANH);
const struct qn_ffn_ops qn_ffn_reglu = GATED_OPS(reglu, QN_ACT_RELU);
const struct qn_ffn_ops qn_ffn_glu = GATED_OPS(glu, QN_ACT_SIGMOID);
const struct qn_ffn_ops qn_ffn_bilinear = GATED_OPS(bilinear, QN_ACT_IDENTITY);
