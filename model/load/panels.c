/* The file of packed matrices: see panels.h.
 *
 *   head | table of entries | matrices, each at a multiple of QN_ALIGN | (next page) the seal
 *
 * All numbers are this machine's own; `order` tells another one's. Thread: one loader, and the pool inside
 * open and write. */
#include "model/load/panels.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/mem.h"

#define MAGIC     "QNPANEL1"
#define ORDER     UINT64_C(0x0102030405060708)
#define PAGE      4096u /* the seal lies on a page of its own, also where pages are larger than this */
#define SAMPLE    4096u /* bytes of a tensor's begin and end that its key holds */
#define PIECE     ((size_t)8 << 20) /* bytes of one write */
#define WAIT_MS   30000
#define WAIT_STEP 20
#define ENTRIES   (1u << 24) /* more than any checkpoint's matrices */

struct head {
    char magic[8];
    uint64_t order, layout;
    uint64_t source_bytes, source_stamp;
    uint64_t nonce, count, file_bytes;
    uint64_t table_sum, head_sum; /* head_sum: of everything before it */
};
struct entry {
    uint64_t key, at, bytes, sum; /* sum: of the matrix */
    uint32_t type, rows, cols, zero;
};

struct qn_panels {
    char path[PATH_MAX];
    struct qn_panels_source src;
    struct qn_mapfile map; /* closed while gathering */
    uint64_t nonce;
    struct entry *entries; /* [n] */
    const uint8_t **data;  /* [n], gathering */
    size_t n, cap, next;
    bool mapped, missed;
    atomic_bool lost;
};

/* ---- checksums ---- */

#define PRIME_A UINT64_C(0x9E3779B185EBCA87)
#define PRIME_B UINT64_C(0xC2B2AE3D27D4EB4F)

static uint64_t stir(uint64_t sum, uint64_t word) {
    sum += word * PRIME_B;
    return (sum << 31 | sum >> 33) * PRIME_A;
}

/* Four sums side by side, as XXH64 has them: as fast as memory. Finds accidents, not forgeries. */
static uint64_t sum_of(const void *bytes, size_t n, uint64_t seed) {
    const uint8_t *p = bytes;
    uint64_t lane[4] = {seed + PRIME_A, seed ^ PRIME_B, seed, seed - PRIME_A}, word[4];
    size_t left = n;
    for (; left >= sizeof word; left -= sizeof word, p += sizeof word) {
        memcpy(word, p, sizeof word);
        for (unsigned i = 0; i < 4; i++) lane[i] = stir(lane[i], word[i]);
    }
    memset(word, 0, sizeof word);
    if (left) memcpy(word, p, left);
    uint64_t sum = stir(seed, n);
    for (unsigned i = 0; i < 4; i++) sum = stir(stir(sum, lane[i]), word[i]);
    sum ^= sum >> 29;
    sum *= PRIME_B;
    return sum ^ sum >> 32;
}

/* What the kernels of this build make of one panel of each type: changes with every change of a layout,
 * whether anybody thought of this file or not. False without memory. */
static bool layout_of(uint64_t *out) {
    uint64_t sum = sum_of(MAGIC, 8, QN_TYPE_COUNT), seed = 1;
    uint8_t row[256 * 4];
    for (int t = 0; t < QN_TYPE_COUNT; t++) {
        struct qn_matrix m;
        if (!qn_matrix_alloc(&m, (enum qn_type)t, QN_PANEL, 256)) return false;
        for (uint32_t r = 0; r < QN_PANEL; r++) {
            for (size_t i = 0; i < sizeof row; i++) row[i] = (uint8_t)((seed = stir(seed, i)) >> 56);
            qn_matrix_set_row(&m, r, row);
        }
        sum = sum_of(m.data, m.bytes, sum);
        qn_matrix_free(&m);
    }
    *out = sum;
    return true;
}

static uint64_t key_of(const struct qn_panels_key *k) {
    const struct qn_tensor *t = k->tensor;
    size_t n = t->bytes < SAMPLE ? t->bytes : SAMPLE;
    uint64_t sum = sum_of(t->name.p, t->name.n, (uint64_t)t->type);
    sum = sum_of(t->dims, t->n_dims * sizeof t->dims[0], sum);
    sum = sum_of(k->how, sizeof k->how, sum);
    sum = stir(stir(stir(sum, t->bytes), k->rows), k->cols);
    sum = sum_of(t->data, n, sum);
    return sum_of(t->data + (t->bytes - n), n, sum);
}

