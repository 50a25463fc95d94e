/* The engine: one thread that owns all sequences and their state.
 *
 *   submit (any thread) -> bounded queue -> [admit -> sched plan -> qn_step_run -> sample -> text_out]* ->
 * events
 *
 * Admission happens in one place with one reservation. Events go to the loop thread through a queue with one
 * wake per step. The engine never touches a socket. */
#ifndef QN_SERVER_ENGINE_H
#define QN_SERVER_ENGINE_H

#include "server/job.h"
#include "server/metrics.h"

struct qn_engine;

struct qn_engine_options {
    const struct qn_registry *models; /* borrowed */
    uint32_t max_queue_requests;      /* waiting jobs of each model, default 256 */
    uint64_t max_queue_tokens;        /* their prompt tokens, default 1 << 20 */
    uint32_t max_running;             /* sequences of each model in the running set, default 64 */
    uint32_t step_tokens;             /* token budget of a step, default 512 */
    uint32_t prefill_chunk;           /* longest prefill chunk while others decode, default 128 */
    uint32_t reserve_tokens;          /* admission reserves prompt + min(max_tokens, this) */
    size_t stream_high_water;         /* bytes of job->pending above which a job pauses, default 64 KiB */
    uint32_t stall_timeout_ms;        /* a job paused this long is cancelled, default 30000 */
    struct qn_metrics *metrics;       /* may be NULL */
    void (*wake)(void *ctx);          /* events are waiting; called on the engine thread, must only signal */
    void *wake_ctx;
};

enum qn_event_kind { QN_EVENT_TOKEN = 0, QN_EVENT_DONE };
struct qn_event { /* owned by the taker; qn_event_free also drops its job reference */
    struct qn_node node;
    struct qn_job *job;
    enum qn_event_kind kind;
    uint32_t index; /* TOKEN: output */
    int32_t token;  /* TOKEN: last token of this piece of text */
    bool has_logprob;
    struct qn_sampled logprob;
    size_t n; /* TOKEN: text bytes (whole characters; may be 0) */
    char text[];
};

struct qn_engine *qn_engine_new(const struct qn_engine_options *opt);
int qn_engine_start(struct qn_engine *e); /* 0, or -1 when no thread could be had */
/* Queues a job. 0: the engine holds a reference until DONE (which always comes, also after cancel).
 * -1: *err says why: QUEUE_FULL (then *retry_after is 1..30 seconds), TOO_LARGE_WORK (can never fit),
 * DRAINING. */
int qn_engine_submit(struct qn_engine *e, struct qn_job *j, struct qn_api_err *err, unsigned *retry_after);
void qn_engine_cancel(struct qn_engine *e,
                      struct qn_job *j);   /* any thread; sets j->cancel and wakes the engine */
void qn_engine_nudge(struct qn_engine *e); /* j->pending went below the mark: look again */
struct qn_event *
qn_engine_take(struct qn_engine *e); /* all waiting events, linked by node.next; loop thread */
void qn_event_free(struct qn_event *ev);
/* A streamed token as SSE bytes (job with stream: true). */
void qn_event_write_sse(const struct qn_event *ev, struct qn_buf *out);
void qn_engine_drain(struct qn_engine *e); /* new jobs are refused from now on */
/* Cancels what is left, delivers every DONE into the event queue, joins the thread. */
void qn_engine_stop(struct qn_engine *e);
void qn_engine_free(struct qn_engine **e);

struct qn_engine_stats {
    uint32_t queued, running, paused;
    uint64_t queued_tokens;
};
/* Any thread: of all models, and of the one at this place in the registry. */
struct qn_engine_stats qn_engine_stats(const struct qn_engine *e);
struct qn_engine_stats qn_engine_model_stats(const struct qn_engine *e, uint32_t model);

#endif
