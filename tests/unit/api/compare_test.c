/* POST /v1/compare, both directions: what is taken, what is refused and under which name, and the reply byte
 * for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "api/compare.h"

#define S "\"sequence\":\"x\","
#define T ",\"structures\":[{}]"

static void taken(void **state) {
    (void)state;
    static const char body[] =
        "{\"model\":\"grist\",\"sequence\":[1,2],\"structures\":[{\"attention\":\"gqa\"},"
        "{\"attention\":{\"type\":\"performer\",\"features\":64,\"kernel\":\"favor+\"},\"ffn\":\"moe\","
        "\"sharing\":\"all\",\"convert\":true},{}],\"baseline\":1,\"repeats\":7,\"task\":\"generate\","
        "\"max_tokens\":9,\"convert\":false,\"stream\":true,\"timeout_ms\":50,\"ignore_eos\":true}";
    struct qn_api_compare c;
    struct qn_api_err e = {0};
    if (qn_api_compare_parse(body, strlen(body), NULL, &c, &e)) fail_msg("%s", e.msg);
    assert_string_equal(c.run.model, "grist");
    assert_int_equal(c.run.seqs[0].n, 2);
    assert_int_equal(c.n_structures, 3);
    assert_string_equal(c.structures[1].attention.params[1].text, "favor+");
    assert_int_equal(c.structures[1].attention.params[1].kind, QN_API_TEXT);
    assert_string_equal(c.structures[1].ffn.type, "moe");
    assert_string_equal(c.structures[1].sharing.type, "all");
    assert_true(c.structures[1].convert && !c.structures[0].convert && !c.structures[2].attention.type[0]);
    assert_int_equal(c.baseline, 1);
    assert_int_equal(c.repeats, 7);
    assert_int_equal(c.run.max_tokens, 9);
    assert_true(c.run.stream && c.run.ignore_eos && c.run.timeout_ms == 50);
    qn_api_compare_free(&c);
    qn_api_compare_free(&c);
    static const char least[] =
        "{" S "\"structures\":[{}],\"repeats\":null,\"task\":\"score\",\"stream\":true}";
    if (qn_api_compare_parse(least, strlen(least), NULL, &c, &e)) fail_msg("%s", e.msg);
    assert_int_equal(c.repeats, 5);
    assert_int_equal(c.baseline, 0);
    assert_int_equal(c.run.task, QN_TASK_SCORE);
    qn_api_compare_free(&c);
}

static void refused(void **state) {
    (void)state;
    static const struct {
        const char *body, *param;
        enum qn_api_code code;
        const char *says;
    } rows[] = {
        {"{" S "\"structures\":[{}],\"repeat\":3}", "repeat", QN_API_UNKNOWN_FIELD, "\"repeats\""},
        {"{" S "\"structures\":[{}],\"temperature\":1}", "temperature", QN_API_UNKNOWN_FIELD, ""},
        {"{" S "\"structures\":[{},{\"atention\":\"gqa\"}]}", "structures[1].atention", QN_API_UNKNOWN_FIELD,
         "\"attention\""},
        {"{" S "\"structures\":[{\"attention\":3}]}", "structures[0].attention", QN_API_INVALID, "got 3"},
        {"{" S "\"structures\":[{},{},{\"attention\":{\"type\":\"gqa\",\"kv_heads\":[]}}]}",
         "structures[2].attention.kv_heads", QN_API_INVALID, "an array"},
        {"{" S "\"structures\":[\"gqa\"]}", "structures[0]", QN_API_INVALID, "must be an object"},
        {"{" S "\"structures\":{}}", "structures", QN_API_INVALID, "an array"},
        {"{" S "\"structures\":[]}", "structures", QN_API_INVALID, "1 to 32"},
        {"{" S "\"task\":\"score\"}", "structures", QN_API_INVALID, "required"},
        {"{\"structures\":[{}]}", "sequence", QN_API_INVALID, "required"},
        {"{\"sequence\":[\"a\",\"b\"]" T "}", "sequence", QN_API_INVALID, "one sequence"},
        {"{\"sequence\":[\"a\"]" T "}", "sequence", QN_API_INVALID, "one sequence"},
        {"{" S "\"task\":\"embed\"" T "}", "task", QN_API_INVALID, "score"},
        {"{" S "\"task\":\"score\",\"max_tokens\":3" T "}", "max_tokens", QN_API_INVALID, "no meaning"},
        {"{" S "\"repeats\":0" T "}", "repeats", QN_API_INVALID, "[1, 50]"},
        {"{" S "\"repeats\":51" T "}", "repeats", QN_API_INVALID, "[1, 50]"},
        {"{" S "\"repeats\":1.0" T "}", "repeats", QN_API_INVALID, "without a fraction"},
        {"{" S "\"baseline\":1" T "}", "baseline", QN_API_INVALID, "[0, 0]"},
        {"{" S "\"baseline\":-1" T "}", "baseline", QN_API_INVALID, ""},
        {"{" S "\"max_tokens\":65" T "}", "max_tokens", QN_API_INVALID, "64"},
        {"{" S "\"stream\":1" T "}", "stream", QN_API_INVALID, "true or false"},
        {"{" S "\"structures\":[{"
         "\"\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4"
         "\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4"
         "\xC3\xA4\xC3\xA4\xC3\xA4x\xC3\xA4\":1}]}",
         "structures[0]."
         "\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4"
         "\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4\xC3\xA4"
         "\xC3\xA4\xC3\xA4x",
         QN_API_UNKNOWN_FIELD, ""}, /* cut between characters */
        {"[]", "", QN_API_INVALID, ""},
        {"{" S, "", QN_API_BAD_JSON, ""},
    };
    struct qn_api_limits lim = {.max_tokens = 64};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qn_api_compare c;
        struct qn_api_err e = {0};
        assert_int_equal(qn_api_compare_parse(rows[i].body, strlen(rows[i].body), &lim, &c, &e), -1);
        if (strcmp(e.param, rows[i].param) || e.code != rows[i].code || !strstr(e.msg, rows[i].says))
            fail_msg("%s: %s (%s)", rows[i].body, e.msg, e.param);
        qn_api_compare_free(&c);
    }
    struct qn_api_compare c;
    struct qn_api_err e = {0};
    struct qn_buf b = {0};
    qn_buf_str(&b, "{" S "\"structures\":[{}");
    for (int i = 0; i < 32; i++) qn_buf_str(&b, ",{}");
    qn_buf_str(&b, "]}");
    assert_int_equal(qn_api_compare_parse(b.p, b.n, NULL, &c, &e), -1);
    assert_non_null(strstr(e.msg, "got 33"));
    qn_api_compare_free(&c);
    qn_buf_free(&b);
}

