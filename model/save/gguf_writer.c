/* GGUF as bytes: see gguf_writer.h. */
#include "model/save/gguf_writer.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"

void qn_bytes_add(struct qn_bytes *b, const void *p, size_t n) {
    size_t need;
    if (b->failed || n == 0) return;
    if (!qn_size_add(b->n, n, &need)) {
        b->failed = true;
        return;
    }
    if (need > b->cap) {
        size_t cap = need < SIZE_MAX / 2 ? need * 2 : need;
        uint8_t *grown = realloc(b->p, cap);
        if (!grown) {
            b->failed = true;
            return;
        }
        b->p = grown;
        b->cap = cap;
    }
    memcpy(b->p + b->n, p, n);
    b->n = need;
}

static void zeros(struct qn_bytes *b, size_t n) {
    static const uint8_t zero[64] = {0};
    for (size_t k; n > 0; n -= k) {
        k = n < sizeof zero ? n : sizeof zero;
        qn_bytes_add(b, zero, k);
    }
}

static void u32(struct qn_bytes *b, uint32_t v) {
    const uint8_t le[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    qn_bytes_add(b, le, sizeof le);
}

static void u64(struct qn_bytes *b, uint64_t v) {
    u32(b, (uint32_t)v);
    u32(b, (uint32_t)(v >> 32));
}

static void string(struct qn_bytes *b, struct qn_str s) {
    u64(b, s.n);
    qn_bytes_add(b, s.p, s.n);
}

void qn_gguf_writer_init(struct qn_gguf_writer *w, size_t alignment) {
    *w = (struct qn_gguf_writer){.alignment = alignment};
}

void qn_gguf_writer_free(struct qn_gguf_writer *w) {
    free(w->kv.p);
    free(w->info.p);
    *w = (struct qn_gguf_writer){0};
}

static void key_of(struct qn_gguf_writer *w, const char *key, enum qn_gguf_type type) {
    string(&w->kv, (struct qn_str){key, strlen(key)});
    u32(&w->kv, type);
    w->n_kv++;
}

static void array_of(struct qn_gguf_writer *w, const char *key, enum qn_gguf_type elem, uint64_t n) {
    key_of(w, key, QN_GGUF_ARRAY);
    u32(&w->kv, elem);
    u64(&w->kv, n);
}

void qn_gguf_put_str(struct qn_gguf_writer *w, const char *key, struct qn_str v) {
    key_of(w, key, QN_GGUF_STRING);
    string(&w->kv, v);
}

void qn_gguf_put_u32(struct qn_gguf_writer *w, const char *key, uint32_t v) {
    key_of(w, key, QN_GGUF_U32);
    u32(&w->kv, v);
}

void qn_gguf_put_f32(struct qn_gguf_writer *w, const char *key, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    key_of(w, key, QN_GGUF_F32);
    u32(&w->kv, bits);
}

void qn_gguf_put_bool(struct qn_gguf_writer *w, const char *key, bool v) {
    key_of(w, key, QN_GGUF_BOOL);
    qn_bytes_add(&w->kv, &(uint8_t){v}, 1);
}

void qn_gguf_put_strs(struct qn_gguf_writer *w, const char *key, const struct qn_str *v, size_t n) {
    array_of(w, key, QN_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) string(&w->kv, v[i]);
}

void qn_gguf_put_array4(struct qn_gguf_writer *w, const char *key, enum qn_gguf_type elem, const void *v,
                        size_t n) {
    const uint8_t *p = v;
    array_of(w, key, elem, n);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, p + 4 * i, sizeof bits);
        u32(&w->kv, bits);
    }
}

void qn_gguf_put_kv(struct qn_gguf_writer *w, const struct qn_gguf_kv *kv) {
    string(&w->kv, kv->key);
    if (kv->array) u32(&w->kv, QN_GGUF_ARRAY);
    u32(&w->kv, kv->type);
    if (kv->array) u64(&w->kv, kv->count);
    qn_bytes_add(&w->kv, kv->data, qn_gguf_kv_bytes(kv));
    w->n_kv++;
}

void qn_gguf_put_tensor(struct qn_gguf_writer *w, const char *name, enum qn_type type, const uint64_t *dims,
                        uint32_t n_dims, size_t bytes) {
    string(&w->info, (struct qn_str){name, strlen(name)});
    u32(&w->info, n_dims);
    for (uint32_t i = n_dims; i-- > 0;) u64(&w->info, dims[i]);
    u32(&w->info, qn_gguf_type_id(type));
    u64(&w->info, w->data);
    w->n_tensors++;
    if (!qn_size_align(bytes, w->alignment, &bytes) || !qn_size_add(w->data, bytes, &w->data))
        w->failed = true;
}

int qn_gguf_head(const struct qn_gguf_writer *w, struct qn_bytes *out, struct qn_err *err) {
    size_t end;
    *out = (struct qn_bytes){0};
    if (w->failed) return qn_err_set(err, QN_ERR_UNSUPPORTED, "the file's size overflows");
    qn_bytes_add(out, "GGUF", 4);
    u32(out, 3);
    u64(out, w->n_tensors);
    u64(out, w->n_kv);
    qn_bytes_add(out, w->kv.p, w->kv.n);
    qn_bytes_add(out, w->info.p, w->info.n);
    if (qn_size_align(out->n, w->alignment, &end)) zeros(out, end - out->n);
    if (!w->kv.failed && !w->info.failed && !out->failed) return QN_OK;
    free(out->p);
    *out = (struct qn_bytes){0};
    return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the metadata");
}
