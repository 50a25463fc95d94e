/* The state pool's rules that traces can't show: no hit across salts or variants, the parent and the tokens
 * decide and not the hash, memory of another salt arrives zeroed, room moves between block sizes, stale
 * entries are seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/state/pool.h"

#define BLOCK 1024

static int32_t tokens[64];

/* A sequence of 48 tokens, written and published. */
static void fill(struct qn_kv_seq *s, struct qn_kv_pool *p, uint64_t salt, uint64_t domain) {
    qn_kv_seq_init(s, p, BLOCK, 0, salt, domain);
    assert_int_equal(qn_kv_reserve(s, 0, 48), QN_OK);
    for (uint32_t i = 0; i < 3; i++) memset(s->data[i], 0x5a, BLOCK);
    qn_kv_set_tokens(s, 0, tokens, 48);
    qn_kv_publish(s, 0, 48);
}

static uint32_t match(struct qn_kv_pool *p, uint64_t salt, uint64_t domain, const int32_t *t, uint32_t n) {
    struct qn_kv_seq s;
    qn_kv_seq_init(&s, p, BLOCK, 0, salt, domain);
    uint32_t got = qn_kv_match(&s, t, n);
    qn_kv_seq_done(&s);
    return got;
}

static void hits_only_equal_prefixes(void **state) {
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new(8 * BLOCK, BLOCK);
    struct qn_kv_seq s;
    assert_non_null(p);
    fill(&s, p, 1, 7);
    assert_int_equal(match(p, 1, 7, tokens, 64), 48);
    assert_int_equal(match(p, 1, 7, tokens, 48), 32); /* something is left to run */
    assert_int_equal(match(p, 1, 7, tokens, 1), 0);
    assert_int_equal(match(p, 2, 7, tokens, 64), 0);
    assert_int_equal(match(p, 1, 8, tokens, 64), 0);
    int32_t other[64];
    memcpy(other, tokens, sizeof other);
    other[20]++;
    assert_int_equal(match(p, 1, 7, other, 64), 16);
    /* right hash, wrong parent or tokens: a collision is no hit */
    struct qn_kv_block *b = s.entries[1].block;
    assert_ptr_equal(qn_kv_find(p, &s, b->hash, b->parent, b->tokens), b);
    assert_null(qn_kv_find(p, &s, b->hash, b->parent + 1, b->tokens));
    assert_null(qn_kv_find(p, &s, b->hash, b->parent, other));
    qn_kv_seq_done(&s);
    assert_int_equal(qn_kv_stats(p).used, 0);
    assert_int_equal(qn_kv_stats(p).cached, 3 * BLOCK);
    assert_int_equal(match(p, 1, 7, tokens, 64), 48);
    qn_kv_drop(p);
    assert_int_equal(qn_kv_stats(p).cached, 0);
    assert_int_equal(p->total, 0);
    assert_int_equal(match(p, 1, 7, tokens, 64), 0);
    qn_kv_pool_free(p);
}

static void another_salt_gets_zeroes(void **state) {
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new(3 * BLOCK, BLOCK);
    struct qn_kv_seq a, b;
    assert_non_null(p);
    fill(&a, p, 1, 7);
    qn_kv_seq_done(&a);
    qn_kv_seq_init(&b, p, BLOCK, 0, 2, 7);
    assert_int_equal(qn_kv_reserve(&b, 0, 48), QN_OK); /* evicts all three */
    for (uint32_t i = 0; i < 3; i++) {
        for (uint32_t k = 0; k < BLOCK; k++) assert_int_equal(b.data[i][k], 0);
    }
    assert_int_equal(qn_kv_reserve(&b, 0, 49), QN_ERR_NO_STATE);
    assert_int_equal(b.n, 3);
    qn_kv_seq_done(&b);
    qn_kv_pool_free(p);
}

