/* Outputs held against a baseline structure: sums against a plain computation over the fake's rows, alone and
 * in a crowd, through preemption, deadlines and clients that leave; structures that run in one step only. */
#include <math.h>

#include "server/translate.h"
#include "tests/engine/kit.h"
#include "tests/stub/stub_model.h"

static void start(struct kit *k, uint32_t context, uint32_t blocks, struct qn_engine_options opt) {
    struct qn_model *m = qn_stub_open("stub", context, blocks, true);
    assert_non_null(m);
    qn_stub.step_us = 0;
    qn_stub.row_us = 0;
    qn_stub.fail_steps = 0;
    qn_stub.eog_percent = 0;
    qn_stub.ascii = true;
    kit_start(k, &m, 1, opt);
}

struct want {
    double kl, log_prob[2];
    uint32_t agree;
};

/* Row by row, with the textbook's formulas. */
static struct want oracle(const int32_t *t, uint32_t n, unsigned variant) {
    struct want w = {0};
    for (uint32_t i = 1; i < n; i++) {
        float v[2][QN_STUB_VOCAB];
        double lse[2] = {0, 0}, kl = 0;
        uint32_t best[2] = {0, 0};
        qn_stub_row(t, i, 0, v[0]);
        qn_stub_row(t, i, variant, v[1]);
        for (unsigned s = 0; s < 2; s++) {
            for (uint32_t k = 0; k < QN_STUB_VOCAB; k++) {
                lse[s] += exp((double)v[s][k]);
                if (v[s][k] > v[s][best[s]]) best[s] = k;
            }
            lse[s] = log(lse[s]);
            w.log_prob[s] += (double)v[s][t[i]] - lse[s];
        }
        for (uint32_t k = 0; k < QN_STUB_VOCAB; k++) {
            double p = (double)v[0][k] - lse[0], q = (double)v[1][k] - lse[1];
            kl += exp(p) * (p - q);
        }
        w.kl += kl;
        w.agree += best[0] == best[1];
    }
    return w;
}

static void check(const struct qn_fidelity *f, const int32_t *t, uint32_t n, unsigned variant) {
    struct want w = oracle(t, n, variant);
    assert_int_equal(f->positions, n - 1);
    assert_int_equal(f->agree, w.agree);
    assert_int_equal(f->bytes, n - 1);
    assert_true(fabs(f->kl - w.kl) < 1e-9 * n);
    for (int s = 0; s < 2; s++) assert_true(fabs(f->log_prob[s] - w.log_prob[s]) < 1e-9 * n);
}

/* The output's prompt and tokens together, at most `most`. */
static uint32_t tokens_of(const struct qn_output *o, uint32_t most, int32_t *t) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < o->n_prompt && n < most; i++) t[n++] = o->prompt[i];
    for (uint32_t i = 0; i < o->n_tokens && n < most; i++) t[n++] = o->tokens[i];
    return n;
}

static struct qn_api_infer in_structure(const char *attention, const char *text, uint32_t max) {
    struct qn_api_infer r = kit_text(text, max);
    snprintf(r.attention.type, sizeof r.attention.type, "%s", attention);
    r.convert = true;
    r.ignore_eos = true;
    return r;
}

static void check_outputs(const struct kit_call *c, unsigned variant) {
    assert_int_equal(c->job->error, QN_API_OK);
    for (uint32_t i = 0; i < c->job->n_outputs; i++) {
        int32_t t[QN_FIDELITY_TOKENS];
        uint32_t n = tokens_of(&c->job->outputs[i], QN_FIDELITY_TOKENS, t);
        check(&c->job->outputs[i].fidelity, t, n, variant);
    }
}

static void approximate_replies_carry_it(void **state) {
    struct kit k;
    struct kit_call c;
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){0});
    kit_run(&k, &c, in_structure("performer", "hello world", 40));
    check_outputs(&c, 3);
    assert_true(c.job->outputs[0].fidelity.kl > 0);
    assert_int_equal(c.job->timings.steps, 40); /* the output's own */
    kit_reply(&c);
    kit_check_sum(&c.job->timings);
    kit_free(&c);
    kit_run(&k, &c, in_structure("mqa", "longer than the bound", 400));
    assert_int_equal(c.job->outputs[0].fidelity.positions, QN_FIDELITY_TOKENS - 1);
    check_outputs(&c, 2);
    kit_free(&c);
    struct qn_api_infer r = in_structure("mqa", "to be or not to be", 0);
    r.task = QN_TASK_SCORE;
    kit_add_seq(&r, "another one", NULL, 11);
    kit_run(&k, &c, r);
    check_outputs(&c, 2);
    assert_true(fabs(c.job->outputs[1].fidelity.log_prob[1] - c.job->outputs[1].log_prob) < 1e-5);
    kit_free(&c);
    r = in_structure("mqa", "four of them", 20);
    r.n = 4;
    r.temperature = 1;
    r.stream = true;
    kit_run(&k, &c, r);
    check_outputs(&c, 2);
    assert_int_equal(c.stream[3].n, c.job->outputs[3].text.n);
    kit_free(&c);
    kit_stop(&k);
}

