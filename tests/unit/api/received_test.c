/* The client's side: requests are written so that the parser reads the same, replies are read back as they
 * were written, and nothing else is taken: cut or changed bytes are an error or another reply, never a crash.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/received.h"
#include "api/request_write.h"

/* ---- requests ---- */

static void again_infer(const char *body, const char *want) {
    struct qn_api_infer a, b, defaults;
    struct qn_api_err e = {.code = QN_API_OK};
    struct qn_buf first = {0}, second = {0};
    qn_api_infer_init(&defaults);
    assert_int_equal(qn_api_infer_parse(body, strlen(body), NULL, &a, &e), 0);
    qn_api_request_write(&first, &qn_api_infer_table, &a, &defaults);
    assert_false(first.failed);
    if (want) assert_string_equal(first.p, want);
    if (qn_api_infer_parse(first.p, first.n, NULL, &b, &e)) fail_msg("%s: %s", first.p, e.msg);
    qn_api_request_write(&second, &qn_api_infer_table, &b, &defaults);
    assert_string_equal(first.p, second.p);
    assert_true(a.n == b.n && a.seed == b.seed && a.seed_given == b.seed_given && a.n_seqs == b.n_seqs &&
                a.logprobs_given == b.logprobs_given && a.max_tokens == b.max_tokens && a.task == b.task &&
                a.n_stop == b.n_stop && a.convert == b.convert && a.cache == b.cache);
    assert_memory_equal(&a.temperature, &b.temperature, 6 * sizeof(float));
    qn_api_infer_free(&a);
    qn_api_infer_free(&b);
    qn_buf_free(&first);
    qn_buf_free(&second);
}

static void requests(void **state) {
    (void)state;
    again_infer("{\"sequence\":\"a\"}", "{\"sequence\":\"a\"}");
    again_infer("{\"sequence\":[1,2]}", "{\"sequence\":[1,2]}");
    again_infer("{\"sequence\":[\"a\"]}", "{\"sequence\":[\"a\"]}");
    again_infer("{\"sequence\":[[1],\"b\\n\"],\"n\":2}", "{\"sequence\":[[1],\"b\\n\"],\"n\":2}");
    again_infer("{\"sequence\":\"a\",\"max_tokens\":64,\"logprobs\":0,\"seed\":1}",
                "{\"sequence\":\"a\",\"max_tokens\":64,\"seed\":1,\"logprobs\":0}");
    again_infer(
        "{\"model\":\"m\",\"attention\":{\"type\":\"performer\",\"features\":8,\"relu\":true},\"ffn\":"
        "\"moe\","
        "\"sharing\":\"all\",\"convert\":true,\"sequence\":\"a\",\"max_tokens\":0,\"temperature\":0.1,\"top_"
        "k\":3,"
        "\"top_p\":0.9,\"min_p\":0.05,\"repetition_penalty\":1.1,\"presence_penalty\":-1,\"frequency_"
        "penalty\":2,"
        "\"seed\":9007199254740991,\"stop\":[\"x\",\"\\\"\"],\"logprobs\":20,\"ignore_eos\":true,"
        "\"speculative\":"
        "{\"type\":\"prompt\",\"max_draft\":2,\"ngram\":1},\"stream\":true,\"cache\":false,\"timeout_ms\":5}",
        NULL);
    again_infer("{\"sequence\":\"a\",\"regex\":\"[\\\"\\n]+\"}",
                "{\"sequence\":\"a\",\"regex\":\"[\\\"\\n]+\"}");
    again_infer("{\"sequence\":\"a\",\"json_schema\":true}", "{\"sequence\":\"a\",\"json_schema\":true}");
    again_infer("{\"sequence\":\"a\",\"json_schema\":{\"type\":\"integer\",\"maximum\":9}}",
                "{\"sequence\":\"a\",\"json_schema\":{\"type\":\"integer\",\"maximum\":9}}");
    again_infer("{\"sequence\":\"a\",\"task\":\"embed\"}", "{\"sequence\":\"a\",\"task\":\"embed\"}");
}

static void comparison_request(void **state) {
    (void)state;
    static const char body[] =
        "{\"sequence\":\"a\",\"structures\":[{},{\"attention\":{\"type\":\"gqa\",\"kv_heads\":2},"
        "\"convert\":true},{\"ffn\":{\"type\":\"moe\"}}],\"baseline\":2,\"repeats\":9,\"task\":"
        "\"score\",\"stream\":true}";
    struct qn_api_compare a, defaults;
    struct qn_api_err e = {.code = QN_API_OK};
    struct qn_buf b = {0};
    qn_api_compare_init(&defaults);
    assert_int_equal(qn_api_compare_parse(body, sizeof body - 1, NULL, &a, &e), 0);
    qn_api_request_write(&b, &qn_api_compare_table, &a, &defaults);
    assert_string_equal(b.p, body);
    qn_api_compare_free(&a);
    qn_buf_free(&b);
}

/* ---- replies ---- */

