/* /v1/models, /v1/structures, /tokenize, /detokenize: both directions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <string.h>

#include "api/models.h"

static const struct qn_api_model model = {
    .id = "grist",
    .family = "llama",
    .format = "gguf",
    .kv_type = "q8",
    .created = 17,
    .params_total = 100,
    .params_active = 90,
    .layers = 3,
    .d_model = 64,
    .heads = 4,
    .kv_heads = 2,
    .head_dim = 16,
    .ffn_dim = 128,
    .vocab = 512,
    .context = 1024,
    .file_bytes = 1000,
    .weights_bytes = 1100,
    .state_bytes_per_token = 384,
    .native = {.attention = {.type = "gqa"},
               .ffn = {.type = "swiglu"},
               .sharing = {.type = "none"},
               .origin = "native",
               .exactness = "exact"},
    .by_type = {{"F32", 10}, {"Q4_1", 990}},
    .state_budget = 4096,
    .chat_template = "chatml",
    .kinds = {{"attention", "gqa", "exact"}, {"attention", "mqa", "untrained"}, {"ffn", "swiglu", "exact"}},
    .n_kinds = 3};

static void models(void **state) {
    (void)state;
    struct qn_buf b = {0}, one = {0};
    qn_api_model_write(&one, &model);
    assert_string_equal(
        one.p,
        "{\"id\":\"grist\",\"object\":\"model\",\"created\":17,\"owned_by\":\"quern\",\"family\":\"llama\","
        "\"format\":\"gguf\",\"parameters\":100,\"parameters_active\":90,\"layers\":3,\"d_model\":64,"
        "\"heads\":4,"
        "\"kv_heads\":2,\"head_dim\":16,\"ffn_dim\":128,\"vocabulary\":512,\"context\":1024,\"file_bytes\":"
        "1000,"
        "\"weights_bytes\":1100,\"state_bytes_per_token\":384,\"kv_type\":\"q8\",\"structure\":{"
        "\"attention\":{\"type\":\"gqa\"}"
        ","
        "\"ffn\":{\"type\":\"swiglu\"},\"sharing\":{\"type\":\"none\"},\"origin\":\"native\",\"exactness\":"
        "\"exact\"},"
        "\"file_bytes_by_type\":{\"F32\":10,\"Q4_1\":990},\"embedding\":{\"pooling\":\"mean\",\"of\":\"last "
        "hidden state\",\"dimensions\":64,\"normalized\":false},\"state_budget_bytes\":4096,"
        "\"chat_template\":\"chatml\",\"structures\":{\"attention\":{\"gqa\":\"exact\",\"mqa\":\"untrained\"}"
        ","
        "\"ffn\":{\"swiglu\":\"exact\"}}}");
    struct qn_api_model two[2] = {model, model};
    qn_api_models_write(&b, two, 2);
    json_t *root = json_loadb(b.p, b.n, JSON_REJECT_DUPLICATES, NULL), *data = json_object_get(root, "data");
    assert_int_equal(json_array_size(data), 2);
    json_t *solo = json_loads(one.p, 0, NULL);
    assert_true(json_equal(json_array_get(data, 1), solo));
    json_decref(solo);
    json_decref(root);
    qn_buf_clear(&b);
    qn_api_models_write(&b, NULL, 0);
    assert_string_equal(b.p, "{\"object\":\"list\",\"data\":[]}");
    qn_buf_free(&b);
    qn_buf_free(&one);
}

static void structures(void **state) {
    (void)state;
    static const char *const words[] = {"a", "b", NULL};
    static const struct qn_api_structure_entry entries[] = {
        {"attention",
         {"gqa", 1, {{"kv_heads", QN_API_INT, 2, ""}}},
         "native",
         "exact",
         "",
         true,
         true,
         384,
         0,
         {{"kv_heads", QN_API_INT, 1, 8, NULL, false, 0, NULL},
          {"seed", QN_API_INT, 0, 9007199254740991, NULL, true, 3, ""},
          {"causal", QN_API_BOOL, 0, 0, NULL, true, 1, ""},
          {"gating", QN_API_TEXT, 0, 0, words, true, 0, "a"}},
         4},
        {"ffn",
         {.type = "moe"},
         "converted",
         "unavailable",
         "no \"experts\"",
         true,
         false,
         0,
         4096,
         {{0}},
         0}};
    static const struct qn_api_held_out held[] = {{"gqa", "swiglu", "none", 1.5, 2.164043}};
    static const struct qn_api_structures m[] = {{"grist", 1088, entries, 2, held, 1},
                                                 {"none", 16, NULL, 0, NULL, 0}};
    struct qn_buf b = {0};
    qn_api_structures_write(&b, m, 2);
    assert_string_equal(
        b.p,
        "{\"object\":\"list\",\"data\":[{\"model\":\"grist\",\"context\":1088,\"structures\":[{\"slot\":"
        "\"attention\","
        "\"structure\":"
        "{\"type\":\"gqa\",\"kv_heads\":2},\"origin\":\"native\",\"exactness\":\"exact\",\"why\":null,"
        "\"causal\":true,"
        "\"rollback\":true,\"state_bytes_per_token\":384,\"state_fixed_bytes\":0,\"state_bytes\":[{"
        "\"tokens\":1024,\"bytes\":393216},{\"tokens\":4096,\"bytes\":1572864},{\"tokens\":16384,"
        "\"bytes\":6291456}],\"parameters\":[{\"name\":\"kv_heads\",\"type\":\"integer\",\"minimum\":1,"
        "\"maximum\":8,\"default\":null},{\"name\":\"seed\",\"type\":\"integer\",\"minimum\":0,"
        "\"maximum\":9007199254740991,\"default\":3},{\"name\":\"causal\",\"type\":\"boolean\",\"default\":"
        "true},{\"name\":\"gating\",\"type\":\"string\",\"values\":[\"a\",\"b\"],\"default\":\"a\"}]},{"
        "\"slot\":\"ffn\","
        "\"structure\":"
        "{\"type\":\"moe\"},\"origin\":\"converted\",\"exactness\":\"unavailable\",\"why\":\"no "
        "\\\"experts\\\"\","
        "\"causal\":true,\"rollback\":false,\"state_bytes_per_token\":0,\"state_fixed_bytes\":4096,"
        "\"state_bytes\":null,\"parameters\":[]}],\"held_out\":[{\"attention\":\"gqa\",\"ffn\":\"swiglu\","
        "\"sharing\":"
        "\"none\",\"nats_per_byte\":1.5,\"bits_per_byte\":2.164043}]},"
        "{\"model\":\"none\",\"context\":16,\"structures\":[],\"held_out\":[]}]}");
    qn_buf_free(&b);
}

struct row {
    const char *body, *param; /* param NULL: accepted */
    enum qn_api_code code;
};

