/* Replies, byte for byte: field names and order are what clients were promised. Streams and headers too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

#include "api/infer.h"

#define TIMING_VALUES                                                                                        \
    {                                                                                                        \
        .queue = 0.125, .tokenize = 0.05, .convert = 0, .prefill = 12.3456, .decode = 100.0004,              \
        .finish = 0.01, .total = 112.531, .ttft = 12.6, .compute = 99.5, .prefill_tps = 324.07,              \
        .decode_tps = 20.0, .steps = 3, .mean_batch = 1.25                                                   \
    }
static const struct qn_api_timings timings = TIMING_VALUES;
#define TIMINGS                                                                                              \
    "{\"queue_ms\":0.125,\"tokenize_ms\":0.05,\"convert_ms\":0,\"prefill_ms\":12.346,\"decode_ms\":100,"     \
    "\"finish_ms\":0.01,\"total_ms\":112.531,\"ttft_ms\":12.6,\"compute_ms\":99.5,"                          \
    "\"prefill_tokens_per_second\":324.07,\"decode_tokens_per_second\":20,\"steps\":3,\"mean_batch\":1.25}"

#define MEMORY_VALUES                                                                                        \
    { 99000000, 98000000, 737280, 368640, 23040, 1048576, 150000000 }
static const struct qn_api_memory memory = MEMORY_VALUES;
#define MEMORY                                                                                               \
    "{\"weights_bytes\":99000000,\"weights_active_bytes\":98000000,\"state_bytes\":737280,"                  \
    "\"state_shared_bytes\":368640,\"state_bytes_per_token\":23040,\"scratch_bytes\":1048576,"               \
    "\"process_rss_bytes\":150000000}"

static const struct qn_api_structure structure = {
    .attention = {"gqa",
                  3,
                  {{"heads", QN_API_INT, 8, ""},
                   {"kv_heads", QN_API_INT, 2, ""},
                   {"causal", QN_API_BOOL, 1, ""}}},
    .ffn = {"moe", 2, {{"jitter", QN_API_NUMBER, 0.25, ""}, {"shared", QN_API_BOOL, 0, ""}}},
    .sharing = {.type = "none"},
    .origin = "native",
    .exactness = "exact"};
#define STRUCTURE                                                                                            \
    "{\"attention\":{\"type\":\"gqa\",\"heads\":8,\"kv_heads\":2,\"causal\":true},\"ffn\":{\"type\":"        \
    "\"moe\",\"jitter\":"                                                                                    \
    "0.25,\"shared\":false},\"sharing\":{\"type\":\"none\"},\"origin\":\"native\",\"exactness\":\"exact\""

static const struct qn_api_reply base = {.id = "inf-1",
                                         .created = 1700000000,
                                         .model = "grist",
                                         .prompt_tokens = 4,
                                         .completion_tokens = 2,
                                         .cached_tokens = 0,
                                         .timings = TIMING_VALUES,
                                         .memory = MEMORY_VALUES,
                                         .cost = {1.5e9, 2000000000.0, 15.075, -1}};
#define TAIL                                                                                                 \
    "],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2,\"total_tokens\":6,\"cached_tokens\":0},"      \
    "\"timings\":" TIMINGS ",\"memory\":" MEMORY                                                             \
    ",\"cost\":{\"analytic_flops\":1500000000,\"analytic_bytes\":2000000000,"                                \
    "\"achieved_gflops\":15.075,\"achieved_gbytes_per_second\":null}}"
#define HEAD                                                                                                 \
    "{\"id\":\"inf-1\",\"object\":\"inference\",\"created\":1700000000,\"model\":\"grist\","                 \
    "\"structure\":" STRUCTURE ",\"divergence\":null},\"outputs\":["

static void expect(const struct qn_api_reply *r, const char *want) {
    struct qn_buf b = {0};
    qn_api_infer_write(&b, r);
    assert_false(b.failed);
    assert_string_equal(b.p, want);
    assert_int_equal(b.n, strlen(want));
    json_t *root = json_loadb(b.p, b.n, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    json_decref(root);
    qn_buf_free(&b);
}

static void generate(void **state) {
    (void)state;
    static const int32_t ids[] = {5, 70000};
    static const struct qn_api_logprob top[] = {{5, -0.25f, "a\n", 2}, {6, -2.5f, "\xFF", 1}};
    static const struct qn_api_token tokens[] = {{{5, -0.25f, "a\n", 2}, 2, top},
                                                 {{70000, -HUGE_VALF, "b", 1}, 0, NULL}};
    struct qn_api_output o = {
        .text = "a\nb", .text_len = 3, .tokens = ids, .n_tokens = 2, .finish_reason = "length"};
    struct qn_api_reply r = base;
    r.structure = structure;
    r.outputs = &o;
    r.n_outputs = 1;
    expect(&r, HEAD "{\"index\":0,\"text\":\"a\\nb\",\"tokens\":[5,70000],\"finish_reason\":\"length\","
                    "\"logprobs\":null}" TAIL);
    o.logprobs = tokens;
    o.n_logprobs = 2;
    expect(&r, HEAD
           "{\"index\":0,\"text\":\"a\\nb\",\"tokens\":[5,70000],\"finish_reason\":\"length\",\"logprobs\":["
           "{\"id\":5,\"token\":\"a\\n\",\"logprob\":-0.25,\"top\":[{\"id\":5,\"token\":\"a\\n\",\"logprob\":"
           "-0.25},{\"id\":6,\"token\":\"\xEF\xBF\xBD\",\"logprob\":-2.5}]},{\"id\":70000,\"token\":\"b\","
           "\"logprob\":null,\"top\":[]}]}" TAIL);
}

static void score_and_embed(void **state) {
    (void)state;
    static const struct qn_api_score score = {7, 31, -42.5, 1.977889};
    static const float vec[] = {0.5f, -0.1f, 1e-10f, 0.0f};
    struct qn_api_output o = {.score = &score, .finish_reason = "length"};
    struct qn_api_reply r = base;
    r.structure = structure;
    r.outputs = &o;
    r.n_outputs = 1;
    expect(&r,
           HEAD "{\"index\":0,\"text\":\"\",\"tokens\":[],\"finish_reason\":null,\"logprobs\":null,\"score\":"
                "{\"tokens\":7,\"bytes\":31,\"log_prob\":-42.5,\"bits_per_byte\":1.977889}}" TAIL);
    o = (struct qn_api_output){.embedding = vec, .n_embedding = 4};
    expect(&r, HEAD
           "{\"index\":0,\"text\":\"\",\"tokens\":[],\"finish_reason\":null,\"logprobs\":null,\"embedding\":"
           "[0.5,-0.1,1e-10,0]}" TAIL);
}

static void several_outputs_carry_their_own(void **state) {
    (void)state;
    struct qn_api_output o[2] = {
        {.index = 0,
         .text = "x",
         .text_len = 1,
         .finish_reason = "stop",
         .timings = timings,
         .memory = memory},
        {.index = 1, .text = "", .finish_reason = "timeout", .timings = timings, .memory = memory}};
    struct qn_api_reply r = base;
    r.structure = structure;
    r.outputs = o;
    r.n_outputs = 2;
    expect(&r,
           HEAD "{\"index\":0,\"text\":\"x\",\"tokens\":[],\"finish_reason\":\"stop\",\"logprobs\":null,"
                "\"timings\":" TIMINGS ",\"memory\":" MEMORY ",\"divergence\":null"
                "},{\"index\":1,\"text\":\"\",\"tokens\":[],\"finish_reason\":\"timeout\","
                "\"logprobs\":null,\"timings\":" TIMINGS ",\"memory\":" MEMORY ",\"divergence\":null}" TAIL);
}

static void missing_figures_are_null(void **state) {
    (void)state;
    struct qn_api_reply r = base;
    struct qn_buf b = {0};
    r.timings.ttft = r.timings.prefill_tps = r.timings.decode_tps = -1;
    r.timings.queue = (double)NAN;
    qn_api_infer_write(&b, &r);
    assert_non_null(strstr(b.p, "\"ttft_ms\":null"));
    assert_non_null(strstr(b.p, "\"queue_ms\":null"));
    assert_non_null(strstr(b.p, "\"prefill_tokens_per_second\":null,\"decode_tokens_per_second\":null"));
    assert_non_null(strstr(b.p, "\"outputs\":[]"));
    qn_buf_free(&b);
}

/* Only who asked for speculation is told of it. */
static void speculation(void **state) {
    (void)state;
    struct qn_buf b = {0};
    struct qn_api_reply r = base;
    qn_api_infer_write(&b, &r);
    assert_null(strstr(b.p, "speculative"));
    r.timings.speculation = (struct qn_api_speculation){true, 12, 9, 3, NULL};
    qn_buf_clear(&b);
    qn_api_infer_write(&b, &r);
    assert_non_null(strstr(b.p,
                           "\"mean_batch\":1.25,\"speculative\":{\"drafted\":12,\"accepted\":9,\"steps\":3,"
                           "\"reason\":null}}"));
    r.timings.speculation = (struct qn_api_speculation){.asked = true, .reason = "it \"can't\""};
    qn_buf_clear(&b);
    qn_api_infer_write(&b, &r);
    assert_non_null(strstr(b.p, "\"speculative\":{\"drafted\":0,\"accepted\":0,\"steps\":0,"
                                "\"reason\":\"it \\\"can't\\\"\"}}"));
    qn_buf_free(&b);
}