static const struct qn_api_timings times = {.queue = 1.5,
                                            .prefill = 2,
                                            .decode = 3,
                                            .total = 6.5,
                                            .ttft = -1,
                                            .prefill_tps = -1,
                                            .decode_tps = 7.25,
                                            .steps = 3,
                                            .mean_batch = 1};
static const struct qn_api_structure gqa = {
    .attention = {"gqa", 2, {{"kv_heads", QN_API_INT, 2, ""}, {"causal", QN_API_BOOL, 1, ""}}},
    .ffn = {"moe", 1, {{"gating", QN_API_TEXT, 0, "topk_softmax"}}},
    .sharing = {.type = "none"},
    .origin = "native",
    .exactness = "exact"};

static void write_reply(struct qn_buf *b) {
    static const int32_t ids[] = {7, 8};
    static const struct qn_api_score score = {2, 3, -4.5, (double)NAN};
    static const float vector[] = {0.5f, -1e-9f};
    const struct qn_api_output outs[] = {
        {.index = 0, .text = "a\0b", .text_len = 3, .tokens = ids, .n_tokens = 2, .finish_reason = "stop"},
        {.index = 1, .score = &score, .finish_reason = "stop"},
        {.index = 2, .embedding = vector, .n_embedding = 2}};
    const struct qn_api_reply r = {.id = "inf-1",
                                   .model = "m",
                                   .structure = gqa,
                                   .outputs = outs,
                                   .n_outputs = 3,
                                   .prompt_tokens = 5,
                                   .completion_tokens = 2,
                                   .cached_tokens = 1,
                                   .timings = times,
                                   .memory = {1, 2, 3, 4, 5, 6, 1ull << 40},
                                   .cost = {1e12, 2e9, -1, 3}};
    qn_api_infer_write(b, &r);
}

static void reply(void **state) {
    (void)state;
    struct qn_buf b = {0};
    struct qn_api_received got;
    struct qn_api_err e = {.code = QN_API_OK};
    write_reply(&b);
    if (qn_api_receive(b.p, b.n, &got, &e)) fail_msg("%s", e.msg);
    assert_int_equal(got.kind, QN_GOT_REPLY);
    const struct qn_api_reply *r = &got.reply;
    assert_true(!strcmp(r->model, "m") && r->n_outputs == 3 && r->prompt_tokens == 5 &&
                r->cached_tokens == 1);
    assert_true(r->outputs[0].text_len == 3 && !memcmp(r->outputs[0].text, "a\0b", 3) &&
                r->outputs[0].n_tokens == 2);
    assert_true(r->outputs[1].score->log_prob < -4.4 && isnan(r->outputs[1].score->bits_per_byte));
    assert_true(r->outputs[2].n_embedding == 2 && r->outputs[2].embedding[0] > 0.4f && !r->outputs[2].score);
    assert_true(r->timings.decode_tps > 7.2 && r->timings.prefill_tps < 0 && r->timings.total > 6);
    assert_true(r->memory.rss == 1ull << 40 && r->cost.flops > 9e11);
    assert_memory_equal(&r->structure.attention, &gqa.attention, sizeof gqa.attention);
    assert_string_equal(r->structure.ffn.params[0].text, "topk_softmax");
    qn_api_received_free(&got);
    qn_buf_free(&b);
}

static void write_comparison(struct qn_buf *b) {
    static const struct qn_api_output out = {.text = "t", .text_len = 1, .finish_reason = "length"};
    static const struct qn_api_fidelity near = {4, 0.25, 0.5, -0.125};
    const struct qn_api_compared results[] = {{.structure = gqa,
                                               .outputs = &out,
                                               .n_outputs = 1,
                                               .warmup = times,
                                               .median = times,
                                               .spread = times,
                                               .samples = &times,
                                               .n_samples = 1,
                                               .memory = {1, 2, 3, 4, 5, 6, 7},
                                               .cost = {1, 2, 3, 4},
                                               .fidelity = &near},
                                              {.structure = gqa,
                                               .outputs = &out,
                                               .n_outputs = 1,
                                               .warmup = times,
                                               .median = times,
                                               .spread = times,
                                               .samples = &times,
                                               .n_samples = 1,
                                               .memory = {1, 2, 3, 4, 5, 6, 7},
                                               .cost = {1, 2, 3, 4}}};
    const struct qn_api_comparison c = {.id = "cmp-1",
                                        .model = "m",
                                        .task = "generate",
                                        .baseline = 1,
                                        .repeats = 1,
                                        .results = results,
                                        .n_results = 2};
    qn_api_compare_write(b, &c);
}

static void comparison(void **state) {
    (void)state;
    struct qn_buf b = {0};
    struct qn_api_received got;
    struct qn_api_err e = {.code = QN_API_OK};
    write_comparison(&b);
    if (qn_api_receive(b.p, b.n, &got, &e)) fail_msg("%s", e.msg);
    assert_int_equal(got.kind, QN_GOT_COMPARISON);
    assert_true(got.comparison.n_results == 2 && got.comparison.baseline == 1 && got.comparison.repeats == 1);
    assert_true(got.comparison.results[0].fidelity->bits_per_byte_delta < -0.12 &&
                !got.comparison.results[1].fidelity);
    assert_true(got.comparison.results[0].memory.state == 3 &&
                got.comparison.results[1].outputs[0].text[0] == 't');
    qn_api_received_free(&got);
    qn_buf_free(&b);
}

