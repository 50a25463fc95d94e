/* Weights as f32 matrices of the values that the file holds, so that products with them are f32 arithmetic
 * without rounded activations: what quantised and 16-bit arithmetic is measured against. Thread: the loader.
 */
#ifndef QN_MODEL_EXACT_H
#define QN_MODEL_EXACT_H

#include "model/load/checkpoint.h"

/* Every matrix of *c that is not F32 becomes one, with the same values; matrices that were one stay one. What
 * they were made from stays in memory, counted. QN_ERR_NOMEM, and c is still whole (some matrices are F32
 * then). pool may be NULL. */
int qn_checkpoint_exact(struct qn_checkpoint *c, struct qn_pool *pool, struct qn_err *err);

#endif
