/* Random traces: every request runs alone first (one slot, no cache, a large pool), then all of them together
 * in an engine with random small limits, with arrivals over time, clients that leave, shared prefixes, stop
 * strings, expressions, several choices and structures, and speculation, which a request that runs alone
 * never has. Whoever survives must have the very same answer, bit for bit.
 *
 * A request is a function of (seed, number), so that it can be made twice. Works with the fake and real
 * models. */
#ifndef QN_TESTS_ENGINE_TRACE_H
#define QN_TESTS_ENGINE_TRACE_H

#include "tests/engine/kit.h"

#define TRACE_CALLS 12
#define TRACE_PARTS 6
/* Embeddings run on OpenBLAS, whose last bits depend on the batch; where such a bit decides how a key or
 * value rounds to half precision, the answer moves by part of a 2^-11. A lost row would move it by tenths. */
#define EMBED_SLACK 1e-3f

struct trace_models {
    struct qn_model *solo, *busy; /* the same weights; solo with a large pool */
    uint32_t max_len;             /* prompt and generated tokens together: what busy's pool can hold once */
    bool all_tasks;               /* embed as well; its sums need not be equal to the bit */
    bool whole;                   /* some embeddings by structures that are not causal */
    /* Parts of structures to choose from, NULL after the last; half of the requests name none. */
    const char *attention[TRACE_PARTS], *ffn[TRACE_PARTS], *sharing[TRACE_PARTS];
};

/* Guesses of all traces, and those that were right: too few, and the traces show nothing about them. */
static uint64_t trace_drafted, trace_accepted;

static inline uint32_t trace_rnd(uint64_t *s, uint32_t n) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33) % n;
}

static inline void trace_part(uint64_t *rng, const char *const *names, struct qn_api_infer *r,
                              struct qn_api_part *part) {
    uint32_t n = 0;
    while (n < TRACE_PARTS && names[n]) n++;
    uint32_t i = n > 0 ? trace_rnd(rng, 2 * n) : n;
    if (i >= n) return;
    snprintf(part->type, sizeof part->type, "%s", names[i]);
    r->convert = true;
}

/* Some outputs must be texts of an expression: short ones, long ones, and one that is hard to get out of. */
static inline void trace_constrain(uint64_t *rng, struct qn_api_infer *r) {
    static const char *const expressions[] = {"[a-m ]{3,40}", "(?:a|b)*c[^x]{2,9}", "\\{\"k\": \"[^\"]*\"\\}",
                                              "(?:yes|no|[0-9]{1,3}\\.)+"};
    if (trace_rnd(rng, 3)) return;
    char *text = strdup(expressions[trace_rnd(rng, 4)]);
    assert_non_null(text);
    r->constraint = (struct qn_api_constraint){.kind = QN_CONSTRAIN_REGEX, .text = text, .n = strlen(text)};
    r->ignore_eos = false;
}

static inline struct qn_api_infer trace_request(const struct trace_models *m, uint64_t seed,
                                                uint32_t number) {
    struct qn_api_infer r = kit_request();
    const struct qn_model_info *info = qn_model_info(m->solo);
    uint64_t rng = seed * 1000 + number, base = seed * 77;
    for (int i = 0; i < 8; i++) trace_rnd(&rng, 2);
    uint32_t n_seqs = trace_rnd(&rng, 4) ? 1 : 2;
    for (uint32_t s = 0; s < n_seqs; s++) {
        int32_t ids[512];
        uint32_t n = 1 + trace_rnd(&rng, trace_rnd(&rng, 2) ? 8 : m->max_len / 2);
        /* Begins as others do, or is as a whole the beginning of others. */
        uint32_t like = trace_rnd(&rng, 4), shared = like < 2 ? like * n : trace_rnd(&rng, n + 1);
        uint64_t prefix = base + trace_rnd(&rng, 2);
        for (uint32_t i = 0; i < n; i++)
            ids[i] = (int32_t)trace_rnd(i < shared ? &prefix : &rng, info->vocab);
        kit_add_seq(&r, NULL, ids, n);
    }
    uint32_t kind = trace_rnd(&rng, 10);
    r.max_tokens = trace_rnd(&rng, m->max_len / 2);
    r.logprobs_given = trace_rnd(&rng, 3) == 0;
    r.logprobs = r.logprobs_given ? trace_rnd(&rng, 4) : 0;
    r.cache = trace_rnd(&rng, 4) != 0;
    r.seed = trace_rnd(&rng, 1000);
    if (kind == 0) r.task = QN_TASK_SCORE;
    if (kind == 1 && m->all_tasks) r.task = QN_TASK_EMBED;
    if (r.task == QN_TASK_GENERATE) {
        r.n = trace_rnd(&rng, 4) ? 1 : 1 + trace_rnd(&rng, 3);
        r.temperature = trace_rnd(&rng, 2) ? 0.9f : 0;
        r.ignore_eos = trace_rnd(&rng, 4) != 0;
        r.stream = trace_rnd(&rng, 2);
        r.speculative.prompt = trace_rnd(&rng, 2);
        r.speculative.max_draft = 1 + trace_rnd(&rng, QN_API_MAX_DRAFT);
        r.speculative.ngram = 1 + trace_rnd(&rng, 3);
        for (uint32_t i = trace_rnd(&rng, 3); i > 0; i--) {
            char stop[3] = {(char)('a' + trace_rnd(&rng, 26)), 0, 0};
            if (trace_rnd(&rng, 2)) stop[1] = (char)('a' + trace_rnd(&rng, 26));
            kit_add_stop(&r, stop);
        }
        if (info->has_tokenizer) trace_constrain(&rng, &r);
    }
    trace_part(&rng, m->attention, &r, &r.attention);
    trace_part(&rng, m->ffn, &r, &r.ffn);
    trace_part(&rng, m->sharing, &r, &r.sharing);
    if (r.task == QN_TASK_EMBED && m->whole && trace_rnd(&rng, 2)) {
        r.convert = true;
        r.attention.n_params = 1;
        snprintf(r.attention.params[0].name, sizeof r.attention.params[0].name, "causal");
        r.attention.params[0].kind = QN_API_BOOL;
    }
    return r;
}

