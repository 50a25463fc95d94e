/* A growing byte buffer with a limit and a sticky failure flag: writers append without checking each call and
 * look at `failed` once at the end. Also the hand-written JSON emitters (floats, integers, strings) that
 * jansson is too slow for. Thread: any, one at a time. */
#ifndef QN_API_BUF_H
#define QN_API_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct qn_buf {
    char *p;      /* owned; free with qn_buf_free; always NUL-terminated once anything was appended */
    size_t n;     /* bytes used */
    size_t cap;   /* bytes held */
    size_t limit; /* most bytes allowed; 0 = no limit */
    bool failed;  /* an append did not fit or memory was short; contents are then incomplete */
};

void qn_buf_free(struct qn_buf *b);  /* also resets; NULL is fine */
void qn_buf_clear(struct qn_buf *b); /* keeps the memory */
void qn_buf_add(struct qn_buf *b, const void *p, size_t n);
void qn_buf_str(struct qn_buf *b, const char *s);
void qn_buf_printf(struct qn_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* JSON values: a quoted and escaped string (invalid UTF-8 becomes U+FFFD), integers, and numbers that are
 * finite or null. `digits` = digits after the point, trailing zeros trimmed. */
void qn_buf_json_str(struct qn_buf *b, const char *s, size_t n);
void qn_buf_json_int(struct qn_buf *b, int64_t v);
void qn_buf_json_uint(struct qn_buf *b, uint64_t v);
void qn_buf_json_num(struct qn_buf *b, double v, unsigned digits);
/* Is all of it well-formed UTF-8? */
bool qn_buf_utf8_ok(const char *s, size_t n);
/* Shortest text that reads back as the same float; null when not finite. */
void qn_buf_json_float(struct qn_buf *b, float v);

#endif
