/* Which handler serves a path. Pure table look-up. Thread: any. */
#ifndef QN_SERVER_ROUTE_H
#define QN_SERVER_ROUTE_H

#include <stdbool.h>
#include <stddef.h>

struct qn_request;

enum qn_method { QN_GET = 1, QN_HEAD = 2, QN_POST = 4, QN_OPTIONS = 8, QN_OTHER = 16 };
enum qn_access { QN_OPEN = 0, QN_METRICS, QN_KEYED };

struct qn_route {
    const char *path;
    bool prefix;      /* what follows goes to request->arg */
    unsigned methods; /* without HEAD and OPTIONS, which follow from it */
    const char *allow;
    enum qn_access access;
    bool quiet;       /* not in the access log */
    bool needs_model; /* 503 while loading */
    bool offload;     /* bodies above 64 KiB are handled on the worker pool */
    /* Fills the reply or makes request->job. On the loop thread, or on a worker: touches only the request's
     * body, reply, error and job, and what is safe from any thread. */
    void (*run)(struct qn_request *r);
};

/* path: without query, percent-decoded. NULL when there is none; *arg points into path. */
const struct qn_route *qn_route_find(const char *path, const char **arg);
/* All of them; api/endpoints.c describes each. */
const struct qn_route *qn_routes(size_t *n);
unsigned qn_method_of(const char *name);

#endif
