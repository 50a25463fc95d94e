/* POST /v1/infer, parsing: what is accepted and what it becomes; what is refused, with the exact param and
 * code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/infer_fields.h"

static const struct qn_api_limits lim = {
    .max_outputs = 8, .max_tokens = 4096, .max_depth = 64, .max_elements = 20000};

static int parse(const char *body, struct qn_api_infer *r, struct qn_api_err *e) {
    memset(e, 0, sizeof *e);
    return qn_api_infer_parse(body, strlen(body), &lim, r, e);
}

static void ok(const char *body, struct qn_api_infer *r) {
    struct qn_api_err e;
    if (parse(body, r, &e)) fail_msg("%s refused: %s (%s)", body, e.msg, e.param);
}

static void defaults(void **state) {
    (void)state;
    struct qn_api_infer r;
    ok("{\"sequence\":\"ROMEO:\"}", &r);
    assert_string_equal(r.model, "");
    assert_string_equal(r.attention.type, "");
    assert_string_equal(r.ffn.type, "");
    assert_string_equal(r.sharing.type, "");
    assert_false(r.convert || r.batch || r.max_tokens_given || r.seed_given || r.logprobs_given || r.stream);
    assert_true(r.cache);
    assert_int_equal(r.n_seqs, 1);
    assert_false(r.seqs[0].is_ids);
    assert_string_equal(r.seqs[0].text, "ROMEO:");
    assert_int_equal(r.seqs[0].n, 6);
    assert_int_equal(r.task, QN_TASK_GENERATE);
    assert_int_equal(r.max_tokens, 64);
    assert_int_equal(r.n, 1);
    assert_true(r.temperature == 0 && r.top_p == 1 && r.min_p == 0 && r.repetition_penalty == 1);
    assert_true(r.presence_penalty == 0 && r.frequency_penalty == 0);
    assert_int_equal(r.top_k, 0);
    assert_int_equal(r.n_stop, 0);
    assert_int_equal(r.timeout_ms, 0);
    qn_api_infer_free(&r);
    qn_api_infer_free(&r);
    qn_api_infer_free(NULL);
}

static void everything(void **state) {
    (void)state;
    struct qn_api_infer r;
    ok("{\"model\":\"grist-1.5_Q4\",\"attention\":{\"type\":\"performer\",\"features\":128,\"seed\":7,"
       "\"causal\":true,"
       "\"eps\":0.5,\"skip\":null},\"ffn\":\"swiglu\",\"sharing\":{\"type\":\"groups\",\"count\":3},"
       "\"convert\":true,"
       "\"sequence\":[\"a\",[1,2,2147483647],\"\\u00e9\"],\"task\":\"generate\",\"max_tokens\":0,\"n\":2,"
       "\"temperature\":0.7,\"top_k\":40,\"top_p\":0.9,\"min_p\":0.05,\"repetition_penalty\":1.1,"
       "\"presence_penalty\":-2,\"frequency_penalty\":2,\"seed\":9007199254740991,\"stop\":[\"\\n\\n\","
       "\"END\"],"
       "\"logprobs\":20,\"ignore_eos\":true,\"stream\":true,\"cache\":false,\"timeout_ms\":3600000}",
       &r);
    assert_string_equal(r.model, "grist-1.5_Q4");
    assert_string_equal(r.attention.type, "performer");
    assert_int_equal(r.attention.n_params, 4);
    assert_string_equal(r.attention.params[0].name, "features");
    assert_int_equal(r.attention.params[0].kind, QN_API_INT);
    assert_true(r.attention.params[0].value == 128);
    assert_int_equal(r.attention.params[2].kind, QN_API_BOOL);
    assert_true(r.attention.params[2].value == 1);
    assert_int_equal(r.attention.params[3].kind, QN_API_NUMBER);
    assert_true(r.attention.params[3].value == 0.5);
    assert_string_equal(r.ffn.type, "swiglu");
    assert_string_equal(r.sharing.params[0].name, "count");
    assert_true(r.convert && r.batch && r.stream && r.ignore_eos && !r.cache);
    assert_int_equal(r.n_seqs, 3);
    assert_true(r.seqs[1].is_ids);
    assert_int_equal(r.seqs[1].n, 3);
    assert_int_equal(r.seqs[1].ids[2], INT32_MAX);
    assert_string_equal(r.seqs[2].text, "\xC3\xA9");
    assert_true(r.max_tokens_given && r.max_tokens == 0);
    assert_int_equal(r.n, 2);
    assert_true(r.temperature == 0.7f && r.top_p == 0.9f && r.min_p == 0.05f && r.repetition_penalty == 1.1f);
    assert_true(r.presence_penalty == -2 && r.frequency_penalty == 2);
    assert_true(r.seed_given && r.seed == 9007199254740991u);
    assert_int_equal(r.n_stop, 2);
    assert_string_equal(r.stop[0], "\n\n");
    assert_int_equal(r.stop_len[1], 3);
    assert_true(r.logprobs_given && r.logprobs == 20);
    assert_int_equal(r.timeout_ms, 3600000);
    qn_api_infer_free(&r);
}

static void accepted(void **state) {
    (void)state;
    static const char *const rows[] = {
        "{\"sequence\":[1,2,3]}",
        "{\"sequence\":[[1],[2]]}",
        "{\"sequence\":[\"a\"]}",
        "{\"sequence\":\"a\",\"stop\":\"x\"}",
        "{\"sequence\":\"a\",\"stop\":[]}",
        "{\"sequence\":\"a\",\"temperature\":1}",
        "{\"sequence\":\"a\",\"temperature\":1e0}",
        "{\"sequence\":\"a\",\"seed\":-0}",
        "{\"sequence\":\"a\",\"task\":\"score\",\"logprobs\":0,\"stream\":true,\"seed\":3}",
        "{\"sequence\":\"a\",\"task\":\"score\",\"max_tokens\":0,\"n\":1,\"temperature\":0,\"stop\":[]}",
        "{\"sequence\":\"a\",\"task\":\"embed\",\"stream\":false,\"logprobs\":null}",
        "{\"sequence\":\"a\",\"max_tokens\":4096}",
        "{\"sequence\":[\"1\",\"2\",\"3\",\"4\"],\"n\":2}",
        "{\"sequence\":\"a\",\"model\":\"0123456789012345678901234567890123456789012345678901234567890123\","
        "\"ffn\":"
        "\"abcdefghijklmnopqrstuv_\"}",
        "{\"sequence\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\"]}",
        "{\"sequence\":\"a\",\"ffn\":{\"type\":\"moe\",\"abcdefghijklmnopqrstuvw\":1}}",
        " \r\n\t{ \"sequence\" : \"\\ud83d\\ude00\" } \n",
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct qn_api_infer r;
        ok(rows[i], &r);
        qn_api_infer_free(&r);
    }
}

static void speculative(void **state) {
    (void)state;
    static const struct {
        const char *json;
        struct qn_api_speculative is;
    } rows[] = {
        {"null", {false, 8, 3}},
        {"false", {false, 8, 3}},
        {"\"off\"", {false, 8, 3}},
        {"{\"type\":\"off\",\"max_draft\":2}", {false, 2, 3}},
        {"\"prompt\"", {true, 8, 3}},
        {"{\"type\":\"prompt\"}", {true, 8, 3}},
        {"{\"max_draft\":15,\"ngram\":8,\"type\":\"prompt\"}", {true, 15, 8}},
        {"{\"type\":\"prompt\",\"max_draft\":1,\"ngram\":1}", {true, 1, 1}},
        {"{\"type\":\"prompt\",\"max_draft\":null,\"ngram\":2}", {true, 8, 2}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qn_api_infer r;
        struct qn_api_err e = {0};
        char body[200];
        snprintf(body, sizeof body, "{\"sequence\":\"a\",\"speculative\":%s}", rows[i].json);
        ok(body, &r);
        assert_int_equal(r.speculative.prompt, rows[i].is.prompt);
        assert_int_equal(r.speculative.max_draft, rows[i].is.max_draft);
        assert_int_equal(r.speculative.ngram, rows[i].is.ngram);
        assert_int_equal(qn_api_infer_set(&r, "speculative", "off", &e), 0); /* as on a command line */
        assert_false(r.speculative.prompt);
        assert_int_equal(qn_api_infer_set(&r, "speculative", "{\"type\":\"prompt\",\"ngram\":2}", &e), 0);
        assert_true(r.speculative.prompt && r.speculative.ngram == 2);
        qn_api_infer_free(&r);
    }
}

