/* Server-sent events as a client reads them: cut anywhere, with any line ends, and never more than the bound.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "server/sse_read.h"

struct seen {
    char text[512];
    size_t n;
    unsigned stop_after; /* events; 0: never */
};

static bool note(void *ctx, const char *data, size_t n) {
    struct seen *s = ctx;
    assert_true(s->n + n + 2 < sizeof s->text);
    s->text[s->n++] = '[';
    memcpy(s->text + s->n, data, n);
    s->n += n;
    s->text[s->n++] = ']';
    return !s->stop_after || --s->stop_after;
}

/* All events of the bytes, given in pieces of `step` bytes. */
static bool feed(const char *bytes, size_t n, size_t step, size_t limit, struct seen *seen) {
    struct qn_sse sse = {.line.limit = limit, .data.limit = limit, .event = note, .ctx = seen};
    bool ok = true;
    for (size_t at = 0; at < n && ok; at += step)
        ok = qn_sse_feed(&sse, bytes + at, n - at < step ? n - at : step);
    qn_sse_free(&sse);
    return ok;
}

static void cut_anywhere(void **state) {
    (void)state;
    static const struct {
        const char *in, *want;
    } cases[] = {
        {"data: a\n\ndata: b\n\n", "[a][b]"},
        {"data:a\r\n\r\ndata:  b\r\rdata\n\n", "[a][ b][]"},
        {": ping\n\n: ping\n\ndata: x\nevent: e\nid: 1\n\n", "[x]"},
        {"data: one\ndata: two\n\ndatax: y\n\n", "[one\ntwo]"},
        {"\n\n\r\n\ndata: \xE2\x82\xAC\n\n", "[\xE2\x82\xAC]"},
        {"data: not ended\n", ""},
        {"data: not end", ""},
        {"dat\n\nda", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < 12; step++) {
            struct seen seen = {.n = 0};
            assert_true(feed(cases[i].in, strlen(cases[i].in), step, 100, &seen));
            seen.text[seen.n] = '\0';
            assert_string_equal(seen.text, cases[i].want);
        }
    }
}

static void bounded(void **state) {
    (void)state;
    char bytes[400];
    for (size_t n = 90; n < 120; n++) { /* one line */
        struct seen seen = {.n = 0};
        memset(bytes, 'x', n);
        memcpy(bytes, "data: ", 6);
        memcpy(bytes + n, "\n\n", 2);
        assert_int_equal(feed(bytes, n + 2, 7, 100, &seen), n <= 100);
    }
    struct seen seen = {.n = 0}; /* an event of many */
    for (size_t i = 0; i < 40; i++) memcpy(bytes + 8 * i, "data: y\n", 8);
    assert_true(feed(bytes, 8 * 40, 16, 100, &seen));
    assert_false(feed(bytes, 8 * 40, 16, 60, &seen));
    assert_int_equal(seen.n, 0);
}

static void stops(void **state) {
    (void)state;
    struct seen seen = {.stop_after = 2};
    static const char three[] = "data: 1\n\ndata: 2\n\ndata: 3\n\n";
    assert_false(feed(three, sizeof three - 1, 100, 100, &seen));
    assert_int_equal(seen.n, 6);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(cut_anywhere), cmocka_unit_test(bounded),
                                       cmocka_unit_test(stops)};
    return cmocka_run_group_tests_name("server/sse_read", tests, NULL, NULL);
}
