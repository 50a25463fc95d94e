/* Snapshots of fixed-size states, as far as traces can't show it: what is worth keeping, which one is found,
 * that salt, variant and every token decide, how bytes are counted, who gives way to whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/state/pool.h"

#define FIXED 8192
#define BLOCK 1024
#define MANY  1200

static int32_t tokens[MANY];

static struct qn_kv_seq *seq(struct qn_kv_pool *p, struct qn_kv_seq *s, uint64_t salt, uint64_t domain) {
    qn_kv_seq_init(s, p, 0, FIXED, salt, domain);
    return s;
}

/* Counts add up, and nothing is forgotten in `total`. */
static void check(const struct qn_kv_pool *p, size_t used) {
    struct qn_state_stats st = qn_kv_stats(p);
    size_t spare = 0;
    for (size_t i = 0; i < QN_KV_CLASSES; i++) {
        for (const struct qn_kv_block *b = p->classes[i].free; b; b = b->next) spare += b->bytes;
    }
    assert_int_equal(st.used, used);
    assert_int_equal(st.used + st.cached + spare, p->total);
    assert_true(p->total <= p->budget);
    assert_true(p->snaps.bytes + p->begun <= p->budget / 2);
    assert_int_equal(p->snaps.bytes + p->pages.bytes, st.cached);
}

/* A snapshot of s after n tokens, its bytes all `fill`; false when none was made. */
static bool keep(struct qn_kv_seq *s, const int32_t *t, uint32_t n, int fill) {
    struct qn_kv_block *b = qn_kv_snapshot_begin(s, t, n, 0);
    if (!b) return false;
    memset(b->data, fill, b->bytes);
    qn_kv_snapshot_end(s->pool, b);
    return true;
}

/* How many tokens a new sequence takes over; its state must be all `fill`. */
static uint32_t match(struct qn_kv_pool *p, uint64_t salt, uint64_t domain, const int32_t *t, uint32_t n,
                      int fill) {
    struct qn_kv_seq s;
    seq(p, &s, salt, domain);
    uint32_t got = qn_kv_match(&s, t, n);
    assert_int_equal(s.fixed != NULL, got > 0);
    for (size_t i = 0; s.fixed && i < FIXED; i++) assert_int_equal(s.fixed->data[i], fill);
    qn_kv_seq_done(&s);
    return got;
}

static void only_worthwhile_ones_are_kept(void **state) {
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new(64 * FIXED, FIXED);
    struct qn_kv_seq s;
    assert_non_null(p);
    seq(p, &s, 1, 7);
    assert_false(keep(&s, tokens, 0, 1));
    assert_false(keep(&s, tokens, QN_SNAPSHOT_GAP - 1, 1));
    assert_true(keep(&s, tokens, QN_SNAPSHOT_GAP, 1));
    assert_true(keep(&s, tokens, QN_SNAPSHOT_TOKENS, 1));
    assert_false(keep(&s, tokens, QN_SNAPSHOT_TOKENS, 1)); /* there already */
    assert_false(keep(&s, tokens, QN_SNAPSHOT_TOKENS + QN_SNAPSHOT_GAP - 1, 1));
    assert_true(keep(&s, tokens, QN_SNAPSHOT_TOKENS + QN_SNAPSHOT_GAP, 1));
    assert_int_equal(qn_kv_stats(p).blocks_cached, 3);
    assert_int_equal(qn_kv_stats(p).cached, 3 * FIXED + 4 * (64 + 256 + 320));
    check(p, 0);
    /* two sequences of one step that reach the same point: one copy stays */
    struct qn_kv_block *a = qn_kv_snapshot_begin(&s, tokens, 512, 0),
                       *b = qn_kv_snapshot_begin(&s, tokens, 512, 0);
    assert_non_null(a);
    assert_non_null(b);
    qn_kv_snapshot_end(p, a);
    qn_kv_snapshot_end(p, b);
    assert_int_equal(qn_kv_stats(p).blocks_cached, 4);
    check(p, 0);
    qn_kv_seq_done(&s);
    qn_kv_pool_free(p);
}