#define S "\"sequence\":\"a\""
static const struct refusal {
    const char *body, *param;
    enum qn_api_code code;
    const char *says; /* part of the message */
} refusals[] = {
    {"{}", "sequence", QN_API_INVALID, "required"},
    {"{\"sequence\":null}", "sequence", QN_API_INVALID, "required"},
    {"{\"sequence\":\"\"}", "sequence", QN_API_INVALID, "empty"},
    {"{\"sequence\":[]}", "sequence", QN_API_INVALID, "empty"},
    {"{\"sequence\":{}}", "sequence", QN_API_INVALID, "an object"},
    {"{\"sequence\":5}", "sequence", QN_API_INVALID, "got 5"},
    {"{\"sequence\":true}", "sequence", QN_API_INVALID, "got true"},
    {"{\"sequence\":[\"a\",\"\"]}", "sequence[1]", QN_API_INVALID, "empty"},
    {"{\"sequence\":[\"a\",[]]}", "sequence[1]", QN_API_INVALID, "empty"},
    {"{\"sequence\":[\"a\",3]}", "sequence[1]", QN_API_INVALID, "not both"},
    {"{\"sequence\":[3,\"a\"]}", "sequence[1]", QN_API_INVALID, "the string \"a\""},
    {"{\"sequence\":[\"a\",\"b\",\"c\",{}]}", "sequence[3]", QN_API_INVALID, "an object"},
    {"{\"sequence\":[null]}", "sequence[0]", QN_API_INVALID, "null"},
    {"{\"sequence\":[[1,[2]]]}", "sequence[0]", QN_API_INVALID, "item 1"},
    {"{\"sequence\":[\"a\",[1,2,-7]]}", "sequence[1]", QN_API_INVALID, "item 2"},
    {"{\"sequence\":[0,-1]}", "sequence[1]", QN_API_INVALID, "got -1"},
    {"{\"sequence\":[2147483648]}", "sequence[0]", QN_API_INVALID, "got 2147483648"},
    {"{\"sequence\":[1.0]}", "sequence[0]", QN_API_INVALID, "got 1.0"},
    {"{\"sequence\":[9223372036854775808]}", "sequence", QN_API_INVALID, "out of range"},
    {"{\"sequence\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]}", "sequence", QN_API_INVALID,
     "at most 8"},
    {"{\"sequence\":[\"1\",\"2\",\"3\",\"4\",\"5\"],\"n\":2}", "n", QN_API_INVALID, "more than 8"},
    {"{\"sequence\":\"a\\u0000b\"}", "sequence", QN_API_INVALID, "\\u0000"},
    {"{" S ",\"sequence\":\"b\"}", "sequence", QN_API_INVALID, "twice"},
    {"{" S ",\"max_tokens\":4097}", "max_tokens", QN_API_INVALID, "[0, 4096], got 4097"},
    {"{" S ",\"max_tokens\":1.0}", "max_tokens", QN_API_INVALID, "without a fraction"},
    {"{" S ",\"max_tokens\":1.5}", "max_tokens", QN_API_INVALID, "must be an integer"},
    {"{" S ",\"max_tokens\":\"5\"}", "max_tokens", QN_API_INVALID, "the string \"5\""},
    {"{" S ",\"max_tokens\":true}", "max_tokens", QN_API_INVALID, "got true"},
    {"{" S ",\"n\":0}", "n", QN_API_INVALID, "[1, 64], got 0"},
    {"{" S ",\"n\":1000000000}", "n", QN_API_INVALID, "[1, 64]"},
    {"{" S ",\"n\":9}", "n", QN_API_INVALID, "more than 8"},
    {"{" S ",\"temperature\":999999}", "temperature", QN_API_INVALID, "[0, 100], got 999999"},
    {"{" S ",\"temperature\":1e400}", "temperature", QN_API_INVALID, "out of range"},
    {"{" S ",\"top_p\":0}", "top_p", QN_API_INVALID, "(0, 1], got 0"},
    {"{" S ",\"top_p\":1e-60}", "top_p", QN_API_INVALID, "(0, 1]"},
    {"{" S ",\"repetition_penalty\":0}", "repetition_penalty", QN_API_INVALID, "(0, 10]"},
    {"{" S ",\"seed\":18446744073709551616}", "seed", QN_API_INVALID, "out of range"},
    {"{" S ",\"seed\":9007199254740992}", "seed", QN_API_INVALID, "9007199254740991"},
    {"{" S ",\"logprobs\":true}", "logprobs", QN_API_INVALID, "got true"},
    {"{" S ",\"logprobs\":21}", "logprobs", QN_API_INVALID, "[0, 20]"},
    {"{" S ",\"stream\":1}", "stream", QN_API_INVALID, "true or false"},
    {"{" S ",\"stop\":\"\"}", "stop", QN_API_INVALID, "empty"},
    {"{" S ",\"stop\":[\"a\",\"\"]}", "stop[1]", QN_API_INVALID, "empty"},
    {"{" S ",\"stop\":[\"a\",5]}", "stop[1]", QN_API_INVALID, "a string, got 5"},
    {"{" S ",\"stop\":{}}", "stop", QN_API_INVALID, "an object"},
    {"{" S ",\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"0\",\"a\",\"b\",\"c\",\"d\","
     "\"e\",\"f\","
     "\"g\"]}",
     "stop", QN_API_INVALID, "at most 16"},
    {"{" S ",\"task\":\"chat\"}", "task", QN_API_INVALID, "\"score\""},
    {"{" S ",\"task\":1}", "task", QN_API_INVALID, "got 1"},
    {"{" S ",\"task\":\"score\",\"n\":2}", "n", QN_API_INVALID, "no meaning for task \"score\""},
    {"{" S ",\"task\":\"score\",\"stop\":\"x\"}", "stop", QN_API_INVALID, "no meaning"},
    {"{" S ",\"task\":\"score\",\"temperature\":0.5}", "temperature", QN_API_INVALID, "no meaning"},
    {"{" S ",\"task\":\"embed\",\"stream\":true}", "stream", QN_API_INVALID, "no meaning"},
    {"{" S ",\"task\":\"embed\",\"logprobs\":0}", "logprobs", QN_API_INVALID, "leave"},
    {"{" S ",\"model\":\"../x\"}", "model", QN_API_INVALID, "A-Z"},
    {"{" S ",\"model\":\"\"}", "model", QN_API_INVALID, "1 to 64"},
    {"{" S ",\"model\":\"0123456789012345678901234567890123456789012345678901234567890123x\"}", "model",
     QN_API_INVALID, "1 to 64"},
    {"{" S ",\"attention\":\"GQA\"}", "attention", QN_API_INVALID, "a-z 0-9 _"},
    {"{" S ",\"attention\":\"\"}", "attention", QN_API_INVALID, "structure name"},
    {"{" S ",\"attention\":\"abcdefghijklmnopqrstuvwx\"}", "attention", QN_API_INVALID, "1 to 23"},
    {"{" S ",\"attention\":3}", "attention", QN_API_INVALID, "got 3"},
    {"{" S ",\"attention\":{}}", "attention.type", QN_API_INVALID, "needs a \"type\""},
    {"{" S ",\"attention\":{\"type\":null}}", "attention.type", QN_API_INVALID, "null"},
    {"{" S ",\"attention\":{\"type\":\"gqa\",\"kv_heads\":\"2\"}}", "attention.kv_heads", QN_API_INVALID,
     "\"2\""},
    {"{" S ",\"attention\":{\"type\":\"performer\",\"kernel\":\"a b\"}}", "attention.kernel", QN_API_INVALID,
     "a word"},
    {"{" S ",\"attention\":{\"type\":\"gqa\",\"kv_heads\":[2]}}", "attention.kv_heads", QN_API_INVALID,
     "an array"},
    {"{" S ",\"attention\":{\"type\":\"gqa\",\"kv_heads\":9007199254740992}}", "attention.kv_heads",
     QN_API_INVALID, "range"},
    {"{" S ",\"attention\":{\"type\":\"gqa\",\"KV\":2}}", "attention.KV", QN_API_INVALID,
     "not a parameter name"},
    {"{" S ",\"attention\":{\"type\":\"gqa\",\"kv_heads\":2,\"kv_heads\":3}}", "attention.kv_heads",
     QN_API_INVALID, "twice"},
    {"{" S
     ",\"ffn\":{\"type\":\"moe\",\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1,\"h\":1,\"i\":1}}",
     "ffn.i", QN_API_INVALID, "at most 8"},
    {"{" S ",\"ffn\":{\"type\":\"moe\",\"abcdefghijklmnopqrstuvwx\":1}}", "ffn.abcdefghijklmnopqrstuvwx",
     QN_API_INVALID, "not a parameter name"},
    {"{" S ",\"cach\":1}", "cach", QN_API_UNKNOWN_FIELD, "\"cache\""},
    {"{" S ",\"atention\":1}", "atention", QN_API_UNKNOWN_FIELD, "\"attention\""},
    {"{" S ",\"min_pp\":1}", "min_pp", QN_API_UNKNOWN_FIELD, "\"min_p\""},
    {"{" S ",\"modle\":1}", "modle", QN_API_UNKNOWN_FIELD, "\"model\""},
    {"{" S ",\"temprature\":1}", "temprature", QN_API_UNKNOWN_FIELD, "\"temperature\""},
    {"{" S ",\"max_token\":1}", "max_token", QN_API_UNKNOWN_FIELD, "\"max_tokens\""},
    {"{" S ",\"Stream\":true}", "Stream", QN_API_UNKNOWN_FIELD, "\"stream\""},
    {"{" S ",\"topp\":1}", "topp", QN_API_UNKNOWN_FIELD, "\"top_p\""},
    {"{" S ",\"sede\":1}", "sede", QN_API_UNKNOWN_FIELD, "\"seed\""},
    {"{\"prompt\":\"a\"}", "prompt", QN_API_UNKNOWN_FIELD, "\"sequence\""},
    {"{" S ",\"max_new_tokens\":1}", "max_new_tokens", QN_API_UNKNOWN_FIELD, "\"max_tokens\""},
    {"{" S ",\"\":1}", "", QN_API_UNKNOWN_FIELD, "unknown field \"\""},
    {"{" S ",\"speculative\":\"draft\"}", "speculative", QN_API_INVALID, "\"off\" or \"prompt\""},
    {"{" S ",\"speculative\":true}", "speculative", QN_API_INVALID, "\"off\" or \"prompt\""},
    {"{" S ",\"speculative\":{}}", "speculative.type", QN_API_INVALID, "\"off\" or \"prompt\""},
    {"{" S ",\"speculative\":{\"type\":null}}", "speculative.type", QN_API_INVALID, "needs a \"type\""},
    {"{" S ",\"speculative\":{\"type\":\"model\"}}", "speculative.type", QN_API_INVALID, "\"prompt\""},
    {"{" S ",\"speculative\":{\"type\":\"prompt\",\"max_draft\":0}}", "speculative.max_draft", QN_API_INVALID,
     "[1, 15], got 0"},
    {"{" S ",\"speculative\":{\"type\":\"prompt\",\"max_draft\":16}}", "speculative.max_draft",
     QN_API_INVALID, "[1, 15], got 16"},
    {"{" S ",\"speculative\":{\"type\":\"prompt\",\"ngram\":9}}", "speculative.ngram", QN_API_INVALID,
     "[1, 8], got 9"},
    {"{" S ",\"speculative\":{\"type\":\"prompt\",\"ngrams\":2}}", "speculative.ngrams", QN_API_UNKNOWN_FIELD,
     "\"speculative.ngram\""},
    {"{" S ",\"task\":\"score\",\"speculative\":\"prompt\"}", "speculative", QN_API_INVALID, "no meaning"},
    {"[]", "", QN_API_INVALID, "JSON object"},
    {"\"a\"", "", QN_API_INVALID, "JSON object"},
    {"3", "", QN_API_INVALID, "JSON object"},
    {"null", "", QN_API_INVALID, "JSON object"},
};

