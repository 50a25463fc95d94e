/* --mmap: what comes out of the file of packed matrices is, byte for byte, what packing gives; whatever is
 * wrong with that file, or in the way of writing it, the checkpoint loads all the same and is the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/batch.h"
#include "model/load/checkpoint.h"
#include "model/load/panels.h"

#define LLAMA "tests/golden/models/llama/f32.gguf"

/* ---- a copy of a fixture in a directory of its own ---- */

struct place {
    char dir[64], model[192], panels[256];
};

static char *bytes_of(const char *path, size_t *n) {
    FILE *f = fopen(path, "re");
    char *p = malloc((size_t)4 << 20);
    assert_true(f && p);
    *n = fread(p, 1, (size_t)4 << 20, f);
    fclose(f);
    return p;
}

static void write_bytes(const char *path, const char *p, size_t n) {
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

static void copy(const char *from, const char *to) {
    size_t n;
    char *p = bytes_of(from, &n);
    write_bytes(to, p, n);
    free(p);
}

static void in_dir(const char *dir, void (*fn)(const char *path, void *ctx), void *ctx) {
    DIR *d = opendir(dir);
    struct dirent *e;
    assert_non_null(d);
    while ((e = readdir(d))) {
        char path[640];
        snprintf(path, sizeof path, "%.300s/%.300s", dir, e->d_name);
        if (e->d_name[0] != '.') fn(path, ctx);
    }
    closedir(d);
}

static void copy_into(const char *path, void *ctx) {
    char to[512];
    snprintf(to, sizeof to, "%.200s/%.200s", (const char *)ctx, strrchr(path, '/') + 1);
    copy(path, to);
}

static void make(struct place *p, const char *fixture) {
    struct stat st;
    snprintf(p->dir, sizeof p->dir, "/tmp/quern-panels-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    assert_int_equal(stat(fixture, &st), 0);
    if (S_ISDIR(st.st_mode)) {
        snprintf(p->model, sizeof p->model, "%s/d", p->dir);
        snprintf(p->panels, sizeof p->panels, "%s/model.quern-panels", p->model);
        assert_int_equal(mkdir(p->model, 0755), 0);
        in_dir(fixture, copy_into, p->model);
    } else {
        snprintf(p->model, sizeof p->model, "%s/m.gguf", p->dir);
        snprintf(p->panels, sizeof p->panels, "%s.quern-panels", p->model);
        copy(fixture, p->model);
    }
}

static void remove_one(const char *path, void *ctx) {
    struct stat st;
    (void)ctx;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) in_dir(path, remove_one, NULL);
    assert_int_equal(remove(path), 0);
}

static void drop(struct place *p) {
    in_dir(p->dir, remove_one, NULL);
    assert_int_equal(rmdir(p->dir), 0);
}

static bool part_is_there(const struct place *p) {
    char part[300];
    snprintf(part, sizeof part, "%s.part", p->panels);
    return access(part, F_OK) == 0;
}

static uint64_t inode(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

/* ---- checkpoints ---- */

static struct qn_checkpoint *load(const char *path, bool mmap) {
    struct qn_checkpoint *c = NULL;
    struct qn_err err = {0};
    struct qn_load_options opt = {.mmap = mmap};
    if (qn_checkpoint_load(path, &opt, &c, &err) != QN_OK) fail_msg("%s: %s", path, err.msg);
    return c;
}

static void same_matrix(const struct qn_matrix *a, const struct qn_matrix *b, size_t *n) {
    assert_int_equal(a->data != NULL, b->data != NULL);
    if (!a->data) return;
    assert_true(a->type == b->type && a->rows == b->rows && a->cols == b->cols && a->bytes == b->bytes);
    assert_int_equal((uintptr_t)b->data % QN_ALIGN, 0);
    assert_memory_equal(a->data, b->data, a->bytes);
    ++*n;
}

static void same_ffn(const struct qn_ffn_matrices *a, const struct qn_ffn_matrices *b, size_t *n) {
    same_matrix(&a->gate, &b->gate, n);
    same_matrix(&a->up, &b->up, n);
    same_matrix(&a->down, &b->down, n);
}

static void same(const struct qn_checkpoint *a, const struct qn_checkpoint *b) {
    size_t n = 0;
    const struct qn_spec *s = &a->spec;
    same_matrix(&a->embed, &b->embed, &n);
    same_matrix(&a->output, &b->output, &n);
    for (size_t i = 0; i < (size_t)s->n_attn * s->attn_blocks; i++) {
        same_matrix(&a->attn[i].q, &b->attn[i].q, &n);
        same_matrix(&a->attn[i].k, &b->attn[i].k, &n);
        same_matrix(&a->attn[i].v, &b->attn[i].v, &n);
        same_matrix(&a->attn[i].o, &b->attn[i].o, &n);
        assert_memory_equal(a->attn[i].norm.g, b->attn[i].norm.g, s->d_model * sizeof(float));
    }
    for (size_t i = 0; i < (size_t)s->n_ffn * s->ffn_blocks; i++) {
        same_ffn(&a->ffn[i].dense, &b->ffn[i].dense, &n);
        same_matrix(&a->ffn[i].router, &b->ffn[i].router, &n);
        for (uint32_t e = 0; e < a->ffn[i].n_experts; e++)
            same_ffn(&a->ffn[i].experts[e], &b->ffn[i].experts[e], &n);
    }
    assert_true(n > 8);
    assert_int_equal(a->weights_bytes, b->weights_bytes);
    assert_int_equal(a->params, b->params);
}

/* Loads with --mmap, and holds it against `plain`. mapped: must it come out of a mapping? */
static void check(const struct place *p, const struct qn_checkpoint *plain, bool mapped) {
    struct qn_checkpoint *c = load(p->model, true);
    if (mapped && !c->panels) fail_msg("not mapped: %s", c->note);
    assert_int_equal(c->panels != NULL, mapped);
    assert_int_equal(c->note[0] == 0, mapped);
    if (mapped) assert_true(qn_panels_whole(c->panels) && !qn_checkpoint_lost(c));
    same(plain, c);
    qn_checkpoint_free(c);
    assert_false(part_is_there(p));
}

static void every_format_comes_back_the_same(void **state) {
    (void)state;
    static const char *const fixtures[] = {
        LLAMA,
        "tests/golden/models/llama_q8_0/quantised.gguf",
        "tests/golden/models/llama_mixed/quantised.gguf",
        "tests/golden/models/llama/sharded",
        "tests/golden/models/gpt2/f16.gguf",
        "tests/golden/models/gpt2/hub",
        "tests/golden/models/mixtral/split.gguf",
        "tests/golden/quern/all",
        "tests/golden/quern/forms",
    };
    size_t done = 0;
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        struct place p;
        if (access(fixtures[i], F_OK) != 0) fail_msg("%s is not there", fixtures[i]);
        make(&p, fixtures[i]);
        struct qn_checkpoint *plain = load(p.model, false);
        assert_int_equal(inode(p.panels), 0);
        check(&p, plain, true);
        uint64_t first = inode(p.panels);
        assert_int_not_equal(first, 0);
        check(&p, plain, true);
        assert_int_equal(inode(p.panels), first); /* used, not written again */
        qn_checkpoint_free(plain);
        drop(&p);
        done++;
    }
    assert_int_equal(done, sizeof fixtures / sizeof *fixtures);
}

/* ---- files that are not to be believed ---- */

static void any_flipped_bit_is_found(void **state) {
    (void)state;
    struct place p;
    size_t n, tried = 0;
    make(&p, LLAMA);
    struct qn_checkpoint *plain = load(p.model, false);
    check(&p, plain, true);
    char *good = bytes_of(p.panels, &n);
    for (size_t at = 0; at < n; at += at < 2048 ? 3 : 1021) {
        size_t now;
        good[at] = (char)(good[at] ^ 1 << at % 8);
        write_bytes(p.panels, good, n);
        check(&p, plain, true);
        char *after = bytes_of(p.panels, &now);
        bool untouched = memcmp(after, good, n) == 0; /* the number that changes with every writing too */
        good[at] = (char)(good[at] ^ 1 << at % 8);
        assert_int_equal(now, n);
        /* Written anew, unless the bit is padding. */
        if (untouched) assert_true(good[at] == 0);
        tried += !untouched;
        free(after);
    }
    assert_true(tried > 300);
    free(good);
    qn_checkpoint_free(plain);
    drop(&p);
}

static void any_other_length_is_found(void **state) {
    (void)state;
    struct place p;
    size_t n;
    make(&p, LLAMA);
    struct qn_checkpoint *plain = load(p.model, false);
    check(&p, plain, true);
    char *good = bytes_of(p.panels, &n);
    const size_t lengths[] = {0, 1, 8, 79, 80, 81, 4095, 4096, n / 2, n - 4096, n - 4095, n - 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        write_bytes(p.panels, good, lengths[i]);
        check(&p, plain, true);
        assert_int_equal(truncate(p.panels, (off_t)(n + lengths[i] + 1)), 0);
        check(&p, plain, true);
    }
    free(good);
    qn_checkpoint_free(plain);
    drop(&p);
}

/* Maps the file as it is: the reason why it can't be used. */
static void expect_refused(const struct place *p, const struct qn_panels_source *src, const char *why) {
    struct qn_panels *panels = NULL;
    struct qn_err err = {0};
    assert_int_equal(qn_panels_new(p->panels, src, &panels, NULL), QN_OK);
    assert_int_equal(qn_panels_map(panels, NULL, &err), QN_ERR_FORMAT);
    if (!strstr(err.msg, why)) fail_msg("'%s' does not say '%s'", err.msg, why);
    assert_false(qn_panels_mapped(panels) || qn_panels_lost(panels));
    qn_panels_free(panels);
}

static void foreign_files_are_refused_by_name(void **state) {
    (void)state;
    struct place p;
    struct qn_panels_source src = {0};
    struct qn_mapfile m;
    size_t n;
    make(&p, LLAMA);
    struct qn_checkpoint *plain = load(p.model, false);
    check(&p, plain, true);
    assert_int_equal(qn_mapfile_open(&m, p.model, NULL), QN_OK);
    assert_int_equal(qn_panels_source_add(&src, &m, NULL), QN_OK);
    qn_mapfile_close(&m);
    char *good = bytes_of(p.panels, &n);
    struct qn_panels_source other = src;
    other.bytes++;
    expect_refused(&p, &other, "the checkpoint changed");
    other = src;
    other.stamp++;
    expect_refused(&p, &other, "the checkpoint changed");
    for (size_t i = 0; i < 4; i++) { /* the order of bytes in `order`, after the magic */
        char t = good[8 + i];
        good[8 + i] = good[15 - i];
        good[15 - i] = t;
    }
    write_bytes(p.panels, good, n);
    expect_refused(&p, &src, "byte order");
    good[0] = 'X';
    write_bytes(p.panels, good, n);
    expect_refused(&p, &src, "magic");
    check(&p, plain, true);
    assert_int_equal(chmod(p.panels, 0666), 0);
    expect_refused(&p, &src, "anybody may write it");
    check(&p, plain, true);
    struct stat st;
    assert_int_equal(stat(p.panels, &st), 0);
    assert_int_equal(st.st_mode & S_IWOTH, 0);
    free(good);
    qn_checkpoint_free(plain);
    drop(&p);
}

/* Of the same size and time, but with other bytes in a tensor: only the tensor tells. */
static void another_checkpoint_in_its_place_is_found(void **state) {
    (void)state;
    struct place p;
    struct stat st;
    size_t n;
    make(&p, LLAMA);
    struct qn_checkpoint *before = load(p.model, true);
    assert_non_null(before->panels);
    assert_int_equal(stat(p.model, &st), 0);
    char *bytes = bytes_of(p.model, &n);
    bytes[n - 5] = (char)(bytes[n - 5] ^ 1);
    char aside[256];
    snprintf(aside, sizeof aside, "%s/aside", p.dir);
    write_bytes(aside, bytes, n);
    assert_int_equal(rename(aside, p.model), 0);
    struct timespec times[2] = {st.st_atim, st.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, p.model, times, 0), 0);
    struct qn_checkpoint *plain = load(p.model, false);
    check(&p, plain, true);
    assert_false(qn_checkpoint_lost(before)); /* its file was replaced, not touched */
    times[1].tv_sec++;
    assert_int_equal(utimensat(AT_FDCWD, p.model, times, 0), 0);
    uint64_t old = inode(p.panels);
    check(&p, plain, true);
    assert_int_not_equal(inode(p.panels), old);
    free(bytes);
    qn_checkpoint_free(plain);
    qn_checkpoint_free(before);
    drop(&p);
}

