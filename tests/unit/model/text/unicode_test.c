/* Character classes against the lists that the published tokenizers' regular-expression engine uses, and NFC
 * against libutf8proc's own (quadratic) normaliser. */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/text/unicode.h"
#include "model/text/utf8.h"

static bool is_listed_space(uint32_t cp) {
    static const uint32_t list[] = {0x9,    0xA,    0xB,    0xC,    0xD,    0x20,   0x85,   0xA0,   0x1680,
                                    0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008,
                                    0x2009, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i] == cp) return true;
    return false;
}

static void classes_follow_the_categories(void **state) {
    (void)state;
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        const char *cat = utf8proc_category_string((utf8proc_int32_t)cp);
        const enum qn_uclass want = is_listed_space(cp) ? QN_UC_SPACE
                                    : cat[0] == 'L'     ? QN_UC_LETTER
                                    : cat[0] == 'N'     ? QN_UC_NUMBER
                                                        : QN_UC_OTHER;
        if (qn_uclass_of(cp) != want) fail_msg("U+%04X is %d, not %d", cp, qn_uclass_of(cp), want);
    }
    assert_int_equal(qn_uclass_of(0x110000), QN_UC_OTHER);
    assert_int_equal(qn_uclass_of(UINT32_MAX), QN_UC_OTHER);
}

static uint32_t next_random(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

/* A character that takes part in normalisation more often than not. */
static uint32_t a_char(uint64_t *s) {
    static const uint32_t base[] = {0x300,   0x60, 0x590,  0x40,   0x1100, 0x12,  0x1161, 0x15,
                                    0x11A7,  0x1C, 0xAC00, 0x2BA4, 0xC0,   0x180, 0x1E00, 0x200,
                                    0x41,    0x3A, 0x900,  0x80,   0x212A, 0x2,   0xF900, 0x100,
                                    0x1D15E, 0x10, 0x323,  5,      0x345,  1,     0x3099, 2};
    const uint32_t k = next_random(s) % (sizeof base / sizeof *base / 2);
    return base[2 * k] + next_random(s) % base[2 * k + 1];
}

static void nfc_equals_the_library(void **state) {
    (void)state;
    uint64_t seed = 42;
    for (int round = 0; round < 20000; round++) {
        uint8_t text[4 * 60 + 1];
        size_t n = 0;
        const uint32_t len = next_random(&seed) % 60;
        for (uint32_t i = 0; i < len; i++) n += qn_utf8_put(a_char(&seed), text + n);
        utf8proc_uint8_t *want = NULL;
        const utf8proc_ssize_t want_n =
            utf8proc_map(text, (utf8proc_ssize_t)n, &want, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        uint8_t *got = NULL;
        size_t got_n = 0;
        assert_int_equal(qn_nfc(text, n, &got, &got_n), 0);
        if (got_n != (size_t)want_n || memcmp(got ? got : text, want, got_n) != 0)
            fail_msg("round %d, seed 42: NFC differs", round);
        free(want);
        free(got);
    }
}

/* One million marks in alternating classes: finishes, and comes out sorted. */
static void nfc_of_a_million_marks_ends(void **state) {
    (void)state;
    const size_t marks = 1000000;
    uint8_t *text = malloc(2 * marks), *out = NULL;
    size_t n = 0, out_n = 0;
    assert_non_null(text);
    for (size_t i = 0; i < marks; i++) n += qn_utf8_put(i % 2 ? 0x316 : 0x301, text + n);
    assert_int_equal(qn_nfc(text, n, &out, &out_n), 0);
    assert_int_equal(out_n, n);
    for (size_t i = 0; i < marks; i++) {
        uint32_t cp;
        qn_utf8_next(out + 2 * i, 2, &cp, NULL);
        if (cp != (i < marks / 2 ? 0x316u : 0x301u)) fail_msg("mark %zu is U+%04X", i, cp);
    }
    free(out);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_follow_the_categories),
        cmocka_unit_test(nfc_equals_the_library),
        cmocka_unit_test(nfc_of_a_million_marks_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