static void refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *w = &refusals[i];
        struct qn_api_infer r;
        struct qn_api_err e;
        assert_int_equal(parse(w->body, &r, &e), -1);
        if (strcmp(e.param, w->param) || e.code != w->code || !strstr(e.msg, w->says))
            fail_msg("%s gave param \"%s\" code %d: %s", w->body, e.param, (int)e.code, e.msg);
        qn_api_infer_free(&r);
    }
}

/* A long or odd text from the client is cut in the message, on a whole character. */
static void echo_is_short(void **state) {
    (void)state;
    char body[4000] = "{\"sequence\":\"a\",\"task\":\"";
    size_t n = strlen(body);
    struct qn_api_infer r;
    struct qn_api_err e;
    while (n < 3900) memcpy(body + n, "\xE2\x82\xAC", 3), n += 3;
    strcpy(body + n, "\"}");
    assert_int_equal(parse(body, &r, &e), -1);
    assert_string_equal(e.param, "task");
    assert_true(strlen(e.msg) < 160);
    assert_null(strchr(e.msg, '?'));
    qn_api_infer_free(&r);
    snprintf(body, sizeof body, "{\"sequence\":\"a\",\"%0300d\":1}", 7);
    assert_int_equal(parse(body, &r, &e), -1);
    assert_int_equal(e.code, QN_API_UNKNOWN_FIELD);
    assert_true(strlen(e.msg) < 160 && strlen(e.param) == 63);
    qn_api_infer_free(&r);
}

