/* One step of the engine: snapshot -> qn_sched_step (pure) -> qn_step_run -> what its rows mean.
 *
 * Row callbacks only take values out of the rows (a sampled token, a log-probability, a sum): a step may
 * still fail after them, and sequences must not end while it runs. What follows from them happens afterwards,
 * in apply(). Engine thread. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/engine_impl.h"

/* ---- rows ---- */
/* Room for one more element in an array that doubles; false when memory is short. */
static bool grow(void **p, uint32_t n, uint32_t *cap, size_t size) {
    if (n < *cap) return true;
    uint32_t want = *cap ? *cap * 2 : 16;
    void *q = want > *cap ? realloc(*p, want * size) : NULL;
    if (!q) return false;
    *p = q;
    *cap = want;
    return true;
}

static bool add_logprob(struct qn_sampled **list, uint32_t *n, const struct qn_sampled *s) {
    /* Doubles at powers of two, so the capacity needs no field of its own. */
    if (!(*n & (*n - 1))) {
        struct qn_sampled *p = realloc(*list, (*n ? (size_t)*n * 2 : 1) * sizeof *p);
        if (!p) return false;
        *list = p;
    }
    (*list)[(*n)++] = *s;
    return true;
}

/* The token after position pos, up to which r->hist is known (or guessed right). */
void qn_run_sample(struct qn_engine *e, struct qn_run *r, float *logits, uint32_t pos,
                   struct qn_sampled *out) {
    const struct qn_job *j = r->job->job;
    const struct qn_api_infer *q = &j->req;
    struct qn_sampling p = {.temperature = q->temperature,
                            .top_k = q->top_k,
                            .top_p = q->top_p,
                            .min_p = q->min_p,
                            .repetition_penalty = q->repetition_penalty,
                            .presence_penalty = q->presence_penalty,
                            .frequency_penalty = q->frequency_penalty,
                            .seed = q->seed,
                            .top_logprobs = q->logprobs,
                            .logprobs = q->logprobs_given};
    struct qn_sample_input in = {.logits = logits,
                                 .vocab = qn_model_info(j->model)->vocab,
                                 .history = r->hist,
                                 .n_history = pos + 1,
                                 .n_generated = pos + 1 - r->out->n_prompt,
                                 .choice = r->out->choice,
                                 .position = pos + 1,
                                 .work = e->sample_work};
    if (j->constraint)
        qn_mask_sample(r, &p, &in, out);
    else
        qn_sample(&p, &in, out);
}

static void sample(struct qn_engine *e, struct qn_run *r, float *logits, uint32_t pos) {
    qn_run_sample(e, r, logits, pos, &r->sampled);
    r->sampled_ok = true;
}

/* The next token of r, and the first ones of all choices that wait to fork from it. */
static void row_generate(struct qn_engine *e, struct qn_run *r, uint32_t pos, float *v) {
    size_t bytes = qn_model_info(r->job->job->model)->vocab * sizeof *v;
    struct qn_run *end = r->job->runs + r->job->n_runs;
    for (struct qn_run *c = r + 1; qn_run_leads(r) && c < end && c->out->choice; c++) {
        if (c->state != QN_RUN_HELD) continue;
        memcpy(e->row, v, bytes); /* the sampler may spoil its row */
        sample(e, c, e->row, pos);
    }
    sample(e, r, v, pos);
}

size_t qn_run_token_bytes(const struct qn_run *r, uint32_t i, uint64_t before) {
    const struct qn_model *m = r->job->job->model;
    struct qn_str_ref s = qn_model_piece(m, r->hist[i], false);
    /* The tokenizer's own blank before the text is none of the text's bytes. */
    bool first = qn_model_strips_first_blank(m) && s.n && s.p[0] == ' ' && !before;
    for (uint32_t k = 0; first && k < i; k++) first = !qn_model_piece(m, r->hist[k], false).n;
    return s.n - (first ? 1 : 0);
}

