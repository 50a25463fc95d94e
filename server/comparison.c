/* A comparison's life: checked request -> jobs, one after the other -> numbers -> reply. See comparison.h. */
#include "server/comparison.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu.h"
#include "server/translate.h"

struct result { /* one structure */
    struct qn_variant *variant;
    struct qn_job *first; /* its first measured run: outputs, memory, cost */
    struct qn_api_timings warmup, *samples;
    double *gflops, *gbytes; /* achieved by each sample */
    struct qn_fidelity fidelity;
    struct qn_api_fidelity shown;
    struct qn_job_view view;
    bool has_fidelity;
};

/* Rounds over all structures. */
enum { ROUND_WARMUP = 0, ROUND_FIRST = 1 };

struct qn_comparison {
    char id[40];
    int64_t created;
    struct qn_api_compare req;
    struct qn_model *model; /* borrowed */
    struct qn_job_options opt;
    uint64_t deadline_ns;
    double tokenize_ms;
    int32_t *tokens;                /* [n_tokens], owned; with room for what the baseline generates */
    uint32_t n_tokens, n_known;     /* n_known: with the baseline's own output */
    struct result *results;         /* [req.n_structures], owned */
    struct qn_api_timings *samples; /* [n_structures * repeats], owned */
    double *achieved;               /* [n_structures * 2 * repeats], owned */
    double *work;                   /* [repeats], owned */
    struct qn_api_compared *shown;  /* [n_structures], owned */
    struct qn_api_comparison reply;
    uint32_t round, at; /* of the job that comes next: structure `at` in round `round` */
    struct qn_job *job; /* given out last */
    uint64_t prompt_tokens, completion_tokens;
    uint64_t begun_ns, rounds_ns[3]; /* wall time of warm-up, samples, fidelity */
    struct qn_api_err err;
};

static uint32_t count(const struct qn_comparison *c) {
    return c->req.n_structures;
}

static uint32_t fidelity_round(const struct qn_comparison *c) {
    return ROUND_FIRST + c->req.repeats;
}

static bool generates(const struct qn_comparison *c) {
    return c->req.run.task == QN_TASK_GENERATE;
}

/* ---- checks ---- */
/* The structure's place goes before what the model says of it. */
static int fail_at(uint32_t i, const struct qn_api_err *why, struct qn_api_err *err) {
    char param[sizeof err->param];
    snprintf(param, sizeof param, "structures[%u]%s%.40s", i, why->param[0] ? "." : "", why->param);
    return qn_api_fail(err, why->code, param, "structures[%u]: %.1100s", i, why->msg);
}

static int resolve(struct qn_comparison *c, struct qn_api_err *err) {
    for (uint32_t i = 0; i < count(c); i++) {
        const struct qn_api_compare_structure *s = &c->req.structures[i];
        struct qn_api_parts parts = {&s->attention, &s->ffn, &s->sharing, s->convert || c->req.run.convert};
        struct qn_api_err why = {.code = QN_API_OK};
        if (qn_resolve_parts(c->model, &parts, c->req.run.task, &c->results[i].variant, &why))
            return fail_at(i, &why, err);
    }
    return 0;
}

static int tokenize(struct qn_comparison *c, struct qn_api_err *err) {
    uint64_t start = qn_now_ns();
    uint32_t context = qn_model_info(c->model)->context;
    struct qn_job_sequence s = {&c->req.run.seqs[0], 0, generates(c) && c->req.run.max_tokens > 0};
    if (qn_job_tokenize(c->model, &s, &c->tokens, &c->n_tokens, err)) return -1;
    uint32_t room = context - c->n_tokens; /* <= context by tokenizing */
    if (!generates(c)) c->req.run.max_tokens = 0;
    if (c->req.run.max_tokens > room) c->req.run.max_tokens = room;
    c->n_known = c->n_tokens;
    size_t most = (size_t)c->n_tokens + c->req.run.max_tokens;
    int32_t *p = realloc(c->tokens, most * sizeof *p);
    if (!p) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    c->tokens = p;
    c->tokenize_ms = (double)(qn_now_ns() - start) * 1e-6;
    return 0;
}

/* Structures take turns: were their converted weights not there all at once, each turn would make its own
 * again, while everybody waits. */
static int check_conversions(const struct qn_comparison *c, struct qn_api_err *err) {
    struct qn_variant *v[QN_COMPARE_STRUCTURES];
    size_t bytes, budget;
    for (uint32_t i = 0; i < count(c); i++) v[i] = c->results[i].variant;
    if (qn_variants_fit(v, count(c), &bytes, &budget)) return 0;
    return qn_api_fail(
        err, QN_API_TOO_LARGE_WORK, "structures",
        "converted weights of these structures need %zu bytes together, more than the budget of "
        "%zu: compare fewer at once",
        bytes, budget);
}

