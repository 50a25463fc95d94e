/* The engine's thread and its public calls.
 *
 *   round: take new jobs -> cancels, deadlines, pauses -> admit -> step -> send events;  nothing to do: park
 *
 * Other threads reach in through submit, cancel and nudge only; each sets `kick` under the lock, so that a
 * signal between two looks at the queue is never lost. */
#include "server/engine.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/mem.h"
#include "server/engine_impl.h"

#define LINGER_NS 60000u /* about two thread switches on a virtual machine */

/* ---- events ---- */
void qn_engine_push_event(struct qn_engine *e, struct qn_event *ev) {
    ev->node.next = NULL;
    if (!e->out_head) e->out_tail = &e->out_head;
    *e->out_tail = ev;
    e->out_tail = (struct qn_event **)(void *)&ev->node.next;
}

static void send_events(struct qn_engine *e) {
    struct qn_event *first = e->out_head;
    e->out_head = NULL;
    if (first) qn_queue_push_list(&e->events, &first->node);
    while (e->dead) {
        struct qn_job_run *js = e->dead;
        e->dead = js->next;
        qn_job_run_free(js);
    }
}

struct qn_event *qn_engine_take(struct qn_engine *e) {
    return (struct qn_event *)(void *)qn_queue_take(&e->events);
}

void qn_event_free(struct qn_event *ev) {
    if (!ev) return;
    qn_job_unref(ev->job);
    free(ev);
}

/* ---- rounds ---- */
static void intake(struct qn_engine *e) {
    struct qn_node *n = qn_queue_take(&e->incoming);
    while (n) {
        struct qn_job *j = (struct qn_job *)(void *)n;
        struct qn_job_run *js = j->run;
        n = n->next;
        js->prev = NULL;
        js->next = e->jobs;
        if (e->jobs) e->jobs->prev = js;
        e->jobs = js;
        qn_engine_enqueue(e, js);
    }
}

static void count_cancel(struct qn_engine *e, const struct qn_job_run *js) {
    enum qn_counter phase = QN_C_CANCELLED_QUEUED;
    for (uint32_t i = 0; i < js->n_runs; i++) {
        const struct qn_run *r = &js->runs[i];
        if (r->out->n_tokens)
            phase = QN_C_CANCELLED_DECODE;
        else if (r->admitted && phase == QN_C_CANCELLED_QUEUED)
            phase = QN_C_CANCELLED_PREFILL;
    }
    qn_metrics_add(e->opt.metrics, phase, 1);
}

/* A partial text is an answer; a job that never ran, a partial score or a partial embedding is none. */
static bool has_answer(const struct qn_job_run *js) {
    bool any = false;
    for (uint32_t i = 0; i < js->n_runs; i++) any = any || js->runs[i].admitted;
    return any && js->job->req.task == QN_TASK_GENERATE;
}

/* Every output is there, and only held against the baseline still. */
static bool has_all(const struct qn_job_run *js) {
    bool all = !js->job->fidelity_only;
    for (uint32_t i = 0; i < js->n_runs; i++)
        all = all && (js->runs[i].state == QN_RUN_ENDED || js->runs[i].fid.on);
    return all;
}

static void end_timeout(struct qn_engine *e, struct qn_job_run *js) {
    qn_metrics_add(e->opt.metrics, QN_C_TIMEOUTS, 1);
    if (has_answer(js) || has_all(js))
        qn_job_end(e, js, QN_FINISH_TIMEOUT);
    else
        qn_job_fail(e, js, QN_API_TIMEOUT, "the request's time was over before it had an answer");
}

static void end_stopping(struct qn_engine *e, struct qn_job_run *js) {
    if (has_answer(js) || has_all(js))
        qn_job_end(e, js, QN_FINISH_CANCELLED);
    else
        qn_job_fail(e, js, QN_API_DRAINING, "the server is shutting down");
}

static void update_pause(struct qn_engine *e, struct qn_job_run *js) {
    bool over = js->job->req.stream && atomic_load(&js->job->pending) > e->opt.stream_high_water;
    if (!over)
        js->paused_ns = 0;
    else if (!js->paused_ns)
        js->paused_ns = e->now_ns;
}

