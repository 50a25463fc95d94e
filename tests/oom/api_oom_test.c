/* Memory runs out at allocation 0, 1, 2 … of parsing and of writing, once and for ever after: an error or a
 * sticky failure each time, no crash, no leak (under ASan), and the next request is answered right. jansson's
 * allocations are counted too: they come out of the document's block, so none of them can fail in the middle
 * of a token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "api/models.h"
#include "api/openai.h"
#include "api/openapi.h"
#include "api/received.h"
#include "tests/support/oom.h"

/* ---- the failing allocator ---- */

static bool armed, for_ever;
static long countdown, calls;

static bool fail_now(void) {
    if (!armed) return false;
    calls++;
    if (countdown-- == 0) {
        if (for_ever) countdown = 0;
        return true;
    }
    return false;
}

/* ---- the work: 0 = done, -1 = refused for want of memory ---- */

static const char infer_body[] =
    "{\"model\":\"grist\",\"attention\":{\"type\":\"gqa\",\"kv_heads\":2},\"sequence\":[\"a "
    "text\",[1,2,3],\"\\u20ac and more\"],"
    "\"temperature\":0.5,\"stop\":[\"x\",\"yy\"],\"seed\":12345678901234,\"max_tokens\":7}";

static int do_infer(void) {
    struct qn_api_infer r;
    struct qn_api_err e = {0};
    int rc = qn_api_infer_parse(infer_body, sizeof infer_body - 1, NULL, &r, &e);
    if (rc == 0) {
        assert_int_equal(r.n_seqs, 3);
        assert_string_equal(r.seqs[0].text, "a text");
        assert_int_equal(r.seqs[1].ids[2], 3);
        assert_string_equal(r.seqs[2].text, "\xE2\x82\xAC and more");
        assert_string_equal(r.stop[1], "yy");
        assert_true(r.seed == 12345678901234u);
    } else {
        assert_int_equal(e.code, QN_API_OUT_OF_MEMORY);
        assert_int_equal(qn_api_status(e.code), 503);
    }
    qn_api_infer_free(&r);
    return rc;
}

static int do_tokenize(void) {
    static const char body[] = "{\"prompt\":\"some words that are long enough\",\"with_pieces\":true}";
    struct qn_api_tokenize t;
    struct qn_api_err e = {0};
    int rc = qn_api_tokenize_parse(body, sizeof body - 1, &t, &e);
    if (rc) assert_int_equal(e.code, QN_API_OUT_OF_MEMORY);
    qn_api_tokenize_free(&t);
    return rc;
}

static int do_detokenize(void) {
    static const char body[] = "{\"tokens\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]}";
    struct qn_api_detokenize t;
    struct qn_api_err e = {0};
    int rc = qn_api_detokenize_parse(body, sizeof body - 1, &t, &e);
    if (rc) assert_int_equal(e.code, QN_API_OUT_OF_MEMORY);
    qn_api_detokenize_free(&t);
    return rc;
}

static int do_reply(void) {
    static const int32_t ids[100] = {1, 2, 3};
    static const float vec[200] = {0.1f, 0.2f};
    static const struct qn_api_score score = {1, 2, -3, 4};
    struct qn_api_output o[2] = {
        {.text = "abc", .text_len = 3, .tokens = ids, .n_tokens = 100, .finish_reason = "stop"},
        {.embedding = vec, .n_embedding = 200, .score = &score}};
    struct qn_api_reply r = {.id = "inf-1", .model = "grist", .outputs = o, .n_outputs = 2};
    struct qn_buf b = {0};
    qn_api_infer_write(&b, &r);
    qn_buf_printf(&b, "%0600d", 1);
    bool failed = b.failed;
    if (!failed) assert_true(b.n > 2000 && b.p[0] == '{');
    qn_buf_free(&b);
    return failed ? -1 : 0;
}

static int do_form(enum qn_api_form form, const char *body) {
    struct qn_api_openai r;
    struct qn_api_err e = {0};
    int rc = qn_api_openai_parse(form, body, strlen(body), NULL, &r, &e);
    if (rc) assert_int_equal(e.code, QN_API_OUT_OF_MEMORY);
    if (!rc && form == QN_FORM_CHAT) assert_string_equal(r.messages[1].text, "a\nb");
    if (!rc && form != QN_FORM_CHAT) assert_int_equal(r.run.seqs[1].ids[1], 2);
    qn_api_openai_free(&r);
    return rc;
}

