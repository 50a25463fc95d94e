/* Sequences and steps beyond what traces show: a structure that is not causal runs once and whole; a
 * fixed-size state goes back to its copies only; a step that fails leaves sequences as they were; the prefix
 * cache learns no guess before a step goes on from it; preceding tokens add their tables to the embedding
 * wherever a span is cut; q and k are normalised head by head or whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/mem.h"
#include "tests/support/fold.h"
#include "tests/support/tiny_open.h"

#define ROWS  400
#define VOCAB 272
#define D     64

static int32_t tokens[ROWS];
static float seen[ROWS][VOCAB]; /* by position: logits, or hidden rows */

static struct qn_model *open_tiny(const char *family, uint32_t heads) {
    struct qn_test_tiny t = qn_test_tiny_default(family);
    struct qn_open_options opt = {
        .state_type = QN_STATE_F32, .state_bytes = 1 << 20, .max_step_tokens = ROWS, .prefix_cache = true};
    t.tokenizer = false;
    t.context = ROWS;
    if (heads) t.heads = t.kv_heads = heads;
    return qn_test_tiny_open(&t, &opt);
}

static void keep(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)span;
    memcpy(seen[pos], v, *(size_t *)ctx * sizeof *v);
}

static int run(struct qn_seq *s, const int32_t *t, uint32_t n, enum qn_want want, bool snapshot) {
    size_t width = want == QN_WANT_HIDDEN ? D : VOCAB;
    struct qn_span span = {.seq = s, .tokens = t, .n = n, .want = want, .snapshot = snapshot};
    struct qn_step step = {
        .variant = s->variant, .spans = &span, .n_spans = 1, .on_row = keep, .ctx = &width};
    return qn_step_run(&step, NULL);
}

static struct qn_seq *begin(struct qn_variant *v, bool cache) {
    struct qn_seq *s;
    assert_int_equal(qn_seq_new(v, 0, cache, &s, NULL), QN_OK);
    return s;
}

static void not_causal_runs_once_and_whole(void **state) {
    (void)state;
    struct qn_model *m = open_tiny("llama", 0);
    struct qn_variant *v = qn_test_variant(m, "", 0);
    static float first[VOCAB];
    struct qn_seq *copy;
    qn_test_whole(v);
    struct qn_seq *s = begin(v, true);
    assert_int_equal(qn_seq_need(s, 30), 0);
    assert_int_equal(run(s, tokens, 30, QN_WANT_HIDDEN, false), QN_ERR_NO_STATE);
    assert_int_equal(qn_seq_reserve(s, 30), QN_OK);
    assert_int_equal(run(s, tokens, 30, QN_WANT_HIDDEN, true), QN_OK);
    memcpy(first, seen[0], D * sizeof(float));
    assert_int_equal(qn_seq_length(s), 30);
    assert_int_equal(qn_seq_bytes(s).peak, 0);
    assert_int_equal(qn_seq_reserve(s, 31), QN_OK);
    assert_int_equal(run(s, tokens + 30, 1, QN_WANT_HIDDEN, false), QN_ERR_UNSUPPORTED);
    assert_int_equal(qn_seq_truncate(s, 7), QN_ERR_UNSUPPORTED);
    assert_int_equal(qn_seq_fork(s, &copy, NULL), QN_OK);
    assert_int_equal(qn_seq_reserve(copy, 31), QN_OK);
    assert_int_equal(run(copy, tokens + 30, 1, QN_WANT_HIDDEN, false), QN_ERR_UNSUPPORTED);
    qn_seq_free(&copy);
    /* once more from the start: the same bits; another last token changes the first row */
    assert_int_equal(qn_seq_truncate(s, 0), QN_OK);
    assert_int_equal(qn_seq_match(s, tokens, 30), 0);
    assert_int_equal(run(s, tokens, 30, QN_WANT_HIDDEN, false), QN_OK);
    assert_memory_equal(first, seen[0], D * sizeof(float));
    qn_seq_reset(s);
    int32_t other[30];
    memcpy(other, tokens, sizeof other);
    other[29]++;
    assert_int_equal(qn_seq_reserve(s, 30), QN_OK);
    assert_int_equal(run(s, other, 30, QN_WANT_HIDDEN, false), QN_OK);
    assert_memory_not_equal(first, seen[0], D * sizeof(float));
    assert_int_equal(qn_test_fold_faults(), 0);
    qn_seq_free(&s);
    qn_variant_unref(v);
    qn_model_close(&m);
}

