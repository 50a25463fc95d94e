/* Inside the engine: its records of jobs and sequences. Included by server/engine*.c alone.
 *
 *   engine.c        public calls, thread, intake, cancels and deadlines, parking
 *   engine_seq.c    one sequence: queue, admission, fork, preemption, end
 *   engine_step.c   snapshot -> qn_sched_step -> qn_step_run -> rows -> tokens
 *   engine_mask.c   what the text of an output may be, before each token
 *   engine_draft.c  guesses of what a sequence goes on with, and what came of them
 *   engine_fidelity.c  an output held against a baseline structure, teacher-forced
 *   engine_done.c   a job's end: timings, cost, DONE event
 *
 * Everything here belongs to the engine thread, except what stands behind `lock`. */
#ifndef QN_SERVER_ENGINE_IMPL_H
#define QN_SERVER_ENGINE_IMPL_H

#include <pthread.h>

#include "kernels/cpu.h"
#include "server/draft.h"
#include "server/engine.h"
#include "server/sched.h"
#include "server/text_out.h"

enum qn_run_state {
    QN_RUN_HELD = 0, /* a further choice: waits for its leader's prompt, to fork from it */
    QN_RUN_QUEUED,   /* in its key's queue; holds no state */
    QN_RUN_RUNNING,  /* in engine->running; holds state */
    QN_RUN_ENDED
};
enum qn_run_phase {
    QN_PHASE_QUEUE = 0,
    QN_PHASE_CONVERT,
    QN_PHASE_PREFILL,
    QN_PHASE_DECODE,
    QN_PHASE_FIDELITY, /* everything after the output is there: part of the reply's finish phase */
    QN_PHASE_COUNT
};

struct qn_key_queue;

/* An output's tokens run through two structures, a chunk at a time: the baseline's logits into the engine's
 * buffer, then the output's own structure against them. */
struct qn_fidelity_run {
    bool on;
    unsigned side;          /* whose turn: 0 the baseline's, 1 the structure's own */
    struct qn_seq *seqs[2]; /* owned; qn_run.seq is seqs[side] meanwhile */
    uint32_t rows;          /* to run in all */
    uint32_t chunk;         /* rows that the buffer holds */
    uint32_t done;          /* rows that are in the sums */
    uint64_t turn;          /* number of the step after which it last gave the buffer back */
};

/* Speculation of one output; made when it generates its second token, gone when it ends. The guesses stand in
 * qn_run.hist behind the n_hist tokens that are known. */
struct qn_speculation {
    struct qn_draft_index index;
    struct qn_draft_pace pace;
    uint32_t at;     /* n_hist that `wish` was made for */
    uint32_t wish;   /* guesses for the next step */
    uint32_t drafts; /* of them, those in the current step */
    uint32_t n_seen; /* tokens sampled in the current step: the guesses that were right, and one more */
    struct qn_sampled seen[QN_DRAFT_MOST + 1];
};

struct qn_run { /* one output on its way */
    struct qn_job_run *job;
    struct qn_output *out;
    struct qn_run *prev, *next; /* in its key's queue */
    enum qn_run_state state;
    uint64_t order, served_at; /* see struct qn_sched_seq */
    struct qn_key_queue *key;
    uint32_t group, pool; /* index in engine->groups (while running), of its model */
    struct qn_seq *seq;   /* owned; made at first admission, kept (empty) while preempted */
    int32_t *hist;        /* owned: prompt and generated tokens, [n_hist] */
    uint32_t n_hist, cap_hist;
    uint32_t target;    /* rows to run until the end (score, embed, max_tokens 0); generate: n_hist */
    uint32_t cap;       /* most tokens to generate: max_tokens clipped by the context */
    uint32_t reserved;  /* length that its state has room for */
    uint32_t next_row;  /* score, embed, scored prompts: first row whose value is not in the sums yet */
    uint32_t span_rows; /* rows in the current step */
    bool admitted;      /* at least once */
    bool sampled_ok;    /* `sampled` is the next token, from the step that just ran */
    bool no_memory;     /* a row callback could not store its result */
    struct qn_sampled sampled;
    struct qn_text_out text;
    struct qn_cursor cursor;     /* its place in job->constraint */
    int mask_rc;                 /* why the constraint could not be followed, or QN_OK */
    struct qn_speculation *spec; /* owned, or NULL */
    struct qn_fidelity_run fid;
    /* measurements */
    uint64_t mark_ns;        /* until when time is attributed */
    enum qn_run_phase phase; /* to what it goes now */
    uint64_t ns[QN_PHASE_COUNT];
    uint64_t first_ns, last_ns; /* first and latest token; 0 = none */
    uint64_t steps, batch_sum;
    uint64_t drafted, accepted, draft_steps;
    uint32_t prefilled; /* rows run before the first token, without recomputation */
    double compute_ns, flops, bytes;
};

