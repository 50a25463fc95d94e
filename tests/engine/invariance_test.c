/* The same bits whoever a sequence shares a step with.
 *
 * For each model (families, weight types, state types, structures) the logits of a family of token sequences
 * are taken once, one token per step, alone, without cache, on one thread. Then random traces run over
 * another instance of the model with two threads, the prefix cache and a small state pool: sequences begin
 * (with a cache match), take chunks of random size in steps of random company, fork, are cut back, are
 * preempted and recomputed, end. Every row's logits must equal the solo run's, memcmp; after every operation
 * the accounting must add up, and at the end of a trace no block is in use. QUERN_TRACES sets the traces per
 * model. Seeds are printed on failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/pool.h"
#include "model/internal.h"
#include "model/state/pool.h"
#include "tests/support/tiny_open.h"

#define SEQUENCES 6
#define LENGTH    90
#define SLOTS     6
#define OPS       24
#define MAX_ROWS  64
#define TRACES    80

static struct qn_pool *two_threads;

struct config {
    const char *name, *family;
    enum qn_type type;
    enum qn_state_type state;
    const char *attention; /* "" = native */
    uint32_t kv_heads;     /* of the checkpoint; 0 = the family's */
    uint32_t wide;         /* d_model 256 for block types of 256 */
    uint32_t window;
};

struct world {
    const struct config *c;
    struct qn_model *m;
    struct qn_variant *v;
    uint32_t vocab;
    int32_t tokens[SEQUENCES][LENGTH];
    float *logits; /* [SEQUENCES, LENGTH, vocab] */
    uint64_t rng, seed;
    struct slot {
        struct qn_seq *seq;
        uint32_t which; /* of tokens */
    } slots[SLOTS];
    /* of the step that runs */
    uint32_t span_slot[SLOTS];
    uint32_t rows_seen, bad;
};

static float *expected(struct world *w, uint32_t which, uint32_t pos) {
    return w->logits + ((size_t)which * LENGTH + pos) * w->vocab;
}

static struct qn_model *open_model(const struct config *c, struct qn_pool *pool, bool cache, size_t bytes) {
    struct qn_test_tiny t = qn_test_tiny_default(c->family);
    t.type = c->type;
    t.context = 128;
    t.tokenizer = false;
    t.seed = 11;
    if (c->wide) {
        t.d_model = t.ffn = 256;
        t.heads = 4;
        t.head_dim = 64;
    }
    if (c->kv_heads) t.kv_heads = c->kv_heads;
    struct qn_open_options opt = {.pool = pool,
                                  .state_type = c->state,
                                  .state_bytes = bytes,
                                  .max_step_tokens = MAX_ROWS,
                                  .prefix_cache = cache};
    struct qn_model *m = qn_test_tiny_open(&t, &opt);
    m->ckpt->spec.window = c->window;
    return m;
}

/* --- the solo run --- */
struct keep {
    struct world *w;
    uint32_t which;
};

static void keep_row(void *ctx, uint32_t span, uint32_t pos, float *v) {
    struct keep *k = ctx;
    (void)span;
    memcpy(expected(k->w, k->which, pos), v, k->w->vocab * sizeof *v);
}

static void solo(struct world *w) {
    struct qn_model *m = open_model(w->c, NULL, false, (size_t)64 << 20);
    struct qn_variant *v = qn_test_variant(m, w->c->attention, 0);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        struct qn_seq *q;
        struct keep k = {w, i};
        assert_int_equal(qn_seq_new(v, 0, false, &q, NULL), QN_OK);
        for (uint32_t t = 0; t < LENGTH; t++) {
            struct qn_span span = {q, &w->tokens[i][t], 1, QN_WANT_LAST};
            struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1, .on_row = keep_row, .ctx = &k};
            assert_int_equal(qn_seq_reserve(q, t + 1), QN_OK);
            assert_int_equal(qn_step_run(&step, NULL), QN_OK);
        }
        qn_seq_free(&q);
    }
    qn_variant_unref(v);
    qn_model_close(&m);
}

/* --- one trace --- */
static void check_row(void *ctx, uint32_t span, uint32_t pos, float *v) {
    struct world *w = ctx;
    const struct slot *s = &w->slots[w->span_slot[span]];
    w->rows_seen++;
    if (memcmp(expected(w, s->which, pos), v, w->vocab * sizeof *v) != 0) {
        if (w->bad++ == 0) {
            fprintf(stderr, "%s: trace seed %llu: sequence %u differs at position %u\n", w->c->name,
                    (unsigned long long)w->seed, s->which, pos);
        }
    }
    memset(v, 0xff, w->vocab * sizeof *v); /* the callee may overwrite it */
}

static void check_sums(struct world *w) {
    size_t sum = 0;
    for (uint32_t i = 0; i < SLOTS; i++) {
        if (!w->slots[i].seq) continue;
        struct qn_seq_bytes b = qn_seq_bytes(w->slots[i].seq);
        assert_true(b.shared <= b.held && b.held <= b.peak);
        sum += b.held - b.shared;
    }
    struct qn_state_stats s = qn_model_state(w->m);
    assert_int_equal(sum, s.used);
    assert_true(s.used + s.cached <= s.budget);
}

