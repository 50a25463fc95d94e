/* One structure of a sweep, opened as a synthetic model, and the samples taken of it.
 *
 * Decode: `batch` sequences are brought to the depth (filled, or run when the sweep says so), then one step
 * warms up and as many as take about a fifth of a second are timed. Prefill: one sequence from empty, in
 * steps of step_tokens. What would take longer than max_seconds is not begun. Thread: main. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "model/batch.h"
#include "model/sample.h"
#include "server/cli.h"
#include "server/cmd_bench.h"

#define PROBE_TOKENS   64u
#define SAMPLE_SECONDS 0.2 /* decode steps of one sample take about this long together */
#define MOST_STEPS     32u /* of one decode sample; the context has room for them past the longest length */

struct qn_sweep_run {
    struct qn_sweep *sweep;
    struct qn_sweep_structure *structure;
    struct qn_model *model;
    struct qn_variant *variant;
    struct qn_seq **seqs;  /* [most sequences of a batch] */
    struct qn_span *spans; /* the same */
    int32_t *next;         /* the same: token that each continues with */
    int32_t *tokens;       /* [step_tokens] of a prompt, the same in every step */
    uint32_t most, vocab;
};

/* --- open --- */
static int allocate(struct qn_sweep_run *r, struct qn_err *err) {
    const struct qn_sweep *s = r->sweep;
    for (uint32_t i = 0; i < s->batches.n; i++) {
        if (s->batches.at[i] > r->most) r->most = s->batches.at[i];
    }
    r->seqs = calloc(r->most, sizeof(struct qn_seq *));
    r->spans = calloc(r->most, sizeof *r->spans);
    r->next = calloc(r->most, sizeof *r->next);
    r->tokens = calloc(s->step_tokens, sizeof *r->tokens);
    if (!r->seqs || !r->spans || !r->next || !r->tokens)
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    for (uint32_t i = 0; i < s->step_tokens; i++) r->tokens[i] = (int32_t)(i * 2654435761u % r->vocab);
    return QN_OK;
}

static void set_costs(struct qn_sweep_run *r, struct qn_sweep_cell *c) {
    uint32_t chunk = r->sweep->step_tokens < c->length ? r->sweep->step_tokens : c->length;
    struct qn_cost one = qn_variant_cost(r->variant, c->length, c->length + 1, 1, 1);
    c->decode_cost.flops = one.flops * c->batch;
    struct qn_step_weights alone = qn_variant_step_weights(r->variant, 1);
    struct qn_step_weights all = qn_variant_step_weights(r->variant, c->batch);
    c->decode_cost.bytes = (one.bytes - alone.body - alone.head) * c->batch + all.body + all.head;
    c->prefill_cost = qn_variant_cost(r->variant, 0, c->length, 1, chunk);
}

int qn_sweep_open(struct qn_sweep *s, uint32_t index, struct qn_sweep_run **out, struct qn_err *err) {
    struct qn_sweep_run *r = calloc(1, sizeof *r);
    *out = r;
    if (!r) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    struct qn_structure_request native = {.convert = false};
    struct qn_open_options opt = {.pool = s->pool,
                                  .state_type = s->kv_type,
                                  .state_bytes = s->state_budget,
                                  .max_step_tokens = s->step_tokens};
    double ms;
    r->sweep = s;
    r->structure = &s->structures[index];
    int rc = qn_model_open(r->structure->path, &opt, &r->model, err);
    if (rc == QN_OK) rc = qn_variant_resolve(r->model, &native, &r->variant, err);
    if (rc == QN_OK) rc = qn_variant_prepare(r->variant, &ms, err);
    if (rc == QN_OK) {
        r->structure->info = *qn_variant_structure(r->variant);
        r->vocab = qn_model_info(r->model)->vocab;
        rc = allocate(r, err);
    }
    if (rc) {
        qn_sweep_close(out);
        return rc;
    }
    for (uint32_t i = 0; i < s->n_cells; i++) {
        if (s->cells[i].structure == index) set_costs(r, &s->cells[i]);
    }
    return QN_OK;
}

void qn_sweep_close(struct qn_sweep_run **run) {
    struct qn_sweep_run *r = *run;
    if (!r) return;
    if (r->variant) qn_variant_unref(r->variant);
    qn_model_close(&r->model);
    free(r->seqs);
    free(r->spans);
    free(r->next);
    free(r->tokens);
    free(r);
    *run = NULL;
}

