/* Weights as f32 matrices of the values that the file holds, so that products with them are f32 arithmetic
 * without rounded activations: what quantised and 16-bit arithmetic is measured against. Thread: the loader.
 */
#ifndef QN_MODEL_EXACT_H
#define QN_MODEL_EXACT_H

#include "model/load/checkpoint.h"

/* What a mixture's routers are made of decides which experts run: those of BF16 become F32, so that their
 * products are not rounded. QN_ERR_NOMEM as below. */
int qn_checkpoint_routers(struct qn_checkpoint *c, struct qn_pool *pool, struct qn_err *err);
/* Every F16 matrix but routers becomes BF16, in place, where it has an even number of columns: products of
 * bfloat16 have twice the peak of f32 ones. Weights that are mapped from a file can't: QN_ERR_UNSUPPORTED.
 * QN_ERR_NOMEM. */
int qn_checkpoint_f16_as_bf16(struct qn_checkpoint *c, struct qn_pool *pool, struct qn_err *err);

/* Every matrix of *c that is not F32 becomes one, with the same values; matrices that were one stay one. What
 * they were made from stays in memory, counted. QN_ERR_NOMEM, and c is still whole (some matrices are F32
 * then). pool may be NULL. */
int qn_checkpoint_exact(struct qn_checkpoint *c, struct qn_pool *pool, struct qn_err *err);

#endif
