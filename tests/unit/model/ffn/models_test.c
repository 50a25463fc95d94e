/* Mixtures and converted FFNs inside whole models: parameters that a token reads, another number of experts
 * per token against a checkpoint trained with it, exact conversions against their source, and their bytes.
 * Thread: the test's. */
#include "model/batch.h"
#include "model/internal.h"
#include "tests/unit/model/ffn/kit.h"

#define TOKENS 24
#define VOCAB  272

static struct qn_model *open_tiny(const struct qn_test_tiny *t) {
    struct qn_open_options opt = {.state_bytes = (size_t)8 << 20, .max_step_tokens = 32};
    return qn_test_tiny_open(t, &opt);
}

static struct qn_part ffn_part(const char *type, const char *name, double value) {
    struct qn_part p;
    qn_part_init(&p, type);
    if (name) qn_part_add(&p, name, QN_PARAM_INT, value);
    return p;
}

static int resolve(struct qn_model *m, const char *attention, const struct qn_part *ffn, bool convert,
                   struct qn_variant **v, struct qn_err *err) {
    struct qn_structure_request req = {.ffn = *ffn, .convert = convert};
    qn_part_init(&req.attention, attention);
    memset(err, 0, sizeof *err);
    return qn_variant_resolve(m, &req, v, err);
}

static void keep(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)span;
    memcpy((float *)ctx + (size_t)pos * VOCAB, v, VOCAB * sizeof *v);
}

/* Logits of a fixed sequence with this FFN. */
static struct qn_structure logits_of(struct qn_model *m, const char *attention, const struct qn_part *ffn,
                                     float *out) {
    int32_t tokens[TOKENS];
    struct qn_variant *v;
    struct qn_seq *s;
    struct qn_err err;
    for (int32_t i = 0; i < TOKENS; i++) tokens[i] = (i * 37 + 5) % VOCAB;
    if (resolve(m, attention, ffn, true, &v, &err)) fail_msg("%s", err.msg);
    assert_int_equal(qn_variant_prepare(v, NULL, &err), QN_OK);
    assert_int_equal(qn_seq_new(v, 0, false, &s, NULL), QN_OK);
    assert_int_equal(qn_seq_reserve(s, TOKENS), QN_OK);
    struct qn_span span = {.seq = s, .tokens = tokens, .n = TOKENS, .want = QN_WANT_ALL};
    struct qn_step step = {.variant = v, .spans = &span, .n_spans = 1, .on_row = keep, .ctx = out};
    assert_int_equal(qn_step_run(&step, NULL), QN_OK);
    struct qn_structure info = *qn_variant_structure(v);
    qn_seq_free(&s);
    qn_variant_unref(v);
    return info;
}

static float logits_a[TOKENS * VOCAB], logits_b[TOKENS * VOCAB];
static const struct qn_part native;

static void active_parameters(void **state) {
    (void)state;
    static const char *const families[] = {"llama", "gpt2", "mixtral", "qwen2moe", "qwen3moe", "olmoe"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct qn_test_tiny t = qn_test_tiny_default(families[i]);
        struct qn_model *m = open_tiny(&t);
        const struct qn_model_info *info = qn_model_info(m);
        uint64_t expert = 3ull * t.d_model * t.ffn, idle = (uint64_t)t.layers * (t.experts - t.used) * expert;
        assert_true(info->params_total > idle);
        assert_int_equal(info->params_active, info->params_total - idle);
        qn_model_close(&m);
    }
}

