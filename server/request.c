/* A request's life outside libmicrohttpd: made from a free list, filled with a reply, logged once when its
 * last owner lets go. Thread: loop; a worker fills replies of the request that it has. */
#include "server/request.h"

#include <stdlib.h>
#include <string.h>

#include "server/comparison.h"
#include "server/route.h"

struct qn_request *qn_request_new(struct qn_server *srv, struct qn_conn *c) {
    struct qn_request *r = srv->free_requests;
    if (r) {
        srv->free_requests = r->next;
        memset(r, 0, offsetof(struct qn_request, id));
        r->id[0] = r->arg[0] = '\0';
    } else if (!(r = calloc(1, sizeof *r))) {
        return NULL;
    }
    r->srv = srv;
    r->conn = c;
    r->refs = 1;
    r->t_start_ns = qn_now_ns();
    r->body.limit = srv->cfg.max_body;
    return r;
}

void qn_request_ref(struct qn_request *r) {
    r->refs++;
}

void qn_request_drop_body(struct qn_request *r) {
    r->srv->bodies -= r->body.n;
    qn_buf_free(&r->body);
}

static void add_str(struct qn_log_field *f, size_t *n, const char *name, const char *s) {
    if (s && *s) f[(*n)++] = (struct qn_log_field){.name = name, .kind = QN_LF_STR, .s = s};
}

static void add_uint(struct qn_log_field *f, size_t *n, const char *name, uint64_t u) {
    f[(*n)++] = (struct qn_log_field){.name = name, .kind = QN_LF_UINT, .u = u};
}

static void add_ms(struct qn_log_field *f, size_t *n, const char *name, double ms) {
    f[(*n)++] = (struct qn_log_field){.name = name, .kind = QN_LF_MS, .ms = ms};
}

/* What the job did; only after its DONE event, when the engine no longer writes it. */
static size_t log_job(const struct qn_request *r, struct qn_log_field *f, size_t n) {
    const struct qn_job *j = r->job;
    const struct qn_api_timings *t = &j->timings;
    uint64_t prompt = 0, made = 0, cached = 0, bytes = 0;
    for (uint32_t i = 0; i < j->n_outputs && j->outputs; i++) {
        prompt += j->outputs[i].n_prompt;
        made += j->outputs[i].n_tokens;
        cached += j->outputs[i].cached_tokens;
        bytes += j->outputs[i].bytes.peak;
    }
    const struct qn_structure *s = qn_variant_structure(j->variant);
    add_str(f, &n, "job", j->id);
    add_str(f, &n, "model", qn_model_info(j->model)->id);
    add_str(f, &n, "attention", s->attention.type);
    add_str(f, &n, "ffn", s->ffn.type);
    add_str(f, &n, "sharing", s->sharing.type);
    add_uint(f, &n, "prompt_tokens", prompt);
    add_uint(f, &n, "completion_tokens", made);
    add_uint(f, &n, "cached_tokens", cached);
    add_ms(f, &n, "queue_ms", t->queue);
    add_ms(f, &n, "prefill_ms", t->prefill);
    add_ms(f, &n, "decode_ms", t->decode);
    add_uint(f, &n, "state_bytes", bytes);
    if (r->stream.open) f[n++] = (struct qn_log_field){.name = "stream", .kind = QN_LF_BOOL, .u = 1};
    return n;
}

static size_t log_comparison(const struct qn_request *r, struct qn_log_field *f, size_t n) {
    const struct qn_api_compare *q = qn_comparison_request(r->comparison);
    add_str(f, &n, "job", qn_comparison_id(r->comparison));
    add_str(f, &n, "model", qn_comparison_model(r->comparison));
    add_uint(f, &n, "structures", q->n_structures);
    add_uint(f, &n, "repeats", q->repeats);
    if (r->stream.open) f[n++] = (struct qn_log_field){.name = "stream", .kind = QN_LF_BOOL, .u = 1};
    return n;
}

static void log_request(const struct qn_request *r) {
    struct qn_server *srv = r->srv;
    unsigned status = r->queued ? r->status : 499;
    qn_metrics_response(srv->metrics, status);
    if (!srv->cfg.access_log || !qn_log_on(srv->log, QN_LOG_INFO)) return;
    if (r->route && r->route->quiet) return;
    struct qn_log_field f[24];
    size_t n = 0;
    add_str(f, &n, "id", r->id);
    add_str(f, &n, "route", r->route ? r->route->path : "-");
    add_uint(f, &n, "status", status);
    if (r->error) add_str(f, &n, "error", qn_api_code_name(r->error));
    add_ms(f, &n, "ms", (double)(qn_now_ns() - r->t_start_ns) * 1e-6);
    if (r->job && r->job_done) n = log_job(r, f, n);
    if (r->comparison) n = log_comparison(r, f, n);
    if (r->gone || r->killed) f[n++] = (struct qn_log_field){.name = "cancelled", .kind = QN_LF_BOOL, .u = 1};
    qn_log_fields(srv->log, QN_LOG_INFO, "request", f, n);
}

void qn_request_unref(struct qn_request *r) {
    if (--r->refs > 0) return;
    struct qn_server *srv = r->srv;
    log_request(r);
    qn_request_drop_body(r);
    qn_buf_free(&r->reply);
    qn_buf_free(&r->timing);
    qn_buf_free(&r->stream.buf);
    if (r->job) qn_job_unref(r->job);
    r->job = NULL;
    qn_comparison_free(r->comparison);
    r->comparison = NULL;
    r->next = srv->free_requests;
    srv->free_requests = r;
}

void qn_requests_free(struct qn_server *srv) {
    while (srv->free_requests) {
        struct qn_request *r = srv->free_requests;
        srv->free_requests = r->next;
        free(r);
    }
}

void qn_reply_as(struct qn_request *r, unsigned status, const char *type) {
    r->status = status;
    r->type = type;
    r->ready = true;
}

void qn_reply_error(struct qn_request *r, const struct qn_api_err *err) {
    qn_buf_clear(&r->reply);
    r->reply.failed = false;
    qn_api_error_write(&r->reply, err);
    r->error = err->code;
    if (!r->retry_after && (qn_api_status(err->code) == 429 || qn_api_status(err->code) == 503))
        r->retry_after = 1;
    qn_metrics_refused(r->srv->metrics, err->code);
    qn_reply_as(r, qn_api_status(err->code), "application/json");
}

void qn_reply_fail(struct qn_request *r, enum qn_api_code code, const char *msg) {
    struct qn_api_err err = {.code = QN_API_OK};
    qn_api_fail(&err, code, "", "%s", msg);
    qn_reply_error(r, &err);
}

void qn_reply_json(struct qn_request *r) {
    if (r->reply.failed)
        qn_reply_fail(r, QN_API_OUT_OF_MEMORY, "no memory for the reply");
    else
        qn_reply_as(r, 200, "application/json");
}

void qn_reply_text(struct qn_request *r, unsigned status, const char *text) {
    qn_buf_clear(&r->reply);
    qn_buf_str(&r->reply, text);
    qn_reply_as(r, status, "text/plain; charset=utf-8");
}
