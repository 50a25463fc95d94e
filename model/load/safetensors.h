/* safetensors: one file, or shards listed by model.safetensors.index.json; checked completely before use.
 *
 * The rules are those of the format's own reference reader: header length at most 100,000,000 and inside the
 * file, the header an object without duplicate keys, __metadata__ string to string, tensors contiguous from 0
 * to the end of the file, sizes equal to shape times type. Added here: known types only, bounded names, at
 * most 8 dimensions, bounded tensor count. Values (NaN, infinity) are not looked at. Thread: one loader. */
#ifndef QN_MODEL_LOAD_SAFETENSORS_H
#define QN_MODEL_LOAD_SAFETENSORS_H

#include "model/load/mapfile.h"
#include "model/load/tensors.h"

/* Appends one file's tensors to *dir; data is borrowed for as long as dir is used. dir is not indexed here.
 */
int qn_safetensors_parse(const void *data, size_t size, struct qn_tensor_dir *dir, struct qn_err *err);

struct qn_safetensors {
    struct qn_mapfile *shards; /* [n] */
    size_t n;
    size_t bytes; /* of all shards */
    struct qn_tensor_dir dir;
};

/* Maps and parses `path`: a .safetensors file, or a directory with model.safetensors or the index of its
 * shards. */
int qn_safetensors_open(const char *path, struct qn_safetensors *s, struct qn_err *err);
void qn_safetensors_close(struct qn_safetensors *s);

#endif