static void tokenize(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"{\"prompt\":\"a b\"}", NULL, 0},
        {"{\"content\":\"\",\"add_special\":false,\"with_pieces\":true,\"model\":\"grist\"}", NULL, 0},
        {"{\"text\":\"x\",\"prompt\":null}", NULL, 0},
        {"{}", "prompt", QN_API_INVALID},
        {"{\"prompt\":5}", "prompt", QN_API_INVALID},
        {"{\"prompt\":\"a\",\"text\":\"b\"}", "text", QN_API_INVALID},
        {"{\"prompt\":\"a\",\"add_special_tokens\":1}", "add_special_tokens", QN_API_INVALID},
        {"{\"prompt\":\"a\",\"model\":\"a b\"}", "model", QN_API_INVALID},
        {"{\"promt\":\"a\"}", "promt", QN_API_UNKNOWN_FIELD},
        {"{\"prompt\":[1]}", "prompt", QN_API_INVALID},
        {"{\"prompt\":\"a\\u0000\"}", "prompt", QN_API_INVALID},
        {"[]", "", QN_API_INVALID},
        {"{\"prompt\":\"a\"", "", QN_API_BAD_JSON},
        {"{\"prompt\":[[[[[[[[[1]]]]]]]]]}", "prompt", QN_API_BAD_JSON},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct qn_api_tokenize t;
        struct qn_api_err e = {0};
        int rc = qn_api_tokenize_parse(rows[i].body, strlen(rows[i].body), &t, &e);
        if (rc != (rows[i].param ? -1 : 0)) fail_msg("%s: %s", rows[i].body, e.msg);
        if (rc) assert_string_equal(e.param, rows[i].param);
        assert_int_equal(e.code, rows[i].code);
        if (i == 0) assert_true(t.add_special && !t.with_pieces && t.text.n == 3 && !strcmp(t.text.p, "a b"));
        if (i == 1)
            assert_true(!t.add_special && t.with_pieces && t.text.n == 0 && !strcmp(t.model, "grist"));
        qn_api_tokenize_free(&t);
        qn_api_tokenize_free(&t);
    }
    static const int32_t ids[] = {1, 2};
    static const struct qn_api_logprob pieces[] = {{1, 0, "a", 1}, {2, 0, "\xC3", 1}};
    struct qn_buf b = {0};
    qn_api_tokenize_write(&b, &(struct qn_api_tokens){ids, 2, 1024, NULL});
    assert_string_equal(b.p, "{\"count\":2,\"max_model_len\":1024,\"tokens\":[1,2]}");
    qn_buf_clear(&b);
    qn_api_tokenize_write(&b, &(struct qn_api_tokens){ids, 2, 1024, pieces});
    assert_string_equal(
        b.p, "{\"count\":2,\"max_model_len\":1024,\"tokens\":[1,2],\"pieces\":[\"a\",\"\xEF\xBF\xBD\"]}");
    qn_buf_free(&b);
}

