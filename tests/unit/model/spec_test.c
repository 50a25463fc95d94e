/* qn_spec_check's bounds, each from both sides, and RoPE frequencies against values worked out by hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/spec.h"

static struct qn_spec good(void) {
    return (struct qn_spec){.family = "llama",
                            .layers = 2,
                            .d_model = 64,
                            .heads = 4,
                            .head_dim = 16,
                            .vocab = 100,
                            .context = 128,
                            .norm_eps = 1e-5f,
                            .rope_dim = 16,
                            .rope_base = 10000.0f,
                            .embed_scale = 1.0f,
                            .n_attn = 1,
                            .n_ffn = 1,
                            .n_share = 1,
                            .attn = {{.type = "gqa", .kv_heads = 2}},
                            .ffn = {{.type = "swiglu", .dim = 96, .act = QN_ACT_SILU}},
                            .share = {{.type = "none", .attn_blocks = 2, .ffn_blocks = 2}},
                            .attn_blocks = 2,
                            .ffn_blocks = 2};
}

static void ranges(void **state) {
    static const struct {
        size_t at;
        uint32_t low, high; /* just outside */
    } fields[] = {
        {offsetof(struct qn_spec, layers), 0, 1025},    {offsetof(struct qn_spec, d_model), 7, 65537},
        {offsetof(struct qn_spec, heads), 0, 1025},     {offsetof(struct qn_spec, attn[0].kv_heads), 0, 1025},
        {offsetof(struct qn_spec, head_dim), 7, 520},   {offsetof(struct qn_spec, ffn[0].dim), 7, 1048577},
        {offsetof(struct qn_spec, vocab), 1, 2097153},  {offsetof(struct qn_spec, context), 0, 16777217},
        {offsetof(struct qn_spec, rope_dim), 1, 18},    {offsetof(struct qn_spec, rope_dim), 0, 15},
        {offsetof(struct qn_spec, n_attn), 0, 9},       {offsetof(struct qn_spec, n_ffn), 0, 9},
        {offsetof(struct qn_spec, n_share), 0, 9},      {offsetof(struct qn_spec, attn_blocks), 0, 2049},
        {offsetof(struct qn_spec, ffn_blocks), 1, 2049}};
    struct qn_spec s = good();
    (void)state;
    assert_int_equal(qn_spec_check(&s, NULL), QN_OK);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const uint32_t v[2] = {fields[i].low, fields[i].high};
        for (int j = 0; j < 2; j++) {
            struct qn_err err = {0};
            s = good();
            memcpy((char *)&s + fields[i].at, &v[j], sizeof v[j]);
            assert_int_equal(qn_spec_check(&s, &err), QN_ERR_UNSUPPORTED);
            assert_true(err.msg[0] && err.param[0]);
        }
    }
}

static void refused(struct qn_spec s, const char *param) {
    struct qn_err err = {0};
    assert_int_equal(qn_spec_check(&s, &err), QN_ERR_UNSUPPORTED);
    assert_string_equal(err.param, param);
}

