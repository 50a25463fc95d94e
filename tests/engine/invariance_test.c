/* The same bits whoever a sequence shares a step with.
 *
 * For each model (families, weight types, state types, structures, fixed-size states) the logits of a family
 * of token sequences are taken once, one token per step, alone, without cache, on one thread. Then random
 * traces run over another instance of the model with two threads, the prefix cache and a small state pool:
 * sequences begin (with a cache match), take chunks of random size in steps of random company, some of whose
 * last tokens are guesses that turn out wrong and are taken back, fork, are cut back, are preempted and
 * recomputed, end. Every row's logits must equal the solo run's, memcmp; after every operation the accounting
 * must add up, and at the end of a trace no block is in use. QUERN_TRACES sets the traces per model. Seeds
 * are printed on failure. */
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
#include "tests/support/fold.h"
#include "tests/support/tiny_open.h"

#define SEQUENCES 6
#define LENGTH    600 /* most */
#define SLOTS     10  /* most */
#define TRACES    80

static struct qn_pool *two_threads;

/* How much a trace does. Copies of fixed-size states are made at 256 tokens and more. */
struct shape {
    uint32_t length, slots, rows, chunk, ops;
    uint32_t blocks, fixed; /* that the pool has room for, at most; blocks: fewer than all slots could want */
};
static const struct shape brief = {90, 6, 64, 40, 24, 22, 0}, deep = {LENGTH, SLOTS, 320, 300, 40, 150, 40};

enum fold { NO_FOLD = 0, FOLD, FOLD_PAGED };

struct config {
    const char *name, *family; /* family NULL: the name describes a synthetic model */
    enum qn_type type;
    enum qn_state_type state;
    const char *attention; /* "" = native */
    uint32_t kv_heads;     /* of the checkpoint; 0 = the family's */
    uint32_t wide;         /* d_model 256 for block types of 256 */
    uint32_t window;
    enum fold fold; /* the test's own attention instead */
};

struct world {
    const struct config *c;
    const struct shape *sh;
    struct qn_model *m;
    struct qn_variant *v;
    uint32_t vocab;
    int32_t tokens[SEQUENCES][LENGTH];
    float *logits; /* [SEQUENCES, length, vocab] */
    uint64_t rng, seed;
    struct slot {
        struct qn_seq *seq;
        uint32_t which; /* of tokens */
    } slots[SLOTS];
    /* of the step that runs */
    uint32_t span_slot[SLOTS];
    uint32_t right[SLOTS];         /* length up to which a span's tokens are its sequence's */
    int32_t guess[SLOTS][LENGTH];  /* tokens of spans that end in guesses */
    uint32_t guessed, taken_back;  /* tokens */
    uint32_t rows_seen, bad, cuts; /* cuts: ways back to a copy of a fixed-size state */
};

static float *expected(struct world *w, uint32_t which, uint32_t pos) {
    return w->logits + ((size_t)which * w->sh->length + pos) * w->vocab;
}

static struct qn_model *open_model(const struct config *c, struct qn_pool *pool, bool cache) {
    struct qn_open_options opt = {.pool = pool,
                                  .state_type = c->state,
                                  .state_bytes = (size_t)64 << 20,
                                  .max_step_tokens = deep.rows,
                                  .prefix_cache = cache};
    if (!c->family) {
        struct qn_model *m = NULL;
        struct qn_err err = {0};
        if (qn_model_open(c->name, &opt, &m, &err)) fail_msg("%s: %s", c->name, err.msg);
        return m;
    }
    struct qn_test_tiny t = qn_test_tiny_default(c->family);
    t.type = c->type;
    t.context = 1024;
    t.tokenizer = false;
    t.seed = 11;
    if (c->wide) {
        t.d_model = t.ffn = 256;
        t.heads = 4;
        t.head_dim = 64;
    }
    if (c->kv_heads) t.kv_heads = c->kv_heads;
    struct qn_model *m = qn_test_tiny_open(&t, &opt);
    m->ckpt->spec.window = c->window;
    return m;
}

