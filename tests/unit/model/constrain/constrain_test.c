/* Constraints against independent matchers: golden cases of Python's re (tools/golden/regex.py), and glibc's
 * regexec for random walks through masks. Every mask is also held against the same question asked token by
 * token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <locale.h>
#include <regex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/constrain/automaton.h"
#include "model/constrain/constrain.h"
#include "model/random.h"

/* ---- vocabularies ---- */

#define EOS     256
#define N_WORDS 900

/* 0..255 single bytes, 256 the end, then words of several bytes, one without text and one twice. */
static char words[N_WORDS][12];
static uint32_t n_words = EOS + 1;
static uint64_t rng = 42;

static uint32_t below(uint32_t n) {
    return (uint32_t)(qn_random_next(&rng) % n);
}

static struct qn_str_ref piece(const void *ctx, int32_t id) {
    static char bytes[256];
    (void)ctx;
    if (id == EOS) return (struct qn_str_ref){"</s>", 4};
    if (id > EOS) return (struct qn_str_ref){words[id - EOS - 1], strlen(words[id - EOS - 1])};
    bytes[id] = (char)id;
    return (struct qn_str_ref){&bytes[id], id ? 1 : 0}; /* texts are C strings here */
}

static bool ends(const void *ctx, int32_t id) {
    (void)ctx;
    return id == EOS;
}

static struct qn_lexicon *byte_lexicon, *word_lexicon;

static int set_up(void **state) {
    static const char *const parts[] = {
        "a",    "b",    "c",        "0", "1", " ",  "ab", "\"", "\\",  "\xC3\xA9", "\xE2\x82\xAC",
        "\xC3", "\xA9", "\x82\xAC", "{", "}", ": ", ", ", "tr", "null"};
    struct qn_lexicon_source src = {EOS + 1, NULL, piece, ends};
    struct qn_err e = {0};
    (void)state;
    for (uint32_t i = 1; i < N_WORDS; i++)
        for (uint32_t k = 0; k < 2 + below(3) && strlen(words[i]) < 7; k++)
            strcat(words[i], parts[below(sizeof parts / sizeof *parts)]);
    n_words = EOS + 1 + N_WORDS;
    assert_int_equal(qn_lexicon_new(&src, &byte_lexicon, &e), QN_OK);
    src.n = n_words;
    assert_int_equal(qn_lexicon_new(&src, &word_lexicon, &e), QN_OK);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    qn_lexicon_unref(byte_lexicon);
    qn_lexicon_unref(word_lexicon);
    return 0;
}

static struct qn_constraint *made(struct qn_lexicon *l, const char *text, bool grammar) {
    struct qn_constraint *c;
    struct qn_err e = {0};
    if (qn_constraint_new(l, text, strlen(text), grammar, &c, &e)) fail_msg("%s: %s", text, e.msg);
    return c;
}

static bool bit(const uint64_t *mask, uint32_t id) {
    return mask[id / 64] >> (id % 64) & 1;
}

/* ---- golden ---- */

static bool matches(struct qn_constraint *c, const char *s, size_t n) {
    int32_t tokens[256];
    struct qn_cursor cur;
    bool yes = true;
    qn_cursor_init(&cur, false);
    for (size_t i = 0; i <= n && yes; i++) {
        int32_t next = i < n ? (int32_t)(unsigned char)s[i] : EOS;
        struct qn_cursor_at at = {tokens, (uint32_t)i};
        assert_int_equal(qn_cursor_allows(c, &cur, &at, next, &yes), QN_OK);
        tokens[i] = next;
    }
    return yes;
}

/* Only the empty text is of such an expression: it is refused. */
static bool only_empty(const json_t *row) {
    for (size_t i = 1; i + 1 < json_array_size(row); i += 2)
        if (json_integer_value(json_array_get(row, i + 1)) && json_string_length(json_array_get(row, i)))
            return false;
    return true;
}

