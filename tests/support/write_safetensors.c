/* The safetensors writer for tests. */
#include "tests/support/write_safetensors.h"

#include <inttypes.h>
#include <string.h>

void qn_test_st_tensor(struct qn_test_st *s, const char *name, const char *dtype, const uint64_t *dims,
                       uint32_t n_dims, const struct qn_test_buf *data) {
    qn_test_printf(&s->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", s->n ? "," : "", name, dtype);
    for (uint32_t i = 0; i < n_dims; i++) qn_test_printf(&s->header, "%s%" PRIu64, i ? "," : "", dims[i]);
    qn_test_printf(&s->header, "],\"data_offsets\":[%zu,%zu]}", s->data.n, s->data.n + data->n);
    qn_test_put(&s->data, data->p, data->n);
    s->n++;
}

void qn_test_st_finish(struct qn_test_st *s, struct qn_test_buf *out) {
    *out = (struct qn_test_buf){0};
    qn_test_put_u64(out, s->header.n + 2);
    qn_test_put(out, "{", 1);
    qn_test_put(out, s->header.p, s->header.n);
    qn_test_put(out, "}", 1);
    qn_test_put(out, s->data.p, s->data.n);
    qn_test_buf_free(&s->header);
    qn_test_buf_free(&s->data);
    s->n = 0;
}

void qn_test_st_raw(const char *header, const void *data, size_t n, struct qn_test_buf *out) {
    *out = (struct qn_test_buf){0};
    qn_test_put_u64(out, strlen(header));
    qn_test_put(out, header, strlen(header));
    qn_test_put(out, data, n);
}