static void row_score(struct qn_run *r, uint32_t pos, const float *v) {
    const struct qn_job *j = r->job->job;
    struct qn_output *o = r->out;
    struct qn_sampled s;
    qn_logprob_of(v, qn_model_info(j->model)->vocab, r->hist[pos + 1],
                  j->req.logprobs_given ? j->req.logprobs : 0, &s);
    o->log_prob += (double)s.logprob;
    o->scored_bytes += qn_run_token_bytes(r, pos + 1, o->scored_bytes);
    o->scored_tokens++;
    if (j->req.logprobs_given && !add_logprob(&o->logprobs, &o->n_logprobs, &s)) r->no_memory = true;
}

bool qn_run_scores_prompt(const struct qn_run *r) {
    const struct qn_api_infer *q = &r->job->job->req;
    return q->task == QN_TASK_GENERATE && q->prompt_logprobs && !r->out->choice &&
           r->next_row + 1 < r->out->n_prompt;
}

/* A row of a prompt whose own tokens are reported: the one that follows it. */
static void row_prompt(struct qn_run *r, uint32_t pos, const float *v) {
    const struct qn_job *j = r->job->job;
    struct qn_output *o = r->out;
    struct qn_sampled s;
    if (!qn_run_scores_prompt(r) || pos != r->next_row) return; /* recomputed after preemption */
    r->next_row++;
    qn_logprob_of(v, qn_model_info(j->model)->vocab, r->hist[pos + 1], j->req.logprobs, &s);
    if (!add_logprob(&o->prompt_logprobs, &o->n_prompt_logprobs, &s)) r->no_memory = true;
}

static void on_row(void *ctx, uint32_t span, uint32_t pos, float *v) {
    struct qn_engine *e = ctx;
    struct qn_run *r = e->span_runs[span];
    const struct qn_job *j = r->job->job;
    if (r->fid.on) {
        qn_fidelity_row(e, r, pos, v);
        return;
    }
    if (j->req.task == QN_TASK_GENERATE) {
        row_prompt(r, pos, v);
        if (r->cap && qn_draft_runs(r))
            qn_draft_row(e, r, pos, v);
        else if (r->cap && pos + 1 == r->n_hist)
            row_generate(e, r, pos, v);
        return;
    }
    if (pos != r->next_row) return; /* recomputed after preemption: in the sums already */
    r->next_row++;
    if (j->req.task == QN_TASK_SCORE) row_score(r, pos, v);
    for (uint32_t i = 0; j->req.task == QN_TASK_EMBED && i < qn_model_info(j->model)->d_model; i++)
        r->out->hidden_sum[i] += (double)v[i];
}

/* ---- what a step means ---- */
static void send_token(struct qn_engine *e, struct qn_run *r, size_t from) {
    struct qn_output *o = r->out;
    size_t n = o->text.n - from;
    struct qn_event *ev = calloc(1, sizeof *ev + n);
    if (!ev) {
        r->no_memory = true;
        return;
    }
    qn_job_ref(r->job->job);
    ev->job = r->job->job;
    ev->kind = QN_EVENT_TOKEN;
    ev->index = o->index;
    ev->token = o->tokens[o->n_tokens - 1];
    ev->has_logprob = r->sampled_ok && r->job->job->req.logprobs_given;
    if (ev->has_logprob) ev->logprob = r->sampled;
    ev->n = n;
    if (n) memcpy(ev->text, o->text.p + from, n);
    qn_engine_push_event(e, ev);
}

void qn_run_flush_text(struct qn_engine *e, struct qn_run *r) {
    size_t from = r->out->text.n;
    if (!r->out->n_tokens || r->text.stopped) return;
    if (qn_text_out_flush(&r->text, &r->out->text) < 0) r->no_memory = true;
    r->sampled_ok = false;
    if (r->job->job->req.stream && r->out->text.n > from) send_token(e, r, from);
}

