/* Speculation of one output: guesses from its own tokens ride in its decode span, and the sampler says which
 * were right.
 *
 *   hist -> [qn_draft_guess] -> wish -> (scheduler) -> span of 1 + n rows, all logits
 *        -> row by row: sample; while the token equals the guess, the next row counts too
 *        -> state of the others taken back -> tokens accepted one by one
 *
 * Exact: a token is what the sampler picks from the logits of its position, whose random number is keyed by
 * position, with the history that it would have had; a guess only decides whether that row was run already.
 * What can't be had for want of memory is done without. Engine thread. */
#include <stdlib.h>

#include "server/engine_impl.h"

const char *qn_draft_reason(const struct qn_job *j) {
    bool can = !j->req.speculative.prompt || qn_variant_structure(j->variant)->rollback;
    return can ? NULL : "the state of this structure can't be cut back to an earlier token";
}

static bool make(struct qn_run *r) {
    const struct qn_api_speculative *q = &r->job->job->req.speculative;
    if (!r->spec) r->spec = calloc(1, sizeof *r->spec);
    if (!r->spec) return false;
    qn_draft_init(&r->spec->index, q->ngram);
    qn_draft_pace_init(&r->spec->pace, q->max_draft < QN_DRAFT_MOST ? q->max_draft : QN_DRAFT_MOST);
    return true;
}

void qn_draft_end(struct qn_run *r) {
    if (r->spec) qn_draft_free(&r->spec->index);
    free(r->spec);
    r->spec = NULL;
}

/* Guesses behind the known tokens, no more than may still be generated, none behind an end of text. */
static uint32_t guess(struct qn_run *r) {
    struct qn_speculation *s = r->spec;
    const struct qn_job *j = r->job->job;
    uint32_t left = r->cap - r->out->n_tokens, most = s->pace.length, n;
    if (s->pace.rest) {
        qn_draft_pace_rested(&s->pace);
        return 0;
    }
    if (left <= most) most = left ? left - 1 : 0;
    if (!most || !qn_draft_learn(&s->index, r->hist, r->n_hist) || !qn_run_hist_room(r, r->n_hist + most))
        return 0;
    int32_t *out = r->hist + r->n_hist;
    n = qn_draft_guess(&s->index, r->hist, most, out);
    for (uint32_t i = 0; i < n && !j->req.ignore_eos; i++)
        if (qn_model_is_eog(j->model, out[i])) n = i + 1;
    return j->constraint ? qn_mask_guesses(r, n) : n;
}

uint32_t qn_draft_wish(struct qn_run *r, size_t *grow) {
    const struct qn_job *j = r->job->job;
    *grow = 0;
    if (!j->req.speculative.prompt || qn_draft_reason(j) || (!r->spec && !make(r))) return 0;
    if (r->spec->at != r->n_hist) {
        r->spec->at = r->n_hist;
        r->spec->wish = guess(r);
    }
    if (!r->spec->wish) return 0;
    uint32_t next = qn_seq_length(r->seq) + 1;
    size_t row = qn_seq_need(r->seq, next), all = qn_seq_need(r->seq, next + r->spec->wish);
    *grow = all > row ? all - row : 0;
    return r->spec->wish;
}

void qn_draft_begin(struct qn_run *r, uint32_t n) {
    if (!r->spec) return;
    r->spec->drafts = n;
    r->spec->n_seen = 0;
}

bool qn_draft_runs(const struct qn_run *r) {
    return r->spec && r->spec->drafts;
}

void qn_draft_row(struct qn_engine *e, struct qn_run *r, uint32_t pos, float *logits) {
    struct qn_speculation *s = r->spec;
    uint32_t i = s->n_seen;
    if (pos + 1 != r->n_hist + i || r->mask_rc) return;
    if (i && s->seen[i - 1].id != r->hist[r->n_hist + i - 1])
        return; /* this row's token is not the output's */
    qn_run_sample(e, r, logits, pos, &s->seen[i]);
    if (i && r->mask_rc) { /* the output may end before this row; if not, the next step says it again */
        r->mask_rc = QN_OK;
        return;
    }
    s->n_seen++;
}

void qn_draft_apply(struct qn_engine *e, struct qn_run *r) {
    struct qn_speculation *s = r->spec;
    uint32_t n = s->n_seen, right = n - 1; /* the first row always counts */
    if (qn_seq_rewind(r->seq, r->n_hist - 1 + n)) {
        qn_job_fail(e, r->job, QN_API_INTERNAL, "wrong guesses could not be taken back");
        return;
    }
    r->drafted += s->drafts;
    r->draft_steps++;
    r->key->served +=
        (uint64_t)(s->drafts - right) * QN_SCHED_OUTPUT_WEIGHT; /* rows that others waited for */
    qn_metrics_add(e->opt.metrics, QN_C_DRAFTED_TOKENS, s->drafts);
    qn_draft_pace_ran(&s->pace, s->drafts, right);
    s->drafts = 0;
    for (uint32_t i = 0; i < n; i++) {
        r->sampled = s->seen[i];
        r->sampled_ok = true;
        r->accepted += i < right;
        qn_metrics_add(e->opt.metrics, QN_C_ACCEPTED_TOKENS, i < right);
        qn_run_accept(e, r);
        if (r->spec != s || r->no_memory) break; /* the output is complete */
    }
}
