/* Fidelity on real arithmetic: paged and fixed-size states against each other, long and short steps, alone
 * and in a crowd that preempts. The sums must be the same, bit for bit; a structure against itself differs in
 * nothing, and log-probabilities are those of the score task. */
#include <math.h>

#include "kernels/cpu.h"
#include "kernels/kernels.h"
#include "tests/engine/kit.h"
#include "tests/support/tiny_open.h"

#define LENGTH 200
static const char *const kinds[] = {"", "mha", "mqa", "performer", "linformer"};
#define KINDS (sizeof kinds / sizeof *kinds)
#define PAIRS (KINDS * KINDS)

static struct qn_pool *threads;
static int32_t tokens[LENGTH];

static struct qn_model *open_budget(size_t state_bytes, uint32_t step, size_t convert_bytes) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    uint64_t seed = 5;
    t.context = 320;
    struct qn_open_options opt = {.pool = threads,
                                  .state_bytes = state_bytes,
                                  .convert_bytes = convert_bytes,
                                  .max_step_tokens = step,
                                  .prefix_cache = true};
    for (uint32_t i = 0; i < LENGTH; i++) tokens[i] = (int32_t)qn_test_below(&seed, t.vocab);
    return qn_test_tiny_open(&t, &opt);
}

static struct qn_model *open_model(size_t state_bytes, uint32_t step) {
    return open_budget(state_bytes, step, (size_t)64 << 20);
}

/* Pair p: kinds[p / KINDS] is the baseline. */
static void submit(struct kit *k, struct kit_call *c, size_t p, uint32_t n) {
    struct qn_model *m = k->models.models[0];
    memset(c, 0, sizeof *c);
    struct qn_structure_request req[2] = {{.convert = true}, {.convert = true}};
    struct qn_variant *v[2];
    struct qn_err err = {0};
    snprintf(req[0].attention.type, sizeof req[0].attention.type, "%s", kinds[p / KINDS]);
    snprintf(req[1].attention.type, sizeof req[1].attention.type, "%s", kinds[p % KINDS]);
    for (int s = 0; s < 2; s++)
        if (qn_variant_resolve(m, &req[s], &v[s], &err)) fail_msg("%s", err.msg);
    struct qn_job_tokens t = {
        .variant = v[1], .baseline = v[0], .tokens = tokens, .n = n, .task = QN_TASK_SCORE, .owner = c};
    assert_int_equal(qn_job_from_tokens(&t, &c->job, &c->err), 0);
    qn_variant_unref(v[0]);
    qn_variant_unref(v[1]);
    if (qn_engine_submit(k->engine, c->job, &c->err, NULL)) fail_msg("%s", c->err.msg);
}

static uint32_t length_of(size_t p) {
    return LENGTH - (uint32_t)(p * 37 % 150);
}

static void same(const struct qn_fidelity *a, const struct qn_fidelity *b, size_t p) {
    bool equal = a->positions == b->positions && a->agree == b->agree && a->bytes == b->bytes &&
                 !memcmp(&a->kl, &b->kl, sizeof a->kl) &&
                 !memcmp(a->log_prob, b->log_prob, sizeof a->log_prob);
    if (!equal)
        fail_msg("%s against %s: %u %u %.17g %.17g is not %u %u %.17g %.17g", kinds[p % KINDS],
                 kinds[p / KINDS], a->positions, a->agree, a->kl, a->log_prob[1], b->positions, b->agree,
                 b->kl, b->log_prob[1]);
}

static void check_scores(struct kit *k, const struct qn_fidelity *want) {
    for (size_t i = 0; i < KINDS; i++) {
        struct kit_call c;
        struct qn_api_infer r = kit_request();
        size_t p = i; /* the native structure is the baseline */
        kit_add_seq(&r, NULL, tokens, length_of(p));
        r.task = QN_TASK_SCORE;
        r.convert = true;
        snprintf(r.attention.type, sizeof r.attention.type, "%s", kinds[i]);
        kit_run(k, &c, r);
        assert_true(fabs(c.job->outputs[0].log_prob - want[p].log_prob[1]) < 1e-4);
        kit_free(&c);
    }
}

static unsigned long preemptions(const struct qn_metrics *metrics) {
    struct qn_buf page = {0};
    qn_metrics_write(metrics, &page);
    const char *name = "\nquern_preemptions_total ", *at = strstr(page.p, name);
    assert_non_null(at);
    unsigned long n = strtoul(at + strlen(name), NULL, 10);
    qn_buf_free(&page);
    return n;
}

