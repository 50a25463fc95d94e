/* Every family's tiny model against the logits that Hugging Face transformers computes from it
 * (tests/golden/models, made by tools/golden/models.py). Each file of each model is a test of its own:
 *
 *   - logits of all positions within 1e-4 of the largest, for several chunkings of the sequence, and equal
 * bit for bit between chunkings;
 *   - the same model with f16 state within 5e-3;
 *   - with attention "mha" (where heads are shared) within 1e-5 of the native structure;
 *   - the mean of the last hidden states, computed through BLAS as the embed task does, within 1e-4.
 *
 * BF16 files: the figures are those of exact arithmetic on the same values; products of bfloat16 round what
 * goes in (2^-9 of each value), and 2e-2 of the largest logit is what that may come to in these narrow
 * layers.
 *
 * Quantised files: the reference runs on the dequantised weights in f32 and rounds activations as quern does.
 * Most positions then agree to 1e-6; where a last bit of difference makes one activation fall to the other
 * side of a rounding, these few narrow layers carry 1e-3 of it to the logits: their bound is 2e-3.
 * Thread: the main thread drives a pool of two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/golden.h"

#define ROOT "tests/golden/models/"

struct model_case {
    const char *model, *file;
    double tolerance; /* of logits */
    double own; /* of the type's own arithmetic, where `tolerance` is of exact arithmetic; 0: there is one */
};

static const struct model_case cases[] = {
    {"llama", "f32", 1e-4, 0},
    {"llama", "sharded", 1e-4, 0},
    {"llama", "f32.gguf", 1e-4, 0},
    {"llama", "f16.gguf", 1e-4, 0},
    {"llama3", "bf16", 1e-4, 2e-2},
    {"llama3", "old", 1e-4, 2e-2},
    {"llama3", "f16.gguf", 1e-4, 0},
    {"mistral", "bf16", 1e-4, 2e-2},
    {"mistral", "f16.gguf", 1e-4, 0},
    {"qwen2", "bf16", 1e-4, 2e-2},
    {"qwen2", "f16.gguf", 1e-4, 0},
    {"qwen3", "f32", 1e-4, 0},
    {"qwen3", "f16.gguf", 1e-4, 0},
    {"gemma", "bf16", 1e-4, 2e-2},
    {"gemma", "f16.gguf", 1e-4, 0},
    {"gpt2", "f32", 1e-4, 0},
    {"gpt2", "hub", 1e-4, 0},
    {"gpt2", "f16.gguf", 1e-4, 0},
    {"gpt_bigcode", "f16", 1e-4, 0},
    {"gpt_bigcode", "f16.gguf", 1e-4, 0},
    {"gpt_bigcode_mha", "f16", 1e-4, 0},
    {"mixtral", "f16", 1e-4, 0},
    {"mixtral", "fused", 1e-4, 0},
    {"mixtral", "f16.gguf", 1e-4, 0},
    {"mixtral", "split.gguf", 1e-4, 0},
    {"mixtral", "merged.gguf", 1e-4, 0},
    {"qwen2_moe", "bf16", 1e-4, 0.3},
    {"qwen2_moe", "f16.gguf", 1e-4, 0},
    {"qwen3_moe", "bf16", 1e-4, 0.3},
    {"qwen3_moe", "fused", 1e-4, 0.3},
    {"qwen3_moe", "f16.gguf", 1e-4, 0},
    {"olmoe", "f16", 1e-4, 0},
    {"olmoe", "f16.gguf", 1e-4, 0},
    {"olmoe_norm", "f16", 1e-4, 0},
    {"llama_q8_0", "quantised.gguf", 2e-3, 0},
    {"llama_mixed", "quantised.gguf", 2e-3, 0},
};
#define N_CASES (sizeof cases / sizeof cases[0])

/* Chunk sizes, repeated to the end: all at once, one by one, whole blocks, across block bounds. */
static const struct {
    const char *name;
    uint32_t n, sizes[4];
} chunkings[] = {
    {"whole", 1, {64}},
    {"single", 1, {1}},
    {"blocks", 1, {16}},
    {"ragged", 4, {7, 1, 22, 3}},
};

static void load_golden(const struct model_case *c, struct qn_golden *g) {
    char path[256];
    snprintf(path, sizeof path, ROOT "%s/golden.bin", c->model);
    if (!qn_golden_read(path, g)) fail_msg("%s is absent or broken", path);
}

static void open_as(const struct model_case *c, struct qn_bench *b, enum qn_state_type state,
                    const char *attention, bool exact) {
    char path[256];
    snprintf(path, sizeof path, ROOT "%s/%s", c->model, c->file);
    struct qn_bench_options opt = {
        .state = state, .threads = 2, .max_step_tokens = 64, .attention = attention, .exact = exact};
    if (!qn_bench_open(b, path, &opt)) fail_msg("%s: %s", path, b->err.msg);
}

static void open_model(const struct model_case *c, struct qn_bench *b, enum qn_state_type state,
                       const char *attention) {
    open_as(c, b, state, attention, false);
}

static float *logits_of(struct qn_bench *b, const struct qn_golden *g, size_t chunking) {
    float *out = calloc((size_t)g->n * g->vocab, sizeof *out);
    assert_non_null(out);
    struct qn_bench_run run = {.ids = g->ids,
                               .n = g->n,
                               .chunks = chunkings[chunking].sizes,
                               .n_chunks = chunkings[chunking].n,
                               .want = QN_WANT_ALL,
                               .math = QN_MATH_PACKED,
                               .out = out,
                               .width = g->vocab};
    if (!qn_bench_run(b, &run)) fail_msg("%s: %s", chunkings[chunking].name, b->err.msg);
    return out;
}

