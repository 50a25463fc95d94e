/* Server-sent events as a client reads them: bytes in any pieces -> the data of each event. Bounded. Pure but
 * for its buffers. Thread: any. */
#ifndef QN_SERVER_SSE_READ_H
#define QN_SERVER_SSE_READ_H

#include <stdbool.h>
#include <stddef.h>

#include "api/buf.h"

struct qn_sse {
    struct qn_buf line,
        data; /* .limit of both: set before the first byte; an event that is longer is an error */
    bool has_data, after_cr;
    /* One event. false: stop reading. */
    bool (*event)(void *ctx, const char *data, size_t n);
    void *ctx;
};

/* false: too long, memory is short, or event said so. */
bool qn_sse_feed(struct qn_sse *s, const char *bytes, size_t n);
void qn_sse_free(struct qn_sse *s);

#endif
