/* Requests with a body: inference through the engine, tokenize, detokenize.
 *
 *   body -> [worker when above 64 KiB] parse, tokenize -> job -> engine … events -> reply or stream
 *
 * Thread: loop; the run functions also on libuv's workers. */
#include "server/handlers.h"

#include <stdlib.h>
#include <string.h>

#include "api/models.h"
#include "server/comparison.h"
#include "server/http.h"
#include "server/loop.h"
#include "server/route.h"
#include "server/stream.h"

#define INLINE_BYTES ((size_t)64 * 1024)

/* ---- run: pure work on one request ---- */

void qn_handle_infer(struct qn_request *r) {
    const struct qn_config *cfg = &r->srv->cfg;
    struct qn_api_limits lim = {.max_outputs = cfg->max_outputs, .max_tokens = cfg->max_tokens};
    struct qn_api_err err = {.code = QN_API_OK};
    struct qn_api_infer req;
    memset(&req, 0, sizeof req);
    int rc = qn_api_infer_parse(r->body.p ? r->body.p : "", r->body.n, &lim, &req, &err);
    if (rc == 0) {
        struct qn_job_options opt = {.salt = r->salt,
                                     .t_received_ns = r->t_body_ns,
                                     .default_timeout_ms = cfg->request_timeout_ms,
                                     .owner = r};
        rc = qn_job_new(&r->srv->models, &req, &opt, &r->job, &err);
    }
    qn_api_infer_free(&req);
    if (rc != 0) {
        r->job = NULL;
        qn_reply_error(r, &err);
    }
}

static void fail_from_model(struct qn_request *r, const struct qn_err *e) {
    struct qn_api_err err = {.code = QN_API_OK};
    enum qn_api_code code = e->code == QN_ERR_NOMEM      ? QN_API_OUT_OF_MEMORY
                            : e->code == QN_ERR_TOO_LONG ? QN_API_CONTEXT
                                                         : QN_API_INVALID;
    qn_api_fail(&err, code, e->param, "%s", e->msg);
    qn_reply_error(r, &err);
}

static struct qn_model *find_model(struct qn_request *r, const char *id) {
    struct qn_model *m = qn_registry_find(&r->srv->models, id);
    if (m && qn_model_info(m)->has_tokenizer) return m;
    struct qn_api_err err = {.code = QN_API_OK};
    if (m)
        qn_api_fail(&err, QN_API_INVALID, "model", "model '%s' has no tokenizer", qn_model_info(m)->id);
    else
        qn_api_fail(&err, QN_API_MODEL_NOT_FOUND, "model", "no model '%.64s'; GET /v1/models lists them", id);
    qn_reply_error(r, &err);
    return NULL;
}

static void write_tokens(struct qn_request *r, const struct qn_model *m, const struct qn_api_tokenize *q,
                         const int32_t *ids, size_t n) {
    struct qn_api_logprob *pieces = NULL;
    if (q->with_pieces) {
        pieces = calloc(n ? n : 1, sizeof *pieces);
        if (!pieces) {
            qn_reply_fail(r, QN_API_OUT_OF_MEMORY, "no memory for the reply");
            return;
        }
        for (size_t i = 0; i < n; i++) {
            struct qn_str_ref s = qn_model_piece(m, ids[i], true);
            pieces[i].id = ids[i];
            pieces[i].text = s.p;
            pieces[i].text_len = s.n;
        }
    }
    struct qn_api_tokens t = {.ids = ids, .n = n, .max_len = qn_model_info(m)->context, .pieces = pieces};
    qn_api_tokenize_write(&r->reply, &t);
    free(pieces);
    qn_reply_json(r);
}

void qn_handle_tokenize(struct qn_request *r) {
    struct qn_api_tokenize q;
    struct qn_api_err err = {.code = QN_API_OK};
    memset(&q, 0, sizeof q);
    if (qn_api_tokenize_parse(r->body.p ? r->body.p : "", r->body.n, &q, &err) != 0) {
        qn_reply_error(r, &err);
        qn_api_tokenize_free(&q);
        return;
    }
    struct qn_model *m = find_model(r, q.model);
    if (m) {
        struct qn_err e = {.code = QN_OK};
        int32_t *ids = NULL;
        size_t n = 0, most = r->srv->cfg.max_body + 16; /* a token takes at least a byte */
        if (qn_model_tokenize(m, q.text.p, q.text.n, q.add_special, most, &ids, &n, &e) == QN_OK)
            write_tokens(r, m, &q, ids, n);
        else
            fail_from_model(r, &e);
        free(ids);
    }
    qn_api_tokenize_free(&q);
}