static struct qn_variant *bidirectional(struct qn_model *m, const char *attention) {
    struct qn_structure_request req = {.convert = true};
    struct qn_variant *v = NULL;
    struct qn_err err = {0};
    qn_part_init(&req.attention, attention);
    qn_part_add(&req.attention, "causal", QN_PARAM_BOOL, 0);
    if (qn_variant_resolve(m, &req, &v, &err)) fail_msg("%s: %s", attention, err.msg);
    if (qn_variant_prepare(v, NULL, &err)) fail_msg("%s: %s", attention, err.msg);
    assert_false(qn_variant_structure(v)->causal);
    return v;
}

#define WHOLES 5
static float whole_rows[2][WHOLES][64][D]; /* alone, together */

static void keep_whole(void *ctx, uint32_t span, uint32_t pos, float *v) {
    float(*rows)[64][D] = ctx;
    memcpy(rows[span][pos], v, D * sizeof *v);
}

/* Whole sequences of several lengths, each alone on one thread and all in one step on two. */
static void whole_in_company(const char *attention, const char *model) {
    const uint32_t n[WHOLES] = {1, 17, 33, 64, 16};
    struct qn_pool *two = qn_pool_new(2);
    struct qn_open_options opt = {.state_type = QN_STATE_F32, .state_bytes = 1 << 20, .max_step_tokens = 200};
    assert_non_null(two);
    for (int round = 0; round < 2; round++) {
        struct qn_model *m = NULL;
        struct qn_err err = {0};
        opt.pool = round ? two : NULL;
        if (qn_model_open(model, &opt, &m, &err)) fail_msg("%s", err.msg);
        struct qn_variant *v = bidirectional(m, attention);
        struct qn_span spans[WHOLES];
        for (uint32_t i = 0; i < WHOLES; i++) {
            spans[i] = (struct qn_span){
                .seq = begin(v, true), .tokens = tokens + i, .n = n[i], .want = QN_WANT_HIDDEN};
            assert_int_equal(qn_seq_reserve(spans[i].seq, n[i]), QN_OK);
        }
        for (uint32_t i = 0; i < (round ? 1 : WHOLES); i++) {
            struct qn_step step = {.variant = v,
                                   .spans = spans + i,
                                   .n_spans = round ? WHOLES : 1,
                                   .on_row = keep_whole,
                                   .ctx = whole_rows[round] + i};
            assert_int_equal(qn_step_run(&step, NULL), QN_OK);
        }
        assert_int_equal(qn_model_state(m).used + qn_model_state(m).cached, 0);
        for (uint32_t i = 0; i < WHOLES; i++) qn_seq_free(&spans[i].seq);
        qn_variant_unref(v);
        qn_model_close(&m);
    }
    assert_memory_equal(whole_rows[0], whole_rows[1], sizeof whole_rows[0]);
    qn_pool_free(&two);
}

static void whole_sequences_ignore_company(void **state) {
    (void)state;
#define SHAPE "synthetic:hidden=64,layers=2,heads=4,kv_heads=2,vocab=300,n=128,type=q8_0,"
    whole_in_company("gqa", SHAPE "attention=gqa");
    whole_in_company("performer", SHAPE "attention=performer,features=24");
    whole_in_company("linformer", SHAPE "attention=linformer,k=12,lags=3");
    whole_in_company("linformer", SHAPE "attention=gqa,sharing=all,ffn=moe,experts=4");
#undef SHAPE
}