/* Looks at every live job; returns when the next clock-driven change is due (UINT64_MAX: never). paused: by
 * model. */
static uint64_t sweep(struct qn_engine *e, bool stopping, uint32_t paused[QN_MAX_MODELS]) {
    uint64_t due = UINT64_MAX, stall = (uint64_t)e->opt.stall_timeout_ms * 1000000u;
    memset(paused, 0, QN_MAX_MODELS * sizeof *paused);
    for (struct qn_job_run *js = e->jobs, *next; js; js = next) {
        struct qn_job *j = js->job;
        next = js->next;
        update_pause(e, js);
        if (atomic_load(&j->cancel) || (js->paused_ns && e->now_ns - js->paused_ns >= stall)) {
            count_cancel(e, js);
            qn_job_end(e, js, QN_FINISH_CANCELLED);
        } else if (stopping) {
            end_stopping(e, js);
        } else if (j->deadline_ns && e->now_ns >= j->deadline_ns) {
            end_timeout(e, js);
        } else {
            if (j->deadline_ns && j->deadline_ns < due) due = j->deadline_ns;
            if (js->paused_ns && js->paused_ns + stall < due) due = js->paused_ns + stall;
            paused[js->pool] += js->paused_ns != 0;
        }
    }
    return due;
}

/* A client that just got its answer often sends the next request at once: waiting for it here for a moment
 * saves two switches of the thread. The processor is given to whoever wants it meanwhile. */
static void linger(struct qn_engine *e, uint64_t due) {
    uint64_t until = qn_now_ns() + LINGER_NS;
    if (due < until) until = due;
    while (!atomic_load_explicit(&e->kick, memory_order_acquire) && qn_now_ns() < until) sched_yield();
}

static void park(struct qn_engine *e, uint64_t due) {
    struct timespec t = {.tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u)};
    pthread_mutex_lock(&e->lock);
    e->parked = true;
    while (!e->kick && !e->stop) {
        if (due == UINT64_MAX)
            pthread_cond_wait(&e->cond, &e->lock);
        else if (pthread_cond_timedwait(&e->cond, &e->lock, &t))
            break;
    }
    e->kick = false;
    e->parked = false;
    pthread_mutex_unlock(&e->lock);
}

static void *engine_main(void *arg) {
    struct qn_engine *e = arg;
    for (;;) {
        uint32_t paused[QN_MAX_MODELS];
        pthread_mutex_lock(&e->lock);
        bool stopping = e->stop;
        pthread_mutex_unlock(&e->lock);
        e->now_ns = qn_now_ns();
        intake(e);
        uint64_t due = sweep(e, stopping, paused);
        qn_engine_admit(e);
        bool busy = qn_engine_step(e);
        /* The state that a job held is free before its end is known to anybody. */
        pthread_mutex_lock(&e->lock);
        for (uint32_t i = 0; i < e->opt.models->n; i++) {
            e->queues[i].stats.running = e->pool_running[i];
            e->queues[i].stats.paused = paused[i];
        }
        pthread_mutex_unlock(&e->lock);
        send_events(e);
        if (stopping && !e->jobs) return NULL;
        if (busy) continue;
        linger(e, due);
        park(e, due);
    }
}

/* ---- public ---- */
/* Work memory of one step: sized here, so that no step allocates it. */
static bool alloc_work(struct qn_engine *e) {
    size_t n = (size_t)e->lim.max_running * (e->opt.models->n ? e->opt.models->n : 1), work = 1, vocab = 1;
    for (uint32_t i = 0; i < e->opt.models->n; i++) {
        const struct qn_model_info *info = qn_model_info(e->opt.models->models[i]);
        size_t w = qn_sample_work_bytes(info->vocab);
        if (w > work) work = w;
        if (info->vocab > vocab) vocab = info->vocab;
    }
    e->running = qn_mem_alloc_array(n, sizeof(struct qn_run *));
    e->span_runs = qn_mem_alloc_array(n, sizeof(struct qn_run *));
    e->plan_runs = qn_mem_alloc_array(n, sizeof(struct qn_run *));
    e->groups = qn_mem_alloc_array(n, sizeof *e->groups);
    e->deficits = qn_mem_alloc_array(n, sizeof *e->deficits);
    e->snap = qn_mem_alloc_array(n, sizeof *e->snap);
    e->plan = qn_mem_alloc_array(n, sizeof *e->plan);
    e->work = qn_mem_alloc_array(n, sizeof *e->work);
    e->preempt = qn_mem_alloc_array(n, sizeof *e->preempt);
    e->spans = qn_mem_alloc_array(n, sizeof *e->spans);
    e->row = qn_mem_alloc_array(vocab, sizeof *e->row);
    e->sample_work = qn_mem_alloc(work);
    return e->running && e->span_runs && e->plan_runs && e->groups && e->deficits && e->snap && e->plan &&
           e->work && e->preempt && e->spans && e->row && e->sample_work;
}

