/* One way to multiply by a weight matrix, for every structure: chooses between quern's own kernels and
 * OpenBLAS as the step says, and prepares (quantises) an input at most once however many matrices read it.
 * Allocates nothing: the memory is the forward pass's scratch. Thread: engine. */
#ifndef QN_MODEL_LINEAR_H
#define QN_MODEL_LINEAR_H

#include "kernels/kernels.h"
#include "model/batch.h"

struct qn_linear_env {
    struct qn_pool *pool;
    enum qn_math math;
    void *act_mem;   /* qn_act_bytes(max rows, max cols), for one input at a time */
    void *gemm_work; /* qn_gemm_work_bytes(threads, max cols) */
};

/* Describes rows x cols floats (ldx apart) as the input of the next products. It takes over env->act_mem, so
 * the input before it is finished with. */
struct qn_act qn_linear_input(const float *x, size_t ldx, uint32_t rows, uint32_t cols);
/* y = x W^T + bias; see qn_linear. */
void qn_linear_apply(const struct qn_linear_env *env, const struct qn_matrix *w, struct qn_act *a,
                     const float *bias, float *y, size_t ldy);

#endif