static void room_moves_between_sizes(void **state) {
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new(4 * BLOCK, BLOCK);
    struct qn_kv_seq a, b;
    assert_non_null(p);
    for (int round = 0; round < 3; round++) {
        fill(&a, p, 1, 7);
        qn_kv_seq_done(&a);
        qn_kv_seq_init(&b, p, 4 * BLOCK, 0, 1, 8);
        assert_int_equal(qn_kv_reserve(&b, 0, 16), QN_OK);
        assert_int_equal(p->total, 4 * BLOCK);
        qn_kv_seq_done(&b);
    }
    qn_kv_pool_free(p);
}

static void stale_entries_are_seen(void **state) {
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new(4 * BLOCK, BLOCK);
    struct qn_kv_seq s;
    assert_non_null(p);
    qn_kv_seq_init(&s, p, BLOCK, 0, 1, 7);
    assert_int_equal(qn_kv_reserve(&s, 0, 20), QN_OK);
    assert_true(qn_kv_writable(&s, 0, 32));
    assert_false(qn_kv_writable(&s, 0, 33));
    s.entries[0].block->generation++;
    assert_false(qn_kv_writable(&s, 0, 20));
    assert_false(qn_kv_writable(&s, 17, 20));
    s.entries[0].block->generation--;
    qn_kv_seq_done(&s);
    qn_kv_pool_free(p);
}

/* Large blocks of a large pool come from slabs: zeroed, apart from each other, counted, given back. */
static void large_blocks_come_from_slabs(void **state) {
    enum { N = 300, SIZE = 360 * 1024 + 64 };
    (void)state;
    struct qn_kv_pool *p = qn_kv_pool_new((size_t)N * SIZE, SIZE);
    struct qn_kv_block *b[N];
    struct qn_kv_seq s;
    int rc;
    assert_non_null(p);
    qn_kv_seq_init(&s, p, SIZE, 0, 1, 7);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++) {
            b[i] = qn_kv_block_take(p, &s, SIZE, &rc);
            assert_non_null(b[i]);
            assert_true(b[i]->in_slab && (uintptr_t)b[i]->data % 64 == 0);
            for (size_t at = 0; at < SIZE; at += 4096)
                assert_int_equal(b[i]->data[at] | b[i]->data[SIZE - 1], 0);
            memset(b[i]->data, i % 251 + 1, SIZE);
        }
        assert_null(qn_kv_block_take(p, &s, SIZE, &rc));
        assert_int_equal(rc, QN_ERR_NO_STATE);
        for (int i = 0; i < N; i++) {
            assert_int_equal(b[i]->data[0], i % 251 + 1);
            assert_int_equal(b[i]->data[SIZE - 1], i % 251 + 1);
        }
        for (int half = 0; half < 2; half++) { /* every other one, then the rest */
            for (int i = (half + round) % 2; i < N; i += 2) qn_kv_block_unref(p, b[i]);
            qn_kv_pool_trim(p, SIZE_MAX);
            assert_int_equal(p->total, (size_t)(1 - half) * (N / 2) * SIZE);
        }
        assert_null(p->slabs);
    }
    qn_kv_seq_done(&s);
    qn_kv_pool_free(p);
}

/* Without room for a slab, blocks come as they can. */
static void small_ones_do_not(void **state) {
    (void)state;
    struct qn_slab *slabs = NULL;
    assert_null(qn_slab_take(&slabs, QN_SLAB_SLOT_MIN - 1));
    assert_null(qn_slab_take(&slabs, QN_SLAB_BYTES + 1));
    assert_null(slabs);
    void *a = qn_slab_take(&slabs, QN_SLAB_BYTES), *b = qn_slab_take(&slabs, QN_SLAB_SLOT_MIN);
    assert_true(a && b && slabs);
    qn_slab_give(&slabs, a, QN_SLAB_BYTES);
    qn_slab_give(&slabs, b, QN_SLAB_SLOT_MIN);
    assert_null(slabs);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hits_only_equal_prefixes),     cmocka_unit_test(another_salt_gets_zeroes),
        cmocka_unit_test(room_moves_between_sizes),     cmocka_unit_test(stale_entries_are_seen),
        cmocka_unit_test(large_blocks_come_from_slabs), cmocka_unit_test(small_ones_do_not),
    };
    for (int32_t i = 0; i < 64; i++) tokens[i] = i * i % 97;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
