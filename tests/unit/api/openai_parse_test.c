/* Bodies of the OpenAI endpoints: what is accepted and what it becomes, what is refused with which field. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/compare.h"
#include "api/openai.h"

static const struct qn_api_limits lim = {
    .max_outputs = 8, .max_tokens = 4096, .max_depth = 64, .max_elements = 20000};

static void ok(enum qn_api_form form, const char *body, struct qn_api_openai *r) {
    struct qn_api_err e = {0};
    if (qn_api_openai_parse(form, body, strlen(body), &lim, r, &e))
        fail_msg("%s refused: %s (%s)", body, e.msg, e.param);
}

static void completion_defaults(void **state) {
    (void)state;
    struct qn_api_openai r;
    ok(QN_FORM_COMPLETION, "{\"prompt\":\"a\"}", &r);
    assert_string_equal(r.target, "");
    assert_int_equal(r.run.max_tokens, 16);
    assert_true(r.run.temperature == 1.0f && r.run.top_p == 1.0f);
    assert_int_equal(r.run.n, 1);
    assert_int_equal(r.run.n_seqs, 1);
    assert_string_equal(r.run.seqs[0].text, "a");
    assert_false(r.echo || r.run.logprobs_given || r.run.stream || r.include_usage || r.run.seed_given);
    qn_api_openai_free(&r);
    qn_api_openai_free(&r);
    qn_api_openai_free(NULL);
}

static void completion_everything(void **state) {
    (void)state;
    struct qn_api_openai r;
    ok(QN_FORM_COMPLETION,
       "{\"model\":\"grist@mqa+moe\",\"prompt\":[[1,2],[3]],\"max_tokens\":0,\"n\":2,\"echo\":true,"
       "\"logprobs\":20,"
       "\"stop\":[\"x\"],\"seed\":7,\"temperature\":0,\"top_p\":0.5,\"presence_penalty\":1,\"frequency_"
       "penalty\":-1,"
       "\"user\":{\"any\":[1]},\"best_of\":null,\"suffix\":null,\"logit_bias\":{},\"attention\":\"mqa\","
       "\"ffn\":{\"type\":\"moe\",\"experts_per_token\":1},\"sharing\":\"none\",\"convert\":true,\"top_k\":3,"
       "\"min_p\":0.1,\"repetition_penalty\":1.5,\"cache\":false,\"ignore_eos\":true,\"speculative\":"
       "\"prompt\","
       "\"timeout_ms\":9,\"stream_options\":{\"include_usage\":true,\"include_obfuscation\":false}}",
       &r);
    assert_string_equal(r.target, "grist@mqa+moe");
    assert_string_equal(r.run.model, "");
    assert_true(r.run.batch && r.run.n_seqs == 2 && r.run.seqs[0].is_ids && r.run.seqs[0].ids[1] == 2);
    assert_true(r.run.max_tokens == 0 && r.run.max_tokens_given && r.run.n == 2 && r.run.logprobs == 20);
    assert_true(r.echo && r.run.prompt_logprobs && r.include_usage && r.run.temperature == 0);
    assert_true(r.run.seed_given && r.run.seed == 7 && r.run.n_stop == 1 && r.run.top_k == 3);
    assert_true(r.run.convert && !r.run.cache && r.run.ignore_eos && r.run.speculative.prompt);
    assert_string_equal(r.run.ffn.type, "moe");
    assert_int_equal(r.run.timeout_ms, 9);
    qn_api_openai_free(&r);
    ok(QN_FORM_COMPLETION, "{\"prompt\":[\"a\",\"b\"],\"echo\":true,\"model\":null}", &r);
    assert_true(r.echo && !r.run.prompt_logprobs && r.run.n_seqs == 2);
    qn_api_openai_free(&r);
    ok(QN_FORM_COMPLETION, "{\"prompt\":[5,6,7]}", &r);
    assert_true(!r.run.batch && r.run.n_seqs == 1 && r.run.seqs[0].n == 3);
    qn_api_openai_free(&r);
}

static void chat(void **state) {
    (void)state;
    struct qn_api_openai r;
    ok(QN_FORM_CHAT,
       "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"be brief\",\"name\":\"x\"},"
       "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}"
       "]},"
       "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[],\"refusal\":null},"
       "{\"role\":\"tool\",\"content\":[],\"tool_call_id\":\"q\"}],"
       "\"max_completion_tokens\":9,\"max_tokens\":9,\"logprobs\":true,\"top_logprobs\":4,\"n\":2,\"tools\":["
       "],"
       "\"tool_choice\":\"none\",\"store\":true,\"metadata\":{\"a\":\"b\"},\"service_tier\":\"auto\","
       "\"user\":\"u\","
       "\"parallel_tool_calls\":true,\"reasoning_effort\":\"low\",\"response_format\":{\"type\":\"text\"}}",
       &r);
    assert_int_equal(r.n_messages, 4);
    assert_string_equal(r.messages[0].role, "developer");
    assert_string_equal(r.messages[0].text, "be brief");
    assert_string_equal(r.messages[1].text, "a\nb");
    assert_int_equal(r.messages[1].n, 3);
    assert_string_equal(r.messages[2].text, "");
    assert_string_equal(r.messages[3].text, "");
    assert_true(r.run.max_tokens == 9 && r.run.max_tokens_given);
    assert_true(r.run.logprobs_given && r.run.logprobs == 4);
    assert_int_equal(r.run.constraint.kind, QN_CONSTRAIN_NONE);
    assert_true(r.run.temperature == 1.0f);
    assert_int_equal(r.run.n_seqs, 0);
    qn_api_openai_free(&r);
    ok(QN_FORM_CHAT,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logprobs\":false,\"top_logprobs\":0}", &r);
    assert_false(r.run.logprobs_given || r.run.max_tokens_given);
    qn_api_openai_free(&r);
}

static void response_formats(void **state) {
    (void)state;
    struct qn_api_openai r;
    ok(QN_FORM_CHAT,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":\"json_object\"}"
       "}",
       &r);
    assert_int_equal(r.run.constraint.kind, QN_CONSTRAIN_JSON);
    qn_api_openai_free(&r);
    ok(QN_FORM_CHAT,
       "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"response_format\":{\"type\":\"json_schema\","
       "\"json_schema\":{\"name\":\"n\",\"strict\":true,\"schema\":{\"type\":\"object\",\"b\":[1,2.5],\"a\":"
       "null}}}}",
       &r);
    assert_int_equal(r.run.constraint.kind, QN_CONSTRAIN_SCHEMA);
    assert_string_equal(r.run.constraint.text, "{\"type\":\"object\",\"b\":[1,2.5],\"a\":null}");
    qn_api_openai_free(&r);
}

static void embedding(void **state) {
    (void)state;
    struct qn_api_openai r;
    char body[8192] = "{\"input\":[";
    for (int i = 0; i < 1000; i++) strcat(body, i ? ",\"a\"" : "\"a\"");
    strcat(body, "],\"encoding_format\":\"base64\",\"dimensions\":4,\"user\":\"u\"}");
    ok(QN_FORM_EMBEDDING, body, &r); /* more than may be generated at once */
    assert_int_equal(r.run.n_seqs, 1000);
    assert_int_equal(r.run.task, QN_TASK_EMBED);
    assert_true(r.base64 && r.dimensions_given && r.dimensions == 4);
    qn_api_openai_free(&r);
    ok(QN_FORM_EMBEDDING, "{\"input\":[1,2,3],\"encoding_format\":\"float\",\"dimensions\":null}", &r);
    assert_true(!r.base64 && !r.dimensions_given && r.run.seqs[0].is_ids && r.run.seqs[0].n == 3);
    qn_api_openai_free(&r);
}