static void others_do_not(void **state) {
    struct kit k;
    struct kit_call c;
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){0});
    kit_run(&k, &c, in_structure("gqa", "native", 10));
    assert_int_equal(c.job->outputs[0].fidelity.positions, 0);
    kit_free(&c);
    kit_run(&k, &c, in_structure("mha", "exact", 10));
    assert_int_equal(c.job->outputs[0].fidelity.positions, 0);
    kit_free(&c);
    struct qn_api_infer r = in_structure("mqa", "embed", 0);
    r.task = QN_TASK_EMBED;
    kit_run(&k, &c, r);
    assert_int_equal(c.job->outputs[0].fidelity.positions, 0);
    kit_free(&c);
    r = in_structure("mqa", "x", 0); /* nothing follows the one token */
    kit_run(&k, &c, r);
    assert_int_equal(c.job->outputs[0].fidelity.positions, 0);
    kit_free(&c);
    kit_stop(&k);
}

/* Tokens against two structures, as comparisons ask for it. */
static int submit_pair(struct kit *k, struct kit_call *c, const char *base, const char *own, const char *text,
                       uint64_t deadline) {
    struct qn_variant *v[2];
    int32_t ids[2048];
    uint32_t n = (uint32_t)strlen(text);
    memset(c, 0, sizeof *c);
    for (uint32_t i = 0; i < n; i++) ids[i] = (unsigned char)text[i];
    for (int s = 0; s < 2; s++) {
        struct qn_api_part a = {0}, none = {0};
        snprintf(a.type, sizeof a.type, "%s", s ? own : base);
        struct qn_api_parts parts = {&a, &none, &none, true};
        assert_int_equal(qn_resolve_parts(k->models.models[0], &parts, QN_TASK_SCORE, &v[s], &c->err), 0);
    }
    struct qn_job_tokens t = {.variant = v[1],
                              .baseline = v[0],
                              .tokens = ids,
                              .n = n,
                              .task = QN_TASK_SCORE,
                              .deadline_ns = deadline,
                              .owner = c};
    assert_int_equal(qn_job_from_tokens(&t, &c->job, &c->err), 0);
    qn_variant_unref(v[0]);
    qn_variant_unref(v[1]);
    return qn_engine_submit(k->engine, c->job, &c->err, &c->retry_after);
}

static void fill(char *text, uint32_t n, uint32_t seed) {
    for (uint32_t i = 0; i < n; i++)
        text[i] = (char)('a' + (seed = seed * 1103515245u + 12345u) / 65536 % 26);
    text[n] = 0;
}

static void check_pair(const struct kit_call *c, unsigned variant) {
    assert_int_equal(c->job->error, QN_API_OK);
    check(&c->job->outputs[0].fidelity, c->job->outputs[0].prompt, c->job->outputs[0].n_prompt, variant);
}

static void pairs(void **state) {
    struct kit k;
    struct kit_call c;
    static const uint32_t lengths[] = {2, 3, 32, 33, 34, 65, 500};
    char text[600];
    (void)state;
    /* whole chunks, and chunks that the scheduler cuts */
    for (uint32_t chunk = 5; chunk < 200; chunk += 50) {
        start(&k, 1024, 256, (struct qn_engine_options){.step_tokens = chunk, .max_running = 4});
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            fill(text, lengths[i], (uint32_t)i);
            assert_int_equal(submit_pair(&k, &c, "gqa", "mqa", text, 0), 0);
            kit_wait(&k, &c);
            check_pair(&c, 2);
            kit_free(&c);
        }
        assert_int_equal(submit_pair(&k, &c, "gqa", "mha", text, 0), 0);
        kit_wait(&k, &c);
        assert_true(c.job->outputs[0].fidelity.kl == 0); /* the same distributions, to the bit */
        assert_int_equal(c.job->outputs[0].fidelity.agree, 499);
        kit_free(&c);
        kit_stop(&k);
    }
}

