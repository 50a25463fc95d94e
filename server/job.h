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

#include "api/openai.h"
#include "model/batch.h"
#include "model/constrain/constrain.h"
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

/* How far a structure is from another one on the same tokens. Row t of both predicts token t + 1. */
struct qn_fidelity {
    uint32_t positions; /* rows that are in the sums */
    uint32_t agree;     /* of them, rows whose likeliest tokens are the same */
    double kl;          /* sum of KL(baseline || this), nats */
    double log_prob[2]; /* of the tokens that follow, natural log: baseline, this */
    uint64_t bytes;     /* of text that those tokens stand for */
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
    struct qn_sampled *prompt_logprobs; /* one per prompt token but the first when asked (choice 0), owned */
    uint32_t n_prompt_logprobs;
    double log_prob; /* score: sum over scored tokens */
    uint64_t scored_tokens, scored_bytes;
    double *hidden_sum; /* embed: [d_model] sum over positions, owned */
    float *embedding;   /* embed: mean, [d_model], owned */
    enum qn_finish finish;
    uint32_t cached_tokens;
    struct qn_fidelity fidelity; /* against job->baseline; no positions: not measured */
    struct qn_seq_bytes bytes;   /* peaks at the end */
    struct qn_api_timings timings;
};

/* In whose words the reply is written, and with what. */
struct qn_job_style {
    enum qn_api_form form;
    bool echo;   /* completion: the prompt stands before the text */
    bool usage;  /* stream: ends with the usage */
    bool base64; /* embedding */
};

/* Where in an output's text its tokens stand, one after the other. */
struct qn_text_pos {
    uint32_t chars; /* before the next token */
    bool strip;     /* a first blank would be the tokenizer's, not the text's */
};

struct qn_job {
    struct qn_node node; /* in the engine's submit queue */
    atomic_int refs;
    /* set by qn_job_new, then constant */
    char id[40]; /* "inf-", "cmpl-", … and 24 hex digits */
    struct qn_job_style style;
    int64_t created;         /* unix seconds */
    struct qn_api_infer req; /* owned */
    struct qn_model *model;
    struct qn_variant *variant; /* one reference */
    struct qn_variant
        *baseline; /* one reference: what outputs are held against when they are there, or NULL */
    struct qn_constraint *constraint; /* one reference, or NULL: what texts outputs may be */
    uint32_t fidelity_tokens;         /* over at most so many tokens of prompt and output */
    bool fidelity_only; /* holds the prompt's tokens against the baseline and does nothing else */
    bool quiet;         /* a part of a request that is counted as a whole */
    bool seated;        /* goes on with work that was admitted: passes the queue's bounds */
    uint64_t salt;      /* prefix-cache domain: hash of the API key, 0 without */
    int32_t **prompts;  /* [req.n_seqs], owned; add_bos etc. done */
    uint32_t *n_prompts;
    uint64_t t_received_ns; /* monotonic: when the request's body was complete */
    double tokenize_ms;
    uint64_t deadline_ns; /* monotonic, 0 = none */
    void *owner;          /* the HTTP request; the engine never looks at it */
    /* set by qn_engine_submit, then the engine's alone */
    struct qn_job_run *run;
    /* set by the loop thread, read by the engine */
    atomic_bool cancel;            /* client gone: free within one step */
    struct qn_text_pos *positions; /* [n_outputs], owned: of the tokens that a stream has written; NULL where
                                      they are not asked for. The engine never looks at it */
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
    struct qn_job_style style;
};
int qn_job_new(const struct qn_registry *models, struct qn_api_infer *req, const struct qn_job_options *opt,
               struct qn_job **out, struct qn_api_err *err);
/* A request may ask for texts of a kind whose constraint is not there yet: it has to be made before the job
 * is submitted, on another thread than the loop. */
bool qn_job_unprepared(const struct qn_job *j);
int qn_job_prepare(struct qn_job *j, struct qn_api_err *err); /* 0, or -1 with *err */
/* Tokens that an inference in a structure of approximate or untrained weights is held against the native one
 * with. */
#define QN_FIDELITY_TOKENS 256u
/* One greedy run of known tokens: what comparisons are made of. Never uses the prefix cache. */
struct qn_job_tokens {
    struct qn_variant *variant;  /* borrowed: the job takes its own references */
    struct qn_variant *baseline; /* given: fidelity_only over all tokens */
    const int32_t *tokens;       /* [n], copied; in the vocabulary, n >= 1 */
    uint32_t n;
    enum qn_api_task task; /* generate or score */
    uint32_t max_tokens;
    bool ignore_eos;
    uint64_t salt, deadline_ns; /* 0: none */
    void *owner;
};
/* 0, or -1 with *err: out of memory. */
int qn_job_from_tokens(const struct qn_job_tokens *t, struct qn_job **out, struct qn_api_err *err);
/* Tokens of one sequence of a request, checked against the model: text is tokenized, ids are copied. *out:
 * free(). generate: room for a new token must be left. 0, or -1 with *err. */
struct qn_job_sequence {
    const struct qn_api_seq *seq;
    uint32_t index; /* for messages */
    bool generate;
};
int qn_job_tokenize(struct qn_model *m, const struct qn_job_sequence *s, int32_t **out, uint32_t *n,
                    struct qn_api_err *err);
/* Does the prompt show no text, so that a first blank is the tokenizer's and not the model's? */
bool qn_job_starts_text(const struct qn_job *j, const struct qn_output *o);
/* Could `tokens` tokens of this structure fit an empty pool? */
bool qn_variant_fits(const struct qn_variant *v, uint32_t tokens);
/* "inf-" or another prefix of up to 15 characters, and 24 hex digits. */
void qn_job_id(const char *prefix, char id[40]);
/* As many new tokens as the context and the state budget hold, at most `most` (0: no limit). Before the job
 * is submitted. */
void qn_job_open_end(struct qn_job *j, uint32_t most);
void qn_job_ref(struct qn_job *j);
void qn_job_unref(struct qn_job *j);
/* After DONE, without error: the whole reply as JSON; adds the finish phase (from the engine's last moment to
 * now) to the timings first. Loop thread. */
void qn_job_write_reply(struct qn_job *j, struct qn_buf *out);
/* The same for a stream: what comes before the first token, and what ends it (but the [DONE]). */
void qn_job_write_start(const struct qn_job *j, struct qn_buf *out);
void qn_job_write_end(struct qn_job *j, struct qn_buf *out);
/* The same for a job of one output that is a part of another reply; without logprobs. *v borrows from j. */
struct qn_job_view {
    struct qn_api_structure structure;
    struct qn_api_output output;
    struct qn_api_score score;
    struct qn_api_memory memory;
};
void qn_job_view(const struct qn_job *j, struct qn_job_view *v);
void qn_job_close(struct qn_job *j); /* adds the finish phase, which ends now, to the timings */
/* After qn_job_write_reply or qn_job_close: the timings, for Server-Timing, logs and histograms. */
const struct qn_api_timings *qn_job_timings(const struct qn_job *j);

#endif