struct qn_job_run { /* the engine's record of one job; made by submit */
    struct qn_job *job;
    struct qn_job_run *prev, *next; /* in engine->jobs; next also on the list of the dead */
    struct qn_event *done;          /* made at submit, so that DONE can always be sent */
    uint32_t pool;                  /* place of its model */
    uint64_t queued_tokens;         /* what is still counted in its queue's queued_tokens */
    bool counted, ended;            /* counted: in its queue's queued */
    uint64_t paused_ns;             /* since when it is paused, 0 = it is not */
    struct qn_run *last;            /* the output that ended last */
    uint32_t n_live, n_runs;
    struct qn_run runs[];
};

struct qn_key_queue { /* one tenant at one model: sequences that wait, oldest first */
    struct qn_key_queue *next;
    uint64_t salt, served;
    uint32_t pool;  /* of the model */
    uint32_t users; /* queued and running sequences */
    struct qn_run *head, *tail;
};

struct qn_group {               /* sequences that share steps */
    struct qn_variant *variant; /* borrowed from its jobs */
    enum qn_math math;
    uint32_t users;
};

#define QN_DRAIN_RING 32

/* One model's queue, seen from outside. Under the engine's lock. */
struct qn_model_queue {
    struct qn_engine_stats stats;    /* queued, queued_tokens: kept by submit and admission; rest: copies */
    uint64_t left_ns[QN_DRAIN_RING]; /* when jobs left it; ring */
    uint64_t n_left;
};

struct qn_engine {
    struct qn_engine_options opt;
    struct qn_sched_limits lim;
    pthread_t thread;
    bool started;
    /* shared with other threads, under lock */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    atomic_bool kick; /* something to look at; set under the lock, polled without it while spinning */
    bool stop, draining, parked;
    struct qn_queue incoming, events;
    struct qn_model_queue queues[QN_MAX_MODELS];
    /* engine thread */
    struct qn_job_run *jobs, *dead;
    struct qn_key_queue *keys;
    uint32_t n_keys;
    struct qn_run **running; /* [n_running], in order of admission; holds lim.max_running of each model */
    uint32_t n_running;
    uint32_t pool_running[QN_MAX_MODELS]; /* of them, those of each model */
    struct qn_group *groups;              /* [n_groups] */
    int64_t *deficits;
    uint32_t n_groups, cursor;
    size_t pool_tried[QN_MAX_MODELS]; /* free bytes when the head's reservation failed, plus 1; 0 = did not */
    uint64_t next_order, n_steps;
    uint64_t now_ns;
    struct qn_event *out_head, **out_tail; /* events of this round */
    /* work memory, sized once */
    struct qn_sched_seq *snap;
    struct qn_sched_span *plan;
    uint32_t *work, *preempt;
    struct qn_span *spans;
    struct qn_run **span_runs, **plan_runs;
    float *row;
    void *sample_work;
    float *ref_rows;               /* logits of one fidelity chunk; made when first needed */
    struct qn_run *ref_owner;      /* whose chunk is in it, or NULL */
    struct qn_sched_key *key_snap; /* [cap_keys] */
    uint32_t cap_keys;
};

/* engine.c */
void qn_engine_push_event(struct qn_engine *e, struct qn_event *ev); /* sent at the end of the round */

/* engine_seq.c */
/* Place of a model in the registry; that of its state pool. */
uint32_t qn_engine_pool_of(const struct qn_engine *e, const struct qn_model *m);
/* Attributes the time since the last call to the current phase and enters the next one. */
void qn_run_mark(struct qn_run *r, uint64_t now, enum qn_run_phase next);
/* Sets up the runs of a new job and queues them; false: the job has ended with an error. */
bool qn_engine_enqueue(struct qn_engine *e, struct qn_job_run *js);
/* Admits as many as the scheduler picks and the pools hold. */
void qn_engine_admit(struct qn_engine *e);
/* Further choices of r's prompt, whose first tokens were sampled: fork r's state or queue them. */
void qn_engine_fork(struct qn_engine *e, struct qn_run *r);
bool qn_run_measured(const struct qn_run *r); /* its output is there; it is held against the baseline still */
bool qn_run_leads(const struct qn_run *r);    /* further choices wait for this one's prompt */
void qn_engine_preempt(struct qn_engine *e, struct qn_run *r);
/* Ends one output; the job ends with its last one. */
void qn_run_end(struct qn_engine *e, struct qn_run *r, enum qn_finish finish);
uint32_t qn_run_todo(const struct qn_run *r); /* rows to run now */
/* Moves a running sequence to the group of the structure whose turn it is. */
void qn_run_regroup(struct qn_engine *e, struct qn_run *r);
/* The job's queue reservations are over (admitted or ended). */
void qn_engine_uncount(struct qn_engine *e, struct qn_job_run *js, uint64_t tokens);

