/* server/http_guard.c and auth.c: head checks, request ids, path decoding; SipHash against its published
 * vectors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/auth.h"
#include "server/http_guard.h"
#include "server/route.h"

/* Fields as "Name: value" strings, NULL at the end. */
static enum qn_api_code check(const char *version, const char *const *fields) {
    struct qn_head h;
    struct qn_api_err err = {.code = QN_API_OK};
    memset(&h, 0, sizeof h);
    for (; *fields; fields++) {
        const char *colon = strstr(*fields, ": ");
        qn_head_add(&h, *fields, (size_t)(colon - *fields), colon + 2, strlen(colon + 2));
    }
    int rc = qn_head_check(&h, version, &err);
    assert_int_equal(rc, err.code ? -1 : 0);
    return err.code;
}
#define CHECK(...) check("HTTP/1.1", (const char *const[]){__VA_ARGS__, NULL})

static void test_framing(void **state) {
    (void)state;
    assert_int_equal(CHECK("Host: a"), QN_API_OK);
    assert_int_equal(CHECK("Host: a", "Content-Length: 5"), QN_API_OK);
    assert_int_equal(CHECK("Host: a", "transfer-encoding: Chunked"), QN_API_OK);
    assert_int_equal(CHECK("X: a"), QN_API_FRAMING);
    assert_int_equal(CHECK("Host: a", "hOST: a"), QN_API_FRAMING);
    assert_int_equal(CHECK("Host: a", "Content-Length: 5", "content-length: 5"), QN_API_FRAMING);
    assert_int_equal(CHECK("Host: a", "Content-Length: 5", "Transfer-Encoding: chunked"), QN_API_FRAMING);
    assert_int_equal(CHECK("Host: a", "Content-Length: 18446744073709551616"), QN_API_FRAMING);
    assert_int_equal(CHECK("Host: a", "Content-Length: 18446744073709551615"), QN_API_OK);
    assert_int_equal(CHECK("Host: a", "Content-Length: "), QN_API_FRAMING);
    assert_int_equal(CHECK("Host: a", "Content-Length: +1"), QN_API_FRAMING);
    assert_int_equal(CHECK("Host: a", "Transfer-Encoding: gzip"), QN_API_NOT_IMPLEMENTED);
    assert_int_equal(CHECK("Host: a", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
                     QN_API_FRAMING);
    assert_int_equal(CHECK("Host: a", "Content-Length : 5"), QN_API_FRAMING);
    assert_int_equal(CHECK("Host: a", "X: a\x01"), QN_API_FRAMING);
    assert_int_equal(CHECK("Host: a", "X: tab\there"), QN_API_OK);
    assert_int_equal(CHECK("Host: a", "Content-Encoding: gzip"), QN_API_MEDIA_TYPE);
    assert_int_equal(CHECK("Host: a", "Content-Encoding: identity"), QN_API_OK);
    const char *const none[] = {NULL}, *const chunked[] = {"Transfer-Encoding: chunked", NULL};
    assert_int_equal(check("HTTP/1.0", none), QN_API_OK);
    assert_int_equal(check("HTTP/1.0", chunked), QN_API_FRAMING);
    assert_int_equal(check("HTTP/2.0", none), QN_API_FRAMING);
}

static void test_sizes(void **state) {
    (void)state;
    struct qn_head h;
    struct qn_api_err err = {.code = QN_API_OK};
    for (unsigned n = QN_HEAD_MAX_FIELDS; n <= QN_HEAD_MAX_FIELDS + 1; n++) {
        memset(&h, 0, sizeof h);
        qn_head_add(&h, "Host", 4, "a", 1);
        for (unsigned i = 1; i < n; i++) qn_head_add(&h, "X", 1, "y", 1);
        assert_int_equal(qn_head_check(&h, "HTTP/1.1", &err), n > QN_HEAD_MAX_FIELDS ? -1 : 0);
    }
    assert_int_equal(err.code, QN_API_HEADERS);
}

static void test_request_ids(void **state) {
    (void)state;
    char longest[130];
    memset(longest, 'a', 129);
    longest[129] = '\0';
    assert_false(qn_request_id_sane(longest));
    longest[128] = '\0';
    assert_true(qn_request_id_sane(longest));
    assert_true(qn_request_id_sane("550e8400-e29b-41d4-a716-446655440000"));
    static const char *const bad[] = {"", " ", "a b", "a\"", "a\n", "\xc3\xa9", "{}", "a;b", "a,b"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) assert_false(qn_request_id_sane(bad[i]));
}

static void test_paths(void **state) {
    (void)state;
    static const struct {
        const char *in, *out; /* out NULL = refused */
    } cases[] = {{"/a", "/a"},  {"/%61%2F%2f", "/a//"}, {"/a+b", "/a+b"},  {"/%", NULL},
                 {"/%1", NULL}, {"/%zz", NULL},         {"/%00", NULL},    {"/%0", NULL},
                 {"", ""},      {"/%25", "/%"},         {"/%ff", "/\xff"}, {"/%2", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char s[32];
        snprintf(s, sizeof s, "%s", cases[i].in);
        assert_int_equal(qn_path_decode(s), cases[i].out != NULL);
        if (cases[i].out) assert_string_equal(s, cases[i].out);
    }
}

static void test_routes(void **state) {
    (void)state;
    const char *arg;
    assert_non_null(qn_route_find("/v1/infer", &arg));
    assert_null(qn_route_find("/v1/infer/", &arg));
    assert_null(qn_route_find("/v1/models/", &arg));
    assert_true(qn_route_find("/v1/models/a/b", &arg)->prefix);
    assert_string_equal(arg, "a/b");
    assert_int_equal(qn_route_find("/livez", &arg)->access, QN_OPEN);
    assert_int_equal(qn_route_find("/v1/infer", &arg)->access, QN_KEYED);
    assert_int_equal(qn_route_find("/page/app.js", &arg)->access, QN_OPEN);
    assert_string_equal(arg, "app.js");
    assert_null(qn_route_find("/page", &arg));
    assert_int_equal(qn_method_of("get"), QN_OTHER);
    assert_int_equal(qn_method_of("POST"), QN_POST);
}

static void test_siphash_vectors(void **state) {
    (void)state;
    /* SipHash-2-4-64, key 00..0f, messages 00.. of growing length (reference implementation's table) */
    static const uint64_t want[] = {0x726fdb47dd0e0e31u, 0x74f839c593dc67fdu, 0x0d6c8009d9a94f5au,
                                    0x85676696d7fb7e2du, 0xcf2794e0277187b7u, 0x18765564cd99a68du,
                                    0xcbc9466e58fee3ceu, 0xab0200f58b01d137u, 0x93f5f5799a932462u,
                                    0x9e0082df0ba9e4b0u};
    unsigned char key[16], msg[16];
    for (unsigned char i = 0; i < 16; i++) key[i] = msg[i] = i;
    for (size_t n = 0; n < sizeof want / sizeof want[0]; n++)
        assert_int_equal(qn_siphash(key, msg, n), want[n]);
    assert_int_equal(qn_siphash(key, msg, 15), 0xa129ca6149be45e5u); /* the paper's example */
}

static void test_keys(void **state) {
    (void)state;
    char path[] = "/tmp/quern-keys-XXXXXX", why[200];
    int fd = mkstemp(path);
    static const char text[] = "# comment\nfirst-key-1\r\n\n  second-key-2 ";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    struct qn_auth *a = qn_auth_new(path, why, sizeof why);
    uint64_t s1, s2, s3;
    assert_non_null(a);
    assert_int_equal(qn_auth_count(a), 2);
    assert_true(qn_auth_check(a, "first-key-1", 11, &s1));
    assert_true(qn_auth_check(a, "second-key-2", 12, &s2));
    assert_true(s1 && s2 && s1 != s2);
    assert_true(qn_auth_check(a, "first-key-1", 11, &s3) && s3 == s1);
    static const char *const wrong[] = {"",          "first-key-",   "first-key-12", "First-key-1",
                                        "# comment", "second-key-2 "};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_false(qn_auth_check(a, wrong[i], strlen(wrong[i]), &s3));
        assert_int_equal(s3, 0);
    }
    assert_false(qn_auth_check(a, NULL, 0, &s3));
    qn_auth_free(a);
    unlink(path);
    assert_null(qn_auth_new(path, why, sizeof why));
    a = qn_auth_new(NULL, why, sizeof why);
    assert_true(qn_auth_check(a, NULL, 0, &s3) && s3 == 0);
    qn_auth_free(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_framing), cmocka_unit_test(test_sizes),  cmocka_unit_test(test_request_ids),
        cmocka_unit_test(test_paths),   cmocka_unit_test(test_routes), cmocka_unit_test(test_siphash_vectors),
        cmocka_unit_test(test_keys)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
