/* libmicrohttpd inside the loop.
 *
 *   accept -> qn_conn -> [head -> guards, auth, route -> body -> handler -> suspend … resume -> reply]*
 *
 * libmicrohttpd leaves five things to its user, all done here: it doesn't notice that the client of a
 * suspended connection left (a second epoll set watches every socket for EPOLLRDHUP), its timeouts restart
 * with every byte (the sweep has absolute deadlines), it must run again after a close at its connection
 * limit, it loses a FIN that arrives with the request (the watch shuts the reading side, which makes a fresh
 * edge), and it accepts ambiguous framing (http_guard.c). Bodies of refused requests are read and dropped for
 * a bounded time, so that the client gets to read the refusal. Thread: loop. */
#include "server/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/gate.h"
#include "server/handlers.h"
#include "server/loop.h"
#include "server/route.h"
#include "server/stream.h"

#define POOL_BYTES  ((size_t)16 * 1024) /* per connection; libmicrohttpd clears it for every request */
#define DRAIN_BYTES ((size_t)8 * 1024 * 1024)
#define DRAIN_NS    2000000000u
#define FRESH_NS    250000000u
#define OVER_NS     2000000000u /* how long a connection above the limit may take to ask */

struct qn_http {
    struct qn_server *srv;
    struct MHD_Daemon *mhd;
    int fd, watch_fd;
    bool again; /* something happened that only the next run will look at: a close, a resume */
    bool quiet; /* no longer listening */
    unsigned n_conns, n_active;
    struct qn_conn *conns;
};

/* ---- replies ---- */

