/* Random traces on the fake model, whose next token depends on every token before it: a row that was left
 * out, run twice, forked or matched wrongly shows in the answer. The pool's own books are checked after each
 * trace. */
#include "tests/engine/trace.h"
#include "tests/stub/stub_model.h"

#define SEEDS 300

static void traces(void **state) {
    uint32_t compared = 0;
    (void)state;
    qn_stub.ascii = true;
    qn_stub.eog_percent = 3;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        uint32_t blocks = 9 + (uint32_t)seed % 20;
        qn_stub.step_us = seed % 4 == 0 ? 200 : 0;
        struct trace_models m = {.solo = qn_stub_open("stub", 512, 256, true),
                                 .busy = qn_stub_open("stub", 512, blocks, seed % 3 != 0),
                                 .max_len = 8 * QN_STUB_BLOCK,
                                 .all_tasks = true,
                                 .attention = {"gqa", "mha", "mqa"}};
        assert_non_null(m.solo);
        assert_non_null(m.busy);
        compared += trace_run(&m, seed);
        assert_int_equal(qn_stub_check_pool(m.busy), 0);
        qn_model_close(&m.solo);
        qn_model_close(&m.busy);
    }
    assert_true(compared > SEEDS * 3);
    assert_true(trace_drafted > SEEDS && trace_accepted > SEEDS / 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(traces)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
