/* Tables narrower than the model (ALBERT's factorised embedding). With maps that are the identity it is the
 * plain embedding, bit for bit; parameters of the published ALBERT shapes are what the paper's models have,
 * less what a pre-norm decoder has not; the maps are weights like all others. (The arithmetic itself is held
 * against a twin: tests/golden/quern/factored.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/batch.h"
#include "model/internal.h"

#define TOKENS 24
#define VOCAB  300

static struct qn_model *open_it(const char *text) {
    struct qn_model *m = NULL;
    struct qn_err err = {0};
    struct qn_open_options opt = {
        .state_bytes = (size_t)8 << 20, .state_type = QN_STATE_F32, .max_step_tokens = 32};
    if (qn_model_open(text, &opt, &m, &err) != QN_OK) fail_msg("%s: %s", text, err.msg);
    return m;
}

static struct qn_variant *native(struct qn_model *m) {
    struct qn_structure_request req = {.convert = false};
    struct qn_variant *v = NULL;
    assert_int_equal(qn_variant_resolve(m, &req, &v, NULL), QN_OK);
    assert_int_equal(qn_variant_prepare(v, NULL, NULL), QN_OK);
    return v;
}

static void keep(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)span;
    memcpy((float *)ctx + (size_t)pos * VOCAB, v, VOCAB * sizeof *v);
}

static float *logits_of(struct qn_model *m) {
    int32_t tokens[TOKENS];
    float *out = calloc(TOKENS * VOCAB, sizeof *out);
    struct qn_variant *v = native(m);
    struct qn_seq *s;
    assert_non_null(out);
    for (int32_t i = 0; i < TOKENS; i++) tokens[i] = (i * 37 + 5) % VOCAB;
    assert_int_equal(qn_seq_new(v, 0, false, &s, NULL), QN_OK);
    assert_int_equal(qn_seq_reserve(s, TOKENS), QN_OK);
    struct qn_span span = {.seq = s, .tokens = tokens, .n = TOKENS, .want = QN_WANT_ALL};
    struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1, .on_row = keep, .ctx = out};
    assert_int_equal(qn_step_run(&step, NULL), QN_OK);
    qn_seq_free(&s);
    qn_variant_unref(v);
    return out;
}

static void become_identity(struct qn_matrix *m) {
    float row[64];
    assert_true(m->type == QN_F32 && m->rows == 64 && m->cols == 64);
    for (uint32_t r = 0; r < 64; r++) {
        for (uint32_t c = 0; c < 64; c++) row[c] = c == r ? 1.0f : 0.0f;
        qn_matrix_set_row(m, r, row);
    }
}

/* A fused sum of x_k times one and all others times zero is x_k: nothing is rounded. */
static void identity_is_the_plain_embedding(void **state) {
    (void)state;
    static const char *const forms[] = {"", ",pos=learned,lags=2,norm=layer", ",tied=false"};
    char text[160];
    for (size_t i = 0; i < 3; i++) {
        snprintf(text, sizeof text,
                 "synthetic:hidden=64,embedding=64,layers=2,heads=4,vocab=300,n=64,type=f32%s", forms[i]);
        struct qn_model *m = open_it(text);
        struct qn_checkpoint *c = m->ckpt;
        float *random = logits_of(m);
        become_identity(&c->embed_map);
        assert_true((c->output_map.data == NULL) == (i == 2));
        if (c->output_map.data) become_identity(&c->output_map);
        float *mapped = logits_of(m);
        c->spec.d_embed = 0;
        c->output_map = (struct qn_matrix){0}; /* its memory is the checkpoint's */
        float *plain = logits_of(m);
        assert_memory_equal(mapped, plain, TOKENS * VOCAB * sizeof *plain);
        assert_memory_not_equal(random, plain, TOKENS * VOCAB * sizeof *plain);
        free(random);
        free(mapped);
        free(plain);
        qn_model_close(&m);
    }
}

