/* Every allocation of building a tokenizer and of encoding fails once: a code and a message, no leak, no
 * crash, and the next try succeeds. Linked with malloc, calloc and realloc wrapped. */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/load/chat_text.h"
#include "model/text/chat_template.h"
#include "model/text/tokenizer.h"
#include "tests/support/oom.h"
#include "tests/support/vocab_fixture.h"

static long fail_at = -1; /* how many allocations still succeed; -1: all */

static bool fail_now(void) {
    return fail_at >= 0 && fail_at-- == 0;
}

/* Fails allocation 0, 1, 2, ... of building until none is left to fail; how many there were. */
static long build_under_failure(const struct qn_vocab_desc *d) {
    for (long k = 0;; k++) {
        struct qn_tokenizer *t = NULL;
        struct qn_err err = {0};
        fail_at = k;
        const int rc = qn_tokenizer_new(d, &t, &err);
        const long left = fail_at;
        fail_at = -1;
        if (left >= 0) {
            assert_int_equal(rc, QN_OK);
            qn_tokenizer_free(t);
            return k;
        }
        assert_int_equal(rc, QN_ERR_NOMEM);
        assert_null(t);
        assert_true(err.msg[0] != 0);
    }
}

static long encode_under_failure(const struct qn_tokenizer *t, const char *text, size_t len) {
    for (long k = 0;; k++) {
        int32_t *ids = NULL;
        size_t n = 0;
        struct qn_err err = {0};
        fail_at = k;
        const int rc = qn_tokenizer_encode(t, text, len, 0, 0, &ids, &n, &err);
        const long left = fail_at;
        fail_at = -1;
        if (left >= 0) {
            assert_int_equal(rc, QN_OK);
            assert_true(n > 0);
            free(ids);
            return k;
        }
        assert_int_equal(rc, QN_ERR_NOMEM);
        assert_null(ids);
        assert_int_equal(n, 0);
        assert_true(err.msg[0] != 0);
    }
}

static void try_vocabulary(const char *path) {
    /* Broken UTF-8, marks to compose, an added token, and a word long enough for the heap. */
    static const char text[] =
        "Hi \xFF e\xCC\x81 \xEA\xB0\x80 <|end|> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \xF0\x9F\x98\x80";
    struct qn_vocab_fixture f;
    struct qn_tokenizer *t = NULL;
    assert_int_equal(qn_vocab_fixture_read(&f, path), 0);
    assert_true(build_under_failure(&f.desc) > 6);
    assert_int_equal(qn_tokenizer_new(&f.desc, &t, NULL), QN_OK);
    assert_true(encode_under_failure(t, text, sizeof text - 1) >= 3);
    qn_tokenizer_free(t);
    qn_vocab_fixture_free(&f);
}

static void byte_level(void **state) {
    (void)state;
    try_vocabulary("tests/golden/tokenizers/tiny_qwen2.vocab");
    try_vocabulary("tests/golden/tokenizers/tiny_llama3.vocab");
}

static void sentencepiece(void **state) {
    (void)state;
    try_vocabulary("tests/golden/tokenizers/tiny_spm_merges.vocab");
    try_vocabulary("tests/golden/tokenizers/tiny_spm_scores.vocab");
}

static void chat(void **state) {
    (void)state;
    static const char text[] =
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
        "'\n'}}{{ '<|im_start|>assistant\n' }}";
    const struct qn_chat_template *t = NULL;
    const struct qn_chat_context ctx = {.today = ""};
    const struct qn_chat_message m = {"user", "hi", 2};
    struct qn_err err = {0};
    char *out = NULL;
    size_t n = 0;
    fail_at = 0;
    int rc = qn_chat_recognise(text, sizeof text - 1, &t, &err);
    fail_at = -1;
    assert_int_equal(rc, QN_ERR_NOMEM);
    assert_null(t);
    assert_true(err.msg[0] != 0);
    assert_int_equal(qn_chat_recognise(text, sizeof text - 1, &t, NULL), QN_OK);
    assert_non_null(t);
    memset(&err, 0, sizeof err);
    fail_at = 0;
    rc = qn_chat_render(t, &ctx, &m, 1, true, &out, &n, &err);
    fail_at = -1;
    assert_int_equal(rc, QN_ERR_NOMEM);
    assert_null(out);
    assert_int_equal(n, 0);
    assert_true(err.msg[0] != 0);
    assert_int_equal(qn_chat_render(t, &ctx, &m, 1, true, &out, &n, NULL), QN_OK);
    free(out);
}

/* A checkpoint's own template: one copy, from wherever it lies. */
static void chat_text(void **state) {
    (void)state;
    struct qn_hf_vocab files = {.chat = "{{ x }}", .n_chat = 7};
    struct qn_checkpoint c = {0};
    struct qn_err err = {0};
    fail_at = 0;
    int rc = qn_chat_text_from_hf(&files, &c, &err);
    fail_at = -1;
    assert_int_equal(rc, QN_ERR_NOMEM);
    assert_null(c.chat_text);
    assert_true(err.msg[0] != 0);
    assert_int_equal(qn_chat_text_from_hf(&files, &c, NULL), QN_OK);
    assert_string_equal(c.chat_text, "{{ x }}");
    free(c.chat_text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level),
        cmocka_unit_test(sentencepiece),
        cmocka_unit_test(chat),
        cmocka_unit_test(chat_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