static void add_cors(const struct qn_request *r, struct MHD_Response *resp) {
    MHD_add_response_header(resp, "Access-Control-Allow-Origin", "*");
    MHD_add_response_header(resp, "Access-Control-Expose-Headers",
                            "x-request-id, server-timing, retry-after");
    if (r->method != QN_OPTIONS) return;
    MHD_add_response_header(resp, "Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
    MHD_add_response_header(resp, "Access-Control-Allow-Headers", r->preflight ? r->preflight : "*");
    MHD_add_response_header(resp, "Access-Control-Max-Age", "600");
}

static void add_file_headers(const struct qn_request *r, struct MHD_Response *resp) {
    for (const struct qn_page_header *h = qn_page_headers(); h->name; h++)
        MHD_add_response_header(resp, h->name, h->value);
    MHD_add_response_header(resp, "ETag", r->tag);
}

static void add_headers(const struct qn_request *r, struct MHD_Response *resp) {
    char number[16];
    if (r->type) MHD_add_response_header(resp, "Content-Type", r->type);
    MHD_add_response_header(resp, "x-request-id", r->id);
    if (r->stream.open) {
        MHD_add_response_header(resp, "Cache-Control", "no-cache");
        MHD_add_response_header(resp, "X-Accel-Buffering", "no");
    }
    if (r->timing.n && !r->timing.failed) MHD_add_response_header(resp, "Server-Timing", r->timing.p);
    if (r->allow) MHD_add_response_header(resp, "Allow", r->allow);
    if (r->status == 401) MHD_add_response_header(resp, "WWW-Authenticate", "Bearer");
    if (r->retry_after) {
        snprintf(number, sizeof number, "%u", r->retry_after);
        MHD_add_response_header(resp, "Retry-After", number);
    }
    if (r->file) add_file_headers(r, resp);
    if (r->vary) MHD_add_response_header(resp, "Vary", "Accept");
    if (r->cors) add_cors(r, resp);
    if (r->close || r->conn->over_limit || qn_server_closing(r->srv))
        MHD_add_response_header(resp, "Connection", "close");
}

static enum MHD_Result queue_reply(struct qn_request *r) {
    struct MHD_Response *resp;
    if (r->stream.open) {
        resp = qn_stream_response(r);
    } else if (r->file) { /* a constant of the binary: MHD only reads it, and of a 304 only the length */
        resp = MHD_create_response_from_buffer((size_t)(r->file->end - r->file->p),
                                               (void *)(uintptr_t)r->file->p, MHD_RESPMEM_PERSISTENT);
    } else { /* the buffer becomes the response's: malloc'ed by api/buf */
        resp = MHD_create_response_from_buffer(r->reply.n, r->reply.n ? r->reply.p : (void *)"",
                                               r->reply.n ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
        if (resp && r->reply.n) r->reply = (struct qn_buf){0};
    }
    if (!resp) return MHD_NO;
    add_headers(r, resp);
    enum MHD_Result ok = MHD_queue_response(r->conn->mc, r->status, resp);
    MHD_destroy_response(resp);
    r->queued = ok == MHD_YES;
    return ok;
}

/* An answer past libmicrohttpd, for a request that it is still reading: a whole small reply straight to the
 * socket. Only while nothing of a reply was sent. The caller shuts the connection down. */
static void raw_reply(struct qn_request *r) {
    char head[512];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 %u %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                     "x-request-id: %s\r\n%sConnection: close\r\n\r\n",
                     r->status, MHD_get_reason_phrase_for(r->status), r->reply.n, r->id,
                     r->retry_after ? "Retry-After: 1\r\n" : "");
    if (n <= 0 || (size_t)n >= sizeof head || !r->reply.p) return;
    struct iovec iov[2] = {{head, (size_t)n}, {r->reply.p, r->reply.n}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    if (sendmsg(r->conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) > 0) r->queued = true;
}

/* Makes libmicrohttpd see the end of the connection at its next run. */
static void shut(struct qn_conn *c) {
    c->closing = true;
    shutdown(c->fd, SHUT_RD);
}

/* ---- the handler ---- */

static enum MHD_Result each_header(void *cls, enum MHD_ValueKind kind, const char *name, size_t name_n,
                                   const char *value, size_t value_n) {
    (void)kind;
    qn_head_add(cls, name, name_n, value, value_n);
    return MHD_YES;
}

/* The head is here: everything that can be decided without the body. */
static enum MHD_Result first_call(struct qn_http *h, struct qn_request *r, const char *url,
                                  const char *version) {
    struct qn_head head;
    memset(&head, 0, sizeof head);
    MHD_get_connection_values_n(r->conn->mc, MHD_HEADER_KIND, each_header, &head);
    qn_metrics_add(h->srv->metrics, QN_C_HTTP_REQUESTS, 1);
    bool trusted = qn_gate(r, &head, url, version, r->conn->over_limit);
    const char *model = MHD_lookup_connection_value(r->conn->mc, MHD_GET_ARGUMENT_KIND, "model");
    if (model && (r->method & (QN_GET | QN_HEAD))) qn_gate_model(r, model);
    r->refused = r->ready;
    r->discard = r->refused || !(r->method & QN_POST);
    if (r->ready && (!trusted || head.expect || head.length > DRAIN_BYTES)) {
        r->close = true;
        return queue_reply(r); /* from here this closes the connection after the reply */
    }
    return MHD_YES;
}

static void body_too_large(struct qn_request *r) {
    struct qn_api_err err = {.code = QN_API_OK};
    qn_api_fail(&err, QN_API_BODY_TOO_LARGE, "", "the body is longer than %zu bytes", r->srv->cfg.max_body);
    qn_reply_error(r, &err);
    qn_request_drop_body(r);
    r->refused = r->discard = true;
}

static enum MHD_Result body_call(struct qn_http *h, struct qn_request *r, const char *data, size_t *n) {
    if (r->discard) {
        r->drained += *n;
        *n = 0;
        if (r->drained <= DRAIN_BYTES) return MHD_YES;
        if (!r->ready) body_too_large(r);
        raw_reply(r);
        return MHD_NO;
    }
    size_t before = r->body.n;
    if (before + *n > h->srv->cfg.max_body) {
        body_too_large(r);
        return MHD_YES; /* called again with the same bytes, which are dropped then */
    }
    qn_buf_add(&r->body, data, *n);
    h->srv->bodies += r->body.n - before;
    *n = 0;
    if (r->body.failed) {
        qn_reply_fail(r, QN_API_OUT_OF_MEMORY, "no memory for the body");
        r->refused = r->discard = true;
    }
    return MHD_YES;
}

/* The request is complete, or was resumed. */
static enum MHD_Result final_call(struct qn_request *r) {
    if (!r->received) {
        r->received = true;
        r->t_body_ns = qn_now_ns();
    }
    if (!r->started && !r->ready) { /* who left gets what needs no waiting: it may only have half-closed */
        if (r->conn->gone && r->route->methods == QN_POST) return MHD_NO;
        r->started = true;
        qn_request_start(r);
    }
    if (!r->working && (r->ready || r->stream.open)) return queue_reply(r);
    if (r->conn->gone) return MHD_NO;
    qn_http_suspend(r);
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mc, const char *url, const char *method,
                                  const char *version, const char *data, size_t *data_n, void **ctx) {
    struct qn_http *h = cls;
    struct qn_request *r = *ctx;
    if (!r) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(mc, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        struct qn_conn *c = info ? info->socket_context : NULL;
        if (!c || !(r = qn_request_new(h->srv, c))) return MHD_NO;
        *ctx = r;
        c->cur = r;
        h->n_active++;
        r->method = qn_method_of(method);
        return first_call(h, r, url, version);
    }
    if (*data_n) return body_call(h, r, data, data_n);
    return final_call(r);
}

static void on_completed(void *cls, struct MHD_Connection *mc, void **ctx,
                         enum MHD_RequestTerminationCode code) {
    struct qn_http *h = cls;
    struct qn_request *r = *ctx;
    (void)mc;
    if (!r) return;
    struct qn_conn *c = r->conn;
    *ctx = NULL;
    r->suspended = false;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK && !r->refused) {
        r->gone = true;
        qn_request_cancel(r);
    }
    r->conn = NULL;
    c->cur = NULL;
    c->used = true;
    c->since_ns = qn_now_ns();
    h->n_active--;
    if (c->gone) shut(c); /* its edge may have been lost while the request ran */
    qn_request_unref(r);
}

/* ---- connections ---- */

static void conn_started(struct qn_http *h, struct MHD_Connection *mc, void **sctx) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(mc, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct qn_conn *c = calloc(1, sizeof *c);
    *sctx = c;
    if (!c || !info) return; /* requests on it are refused by on_request */
    c->mc = mc;
    c->http = h;
    c->fd = info->connect_fd;
    c->since_ns = qn_now_ns();
    c->over_limit = h->n_conns >= h->srv->cfg.max_connections;
    c->next = h->conns;
    if (h->conns) h->conns->prev = c;
    h->conns = c;
    h->n_conns++;
    qn_metrics_add(h->srv->metrics, QN_C_CONNECTIONS, 1);
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = c};
    epoll_ctl(h->watch_fd, EPOLL_CTL_ADD, c->fd, &ev);
}