/* Published parameters without heads; the pooler belongs to them. */
static const struct shape {
    const char *name;
    uint64_t hidden, layers, heads, published;
} shapes[] = {
    {"base", 768, 12, 12, 11683584},
    {"large", 1024, 24, 16, 17683968},
    {"xlarge", 2048, 24, 16, 58724864},
    {"xxlarge", 4096, 12, 64, 222595584},
};

static void albert_has_its_parameters(void **state) {
    (void)state;
    char text[200];
    struct qn_inspect in;
    struct qn_err err = {0};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        uint64_t d = s->hidden, e = 128, ffn = 4 * d;
        snprintf(text, sizeof text,
                 "synthetic:hidden=%u,layers=%u,heads=%u,embedding=128,ffn=gelu,ffn_dim=%u,vocab=30000,n=512,"
                 "sharing=all,norm=layer,pos=learned",
                 (unsigned)d, (unsigned)s->layers, (unsigned)s->heads, (unsigned)ffn);
        if (qn_model_inspect(text, &in, &err) != QN_OK) fail_msg("%s: %s", s->name, err.msg);
        uint64_t types = 2 * e, table_norm = 2 * e, map_bias = d, pooler = d * d + d;
        uint64_t biases = 4 * d + ffn + d; /* of q, k, v, o and the FFN */
        uint64_t last_norm = 2 * d;        /* a post-norm block ends with its own */
        uint64_t output_map = e * d;       /* of the masked-token head, which the figures leave out */
        uint64_t ours = in.info.params_total - last_norm - output_map;
        assert_true(ours + types + table_norm + map_bias + biases + pooler == s->published);
    }
}

/* All that is in memory is counted once, whatever else a mixture has; a token reads the maps whole, and one
 * row of a table that is not the output matrix as well. */
static void maps_are_counted(void **state) {
    (void)state;
    static const char *const texts[] = {
        "synthetic:hidden=64,embedding=32,layers=2,heads=4,vocab=300,n=64,lags=2,pos=learned",
        "synthetic:hidden=64,embedding=32,layers=2,heads=4,vocab=300,n=64,tied=false",
        "synthetic:hidden=64,layers=2,heads=4,n=64,ffn=moe,gating=D,shared_dim=32,shared_gate=true"};
    for (size_t i = 0; i < 3; i++) {
        struct qn_model *m = open_it(texts[i]);
        struct qn_variant *v = native(m);
        const struct qn_checkpoint *c = m->ckpt;
        assert_int_equal(v->info.weights_bytes, c->weights_bytes);
        double head =
            (double)(c->output.data ? c->output.bytes : c->embed.bytes) + (double)c->output_map.bytes;
        assert_true(qn_variant_step_weights(v, 1).head == head && (i > 0 || c->output_map.bytes > 0));
        if (i == 0) {
            size_t unread = 2 * (c->lags[0].bytes - c->lags[0].bytes / 300) + 63 * 32 * sizeof(float);
            assert_int_equal(v->info.weights_bytes - v->info.weights_active_bytes, unread);
        }
        if (i < 2) { /* a row's way through the maps is work */
            double macs = 32 * 64 + (i == 0 ? 32 * 64 + 300 * 32 : 300 * 64);
            struct qn_cost with = qn_variant_cost(v, 0, 1, 1, 1);
            struct qn_checkpoint *changed = m->ckpt;
            struct qn_matrix map = changed->output_map;
            changed->spec.d_embed = 0;
            changed->output_map = (struct qn_matrix){0};
            struct qn_cost less = qn_variant_cost(v, 0, 1, 0, 1);
            assert_true(with.flops - less.flops == 2 * macs);
            changed->spec.d_embed = 32;
            changed->output_map = map;
        }
        qn_variant_unref(v);
        qn_model_close(&m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity_is_the_plain_embedding),
        cmocka_unit_test(albert_has_its_parameters),
        cmocka_unit_test(maps_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
