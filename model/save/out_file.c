/* Files that appear whole: see out_file.h. */
#include "model/save/out_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITE_MAX ((size_t)1 << 30) /* of one call */
#define TRIES     100               /* names, when others write to the same place at the same time */

static int io_error(const struct qn_out_file *f, const char *what, struct qn_err *err) {
    return qn_err_param(err, QN_ERR_IO, "out", "cannot %s '%s': %s", what, f->path, strerror(errno));
}

static bool same_file(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Whether `st` is the input, or one of the files of an input directory (links followed). */
static bool is_input(const struct stat *st, const char *input) {
    struct stat in;
    if (!input || stat(input, &in) != 0) return false;
    if (!S_ISDIR(in.st_mode)) return same_file(st, &in);
    DIR *dir = opendir(input);
    bool found = false;
    for (struct dirent *e; dir && !found && (e = readdir(dir));)
        found = fstatat(dirfd(dir), e->d_name, &in, 0) == 0 && same_file(st, &in);
    if (dir) closedir(dir);
    return found;
}

/* "DIR/.NAME.PID-N.tmp" */
static int open_temp(struct qn_out_file *f, struct qn_err *err) {
    const char *slash = strrchr(f->path, '/'), *name = slash ? slash + 1 : f->path;
    size_t room = strlen(f->path) + 48;
    if (!(f->temp = malloc(room))) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a path");
    for (int i = 0; i < TRIES; i++) {
        snprintf(f->temp, room, "%.*s.%s.%ld-%d.tmp", (int)(name - f->path), f->path, name, (long)getpid(),
                 i);
        f->fd = open(f->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (f->fd >= 0) return QN_OK;
        if (errno != EEXIST) break;
    }
    int rc = io_error(f, "create", err);
    free(f->temp);
    f->temp = NULL;
    return rc;
}

int qn_out_open(struct qn_out_file *f, const char *path, const char *input, bool replace,
                struct qn_err *err) {
    struct stat st;
    *f = (struct qn_out_file){.fd = -1, .path = path, .replace = replace};
    size_t n = strlen(path);
    if (n == 0 || path[n - 1] == '/' || n >= PATH_MAX)
        return qn_err_param(err, QN_ERR_INVALID, "out", "'%.200s' is not the name of a file", path);
    if (stat(path, &st) != 0) {
        if (errno != ENOENT) return io_error(f, "look at", err);
        return open_temp(f, err);
    }
    if (S_ISDIR(st.st_mode)) return qn_err_param(err, QN_ERR_INVALID, "out", "'%s' is a directory", path);
    if (is_input(&st, input))
        return qn_err_param(err, QN_ERR_INVALID, "out", "'%s' is the input itself", path);
    if (!S_ISREG(st.st_mode)) {
        f->fd = open(path, O_WRONLY | O_CLOEXEC);
        return f->fd >= 0 ? QN_OK : io_error(f, "open", err);
    }
    if (!replace) return qn_err_param(err, QN_ERR_INVALID, "out", "'%s' exists already", path);
    return open_temp(f, err);
}

int qn_out_reserve(struct qn_out_file *f, size_t bytes, struct qn_err *err) {
    if (!f->temp || bytes > (size_t)INT64_MAX || fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) == 0)
        return QN_OK;
    /* File systems that can't do this say so in several ways; only a full one is of interest. */
    return errno == ENOSPC || errno == EFBIG || errno == EDQUOT ? io_error(f, "write", err) : QN_OK;
}

int qn_out_write(struct qn_out_file *f, const void *bytes, size_t n, struct qn_err *err) {
    const uint8_t *p = bytes;
    while (n > 0) {
        ssize_t k = write(f->fd, p, n < WRITE_MAX ? n : WRITE_MAX);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return io_error(f, "write", err);
        p += k;
        n -= (size_t)k;
        f->written += (size_t)k;
    }
    return QN_OK;
}

/* Directories are made durable as far as the file system lets us. */
static void sync_directory(const char *path) {
    const char *slash = strrchr(path, '/');
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path + 1) : 1, slash ? path : ".");
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fsync(fd);
    close(fd);
}

/* A file that came to be meanwhile is not replaced unless it may be. */
static int rename_into_place(struct qn_out_file *f, struct qn_err *err) {
    struct stat st;
    int rc = renameat2(AT_FDCWD, f->temp, AT_FDCWD, f->path, f->replace ? 0 : RENAME_NOREPLACE);
    if (rc != 0 && (errno == EINVAL || errno == ENOSYS)) { /* no such flag on this file system */
        if (!f->replace && lstat(f->path, &st) == 0)
            errno = EEXIST;
        else
            rc = rename(f->temp, f->path);
    }
    return rc == 0 ? QN_OK : io_error(f, "create", err);
}

int qn_out_finish(struct qn_out_file *f, struct qn_err *err) {
    int rc = QN_OK;
    if (f->temp && fsync(f->fd) != 0) rc = io_error(f, "write", err);
    int closed = close(f->fd);
    f->fd = -1;
    if (rc == QN_OK && closed != 0) rc = io_error(f, "write", err);
    if (rc == QN_OK && f->temp) rc = rename_into_place(f, err);
    if (rc == QN_OK && f->temp) {
        sync_directory(f->path);
        free(f->temp);
        f->temp = NULL;
    }
    qn_out_discard(f);
    return rc;
}

void qn_out_discard(struct qn_out_file *f) {
    if (f->fd >= 0) close(f->fd);
    f->fd = -1;
    if (f->temp) unlink(f->temp);
    free(f->temp);
    f->temp = NULL;
}