static void a_fixed_state_goes_back_to_its_copies(void **state) {
    (void)state;
    struct qn_model *m = open_tiny("llama", 0);
    struct qn_variant *v = qn_test_variant(m, "", 0);
    qn_test_fold(v, false);
    struct qn_seq *s = begin(v, true), *t = begin(v, true), *copy;
    static float want[ROWS][VOCAB];
    assert_int_equal(qn_seq_need(s, ROWS), v->fixed_bytes);
    assert_int_equal(qn_seq_reserve(s, ROWS), QN_OK);
    assert_int_equal(qn_seq_need(s, ROWS), 0);
    assert_int_equal(run(s, tokens, 330, QN_WANT_ALL, true), QN_OK); /* copies at 256 and 329 */
    assert_int_equal(run(s, tokens + 330, 70, QN_WANT_ALL, false), QN_OK);
    memcpy(want, seen, sizeof want);
    assert_int_equal(qn_model_state(m).blocks_cached, 2);
    assert_int_equal(qn_seq_truncate(s, 330), QN_ERR_UNSUPPORTED);
    assert_int_equal(qn_seq_length(s), ROWS);
    assert_int_equal(qn_seq_truncate(s, 329), QN_OK);
    assert_int_equal(run(s, tokens + 329, 71, QN_WANT_ALL, false), QN_OK);
    assert_int_equal(qn_seq_truncate(s, 256), QN_OK);
    assert_int_equal(run(s, tokens + 256, 144, QN_WANT_ALL, false), QN_OK);
    assert_memory_equal(want, seen, sizeof want);
    /* another sequence begins at the prompt's last token, a fork of it goes on by itself */
    assert_int_equal(qn_seq_match(t, tokens, 330), 329); /* the same prompt once more */
    assert_int_equal(qn_seq_reserve(t, ROWS), QN_OK);
    assert_int_equal(qn_seq_fork(t, &copy, NULL), QN_OK);
    assert_int_equal(qn_seq_bytes(copy).held, v->fixed_bytes);
    assert_int_equal(run(t, tokens + 329, 71, QN_WANT_ALL, false), QN_OK);
    memset(seen + 329, 0, 71 * sizeof *seen);
    assert_int_equal(qn_seq_reserve(copy, ROWS), QN_OK);
    assert_int_equal(run(copy, tokens + 329, 71, QN_WANT_ALL, false), QN_OK);
    assert_memory_equal(want, seen, sizeof want);
    qn_model_drop_cache(m);
    assert_int_equal(qn_seq_truncate(s, 256), QN_ERR_UNSUPPORTED);
    /* the last token of a prompt by itself, and a prompt that ends at a multiple */
    qn_seq_reset(t);
    assert_int_equal(qn_seq_reserve(t, ROWS), QN_OK);
    assert_int_equal(run(t, tokens, 99, QN_WANT_NONE, false), QN_OK);
    assert_int_equal(qn_model_state(m).blocks_cached, 0);
    assert_int_equal(run(t, tokens + 99, 1, QN_WANT_NONE, true), QN_OK);
    assert_int_equal(qn_model_state(m).blocks_cached, 1);
    assert_int_equal(run(t, tokens + 100, 156, QN_WANT_NONE, true), QN_OK);
    assert_int_equal(qn_model_state(m).blocks_cached, 3);
    const uint32_t prompts[] = {100, 256, 257}, found[] = {99, 255, 256};
    for (int i = 0; i < 3; i++) {
        qn_seq_reset(t);
        assert_int_equal(qn_seq_match(t, tokens, prompts[i]), found[i]);
        assert_int_equal(qn_seq_reserve(t, ROWS), QN_OK);
        memset(seen, 0, sizeof seen);
        assert_int_equal(run(t, tokens + found[i], ROWS - found[i], QN_WANT_ALL, false), QN_OK);
        assert_memory_equal(want + found[i], seen + found[i], (ROWS - found[i]) * sizeof *want);
    }
    assert_int_equal(qn_seq_truncate(s, 0), QN_OK);
    assert_int_equal(qn_seq_bytes(s).held, 0);
    assert_int_equal(qn_test_fold_faults(), 0);
    qn_seq_free(&copy);
    qn_seq_free(&t);
    qn_seq_free(&s);
    assert_int_equal(qn_model_state(m).used, 0);
    qn_variant_unref(v);
    qn_model_close(&m);
}

/* Copies that one step takes come in place of those it would have pushed out again, as cut prompts leave
 * them: the last ones, and pages of others only as far as the copies' half of the budget goes. */
