/* What every attention must keep: with causality, changing a token leaves all earlier rows as they were, bit
 * for bit, in one step or token by token; without, it must change them. Whole-sequence softmax equals its
 * definition in double, and its rows don't depend on neighbours or threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#include <cmocka.h>

#include "tests/support/recurrent.h"

#define HEADS 4
#define DH    16
#define ROW   ((size_t)HEADS * DH)
#define N     70

static const struct kind {
    struct qn_attn_member member;
    const char *type, *param;
    double value;
} kinds[] = {
    {{.type = "mha", .kv_heads = 4}, "mha", "", 0},
    {{.type = "gqa", .kv_heads = 2}, "gqa", "", 0},
    {{.type = "mqa", .kv_heads = 1}, "mqa", "", 0},
    {{.type = "linformer", .kv_heads = 2, .slots = 20}, "linformer", "", 0},
    {{.type = "gqa", .kv_heads = 2}, "linformer", "k", 10},
    {{.type = "performer", .kv_heads = 2, .features = 24}, "performer", "", 0},
    {{.type = "performer", .kv_heads = 1, .features = 24, .relu = true}, "performer", "", 0},
    {{.type = "gqa", .kv_heads = 2}, "performer", "features", 50},
    {{.type = "gqa", .kv_heads = 2}, "performer", "seed", 9},
};
#define KINDS (sizeof kinds / sizeof *kinds)

static void open_kind(struct qn_att *t, struct rng *rng, const struct kind *k, bool causal,
                      unsigned threads) {
    static const struct qn_att_shape shape = {HEADS, DH, 96};
    struct qn_part p;
    rng_init(rng);
    qn_part_init(&p, k->type);
    if (k->param[0]) qn_part_add(&p, k->param, QN_PARAM_INT, k->value);
    qn_part_add(&p, "causal", QN_PARAM_BOOL, causal);
    qn_att_open(t, rng, &k->member, &shape, &p, threads);
    assert_int_equal(t->a.causal, causal);
    struct qn_state_size size = t->a.ops->state(&t->a, QN_KV_F32);
    if (!causal) assert_true(size.block_bytes == 0 && size.fixed_bytes == 0);
}

/* Rows before token j that differ after it changed, and whether row j does. */
static size_t leaks(const struct kind *k, bool causal, uint32_t j, uint32_t chunk, bool *own) {
    struct rng rng;
    struct qn_att t;
    open_kind(&t, &rng, k, causal, 2);
    struct qn_att_seq *a = qn_att_seq_new(&t, &rng, N, 1), *b = qn_att_seq_copy(&t, a);
    size_t kv = (size_t)t.a.kv_heads * DH, rows = 0;
    for (size_t d = 0; d < kv; d++) {
        b->k[j * kv + d] += 1;
        b->v[j * kv + d] -= 2;
    }
    qn_att_chunks(&t, a, chunk);
    qn_att_chunks(&t, b, chunk);
    for (size_t r = 0; r < j; r++)
        rows += memcmp(a->out + r * ROW, b->out + r * ROW, ROW * sizeof(float)) != 0;
    *own = memcmp(a->out + j * ROW, b->out + j * ROW, ROW * sizeof(float)) != 0;
    qn_att_seq_free(a);
    qn_att_seq_free(b);
    qn_att_close(&t);
    return rows;
}

static void later_tokens_change_nothing(void **state) {
    (void)state;
    static const uint32_t tokens[] = {1, 15, 16, 17, 40, 69}, chunks[] = {N, 1, 6};
    for (size_t i = 0; i < KINDS; i++) {
        for (size_t j = 0; j < 6; j++) {
            for (size_t c = 0; c < 3; c++) {
                bool own;
                assert_int_equal(leaks(&kinds[i], true, tokens[j], chunks[c], &own), 0);
                assert_true(own);
            }
        }
    }
}

static void both_directions_do_leak(void **state) {
    (void)state;
    for (size_t i = 0; i < KINDS; i++) {
        bool own;
        assert_int_equal(leaks(&kinds[i], false, 40, N, &own), 40);
        assert_true(own);
    }
}

/* Not even with values that a sum can't hold. */
static void infinities_stay_where_they_are(void **state) {
    (void)state;
    for (size_t i = 0; i < KINDS; i++) {
        struct rng rng;
        struct qn_att t;
        open_kind(&t, &rng, &kinds[i], true, 2);
        struct qn_att_seq *a = qn_att_seq_new(&t, &rng, N, 1), *b = qn_att_seq_copy(&t, a);
        size_t kv = (size_t)t.a.kv_heads * DH;
        for (size_t d = 0; d < kv; d++) b->v[37 * kv + d] = INFINITY;
        b->k[37 * kv] = NAN;
        qn_att_chunks(&t, a, N);
        qn_att_chunks(&t, b, N);
        assert_memory_equal(a->out, b->out, 37 * ROW * sizeof(float));
        qn_att_seq_free(a);
        qn_att_seq_free(b);
        qn_att_close(&t);
    }
}

