/* Speed of the packed products and of attention: GB/s of weights and GOP/s (2 per multiply-add), per type,
 * ISA level and number of rows M. Not a test; run it on a quiet machine:
 *
 *     make build/release/bench/kernels_bench
 *     build/release/bench/kernels_bench [threads [type [isa]]]      (2 threads, all types, all levels)
 *
 * Weights: as many 1536 x 576 matrices as make SET_BYTES, used in turn, so that M = 1 reads memory, not a
 * cache. Each figure is the median of REPEATS passes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"
#include "kernels/mem.h"

#define ROWS      1536u
#define COLS      576u
#define K_COLS    768u /* for types with blocks of 256 */
#define SET_BYTES ((size_t)160 << 20)
#define REPEATS   5

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

struct set {
    struct qn_matrix *m;
    size_t n;
};

/* Matrices whose bytes all have moderate values: every 16-bit word is a small positive f16 or bf16. */
static bool fill_set(struct set *s, enum qn_type t, unsigned cols) {
    size_t bytes;
    if (!qn_matrix_bytes(t, ROWS, cols, &bytes)) return false;
    s->n = SET_BYTES / bytes;
    s->m = calloc(s->n, sizeof *s->m);
    for (size_t i = 0; s->m && i < s->n; i++) {
        if (!qn_matrix_alloc(&s->m[i], t, ROWS, cols)) return false;
        for (size_t k = 0; k + 1 < bytes; k += 2) {
            s->m[i].data[k] = (uint8_t)(k * 37 + i);
            s->m[i].data[k + 1] = 0x1c;
        }
    }
    return s->m != NULL;
}

static void free_set(struct set *s) {
    for (size_t i = 0; i < s->n; i++) qn_matrix_free(&s->m[i]);
    free(s->m);
}

/* Seconds of one pass over `n` matrices of the set with M rows. */
static double pass(struct qn_pool *pool, const struct set *s, size_t n, const struct qn_act *a, float *y) {
    double times[REPEATS];
    for (int r = 0; r < REPEATS; r++) {
        double t0 = now();
        for (size_t i = 0; i < n; i++) qn_linear(pool, &s->m[i], a, NULL, y, ROWS);
        times[r] = now() - t0;
    }
    return median(times, REPEATS);
}

static void bench_type(struct qn_pool *pool, enum qn_type t, int only_isa) {
    static const unsigned ms[] = {1, 2, 4, 8, 16, 64, 512};
    unsigned cols = qn_type_block(t) == 256 ? K_COLS : COLS;
    struct set s = {0};
    size_t bytes;
    float *x = qn_mem_alloc_array(512u * cols, 4), *y = qn_mem_alloc_array(512u * ROWS, 4);
    if (!x || !y || !qn_act_bytes(512, cols, &bytes) || !fill_set(&s, t, cols)) return;
    void *mem = qn_mem_alloc(bytes);
    for (size_t i = 0; i < 512u * cols; i++) x[i] = (float)((int)(i * 7919 % 2001) - 1000) * 1e-3f;
    for (int isa = QN_ISA_AVX2; isa <= (int)qn_cpu_isa() && mem; isa++) {
        if (isa == QN_ISA_AVX512_BF16 || (only_isa >= 0 && isa != only_isa)) continue;
        qn_kernels_init((enum qn_isa)isa);
        printf("%-5s %-11s", qn_type_name(t), qn_isa_name((enum qn_isa)isa));
        for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
            struct qn_act a = {.x = x, .ldx = cols, .rows = ms[i], .cols = cols};
            qn_act_quantize(pool, &a, mem);
            size_t n = ms[i] <= 4 ? s.n : s.n / ms[i] + 1;
            double sec = pass(pool, &s, n, &a, y) / (double)n;
            double gbs = (double)s.m[0].bytes / sec * 1e-9, gop = 2.0 * ROWS * cols * ms[i] / sec * 1e-9;
            printf(" | %5.1f %6.0f", gbs, gop);
        }
        printf("\n");
        fflush(stdout);
    }
    qn_mem_free(mem);
    qn_mem_free(x);
    qn_mem_free(y);
    free_set(&s);
}

enum { HD = 64, GROUP = 3, TILE_ROWS = 16 };

