/* Figures of a comparison for people and for programs: names that tell structures apart, and generated text
 * that can't speak to the terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "server/compare_table.h"

static struct qn_api_part mixture(double used) {
    struct qn_api_part p = {.type = "moe", .n_params = 2};
    p.params[0].value = 4;
    strcpy(p.params[0].name, "experts");
    p.params[1].value = used;
    strcpy(p.params[1].name, "used");
    return p;
}

/* Both forms of a comparison of two structures with these texts. *out: free(). */
static char *shown(const char *text, bool csv) {
    struct qn_api_output o[2];
    struct qn_api_compared rows[2];
    char *out = NULL;
    size_t size = 0;
    for (int i = 0; i < 2; i++) {
        o[i] = (struct qn_api_output){.text = text, .text_len = strlen(text)};
        rows[i] = (struct qn_api_compared){.outputs = &o[i], .n_outputs = 1};
        rows[i].structure = (struct qn_api_structure){.attention = {.type = "gqa"},
                                                      .ffn = mixture(i + 1),
                                                      .sharing = {.type = "all"},
                                                      "native",
                                                      "exact"};
    }
    struct qn_api_comparison r = {.results = rows, .n_results = 2, .repeats = 3, .baseline = 1};
    FILE *f = open_memstream(&out, &size);
    assert_non_null(f);
    if (csv)
        qn_compare_csv(f, &r);
    else
        qn_compare_table(f, &r);
    fclose(f);
    return out;
}

static void holds(const char *text, bool csv, const char *want) {
    char *out = shown(text, csv);
    if (!strstr(out, want)) fail_msg("\"%s\" is not in:\n%s", want, out);
    free(out);
}

static void names(void **state) {
    (void)state;
    holds("x", false, "\ngqa+moe(used=1)+all ");
    holds("x", false, "\ngqa+moe(used=2)+all ");
    holds("x", false, "against gqa+moe(used=2)+all\n");
    holds("x", true, "\r\n\"gqa\",\"moe(used=1)\",\"all\",native,exact,");
    holds("x", true, "\r\n\"gqa\",\"moe(used=2)\",\"all\",native,exact,");
    holds("a \"b\"", true, ",\"a \"\"b\"\"\"\r\n");
}

static void controls(void **state) {
    (void)state;
    holds("a\nb\tc\x7F", false, "  a\\nb.c.\n");
    /* U+0080, U+009B (CSI) and U+009F; U+00A0 is none */
    holds("a\xC2\x80"
          "b\xC2\x9B"
          "31mc\xC2\x9F\xC2\xA0!",
          false, "  a.b.31mc.\xC2\xA0!\n");
}

/* Sixty characters of one to four bytes, none of them cut. */
static void whole_characters(void **state) {
    static const char *const one[] = {"x", "\xC3\xA9", "\xE3\x82\xA2", "\xF0\x9F\x98\x80"};
    (void)state;
    for (size_t n = 0; n < 4; n++) {
        char text[4 * 100 + 1], want[4 * 60 + 4] = "  ";
        size_t bytes = strlen(one[n]);
        for (size_t i = 0; i < 100; i++) memcpy(text + i * bytes, one[n], bytes + 1);
        for (size_t i = 0; i < 60; i++) memcpy(want + 2 + i * bytes, one[n], bytes);
        memcpy(want + 2 + 60 * bytes, "\n", 2);
        holds(text, false, want);
    }
    char broken[601]; /* continuation bytes without end are no character that fits */
    memset(broken, 0xBF, 600);
    broken[600] = 0;
    holds(broken, false, "text\n");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(names), cmocka_unit_test(controls),
                                       cmocka_unit_test(whole_characters)};
    return cmocka_run_group_tests_name("server/compare_table", tests, NULL, NULL);
}