static void write_text(struct qn_request *r, const struct qn_model *m, const struct qn_api_detokenize *q) {
    struct qn_buf text = {0};
    uint32_t vocab = qn_model_info(m)->vocab;
    for (size_t i = 0; i < q->ids.n; i++) {
        if (q->ids.p[i] < 0 || (uint32_t)q->ids.p[i] >= vocab) {
            struct qn_api_err err = {.code = QN_API_OK};
            qn_api_fail(&err, QN_API_INVALID, "tokens", "token %d is outside [0, %u)", (int)q->ids.p[i],
                        vocab);
            qn_reply_error(r, &err);
            qn_buf_free(&text);
            return;
        }
        struct qn_str_ref s = qn_model_piece(m, q->ids.p[i], true);
        if (text.n == 0 && s.n && s.p[0] == ' ' && qn_model_strips_first_blank(m)) s.p++, s.n--;
        qn_buf_add(&text, s.p, s.n);
    }
    if (text.failed)
        r->reply.failed = true;
    else
        qn_api_detokenize_write(&r->reply, text.p ? text.p : "", text.n);
    qn_buf_free(&text);
    qn_reply_json(r);
}

void qn_handle_detokenize(struct qn_request *r) {
    struct qn_api_detokenize q;
    struct qn_api_err err = {.code = QN_API_OK};
    memset(&q, 0, sizeof q);
    if (qn_api_detokenize_parse(r->body.p ? r->body.p : "", r->body.n, &q, &err) != 0) {
        qn_reply_error(r, &err);
    } else {
        struct qn_model *m = find_model(r, q.model);
        if (m) write_text(r, m, &q);
    }
    qn_api_detokenize_free(&q);
}

/* ---- the loop's side ---- */

static void submit(struct qn_request *r) {
    struct qn_api_err err = {.code = QN_API_OK};
    unsigned retry = 0;
    bool ok, stream;
    if (r->comparison) {
        ok = qn_compare_submit(r, &retry);
        stream = qn_comparison_request(r->comparison)->run.stream;
        err = *qn_comparison_error(r->comparison);
    } else {
        ok = !qn_engine_submit(r->srv->engine, r->job, &err, &retry);
        stream = r->job->req.stream;
    }
    if (!ok) {
        if (r->job) qn_api_form_rename(r->job->style.form, &err);
        qn_job_unref(r->job);
        r->job = NULL;
        r->retry_after = retry;
        qn_reply_error(r, &err);
        return;
    }
    qn_request_ref(r); /* until the last DONE, which only this thread takes */
    r->submitted = true;
    if (!stream) return;
    r->stream.open = true;
    r->stream.last_ns = qn_now_ns();
    r->status = 200;
    r->type = "text/event-stream";
    if (r->job) qn_job_write_start(r->job, qn_stream_buf(r));
}

/* Jobs go to the engine in batches, after libmicrohttpd has looked at every connection: each submission may
 * wake the engine's thread, and one wake-up for many requests costs as much as for one. */
static void submit_later(struct qn_request *r) {
    qn_request_ref(r);
    r->next = NULL;
    *r->srv->submit_tail = r;
    r->srv->submit_tail = &r->next;
}

void qn_handle_submits(struct qn_server *srv) {
    struct qn_request *r = srv->submits;
    srv->submits = NULL;
    srv->submit_tail = &srv->submits;
    while (r) {
        struct qn_request *next = r->next;
        if (r->conn && !r->gone) {
            submit(r);
            if (r->ready || r->stream.open) qn_http_resume(r);
        }
        qn_request_unref(r);
        r = next;
    }
}

/* The run function has finished. */
static void ran(struct qn_request *r) {
    qn_request_drop_body(r);
    if ((r->job || r->comparison) && !r->ready) submit_later(r);
}

/* What the job asks of its outputs' texts is made ready; not on the loop. */
static void prepare(void *arg) {
    struct qn_request *r = arg;
    struct qn_api_err err = {.code = QN_API_OK};
    if (!r->job || r->ready || !qn_job_prepare(r->job, &err)) return;
    qn_job_unref(r->job);
    r->job = NULL;
    qn_reply_error(r, &err);
}

static void work(void *arg) {
    struct qn_request *r = arg;
    r->route->run(r);
    prepare(r);
}

static void after_work(void *arg) {
    struct qn_request *r = arg;
    r->srv->workers--;
    r->working = false;
    if (r->conn && !r->gone) {
        ran(r);
        if (r->ready) qn_http_resume(r);
    }
    qn_request_unref(r);
}

