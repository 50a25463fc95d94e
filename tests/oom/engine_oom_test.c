/* Memory runs out at allocation 0, 1, 2 … of a job's whole life, once and for ever after: it is refused or
 * ends with an error (or does not care), its DONE comes all the same, no state stays behind, and the next job
 * is answered right. */
#include <errno.h>
#include <unistd.h>

#include "kernels/cpu.h"
#include "kernels/kernels.h"
#include "tests/engine/kit.h"
#include "tests/support/oom.h"
#include "tests/support/tiny_model.h"

/* ---- the failing allocator; the engine's thread counts as well ---- */
static atomic_bool armed, for_ever;
static atomic_long countdown;

static bool fail_now(void) {
    if (!atomic_load(&armed)) return false;
    long left = atomic_fetch_sub(&countdown, 1);
    return left == 0 || (left < 0 && atomic_load(&for_ever));
}

/* ---- jobs of every kind ---- */
static struct qn_api_infer request(unsigned kind) {
    struct qn_api_infer r = kit_text("a few words", 30);
    r.logprobs_given = true;
    r.logprobs = 2;
    r.ignore_eos = true;
    if (kind == 0) {
        r.n = 2;
        r.temperature = 1;
        r.stream = true;
        r.speculative.prompt = true;
        r.speculative.max_draft = 3;
        r.speculative.ngram = 1;
        kit_add_stop(&r, "never to be found");
    }
    if (kind == 4) r.prompt_logprobs = true;
    if (kind == 1) r.task = QN_TASK_SCORE;
    if (kind == 2) r.task = QN_TASK_EMBED;
    return r;
}

/* Runs one job with the allocation failing; true when nothing failed any more. */
static bool run_failing(struct kit *k, unsigned kind, long at, bool always) {
    struct kit_call c;
    struct qn_buf reply = {0};
    struct qn_api_infer r = request(kind);
    qn_model_drop_cache(k->models.models[0]); /* the engine is idle */
    atomic_store(&for_ever, always);
    atomic_store(&countdown, at);
    atomic_store(&armed, true);
    int rc = kit_submit(k, &c, r, (uint64_t)at + 1);
    if (!rc) kit_wait(k, &c);
    if (!rc && kind == 4) c.job->style = (struct qn_job_style){.form = QN_FORM_COMPLETION, .echo = true};
    if (!rc && !c.job->error) qn_job_write_reply(c.job, &reply);
    atomic_store(&armed, false);
    if (rc) assert_int_equal(c.err.code, QN_API_OUT_OF_MEMORY);
    if (!rc && c.job->error) assert_int_equal(c.job->error, QN_API_OUT_OF_MEMORY);
    if (!rc && !c.job->error && !reply.failed) assert_true(reply.n > 0);
    qn_buf_free(&reply);
    kit_free(&c);
    return atomic_load(&countdown) >= 0;
}

static void check_right(struct kit *k, const struct qn_job *want) {
    struct kit_call c;
    kit_run(k, &c, request(3));
    assert_int_equal(c.job->error, QN_API_OK);
    assert_int_equal(c.job->outputs[0].n_tokens, want->outputs[0].n_tokens);
    assert_memory_equal(c.job->outputs[0].tokens, want->outputs[0].tokens,
                        want->outputs[0].n_tokens * sizeof(int32_t));
    kit_free(&c);
    assert_int_equal(qn_model_state(k->models.models[0]).used, 0);
}

static void every_allocation(void **state) {
    char path[] = "/tmp/quern-oom-XXXXXX.gguf";
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    struct qn_pool *pool = qn_pool_new(1);
    struct qn_open_options opt = {
        .pool = pool, .state_bytes = 1u << 20, .max_step_tokens = 64, .prefix_cache = true};
    struct qn_model *m = NULL;
    struct qn_err err = {0};
    struct kit k;
    struct kit_call want;
    int fd = mkstemps(path, 5);
    (void)state;
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(qn_test_write_tiny_gguf(path, &t), 0);
    if (qn_model_open(path, &opt, &m, &err)) fail_msg("%s", err.msg);
    kit_start(&k, &m, 1, (struct qn_engine_options){.step_tokens = 64, .reserve_tokens = 2});
    kit_run(&k, &want, request(3));
    for (unsigned kind = 0; kind < 5; kind++)
        for (int always = 0; always < 2; always++) {
            long at = 0;
            while (!run_failing(&k, kind, at, always)) {
                check_right(&k, want.job);
                assert_true(++at < 5000);
            }
            assert_true(at > 10);
        }
    kit_free(&want);
    kit_stop(&k);
    qn_pool_free(&pool);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_allocation)};
    qn_kernels_init(qn_cpu_isa());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