/* ---- what stands in the way of writing ---- */

static void what_cannot_be_written_is_noted(void **state) {
    (void)state;
    struct place p;
    char part[300];
    make(&p, LLAMA);
    struct qn_checkpoint *plain = load(p.model, false);
    snprintf(part, sizeof part, "%s.part", p.panels);
    assert_int_equal(mkdir(part, 0755), 0);
    struct qn_checkpoint *c = load(p.model, true);
    assert_null(c->panels);
    assert_non_null(strstr(c->note, "cannot write"));
    same(plain, c);
    qn_checkpoint_free(c);
    assert_int_equal(rmdir(part), 0);
    assert_int_equal(mkdir(p.panels, 0755), 0); /* can't be renamed onto */
    check(&p, plain, false);
    assert_int_equal(rmdir(p.panels), 0);
    check(&p, plain, true);
    qn_checkpoint_free(plain);
    drop(&p);
}

static void a_full_disk_is_noted(void **state) {
    (void)state;
    struct place p;
    struct rlimit old, small;
    make(&p, LLAMA);
    struct qn_checkpoint *plain = load(p.model, false);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    for (rlim_t limit = 0; limit < 60000; limit += 9000) {
        small.rlim_cur = limit;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        check(&p, plain, false);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_int_equal(inode(p.panels), 0);
    }
    check(&p, plain, true);
    qn_checkpoint_free(plain);
    drop(&p);
}