/* Which characters a model id and a structure name may have: all bytes, one at a time. */
static void charsets(void **state) {
    (void)state;
    static const char id[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    static const char name[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
    for (int c = 1; c < 128; c++) {
        char value[8], body[100];
        struct qn_api_infer r;
        struct qn_api_err e;
        if (c < 0x20 || c == '"' || c == '\\')
            snprintf(value, sizeof value, "\\u%04x", (unsigned)c);
        else
            snprintf(value, sizeof value, "%c", c);
        snprintf(body, sizeof body, "{\"sequence\":\"a\",\"model\":\"x%s\"}", value);
        assert_int_equal(parse(body, &r, &e), strchr(id, c) ? 0 : -1);
        qn_api_infer_free(&r);
        snprintf(body, sizeof body, "{\"sequence\":\"a\",\"ffn\":{\"type\":\"x\",\"p%s\":1}}", value);
        assert_int_equal(parse(body, &r, &e), strchr(name, c) ? 0 : -1);
        qn_api_infer_free(&r);
    }
}

static void command_line(void **state) {
    (void)state;
    struct qn_api_infer r;
    struct qn_api_err e = {0};
    static const char *const good[][2] = {
        {"sequence", "hello \"world\""},
        {"max_tokens", "12"},
        {"temperature", "0.5"},
        {"stream", "on"},
        {"cache", "0"},
        {"attention", "{\"type\":\"gqa\",\"kv_heads\":1}"},
        {"ffn", "relu"},
        {"stop", "5"},
        {"stop", "{"},
        {"seed", "77"},
        {"task", "generate"},
        {"model", "grist"},
        {"sequence", "[1,2]"},
    };
    static const char *const bad[][2] = {
        {"max_tokens", "x"},
        {"max_tokens", "1.0"},
        {"max_tokens", "-1"},
        {"max_tokens", ""},
        {"temperature", "nan"},
        {"temperature", "1e999"},
        {"stream", "maybe"},
        {"attention", "{"},
        {"attention", "{\"type\":3}"},
        {"task", "x"},
        {"sequence", ""},
        {"sequence", "\xFF"},
        {"model", "a/b"},
        {"bogus", "1"},
        {"stop", ""},
        {"max_tokens", "99999999"},
    };
    qn_api_infer_init(&r);
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (qn_api_infer_set(&r, good[i][0], good[i][1], &e))
            fail_msg("%s=%s: %s", good[i][0], good[i][1], e.msg);
    assert_string_equal(r.seqs[0].text, "[1,2]");
    assert_int_equal(r.n_seqs, 1);
    assert_int_equal(r.max_tokens, 12);
    assert_true(r.temperature == 0.5f && r.stream && !r.cache && r.seed == 77);
    assert_string_equal(r.attention.params[0].name, "kv_heads");
    assert_int_equal(r.n_stop, 2);
    assert_string_equal(r.stop[1], "{");
    assert_int_equal(qn_api_infer_check(&r, NULL, &e), 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memset(&e, 0, sizeof e);
        assert_int_equal(qn_api_infer_set(&r, bad[i][0], bad[i][1], &e), -1);
        if (strncmp(e.param, bad[i][0], strlen(bad[i][0])))
            fail_msg("%s=%s names %s", bad[i][0], bad[i][1], e.param);
    }
    qn_api_infer_free(&r);
}

static void constraints(void **state) {
    (void)state;
    struct qn_api_infer r;
    struct qn_api_err e = {0};
    static const char body[] =
        "{\"sequence\":\"a\",\"json_schema\":{ \"type\" : [\"string\",null],\"x\":{\"n\":-1.50,"
        "\"m\":2.0,\"k\":12,\"t\":true}}}";
    assert_int_equal(qn_api_infer_parse(body, sizeof body - 1, NULL, &r, &e), 0);
    assert_int_equal(r.constraint.kind, QN_CONSTRAIN_SCHEMA);
    assert_string_equal(r.constraint.text,
                        "{\"type\":[\"string\",null],\"x\":{\"n\":-1.5,\"m\":2.0,\"k\":12,\"t\":true}}");
    assert_int_equal(r.constraint.n, strlen(r.constraint.text));
    assert_int_equal(qn_api_infer_set(&r, "regex", "a", &e), -1); /* one or the other */
    assert_string_equal(e.param, "regex");
    assert_int_equal(qn_api_infer_set(&r, "json_schema", "true", &e), 0); /* the last one holds */
    assert_int_equal(r.constraint.kind, QN_CONSTRAIN_JSON);
    assert_null(r.constraint.text);
    qn_api_infer_free(&r);
    qn_api_infer_init(&r);
    e = (struct qn_api_err){0};
    assert_int_equal(qn_api_infer_set(&r, "regex", "{\"a\"}", &e), 0); /* not read as JSON */
    assert_string_equal(r.constraint.text, "{\"a\"}");
    qn_api_infer_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),    cmocka_unit_test(everything),   cmocka_unit_test(accepted),
        cmocka_unit_test(speculative), cmocka_unit_test(refused),      cmocka_unit_test(echo_is_short),
        cmocka_unit_test(charsets),    cmocka_unit_test(command_line), cmocka_unit_test(constraints)};
    return cmocka_run_group_tests_name("api/infer parse", tests, NULL, NULL);
}
