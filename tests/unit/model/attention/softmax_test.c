/* Softmax attention over more tokens than one part: the same bits token by token, in chunks of any size,
 * alone or in a batch, with any number of threads, with and without a sliding window. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/pool.h"
#include "model/batch.h"
#include "model/internal.h"
#include "tests/support/tiny_open.h"

#define VOCAB  64
#define LENGTH 2100u
#define TAIL   40u /* last tokens, whose logits are held against each other */

static float logits[2][TAIL][VOCAB];

static struct qn_model *open_model(const char *attention, uint32_t window, struct qn_pool *pool) {
    char path[200];
    struct qn_model *m;
    struct qn_err err = {0};
    struct qn_open_options opt = {.state_bytes = (size_t)16 << 20, .max_step_tokens = 96, .pool = pool};
    int n = snprintf(path, sizeof path,
                     "synthetic:hidden=32,layers=2,heads=4,vocab=64,ffn_dim=32,type=f32,n=2200,attention=%s",
                     attention);
    if (window) snprintf(path + n, sizeof path - (size_t)n, ",window=%u", window);
    if (qn_model_open(path, &opt, &m, &err)) fail_msg("%s", err.msg);
    return m;
}

static void keep(void *ctx, uint32_t span, uint32_t pos, float *v) {
    float(*out)[VOCAB] = ctx;
    if (span == 0 && pos >= LENGTH - TAIL) memcpy(out[pos - (LENGTH - TAIL)], v, VOCAB * sizeof *v);
}

/* Runs LENGTH tokens in chunks of `chunk`, the tail in chunks of `tail`; with a neighbour that is as long. */
static void run(struct qn_variant *v, uint32_t chunk, uint32_t tail, bool neighbour, float out[TAIL][VOCAB]) {
    struct qn_seq *s[2] = {NULL, NULL};
    static int32_t tokens[LENGTH];
    uint32_t spans = neighbour ? 2 : 1;
    for (uint32_t i = 0; i < LENGTH; i++) tokens[i] = (int32_t)(i * 2654435761u >> 16) % VOCAB;
    for (uint32_t i = 0; i < spans; i++) {
        assert_int_equal(qn_seq_new(v, 0, false, &s[i], NULL), QN_OK);
        assert_int_equal(qn_seq_reserve(s[i], LENGTH), QN_OK);
    }
    for (uint32_t at = 0; at < LENGTH;) {
        uint32_t end = at < LENGTH - TAIL ? LENGTH - TAIL : LENGTH, n = at < LENGTH - TAIL ? chunk : tail;
        if (n > end - at) n = end - at;
        struct qn_span span[2] = {{.seq = s[0], .tokens = tokens + at, .n = n}};
        span[1] = span[0];
        span[1].seq = s[1];
        if (at >= LENGTH - TAIL) span[0].want = QN_WANT_ALL;
        struct qn_step step = {.variant = v, .spans = span, .n_spans = spans, .on_row = keep, .ctx = out};
        assert_int_equal(qn_step_run(&step, NULL), QN_OK);
        at += n;
    }
    for (uint32_t i = 0; i < spans; i++) qn_seq_free(&s[i]);
}

static void cuts_leave_no_trace(void **state) {
    static const char *const kinds[] = {"mha", "gqa", "mqa"};
    static const uint32_t windows[] = {0, 1500, 40};
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        for (size_t w = 0; w < 3; w++) {
            for (unsigned threads = 1; threads <= 3; threads++) {
                struct qn_pool *pool = qn_pool_new(threads);
                struct qn_model *m = open_model(kinds[k], windows[w], pool);
                struct qn_variant *v = qn_test_variant(m, "", 0);
                float(*out)[VOCAB] = logits[threads > 1];
                run(v, 96, threads == 1 ? 7 : 1, false, out);
                if (threads > 1) assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
                if (threads == 2) {
                    run(v, 48, 2, true, out);
                    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
                }
                qn_variant_unref(v);
                qn_model_close(&m);
                qn_pool_free(&pool);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(cuts_leave_no_trace)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