/* --- softmax over whole sequences --- */
static void definition(const struct qn_att *t, const struct qn_att_seq *s, double *out) {
    size_t kv = t->a.kv_heads, group = HEADS / kv;
    for (size_t r = 0; r < s->n; r++) {
        for (size_t h = 0; h < HEADS; h++) {
            double score[N], top = -INFINITY, sum = 0, *o = out + r * ROW + h * DH;
            memset(o, 0, DH * sizeof *o);
            for (size_t u = 0; u < s->n; u++) {
                score[u] = 0;
                for (size_t d = 0; d < DH; d++)
                    score[u] += (double)s->q[r * ROW + h * DH + d] *
                                (double)s->k[(u * kv + h / group) * DH + d] / sqrt((double)DH);
                top = fmax(top, score[u]);
            }
            for (size_t u = 0; u < s->n; u++) sum += exp(score[u] - top);
            for (size_t u = 0; u < s->n; u++) {
                for (size_t d = 0; d < DH; d++)
                    o[d] += exp(score[u] - top) / sum * (double)s->v[(u * kv + h / group) * DH + d];
            }
        }
    }
}

static void whole_softmax_is_softmax(void **state) {
    (void)state;
    static double want[N * HEADS * DH];
    for (size_t i = 0; i < 3; i++) {
        struct rng rng;
        struct qn_att t;
        open_kind(&t, &rng, &kinds[i], false, 3);
        struct qn_att_seq *s = qn_att_seq_new(&t, &rng, N, 2);
        qn_att_chunks(&t, s, N);
        definition(&t, s, want);
        assert_true(qn_att_error(s->out, want, N * ROW) <= 1e-5);
        qn_att_seq_free(s);
        qn_att_close(&t);
    }
}

/* Alone, or before and behind others of other lengths: the same bits. */
static void whole_sequences_are_alone(void **state) {
    (void)state;
    for (size_t i = 0; i < KINDS; i++) {
        struct rng rng;
        struct qn_att t;
        open_kind(&t, &rng, &kinds[i], false, 3);
        struct qn_att_seq *s = qn_att_seq_new(&t, &rng, 53, 1), *u = qn_att_seq_copy(&t, s),
                          *before = qn_att_seq_new(&t, &rng, 7, 1), *after = qn_att_seq_new(&t, &rng, N, 1);
        struct qn_att_seq *all[] = {before, u, after};
        qn_att_chunks(&t, s, 53);
        qn_att_step(&t, all, (uint32_t[]){7, 53, N}, 3);
        assert_memory_equal(u->out, s->out, 53 * ROW * sizeof(float));
        qn_att_seq_free(s);
        qn_att_seq_free(u);
        qn_att_seq_free(before);
        qn_att_seq_free(after);
        qn_att_close(&t);
    }
}

static void whole_sequences_keep_no_state(void **state) {
    (void)state;
    for (size_t i = 0; i < KINDS; i++) {
        struct rng rng;
        struct qn_att t;
        open_kind(&t, &rng, &kinds[i], false, 1);
        assert_int_equal(t.a.choice.exactness, QN_UNTRAINED);
        struct qn_attention_cost half = t.a.ops->cost(&t.a, QN_KV_F32, 0, 32, 32),
                                 full = t.a.ops->cost(&t.a, QN_KV_F32, 0, 64, 64);
        double order = i < 3 ? 4 : 2; /* softmax is quadratic, the others linear */
        assert_true(full.flops == order * half.flops && full.state_bytes == 0);
        qn_att_close(&t);
    }
}

static void a_window_has_one_direction(void **state) {
    (void)state;
    struct qn_spec spec = {.heads = 4, .head_dim = 16, .context = 96, .window = 8, .n_attn = 1};
    struct qn_attention a;
    struct qn_part p;
    spec.attn[0] = kinds[0].member;
    qn_part_init(&p, "mha");
    qn_part_add(&p, "causal", QN_PARAM_BOOL, 0);
    assert_int_equal(qn_attention_mha.resolve(&spec, 0, &p, &a, NULL), QN_OK);
    assert_int_equal(a.choice.exactness, QN_UNAVAILABLE);
    p.params[0].kind = QN_PARAM_INT;
    assert_int_equal(qn_attention_mha.resolve(&spec, 0, &p, &a, NULL), QN_ERR_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(later_tokens_change_nothing),    cmocka_unit_test(both_directions_do_leak),
        cmocka_unit_test(infinities_stay_where_they_are), cmocka_unit_test(whole_softmax_is_softmax),
        cmocka_unit_test(whole_sequences_are_alone),      cmocka_unit_test(whole_sequences_keep_no_state),
        cmocka_unit_test(a_window_has_one_direction),
    };
    qn_kernels_ensure();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