/* Where the worst element lies says which side to look at: position 0 leaves attention and RoPE out. */
static void compare(const struct model_case *c, const struct qn_golden *g, const float *got, const char *what,
                    double tolerance) {
    double d = qn_distance(got, g->logits, (size_t)g->n * g->vocab);
    if (d <= tolerance) return;
    const size_t last = (size_t)(g->n - 1) * g->vocab;
    fail_msg(
        "%s/%s, %s: logits are off by %.2e (allowed %.0e); position 0 by %.2e, 1 by %.2e, the last by %.2e",
        c->model, c->file, what, d, tolerance, qn_distance(got, g->logits, g->vocab),
        qn_distance(got + g->vocab, g->logits + g->vocab, g->vocab),
        qn_distance(got + last, g->logits + last, g->vocab));
}

static void check_logits(const struct model_case *c, const struct qn_golden *g, bool exact,
                         double tolerance) {
    struct qn_bench b;
    open_as(c, &b, QN_STATE_F32, NULL, exact);
    const struct qn_model_info *info = qn_model_info(b.model);
    assert_int_equal(info->vocab, g->vocab);
    assert_int_equal(info->d_model, g->d);
    size_t bytes = (size_t)g->n * g->vocab * sizeof(float);
    float *first = logits_of(&b, g, 0);
    compare(c, g, first, chunkings[0].name, tolerance);
    for (size_t i = 1; i < sizeof chunkings / sizeof chunkings[0]; i++) {
        float *again = logits_of(&b, g, i);
        compare(c, g, again, chunkings[i].name, tolerance);
        if (memcmp(first, again, bytes) != 0)
            fail_msg("%s/%s: chunks \"%s\" give other bits than the whole", c->model, c->file,
                     chunkings[i].name);
        free(again);
    }
    free(first);
    qn_bench_close(&b);
}

static void test_logits(void **state) {
    const struct model_case *c = *state;
    struct qn_golden g;
    load_golden(c, &g);
    if (c->own > 0) check_logits(c, &g, true, c->tolerance);
    check_logits(c, &g, false, c->own > 0 ? c->own : c->tolerance);
    qn_golden_free(&g);
}

static void test_f16_state(void **state) {
    const struct model_case *c = *state;
    struct qn_golden g;
    struct qn_bench b;
    load_golden(c, &g);
    open_model(c, &b, QN_STATE_F16, NULL);
    float *got = logits_of(&b, &g, 3);
    compare(c, &g, got, "f16 state", c->own > 5e-3 ? c->own : 5e-3);
    free(got);
    qn_bench_close(&b);
    qn_golden_free(&g);
}

static void test_mha(void **state) {
    const struct model_case *c = *state;
    struct qn_golden g;
    struct qn_bench native, mha;
    load_golden(c, &g);
    open_model(c, &native, QN_STATE_F32, NULL);
    open_model(c, &mha, QN_STATE_F32, "mha");
    assert_int_equal(qn_variant_structure(mha.variant)->exactness, QN_EXACT);
    float *a = logits_of(&native, &g, 0), *b = logits_of(&mha, &g, 0);
    double d = qn_distance(b, a, (size_t)g.n * g.vocab);
    if (d > 1e-5) fail_msg("%s/%s: mha is off its native structure by %.2e", c->model, c->file, d);
    free(a);
    free(b);
    qn_bench_close(&native);
    qn_bench_close(&mha);
    qn_golden_free(&g);
}

static void test_hidden(void **state) {
    const struct model_case *c = *state;
    struct qn_golden g;
    struct qn_bench b;
    load_golden(c, &g);
    open_model(c, &b, QN_STATE_F32, NULL);
    float *rows = calloc((size_t)g.n * g.d, sizeof *rows), *mean = calloc(g.d, sizeof *mean);
    assert_non_null(rows);
    assert_non_null(mean);
    struct qn_bench_run run = {.ids = g.ids,
                               .n = g.n,
                               .chunks = chunkings[0].sizes,
                               .n_chunks = 1,
                               .want = QN_WANT_HIDDEN,
                               .math = QN_MATH_BLAS,
                               .out = rows,
                               .width = g.d};
    if (!qn_bench_run(&b, &run)) fail_msg("%s/%s: %s", c->model, c->file, b.err.msg);
    for (size_t j = 0; j < g.d; j++) {
        double sum = 0;
        for (size_t i = 0; i < g.n; i++) sum += (double)rows[i * g.d + j];
        mean[j] = (float)(sum / g.n);
    }
    double d = qn_distance(mean, g.hidden, g.d);
    if (d > 1e-4) fail_msg("%s/%s: the mean hidden state is off by %.2e", c->model, c->file, d);
    free(rows);
    free(mean);
    qn_bench_close(&b);
    qn_golden_free(&g);
}

int main(void) {
    static const struct {
        const char *name;
        CMUnitTestFunction run;
    } kinds[] = {
        {"logits", test_logits}, {"f16 state", test_f16_state}, {"mha", test_mha}, {"hidden", test_hidden}};
    enum { KINDS = sizeof kinds / sizeof kinds[0] };
    static char names[N_CASES * KINDS][64];
    static struct CMUnitTest tests[N_CASES * KINDS];
    for (size_t i = 0; i < N_CASES * KINDS; i++) {
        const struct model_case *c = &cases[i / KINDS];
        snprintf(names[i], sizeof names[i], "%s/%s: %s", c->model, c->file, kinds[i % KINDS].name);
        tests[i] = (struct CMUnitTest){
            .name = names[i], .test_func = kinds[i % KINDS].run, .initial_state = (void *)(uintptr_t)c};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