/* In a child: does it serve from the mapping what was packed here? */
static pid_t start(const struct place *p, const struct qn_checkpoint *plain) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    struct qn_checkpoint *c = load(p->model, true);
    bool good = c->panels && memcmp(c->embed.data, plain->embed.data, c->embed.bytes) == 0;
    good = good && !qn_checkpoint_lost(c);
    qn_checkpoint_free(c);
    _exit(good ? 0 : 1);
}

static void processes_that_start_together_agree(void **state) {
    (void)state;
    struct place p;
    make(&p, LLAMA);
    struct qn_checkpoint *plain = load(p.model, false);
    for (int round = 0; round < 20; round++) {
        pid_t children[5];
        for (size_t i = 0; i < 5; i++) children[i] = start(&p, plain);
        for (size_t i = 0; i < 5; i++) {
            int status = 0;
            assert_int_equal(waitpid(children[i], &status, 0), children[i]);
            assert_int_equal(status, 0);
        }
        check(&p, plain, true);
        assert_int_equal(unlink(p.panels), 0);
    }
    qn_checkpoint_free(plain);
    drop(&p);
}

/* ---- while it is in use ---- */

static void take_row(void *ctx, uint32_t span, uint32_t pos, float *v) {
    (void)span, (void)pos, (void)v;
    ++*(int *)ctx;
}