static void a_tight_budget_keeps_the_last_copies(void **state) {
    (void)state;
    static const uint32_t cuts[] = {ROWS, 100, 256};
    for (int i = 0; i < 3; i++) {
        struct qn_model *m = open_tiny("llama", 0);
        struct qn_structure_request req = {.convert = true};
        struct qn_variant *native = qn_test_variant(m, "", 0), *v = NULL;
        qn_part_init(&req.attention, "performer");
        qn_part_add(&req.attention, "features", QN_PARAM_INT, 512);
        assert_int_equal(qn_variant_resolve(m, &req, &v, NULL), QN_OK);
        assert_int_equal(qn_variant_prepare(v, NULL, NULL), QN_OK);
        size_t half = qn_model_state(m).budget / 2, copy = v->fixed_bytes + (size_t)ROWS * sizeof *tokens;
        assert_true(copy <= half && 2 * copy > half);
        struct qn_seq *s = begin(native, true), *t;
        assert_int_equal(qn_seq_reserve(s, 64), QN_OK);
        assert_int_equal(run(s, tokens, 64, QN_WANT_NONE, false), QN_OK);
        qn_seq_free(&s);
        s = begin(v, true);
        assert_int_equal(qn_seq_reserve(s, ROWS), QN_OK);
        for (uint32_t at = 0; at < ROWS;) {
            uint32_t n = ROWS - at < cuts[i] ? ROWS - at : cuts[i];
            assert_int_equal(run(s, tokens + at, n, QN_WANT_NONE, at + n == ROWS), QN_OK);
            at += n;
        }
        assert_int_equal(qn_model_state(m).cached, 4 * native->block_bytes + copy - sizeof *tokens);
        qn_seq_free(&s);
        t = begin(v, true);
        assert_int_equal(qn_seq_match(t, tokens, ROWS - 1), 0); /* nothing at 256 */
        assert_int_equal(qn_seq_match(t, tokens, ROWS), ROWS - 1);
        qn_seq_free(&t);
        t = begin(native, true);
        assert_int_equal(qn_seq_match(t, tokens, ROWS), 64);
        qn_seq_free(&t);
        qn_variant_unref(v);
        qn_variant_unref(native);
        qn_model_close(&m);
    }
}

static void a_failed_step_changes_nothing(void **state) {
    (void)state;
    for (unsigned round = 0; round < 3; round++) {
        struct qn_model *m = open_tiny("llama", 0);
        struct qn_variant *v = qn_test_variant(m, "", 0);
        if (round > 0) qn_test_fold(v, round == 2);
        struct qn_seq *s = begin(v, true), *t = begin(v, true);
        static float want[ROWS][VOCAB];
        int32_t wrong[2] = {1, VOCAB};
        size_t width = VOCAB;
        assert_int_equal(qn_seq_reserve(s, 300), QN_OK);
        assert_int_equal(qn_seq_reserve(t, 300), QN_OK);
        assert_int_equal(run(t, tokens, 300, QN_WANT_ALL, false), QN_OK);
        memcpy(want, seen, sizeof want);
        qn_seq_reset(t);
        qn_model_drop_cache(m);
        assert_int_equal(run(s, tokens, 3, QN_WANT_ALL, false), QN_OK);
        struct qn_span spans[] = {{.seq = s, .tokens = tokens + 100, .n = 290, .want = QN_WANT_ALL},
                                  {.seq = t, .tokens = wrong, .n = 2, .want = QN_WANT_ALL}};
        struct qn_step step = {.variant = v, .spans = spans, .n_spans = 2, .on_row = keep, .ctx = &width};
        assert_int_equal(qn_seq_reserve(t, 2), QN_OK);
        assert_int_equal(qn_step_run(&step, NULL), QN_ERR_INVALID);
        assert_int_equal(qn_seq_length(s), 3);
        assert_int_equal(qn_model_state(m).cached, 0);
        assert_int_equal(run(s, tokens + 3, 297, QN_WANT_ALL, false), QN_OK);
        assert_memory_equal(want, seen, 300 * sizeof *want);
        assert_int_equal(qn_test_fold_faults(), 0);
        qn_seq_free(&s);
        qn_seq_free(&t);
        qn_variant_unref(v);
        qn_model_close(&m);
    }
}

