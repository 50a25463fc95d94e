/* server/config.c: every option of the table can be printed, read back and refused; sources override each
 * other. (Exit codes and messages: tests/http/test_config.py.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/model.h"
#include "server/config.h"
#include "server/config_table.h"

static int load(struct qn_config *c, const char *a, const char *b, const char *d, const char *e) {
    char *argv[] = {"serve", (char *)a, (char *)b, (char *)d, (char *)e, NULL};
    int argc = 1;
    while (argv[argc]) argc++;
    return qn_config_load(c, argc, argv);
}

/* Refusals explain themselves on stderr; failures of this program must still be seen there. */
static int real_stderr = -1;

static void quiet(bool on) {
    if (real_stderr < 0) real_stderr = dup(STDERR_FILENO);
    fflush(stderr);
    int fd = on ? open("/dev/null", O_WRONLY) : dup(real_stderr);
    assert_true(fd >= 0);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

static int load_quietly(struct qn_config *c, const char *arg) {
    quiet(true);
    int rc = load(c, arg, NULL, NULL, NULL);
    quiet(false);
    return rc;
}

static void test_defaults_lie_within_bounds(void **state) {
    (void)state;
    struct qn_config c;
    assert_int_equal(load(&c, NULL, NULL, NULL, NULL), 0);
    assert_int_equal(c.max_connections, 4096);
    assert_int_equal(c.max_body, 1 << 20);
    assert_int_equal(c.header_timeout_ms, 10000);
    assert_int_equal(c.drain_delay_ms, 0);
    assert_int_equal(c.listen_port, 8080);
    assert_string_equal(c.listen_host, "127.0.0.1");
    assert_true(c.prefix_cache && c.access_log && c.kv_type == QN_STATE_F16 && !c.log_json &&
                !c.metrics_auth && !c.mmap && !c.f16_as_bf16);
    for (size_t i = 0; i < qn_n_options;
         i++) { /* one at a time: the text of each default is itself accepted */
        char flag[80];
        if (!qn_options[i].initial) continue;
        snprintf(flag, sizeof flag, "--%s=%s", qn_options[i].name, qn_options[i].initial);
        assert_int_equal(load(&c, flag, NULL, NULL, NULL), 0);
    }
}

static void test_numbers_stop_at_their_bounds(void **state) {
    (void)state;
    struct qn_config c;
    for (size_t i = 0; i < qn_n_options; i++) {
        const struct qn_option *o = &qn_options[i];
        if (o->type > QN_OPT_MS || strcmp(o->name, "prefill-chunk") == 0 ||
            strcmp(o->name, "step-tokens") == 0)
            continue; /* those two bound each other: below */
        const char *unit = o->type == QN_OPT_MS ? "ms" : "";
        struct {
            uint64_t value;
            int rc;
        } cases[] = {{o->min, 0}, {o->max, 0}, {o->max + 1, 2}, {o->min ? o->min - 1 : o->max + 2, 2}};
        for (size_t k = 0; k < 4; k++) {
            char flag[96];
            snprintf(flag, sizeof flag, "--%s=%llu%s", o->name, (unsigned long long)cases[k].value, unit);
            if (load_quietly(&c, flag) != cases[k].rc) fail_msg("%s: not %d", flag, cases[k].rc);
        }
    }
    assert_int_equal(load_quietly(&c, "--step-tokens=64"), 2);
    assert_int_equal(load(&c, "--step-tokens=64", "--prefill-chunk=64", NULL, NULL), 0);
}

static void test_wrong_words_are_refused(void **state) {
    (void)state;
    struct qn_config c;
    static const char *const wrong[] = {"--prefix-cache=yes!",
                                        "--kv-type=F16",
                                        "--log-level=",
                                        "--max-body=1QiB",
                                        "--max-body=0x10",
                                        "--max-body=-5",
                                        "--max-body= 5",
                                        "--idle-timeout=1d",
                                        "--listen=localhost",
                                        "--listen=a:b",
                                        "--listen=[::1:80",
                                        "--listen=a:65536",
                                        "--listen=a:-1",
                                        "--max-queue=184467440737095516160",
                                        "--api-key-file=",
                                        "--model=",
                                        "--max-queue=1 2",
                                        "--config=/nonexistent",
                                        "--=1",
                                        "-x",
                                        "stray",
                                        "--help=1",
                                        "--max-queue"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        if (load_quietly(&c, wrong[i]) != 2) fail_msg("%s was taken", wrong[i]);
}

static void test_listen_forms(void **state) {
    (void)state;
    struct qn_config c;
    assert_int_equal(load(&c, "--listen", "[::1]:0", NULL, NULL), 0);
    assert_string_equal(c.listen_host, "::1");
    assert_int_equal(c.listen_port, 0);
    assert_int_equal(load(&c, "--listen", "host.example:65535", NULL, NULL), 0);
    assert_string_equal(c.listen_host, "host.example");
    assert_int_equal(c.listen_port, 65535);
}

static void test_sources(void **state) {
    (void)state;
    struct qn_config c;
    char path[] = "/tmp/quern-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    static const char text[] =
        "max-queue = 11 \n# no\nmodel=file-a\nmodel = file-b\nmax-running=12\nmax-outputs = 3";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    setenv("QUERN_MAX_RUNNING", "22", 1);
    setenv("QUERN_MAX_OUTPUTS", "4", 1);
    assert_int_equal(load(&c, "--config", path, "--max-outputs", "5"), 0);
    assert_int_equal(c.max_queue, 11);
    assert_int_equal(c.max_running, 22);
    assert_int_equal(c.max_outputs, 5);
    assert_int_equal(c.n_models, 2);
    assert_string_equal(c.models[1], "file-b");
    assert_int_equal(load(&c, "--config", path, "--model", "flag"), 0);
    assert_int_equal(c.n_models, 1);
    assert_string_equal(c.models[0], "flag");
    unsetenv("QUERN_MAX_RUNNING");
    unsetenv("QUERN_MAX_OUTPUTS");
    unlink(path);
}

static void test_actions(void **state) {
    (void)state;
    struct qn_config c;
    assert_int_equal(load(&c, "-h", NULL, NULL, NULL), 1);
    assert_true(c.want_help);
    assert_int_equal(load(&c, "--version", NULL, NULL, NULL), 1);
    assert_true(c.want_version);
    assert_int_equal(load(&c, "--print-config", "--check-config", NULL, NULL), 0);
    assert_true(c.want_print && c.want_check && !c.want_help);
}

static void test_models_may_have_names(void **state) {
    (void)state;
    struct qn_config c;
    char dir[] = "/tmp/quern_config_XXXXXX", path[64], arg[160], long_name[80];
    assert_int_equal(load(&c, "--model", "a=x.gguf", "--model=b.2_-=y=z", "--model=plain.gguf"), 0);
    assert_int_equal(c.n_models, 3);
    assert_string_equal(c.model_names[0], "a");
    assert_string_equal(c.models[0], "x.gguf");
    assert_string_equal(c.model_names[1], "b.2_-");
    assert_string_equal(c.models[1], "y=z");
    assert_string_equal(c.model_names[2], "");
    assert_string_equal(c.models[2], "plain.gguf");
    static const char *const paths[] = {"./a=x.gguf", "synthetic:hidden=32,layers=2", "=x", "a b=x",
                                        "\xc3\xa9=x"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        assert_int_equal(load(&c, "--model", paths[i], NULL, NULL), 0);
        assert_string_equal(c.model_names[0], "");
        assert_string_equal(c.models[0], paths[i]);
    }
    memset(long_name, 'n', 65);
    snprintf(long_name + 64, 8, "=x");
    assert_int_equal(load(&c, "--model", long_name, NULL, NULL), 0);
    assert_int_equal(strlen(c.model_names[0]), 64);
    snprintf(long_name + 64, 8, "n=x");
    assert_int_equal(load(&c, "--model", long_name, NULL, NULL), 0);
    assert_string_equal(c.model_names[0], "");
    assert_int_equal(load_quietly(&c, "--model=a="), 2);
    quiet(true);
    assert_int_equal(load(&c, "--model=a=x", "--model=a=y", NULL, NULL), 2);
    quiet(false);
    /* What exists is a path, whatever it looks like. */
    int home = open(".", O_RDONLY | O_DIRECTORY);
    assert_true(home >= 0);
    assert_non_null(mkdtemp(dir));
    assert_int_equal(chdir(dir), 0);
    snprintf(path, sizeof path, "%s/a=x.gguf", dir);
    snprintf(arg, sizeof arg, "--model=a=x.gguf");
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(load(&c, arg, NULL, NULL, NULL), 0);
    assert_string_equal(c.model_names[0], "");
    assert_string_equal(c.models[0], "a=x.gguf");
    unlink(path);
    assert_int_equal(load(&c, arg, NULL, NULL, NULL), 0);
    assert_string_equal(c.model_names[0], "a");
    assert_int_equal(fchdir(home), 0);
    close(home);
    rmdir(dir);
}

static void test_a_chat_template_is_known(void **state) {
    (void)state;
    struct qn_config c;
    assert_int_equal(load(&c, NULL, NULL, NULL, NULL), 0);
    assert_null(c.chat_template);
    assert_int_equal(load(&c, "--chat-template=chatml", NULL, NULL, NULL), 0);
    assert_string_equal(c.chat_template, "chatml");
    assert_int_equal(load_quietly(&c, "--chat-template=nothing"), 2);
    assert_int_equal(load_quietly(&c, "--chat-template="), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults_lie_within_bounds),
                                       cmocka_unit_test(test_numbers_stop_at_their_bounds),
                                       cmocka_unit_test(test_wrong_words_are_refused),
                                       cmocka_unit_test(test_listen_forms),
                                       cmocka_unit_test(test_sources),
                                       cmocka_unit_test(test_actions),
                                       cmocka_unit_test(test_models_may_have_names),
                                       cmocka_unit_test(test_a_chat_template_is_known)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
