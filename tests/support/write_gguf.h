/* A growing byte buffer and a GGUF writer for tests: builds valid files, and broken ones when asked to.
 * Running out of memory ends the test. Thread: any. */
#ifndef QN_TESTS_SUPPORT_WRITE_GGUF_H
#define QN_TESTS_SUPPORT_WRITE_GGUF_H

#include <stddef.h>
#include <stdint.h>

struct qn_test_buf {
    uint8_t *p;
    size_t n, cap;
};

void qn_test_put(struct qn_test_buf *b, const void *bytes, size_t n);
void qn_test_put_u32(struct qn_test_buf *b, uint32_t v);
void qn_test_put_u64(struct qn_test_buf *b, uint64_t v);
void qn_test_put_f32(struct qn_test_buf *b, float v);
void qn_test_put_str(struct qn_test_buf *b, const char *s); /* u64 length, bytes */
void qn_test_printf(struct qn_test_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void qn_test_buf_free(struct qn_test_buf *b);
/* Writes the buffer to a file; 0, or -1 with errno. */
int qn_test_buf_save(const struct qn_test_buf *b, const char *path);

struct qn_test_gguf {
    struct qn_test_buf kv, info, data;
    uint64_t n_kv, n_tensors;
    uint32_t version;   /* 0: 3 */
    uint32_t alignment; /* 0: 32 and no general.alignment key */
};

/* Key, value type number, raw value bytes. */
void qn_test_gguf_raw(struct qn_test_gguf *g, const char *key, uint32_t type, const void *bytes, size_t n);
void qn_test_gguf_u32(struct qn_test_gguf *g, const char *key, uint32_t v);
void qn_test_gguf_f32(struct qn_test_gguf *g, const char *key, float v);
void qn_test_gguf_bool(struct qn_test_gguf *g, const char *key, int v);
void qn_test_gguf_str(struct qn_test_gguf *g, const char *key, const char *v);
void qn_test_gguf_strs(struct qn_test_gguf *g, const char *key, const char *const *v, size_t n);
/* elem: value type number of 4-byte elements (4 u32, 5 i32, 6 f32). */
void qn_test_gguf_array4(struct qn_test_gguf *g, const char *key, uint32_t elem, const void *v, size_t n);
/* dims innermost first; type: ggml's number. Data is padded to the alignment. */
void qn_test_gguf_tensor(struct qn_test_gguf *g, const char *name, uint32_t type, const uint64_t *dims,
                         uint32_t n_dims, const struct qn_test_buf *data);
/* Joins the parts into *out and frees them. */
void qn_test_gguf_finish(struct qn_test_gguf *g, struct qn_test_buf *out);

#endif
