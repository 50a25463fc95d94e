/* Fidelity: the tokens of an output run through two structures, and their predictions compared.
 *
 *   [baseline: a chunk of rows -> logits into the buffer] -> [own structure: the same rows -> sums] -> …
 *
 * Both are teacher-forced on the same tokens. One run record stands for both: it holds state for both from
 * one admission (so that two of them can never wait for each other), and moves between the groups of the two
 * structures, one chunk per turn, as any other sequence does. The engine has one buffer; who holds it always
 * has rows to run, so it comes free. A finished output is measured at once or not at all. Where the
 * measurement is all that a job does, it queues as others do, and after a preemption both states are computed
 * again and the sums are kept.
 * Engine thread. */
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "server/engine_impl.h"

struct qn_variant *qn_run_variant(const struct qn_run *r) {
    const struct qn_job *j = r->job->job;
    return r->fid.on && r->fid.side == 0 ? j->baseline : j->variant;
}

bool qn_fidelity_begin(struct qn_run *r) {
    const struct qn_job *j = r->job->job;
    struct qn_fidelity_run *f = &r->fid;
    uint32_t n = r->n_hist < j->fidelity_tokens ? r->n_hist : j->fidelity_tokens;
    size_t vocab = qn_model_info(j->model)->vocab;
    if (!j->baseline || n < 2) return false;
    size_t chunk = QN_FIDELITY_BYTES / (vocab * sizeof(float));
    *f = (struct qn_fidelity_run){.on = true, .rows = n - 1};
    f->chunk = chunk < 1 ? 1 : chunk > QN_FIDELITY_ROWS ? QN_FIDELITY_ROWS : (uint32_t)chunk;
    return true;
}

/* ---- state ---- */
/* Room for the chunk of any of the engine's models. */
static bool make_buffer(struct qn_engine *e) {
    size_t floats = QN_FIDELITY_BYTES / sizeof(float);
    if (e->ref_rows) return true;
    for (uint32_t i = 0; i < e->opt.models->n; i++) {
        size_t vocab = qn_model_info(e->opt.models->models[i])->vocab;
        if (vocab > floats) floats = vocab;
    }
    e->ref_rows = qn_mem_alloc_array(floats, sizeof *e->ref_rows);
    return e->ref_rows != NULL;
}

static int reserve_side(struct qn_engine *e, struct qn_run *r, unsigned side, struct qn_err *err) {
    struct qn_job *j = r->job->job;
    int rc = qn_run_prepare(e, r, side ? j->variant : j->baseline, err);
    return rc ? rc : qn_seq_reserve(r->fid.seqs[side], r->fid.rows);
}

int qn_fidelity_take_state(struct qn_engine *e, struct qn_run *r, struct qn_err *err) {
    struct qn_fidelity_run *f = &r->fid;
    struct qn_job *j = r->job->job;
    struct qn_variant *v[2] = {j->baseline, j->variant};
    size_t need, sum = 0;
    if (!qn_variants_fit(v, 2, NULL, NULL))
        return qn_err_set(err, QN_ERR_TOO_LONG,
                          "converted weights of both structures can never be there at once");
    if (!make_buffer(e)) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    for (unsigned s = 0; s < 2; s++) {
        int rc = f->seqs[s] ? QN_OK : qn_seq_new(v[s], j->salt, false, &f->seqs[s], err);
        if (rc) return rc;
        need = qn_seq_need(f->seqs[s], f->rows);
        if (!qn_size_add(sum, need, &sum)) sum = SIZE_MAX;
    }
    if (sum > qn_model_state(j->model).budget)
        return qn_err_set(err, QN_ERR_TOO_LONG, "state of both structures can never fit the budget together");
    int rc = reserve_side(e, r, 0, err);
    if (rc == QN_OK) rc = reserve_side(e, r, 1, err);
    if (rc) {
        qn_seq_reset(f->seqs[0]);
        qn_seq_reset(f->seqs[1]);
        return rc;
    }
    f->side = 0;
    r->seq = f->seqs[0];
    r->reserved = f->rows;
    return QN_OK;
}

static void give_back(struct qn_engine *e, struct qn_run *r) {
    if (e->ref_owner == r) e->ref_owner = NULL;
    r->fid.turn = e->n_steps;
}

void qn_fidelity_reset(struct qn_engine *e, struct qn_run *r) {
    for (unsigned s = 0; s < 2; s++)
        if (r->fid.seqs[s]) qn_seq_reset(r->fid.seqs[s]);
    give_back(e, r);
    r->fid.side = 0;
    r->seq = r->fid.seqs[0];
}

void qn_fidelity_free(struct qn_engine *e, struct qn_run *r) {
    give_back(e, r);
    for (unsigned s = 0; s < 2; s++) qn_seq_free(&r->fid.seqs[s]);
    r->seq = NULL;
}

/* ---- turns ---- */
/* Rows of a state that is behind the sums are only computed again; those of the next chunk are the buffer's.
 */
