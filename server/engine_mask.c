/* What the text of an output may be, before each token.
 *
 *   job's constraint + the output's tokens so far -> cursor -> mask -> sampler
 *
 * A cursor is a function of the output's tokens, so a preempted, forked or speculating output needs nothing
 * of its own here: rows of guesses move the cursor over them, and it never runs ahead of what is known.
 *
 * The likeliest token is mostly allowed. Where it is all that is asked for, it is looked at first, which
 * spares the mask; the token is the same. Engine thread. */
#include "server/engine_impl.h"

static struct qn_cursor_at place(const struct qn_run *r, uint32_t n_generated) {
    return (struct qn_cursor_at){r->hist + r->out->n_prompt, n_generated};
}

static bool takes_likeliest(const struct qn_sampling *p) {
    bool penalised = p->repetition_penalty < 1 || p->repetition_penalty > 1 || p->presence_penalty < 0 ||
                     p->presence_penalty > 0 || p->frequency_penalty < 0 || p->frequency_penalty > 0;
    return !(p->temperature > 0) && !penalised;
}

void qn_mask_sample(struct qn_run *r, const struct qn_sampling *p, struct qn_sample_input *in,
                    struct qn_sampled *out) {
    struct qn_constraint *c = r->job->job->constraint;
    struct qn_cursor_at at = place(r, in->n_generated);
    bool yes = false;
    int rc = QN_OK;
    if (takes_likeliest(p))
        rc = qn_cursor_allows(c, &r->cursor, &at, (int32_t)qn_argmax(in->logits, in->vocab), &yes);
    if (!rc && !yes) rc = qn_cursor_mask(c, &r->cursor, &at, &in->mask);
    if (rc && !r->mask_rc) r->mask_rc = rc;
    qn_sample(p, in, out);
}

bool qn_mask_done(struct qn_run *r) {
    struct qn_constraint *c = r->job->job->constraint;
    struct qn_cursor_at at = place(r, r->out->n_tokens);
    bool yes = false;
    if (!c) return false;
    int rc = qn_cursor_done(c, &r->cursor, &at, &yes);
    if (rc && !r->mask_rc) r->mask_rc = rc;
    return yes;
}

uint32_t qn_mask_guesses(const struct qn_run *r, uint32_t n) {
    struct qn_cursor_at at = place(r, r->out->n_tokens);
    return qn_cursor_prefix(r->job->job->constraint, &r->cursor, &at, n);
}

void qn_mask_check(struct qn_engine *e, struct qn_job_run *js) {
    for (uint32_t i = 0; i < js->n_runs && !js->ended; i++) {
        int rc = js->runs[i].mask_rc;
        if (rc == QN_ERR_NOMEM)
            qn_job_fail(e, js, QN_API_OUT_OF_MEMORY, "out of memory");
        else if (rc == QN_ERR_TOO_LONG)
            qn_job_fail(e, js, QN_API_TOO_LARGE_WORK,
                        "to follow the expression or schema takes more work than is allowed");
        else if (rc)
            qn_job_fail(e, js, QN_API_INVALID,
                        "no token of the model goes on with a text that the expression or schema allows");
    }
}