static struct qn_variant *variant(const struct config *c, struct qn_model *m) {
    struct qn_variant *v = qn_test_variant(m, c->attention, 0);
    if (c->fold) qn_test_fold(v, c->fold == FOLD_PAGED);
    return v;
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
    struct qn_model *m = open_model(w->c, NULL, false);
    struct qn_variant *v = variant(w->c, m);
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        struct qn_seq *q;
        struct keep k = {w, i};
        assert_int_equal(qn_seq_new(v, 0, false, &q, NULL), QN_OK);
        for (uint32_t t = 0; t < w->sh->length; t++) {
            struct qn_span span = {.seq = q, .tokens = &w->tokens[i][t], .n = 1, .want = QN_WANT_LAST};
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
    if (pos >= w->right[span]) return;
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
    qn_seq_match(s->seq, w->tokens[s->which], 1 + qn_test_below(&w->rng, w->sh->length));
}

static void fork_one(struct world *w, struct slot *from) {
    struct slot *to = NULL;
    for (uint32_t i = 0; i < w->sh->slots && !to; i++) {
        if (!w->slots[i].seq) to = &w->slots[i];
    }
    if (!to) return;
    uint32_t which = qn_test_below(&w->rng, SEQUENCES), n = qn_seq_length(from->seq);
    /* The copy goes on along another sequence when that one has the same beginning. */
    if (memcmp(w->tokens[which], w->tokens[from->which], n * sizeof(int32_t)) != 0) which = from->which;
    struct qn_state_stats st = qn_model_state(w->m);
    size_t need = n > 0 ? w->v->fixed_bytes : 0;
    int rc = qn_seq_fork(from->seq, &to->seq, NULL);
    assert_int_equal(rc, st.used + need <= st.budget ? QN_OK : QN_ERR_NO_STATE);
    to->which = which;
}

/* Truncates; a state that can't forget only to 0 or to where the cache has a copy of it. */
static bool cut(struct world *w, struct slot *s, uint32_t to) {
    uint32_t n = qn_seq_length(s->seq);
    int rc = qn_seq_truncate(s->seq, to);
    bool free_to = w->v->attention.ops->rollback || to == 0 || to == n;
    assert_true(rc == QN_OK || (!free_to && rc == QN_ERR_UNSUPPORTED));
    assert_int_equal(qn_seq_length(s->seq), rc == QN_OK ? to : n);
    if (rc == QN_OK && !free_to) w->cuts++;
    return rc == QN_OK;
}

/* Cuts a sequence back to where it parts from another one and goes on along that: blocks that forks and the
 * cache still use must keep the old tokens. */
static void turn_off(struct world *w, struct slot *s) {
    uint32_t to = qn_test_below(&w->rng, SEQUENCES), same = 0, n = qn_seq_length(s->seq);
    while (same < n && w->tokens[to][same] == w->tokens[s->which][same]) same++;
    if (cut(w, s, same)) s->which = to;
}

static void cut_anywhere(struct world *w, struct slot *s) {
    uint32_t n = qn_seq_length(s->seq), to = n ? qn_test_below(&w->rng, n + 1) : 0;
    if (qn_test_below(&w->rng, 2)) to -= to % QN_SNAPSHOT_TOKENS;
    cut(w, s, to);
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
    struct slot *victim = &w->slots[qn_test_below(&w->rng, w->sh->slots)];
    if (victim->seq && victim != s) qn_seq_reset(victim->seq);
    return false;
}

/* Ends some of the spans in guesses, of which the first few are right. */
static void make_guesses(struct world *w, struct qn_span *spans, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        struct qn_span *sp = &spans[i];
        uint32_t have = qn_seq_length(sp->seq);
        int32_t *t = w->guess[i];
        w->right[i] = have + sp->n;
        if (!w->v->info.rollback || sp->n < 2 || qn_test_below(&w->rng, 2) == 0) continue;
        sp->drafts = 1 + qn_test_below(&w->rng, sp->n - 1);
        uint32_t good = sp->n - sp->drafts + qn_test_below(&w->rng, sp->drafts + 1);
        memcpy(t, sp->tokens, sp->n * sizeof *t);
        for (uint32_t k = good; k < sp->n; k++) t[k] = (t[k] + 1) % (int32_t)w->vocab;
        sp->tokens = t;
        w->right[i] = have + good;
        w->guessed += sp->drafts;
    }
}

