/* Perplexity over windows: the sums are those of a slow walk, token by token in double; the number of windows
 * at a time and the size of steps have no say; BOS takes the first token's place; what can't be is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "model/batch.h"
#include "server/perplexity.h"
#include "tests/support/tiny_open.h"

#define TOKENS 150
#define CTX    32
#define VOCAB  272

static int32_t text[TOKENS];
static double last[VOCAB];

static void keep(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)ctx, (void)span, (void)pos;
    for (int i = 0; i < VOCAB; i++) last[i] = (double)v[i];
}

static double nll_of(int32_t id) {
    double top = last[0], sum = 0;
    for (int i = 1; i < VOCAB; i++) top = last[i] > top ? last[i] : top;
    for (int i = 0; i < VOCAB; i++) sum += exp(last[i] - top);
    return top + log(sum) - last[id];
}

/* One window, a token at a time. */
static void slow_window(struct qn_variant *v, const int32_t *t, int32_t bos, struct qn_perplexity *sum) {
    struct qn_seq *s;
    assert_int_equal(qn_seq_new(v, 0, false, &s, NULL), QN_OK);
    for (uint32_t i = 0; i + 1 < CTX; i++) {
        int32_t id = i == 0 && bos >= 0 ? bos : t[i];
        struct qn_span span = {.seq = s, .tokens = &id, .n = 1, .want = QN_WANT_LAST};
        struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1, .on_row = keep};
        assert_int_equal(qn_seq_reserve(s, i + 1), QN_OK);
        assert_int_equal(qn_step_run(&step, NULL), QN_OK);
        if (i < CTX / 2) continue;
        double nll = nll_of(t[i + 1]);
        sum->nll += nll;
        sum->nll2 += nll * nll;
        sum->scored++;
    }
    qn_seq_free(&s);
}

static struct qn_model *open_model(const char *path) {
    struct qn_err err = {0};
    struct qn_model *m = NULL;
    struct qn_open_options opt = {.state_bytes = 4 << 20, .max_step_tokens = 256};
    if (qn_model_open(path, &opt, &m, &err)) fail_msg("%s", err.msg);
    return m;
}

static struct qn_model *open_tiny(void) {
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    struct qn_open_options opt = {.state_bytes = 4 << 20, .max_step_tokens = 256};
    t.tokenizer = false;
    return qn_test_tiny_open(&t, &opt);
}

static void near(const struct qn_perplexity *a, const struct qn_perplexity *b) {
    assert_int_equal(a->scored, b->scored);
    assert_true(fabs(a->nll - b->nll) < 1e-5 * b->nll);
    assert_true(fabs(a->nll2 - b->nll2) < 1e-5 * b->nll2);
}

static void sums_are_those_of_a_slow_walk(void **state) {
    (void)state;
    struct qn_model *models[] = {open_tiny(),
                                 open_model("synthetic:hidden=32,layers=1,heads=2,vocab=272,n=64,type=f32")};
    for (int k = 0; k < 2; k++) { /* the second one begins sequences with BOS */
        const struct qn_model_info *info = qn_model_info(models[k]);
        struct qn_variant *v = qn_test_variant(models[k], "", 0);
        struct qn_perplexity want = {0}, got, first = {0};
        struct qn_perplexity_options opt = {.ctx = CTX, .batch = 1, .step_tokens = 256};
        assert_int_equal(info->adds_bos, k);
        for (uint32_t w = 0; w < TOKENS / CTX; w++)
            slow_window(v, text + (size_t)w * CTX, info->adds_bos ? info->bos : -1, &want);
        for (uint32_t batch = 1; batch <= 6; batch++) {
            opt.batch = batch;
            opt.step_tokens = batch * (batch % 2 ? 5 : 32);
            assert_int_equal(qn_perplexity_run(v, text, TOKENS, &opt, &got, NULL), QN_OK);
            near(&got, &want);
            assert_int_equal(got.windows, TOKENS / CTX);
            assert_int_equal(got.scored, TOKENS / CTX * (CTX / 2 - 1));
            if (batch == 1) first = got;
            assert_true(got.nll == first.nll && got.nll2 == first.nll2);
        }
        opt.windows = 2;
        assert_int_equal(qn_perplexity_run(v, text, TOKENS, &opt, &got, NULL), QN_OK);
        assert_int_equal(got.windows, 2);
        qn_variant_unref(v);
        qn_model_close(&models[k]);
    }
}

static void value_and_error(void **state) {
    (void)state;
    /* of -log p = 1, 2, 3: mean 2, variance 2/3 over n, standard error sqrt(2/3 / 2) */
    struct qn_perplexity p = {.scored = 3, .nll = 6, .nll2 = 14};
    assert_true(fabs(qn_perplexity_value(&p) - exp(2)) < 1e-12);
    assert_true(fabs(qn_perplexity_error(&p) - sqrt(1.0 / 3) * exp(2)) < 1e-12);
    p.scored = 1;
    assert_true(qn_perplexity_error(&p) == 0);
    p.scored = 0;
    assert_true(qn_perplexity_value(&p) == 0);
}

static void progress(void *ctx, const struct qn_perplexity *so_far, uint32_t windows) {
    uint32_t *calls = ctx;
    assert_int_equal(windows, 4);
    assert_int_equal(so_far->windows, ++*calls == 1 ? 3 : 4);
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    struct qn_model *m = open_tiny();
    struct qn_variant *v = qn_test_variant(m, "", 0);
    struct qn_perplexity got;
    uint32_t calls = 0;
    struct qn_perplexity_options opt = {
        .ctx = CTX, .batch = 3, .step_tokens = 256, .progress = progress, .progress_ctx = &calls};
    struct qn_err err = {0};
    assert_int_equal(qn_perplexity_run(v, text, CTX - 1, &opt, &got, &err), QN_ERR_INVALID);
    assert_string_equal(err.param, "text");
    memset(&err, 0, sizeof err);
    opt.ctx = 65; /* the model's context is 64 */
    assert_int_equal(qn_perplexity_run(v, text, TOKENS, &opt, &got, &err), QN_ERR_INVALID);
    assert_string_equal(err.param, "ctx");
    opt.ctx = QN_PERPLEXITY_CTX_MIN - 1;
    assert_int_equal(qn_perplexity_run(v, text, TOKENS, &opt, &got, NULL), QN_ERR_INVALID);
    opt.ctx = CTX;
    assert_int_equal(qn_perplexity_run(v, text, TOKENS, &opt, &got, NULL), QN_OK);
    assert_int_equal(calls, 2);
    /* windows that the state pool can't hold together */
    opt.batch = 4;
    qn_variant_unref(v);
    qn_model_close(&m);
    struct qn_test_tiny t = qn_test_tiny_default("llama");
    struct qn_open_options small = {.state_bytes = 20 << 10, .max_step_tokens = 256};
    t.tokenizer = false;
    m = qn_test_tiny_open(&t, &small);
    v = qn_test_variant(m, "", 0);
    assert_int_equal(qn_perplexity_run(v, text, TOKENS, &opt, &got, NULL), QN_ERR_NO_STATE);
    assert_int_equal(qn_model_state(m).used, 0);
    qn_variant_unref(v);
    qn_model_close(&m);
}

int main(void) {
    uint64_t s = 3;
    for (int i = 0; i < TOKENS; i++) text[i] = (int32_t)qn_test_below(&s, VOCAB);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_of_a_slow_walk),
        cmocka_unit_test(value_and_error),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
