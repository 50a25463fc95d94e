/* Text output against a brute-force oracle: whatever the cuts into pieces, the text is the same, is valid
 * UTF-8, ends before the stop string whose end comes first, and nothing is emitted that had to be taken back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/text_out.h"

static uint64_t rng_state;
static uint32_t rnd(uint32_t n) {
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng_state >> 33) % n;
}

/* Oracle, part 1: Python's bytes.decode(errors="replace"), from the grammar of table 3-7. */
static size_t oracle_char(const unsigned char *p, size_t n, bool *ok) {
    static const unsigned char forms[][9] = {
        /* length, then lo and hi of each byte */
        {1, 0x00, 0x7F},
        {2, 0xC2, 0xDF, 0x80, 0xBF},
        {3, 0xE0, 0xE0, 0xA0, 0xBF, 0x80, 0xBF},
        {3, 0xE1, 0xEC, 0x80, 0xBF, 0x80, 0xBF},
        {3, 0xED, 0xED, 0x80, 0x9F, 0x80, 0xBF},
        {3, 0xEE, 0xEF, 0x80, 0xBF, 0x80, 0xBF},
        {4, 0xF0, 0xF0, 0x90, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
        {4, 0xF1, 0xF3, 0x80, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
        {4, 0xF4, 0xF4, 0x80, 0x8F, 0x80, 0xBF, 0x80, 0xBF},
    };
    size_t longest = 1;
    *ok = false;
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        size_t k = 0;
        while (k < forms[f][0] && k < n && p[k] >= forms[f][1 + 2 * k] && p[k] <= forms[f][2 + 2 * k]) k++;
        if (k == forms[f][0]) {
            *ok = true;
            return k;
        }
        if (k > longest) longest = k;
    }
    return longest;
}

struct text {
    char p[4096];
    size_t n;
};

static void oracle_decode(const char *in, size_t n, struct text *out) {
    out->n = 0;
    for (size_t i = 0; i < n;) {
        bool ok;
        size_t k = oracle_char((const unsigned char *)in + i, n - i, &ok);
        memcpy(out->p + out->n, ok ? in + i : "\xEF\xBF\xBD", ok ? k : 3);
        out->n += ok ? k : 3;
        i += k;
    }
}

/* Oracle, part 2: the first position where any stop string has just ended; the longest one there. */
static bool oracle_stop(struct text *t, const char *const *stops, const size_t *lens, uint32_t n_stops) {
    for (size_t end = 1; end <= t->n; end++) {
        size_t best = 0;
        for (uint32_t s = 0; s < n_stops; s++)
            if (lens[s] && lens[s] <= end && lens[s] > best &&
                !memcmp(t->p + end - lens[s], stops[s], lens[s]))
                best = lens[s];
        if (best) {
            t->n = end - best;
            return true;
        }
    }
    return false;
}

/* Runs text_out with random cuts; checks that every emission is whole characters. */
static int run(const char *in, size_t n, const char *const *stops, const size_t *lens, uint32_t n_stops,
               struct text *out) {
    struct qn_text_out t;
    struct qn_buf b = {0};
    int rc = 0;
    qn_text_out_init(&t, stops, lens, n_stops, false);
    for (size_t i = 0; i < n && !rc;) {
        size_t k = rnd(8) ? 1 + rnd(4) : 0;
        if (k > n - i) k = n - i;
        rc = qn_text_out_push(&t, in + i, k, &b);
        i += k;
        bool ok = true;
        for (size_t c = 0; c < b.n && ok;) c += oracle_char((const unsigned char *)b.p + c, b.n - c, &ok);
        assert_true(ok);
    }
    if (!rc) rc = qn_text_out_flush(&t, &b);
    assert_true(rc >= 0);
    if (rc == 1) { /* later pieces change nothing */
        assert_int_equal(qn_text_out_push(&t, "zzz", 3, &b), 1);
        assert_int_equal(qn_text_out_flush(&t, &b), 1);
    }
    assert_true(b.n < sizeof out->p);
    out->n = b.n;
    if (b.n) memcpy(out->p, b.p, b.n);
    qn_buf_free(&b);
    qn_text_out_free(&t);
    return rc;
}

static void random_splits(void **state) {
    static const char *const atoms[] = {
        "a",    "b",    "ab",       "\n",           "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
        "\xFF", "\xC3", "\xE2\x82", "\xED\xA0\x80", "\xF0\x9F", "\x80"};
    (void)state;
    for (uint64_t seed = 1; seed <= 20000; seed++) {
        char in[256];
        size_t n = 0, lens[4];
        char stop_text[4][16];
        const char *stops[4];
        struct text want, got;
        rng_state = seed;
        for (uint32_t i = rnd(24); i > 0; i--) {
            const char *a = atoms[rnd(rnd(2) ? 4 : sizeof atoms / sizeof *atoms)];
            memcpy(in + n, a, strlen(a));
            n += strlen(a);
        }
        uint32_t n_stops = rnd(5);
        for (uint32_t s = 0; s < n_stops; s++) {
            lens[s] = 0;
            for (uint32_t i = rnd(4); i > 0; i--) {
                const char *a = atoms[rnd(7)];
                memcpy(stop_text[s] + lens[s], a, strlen(a));
                lens[s] += strlen(a);
            }
            stops[s] = stop_text[s];
        }
        oracle_decode(in, n, &want);
        bool stopped = oracle_stop(&want, stops, lens, n_stops);
        int rc = run(in, n, stops, lens, n_stops, &got);
        if (rc != stopped || got.n != want.n || memcmp(got.p, want.p, want.n)) {
            fprintf(stderr, "seed %llu: got \"%.*s\" (%d), want \"%.*s\" (%d)\n", (unsigned long long)seed,
                    (int)got.n, got.p, rc, (int)want.n, want.p, stopped);
            fail();
        }
    }
}

static void push_and_check(struct qn_text_out *t, struct qn_buf *b, const char *piece, int rc,
                           const char *so_far) {
    assert_int_equal(qn_text_out_push(t, piece, strlen(piece), b), rc);
    assert_int_equal(b->n, strlen(so_far));
    if (b->n) assert_memory_equal(b->p, so_far, b->n);
}

/* Hold-back is as short as it can be: a byte leaves as soon as no stop string can use it. */
static void prompt_emission(void **state) {
    const char *stops[] = {"STOP", "\n\n"};
    const size_t lens[] = {4, 2};
    struct qn_text_out t;
    struct qn_buf b = {0};
    (void)state;
    qn_text_out_init(&t, stops, lens, 2, false);
    push_and_check(&t, &b, "abc", 0, "abc");
    push_and_check(&t, &b, "ST", 0, "abc");
    push_and_check(&t, &b, "S", 0, "abcST");
    push_and_check(&t, &b, "x\n", 0, "abcSTSx");
    push_and_check(&t, &b, "\xE2\x82", 0, "abcSTSx");
    push_and_check(&t, &b, "\xAC\n", 0, "abcSTSx\n\xE2\x82\xAC");
    push_and_check(&t, &b, "\nmore", 1, "abcSTSx\n\xE2\x82\xAC");
    qn_text_out_free(&t);
    qn_buf_free(&b);
}

static void first_blank(void **state) {
    struct qn_text_out t;
    struct qn_buf b = {0};
    (void)state;
    qn_text_out_init(&t, NULL, NULL, 0, true);
    push_and_check(&t, &b, "", 0, "");
    push_and_check(&t, &b, "  a b", 0, " a b");
    qn_text_out_free(&t);
    qn_buf_clear(&b);
    qn_text_out_init(&t, NULL, NULL, 0, true);
    push_and_check(&t, &b, "x", 0, "x");
    push_and_check(&t, &b, " y", 0, "x y");
    qn_text_out_free(&t);
    qn_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_splits), cmocka_unit_test(prompt_emission),
                                       cmocka_unit_test(first_blank)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