static int do_completion(void) {
    return do_form(
        QN_FORM_COMPLETION,
        "{\"model\":\"grist@mqa\",\"prompt\":[\"text\",[1,2]],\"stop\":[\"a\",\"b\"],\"user\":\"me\"}");
}

static int do_chat(void) {
    return do_form(
        QN_FORM_CHAT,
        "{\"messages\":[{\"role\":\"system\",\"content\":\"be good\"},{\"role\":\"user\",\"content\":["
        "{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}],\"stop\":\"x\","
        "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"schema\":"
        "{\"type\":\"object\"}}}}");
}

static int do_embedding(void) {
    return do_form(QN_FORM_EMBEDDING, "{\"input\":[\"text\",[1,2]],\"encoding_format\":\"base64\"}");
}

static int do_openapi(void) {
    struct qn_buf b = {0};
    qn_api_openapi_write(&b, "1");
    bool failed = b.failed;
    if (!failed) assert_int_equal(b.p[b.n - 1], '}');
    qn_buf_free(&b);
    return failed ? -1 : 0;
}

static int do_receive(void) {
    static const char json[] = "{\"object\":\"list\",\"data\":[{\"model\":\"a\",\"structures\":[{\"slot\":"
                               "\"ffn\",\"structure\":{\"type\":\"moe\"},"
                               "\"origin\":null,\"exactness\":\"exact\"}]}]}";
    static const char error[] = "{\"error\":{\"message\":\"no\"}}";
    struct qn_api_runs runs = {.rows = NULL};
    struct qn_api_received got;
    struct qn_api_err e = {.code = QN_API_OK};
    int rc = qn_api_receive_structures(json, sizeof json - 1, &runs, &e);
    if (rc == 0) assert_int_equal(runs.n, 1);
    free(runs.rows);
    if (rc == 0) {
        rc = qn_api_receive(error, sizeof error - 1, &got, &e);
        if (rc == 0) assert_int_equal(got.kind, QN_GOT_ERROR);
        qn_api_received_free(&got);
    }
    if (rc) assert_int_equal(e.code, QN_API_OUT_OF_MEMORY);
    return rc;
}

static void torture(int (*work)(void), long least) {
    armed = false;
    assert_int_equal(work(), 0);
    for (int mode = 0; mode < 2; mode++) {
        long n = 0;
        for (int rc = -1; rc; n++) {
            assert_true(n < 10000);
            armed = true, for_ever = mode == 1, countdown = n, calls = 0;
            rc = work();
            bool hit = countdown < 0 || (for_ever && calls > n);
            armed = false;
            if (hit) assert_int_equal(rc, -1); /* no failed allocation goes unnoticed */
            assert_int_equal(work(), 0);       /* and the next request is right */
        }
        assert_true(n > least);
    }
}

static void infer(void **state) {
    (void)state;
    torture(do_infer, 6); /* block, array of sequences, three sequences, two stops */
}
static void tokenize(void **state) {
    (void)state;
    torture(do_tokenize, 1);
}
static void detokenize(void **state) {
    (void)state;
    torture(do_detokenize, 1);
}
static void openai(void **state) {
    (void)state;
    torture(do_completion, 5);
    torture(do_chat, 5);
    torture(do_embedding, 3);
}
static void reply(void **state) {
    (void)state;
    torture(do_reply, 3);
}
static void openapi(void **state) {
    (void)state;
    torture(do_openapi, 5);
}

static void receive(void **state) {
    (void)state;
    torture(do_receive, 3);
}

/* jansson gets no memory of its own while a request is parsed. */
static long own;
static void *counting_malloc(size_t n) {
    own++;
    return malloc(n);
}
static void jansson_stays_in_the_block(void **state) {
    (void)state;
    json_malloc_t m;
    json_free_t f;
    json_get_alloc_funcs(&m, &f);
    assert_int_equal(do_infer(), 0); /* seeds the hash */
    armed = true, for_ever = false, countdown = 1000000, calls = 0;
    assert_int_equal(do_infer(), 0);
    armed = false;
    assert_int_equal(calls, 1 + 1 + 3 + 2);
    json_set_alloc_funcs(counting_malloc, f);
    json_t *v = json_integer(1);
    json_set_alloc_funcs(m, f);
    json_decref(v);
    assert_int_equal(own, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(infer),      cmocka_unit_test(tokenize),
        cmocka_unit_test(detokenize), cmocka_unit_test(openai),
        cmocka_unit_test(reply),      cmocka_unit_test(openapi),
        cmocka_unit_test(receive),    cmocka_unit_test(jansson_stays_in_the_block)};
    return cmocka_run_group_tests_name("api out of memory", tests, NULL, NULL);
}
