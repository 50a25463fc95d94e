/* Attentions with a fixed-size state on more threads than there are KV heads: query heads are cut between
 * them, and nothing changes: not a bit of what rows read, nor of the state that the next step finds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/recurrent.h"

#define HEADS 6
#define DH    16
#define N     150
#define OTHER 47

static const struct kind {
    struct qn_attn_member member;
    const char *type, *param;
    double value;
} kinds[] = {
    {{.type = "performer", .kv_heads = 1, .features = 40}, "performer", "", 0},
    {{.type = "performer", .kv_heads = 2, .features = 24, .relu = true}, "performer", "", 0},
    {{.type = "mqa", .kv_heads = 1}, "performer", "hyperbolic", 1},
    {{.type = "linformer", .kv_heads = 1, .slots = 20}, "linformer", "", 0},
    {{.type = "linformer", .kv_heads = 3, .slots = 9}, "linformer", "", 0},
    {{.type = "mqa", .kv_heads = 1}, "linformer", "k", 10},
};

static void open_kind(struct qn_att *t, struct rng *rng, const struct kind *k, bool causal,
                      unsigned threads) {
    static const struct qn_att_shape shape = {HEADS, DH, 160};
    struct qn_part p;
    rng_init(rng);
    qn_part_init(&p, k->type);
    if (k->param[0]) qn_part_add(&p, k->param, k->value == 1 ? QN_PARAM_BOOL : QN_PARAM_INT, k->value);
    qn_part_add(&p, "causal", QN_PARAM_BOOL, causal);
    qn_att_open(t, rng, &k->member, &shape, &p, threads);
}

/* Steps of either sequence alone, a long span and a short one together, and a single row; both to their ends.
 */
static void run_all(struct qn_att *t, struct qn_att_seq *a, struct qn_att_seq *b) {
    struct qn_att_seq *both[] = {a, b};
    if (!t->a.causal) {
        qn_att_step(t, both, (uint32_t[]){N, OTHER}, 2);
        return;
    }
    qn_att_step(t, &a, (uint32_t[]){45}, 1);
    qn_att_step(t, &b, (uint32_t[]){40}, 1);
    qn_att_step(t, &a, (uint32_t[]){40}, 1);
    qn_att_step(t, both, (uint32_t[]){35, OTHER - 40}, 2);
    qn_att_step(t, &a, (uint32_t[]){1}, 1);
    qn_att_step(t, &a, (uint32_t[]){N - 121}, 1);
}

static void pieces_have_the_same_bits(bool causal) {
    static const unsigned threads[] = {2, 3, 5, 6, 7, 16};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct rng rng;
        struct qn_att one;
        open_kind(&one, &rng, &kinds[i], causal, 1);
        struct qn_att_seq *a = qn_att_seq_new(&one, &rng, N, 1), *b = qn_att_seq_new(&one, &rng, OTHER, 1);
        run_all(&one, a, b);
        for (size_t j = 0; j < sizeof threads / sizeof *threads; j++) {
            struct rng again;
            struct qn_att t;
            open_kind(&t, &again, &kinds[i], causal, threads[j]);
            struct qn_att_seq *u = qn_att_seq_copy(&t, a), *v = qn_att_seq_copy(&t, b);
            run_all(&t, u, v);
            assert_memory_equal(u->out, a->out, (size_t)N * HEADS * DH * sizeof(float));
            assert_memory_equal(v->out, b->out, (size_t)OTHER * HEADS * DH * sizeof(float));
            assert_int_equal(u->fixed_bytes, a->fixed_bytes);
            assert_memory_equal(u->fixed, a->fixed, a->fixed_bytes);
            assert_memory_equal(v->fixed, b->fixed, b->fixed_bytes);
            qn_att_seq_free(u);
            qn_att_seq_free(v);
            qn_att_close(&t);
        }
        qn_att_seq_free(a);
        qn_att_seq_free(b);
        qn_att_close(&one);
    }
}

static void with_causality(void **state) {
    (void)state;
    pieces_have_the_same_bits(true);
}

static void without(void **state) {
    (void)state;
    pieces_have_the_same_bits(false);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(with_causality), cmocka_unit_test(without)};
    qn_kernels_ensure();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