static void golden(void **state) {
    char line[8192];
    size_t cases = 0;
    (void)state;
    FILE *f = fopen("tests/golden/regex/cases.jsonl", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        json_t *row = json_loads(line, 0, NULL);
        const json_t *pattern = json_array_get(row, 0);
        struct qn_constraint *c;
        struct qn_err e = {0};
        assert_non_null(row);
        int rc = qn_constraint_new(byte_lexicon, json_string_value(pattern), json_string_length(pattern),
                                   false, &c, &e);
        if (rc && !(rc == QN_ERR_INVALID && only_empty(row))) fail_msg("%s: %s", line, e.msg);
        for (size_t i = 1; !rc && i + 1 < json_array_size(row); i += 2) {
            const json_t *text = json_array_get(row, i);
            bool want = json_integer_value(json_array_get(row, i + 1));
            if (matches(c, json_string_value(text), json_string_length(text)) != want)
                fail_msg("%s and \"%s\" should be %d", json_string_value(pattern), json_string_value(text),
                         want);
            cases++;
        }
        qn_constraint_unref(c);
        json_decref(row);
    }
    fclose(f);
    assert_true(cases > 3000);
}

/* ---- random walks ---- */

static void random_expression(char *out, size_t cap, uint32_t depth) {
    static const char *const atoms[] = {"a", "b", "c", "0", "1", "[ab]", "[^a]", "[a-c0]", ".", " ", "ab"};
    static const char *const counts[] = {"*", "+", "?", "{2}", "{1,3}", "{2,}"};
    size_t n = strlen(out);
    if (n + 64 > cap) depth = 0;
    if (n + 16 > cap) return;
    if (!depth) {
        strcat(out, atoms[below(sizeof atoms / sizeof *atoms)]);
        return;
    }
    strcat(out, "(");
    for (uint32_t i = 0, m = 1 + below(3); i < m; i++) {
        if (i && below(2)) strcat(out, "|");
        random_expression(out, cap, depth - 1);
    }
    strcat(out, ")");
    if (below(2)) strcat(out, counts[below(sizeof counts / sizeof *counts)]);
}

/* The mask says of each token what asking for it says. */
static void check_mask(struct qn_constraint *c, const struct qn_cursor *cur, const struct qn_cursor_at *at,
                       const uint64_t *mask, uint32_t n) {
    for (uint32_t id = 0; id < n; id++) {
        struct qn_cursor copy = *cur;
        bool yes;
        assert_int_equal(qn_cursor_allows(c, &copy, at, (int32_t)id, &yes), QN_OK);
        if (yes != bit(mask, id)) fail_msg("token %u: mask %d, asked %d", id, bit(mask, id), yes);
    }
}

/* A random allowed token; the end when `finish` and it is allowed. */
static uint32_t pick(const uint64_t *mask, uint32_t n, bool finish) {
    if (finish && bit(mask, EOS)) return EOS;
    for (uint32_t at = below(n), i = 0; i < n; i++)
        if (bit(mask, (at + i) % n)) return (at + i) % n;
    fail_msg("no token is allowed");
    return 0;
}

/* Text of a random walk, at most `most` tokens; *complete: it came to its end. */
static void walk(struct qn_constraint *c, uint32_t most, bool strips, char *text, bool *complete) {
    int32_t tokens[256];
    struct qn_cursor cur;
    size_t n = 0;
    *complete = false;
    qn_cursor_init(&cur, strips);
    for (uint32_t i = 0; i < most; i++) {
        struct qn_cursor_at at = {tokens, i};
        const uint64_t *mask;
        if (qn_cursor_done(c, &cur, &at, complete) || *complete) break;
        assert_int_equal(qn_cursor_mask(c, &cur, &at, &mask), QN_OK);
        if (i < 4) check_mask(c, &cur, &at, mask, n_words);
        uint32_t id = pick(mask, n_words, i > 10);
        *complete = id == EOS;
        if (id == EOS) break;
        struct qn_str_ref s = piece(NULL, (int32_t)id);
        memcpy(text + n, s.p, s.n);
        n += s.n;
        tokens[i] = (int32_t)id;
        if (i % 7 == 3) qn_cursor_init(&cur, strips); /* it can be made anew at any time */
    }
    text[n] = '\0';
}

static void walks_match(void **state) {
    uint32_t complete = 0;
    (void)state;
    for (uint32_t k = 0; k < 300; k++) {
        char pattern[256] = "", whole[300], text[2048];
        regex_t re;
        struct qn_constraint *c;
        struct qn_err e = {0};
        random_expression(pattern, sizeof pattern, 3);
        snprintf(whole, sizeof whole, "^(%s)$", pattern);
        assert_int_equal(regcomp(&re, whole, REG_EXTENDED | REG_NOSUB), 0);
        assert_int_equal(qn_constraint_new(word_lexicon, pattern, strlen(pattern), false, &c, &e), QN_OK);
        for (uint32_t i = 0; i < 3; i++) {
            bool done;
            walk(c, 60, false, text, &done);
            complete += done;
            if (done && !strchr(text, '\n') && regexec(&re, text, 0, NULL, 0))
                fail_msg("%s does not match \"%s\"", pattern, text);
        }
        qn_constraint_unref(c);
        regfree(&re);
    }
    assert_true(complete > 600);
}

