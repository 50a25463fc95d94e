/* GGUF versions 2 and 3, little-endian: metadata and tensor directory, checked completely before use.
 *
 *   bytes -[qn_gguf_parse]-> key/values (typed accessors) + struct qn_tensor_dir
 *
 * All pointers go into the file's bytes, which the caller keeps until qn_gguf_free. Thread: one loader. */
#ifndef QN_MODEL_LOAD_GGUF_H
#define QN_MODEL_LOAD_GGUF_H

#include "model/load/reader.h"
#include "model/load/tensors.h"

enum qn_gguf_type {
    QN_GGUF_U8 = 0,
    QN_GGUF_I8,
    QN_GGUF_U16,
    QN_GGUF_I16,
    QN_GGUF_U32,
    QN_GGUF_I32,
    QN_GGUF_F32,
    QN_GGUF_BOOL,
    QN_GGUF_STRING,
    QN_GGUF_ARRAY,
    QN_GGUF_U64,
    QN_GGUF_I64,
    QN_GGUF_F64,
    QN_GGUF_TYPE_COUNT
};

struct qn_gguf_kv {
    struct qn_str key;
    enum qn_gguf_type type; /* of the value, or of the elements of an array */
    bool array;
    uint64_t count;      /* elements; 1 for a scalar */
    const uint8_t *data; /* first element's bytes (a string's length prefix) */
};

struct qn_gguf {
    uint32_t version;
    size_t alignment;      /* power of two, <= 65536 */
    struct qn_gguf_kv *kv; /* [n_kv], sorted by key */
    size_t n_kv;
    struct qn_tensor_dir dir;
};

/* QN_OK, or QN_ERR_FORMAT / QN_ERR_UNSUPPORTED / QN_ERR_NOMEM and *g empty. data is borrowed. */
int qn_gguf_parse(const void *data, size_t size, struct qn_gguf *g, struct qn_err *err);
void qn_gguf_free(struct qn_gguf *g);

/* ggml's number of a type. */
uint32_t qn_gguf_type_id(enum qn_type type);
/* Bytes of a pair's value, from kv->data on (of a string, with its length). */
size_t qn_gguf_kv_bytes(const struct qn_gguf_kv *kv);

/* Typed accessors: QN_OK and *out, QN_GGUF_ABSENT (no such key; *out untouched), or QN_ERR_FORMAT for another
 * type. Nothing hands out raw value bytes without its element type having been checked. */
#define QN_GGUF_ABSENT 1
const struct qn_gguf_kv *qn_gguf_find(const struct qn_gguf *g, const char *key);
/* Any integer type with a value >= 0; an array of integers counts when all its elements are equal. */
int qn_gguf_u64(const struct qn_gguf *g, const char *key, uint64_t *out, struct qn_err *err);
/* F32 or F64, finite. */
int qn_gguf_f32(const struct qn_gguf *g, const char *key, float *out, struct qn_err *err);
int qn_gguf_bool(const struct qn_gguf *g, const char *key, bool *out, struct qn_err *err);
int qn_gguf_str(const struct qn_gguf *g, const char *key, struct qn_str *out, struct qn_err *err);
/* Array of exactly `type` (a fixed-size one); *data is unaligned little-endian. */
int qn_gguf_array(const struct qn_gguf *g, const char *key, enum qn_gguf_type type, const uint8_t **data,
                  uint64_t *count, struct qn_err *err);
/* Array of strings: *out is malloc'ed (the caller frees), its strings point into the file. */
int qn_gguf_strings(const struct qn_gguf *g, const char *key, struct qn_str **out, uint64_t *count,
                    struct qn_err *err);

#endif
