/* GGUF version 3, little-endian: metadata and tensor directory as bytes.
 *
 *   qn_gguf_put_* -> key/values; qn_gguf_put_tensor -> infos and offsets; qn_gguf_head -> everything before
 * the tensor data, padded
 *
 * Failures stick: a writer that ran out of memory or out of range takes everything and gives nothing.
 * Thread: one writer. */
#ifndef QN_MODEL_SAVE_GGUF_WRITER_H
#define QN_MODEL_SAVE_GGUF_WRITER_H

#include "model/load/gguf.h"

/* Bytes that grow. */
struct qn_bytes {
    uint8_t *p;
    size_t n, cap;
    bool failed; /* no memory: later ones are dropped */
};
void qn_bytes_add(struct qn_bytes *b, const void *p, size_t n);

struct qn_gguf_writer {
    struct qn_bytes kv, info;
    uint64_t n_kv, n_tensors;
    size_t alignment; /* power of two */
    size_t data;      /* bytes of the tensor data so far, padded */
    bool failed;      /* a size overflowed */
};

void qn_gguf_writer_init(struct qn_gguf_writer *w, size_t alignment);
void qn_gguf_writer_free(struct qn_gguf_writer *w);

void qn_gguf_put_str(struct qn_gguf_writer *w, const char *key, struct qn_str v);
void qn_gguf_put_u32(struct qn_gguf_writer *w, const char *key, uint32_t v);
void qn_gguf_put_f32(struct qn_gguf_writer *w, const char *key, float v);
void qn_gguf_put_bool(struct qn_gguf_writer *w, const char *key, bool v);
void qn_gguf_put_strs(struct qn_gguf_writer *w, const char *key, const struct qn_str *v, size_t n);
/* n elements of 4 bytes each: QN_GGUF_U32, QN_GGUF_I32 or QN_GGUF_F32. */
void qn_gguf_put_array4(struct qn_gguf_writer *w, const char *key, enum qn_gguf_type elem, const void *v,
                        size_t n);
/* A pair of another file, byte for byte. */
void qn_gguf_put_kv(struct qn_gguf_writer *w, const struct qn_gguf_kv *kv);
/* The next tensor. dims: outermost first. Its data is `bytes` long and follows that of the one before, padded
 * to the alignment. */
void qn_gguf_put_tensor(struct qn_gguf_writer *w, const char *name, enum qn_type type, const uint64_t *dims,
                        uint32_t n_dims, size_t bytes);
/* All before the tensor data -> *out (empty; the caller frees out->p). QN_ERR_NOMEM or QN_ERR_UNSUPPORTED
 * when something failed on the way. */
int qn_gguf_head(const struct qn_gguf_writer *w, struct qn_bytes *out, struct qn_err *err);

#endif