static uint32_t or_default(uint32_t v, uint32_t def) {
    return v ? v : def;
}

static void set_options(struct qn_engine *e, const struct qn_engine_options *opt) {
    e->opt = *opt;
    e->opt.max_queue_requests = or_default(opt->max_queue_requests, 256);
    if (!opt->max_queue_tokens) e->opt.max_queue_tokens = 1u << 20;
    if (!opt->stream_high_water) e->opt.stream_high_water = 64u << 10;
    e->opt.stall_timeout_ms = or_default(opt->stall_timeout_ms, 30000);
    e->lim.step_tokens = or_default(opt->step_tokens, 512);
    e->lim.prefill_chunk = or_default(opt->prefill_chunk, 128);
    e->lim.max_running = or_default(opt->max_running, 64);
    /* Every running sequence gets a row in each of its group's steps. */
    if (e->lim.max_running > e->lim.step_tokens) e->lim.max_running = e->lim.step_tokens;
}

static int init_sync(struct qn_engine *e) {
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr)) return -1;
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int rc = pthread_cond_init(&e->cond, &attr);
    pthread_condattr_destroy(&attr);
    if (rc) return -1;
    if (!pthread_mutex_init(&e->lock, NULL)) {
        if (!qn_queue_init(&e->incoming, NULL, NULL)) {
            if (!qn_queue_init(&e->events, e->opt.wake, e->opt.wake_ctx)) return 0;
            qn_queue_destroy(&e->incoming);
        }
        pthread_mutex_destroy(&e->lock);
    }
    pthread_cond_destroy(&e->cond);
    return -1;
}

struct qn_engine *qn_engine_new(const struct qn_engine_options *opt) {
    struct qn_engine *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    set_options(e, opt);
    e->out_tail = &e->out_head;
    if (init_sync(e)) {
        free(e);
        return NULL;
    }
    if (!alloc_work(e)) qn_engine_free(&e);
    return e;
}

int qn_engine_start(struct qn_engine *e) {
    if (pthread_create(&e->thread, NULL, engine_main, e)) return -1;
    e->started = true;
    return 0;
}

/* Seconds until the queue has room, from the rate at which jobs left it lately. Under lock. */
static unsigned retry_after(const struct qn_model_queue *q) {
    uint64_t n = q->n_left < QN_DRAIN_RING ? q->n_left : QN_DRAIN_RING;
    if (n < 2) return 1;
    uint64_t oldest = q->left_ns[(q->n_left - n) % QN_DRAIN_RING];
    double seconds = (double)(qn_now_ns() - oldest) * 1e-9;
    /* Half the queue: who comes back then should find room, not another refusal. */
    double wait = seconds / (double)n * ((double)q->stats.queued / 2 + 1);
    return wait < 1 ? 1 : wait > 30 ? 30 : (unsigned)(wait + 0.5);
}

/* What the longest sequence needs against the whole budget: answered before anything waits. */
static bool can_ever_fit(const struct qn_job *j) {
    uint32_t most = 0, context = qn_model_info(j->model)->context;
    for (uint32_t i = 0; i < j->req.n_seqs; i++) {
        uint32_t n = j->n_prompts[i]; /* <= context */
        if (j->req.task == QN_TASK_GENERATE)
            n = j->req.max_tokens < context - n ? n + j->req.max_tokens : context;
        if (j->req.task == QN_TASK_SCORE) n--; /* nothing follows the last token */
        if (n > most) most = n;
    }
    return qn_variant_fits(j->variant, most);
}