/* ---- grammars, blanks, limits ---- */

static const char json_grammar[] =
    "(?&1)\n"
    "\\{(?:(?&2):(?&3)(?:,(?&2):(?&3))*)?\\}\n"
    "\"(?j:[^\\x00-\\x1f]{0,20})\"\n"
    "(?&1)|(?&2)|\\[(?:(?&3)(?:,(?&3))*)?\\]|-?(?:0|[1-9]\\d{0,9})|true|false|null";

static void json_walks_parse(void **state) {
    uint32_t complete = 0;
    (void)state;
    struct qn_constraint *c = made(word_lexicon, json_grammar, true);
    for (uint32_t i = 0; i < 300; i++) {
        char text[4096];
        bool done;
        walk(c, 250, false, text, &done);
        json_error_t je;
        json_t *v = done ? json_loads(text, 0, &je) : NULL;
        if (done && !v) fail_msg("%s: %s", text, je.text);
        complete += done;
        json_decref(v);
    }
    qn_constraint_unref(c);
    assert_true(complete > 100);
}

/* Nested as deep as is allowed and no deeper, and every prefix can still be completed. */
static void depth_is_bounded(void **state) {
    int32_t tokens[400];
    struct qn_cursor cur;
    uint32_t n = 0, deep = 0;
    (void)state;
    struct qn_constraint *c = made(byte_lexicon, "(?&1)\na|\\[(?&1)\\]", true);
    qn_cursor_init(&cur, false);
    for (bool yes = true; n < 300; deep++) {
        assert_int_equal(qn_cursor_allows(c, &cur, &(struct qn_cursor_at){tokens, n}, '[', &yes), QN_OK);
        if (!yes) break;
        tokens[n++] = '[';
    }
    assert_int_equal(deep, QN_PROGRAM_DEPTH);
    for (uint32_t i = 0; i <= deep; i++) {
        bool yes;
        int32_t next = i ? ']' : 'a';
        assert_int_equal(qn_cursor_allows(c, &cur, &(struct qn_cursor_at){tokens, n}, next, &yes), QN_OK);
        assert_true(yes);
        tokens[n++] = next;
    }
    bool done;
    assert_int_equal(qn_cursor_done(c, &cur, &(struct qn_cursor_at){tokens, n}, &done), QN_OK);
    assert_true(done);
    qn_constraint_unref(c);
}

/* Surrogates are no characters: their bytes are never allowed, whatever a class leaves out. */
static void no_surrogates(void **state) {
    static const char *const rows[] = {"[^a]", ".", "[\\S\\s]", "[a-\\uffff]", "[\\ud7ff-\\ue000]"};
    static const int32_t lead[] = {0xED};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qn_constraint *c = made(byte_lexicon, rows[i], false);
        struct qn_cursor cur;
        const uint64_t *mask;
        qn_cursor_init(&cur, false);
        assert_int_equal(qn_cursor_mask(c, &cur, &(struct qn_cursor_at){lead, 1}, &mask), QN_OK);
        for (uint32_t b = 0xA0; b <= 0xBF; b++) assert_false(bit(mask, b));
        assert_true(bit(mask, 0x9F));
        qn_constraint_unref(c);
    }
}

static void first_blank(void **state) {
    static const int32_t blank[] = {' ', 'a'};
    struct qn_cursor cur;
    const uint64_t *mask;
    bool yes;
    (void)state;
    struct qn_constraint *c = made(word_lexicon, "ab", false);
    qn_cursor_init(&cur, true);
    assert_int_equal(qn_cursor_mask(c, &cur, &(struct qn_cursor_at){blank, 0}, &mask), QN_OK);
    assert_true(bit(mask, ' ') && bit(mask, 'a') && !bit(mask, 'b'));
    check_mask(c, &cur, &(struct qn_cursor_at){blank, 0}, mask, n_words);
    assert_int_equal(qn_cursor_mask(c, &cur, &(struct qn_cursor_at){blank, 1}, &mask), QN_OK);
    assert_true(!bit(mask, ' ') && bit(mask, 'a')); /* only the first one */
    qn_cursor_init(&cur, false);
    assert_int_equal(qn_cursor_allows(c, &cur, &(struct qn_cursor_at){blank, 0}, ' ', &yes), QN_OK);
    assert_false(yes);
    /* a blank that the expression asks for comes after the one that is dropped */
    qn_constraint_unref(c);
    c = made(word_lexicon, " a", false);
    qn_cursor_init(&cur, true);
    assert_int_equal(qn_cursor_mask(c, &cur, &(struct qn_cursor_at){blank, 0}, &mask), QN_OK);
    assert_true(bit(mask, ' ') && !bit(mask, 'a'));
    assert_int_equal(qn_cursor_allows(c, &cur, &(struct qn_cursor_at){blank, 1}, ' ', &yes), QN_OK);
    assert_true(yes);
    qn_constraint_unref(c);
}

