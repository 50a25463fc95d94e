/* Sharing and combined conversions. Exact ones equal their source: an untied stack that refers to the same
 * weights, groups of one layer, repeated KV heads and copied experts on top of averages. Averages equal a
 * mean by hand. Bytes count every weight of a structure once and no other weight; the conversions' budget
 * holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "model/batch.h"
#include "model/internal.h"

#define TOKENS 24
#define VOCAB  300

static struct qn_model *open_it(const char *text, struct qn_pool *pool) {
    struct qn_model *m = NULL;
    struct qn_err err = {0};
    struct qn_open_options opt = {.pool = pool,
                                  .state_bytes = (size_t)8 << 20,
                                  .state_type = QN_STATE_F32,
                                  .convert_bytes = (size_t)64 << 20,
                                  .max_step_tokens = 32};
    if (qn_model_open(text, &opt, &m, &err) != QN_OK) fail_msg("%s: %s", text, err.msg);
    return m;
}

/* "" is the default. */
static int resolve(struct qn_model *m, const char *a, const char *f, const char *s, uint32_t count,
                   struct qn_variant **v, struct qn_err *err) {
    struct qn_structure_request req = {.convert = true};
    memset(err, 0, sizeof *err);
    qn_part_init(&req.attention, a);
    qn_part_init(&req.ffn, f);
    qn_part_init(&req.sharing, s);
    if (count) qn_part_add(&req.sharing, "count", QN_PARAM_INT, count);
    return qn_variant_resolve(m, &req, v, err);
}

static struct qn_variant *variant(struct qn_model *m, const char *a, const char *f, const char *s,
                                  uint32_t count) {
    struct qn_err err;
    struct qn_variant *v = NULL;
    if (resolve(m, a, f, s, count, &v, &err) != QN_OK || qn_variant_prepare(v, NULL, &err) != QN_OK)
        fail_msg("%s+%s+%s: %s", a, f, s, err.msg);
    return v;
}

static void keep(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)span;
    memcpy((float *)ctx + (size_t)pos * VOCAB, v, VOCAB * sizeof *v);
}

static float *logits_of(struct qn_variant *v) {
    int32_t tokens[TOKENS];
    float *out = calloc(TOKENS * VOCAB, sizeof *out);
    struct qn_seq *s;
    assert_non_null(out);
    for (int32_t i = 0; i < TOKENS; i++) tokens[i] = (i * 37 + 5) % VOCAB;
    assert_int_equal(qn_seq_new(v, 0, false, &s, NULL), QN_OK);
    assert_int_equal(qn_seq_reserve(s, TOKENS), QN_OK);
    struct qn_span span = {.seq = s, .tokens = tokens, .n = TOKENS, .want = QN_WANT_ALL};
    struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1, .on_row = keep, .ctx = out};
    assert_int_equal(qn_step_run(&step, NULL), QN_OK);
    qn_seq_free(&s);
    return out;
}

/* The largest difference of logits between two structures, both released; *size: the largest logit. */
static double apart(struct qn_variant *v, struct qn_variant *w) {
    float *a = logits_of(v), *b = logits_of(w);
    double most = 0, top = 0;
    for (size_t i = 0; i < TOKENS * VOCAB; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        top = fmax(top, fabs((double)a[i]));
    }
    assert_true(top > 0.5);
    free(a);
    free(b);
    qn_variant_unref(v);
    qn_variant_unref(w);
    return most;
}

#define SMALL "synthetic:hidden=64,layers=4,heads=8,head_dim=16,vocab=300,n=64,type=f32,"

/* Layers that refer to one block: the same bits as the trained sharing, and nothing copied. */
static void untied_is_exact(void **state) {
    (void)state;
    static const char *const wider[] = {"none", "attention", "ffn", "groups"};
    struct qn_model *m = open_it(SMALL "sharing=all,attention=gqa", NULL);
    for (size_t i = 0; i < 4; i++) {
        struct qn_variant *v = variant(m, "", "", wider[i], 0), *w = variant(m, "", "", "", 0);
        assert_int_equal(v->info.exactness, QN_EXACT);
        assert_int_equal(v->info.origin, QN_ORIGIN_CONVERTED);
        assert_int_equal(v->info.weights_bytes, w->info.weights_bytes);
        assert_int_equal(v->info.weights_active_bytes, w->info.weights_active_bytes);
        assert_true(apart(v, w) == 0);
    }
    assert_int_equal(qn_model_memory(m).converted, 0);
    qn_model_close(&m);
}

