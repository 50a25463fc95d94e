/* API keys as keyed hashes. Data flow: file -> lines -> SipHash pairs; request header -> the same pair ->
 * compared with every entry without branching on the data. Thread: loop. */
#include "server/auth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAX_KEYS    1024
#define MIN_KEY     8
#define MAX_KEY     512
#define SECRET_SIZE 48

struct digest {
    uint64_t a, b;
};

struct qn_auth {
    char *path; /* NULL: open */
    unsigned n;
    struct digest keys[MAX_KEYS];
    unsigned char secret[SECRET_SIZE]; /* three SipHash keys: two for the digest, one for the salt */
};

static inline uint64_t rotl(uint64_t x, unsigned b) {
    return (x << b) | (x >> (64 - b));
}

static inline void sip_round(uint64_t v[4]) {
    v[0] += v[1];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[0] = rotl(v[0], 32);
    v[2] += v[3];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[2] = rotl(v[2], 32);
}

static uint64_t read_le64(const unsigned char *p, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)p[i] << (8 * i);
    return v;
}

uint64_t qn_siphash(const unsigned char key[16], const void *data, size_t n) {
    const unsigned char *p = data;
    uint64_t k0 = read_le64(key, 8), k1 = read_le64(key + 8, 8);
    uint64_t v[4] = {k0 ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du, k0 ^ 0x6c7967656e657261u,
                     k1 ^ 0x7465646279746573u};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t m = read_le64(p + i, 8);
        v[3] ^= m;
        sip_round(v);
        sip_round(v);
        v[0] ^= m;
    }
    uint64_t last = ((uint64_t)n << 56) | read_le64(p + i, n - i);
    v[3] ^= last;
    sip_round(v);
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int r = 0; r < 4; r++) sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static struct digest digest_of(const struct qn_auth *a, const char *key, size_t n) {
    struct digest d = {qn_siphash(a->secret, key, n), qn_siphash(a->secret + 16, key, n)};
    return d;
}

/* One line of the file; false with why when it can't be a key. */
static bool add_line(struct qn_auth *a, char *line, char *why, size_t why_n) {
    size_t n = strcspn(line, "\r\n");
    while (n > 0 && (line[n - 1] == ' ' || line[n - 1] == '\t')) n--;
    while (n > 0 && (*line == ' ' || *line == '\t')) line++, n--;
    if (n == 0 || *line == '#') return true;
    if (n < MIN_KEY || n > MAX_KEY || a->n == MAX_KEYS) {
        snprintf(why, why_n, "%s",
                 a->n == MAX_KEYS ? "more than 1024 keys" : "a key must have 8 to 512 bytes");
        return false;
    }
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)line[i] <= ' ' || (unsigned char)line[i] > '~') {
            snprintf(why, why_n, "a key may hold only printable ASCII without blanks");
            return false;
        }
    a->keys[a->n++] = digest_of(a, line, n);
    return true;
}

static bool read_keys(struct qn_auth *a, char *why, size_t why_n) {
    FILE *f = fopen(a->path, "re");
    if (!f) {
        snprintf(why, why_n, "can't read %.200s: %s", a->path, strerror(errno));
        return false;
    }
    char line[MAX_KEY + 64], what[96];
    bool ok = true;
    while (ok && fgets(line, sizeof line, f)) {
        ok = add_line(a, line, what, sizeof what);
        if (!ok) snprintf(why, why_n, "%.200s: %s", a->path, what);
    }
    if (ok && ferror(f)) {
        snprintf(why, why_n, "can't read %.200s", a->path);
        ok = false;
    }
    fclose(f);
    explicit_bzero(line, sizeof line);
    if (ok && a->n == 0) {
        snprintf(why, why_n, "%.200s holds no key", a->path);
        ok = false;
    }
    return ok;
}

struct qn_auth *qn_auth_new(const char *path, char *why, size_t why_n) {
    struct qn_auth *a = calloc(1, sizeof *a);
    if (!a || (path && !(a->path = strdup(path)))) {
        snprintf(why, why_n, "out of memory");
        qn_auth_free(a);
        return NULL;
    }
    if (getrandom(a->secret, sizeof a->secret, 0) != (ssize_t)sizeof a->secret) {
        snprintf(why, why_n, "no random numbers from the system");
        qn_auth_free(a);
        return NULL;
    }
    if (path && !read_keys(a, why, why_n)) {
        qn_auth_free(a);
        return NULL;
    }
    return a;
}

void qn_auth_free(struct qn_auth *a) {
    if (!a) return;
    free(a->path);
    explicit_bzero(a, sizeof *a);
    free(a);
}

bool qn_auth_reload(struct qn_auth *a, char *why, size_t why_n) {
    if (!a->path) return true;
    struct qn_auth *fresh = calloc(1, sizeof *fresh);
    if (!fresh) {
        snprintf(why, why_n, "out of memory");
        return false;
    }
    memcpy(fresh->secret, a->secret, sizeof a->secret); /* salts of keys that stay must stay */
    fresh->path = a->path;
    bool ok = read_keys(fresh, why, why_n);
    if (ok) {
        memcpy(a->keys, fresh->keys, sizeof a->keys);
        a->n = fresh->n;
    }
    explicit_bzero(fresh, sizeof *fresh);
    free(fresh);
    return ok;
}

bool qn_auth_needed(const struct qn_auth *a) {
    return a->path != NULL;
}

unsigned qn_auth_count(const struct qn_auth *a) {
    return a->n;
}

bool qn_auth_check(const struct qn_auth *a, const char *key, size_t n, uint64_t *salt) {
    *salt = 0;
    if (!a->path) return true;
    if (!key || n > MAX_KEY) return false;
    struct digest d = digest_of(a, key, n);
    uint64_t found = 0;
    for (unsigned i = 0; i < a->n; i++) { /* every entry is looked at, whatever matched */
        uint64_t diff = (a->keys[i].a ^ d.a) | (a->keys[i].b ^ d.b);
        found |= ((diff | (0 - diff)) >> 63) ^ 1;
    }
    if (!found) return false;
    uint64_t s = qn_siphash(a->secret + 32, key, n);
    *salt = s ? s : 1; /* 0 means the shared domain */
    return true;
}
