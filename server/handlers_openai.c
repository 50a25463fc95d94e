/* The OpenAI endpoints: a body in their words becomes the same job that /v1/infer makes.
 *
 *   body -> [worker when above 64 KiB] parse -> model and structure out of "model" -> chat: template -> job
 *
 * What follows (queue, events, reply) is that of every job: handlers_infer.c. Thread: loop, or libuv's
 * workers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/handlers.h"
#include "server/structure_text.h"
#include "server/translate.h"

/* ---- "model": "grist@mqa+moe" ---- */
static int put_part(const char *name, const struct qn_api_part *from, struct qn_api_part *to,
                    struct qn_api_err *err) {
    if (!from->type[0]) return 0;
    if (to->type[0])
        return qn_api_fail(err, QN_API_INVALID, name, "\"%s\" is given twice: here and in \"model\"", name);
    *to = *from;
    return 0;
}

/* *s: what stands behind the @, empty parts where nothing does. */
static int split_target(struct qn_api_openai *q, struct qn_api_compare_structure *s, struct qn_api_err *err) {
    struct qn_api_infer *run = &q->run;
    struct qn_api_err inner = {.code = QN_API_OK};
    const char *at = strchr(q->target, '@');
    size_t n = at ? (size_t)(at - q->target) : strlen(q->target);
    if (n >= sizeof run->model)
        return qn_api_fail(err, QN_API_MODEL_NOT_FOUND, "model", "there is no model \"%.64s…\" here",
                           q->target);
    memcpy(run->model, q->target, n);
    run->model[n] = '\0';
    if (!at) return 0;
    if (qn_structure_text(at + 1, strlen(at + 1), s, &inner))
        return qn_api_fail(err, inner.code, "model", "%s", inner.msg);
    if (put_part("attention", &s->attention, &run->attention, err)) return -1;
    if (put_part("ffn", &s->ffn, &run->ffn, err)) return -1;
    return put_part("sharing", &s->sharing, &run->sharing, err);
}

/* A part that came behind the @ and can't be had: the field at fault is "model". */
static void name_target(const struct qn_api_compare_structure *s, struct qn_api_err *err) {
    bool here = (s->attention.type[0] && !strcmp(err->param, "attention")) ||
                (s->ffn.type[0] && !strcmp(err->param, "ffn")) ||
                (s->sharing.type[0] && !strcmp(err->param, "sharing"));
    if (here) snprintf(err->param, sizeof err->param, "model");
}

/* ---- what only the model can tell ---- */
static int check_dimensions(const struct qn_api_openai *q, const struct qn_model *m, struct qn_api_err *err) {
    uint32_t width = qn_model_info(m)->d_model;
    if (!q->dimensions_given || q->dimensions == width) return 0;
    return qn_api_fail(err, QN_API_UNSUPPORTED_PARAMETER, "dimensions",
                       "embeddings of %s have %u dimensions and can't be shortened: leave \"dimensions\" out",
                       qn_model_info(m)->id, width);
}

/* The conversation as one text, which takes the place of a prompt. A developer's word is the system's. */
static int render(struct qn_api_openai *q, const struct qn_model *m, struct qn_api_err *err) {
    struct qn_chat_message *list = calloc(q->n_messages, sizeof *list);
    struct qn_api_seq *seq = calloc(1, sizeof *seq);
    struct qn_err me = {.code = QN_OK};
    int rc = 0;
    if (!list || !seq) {
        free(list);
        free(seq);
        return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    }
    q->run.seqs = seq;
    q->run.n_seqs = 1;
    for (uint32_t i = 0; i < q->n_messages; i++) {
        const struct qn_api_message *from = &q->messages[i];
        bool developer = !strcmp(from->role, "developer");
        list[i] = (struct qn_chat_message){developer ? "system" : from->role, from->text, from->n};
    }
    if (qn_model_chat(m, list, q->n_messages, true, &seq->text, &seq->n, &me)) {
        bool none = me.code == QN_ERR_UNSUPPORTED;
        if (!me.param[0]) snprintf(me.param, sizeof me.param, "messages");
        rc = qn_fail_from_model(err, &me, none ? QN_API_UNSUPPORTED_PARAMETER : QN_API_INVALID);
    }
    seq->rendered = rc == 0;
    free(list);
    return rc;
}

static int fit_model(const struct qn_server *srv, struct qn_api_openai *q, struct qn_api_err *err) {
    const struct qn_model *m = qn_registry_find(&srv->models, q->run.model);
    if (!m)
        return qn_api_fail(err, QN_API_MODEL_NOT_FOUND, "model", "there is no model \"%s\" here",
                           q->run.model);
    if (q->form == QN_FORM_EMBEDDING) return check_dimensions(q, m, err);
    return q->form == QN_FORM_CHAT ? render(q, m, err) : 0;
}

static void run(struct qn_request *r, enum qn_api_form form) {
    const struct qn_config *cfg = &r->srv->cfg;
    struct qn_api_limits lim = {.max_outputs = cfg->max_outputs, .max_tokens = cfg->max_tokens};
    struct qn_api_err err = {.code = QN_API_OK};
    struct qn_api_compare_structure named = {.convert = false};
    struct qn_api_openai q;
    int rc = qn_api_openai_parse(form, r->body.p ? r->body.p : "", r->body.n, &lim, &q, &err);
    if (!rc) rc = split_target(&q, &named, &err);
    if (!rc) rc = fit_model(r->srv, &q, &err);
    if (!rc) {
        bool open_end = form == QN_FORM_CHAT && !q.run.max_tokens_given;
        struct qn_job_options opt = {.salt = r->salt,
                                     .t_received_ns = r->t_body_ns,
                                     .default_timeout_ms = cfg->request_timeout_ms,
                                     .owner = r,
                                     .style = {form, q.echo, q.include_usage, q.base64}};
        rc = qn_job_new(&r->srv->models, &q.run, &opt, &r->job, &err);
        if (rc) name_target(&named, &err);
        if (!rc && open_end) qn_job_open_end(r->job, cfg->max_tokens);
    }
    qn_api_openai_free(&q);
    if (!rc) return;
    r->job = NULL;
    qn_api_form_rename(form, &err);
    qn_reply_error(r, &err);
}

void qn_handle_completions(struct qn_request *r) {
    run(r, QN_FORM_COMPLETION);
}

void qn_handle_chat(struct qn_request *r) {
    run(r, QN_FORM_CHAT);
}

void qn_handle_embeddings(struct qn_request *r) {
    run(r, QN_FORM_EMBEDDING);
}
