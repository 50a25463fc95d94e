/* The bytes of a streamed reply between loop and socket: a bounded buffer that libmicrohttpd pulls from.
 *
 * The engine pauses a job while job->pending is above its high-water mark; this file keeps that number and
 * tells the engine when it has fallen again. Loop thread. */
#ifndef QN_SERVER_STREAM_H
#define QN_SERVER_STREAM_H

#include "server/request.h"

struct MHD_Response;

#define QN_STREAM_HIGH_WATER (64u * 1024u)
#define QN_STREAM_PING_NS    15000000000u

/* Space was appended to r->stream.buf: account for it, wake the reader. */
void qn_stream_added(struct qn_request *r);
/* Before appending: drops what was sent already. */
struct qn_buf *qn_stream_buf(struct qn_request *r);
/* Ends the stream, after an error event when err is given. */
void qn_stream_end(struct qn_request *r, const struct qn_api_err *err);
/* A comment line when the stream was silent for 15 s. */
void qn_stream_ping(struct qn_request *r, uint64_t now_ns);
/* The response object; holds a reference on r. NULL without memory. */
struct MHD_Response *qn_stream_response(struct qn_request *r);

#endif