static void conn_closed(struct qn_http *h, void **sctx) {
    struct qn_conn *c = *sctx;
    h->again = true;
    *sctx = NULL;
    if (!c) return;
    if (c->http) { /* was registered */
        epoll_ctl(h->watch_fd, EPOLL_CTL_DEL, c->fd, NULL);
        if (c->prev)
            c->prev->next = c->next;
        else
            h->conns = c->next;
        if (c->next) c->next->prev = c->prev;
        h->n_conns--;
    }
    free(c);
}

static void on_connection(void *cls, struct MHD_Connection *mc, void **sctx,
                          enum MHD_ConnectionNotificationCode code) {
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        conn_started(cls, mc, sctx);
    else
        conn_closed(cls, sctx);
}

/* Paths stay as they came: route.c decodes them, so that %2F and %00 are seen. */
static size_t keep_path(void *cls, struct MHD_Connection *mc, char *s) {
    (void)cls;
    (void)mc;
    return strlen(s);
}

static void on_mhd_log(void *cls, const char *fmt, va_list ap) {
    struct qn_http *h = cls;
    char msg[256];
    if (!qn_log_on(h->srv->log, QN_LOG_DEBUG)) return;
    vsnprintf(msg, sizeof msg, fmt, ap);
    msg[strcspn(msg, "\n")] = '\0';
    qn_log_line(h->srv->log, QN_LOG_DEBUG, "http: %s", msg);
}

