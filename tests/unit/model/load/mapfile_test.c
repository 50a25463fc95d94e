/* Mapped files whose bytes go away: zeros and a mark in place of a crash, for that file alone; a fault
 * anywhere else ends the process as it did before, or goes to the handler that was there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "model/load/mapfile.h"

#define PAGES 8

static size_t page;

struct file {
    char path[64];
    struct qn_mapfile map;
};

static void make(struct file *f) {
    uint8_t *bytes = malloc(PAGES * page);
    snprintf(f->path, sizeof f->path, "/tmp/quern-mapfile-XXXXXX");
    int fd = mkstemp(f->path);
    assert_true(fd >= 0 && bytes);
    memset(bytes, 0x5a, PAGES * page);
    assert_int_equal(write(fd, bytes, PAGES * page), (ssize_t)(PAGES * page));
    close(fd);
    free(bytes);
    assert_int_equal(qn_mapfile_open(&f->map, f->path, NULL), QN_OK);
}

static void drop(struct file *f) {
    qn_mapfile_close(&f->map);
    unlink(f->path);
}

static bool all(const uint8_t *p, size_t n, uint8_t v) {
    for (size_t i = 0; i < n; i++)
        if (((const volatile uint8_t *)p)[i] != v) return false;
    return true;
}

static void a_cut_file_reads_as_zeros_and_says_so(void **state) {
    (void)state;
    struct file cut, whole;
    struct qn_err err = {0};
    make(&cut);
    make(&whole);
    assert_int_equal(truncate(cut.path, (off_t)(2 * page)), 0);
    assert_true(all(cut.map.data, 2 * page, 0x5a));
    assert_false(qn_mapfile_lost(&cut.map));
    assert_true(all(cut.map.data + 3 * page, page, 0));
    assert_true(qn_mapfile_lost(&cut.map));
    assert_true(all(cut.map.data + 4 * page, (PAGES - 4) * page, 0));
    assert_true(all(cut.map.data, 2 * page, 0x5a));
    assert_true(all(whole.map.data, PAGES * page, 0x5a));
    assert_false(qn_mapfile_lost(&whole.map));
    assert_int_equal(qn_mapfile_check(&whole.map, "the file", QN_OK, &err), QN_OK);
    /* What a parser made of the zeros is not the reason. */
    qn_err_set(&err, QN_ERR_FORMAT, "nonsense");
    assert_int_equal(qn_mapfile_check(&cut.map, "the file", QN_ERR_FORMAT, &err), QN_ERR_IO);
    assert_non_null(strstr(err.msg, "the file was cut"));
    drop(&cut);
    make(&cut); /* the mark does not outlive the file */
    assert_false(qn_mapfile_lost(&cut.map));
    drop(&cut);
    drop(&whole);
}

static void a_file_that_changed_is_noticed(void **state) {
    (void)state;
    struct file f;
    struct qn_err err = {0};
    make(&f);
    assert_int_equal(qn_mapfile_check(&f.map, "it", QN_ERR_FORMAT, &err), QN_ERR_FORMAT);
    assert_int_equal(truncate(f.path, (off_t)((PAGES + 1) * page)), 0);
    assert_int_equal(qn_mapfile_check(&f.map, "it", QN_OK, &err), QN_ERR_IO);
    assert_non_null(strstr(err.msg, "it changed"));
    drop(&f);
    make(&f);
    struct timespec past[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    assert_int_equal(utimensat(AT_FDCWD, f.path, past, 0), 0);
    assert_int_equal(qn_mapfile_check(&f.map, "it", QN_OK, NULL), QN_ERR_IO);
    drop(&f);
}

static size_t resident(const struct qn_mapfile *m) {
    char line[256], range[64];
    size_t kib = 0;
    bool ours = false;
    FILE *f = fopen("/proc/self/smaps", "re");
    assert_non_null(f);
    snprintf(range, sizeof range, "%lx-", (unsigned long)(uintptr_t)m->data);
    while (fgets(line, sizeof line, f)) {
        if (line[0] != 'V' && strchr(line, '-')) ours = strncmp(line, range, strlen(range)) == 0;
        if (ours && strncmp(line, "Rss:", 4) == 0) kib = strtoull(line + 4, NULL, 10);
    }
    fclose(f);
    return kib * 1024;
}

static void released_pages_leave_and_come_back(void **state) {
    (void)state;
    struct file f;
    uint8_t own[64];
    make(&f);
    assert_true(all(f.map.data, PAGES * page, 0x5a));
    assert_true(resident(&f.map) >= PAGES * page);
    qn_mapfile_release(f.map.data + 1, (PAGES - 1) * page);
    assert_int_equal(resident(&f.map), 0);
    assert_true(all(f.map.data, PAGES * page, 0x5a));
    qn_mapfile_release(f.map.data + 3 * page, SIZE_MAX); /* not beyond the end */
    assert_true(all(f.map.data, PAGES * page, 0x5a));
    memset(own, 7, sizeof own);
    qn_mapfile_release(own, sizeof own);
    assert_true(all(own, sizeof own, 7));
    drop(&f);
}

static void foreign(int sig) {
    (void)sig;
    _exit(42);
}

/* In a child: a fault in a mapping that is not ours. */
static int status_of_a_foreign_fault(bool with_handler) {
    pid_t pid = fork();
    if (pid == 0) {
        struct file f;
        if (with_handler)
            signal(SIGBUS, foreign);
        else
            signal(SIGBUS, SIG_DFL);
        make(&f);
        int fd = open(f.path, O_RDWR | O_CLOEXEC);
        volatile uint8_t *p = mmap(NULL, 2 * page, PROT_READ, MAP_PRIVATE, fd, 0);
        if (ftruncate(fd, 0) != 0) _exit(1);
        unlink(f.path);
        _exit(p[page] == 0 ? 2 : 3);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static void other_faults_are_not_ours(void **state) {
    (void)state;
    int status = status_of_a_foreign_fault(false);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    status = status_of_a_foreign_fault(true);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
}

static void a_sent_signal_ends_the_process(void **state) {
    (void)state;
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        struct file f;
        signal(SIGBUS, SIG_DFL);
        make(&f);
        unlink(f.path);
        kill(getpid(), SIGBUS);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

int main(void) {
    page = (size_t)sysconf(_SC_PAGESIZE);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_faults_are_not_ours), /* before this process has a handler of its own */
        cmocka_unit_test(a_sent_signal_ends_the_process),
        cmocka_unit_test(a_cut_file_reads_as_zeros_and_says_so),
        cmocka_unit_test(a_file_that_changed_is_noticed),
        cmocka_unit_test(released_pages_leave_and_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