bool qn_run_hist_room(struct qn_run *r, uint32_t n) {
    while (r->cap_hist < n)
        if (!grow((void **)&r->hist, r->cap_hist, &r->cap_hist, sizeof *r->hist)) return false;
    return true;
}

/* Stores the sampled token; false when memory is short. */
static bool store_token(struct qn_run *r, int32_t id) {
    struct qn_output *o = r->out;
    if (!grow((void **)&o->tokens, o->n_tokens, &o->cap_tokens, sizeof *o->tokens) ||
        !qn_run_hist_room(r, r->n_hist + 1))
        return false;
    o->tokens[o->n_tokens++] = id;
    r->hist[r->n_hist++] = id;
    return !r->job->job->req.logprobs_given || add_logprob(&o->logprobs, &o->n_logprobs, &r->sampled);
}

static void time_token(struct qn_engine *e, struct qn_run *r) {
    struct qn_metrics *m = e->opt.metrics;
    uint64_t now = e->now_ns;
    if (r->first_ns) {
        qn_metrics_observe(m, QN_H_ITL, (double)(now - r->last_ns) * 1e-9);
    } else {
        r->first_ns = now;
        qn_metrics_observe(m, QN_H_TTFT, (double)(now - r->job->job->t_received_ns) * 1e-9);
        qn_run_mark(r, now, QN_PHASE_DECODE);
    }
    r->last_ns = now;
    r->key->served += QN_SCHED_OUTPUT_WEIGHT;
    qn_metrics_add(m, QN_C_GENERATED_TOKENS, 1);
    qn_metrics_model_add(m, r->pool, QN_MC_GENERATED_TOKENS, 1);
}

void qn_run_accept(struct qn_engine *e, struct qn_run *r) {
    struct qn_job *j = r->job->job;
    struct qn_output *o = r->out;
    size_t from = o->text.n;
    int32_t id = r->sampled.id;
    enum qn_finish finish = QN_FINISH_NONE;
    if (r->mask_rc) return; /* the token means nothing, and the job ends after this step */
    if (!store_token(r, id)) {
        r->no_memory = true;
        return;
    }
    time_token(e, r);
    struct qn_str_ref piece = qn_model_piece(j->model, id, false);
    int stop = qn_text_out_push(&r->text, piece.p, piece.n, &o->text);
    if (stop > 0 || (qn_model_is_eog(j->model, id) && !j->req.ignore_eos) || qn_mask_done(r))
        finish = QN_FINISH_STOP;
    else if (o->n_tokens >= r->cap)
        finish = QN_FINISH_LENGTH;
    if (!stop && finish) stop = qn_text_out_flush(&r->text, &o->text);
    if (stop > 0) finish = QN_FINISH_STOP;
    if (stop < 0) r->no_memory = true;
    if (j->req.stream && !r->no_memory) send_token(e, r, from);
    r->sampled_ok = false;
    if (finish && !r->no_memory) qn_run_end(e, r, finish);
}

static void finish_embed(struct qn_run *r) {
    uint32_t d = qn_model_info(r->job->job->model)->d_model;
    for (uint32_t i = 0; i < d; i++)
        r->out->embedding[i] = (float)(r->out->hidden_sum[i] / (double)r->out->n_prompt);
}

static void apply_run(struct qn_engine *e, struct qn_run *r) {
    if (r->state != QN_RUN_RUNNING) return; /* its job ended with another of its sequences */
    if (r->fid.on) {
        enum qn_finish was = r->job->job->fidelity_only ? QN_FINISH_COMPLETE : r->out->finish;
        if (qn_fidelity_next(e, r)) qn_run_end(e, r, was);
        return;
    }
    bool first = r->cap && !r->out->n_tokens && r->sampled_ok;
    if (first) {
        qn_run_mark(r, e->now_ns, QN_PHASE_PREFILL);
        qn_engine_fork(e, r);
        for (struct qn_run *c = r + 1; c < r->job->runs + r->job->n_runs && c->out->choice; c++)
            if (c->state == QN_RUN_RUNNING && c->sampled_ok) qn_run_accept(e, c);
    }
    if (qn_draft_runs(r))
        qn_draft_apply(e, r);
    else if (r->cap && r->sampled_ok)
        qn_run_accept(e, r);
    else if (!r->cap && !qn_run_todo(r)) {
        bool generate = r->job->job->req.task == QN_TASK_GENERATE;
        if (r->job->job->req.task == QN_TASK_EMBED) finish_embed(r);
        qn_run_end(e, r, generate ? QN_FINISH_LENGTH : QN_FINISH_COMPLETE);
    }
}