/* ---- start, run, stop ---- */

static struct MHD_Daemon *start_mhd(struct qn_http *h, int listen_fd) {
    const struct qn_config *cfg = &h->srv->cfg;
    unsigned over = cfg->max_connections / 2 > 1024 ? cfg->max_connections / 2 : 1024;
    unsigned idle_s = (cfg->idle_timeout_ms + 999) / 1000;
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_LISTEN_SOCKET, listen_fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, (intptr_t)(cfg->max_connections + over), NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, idle_s < 30 ? 30 : (intptr_t)idle_s, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)POOL_BYTES, NULL},
        {MHD_OPTION_END, 0, NULL}};
    return MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL,
                            on_request, h, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, h,
                            MHD_OPTION_NOTIFY_COMPLETED, on_completed, h, MHD_OPTION_NOTIFY_CONNECTION,
                            on_connection, h, MHD_OPTION_UNESCAPE_CALLBACK, keep_path, NULL, MHD_OPTION_ARRAY,
                            options, MHD_OPTION_END);
}

struct qn_http *qn_http_new(struct qn_server *srv, int listen_fd, char *why, size_t why_n) {
    struct qn_http *h = calloc(1, sizeof *h);
    if (!h) {
        snprintf(why, why_n, "out of memory");
        return NULL;
    }
    h->srv = srv;
    h->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    h->mhd = h->watch_fd < 0 ? NULL : start_mhd(h, listen_fd);
    const union MHD_DaemonInfo *info = h->mhd ? MHD_get_daemon_info(h->mhd, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info) {
        snprintf(why, why_n, "the HTTP library did not start");
        if (h->mhd) MHD_stop_daemon(h->mhd);
        if (h->watch_fd >= 0) close(h->watch_fd);
        free(h);
        return NULL;
    }
    h->fd = info->epoll_fd;
    return h;
}

int qn_http_fd(const struct qn_http *h) {
    return h->fd;
}

int qn_http_watch_fd(const struct qn_http *h) {
    return h->watch_fd;
}

unsigned qn_http_connections(const struct qn_http *h) {
    return h->n_conns;
}

unsigned qn_http_active(const struct qn_http *h) {
    return h->n_active;
}

int qn_http_run(struct qn_http *h) {
    MHD_UNSIGNED_LONG_LONG ms = 0;
    enum MHD_Result timed;
    unsigned rounds = 0;
    do {
        h->again = false;
        MHD_run(h->mhd);
        qn_handle_submits(h->srv);
        timed = MHD_get_timeout(h->mhd, &ms);
    } while (((timed == MHD_YES && ms == 0) || h->again) && ++rounds < 8);
    if (h->again || (timed == MHD_YES && ms == 0)) return 0;
    if (timed != MHD_YES) return -1;
    return ms > 60000 ? 60001 : (int)ms + 1;
}

void qn_http_suspend(struct qn_request *r) {
    r->suspended = true;
    MHD_suspend_connection(r->conn->mc);
}

void qn_http_resume(struct qn_request *r) {
    if (!r->suspended) return;
    r->suspended = false;
    r->conn->http->again = true;
    MHD_resume_connection(r->conn->mc);
}

