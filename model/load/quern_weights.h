/* Tensors of quern's own family of checkpoints -> weight blocks of every member (docs/checkpoints.md).
 *
 *   spec -[one walk: which tensors, in which shape]-> report of everything wrong
 *        -[the same walk again: pack]-> blocks; a tensor that several of them name is packed once
 *
 * Thread: one loader, and the pool. */
#ifndef QN_MODEL_LOAD_QUERN_WEIGHTS_H
#define QN_MODEL_LOAD_QUERN_WEIGHTS_H

#include "model/load/checkpoint.h"
#include "model/load/tensors.h"

/* c->spec is filled by qn_quern_config; dir is indexed, its `used` marks are set here. With opt->spec_only
 * all is checked and nothing packed. On failure *c is half-built: qn_checkpoint_free. */
int qn_quern_weights(const struct qn_tensor_dir *dir, const struct qn_load_options *opt,
                     struct qn_checkpoint *c, struct qn_err *err);

#endif