static void streams(void **state) {
    (void)state;
    static const struct qn_api_logprob top[] = {{6, -2.5f, "b", 1}};
    static const struct qn_api_token lp = {{5, -0.25f, "a", 1}, 1, top};
    static const struct qn_api_token bare = {{5, -0.25f, "a", 1}, 0, NULL};
    struct qn_api_stream_token t = {.index = 1, .token = 5, .text = "a\r\n", .text_len = 3};
    struct qn_buf b = {0};
    qn_api_sse_token(&b, &t);
    t.lp = &bare;
    qn_api_sse_token(&b, &t);
    t.lp = &lp;
    t.text = NULL;
    qn_api_sse_token(&b, &t);
    qn_api_sse_data(&b, "{}", 2);
    qn_api_sse_ping(&b);
    qn_api_sse_done(&b);
    assert_string_equal(
        b.p, "data: {\"index\":1,\"token\":5,\"text\":\"a\\r\\n\",\"logprob\":null}\n\n"
             "data: {\"index\":1,\"token\":5,\"text\":\"a\\r\\n\",\"logprob\":-0.25}\n\n"
             "data: {\"index\":1,\"token\":5,\"text\":\"\",\"logprob\":-0.25,\"top\":[{\"id\":6,\"token\":"
             "\"b\",\"logprob\":-2.5}]}\n\n"
             "data: {}\n\n: ping\n\ndata: [DONE]\n\n");
    qn_buf_clear(&b);
    qn_api_server_timing(&b, &timings);
    assert_string_equal(
        b.p, "queue;dur=0.125, tokenize;dur=0.05, convert;dur=0, prefill;dur=12.346, decode;dur=100, "
             "finish;dur=0.01, total;dur=112.531");
    qn_buf_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(generate),
                                       cmocka_unit_test(score_and_embed),
                                       cmocka_unit_test(several_outputs_carry_their_own),
                                       cmocka_unit_test(missing_figures_are_null),
                                       cmocka_unit_test(speculation),
                                       cmocka_unit_test(streams)};
    return cmocka_run_group_tests_name("api/infer write", tests, NULL, NULL);
}
