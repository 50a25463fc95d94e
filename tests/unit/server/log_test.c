/* server/log.c: one line per event whatever is in it, valid JSON, nothing lost in order, a stuck reader stops
 * nobody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/log.h"

/* All that comes out of fd until its end. */
static char *drain(int fd, size_t *n) {
    size_t cap = 1 << 20;
    char *p = malloc(cap);
    assert_non_null(p);
    *n = 0;
    for (ssize_t k; (k = read(fd, p + *n, cap - 1 - *n)) > 0;) {
        *n += (size_t)k;
        if (*n == cap - 1) p = realloc(p, cap *= 2);
        assert_non_null(p);
    }
    p[*n] = '\0';
    return p;
}

struct logged {
    int fd[2];
    struct qn_log *log;
};

static struct logged open_log(bool json, int level) {
    struct logged l;
    assert_int_equal(pipe(l.fd), 0);
    l.log = qn_log_new(l.fd[1], json, level);
    assert_non_null(l.log);
    return l;
}

static char *close_log(struct logged *l, size_t *n) {
    qn_log_free(l->log);
    close(l->fd[1]);
    char *text = drain(l->fd[0], n);
    close(l->fd[0]);
    return text;
}

static const char nasty[] = "a\"b\\c\nd\re\tf\x01g\x7fh\xc3\xa9i\xffj=k";

static void test_json_lines_are_json(void **state) {
    (void)state;
    struct logged l = open_log(true, QN_LOG_INFO);
    struct qn_log_field f[] = {{.name = "s", .kind = QN_LF_STR, .s = nasty},
                               {.name = "u", .kind = QN_LF_UINT, .u = UINT64_C(9007199254740993)},
                               {.name = "m", .kind = QN_LF_MS, .ms = 12.3456},
                               {.name = "neg", .kind = QN_LF_MS, .ms = -1},
                               {.name = "nan", .kind = QN_LF_MS, .ms = NAN},
                               {.name = "b", .kind = QN_LF_BOOL, .u = 1},
                               {.name = "e", .kind = QN_LF_STR, .s = ""}};
    qn_log_fields(l.log, QN_LOG_WARN, nasty, f, 7);
    qn_log_line(l.log, QN_LOG_ERROR, "number %d of %s", 5, nasty);
    size_t n;
    char *text = close_log(&l, &n), *second = strchr(text, '\n') + 1;
    json_error_t err;
    json_t *first = json_loadb(text, (size_t)(second - text), 0, &err);
    assert_non_null(first);
    assert_string_equal(json_string_value(json_object_get(first, "level")), "warn");
    assert_int_equal(json_integer_value(json_object_get(first, "u")), 9007199254740993);
    assert_true(fabs(json_real_value(json_object_get(first, "m")) - 12.346) < 1e-9);
    assert_true(json_is_true(json_object_get(first, "b")));
    assert_string_equal(json_string_value(json_object_get(first, "e")), "");
    json_t *rest = json_loadb(second, strlen(second), 0, &err);
    assert_non_null(rest);
    assert_int_equal(json_object_size(rest), 3);
    assert_int_equal(strlen(strchr(second, '\n')), 1);
    json_decref(first);
    json_decref(rest);
    free(text);
}

static void test_text_lines_stay_one_line(void **state) {
    (void)state;
    struct logged l = open_log(false, QN_LOG_INFO);
    struct qn_log_field f[] = {{.name = "s", .kind = QN_LF_STR, .s = nasty},
                               {.name = "plain", .kind = QN_LF_STR, .s = "word"},
                               {.name = "blank", .kind = QN_LF_STR, .s = "two words"}};
    qn_log_fields(l.log, QN_LOG_INFO, "request", f, 3);
    size_t n;
    char *text = close_log(&l, &n);
    assert_ptr_equal(strchr(text, '\n'), text + n - 1);
    assert_non_null(strstr(text, " info request s=\"a\\\"b"));
    assert_non_null(strstr(text, " plain=word blank=\"two words\"\n"));
    free(text);
}

