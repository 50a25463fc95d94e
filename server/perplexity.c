/* Perplexity over windows: see perplexity.h. */
#include "server/perplexity.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/batch.h"
#include "model/sample.h"

struct job {
    struct qn_variant *v;
    const struct qn_perplexity_options *opt;
    struct qn_err *err;
    uint32_t vocab, batch;
    struct qn_seq **seqs;     /* [batch] */
    struct qn_span *spans;    /* [batch] */
    int32_t *tokens;          /* [batch, ctx], BOS in place */
    struct qn_perplexity *of; /* [batch] sums of single windows, so that their order is always the same */
    struct qn_perplexity sum;
};

/* Tokens of a window whose state is needed before the first prediction that counts. */
static uint32_t first_scored(uint32_t ctx) {
    return ctx / 2;
}

static void take_row(void *ctx, uint32_t span, uint32_t pos, float *v) {
    struct job *j = ctx;
    struct qn_sampled s = {0};
    int32_t next = j->tokens[(size_t)span * j->opt->ctx + pos + 1];
    qn_logprob_of(v, j->vocab, next, 0, &s);
    double nll = -(double)s.logprob;
    j->of[span].scored++;
    j->of[span].nll += nll;
    j->of[span].nll2 += nll * nll;
}

/* Tokens [begin, end) of the first n windows, in steps that fit. */
static int feed(struct job *j, uint32_t n, uint32_t begin, uint32_t end, enum qn_want want) {
    uint32_t piece = j->opt->step_tokens / n;
    for (uint32_t at = begin, rows; at < end; at += rows) {
        rows = end - at < piece ? end - at : piece;
        for (uint32_t i = 0; i < n; i++) {
            j->spans[i] = (struct qn_span){.seq = j->seqs[i],
                                           .tokens = j->tokens + (size_t)i * j->opt->ctx + at,
                                           .n = rows,
                                           .want = want};
            int rc = qn_seq_reserve(j->seqs[i], at + rows);
            if (rc) return qn_err_set(j->err, rc, "the state pool has no room for %u windows at a time", n);
        }
        struct qn_step step = {
            .variant = j->v, .spans = j->spans, .n_spans = n, .on_row = take_row, .ctx = j};
        int rc = qn_step_run(&step, j->err);
        if (rc) return rc;
    }
    return QN_OK;
}

static void add_up(struct job *j, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        j->sum.windows++;
        j->sum.scored += j->of[i].scored;
        j->sum.nll += j->of[i].nll;
        j->sum.nll2 += j->of[i].nll2;
    }
}

/* n windows, the first of which begins at `text`. */
static int run_windows(struct job *j, const int32_t *text, uint32_t n) {
    const struct qn_model_info *info = qn_model_info(qn_variant_model(j->v));
    uint32_t ctx = j->opt->ctx, first = first_scored(ctx), made = 0;
    int rc = QN_OK;
    memcpy(j->tokens, text, (size_t)n * ctx * sizeof *text);
    memset(j->of, 0, n * sizeof *j->of);
    for (; made < n && rc == QN_OK; made++) {
        if (info->adds_bos && info->bos >= 0) j->tokens[(size_t)made * ctx] = info->bos;
        rc = qn_seq_new(j->v, 0, false, &j->seqs[made], j->err);
    }
    if (rc == QN_OK) rc = feed(j, n, 0, first, QN_WANT_NONE);
    if (rc == QN_OK) rc = feed(j, n, first, ctx - 1, QN_WANT_ALL);
    for (uint32_t i = 0; i < made; i++) qn_seq_free(&j->seqs[i]);
    if (rc == QN_OK) add_up(j, n);
    if (rc == QN_OK && !isfinite(j->sum.nll))
        rc = qn_err_set(j->err, QN_ERR_UNSUPPORTED,
                        "a prediction within the first %" PRIu32 " windows has no probability",
                        j->sum.windows);
    return rc;
}

static bool allocate(struct job *j) {
    size_t tokens;
    if (!qn_size_mul(j->batch, j->opt->ctx, &tokens) || !qn_size_mul(tokens, sizeof(int32_t), &tokens))
        return false;
    j->seqs = calloc(j->batch, sizeof(struct qn_seq *));
    j->spans = calloc(j->batch, sizeof *j->spans);
    j->of = calloc(j->batch, sizeof *j->of);
    j->tokens = malloc(tokens);
    return j->seqs && j->spans && j->of && j->tokens;
}

static int check(const struct job *j, size_t n) {
    uint32_t context = qn_model_info(qn_variant_model(j->v))->context;
    if (j->opt->ctx < QN_PERPLEXITY_CTX_MIN || j->opt->ctx > context)
        return qn_err_param(j->err, QN_ERR_INVALID, "ctx",
                            "windows of %" PRIu32 " tokens: this model takes %d to %" PRIu32, j->opt->ctx,
                            QN_PERPLEXITY_CTX_MIN, context);
    if (n < j->opt->ctx)
        return qn_err_param(j->err, QN_ERR_INVALID, "text",
                            "the text has %zu tokens, less than one window of %" PRIu32, n, j->opt->ctx);
    return QN_OK;
}

int qn_perplexity_run(struct qn_variant *v, const int32_t *tokens, size_t n,
                      const struct qn_perplexity_options *opt, struct qn_perplexity *out,
                      struct qn_err *err) {
    struct job j = {.v = v, .opt = opt, .err = err, .vocab = qn_model_info(qn_variant_model(v))->vocab};
    *out = (struct qn_perplexity){0};
    int rc = check(&j, n);
    if (rc) return rc;
    size_t windows = n / opt->ctx;
    if (opt->windows && windows > opt->windows) windows = opt->windows;
    if (windows > UINT32_MAX) windows = UINT32_MAX;
    j.batch = opt->batch < windows ? opt->batch : (uint32_t)windows;
    bool room = allocate(&j);
    if (!room) rc = qn_err_set(err, QN_ERR_NOMEM, "out of memory for %" PRIu32 " windows at a time", j.batch);
    for (size_t at = 0; at < windows && room && rc == QN_OK; at += j.batch) {
        uint32_t k = windows - at < j.batch ? (uint32_t)(windows - at) : j.batch;
        rc = run_windows(&j, tokens + at * opt->ctx, k);
        if (rc == QN_OK && opt->progress) opt->progress(opt->progress_ctx, &j.sum, (uint32_t)windows);
    }
    free(j.seqs);
    free(j.spans);
    free(j.of);
    free(j.tokens);
    if (rc == QN_OK) *out = j.sum;
    return rc;
}

double qn_perplexity_value(const struct qn_perplexity *p) {
    return p->scored ? exp(p->nll / (double)p->scored) : 0;
}

double qn_perplexity_error(const struct qn_perplexity *p) {
    if (p->scored < 2) return 0;
    double n = (double)p->scored, mean = p->nll / n, var = p->nll2 / n - mean * mean;
    return var > 0 ? sqrt(var / (n - 1)) * exp(mean) : 0;
}