static unsigned long counted(const struct qn_metrics *metrics, const char *name) {
    struct qn_buf page = {0};
    qn_metrics_write(metrics, &page);
    const char *at = strstr(page.p, name);
    assert_non_null(at);
    unsigned long n = strtoul(at + strlen(name), NULL, 10);
    qn_buf_free(&page);
    return n;
}

/* Several at once, other requests between them, and little memory, so that they are preempted: the same sums.
 */
static void crowd(void **state) {
    unsigned long preempted = 0;
    (void)state;
    for (uint32_t blocks = 36; blocks <= 100; blocks += 4) {
        struct kit k;
        struct kit_call pair[6], other[6];
        char text[300];
        struct qn_metrics *metrics = qn_metrics_new();
        start(&k, 1024, blocks,
              (struct qn_engine_options){.step_tokens = 40,
                                         .prefill_chunk = 12,
                                         .reserve_tokens = 1,
                                         .max_running = 12,
                                         .metrics = metrics});
        for (uint32_t i = 0; i < 6; i++) { /* first: the pairs are younger, and give way */
            fill(text, 20 + 10 * i, i);
            assert_int_equal(kit_submit(&k, &other[i], in_structure(i % 2 ? "gqa" : "mqa", text, 150), i), 0);
        }
        for (uint32_t i = 0; i < 6; i++) {
            fill(text, 40 + 30 * i, i);
            const char *base = i % 2 ? "gqa" : "mha", *own = i % 3 ? "mqa" : "performer";
            assert_int_equal(submit_pair(&k, &pair[i], base, own, text, 0), 0);
        }
        for (uint32_t i = 0; i < 6; i++) {
            kit_wait(&k, &pair[i]);
            kit_wait(&k, &other[i]);
            check_pair(&pair[i], i % 3 ? 2 : 3);
            assert_int_equal(other[i].job->error, QN_API_OK);
            if (i % 2 == 0 && other[i].job->outputs[0].fidelity.positions) check_outputs(&other[i], 2);
            kit_free(&pair[i]);
            kit_free(&other[i]);
        }
        assert_int_equal(qn_stub_check_pool(k.models.models[0]), 0);
        kit_stop(&k);
        preempted += counted(metrics, "\nquern_preemptions_total ");
        qn_metrics_free(metrics);
    }
    assert_true(preempted > 10);
}

static void what_never_fits(void **state) {
    struct kit k;
    struct kit_call c;
    char text[200];
    (void)state;
    fill(text, 130, 1);
    start(&k, 1024, 10, (struct qn_engine_options){0}); /* one needs 9 of the 10 blocks, both 18 */
    assert_int_equal(submit_pair(&k, &c, "gqa", "mqa", text, 0), 0);
    kit_wait(&k, &c);
    assert_int_equal(c.job->error, QN_API_TOO_LARGE_WORK);
    kit_free(&c);
    kit_run(&k, &c, in_structure("mqa", text, 10)); /* the answer comes without it */
    assert_int_equal(c.job->error, QN_API_OK);
    assert_int_equal(c.job->outputs[0].n_tokens, 10);
    assert_int_equal(c.job->outputs[0].fidelity.positions, 0);
    assert_int_equal(c.job->outputs[0].finish, QN_FINISH_LENGTH);
    kit_free(&c);
    kit_stop(&k);
}

/* Somebody holds the state that measuring would take: the answer comes without it, and so does who is next.
 */
