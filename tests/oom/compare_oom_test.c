/* Memory runs out at allocation 0, 1, 2 … of a comparison, and of an inference that is held against the
 * native structure, once and for ever after: it is refused, or fails with out_of_memory, or comes out whole;
 * nothing stays behind, and the next comparison is right. */
#include <errno.h>

#include "kernels/cpu.h"
#include "kernels/kernels.h"
#include "server/comparison.h"
#include "tests/engine/kit.h"
#include "tests/support/oom.h"
#include "tests/support/tiny_open.h"

/* ---- the failing allocator; the engine's thread counts as well ---- */
static atomic_bool armed, for_ever;
static atomic_long countdown;

static bool fail_now(void) {
    if (!atomic_load(&armed)) return false;
    long left = atomic_fetch_sub(&countdown, 1);
    return left == 0 || (left < 0 && atomic_load(&for_ever));
}

/* ---- a comparison, driven as a request would ---- */
static const char body[] = "{\"sequence\":\"a few words\",\"max_tokens\":6,\"repeats\":2,\"convert\":true,"
                           "\"structures\":[{},{\"attention\":\"mqa\"},{\"attention\":\"mha\"}]}";

/* The reply in *out, or the reason why there is none. */
static enum qn_api_code run(struct kit *k, struct qn_buf *out) {
    struct qn_api_err err = {.code = QN_API_OK};
    struct qn_api_compare req;
    struct qn_comparison *c = NULL;
    struct kit_call call;
    struct qn_job_options opt = {.owner = &call, .t_received_ns = qn_now_ns()};
    memset(&call, 0, sizeof call);
    memset(&req, 0, sizeof req);
    int rc = qn_api_compare_parse(body, sizeof body - 1, NULL, &req, &err);
    if (!rc) rc = qn_comparison_new(&k->models, &req, &opt, &c, &err);
    qn_api_compare_free(&req);
    struct qn_job *j;
    struct qn_api_sample s;
    while (!rc && (j = qn_comparison_next(c))) {
        call.done = false;
        if (qn_engine_submit(k->engine, j, &err, NULL)) {
            qn_comparison_fail(c, &err);
            break;
        }
        kit_wait(k, &call);
        qn_comparison_take(c, &s);
    }
    if (!rc && !qn_comparison_error(c)->code) qn_api_compare_write(out, qn_comparison_result(c));
    enum qn_api_code code = rc ? err.code : qn_comparison_error(c)->code;
    qn_comparison_free(c);
    return code;
}

/* One comparison with the allocation failing; true when nothing failed any more. */
static bool run_failing(struct kit *k, long at, bool always) {
    struct qn_buf reply = {0};
    atomic_store(&for_ever, always);
    atomic_store(&countdown, at);
    atomic_store(&armed, true);
    enum qn_api_code code = run(k, &reply);
    atomic_store(&armed, false);
    if (code && code != QN_API_OUT_OF_MEMORY) fail_msg("allocation %ld: code %d", at, (int)code);
    if (!code && !reply.failed) assert_non_null(strstr(reply.p, "\"object\":\"comparison\""));
    qn_buf_free(&reply);
    assert_int_equal(qn_model_state(k->models.models[0]).used, 0);
    return atomic_load(&countdown) >= 0;
}

static struct qn_model *open_tiny(struct qn_pool *pool) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    struct qn_open_options opt = {.pool = pool, .state_bytes = 1u << 20, .max_step_tokens = 64};
    return qn_test_tiny_open(&t, &opt);
}

static void comparisons(void **state) {
    struct qn_pool *pool = qn_pool_new(1);
    struct qn_model *m = open_tiny(pool);
    struct qn_buf reply = {0};
    struct kit k;
    (void)state;
    for (int always = 0; always < 2; always++) {
        long at = 0;
        kit_start(&k, &m, 1, (struct qn_engine_options){.step_tokens = 64});
        k.keep_models = true;
        while (!run_failing(&k, at, always)) assert_true(++at < 20000);
        assert_true(at > 50);
        assert_int_equal(run(&k, &reply), QN_API_OK);
        assert_non_null(strstr(reply.p, "\"mean_kl\":0,\"top1_agreement\":1"));
        qn_buf_free(&reply);
        kit_stop(&k);
    }
    qn_model_close(&m);
    qn_pool_free(&pool);
}

static bool infer_failing(struct kit *k, long at, bool always) {
    struct kit_call c;
    struct qn_api_infer r = kit_text("a few words", 4);
    snprintf(r.attention.type, sizeof r.attention.type, "mqa");
    r.convert = true;
    r.cache = false;
    atomic_store(&for_ever, always);
    atomic_store(&countdown, at);
    atomic_store(&armed, true);
    int rc = kit_submit(k, &c, r, 0);
    if (!rc) kit_wait(k, &c);
    atomic_store(&armed, false);
    if (rc) assert_int_equal(c.err.code, QN_API_OUT_OF_MEMORY);
    if (!rc && c.job->error) assert_int_equal(c.job->error, QN_API_OUT_OF_MEMORY);
    /* an answer that is there comes also when there is no memory to hold it against the native structure */
    if (!rc && !c.job->error) assert_int_equal(c.job->outputs[0].n_tokens, 4);
    kit_free(&c);
    assert_int_equal(qn_model_state(k->models.models[0]).used, 0);
    return atomic_load(&countdown) >= 0;
}

static void divergence(void **state) {
    struct qn_pool *pool = qn_pool_new(1);
    (void)state;
    for (int always = 0; always < 2; always++) {
        struct qn_model *m = open_tiny(pool);
        struct kit k;
        long at = 0;
        kit_start(&k, &m, 1, (struct qn_engine_options){.step_tokens = 64});
        while (!infer_failing(&k, at, always)) assert_true(++at < 20000);
        assert_true(at > 10);
        kit_stop(&k);
    }
    qn_pool_free(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(comparisons), cmocka_unit_test(divergence)};
    qn_kernels_init(qn_cpu_isa());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
