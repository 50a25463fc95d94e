/* What the tests of FFNs share: random networks as floats, the same packed, and a double-precision reference
 * of one network. Thread: the test's. */
#ifndef QN_TESTS_UNIT_MODEL_FFN_KIT_H
#define QN_TESTS_UNIT_MODEL_FFN_KIT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/mem.h"
#include "model/ffn/ffn.h"
#include "tests/support/tiny_open.h"

static inline float kit_uniform(uint64_t *s) { /* [-1, 1) */
    return (float)(qn_test_random(s) >> 40) * 0x1p-23f - 1.0f;
}

/* n floats in [-scale, scale). */
static inline float *kit_floats(uint64_t *s, size_t n, float scale) {
    float *v = qn_mem_alloc_array(n, sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++) v[i] = scale * kit_uniform(s);
    return v;
}

static inline void kit_pack(struct qn_matrix *m, const float *v, uint32_t rows, uint32_t cols) {
    assert_true(qn_matrix_alloc(m, QN_F32, rows, cols));
    for (uint32_t r = 0; r < rows; r++) qn_matrix_set_row(m, r, v + (size_t)r * cols);
}

/* A network: floats and their packed form. gate NULL for a plain one. */
struct kit_net {
    uint32_t d, dim;
    float *gate, *up, *down;
    struct qn_ffn_matrices w;
};

static inline struct kit_net kit_net_new(uint64_t *s, uint32_t d, uint32_t dim, bool gated) {
    float in = 1.7f / sqrtf((float)d), out = 1.7f / sqrtf((float)dim);
    struct kit_net n = {.d = d, .dim = dim, .gate = gated ? kit_floats(s, (size_t)d * dim, in) : NULL};
    n.up = kit_floats(s, (size_t)d * dim, in);
    n.down = kit_floats(s, (size_t)d * dim, out);
    if (gated) kit_pack(&n.w.gate, n.gate, dim, d);
    kit_pack(&n.w.up, n.up, dim, d);
    kit_pack(&n.w.down, n.down, d, dim);
    return n;
}

static inline void kit_net_free(struct kit_net *n) {
    qn_mem_free(n->gate);
    qn_mem_free(n->up);
    qn_mem_free(n->down);
    qn_matrix_free(&n->w.gate);
    qn_matrix_free(&n->w.up);
    qn_matrix_free(&n->w.down);
}

static inline double kit_sigmoid(double z) {
    return 1 / (1 + exp(-z));
}

static inline double kit_act(enum qn_act_fn f, double x) {
    switch (f) {
    case QN_ACT_RELU:
        return x > 0 ? x : 0;
    case QN_ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    case QN_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case QN_ACT_SILU:
        return x * kit_sigmoid(x);
    case QN_ACT_SIGMOID:
        return kit_sigmoid(x);
    default:
        return x;
    }
}

static inline double kit_dot(const float *w, const float *x, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)w[i] * (double)x[i];
    return sum;
}

/* y[d] += scale * net(x). Biases may be NULL. */
static inline void kit_reference(const struct kit_net *n, enum qn_act_fn act, const float *b_up,
                                 const float *b_down, const float *x, double scale, double *y) {
    double *mid = calloc(n->dim, sizeof *mid);
    assert_non_null(mid);
    for (uint32_t i = 0; i < n->dim; i++) {
        size_t at = (size_t)i * n->d;
        double up = kit_dot(n->up + at, x, n->d) + (b_up ? (double)b_up[i] : 0);
        mid[i] = n->gate ? kit_act(act, kit_dot(n->gate + at, x, n->d)) * up : kit_act(act, up);
    }
    for (uint32_t o = 0; o < n->d; o++) {
        double sum = b_down ? (double)b_down[o] : 0;
        for (uint32_t i = 0; i < n->dim; i++) sum += (double)n->down[(size_t)o * n->dim + i] * mid[i];
        y[o] += scale * sum;
    }
    free(mid);
}

/* max |a - b| / max |b|. */
static inline double kit_distance(const float *a, const double *b, size_t n) {
    double worst = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)a[i] - b[i]));
        most = fmax(most, fabs(b[i]));
        if (!isfinite(a[i])) return INFINITY;
    }
    return worst / most;
}

/* A checkpoint's description with one FFN member. */
static inline struct qn_spec kit_spec(uint32_t d, const struct qn_ffn_member *m) {
    struct qn_spec s = {.d_model = d, .layers = 1, .n_ffn = 1, .ffn_blocks = 1};
    s.ffn[0] = *m;
    return s;
}

static inline int kit_resolve(const struct qn_spec *s, const struct qn_ffn_ops *ops,
                              const struct qn_part *ask, struct qn_ffn *f, struct qn_err *err) {
    static const struct qn_part any = {0};
    memset(err, 0, sizeof *err);
    return ops->resolve(ops, s, 0, ask ? ask : &any, f, err);
}

/* Runs f over the rows with exactly as much work memory as it asks for. */
static inline void kit_run(const struct qn_spec *s, const struct qn_ffn *f, const struct qn_ffn_weights *w,
                           struct qn_pool *pool, uint32_t rows, const float *x, float *y) {
    size_t act, wide = qn_ffn_dense_widest(s) > s->d_model ? qn_ffn_dense_widest(s) : s->d_model;
    assert_true(qn_act_bytes(rows, wide, &act));
    size_t floats = f->ops->scratch_floats(s, rows);
    assert_true(floats < SIZE_MAX);
    struct qn_linear_env env = {
        .pool = pool, .math = QN_MATH_PACKED, .act_mem = qn_mem_alloc(act), .mid_mem = qn_mem_alloc(act)};
    float *work = malloc(floats * sizeof *work);
    assert_non_null(work);
    assert_non_null(env.act_mem);
    assert_non_null(env.mid_mem);
    memset(work, 0xff, floats * sizeof *work); /* not a number: nothing may be read before it is written */
    struct qn_ffn_call call = {.f = f, .w = w, .env = &env, .y = y, .work = work};
    call.in = qn_linear_input(x, s->d_model, rows, s->d_model);
    f->ops->run(&call);
    free(work);
    qn_mem_free(env.act_mem);
    qn_mem_free(env.mid_mem);
}

#endif