/* engine_step.c */
bool qn_engine_step(struct qn_engine *e); /* false: nothing to run */
/* Text of the last tokens that was held back: to the output and, for a stream, as an event. */
void qn_run_flush_text(struct qn_engine *e, struct qn_run *r);

/* Rows of r's prompt are still to be held against the tokens that follow them. */
bool qn_run_scores_prompt(const struct qn_run *r);
void qn_run_sample(struct qn_engine *e, struct qn_run *r, float *logits, uint32_t pos,
                   struct qn_sampled *out);
/* Room for n tokens in r->hist; false when memory is short. */
bool qn_run_hist_room(struct qn_run *r, uint32_t n);
/* One more token, r->sampled: text, stop conditions, event; it may end the output. */
void qn_run_accept(struct qn_engine *e, struct qn_run *r);

/* engine_mask.c */
/* qn_sample, of the tokens that r's constraint allows after the first n generated ones. */
void qn_mask_sample(struct qn_run *r, const struct qn_sampling *p, struct qn_sample_input *in,
                    struct qn_sampled *out);
/* Is the text complete, so that nothing can follow? */
bool qn_mask_done(struct qn_run *r);
/* How many of n guesses the constraint allows. */
uint32_t qn_mask_guesses(const struct qn_run *r, uint32_t n);
/* Ends a job of which a constraint could not be followed. */
void qn_mask_check(struct qn_engine *e, struct qn_job_run *js);

/* engine_draft.c */
/* Guesses for r's next step, made once per token: how many, and what their state takes beyond its row's. */
uint32_t qn_draft_wish(struct qn_run *r, size_t *grow);
/* The step that is being made runs n guesses of r (0: none). */
void qn_draft_begin(struct qn_run *r, uint32_t n);
bool qn_draft_runs(const struct qn_run *r);
/* A row of such a step: the token after it, as long as all guesses up to it were right. */
void qn_draft_row(struct qn_engine *e, struct qn_run *r, uint32_t pos, float *logits);
/* After the step: state of wrong guesses is taken back, the tokens are accepted one by one. */
void qn_draft_apply(struct qn_engine *e, struct qn_run *r);
void qn_draft_end(struct qn_run *r);
/* Why r's job, which asked for speculation, gets none; or NULL. */
const char *qn_draft_reason(const struct qn_job *j);

/* engine_fidelity.c */
#define QN_FIDELITY_ROWS  32u               /* most rows of one chunk */
#define QN_FIDELITY_BYTES ((size_t)8 << 20) /* most bytes of the buffer, unless one row needs more */
/* Are r's tokens to be held against a baseline? Then its record is set up for that. */
bool qn_fidelity_begin(struct qn_run *r);
/* Weights and state of both structures: all or nothing. QN_OK, QN_ERR_NO_STATE (wait), QN_ERR_TOO_LONG (both
 * never fit), QN_ERR_NOMEM. */
int qn_fidelity_take_state(struct qn_engine *e, struct qn_run *r, struct qn_err *err);
uint32_t qn_fidelity_todo(const struct qn_run *r);
/* Gives the buffer to the sequence that waited longest for it, when it is free. */
void qn_fidelity_grant(struct qn_engine *e);
/* Must r wait because the buffer is another's? */
bool qn_fidelity_waits(const struct qn_engine *e, const struct qn_run *r);
enum qn_want qn_fidelity_want(const struct qn_run *r);
void qn_fidelity_row(struct qn_engine *e, struct qn_run *r, uint32_t pos, const float *v);
/* After a step: whose turn is next. true: all rows are done. */
bool qn_fidelity_next(struct qn_engine *e, struct qn_run *r);
void qn_fidelity_reset(struct qn_engine *e, struct qn_run *r); /* gives state and buffer back (preemption) */
void qn_fidelity_free(struct qn_engine *e, struct qn_run *r);
/* Weights that r's next step runs with. */
struct qn_variant *qn_run_variant(const struct qn_run *r);
/* Makes v's converted weights when they are not there; the time counts as r's, unless it measures fidelity.
 */
int qn_run_prepare(struct qn_engine *e, struct qn_run *r, struct qn_variant *v, struct qn_err *err);
/* Bytes of text that token i of r's tokens stands for. */
size_t qn_run_token_bytes(const struct qn_run *r, uint32_t i, uint64_t before);

/* engine_done.c */
/* Ends all outputs of a job with an error (the first one stays). */
void qn_job_fail(struct qn_engine *e, struct qn_job_run *js, enum qn_api_code code, const char *msg);
/* Ends what is left of a job. */
void qn_job_end(struct qn_engine *e, struct qn_job_run *js, enum qn_finish finish);
void qn_job_done(struct qn_engine *e, struct qn_job_run *js); /* its last output has ended */
void qn_job_run_free(struct qn_job_run *js);

#endif
