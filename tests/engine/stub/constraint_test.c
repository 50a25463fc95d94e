/* Constraints in the engine, against the fake model: guesses past the end of a text, and jobs whose
 * constraint was never made. (Masks themselves: tests/unit/model/constrain/; with real models:
 * test_structured.py.) */
#include "tests/engine/kit.h"
#include "tests/stub/stub_model.h"

static void start(struct kit *k, bool endless) {
    struct qn_model *m = qn_stub_open("stub", 1024, 256, true);
    assert_non_null(m);
    qn_stub.step_us = 0;
    qn_stub.ascii = true;
    qn_stub.eog_percent = 0;
    qn_stub.endless = endless;
    kit_start(k, &m, 1, (struct qn_engine_options){0});
}

static void stop(struct kit *k) {
    kit_stop(k);
    qn_stub.endless = false;
}

static struct qn_api_infer request(const char *regex, uint32_t n) {
    struct qn_api_infer r = kit_text("aaaaaaaaaaaaaaaa", 40);
    r.constraint =
        (struct qn_api_constraint){.kind = QN_CONSTRAIN_REGEX, .text = strdup(regex), .n = strlen(regex)};
    assert_non_null(r.constraint.text);
    r.n = n;
    return r;
}

/* The row behind the last right guess has no token that may follow. It is not the output's. */
static void guesses_past_the_end(void **state) {
    (void)state;
    for (int endless = 0; endless < 2; endless++)
        for (uint32_t n = 1; n < 3; n++) {
            struct kit k;
            struct kit_call c;
            struct qn_api_infer r = request("a{13}", n);
            r.speculative.prompt = true;
            r.speculative.max_draft = 5;
            r.speculative.ngram = 1;
            start(&k, endless);
            kit_run(&k, &c, r);
            if (c.job->error) fail_msg("%s", c.job->error_msg);
            assert_true(c.job->timings.speculation.accepted > 0);
            for (uint32_t i = 0; i < n; i++) {
                const struct qn_output *o = &c.job->outputs[i];
                assert_int_equal(o->finish, QN_FINISH_STOP);
                assert_int_equal(o->text.n, 13);
                assert_memory_equal(o->text.p, "aaaaaaaaaaaaa", 13);
            }
            kit_free(&c);
            stop(&k);
        }
}

static void unprepared(void **state) {
    struct kit k;
    struct qn_job *j;
    struct qn_api_err err = {0};
    struct qn_job_options opt = {0};
    struct qn_api_infer r = request("ab", 1);
    (void)state;
    start(&k, false);
    assert_int_equal(qn_job_new(&k.models, &r, &opt, &j, &err), 0);
    assert_true(qn_job_unprepared(j));
    assert_int_equal(qn_engine_submit(k.engine, j, &err, NULL), -1);
    assert_int_equal(err.code, QN_API_INTERNAL);
    assert_null(j->run);
    assert_int_equal(qn_engine_stats(k.engine).queued, 0);
    qn_job_unref(j);
    stop(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(guesses_past_the_end), cmocka_unit_test(unprepared)};
    return cmocka_run_group_tests_name("engine/constraint", tests, NULL, NULL);
}