/* ALBERT with one group is the shared stack, with a group for each layer the untied one. */
static void groups_at_both_ends(void **state) {
    (void)state;
    struct qn_model *m = open_it(SMALL "sharing=none,attention=gqa", NULL);
    struct qn_variant *v = variant(m, "", "", "groups", 4);
    assert_int_equal(v->info.exactness, QN_EXACT);
    assert_true(apart(v, variant(m, "", "", "none", 0)) == 0);
    v = variant(m, "", "", "groups", 1);
    assert_int_equal(v->info.exactness, QN_UNTRAINED);
    assert_true(apart(v, variant(m, "", "", "all", 0)) == 0);
    /* and the mean is another function than the stack */
    assert_true(apart(variant(m, "", "", "all", 0), variant(m, "", "", "none", 0)) > 1e-2);
    qn_model_close(&m);
}

/* Averaging copies of one block gives the block: all layers equal, then "all" equals "none". */
static void mean_of_equals(void **state) {
    (void)state;
    struct qn_model *m = open_it(SMALL "sharing=none,ffn=moe,experts=3", NULL);
    struct qn_checkpoint *c = m->ckpt;
    for (uint32_t i = 1; i < 4; i++) { /* equal values in memory of their own */
        memcpy(c->attn[i].q.data, c->attn[0].q.data, c->attn[0].q.bytes);
        memcpy(c->attn[i].k.data, c->attn[0].k.data, c->attn[0].k.bytes);
        memcpy(c->attn[i].v.data, c->attn[0].v.data, c->attn[0].v.bytes);
        memcpy(c->attn[i].o.data, c->attn[0].o.data, c->attn[0].o.bytes);
        memcpy(c->attn[i].norm.g, c->attn[0].norm.g, 64 * sizeof(float));
        memcpy(c->ffn[i].norm.g, c->ffn[0].norm.g, 64 * sizeof(float));
        memcpy(c->ffn[i].router.data, c->ffn[0].router.data, c->ffn[0].router.bytes);
        for (uint32_t e = 0; e < 3; e++) {
            const struct qn_ffn_matrices *from = &c->ffn[0].experts[e];
            struct qn_ffn_matrices *to = &c->ffn[i].experts[e];
            memcpy(to->gate.data, from->gate.data, from->gate.bytes);
            memcpy(to->up.data, from->up.data, from->up.bytes);
            memcpy(to->down.data, from->down.data, from->down.bytes);
        }
    }
    assert_true(apart(variant(m, "", "", "all", 0), variant(m, "", "", "none", 0)) <= 1e-5);
    qn_model_close(&m);
}

static double row_gap(const struct qn_matrix *mean, const struct qn_matrix *const *src, size_t n,
                      uint32_t r) {
    float *row = calloc(mean->cols, 2 * sizeof *row);
    double worst = 0;
    assert_non_null(row);
    double *sum = calloc(mean->cols, sizeof *sum);
    assert_non_null(sum);
    for (size_t j = 0; j < n; j++) {
        qn_matrix_get_row(src[j], r, row);
        for (uint32_t c = 0; c < mean->cols; c++) sum[c] += (double)row[c] / (double)n;
    }
    qn_matrix_get_row(mean, r, row);
    for (uint32_t c = 0; c < mean->cols; c++) worst = fmax(worst, fabs(sum[c] - (double)row[c]));
    free(row);
    free(sum);
    return worst;
}