static void begin(struct world *w, struct slot *s) {
    s->which = qn_test_below(&w->rng, SEQUENCES);
    bool cache = qn_test_below(&w->rng, 4) > 0;
    assert_int_equal(qn_seq_new(w->v, qn_test_below(&w->rng, 2), cache, &s->seq, NULL), QN_OK);
    qn_seq_match(s->seq, w->tokens[s->which], 1 + qn_test_below(&w->rng, LENGTH));
}

static void fork_one(struct world *w, struct slot *from) {
    struct slot *to = NULL;
    for (uint32_t i = 0; i < SLOTS && !to; i++) {
        if (!w->slots[i].seq) to = &w->slots[i];
    }
    if (!to) return;
    uint32_t which = qn_test_below(&w->rng, SEQUENCES), n = qn_seq_length(from->seq);
    /* The copy goes on along another sequence when that one has the same beginning. */
    if (memcmp(w->tokens[which], w->tokens[from->which], n * sizeof(int32_t)) != 0) which = from->which;
    assert_int_equal(qn_seq_fork(from->seq, &to->seq, NULL), QN_OK);
    to->which = which;
}

/* Cuts a sequence back to where it parts from another one and goes on along that: blocks that forks and the
 * cache still use must keep the old tokens. */
static void turn_off(struct world *w, struct slot *s) {
    uint32_t to = qn_test_below(&w->rng, SEQUENCES), same = 0, n = qn_seq_length(s->seq);
    while (same < n && w->tokens[to][same] == w->tokens[s->which][same]) same++;
    assert_int_equal(qn_seq_truncate(s->seq, same), QN_OK);
    s->which = to;
}

/* Reserves, or preempts somebody as the engine does, or gives up on this sequence for now. */
static bool make_room(struct world *w, struct slot *s, uint32_t to) {
    struct qn_state_stats st = qn_model_state(w->m);
    size_t need = qn_seq_need(s->seq, to);
    int rc = qn_seq_reserve(s->seq, to);
    assert_true((rc == QN_OK) == (need == 0 || st.used + need <= st.budget));
    if (rc == QN_OK) {
        assert_int_equal(qn_model_state(w->m).used, st.used + need);
        assert_int_equal(qn_seq_need(s->seq, to), 0);
        return true;
    }
    struct slot *victim = &w->slots[qn_test_below(&w->rng, SLOTS)];
    if (victim->seq && victim != s) qn_seq_reset(victim->seq);
    return false;
}

static void step(struct world *w) {
    struct qn_span spans[SLOTS];
    uint32_t n = 0, rows = 0, first = qn_test_below(&w->rng, SLOTS);
    for (uint32_t i = 0; i < SLOTS; i++) {
        uint32_t at = (first + i) % SLOTS;
        struct slot *s = &w->slots[at];
        if (!s->seq || qn_test_below(&w->rng, 4) == 0) continue;
        uint32_t have = qn_seq_length(s->seq), left = LENGTH - have;
        uint32_t most = qn_test_below(&w->rng, 2) ? 1 : 40;
        if (most > left) most = left;
        if (most > MAX_ROWS - rows) most = MAX_ROWS - rows;
        if (most == 0) continue;
        uint32_t take = 1 + qn_test_below(&w->rng, most);
        uint32_t ahead = have + take + qn_test_below(&w->rng, 20);
        if (!make_room(w, s, ahead < LENGTH ? ahead : LENGTH)) continue;
        w->span_slot[n] = at;
        spans[n++] = (struct qn_span){s->seq, w->tokens[s->which] + have, take, qn_test_below(&w->rng, 3)};
        rows += take;
    }
    /* A later preemption may have emptied a sequence that is already in the list. */
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct slot *s = &w->slots[w->span_slot[i]];
        if (spans[i].tokens != w->tokens[s->which] + qn_seq_length(s->seq)) continue;
        if (qn_seq_bytes(s->seq).held == 0) continue;
        w->span_slot[kept] = w->span_slot[i];
        spans[kept++] = spans[i];
    }
    if (kept == 0) return;
    struct qn_err err = {0};
    struct qn_step st = {.variant = w->v, .spans = spans, .n_spans = kept, .on_row = check_row, .ctx = w};
    if (qn_step_run(&st, &err)) fail_msg("step: %s (trace seed %llu)", err.msg, (unsigned long long)w->seed);
}

static void operate(struct world *w) {
    struct slot *s = &w->slots[qn_test_below(&w->rng, SLOTS)];
    uint32_t dice = qn_test_below(&w->rng, 16);
    if (dice < 8) {
        step(w);
    } else if (!s->seq) {
        begin(w, s);
    } else if (dice < 11) {
        fork_one(w, s);
    } else if (dice < 12) {
        turn_off(w, s);
    } else if (dice < 13) {
        uint32_t n = qn_seq_length(s->seq);
        assert_int_equal(qn_seq_truncate(s->seq, n ? qn_test_below(&w->rng, n + 1) : 0), QN_OK);
    } else if (dice < 14) {
        qn_seq_reset(s->seq);
    } else if (dice < 15) {
        qn_seq_free(&s->seq);
    } else if (qn_test_below(&w->rng, 8) == 0) {
        qn_model_drop_cache(w->m);
    }
    check_sums(w);
}