static void the_longest_equal_one_is_found(void **state) {
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new(64 * FIXED, FIXED);
    struct qn_kv_seq s;
    assert_non_null(p);
    seq(p, &s, 1, 7);
    int32_t other[MANY];
    memcpy(other, tokens, sizeof other);
    other[333]++;
    assert_true(keep(&s, tokens, 100, 1));
    assert_true(keep(&s, tokens, 256, 2));
    assert_true(keep(&s, tokens, 333, 3));
    assert_true(keep(&s, tokens, 334, 4));
    assert_true(keep(&s, other, 334, 5));
    assert_true(keep(&s, other, 340, 6));
    assert_int_equal(match(p, 1, 7, tokens, 1, 0), 0);
    assert_int_equal(match(p, 1, 7, tokens, 100, 0), 0); /* something is left to run */
    assert_int_equal(match(p, 1, 7, tokens, 101, 1), 100);
    assert_int_equal(match(p, 1, 7, tokens, 256, 1), 100);
    assert_int_equal(match(p, 1, 7, tokens, 334, 3), 333);
    assert_int_equal(match(p, 1, 7, tokens, MANY, 4), 334);
    assert_int_equal(match(p, 1, 7, other, 335, 5), 334);
    assert_int_equal(match(p, 1, 7, other, MANY, 6), 340);
    other[50]++;
    assert_int_equal(match(p, 1, 7, other, MANY, 0), 0);
    assert_int_equal(match(p, 2, 7, tokens, MANY, 0), 0);
    assert_int_equal(match(p, 1, 8, tokens, MANY, 0), 0);
    struct qn_kv_seq wide;
    qn_kv_seq_init(&wide, p, 0, FIXED * 2, 1, 7);
    assert_int_equal(qn_kv_match(&wide, tokens, MANY), 0);
    qn_kv_seq_done(&wide);
    /* one token of a hit with the right hash is wrong: no hit */
    for (struct qn_kv_block *b = p->snaps.head; b; b = b->next) b->prefix[60] ^= 1;
    assert_int_equal(match(p, 1, 7, tokens, MANY, 0), 0);
    check(p, 0);
    qn_kv_seq_done(&s);
    qn_kv_pool_free(p);
}

/* Half the budget, and the least recently used goes first. */
static void snapshots_keep_to_their_half(void **state) {
    (void)state;
    size_t one = FIXED + 256 * 4;
    struct qn_kv_pool *p = qn_kv_pool_new(6 * one, FIXED);
    struct qn_kv_seq s[4];
    assert_non_null(p);
    for (uint64_t i = 0; i < 3; i++) assert_true(keep(seq(p, &s[i], i, 7), tokens, 256, (int)i));
    check(p, 0);
    assert_int_equal(match(p, 0, 7, tokens, 257, 0), 256); /* now the most recent one */
    assert_true(keep(seq(p, &s[3], 3, 7), tokens, 256, 3));
    check(p, 0);
    assert_int_equal(qn_kv_stats(p).cached, 3 * one);
    assert_int_equal(match(p, 1, 7, tokens, 257, 1), 0);
    assert_int_equal(match(p, 0, 7, tokens, 257, 0), 256);
    assert_false(keep(&s[0], tokens, 1, 1));
    struct qn_kv_seq huge; /* more than half: never */
    qn_kv_seq_init(&huge, p, 0, 3 * one, 1, 9);
    assert_false(keep(&huge, tokens, 256, 1));
    assert_int_equal(qn_kv_stats(p).cached, 3 * one);
    qn_kv_seq_done(&huge);
    for (int i = 0; i < 4; i++) qn_kv_seq_done(&s[i]);
    qn_kv_pool_free(p);
}