#define CHAT(more) "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]," more "}"
#define SAY(msg)   "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}," msg "]}"

static void refusals(void **state) {
    (void)state;
    static const struct {
        enum qn_api_form form;
        const char *body, *param;
        enum qn_api_code code;
    } rows[] = {
        {QN_FORM_COMPLETION, "{}", "prompt", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":null}", "prompt", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":\"\"}", "prompt", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":[]}", "prompt", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":[\"a\",1]}", "prompt[1]", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":[1,-1]}", "prompt[1]", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":[\"a\",\"\"]}", "prompt[1]", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":7}", "prompt", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"sequence\":\"a\"}", "sequence", QN_API_UNKNOWN_FIELD},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"model\":\"\"}", "model", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"model\":1}", "model", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"best_of\":2}", "best_of", QN_API_UNSUPPORTED_PARAMETER},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"suffix\":\"b\"}", "suffix", QN_API_UNSUPPORTED_PARAMETER},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"logit_bias\":{\"5\":1}}", "logit_bias",
         QN_API_UNSUPPORTED_PARAMETER},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"max_tokens\":4097}", "max_tokens", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"logprobs\":21}", "logprobs", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"n\":9}", "n", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\"]}", "prompt",
         QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"echo\":true,\"logprobs\":1,\"stream\":true}", "echo",
         QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"echo\":1}", "echo", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"stream_options\":{\"usage\":true}}", "stream_options.usage",
         QN_API_UNKNOWN_FIELD},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"stream_options\":{\"include_usage\":1}}",
         "stream_options.include_usage", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"stream_options\":true}", "stream_options", QN_API_INVALID},
        {QN_FORM_COMPLETION, "{\"prompt\":\"a\",\"temprature\":1}", "temprature", QN_API_UNKNOWN_FIELD},
        {QN_FORM_CHAT, "{}", "messages", QN_API_INVALID},
        {QN_FORM_CHAT, "{\"messages\":[]}", "messages", QN_API_INVALID},
        {QN_FORM_CHAT, "{\"messages\":\"hi\"}", "messages", QN_API_INVALID},
        {QN_FORM_CHAT, "{\"messages\":[\"hi\"]}", "messages[0]", QN_API_INVALID},
        {QN_FORM_CHAT, SAY("{\"content\":\"a\"}"), "messages[1].role", QN_API_INVALID},
        {QN_FORM_CHAT, SAY("{\"role\":\"king\",\"content\":\"a\"}"), "messages[1].role", QN_API_INVALID},
        {QN_FORM_CHAT, SAY("{\"role\":\"user\"}"), "messages[1].content", QN_API_INVALID},
        {QN_FORM_CHAT, SAY("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}"),
         "messages[1].content[0].type", QN_API_UNSUPPORTED_PARAMETER},
        {QN_FORM_CHAT, SAY("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"),
         "messages[1].content[0].text", QN_API_INVALID},
        {QN_FORM_CHAT, SAY("{\"role\":\"user\",\"content\":[7]}"), "messages[1].content[0].type",
         QN_API_INVALID},
        {QN_FORM_CHAT, SAY("{\"role\":\"user\",\"content\":\"a\",\"contnt\":1}"), "messages[1].contnt",
         QN_API_UNKNOWN_FIELD},
        {QN_FORM_CHAT, SAY("{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[{}]}"),
         "messages[1].tool_calls", QN_API_UNSUPPORTED_PARAMETER},
        {QN_FORM_CHAT, CHAT("\"tools\":[{\"type\":\"function\"}]"), "tools", QN_API_UNSUPPORTED_PARAMETER},
        {QN_FORM_CHAT, CHAT("\"top_logprobs\":2"), "top_logprobs", QN_API_INVALID},
        {QN_FORM_CHAT, CHAT("\"logprobs\":2"), "logprobs", QN_API_INVALID},
        {QN_FORM_CHAT, CHAT("\"logprobs\":true,\"top_logprobs\":21"), "top_logprobs", QN_API_INVALID},
        {QN_FORM_CHAT, CHAT("\"max_tokens\":1,\"max_completion_tokens\":2"), "max_completion_tokens",
         QN_API_INVALID},
        {QN_FORM_CHAT, CHAT("\"max_completion_tokens\":4097"), "max_completion_tokens", QN_API_INVALID},
        {QN_FORM_CHAT, CHAT("\"response_format\":\"json\""), "response_format", QN_API_INVALID},
        {QN_FORM_CHAT, CHAT("\"response_format\":{}"), "response_format.type", QN_API_INVALID},
        {QN_FORM_CHAT, CHAT("\"response_format\":{\"type\":\"xml\"}"), "response_format.type",
         QN_API_INVALID},
        {QN_FORM_CHAT, CHAT("\"response_format\":{\"type\":\"json_schema\"}"), "response_format.json_schema",
         QN_API_INVALID},
        {QN_FORM_CHAT,
         CHAT("\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\"}}"),
         "response_format.json_schema.schema", QN_API_INVALID},
        {QN_FORM_CHAT, CHAT("\"response_format\":{\"type\":\"json_object\",\"schema\":1}"),
         "response_format.schema", QN_API_UNKNOWN_FIELD},
        {QN_FORM_CHAT, CHAT("\"regex\":\"a\",\"response_format\":{\"type\":\"json_object\"}"),
         "response_format", QN_API_INVALID},
        {QN_FORM_EMBEDDING, "{}", "input", QN_API_INVALID},
        {QN_FORM_EMBEDDING, "{\"input\":\"a\",\"encoding_format\":\"hex\"}", "encoding_format",
         QN_API_INVALID},
        {QN_FORM_EMBEDDING, "{\"input\":\"a\",\"dimensions\":0}", "dimensions", QN_API_INVALID},
        {QN_FORM_EMBEDDING, "{\"input\":\"a\",\"stream\":true}", "stream", QN_API_UNKNOWN_FIELD},
        {QN_FORM_EMBEDDING, "[]", "", QN_API_INVALID},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qn_api_openai r;
        struct qn_api_err e = {0};
        int rc = qn_api_openai_parse(rows[i].form, rows[i].body, strlen(rows[i].body), &lim, &r, &e);
        if (!rc) fail_msg("%s accepted", rows[i].body);
        if (strcmp(e.param, rows[i].param) != 0 || e.code != rows[i].code)
            fail_msg("%s: %s (%s, %s)", rows[i].body, e.msg, e.param, qn_api_code_name(e.code));
        assert_true(e.msg[0]);
        qn_api_openai_free(&r);
    }
}