#define TIMINGS(x)                                                                                           \
    "{\"queue_ms\":0,\"tokenize_ms\":0,\"convert_ms\":0,\"prefill_ms\":" x                                   \
    ",\"decode_ms\":0,\"finish_ms\":0,\"total_ms\":0,\"ttft_ms\":null,\"compute_ms\":0,"                     \
    "\"prefill_tokens_per_second\":null,\"decode_tokens_per_second\":null,\"steps\":1,\"mean_batch\":1}"
#define STRUCTURE                                                                                            \
    "{\"attention\":{\"type\":\"gqa\"},\"ffn\":{\"type\":\"moe\"},\"sharing\":{\"type\":\"all\"},"           \
    "\"origin\":\"native\",\"exactness\":\"exact\"}"

static struct qn_api_timings timings(double prefill) {
    return (struct qn_api_timings){
        .prefill = prefill, .ttft = -1, .prefill_tps = -1, .decode_tps = -1, .steps = 1, .mean_batch = 1};
}

static void reply(void **state) {
    (void)state;
    struct qn_api_output o = {.text = "a", .text_len = 1, .finish_reason = "length"};
    struct qn_api_timings samples[2] = {timings(1), timings(2)};
    struct qn_api_fidelity f = {12, 0.25, 0.5, (double)NAN};
    struct qn_api_compared r[2] = {{.structure = {.attention = {.type = "gqa"},
                                                  .ffn = {.type = "moe"},
                                                  .sharing = {.type = "all"},
                                                  .origin = "native",
                                                  .exactness = "exact"},
                                    .outputs = &o,
                                    .n_outputs = 1,
                                    .warmup = timings(9),
                                    .median = timings(1.5),
                                    .spread = timings(0.5),
                                    .samples = samples,
                                    .n_samples = 2,
                                    .cost = {10, 20, -1, 3},
                                    .fidelity = &f}};
    r[1] = r[0];
    r[1].fidelity = NULL;
    struct qn_api_comparison c = {.id = "cmp-1",
                                  .created = 5,
                                  .model = "grist",
                                  .task = "generate",
                                  .baseline = 1,
                                  .repeats = 2,
                                  .results = r,
                                  .n_results = 2,
                                  .prompt_tokens = 7,
                                  .completion_tokens = 3,
                                  .tokenize = 0.5,
                                  .warmup = 1,
                                  .samples = 2,
                                  .fidelity = 3,
                                  .other = 0.25,
                                  .total = 6.75};
#define RESULT                                                                                                                     \
    "{\"structure\":" STRUCTURE ",\"outputs\":[{\"index\":0,\"text\":\"a\",\"tokens\":[],\"finish_reason\":"                       \
    "\"length\",\"logprobs\":null}],\"warmup\":{\"timings\":" TIMINGS(                                                             \
        "9") "},\"samples\":[{\"timings\":" TIMINGS("1") "},{\"timings\":" TIMINGS("2") "}],"                                      \
                                                                                        "\"median\""                               \
                                                                                        ":" TIMINGS("1.5") ",\"spread\":" TIMINGS( \
                                                                                            "0.5") ",\"memo"                       \
                                                                                                   "ry\":{"                        \
                                                                                                   "\"weigh"                       \
                                                                                                   "ts_"                           \
                                                                                                   "bytes\""                       \
                                                                                                   ":0,"                           \
                                                                                                   "\"weigh"                       \
                                                                                                   "ts_"                           \
                                                                                                   "active_"                       \
                                                                                                   "bytes\""                       \
                                                                                                   ":0,"                           \
                                                                                                   "\"state"                       \
                                                                                                   "_bytes"                        \
                                                                                                   "\":0,"                         \
                                                                                                   "\"state"                       \
                                                                                                   "_shared"                       \
                                                                                                   "_bytes"                        \
                                                                                                   "\":0,"                         \
                                                                                                   "\"state"                       \
                                                                                                   "_bytes_"                       \
                                                                                                   "per_"                          \
                                                                                                   "token\""                       \
                                                                                                   ":0,"                           \
                                                                                                   "\"scrat"                       \
                                                                                                   "ch_"                           \
                                                                                                   "bytes\""                       \
                                                                                                   ":0,"                           \
                                                                                                   "\"proce"                       \
                                                                                                   "ss_rss_"                       \
                                                                                                   "bytes\""                       \
                                                                                                   ":0},"                          \
                                                                                                   "\"cost"                        \
                                                                                                   "\":{"                          \
                                                                                                   "\"analy"                       \
                                                                                                   "tic_"                          \
                                                                                                   "flops\""                       \
                                                                                                   ":10,"                          \
                                                                                                   "\"analy"                       \
                                                                                                   "tic_"                          \
                                                                                                   "bytes\""                       \
                                                                                                   ":20,"                          \
                                                                                                   "\"achie"                       \
                                                                                                   "ved_"                          \
                                                                                                   "gflops"                        \
                                                                                                   "\":"                           \
                                                                                                   "null,"                         \
                                                                                                   "\"achie"                       \
                                                                                                   "ved_"                          \
                                                                                                   "gbytes_"                       \
                                                                                                   "per_"                          \
                                                                                                   "second"                        \
                                                                                                   "\":3},"                        \
                                                                                                   "\"fidel"                       \
                                                                                                   "ity\":"
    struct qn_buf b = {0};
    qn_api_compare_write(&b, &c);
    assert_string_equal(b.p, "{\"id\":\"cmp-1\",\"object\":\"comparison\",\"created\":5,\"model\":\"grist\","
                             "\"task\":\"generate\",\"baseline\":1,\"repeats\":2,\"results\":[" RESULT
                             "{\"mean_kl\":0.25,\"top1_agreement\":0.5,\"bits_per_byte_delta\":null,"
                             "\"positions\":12}}," RESULT "null}],\"usage\":{\"prompt_tokens\":7,"
                             "\"completion_tokens\":3,\"total_tokens\":10,\"cached_tokens\":0},\"timings\":{"
                             "\"tokenize_ms\":0.5,\"warmup_ms\":1,\"samples_ms\":2,\"fidelity_ms\":3,"
                             "\"other_ms\":0.25,\"total_ms\":6.75}}");
    json_t *root = json_loadb(b.p, b.n, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    json_decref(root);
    qn_buf_clear(&b);
    qn_api_compare_timing(&b, &c);
    assert_string_equal(b.p, "tokenize;dur=0.5, warmup;dur=1, samples;dur=2, fidelity;dur=3, other;dur=0.25, "
                             "total;dur=6.75");
    qn_buf_clear(&b);
    struct qn_api_sample s = {1, 0, 5, true, &samples[0]};
    qn_api_sample_write(&b, &s);
    assert_string_equal(
        b.p, "{\"structure\":1,\"sample\":0,\"of\":5,\"warmup\":true,\"timings\":" TIMINGS("1") "}");
    qn_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(taken), cmocka_unit_test(refused),
                                       cmocka_unit_test(reply)};
    return cmocka_run_group_tests_name("api/compare", tests, NULL, NULL);
}