static void time_attend(const struct qn_attend *a, enum qn_isa isa) {
    struct qn_ops ops;
    double times[REPEATS], seen = 0;
    qn_ops_fill(&ops, isa);
    for (int r = 0; r < REPEATS; r++) {
        double t0 = now();
        for (int i = 0; i < 20; i++) ops.attend(a);
        times[r] = (now() - t0) / 20;
    }
    for (uint32_t r = 0; r < a->rows; r++) seen += a->pos + r + 1;
    double sec = median(times, REPEATS), tokens = a->pos + a->rows;
    printf("attend %-4s, %5.0f tokens, %2u rows, 3 heads of 64, %-11s %7.1f us %6.1f GB/s %6.1f GFLOP/s\n",
           qn_kv_type_name(a->type), tokens, a->rows, qn_isa_name(isa), sec * 1e6,
           tokens / 16 * 2 * (double)qn_kv_half_bytes(a->type, HD) / sec * 1e-9,
           4.0 * GROUP * HD * seen / sec * 1e-9);
}

/* One KV head's share of a layer's attention, on one thread: a decode step's row, and a prompt's rows. */
static void bench_attend(enum qn_kv_type type, uint32_t length, uint32_t rows) {
    size_t blocks = (length + 15) / 16, half = qn_kv_half_bytes(type, HD);
    uint8_t *kv = qn_mem_alloc(blocks * 2 * half);
    const uint8_t **table = calloc(blocks, sizeof *table);
    float q[TILE_ROWS * GROUP * HD], out[TILE_ROWS * GROUP * HD], x[HD];
    if (!kv || !table) return;
    for (int i = 0; i < TILE_ROWS * GROUP * HD; i++) q[i] = 0.01f * (float)(i % 17 - 8);
    for (size_t b = 0; b < blocks; b++) table[b] = kv + b * 2 * half;
    for (uint32_t t = 0; t < length; t++) {
        for (uint32_t i = 0; i < HD; i++) x[i] = 0.1f * (float)((i * 31 + t * 7) % 23) - 1;
        qn_ops()->kv_write(&(struct qn_kv_write){x, x, kv + t / 16 * 2 * half, 0, half, type, HD, t % 16});
    }
    struct qn_attend a = {.q = q,
                          .ldq = HD,
                          .q_row = (size_t)GROUP * HD,
                          .out = out,
                          .ldo = HD,
                          .out_row = (size_t)GROUP * HD,
                          .blocks = table,
                          .v_offset = half,
                          .type = type,
                          .group = GROUP,
                          .head_dim = HD,
                          .rows = rows,
                          .pos = length - rows,
                          .end = UINT32_MAX,
                          .scale = 0.125f};
    for (int isa = QN_ISA_AVX2; isa <= (int)qn_cpu_isa(); isa++) {
        if (isa != (int)QN_ISA_AVX512_BF16) time_attend(&a, (enum qn_isa)isa);
    }
    qn_mem_free(kv);
    free(table);
}

int main(int argc, char **argv) {
    unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : 2;
    int type = argc > 2 ? atoi(argv[2]) : -1, isa = argc > 3 ? atoi(argv[3]) : -1;
    char date[32];
    time_t t = time(NULL);
    struct tm tm;
    struct qn_pool *pool = qn_pool_new(threads);
    strftime(date, sizeof date, "%Y-%m-%d %H:%M", localtime_r(&t, &tm));
    printf("%s, %s, %u threads; GB/s of weights and GOP/s\n%-17s", date, qn_cpu_model(), threads, "M =");
    printf(" | %12d | %12d | %12d | %12d | %12d | %12d | %12d\n", 1, 2, 4, 8, 16, 64, 512);
    for (int i = 0; i < QN_TYPE_COUNT; i++) {
        if (type < 0 || type == i) bench_type(pool, (enum qn_type)i, isa);
    }
    for (int k = 0; k < QN_KV_TYPE_COUNT; k++) {
        bench_attend((enum qn_kv_type)k, 1024, 1);
        bench_attend((enum qn_kv_type)k, 1024, TILE_ROWS);
    }
    qn_pool_free(&pool);
    return 0;
}
