/* Where a checkpoint keeps its chat template: GGUF metadata, chat_template.jinja, tokenizer_config.json as a
 * text and as a list; strange ones are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/load/chat_text.h"
#include "model/load/json.h"
#include "tests/support/write_gguf.h"

static char *from_settings(const char *json, const char *chat) {
    struct qn_json_limits limits = {.depth = 8, .nodes = 1000};
    struct qn_checkpoint c = {0};
    json_t *root = NULL;
    assert_int_equal(qn_json_parse(json, strlen(json), "tokenizer_config.json", limits, &root, NULL), QN_OK);
    struct qn_hf_vocab files = {.settings = root, .chat = chat, .n_chat = chat ? strlen(chat) : 0};
    assert_int_equal(qn_chat_text_from_hf(&files, &c, NULL), QN_OK);
    json_decref(root);
    return c.chat_text;
}

static void expect(char *got, const char *want) {
    if (want)
        assert_string_equal(got, want);
    else
        assert_null(got);
    free(got);
}

static void hugging_face(void **state) {
    (void)state;
    expect(from_settings("{}", NULL), NULL);
    expect(from_settings("{\"chat_template\": \"a\\nb\"}", NULL), "a\nb");
    expect(from_settings("{\"chat_template\": \"a\"}", "from the file"), "from the file");
    expect(from_settings("{\"chat_template\": [{\"name\": \"rag\", \"template\": \"r\"},"
                         "{\"name\": \"default\", \"template\": \"d\"}]}",
                         NULL),
           "d");
    static const char *const none[] = {"null",
                                       "7",
                                       "\"\"",
                                       "[]",
                                       "{}",
                                       "[1, null, \"default\"]",
                                       "[{\"name\": \"rag\", \"template\": \"r\"}]",
                                       "[{\"name\": \"default\"}]",
                                       "[{\"name\": \"default\", \"template\": 5}]"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        char json[200];
        snprintf(json, sizeof json, "{\"chat_template\": %s}", none[i]);
        expect(from_settings(json, NULL), NULL);
    }
}

static char *from_gguf(const char *key, const char *text, size_t n, uint32_t type) {
    struct qn_test_gguf w = {0};
    struct qn_test_buf value = {0}, file = {0};
    struct qn_gguf g = {0};
    struct qn_checkpoint c = {0};
    qn_test_gguf_str(&w, "general.architecture", "llama");
    if (type == QN_GGUF_STRING) qn_test_put_u64(&value, n);
    qn_test_put(&value, text, n);
    qn_test_gguf_raw(&w, key, type, value.p, value.n);
    qn_test_gguf_finish(&w, &file);
    assert_int_equal(qn_gguf_parse(file.p, file.n, &g, NULL), QN_OK);
    assert_int_equal(qn_chat_text_from_gguf(&g, &c, NULL), QN_OK);
    qn_gguf_free(&g);
    qn_test_buf_free(&file);
    qn_test_buf_free(&value);
    return c.chat_text;
}

static void gguf(void **state) {
    (void)state;
    expect(from_gguf("tokenizer.chat_template", "{{ x }}", 7, QN_GGUF_STRING), "{{ x }}");
    expect(from_gguf("tokenizer.chat_template", "", 0, QN_GGUF_STRING), NULL);
    expect(from_gguf("tokenizer.chat_template", "a\0b", 3, QN_GGUF_STRING), NULL);
    expect(from_gguf("tokenizer.chat_template", "\7\0\0\0", 4, QN_GGUF_U32), NULL);
    expect(from_gguf("tokenizer.other", "{{ x }}", 7, QN_GGUF_STRING), NULL);
    char *huge = calloc(QN_CHAT_TEXT_MAX + 1, 1);
    assert_non_null(huge);
    memset(huge, 'x', QN_CHAT_TEXT_MAX + 1);
    expect(from_gguf("tokenizer.chat_template", huge, QN_CHAT_TEXT_MAX + 1, QN_GGUF_STRING), NULL);
    free(huge);
}

static void jinja_file(void **state) {
    (void)state;
    char dir[] = "/tmp/quern_chat_XXXXXX", path[64], *out;
    size_t n;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(qn_chat_text_file(dir, &out, &n, NULL), QN_OK);
    assert_null(out);
    snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fclose(f); /* empty */
    assert_int_equal(qn_chat_text_file(dir, &out, &n, NULL), QN_OK);
    assert_null(out);
    f = fopen(path, "we");
    assert_non_null(f);
    fputs("{{ y }}\n", f);
    fclose(f);
    assert_int_equal(qn_chat_text_file(dir, &out, &n, NULL), QN_OK);
    assert_int_equal(n, 8);
    assert_memory_equal(out, "{{ y }}\n", 8);
    free(out);
    unlink(path);
    rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(hugging_face), cmocka_unit_test(gguf),
                                       cmocka_unit_test(jinja_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
