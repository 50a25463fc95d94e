/* A bounded cursor over the bytes of a file: little-endian integers, strings, skips.
 *
 * The first error sticks: after it every read gives zero and moves nothing, so a parser may read a whole
 * record and check once. The message names the byte where the read began. Nothing is copied; strings point
 * into the bytes. Thread: any; one cursor per thread. */
#ifndef QN_MODEL_LOAD_READER_H
#define QN_MODEL_LOAD_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/err.h"
#include "model/text/tokenizer.h"

struct qn_reader {
    const uint8_t *data; /* borrowed */
    size_t size;         /* bytes in data */
    size_t pos;          /* next byte, <= size */
    struct qn_err *err;  /* where the first error goes; may be NULL */
    int status;          /* QN_OK until something failed */
};

void qn_reader_init(struct qn_reader *r, const void *data, size_t size, struct qn_err *err);
/* Records a QN_ERR_FORMAT at the present position ("byte 123: …") unless one is recorded; returns r->status.
 */
int qn_reader_fail(struct qn_reader *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* `what` names the thing that is read, for the message. */
uint8_t qn_reader_u8(struct qn_reader *r, const char *what);
uint32_t qn_reader_u32(struct qn_reader *r, const char *what);
uint64_t qn_reader_u64(struct qn_reader *r, const char *what);
/* n bytes in place; NULL after an error. n = 0 gives a valid pointer. */
const uint8_t *qn_reader_bytes(struct qn_reader *r, uint64_t n, const char *what);
/* A u64 length and that many bytes; longer than max is an error. */
struct qn_str qn_reader_string(struct qn_reader *r, uint64_t max, const char *what);
/* True when `count` things of at least min_bytes (>= 1) each can still follow; else records an error. Call it
 * before anything is allocated from a count. */
bool qn_reader_fits(struct qn_reader *r, uint64_t count, size_t min_bytes, const char *what);

/* Unaligned little-endian loads from bytes that are known to be there. */
uint32_t qn_load_u32(const uint8_t *p);
uint64_t qn_load_u64(const uint8_t *p);
float qn_load_f32(const uint8_t *p);

#endif
