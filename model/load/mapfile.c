/* mmap of a checkpoint file. */
#include "model/load/mapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int map_fd(struct qn_mapfile *m, int fd, const char *path, struct qn_err *err) {
    struct stat st;
    if (fstat(fd, &st) != 0) return qn_err_set(err, QN_ERR_IO, "cannot stat '%s': %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return qn_err_set(err, QN_ERR_IO, "'%s' is not a regular file", path);
    if (st.st_size <= 0) return qn_err_set(err, QN_ERR_FORMAT, "'%s' is empty", path);
    if ((uint64_t)st.st_size > SIZE_MAX) return qn_err_set(err, QN_ERR_IO, "'%s' is too large to map", path);
    size_t size = (size_t)st.st_size;
    void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) return qn_err_set(err, QN_ERR_IO, "cannot map '%s': %s", path, strerror(errno));
    m->data = p;
    m->size = size;
    return QN_OK;
}

int qn_mapfile_open(struct qn_mapfile *m, const char *path, struct qn_err *err) {
    *m = (struct qn_mapfile){0};
    /* O_NONBLOCK: opening a FIFO must not hang; it is refused by its type right after. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return qn_err_set(err, QN_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    int rc = map_fd(m, fd, path, err);
    close(fd);
    return rc;
}

void qn_mapfile_close(struct qn_mapfile *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (struct qn_mapfile){0};
}
