/* The GGUF writer for tests. */
#include "tests/support/write_gguf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void qn_test_put(struct qn_test_buf *b, const void *bytes, size_t n) {
    if (b->cap - b->n < n) {
        size_t cap = 2 * b->cap > b->n + n ? 2 * b->cap : b->n + n + 256;
        b->p = realloc(b->p, cap);
        if (!b->p) abort();
        b->cap = cap;
    }
    if (n) memcpy(b->p + b->n, bytes, n);
    b->n += n;
}

void qn_test_put_u32(struct qn_test_buf *b, uint32_t v) {
    qn_test_put(b, &v, sizeof v);
}

void qn_test_put_u64(struct qn_test_buf *b, uint64_t v) {
    qn_test_put(b, &v, sizeof v);
}

void qn_test_put_f32(struct qn_test_buf *b, float v) {
    qn_test_put(b, &v, sizeof v);
}

void qn_test_put_str(struct qn_test_buf *b, const char *s) {
    qn_test_put_u64(b, strlen(s));
    qn_test_put(b, s, strlen(s));
}

void qn_test_printf(struct qn_test_buf *b, const char *fmt, ...) {
    char text[4096];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof text) abort();
    qn_test_put(b, text, (size_t)n);
}

void qn_test_buf_free(struct qn_test_buf *b) {
    free(b->p);
    *b = (struct qn_test_buf){0};
}

int qn_test_buf_save(const struct qn_test_buf *b, const char *path) {
    FILE *f = fopen(path, "wb");
    if (!f) return -1;
    size_t n = b->n ? fwrite(b->p, 1, b->n, f) : 0;
    return fclose(f) == 0 && n == b->n ? 0 : -1;
}

void qn_test_gguf_raw(struct qn_test_gguf *g, const char *key, uint32_t type, const void *bytes, size_t n) {
    qn_test_put_str(&g->kv, key);
    qn_test_put_u32(&g->kv, type);
    qn_test_put(&g->kv, bytes, n);
    g->n_kv++;
}

void qn_test_gguf_u32(struct qn_test_gguf *g, const char *key, uint32_t v) {
    qn_test_gguf_raw(g, key, 4, &v, sizeof v);
}

void qn_test_gguf_f32(struct qn_test_gguf *g, const char *key, float v) {
    qn_test_gguf_raw(g, key, 6, &v, sizeof v);
}

void qn_test_gguf_bool(struct qn_test_gguf *g, const char *key, int v) {
    uint8_t byte = v != 0;
    qn_test_gguf_raw(g, key, 7, &byte, 1);
}

void qn_test_gguf_str(struct qn_test_gguf *g, const char *key, const char *v) {
    qn_test_gguf_raw(g, key, 8, NULL, 0);
    qn_test_put_str(&g->kv, v);
}

void qn_test_gguf_strs(struct qn_test_gguf *g, const char *key, const char *const *v, size_t n) {
    qn_test_gguf_raw(g, key, 9, NULL, 0);
    qn_test_put_u32(&g->kv, 8);
    qn_test_put_u64(&g->kv, n);
    for (size_t i = 0; i < n; i++) qn_test_put_str(&g->kv, v[i]);
}

void qn_test_gguf_array4(struct qn_test_gguf *g, const char *key, uint32_t elem, const void *v, size_t n) {
    qn_test_gguf_raw(g, key, 9, NULL, 0);
    qn_test_put_u32(&g->kv, elem);
    qn_test_put_u64(&g->kv, n);
    qn_test_put(&g->kv, v, n * 4);
}

static void pad(struct qn_test_buf *b, size_t alignment) {
    static const uint8_t zero[1] = {0};
    while (b->n % alignment) qn_test_put(b, zero, 1);
}

void qn_test_gguf_tensor(struct qn_test_gguf *g, const char *name, uint32_t type, const uint64_t *dims,
                         uint32_t n_dims, const struct qn_test_buf *data) {
    qn_test_put_str(&g->info, name);
    qn_test_put_u32(&g->info, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) qn_test_put_u64(&g->info, dims[i]);
    qn_test_put_u32(&g->info, type);
    qn_test_put_u64(&g->info, g->data.n);
    qn_test_put(&g->data, data->p, data->n);
    pad(&g->data, g->alignment ? g->alignment : 32);
    g->n_tensors++;
}

void qn_test_gguf_finish(struct qn_test_gguf *g, struct qn_test_buf *out) {
    if (g->alignment) qn_test_gguf_u32(g, "general.alignment", g->alignment);
    *out = (struct qn_test_buf){0};
    qn_test_put(out, "GGUF", 4);
    qn_test_put_u32(out, g->version ? g->version : 3);
    qn_test_put_u64(out, g->n_tensors);
    qn_test_put_u64(out, g->n_kv);
    qn_test_put(out, g->kv.p, g->kv.n);
    qn_test_put(out, g->info.p, g->info.n);
    pad(out, g->alignment ? g->alignment : 32);
    qn_test_put(out, g->data.p, g->data.n);
    qn_test_buf_free(&g->kv);
    qn_test_buf_free(&g->info);
    qn_test_buf_free(&g->data);
}