/* Only down to where the guesses begin. */
static void take_back(struct world *w, const struct qn_span *spans, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        struct qn_seq *q = spans[i].seq;
        uint32_t end = qn_seq_length(q);
        assert_int_equal(qn_seq_rewind(q, end + 1), QN_ERR_INVALID);
        assert_int_equal(qn_seq_rewind(q, end - spans[i].drafts - 1), QN_ERR_INVALID);
        assert_int_equal(qn_seq_rewind(q, w->right[i]), QN_OK);
        w->taken_back += end - w->right[i];
    }
}

static void step(struct world *w) {
    struct qn_span spans[SLOTS];
    const struct shape *sh = w->sh;
    uint32_t n = 0, rows = 0, first = qn_test_below(&w->rng, sh->slots);
    for (uint32_t i = 0; i < sh->slots; i++) {
        uint32_t at = (first + i) % sh->slots;
        struct slot *s = &w->slots[at];
        if (!s->seq || qn_test_below(&w->rng, 4) == 0) continue;
        uint32_t have = qn_seq_length(s->seq), left = sh->length - have;
        uint32_t most = qn_test_below(&w->rng, 2) ? 1 : sh->chunk;
        if (most > left) most = left;
        if (most > sh->rows - rows) most = sh->rows - rows;
        if (most == 0) continue;
        uint32_t take = 1 + qn_test_below(&w->rng, most);
        uint32_t ahead = have + take + qn_test_below(&w->rng, 20);
        if (!make_room(w, s, ahead < sh->length ? ahead : sh->length)) continue;
        w->span_slot[n] = at;
        spans[n++] = (struct qn_span){.seq = s->seq,
                                      .tokens = w->tokens[s->which] + have,
                                      .n = take,
                                      .want = qn_test_below(&w->rng, 3),
                                      .snapshot = qn_test_below(&w->rng, 2)};
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
    make_guesses(w, spans, kept);
    if (qn_step_run(&st, &err)) fail_msg("step: %s (trace seed %llu)", err.msg, (unsigned long long)w->seed);
    take_back(w, spans, kept);
}

static void operate(struct world *w) {
    struct slot *s = &w->slots[qn_test_below(&w->rng, w->sh->slots)];
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
        cut_anywhere(w, s);
    } else if (dice < 14) {
        qn_seq_reset(s->seq);
    } else if (dice < 15) {
        qn_seq_free(&s->seq);
    } else if (qn_test_below(&w->rng, 8) == 0) {
        qn_model_drop_cache(w->m);
    }
    check_sums(w);
}

/* Room for a few fixed-size states, so that sequences wait, or for many, so that copies of them stay. */
static void resize_pool(struct world *w) {
    uint32_t fixed = w->sh->fixed ? 5 + qn_test_below(&w->rng, w->sh->fixed) : 0;
    qn_model_drop_cache(w->m);
    w->m->kv->budget = w->sh->blocks * w->v->block_bytes + fixed * w->v->fixed_bytes;
}

