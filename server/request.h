/* One HTTP request from its head to its log line.
 *
 * Owners, counted in `refs` on the loop thread: the HTTP side until MHD reports completion, the engine or a
 * worker while it works on the request, a stream's response object while MHD may still read it. The last one
 * writes the log line and frees it. While a worker parses the body it alone touches body, reply and job. */
#ifndef QN_SERVER_REQUEST_H
#define QN_SERVER_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "api/buf.h"
#include "api/error.h"
#include "server/job.h"
#include "server/page.h"
#include "server/server.h"

struct qn_comparison;
struct qn_conn;
struct qn_route;

#define QN_REQUEST_ID_MAX  129
#define QN_REQUEST_ARG_MAX 256

struct qn_stream { /* bytes on their way to a streaming client */
    struct qn_buf buf;
    size_t off;  /* already taken by MHD */
    bool open;   /* the reply has begun */
    bool done;   /* nothing more will be added */
    bool paused; /* was above the high-water mark: tell the engine when it is below again */
    uint64_t last_ns;
};

struct qn_request {
    struct qn_server *srv;
    struct qn_conn *conn; /* NULL once MHD is done with it */
    const struct qn_route *route;
    struct qn_request *next; /* in the list of free ones, or of those to submit */
    int refs;
    unsigned method; /* enum qn_method bit */
    bool suspended;  /* in MHD: changed on the loop thread only */
    bool received;   /* the whole body is here */
    bool started;    /* handed to its handler */
    bool ready;      /* the reply is complete and may be queued */
    bool queued;     /* the reply was given to MHD */
    bool discard;    /* the body is read and dropped */
    bool refused;    /* answered without running; the body is drained for a bounded time */
    bool gone;       /* the client left */
    bool killed;     /* cancelled because the drain time was over */
    bool close;      /* answer with Connection: close */
    bool cors;       /* the client is a browser: has an Origin */
    bool working;    /* a worker has it */
    bool html;       /* the client takes HTML: a browser that shows the reply */
    bool vary;       /* the reply depends on that */
    uint64_t t_start_ns, t_body_ns, salt;
    size_t drained; /* bytes dropped */
    /* reply */
    unsigned status, retry_after;
    const char *type;          /* content type */
    const char *allow;         /* Allow header of a 405 */
    const char *preflight;     /* value for Access-Control-Allow-Headers, valid while MHD has the request */
    const char *if_none_match; /* valid as long as preflight */
    const struct qn_page_file *file; /* is the reply's body; a 304 tells its length */
    char tag[QN_PAGE_TAG];           /* its entity tag */
    struct qn_buf body, reply, timing;
    struct qn_stream stream;
    struct qn_job *job;
    struct qn_comparison *comparison; /* owns its jobs, one at a time; `job` stays NULL */
    bool submitted, job_done;
    enum qn_api_code error;
    char id[QN_REQUEST_ID_MAX];
    char arg[QN_REQUEST_ARG_MAX]; /* what follows the route's prefix, or the query's model, decoded */
};

/* NULL without memory. One reference, the HTTP side's. */
struct qn_request *qn_request_new(struct qn_server *srv, struct qn_conn *c);
void qn_requests_free(struct qn_server *srv); /* the free list, at the end */
void qn_request_ref(struct qn_request *r);
void qn_request_unref(struct qn_request *r);
void qn_request_drop_body(struct qn_request *r); /* it was parsed: give its memory back */

/* Fill the reply: error object, or what is in r->reply already. */
void qn_reply_error(struct qn_request *r, const struct qn_api_err *err);
void qn_reply_fail(struct qn_request *r, enum qn_api_code code, const char *msg);
void qn_reply_as(struct qn_request *r, unsigned status, const char *type);
void qn_reply_json(struct qn_request *r); /* 200 application/json; 503 when the buffer failed */
void qn_reply_text(struct qn_request *r, unsigned status, const char *text);

#endif
