/* UTF-8: Unicode's own examples of repair, every scalar value there and back, and what a stream may show. */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <stdlib.h>
#include <string.h>

#include "model/text/utf8.h"

#define BAD "\xEF\xBF\xBD"

static void repairs_as_unicode_says(void **state) {
    (void)state;
    /* The first six are tables 3-8 to 3-11 of the Unicode standard; the rest are Python's errors="replace".
     */
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", BAD BAD BAD BAD BAD BAD BAD BAD "A"},
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", BAD BAD BAD BAD BAD BAD BAD BAD "A"},
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", BAD BAD BAD BAD BAD "A" BAD BAD "B"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", BAD BAD BAD BAD "A"},
        {"\xE2\x82\xAC\xF0\x9F\x98\x80z", "\xE2\x82\xAC\xF0\x9F\x98\x80z"},
        {"\xF0\x9F\x98", BAD},
        {"\xE2\x82", BAD},
        {"\xC3", BAD},
        {"a\xC3(b", "a" BAD "(b"},
        {"\xF8\x88\x80\x80\x80", BAD BAD BAD BAD BAD},
        {"\xEF\xBF\xBD", BAD},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = 0;
        uint8_t *out = qn_utf8_repair((const uint8_t *)cases[i].in, strlen(cases[i].in), &n);
        assert_non_null(out);
        assert_int_equal(n, strlen(cases[i].out));
        assert_memory_equal(out, cases[i].out, n);
        assert_int_equal(qn_utf8_valid_len(out, n), n);
        free(out);
    }
}

static void every_scalar_round_trips(void **state) {
    (void)state;
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        if (cp >= 0xD800 && cp < 0xE000) continue;
        uint8_t b[4];
        uint32_t back = 0;
        bool valid = false;
        const size_t n = qn_utf8_put(cp, b);
        assert_int_equal(qn_utf8_next(b, n, &back, &valid), n);
        assert_true(valid);
        assert_int_equal(back, cp);
        assert_int_equal(qn_utf8_prev(b, n, &back), n);
        assert_int_equal(back, cp);
    }
}

/* Whatever the bytes: progress is made, never past the end, and repairing twice changes nothing more. */
static void all_short_sequences_are_bounded(void **state) {
    (void)state;
    for (uint32_t v = 0; v < 0x1000000; v += 251) { /* a step that visits all values of each byte */
        const uint8_t b[4] = {(uint8_t)(v >> 16), (uint8_t)(v >> 8), (uint8_t)v, (uint8_t)(v * 7)};
        for (size_t n = 1; n <= 4; n++) {
            uint32_t cp;
            const size_t len = qn_utf8_next(b, n, &cp, NULL);
            assert_true(len >= 1 && len <= n);
            assert_true(cp < 0xD800 || (cp >= 0xE000 && cp < 0x110000));
            assert_true(n - qn_utf8_safe_len(b, n) <= 3);
        }
    }
}

static void holds_back_only_what_may_complete(void **state) {
    (void)state;
    static const struct {
        const char *in;
        size_t safe;
    } cases[] = {{"", 0},
                 {"abc", 3},
                 {"ab\xC3", 2},
                 {"ab\xC3\xA9", 4},
                 {"\xE2", 0},
                 {"\xE2\x82", 0},
                 {"\xE2\x82\xAC", 3},
                 {"x\xF0", 1},
                 {"x\xF0\x9F", 1},
                 {"x\xF0\x9F\x98", 1},
                 {"x\xF0\x9F\x98\x80", 5},
                 {"\x80\x80\x80\x80", 4},
                 {"\xFF", 1},
                 {"\xC0", 1},
                 {"\xE0\x80", 2},
                 {"\xED\xA0", 2},
                 {"\xF4\x90", 2},
                 {"\xC3\xC3", 1},
                 {"a\x80", 2},
                 {"\xF0\x9F(", 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(qn_utf8_safe_len((const uint8_t *)cases[i].in, strlen(cases[i].in)), cases[i].safe);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repairs_as_unicode_says),
        cmocka_unit_test(every_scalar_round_trips),
        cmocka_unit_test(all_short_sequences_are_bounded),
        cmocka_unit_test(holds_back_only_what_may_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
