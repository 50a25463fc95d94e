/* The state of one `quern serve` process, shared by the files of server/ that run on the loop thread.
 *
 * Everything here belongs to the loop thread. The load thread fills pool, models and engine while `state` is
 * LOADING, and is joined before anybody else reads them. */
#ifndef QN_SERVER_SERVER_H
#define QN_SERVER_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "api/buf.h"
#include "kernels/cpu.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/engine.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/registry.h"

struct qn_request;

enum qn_server_state {
    QN_SERVER_LOADING = 0, /* models are not there yet */
    QN_SERVER_READY,
    QN_SERVER_LEAVING,  /* SIGTERM came: serve on, say so in /readyz and with Connection: close */
    QN_SERVER_DRAINING, /* no new connections, no new work; finish what runs */
    QN_SERVER_STOPPING  /* what still ran was cancelled */
};

struct qn_server {
    struct qn_config cfg;
    enum qn_server_state state;
    bool failed; /* leave with exit status 1 */
    struct qn_log *log;
    struct qn_metrics *metrics;
    struct qn_auth *auth;
    struct qn_loop *loop;
    struct qn_http *http;
    struct qn_pool *pool;
    struct qn_registry models;
    struct qn_engine *engine; /* NULL while loading */
    struct qn_buf openapi;    /* built once */
    unsigned threads;         /* compute threads */
    uint64_t started_ns;
    double load_ms;
    unsigned workers_max, workers;             /* bodies being parsed on the worker pool: most, now */
    struct qn_request *free_requests;          /* kept for reuse */
    size_t bodies;                             /* bytes of request bodies held now */
    struct qn_request *submits, **submit_tail; /* requests whose jobs the engine gets next */
    uint64_t id_seed, id_count;                /* for request ids */
};

static inline bool qn_server_closing(const struct qn_server *s) {
    return s->state >= QN_SERVER_LEAVING;
}

/* Models are loaded: requests that need one may run. */
static inline bool qn_server_loaded(const struct qn_server *s) {
    return s->state != QN_SERVER_LOADING && s->engine != NULL;
}

#endif