static void trace(struct world *w, uint64_t seed) {
    w->seed = w->rng = seed;
    if (w->m->kv->budget == 0 || (w->sh->fixed && qn_test_below(&w->rng, 8) == 0)) resize_pool(w);
    for (uint32_t i = 0; i < 3; i++) begin(w, &w->slots[i]);
    for (uint32_t i = 0; i < w->sh->ops; i++) operate(w);
    for (uint32_t i = 0; i < SLOTS; i++) qn_seq_free(&w->slots[i].seq);
    assert_int_equal(qn_model_state(w->m).used, 0);
    assert_int_equal(qn_model_state(w->m).blocks_used, 0);
}

/* --- models --- */
#define SYNTHETIC_KV(state, what)                                                                            \
    {                                                                                                        \
        "synthetic:hidden=64,layers=2,heads=4,vocab=272,n=640," what, NULL, QN_F32, state, "", 0, 0, 0,      \
            NO_FOLD                                                                                          \
    }
#define SYNTHETIC(what) SYNTHETIC_KV(QN_STATE_F16, what)
static const struct config configs[] = {
    {"llama F32, f32 state", "llama", QN_F32, QN_STATE_F32, "", 0, 0, 0, NO_FOLD},
    {"llama F16, f16 state", "llama", QN_F16, QN_STATE_F16, "", 2, 0, 0, NO_FOLD},
    {"llama Q8_0", "llama", QN_Q8_0, QN_STATE_F16, "", 2, 0, 0, NO_FOLD},
    {"llama Q4_1", "llama", QN_Q4_1, QN_STATE_F16, "", 1, 0, 0, NO_FOLD},
    {"llama Q4_K", "llama", QN_Q4_K, QN_STATE_F16, "", 2, 1, 0, NO_FOLD},
    {"llama Q6_K, f32 state", "llama", QN_Q6_K, QN_STATE_F32, "", 2, 1, 0, NO_FOLD},
    {"llama window", "llama", QN_F32, QN_STATE_F16, "", 2, 0, 21, NO_FOLD},
    {"llama gqa as mha", "llama", QN_Q8_0, QN_STATE_F16, "mha", 2, 0, 0, NO_FOLD},
    {"llama mha as mqa", "llama", QN_F16, QN_STATE_F16, "mqa", 4, 0, 0, NO_FOLD},
    {"qwen2 BF16", "qwen2", QN_BF16, QN_STATE_F16, "", 0, 0, 0, NO_FOLD},
    {"qwen3 Q5_0", "qwen3", QN_Q5_0, QN_STATE_F16, "", 0, 0, 0, NO_FOLD},
    {"gemma F32", "gemma", QN_F32, QN_STATE_F16, "", 0, 0, 0, NO_FOLD},
    {"gpt2 F32", "gpt2", QN_F32, QN_STATE_F32, "", 0, 0, 0, NO_FOLD},
    {"gpt_bigcode Q4_0", "gpt_bigcode", QN_Q4_0, QN_STATE_F16, "", 0, 0, 0, NO_FOLD},
    {"llama F32, bf16 state", "llama", QN_F32, QN_STATE_BF16, "", 2, 0, 0, NO_FOLD},
    {"llama Q8_0, q8 state", "llama", QN_Q8_0, QN_STATE_Q8, "", 2, 0, 0, NO_FOLD},
    {"llama window, q8 state", "llama", QN_F32, QN_STATE_Q8, "", 2, 0, 21, NO_FOLD},
    {"llama window, f32 state", "llama", QN_F32, QN_STATE_F32, "", 1, 0, 33, NO_FOLD},
    {"llama mha as mqa, q8 state", "llama", QN_F16, QN_STATE_Q8, "mqa", 4, 0, 0, NO_FOLD},
    {"gemma F32, q8 state", "gemma", QN_F32, QN_STATE_Q8, "", 0, 0, 0, NO_FOLD},
    SYNTHETIC_KV(QN_STATE_Q8, "type=f32,kv_heads=1,attention=mqa"),
    SYNTHETIC_KV(QN_STATE_BF16, "type=q8_0,kv_heads=2,attention=gqa"),
    SYNTHETIC_KV(QN_STATE_F32, "type=q4_0,kv_heads=4,attention=mha,sharing=all"),
    {"fixed-size state", "llama", QN_F32, QN_STATE_F16, "", 2, 0, 0, FOLD},
    {"fixed-size and paged state", "llama", QN_F32, QN_STATE_F16, "", 2, 0, 0, FOLD_PAGED},
    SYNTHETIC("type=f32,kv_heads=2,attention=performer,features=24"),
    SYNTHETIC("type=q8_0,kv_heads=4,attention=performer,features=40,per_head=true,lags=7"),
    SYNTHETIC("type=f16,kv_heads=1,attention=performer,features=16,kernel=relu,sharing=all"),
    SYNTHETIC("type=f32,kv_heads=2,attention=linformer,k=20"),
    SYNTHETIC("type=q8_0,kv_heads=4,attention=linformer,k=16,per_head=true,rope=false,ffn=moe,experts=4,ffn_"
              "dim=32"),
    SYNTHETIC("type=q4_0,kv_heads=1,attention=linformer,k=33,sharing=all,lags=3"),
    SYNTHETIC("type=q8_0,kv_heads=2,attention=gqa,ffn=moe,experts=5,experts_per_token=3,ffn_dim=64"),
    SYNTHETIC("type=f16,attention=mqa,ffn=moe,expert=relu,experts=4,ffn_dim=64,shared_dim=32"),
    SYNTHETIC("type=q8_0,kv_heads=2,attention=gqa,sharing=all,lags=15"),
    SYNTHETIC("type=f32,kv_heads=4,attention=mha,ffn=geglu,sharing=ffn,lags=1,tied=false"),
};