static int step(struct qn_variant *v, struct qn_seq *q, int32_t token, int *rows, struct qn_err *err) {
    struct qn_span span = {.seq = q, .tokens = &token, .n = 1, .want = QN_WANT_LAST};
    struct qn_step st = {.variant = v, .spans = &span, .n_spans = 1, .on_row = take_row, .ctx = rows};
    return qn_step_run(&st, err);
}

/* how: -1 the file is overwritten in place with another one of the same size; else it is cut there. */
static void lose(long how) {
    struct place p;
    struct qn_model *m = NULL;
    struct qn_err err = {0};
    int rows = 0;
    size_t n;
    make(&p, LLAMA);
    struct qn_open_options opt = {.state_bytes = (size_t)4 << 20, .max_step_tokens = 8, .mmap = true};
    assert_int_equal(qn_model_open(p.model, &opt, &m, &err), QN_OK);
    assert_true(qn_model_info(m)->mapped && !qn_model_lost(m));
    struct qn_variant *v = NULL;
    struct qn_structure_request native = {0};
    struct qn_seq *q = NULL;
    assert_int_equal(qn_variant_resolve(m, &native, &v, &err), QN_OK);
    assert_int_equal(qn_variant_prepare(v, NULL, &err), QN_OK);
    assert_int_equal(qn_seq_new(v, 0, false, &q, &err), QN_OK);
    assert_int_equal(qn_seq_reserve(q, 8), QN_OK);
    assert_int_equal(step(v, q, 3, &rows, &err), QN_OK);
    assert_int_equal(rows, 1);
    char *good = bytes_of(p.panels, &n);
    if (how < 0) {
        good[n - 4096] = (char)(good[n - 4096] ^ 1);
        write_bytes(p.panels, good, n);
    } else {
        assert_int_equal(truncate(p.panels, how), 0);
    }
    assert_int_equal(step(v, q, 4, &rows, &err), QN_ERR_LOST);
    assert_non_null(strstr(err.msg, "was cut or overwritten"));
    assert_int_equal(rows, 1);
    if (how >= 0) { /* what comes later does not heal it */
        write_bytes(p.panels, good, n);
        assert_int_equal(step(v, q, 4, &rows, NULL), QN_ERR_LOST);
    }
    assert_true(qn_model_lost(m));
    free(good);
    qn_seq_free(&q);
    qn_variant_unref(v);
    qn_model_close(&m);
    drop(&p);
}

