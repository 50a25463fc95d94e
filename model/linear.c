/* Matrix products of the forward pass: see linear.h. Thread: engine. */
#include "model/linear.h"

struct qn_act qn_linear_input(const float *x, size_t ldx, uint32_t rows, uint32_t cols) {
    return (struct qn_act){.x = x, .ldx = ldx, .rows = rows, .cols = cols};
}

bool qn_linear_wants_int(const struct qn_linear_env *env, enum qn_type t) {
    return env->math == QN_MATH_PACKED && qn_type_wants_int(t);
}

static void prepare(const struct qn_linear_env *env, const struct qn_matrix *w, struct qn_act *a) {
    if (!a->q && qn_linear_wants_int(env, w->type)) qn_act_quantize(env->pool, a, env->act_mem);
}

void qn_linear_apply_all(const struct qn_linear_env *env, const struct qn_product *p, size_t n,
                         struct qn_act *a) {
    for (size_t i = 0; i < n; i++) {
        prepare(env, p[i].w, a);
        if (env->math == QN_MATH_BLAS)
            qn_gemm_linear(env->pool, p[i].w, a, p[i].bias, p[i].y, p[i].ldy, env->gemm_work);
    }
    if (env->math != QN_MATH_BLAS) qn_linear_all(env->pool, p, n, a);
}

void qn_linear_apply(const struct qn_linear_env *env, const struct qn_matrix *w, struct qn_act *a,
                     const float *bias, float *y, size_t ldy) {
    const struct qn_product p = {.w = w, .bias = bias, .y = y, .ldy = ldy};
    qn_linear_apply_all(env, &p, 1, a);
}

/* --- hidden layers --- */
static void activate_item(void *arg, size_t row, unsigned thread) {
    const struct qn_hidden *h = arg;
    size_t n = h->up->rows;
    float *g = h->g + row * n;
    (void)thread;
    if (h->gate) {
        qn_ops()->gated(g, g, h->u + row * n, n, h->act);
    } else {
        qn_ops()->activate(g, g, n, h->act);
    }
}

struct qn_act qn_linear_mid(const struct qn_linear_env *env, const struct qn_hidden *h, struct qn_act *a,
                            enum qn_type next) {
    uint32_t dim = h->up->rows;
    struct qn_act mid = qn_linear_input(h->g, dim, a->rows, dim);
    if (env->math == QN_MATH_BLAS) {
        struct qn_hidden copy = *h;
        if (h->gate) qn_linear_apply(env, h->gate, a, h->b_gate, h->g, dim);
        qn_linear_apply(env, h->up, a, h->b_up, h->gate ? h->u : h->g, dim);
        qn_pool_run(a->rows > 1 ? env->pool : NULL, a->rows, activate_item, &copy);
        return mid;
    }
    if (h->gate) prepare(env, h->gate, a);
    prepare(env, h->up, a);
    if (qn_linear_wants_int(env, next)) qn_act_place(&mid, env->mid_mem);
    qn_linear_hidden(env->pool, h, a, &mid);
    return mid;
}

/* --- what comes next --- */
void qn_linear_before(const struct qn_linear_env *env, const struct qn_matrix *const *w, size_t n,
                      uint32_t rows) {
    if (env->pool && env->math == QN_MATH_PACKED) qn_linear_ahead(env->pool, w, n, rows);
}

void qn_linear_before_hidden(const struct qn_linear_env *env, const struct qn_matrix *gate,
                             const struct qn_matrix *up, uint32_t rows) {
    if (env->pool && env->math == QN_MATH_PACKED) qn_linear_hidden_ahead(env->pool, gate, up, rows);
}
