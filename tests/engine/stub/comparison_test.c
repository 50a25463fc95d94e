/* Comparisons over the fake model: what is refused before anything runs, and figures of runs that are made up
 * here. */
#include <math.h>

#include "server/comparison.h"
#include "tests/engine/kit.h"
#include "tests/stub/stub_model.h"

static int make(struct qn_registry *models, const char *body, struct qn_comparison **c,
                struct qn_api_err *err) {
    struct qn_api_limits lim = {.max_outputs = 16, .max_tokens = 4096};
    struct qn_api_compare req;
    struct qn_job_options opt = {0};
    memset(err, 0, sizeof *err);
    memset(&req, 0, sizeof req);
    if (qn_api_compare_parse(body, strlen(body), &lim, &req, err)) fail_msg("%s", err->msg);
    return qn_comparison_new(models, &req, &opt, c, err);
}

static struct qn_registry registry(uint32_t blocks) {
    struct qn_registry models = {.n = 1};
    models.models[0] = qn_stub_open("stub", 1024, blocks, true);
    assert_non_null(models.models[0]);
    return models;
}

static void refused(struct qn_registry *models, const char *body, const char *param) {
    struct qn_comparison *c;
    struct qn_api_err err;
    assert_int_equal(make(models, body, &c, &err), -1);
    assert_int_equal(err.code, QN_API_TOO_LARGE_WORK);
    assert_string_equal(err.param, param);
}

static void taken(struct qn_registry *models, const char *body) {
    struct qn_comparison *c;
    struct qn_api_err err;
    if (make(models, body, &c, &err)) fail_msg("%s", err.msg);
    qn_comparison_free(c);
}

#define TWO "\"structures\":[{},{\"attention\":\"mha\"}]"
#define ABC "abcdefghijklmnop" /* one block */

/* The engine takes whole blocks: a token past the last one that fits is too much. */
static void state_in_blocks(void **state) {
    struct qn_registry models = registry(8);
    (void)state;
    taken(&models, "{\"sequence\":\"" ABC "\",\"max_tokens\":112," TWO "}");
    refused(&models, "{\"sequence\":\"" ABC "\",\"max_tokens\":113," TWO "}", "structures[0]");
    /* the last token of a scored sequence is not run */
    taken(&models, "{\"task\":\"score\",\"sequence\":\"" ABC ABC ABC ABC ABC ABC ABC ABC "x\"," TWO "}");
    refused(&models, "{\"task\":\"score\",\"sequence\":\"" ABC ABC ABC ABC ABC ABC ABC ABC "xy\"," TWO "}",
            "structures[0]");
    qn_registry_close(&models);
}

/* Taking turns, they would drive each other's weights out. */
static void conversions_together(void **state) {
    struct qn_registry models = registry(64);
    static const char body[] = "{\"sequence\":\"" ABC "\",\"convert\":true,\"structures\":[{},"
                               "{\"attention\":\"mha\"},{\"attention\":\"mqa\"},{\"attention\":\"mha\"}]}";
    (void)state;
    qn_stub.convert_budget = 2 * QN_STUB_CONVERTED;
    taken(&models, body);
    qn_stub.convert_budget = 2 * QN_STUB_CONVERTED - 1;
    refused(&models, body, "structures");
    qn_stub.convert_budget = 0;
    qn_registry_close(&models);
}

/* Runs are as slow as others let them be: a run's bytes belong to its own time. */
static void achieved_by_each(void **state) {
    struct qn_registry models = registry(64);
    struct qn_comparison *c;
    struct qn_api_sample s;
    struct qn_api_err err;
    struct qn_job *j;
    (void)state;
    assert_int_equal(
        make(&models, "{\"sequence\":\"" ABC "\",\"task\":\"score\",\"repeats\":3," TWO "}", &c, &err), 0);
    for (int i = 0; (j = qn_comparison_next(c)); i++) {
        static const double shared[] = {-7, -7, 1, 9, 8, 9, 6, -1}; /* warm-up, then 3 of each in turn */
        if (i < 8) {
            j->cost =
                (struct qn_api_cost){.flops = 5, .bytes = 100.0 / (i + 1), .gflops = 2, .gbytes = shared[i]};
            j->timings.compute = i;
        }
        j->outputs[0].finish = QN_FINISH_COMPLETE;
        qn_comparison_take(c, &s);
    }
    assert_int_equal(qn_comparison_error(c)->code, QN_API_OK);
    const struct qn_api_comparison *r = qn_comparison_result(c);
    assert_true(fabs(r->results[0].cost.gbytes - 6) < 1e-9);
    assert_true(fabs(r->results[0].cost.gflops - 2) < 1e-9);
    assert_true(fabs(r->results[0].cost.bytes - 100.0 / 3) < 1e-9);
    assert_true(r->results[1].cost.gbytes < 0); /* one sample has none */
    qn_comparison_free(c);
    qn_registry_close(&models);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(state_in_blocks),
                                       cmocka_unit_test(conversions_together),
                                       cmocka_unit_test(achieved_by_each)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
