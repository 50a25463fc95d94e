/* Guarded buffers and random weights for kernel tests; see guard.h. */
#include "tests/support/guard.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CANARY 0xa5

void rng_init(struct rng *r) {
    const char *s = getenv("QN_SEED");
    r->seed = s ? strtoull(s, NULL, 0) : 20240229u;
    r->state = r->seed;
}

uint32_t rng_u32(struct rng *r) { /* splitmix64 */
    uint64_t z = r->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

uint32_t rng_below(struct rng *r, uint32_t n) {
    return rng_u32(r) % n;
}

float rng_float(struct rng *r, float lo, float hi) {
    return lo + (hi - lo) * (float)(rng_u32(r) >> 8) * 0x1p-24f;
}

void rng_fill(struct rng *r, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = rng_float(r, -2, 2);
}

void guarded_new(struct guarded *g, size_t n, bool at_end) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (n + page - 1) / page * page;
    g->n = n;
    g->map_bytes = body + 2 * page;
    g->map = mmap(NULL, g->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->map == MAP_FAILED || (body && mprotect(g->map + page, body, PROT_READ | PROT_WRITE))) {
        perror("guarded_new");
        exit(2);
    }
    memset(g->map + page, CANARY, body);
    g->p = g->map + page + (at_end ? body - n : 0);
}

bool guarded_free(struct guarded *g) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    bool clean = true;
    for (uint8_t *p = g->map + page; p < g->map + g->map_bytes - page; p++) {
        if ((p < g->p || p >= g->p + g->n) && *p != CANARY) clean = false;
    }
    munmap(g->map, g->map_bytes);
    return clean;
}

/* f16 bits of a random scale: mostly moderate, sometimes 0, subnormal or negative. */
static uint16_t random_scale(struct rng *r) {
    uint32_t kind = rng_below(r, 16);
    if (kind == 0) return 0;
    if (kind == 1) return (uint16_t)rng_below(r, 0x400);
    return qn_f32_to_f16(rng_float(r, kind < 5 ? -0.1f : 0.001f, 0.1f));
}

static void put16(uint8_t *p, uint16_t v) {
    memcpy(p, &v, sizeof v);
}

void random_row(struct rng *r, enum qn_type t, size_t cols, uint8_t *out) {
    size_t unit = qn_type_block_bytes(t), blocks = cols / qn_type_block(t);
    for (size_t b = 0; b < blocks; b++, out += unit) {
        if (t == QN_F32) {
            float f = rng_float(r, -1, 1);
            memcpy(out, &f, sizeof f);
            continue;
        }
        if (t == QN_F16 || t == QN_BF16) {
            float f = rng_float(r, -1, 1);
            put16(out, t == QN_F16 ? qn_f32_to_f16(f) : qn_f32_to_bf16(f));
            continue;
        }
        static const uint8_t extremes[] = {0x00, 0xff, 0x80, 0x7f};
        uint32_t kind = rng_below(r, 8); /* half of the blocks hold one extreme code throughout */
        for (size_t i = 0; i < unit; i++) out[i] = kind < 4 ? extremes[kind] : (uint8_t)rng_u32(r);
        put16(t == QN_Q6_K ? out + 208 : out, random_scale(r));
        if (t == QN_Q4_1 || t == QN_Q5_1 || t == QN_Q4_K || t == QN_Q5_K) put16(out + 2, random_scale(r));
    }
}

void random_matrix(struct rng *r, enum qn_type t, uint32_t rows, uint32_t cols, struct qn_matrix *m,
                   struct guarded *g, bool at_end) {
    size_t bytes, row;
    if (!qn_matrix_bytes(t, rows, cols, &bytes) || !qn_type_row_bytes(t, cols, &row)) exit(2);
    guarded_new(g, bytes, at_end);
    memset(g->p, 0, bytes);
    *m = (struct qn_matrix){.type = t, .rows = rows, .cols = cols, .bytes = bytes, .data = g->p};
    uint8_t *file = malloc(row);
    if (!file) exit(2);
    for (uint32_t i = 0; i < rows; i++) {
        random_row(r, t, cols, file);
        qn_matrix_set_row(m, i, file);
    }
    free(file);
}

bool same_floats(const struct rng *r, const char *what, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(a + i, b + i, sizeof *a) && !(isnan(a[i]) && isnan(b[i]))) {
            fprintf(stderr, "%s: element %zu of %zu: %.9g, expected %.9g (QN_SEED=%llu)\n", what, i, n,
                    (double)a[i], (double)b[i], (unsigned long long)r->seed);
            return false;
        }
    }
    return true;
}