static void a_lost_file_stops_its_model(void **state) {
    (void)state;
    lose(0);
    lose(100);
    lose(8192);
    lose(50000);
    lose(-1);
}

static void a_file_that_is_renamed_or_removed_stays(void **state) {
    (void)state;
    struct place p;
    make(&p, LLAMA);
    struct qn_checkpoint *plain = load(p.model, false), *c = load(p.model, true);
    assert_int_equal(unlink(p.panels), 0);
    assert_int_equal(truncate(p.model, 0), 0);
    assert_false(qn_checkpoint_lost(c));
    same(plain, c);
    qn_checkpoint_free(plain);
    qn_checkpoint_free(c);
    drop(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_comes_back_the_same),
        cmocka_unit_test(any_flipped_bit_is_found),
        cmocka_unit_test(any_other_length_is_found),
        cmocka_unit_test(foreign_files_are_refused_by_name),
        cmocka_unit_test(another_checkpoint_in_its_place_is_found),
        cmocka_unit_test(what_cannot_be_written_is_noted),
        cmocka_unit_test(a_full_disk_is_noted),
        cmocka_unit_test(processes_that_start_together_agree),
        cmocka_unit_test(a_lost_file_stops_its_model),
        cmocka_unit_test(a_file_that_is_renamed_or_removed_stays),
    };
    qn_kernels_ensure();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