static void trace(struct world *w, uint64_t seed) {
    w->seed = w->rng = seed;
    for (uint32_t i = 0; i < 3; i++) begin(w, &w->slots[i]);
    for (uint32_t i = 0; i < OPS; i++) operate(w);
    for (uint32_t i = 0; i < SLOTS; i++) qn_seq_free(&w->slots[i].seq);
    assert_int_equal(qn_model_state(w->m).used, 0);
    assert_int_equal(qn_model_state(w->m).blocks_used, 0);
}

/* --- models --- */
static const struct config configs[] = {
    {"llama F32, f32 state", "llama", QN_F32, QN_STATE_F32, "", 0, 0, 0},
    {"llama F16, f16 state", "llama", QN_F16, QN_STATE_F16, "", 2, 0, 0},
    {"llama Q8_0", "llama", QN_Q8_0, QN_STATE_F16, "", 2, 0, 0},
    {"llama Q4_1", "llama", QN_Q4_1, QN_STATE_F16, "", 1, 0, 0},
    {"llama Q4_K", "llama", QN_Q4_K, QN_STATE_F16, "", 2, 1, 0},
    {"llama Q6_K, f32 state", "llama", QN_Q6_K, QN_STATE_F32, "", 2, 1, 0},
    {"llama window", "llama", QN_F32, QN_STATE_F16, "", 2, 0, 21},
    {"llama gqa as mha", "llama", QN_Q8_0, QN_STATE_F16, "mha", 2, 0, 0},
    {"llama mha as mqa", "llama", QN_F16, QN_STATE_F16, "mqa", 4, 0, 0},
    {"qwen2 BF16", "qwen2", QN_BF16, QN_STATE_F16, "", 0, 0, 0},
    {"qwen3 Q5_0", "qwen3", QN_Q5_0, QN_STATE_F16, "", 0, 0, 0},
    {"gemma F32", "gemma", QN_F32, QN_STATE_F16, "", 0, 0, 0},
    {"gpt2 F32", "gpt2", QN_F32, QN_STATE_F32, "", 0, 0, 0},
    {"gpt_bigcode Q4_0", "gpt_bigcode", QN_Q4_0, QN_STATE_F16, "", 0, 0, 0},
};

static void make_tokens(struct world *w) {
    uint64_t rng = 5;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        /* From the second on each begins like an earlier one, for up to five blocks. */
        uint32_t same = i ? qn_test_below(&rng, LENGTH / 2) : 0, from = i ? qn_test_below(&rng, i) : 0;
        for (uint32_t t = 0; t < LENGTH; t++) {
            w->tokens[i][t] = t < same ? w->tokens[from][t] : (int32_t)qn_test_below(&rng, w->vocab);
        }
    }
}

static void run_config(void **state) {
    const struct config *c = *state;
    struct world w = {.c = c};
    const char *env = getenv("QUERN_TRACES");
    unsigned long traces = env ? strtoul(env, NULL, 10) : TRACES;
    w.m = open_model(c, two_threads, true, (size_t)64 << 20);
    w.v = qn_test_variant(w.m, c->attention, 0);
    /* A pool of 22 blocks where six sequences could want 36. */
    w.m->kv->budget = 22 * w.v->block_bytes;
    w.vocab = qn_model_info(w.m)->vocab;
    w.logits = calloc((size_t)SEQUENCES * LENGTH * w.vocab, sizeof *w.logits);
    assert_non_null(w.logits);
    make_tokens(&w);
    solo(&w);
    uint64_t first_seed = (uint64_t)(c - configs) * 1000000 + 1; /* no two models see the same traces */
    for (unsigned long i = 0; i < traces; i++) trace(&w, first_seed + i);
    struct qn_state_stats s = qn_model_state(w.m);
    printf("%s: %lu traces, %u rows compared, %zu of %zu tokens from the cache\n", c->name, traces,
           w.rows_seen, s.hits_tokens, s.lookups_tokens);
    assert_int_equal(w.bad, 0);
    assert_true(w.rows_seen > 100 * traces / 4 && s.hits_tokens > 0);
    qn_variant_unref(w.v);
    qn_model_close(&w.m);
    free(w.logits);
}

int main(void) {
    struct CMUnitTest tests[sizeof configs / sizeof *configs];
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        tests[i] = (struct CMUnitTest){.name = configs[i].name,
                                       .test_func = run_config,
                                       .initial_state = (void *)(uintptr_t)&configs[i]};
    }
    two_threads = qn_pool_new(2);
    if (!two_threads) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    qn_pool_free(&two_threads);
    return failed;
}