static void every_pair(void **state) {
    struct qn_fidelity want[PAIRS];
    struct kit_call c[PAIRS], other[8];
    struct qn_model *m = open_model((size_t)64 << 20, 512);
    struct kit k;
    (void)state;
    kit_start(&k, &m, 1, (struct qn_engine_options){.step_tokens = 512});
    for (size_t p = 0; p < PAIRS; p++) {
        submit(&k, &c[p], p, length_of(p));
        kit_wait(&k, &c[p]);
        if (c[p].job->error) fail_msg("%s", c[p].job->error_msg);
        want[p] = c[p].job->outputs[0].fidelity;
        assert_int_equal(want[p].positions, length_of(p) - 1);
        if (p % KINDS == p / KINDS) {
            assert_true(want[p].kl <= 0);
            assert_int_equal(want[p].agree, want[p].positions);
        } else if (p % KINDS != 1 && p / KINDS != 1) { /* mha is the native gqa, spelt out */
            assert_true(want[p].kl > 0);
        }
        kit_free(&c[p]);
    }
    check_scores(&k, want);
    kit_stop(&k);
    /* the same in short steps, all at once, with little memory and others about */
    m = open_model((size_t)300 << 10, 24);
    struct qn_metrics *metrics = qn_metrics_new();
    kit_start(&k, &m, 1,
              (struct qn_engine_options){.step_tokens = 24,
                                         .prefill_chunk = 7,
                                         .max_running = 12,
                                         .reserve_tokens = 1,
                                         .metrics = metrics});
    for (uint32_t i = 0; i < 8; i++) {
        struct qn_api_infer r = kit_request();
        kit_add_seq(&r, NULL, tokens, 10 + i);
        r.max_tokens = 250;
        r.ignore_eos = true;
        assert_int_equal(kit_submit(&k, &other[i], r, 0), 0);
    }
    for (size_t p = 0; p < PAIRS; p++) submit(&k, &c[p], p, length_of(p));
    for (size_t p = 0; p < PAIRS; p++) {
        kit_wait(&k, &c[p]);
        if (c[p].job->error) fail_msg("%s", c[p].job->error_msg);
        same(&c[p].job->outputs[0].fidelity, &want[p], p);
        kit_free(&c[p]);
    }
    for (uint32_t i = 0; i < 8; i++) {
        kit_wait(&k, &other[i]);
        assert_int_equal(other[i].job->error, QN_API_OK);
        kit_free(&other[i]);
    }
    kit_stop(&k);
    assert_true(preemptions(metrics) > 3);
    qn_metrics_free(metrics);
}

/* Room for either conversion and not for both: nothing that anybody could wait for. */
static void conversions_that_never_fit(void **state) {
    struct kit k;
    struct kit_call c;
    size_t both = 0;
    (void)state;
    struct qn_model *m = open_budget((size_t)64 << 20, 512, (size_t)64 << 20);
    for (int once = 0; once < 2; once++) {
        kit_start(&k, &m, 1, (struct qn_engine_options){.step_tokens = 512});
        submit(&k, &c, KINDS + 2, 50); /* mqa against mha */
        struct qn_variant *v[4] = {c.job->baseline, c.job->variant, c.job->baseline, c.job->variant};
        size_t all = 0, budget = 0;
        bool fit = qn_variants_fit(v, 2, &all, &budget);
        kit_wait(&k, &c);
        if (once) {
            assert_false(fit);
            assert_int_equal(budget, both - 1);
            assert_int_equal(c.job->error, QN_API_TOO_LARGE_WORK);
        } else {
            assert_true(fit);
            assert_int_equal(c.job->error, QN_API_OK);
            assert_int_equal(all, qn_model_memory(m).converted);
            assert_true(qn_variants_fit(v, 4, &both, NULL) && both == all); /* once each */
        }
        kit_free(&c);
        kit_stop(&k);
        if (!once) m = open_budget((size_t)64 << 20, 512, both - 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_pair),
                                       cmocka_unit_test(conversions_that_never_fit)};
    qn_kernels_init(qn_cpu_isa());
    threads = qn_pool_new(2);
    int bad = cmocka_run_group_tests(tests, NULL, NULL);
    qn_pool_free(&threads);
    return bad;
}