/* By hand, over two groups of two layers; quantised matrices become F32, F16 stays F16. */
static void means_by_hand(void **state) {
    (void)state;
    static const struct {
        const char *type;
        enum qn_type want;
        double bound;
    } cases[] = {
        {"f32", QN_F32, 1e-6}, {"q8_0", QN_F32, 1e-6}, {"f16", QN_F16, 2e-4}, {"bf16", QN_BF16, 2e-3}};
    char text[200];
    struct qn_pool *pool = qn_pool_new(2);
    assert_non_null(pool);
    for (size_t i = 0; i < 4; i++) {
        snprintf(
            text, sizeof text,
            "synthetic:hidden=64,layers=4,heads=4,vocab=300,n=64,ffn=moe,experts=3,attention=linformer,k=8,"
            "norm=layer,type=%s",
            cases[i].type);
        struct qn_model *m = open_it(text, i % 2 ? pool : NULL);
        struct qn_variant *v = variant(m, "", "", "groups", 2);
        const struct qn_attn_weights *a = m->ckpt->attn;
        const struct qn_ffn_weights *f = m->ckpt->ffn;
        for (uint32_t g = 0; g < 2; g++) {
            const struct qn_attn_weights *x = &v->attn_weights[g], *s = &a[2 * g], *t = &a[2 * g + 1];
            const struct qn_matrix *q[] = {&s->q, &t->q};
            const struct qn_matrix *d[] = {&f[2 * g].experts[1].down, &f[2 * g + 1].experts[1].down};
            assert_int_equal(x->q.type, cases[i].want);
            assert_int_equal(v->ffn_weights[g].router.type, QN_F32);
            for (uint32_t r = 0; r < 64; r += 7) {
                assert_true(row_gap(&x->q, q, 2, r) <= cases[i].bound);
                assert_true(row_gap(&v->ffn_weights[g].experts[1].down, d, 2, r) <= cases[i].bound);
                assert_true(fabsf(x->norm.b[r] - (s->norm.b[r] + t->norm.b[r]) / 2) <= 1e-7f);
                assert_true(fabsf(x->e[r] - (s->e[r] + t->e[r]) / 2) <= 1e-7f);
                assert_true(fabsf(x->f[r] - (s->f[r] + t->f[r]) / 2) <= 1e-7f);
            }
        }
        for (uint32_t l = 0; l < 4; l++) assert_int_equal(v->layers[l].attn_block, l / 2);
        qn_variant_unref(v);
        qn_model_close(&m);
    }
    qn_pool_free(&pool);
}

/* What only one half shares stays where it is in the other; directions are not averaged. */
static void only_what_must_be_made(void **state) {
    (void)state;
    struct qn_model *m = open_it(SMALL "sharing=none,attention=performer,features=16", NULL);
    struct qn_variant *v = variant(m, "", "", "attention", 0);
    const struct qn_checkpoint *c = m->ckpt;
    for (uint32_t i = 0; i < 4; i++) {
        assert_ptr_equal(v->ffn_weights[v->layers[i].ffn_block].dense.up.data, c->ffn[i].dense.up.data);
        assert_int_equal(v->layers[i].attn_block, 0);
    }
    assert_ptr_equal(v->attn_weights[0].features, c->attn[0].features);
    assert_true(v->attn_weights[0].q.data != c->attn[0].q.data);
    assert_null(v->conversion[QN_HALF_FFN]);
    assert_ptr_equal(v->ffn_weights, c->ffn);
    size_t block = 0;
    for (int i = 0; i < 4; i++) block += (&c->attn[0].q)[i].bytes;
    assert_int_equal(qn_model_memory(m).converted, block + 64 * sizeof(float) + sizeof(struct qn_conversion) +
                                                       sizeof(struct qn_attn_weights));
    qn_variant_unref(v);
    qn_model_close(&m);
}

/* Exact conversions on top of averages change nothing. */
static void conversions_compose(void **state) {
    (void)state;
    static const char *const models[] = {SMALL "attention=gqa",
                                         SMALL "attention=gqa,norm=layer,pos=learned,ffn=gelu",
                                         SMALL "attention=mqa,lags=2"};
    for (size_t i = 0; i < 3; i++) {
        struct qn_model *m = open_it(models[i], NULL);
        struct qn_variant *v = variant(m, "mha", "moe", "all", 0);
        assert_int_equal(v->info.exactness, QN_UNTRAINED);
        assert_int_equal(v->info.origin, QN_ORIGIN_CONVERTED);
        assert_true(v->conversion[QN_HALF_ATTENTION] && v->conversion[QN_HALF_FFN]);
        size_t made = 0;
        for (int h = 0; h < QN_HALVES; h++) { /* the kind's, and the averages below it */
            const struct qn_conversion *c = v->conversion[h];
            const struct qn_conversion *below = c ? c->from : NULL;
            assert_non_null(below);
            if (!c || !below) continue; /* for the analyzer */
            assert_true(below->dependents == 1 && !below->from);
            made += c->bytes + below->bytes;
        }
        assert_int_equal(qn_model_memory(m).converted, made);
        assert_true(apart(v, variant(m, "", "", "all", 0)) <= 1e-5);
        /* the same without averages: repeated heads and copied experts */
        v = variant(m, "mha", "moe", "none", 0);
        assert_int_equal(v->info.exactness, QN_EXACT);
        assert_true(apart(v, variant(m, "", "", "", 0)) <= 1e-5);
        /* a kernel estimate of averaged weights runs */
        v = variant(m, "performer", "", "groups", 2);
        float *x = logits_of(v);
        for (size_t k = 0; k < TOKENS * VOCAB; k++) assert_true(isfinite(x[k]));
        free(x);
        qn_variant_unref(v);
        qn_model_close(&m);
    }
}