/* Everything that the call will take is known now, so it is refused now. */
static int check_work(const struct qn_comparison *c, struct qn_api_err *err) {
    uint64_t length = (uint64_t)c->n_tokens + c->req.run.max_tokens;
    uint64_t runs = (uint64_t)count(c) * (1 + c->req.repeats) + 2 * ((uint64_t)count(c) - 1);
    if (runs * length > QN_COMPARE_TOKENS)
        return qn_api_fail(err, QN_API_TOO_LARGE_WORK, "repeats",
                           "%u structures x (1 + %u runs) and fidelity make %llu runs of up to %llu tokens: "
                           "%llu tokens, at most %u are allowed in one comparison",
                           count(c), c->req.repeats, (unsigned long long)runs, (unsigned long long)length,
                           (unsigned long long)runs * (unsigned long long)length, QN_COMPARE_TOKENS);
    if (check_conversions(c, err)) return -1;
    for (uint32_t i = 0; i < count(c); i++) {
        char param[32];
        if (qn_variant_fits(c->results[i].variant, (uint32_t)length - !generates(c))) continue;
        snprintf(param, sizeof param, "structures[%u]", i);
        return qn_api_fail(err, QN_API_TOO_LARGE_WORK, param,
                           "structures[%u]: %llu tokens can never fit the state budget of %zu bytes", i,
                           (unsigned long long)length, qn_model_state(c->model).budget);
    }
    return 0;
}

static int allocate(struct qn_comparison *c, struct qn_api_err *err) {
    c->results = calloc(count(c), sizeof *c->results);
    c->shown = calloc(count(c), sizeof *c->shown);
    c->samples = calloc((size_t)count(c) * c->req.repeats, sizeof *c->samples);
    c->achieved = calloc((size_t)count(c) * c->req.repeats, 2 * sizeof *c->achieved);
    c->work = calloc(c->req.repeats, sizeof *c->work);
    if (!c->results || !c->shown || !c->samples || !c->achieved || !c->work)
        return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    for (uint32_t i = 0; i < count(c); i++) {
        size_t at = (size_t)i * c->req.repeats;
        c->results[i].samples = c->samples + at;
        c->results[i].gflops = c->achieved + 2 * at;
        c->results[i].gbytes = c->achieved + 2 * at + c->req.repeats;
    }
    return 0;
}

static int set_up(struct qn_comparison *c, const struct qn_registry *models, struct qn_api_err *err) {
    c->model = qn_registry_find(models, c->req.run.model);
    if (!c->model)
        return qn_api_fail(err, QN_API_MODEL_NOT_FOUND, "model", "there is no model \"%s\" here",
                           c->req.run.model);
    int rc = allocate(c, err);
    if (!rc) rc = resolve(c, err);
    if (!rc) rc = tokenize(c, err);
    return rc ? rc : check_work(c, err);
}

int qn_comparison_new(const struct qn_registry *models, struct qn_api_compare *req,
                      const struct qn_job_options *opt, struct qn_comparison **out, struct qn_api_err *err) {
    struct qn_comparison *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c) {
        qn_api_compare_free(req);
        return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    }
    c->req = *req;
    memset(req, 0, sizeof *req);
    c->opt = *opt;
    if (!c->opt.t_received_ns) c->opt.t_received_ns = qn_now_ns();
    uint32_t timeout = c->req.run.timeout_ms ? c->req.run.timeout_ms : opt->default_timeout_ms;
    if (timeout) c->deadline_ns = c->opt.t_received_ns + (uint64_t)timeout * 1000000u;
    if (set_up(c, models, err)) {
        qn_comparison_free(c);
        return -1;
    }
    qn_job_id("cmp-", c->id);
    c->created = (int64_t)time(NULL);
    *out = c;
    return 0;
}

void qn_comparison_free(struct qn_comparison *c) {
    if (!c) return;
    for (uint32_t i = 0; c->results && i < count(c); i++) {
        qn_job_unref(c->results[i].first);
        if (c->results[i].variant) qn_variant_unref(c->results[i].variant);
    }
    qn_job_unref(c->job);
    free(c->results);
    free(c->samples);
    free(c->achieved);
    free(c->work);
    free(c->shown);
    free(c->tokens);
    qn_api_compare_free(&c->req);
    free(c);
}

/* ---- jobs ---- */
void qn_comparison_fail(struct qn_comparison *c, const struct qn_api_err *err) {
    qn_api_fail(&c->err, err->code, err->param, "%s", err->msg);
}