static void answers_do_not_wait(void **state) {
    struct kit k;
    struct kit_call holder, c, next;
    char text[300];
    (void)state;
    fill(text, 250, 7);
    start(&k, 1024, 70, (struct qn_engine_options){.reserve_tokens = 1000});
    qn_stub.step_us = 2000;
    assert_int_equal(kit_submit(&k, &holder, in_structure("gqa", "holds", 750), 0), 0); /* 48 blocks */
    assert_int_equal(kit_submit(&k, &c, in_structure("mqa", text, 4), 0), 0); /* 16; to measure 32 */
    assert_int_equal(kit_submit(&k, &next, in_structure("gqa", text, 4), 0), 0);
    kit_wait(&k, &c);
    kit_wait(&k, &next);
    assert_false(holder.done);
    assert_int_equal(c.job->error, QN_API_OK);
    assert_int_equal(c.job->outputs[0].n_tokens, 4);
    assert_int_equal(c.job->outputs[0].finish, QN_FINISH_LENGTH);
    assert_int_equal(c.job->outputs[0].fidelity.positions, 0);
    qn_engine_cancel(k.engine, holder.job);
    kit_wait(&k, &holder);
    kit_free(&holder);
    kit_free(&c);
    kit_free(&next);
    /* all places are taken, and somebody waits for one: it is measured in the place that it had */
    qn_engine_free(&k.engine);
    struct qn_engine_options opt = {
        .models = &k.models, .max_running = 2, .reserve_tokens = 1, .wake = kit_wake, .wake_ctx = &k};
    k.engine = qn_engine_new(&opt);
    assert_int_equal(qn_engine_start(k.engine), 0);
    text[60] = 0;
    assert_int_equal(kit_submit(&k, &holder, in_structure("gqa", "holds", 750), 0), 0);
    assert_int_equal(kit_submit(&k, &c, in_structure("mqa", text, 4), 0), 0);
    assert_int_equal(kit_submit(&k, &next, in_structure("gqa", text, 600), 0), 0);
    kit_wait(&k, &c);
    assert_false(holder.done || next.done);
    check_outputs(&c, 2);
    qn_engine_cancel(k.engine, holder.job);
    qn_engine_cancel(k.engine, next.job);
    kit_wait(&k, &holder);
    kit_wait(&k, &next);
    kit_free(&holder);
    kit_free(&c);
    kit_free(&next);
    kit_stop(&k);
}

/* What grows takes the state of measurements first, whether it came before or after, and ends them: all or
 * nothing is reported. The pool always has room for both answers at their longest. */
static void measuring_gives_way(void **state) {
    unsigned taken = 0, whole = 0;
    (void)state;
    for (uint32_t turn = 72; turn <= 121; turn++) {
        uint32_t blocks = turn / 2;
        bool later = turn % 2 == 1;
        struct kit k;
        struct kit_call grows, c;
        char text[300];
        struct qn_metrics *metrics = qn_metrics_new();
        start(&k, 1024, blocks,
              (struct qn_engine_options){
                  .step_tokens = 24, .prefill_chunk = 7, .reserve_tokens = 1, .metrics = metrics});
        fill(text, 250, blocks);
        if (!later) assert_int_equal(kit_submit(&k, &grows, in_structure("gqa", "grows", 300), 0), 0);
        assert_int_equal(kit_submit(&k, &c, in_structure("mqa", text, 4), 0), 0);
        if (later) assert_int_equal(kit_submit(&k, &grows, in_structure("gqa", "grows", 300), 0), 0);
        kit_wait(&k, &c);
        kit_wait(&k, &grows);
        assert_int_equal(c.job->error, QN_API_OK);
        assert_int_equal(c.job->outputs[0].n_tokens, 4);
        assert_int_equal(c.job->outputs[0].finish, QN_FINISH_LENGTH);
        assert_int_equal(grows.job->outputs[0].n_tokens, 300);
        if (c.job->outputs[0].fidelity.positions) {
            check_outputs(&c, 2);
            whole++;
        } else {
            taken += counted(metrics, "\nquern_prompt_tokens_total ") > 5 + 250;
        }
        assert_int_equal(counted(metrics, "\nquern_preemptions_total "), 0);
        kit_free(&c);
        kit_free(&grows);
        kit_stop(&k);
        qn_metrics_free(metrics);
    }
    assert_true(taken > 0 && whole > 0);
}

/* A deadline or a client that leaves ends it within a step; an answer that is there stays one. */
static void ends_early(void **state) {
    struct kit k;
    struct kit_call c, d;
    char text[900];
    struct timespec now;
    (void)state;
    fill(text, 800, 3);
    start(&k, 1024, 256, (struct qn_engine_options){0});
    qn_stub.step_us = 50000;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    assert_int_equal(submit_pair(&k, &c, "gqa", "mqa", text, ns + 60000000u), 0);
    kit_wait(&k, &c);
    assert_int_equal(c.job->error, QN_API_TIMEOUT);
    kit_free(&c);
    assert_int_equal(submit_pair(&k, &c, "gqa", "mqa", text, 0), 0);
    assert_int_equal(submit_pair(&k, &d, "gqa", "performer", "waits for the buffer meanwhile", 0), 0);
    for (int i = 0; i < 5; i++) kit_pump(&k, 10);
    qn_engine_cancel(k.engine, c.job);
    kit_wait(&k, &c);
    kit_wait(&k, &d);
    assert_true(c.job->outputs[0].fidelity.positions < 799);
    check_pair(&d, 3);
    kit_free(&c);
    kit_free(&d);
    text[250] = '\0';
    struct qn_api_infer r = in_structure("mqa", text, 2);
    r.task = QN_TASK_SCORE;
    r.timeout_ms = 400; /* one step of 50 ms for the score, 16 to compare */
    kit_run(&k, &c, r);
    assert_int_equal(c.job->error, QN_API_OK);
    assert_int_equal(c.job->outputs[0].finish, QN_FINISH_COMPLETE);
    assert_true(c.job->outputs[0].fidelity.positions < QN_FIDELITY_TOKENS - 1);
    kit_free(&c);
    qn_stub.step_us = 0;
    kit_stop(&k);
}