/* A model with two lags against one without, whose tables say for tokens 100, 101 … what the sums are. */
static void preceding_tokens_add_their_tables(void **state) {
    (void)state;
    struct qn_model *m = open_tiny("llama", 0), *plain = open_tiny("llama", 0);
    struct qn_variant *v = qn_test_variant(m, "", 0), *pv = qn_test_variant(plain, "", 0);
    struct qn_seq *s = begin(v, false), *p = begin(pv, false);
    struct qn_checkpoint *c = m->ckpt;
    const int32_t own[5] = {7, 7, 31, 200, 9}, sums[5] = {100, 101, 102, 103, 104};
    static float want[5][VOCAB];
    float row[D], sum[D];
    for (int i = 0; i < 2; i++) {
        assert_true(qn_matrix_alloc(&c->lags[i], QN_F32, VOCAB, D));
        for (uint32_t r = 0; r < VOCAB; r++) {
            qn_matrix_get_row(&c->embed, VOCAB - 1 - r, row);
            for (int k = 0; k < D; k++) row[k] *= 0.5f * (float)(i + 1);
            qn_matrix_set_row(&c->lags[i], r, row);
        }
    }
    c->spec.embed_lags = 2;
    for (int t = 0; t < 5; t++) {
        qn_matrix_get_row(&c->embed, (uint32_t)own[t], sum);
        for (int i = 1; i <= 2 && i <= t; i++) {
            qn_matrix_get_row(&c->lags[i - 1], (uint32_t)own[t - i], row);
            for (int k = 0; k < D; k++) sum[k] += row[k];
        }
        qn_matrix_set_row(&plain->ckpt->embed, (uint32_t)sums[t], sum);
    }
    assert_int_equal(qn_seq_reserve(p, 5), QN_OK);
    assert_int_equal(run(p, sums, 5, QN_WANT_HIDDEN, false), QN_OK);
    memcpy(want, seen, sizeof want);
    assert_int_equal(qn_seq_reserve(s, 5), QN_OK);
    for (uint32_t cut = 1; cut <= 5; cut++) {
        memset(seen, 0, sizeof want);
        assert_int_equal(qn_seq_truncate(s, 0), QN_OK);
        assert_int_equal(qn_seq_reserve(s, 5), QN_OK);
        for (uint32_t at = 0; at < 5; at += cut) {
            uint32_t n = 5 - at < cut ? 5 - at : cut;
            assert_int_equal(run(s, own + at, n, QN_WANT_HIDDEN, false), QN_OK);
        }
        for (int t = 0; t < 5; t++) assert_memory_equal(want[t], seen[t], D * sizeof(float));
    }
    assert_int_equal(qn_seq_truncate(s, 2), QN_OK);
    assert_int_equal(qn_seq_reserve(s, 5), QN_OK);
    assert_int_equal(run(s, own + 2, 3, QN_WANT_HIDDEN, false), QN_OK);
    for (int t = 0; t < 5; t++) assert_memory_equal(want[t], seen[t], D * sizeof(float));
    for (int i = 0; i < 2; i++) qn_matrix_free(&c->lags[i]);
    c->spec.embed_lags = 0;
    qn_seq_free(&s);
    qn_seq_free(&p);
    qn_variant_unref(v);
    qn_variant_unref(pv);
    qn_model_close(&m);
    qn_model_close(&plain);
}

/* The last logits of 10 tokens, with q and k normalised as `whole` says; the vectors of one head are
 * repeated. */
static void logits_normalised(uint32_t heads, bool whole, float *out) {
    struct qn_model *m = open_tiny("qwen3", heads);
    struct qn_variant *v = qn_test_variant(m, "", 0);
    struct qn_seq *s = begin(v, false);
    struct qn_spec *spec = &m->ckpt->spec;
    uint32_t dh = spec->head_dim, blocks = spec->attn_blocks;
    float *wide = calloc((size_t)2 * blocks * heads * dh, sizeof *wide);
    float **saved = calloc(2 * (size_t)blocks, sizeof *saved);
    assert_non_null(wide);
    assert_non_null(saved);
    for (uint32_t b = 0; b < blocks; b++) {
        float *to[2] = {wide + (size_t)2 * b * heads * dh, wide + (size_t)(2 * b + 1) * heads * dh};
        saved[2 * b] = m->ckpt->attn[b].q_norm;
        saved[2 * b + 1] = m->ckpt->attn[b].k_norm;
        for (uint32_t i = 0; i < heads * dh; i++) {
            to[0][i] = saved[2 * b][i % dh];
            to[1][i] = saved[2 * b + 1][i % dh];
        }
        m->ckpt->attn[b].q_norm = to[0];
        m->ckpt->attn[b].k_norm = to[1];
    }
    spec->qk_norm_whole = whole;
    assert_int_equal(qn_seq_reserve(s, 10), QN_OK);
    assert_int_equal(run(s, tokens, 10, QN_WANT_LAST, false), QN_OK);
    memcpy(out, seen[9], VOCAB * sizeof *out);
    for (uint32_t b = 0; b < blocks; b++) {
        m->ckpt->attn[b].q_norm = saved[2 * b];
        m->ckpt->attn[b].k_norm = saved[2 * b + 1];
    }
    free(saved);
    free(wide);
    qn_seq_free(&s);
    qn_variant_unref(v);
    qn_model_close(&m);
}