static void make_tokens(struct world *w) {
    uint64_t rng = 5;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        /* From the second on each begins like an earlier one. */
        uint32_t same = i ? qn_test_below(&rng, w->sh->length * 2 / 3) : 0,
                 from = i ? qn_test_below(&rng, i) : 0;
        for (uint32_t t = 0; t < w->sh->length; t++) {
            w->tokens[i][t] = t < same ? w->tokens[from][t] : (int32_t)qn_test_below(&rng, w->vocab);
        }
    }
}

static void run_config(void **state) {
    const struct config *c = *state;
    struct world w = {.c = c};
    const char *env = getenv("QUERN_TRACES");
    unsigned long traces = env ? strtoul(env, NULL, 10) : TRACES;
    w.m = open_model(c, two_threads, true);
    w.v = variant(c, w.m);
    w.sh = w.v->fixed_bytes > 0 ? &deep : &brief;
    w.m->kv->budget = 0;
    w.vocab = qn_model_info(w.m)->vocab;
    w.logits = calloc((size_t)SEQUENCES * w.sh->length * w.vocab, sizeof *w.logits);
    assert_non_null(w.logits);
    make_tokens(&w);
    solo(&w);
    uint64_t first_seed = (uint64_t)(c - configs) * 1000000 + 1; /* no two models see the same traces */
    for (unsigned long i = 0; i < traces; i++) trace(&w, first_seed + i);
    struct qn_state_stats s = qn_model_state(w.m);
    printf(
        "%s: %lu traces, %u rows compared, %zu of %zu tokens from the cache, %u ways back, %u of %u guesses "
        "taken back\n",
        c->name, traces, w.rows_seen, s.hits_tokens, s.lookups_tokens, w.cuts, w.taken_back, w.guessed);
    assert_true(!w.v->info.rollback || w.taken_back > traces / 4);
    assert_int_equal(w.bad, 0);
    assert_int_equal(qn_test_fold_faults(), 0);
    assert_true(w.v->fixed_bytes == 0 || traces < TRACES || w.cuts > 0);
    assert_true(w.rows_seen > 100 * traces / 4);
    assert_true(s.hits_tokens > 0 ||
                (w.v->fixed_bytes > 0 && traces < TRACES)); /* copies are few and far between */
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