/* A structure that looks at later tokens has no state to go on from: its sequence is one span of one step. */
static bool can_run_whole(const struct qn_engine *e, const struct qn_job *j, struct qn_api_err *err) {
    if (qn_variant_structure(j->variant)->causal) return true;
    for (uint32_t i = 0; i < j->req.n_seqs; i++) {
        if (j->n_prompts[i] <= e->lim.step_tokens) continue;
        qn_api_fail(err, QN_API_CONTEXT, "sequence",
                    "sequence %u has %u tokens; a structure that is not causal runs in one step, and a step "
                    "holds %u",
                    i, j->n_prompts[i], e->lim.step_tokens);
        return false;
    }
    return true;
}

static struct qn_job_run *new_record(const struct qn_engine *e, struct qn_job *j, uint64_t tokens) {
    struct qn_job_run *js = calloc(1, sizeof *js + j->n_outputs * sizeof js->runs[0]);
    if (!js) return NULL;
    js->done = calloc(1, sizeof *js->done);
    if (!js->done) {
        free(js);
        return NULL;
    }
    js->job = j;
    js->pool = qn_engine_pool_of(e, j->model);
    js->queued_tokens = tokens;
    js->counted = true;
    js->n_live = js->n_runs = j->n_outputs;
    for (uint32_t i = 0; i < js->n_runs; i++) {
        js->runs[i].job = js;
        js->runs[i].out = &j->outputs[i];
    }
    return js;
}

/* Check and reservation are one critical section, so the bounds hold whoever submits at the same time. */
static int enter_queue(struct qn_engine *e, struct qn_job *j, uint64_t tokens, struct qn_api_err *err,
                       unsigned *after) {
    struct qn_model_queue *q = &e->queues[j->run->pool];
    pthread_mutex_lock(&e->lock);
    bool full = q->stats.queued >= e->opt.max_queue_requests ||
                q->stats.queued_tokens + tokens > e->opt.max_queue_tokens;
    bool leaving = e->stop || (e->draining && !j->seated);
    bool refuse = leaving || (full && !j->seated);
    if (leaving) {
        qn_api_fail(err, QN_API_DRAINING, "", "the server is shutting down");
    } else if (refuse) {
        *after = retry_after(q);
        qn_api_fail(err, QN_API_QUEUE_FULL, "", "the queue is full; try again in %u s", *after);
    } else {
        q->stats.queued++;
        q->stats.queued_tokens += tokens;
        qn_job_ref(j);
        qn_queue_push(&e->incoming, &j->node);
        e->kick = true;
    }
    bool parked = e->parked && !refuse;
    if (parked) e->parked = false; /* one signal is enough for all jobs of a batch */
    pthread_mutex_unlock(&e->lock);
    if (parked) pthread_cond_signal(&e->cond);
    return refuse ? -1 : 0;
}