/* Any callback or token of this job that found no memory ends it. */
static void check_memory(struct qn_engine *e, struct qn_job_run *js) {
    for (uint32_t i = 0; i < js->n_runs && !js->ended; i++)
        if (js->runs[i].no_memory) qn_job_fail(e, js, QN_API_OUT_OF_MEMORY, "out of memory");
    if (js->job->constraint) qn_mask_check(e, js);
}

/* Rows of a step, and the weights that it reads once for all of them. */
struct shares {
    uint32_t rows, logit_rows; /* logit_rows: of the spans that want any */
    struct qn_step_weights weights;
};

static uint32_t logits_of(const struct qn_span *s) {
    return s->want == QN_WANT_ALL ? s->n : s->want == QN_WANT_LAST ? 1 : 0;
}

static struct shares shares_of(const struct qn_step *st) {
    struct shares s = {0, 0, {0, 0}};
    for (uint32_t i = 0; i < st->n_spans; i++) {
        s.rows += st->spans[i].n;
        if (logits_of(&st->spans[i])) s.logit_rows += st->spans[i].n;
    }
    s.weights = qn_variant_step_weights(st->variant, s.rows);
    return s;
}

/* One span's analytic cost: in place of the weights that it would read alone, its share of the step's. */
static struct qn_cost span_cost(const struct qn_step *st, const struct qn_span *s, const struct shares *all) {
    uint32_t end = qn_seq_length(s->seq), logits = logits_of(s);
    struct qn_cost c = qn_variant_cost(st->variant, end - s->n, end, logits, 0);
    struct qn_step_weights alone = qn_variant_step_weights(st->variant, s->n);
    c.bytes += all->weights.body * s->n / all->rows - alone.body;
    if (logits) c.bytes += all->weights.head * s->n / all->logit_rows - alone.head;
    return c;
}

static void count_prompt(struct qn_engine *e, const struct qn_run *r, uint32_t rows) {
    qn_metrics_add(e->opt.metrics, QN_C_PROMPT_TOKENS, rows);
    qn_metrics_model_add(e->opt.metrics, r->pool, QN_MC_PROMPT_TOKENS, rows);
}

static void account_run(struct qn_engine *e, struct qn_run *r, const struct qn_span *s) {
    if (r->fid.on) { /* no part of the output's own figures */
        r->served_at = e->n_steps;
        r->key->served += (uint64_t)s->n * QN_SCHED_PROMPT_WEIGHT;
        count_prompt(e, r, s->n);
        return;
    }
    r->steps++;
    if (r->out->n_tokens) return;
    uint32_t end = qn_seq_length(s->seq);
    r->served_at = e->n_steps;
    if (end > r->prefilled) r->prefilled = end;
    count_prompt(e, r, s->n);
}

/* Shares the step's time out by analytic arithmetic. */
static void account(struct qn_engine *e, const struct qn_step *st, uint64_t ns) {
    const struct shares all = shares_of(st);
    double total = 0;
    for (uint32_t i = 0; i < st->n_spans; i++) total += span_cost(st, &st->spans[i], &all).flops;
    for (uint32_t i = 0; i < st->n_spans; i++) {
        struct qn_run *r = e->span_runs[i];
        struct qn_cost c = span_cost(st, &st->spans[i], &all);
        account_run(e, r, &st->spans[i]);
        if (r->fid.on) continue;
        r->flops += c.flops;
        r->bytes += c.bytes;
        r->compute_ns += (double)ns * (total > 0 ? c.flops / total : 1.0 / st->n_spans);
        r->batch_sum += st->n_spans;
    }
}