static bool catching_up(const struct qn_run *r) {
    return (r->seq ? qn_seq_length(r->seq) : 0) < r->fid.done;
}

uint32_t qn_fidelity_todo(const struct qn_run *r) {
    const struct qn_fidelity_run *f = &r->fid;
    uint32_t have = r->seq ? qn_seq_length(r->seq) : 0, target = f->done;
    if (!catching_up(r) && f->side)
        target = qn_seq_length(f->seqs[0]);
    else if (!catching_up(r))
        target = f->rows - f->done < f->chunk ? f->rows : f->done + f->chunk;
    return target > have ? target - have : 0;
}

static bool wants_buffer(const struct qn_run *r) {
    return r->fid.on && r->fid.side == 0 && !catching_up(r);
}

void qn_fidelity_grant(struct qn_engine *e) {
    struct qn_run *best = NULL;
    if (e->ref_owner) return;
    for (uint32_t i = 0; i < e->n_running; i++) {
        struct qn_run *r = e->running[i];
        if (!wants_buffer(r)) continue;
        if (!best || r->fid.turn < best->fid.turn ||
            (r->fid.turn == best->fid.turn && r->order < best->order))
            best = r;
    }
    e->ref_owner = best;
}

bool qn_fidelity_waits(const struct qn_engine *e, const struct qn_run *r) {
    return wants_buffer(r) && e->ref_owner != r;
}

enum qn_want qn_fidelity_want(const struct qn_run *r) {
    return catching_up(r) ? QN_WANT_NONE : QN_WANT_ALL;
}

bool qn_fidelity_next(struct qn_engine *e, struct qn_run *r) {
    struct qn_fidelity_run *f = &r->fid;
    if (qn_fidelity_todo(r)) return false; /* the scheduler cut the chunk, or it caught up only now */
    if (f->side) {
        f->done = qn_seq_length(r->seq);
        give_back(e, r);
        if (f->done == f->rows) return true;
    }
    f->side = !f->side;
    r->seq = f->seqs[f->side];
    qn_run_regroup(e, r);
    return false;
}

/* ---- rows ---- */
/* A value that a broken model may give stands for the nearest finite one, as in sampling. */
static double clamped(float x) {
    if (isnan(x) || x < -3e38f) return -3e38;
    return x > 3e38f ? 3e38 : (double)x;
}

struct softmax {
    double max, log_sum; /* log of the sum of exponentials */
    uint32_t best;       /* ties: the lowest id */
};

static struct softmax peak_of(const float *v, uint32_t n) {
    struct softmax s = {.max = clamped(v[0])};
    for (uint32_t i = 1; i < n; i++) {
        if (clamped(v[i]) <= s.max) continue;
        s.max = clamped(v[i]);
        s.best = i;
    }
    return s;
}

/* Returns KL(p || q) in nats of the distributions that the two rows stand for:
 * sum p (log p - log q) = sum e^(p_i - max) (p_i - q_i) / sum e^(p_i - max) - (log_sum p - log_sum q). */
static double divergence(const float *p, struct softmax *sp, const float *q, struct softmax *sq, uint32_t n) {
    double zp = 0, zq = 0, a = 0;
    *sp = peak_of(p, n);
    *sq = peak_of(q, n);
    uint32_t i = 0;
    do { /* n >= 1: both sums are at least e^0 */
        double x = clamped(p[i]), y = clamped(q[i]), e = exp(x - sp->max);
        zp += e;
        zq += exp(y - sq->max);
        if (e > 0) a += e * ((x - sp->max) - (y - sq->max));
    } while (++i < n);
    double lp = log(zp), lq = log(zq), kl = a / zp - (lp - lq);
    sp->log_sum = sp->max + lp;
    sq->log_sum = sq->max + lq;
    return kl > 0 ? kl : 0; /* below zero by rounding alone */
}

void qn_fidelity_row(struct qn_engine *e, struct qn_run *r, uint32_t pos, const float *v) {
    struct qn_fidelity_run *f = &r->fid;
    struct qn_fidelity *sum = &r->out->fidelity;
    uint32_t vocab = qn_model_info(r->job->job->model)->vocab;
    float *ref = e->ref_rows + (size_t)(pos - f->done) * vocab;
    if (f->side == 0) {
        memcpy(ref, v, vocab * sizeof *ref);
        return;
    }
    if (pos < sum->positions) return; /* the chunk was cut by a preemption: this part counts already */
    struct softmax base, own;
    int32_t next = r->hist[pos + 1];
    sum->kl += divergence(ref, &base, v, &own, vocab);
    sum->agree += base.best == own.best;
    sum->log_prob[0] += clamped(ref[next]) - base.log_sum;
    sum->log_prob[1] += clamped(v[next]) - own.log_sum;
    sum->bytes += qn_run_token_bytes(r, pos + 1, sum->bytes);
    sum->positions++;
}
