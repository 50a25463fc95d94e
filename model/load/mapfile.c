/* mmap of a checkpoint's files, and the handler that outlives their being cut: see mapfile.h. */
#include "model/load/mapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the table of mapped ranges ---- */

/* size is written last and cleared first: a range with a size is whole. The handler reads it twice, since a
 * slot may change hands while it looks. */
static struct range {
    _Atomic uintptr_t begin;
    _Atomic size_t size; /* 0: free, or being filled */
    atomic_bool lost;
} ranges[QN_MAPFILES];
static bool taken[QN_MAPFILES];
static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction before;
static size_t page_bytes;

/* The range that holds `at`; NULL when none does. */
static struct range *range_of(uintptr_t at, uintptr_t *end) {
    for (size_t i = 0; i < QN_MAPFILES; i++) {
        size_t size = atomic_load(&ranges[i].size);
        uintptr_t begin = atomic_load(&ranges[i].begin);
        if (size == 0 || at - begin >= size) continue;
        if (atomic_load(&ranges[i].size) != size || atomic_load(&ranges[i].begin) != begin) continue;
        *end = begin + size;
        return &ranges[i];
    }
    return NULL;
}

/* Only calls that may be made inside a handler: mmap is a plain system call. */
static bool put_zeros(const siginfo_t *info) {
    uintptr_t end = 0, at = (uintptr_t)info->si_addr;
    struct range *r = info->si_code > 0 ? range_of(at, &end) : NULL;
    if (!r) return false;
    int saved = errno;
    at &= ~(uintptr_t)(page_bytes - 1);
    void *p = mmap((void *)at, end - at, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    errno = saved;
    if (p == MAP_FAILED) return false;
    atomic_store(&r->lost, true);
    return true;
}

static void on_bus(int sig, siginfo_t *info, void *context) {
    if (put_zeros(info)) return;
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(sig, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(sig);
    } else { /* a fault comes again as soon as this returns; what somebody sent has to be sent again */
        struct sigaction plain = {.sa_handler = SIG_DFL};
        sigaction(SIGBUS, &plain, NULL);
        if (info->si_code <= 0) raise(sig);
    }
}

/* At every open: whoever put another handler in this one's place gets what is not ours. Under the lock. */
static void install(void) {
    struct sigaction now, ours = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGBUS, NULL, &now) != 0) return;
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_bus) return;
    before = now;
    sigaction(SIGBUS, &ours, NULL);
}

static int take_slot(void *p, size_t size) {
    int slot = 0;
    pthread_mutex_lock(&table);
    install();
    while (slot < QN_MAPFILES && taken[slot]) slot++;
    if (slot < QN_MAPFILES) {
        taken[slot] = true;
        atomic_store(&ranges[slot].lost, false);
        atomic_store(&ranges[slot].begin, (uintptr_t)p);
        atomic_store(&ranges[slot].size, size);
    }
    pthread_mutex_unlock(&table);
    return slot < QN_MAPFILES ? slot : -1;
}

static void give_slot(int slot) {
    pthread_mutex_lock(&table);
    atomic_store(&ranges[slot].size, 0);
    taken[slot] = false;
    pthread_mutex_unlock(&table);
}

/* ---- files ---- */

static int64_t mtime_of(const struct stat *st) {
    return (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
}

static int map_fd(struct qn_mapfile *m, const char *path, struct qn_err *err) {
    struct stat st;
    if (fstat(m->fd, &st) != 0)
        return qn_err_set(err, QN_ERR_IO, "cannot stat '%s': %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return qn_err_set(err, QN_ERR_IO, "'%s' is not a regular file", path);
    if (st.st_size <= 0) return qn_err_set(err, QN_ERR_FORMAT, "'%s' is empty", path);
    if ((uint64_t)st.st_size > SIZE_MAX) return qn_err_set(err, QN_ERR_IO, "'%s' is too large to map", path);
    size_t size = (size_t)st.st_size;
    void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, m->fd, 0);
    if (p == MAP_FAILED) return qn_err_set(err, QN_ERR_IO, "cannot map '%s': %s", path, strerror(errno));
    m->slot = take_slot(p, size);
    if (m->slot < 0) {
        munmap(p, size);
        return qn_err_set(err, QN_ERR_IO, "cannot map '%s': more than %d files are mapped", path,
                          QN_MAPFILES);
    }
    m->data = p;
    m->size = size;
    m->mtime_ns = mtime_of(&st);
    return QN_OK;
}

int qn_mapfile_open(struct qn_mapfile *m, const char *path, struct qn_err *err) {
    /* O_NONBLOCK: opening a FIFO must not hang; it is refused by its type right after. */
    *m = (struct qn_mapfile){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (m->fd < 0) {
        *m = (struct qn_mapfile){0};
        return qn_err_set(err, QN_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    }
    int rc = map_fd(m, path, err);
    if (rc != QN_OK) {
        close(m->fd);
        *m = (struct qn_mapfile){0};
    }
    return rc;
}

void qn_mapfile_close(struct qn_mapfile *m) {
    if (m->data) {
        give_slot(m->slot); /* first, so that the handler can't touch what lies there next */
        munmap((void *)(uintptr_t)m->data, m->size);
        close(m->fd);
    }
    *m = (struct qn_mapfile){0};
}

bool qn_mapfile_lost(const struct qn_mapfile *m) {
    return atomic_load(&ranges[m->slot].lost);
}

int qn_mapfile_check(const struct qn_mapfile *m, const char *what, int rc, struct qn_err *err) {
    struct stat st;
    bool lost = qn_mapfile_lost(m);
    if (rc != QN_OK && !lost) return rc;
    if (err) *err = (struct qn_err){0};
    if (lost) return qn_err_set(err, QN_ERR_IO, "%s was cut while it was read, or its disk failed", what);
    if (fstat(m->fd, &st) != 0 || (uint64_t)st.st_size != m->size || mtime_of(&st) != m->mtime_ns)
        return qn_err_set(err, QN_ERR_IO, "%s changed while it was read", what);
    return QN_OK;
}

void qn_mapfile_release(const void *p, size_t n) {
    uintptr_t at = (uintptr_t)p, end = 0;
    if (n == 0 || !range_of(at, &end)) return;
    if (n < end - at) end = at + n;
    at &= ~(uintptr_t)(page_bytes - 1);
    /* Pages at the edges may be read again for a neighbour: from the page cache, at no cost but a fault. */
    (void)madvise((void *)at, end - at, MADV_DONTNEED);
}
