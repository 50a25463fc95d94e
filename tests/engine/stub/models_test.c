/* Two models in one engine: what waits for one, or fills its places, its queue or its state, holds nobody up
 * who asks the other. */
#include "tests/engine/kit.h"
#include "tests/stub/stub_model.h"

static void start(struct kit *k, uint32_t blocks, struct qn_engine_options opt) {
    struct qn_model *m[2] = {qn_stub_open("a", 1024, blocks, true), qn_stub_open("b", 1024, 256, true)};
    assert_true(m[0] && m[1]);
    qn_stub.step_us = qn_stub.row_us = 0;
    qn_stub.fail_steps = qn_stub.fail_prepare = qn_stub.eog_percent = 0;
    qn_stub.ascii = true;
    kit_start(k, m, 2, opt);
}

static struct qn_api_infer ask(const char *model, size_t prompt, uint32_t max_tokens) {
    char text[1024];
    assert_true(prompt < sizeof text);
    memset(text, 'x', prompt);
    text[prompt] = 0;
    struct qn_api_infer r = kit_text(text, max_tokens);
    snprintf(r.model, sizeof r.model, "%s", model);
    r.cache = false;
    return r;
}

static void wait_running(struct kit *k, uint32_t n) {
    while (qn_engine_model_stats(k->engine, 0).running < n) kit_pump(k, 1);
}

static void finish(struct kit *k, struct kit_call *c, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) qn_engine_cancel(k->engine, c[i].job);
    for (uint32_t i = 0; i < n; i++) {
        kit_wait(k, &c[i]);
        kit_free(&c[i]);
    }
}

/* b answers while all of a's jobs are still there. */
static void answers(struct kit *k, const struct kit_call *a, uint32_t n, size_t prompt) {
    struct kit_call b;
    kit_run(k, &b, ask("b", prompt, 4));
    assert_int_equal(b.job->error, QN_API_OK);
    assert_int_equal(b.job->outputs[0].n_tokens, 4);
    kit_free(&b);
    for (uint32_t i = 0; i < n; i++) assert_false(a[i].done);
}

static void queues_are_bounded_apart(void **state) {
    struct kit k;
    struct kit_call a[3], over;
    (void)state;
    start(&k, 256,
          (struct qn_engine_options){.max_running = 1, .max_queue_requests = 2, .max_queue_tokens = 20});
    qn_stub.step_us = 2000;
    assert_int_equal(kit_submit(&k, &a[0], ask("a", 5, 900), 0), 0);
    wait_running(&k, 1);
    for (int i = 1; i < 3; i++) assert_int_equal(kit_submit(&k, &a[i], ask("a", 5, 900), 0), 0);
    assert_int_equal(kit_submit(&k, &over, ask("a", 1, 3), 0), -1);
    assert_int_equal(over.err.code, QN_API_QUEUE_FULL);
    kit_free(&over);
    struct qn_engine_stats of_a = qn_engine_model_stats(k.engine, 0),
                           of_b = qn_engine_model_stats(k.engine, 1), all = qn_engine_stats(k.engine);
    assert_int_equal(of_a.queued, 2);
    assert_int_equal(of_a.queued_tokens, 10);
    assert_int_equal(of_a.running, 1);
    assert_int_equal(of_b.queued + of_b.running, 0);
    assert_int_equal(all.queued, 2);
    assert_int_equal(all.running, 1);
    answers(&k, a, 3, 5);
    finish(&k, a, 3);
    assert_int_equal(qn_engine_stats(k.engine).queued, 0);
    assert_int_equal(qn_engine_stats(k.engine).queued_tokens, 0);
    kit_stop(&k);
}

/* Prompts of one tenant under way at one model are a step's worth: the same tenant's request to the other
 * model does not wait for them. */
static void long_prompts_hold_nobody_up(void **state) {
    struct kit k;
    struct kit_call a[12];
    (void)state;
    start(&k, 1024, (struct qn_engine_options){.max_running = 16, .step_tokens = 16, .prefill_chunk = 4});
    qn_stub.step_us = 500;
    for (int i = 0; i < 12; i++) assert_int_equal(kit_submit(&k, &a[i], ask("a", 1000, 8), 0), 0);
    wait_running(&k, 4);
    assert_true(qn_engine_model_stats(k.engine, 0).queued > 0);
    answers(&k, a, 12, 40);
    finish(&k, a, 12);
    kit_stop(&k);
}

static void full_state_holds_nobody_up(void **state) {
    struct kit k;
    struct kit_call a[4];
    (void)state;
    start(&k, 62, (struct qn_engine_options){.max_running = 8});
    qn_stub.step_us = 1000;
    for (int i = 0; i < 4; i++) assert_int_equal(kit_submit(&k, &a[i], ask("a", 700, 280), 0), 0);
    wait_running(&k, 1);
    assert_int_equal(qn_engine_model_stats(k.engine, 0).queued, 3);
    answers(&k, a, 4, 300);
    finish(&k, a, 4);
    kit_stop(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(queues_are_bounded_apart),
                                       cmocka_unit_test(long_prompts_hold_nobody_up),
                                       cmocka_unit_test(full_state_holds_nobody_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