/* --- running --- */
/* Greedy choice; the argmax is part of what generation costs. */
static void take_row(void *ctx, uint32_t span, uint32_t pos, float *v) {
    struct qn_sweep_run *r = ctx;
    (void)pos;
    r->next[span] = (int32_t)qn_argmax(v, r->vocab);
}

static int run_step(struct qn_sweep_run *r, uint32_t n_spans, struct qn_err *err) {
    struct qn_step step = {
        .variant = r->variant, .spans = r->spans, .n_spans = n_spans, .on_row = take_row, .ctx = r};
    return qn_step_run(&step, err);
}

static int feed(struct qn_sweep_run *r, struct qn_seq *seq, uint32_t n, struct qn_err *err) {
    for (uint32_t at = 0; at < n;) {
        uint32_t chunk = n - at < r->sweep->step_tokens ? n - at : r->sweep->step_tokens;
        int rc = qn_seq_reserve(seq, at + chunk);
        if (rc) return qn_err_set(err, rc, "no state for %u tokens", at + chunk);
        r->spans[0] = (struct qn_span){.seq = seq,
                                       .tokens = r->tokens,
                                       .n = chunk,
                                       .want = at + chunk == n ? QN_WANT_LAST : QN_WANT_NONE};
        rc = run_step(r, 1, err);
        if (rc) return rc;
        at += chunk;
    }
    return QN_OK;
}

static int decode_step(struct qn_sweep_run *r, uint32_t batch, struct qn_err *err) {
    for (uint32_t i = 0; i < batch; i++) {
        int rc = qn_seq_reserve(r->seqs[i], qn_seq_length(r->seqs[i]) + 1);
        if (rc) return qn_err_set(err, rc, "no state for one more token");
        r->spans[i] =
            (struct qn_span){.seq = r->seqs[i], .tokens = &r->next[i], .n = 1, .want = QN_WANT_LAST};
    }
    return run_step(r, batch, err);
}

static double since(uint64_t t0) {
    return (double)(qn_now_ns() - t0) * 1e-9;
}

static void note_bytes(struct qn_sweep_cell *c, const struct qn_seq *seq) {
    size_t peak = qn_seq_bytes(seq).peak;
    if (peak > c->state_bytes) c->state_bytes = peak;
}

/* Seconds of a prefill of n tokens; negative on error. */
static double prefill(struct qn_sweep_run *r, uint32_t n, struct qn_sweep_cell *c, struct qn_err *err) {
    struct qn_seq *seq;
    if (qn_seq_new(r->variant, 0, false, &seq, err)) return -1.0;
    uint64_t t0 = qn_now_ns();
    double seconds = feed(r, seq, n, err) ? -1.0 : since(t0);
    if (c) note_bytes(c, seq);
    qn_seq_free(&seq);
    return seconds;
}

/* Timed decode steps of sequences that are at their depth: seconds of one, negative on error. */
static double decode_steps(struct qn_sweep_run *r, uint32_t batch, struct qn_err *err) {
    uint64_t t0 = qn_now_ns();
    if (decode_step(r, batch, err)) return -1.0;
    double warm = since(t0);
    uint32_t steps = MOST_STEPS - 1;
    if (warm * steps > SAMPLE_SECONDS) steps = (uint32_t)(SAMPLE_SECONDS / warm) + 1;
    t0 = qn_now_ns();
    for (uint32_t i = 0; i < steps; i++) {
        if (decode_step(r, batch, err)) return -1.0;
    }
    return since(t0) / steps;
}

static double decode(struct qn_sweep_run *r, struct qn_sweep_cell *c, struct qn_err *err) {
    double seconds = -1.0;
    uint32_t made = 0;
    for (; made < c->batch; made++) {
        if (qn_seq_new(r->variant, 0, false, &r->seqs[made], err)) goto out;
    }
    for (uint32_t i = 0; i < c->batch; i++) {
        r->next[i] = r->tokens[i % r->sweep->step_tokens];
        int rc = r->sweep->computed_depth ? feed(r, r->seqs[i], c->length, err)
                                          : qn_seq_fill(r->seqs[i], c->length, i + 1, err);
        if (rc) goto out;
        note_bytes(c, r->seqs[i]);
    }
    seconds = decode_steps(r, c->batch, err);
out:
    for (uint32_t i = 0; i < made; i++) qn_seq_free(&r->seqs[i]);
    return seconds;
}