static void renaming(void **state) {
    (void)state;
    static const char *const rows[][2] = {
        {"sequence", "messages"}, {"sequence[3]", "messages[3]"}, {"sequences", "sequences"}, {"n", "n"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qn_api_err e = {0};
        qn_api_fail(&e, QN_API_INVALID, rows[i][0], "x");
        qn_api_form_rename(QN_FORM_CHAT, &e);
        assert_string_equal(e.param, rows[i][1]);
        qn_api_form_rename(QN_FORM_NATIVE, &e);
        assert_string_equal(e.param, rows[i][1]);
    }
}

/* Every shared row is there, no name comes twice, and few enough for the list of known names. */
static void tables(void **state) {
    (void)state;
    for (int form = QN_FORM_COMPLETION; form < QN_FORM_COUNT; form++) {
        const struct qn_api_table *t = qn_api_form_table((enum qn_api_form)form);
        for (size_t n = 0; n < t->n; n++) {
            assert_non_null(qn_api_table_row(t, n));
            for (size_t k = 0; k < n; k++) assert_string_not_equal(t->fields[n].name, t->fields[k].name);
        }
        assert_true(t->n > 5 && t->n < 64);
        assert_string_equal(t->fields[t->n - 1].name, "timeout_ms");
    }
}

/* What nobody asked for is no more than what may be asked for; --max-tokens 8. */
static void defaults_within_the_bound(void **state) {
    (void)state;
    static const char sequence[] = "{\"sequence\":\"a\"}",
                      score[] = "{\"sequence\":\"a\",\"task\":\"score\"}", prompt[] = "{\"prompt\":\"a\"}",
                      compare[] = "{\"sequence\":\"a\",\"structures\":[{}]}";
    const struct qn_api_limits few = {.max_outputs = 8, .max_tokens = 8};
    struct qn_api_err e = {0};
    struct qn_api_infer i;
    struct qn_api_compare c;
    struct qn_api_openai o;
    assert_int_equal(qn_api_infer_parse(sequence, sizeof sequence - 1, &few, &i, &e), 0);
    assert_int_equal(i.max_tokens, 8);
    qn_api_infer_free(&i);
    assert_int_equal(qn_api_infer_parse(score, sizeof score - 1, &few, &i, &e), 0);
    qn_api_infer_free(&i);
    assert_int_equal(qn_api_compare_parse(compare, sizeof compare - 1, &few, &c, &e), 0);
    assert_int_equal(c.run.max_tokens, 8);
    qn_api_compare_free(&c);
    assert_int_equal(qn_api_openai_parse(QN_FORM_COMPLETION, prompt, sizeof prompt - 1, &few, &o, &e), 0);
    assert_int_equal(o.run.max_tokens, 8);
    qn_api_openai_free(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(completion_defaults),
                                       cmocka_unit_test(completion_everything),
                                       cmocka_unit_test(defaults_within_the_bound),
                                       cmocka_unit_test(chat),
                                       cmocka_unit_test(response_formats),
                                       cmocka_unit_test(embedding),
                                       cmocka_unit_test(refusals),
                                       cmocka_unit_test(renaming),
                                       cmocka_unit_test(tables)};
    return cmocka_run_group_tests_name("openai requests", tests, NULL, NULL);
}