static void step_failed(struct qn_engine *e, uint32_t n_spans, const struct qn_err *err) {
    enum qn_api_code code = err->code == QN_ERR_LOST ? QN_API_MODEL_LOST : QN_API_INTERNAL;
    for (uint32_t i = 0; i < n_spans; i++)
        if (!e->span_runs[i]->job->ended)
            qn_job_fail(e, e->span_runs[i]->job, code, err->msg[0] ? err->msg : "the step failed");
}

static void run_step(struct qn_engine *e, struct qn_step *st) {
    struct qn_err err = {0};
    uint64_t start = qn_now_ns();
    int rc = qn_step_run(st, &err);
    e->now_ns = qn_now_ns();
    e->n_steps++;
    qn_metrics_add(e->opt.metrics, QN_C_STEPS, 1);
    qn_metrics_observe(e->opt.metrics, QN_H_STEP, (double)(e->now_ns - start) * 1e-9);
    if (rc) {
        step_failed(e, st->n_spans, &err);
        return;
    }
    account(e, st, e->now_ns - start);
    for (uint32_t i = 0; i < st->n_spans; i++) {
        struct qn_run *r = e->span_runs[i];
        apply_run(e, r);
        check_memory(e, r->job);
    }
}

/* ---- planning ---- */
static void snapshot(struct qn_engine *e, struct qn_sched_step *s, struct qn_sched_pool *pools) {
    for (uint32_t i = 0; i < e->opt.models->n; i++) {
        struct qn_state_stats st = qn_model_state(e->opt.models->models[i]);
        pools[i] = (struct qn_sched_pool){.free = st.budget - st.used};
    }
    qn_fidelity_grant(e);
    for (uint32_t i = 0; i < e->n_running; i++) {
        const struct qn_run *r = e->running[i];
        struct qn_seq_bytes b = qn_seq_bytes(r->seq);
        uint32_t todo = qn_fidelity_waits(e, r) ? 0 : qn_run_todo(r), length = qn_seq_length(r->seq);
        bool decode = todo == 1 && r->out->n_tokens && !r->fid.on;
        e->snap[i] = (struct qn_sched_seq){.order = r->order,
                                           .served_at = r->served_at,
                                           .group = r->group,
                                           .pool = r->pool,
                                           .todo = todo,
                                           .decode = decode,
                                           .paused = r->job->paused_ns != 0 && !r->fid.on,
                                           .spare = qn_run_measured(r),
                                           .whole = !qn_variant_structure(qn_run_variant(r))->causal,
                                           .held = b.held - b.shared};
        if (r->fid.on) { /* the other side's state comes free with it */
            struct qn_seq_bytes other = qn_seq_bytes(r->fid.seqs[!r->fid.side]);
            e->snap[i].held += other.held - other.shared;
        }
        if (decode && length + 1 > r->reserved) e->snap[i].grow = qn_seq_need(r->seq, length + 1);
        if (decode) e->snap[i].draft = qn_draft_wish(e->running[i], &e->snap[i].draft_grow);
    }
    *s = (struct qn_sched_step){.lim = e->lim,
                                .seqs = e->snap,
                                .n_seqs = e->n_running,
                                .pools = pools,
                                .deficits = e->deficits,
                                .n_groups = e->n_groups,
                                .cursor = e->cursor,
                                .work = e->work,
                                .spans = e->plan,
                                .preempt = e->preempt};
}

static enum qn_want want_of(const struct qn_run *r, uint32_t n) {
    enum qn_api_task task = r->job->job->req.task;
    if (r->fid.on) return qn_fidelity_want(r);
    if (qn_draft_runs(r)) return QN_WANT_ALL;
    if (task == QN_TASK_EMBED) return QN_WANT_HIDDEN;
    if (task == QN_TASK_SCORE || qn_run_scores_prompt(r)) return QN_WANT_ALL;
    return r->cap && n == qn_run_todo(r) ? QN_WANT_LAST : QN_WANT_NONE;
}