int qn_panels_source_add(struct qn_panels_source *s, const struct qn_mapfile *m, struct qn_err *err) {
    struct stat st;
    if (fstat(m->fd, &st) != 0)
        return qn_err_set(err, QN_ERR_IO, "cannot look at a checkpoint's file: %s", strerror(errno));
    if (s->bytes == 0) s->owner = st.st_uid;
    s->bytes += m->size;
    s->stamp = stir(stir(s->stamp, (uint64_t)m->mtime_ns), m->size);
    return QN_OK;
}

/* ---- what a mapped file must be ---- */

static int damaged(struct qn_err *err, const char *what) {
    return qn_err_set(err, QN_ERR_FORMAT, "it is damaged (%s)", what);
}

static int check_head(const struct head *h, size_t size, const struct qn_panels_source *src,
                      struct qn_err *err) {
    uint64_t layout = 0;
    if (memcmp(h->magic, MAGIC, sizeof h->magic) != 0) return damaged(err, "the magic is missing");
    if (h->order != ORDER)
        return qn_err_set(err, QN_ERR_FORMAT, "it was written on a machine of another byte order");
    if (h->head_sum != sum_of(h, offsetof(struct head, head_sum), 0)) return damaged(err, "header");
    if (!layout_of(&layout)) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    if (h->layout != layout) return qn_err_set(err, QN_ERR_FORMAT, "it was written by another version");
    if (h->source_bytes != src->bytes || h->source_stamp != src->stamp)
        return qn_err_set(err, QN_ERR_FORMAT, "the checkpoint changed since it was written");
    if (h->file_bytes != size) return damaged(err, "its size");
    if (h->count > ENTRIES || h->count > (size - sizeof *h) / sizeof(struct entry))
        return damaged(err, "its count of matrices");
    return QN_OK;
}

/* Where the seal is: the last page. */
static size_t seal_of(const struct qn_mapfile *m) {
    return m->size - PAGE;
}

static bool entry_fits(const struct entry *e, size_t from, size_t to) {
    size_t bytes = 0;
    return e->type < QN_TYPE_COUNT && qn_matrix_bytes((enum qn_type)e->type, e->rows, e->cols, &bytes) &&
           bytes == e->bytes && e->at % QN_ALIGN == 0 && e->at >= from && e->at <= to && bytes <= to - e->at;
}

static int read_table(struct qn_panels *p, const struct head *h, struct qn_err *err) {
    size_t n = (size_t)h->count, bytes = n * sizeof *p->entries,
           from = sizeof *h + bytes;                    /* count is checked */
    p->entries = calloc(n ? n : 1, sizeof *p->entries); /* a copy: what was checked is what is used */
    if (!p->entries) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    memcpy(p->entries, p->map.data + sizeof *h, bytes);
    if (h->table_sum != sum_of(p->entries, bytes, 0)) return damaged(err, "table");
    for (size_t i = 0; i < n; i++) {
        if (!entry_fits(&p->entries[i], from, seal_of(&p->map))) return damaged(err, "a matrix's place");
        from = (size_t)(p->entries[i].at + p->entries[i].bytes);
    }
    p->n = n;
    p->nonce = h->nonce;
    return QN_OK;
}

struct verify {
    struct entry *entries;
    const uint8_t *const *data;
    const uint8_t *base; /* instead of data */
    atomic_bool wrong;
    bool fill; /* the sums are made, not compared */
};

static void verify_one(void *arg, size_t item, unsigned thread) {
    struct verify *v = arg;
    struct entry *e = &v->entries[item];
    uint64_t sum = sum_of(v->base ? v->base + e->at : v->data[item], (size_t)e->bytes, 0);
    (void)thread;
    if (v->fill)
        e->sum = sum;
    else if (e->sum != sum)
        atomic_store(&v->wrong, true);
}

static bool may_trust(const struct qn_mapfile *m, const struct qn_panels_source *src) {
    struct stat st;
    return fstat(m->fd, &st) == 0 && (st.st_uid == geteuid() || st.st_uid == 0 || st.st_uid == src->owner) &&
           (st.st_mode & S_IWOTH) == 0;
}

