/* A safetensors writer for tests. Thread: any. */
#ifndef QN_TESTS_SUPPORT_WRITE_SAFETENSORS_H
#define QN_TESTS_SUPPORT_WRITE_SAFETENSORS_H

#include "tests/support/write_gguf.h"

struct qn_test_st {
    struct qn_test_buf header; /* JSON members so far */
    struct qn_test_buf data;
    unsigned n;
};

/* dims outermost first; dtype as the format spells it. */
void qn_test_st_tensor(struct qn_test_st *s, const char *name, const char *dtype, const uint64_t *dims,
                       uint32_t n_dims, const struct qn_test_buf *data);
/* Joins the parts into *out and frees them. */
void qn_test_st_finish(struct qn_test_st *s, struct qn_test_buf *out);
/* A file from a header's text and data, whatever they say. */
void qn_test_st_raw(const char *header, const void *data, size_t n, struct qn_test_buf *out);

#endif
