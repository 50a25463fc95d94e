/* Chat templates at their edges: texts in other spellings, near misses that must not be recognised, contents
 * of any bytes, refusals that name the message, and a model's own choice of template. What each template
 * renders is tests/golden/chat_test.c's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/text/chat_template.h"
#include "tests/support/tiny_open.h"

static const struct qn_chat_context context = {.bos = {"<s>", 3}, .eos = {"</s>", 4}, .today = "05 Mar 2025"};

static const char *seen(const char *text) {
    const struct qn_chat_template *t;
    assert_int_equal(qn_chat_recognise(text, strlen(text), &t, NULL), QN_OK);
    return t ? qn_chat_name(t) : "";
}

static void spellings(void **state) {
    (void)state;
    assert_string_equal(
        seen("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
             "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt "
             "%}{{ '<|im_start|>assistant\n' }}{% endif %}"),
        "chatml");
    assert_string_equal(
        seen("{%- for message in messages %}{{- \"<|im_start|>\"+message.role+\"\\n\" + "
             "message.content  +  \"<|im_end|>\\n\" }}{%- endfor %}{%- if add_generation_prompt "
             "%}{{- \"<|im_start|>assistant\\n\" }}{%- endif %}"),
        "chatml");
}

static void near_misses(void **state) {
    (void)state;
    static const char body[] =
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
                      prompt[] = "{{ '<|im_start|>assistant\n' }}";
    static const char *const more[] = {
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nX<|im_end|>\n' }}",
        "{{ bos_token }}",
        "{% if not loop.last %}",
        "{{ message['content'] | trim }}",
        "{{ tools | tojson }}",
        "<think>",
        "{{ raise_exception('no') }}"};
    char text[1024];
    snprintf(text, sizeof text, "%s%s", body, prompt);
    assert_string_equal(seen(text), "chatml");
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        snprintf(text, sizeof text, "%s%s%s", body, prompt, more[i]);
        assert_string_equal(seen(text), "");
    }
    assert_string_equal(seen(body), "");
    assert_string_equal(
        seen("{{'<|im_start|>' + message['role'] + ' ' + message['content'] + '<|im_end|>' + '\n'}}"
             "{{ '<|im_start|>assistant\n' }}"),
        "");
    assert_string_equal(seen(""), "");
    assert_string_equal(seen("\\"), "");
    assert_string_equal(seen("message.role"), "");
    assert_string_equal(seen("   +  "), "");
}

static void any_bytes(void **state) {
    (void)state;
    char content[256], *out;
    size_t n;
    for (int i = 0; i < 256; i++) content[i] = (char)i;
    static const char *const names[] = {"chatml",     "gemma",      "llama2", "llama3", "llama3.1",
                                        "mistral-v3", "mistral-v1", "qwen3",  "zephyr", "qwen2.5"};
    for (size_t t = 0; t < sizeof names / sizeof *names; t++) {
        const struct qn_chat_template *tpl = qn_chat_find(names[t]);
        assert_non_null(tpl);
        for (size_t k = 0; k <= 256; k += 16) {
            for (size_t from = 0; from <= 256 - k; from += 7) { /* cut characters at both ends */
                char *copy = malloc(k + !k);
                assert_non_null(copy);
                memcpy(copy, content + from, k);
                struct qn_chat_message m[] = {{"user", copy, k}, {"assistant", copy, k}, {"user", copy, k}};
                assert_int_equal(qn_chat_render(tpl, &context, m, 3, true, &out, &n, NULL), QN_OK);
                free(out);
                free(copy);
            }
        }
    }
}

static void refusals(void **state) {
    (void)state;
    char *out;
    size_t n;
    struct qn_err err = {0};
    struct qn_chat_message m[] = {{"user", "a", 1}, {"assistant", "b", 1}, {"assistant", "c", 1}};
    const struct qn_chat_template *t = qn_chat_find("llama2");
    assert_int_equal(qn_chat_render(t, &context, m, 3, true, &out, &n, &err), QN_ERR_INVALID);
    assert_string_equal(err.param, "messages[2].role");
    assert_non_null(strstr(err.msg, "llama2"));
    assert_non_null(strstr(err.msg, "in turn"));
    assert_null(out);
    memset(&err, 0, sizeof err);
    assert_int_equal(qn_chat_render(t, &context, m, 0, true, &out, &n, &err), QN_ERR_INVALID);
    assert_string_equal(err.param, "messages");
    m[0].role = "system";
    memset(&err, 0, sizeof err);
    assert_int_equal(qn_chat_render(qn_chat_find("gemma"), &context, m, 2, true, &out, &n, &err),
                     QN_ERR_INVALID);
    assert_string_equal(err.param, "messages[0].role");
    assert_non_null(strstr(err.msg, "no place for a system message"));
    assert_null(qn_chat_find("ChatML"));
    assert_null(qn_chat_find(""));
}

/* Sizes that no memory holds: the sum overflows before anything is allocated. */
static void too_large(void **state) {
    (void)state;
    char *out;
    size_t n;
    struct qn_chat_message m[] = {{"user", "x", SIZE_MAX - 20}};
    assert_int_equal(qn_chat_render(qn_chat_find("chatml"), &context, m, 1, true, &out, &n, NULL),
                     QN_ERR_NOMEM);
    assert_null(out);
}

static void of_a_model(void **state) {
    (void)state;
    struct qn_test_tiny tiny = qn_test_tiny_default("llama");
    struct qn_open_options opt = {.state_bytes = 1 << 20, .max_step_tokens = 8};
    struct qn_model *m = qn_test_tiny_open(&tiny, &opt);
    struct qn_chat_message hello = {"user", "hi", 2};
    struct qn_err err = {0};
    char *out;
    size_t n;
    assert_string_equal(qn_model_info(m)->chat_template, "");
    assert_string_equal(qn_model_info(m)->chat_template_text, "");
    assert_int_equal(qn_model_chat(m, &hello, 1, true, &out, &n, &err), QN_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "--chat-template"));
    assert_null(out);
    qn_model_close(&m);
    opt.chat_template = "chatml";
    opt.id = "named";
    m = qn_test_tiny_open(&tiny, &opt);
    assert_string_equal(qn_model_info(m)->id, "named");
    assert_string_equal(qn_model_info(m)->chat_template, "chatml");
    assert_int_equal(qn_model_chat(m, &hello, 1, true, &out, &n, NULL), QN_OK);
    static const char want[] = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
    assert_int_equal(n, sizeof want - 1);
    assert_memory_equal(out, want, n);
    free(out);
    qn_model_close(&m);
    assert_true(qn_model_chat_known("gemma"));
    assert_false(qn_model_chat_known("none"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(spellings), cmocka_unit_test(near_misses),
                                       cmocka_unit_test(any_bytes), cmocka_unit_test(refusals),
                                       cmocka_unit_test(too_large), cmocka_unit_test(of_a_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
