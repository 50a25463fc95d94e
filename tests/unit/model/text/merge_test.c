/* The merge engine against the definition: scan for the lowest rank, join its leftmost pair, repeat. */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <stdlib.h>
#include <string.h>

#include "model/err.h"
#include "model/text/merge.h"

static uint32_t next_random(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

/* The definition, on a plain array; the new length. */
static size_t naive(uint32_t *v, size_t n, const struct qn_pair_map *pairs) {
    for (;;) {
        size_t best = n;
        const struct qn_pair *pair = NULL;
        for (size_t i = 0; i + 1 < n; i++) {
            const struct qn_pair *p = qn_pair_map_get(pairs, v[i], v[i + 1]);
            if (!p || (pair && p->rank >= pair->rank)) continue;
            pair = p;
            best = i;
        }
        if (!pair) return n;
        v[best] = pair->result;
        memmove(v + best + 1, v + best + 2, (n - best - 2) * sizeof *v);
        n--;
    }
}

/* Random merges over a few symbols, several pairs a rank so that ties occur. */
static void random_pairs(struct qn_pair_map *pairs, uint64_t *seed) {
    assert_true(qn_pair_map_init(pairs, 4));
    for (uint32_t i = 0; i < 60; i++) {
        const struct qn_pair p = {next_random(seed) % (4 + i), next_random(seed) % (4 + i), i / 3, 4 + i};
        assert_true(qn_pair_map_put(pairs, &p));
    }
}

static void equals_the_definition(void **state) {
    (void)state;
    uint64_t seed = 7;
    struct qn_merger m = {0};
    for (int round = 0; round < 3000; round++) {
        struct qn_pair_map pairs;
        uint32_t v[200];
        random_pairs(&pairs, &seed);
        size_t n = next_random(&seed) % 200;
        m.n = 0;
        for (size_t i = 0; i < n; i++) {
            v[i] = next_random(&seed) % 4;
            assert_int_equal(qn_merger_push(&m, v[i]), QN_OK);
        }
        assert_int_equal(qn_merger_run(&m, &pairs), QN_OK);
        n = naive(v, n, &pairs);
        size_t k = 0;
        for (uint32_t i = m.n > 0 ? 0 : QN_NO_ID; i != QN_NO_ID; i = m.sym[i].next, k++)
            if (k >= n || m.sym[i].id != v[k]) fail_msg("round %d, seed 7: symbol %zu differs", round, k);
        assert_int_equal(k, n);
        qn_pair_map_free(&pairs);
    }
    qn_merger_free(&m);
}

/* a a a ... with merges for each power of two: every level joins half of what is left. */
static void a_million_equal_symbols_end(void **state) {
    (void)state;
    struct qn_pair_map pairs;
    struct qn_merger m = {0};
    assert_true(qn_pair_map_init(&pairs, 32));
    for (uint32_t i = 0; i < 20; i++) {
        const struct qn_pair p = {i, i, i, i + 1};
        assert_true(qn_pair_map_put(&pairs, &p));
    }
    for (size_t i = 0; i < 1 << 20; i++) assert_int_equal(qn_merger_push(&m, 0), QN_OK);
    assert_int_equal(qn_merger_run(&m, &pairs), QN_OK);
    assert_int_equal(m.sym[0].id, 20);
    assert_int_equal(m.sym[0].next, QN_NO_ID);
    qn_merger_free(&m);
    qn_pair_map_free(&pairs);
}

static void tables_find_what_was_put(void **state) {
    (void)state;
    static const struct qn_str keys[] = {{"a", 1},    {"ab", 2}, {"", 0},
                                         {"a\0b", 3}, {"a", 1},  {"longer than eight", 17}};
    struct qn_text_table t;
    assert_true(qn_text_table_init(&t, keys, 6));
    for (uint32_t i = 0; i < 6; i++) qn_text_table_put(&t, i);
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(qn_text_table_get(&t, keys[i].p, keys[i].n), i == 4 ? 0 : i);
    assert_int_equal(qn_text_table_get(&t, "longer than eighT", 17), QN_NO_ID);
    qn_text_table_free(&t);
    assert_int_equal(qn_text_table_get(&t, "a", 1), QN_NO_ID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_definition),
        cmocka_unit_test(a_million_equal_symbols_end),
        cmocka_unit_test(tables_find_what_was_put),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
