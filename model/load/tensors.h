/* The tensor directory of a checkpoint, whatever its format: names, types, shapes and where the bytes lie.
 *
 * gguf.c and safetensors.c append to it after checking that each tensor's bytes are inside the file;
 * weights.c looks tensors up by name. The index is sorted, not hashed: hostile names can't degrade it.
 * Thread: one loader. */
#ifndef QN_MODEL_LOAD_TENSORS_H
#define QN_MODEL_LOAD_TENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "model/err.h"
#include "model/text/tokenizer.h"

#define QN_TENSOR_NAME_MAX 255
#define QN_TENSOR_DIMS_MAX 8

struct qn_tensor {
    struct qn_str name;                /* in the file's bytes, or in `owned` */
    char *owned;                       /* heap copy of the name (formats that escape names), else NULL */
    enum qn_type type;                 /* QN_TYPE_COUNT: well-formed, but not a type quern computes with */
    const char *type_name;             /* the file's own name of the type; static text */
    uint32_t n_dims;                   /* <= QN_TENSOR_DIMS_MAX */
    uint64_t dims[QN_TENSOR_DIMS_MAX]; /* outermost first, as PyTorch writes shapes */
    const uint8_t *data;               /* in the file's bytes */
    size_t bytes;
    bool used; /* weights.c took it */
};

struct qn_tensor_dir {
    struct qn_tensor *t; /* [n], in the order of the file(s) until indexed; sorted by name afterwards */
    size_t n, cap;
};

/* Appends a copy of *t (and takes t->owned, also on failure). QN_OK or QN_ERR_NOMEM. */
int qn_tensor_dir_add(struct qn_tensor_dir *d, const struct qn_tensor *t, struct qn_err *err);
/* Sorts by name; a name that occurs twice is QN_ERR_FORMAT. Call once, before find. */
int qn_tensor_dir_index(struct qn_tensor_dir *d, struct qn_err *err);
/* NULL when there is none. */
struct qn_tensor *qn_tensor_dir_find(const struct qn_tensor_dir *d, const char *name);
/* Frees all; fine on a zeroed one. */
void qn_tensor_dir_free(struct qn_tensor_dir *d);

/* Bytes between -1, 0, 1 like memcmp, shorter first on a tie. */
int qn_str_compare(struct qn_str a, struct qn_str b);
bool qn_str_is(struct qn_str a, const char *b);
/* For messages: at most 60 bytes of s, bytes outside printable ASCII shown as '?'. Fills and returns out. */
const char *qn_str_show(struct qn_str s, char out[64]);

#endif