static void stopped(void **state) {
    struct kit k;
    struct kit_call c[4];
    char text[900];
    (void)state;
    fill(text, 800, 4);
    start(&k, 1024, 256, (struct qn_engine_options){.max_running = 3});
    qn_stub.step_us = 20000;
    for (int i = 0; i < 4; i++)
        assert_int_equal(submit_pair(&k, &c[i], "gqa", i % 2 ? "mqa" : "mha", text, 0), 0);
    kit_pump(&k, 20);
    qn_engine_stop(k.engine);
    kit_take(&k);
    for (int i = 0; i < 4; i++) {
        assert_true(c[i].done);
        assert_int_equal(c[i].job->error, QN_API_DRAINING);
        kit_free(&c[i]);
    }
    kit_stop(&k);
}

/* Not causal: one span, whatever else runs; what a step can't hold is refused. */
static void whole_sequences(void **state) {
    struct kit k;
    struct kit_call c[8], busy;
    char text[200];
    (void)state;
    start(&k, 1024, 256,
          (struct qn_engine_options){.step_tokens = 64, .prefill_chunk = 8, .max_running = 12});
    qn_stub.step_us = 100;
    assert_int_equal(kit_submit(&k, &busy, in_structure("gqa", "someone decodes all the while", 300), 0), 0);
    for (uint32_t i = 0; i < 8; i++) {
        fill(text, 10 + i * 7, i);
        struct qn_api_infer r = in_structure("linformer", text, 0);
        r.task = QN_TASK_EMBED;
        r.attention.n_params = 1;
        snprintf(r.attention.params[0].name, sizeof r.attention.params[0].name, "causal");
        r.attention.params[0].kind = QN_API_BOOL;
        assert_int_equal(kit_submit(&k, &c[i], r, i), 0);
    }
    for (uint32_t i = 0; i < 8; i++) {
        kit_wait(&k, &c[i]);
        if (c[i].job->error) fail_msg("%s", c[i].job->error_msg);
        assert_int_equal(c[i].job->outputs[0].timings.steps, 1);
        kit_free(&c[i]);
    }
    kit_wait(&k, &busy);
    kit_free(&busy);
    fill(text, 65, 9);
    struct qn_api_infer r = in_structure("linformer", text, 0);
    r.task = QN_TASK_EMBED;
    r.attention.n_params = 1;
    snprintf(r.attention.params[0].name, sizeof r.attention.params[0].name, "causal");
    r.attention.params[0].kind = QN_API_BOOL;
    assert_int_equal(kit_submit(&k, &c[0], r, 0), -1);
    assert_int_equal(c[0].err.code, QN_API_CONTEXT);
    assert_non_null(strstr(c[0].err.msg, "65"));
    assert_non_null(strstr(c[0].err.msg, "64"));
    kit_free(&c[0]);
    r = in_structure("linformer", "score", 0);
    r.attention.n_params = 1;
    snprintf(r.attention.params[0].name, sizeof r.attention.params[0].name, "causal");
    r.task = QN_TASK_SCORE;
    assert_int_equal(kit_make(&k, &c[0], r, 0), -1);
    assert_int_equal(c[0].err.code, QN_API_UNSUPPORTED);
    assert_string_equal(c[0].err.param, "attention");
    kit_stop(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(approximate_replies_carry_it),
                                       cmocka_unit_test(others_do_not),
                                       cmocka_unit_test(pairs),
                                       cmocka_unit_test(crowd),
                                       cmocka_unit_test(what_never_fits),
                                       cmocka_unit_test(answers_do_not_wait),
                                       cmocka_unit_test(measuring_gives_way),
                                       cmocka_unit_test(ends_early),
                                       cmocka_unit_test(stopped),
                                       cmocka_unit_test(whole_sequences)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