/* Halves are shared between structures that agree in them. */
static void halves_are_shared(void **state) {
    (void)state;
    struct qn_model *m = open_it(SMALL "attention=gqa,ffn=gelu", NULL);
    struct qn_variant *v = variant(m, "mha", "moe", "", 0), *w = variant(m, "mha", "geglu", "", 0),
                      *x = variant(m, "mha", "", "", 0);
    assert_ptr_equal(v->conversion[QN_HALF_ATTENTION], w->conversion[QN_HALF_ATTENTION]);
    assert_ptr_equal(v->conversion[QN_HALF_ATTENTION], x->conversion[QN_HALF_ATTENTION]);
    assert_true(v->conversion[QN_HALF_FFN] != w->conversion[QN_HALF_FFN]);
    assert_null(x->conversion[QN_HALF_FFN]);
    assert_ptr_equal(x->ffn_weights, m->ckpt->ffn);
    qn_variant_unref(v);
    qn_variant_unref(w);
    qn_variant_unref(x);
    qn_model_close(&m);
}

static struct qn_variant *with_number(struct qn_model *m, const char *a, const char *name, double value,
                                      bool causal, const char *s) {
    struct qn_structure_request req = {.convert = true};
    struct qn_variant *v = NULL;
    struct qn_err err = {0};
    qn_part_init(&req.attention, a);
    if (name) qn_part_add(&req.attention, name, QN_PARAM_INT, value);
    if (!causal) qn_part_add(&req.attention, "causal", QN_PARAM_BOOL, 0);
    qn_part_init(&req.sharing, s);
    if (qn_variant_resolve(m, &req, &v, &err) != QN_OK || qn_variant_prepare(v, NULL, &err) != QN_OK)
        fail_msg("%s: %s", a, err.msg);
    return v;
}

/* What runs with the checkpoint's own weights takes nothing, however many such structures are asked for, and
 * its weights are those of the checkpoint less what it does not read. */
static void borrowing_takes_nothing(void **state) {
    (void)state;
    static const struct {
        const char *model, *attention, *number;
        double value;
        bool causal;
    } cases[] = {
        {"attention=gqa", "gqa", NULL, 0, false},
        {"attention=mha", "mha", NULL, 0, false},
        {"attention=gqa", "linformer", "k", 5, true},
        {"attention=gqa", "linformer", "k", 7, false},
        {"attention=linformer,k=8", "linformer", "k", 9, true},
        {"attention=linformer,k=8", "linformer", NULL, 0, false},
        {"attention=performer,features=16", "performer", NULL, 0, false},
    };
    char text[200];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, "%s%s", SMALL, cases[i].model);
        struct qn_model *m = open_it(text, NULL);
        const struct qn_checkpoint *c = m->ckpt;
        struct qn_variant *v =
            with_number(m, cases[i].attention, cases[i].number, cases[i].value, cases[i].causal, "");
        assert_int_equal(v->info.origin, QN_ORIGIN_CONVERTED);
        assert_ptr_equal(v->attn_weights, c->attn);
        assert_int_equal(qn_model_memory(m).converted, 0);
        size_t unread = i == 4 ? 4 * 2 * (size_t)8 * 64 * sizeof(float) : 0; /* E and F of four layers */
        assert_int_equal(v->info.weights_bytes, c->weights_bytes - unread);
        qn_variant_unref(v);
        qn_model_close(&m);
    }
}

/* Other directions than the trained ones stand in for them, and means of E and F that nobody reads are not
 * made. */
static void unread_projections_cost_nothing(void **state) {
    (void)state;
    struct qn_model *m = open_it(SMALL "attention=performer,features=16", NULL);
    struct qn_variant *v = with_number(m, "performer", "seed", 3, true, "");
    assert_int_equal(v->info.weights_bytes, m->ckpt->weights_bytes);
    qn_variant_unref(v);
    qn_model_close(&m);
    m = open_it(SMALL "attention=linformer,k=8", NULL);
    struct qn_variant *pooled = with_number(m, "linformer", "k", 9, true, "all");
    size_t without = qn_model_memory(m).converted;
    struct qn_variant *native = with_number(m, "linformer", NULL, 0, true, "all");
    size_t e_and_f = 2 * (size_t)8 * 64 * sizeof(float);
    assert_int_equal(native->conversion[QN_HALF_ATTENTION]->bytes,
                     pooled->conversion[QN_HALF_ATTENTION]->bytes + e_and_f);
    assert_true(qn_model_memory(m).converted > without);
    assert_int_equal(native->info.weights_bytes, pooled->info.weights_bytes + e_and_f);
    qn_variant_unref(pooled);
    qn_variant_unref(native);
    qn_model_close(&m);
}