/* Hands the request to a worker; 0, or -1 with the reply that says why not. */
static int offload(struct qn_request *r, void (*what)(void *arg), const char *busy) {
    struct qn_server *srv = r->srv;
    if (srv->workers >= srv->workers_max) {
        qn_reply_fail(r, QN_API_QUEUE_FULL, busy);
        return -1;
    }
    qn_request_ref(r);
    srv->workers++;
    r->working = true;
    if (qn_loop_work(srv->loop, what, after_work, r) == 0) return 0;
    srv->workers--;
    r->working = false;
    qn_request_unref(r);
    qn_reply_fail(r, QN_API_OUT_OF_MEMORY, "no memory for the request");
    return -1;
}

void qn_request_start(struct qn_request *r) {
    if (r->route->offload && r->body.n > INLINE_BYTES) {
        offload(r, work, "too many large requests are being read");
        return;
    }
    r->route->run(r);
    if (r->job && !r->ready && qn_job_unprepared(r->job)) {
        qn_request_drop_body(r);
        if (!offload(r, prepare, "too many requests are being prepared")) return;
        qn_job_unref(r->job);
        r->job = NULL;
    }
    ran(r);
}

void qn_request_cancel(struct qn_request *r) {
    if (!r->submitted || r->job_done) return;
    qn_engine_cancel(r->srv->engine, r->comparison ? qn_comparison_job(r->comparison) : r->job);
}

static void observe(struct qn_metrics *m, const struct qn_api_timings *t) {
    qn_metrics_observe(m, QN_H_QUEUE, t->queue * 1e-3);
    qn_metrics_observe(m, QN_H_TOKENIZE, t->tokenize * 1e-3);
    qn_metrics_observe(m, QN_H_CONVERT, t->convert * 1e-3);
    qn_metrics_observe(m, QN_H_PREFILL, t->prefill * 1e-3);
    qn_metrics_observe(m, QN_H_DECODE, t->decode * 1e-3);
    qn_metrics_observe(m, QN_H_FINISH, t->finish * 1e-3);
    qn_metrics_observe(m, QN_H_TOTAL, t->total * 1e-3);
}

/* Why a finished job has no result; QN_API_OK when it has one. */
static enum qn_api_code job_failure(const struct qn_request *r, struct qn_api_err *err) {
    if (r->killed)
        qn_api_fail(err, QN_API_DRAINING, "", "the server stopped before the request was done");
    else if (r->comparison)
        *err = *qn_comparison_error(r->comparison);
    else if (r->job->error)
        qn_api_fail(err, r->job->error, "", "%s", r->job->error_msg);
    return err->code;
}

static void answer(struct qn_request *r) {
    struct qn_api_err err = {.code = QN_API_OK};
    bool failed = job_failure(r, &err) != QN_API_OK;
    if (!failed && r->comparison) {
        qn_compare_reply(r);
    } else if (!failed) {
        if (r->stream.open)
            qn_job_write_end(r->job, qn_stream_buf(r));
        else
            qn_job_write_reply(r->job, &r->reply);
        observe(r->srv->metrics, qn_job_timings(r->job));
    }
    if (r->stream.open) {
        if (failed) r->error = err.code;
        if (!failed && r->comparison && !r->reply.failed)
            qn_api_sse_data(qn_stream_buf(r), r->reply.p, r->reply.n);
        qn_stream_end(r, failed ? &err : NULL);
        return;
    }
    if (failed) {
        qn_reply_error(r, &err);
    } else {
        if (r->job) qn_api_server_timing(&r->timing, qn_job_timings(r->job));
        qn_reply_json(r);
    }
    qn_http_resume(r);
}

static void on_done(struct qn_request *r) {
    if (r->comparison && !qn_compare_done(r)) return;
    r->job_done = true;
    if (r->conn && !r->gone) answer(r);
    qn_request_unref(r);
}

void qn_handle_events(struct qn_server *srv) {
    struct qn_event *ev = srv->engine ? qn_engine_take(srv->engine) : NULL;
    while (ev) {
        struct qn_event *next = (struct qn_event *)ev->node.next;
        struct qn_request *r = ev->job->owner;
        if (ev->kind == QN_EVENT_DONE) {
            qn_event_free(ev); /* first: the request may hold the last reference to its job */
            on_done(r);
        } else {
            if (r->stream.open && r->conn && !r->gone) {
                qn_event_write_sse(ev, qn_stream_buf(r));
                qn_stream_added(r);
            }
            qn_event_free(ev);
        }
        ev = next;
    }
}
