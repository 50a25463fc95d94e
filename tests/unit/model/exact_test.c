/* Exact arithmetic: a model opened so has the logits of a file that holds the same values as F32, bit for
 * bit, whatever the matrices' type; blocks that shared a matrix share the new one; without memory there is an
 * error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/exact.h"
#include "model/internal.h"
#include "tests/support/requant.h"
#include "tests/support/tiny_open.h"

#define ROWS  24
#define VOCAB 272

static float seen[ROWS][VOCAB];

static void keep(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)ctx, (void)span;
    memcpy(seen[pos], v, VOCAB * sizeof *v);
}

static void logits(struct qn_model *m) {
    int32_t tokens[ROWS];
    struct qn_variant *v = qn_test_variant(m, "", 0);
    struct qn_seq *s;
    for (int i = 0; i < ROWS; i++) tokens[i] = (i * 37 + 5) % VOCAB;
    assert_int_equal(qn_seq_new(v, 0, false, &s, NULL), QN_OK);
    assert_int_equal(qn_seq_reserve(s, ROWS), QN_OK);
    struct qn_span span = {.seq = s, .tokens = tokens, .n = ROWS, .want = QN_WANT_ALL};
    struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1, .on_row = keep};
    assert_int_equal(qn_step_run(&step, NULL), QN_OK);
    qn_seq_free(&s);
    qn_variant_unref(v);
    qn_model_close(&m);
}

enum way { PLAIN, EXACT, F16_AS_BF16 };

static struct qn_model *open_path(const char *path, enum way way) {
    struct qn_err err = {0};
    struct qn_model *m = NULL;
    struct qn_open_options opt = {.state_type = QN_STATE_F32,
                                  .state_bytes = 4 << 20,
                                  .max_step_tokens = 64,
                                  .exact = way == EXACT,
                                  .f16_as_bf16 = way == F16_AS_BF16};
    if (qn_model_open(path, &opt, &m, &err)) fail_msg("%s: %s", path, err.msg);
    return m;
}

static void logits_are_those_of_an_f32_file(void **state) {
    (void)state;
    static const char *const families[] = {"llama", "gemma", "gpt2", "qwen2moe"};
    static const enum qn_type types[] = {QN_Q4_1, QN_BF16, QN_Q8_0};
    static float want[ROWS][VOCAB];
    char dir[] = "/tmp/quern-exact-XXXXXX", path[64], wide[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/a.gguf", dir);
    snprintf(wide, sizeof wide, "%s/b.gguf", dir);
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            struct qn_test_tiny tiny = qn_test_tiny_default(families[f]);
            tiny.type = types[t];
            tiny.tied = f % 2 == 0;
            assert_int_equal(qn_test_write_tiny_gguf(path, &tiny), 0);
            assert_true(qn_requant(path, wide, QN_F32));
            logits(open_path(wide, PLAIN));
            memcpy(want, seen, sizeof want);
            logits(open_path(path, EXACT));
            assert_memory_equal(want, seen, sizeof want);
            logits(open_path(path, PLAIN)); /* with rounded activations they are others */
            assert_memory_not_equal(want, seen, sizeof want);
        }
    }
    unlink(path);
    unlink(wide);
    rmdir(dir);
}

/* F16 weights as BF16 are those of a BF16 file: the same logits, which are others than F16's. */
static void f16_becomes_bf16(void **state) {
    (void)state;
    static const char *const families[] = {"llama",
                                           "gemma"}; /* gpt2 has a table of positions, which stays F16 */
    static float want[ROWS][VOCAB];
    char dir[] = "/tmp/quern-narrow-XXXXXX", path[64], narrow[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/a.gguf", dir);
    snprintf(narrow, sizeof narrow, "%s/b.gguf", dir);
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        struct qn_test_tiny tiny = qn_test_tiny_default(families[f]);
        tiny.type = QN_F16;
        assert_int_equal(qn_test_write_tiny_gguf(path, &tiny), 0);
        assert_true(qn_requant(path, narrow, QN_BF16));
        logits(open_path(narrow, PLAIN));
        memcpy(want, seen, sizeof want);
        logits(open_path(path, F16_AS_BF16));
        assert_memory_equal(want, seen, sizeof want);
        logits(open_path(path, PLAIN));
        assert_memory_not_equal(want, seen, sizeof want);
    }
    unlink(path);
    unlink(narrow);
    rmdir(dir);
}

static void shared_blocks_share(void **state) {
    (void)state;
    struct qn_checkpoint *c = NULL;
    assert_int_equal(qn_checkpoint_load("tests/golden/quern/all", NULL, &c, NULL), QN_OK);
    size_t n = (size_t)c->spec.n_attn * c->spec.attn_blocks;
    const uint8_t **before = calloc(n, sizeof(uint8_t *));
    assert_non_null(before);
    for (size_t i = 0; i < n; i++) before[i] = c->attn[i].o.data;
    enum qn_type type = c->attn[0].o.type;
    assert_int_equal(qn_checkpoint_exact(c, NULL, NULL), QN_OK);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(c->attn[i].o.type, QN_F32);
        for (size_t j = 0; j < i; j++)
            assert_int_equal(before[i] == before[j], c->attn[i].o.data == c->attn[j].o.data);
        assert_int_equal(c->attn[i].o.data == before[i], type == QN_F32);
    }
    free(before);
    qn_checkpoint_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits_are_those_of_an_f32_file),
                                       cmocka_unit_test(f16_becomes_bf16),
                                       cmocka_unit_test(shared_blocks_share)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
