/* Files that appear whole: not there before they are finished, gone when they are not; what came to be
 * meanwhile is not replaced; links are followed as they are by whoever reads; pipes are written directly. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <sys/stat.h>

#include "model/save/out_file.h"

static char dir[64], path[96];

static void put(const char *to, const char *text) {
    FILE *f = fopen(to, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void holds(const char *text) {
    char got[64] = "";
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(got, 1, sizeof got - 1, f);
    fclose(f);
    got[n] = 0;
    assert_string_equal(got, text);
}

static void appears_when_finished(void **state) {
    (void)state;
    struct qn_out_file f;
    struct stat st;
    mode_t mask = umask(027);
    assert_int_equal(qn_out_open(&f, path, NULL, false, NULL), QN_OK);
    assert_int_equal(qn_out_reserve(&f, 6, NULL), QN_OK);
    assert_int_equal(qn_out_write(&f, "whole", 5, NULL), QN_OK);
    assert_int_equal(f.written, 5);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(qn_out_finish(&f, NULL), QN_OK);
    umask(mask);
    holds("whole"); /* the reserve of 6 is not its length */
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    qn_out_discard(&f);
    holds("whole");
}

static void goes_when_dropped(void **state) {
    (void)state;
    struct qn_out_file f;
    assert_int_equal(qn_out_open(&f, path, NULL, false, NULL), QN_OK);
    assert_int_equal(qn_out_write(&f, "half", 4, NULL), QN_OK);
    qn_out_discard(&f);
    assert_int_not_equal(access(path, F_OK), 0);
    put(path, "old");
    assert_int_equal(qn_out_open(&f, path, NULL, true, NULL), QN_OK);
    assert_int_equal(qn_out_write(&f, "half", 4, NULL), QN_OK);
    holds("old");
    qn_out_discard(&f);
    holds("old");
    assert_int_equal(qn_out_open(&f, path, NULL, true, NULL), QN_OK);
    assert_int_equal(qn_out_finish(&f, NULL), QN_OK);
    holds("");
}

static void what_came_meanwhile_stays(void **state) {
    (void)state;
    struct qn_out_file f, g;
    struct qn_err err = {0};
    assert_int_equal(qn_out_open(&f, path, NULL, false, NULL), QN_OK);
    assert_int_equal(qn_out_open(&g, path, NULL, false, NULL),
                     QN_OK); /* two at once have names of their own */
    assert_int_equal(qn_out_write(&f, "first", 5, NULL), QN_OK);
    assert_int_equal(qn_out_write(&g, "second", 6, NULL), QN_OK);
    assert_int_equal(qn_out_finish(&f, NULL), QN_OK);
    assert_int_equal(qn_out_finish(&g, &err), QN_ERR_IO);
    assert_non_null(strstr(err.msg, "exists"));
    holds("first");
}

static void input_is_never_the_output(void **state) {
    (void)state;
    struct qn_out_file f;
    char other[96];
    put(path, "data");
    snprintf(other, sizeof other, "%s/hard", dir);
    assert_int_equal(link(path, other), 0);
    assert_int_equal(qn_out_open(&f, path, path, true, NULL), QN_ERR_INVALID);
    assert_int_equal(qn_out_open(&f, other, path, true, NULL), QN_ERR_INVALID);
    assert_int_equal(qn_out_open(&f, path, dir, true, NULL), QN_ERR_INVALID);
    holds("data");
    unlink(other);
}

static void full_disks_and_pipes(void **state) {
    (void)state;
    struct qn_out_file f;
    struct qn_err err = {0};
    int ends[2];
    char name[32], got[3] = "";
    assert_int_equal(qn_out_open(&f, "/dev/full", NULL, false, NULL), QN_OK);
    assert_int_equal(qn_out_write(&f, "x", 1, &err), QN_ERR_IO);
    assert_non_null(strstr(err.msg, "No space left"));
    qn_out_discard(&f);
    assert_int_equal(access("/dev/full", F_OK), 0);
    assert_int_equal(pipe(ends), 0);
    snprintf(name, sizeof name, "/dev/fd/%d", ends[1]);
    assert_int_equal(qn_out_open(&f, name, NULL, false, NULL), QN_OK);
    assert_int_equal(qn_out_write(&f, "ab", 2, NULL), QN_OK);
    assert_int_equal(qn_out_finish(&f, NULL), QN_OK);
    assert_int_equal(read(ends[0], got, 2), 2);
    assert_string_equal(got, "ab");
    close(ends[0]);
    close(ends[1]);
}

static int make_dir(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/quern-out-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/file", dir);
    return 0;
}

/* rmdir fails when anything is left. */
static int remove_dir(void **state) {
    (void)state;
    unlink(path);
    return rmdir(dir);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
    const struct CMUnitTest tests[] = {T(appears_when_finished), T(goes_when_dropped),
                                       T(what_came_meanwhile_stays), T(input_is_never_the_output),
                                       T(full_disks_and_pipes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
