/* Models made from descriptions: every key is read and checked, every kind of the registries in every weight
 * type gives finite and varied logits, and the weights depend on the description alone. */
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
#include "model/synthetic.h"

#define TOKENS 20

static struct qn_model *open_it(const char *text, struct qn_pool *pool) {
    struct qn_model *m = NULL;
    struct qn_err err = {0};
    struct qn_open_options opt = {.pool = pool, .state_bytes = (size_t)8 << 20, .max_step_tokens = 32};
    if (qn_model_open(text, &opt, &m, &err) != QN_OK) fail_msg("%s: %s", text, err.msg);
    return m;
}

struct spread {
    double sum, squares;
    size_t n;
};

static void watch(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)span;
    (void)pos;
    struct spread *s = ctx;
    for (size_t i = 0; i < 320; i++) {
        assert_true(isfinite(v[i]));
        s->sum += (double)v[i];
        s->squares += (double)v[i] * (double)v[i];
        s->n++;
    }
}

/* Runs the native structure; logits must be finite and spread out. vocab = 320. */
static void run_it(const char *text) {
    struct qn_model *m = open_it(text, NULL);
    struct qn_structure_request req = {.convert = false};
    struct qn_variant *v = NULL;
    struct qn_seq *seq = NULL;
    int32_t tokens[TOKENS];
    struct spread s = {0};
    for (int32_t i = 0; i < TOKENS; i++) tokens[i] = (i * 37 + 5) % 320;
    assert_int_equal(qn_variant_resolve(m, &req, &v, NULL), QN_OK);
    assert_int_equal(qn_variant_structure(v)->origin, QN_ORIGIN_SYNTHETIC);
    assert_int_equal(qn_variant_structure(v)->exactness, QN_EXACT);
    assert_int_equal(qn_variant_prepare(v, NULL, NULL), QN_OK);
    assert_int_equal(qn_seq_new(v, 0, false, &seq, NULL), QN_OK);
    assert_int_equal(qn_seq_reserve(seq, TOKENS), QN_OK);
    struct qn_span span = {.seq = seq, .tokens = tokens, .n = TOKENS, .want = QN_WANT_ALL};
    struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1, .on_row = watch, .ctx = &s};
    assert_int_equal(qn_step_run(&step, NULL), QN_OK);
    double mean = s.sum / (double)s.n, sd = sqrt(s.squares / (double)s.n - mean * mean);
    if (s.n != TOKENS * 320 || !(sd > 0.3 && sd < 20)) fail_msg("%s: logits spread by %g", text, sd);
    qn_seq_free(&seq);
    qn_variant_unref(v);
    qn_model_close(&m);
}

static void every_kind_runs(void **state) {
    (void)state;
    char text[256];
    for (size_t i = 0; qn_attention_registry[i]; i++) {
        for (size_t j = 0; qn_ffn_registry[j]; j++) {
            for (size_t k = 0; qn_sharing_registry[k]; k++) {
                snprintf(text, sizeof text,
                         "synthetic:hidden=64,layers=2,heads=8,head_dim=16,vocab=320,n=128,k=24,features=40,"
                         "experts=4,type=f32,attention=%s,ffn=%s,sharing=%s",
                         qn_attention_registry[i]->name, qn_ffn_registry[j]->name,
                         qn_sharing_registry[k]->name);
                run_it(text);
            }
        }
    }
}

static void every_type_and_form_runs(void **state) {
    (void)state;
    static const char *const forms[] = {"",
                                        "norm=layer",
                                        "pos=learned",
                                        "tied=false",
                                        "lags=3",
                                        "rope=false",
                                        "window=8",
                                        "seed=99",
                                        "rope_base=5e5",
                                        "head_dim=40,heads=3,attention=mqa",
                                        "embedding=48",
                                        "embedding=16,tied=false",
                                        "embedding=32,lags=2,pos=learned"};
    char text[256];
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        snprintf(text, sizeof text, "synthetic:hidden=256,layers=2,vocab=320,n=64,type=%s",
                 qn_type_name((enum qn_type)t));
        run_it(text);
    }
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        snprintf(text, sizeof text, "synthetic:hidden=128,layers=2,vocab=320,n=64,type=f16,%s", forms[i]);
        run_it(text);
    }
}

