/* What a request may switch to, and that its label is true: names and labels of every KV head count, refusals
 * that tell what to do, exact conversions equal to their source, pooled heads equal to a mean taken by hand,
 * state and cost against counts by hand, and the life of converted weights within their budget. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "model/batch.h"
#include "model/internal.h"
#include "tests/support/tiny_open.h"

#define TOKENS 24
#define VOCAB  272

static struct qn_model *open_heads(const char *family, uint32_t heads, uint32_t kv_heads, enum qn_type type,
                                   size_t convert_bytes) {
    struct qn_test_tiny t = qn_test_tiny_default(family);
    t.heads = heads;
    t.kv_heads = kv_heads;
    t.type = type;
    t.tokenizer = false;
    struct qn_open_options opt = {
        .state_bytes = (size_t)8 << 20, .convert_bytes = convert_bytes, .max_step_tokens = 32};
    return qn_test_tiny_open(&t, &opt);
}

static int resolve(struct qn_model *m, const char *type, uint32_t kv_heads, bool convert, struct qn_err *err,
                   struct qn_variant **v) {
    struct qn_structure_request req = {.convert = convert};
    qn_part_init(&req.attention, type);
    if (kv_heads) qn_part_add(&req.attention, "kv_heads", QN_PARAM_INT, kv_heads);
    memset(err, 0, sizeof *err);
    return qn_variant_resolve(m, &req, v, err);
}

static void keep(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)span;
    memcpy((float *)ctx + (size_t)pos * VOCAB, v, VOCAB * sizeof *v);
}

static void logits_of(struct qn_variant *v, float *out) {
    int32_t tokens[TOKENS];
    for (int32_t i = 0; i < TOKENS; i++) tokens[i] = (i * 37 + 5) % VOCAB;
    struct qn_seq *s;
    assert_int_equal(qn_seq_new(v, 0, false, &s, NULL), QN_OK);
    assert_int_equal(qn_seq_reserve(s, TOKENS), QN_OK);
    struct qn_span span = {.seq = s, .tokens = tokens, .n = TOKENS, .want = QN_WANT_ALL};
    struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1, .on_row = keep, .ctx = out};
    assert_int_equal(qn_step_run(&step, NULL), QN_OK);
    qn_seq_free(&s);
}

static double worst(const float *a, const float *b) {
    double w = 0;
    for (size_t i = 0; i < (size_t)TOKENS * VOCAB; i++) w = fmax(w, fabs((double)a[i] - (double)b[i]));
    return w;
}

static float logits_a[TOKENS * VOCAB], logits_b[TOKENS * VOCAB];

/* More KV heads by repeating: the source's logits, for every family shape and weight type. */
static void exact_equals_its_source(void **state) {
    (void)state;
    static const struct {
        const char *family, *to;
        uint32_t heads, from, kv_heads;
        enum qn_type type;
    } cases[] = {
        {"llama", "mha", 8, 2, 0, QN_F32},       {"llama", "gqa", 8, 2, 4, QN_F32},
        {"llama", "mha", 8, 1, 0, QN_Q8_0},      {"qwen2", "mha", 4, 2, 0, QN_F16},
        {"qwen3", "mha", 4, 2, 0, QN_Q4_0},      {"gemma", "mha", 4, 1, 0, QN_F32},
        {"gpt_bigcode", "mha", 4, 1, 0, QN_F32},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct qn_model *m = open_heads(cases[i].family, cases[i].heads, cases[i].from, cases[i].type, 0);
        struct qn_err err;
        struct qn_variant *native = qn_test_variant(m, "", 0), *v = NULL;
        assert_int_equal(resolve(m, cases[i].to, cases[i].kv_heads, false, &err, &v),
                         QN_OK); /* needs no flag */
        assert_int_equal(qn_variant_structure(v)->origin, QN_ORIGIN_CONVERTED);
        assert_int_equal(qn_variant_structure(v)->exactness, QN_EXACT);
        double ms = -1;
        assert_int_equal(qn_variant_prepare(v, &ms, &err), QN_OK);
        assert_true(ms > 0 && qn_model_memory(m).converted > 0);
        assert_int_equal(qn_variant_prepare(v, &ms, &err), QN_OK);
        assert_true(ms == 0);
        logits_of(native, logits_a);
        logits_of(v, logits_b);
        assert_true(worst(logits_a, logits_b) <= 1e-5);
        qn_variant_unref(v);
        qn_variant_unref(native);
        qn_model_close(&m);
    }
}

