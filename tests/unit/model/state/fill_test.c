/* Filling a sequence for benchmarks: it holds what so many tokens hold, byte for byte of the pool's count,
 * and continues with finite logits that depend on the seed alone; nothing of it is found by another sequence.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "model/batch.h"
#include "model/internal.h"
#include "tests/support/tiny_open.h"

#define VOCAB       272
#define BLOCK_BYTES 4096 /* 2 layers, K and V, 2 KV heads of 16, 16 tokens, f16 */

static struct qn_model *open_model(size_t state_bytes, uint32_t max_rows, enum qn_state_type type) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    t.tokenizer = false;
    struct qn_open_options opt = {
        .state_bytes = state_bytes, .max_step_tokens = max_rows, .state_type = type, .prefix_cache = true};
    return qn_test_tiny_open(&t, &opt);
}

static void keep(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)span, (void)pos;
    memcpy(ctx, v, VOCAB * sizeof *v);
}

/* One token after a sequence filled to n. */
static void decode(struct qn_variant *v, uint32_t n, uint64_t seed, float *logits) {
    struct qn_seq *s;
    int32_t token = 7;
    assert_int_equal(qn_seq_new(v, 0, true, &s, NULL), QN_OK);
    assert_int_equal(qn_seq_fill(s, n, seed, NULL), QN_OK);
    assert_int_equal(qn_seq_length(s), n);
    size_t blocks = (n + QN_KV_BLOCK - 1) / QN_KV_BLOCK;
    assert_int_equal(qn_seq_bytes(s).held, blocks * v->block_bytes + v->fixed_bytes);
    assert_int_equal(qn_seq_bytes(s).peak, blocks * v->block_bytes + v->fixed_bytes);
    assert_int_equal(qn_model_state(v->model).used, qn_seq_bytes(s).held);
    assert_int_equal(qn_seq_reserve(s, n + 1), QN_OK);
    struct qn_span span = {.seq = s, .tokens = &token, .n = 1, .want = QN_WANT_LAST};
    struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1, .on_row = keep, .ctx = logits};
    assert_int_equal(qn_step_run(&step, NULL), QN_OK);
    for (uint32_t i = 0; i < VOCAB; i++) assert_true(isfinite(logits[i]));
    qn_seq_free(&s);
    assert_int_equal(qn_model_state(v->model).used, 0);
    assert_int_equal(qn_model_state(v->model).cached, 0);
}

static void continues_from_any_length(void **state) {
    static const uint32_t lengths[] = {1, 15, 16, 17, 31, 32, 33, 48, 63};
    (void)state;
    for (int type = QN_STATE_F16; type < QN_STATE_TYPES; type++) {
        struct qn_model *m = open_model((size_t)1 << 20, 8, (enum qn_state_type)type);
        struct qn_variant *v = qn_test_variant(m, "", 0);
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            float a[VOCAB], b[VOCAB], c[VOCAB];
            decode(v, lengths[i], 1, a);
            decode(v, lengths[i], 1, b);
            decode(v, lengths[i], 2, c);
            assert_memory_equal(a, b, sizeof a);
            assert_memory_not_equal(a, c, sizeof a);
        }
        qn_variant_unref(v);
        qn_model_close(&m);
    }
}

/* States of a fixed size: the same bytes whatever the length. */
static void fixed_states_too(void **state) {
    static const char *const kinds[] = {"performer", "linformer"};
    static const uint32_t lengths[] = {1, 31, 32, 47, 300, 1999};
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        char path[160];
        struct qn_model *m;
        struct qn_err err = {0};
        struct qn_open_options opt = {
            .state_bytes = (size_t)1 << 20, .max_step_tokens = 32, .prefix_cache = true};
        snprintf(
            path, sizeof path,
            "synthetic:hidden=32,layers=2,heads=4,vocab=272,ffn_dim=32,k=8,features=16,n=2000,attention=%s",
            kinds[k]);
        if (qn_model_open(path, &opt, &m, &err)) fail_msg("%s", err.msg);
        struct qn_variant *v = qn_test_variant(m, "", 0);
        assert_true(v->block_bytes == 0 && v->fixed_bytes > 0);
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            float a[VOCAB], b[VOCAB];
            decode(v, lengths[i], 1, a);
            decode(v, lengths[i], 1, b);
            assert_memory_equal(a, b, sizeof a);
        }
        qn_variant_unref(v);
        qn_model_close(&m);
    }
}

static void nobody_finds_it(void **state) {
    (void)state;
    struct qn_model *m = open_model((size_t)1 << 20, 32, QN_STATE_F16);
    struct qn_variant *v = qn_test_variant(m, "", 0);
    struct qn_seq *s, *fork, *other;
    int32_t tokens[49], more[16] = {1, 2, 3};
    assert_int_equal(qn_seq_new(v, 0, true, &s, NULL), QN_OK);
    assert_int_equal(qn_seq_fill(s, 40, 1, NULL), QN_OK);
    for (uint32_t i = 0; i < 40; i++)
        tokens[i] = s->kv.entries[i / QN_KV_BLOCK].block->tokens[i % QN_KV_BLOCK];
    assert_int_equal(qn_seq_fork(s, &fork, NULL), QN_OK);
    assert_int_equal(qn_seq_reserve(fork, 56), QN_OK);
    struct qn_span span = {.seq = fork, .tokens = more, .n = 16};
    struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1};
    assert_int_equal(qn_step_run(&step, NULL), QN_OK);
    memcpy(tokens + 40, more, 9 * sizeof *more);
    qn_seq_free(&s);
    qn_seq_free(&fork);
    assert_int_equal(qn_model_state(m).cached, 0);
    assert_int_equal(qn_seq_new(v, 0, true, &other, NULL), QN_OK);
    assert_int_equal(qn_seq_match(other, tokens, 49), 0);
    qn_seq_free(&other);
    qn_variant_unref(v);
    qn_model_close(&m);
}

static void refuses(void **state) {
    (void)state;
    struct qn_model *m = open_model(2 * BLOCK_BYTES, 32, QN_STATE_F16);
    struct qn_variant *v = qn_test_variant(m, "", 0);
    struct qn_seq *s;
    struct qn_err err = {0};
    assert_int_equal(qn_seq_new(v, 0, true, &s, NULL), QN_OK);
    assert_int_equal(v->block_bytes, BLOCK_BYTES);
    assert_int_equal(qn_seq_fill(s, qn_model_info(m)->context + 1, 1, &err), QN_ERR_TOO_LONG);
    assert_int_equal(qn_seq_fill(s, 2 * QN_KV_BLOCK + 1, 1, &err), QN_ERR_NO_STATE);
    assert_non_null(strstr(err.msg, "no state"));
    assert_int_equal(qn_model_state(m).used, 0);
    assert_int_equal(qn_seq_fill(s, 5, 1, &err), QN_OK);
    assert_int_equal(qn_seq_fill(s, 9, 1, &err), QN_ERR_INVALID);
    assert_int_equal(qn_seq_length(s), 5);
    qn_seq_free(&s);
    qn_variant_unref(v);
    qn_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(continues_from_any_length),
        cmocka_unit_test(fixed_states_too),
        cmocka_unit_test(nobody_finds_it),
        cmocka_unit_test(refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