/* Every way of choosing experts, with what only some have; keys that gating B has no use for are left out. */
static void every_gating_runs(void **state) {
    (void)state;
    static const char *const ways[] = {"A",
                                       "B",
                                       "C",
                                       "D",
                                       "D,route_groups=4,top_groups=2,route_scale=2.5",
                                       "D,shared_dim=64,shared_gate=true",
                                       "B,shared_dim=64"};
    static const char *const mixture =
        "synthetic:hidden=64,layers=2,vocab=320,n=128,ffn=moe,type=f16,gating=%s";
    char text[256];
    struct qn_synthetic s;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        snprintf(text, sizeof text, mixture, ways[i]);
        run_it(text);
        struct qn_model *m = open_it(text, NULL);
        assert_int_equal(m->ckpt->spec.ffn[0].gating, QN_GATING_TOPK_SOFTMAX + (ways[i][0] - 'A'));
        for (uint32_t b = 0; b < 2; b++) {
            const struct qn_ffn_weights *w = &m->ckpt->ffn[b];
            assert_true((w->route_bias != NULL) == (ways[i][0] == 'D'));
            assert_true((w->shared_gate != NULL) == (strstr(ways[i], "gate") != NULL));
            assert_true((w->dense.up.data != NULL) == (strstr(ways[i], "shared_dim") != NULL));
        }
        qn_model_close(&m);
    }
    snprintf(text, sizeof text, mixture, ways[4]);
    assert_int_equal(qn_synthetic_parse(text, &s, NULL), QN_OK);
    assert_true(s.spec.ffn[0].groups == 4 && s.spec.ffn[0].top_groups == 2 &&
                s.spec.ffn[0].route_scale == 2.5f);
    snprintf(text, sizeof text, mixture, "B,route_groups=3,top_groups=9,route_scale=2");
    assert_int_equal(qn_synthetic_parse(text, &s, NULL), QN_OK);
    assert_true(s.spec.ffn[0].groups == 0 && s.spec.ffn[0].route_scale == 0);
    assert_int_equal(qn_synthetic_parse("synthetic:ffn=moe,experts=1", &s, NULL), QN_OK);
    assert_int_equal(s.spec.ffn[0].used, 1);
}