/* Averages are made once for all kinds and parameters, and outlive none that were made from them. */
static void averages_are_shared(void **state) {
    (void)state;
    struct qn_model *m = open_it(SMALL "attention=gqa,ffn=moe,experts=4", NULL);
    struct qn_variant *v = variant(m, "gqa", "moe", "all", 0);
    size_t both = qn_model_memory(m).converted;
    struct qn_variant *pooled[] = {with_number(m, "linformer", "k", 8, true, "all"),
                                   with_number(m, "linformer", "k", 16, true, "all"),
                                   with_number(m, "linformer", "k", 8, false, "all")};
    struct qn_conversion *pool = pooled[0]->conversion[QN_HALF_ATTENTION];
    for (int i = 0; i < 3; i++) {
        assert_ptr_equal(pooled[i]->conversion[QN_HALF_ATTENTION], pool);
        assert_ptr_equal(pooled[i]->conversion[QN_HALF_FFN], v->conversion[QN_HALF_FFN]);
        qn_variant_unref(pooled[i]);
    }
    assert_int_equal(qn_model_memory(m).converted, both + pool->bytes);
    /* one expert per token is another structure with the same weights */
    struct qn_structure_request req = {.convert = true};
    struct qn_variant *one = NULL;
    qn_part_init(&req.ffn, "moe");
    qn_part_add(&req.ffn, "experts_per_token", QN_PARAM_INT, 1);
    qn_part_init(&req.sharing, "all");
    assert_int_equal(qn_variant_resolve(m, &req, &one, NULL), QN_OK);
    assert_int_equal(qn_variant_prepare(one, NULL, NULL), QN_OK);
    assert_true(one != v);
    assert_ptr_equal(one->ffn_weights, v->ffn_weights);
    /* repeated heads need their averages: those stay while they are there, and go after them */
    struct qn_variant *mha = variant(m, "mha", "moe", "all", 0);
    struct qn_conversion *kind = mha->conversion[QN_HALF_ATTENTION];
    assert_ptr_equal(kind->from, v->conversion[QN_HALF_ATTENTION]);
    assert_int_equal(kind->from->dependents, 1);
    m->convert_budget = 0;
    struct qn_variant *none = variant(m, "gqa", "moe", "none", 0);
    assert_null(none->conversion[QN_HALF_ATTENTION]);
    struct qn_err err;
    assert_int_equal(qn_variant_prepare(mha, NULL, &err), QN_OK); /* all of it is there */
    size_t before = qn_model_memory(m).converted, together = 0;
    struct qn_variant *two[] = {v, mha};
    assert_true(!qn_variants_fit(two, 2, &together, NULL)); /* averages of both count once */
    assert_int_equal(together, before - pool->bytes);
    m->convert_budget = 2 * before - 1;
    struct qn_variant *big = variant(m, "mqa", "moe", "groups", 2);
    assert_true(qn_model_memory(m).converted <= m->convert_budget);
    assert_true(!mha->attn_weights || !v->ffn_weights);
    for (struct qn_conversion *c = m->conversions; c; c = c->next) {
        bool there = !c->from;
        for (struct qn_conversion *d = c->next; d; d = d->next) there = there || d == c->from;
        assert_true(there);
    }
    struct qn_variant *all[] = {v, one, mha, none, big};
    for (int i = 0; i < 5; i++) qn_variant_unref(all[i]);
    qn_model_close(&m);
}

/* --- which member's blocks --- */
static struct qn_variant *from_member(struct qn_model *m, const char *sharing, const char *from,
                                      struct qn_err *err) {
    struct qn_structure_request req = {.convert = true};
    struct qn_variant *v = NULL;
    memset(err, 0, sizeof *err);
    qn_part_init(&req.sharing, sharing);
    if (from) qn_part_add_text(&req.sharing, "from", from);
    return qn_variant_resolve(m, &req, &v, err) == QN_OK ? v : NULL;
}