/* Every pooled row and bias against a mean by hand; q and o stay the checkpoint's own. */
static void pooling_is_the_mean(void **state) {
    (void)state;
    struct qn_model *m = open_heads("qwen2", 4, 4, QN_F32, 0);
    struct qn_variant *v = qn_test_variant(m, "gqa", 2);
    uint32_t dh = m->ckpt->spec.head_dim, d = m->ckpt->spec.d_model;
    assert_int_equal(qn_variant_structure(v)->exactness, QN_UNTRAINED);
    float *a = calloc(d, 3 * sizeof *a);
    assert_non_null(a);
    const struct qn_attn_weights *src = &m->ckpt->attn[1], *dst = &v->attn_weights[1];
    for (uint32_t r = 0; r < 2 * dh; r++) {
        uint32_t first = r / dh * 2 * dh + r % dh;
        qn_matrix_get_row(&src->v, first, a);
        qn_matrix_get_row(&src->v, first + dh, a + d);
        qn_matrix_get_row(&dst->v, r, a + 2 * d);
        for (uint32_t c = 0; c < d; c++) assert_true(a[2 * d + c] == (a[c] + a[d + c]) / 2);
        assert_true(dst->bv[r] == (src->bv[first] + src->bv[first + dh]) / 2);
    }
    free(a);
    assert_true(dst->q.data == src->q.data && dst->o.data == src->o.data);
    qn_variant_unref(v);
    qn_model_close(&m);
}

/* Every KV head of a group becomes its group's first one. */
static void make_members_identical(struct qn_model *m, uint32_t groups) {
    const struct qn_spec *spec = &m->ckpt->spec;
    uint32_t dh = spec->head_dim, per = spec->heads / groups;
    float *row = calloc(spec->d_model, sizeof *row);
    assert_non_null(row);
    for (uint32_t b = 0; b < spec->attn_blocks; b++) {
        struct qn_attn_weights *w = &m->ckpt->attn[b];
        for (uint32_t r = 0; r < spec->heads * dh; r++) {
            uint32_t first = r / dh / per * per * dh + r % dh;
            qn_matrix_get_row(&w->k, first, row);
            qn_matrix_set_row(&w->k, r, row);
            qn_matrix_get_row(&w->v, first, row);
            qn_matrix_set_row(&w->v, r, row);
            w->bk[r] = w->bk[first];
            w->bv[r] = w->bv[first];
        }
    }
    free(row);
}

/* A mean of equals is what they are: then pooling loses nothing, in any bit. */
static void pooling_identical_members_is_lossless(void **state) {
    (void)state;
    for (uint32_t groups = 1; groups <= 4; groups *= 2) {
        struct qn_model *m = open_heads("qwen2", 8, 8, QN_F32, 0);
        struct qn_variant *native = qn_test_variant(m, "", 0);
        struct qn_variant *pooled = qn_test_variant(m, "gqa", groups);
        logits_of(native, logits_a);
        logits_of(pooled, logits_b);
        assert_true(worst(logits_a, logits_b) > 1e-3); /* of different ones it does */
        qn_variant_unref(native);
        qn_variant_unref(pooled);
        qn_model_close(&m);
        m = open_heads("qwen2", 8, 8, QN_F32, 0);
        make_members_identical(m, groups);
        native = qn_test_variant(m, "", 0);
        pooled = qn_test_variant(m, "gqa", groups);
        assert_int_equal(pooled->attention.kv_heads, groups);
        logits_of(native, logits_a);
        logits_of(pooled, logits_b);
        assert_true(worst(logits_a, logits_b) <= 0);
        qn_variant_unref(native);
        qn_variant_unref(pooled);
        qn_model_close(&m);
    }
}