static void defaults_and_keys(void **state) {
    (void)state;
    struct qn_synthetic s;
    struct qn_err err = {0};
    assert_int_equal(qn_synthetic_parse("synthetic:", &s, &err), QN_OK);
    assert_string_equal(s.name, "synthetic");
    assert_int_equal(s.spec.d_model, 256);
    assert_int_equal(s.spec.attn[0].kv_heads, s.spec.heads);
    assert_int_equal(qn_synthetic_parse("synthetic:hidden=768,layers=12,heads=12,attention=gqa,ffn=swiglu,"
                                        "n=2048,name=big,seed=18446744073709551615,sharing=groups,groups=3",
                                        &s, &err),
                     QN_OK);
    assert_string_equal(s.name, "big");
    assert_true(s.seed == UINT64_MAX);
    assert_int_equal(s.spec.layers, 12);
    assert_int_equal(s.spec.head_dim, 64);
    assert_int_equal(s.spec.attn[0].kv_heads, 3);
    assert_int_equal(s.spec.ffn[0].dim, 2048);
    assert_int_equal(s.spec.context, 2048);
    assert_int_equal(s.spec.attn_blocks, 3);
    assert_int_equal(s.spec.ffn_blocks, 3);
    assert_int_equal(qn_synthetic_parse("synthetic:hidden=512,ffn=gelu,attention=mqa", &s, &err), QN_OK);
    assert_int_equal(s.spec.ffn[0].dim, 2048);
    assert_int_equal(s.spec.attn[0].kv_heads, 1);
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"hiden=3", "nearest: \"hidden\""},
        {"heads_kv=3", "there is no key"},
        {"=3", "there is no key"},
        {"hidden", "not key=value"},
        {"hidden=64,,layers=2", "not key=value"},
        {"hidden=64,hidden=64", "given twice"},
        {"hidden=", "integer from 8 to 65536"},
        {"hidden=-1", "integer"},
        {"hidden=64x", "integer"},
        {"hidden=99999999999999999999999", "integer"},
        {"hidden=4294967360", "integer"},
        {"seed=18446744073709551616", "integer"},
        {"tied=yes", "true or false"},
        {"rope_base=abc", "number above 1"},
        {"rope_base=1", "number above 1"},
        {"ffn=moe,gating=D,route_scale=0", "number above 0"},
        {"ffn=moe,gating=E", "must be A, B, C or D"},
        {"ffn=moe,gating=AB", "must be A, B, C or D"},
        {"ffn=moe,gating=D,route_groups=3,top_groups=2", "does not divide the number of experts"},
        {"ffn=moe,gating=D,route_groups=4", "top_groups is 0"},
        {"ffn=moe,gating=D,route_groups=4,top_groups=5", "top_groups is 5"},
        {"ffn=moe,gating=D,experts_per_token=3,route_groups=4,top_groups=1", "open groups hold"},
        {"ffn=moe,experts=4,experts_per_token=8", "above the 4 experts"},
        {"hidden=64,embedding=72", "at most \"hidden\""},
        {"hidden=64,embedding=4", "integer from 8"},
        {"hidden=64,embedding=24", "whole blocks of 32"},
        {"hidden=64,ffn=moe,shared_dim=4", "integer from 8"},
        {"norm=batch", "rms or layer"},
        {"pos=sine", "rope or learned"},
        {"type=q3_k", "q8_0"},
        {"kernel=cos", "favor+ or relu"},
        {"attention=gqaa", "not known (mha, gqa, mqa"},
        {"ffn=mlp", "not known ("},
        {"expert=mlp", "expert \"mlp\" is not known"},
        {"sharing=some", "not known (none, all"},
        {"sharing=groups,groups=9", "1 to 4"},
        {"name=a/b", "not a word"},
        {"attention=abcdefghijklmnopqrstuvwxyz", "not a word"},
        {"attention=gqa,heads=1,head_dim=64", "does not fit"},
        {"attention=mqa,kv_heads=2", "does not fit"},
        {"heads=6,kv_heads=4", "does not divide"},
        {"hidden=130", "head_dim"},
        {"hidden=320,type=q4_k", "whole blocks of 256"},
        {"hidden=65536,layers=1024,ffn_dim=1048576,type=f32", "memory has"},
    };
    char text[256];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct qn_model *m = NULL;
        struct qn_err err = {0};
        struct qn_open_options opt = {.max_step_tokens = 32};
        snprintf(text, sizeof text, "synthetic:%s", bad[i].text);
        int rc = qn_model_open(text, &opt, &m, &err);
        assert_true(rc != QN_OK);
        assert_null(m);
        if (!strstr(err.msg, bad[i].says)) fail_msg("%s: \"%s\" does not say %s", text, err.msg, bad[i].says);
    }
}

static uint64_t hash(uint64_t h, const void *p, size_t n) {
    const uint8_t *b = p;
    for (size_t i = 0; i < n; i++) h = (h ^ b[i]) * 0x100000001b3u;
    return h;
}

static uint64_t weights_of(const char *text, struct qn_pool *pool) {
    struct qn_model *m = open_it(text, pool);
    const struct qn_checkpoint *c = m->ckpt;
    uint64_t h = hash(7, c->embed.data, c->embed.bytes);
    h = hash(h, c->out_norm.g, c->spec.d_model * sizeof(float));
    for (uint32_t i = 0; i < c->spec.attn_blocks; i++) {
        h = hash(h, c->attn[i].q.data, c->attn[i].q.bytes);
        h = hash(h, c->attn[i].v.data, c->attn[i].v.bytes);
        h = hash(h, c->attn[i].norm.g, c->spec.d_model * sizeof(float));
    }
    for (uint32_t i = 0; i < c->spec.ffn_blocks; i++)
        h = hash(h, c->ffn[i].dense.down.data, c->ffn[i].dense.down.bytes);
    qn_model_close(&m);
    return h;
}