static void cross_rules(void **state) {
    struct qn_spec s;
    (void)state;
    s = good(), s.heads = 6, s.attn[0].kv_heads = 4, refused(s, "kv_heads");
    s = good(), s.head_dim = 20, s.rope_dim = 20, refused(s, "head_dim");
    s = good(), s.norm_eps = 0, refused(s, "norm_eps");
    s = good(), s.norm_eps = NAN, refused(s, "norm_eps");
    s = good(), s.rope_base = NAN, refused(s, "rope_base");
    s = good(), s.rope_base = INFINITY, refused(s, "rope_base");
    s = good(), s.embed_scale = 0, refused(s, "embed_scale");
    s = good(), s.embed_scale = INFINITY, refused(s, "embed_scale");
    s = good(), s.ffn[0].type[0] = 0, refused(s, "ffn");
    s = good(), s.attn[0].type[0] = 0, refused(s, "attention");
    s = good(), s.attn[0].slots = 4097, refused(s, "slots");
    s = good(), s.attn[0].features = 4097, refused(s, "features");
    s = good(), s.share[0].type[0] = 0, refused(s, "sharing");
    s = good(), s.share[0].attn_first = 1, refused(s, "sharing");
    s = good(), s.share[0].ffn_blocks = 3, refused(s, "sharing");
    s = good(), s.ffn[0].experts = 4, refused(s, "experts_per_token");
    s.ffn[0].used = 2, refused(s, "expert");
    strcpy(s.ffn[0].expert, "swiglu"), refused(s, "gating");
    s.ffn[0].gating = QN_GATING_SOFTMAX;
    assert_int_equal(qn_spec_check(&s, NULL), QN_OK);
    s.ffn[0].route_scale = NAN, refused(s, "route_scale");
    s.ffn[0].route_scale = 2.5f, s.ffn[0].top_groups = 1, refused(s, "groups"); /* not with softmax */
    s.ffn[0].gating = QN_GATING_SIGMOID, refused(s, "groups");
    s.ffn[0].groups = 3, refused(s, "groups");
    s.ffn[0].groups = 2, s.ffn[0].top_groups = 3, refused(s, "top_groups");
    s.ffn[0].top_groups = 1, s.ffn[0].used = 3, refused(s, "experts_per_token");
    s.ffn[0].used = 2;
    assert_int_equal(qn_spec_check(&s, NULL), QN_OK);
    s = good(), s.pos = QN_POS_LEARNED, refused(s, "rope_dim");
    s = good(), s.rope_scaling = QN_ROPE_LINEAR, refused(s, "rope_factor");
    s = good(), s.rope_scaling = QN_ROPE_LLAMA3, s.rope_factor = 8, refused(s, "rope_low_freq");
    s.rope_low_freq = 4, s.rope_high_freq = 1, refused(s, "rope_high_freq");
    s.rope_high_freq = 8, refused(s, "rope_original_context");
    s.rope_original_context = 8192;
    assert_int_equal(qn_spec_check(&s, NULL), QN_OK);
}

static void near(float got, double want) {
    if (!(fabs((double)got - want) <= 1e-6 * want)) fail_msg("%.9g, expected %.9g", (double)got, want);
}

/* base 10000, 16 dims: 10000^(-i/8) = 10^(-i/2). */
static void plain_and_linear_frequencies(void **state) {
    struct qn_spec s = good();
    float f[8], factors[8] = {1, 2, 4, 1, 1, 1, 1, 8};
    const double want[8] = {1,    0.31622776601683794,   0.1,   0.031622776601683794,
                            0.01, 0.0031622776601683794, 0.001, 0.00031622776601683794};
    (void)state;
    qn_spec_rope_freqs(&s, NULL, f);
    for (int i = 0; i < 8; i++) near(f[i], want[i]);
    qn_spec_rope_freqs(&s, factors, f);
    for (int i = 0; i < 8; i++) near(f[i], want[i] / (double)factors[i]);
    s.rope_scaling = QN_ROPE_LINEAR, s.rope_factor = 4;
    qn_spec_rope_freqs(&s, NULL, f);
    for (int i = 0; i < 8; i++) near(f[i], want[i] / 4);
}

/* Llama 3.1 with context 100, low 1, high 4, factor 8: wavelengths below 25 stay, above 100 are stretched,
 * and 10^(-1) has wavelength 62.83, so smooth = (100/62.83 - 1) / 3 = 0.197183. */
static void llama3_frequencies(void **state) {
    struct qn_spec s = good();
    float f[8];
    (void)state;
    s.rope_scaling = QN_ROPE_LLAMA3, s.rope_factor = 8, s.rope_low_freq = 1, s.rope_high_freq = 4;
    s.rope_original_context = 100;
    qn_spec_rope_freqs(&s, NULL, f);
    near(f[0], 1);
    near(f[1], 0.31622776601683794);
    double smooth = (100.0 / 62.831853071795865 - 1.0) / 3.0;
    near(f[2], (1 - smooth) * 0.1 / 8 + smooth * 0.1);
    near(f[3], 0.031622776601683794 / 8);
    near(f[7], 0.00031622776601683794 / 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges),
        cmocka_unit_test(cross_rules),
        cmocka_unit_test(plain_and_linear_frequencies),
        cmocka_unit_test(llama3_frequencies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
