/* From the tensor directory to quern's own memory.
 *
 *   family row + spec -[what must be there, in which shape]-> directory -[check everything, report
 * everything]->
 *   -[pack rows, in parallel]-> struct qn_checkpoint's matrices and vectors
 *
 * Three things may lie between a file's row and ours: a fused tensor that is cut by row ranges, GGUF llama's
 * permuted q and k rows, and GPT-2's transposed matrices. All are row maps; values are never changed, except
 * that gemma's safetensors norms get their 1 added. Thread: one loader. */
#ifndef QN_MODEL_LOAD_WEIGHTS_H
#define QN_MODEL_LOAD_WEIGHTS_H

#include "model/load/checkpoint.h"
#include "model/load/names.h"
#include "model/load/tensors.h"

struct qn_weights_source {
    const struct qn_tensor_dir *dir; /* indexed; its `used` marks are set here */
    const struct qn_family *family;
    enum qn_qkv_layout qkv;
    bool gguf; /* else safetensors */
};

/* c->spec is filled and checked. Fills weights, params and byte counts of *c; with opt->spec_only nothing is
 * packed, all checks are made. On failure *c is half-built: qn_checkpoint_free. */
int qn_weights_load(const struct qn_weights_source *src, const struct qn_load_options *opt,
                    struct qn_checkpoint *c, struct qn_err *err);
/* About the bytes that the tensors of c->bytes_by_type take as matrices; a little more. 0: it overflows. */
size_t qn_weights_room(const struct qn_checkpoint *c);

#endif
