/* libmicrohttpd on its epoll descriptor inside the loop: connections, request bodies, replies, guards.
 *
 * Only http.c and stream.c know libmicrohttpd. Every function here runs on the loop thread. After anything
 * that resumes, cancels or shuts down a connection, the caller runs qn_loop_pump. */
#ifndef QN_SERVER_HTTP_H
#define QN_SERVER_HTTP_H

#include "server/request.h"

struct qn_http;
struct MHD_Connection;
struct MHD_Response;

struct qn_conn {
    struct MHD_Connection *mc;
    struct qn_conn *prev, *next;
    struct qn_request *cur; /* the request being read, run or answered */
    struct qn_http *http;
    uint64_t since_ns; /* accepted, or last request completed */
    int fd;
    bool gone;       /* the client closed its side */
    bool over_limit; /* accepted above the soft limit: will be told so */
    bool used;       /* has completed a request */
    bool closing;    /* shut down by us */
};

/* Takes over listen_fd (non-blocking, listening). NULL with why filled on failure. */
struct qn_http *qn_http_new(struct qn_server *srv, int listen_fd, char *why, size_t why_n);
int qn_http_fd(const struct qn_http *h);       /* readable: pump */
int qn_http_watch_fd(const struct qn_http *h); /* readable: qn_http_watch, then pump */

/* Lets libmicrohttpd work, for a bounded time. Returns 0: call again at once; > 0: again after so many
 * milliseconds at the latest; -1: no deadline. */
int qn_http_run(struct qn_http *h);
void qn_http_watch(struct qn_http *h);
/* Enforces deadlines and sends pings; every QN_SWEEP_MS. */
void qn_http_sweep(struct qn_http *h);
#define QN_SWEEP_MS 100

void qn_http_resume(struct qn_request *r); /* no effect unless suspended */
void qn_http_suspend(struct qn_request *r);
unsigned qn_http_connections(const struct qn_http *h);
unsigned qn_http_active(const struct qn_http *h); /* connections with a request */

/* Leaving: no new connections. */
void qn_http_quiesce(struct qn_http *h);
/* Closes connections without a request; those accepted a moment ago are left for now, and counted. */
unsigned qn_http_close_idle(struct qn_http *h);
/* The drain time is over: cancels every request; those that still get an answer are told why. */
void qn_http_cancel_all(struct qn_http *h);
/* Resumes all and closes every connection. The engine must have delivered its events before. */
void qn_http_free(struct qn_http *h);

#endif