static int kind_of(const char *json) {
    struct qn_api_received got;
    struct qn_api_err e = {.code = QN_API_OK};
    int kind = qn_api_receive(json, strlen(json), &got, &e) ? -1 : (int)got.kind;
    qn_api_received_free(&got);
    return kind;
}

static void kinds(void **state) {
    (void)state;
    assert_int_equal(kind_of("{}"), QN_GOT_OTHER);
    assert_int_equal(kind_of("{\"index\":0,\"token\":1,\"text\":\"a\",\"logprob\":null}"), QN_GOT_TOKEN);
    assert_int_equal(kind_of("{\"index\":0,\"token\":1,\"text\":2}"), -1);
    assert_int_equal(kind_of("{\"index\":-1,\"token\":1,\"text\":\"a\"}"), -1);
    assert_int_equal(kind_of("{\"structure\":0,\"sample\":1,\"of\":2,\"warmup\":true,\"timings\":{}}"),
                     QN_GOT_SAMPLE);
    assert_int_equal(kind_of("{\"error\":{\"message\":\"m\"}}"), QN_GOT_ERROR);
    assert_int_equal(kind_of("{\"error\":7}"), -1);
    assert_int_equal(kind_of("{\"object\":\"inference\"}"), -1);
    assert_int_equal(kind_of("{\"object\":\"comparison\",\"results\":[]}"), -1);
    assert_int_equal(kind_of("[]"), -1);
    assert_int_equal(kind_of(""), -1);
}

static void damage(void (*write)(struct qn_buf *)) {
    struct qn_buf b = {0};
    struct qn_api_received got;
    write(&b);
    for (size_t n = 0; n < b.n; n++) { /* cut */
        struct qn_api_err e = {.code = QN_API_OK};
        assert_int_equal(qn_api_receive(b.p, n, &got, &e), -1);
        qn_api_received_free(&got);
    }
    static const char other[] = "\"{}[]:,x0-\\\xff";
    for (size_t n = 0; n < b.n; n++) { /* changed */
        for (const char *c = other; *c; c++) {
            struct qn_api_err e = {.code = QN_API_OK};
            char was = b.p[n];
            b.p[n] = *c;
            int rc = qn_api_receive(b.p, b.n, &got, &e);
            assert_true(rc == 0 || (e.code != QN_API_OK && e.msg[0]));
            b.p[n] = was;
            qn_api_received_free(&got);
        }
    }
    qn_buf_free(&b);
}

static void damaged(void **state) {
    (void)state;
    damage(write_reply);
    damage(write_comparison);
}

static void structures(void **state) {
    (void)state;
    static const char list[] =
        "{\"object\":\"list\",\"data\":[{\"model\":\"a\",\"structures\":[]},{\"model\":\"b\",\"structures\":["
        "{\"slot\":"
        "\"attention\",\"structure\":{\"type\":\"gqa\",\"kv_heads\":2},\"origin\":\"native\",\"exactness\":"
        "\"exact\","
        "\"causal\":true},{\"slot\":\"ffn\",\"structure\":{\"type\":\"moe\"},\"origin\":null,\"exactness\":"
        "\"unavailable\",\"causal\":true}]}]}";
    struct qn_api_runs runs = {.model = "b"};
    struct qn_api_err e = {.code = QN_API_OK};
    assert_int_equal(qn_api_receive_structures(list, sizeof list - 1, &runs, &e), 0);
    assert_true(runs.n == 2 && runs.rows[0].causal && !strcmp(runs.rows[0].slot, "attention"));
    assert_string_equal(runs.rows[1].exactness, "unavailable");
    free(runs.rows);
    runs = (struct qn_api_runs){.model = ""}; /* the first */
    assert_int_equal(qn_api_receive_structures(list, sizeof list - 1, &runs, &e), 0);
    assert_true(runs.n == 0 && !strcmp(runs.model, "a"));
    free(runs.rows);
    runs = (struct qn_api_runs){.model = "c"};
    assert_int_equal(qn_api_receive_structures(list, sizeof list - 1, &runs, &e), -1);
    assert_int_equal(e.code, QN_API_MODEL_NOT_FOUND);
    for (size_t n = 0; n + 1 < sizeof list; n++) {
        e.code = QN_API_OK;
        runs = (struct qn_api_runs){.model = "b"};
        assert_int_equal(qn_api_receive_structures(list, n, &runs, &e), -1);
        assert_null(runs.rows);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(requests),  cmocka_unit_test(comparison_request),
                                       cmocka_unit_test(reply),     cmocka_unit_test(comparison),
                                       cmocka_unit_test(kinds),     cmocka_unit_test(damaged),
                                       cmocka_unit_test(structures)};
    return cmocka_run_group_tests_name("api/received", tests, NULL, NULL);
}
