/* The engine on real models: tiny random checkpoints, traces as on the fake. A sequence's answer must be the
 * same bits alone, in any batch, for any chunking, after a cache hit, after preemption, with one thread or
 * two. */
#include <unistd.h>

#include "kernels/cpu.h"
#include "kernels/kernels.h"
#include "tests/engine/trace.h"
#include "tests/support/tiny_model.h"

#define SEEDS 60

static struct qn_model *open_model(const char *path, struct qn_pool *pool, size_t state_bytes, bool cache) {
    struct qn_open_options opt = {
        .pool = pool, .state_bytes = state_bytes, .max_step_tokens = 256, .prefix_cache = cache};
    struct qn_model *m = NULL;
    struct qn_err err = {0};
    if (qn_model_open(path, &opt, &m, &err)) fail_msg("%s", err.msg);
    return m;
}

/* Bytes of one state block per token and the pool that holds `tokens` of the native structure. */
static size_t state_for(struct qn_model *m, const char *attention, uint32_t tokens) {
    struct qn_structure_request req = {.convert = true};
    struct qn_variant *v;
    struct qn_err err = {0};
    snprintf(req.attention.type, sizeof req.attention.type, "%s", attention);
    if (qn_variant_resolve(m, &req, &v, &err)) fail_msg("%s", err.msg);
    size_t bytes = qn_variant_structure(v)->state_bytes_per_token;
    qn_variant_unref(v);
    return bytes * tokens;
}

static void family_traces(const char *family, const char *second) {
    char path[] = "/tmp/quern-engine-XXXXXX.gguf";
    struct qn_test_tiny t = qn_test_tiny_default(family);
    struct qn_pool *one = qn_pool_new(1), *two = qn_pool_new(2);
    int fd = mkstemps(path, 5);
    uint32_t compared = 0;
    assert_true(fd >= 0 && one && two);
    close(fd);
    t.context = 256;
    assert_int_equal(qn_test_write_tiny_gguf(path, &t), 0);
    struct trace_models m = {.max_len = 128, .all_tasks = true, .attention = {"", second, ""}};
    m.solo = open_model(path, one, 64u << 20, false);
    /* room for the longest of the larger structure once, and a little more */
    m.busy = open_model(path, two, state_for(m.solo, second, 128 + 64), true);
    for (uint64_t seed = 1; seed <= SEEDS; seed++) compared += trace_run(&m, seed);
    qn_model_close(&m.solo);
    qn_model_close(&m.busy);
    qn_pool_free(&one);
    qn_pool_free(&two);
    unlink(path);
    assert_true(compared > SEEDS * 3);
}

static void llama(void **state) {
    (void)state;
    family_traces("llama", "mha");
}

static void gpt2(void **state) {
    (void)state;
    family_traces("gpt2", "mha");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(llama), cmocka_unit_test(gpt2)};
    qn_kernels_init(qn_cpu_isa());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