/* --- bounds --- */
static double state_needed(const struct qn_sweep_run *r, uint32_t sequences, uint32_t tokens) {
    const struct qn_structure *info = &r->structure->info;
    return sequences *
           ((double)info->state_bytes_per_token * (tokens + 16.0) + (double)info->state_fixed_bytes);
}

double qn_sweep_estimate(const struct qn_sweep *s, const struct qn_sweep_cell *cell) {
    const struct qn_sweep_structure *st = &s->structures[cell->structure];
    const struct qn_sweep_cell *near = NULL, *far = NULL;
    for (uint32_t i = 0; i < s->n_cells; i++) { /* lengths ascend: the two longest stay */
        const struct qn_sweep_cell *c = &s->cells[i];
        if (c->structure != cell->structure || c->prefill.n == 0 || c->length >= cell->length) continue;
        near = far;
        far = c;
    }
    if (!far) return st->probe_seconds * cell->prefill_cost.flops / st->probe_flops;
    /* Seconds a token grow as operations a token do: not at all where those are constant. */
    double rate = 0, ops = far->prefill_cost.flops / far->length;
    double each = qn_sweep_median(&far->prefill, NULL) / far->length;
    if (near) {
        double less = ops - near->prefill_cost.flops / near->length;
        double sooner = each - qn_sweep_median(&near->prefill, NULL) / near->length;
        if (less > 0.01 * ops && sooner > 0) rate = sooner / less;
    }
    return (each + rate * (cell->prefill_cost.flops / cell->length - ops)) * cell->length;
}

static int probe(struct qn_sweep_run *r, struct qn_err *err) {
    struct qn_sweep_structure *st = r->structure;
    uint32_t n = r->sweep->lengths.at[0] < PROBE_TOKENS ? r->sweep->lengths.at[0] : PROBE_TOKENS;
    for (int i = 0; i < 2; i++) { /* the first warms up */
        st->probe_seconds = prefill(r, n, NULL, err);
        if (st->probe_seconds < 0) return err->code;
    }
    st->probe_flops = qn_variant_cost(r->variant, 0, n, 1, n).flops;
    return QN_OK;
}

static double spent(const struct qn_sweep_samples *s) {
    double sum = 0;
    for (uint32_t i = 0; i < s->n; i++) sum += s->seconds[i];
    return sum;
}

static int sample_prefill(struct qn_sweep_run *r, struct qn_sweep_cell *c, struct qn_err *err) {
    const struct qn_sweep *s = r->sweep;
    double used = spent(&c->prefill);
    double next = c->prefill.n ? used / c->prefill.n : qn_sweep_estimate(s, c);
    if (used + next > s->max_seconds || state_needed(r, 1, c->length) > (double)s->state_budget) {
        c->prefill_skipped = c->prefill.n == 0;
        return QN_OK;
    }
    double seconds = prefill(r, c->length, c, err);
    if (seconds < 0) return err->code;
    c->prefill.seconds[c->prefill.n++] = seconds;
    return QN_OK;
}

static int sample_decode(struct qn_sweep_run *r, struct qn_sweep_cell *c, struct qn_err *err) {
    const struct qn_sweep *s = r->sweep;
    double need = state_needed(r, c->batch, c->length + MOST_STEPS);
    double fill = s->computed_depth ? qn_sweep_estimate(s, c) * c->batch : 0;
    if (need > (double)s->state_budget) {
        char a[32], b[32];
        snprintf(c->decode_skipped, sizeof c->decode_skipped, "needs %s of state, there are %s",
                 qn_cli_bytes(a, (uint64_t)need), qn_cli_bytes(b, s->state_budget));
        return QN_OK;
    }
    if (fill > s->max_seconds) {
        snprintf(c->decode_skipped, sizeof c->decode_skipped, "running to the depth would take about %.1f s",
                 fill);
        return QN_OK;
    }
    double seconds = decode(r, c, err);
    if (seconds < 0) return err->code;
    c->decode.seconds[c->decode.n++] = seconds;
    return QN_OK;
}

int qn_sweep_sample(struct qn_sweep_run *run, struct qn_sweep_cell *cell, struct qn_err *err) {
    int rc = QN_OK;
    if (run->structure->probe_flops <= 0) rc = probe(run, err);
    if (rc == QN_OK && cell->has_prefill && !cell->prefill_skipped) rc = sample_prefill(run, cell, err);
    if (rc == QN_OK && run->sweep->decode && !cell->decode_skipped[0]) rc = sample_decode(run, cell, err);
    return rc;
}
