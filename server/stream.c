/* Streamed replies. Data flow: engine event -> SSE bytes appended here -> libmicrohttpd's reader copies them
 * out, and suspends the connection when there are none (returning 0 without suspending would spin). Thread:
 * loop. */
#include "server/stream.h"

#include <microhttpd.h>
#include <string.h>

#include "server/http.h"

#define BLOCK (16u * 1024u) /* most bytes per chunk */

static size_t waiting(const struct qn_stream *s) {
    return s->buf.n - s->off;
}

/* Publishes how much waits; above the mark the engine pauses the job by itself. */
static void account(struct qn_request *r) {
    struct qn_stream *s = &r->stream;
    if (!r->job) return;
    size_t n = waiting(s);
    atomic_store_explicit(&r->job->pending, n, memory_order_release);
    if (n > QN_STREAM_HIGH_WATER) {
        s->paused = true;
    } else if (s->paused && n <= QN_STREAM_HIGH_WATER / 2) {
        s->paused = false;
        qn_engine_nudge(r->srv->engine);
    }
}

struct qn_buf *qn_stream_buf(struct qn_request *r) {
    struct qn_stream *s = &r->stream;
    if (s->off == s->buf.n) {
        qn_buf_clear(&s->buf);
        s->off = 0;
    } else if (s->off > BLOCK && s->off > waiting(s)) { /* moving costs less than what was sent */
        memmove(s->buf.p, s->buf.p + s->off, waiting(s));
        s->buf.n -= s->off;
        s->off = 0;
    }
    return &s->buf;
}

void qn_stream_added(struct qn_request *r) {
    r->stream.last_ns = qn_now_ns();
    account(r);
    qn_http_resume(r);
}

void qn_stream_end(struct qn_request *r, const struct qn_api_err *err) {
    struct qn_buf *b = qn_stream_buf(r);
    if (err) {
        struct qn_buf json = {0};
        qn_api_error_write(&json, err);
        if (!json.failed && json.p) qn_api_sse_data(b, json.p, json.n);
        qn_buf_free(&json);
    }
    qn_api_sse_done(b);
    r->stream.done = true;
    qn_stream_added(r);
}

void qn_stream_ping(struct qn_request *r, uint64_t now_ns) {
    struct qn_stream *s = &r->stream;
    if (!s->open || s->done || waiting(s) || now_ns < s->last_ns + QN_STREAM_PING_NS) return;
    qn_api_sse_ping(qn_stream_buf(r));
    qn_stream_added(r);
}

static ssize_t reader(void *cls, uint64_t pos, char *out, size_t max) {
    struct qn_request *r = cls;
    struct qn_stream *s = &r->stream;
    (void)pos;
    size_t n = waiting(s);
    if (n > 0) {
        if (n > max) n = max;
        memcpy(out, s->buf.p + s->off, n);
        s->off += n;
        account(r);
        return (ssize_t)n;
    }
    if (s->buf.failed || r->gone || !r->conn) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (s->done) return MHD_CONTENT_READER_END_OF_STREAM;
    qn_http_suspend(r);
    return 0;
}

static void release(void *cls) {
    qn_request_unref(cls);
}

struct MHD_Response *qn_stream_response(struct qn_request *r) {
    struct MHD_Response *resp =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, reader, r, release);
    if (resp) qn_request_ref(r);
    return resp;
}