/* Where a checkpoint was trained with several ways of sharing, the part tells whose blocks run. */
static void the_member_is_named(void **state) {
    (void)state;
    static const char *const aliases[] = {"attention", "ffn", "groups"};
    struct qn_model *m = open_it("tests/golden/quern/all", NULL);
    struct qn_err err;
    for (size_t i = 0; i < 3; i++) {
        struct qn_variant *v = from_member(m, aliases[i], NULL, &err);
        assert_non_null(v);
        const struct qn_param *p = qn_part_find(&v->info.sharing, "from");
        /* groups: two of two layers are what "none" has */
        assert_string_equal(p->text, i == 2 ? "none" : "all");
        assert_int_equal(v->info.exactness, QN_EXACT);
        assert_int_equal(v->info.origin, QN_ORIGIN_CONVERTED);
        assert_non_null(strstr(v->sharing.choice.why, i == 2 ? "\"none\"" : "\"all\""));
        qn_variant_unref(v);
        v = from_member(m, aliases[i], "none", &err);
        assert_string_equal(qn_part_find(&v->info.sharing, "from")->text, "none");
        assert_int_equal(v->info.exactness, i == 2 ? QN_EXACT : QN_UNTRAINED);
        qn_variant_unref(v);
    }
    struct qn_variant *v = from_member(m, "all", NULL, &err);
    assert_null(qn_part_find(&v->info.sharing, "from"));
    qn_variant_unref(v);
    assert_null(from_member(m, "attention", "groups", &err));
    assert_non_null(strstr(err.msg, "\"from\" must name"));
    qn_model_close(&m);
    m = open_it(SMALL "sharing=all", NULL);
    v = from_member(m, "none", NULL, &err);
    assert_null(qn_part_find(&v->info.sharing, "from"));
    qn_variant_unref(v);
    qn_model_close(&m);
}

/* In a model of one layer, too, the shared block is not the layer's own. */
static void one_layer_has_two_members(void **state) {
    (void)state;
    struct qn_model *m = open_it("tests/golden/quern/all", NULL);
    struct qn_spec *s = &m->ckpt->spec;
    const struct qn_share_member first = s->share[0], second = s->share[1];
    s->layers = 1;
    for (int i = 0; i < 2; i++) {
        s->share[i] = first;
        s->share[i].attn_blocks = s->share[i].ffn_blocks = 1;
        s->share[1 - i] = second;
        struct qn_err err;
        struct qn_variant *none = from_member(m, "none", NULL, &err),
                          *all = from_member(m, "all", NULL, &err);
        assert_true(none->info.origin == QN_ORIGIN_NATIVE && all->info.origin == QN_ORIGIN_NATIVE);
        assert_true(none->layers[0].attn_block == 0 && none->layers[0].ffn_block == 0);
        assert_true(all->layers[0].attn_block == 2 && all->layers[0].ffn_block == 2);
        qn_variant_unref(none);
        qn_variant_unref(all);
        qn_variant_free_all(m);
    }
    s->layers = 2;
    s->share[0] = first;
    s->share[1] = second;
    qn_model_close(&m);
}

/* Both halves must fit together, and the second must not drive out the first. */
static void both_halves_fit_or_neither(void **state) {
    (void)state;
    struct qn_model *m = open_it(SMALL "attention=gqa", NULL);
    struct qn_variant *v = variant(m, "mha", "moe", "all", 0), *w = NULL;
    struct qn_err err;
    size_t both = qn_model_memory(m).converted;
    m->convert_budget = both;
    w = variant(m, "mqa", "", "", 0); /* drives something out */
    assert_true(!v->attn_weights || !v->ffn_weights);
    assert_int_equal(qn_variant_prepare(v, NULL, &err), QN_OK);
    assert_true(v->attn_weights && v->ffn_weights);
    assert_true(qn_model_memory(m).converted <= both);
    qn_variant_unref(w);
    qn_variant_unref(v);
    qn_model_close(&m);
    m = open_it(SMALL "attention=gqa", NULL); /* a structure that is known has been let in */
    m->convert_budget = both - 1;
    assert_int_equal(resolve(m, "mha", "moe", "all", 0, &v, &err), QN_ERR_INVALID);
    assert_string_equal(err.param, "sharing");
    assert_non_null(strstr(err.msg, "more than the budget"));
    qn_model_close(&m);
}

/* --- bytes of checkpoints with several members --- */
static size_t weights_of(struct qn_model *m, const char *a, const char *f, const char *s) {
    struct qn_variant *v = variant(m, a, f, s, 0);
    size_t n = v->info.weights_bytes;
    assert_true(v->info.weights_active_bytes <= n);
    assert_int_equal(v->info.origin, QN_ORIGIN_NATIVE);
    qn_variant_unref(v);
    return n;
}

