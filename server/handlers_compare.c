/* POST /v1/compare: a comparison's jobs between the loop and the engine.
 *
 *   body -> [worker when above 64 KiB] parse, resolve, tokenize, bounds -> first job through the queue, as
 * any request -> DONE -> event of a stream, next job … -> reply
 *
 * Only the first job can be told to come back later: those after it go on with admitted work. Thread: loop;
 * qn_handle_compare also on libuv's workers. */
#include "server/comparison.h"
#include "server/handlers.h"
#include "server/http.h"
#include "server/stream.h"

#include <string.h>

void qn_handle_compare(struct qn_request *r) {
    const struct qn_config *cfg = &r->srv->cfg;
    struct qn_api_limits lim = {.max_outputs = cfg->max_outputs, .max_tokens = cfg->max_tokens};
    struct qn_api_err err = {.code = QN_API_OK};
    struct qn_api_compare req;
    memset(&req, 0, sizeof req);
    int rc = qn_api_compare_parse(r->body.p ? r->body.p : "", r->body.n, &lim, &req, &err);
    if (rc == 0) {
        struct qn_job_options opt = {.salt = r->salt,
                                     .t_received_ns = r->t_body_ns,
                                     .default_timeout_ms = cfg->request_timeout_ms,
                                     .owner = r};
        rc = qn_comparison_new(&r->srv->models, &req, &opt, &r->comparison, &err);
    }
    qn_api_compare_free(&req);
    if (rc != 0) qn_reply_error(r, &err);
}

bool qn_compare_submit(struct qn_request *r, unsigned *retry_after) {
    struct qn_api_err err = {.code = QN_API_OK};
    struct qn_job *j = qn_comparison_next(r->comparison);
    if (!j) return false;
    j->seated = r->submitted;
    if (qn_engine_submit(r->srv->engine, j, &err, retry_after) == 0) {
        if (!r->submitted) qn_metrics_add(r->srv->metrics, QN_C_INFER_COMPARE, 1);
        return true;
    }
    qn_comparison_fail(r->comparison, &err);
    return false;
}

/* A run is finished: one event, and a sign of life to a client that would otherwise see nothing for long. */
static void tell(struct qn_request *r, const struct qn_api_sample *s) {
    struct qn_buf json = {0}, *out;
    if (!r->stream.open || !r->conn || r->gone) return;
    qn_api_sample_write(&json, s);
    out = qn_stream_buf(r);
    if (json.failed)
        out->failed = true;
    else
        qn_api_sse_data(out, json.p, json.n);
    qn_buf_free(&json);
    qn_stream_added(r);
}

bool qn_compare_done(struct qn_request *r) {
    struct qn_api_sample s;
    unsigned unused;
    if (r->gone || r->killed || !r->conn) return true;
    if (qn_comparison_take(r->comparison, &s)) tell(r, &s);
    return !qn_compare_submit(r, &unused);
}

void qn_compare_reply(struct qn_request *r) {
    const struct qn_api_comparison *result = qn_comparison_result(r->comparison);
    qn_api_compare_write(&r->reply, result);
    if (!r->stream.open) qn_api_compare_timing(&r->timing, result);
}