/* Multi-query attention is grouped attention with one group: the very same structure. */
static void mqa_is_gqa_of_one(void **state) {
    (void)state;
    for (uint32_t own = 1; own <= 8; own *= 8) {
        struct qn_model *m = open_heads("llama", 8, own, QN_F32, 0);
        struct qn_variant *mqa = qn_test_variant(m, "mqa", 0), *one = qn_test_variant(m, "gqa", 1);
        assert_ptr_equal(mqa, one);
        assert_string_equal(mqa->info.attention.type, "mqa");
        assert_int_equal(mqa->info.origin, own == 1 ? QN_ORIGIN_NATIVE : QN_ORIGIN_CONVERTED);
        qn_variant_unref(mqa);
        qn_variant_unref(one);
        qn_model_close(&m);
    }
}

static void names_and_labels(void **state) {
    (void)state;
    struct qn_model *m = open_heads("llama", 8, 2, QN_F32, 0);
    struct qn_err err;
    struct qn_variant *v, *w;
    assert_int_equal(resolve(m, "", 0, false, &err, &v), QN_OK);
    assert_string_equal(qn_variant_structure(v)->attention.type, "gqa");
    assert_int_equal(qn_variant_structure(v)->origin, QN_ORIGIN_NATIVE);
    assert_int_equal(qn_variant_structure(v)->state_bytes_per_token, 2 * 2 * 2 * m->ckpt->spec.head_dim * 2);
    assert_int_equal(resolve(m, "gqa", 0, false, &err, &w), QN_OK);
    assert_ptr_equal(v, w); /* one object for one structure */
    qn_variant_unref(w);
    assert_int_equal(resolve(m, "gqa", 8, false, &err, &w), QN_OK);
    assert_string_equal(qn_variant_structure(w)->attention.type, "mha");
    qn_variant_unref(w);
    qn_variant_unref(v);

    assert_int_equal(resolve(m, "mqa", 0, false, &err, &v), QN_ERR_INVALID);
    assert_string_equal(err.param, "attention");
    assert_non_null(strstr(err.msg, "set \"convert\": true"));
    assert_non_null(strstr(err.msg, "native"));
    assert_non_null(strstr(err.msg, "mha("));
    assert_null(v);
    static const struct {
        const char *type;
        uint32_t kv_heads;
        const char *says;
    } bad[] = {
        {"gqa", 3, "divide"}, {"gqa", 9, "1 to 8"}, {"mha", 2, "kv_heads"}, {"sparse", 0, "not known"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(resolve(m, bad[i].type, bad[i].kv_heads, true, &err, &v), QN_ERR_INVALID);
        assert_string_equal(err.param, "attention");
        assert_non_null(strstr(err.msg, bad[i].says));
    }
    struct qn_structure_request req = {.convert = true};
    qn_part_init(&req.ffn, "geglu");
    memset(&err, 0, sizeof err);
    assert_int_equal(qn_variant_resolve(m, &req, &v, &err), QN_ERR_INVALID);
    assert_string_equal(err.param, "ffn");
    assert_non_null(strstr(err.msg, "swiglu"));
    memset(&req.ffn, 0, sizeof req.ffn);
    req.convert = false;
    qn_part_init(&req.sharing, "all");
    memset(&err, 0, sizeof err);
    assert_int_equal(qn_variant_resolve(m, &req, &v, &err), QN_ERR_INVALID);
    assert_string_equal(err.param, "sharing");
    assert_non_null(strstr(err.msg, "none"));
    qn_model_close(&m);
}

/* A prediction can't come from a structure that looks ahead: leave for conversions would not help, so the
 * refusal does not speak of it. */
static void predictions_are_causal(void **state) {
    (void)state;
    struct qn_model *m = open_heads("llama", 8, 2, QN_F32, 0);
    static const char *const types[] = {"gqa", "mqa", "linformer", "performer"};
    for (size_t i = 0; i < 8; i++) {
        struct qn_structure_request req = {.convert = i % 2 == 1, .causal = true};
        struct qn_variant *v;
        struct qn_err err = {0};
        qn_part_init(&req.attention, types[i / 2]);
        qn_part_add(&req.attention, "causal", QN_PARAM_BOOL, 0);
        assert_int_equal(qn_variant_resolve(m, &req, &v, &err), QN_ERR_INVALID);
        assert_string_equal(err.param, "attention");
        assert_non_null(strstr(err.msg, "it can only embed"));
        assert_null(strstr(err.msg, "convert"));
        req.causal = false;
        memset(&err, 0, sizeof err);
        int rc = qn_variant_resolve(m, &req, &v, &err);
        assert_int_equal(rc, req.convert ? QN_OK : QN_ERR_INVALID);
        if (rc == QN_OK)
            qn_variant_unref(v);
        else
            assert_non_null(strstr(err.msg, "convert"));
    }
    qn_model_close(&m);
}

static void lists_every_structure(void **state) {
    (void)state;
    struct qn_model *m = open_heads("llama", 12, 4, QN_F32, 0);
    struct qn_structure_entry rows[32];
    size_t n = qn_model_structures(m, rows, 32), natives = 0, whole = 0;
    assert_true(n <= 32 && n == qn_model_structures(m, NULL, 0));
    for (size_t i = 0; i < n; i++) {
        struct qn_structure_entry *e = &rows[i];
        bool native = e->origin == QN_ORIGIN_NATIVE;
        if (strcmp(e->slot, "attention") == 0 && !e->causal) { /* beside what it is without that */
            whole++;
            assert_true(!e->rollback && e->exactness == QN_UNTRAINED && rows[i - 1].causal);
            assert_string_equal(e->part.type, rows[i - 1].part.type);
            assert_true(qn_part_find(&e->part, "causal")->value == 0);
            continue;
        }
        natives += native;
        assert_true(native == (e->why[0] == 0));
        if (strcmp(e->slot, "attention") != 0 || e->state_fixed_bytes > 0) continue;
        double kv = qn_part_find(&e->part, "kv_heads")->value;
        enum qn_exactness want = kv == 4 || kv == 12  ? QN_EXACT
                                 : kv == 6 || kv == 3 ? QN_UNAVAILABLE
                                                      : QN_UNTRAINED;
        assert_int_equal(e->exactness, want);
        assert_true(e->causal && e->rollback);
        assert_int_equal(e->state_bytes_per_token, (size_t)kv * 2 * 2 * 2 * m->ckpt->spec.head_dim);
    }
    assert_int_equal(whole, 6);   /* mha, gqa of 4 and 2 heads, mqa, linformer, performer */
    assert_int_equal(natives, 4); /* two groups of a two-layer model are what "none" is */
    qn_model_close(&m);
}

/* At equal length state goes down exactly as kv_heads does, in what the allocator holds. */
static void state_follows_kv_heads(void **state) {
    (void)state;
    struct qn_model *m = open_heads("llama", 8, 8, QN_F32, (size_t)1 << 30);
    static const uint32_t kv[] = {8, 4, 2, 1};
    size_t full = 0;
    for (int i = 0; i < 4; i++) {
        struct qn_variant *v = qn_test_variant(m, i == 0 ? "mha" : "gqa", kv[i]);
        struct qn_seq *s;
        assert_int_equal(qn_seq_new(v, 0, false, &s, NULL), QN_OK);
        assert_int_equal(qn_seq_need(s, 33), 3 * v->block_bytes);
        assert_int_equal(qn_seq_reserve(s, 33), QN_OK);
        size_t held = qn_seq_bytes(s).held;
        if (i == 0) full = held;
        assert_int_equal(held * 8, full * kv[i]);
        assert_int_equal(held, qn_model_state(m).used);
        qn_seq_free(&s);
        qn_variant_unref(v);
    }
    qn_model_close(&m);
}

/* What a variant's conversions take. */
static size_t made_bytes(const struct qn_variant *v) {
    struct qn_resolved r = {v->attention, v->ffn, v->sharing};
    struct qn_half_sizes a, f;
    assert_int_equal(qn_half_sizes(v->model, &r, QN_HALF_ATTENTION, &a, NULL), QN_OK);
    assert_int_equal(qn_half_sizes(v->model, &r, QN_HALF_FFN, &f, NULL), QN_OK);
    return a.made[QN_MAKE_MEANS] + a.made[QN_MAKE_KIND] + f.made[QN_MAKE_MEANS] + f.made[QN_MAKE_KIND];
}

static void conversions_stay_in_budget(void **state) {
    (void)state;
    struct qn_model *m = open_heads("llama", 8, 8, QN_F32, 0);
    struct qn_err err;
    struct qn_variant *a = NULL, *b = NULL;
    assert_int_equal(resolve(m, "gqa", 4, true, &err, &a), QN_OK);
    size_t bytes = made_bytes(a);
    m->convert_budget = bytes; /* room for one */
    assert_int_equal(qn_variant_prepare(a, NULL, &err), QN_OK);
    assert_int_equal(qn_model_memory(m).converted, bytes);
    assert_int_equal(resolve(m, "gqa", 2, true, &err, &b), QN_OK);
    /* Weights that a sequence runs with stay; a reference alone, a request that waits, keeps nothing. */
    struct qn_seq *s = NULL, *fork = NULL;
    assert_int_equal(qn_seq_new(a, 0, false, &s, &err), QN_OK);
    assert_int_equal(qn_seq_reserve(s, 4), QN_OK);
    assert_int_equal(qn_variant_prepare(b, NULL, &err), QN_ERR_NO_STATE);
    assert_int_equal(qn_seq_fork(s, &fork, &err), QN_OK);
    qn_seq_free(&s);
    assert_int_equal(qn_variant_prepare(b, NULL, &err), QN_ERR_NO_STATE);
    qn_seq_reset(fork);
    assert_int_equal(qn_variant_prepare(b, NULL, &err), QN_OK);
    assert_null(a->attn_weights);
    assert_int_equal(qn_variant_prepare(a, NULL, &err), QN_OK);
    qn_seq_free(&fork);
    qn_variant_unref(a); /* its weights stay until the room is wanted */
    assert_int_equal(qn_model_memory(m).converted, bytes);
    err = (struct qn_err){0};
    assert_int_equal(qn_variant_prepare(b, NULL, &err), QN_OK);
    assert_true(qn_model_memory(m).converted < bytes);
    /* a comes back and must be prepared again */
    assert_int_equal(resolve(m, "gqa", 4, true, &err, &a), QN_OK);
    assert_null(a->attn_weights);
    qn_variant_unref(b);
    assert_int_equal(qn_variant_prepare(a, NULL, &err), QN_OK);
    logits_of(a, logits_a);
    qn_variant_unref(a);
    m->convert_budget = 1;
    assert_int_equal(resolve(m, "mqa", 0, true, &err, &a), QN_ERR_INVALID); /* can never fit */
    assert_string_equal(err.param, "attention");
    assert_null(a);
    qn_model_close(&m);
}

/* A kind of FFN that reads half of its weights for a token, as a mixture of experts does. */
static size_t half_of(const struct qn_ffn *f, const struct qn_ffn_weights *w) {
    return qn_ffn_dense_weight_bytes(f, w) / 2;
}

static void active_bytes_are_what_a_token_reads(void **state) {
    (void)state;
    struct qn_model *m = open_heads("llama", 8, 2, QN_F32, 0);
    struct qn_variant *v = qn_test_variant(m, "", 0);
    struct qn_structure s = {0};
    struct qn_ffn_ops ops = *v->ffn.ops;
    struct qn_resolved r = {v->attention, v->ffn, v->sharing};
    size_t block = qn_ffn_dense_weight_bytes(&r.ffn, &m->ckpt->ffn[0]), idle = 0, made[QN_HALVES][QN_MAKES];
    ops.row_weight_bytes = half_of;
    r.ffn.ops = &ops;
    assert_int_equal(qn_structure_sizes(m, &r, &s, &idle, made, NULL), QN_OK);
    assert_int_equal(s.weights_bytes, v->info.weights_bytes);
    for (int h = 0; h < QN_HALVES; h++)
        assert_true(made[h][QN_MAKE_MEANS] == 0 && made[h][QN_MAKE_KIND] == 0);
    assert_int_equal(s.weights_bytes, m->ckpt->weights_bytes); /* the only structure of its file */
    assert_int_equal(idle, m->ckpt->spec.layers * (block / 2));
    assert_int_equal(s.weights_active_bytes + idle, v->info.weights_active_bytes);
    qn_variant_unref(v);
    qn_model_close(&m);
}

static void cost_by_hand(void **state) {
    (void)state;
    struct qn_model *m = open_heads("llama", 8, 2, QN_F32, 0);
    struct qn_variant *v = qn_test_variant(m, "", 0);
    const struct qn_spec *s = &m->ckpt->spec;
    double q = 8.0 * s->head_dim, kv = 2.0 * s->head_dim, d = s->d_model;
    double layer = d * q + 2 * d * kv + q * d + 3 * d * s->ffn[0].dim;
    /* positions 3, 4, 5 see 4 + 5 + 6 tokens; q.k and p.v */
    double macs = s->layers * (3 * layer + 2 * q * 15) + (double)s->vocab * d;
    struct qn_cost c = qn_variant_cost(v, 3, 6, 1, 0);
    assert_true(fabs(c.flops - 2 * macs) < 0.5);
    double token = (double)v->info.state_bytes_per_token, active = (double)v->info.weights_active_bytes;
    assert_true(fabs(c.bytes - (active + token * (6 + 3))) <
                0.5); /* one step: state read once, 3 tokens written */
    c = qn_variant_cost(v, 3, 6, 3, 1);
    assert_true(fabs(c.bytes - (3 * active + token * (4 + 5 + 6 + 3))) < 0.5);
    c = qn_variant_cost(v, 6, 6, 0, 0);
    assert_true(c.flops == 0 && c.bytes == 0);
    qn_variant_unref(v);
    m->ckpt->spec.window = 4;
    struct qn_attention a = v->attention;
    a.window = 4; /* positions 1 … 6 see 2 3 4 4 4 4 */
    assert_true(fabs(a.ops->cost(&a, QN_KV_F16, 1, 7, 1).flops - 4 * q * 21) < 0.5);
    qn_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_equals_its_source),
        cmocka_unit_test(pooling_is_the_mean),
        cmocka_unit_test(pooling_identical_members_is_lossless),
        cmocka_unit_test(mqa_is_gqa_of_one),
        cmocka_unit_test(names_and_labels),
        cmocka_unit_test(predictions_are_causal),
        cmocka_unit_test(lists_every_structure),
        cmocka_unit_test(state_follows_kv_heads),
        cmocka_unit_test(conversions_stay_in_budget),
        cmocka_unit_test(active_bytes_are_what_a_token_reads),
        cmocka_unit_test(cost_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