static inline void trace_same(uint64_t seed, uint32_t number, const struct kit_call *a,
                              const struct kit_call *b) {
    const struct qn_job *x = a->job, *y = b->job;
    const char *what = NULL;
    if (x->error || y->error || x->n_outputs != y->n_outputs) what = y->error ? y->error_msg : "error";
    for (uint32_t i = 0; i < x->n_outputs && !what; i++) {
        const struct qn_output *o = &x->outputs[i], *p = &y->outputs[i];
        if (o->finish != p->finish)
            what = "finish";
        else if (o->n_tokens != p->n_tokens ||
                 memcmp(o->tokens ? o->tokens : (int32_t[]){0}, p->tokens ? p->tokens : (int32_t[]){0},
                        o->n_tokens * sizeof *o->tokens))
            what = "tokens";
        else if (o->text.n != p->text.n || (o->text.n && memcmp(o->text.p, p->text.p, o->text.n)))
            what = "text";
        else if (y->req.stream &&
                 (b->stream[i].n != p->text.n || (p->text.n && memcmp(b->stream[i].p, p->text.p, p->text.n))))
            what = "streamed text";
        else if (memcmp(&o->log_prob, &p->log_prob, sizeof o->log_prob) || o->scored_bytes != p->scored_bytes)
            what = "score";
        else if (o->n_logprobs != p->n_logprobs)
            what = "number of log-probabilities";
        for (uint32_t k = 0; k < o->n_logprobs && !what; k++)
            if (o->logprobs[k].id != p->logprobs[k].id ||
                memcmp(&o->logprobs[k].logprob, &p->logprobs[k].logprob, sizeof(float)))
                what = "log-probability";
        for (uint32_t k = 0; o->embedding && k < qn_model_info(x->model)->d_model && !what; k++) {
            float d = o->embedding[k] - p->embedding[k];
            if (d > EMBED_SLACK || d < -EMBED_SLACK) what = "embedding";
        }
    }
    if (what) fail_msg("seed %llu, request %u: %s differs", (unsigned long long)seed, number, what);
}

/* One trace; returns how many answers were compared. */
static inline uint32_t trace_run(const struct trace_models *m, uint64_t seed) {
    struct kit k;
    struct kit_call solo[TRACE_CALLS], busy[TRACE_CALLS];
    struct qn_model *models[1] = {m->solo};
    uint64_t rng = seed;
    uint32_t n = 2 + trace_rnd(&rng, TRACE_CALLS - 1), compared = 0;
    kit_start(&k, models, 1, (struct qn_engine_options){.max_running = 1, .step_tokens = 320});
    k.keep_models = true;
    for (uint32_t i = 0; i < n; i++) {
        struct qn_api_infer r = trace_request(m, seed, i);
        r.cache = r.speculative.prompt = false;
        kit_run(&k, &solo[i], r);
    }
    kit_stop(&k);
    models[0] = m->busy;
    struct qn_engine_options opt = {.max_running = 1 + trace_rnd(&rng, 8),
                                    .prefill_chunk = 1 + trace_rnd(&rng, 40),
                                    .reserve_tokens = 1 + trace_rnd(&rng, 20)};
    opt.step_tokens = opt.max_running + trace_rnd(&rng, 60);
    if (m->whole && opt.step_tokens < m->max_len / 2) opt.step_tokens = m->max_len / 2;
    kit_start(&k, models, 1, opt);
    k.keep_models = true;
    bool cancelled[TRACE_CALLS] = {false};
    for (uint32_t i = 0; i < n; i++) {
        if (kit_submit(&k, &busy[i], trace_request(m, seed, i), trace_rnd(&rng, 3)))
            fail_msg("%s", busy[i].err.msg);
        cancelled[i] = trace_rnd(&rng, 3) == 0;
        for (uint32_t w = trace_rnd(&rng, 4); w > 0; w--) kit_pump(&k, 1);
        uint32_t gone = trace_rnd(&rng, i + 1);
        if (cancelled[gone]) qn_engine_cancel(k.engine, busy[gone].job);
    }
    for (uint32_t i = 0; i < n; i++)
        if (cancelled[i]) qn_engine_cancel(k.engine, busy[i].job);
    for (uint32_t i = 0; i < n; i++) {
        kit_wait(&k, &busy[i]);
        const struct qn_api_speculation *s = &busy[i].job->timings.speculation;
        bool whole = true;
        trace_drafted += s->drafted;
        trace_accepted += s->accepted;
        assert_true(s->accepted <= s->drafted && s->steps <= s->drafted);
        assert_true(s->asked || !s->drafted);
        assert_true(!s->reason || !s->drafted);
        for (uint32_t o = 0; o < busy[i].job->n_outputs; o++)
            whole = whole && busy[i].job->outputs[o].finish != QN_FINISH_CANCELLED;
        if (whole)
            trace_same(seed, i, &solo[i], &busy[i]);
        else
            assert_true(cancelled[i]);
        compared += whole;
    }
    assert_int_equal(qn_engine_stats(k.engine).queued_tokens, 0);
    kit_stop(&k);
    for (uint32_t i = 0; i < n; i++) {
        kit_free(&solo[i]);
        kit_free(&busy[i]);
    }
    return compared;
}

#endif
