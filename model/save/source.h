/* What is to be written: tensors under their GGUF names with a way to read their rows as floats, and the
 * metadata. Two kinds of sources: a GGUF file (from_gguf.c), whose rows can also be copied as they are, and
 * a checkpoint in memory (from_checkpoint.c), read from safetensors or made from a description.
 * Thread: one converter; rows are read by the pool's threads. */
#ifndef QN_MODEL_SAVE_SOURCE_H
#define QN_MODEL_SAVE_SOURCE_H

#include "model/load/checkpoint.h"
#include "model/load/mapfile.h"
#include "model/save/gguf_writer.h"

struct qn_save_tensor {
    char name[QN_TENSOR_NAME_MAX + 1];
    uint32_t n_dims;
    uint64_t dims[QN_TENSOR_DIMS_MAX]; /* outermost first */
    uint64_t rows;                     /* all but the last dimension */
    size_t cols;
    enum qn_type type; /* of the source's values; what is not to be quantised is written as this */
    /* one of three */
    const uint8_t *data; /* rows of `type` as a file has them, one after the other: `bytes` of them */
    size_t bytes;
    const float *v;                       /* [rows, cols] */
    const struct qn_matrix *const *parts; /* matrices whose rows follow one another */
    uint32_t n_parts;
    /* of parts: heads of `block` rows, of which the first `rot` come in adjacent-pair order; 0: as they are
     */
    uint32_t block, rot;
};

struct qn_save_source {
    struct qn_save_tensor *t; /* [n] */
    size_t n, cap;
    struct qn_gguf_writer meta; /* key/values, but for the file type */
    uint32_t layers, heads, kv_heads, experts;
    char arch[24];
    bool fast; /* random weights: no search for scales */
    /* what it was read from */
    struct qn_mapfile map;
    struct qn_gguf gguf;
    struct qn_checkpoint *ckpt;
    struct qn_mem_list owned;
};

/* path: a GGUF file, read through as it is written, or anything else that quern loads, a description
 * included, which is in memory for that time. Everything is checked as for serving. On failure s is
 * half-built: qn_save_source_close. */
int qn_save_source_open(const char *path, const struct qn_load_options *opt, struct qn_save_source *s,
                        struct qn_err *err);
void qn_save_source_close(struct qn_save_source *s);
/* Row r as floats. Any thread. */
void qn_save_row(const struct qn_save_tensor *t, uint64_t r, float *dst);

/* ---- between the files of save/ ---- */
int qn_save_from_gguf(const char *path, struct qn_save_source *s, struct qn_err *err);
int qn_save_from_checkpoint(const char *path, const struct qn_load_options *opt, struct qn_save_source *s,
                            struct qn_err *err);
/* tokenizer.ggml.* of a vocabulary. */
int qn_save_vocab(struct qn_gguf_writer *w, const struct qn_vocab_desc *d, struct qn_err *err);
/* Appends an empty tensor; NULL without memory. */
struct qn_save_tensor *qn_save_add(struct qn_save_source *s);

#endif