static void detokenize(void **state) {
    (void)state;
    static const struct row rows[] = {
        {"{\"tokens\":[1,2147483647]}", NULL, 0},
        {"{\"tokens\":[]}", NULL, 0},
        {"{}", "tokens", QN_API_INVALID},
        {"{\"tokens\":null}", "tokens", QN_API_INVALID},
        {"{\"tokens\":\"1\"}", "tokens", QN_API_INVALID},
        {"{\"tokens\":[1,-1]}", "tokens[1]", QN_API_INVALID},
        {"{\"tokens\":[1.5]}", "tokens[0]", QN_API_INVALID},
        {"{\"tokens\":[2147483648]}", "tokens[0]", QN_API_INVALID},
        {"{\"token\":[1]}", "token", QN_API_UNKNOWN_FIELD},
        {"{\"tokens\":[1],\"tokens\":[2]}", "tokens", QN_API_INVALID},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct qn_api_detokenize t;
        struct qn_api_err e = {0};
        int rc = qn_api_detokenize_parse(rows[i].body, strlen(rows[i].body), &t, &e);
        if (rc != (rows[i].param ? -1 : 0)) fail_msg("%s: %s", rows[i].body, e.msg);
        if (rc) assert_string_equal(e.param, rows[i].param);
        assert_int_equal(e.code, rows[i].code);
        if (i == 0) assert_true(t.ids.n == 2 && t.ids.p[1] == INT32_MAX);
        qn_api_detokenize_free(&t);
        qn_api_detokenize_free(&t);
    }
    struct qn_buf b = {0};
    qn_api_detokenize_write(&b, "a\"", 2);
    assert_string_equal(b.p, "{\"prompt\":\"a\\\"\",\"text\":\"a\\\"\"}");
    qn_buf_free(&b);
}

static void tokenizer_info(void **state) {
    (void)state;
    struct qn_buf b = {0};
    struct qn_api_tokenizer_info t = {.model = "m",
                                      .vocab = 5,
                                      .context = 9,
                                      .adds_bos = true,
                                      .bos = {1, "<s>", 3},
                                      .eos = {2, "a\"\xff", 3},
                                      .unk = {-1, "", 0},
                                      .pad = {-1, "", 0},
                                      .chat_template = "{{ \"x\" }}\n",
                                      .chat_template_name = ""};
    qn_api_tokenizer_info_write(&b, &t);
    assert_string_equal(
        b.p, "{\"model\":\"m\",\"tokenizer_class\":\"PreTrainedTokenizerFast\",\"vocab_size\":5,"
             "\"model_max_length\":9,\"add_bos_token\":true,\"add_eos_token\":false,\"bos_token\":\"<s>\","
             "\"bos_token_id\":1,\"eos_token\":\"a\\\"\xef\xbf\xbd\",\"eos_token_id\":2,\"unk_token\":null,"
             "\"unk_token_id\":null,\"pad_token\":null,\"pad_token_id\":null,\"chat_template\":"
             "\"{{ \\\"x\\\" }}\\n\",\"chat_template_name\":null}");
    qn_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(models), cmocka_unit_test(tokenizer_info),
                                       cmocka_unit_test(structures), cmocka_unit_test(tokenize),
                                       cmocka_unit_test(detokenize)};
    return cmocka_run_group_tests_name("api/models", tests, NULL, NULL);
}