/* Those that are being made count as well: pages stay, and of one sequence's the last ones are made. */
static void begun_ones_keep_to_it_too(void **state) {
    (void)state;
    enum { PAGES = 24 * FIXED / BLOCK }; /* as much as three quarters of the budget */
    struct qn_kv_pool *p = qn_kv_pool_new(32 * FIXED, BLOCK);
    struct qn_kv_block *b[40];
    struct qn_kv_seq s[40], paged;
    uint32_t n = 0;
    assert_non_null(p);
    int32_t *many = calloc((size_t)PAGES * QN_KV_BLOCK, sizeof *many);
    assert_non_null(many);
    qn_kv_seq_init(&paged, p, BLOCK, 0, 1, 6);
    assert_int_equal(qn_kv_reserve(&paged, 0, PAGES * QN_KV_BLOCK), QN_OK);
    qn_kv_set_tokens(&paged, 0, many, PAGES * QN_KV_BLOCK);
    qn_kv_publish(&paged, 0, PAGES * QN_KV_BLOCK);
    qn_kv_seq_done(&paged);
    free(many);
    for (uint64_t i = 0; i < 40; i++) {
        b[n] = qn_kv_snapshot_begin(seq(p, &s[i], i, 7), tokens, 256, 0);
        n += b[n] != NULL;
        assert_true(p->begun <= p->budget / 2);
        assert_true(p->pages.bytes >= p->budget / 2 - FIXED);
    }
    assert_int_equal(n, 16 * FIXED / (FIXED + 256 * 4));
    for (uint32_t i = 0; i < n; i++) qn_kv_snapshot_end(p, b[i]);
    assert_int_equal(p->begun, 0);
    assert_int_equal(qn_kv_stats(p).blocks_cached - p->pages.bytes / BLOCK, n);
    check(p, 0);
    /* A new one finds its place among those that are there; with 14 to follow it would not keep it. */
    assert_null(qn_kv_snapshot_begin(&s[30], tokens, 256, 14));
    assert_null(qn_kv_snapshot_begin(&s[30], tokens, 256, UINT32_MAX));
    assert_non_null(b[0] = qn_kv_snapshot_begin(&s[30], tokens, 256, 3));
    check(p, FIXED + 256 * 4);
    qn_kv_snapshot_end(p, b[0]);
    check(p, 0);
    for (int i = 0; i < 40; i++) qn_kv_seq_done(&s[i]);
    qn_kv_pool_free(p);
}

/* Prompts that differ in their last tokens only, as a shared preamble and short questions make them, don't
 * stand in each other's way. */
static void every_token_has_a_say_in_the_hash(void **state) {
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new(512 * FIXED, FIXED);
    struct qn_kv_seq s;
    int32_t t[80];
    assert_non_null(p);
    seq(p, &s, 1, 7);
    memcpy(t, tokens, sizeof t);
    for (int i = 0; i < 100; i++) {
        t[78] = i;
        assert_true(keep(&s, t, 79, i));
    }
    for (const struct qn_kv_block *a = p->snaps.head; a; a = a->next) {
        for (const struct qn_kv_block *b = a->next; b; b = b->next) assert_true(a->hash != b->hash);
    }
    for (int i = 0; i < 100; i++) {
        t[78] = i;
        assert_int_equal(match(p, 1, 7, t, 80, i), 79);
    }
    qn_kv_seq_done(&s);
    qn_kv_pool_free(p);
}

/* What sequences hold is never taken for a snapshot, snapshots and pages give way to what sequences need, the
 * older one first. */
static void the_cache_gives_way(void **state) {
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new(8 * FIXED, BLOCK);
    struct qn_kv_seq s[8], paged;
    assert_non_null(p);
    qn_kv_seq_init(&paged, p, BLOCK, 0, 1, 6);
    assert_int_equal(qn_kv_reserve(&paged, 0, 128), QN_OK); /* one FIXED of pages */
    qn_kv_set_tokens(&paged, 0, tokens, 128);
    qn_kv_publish(&paged, 0, 128);
    qn_kv_seq_done(&paged);
    assert_true(keep(seq(p, &s[0], 1, 7), tokens, 256, 0x11));
    check(p, 0);
    for (int i = 0; i < 8; i++) {
        if (i > 0) seq(p, &s[i], 1, 7);
        assert_int_equal(qn_kv_need(&s[i], 0, 5), FIXED);
        assert_int_equal(qn_kv_reserve(&s[i], 0, 5), QN_OK);
        assert_int_equal(qn_kv_need(&s[i], 0, 5000), 0);
        for (size_t k = 0; k < FIXED; k++) assert_int_equal(s[i].fixed->data[k], 0);
        memset(s[i].fixed->data, i + 1, FIXED);
        check(p, (size_t)(i + 1) * FIXED);
    }
    assert_int_equal(qn_kv_stats(p).cached, 0);
    assert_false(keep(&s[0], tokens, 256, 0x11));
    struct qn_kv_seq late;
    assert_int_equal(qn_kv_reserve(seq(p, &late, 1, 7), 0, 1), QN_ERR_NO_STATE);
    assert_int_equal(qn_kv_fork(&late, &s[0], 5), QN_ERR_NO_STATE);
    for (int i = 0; i < 8; i++) {
        for (size_t k = 0; k < FIXED; k++) assert_int_equal(s[i].fixed->data[k], i + 1);
    }
    qn_kv_truncate(&s[7], 0);
    assert_int_equal(qn_kv_fork(&late, &s[0], 5), QN_OK);
    assert_memory_equal(late.fixed->data, s[0].fixed->data, FIXED);
    assert_int_equal(qn_kv_bytes(&late).held, FIXED);
    assert_int_equal(qn_kv_bytes(&late).shared, 0);
    assert_int_equal(qn_kv_bytes(&s[7]).held, 0);
    assert_int_equal(qn_kv_bytes(&s[7]).peak, FIXED);
    check(p, 8 * FIXED);
    qn_kv_seq_done(&late);
    for (int i = 0; i < 8; i++) qn_kv_seq_done(&s[i]);
    check(p, 0);
    qn_kv_pool_free(p);
}