/* More rows of a step meet more of the 4 experts, of which each choice takes 2: `blocks` blocks, each chosen
 * from `layers` times by every row. */
static void check_steps(const struct qn_variant *v, double expert, int layers, int blocks) {
    double one = qn_variant_step_weights(v, 1).body, state = (double)v->info.state_bytes_per_token;
    for (int rows = 1; rows < 6; rows++) {
        double met = 4 * (1 - pow(0.5, rows * layers)) - 4 * (1 - pow(0.5, layers));
        struct qn_step_weights w = qn_variant_step_weights(v, (uint32_t)rows);
        assert_true(fabs(w.body - one - blocks * met * expert) < 1.0);
        assert_true(fabs(w.body + w.head - (double)v->info.weights_bytes) < 5 * blocks * expert);
        double bytes = qn_variant_cost(v, 0, (uint32_t)rows, 1, 0).bytes;
        assert_true(fabs(bytes - w.body - w.head - 2 * rows * state) < 1.0);
    }
    /* steps of 2, 2 and 1 rows, the last one without logits */
    double steps = 2 * (qn_variant_step_weights(v, 2).body + qn_variant_step_weights(v, 2).head) + one;
    assert_true(fabs(qn_variant_cost(v, 0, 5, 4, 2).bytes - steps - (5 + 2 + 4 + 5) * state) < 1.0);
}

static void a_structure_counts_its_own_weights(void **state) {
    (void)state;
    struct qn_model *m = open_it("tests/golden/quern/all", NULL);
    const struct qn_checkpoint *c = m->ckpt;
    size_t d = 32 * sizeof(float);
    /* gqa is the first member, swiglu the first FFN: two layers and a shared block of each */
    const struct qn_attn_weights *a = &c->attn[0];
    size_t attn = a->q.bytes + a->k.bytes + a->v.bytes + a->o.bytes + d;
    size_t ffn = qn_ffn_matrices_bytes(&c->ffn[0].dense) + d;
    size_t tables = c->embed.bytes + 3 * c->lags[0].bytes + d;
    assert_int_equal(weights_of(m, "gqa", "swiglu", "none"), tables + 2 * (attn + ffn));
    assert_int_equal(weights_of(m, "gqa", "swiglu", "all"), tables + attn + ffn);
    /* one E and one F for all layers */
    size_t ef = 2 * 12 * 40 * sizeof(float), lin = 4 * c->attn[3 * 3].q.bytes + d;
    assert_int_equal(weights_of(m, "linformer", "swiglu", "none"), tables + 2 * (lin + ffn) + ef);
    assert_int_equal(weights_of(m, "linformer", "swiglu", "all"), tables + lin + ffn + ef);
    /* all of the file is more than any structure, and shared projections lie in memory once */
    assert_true(c->attn[0].q.data == c->attn[3].q.data && c->attn[0].k.data != c->attn[3].k.data);
    assert_true(c->weights_bytes > weights_of(m, "linformer", "moe", "none"));
    struct qn_variant *v = variant(m, "gqa", "moe", "all", 0);
    const struct qn_ffn_weights *moe = v->ffn_weights + v->layers[0].ffn_block;
    size_t expert = qn_ffn_matrices_bytes(&moe->experts[0]);
    assert_int_equal(v->info.weights_bytes, tables + attn + d + moe->router.bytes + 4 * expert);
    size_t lags = 3 * (c->lags[0].bytes - c->lags[0].bytes / 44);
    assert_int_equal(v->idle_ffn_bytes, 2 * expert);
    /* two layers choose from the block: of the two experts that one leaves, the other meets one */
    assert_int_equal(v->info.weights_bytes - v->info.weights_active_bytes, expert + lags);
    check_steps(v, (double)expert, 2, 1);
    qn_variant_unref(v);
    v = variant(m, "gqa", "moe", "none", 0);
    assert_int_equal(v->info.weights_bytes - v->info.weights_active_bytes, 2 * 2 * expert + lags);
    check_steps(v, (double)expert, 1, 2);
    qn_variant_unref(v);
    qn_model_close(&m);
}