static void refused(void **state) {
    static const struct {
        const char *text;
        bool grammar;
        int rc;
        const char *says;
    } rows[] = {
        {"(a", false, QN_ERR_INVALID, "a group has no end at byte 2"},
        {"a)", false, QN_ERR_INVALID, "a group was not opened at byte 1"},
        {"[a", false, QN_ERR_INVALID, "a class has no end"},
        {"[b-a]", false, QN_ERR_INVALID, "bad character range"},
        {"[^\\s\\S]", false, QN_ERR_INVALID, "without any character"},
        {"a**", false, QN_ERR_INVALID, "multiple repeat"},
        {"*a", false, QN_ERR_INVALID, "nothing to repeat"},
        {"a{3,2}", false, QN_ERR_INVALID, "least count"},
        {"a{9999999999}", false, QN_ERR_INVALID, "too large"},
        {"(a)\\1", false, QN_ERR_INVALID, "back references"},
        {"(?=a)b", false, QN_ERR_INVALID, "this kind of group"},
        {"(?<!a)b", false, QN_ERR_INVALID, "this kind of group"},
        {"(?i)a", false, QN_ERR_INVALID, "this kind of group"},
        {"(?&0)", false, QN_ERR_INVALID, "this kind of group"},
        {"(?j:a)", false, QN_ERR_INVALID, "this kind of group"},
        {"a\\b", false, QN_ERR_INVALID, "\\b"},
        {"a^b", false, QN_ERR_INVALID, "ends of the expression"},
        {"(a$)b", false, QN_ERR_INVALID, "ends of the expression"},
        {"a\\", false, QN_ERR_INVALID, "backslash ends"},
        {"\\xg0", false, QN_ERR_INVALID, "hexadecimal"},
        {"\\ud800", false, QN_ERR_INVALID, "no character"},
        {"\xff", false, QN_ERR_INVALID, "invalid UTF-8"},
        {"\xe2\x82", false, QN_ERR_INVALID, "invalid UTF-8"},
        {"", false, QN_ERR_INVALID, "empty text"},
        {"(?:){3}", false, QN_ERR_INVALID, "empty text"},
        {"((((a{1,1000}){1,1000}){1,1000}){1,1000}){1,1000}", false, QN_ERR_TOO_LONG, ""},
        {"((((((){5000}){5000}){5000}){5000}){5000}){5000}", false, QN_ERR_TOO_LONG, "more work"},
        {".{5000}.{5000}.{5000}", false, QN_ERR_TOO_LONG, "too large"},
        {"(?&1)\n(?&0)", true, QN_ERR_INVALID, "refers to itself"},
        {"(?&1)\na?(?&1)", true, QN_ERR_INVALID, "refers to itself"},
        {"(?&1)\na(?&1)b", true, QN_ERR_INVALID, "bounded nesting"},
        {"(?&2)\na", true, QN_ERR_INVALID, "too large"},
        {"(?p3,1:xa)(b)", true, QN_ERR_INVALID, "x: a group was not opened"},
        {"(?p9,1:xa)", true, QN_ERR_INVALID, "too large"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qn_constraint *c;
        struct qn_err e = {0};
        int rc = qn_constraint_new(byte_lexicon, rows[i].text, strlen(rows[i].text), rows[i].grammar, &c, &e);
        if (rc != rows[i].rc || !strstr(e.msg, rows[i].says))
            fail_msg("%s: %d, \"%s\"", rows[i].text, rc, e.msg);
        assert_null(c);
    }
    char deep[1024];
    for (size_t i = 0; i < 500; i++) deep[i] = '(', deep[i + 500] = ')';
    struct qn_constraint *c;
    struct qn_err e = {0};
    assert_int_equal(qn_constraint_new(byte_lexicon, deep, 1000, false, &c, &e), QN_ERR_INVALID);
    assert_non_null(strstr(e.msg, "nested too deep"));
}

/* What would make other engines stand still ends, one way or the other, within counted work. */
static void hostile(void **state) {
    static const char *const rows[] = {
        "(a+)+b",     "(a|a)*b",         "((a*)*)*b",           "(a|b)*a(a|b){400}", "(.*)*(.*)*x",
        "(.?){300}a", "(a?){500}a{500}", "([ab]*[bc]*[ca]*)*d", ".*a.{800}",         "(a*b*c*0*1*){50}"};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qn_constraint *c;
        struct qn_err e = {0};
        int32_t tokens[300];
        struct qn_cursor cur;
        int rc = qn_constraint_new(word_lexicon, rows[i], strlen(rows[i]), false, &c, &e);
        qn_cursor_init(&cur, false);
        for (uint32_t n = 0; !rc && n < 300; n++) {
            const uint64_t *mask;
            rc = qn_cursor_mask(c, &cur, &(struct qn_cursor_at){tokens, n}, &mask);
            if (rc) break;
            uint32_t id = bit(mask, 'a') ? 'a' : pick(mask, n_words, true);
            if (id == EOS) break;
            tokens[n] = (int32_t)id;
        }
        if (rc) assert_int_equal(rc, QN_ERR_TOO_LONG);
        qn_constraint_unref(c);
    }
}

