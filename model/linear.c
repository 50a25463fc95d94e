/* Matrix products of the forward pass: see linear.h. Thread: engine. */
#include "model/linear.h"

struct qn_act qn_linear_input(const float *x, size_t ldx, uint32_t rows, uint32_t cols) {
    return (struct qn_act){.x = x, .ldx = ldx, .rows = rows, .cols = cols};
}

void qn_linear_apply(const struct qn_linear_env *env, const struct qn_matrix *w, struct qn_act *a,
                     const float *bias, float *y, size_t ldy) {
    if (env->math == QN_MATH_BLAS) {
        qn_gemm_linear(env->pool, w, a, bias, y, ldy, env->gemm_work);
        return;
    }
    if (!a->q && qn_type_wants_int(w->type)) qn_act_quantize(env->pool, a, env->act_mem);
    qn_linear(env->pool, w, a, bias, y, ldy);
}
