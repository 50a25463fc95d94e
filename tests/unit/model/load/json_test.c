/* JSON of a checkpoint when memory is short: the same tree, or an error that says so; never a crash, and
 * never a fault of the file. jansson's lexer goes on after its token buffer could not grow, so there must be
 * memory for all of it before it begins. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/load/json.h"

#define MIB ((size_t)1 << 20)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LIMITS 0 /* their shadow memory counts too */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LIMITS 0
#endif
#endif
#ifndef LIMITS
#define LIMITS 1
#endif

static const struct qn_json_limits limits = {.depth = 8, .nodes = 10000000};

static size_t address_space(void) {
    char line[128] = "";
    FILE *f = fopen("/proc/self/statm", "re");
    assert_true(f && fgets(line, sizeof line, f));
    fclose(f);
    return strtoull(line, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

/* {"long": "xxx…", "many": [["word 0", 0], …]} */
static char *make_text(size_t string, unsigned many, size_t *n) {
    size_t room = string + (size_t)many * 40 + 100;
    char *text = malloc(room), *p = text;
    assert_non_null(text);
    p += snprintf(p, 40, "{\"long\": \"");
    memset(p, 'x', string);
    p += string;
    p += snprintf(p, 40, "\", \"many\": [0");
    for (unsigned i = 0; i < many; i++) p += snprintf(p, 40, ",[\"word %u\",%u]", i, i);
    p += snprintf(p, 40, "]}");
    *n = (size_t)(p - text);
    return text;
}

/* 0: parsed, and whole; 1: out of memory; 2 and more: neither. */
static int parse(const char *text, size_t n, size_t string, unsigned many) {
    struct qn_err err = {0};
    json_t *root = NULL;
    int rc = qn_json_parse(text, n, "it", limits, &root, &err);
    if (rc == QN_ERR_NOMEM) return root || !strstr(err.msg, "out of memory") ? 2 : 1;
    if (rc != QN_OK) return 3;
    bool whole = json_string_length(json_object_get(root, "long")) == string &&
                 json_array_size(json_object_get(root, "many")) == many + 1;
    json_decref(root);
    return whole ? 0 : 4;
}

static int in_a_child(size_t room, const char *text, size_t n, size_t string, unsigned many) {
    int status = 0;
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit lim = {address_space() + room, RLIM_INFINITY};
        if (setrlimit(RLIMIT_AS, &lim) != 0) _exit(9);
        _exit(parse(text, n, string, many));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status)) fail_msg("with %zu bytes to spare: signal %d", room, WTERMSIG(status));
    return WEXITSTATUS(status);
}

static void short_memory_is_an_error(void **state) {
    (void)state;
    const struct {
        size_t string;
        unsigned many;
    } shapes[] = {{6 * MIB, 0}, {100, 100000}, {3 * MIB, 30000}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        size_t n, seen[2] = {0, 0};
        char *text = make_text(shapes[i].string, shapes[i].many, &n);
        assert_int_equal(parse(text, n, shapes[i].string, shapes[i].many), 0);
        for (size_t room = 0; LIMITS && room < 128 * MIB; room += MIB) {
            int got = in_a_child(room, text, n, shapes[i].string, shapes[i].many);
            if (got > 1) fail_msg("shape %zu with %zu MiB to spare: %d", i, room / MIB, got);
            seen[got]++;
        }
        if (LIMITS) assert_true(seen[0] > 0 && seen[1] > 0);
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(short_memory_is_an_error)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