/* States and masks are dropped when they grow too many; cursors find their places again. */
static void forgetting(void **state) {
    (void)state;
    struct qn_constraint *c = made(word_lexicon, "[a-c]{0,3000}x?", false);
    int32_t *tokens = calloc(2500, sizeof *tokens);
    struct qn_cursor cur, other;
    const uint64_t *mask;
    assert_non_null(tokens);
    qn_cursor_init(&cur, false);
    qn_cursor_init(&other, false);
    for (uint32_t n = 0; n < 2500; n++) {
        tokens[n] = 'a' + (int32_t)below(2);
        struct qn_cursor_at at = {tokens, n}, third = {tokens, n / 3};
        assert_int_equal(qn_cursor_mask(c, &cur, &at, &mask), QN_OK);
        assert_true(bit(mask, 'a') && bit(mask, 'x') && !bit(mask, '0') && bit(mask, EOS));
        assert_int_equal(qn_cursor_mask(c, &other, &third, &mask), QN_OK);
        assert_true(bit(mask, 'b'));
        assert_int_equal(qn_cursor_prefix(c, &other, &third, n - n / 3), n - n / 3);
    }
    free(tokens);
    qn_constraint_unref(c);
}

/* What is asked for token by token is forgotten and paid for like masks: neither is an output refused for
 * its length, nor does a constraint fill up over many outputs. */
static void many_outputs(void **state) {
    int32_t *tokens = calloc(2000, sizeof *tokens);
    (void)state;
    assert_non_null(tokens);
    struct qn_constraint *c = made(word_lexicon, "(?:[a-c]{1,300} ?){1,5}", false);
    for (uint32_t k = 0; k < 40; k++) {
        struct qn_cursor cur;
        bool yes;
        qn_cursor_init(&cur, false);
        for (uint32_t n = 0; n < 1200; n++) {
            struct qn_cursor_at at = {tokens, n};
            tokens[n] = below(40) && n && tokens[n - 1] != ' ' ? 'a' : 'b';
            int rc = qn_cursor_allows(c, &cur, &at, tokens[n], &yes);
            if (rc) fail_msg("output %u, token %u: %d", k, n, rc);
            assert_true(yes);
        }
    }
    free(tokens);
    qn_constraint_unref(c);
}

int main(void) {
    setlocale(LC_ALL, "C.UTF-8"); /* for regexec */
    const struct CMUnitTest tests[] = {cmocka_unit_test(golden),           cmocka_unit_test(walks_match),
                                       cmocka_unit_test(json_walks_parse), cmocka_unit_test(depth_is_bounded),
                                       cmocka_unit_test(no_surrogates),    cmocka_unit_test(first_blank),
                                       cmocka_unit_test(refused),          cmocka_unit_test(hostile),
                                       cmocka_unit_test(forgetting),       cmocka_unit_test(many_outputs)};
    return cmocka_run_group_tests_name("model/constrain", tests, set_up, tear_down);
}
