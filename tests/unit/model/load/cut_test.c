/* Files that are cut, or change, while they are loaded: an error that says so, in every phase and format;
 * never a crash, and never half a model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <stdio.h>
#include <unistd.h>

#include "model/load/checkpoint.h"
#include "tests/support/tiny_model.h"

static char dir[64];

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/quern-cut-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

/* Does something to a file when a phase has been reported so many times. */
struct meddler {
    const char *file, *phase;
    long length; /* of the file then; -1: one byte more than it has */
    unsigned calls;
    bool done;
};

static void meddle(void *ctx, const char *phase, double part) {
    struct meddler *m = ctx;
    (void)part;
    if (m->done || strcmp(phase, m->phase) != 0 || m->calls-- > 0) return;
    m->done = true;
    if (m->length >= 0) {
        assert_int_equal(truncate(m->file, m->length), 0);
        return;
    }
    FILE *f = fopen(m->file, "ae");
    assert_true(f && fputc('x', f) == 'x');
    fclose(f);
}

static void expect(const char *path, struct meddler m, bool mmap, const char *why) {
    struct qn_checkpoint *c = NULL;
    struct qn_err err = {0};
    struct qn_load_options opt = {.progress = meddle, .progress_ctx = &m, .mmap = mmap};
    assert_int_equal(qn_checkpoint_load(path, &opt, &c, &err), QN_ERR_IO);
    assert_true(m.done);
    assert_null(c);
    if (!strstr(err.msg, why)) fail_msg("'%s' does not say '%s'", err.msg, why);
}

static void gguf(void **state) {
    (void)state;
    static const struct {
        const char *phase;
        unsigned calls;
    } at[] = {{"check", 0}, {"repack", 0}, {"repack", 5}, {"tokenizer", 0}};
    const struct qn_test_tiny t = qn_test_tiny_default("llama");
    char path[128];
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        for (int mmap = 0; mmap < 2; mmap++) {
            struct meddler m = {path, at[i].phase, -1, at[i].calls, false};
            assert_int_equal(qn_test_write_tiny_gguf(path, &t), 0);
            expect(path, m, mmap, "the file changed");
            m.length = 4096;
            assert_int_equal(qn_test_write_tiny_gguf(path, &t), 0);
            /* Late, nothing beyond the cut may be read any more. */
            expect(path, m, mmap, strcmp(at[i].phase, "repack") == 0 ? "the file was cut" : "the file ");
        }
    }
}

static void safetensors(void **state) {
    (void)state;
    const struct qn_test_tiny t = qn_test_tiny_default("llama");
    char path[128], file[160];
    snprintf(path, sizeof path, "%s/hf", dir);
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    assert_int_equal(qn_test_write_tiny_hf(path, &t), 0);
    expect(path, (struct meddler){file, "repack", -1, 2, false}, false, "a file of weights changed");
    assert_int_equal(qn_test_write_tiny_hf(path, &t), 0);
    expect(path, (struct meddler){file, "repack", 4096, 2, false}, false, "a file of weights was cut");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(gguf), cmocka_unit_test(safetensors)};
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
