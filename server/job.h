/* A job: one inference request on its way from parsed request to finished reply.
 *
 * Made by qn_job_new (loop thread, or a libuv worker for large bodies), submitted to the engine, filled by
 * the engine thread, turned into reply bytes on the loop thread after its DONE event. Refcounted: HTTP side
 * and engine each hold one reference; whoever is last frees it. Fields are grouped by who may write them, and
 * when. */
#ifndef QN_SERVER_JOB_H
#define QN_SERVER_JOB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "api/infer.h"
#include "model/batch.h"
#include "model/model.h"
#include "model/sample.h"
#include "server/queue.h"
#include "server/registry.h"

enum qn_finish {
    QN_FINISH_NONE = 0,
    QN_FINISH_STOP,   /* end-of-generation token or stop string */
    QN_FINISH_LENGTH, /* max_tokens or the model's context */
    QN_FINISH_TIMEOUT,
    QN_FINISH_CANCELLED,
    QN_FINISH_ERROR,
    QN_FINISH_COMPLETE /* score and embed: all positions done */
};

/* One output (sequence i, continuation c). Written by the engine thread until DONE, then read by the loop. */
struct qn_output {
    uint32_t index, choice;
    const int32_t *prompt; /* owned by the job, [n_prompt] */
    uint32_t n_prompt;
    int32_t *tokens; /* generated ids, [n_tokens], owned */
    uint32_t n_tokens, cap_tokens;
    struct qn_buf text;          /* generated text up to stop strings, whole characters */
    struct qn_sampled *logprobs; /* one per generated or scored token when asked, owned */
    uint32_t n_logprobs;
    double log_prob; /* score: sum over scored tokens */
    uint64_t scored_tokens, scored_bytes;
    double *hidden_sum; /* embed: [d_model] sum over positions, owned */
    float *embedding;   /* embed: mean, [d_model], owned */
    enum qn_finish finish;
    uint32_t cached_tokens;
    struct qn_seq_bytes bytes; /* peaks at the end */
    struct qn_api_timings timings;
};

struct qn_job {
    struct qn_node node; /* in the engine's submit queue */
    atomic_int refs;
    /* set by qn_job_new, then constant */
    char id[40];             /* "inf-" + 24 hex digits */
    int64_t created;         /* unix seconds */
    struct qn_api_infer req; /* owned */
    struct qn_model *model;
    struct qn_variant *variant; /* one reference */
    uint64_t salt;              /* prefix-cache domain: hash of the API key, 0 without */
    int32_t **prompts;          /* [req.n_seqs], owned; add_bos etc. done */
    uint32_t *n_prompts;
    uint64_t t_received_ns; /* monotonic: when the request's body was complete */
    double tokenize_ms;
    uint64_t deadline_ns; /* monotonic, 0 = none */
    void *owner;          /* the HTTP request; the engine never looks at it */
    /* set by qn_engine_submit, then the engine's alone */
    struct qn_job_run *run;
    /* set by the loop thread, read by the engine */
    atomic_bool cancel;    /* client gone: free within one step */
    atomic_size_t pending; /* bytes produced for the stream and not yet sent: above the high-water mark the
                              engine pauses this job's sequences */
    /* written by the engine thread until DONE */
    struct qn_output *outputs; /* [n_outputs], owned */
    uint32_t n_outputs;
    enum qn_api_code error; /* QN_API_OK, or why the whole job failed */
    char error_msg[256];
    struct qn_api_timings timings;
    struct qn_api_cost cost;
    struct qn_memory memory;
};

/* Translates a parsed request: finds the model, resolves the structure, tokenizes. Takes over *req (cleared)
 * on success and on failure. 0, or -1 with *err (unknown model, structure, too long, token out of range, …).
 */
struct qn_job_options {
    uint64_t salt, t_received_ns;
    uint32_t default_timeout_ms;
    void *owner;
};
int qn_job_new(const struct qn_registry *models, struct qn_api_infer *req, const struct qn_job_options *opt,
               struct qn_job **out, struct qn_api_err *err);
void qn_job_ref(struct qn_job *j);
void qn_job_unref(struct qn_job *j);
/* After DONE, without error: the whole reply as JSON; adds the finish phase (from the engine's last moment to
 * now) to the timings first. Loop thread. */
void qn_job_write_reply(struct qn_job *j, struct qn_buf *out);
/* After qn_job_write_reply: the reply's timings, for Server-Timing, logs and histograms. */
const struct qn_api_timings *qn_job_timings(const struct qn_job *j);

#endif
