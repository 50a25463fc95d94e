/* Where the pre-tokenizers cut, against what the published regular expressions match; and that runs of any
 * class of characters end on a small stack. */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/text/pretok.h"
#include "model/text/utf8.h"

/* Words joined by '|'. */
static void check(enum qn_pretok kind, const char *text, const char *want) {
    char got[512];
    size_t w = 0;
    const size_t n = strlen(text);
    for (size_t at = 0; at < n;) {
        const size_t len = qn_pretok_word(kind, (const uint8_t *)text + at, n - at);
        assert_true(len >= 1 && len <= n - at);
        if (at > 0) got[w++] = '|';
        memcpy(got + w, text + at, len);
        w += len;
        at += len;
    }
    got[w] = 0;
    if (strcmp(got, want) != 0) fail_msg("kind %d: \"%s\" cut as \"%s\", not \"%s\"", kind, text, got, want);
}

static void gpt2_cuts(void **state) {
    (void)state;
    check(QN_PRETOK_GPT2, "Hello world", "Hello| world");
    check(QN_PRETOK_GPT2, "it's we'll I'M", "it|'s| we|'ll| I|'|M");
    check(QN_PRETOK_GPT2, "'start're", "'s|tart|'re");
    check(QN_PRETOK_GPT2, "a  b   c ", "a| | b|  | c| ");
    check(QN_PRETOK_GPT2, "a\n\n b", "a|\n\n| b");
    check(QN_PRETOK_GPT2, "a\n\nb", "a|\n|\n|b");
    check(QN_PRETOK_GPT2, "x 123 4a", "x| 123| 4|a");
    check(QN_PRETOK_GPT2, "x  1", "x| | 1");
    check(QN_PRETOK_GPT2, " !?a \xC2\xA0z", " !?|a| |\xC2\xA0|z");
    check(QN_PRETOK_GPT2, "e\xCC\x81", "e|\xCC\x81"); /* a mark is no letter */
    check(QN_PRETOK_GPT2, "   ", "   ");
}

static void smollm_cuts(void **state) {
    (void)state;
    check(QN_PRETOK_SMOLLM, "x 123 4a", "x| |1|2|3| |4|a");
    check(QN_PRETOK_SMOLLM, "x  1", "x|  |1");
    check(QN_PRETOK_SMOLLM, "x  y1 z", "x| | y|1| z");
    check(QN_PRETOK_SMOLLM, "it's2's", "it|'s|2|'s");
}

static void llama3_cuts(void **state) {
    (void)state;
    check(QN_PRETOK_LLAMA3, "it'S wE'LL a'\xC5\xBFz", "it|'S| wE|'LL| a|'\xC5\xBF|z");
    check(QN_PRETOK_LLAMA3, "12345 6", "123|45| |6");
    check(QN_PRETOK_LLAMA3, "(foo) #bar", "(foo|)| #|bar");
    check(QN_PRETOK_LLAMA3, "x = {\n\n\n  y", "x| =| {\n\n\n| | y");
    check(QN_PRETOK_LLAMA3, "a  \n \n  b", "a|  \n \n| | b");
    check(QN_PRETOK_LLAMA3, "a\n b", "a|\n| b");
    check(QN_PRETOK_LLAMA3, "\ta", "\ta");
    check(QN_PRETOK_LLAMA3, "\na", "\n|a");
    check(QN_PRETOK_LLAMA3, "a   ", "a|   ");
    check(QN_PRETOK_LLAMA3, "'a '' l'l", "'a| ''| l|'l");
}

static void qwen2_cuts(void **state) {
    (void)state;
    check(QN_PRETOK_QWEN2, "12345 6", "1|2|3|4|5| |6");
    check(QN_PRETOK_QWEN2, "it'S ok\r\n\r\n!", "it|'S| ok|\r\n\r\n|!");
    check(QN_PRETOK_NONE, "a b\nc", "a b\nc");
}

/* Cuts 1 MiB of one character (alone, and with a different one at the end) in every way. */
static void *cut_runs(void *arg) {
    static const uint32_t chars[] = {' ',     '\n',    '\r',   '\t',    'a',     'A',   '1',   '\'',
                                     '!',     '_',     0,      0x7F,    0x85,    0xA0,  0xE9,  0x301,
                                     0x2028,  0x3000,  0x200D, 0x4E00,  0xAC00,  0x5D0, 0x660, 0xB2,
                                     0x1F600, 0x20000, 0xFFFD, 0xE0001, 0x1D7D8, 0xFEFF};
    const size_t size = 1 << 20;
    uint8_t *text = malloc(size + 8);
    size_t *failed = arg;
    if (!text) return NULL;
    for (size_t c = 0; c < sizeof chars / sizeof *chars; c++) {
        size_t n = 0;
        while (n < size) n += qn_utf8_put(chars[c], text + n);
        n += qn_utf8_put(c % 2 ? 'x' : '!', text + n);
        for (int kind = QN_PRETOK_GPT2; kind <= QN_PRETOK_NONE; kind++) {
            size_t at = 0;
            while (at < n) at += qn_pretok_word((enum qn_pretok)kind, text + at, n - at);
            if (at != n) *failed += 1;
        }
    }
    free(text);
    *failed -= 1; /* came to the end */
    return NULL;
}

static void runs_end_on_a_small_stack(void **state) {
    (void)state;
    pthread_attr_t attr;
    pthread_t thread;
    size_t failed = 1;
    assert_int_equal(pthread_attr_init(&attr), 0); /* 60 KiB of the stack are OpenBLAS's thread-local data */
    assert_int_equal(pthread_attr_setstacksize(&attr, 128 * 1024), 0);
    assert_int_equal(pthread_create(&thread, &attr, cut_runs, &failed), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attr);
    assert_int_equal(failed, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpt2_cuts),
        cmocka_unit_test(smollm_cuts),
        cmocka_unit_test(llama3_cuts),
        cmocka_unit_test(qwen2_cuts),
        cmocka_unit_test(runs_end_on_a_small_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