const struct qn_api_err *qn_comparison_error(const struct qn_comparison *c) {
    return &c->err;
}

struct qn_job *qn_comparison_job(const struct qn_comparison *c) {
    return c->job;
}

void qn_comparison_progress(const struct qn_comparison *c, uint32_t *done, uint32_t *all) {
    *done = c->round * count(c) + c->at;
    *all = (fidelity_round(c) + 1) * count(c);
}

/* What is the baseline, or the very same structure, differs in nothing: known without running it. */
static bool is_baseline(const struct qn_comparison *c, uint32_t i) {
    return c->results[i].variant == c->results[c->req.baseline].variant;
}

/* Goes on to the next job's place. */
static void advance(struct qn_comparison *c) {
    if (++c->at < count(c)) return;
    c->at = 0;
    c->round++;
}

static void skip_known(struct qn_comparison *c) {
    while (c->round == fidelity_round(c) && (c->n_known < 2 || is_baseline(c, c->at))) {
        struct result *r = &c->results[c->at];
        uint32_t rows = c->n_known - 1;
        r->has_fidelity = true;
        r->fidelity = (struct qn_fidelity){.positions = rows, .agree = rows};
        advance(c);
    }
}

struct qn_job *qn_comparison_next(struct qn_comparison *c) {
    uint64_t now = qn_now_ns();
    if (!c->begun_ns) c->begun_ns = now;
    skip_known(c);
    if (c->err.code || c->round > fidelity_round(c)) return NULL;
    bool fidelity = c->round == fidelity_round(c);
    struct qn_job_tokens t = {.variant = c->results[c->at].variant,
                              .baseline = fidelity ? c->results[c->req.baseline].variant : NULL,
                              .tokens = c->tokens,
                              .n = fidelity ? c->n_known : c->n_tokens,
                              .task = fidelity ? QN_TASK_SCORE : c->req.run.task,
                              .max_tokens = c->req.run.max_tokens,
                              .ignore_eos = c->req.run.ignore_eos,
                              .salt = c->opt.salt,
                              .deadline_ns = c->deadline_ns,
                              .owner = c->opt.owner};
    qn_job_unref(c->job);
    c->job = NULL;
    if (qn_job_from_tokens(&t, &c->job, &c->err)) return NULL;
    return c->job;
}

/* The baseline's own tokens are what fidelity is measured on. */
static void keep_tokens(struct qn_comparison *c, const struct qn_output *o) {
    uint32_t room = c->req.run.max_tokens, n = o->n_tokens < room ? o->n_tokens : room;
    if (!generates(c) || !n) return;
    memcpy(c->tokens + c->n_tokens, o->tokens, n * sizeof *c->tokens);
    c->n_known = c->n_tokens + n;
}

static bool take_run(struct qn_comparison *c, struct qn_api_sample *s) {
    struct result *r = &c->results[c->at];
    struct qn_job *j = c->job;
    qn_job_close(j);
    c->prompt_tokens += c->n_tokens;
    c->completion_tokens += j->outputs[0].n_tokens;
    bool warmup = c->round == ROUND_WARMUP;
    uint32_t k = warmup ? 0 : c->round - ROUND_FIRST;
    struct qn_api_timings *t = warmup ? &r->warmup : &r->samples[k];
    *t = *qn_job_timings(j);
    if (!warmup) {
        r->gflops[k] = j->cost.gflops;
        r->gbytes[k] = j->cost.gbytes;
    }
    if (c->round == ROUND_FIRST) {
        qn_job_ref(j);
        r->first = j;
        if (c->at == c->req.baseline) keep_tokens(c, &j->outputs[0]);
    }
    *s = (struct qn_api_sample){
        .structure = c->at, .sample = k, .of = c->req.repeats, .warmup = warmup, .timings = t};
    return true;
}

static bool take_fidelity(struct qn_comparison *c) {
    struct result *r = &c->results[c->at];
    r->fidelity = c->job->outputs[0].fidelity;
    r->has_fidelity = !c->job->error;
    c->prompt_tokens += 2 * (uint64_t)r->fidelity.positions;
    return false;
}