static int check_all(struct qn_panels *p, struct qn_pool *pool, struct qn_err *err) {
    struct head h;
    if (!may_trust(&p->map, &p->src))
        return qn_err_set(err, QN_ERR_FORMAT, "it belongs to another user, or anybody may write it");
    if (p->map.size < sizeof h + PAGE) return damaged(err, "its size");
    memcpy(&h, p->map.data, sizeof h);
    int rc = check_head(&h, p->map.size, &p->src, err);
    if (rc == QN_OK) rc = read_table(p, &h, err);
    if (rc != QN_OK) return rc;
    struct verify v = {.entries = p->entries, .base = p->map.data};
    qn_pool_run(pool, p->n, verify_one, &v);
    if (atomic_load(&v.wrong)) return damaged(err, "a matrix");
    if (qn_panels_lost(p)) return damaged(err, "its end");
    p->mapped = true;
    return QN_OK;
}

/* ---- open, take ---- */

void qn_panels_reset(struct qn_panels *p) {
    qn_mapfile_close(&p->map);
    free(p->entries);
    free(p->data);
    p->entries = NULL;
    p->data = NULL;
    p->n = p->cap = p->next = 0;
    p->mapped = p->missed = false;
}

int qn_panels_new(const char *path, const struct qn_panels_source *src, struct qn_panels **out,
                  struct qn_err *err) {
    struct qn_panels *p = *out = calloc(1, sizeof *p);
    if (!p) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    snprintf(p->path, sizeof p->path, "%s", path);
    p->src = *src;
    return QN_OK;
}

int qn_panels_map(struct qn_panels *p, struct qn_pool *pool, struct qn_err *err) {
    qn_panels_reset(p);
    int rc = qn_mapfile_open(&p->map, p->path, err);
    if (rc == QN_OK) rc = check_all(p, pool, err);
    if (rc != QN_OK) qn_panels_reset(p);
    return rc;
}

bool qn_panels_take(struct qn_panels *p, const struct qn_panels_key *key, struct qn_matrix *dst) {
    if (!p || !p->mapped) return false;
    const struct entry *e = &p->entries[p->next];
    if (p->next == p->n || p->missed || e->key != key_of(key) || e->rows != key->rows ||
        e->cols != key->cols || e->type != (uint32_t)key->tensor->type) {
        p->missed = true;
        return false;
    }
    p->next++;
    /* Read only: products do not write weights, and writing here would fault. */
    return qn_matrix_at(dst, (enum qn_type)e->type, e->rows, e->cols,
                        (uint8_t *)(uintptr_t)(p->map.data + e->at));
}

bool qn_panels_mapped(const struct qn_panels *p) {
    return p->mapped;
}

bool qn_panels_whole(const struct qn_panels *p) {
    return p->mapped && !p->missed && p->next == p->n;
}

bool qn_panels_lost(const struct qn_panels *p) {
    struct qn_panels *mine = (struct qn_panels *)(uintptr_t)p;
    if (!p->map.data || atomic_load(&p->lost)) return p->map.data != NULL;
    const volatile uint64_t *seal = (const void *)(p->map.data + seal_of(&p->map));
    if (*seal == p->nonce && !qn_mapfile_lost(&p->map)) return false;
    atomic_store(&mine->lost, true);
    return true;
}

void qn_panels_free(struct qn_panels *p) {
    if (p) qn_panels_reset(p);
    free(p);
}

/* ---- add, write ---- */

bool qn_panels_add(struct qn_panels *p, const struct qn_panels_key *key, const struct qn_matrix *m) {
    if (!p || p->mapped) return true;
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap : 64, a, b;
        if (!qn_size_mul(cap, 2, &cap) || !qn_size_mul(cap, sizeof *p->entries, &a) ||
            !qn_size_mul(cap, sizeof *p->data, &b))
            return false;
        struct entry *entries = realloc(p->entries, a);
        if (!entries) return false;
        p->entries = entries;
        const uint8_t **data = realloc(p->data, b);
        if (!data) return false;
        p->data = data;
        p->cap = cap;
    }
    p->data[p->n] = m->data;
    p->entries[p->n++] = (struct entry){
        .key = key_of(key), .bytes = m->bytes, .type = (uint32_t)m->type, .rows = m->rows, .cols = m->cols};
    return true;
}