static void test_levels(void **state) {
    (void)state;
    struct logged l = open_log(false, QN_LOG_WARN);
    qn_log_line(l.log, QN_LOG_INFO, "hidden");
    qn_log_line(l.log, QN_LOG_WARN, "shown");
    assert_false(qn_log_on(l.log, QN_LOG_DEBUG));
    assert_false(qn_log_on(NULL, QN_LOG_ERROR));
    qn_log_line(NULL, QN_LOG_ERROR, "nowhere");
    size_t n;
    char *text = close_log(&l, &n);
    assert_null(strstr(text, "hidden"));
    assert_non_null(strstr(text, "warn shown\n"));
    free(text);
}

static void test_long_values_keep_the_line_whole(void **state) {
    (void)state;
    struct logged l = open_log(true, QN_LOG_INFO);
    char *big = malloc(100000);
    assert_non_null(big);
    memset(big, 1, 99999); /* six characters each when escaped */
    big[99999] = '\0';
    struct qn_log_field f[40];
    for (size_t i = 0; i < 40; i++)
        f[i] = (struct qn_log_field){
            .name = "long_name_of_a_field", .kind = QN_LF_STR, .s = i % 2 ? big : "short"};
    for (int i = 0; i < 3; i++) qn_log_fields(l.log, QN_LOG_INFO, big, f, 40);
    qn_log_line(l.log, QN_LOG_INFO, "%s", big);
    size_t n, lines = 0;
    char *text = close_log(&l, &n);
    for (char *s = text, *end; (end = strchr(s, '\n')); s = end + 1, lines++) {
        json_error_t err;
        json_t *j = json_loadb(s, (size_t)(end - s), 0, &err);
        if (!j) fail_msg("line %zu is no JSON: %s", lines, err.text);
        json_decref(j);
    }
    assert_int_equal(lines, 4);
    free(text);
    free(big);
}

static void *write_lines(void *arg) {
    for (unsigned i = 0; i < 500; i++) qn_log_line(arg, QN_LOG_INFO, "line %u", i);
    return NULL;
}

static void test_threads_keep_lines_whole(void **state) {
    (void)state;
    struct logged l = open_log(false, QN_LOG_INFO);
    pthread_t t[4];
    FILE *in = fdopen(l.fd[0], "r");
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, write_lines, l.log), 0);
    char line[256];
    unsigned last_seen = 0, whole = 0;
    for (; whole < 2000 && fgets(line, sizeof line, in); whole++) {
        unsigned i;
        char *at = strstr(line, " info line ");
        assert_non_null(at);
        assert_int_equal(sscanf(at, " info line %u\n", &i), 1);
        last_seen += i == 499;
    }
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    assert_int_equal(whole, 2000);
    assert_int_equal(last_seen, 4);
    assert_int_equal(qn_log_dropped(l.log), 0);
    qn_log_free(l.log);
    close(l.fd[1]);
    fclose(in);
}

static void test_reader_that_never_reads_blocks_nobody(void **state) {
    (void)state;
    struct logged l = open_log(false, QN_LOG_INFO);
    fcntl(l.fd[1], F_SETFL, O_NONBLOCK);
    char big[900];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    for (int i = 0; i < 4000; i++)
        qn_log_line(l.log, QN_LOG_INFO, "%s", big); /* returns, though nobody reads */
    assert_true(qn_log_dropped(l.log) > 1000);
    qn_log_free(l.log); /* gives up after a second */
    close(l.fd[0]);
    close(l.fd[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_json_lines_are_json),
                                       cmocka_unit_test(test_text_lines_stay_one_line),
                                       cmocka_unit_test(test_levels),
                                       cmocka_unit_test(test_long_values_keep_the_line_whole),
                                       cmocka_unit_test(test_threads_keep_lines_whole),
                                       cmocka_unit_test(test_reader_that_never_reads_blocks_nobody)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
