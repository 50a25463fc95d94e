/* API keys: a file with one key per line (# comments), kept as keyed hashes, compared in constant time.
 *
 * Keys are hashed with SipHash-2-4 (two independent 64-bit halves) under a secret of this process, so neither
 * the table nor a timing tells anything about a key. The 64-bit salt of a key separates prefix-cache domains.
 * Thread: loop. */
#ifndef QN_SERVER_AUTH_H
#define QN_SERVER_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct qn_auth;

/* path NULL: no keys, everybody may. NULL with why filled when the file can't be read, has no key, or one
 * that is shorter than 8 or longer than 512 bytes or not printable. */
struct qn_auth *qn_auth_new(const char *path, char *why, size_t why_n);
void qn_auth_free(struct qn_auth *a); /* NULL is fine; wipes */
/* Reads the file again; on failure the old keys stay and false is returned. */
bool qn_auth_reload(struct qn_auth *a, char *why, size_t why_n);
bool qn_auth_needed(const struct qn_auth *a);
unsigned qn_auth_count(const struct qn_auth *a);
/* True when no key is needed or key[0..n) is one of them; *salt = its cache domain (0 without keys). */
bool qn_auth_check(const struct qn_auth *a, const char *key, size_t n, uint64_t *salt);
/* SipHash-2-4 of p[0..n) under a 16-byte key. */
uint64_t qn_siphash(const unsigned char key[16], const void *p, size_t n);

#endif
