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
    void *act_mem;                    /* qn_act_bytes(max rows, max cols), for one input at a time */
    void *mid_mem;                    /* as much again, for the hidden layer of an FFN */
    const struct qn_matrix *after[3]; /* what is multiplied with after an FFN, side by side */
    size_t n_after;
    void *gemm_work; /* qn_gemm_work_bytes(threads, max cols) */
};

/* Describes rows x cols floats (ldx apart) as the input of the next products. It takes over env->act_mem, so
 * the input before it is finished with. */
struct qn_act qn_linear_input(const float *x, size_t ldx, uint32_t rows, uint32_t cols);
/* Whether a product with this weight type reads the integer form of its input: with a->q placed in
 * env->act_mem (qn_act_place) and filled beforehand, products find it there. */
bool qn_linear_wants_int(const struct qn_linear_env *env, enum qn_type t);
/* Products of one input, side by side. */
void qn_linear_apply_all(const struct qn_linear_env *env, const struct qn_product *p, size_t n,
                         struct qn_act *a);
/* y = x W^T + bias; see qn_linear. */
void qn_linear_apply(const struct qn_linear_env *env, const struct qn_matrix *w, struct qn_act *a,
                     const float *bias, float *y, size_t ldy);
/* The hidden layer of an FFN whose next matrix has type `next`, as the input of that; see qn_linear_hidden.
 */
struct qn_act qn_linear_mid(const struct qn_linear_env *env, const struct qn_hidden *h, struct qn_act *a,
                            enum qn_type next);

/* Says what few rows will be multiplied with after the next product or the attention; see qn_linear_ahead. */
void qn_linear_before(const struct qn_linear_env *env, const struct qn_matrix *const *w, size_t n,
                      uint32_t rows);
void qn_linear_before_hidden(const struct qn_linear_env *env, const struct qn_matrix *gate,
                             const struct qn_matrix *up, uint32_t rows);

#endif