/* Why the comparison can't go on after this job. */
static bool job_failed(struct qn_comparison *c, bool fidelity) {
    const struct qn_job *j = c->job;
    enum qn_finish f = j->outputs[0].finish;
    /* both structures can't be held at once: that alone is no reason to withhold the measurements */
    if (fidelity && j->error == QN_API_TOO_LARGE_WORK) return false;
    if (j->error)
        qn_api_fail(&c->err, j->error, "", "%s", j->error_msg);
    else if (f == QN_FINISH_TIMEOUT)
        qn_api_fail(&c->err, QN_API_TIMEOUT, "", "the comparison's time was over before it was done");
    else if (f == QN_FINISH_CANCELLED)
        qn_api_fail(&c->err, QN_API_DRAINING, "", "the comparison was stopped before it was done");
    return c->err.code != QN_API_OK;
}

bool qn_comparison_take(struct qn_comparison *c, struct qn_api_sample *s) {
    bool fidelity = c->round == fidelity_round(c);
    if (job_failed(c, fidelity)) return false;
    bool tell = fidelity ? take_fidelity(c) : take_run(c, s);
    unsigned phase = fidelity ? 2 : c->round == ROUND_WARMUP ? 0 : 1;
    uint64_t now = qn_now_ns();
    c->rounds_ns[phase] += now - c->begun_ns;
    c->begun_ns = now;
    advance(c);
    return tell;
}

/* ---- reply ---- */
static void show_fidelity(struct qn_comparison *c, struct result *r) {
    const struct qn_fidelity *f = &r->fidelity;
    bool same = r->variant == c->results[c->req.baseline].variant;
    double n = f->positions, bytes = (double)f->bytes;
    r->shown = (struct qn_api_fidelity){.positions = f->positions,
                                        .mean_kl = n > 0 ? f->kl / n : (double)NAN,
                                        .top1_agreement = n > 0 ? f->agree / n : (double)NAN,
                                        .bits_per_byte_delta = (double)NAN};
    if (same && n > 0) r->shown.bits_per_byte_delta = 0;
    if (bytes > 0) r->shown.bits_per_byte_delta = (f->log_prob[0] - f->log_prob[1]) / M_LN2 / bytes;
}

/* Each sample's own: what a run is charged for a step depends on who else was in it, as its time does. */
static double median_of(struct qn_comparison *c, const double *achieved) {
    double median, spread;
    memcpy(c->work, achieved, c->req.repeats * sizeof *c->work);
    qn_quartiles(c->work, c->req.repeats, &median, &spread);
    return c->work[0] < 0 ? -1 : median; /* sorted: one of them has none */
}

static void show_result(struct qn_comparison *c, uint32_t i) {
    struct result *r = &c->results[i];
    struct qn_api_compared *a = &c->shown[i];
    qn_job_view(r->first, &r->view);
    show_fidelity(c, r);
    *a = (struct qn_api_compared){.structure = r->view.structure,
                                  .outputs = &r->view.output,
                                  .n_outputs = 1,
                                  .warmup = r->warmup,
                                  .samples = r->samples,
                                  .n_samples = c->req.repeats,
                                  .memory = r->view.memory,
                                  .cost = r->first->cost,
                                  .fidelity = r->has_fidelity ? &r->shown : NULL};
    qn_timing_quartiles(r->samples, c->req.repeats, c->work, &a->median, &a->spread);
    a->cost.gflops = median_of(c, r->gflops);
    a->cost.gbytes = median_of(c, r->gbytes);
}

const struct qn_api_comparison *qn_comparison_result(struct qn_comparison *c) {
    struct qn_api_comparison *a = &c->reply;
    for (uint32_t i = 0; i < count(c); i++) show_result(c, i);
    *a = (struct qn_api_comparison){.id = c->id,
                                    .created = c->created,
                                    .model = qn_model_info(c->model)->id,
                                    .task = generates(c) ? "generate" : "score",
                                    .baseline = c->req.baseline,
                                    .repeats = c->req.repeats,
                                    .results = c->shown,
                                    .n_results = count(c),
                                    .prompt_tokens = c->prompt_tokens,
                                    .completion_tokens = c->completion_tokens,
                                    .tokenize = c->tokenize_ms,
                                    .warmup = (double)c->rounds_ns[0] * 1e-6,
                                    .samples = (double)c->rounds_ns[1] * 1e-6,
                                    .fidelity = (double)c->rounds_ns[2] * 1e-6,
                                    .total = (double)(qn_now_ns() - c->opt.t_received_ns) * 1e-6};
    double known = a->tokenize + a->warmup + a->samples + a->fidelity;
    a->other = a->total > known ? a->total - known : 0;
    return a;
}

const struct qn_api_compare *qn_comparison_request(const struct qn_comparison *c) {
    return &c->req;
}

const char *qn_comparison_id(const struct qn_comparison *c) {
    return c->id;
}

const char *qn_comparison_model(const struct qn_comparison *c) {
    return qn_model_info(c->model)->id;
}