int qn_engine_submit(struct qn_engine *e, struct qn_job *j, struct qn_api_err *err, unsigned *after) {
    static const enum qn_counter by_task[] = {[QN_TASK_GENERATE] = QN_C_INFER_GENERATE,
                                              [QN_TASK_SCORE] = QN_C_INFER_SCORE,
                                              [QN_TASK_EMBED] = QN_C_INFER_EMBED};
    uint64_t tokens = 0;
    unsigned unused;
    if (!after) after = &unused;
    *after = 0;
    if (qn_job_unprepared(j))
        return qn_api_fail(err, QN_API_INTERNAL, "", "the request's constraint was not made ready");
    for (uint32_t i = 0; i < j->req.n_seqs; i++) tokens += j->n_prompts[i];
    if (tokens > e->opt.max_queue_tokens && !j->seated)
        return qn_api_fail(err, QN_API_TOO_LARGE_WORK, "sequence",
                           "%llu tokens in one request; at most %llu may wait", (unsigned long long)tokens,
                           (unsigned long long)e->opt.max_queue_tokens);
    if (qn_model_lost(j->model))
        return qn_api_fail(err, QN_API_MODEL_LOST, "model",
                           "model %s can't answer any more: the file that its weights are mapped from was "
                           "cut or overwritten; it serves again when quern is started again",
                           qn_model_info(j->model)->id);
    if (!can_run_whole(e, j, err)) return -1;
    if (!can_ever_fit(j))
        return qn_api_fail(err, QN_API_TOO_LARGE_WORK, "sequence",
                           "the sequence with max_tokens can never fit the state budget of %zu bytes",
                           qn_model_state(j->model).budget);
    j->run = new_record(e, j, tokens);
    if (!j->run) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    uint32_t pool = j->run->pool;
    if (enter_queue(e, j, tokens, err, after)) {
        if (err->code == QN_API_QUEUE_FULL) qn_metrics_model_add(e->opt.metrics, pool, QN_MC_REFUSED, 1);
        qn_job_run_free(j->run);
        j->run = NULL;
        return -1;
    }
    if (!j->quiet) qn_metrics_add(e->opt.metrics, by_task[j->req.task], 1);
    if (!j->quiet) qn_metrics_model_add(e->opt.metrics, pool, QN_MC_REQUESTS, 1);
    return 0;
}

void qn_engine_nudge(struct qn_engine *e) {
    pthread_mutex_lock(&e->lock);
    e->kick = true;
    bool parked = e->parked;
    e->parked = false;
    pthread_mutex_unlock(&e->lock);
    if (parked) pthread_cond_signal(&e->cond); /* outside the lock, which the woken thread takes first */
}

void qn_engine_cancel(struct qn_engine *e, struct qn_job *j) {
    atomic_store(&j->cancel, true);
    qn_engine_nudge(e);
}

void qn_engine_drain(struct qn_engine *e) {
    pthread_mutex_lock(&e->lock);
    e->draining = true;
    pthread_mutex_unlock(&e->lock);
}

void qn_engine_stop(struct qn_engine *e) {
    pthread_mutex_lock(&e->lock);
    e->draining = e->stop = true;
    e->kick = true;
    pthread_cond_signal(&e->cond);
    pthread_mutex_unlock(&e->lock);
    if (e->started) pthread_join(e->thread, NULL);
    e->started = false;
}

struct qn_engine_stats qn_engine_model_stats(const struct qn_engine *e, uint32_t model) {
    struct qn_engine *w = (struct qn_engine *)(uintptr_t)e; /* the lock is not part of the value */
    pthread_mutex_lock(&w->lock);
    struct qn_engine_stats s = e->queues[model].stats;
    pthread_mutex_unlock(&w->lock);
    return s;
}

struct qn_engine_stats qn_engine_stats(const struct qn_engine *e) {
    struct qn_engine_stats all = {0};
    for (uint32_t i = 0; i < e->opt.models->n; i++) {
        struct qn_engine_stats s = qn_engine_model_stats(e, i);
        all.queued += s.queued;
        all.queued_tokens += s.queued_tokens;
        all.running += s.running;
        all.paused += s.paused;
    }
    return all;
}

void qn_engine_free(struct qn_engine **pe) {
    struct qn_engine *e = *pe;
    if (!e) return;
    *pe = NULL;
    qn_engine_stop(e);
    for (struct qn_event *ev = qn_engine_take(e), *next; ev; ev = next) {
        next = (struct qn_event *)(void *)ev->node.next;
        qn_event_free(ev);
    }
    while (e->keys) {
        struct qn_key_queue *k = e->keys;
        e->keys = k->next;
        free(k);
    }
    void *work[] = {e->running, e->span_runs, e->plan_runs, e->groups, e->deficits, e->snap,
                    e->plan,    e->work,      e->preempt,   e->spans,  e->row,      e->sample_work};
    for (size_t i = 0; i < sizeof work / sizeof *work; i++) qn_mem_free(work[i]);
    qn_mem_free(e->ref_rows);
    free(e->key_snap);
    qn_queue_destroy(&e->events);
    qn_queue_destroy(&e->incoming);
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->cond);
    free(e);
}