/* Room for the next row of a sequence past its reservation. The plan made it; when shared blocks spoiled its
 * sums the row waits, and only a sequence that is alone and still finds none has to end. */
static bool grow_state(struct qn_engine *e, struct qn_run *r, uint32_t n) {
    uint32_t length = qn_seq_length(r->seq) + n;
    if (length <= r->reserved) return true;
    int rc = qn_seq_reserve(r->seq, length);
    if (rc == QN_OK)
        r->reserved = length;
    else if (rc != QN_ERR_NO_STATE)
        qn_job_fail(e, r->job, QN_API_OUT_OF_MEMORY, "out of memory");
    else if (e->pool_running[r->pool] == 1)
        qn_job_fail(e, r->job, QN_API_OUT_OF_MEMORY, "the state budget is exhausted");
    return rc == QN_OK;
}

/* A decode row without its guesses when there is no room for them. */
static bool take_room(struct qn_engine *e, struct qn_run *r, struct qn_sched_span *s) {
    bool decode = r->out->n_tokens && !r->fid.on && qn_run_todo(r) == 1;
    uint32_t length = qn_seq_length(r->seq) + s->n;
    if (decode && s->n > 1 && length > r->reserved) {
        if (qn_seq_reserve(r->seq, length))
            s->n = 1;
        else
            r->reserved = length;
    }
    qn_draft_begin(r, decode ? s->n - 1 : 0);
    return grow_state(e, r, s->n);
}

/* Carries the preemptions out; by pointer, since they move the running set. */
static void preempt_all(struct qn_engine *e, const struct qn_sched_step *s) {
    for (uint32_t i = 0; i < s->n_preempt; i++) e->span_runs[i] = e->running[s->preempt[i]];
    for (uint32_t i = 0; i < s->n_preempt; i++) qn_engine_preempt(e, e->span_runs[i]);
}

/* The plan as spans of the model. In two passes: growing may end a job, and with it sequences before this
 * one. */
static void make_spans(struct qn_engine *e, const struct qn_sched_step *s, struct qn_step *st) {
    for (uint32_t i = 0; i < s->n_spans; i++) {
        struct qn_run *r = e->plan_runs[i];
        if (r->state != QN_RUN_RUNNING || !take_room(e, r, &s->spans[i])) e->plan_runs[i] = NULL;
    }
    for (uint32_t i = 0; i < s->n_spans; i++) {
        struct qn_run *r = e->plan_runs[i];
        uint32_t n = s->spans[i].n;
        if (!r || r->state != QN_RUN_RUNNING) continue;
        e->spans[st->n_spans] =
            (struct qn_span){.seq = r->seq,
                             .tokens = r->hist + qn_seq_length(r->seq),
                             .n = n,
                             .want = want_of(r, n),
                             .drafts = qn_draft_runs(r) ? n - 1 : 0,
                             .snapshot = r->cap && !r->out->n_tokens && n == qn_run_todo(r)};
        e->span_runs[st->n_spans++] = r;
    }
}

bool qn_engine_step(struct qn_engine *e) {
    struct qn_sched_pool pools[QN_MAX_MODELS];
    struct qn_sched_step s;
    struct qn_step st = {.spans = e->spans, .on_row = on_row, .ctx = e};
    snapshot(e, &s, pools);
    qn_sched_step(&s);
    e->cursor = s.cursor;
    if (s.group == QN_SCHED_NONE) return false;
    st.variant = e->groups[s.group].variant;
    st.math = e->groups[s.group].math;
    for (uint32_t i = 0; i < s.n_spans; i++) e->plan_runs[i] = e->running[s.spans[i].seq];
    preempt_all(e, &s);
    make_spans(e, &s, &st);
    if (st.n_spans) run_step(e, &st);
    return true;
}
