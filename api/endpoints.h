/* Every operation of the service: path, method, what its body may hold, what it answers. /openapi.json and
 * the reference of docs/api.md are written from this list; a new endpoint is one row here, one in
 * server/route.c (a test holds the two against each other) and the schema of its reply in api/openapi.c
 * (of the OpenAI endpoints in api/openapi_openai.c).
 * Thread: any. */
#ifndef QN_API_ENDPOINTS_H
#define QN_API_ENDPOINTS_H

#include "api/buf.h"
#include "api/table.h"

enum {
    QN_EP_OPEN = 1,    /* no API key is needed */
    QN_EP_METRICS = 2, /* a key only with --metrics-auth */
    QN_EP_MODEL = 4,   /* 404 for an unknown model */
    QN_EP_QUEUE = 8,   /* goes through the queue: 429 when it is full, Server-Timing */
    QN_EP_READY = 16,  /* 503 is its answer, in plain text, while it is not ready */
    QN_EP_CHUNKS = 32, /* streams events alone, without the whole reply behind them */
    QN_EP_ASKS = 64,   /* the query may name a model: ?model=ID */
    QN_EP_PAGE = 128   /* a browser gets a page instead of the text */
};

struct qn_api_endpoint {
    const char *method, *path; /* lower case; a path may end in {id} */
    const char *id, *summary;
    const struct qn_api_table *request; /* NULL: no body */
    const char *reply;                  /* schema of the 200 body, or a content type ("text/plain") */
    const char *event, *events;         /* schema of a streamed object, and when they come; NULL: no stream */
    unsigned flags;
};

const struct qn_api_endpoint *qn_api_endpoints(size_t *n);
/* Tables of bodies and of objects in them, each once: the schemas of requests. NULL at the end. */
const struct qn_api_table *const *qn_api_tables(void);

/* What may be answered instead of 200, as a status with the reason for it. */
struct qn_api_refusal {
    const char *key, *text; /* name in /openapi.json; a sentence */
    unsigned status;
    bool retry; /* with Retry-After */
};
const struct qn_api_refusal *qn_api_refusals(size_t *n);
/* Whether this endpoint may answer with that status. */
bool qn_api_may_answer(const struct qn_api_endpoint *e, unsigned status);

/* JSON schema of one field, as it stands in /openapi.json. */
void qn_api_field_schema(struct qn_buf *b, const struct qn_api_field *f);
/* "Name":{…} for every table of qn_api_tables, separated by commas. */
void qn_api_request_schemas(struct qn_buf *b);
/* Of what the OpenAI endpoints answer, each with a comma behind it. */
void qn_api_openai_schemas(struct qn_buf *b);

#endif
