/* The end of a job: outputs closed, measurements turned into the reply's numbers, DONE sent. Engine thread.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/engine_impl.h"

void qn_job_fail(struct qn_engine *e, struct qn_job_run *js, enum qn_api_code code, const char *msg) {
    struct qn_job *j = js->job;
    if (js->ended) return;
    if (!j->error) {
        j->error = code;
        snprintf(j->error_msg, sizeof j->error_msg, "%s", msg);
    }
    qn_job_end(e, js, QN_FINISH_ERROR);
}

void qn_job_end(struct qn_engine *e, struct qn_job_run *js, enum qn_finish finish) {
    for (uint32_t i = 0; i < js->n_runs && !js->ended; i++) qn_run_end(e, &js->runs[i], finish);
}

static double ms(uint64_t ns) {
    return (double)ns * 1e-6;
}

static double rate(double tokens, double millis) {
    return tokens > 0 && millis > 0 ? tokens / (millis * 1e-3) : -1;
}

/* The clock of a run starts when the request was complete, so tokenizing is in its queue time: taken out
 * here. */
static void output_timings(const struct qn_run *r) {
    const struct qn_job *j = r->job->job;
    struct qn_output *o = r->out;
    struct qn_api_timings *t = &o->timings;
    double queue = ms(r->ns[QN_PHASE_QUEUE]) - j->tokenize_ms;
    uint32_t cached = o->cached_tokens < r->prefilled ? o->cached_tokens : r->prefilled;
    *t = (struct qn_api_timings){.queue = queue > 0 ? queue : 0,
                                 .tokenize = j->tokenize_ms,
                                 .convert = ms(r->ns[QN_PHASE_CONVERT]),
                                 .prefill = ms(r->ns[QN_PHASE_PREFILL]),
                                 .decode = ms(r->ns[QN_PHASE_DECODE]),
                                 .ttft = r->first_ns ? ms(r->first_ns - j->t_received_ns) : -1,
                                 .compute = r->compute_ns * 1e-6,
                                 .steps = r->steps,
                                 .mean_batch = r->steps ? (double)r->batch_sum / (double)r->steps : 0,
                                 .speculation = {.asked = j->req.speculative.prompt,
                                                 .drafted = r->drafted,
                                                 .accepted = r->accepted,
                                                 .steps = r->draft_steps,
                                                 .reason = qn_draft_reason(j)}};
    t->prefill_tps = rate(r->prefilled - cached, t->prefill);
    t->decode_tps = rate((double)o->n_tokens - 1, ms(r->last_ns - r->first_ns));
}

/* Phases of the output that ended last, whose sum is the wall time; work is summed over all. */
static void job_timings(struct qn_job_run *js) {
    struct qn_job *j = js->job;
    struct qn_api_timings *t = &j->timings;
    double batch = 0;
    for (uint32_t i = 0; i < js->n_runs; i++) output_timings(&js->runs[i]);
    *t = js->last->out->timings;
    t->compute = 0;
    t->steps = 0;
    t->speculation.drafted = t->speculation.accepted = t->speculation.steps = 0;
    t->ttft = -1;
    for (uint32_t i = 0; i < js->n_runs; i++) {
        const struct qn_run *r = &js->runs[i];
        double first = r->out->timings.ttft;
        if (first >= 0 && (t->ttft < 0 || first < t->ttft)) t->ttft = first;
        t->compute += r->compute_ns * 1e-6;
        t->steps += r->steps;
        t->speculation.drafted += r->drafted;
        t->speculation.accepted += r->accepted;
        t->speculation.steps += r->draft_steps;
        batch += (double)r->batch_sum;
        j->cost.flops += r->flops;
        j->cost.bytes += r->bytes;
    }
    t->mean_batch = t->steps ? batch / (double)t->steps : 0;
    j->cost.gflops = t->compute > 0 ? j->cost.flops / (t->compute * 1e-3) * 1e-9 : -1;
    j->cost.gbytes = t->compute > 0 ? j->cost.bytes / (t->compute * 1e-3) * 1e-9 : -1;
}

void qn_job_done(struct qn_engine *e, struct qn_job_run *js) {
    struct qn_job *j = js->job;
    qn_engine_uncount(e, js, js->queued_tokens);
    js->ended = true;
    job_timings(js);
    j->memory = qn_model_memory(j->model);
    *(js->prev ? &js->prev->next : &e->jobs) = js->next;
    if (js->next) js->next->prev = js->prev;
    js->next = e->dead; /* freed at the end of the round: the step that runs may still look at it */
    e->dead = js;
    js->done->job = j; /* the engine's reference goes with it */
    js->done->kind = QN_EVENT_DONE;
    qn_engine_push_event(e, js->done);
    js->done = NULL;
}

void qn_job_run_free(struct qn_job_run *js) {
    if (!js) return;
    free(js->done);
    free(js);
}