static void q_and_k_are_normalised_whole(void **state) {
    (void)state;
    static float a[VOCAB], b[VOCAB];
    logits_normalised(1, false, a);
    logits_normalised(1, true, b);
    assert_memory_equal(a, b, sizeof a); /* one head is the whole */
    logits_normalised(4, false, a);
    logits_normalised(4, true, b);
    assert_memory_not_equal(a, b, sizeof a);
}

/* What a new sequence would find of the first n tokens. */
static uint32_t found(struct qn_variant *v, const int32_t *t, uint32_t n) {
    struct qn_seq *s = begin(v, true);
    uint32_t got = qn_seq_match(s, t, n);
    qn_seq_free(&s);
    return got;
}

static int run_guesses(struct qn_seq *s, const int32_t *t, uint32_t n, uint32_t drafts) {
    size_t width = VOCAB;
    struct qn_span span = {.seq = s, .tokens = t, .n = n, .want = QN_WANT_ALL, .drafts = drafts};
    struct qn_step step = {
        .variant = s->variant, .spans = &span, .n_spans = 1, .on_row = keep, .ctx = &width};
    return qn_step_run(&step, NULL);
}

static void the_cache_learns_no_guess(void **state) {
    (void)state;
    struct qn_model *m = open_tiny("llama", 0);
    struct qn_variant *v = qn_test_variant(m, "", 0);
    struct qn_seq *s = begin(v, true);
    int32_t wrong[32];
    memcpy(wrong, tokens, sizeof wrong);
    wrong[15]++;
    assert_int_equal(qn_seq_reserve(s, 64), QN_OK);
    size_t held = qn_seq_bytes(s).held;
    assert_int_equal(run_guesses(s, wrong, 20, 20), QN_ERR_INVALID);
    assert_int_equal(run_guesses(s, wrong, 20, 8), QN_OK); /* the guesses begin in the first block */
    assert_int_equal(found(v, wrong, 20), 0);
    assert_int_equal(qn_seq_rewind(s, 11), QN_ERR_INVALID);
    assert_int_equal(qn_seq_rewind(s, 15), QN_OK); /* three of eight were right */
    assert_int_equal(qn_seq_bytes(s).held, held);  /* what was reserved stays */
    assert_int_equal(run_guesses(s, tokens + 15, 5, 4), QN_OK);
    assert_int_equal(found(v, wrong, 20), 0);
    assert_int_equal(found(v, tokens, 20), 16); /* settled by this step: it went on from them */
    assert_int_equal(qn_seq_rewind(s, 17), QN_OK);
    assert_int_equal(qn_seq_rewind(s, 15), QN_ERR_INVALID);
    assert_int_equal(run_guesses(s, tokens + 17, 20, 6), QN_OK); /* 31 are certain */
    assert_int_equal(found(v, tokens, 40), 16);
    assert_int_equal(run(s, tokens + 37, 1, QN_WANT_LAST, false), QN_OK);
    assert_int_equal(found(v, tokens, 40), 32);
    qn_seq_free(&s);
    qn_test_fold(v, false);
    s = begin(v, true);
    assert_int_equal(qn_seq_reserve(s, 64), QN_OK);
    assert_int_equal(run_guesses(s, tokens, 4, 1), QN_ERR_INVALID); /* its state could not be taken back */
    qn_seq_free(&s);
    qn_variant_unref(v);
    qn_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(not_causal_runs_once_and_whole),
        cmocka_unit_test(whole_sequences_ignore_company),
        cmocka_unit_test(a_fixed_state_goes_back_to_its_copies),
        cmocka_unit_test(a_tight_budget_keeps_the_last_copies),
        cmocka_unit_test(a_failed_step_changes_nothing),
        cmocka_unit_test(the_cache_learns_no_guess),
        cmocka_unit_test(preceding_tokens_add_their_tables),
        cmocka_unit_test(q_and_k_are_normalised_whole),
    };
    for (int32_t i = 0; i < ROWS; i++) tokens[i] = i * i % 251;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