/* The other side of a connection closed, or half-closed: both mean that nobody waits for the answer. */
static void conn_gone(struct qn_conn *c) {
    if (c->gone) return; /* shutdown makes an edge of its own: doing it again for each would never end */
    c->gone = true;
    struct qn_request *r = c->cur;
    if (!r || !r->received) {
        shutdown(c->fd, SHUT_RD);
        return;
    }
    if (!r->queued || r->stream.open) {
        r->gone = true;
        qn_request_cancel(r);
    }
    qn_http_resume(r);
}

void qn_http_watch(struct qn_http *h) {
    struct epoll_event ev[128];
    int n;
    do {
        n = epoll_wait(h->watch_fd, ev, 128, 0);
        for (int i = 0; i < n; i++) conn_gone(ev[i].data.ptr);
    } while (n == 128);
}

/* Answers a request whose body takes too long, and ends its connection. */
static void expire_body(struct qn_request *r) {
    if (!r->ready) qn_reply_fail(r, QN_API_TIMEOUT, "the request's body did not arrive in time");
    raw_reply(r);
    r->refused = true;
    shut(r->conn);
}

static void sweep_conn(struct qn_http *h, struct qn_conn *c, uint64_t now) {
    const struct qn_config *cfg = &h->srv->cfg;
    struct qn_request *r = c->cur;
    if ((c->gone || c->closing) && (!r || !r->received)) {
        shutdown(c->fd, SHUT_RD); /* the edge of the first time may have been lost: make another */
        return;
    }
    if (c->closing) return;
    if (r) {
        uint64_t limit = r->refused ? DRAIN_NS : cfg->body_timeout_ms * (uint64_t)1000000;
        if (!r->received && !r->queued && now - r->t_start_ns > limit)
            expire_body(r);
        else if (r->stream.open)
            qn_stream_ping(r, now);
        return;
    }
    uint64_t limit = (c->used ? cfg->idle_timeout_ms : cfg->header_timeout_ms) * (uint64_t)1000000;
    if (c->over_limit && limit > OVER_NS) limit = OVER_NS;
    if (now - c->since_ns > limit) shut(c);
}

void qn_http_sweep(struct qn_http *h) {
    uint64_t now = qn_now_ns();
    for (struct qn_conn *c = h->conns; c; c = c->next) sweep_conn(h, c, now);
}

void qn_http_quiesce(struct qn_http *h) {
    if (h->quiet) return;
    h->quiet = true;
    unsigned before;
    do { /* who is in the listener's queue has connected: closing it would reset them */
        before = h->n_conns;
        (void)qn_http_run(h);
    } while (h->n_conns > before);
    int fd = MHD_quiesce_daemon(h->mhd);
    if (fd >= 0) close(fd);
}

unsigned qn_http_close_idle(struct qn_http *h) {
    uint64_t now = qn_now_ns();
    unsigned left = 0;
    for (struct qn_conn *c = h->conns; c; c = c->next) {
        if (c->cur || c->closing) continue;
        if (!c->used && now - c->since_ns < FRESH_NS)
            left++; /* its request is on the way */
        else
            shut(c);
    }
    return left;
}

void qn_http_cancel_all(struct qn_http *h) {
    for (struct qn_conn *c = h->conns; c; c = c->next) {
        struct qn_request *r = c->cur;
        if (!r) continue;
        if (!r->received) {
            shut(c);
        } else if (!r->queued || r->stream.open) {
            r->killed = true;
            qn_request_cancel(r);
        }
    }
}

void qn_http_free(struct qn_http *h) {
    if (!h) return;
    qn_http_quiesce(h);
    for (struct qn_conn *c = h->conns; c; c = c->next) { /* stopping with suspended connections is an error */
        c->gone = true;
        if (c->cur) {
            c->cur->gone = true;
            qn_http_resume(c->cur);
        }
        shut(c);
    }
    (void)qn_http_run(h);
    (void)qn_http_run(h);
    MHD_stop_daemon(h->mhd);
    close(h->watch_fd);
    qn_requests_free(h->srv);
    free(h);
}
