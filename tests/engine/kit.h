/* What engine tests share: an engine with a registry and a wake-up, calls that collect their events, requests
 * with the defaults of the wire format. Header only; works with the fake and with real models. */
#ifndef QN_TESTS_ENGINE_KIT_H
#define QN_TESTS_ENGINE_KIT_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "server/constraints.h"
#include "server/engine.h"

struct kit {
    struct qn_registry models;
    struct qn_engine *engine;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool woken, keep_models; /* keep_models: kit_stop leaves them open */
    unsigned wakes;
};

struct kit_call { /* one job and what came of it */
    struct qn_job *job;
    struct qn_api_err err;
    unsigned retry_after;
    struct qn_buf stream[QN_API_MAX_OUTPUTS]; /* text of TOKEN events by output */
    uint32_t events[QN_API_MAX_OUTPUTS];
    bool done;
};

static inline void kit_wake(void *ctx) {
    struct kit *k = ctx;
    pthread_mutex_lock(&k->lock);
    k->woken = true;
    k->wakes++;
    pthread_cond_signal(&k->cond);
    pthread_mutex_unlock(&k->lock);
}

/* The models are the kit's from now on; opt's registry and wake-up are filled in. */
static inline void kit_start(struct kit *k, struct qn_model **models, uint32_t n,
                             struct qn_engine_options opt) {
    memset(k, 0, sizeof *k);
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->cond, NULL);
    for (uint32_t i = 0; i < n; i++) k->models.models[k->models.n++] = models[i];
    opt.models = &k->models;
    opt.wake = kit_wake;
    opt.wake_ctx = k;
    if (!opt.reserve_tokens) opt.reserve_tokens = 256;
    k->engine = qn_engine_new(&opt);
    assert_non_null(k->engine);
    assert_int_equal(qn_engine_start(k->engine), 0);
}

static inline void kit_take(struct kit *k) {
    struct qn_event *ev = qn_engine_take(k->engine), *next;
    for (; ev; ev = next) {
        struct kit_call *c = ev->job->owner;
        next = (struct qn_event *)(void *)ev->node.next;
        assert_false(c->done);
        if (ev->kind == QN_EVENT_DONE)
            c->done = true;
        else {
            qn_buf_add(&c->stream[ev->index], ev->text, ev->n);
            c->events[ev->index]++;
        }
        qn_event_free(ev);
    }
}

/* Waits for the next wake-up (at most ms milliseconds) and takes what there is. */
static inline void kit_pump(struct kit *k, unsigned ms) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += (long)(ms % 1000) * 1000000;
    t.tv_sec += (time_t)(ms / 1000) + t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_mutex_lock(&k->lock);
    while (!k->woken)
        if (pthread_cond_timedwait(&k->cond, &k->lock, &t)) break;
    k->woken = false;
    pthread_mutex_unlock(&k->lock);
    kit_take(k);
}

static inline void kit_wait(struct kit *k, struct kit_call *c) {
    time_t end = time(NULL) + 60; /* a stream wakes once per token */
    while (!c->done && time(NULL) < end) kit_pump(k, 100);
    assert_true(c->done);
}

static inline void kit_stop(struct kit *k) {
    qn_engine_stop(k->engine);
    kit_take(k);
    qn_engine_free(&k->engine);
    for (uint32_t i = 0; i < k->models.n; i++) assert_int_equal(qn_model_state(k->models.models[i]).used, 0);
    for (uint32_t i = 0; i < k->models.n; i++) qn_constraints_drop(k->models.models[i]);
    if (!k->keep_models) qn_registry_close(&k->models);
    pthread_cond_destroy(&k->cond);
    pthread_mutex_destroy(&k->lock);
}

/* ---- requests ---- */
static inline struct qn_api_infer kit_request(void) {
    return (struct qn_api_infer){.max_tokens = 64,
                                 .n = 1,
                                 .top_p = 1,
                                 .repetition_penalty = 1,
                                 .seed_given = true,
                                 .seed = 1,
                                 .cache = true};
}

static inline void kit_add_seq(struct qn_api_infer *r, const char *text, const int32_t *ids, size_t n) {
    r->seqs = realloc(r->seqs, (r->n_seqs + 1) * sizeof *r->seqs);
    assert_non_null(r->seqs);
    struct qn_api_seq *s = &r->seqs[r->n_seqs++];
    memset(s, 0, sizeof *s);
    s->n = n;
    s->is_ids = ids != NULL;
    if (ids) {
        s->ids = malloc((n ? n : 1) * sizeof *s->ids);
        assert_non_null(s->ids);
        if (n) memcpy(s->ids, ids, n * sizeof *ids);
    } else {
        s->text = calloc(1, n + 1);
        assert_non_null(s->text);
        memcpy(s->text, text, n);
    }
}

static inline struct qn_api_infer kit_text(const char *text, uint32_t max_tokens) {
    struct qn_api_infer r = kit_request();
    kit_add_seq(&r, text, NULL, strlen(text));
    r.max_tokens = max_tokens;
    return r;
}

static inline void kit_add_stop(struct qn_api_infer *r, const char *stop) {
    r->stop[r->n_stop] = strdup(stop);
    r->stop_len[r->n_stop++] = strlen(stop);
}

/* ---- calls ---- */
static inline int kit_make(struct kit *k, struct kit_call *c, struct qn_api_infer r, uint64_t salt) {
    struct timespec t;
    memset(c, 0, sizeof *c);
    clock_gettime(CLOCK_MONOTONIC, &t);
    struct qn_job_options opt = {
        .salt = salt, .owner = c, .t_received_ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec};
    if (qn_job_new(&k->models, &r, &opt, &c->job, &c->err)) return -1;
    if (!qn_job_prepare(c->job, &c->err)) return 0;
    qn_job_unref(c->job);
    c->job = NULL;
    return -1;
}

static inline int kit_submit(struct kit *k, struct kit_call *c, struct qn_api_infer r, uint64_t salt) {
    if (kit_make(k, c, r, salt)) return -1;
    return qn_engine_submit(k->engine, c->job, &c->err, &c->retry_after);
}

static inline void kit_free(struct kit_call *c) {
    for (uint32_t i = 0; i < QN_API_MAX_OUTPUTS; i++) qn_buf_free(&c->stream[i]);
    qn_job_unref(c->job);
    c->job = NULL;
}

static inline void kit_run(struct kit *k, struct kit_call *c, struct qn_api_infer r) {
    if (kit_submit(k, c, r, 0)) fail_msg("%s", c->err.msg);
    kit_wait(k, c);
}

/* Writes the reply, which closes the timings. */
static inline void kit_reply(struct kit_call *c) {
    struct qn_buf b = {0};
    qn_job_write_reply(c->job, &b);
    assert_false(b.failed);
    qn_buf_free(&b);
}

/* Phases add up to the wall time within max(1 %, 0.5 ms). */
static inline void kit_check_sum(const struct qn_api_timings *t) {
    double sum = t->queue + t->tokenize + t->convert + t->prefill + t->decode + t->finish;
    double slack = t->total * 0.01 > 0.5 ? t->total * 0.01 : 0.5, off = sum - t->total;
    if (off > slack || off < -slack) fail_msg("phases sum to %f ms, total is %f ms", sum, t->total);
}

#endif