/* No room for the snapshot and a copy of it: it becomes the sequence's own state. */
static void a_tight_pool_moves_the_snapshot(void **state) {
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new(3 * FIXED, FIXED);
    struct qn_kv_seq a, b, c;
    assert_non_null(p);
    assert_true(keep(seq(p, &a, 1, 7), tokens, 256, 0x22));
    assert_int_equal(qn_kv_reserve(&a, 0, 1), QN_OK);
    check(p, FIXED);
    assert_int_equal(qn_kv_match(seq(p, &b, 1, 7), tokens, 300), 256);
    for (size_t k = 0; k < FIXED; k++) assert_int_equal(b.fixed->data[k], 0x22);
    check(p, 2 * FIXED);
    assert_int_equal(qn_kv_stats(p).cached, 0);
    assert_int_equal(qn_kv_match(seq(p, &c, 1, 7), tokens, 300), 0);
    assert_int_equal(qn_kv_reserve(&b, 256, 300), QN_OK);
    assert_true(qn_kv_writable(&b, 256, 300));
    assert_false(qn_kv_writable(&c, 0, 1));
    qn_kv_seq_done(&a);
    qn_kv_seq_done(&b);
    qn_kv_seq_done(&c);
    check(p, 0);
    qn_kv_pool_free(p);
}

/* With both kinds of state a hit is where both are there. */
static void pages_and_snapshots_go_together(void **state) {
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new(64 * FIXED, BLOCK);
    struct qn_kv_seq s, t;
    assert_non_null(p);
    qn_kv_seq_init(&s, p, BLOCK, FIXED, 1, 7);
    assert_int_equal(qn_kv_need(&s, 0, 400), 25 * BLOCK + FIXED);
    assert_int_equal(qn_kv_reserve(&s, 0, 400), QN_OK);
    assert_int_equal(qn_kv_bytes(&s).held, 25 * BLOCK + FIXED);
    qn_kv_set_tokens(&s, 0, tokens, 400);
    qn_kv_publish(&s, 0, 400);
    assert_true(keep(&s, tokens, 128, 1));
    assert_true(keep(&s, tokens, 256, 2));
    assert_false(keep(&s, tokens, 345, 3)); /* inside a block: of no use */
    qn_kv_seq_init(&t, p, BLOCK, FIXED, 1, 7);
    assert_int_equal(qn_kv_match(&t, tokens, 400), 256);
    assert_int_equal(t.fixed->data[0], 2);
    assert_int_equal(t.n, 16);
    assert_int_equal(qn_kv_bytes(&t).held, 16 * BLOCK + FIXED);
    assert_int_equal(qn_kv_bytes(&t).shared, 16 * BLOCK);
    check(p, 25 * BLOCK + 2 * FIXED);
    qn_kv_seq_done(&t);
    qn_kv_seq_init(&t, p, BLOCK, FIXED, 1, 7);
    assert_int_equal(qn_kv_match(&t, tokens, 128), 0); /* 112 tokens in blocks, no snapshot */
    assert_int_equal(qn_kv_bytes(&t).held, 0);
    qn_kv_seq_done(&t);
    qn_kv_seq_done(&s);
    check(p, 0);
    qn_kv_pool_free(p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_worthwhile_ones_are_kept),
        cmocka_unit_test(the_longest_equal_one_is_found),
        cmocka_unit_test(begun_ones_keep_to_it_too),
        cmocka_unit_test(every_token_has_a_say_in_the_hash),
        cmocka_unit_test(snapshots_keep_to_their_half),
        cmocka_unit_test(the_cache_gives_way),
        cmocka_unit_test(a_tight_pool_moves_the_snapshot),
        cmocka_unit_test(pages_and_snapshots_go_together),
    };
    for (int32_t i = 0; i < MANY; i++) tokens[i] = i * i % 97;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
