/* A finished job as reply bytes: measurements and outputs into the structs that api/ writes. Loop thread,
 * after the job's DONE event; streamed tokens as well. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cpu.h"
#include "server/engine.h"
#include "server/openai_reply.h"
#include "server/translate.h"

/* ---- process ---- */
static uint64_t read_rss(void) {
    char buf[128] = "";
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, buf, sizeof buf - 1);
    close(fd);
    if (n <= 0) return 0;
    const char *resident = strchr(buf, ' '); /* "size resident …" in pages */
    return resident ? strtoull(resident, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* Resident bytes, at most 20 ms old: reading them costs more than writing a short reply. */
static uint64_t process_rss(uint64_t now) {
    static atomic_ullong value, taken;
    uint64_t at = atomic_load_explicit(&taken, memory_order_relaxed);
    if (!at || now - at > 20000000u) {
        atomic_store_explicit(&value, read_rss(), memory_order_relaxed);
        atomic_store_explicit(&taken, now, memory_order_relaxed);
    }
    return atomic_load_explicit(&value, memory_order_relaxed);
}

/* ---- log-probabilities ---- */
static struct qn_api_logprob logprob_of(const struct qn_model *m, int32_t id, float value) {
    struct qn_str_ref s = qn_model_piece(m, id, true);
    return (struct qn_api_logprob){.id = id, .logprob = value, .text = s.p, .text_len = s.n};
}

void qn_token_to_api(const struct qn_model *m, const struct qn_sampled *s, struct qn_api_token *t,
                     struct qn_api_logprob *top) {
    t->chosen = logprob_of(m, s->id, s->logprob);
    t->n_top = s->n_top < QN_TOP_LOGPROBS ? s->n_top : QN_TOP_LOGPROBS;
    t->top = top;
    for (uint32_t i = 0; i < t->n_top; i++) top[i] = logprob_of(m, s->top[i].id, s->top[i].logprob);
}

/* What the reply's outputs borrow from while it is written. */
struct reply_work {
    struct qn_api_output *outputs;
    struct qn_api_score *scores;
    struct qn_api_token *tokens;
    struct qn_api_logprob *tops;
};

static bool alloc_work(const struct qn_job *j, struct reply_work *w) {
    size_t outputs = j->n_outputs ? j->n_outputs : 1, tokens = 1, tops = 1;
    for (uint32_t i = 0; i < j->n_outputs; i++)
        for (uint32_t k = 0; k < j->outputs[i].n_logprobs; k++)
            tokens++, tops += j->outputs[i].logprobs[k].n_top;
    w->outputs = calloc(outputs, sizeof *w->outputs);
    w->scores = calloc(outputs, sizeof *w->scores);
    w->tokens = calloc(tokens, sizeof *w->tokens);
    w->tops = calloc(tops, sizeof *w->tops);
    return w->outputs && w->scores && w->tokens && w->tops;
}

static void free_work(struct reply_work *w) {
    free(w->outputs);
    free(w->scores);
    free(w->tokens);
    free(w->tops);
}

/* ---- outputs ---- */
static const char *finish_name(enum qn_finish f) {
    switch (f) {
    case QN_FINISH_STOP:
        return "stop";
    case QN_FINISH_LENGTH:
        return "length";
    case QN_FINISH_TIMEOUT:
        return "timeout";
    case QN_FINISH_CANCELLED:
        return "cancelled";
    case QN_FINISH_NONE:
    case QN_FINISH_ERROR:
    case QN_FINISH_COMPLETE:
        break;
    }
    return f == QN_FINISH_COMPLETE ? "stop" : "error";
}

static void memory_to_api(const struct qn_job *j, const struct qn_seq_bytes *b, struct qn_api_memory *m) {
    const struct qn_structure *s = qn_variant_structure(j->variant);
    *m = (struct qn_api_memory){.weights = s->weights_bytes,
                                .weights_active = s->weights_active_bytes,
                                .state = b->peak,
                                .state_shared = b->peak_shared,
                                .state_per_token = s->state_bytes_per_token,
                                .scratch = j->memory.scratch,
                                .rss = process_rss(qn_now_ns())};
}

static void score_to_api(const struct qn_output *o, struct qn_api_score *s) {
    *s = (struct qn_api_score){.tokens = o->scored_tokens, .bytes = o->scored_bytes, .log_prob = o->log_prob};
    /* Without bytes there is no rate: not a number, written as null. */
    s->bits_per_byte = o->scored_bytes ? -o->log_prob / M_LN2 / (double)o->scored_bytes : (double)NAN;
}

static void divergence_to_api(const struct qn_fidelity *f, struct qn_api_divergence *d) {
    double n = f->positions ? (double)f->positions : 1;
    *d = (struct qn_api_divergence){
        .positions = f->positions, .mean_kl = f->kl / n, .top1_agreement = (double)f->agree / n};
}

static void output_to_api(const struct qn_job *j, const struct qn_output *o, struct reply_work *w,
                          struct qn_api_output *a) {
    bool generate = j->req.task == QN_TASK_GENERATE;
    *a = (struct qn_api_output){.index = o->index,
                                .text = o->text.p ? o->text.p : "",
                                .text_len = o->text.n,
                                .tokens = o->tokens,
                                .n_tokens = o->n_tokens,
                                .finish_reason = finish_name(o->finish),
                                .timings = o->timings,
                                .prompt_tokens = o->n_prompt,
                                .completion_tokens = generate ? o->n_tokens : 0,
                                .cached_tokens = o->cached_tokens};
    memory_to_api(j, &o->bytes, &a->memory);
    divergence_to_api(&o->fidelity, &a->divergence);
    if (j->req.logprobs_given && j->req.task != QN_TASK_EMBED) {
        a->logprobs = w->tokens;
        a->n_logprobs = o->n_logprobs;
        for (uint32_t k = 0; k < o->n_logprobs; k++) {
            qn_token_to_api(j->model, &o->logprobs[k], w->tokens++, w->tops);
            w->tops += o->logprobs[k].n_top;
        }
    }
    if (j->req.task == QN_TASK_SCORE) {
        a->score = &w->scores[o->index];
        score_to_api(o, &w->scores[o->index]);
    }
    if (j->req.task == QN_TASK_EMBED) {
        a->embedding = o->embedding;
        a->n_embedding = qn_model_info(j->model)->d_model;
    }
}

/* The last phase ends now; with it the phases add up to the wall time. */
static void close_timings(const struct qn_job *j, struct qn_api_timings *t, uint64_t now) {
    double before = t->queue + t->tokenize + t->convert + t->prefill + t->decode;
    t->total = (double)(now - j->t_received_ns) * 1e-6;
    t->finish = t->total > before ? t->total - before : 0;
}

static void totals_to_api(const struct qn_job *j, struct qn_api_reply *r) {
    struct qn_seq_bytes sum = {0};
    struct qn_fidelity all = {0};
    for (uint32_t i = 0; i < j->n_outputs; i++) {
        const struct qn_output *o = &j->outputs[i];
        sum.peak += o->bytes.peak;
        sum.peak_shared += o->bytes.peak_shared;
        all.positions += o->fidelity.positions;
        all.agree += o->fidelity.agree;
        all.kl += o->fidelity.kl;
        r->completion_tokens += r->outputs[i].completion_tokens;
        if (o->choice) continue; /* further choices use their prompt's one run */
        r->prompt_tokens += o->n_prompt;
        r->cached_tokens += o->cached_tokens;
    }
    memory_to_api(j, &sum, &r->memory);
    divergence_to_api(&all, &r->divergence);
}

void qn_job_close(struct qn_job *j) {
    uint64_t now = qn_now_ns();
    close_timings(j, &j->timings, now);
    for (uint32_t i = 0; i < j->n_outputs; i++) close_timings(j, &j->outputs[i].timings, now);
}

void qn_job_view(const struct qn_job *j, struct qn_job_view *v) {
    memset(v, 0, sizeof *v);
    struct reply_work w = {.scores = &v->score};
    qn_structure_to_api(qn_variant_structure(j->variant), &v->structure);
    output_to_api(j, &j->outputs[0], &w, &v->output);
    v->memory = v->output.memory;
}

/* The whole reply in the words of the job's endpoint; end: as the end of a stream. */
static void write_reply(const struct qn_job *j, const struct qn_api_reply *r, bool end, struct qn_buf *out) {
    struct qn_buf json = {0};
    if (j->style.form != QN_FORM_NATIVE) {
        qn_openai_write(j, r, end, out);
    } else if (!end) {
        qn_api_infer_write(out, r);
    } else {
        qn_api_infer_write(&json, r);
        if (json.failed)
            out->failed = true;
        else
            qn_api_sse_data(out, json.p, json.n);
        qn_buf_free(&json);
    }
}

static void finish(struct qn_job *j, bool end, struct qn_buf *out) {
    struct reply_work w = {0}, at;
    if (!alloc_work(j, &w)) {
        free_work(&w);
        out->failed = true;
        return;
    }
    at = w;
    qn_job_close(j);
    for (uint32_t i = 0; i < j->n_outputs; i++) output_to_api(j, &j->outputs[i], &at, &w.outputs[i]);
    struct qn_api_reply r = {.id = j->id,
                             .created = j->created,
                             .model = qn_model_info(j->model)->id,
                             .outputs = w.outputs,
                             .n_outputs = j->n_outputs,
                             .timings = j->timings,
                             .cost = j->cost};
    qn_structure_to_api(qn_variant_structure(j->variant), &r.structure);
    totals_to_api(j, &r);
    write_reply(j, &r, end, out);
    free_work(&w);
}

void qn_job_write_reply(struct qn_job *j, struct qn_buf *out) {
    finish(j, false, out);
}

void qn_job_write_end(struct qn_job *j, struct qn_buf *out) {
    finish(j, true, out);
}

void qn_job_write_start(const struct qn_job *j, struct qn_buf *out) {
    if (j->style.form != QN_FORM_NATIVE) qn_openai_write_start(j, out);
}

const struct qn_api_timings *qn_job_timings(const struct qn_job *j) {
    return &j->timings;
}

void qn_event_write_sse(const struct qn_event *ev, struct qn_buf *out) {
    struct qn_api_logprob top[QN_TOP_LOGPROBS];
    struct qn_api_token lp;
    if (ev->has_logprob) qn_token_to_api(ev->job->model, &ev->logprob, &lp, top);
    if (ev->job->style.form != QN_FORM_NATIVE) {
        qn_openai_write_event(ev, ev->has_logprob ? &lp : NULL, out);
        return;
    }
    struct qn_api_stream_token t = {.index = ev->index,
                                    .token = ev->token,
                                    .text = ev->text,
                                    .text_len = ev->n,
                                    .lp = ev->has_logprob ? &lp : NULL};
    qn_api_sse_token(out, &t);
}