/* Where everything goes, and the sums over it. */
static int lay_out(struct qn_panels *p, struct qn_pool *pool, struct head *h, struct qn_err *err) {
    size_t table = 0, at = 0;
    bool ok = p->n <= ENTRIES && qn_size_mul(p->n, sizeof *p->entries, &table) &&
              qn_size_add(table, sizeof *h, &at);
    for (size_t i = 0; ok && i < p->n; i++) {
        ok = qn_size_align(at, i ? QN_ALIGN : PAGE, &at);
        p->entries[i].at = at;
        ok = ok && qn_size_add(at, (size_t)p->entries[i].bytes, &at);
    }
    ok = ok && qn_size_align(at, PAGE, &at) && qn_size_add(at, PAGE, &at);
    if (!ok || at > INT64_MAX) return qn_err_set(err, QN_ERR_UNSUPPORTED, "its size overflows");
    struct verify v = {.entries = p->entries, .data = p->data, .fill = true};
    qn_pool_run(pool, p->n, verify_one, &v);
    *h = (struct head){.order = ORDER,
                       .source_bytes = p->src.bytes,
                       .source_stamp = p->src.stamp,
                       .count = p->n,
                       .file_bytes = at,
                       .table_sum = sum_of(p->entries, table, 0)};
    memcpy(h->magic, MAGIC, sizeof h->magic);
    if (!layout_of(&h->layout)) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    if (getrandom(&h->nonce, sizeof h->nonce, 0) != (ssize_t)sizeof h->nonce)
        return qn_err_set(err, QN_ERR_IO, "no random number: %s", strerror(errno));
    h->head_sum = sum_of(h, offsetof(struct head, head_sum), 0);
    return QN_OK;
}

static bool put(int fd, const void *data, size_t n, size_t at) {
    const uint8_t *p = data;
    while (n > 0) {
        ssize_t done = pwrite(fd, p, n < PIECE ? n : PIECE, (off_t)at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        p += done;
        at += (size_t)done;
        n -= (size_t)done;
    }
    return true;
}

static bool put_all(int fd, const struct qn_panels *p, const struct head *h) {
    uint8_t seal[PAGE] = {0};
    memcpy(seal, &h->nonce, sizeof h->nonce);
    bool ok = put(fd, h, sizeof *h, 0) && put(fd, p->entries, p->n * sizeof *p->entries, sizeof *h);
    for (size_t i = 0; ok && i < p->n; i++)
        ok = put(fd, p->data[i], (size_t)p->entries[i].bytes, (size_t)p->entries[i].at);
    return ok && put(fd, seal, sizeof seal, (size_t)h->file_bytes - PAGE);
}

/* Opens the file aside and locks it. QN_OK with *out < 0: another process has just finished it. */
static int lock_part(const char *part, int *out, struct qn_err *err) {
    const struct timespec step = {.tv_nsec = WAIT_STEP * 1000000L};
    int fd = open(part, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    *out = -1;
    if (fd < 0) return qn_err_set(err, QN_ERR_IO, "cannot write '%s': %s", part, strerror(errno));
    int rc = flock(fd, LOCK_EX | LOCK_NB);
    for (int ms = 0; rc != 0 && errno == EWOULDBLOCK && ms < WAIT_MS; ms += WAIT_STEP) {
        nanosleep(&step, NULL);
        rc = flock(fd, LOCK_EX | LOCK_NB);
    }
    if (rc != 0) {
        close(fd);
        return qn_err_set(err, QN_ERR_IO, "cannot lock '%s': %s", part, strerror(errno));
    }
    struct stat mine, there;
    if (fstat(fd, &mine) != 0 || stat(part, &there) != 0 || mine.st_ino != there.st_ino ||
        mine.st_dev != there.st_dev) {
        close(fd); /* whoever held it has renamed it: it is the file itself by now */
        return QN_OK;
    }
    *out = fd;
    return QN_OK;
}

int qn_panels_write(struct qn_panels *p, struct qn_pool *pool, struct qn_err *err) {
    char part[PATH_MAX];
    struct head h = {0};
    int fd = -1;
    if (snprintf(part, sizeof part, "%s.part", p->path) >= (int)sizeof part)
        return qn_err_set(err, QN_ERR_IO, "the path is too long");
    int rc = lay_out(p, pool, &h, err);
    if (rc == QN_OK) rc = lock_part(part, &fd, err);
    if (rc != QN_OK || fd < 0) return rc;
    /* Not synced: after a loss of power the sums tell. */
    if (ftruncate(fd, 0) != 0 || !put_all(fd, p, &h) || rename(part, p->path) != 0) {
        rc = qn_err_set(err, QN_ERR_IO, "cannot write '%s': %s", p->path, strerror(errno));
        unlink(part);
    }
    if (close(fd) != 0 && rc == QN_OK)
        rc = qn_err_set(err, QN_ERR_IO, "cannot write '%s': %s", p->path, strerror(errno));
    return rc;
}