/* Parameters of the default structure alone, and every member's name. */
static void inspect_tells_members(void **state) {
    (void)state;
    struct qn_inspect in;
    struct qn_err err = {0};
    assert_int_equal(qn_model_inspect("tests/golden/quern/all", &in, &err), QN_OK);
    assert_string_equal(in.members[0], "gqa, mha, mqa, linformer, performer");
    assert_string_equal(in.members[1], "swiglu, gelu, moe");
    assert_string_equal(in.members[2], "none, all");
    uint64_t d = 32, tables = 44 * d * 4 + d, layer = d + 2 * d * (32 + 16) + d + 3 * d * 40;
    assert_true(in.info.params_active == tables + 2 * layer && in.info.params_total > in.info.params_active);
    assert_int_equal(in.state_bytes_per_token, 2 * 2 * 2 * 8 * 2);
    assert_int_equal(in.state_fixed_bytes, 0);
    assert_int_equal(qn_model_inspect("tests/golden/quern/forms", &in, &err), QN_OK);
    assert_int_equal(in.state_bytes_per_token, 0);
    assert_true(in.state_fixed_bytes > 0);
}

/* Every combination of everything that the registries offer, on a checkpoint of many members: resolves, or
 * says why not; runs finite when it resolves. */
static void every_combination(void **state) {
    (void)state;
    struct qn_model *m = open_it("tests/golden/quern/forms", NULL);
    size_t ran = 0;
    for (size_t i = 0; qn_attention_registry[i]; i++) {
        for (size_t j = 0; qn_ffn_registry[j]; j++) {
            for (size_t k = 0; qn_sharing_registry[k]; k++) {
                struct qn_variant *v = NULL;
                struct qn_err err;
                int rc = resolve(m, qn_attention_registry[i]->name, qn_ffn_registry[j]->name,
                                 qn_sharing_registry[k]->name, 0, &v, &err);
                if (rc != QN_OK) {
                    /* members without numbers for it say what to ask for */
                    bool gqa = strcmp(qn_attention_registry[i]->name, "gqa") == 0;
                    assert_non_null(strstr(err.msg, gqa ? "kv_heads" : "ffn"));
                    continue;
                }
                if (qn_variant_prepare(v, NULL, &err) != QN_OK) fail_msg("%s", err.msg);
                assert_true(v->attn_weights && v->ffn_weights);
                assert_true(v->info.weights_active_bytes <= v->info.weights_bytes);
                ran++;
                qn_variant_unref(v);
            }
        }
    }
    assert_true(ran >= 4 * 4 * 5);
    qn_model_close(&m);
}

static void no_mean(struct qn_model *m) {
    struct qn_variant *v = NULL;
    struct qn_err err;
    assert_int_equal(resolve(m, "", "", "all", 0, &v, &err), QN_ERR_INVALID);
    assert_null(v);
    assert_string_equal(err.param, "sharing");
    assert_non_null(strstr(err.msg, "differ in form"));
}

/* A bias, or an F of its own, in one layer alone: no mean is made of it, whichever layer it is. */
static void layers_of_different_form_have_no_mean(void **state) {
    (void)state;
    struct qn_model *m =
        open_it("synthetic:hidden=64,layers=2,heads=4,vocab=300,n=64,attention=linformer,k=8,type=f32", NULL);
    static float bias[64], f[64 * 8];
    for (int i = 0; i < 2; i++) {
        struct qn_attn_weights *w = &m->ckpt->attn[i], old = *w;
        w->bq = bias;
        no_mean(m);
        *w = old;
        w->f = w->f == w->e ? f : w->e;
        no_mean(m);
        *w = old;
        w->proj_heads = 4;
        no_mean(m);
        *w = old;
    }
    qn_variant_unref(variant(m, "", "", "all", 0));
    qn_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(untied_is_exact),
        cmocka_unit_test(groups_at_both_ends),
        cmocka_unit_test(mean_of_equals),
        cmocka_unit_test(means_by_hand),
        cmocka_unit_test(only_what_must_be_made),
        cmocka_unit_test(conversions_compose),
        cmocka_unit_test(halves_are_shared),
        cmocka_unit_test(borrowing_takes_nothing),
        cmocka_unit_test(unread_projections_cost_nothing),
        cmocka_unit_test(averages_are_shared),
        cmocka_unit_test(the_member_is_named),
        cmocka_unit_test(one_layer_has_two_members),
        cmocka_unit_test(both_halves_fit_or_neither),
        cmocka_unit_test(a_structure_counts_its_own_weights),
        cmocka_unit_test(inspect_tells_members),
        cmocka_unit_test(layers_of_different_form_have_no_mean),
        cmocka_unit_test(every_combination),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
