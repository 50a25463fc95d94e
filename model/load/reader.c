/* The bounded cursor: every read compares with what is left before it touches a byte. */
#include "model/load/reader.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void qn_reader_init(struct qn_reader *r, const void *data, size_t size, struct qn_err *err) {
    *r = (struct qn_reader){.data = data, .size = size, .err = err};
}

int qn_reader_fail(struct qn_reader *r, const char *fmt, ...) {
    char msg[512];
    if (r->status != QN_OK) return r->status;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    r->status = qn_err_set(r->err, QN_ERR_FORMAT, "byte %zu: %s", r->pos, msg);
    return r->status;
}

const uint8_t *qn_reader_bytes(struct qn_reader *r, uint64_t n, const char *what) {
    if (r->status != QN_OK) return NULL;
    if (n > r->size - r->pos) {
        qn_reader_fail(r, "the file ends inside %s (%" PRIu64 " bytes wanted, %zu left)", what, n,
                       r->size - r->pos);
        return NULL;
    }
    const uint8_t *p = r->data + r->pos;
    r->pos += (size_t)n;
    return p;
}

uint32_t qn_load_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

uint64_t qn_load_u64(const uint8_t *p) {
    return (uint64_t)qn_load_u32(p) | (uint64_t)qn_load_u32(p + 4) << 32;
}

float qn_load_f32(const uint8_t *p) {
    uint32_t u = qn_load_u32(p);
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

uint8_t qn_reader_u8(struct qn_reader *r, const char *what) {
    const uint8_t *p = qn_reader_bytes(r, 1, what);
    return p ? *p : 0;
}

uint32_t qn_reader_u32(struct qn_reader *r, const char *what) {
    const uint8_t *p = qn_reader_bytes(r, 4, what);
    return p ? qn_load_u32(p) : 0;
}

uint64_t qn_reader_u64(struct qn_reader *r, const char *what) {
    const uint8_t *p = qn_reader_bytes(r, 8, what);
    return p ? qn_load_u64(p) : 0;
}

struct qn_str qn_reader_string(struct qn_reader *r, uint64_t max, const char *what) {
    struct qn_str none = {"", 0};
    size_t start = r->pos;
    uint64_t n = qn_reader_u64(r, what);
    if (r->status != QN_OK) return none;
    if (n > max && n <= r->size - r->pos) {
        r->pos = start;
        qn_reader_fail(r, "%s is %" PRIu64 " bytes long, at most %" PRIu64 " are allowed", what, n, max);
        return none;
    }
    const uint8_t *p = qn_reader_bytes(r, n, what);
    return p ? (struct qn_str){(const char *)p, (size_t)n} : none;
}

bool qn_reader_fits(struct qn_reader *r, uint64_t count, size_t min_bytes, const char *what) {
    if (r->status != QN_OK) return false;
    if (count > (r->size - r->pos) / min_bytes) {
        qn_reader_fail(r, "the count of %s is %" PRIu64 ", more than the rest of the file can hold", what,
                       count);
        return false;
    }
    return true;
}