static void same_for_any_thread_count(void **state) {
    (void)state;
    static const char text[] = "synthetic:hidden=192,layers=2,vocab=1000,type=q8_0,head_dim=64";
    struct qn_pool *pool = qn_pool_new(3);
    assert_non_null(pool);
    uint64_t one = weights_of(text, NULL);
    assert_true(one == weights_of(text, pool));
    assert_true(one ==
                weights_of("synthetic:type=q8_0,hidden=192,seed=1,head_dim=64,vocab=1000,layers=2", pool));
    assert_true(one !=
                weights_of("synthetic:hidden=192,layers=2,vocab=1000,type=q8_0,head_dim=64,seed=2", pool));
    qn_pool_free(&pool);
}

/* No two matrices, and no two rows, hold the same numbers; their size is the intended one. */
static void rows_differ(void **state) {
    (void)state;
    struct qn_model *m = open_it("synthetic:hidden=64,layers=1,vocab=320,type=f32", NULL);
    const struct qn_attn_weights *w = &m->ckpt->attn[0];
    float a[64], b[64], c[64];
    double squares = 0;
    qn_matrix_get_row(&w->q, 0, a);
    qn_matrix_get_row(&w->q, 1, b);
    qn_matrix_get_row(&w->k, 0, c);
    assert_memory_not_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    for (uint32_t r = 0; r < 64; r++) {
        qn_matrix_get_row(&w->q, r, a);
        for (int i = 0; i < 64; i++) squares += (double)a[i] * (double)a[i];
    }
    assert_true(fabs(squares / 64 - 1) < 0.1); /* a row's length is 1 */
    qn_model_close(&m);
}

static void inspect_counts_the_same(void **state) {
    (void)state;
    static const char text[] = "synthetic:hidden=96,layers=3,heads=3,head_dim=32,vocab=500,lags=2,tied=false";
    struct qn_inspect in;
    struct qn_err err = {0};
    assert_int_equal(qn_model_inspect(text, &in, &err), QN_OK);
    struct qn_model *m = open_it(text, NULL);
    const struct qn_model_info *info = qn_model_info(m);
    assert_string_equal(info->id, "synthetic");
    assert_true(info->params_total == in.info.params_total && info->file_bytes == in.info.file_bytes);
    /* two tables, two lags; per layer q k v o, three of the FFN, two norms; the last norm */
    uint64_t d = 96, ffn = 256;
    assert_true(info->params_total == 4 * 500 * d + 3 * (4 * d * d + 3 * d * ffn + 2 * d) + d);
    assert_true(info->weights_bytes >= info->file_bytes);
    qn_model_close(&m);
}

static void bytes_are_tokens(void **state) {
    (void)state;
    struct qn_model *m = open_it("synthetic:hidden=64,layers=1,vocab=300", NULL);
    int32_t *ids = NULL;
    size_t n = 0;
    static const int32_t want[] = {256, 0xc3, 0xa9, '\n', 0, 255 - 255 + 1};
    assert_int_equal(qn_model_tokenize(m, "\xc3\xa9\n\0\1", 5, true, 0, &ids, &n, NULL), QN_OK);
    assert_int_equal(n, 6);
    assert_memory_equal(ids, want, sizeof want);
    free(ids);
    for (int32_t i = 0; i < 256; i++) {
        struct qn_str_ref piece = qn_model_piece(m, i, false);
        assert_true(piece.n == 1 && (uint8_t)piece.p[0] == i);
    }
    struct qn_str_ref piece = qn_model_piece(m, 299, false);
    assert_true(piece.n == 5 && memcmp(piece.p, "<299>", 5) == 0);
    qn_model_close(&m);
    m = open_it("synthetic:hidden=64,layers=1,vocab=256", NULL);
    assert_false(qn_model_info(m)->has_tokenizer);
    qn_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_runs),   cmocka_unit_test(every_type_and_form_runs),
        cmocka_unit_test(every_gating_runs), cmocka_unit_test(defaults_and_keys),
        cmocka_unit_test(refusals),          cmocka_unit_test(same_for_any_thread_count),
        cmocka_unit_test(rows_differ),       cmocka_unit_test(inspect_counts_the_same),
        cmocka_unit_test(bytes_are_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