/* The same weights in a file that says another number of experts per token: the same bits. */
static void another_number_of_experts(void **state) {
    (void)state;
    static const char *const families[] = {"mixtral", "qwen2moe", "qwen3moe", "olmoe"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        for (uint32_t used = 1; used <= 5; used++) {
            struct qn_test_tiny t = qn_test_tiny_default(families[i]), other = t;
            struct qn_part ask = ffn_part("moe", "experts_per_token", used);
            struct qn_variant *v;
            struct qn_err err;
            other.used = used;
            struct qn_model *m = open_tiny(&t), *trained = open_tiny(&other);
            int rc = resolve(m, "", &ask, false, &v, &err);
            assert_int_equal(rc, used == t.used ? QN_OK : QN_ERR_INVALID);
            if (rc) assert_string_equal(err.param, "ffn");
            if (rc) assert_non_null(strstr(err.msg, "trained with 2 experts per token"));
            if (rc) assert_non_null(strstr(err.msg, "set \"convert\": true"));
            if (!rc) qn_variant_unref(v);
            struct qn_structure info = logits_of(m, "", &ask, logits_a);
            assert_int_equal(info.exactness, used == t.used ? QN_EXACT : QN_APPROXIMATE);
            assert_int_equal(info.origin, used == t.used ? QN_ORIGIN_NATIVE : QN_ORIGIN_CONVERTED);
            struct qn_structure same = logits_of(trained, "", &native, logits_b);
            assert_memory_equal(logits_a, logits_b, sizeof logits_a);
            assert_int_equal(info.weights_bytes, same.weights_bytes);
            assert_int_equal(info.weights_active_bytes, same.weights_active_bytes);
            assert_int_equal(qn_model_memory(m).converted, 0); /* nothing is made */
            qn_model_close(&m);
            qn_model_close(&trained);
        }
    }
}

/* Exact conversions equal their source in every bit, biases of GPT-2 included, alone and beside another
 * attention. */
static void exact_equals_its_source(void **state) {
    (void)state;
    static const struct {
        const char *family, *to, *attention;
        enum qn_type type;
    } cases[] = {
        {"llama", "moe", "", QN_F32},
        {"llama", "moe", "mha", QN_Q8_0},
        {"gemma", "moe", "", QN_F16},
        {"gpt2", "moe", "", QN_F32},
        {"gpt2", "geglu", "", QN_F32},
        {"gpt2", "geglu", "", QN_Q8_0},
        {"gpt_bigcode", "geglu", "mha", QN_F32},
        {"gpt_bigcode", "moe", "mha", QN_Q4_0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct qn_test_tiny t = qn_test_tiny_default(cases[i].family);
        t.type = cases[i].type;
        struct qn_model *m = open_tiny(&t);
        struct qn_part ask = ffn_part(cases[i].to, NULL, 0);
        logits_of(m, "", &native, logits_a);
        struct qn_structure info = logits_of(m, cases[i].attention, &ask, logits_b);
        assert_int_equal(info.exactness, QN_EXACT);
        assert_int_equal(info.origin, QN_ORIGIN_CONVERTED);
        assert_string_equal(info.ffn.type, cases[i].to);
        for (size_t j = 0; j < (size_t)TOKENS * VOCAB; j++)
            if (logits_a[j] != logits_b[j]) fail_msg("%s as %s differs", cases[i].family, cases[i].to);
        qn_model_close(&m);
    }
}

/* Upcycling copies nothing: the router is all that is new. A plain MLP as a gated one costs an up matrix. */
static void bytes_of_conversions(void **state) {
    (void)state;
    struct qn_test_tiny t = qn_test_tiny_default("gpt2");
    struct qn_model *m = open_tiny(&t);
    struct qn_structure plain = logits_of(m, "", &native, logits_a);
    struct qn_part eight = ffn_part("moe", "experts", 8), gated = ffn_part("geglu", NULL, 0);
    size_t router = 0, up = 0;
    assert_true(qn_matrix_bytes(QN_F32, 8, t.d_model, &router) &&
                qn_matrix_bytes(QN_F32, t.ffn, t.d_model, &up));
    struct qn_structure moe = logits_of(m, "", &eight, logits_b);
    assert_int_equal(moe.weights_bytes, plain.weights_bytes + t.layers * router);
    assert_int_equal(moe.weights_active_bytes, plain.weights_active_bytes + t.layers * router);
    size_t lists = t.layers * (sizeof(struct qn_ffn_weights) + 8 * sizeof(struct qn_ffn_matrices));
    assert_int_equal(qn_model_memory(m).converted, t.layers * router + lists + sizeof(struct qn_conversion));
    struct qn_structure glu = logits_of(m, "", &gated, logits_b);
    assert_int_equal(glu.weights_bytes, plain.weights_bytes + t.layers * (up + t.ffn * sizeof(float)));
    qn_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(active_parameters),
        cmocka_unit_test(another_number_of_experts),
        cmocka_unit_test(exact_equals_its_source),
        cmocka_unit_test(bytes_of_conversions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
