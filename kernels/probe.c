/* Takes of the probes' loops on all threads of a pool, and the plain C loops. See probe.h. */
#include "kernels/probe.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/mem.h"
#include "kernels/x86/probe_x86.h"

#define TAKES     5
#define TAKE_NS   100000000u
#define UNIT      512u /* bytes */
#define MAX_POOL  256u
#define REF_LANES 64u

static uint64_t read_ref(const void *p, size_t bytes) {
    const uint64_t *w = p;
    uint64_t x[8] = {0};
    for (size_t i = 0; i < bytes / 8; i += 8)
        for (size_t k = 0; k < 8; k++) x[k] ^= w[i + k];
    for (size_t k = 1; k < 8; k++) x[0] ^= x[k];
    return x[0];
}

static uint64_t f32_ref(uint32_t rounds) {
    volatile float one = 1.0f;
    float a = one, sum[REF_LANES] = {0};
    for (uint32_t r = 0; r < rounds; r++)
        for (uint32_t i = 0; i < REF_LANES; i++) sum[i] += a * a;
    double all = 0;
    for (uint32_t i = 0; i < REF_LANES; i++) all += (double)sum[i];
    return (uint64_t)all;
}

const struct qn_probe_ops *qn_probe_ops(void) {
    static struct qn_probe_ops ops;
    ops = (struct qn_probe_ops){.read = read_ref, .f32 = f32_ref};
#if defined __x86_64__
    enum qn_isa isa = qn_cpu_isa();
    if (isa >= QN_ISA_AVX2) qn_probe_avx2(&ops);
    if (isa >= QN_ISA_AVX512) qn_probe_avx512(&ops);
    if (isa >= QN_ISA_AVX512_VNNI) qn_probe_avx512vnni(&ops);
    if (isa >= QN_ISA_AVX512_BF16) qn_probe_avx512bf16(&ops);
#endif
    return &ops;
}

/* --- takes --- */
struct take {
    const struct qn_probe_ops *ops;
    const uint8_t *memory; /* of all threads, or NULL */
    size_t part;           /* bytes of each */
    uint64_t (*loop)(uint32_t rounds);
    uint64_t until;          /* clock at which threads stop */
    double done[MAX_POOL];   /* bytes or multiply-adds, by item */
    uint64_t seen[MAX_POOL]; /* what was read, so that it is */
};

static void run_take(void *arg, size_t item, unsigned thread) {
    struct take *t = arg;
    (void)thread;
    do {
        if (t->memory) {
            t->seen[item] ^= t->ops->read(t->memory + item * t->part, t->part);
            t->done[item] += (double)t->part;
        } else {
            t->done[item] += (double)t->loop(1u << 16);
        }
    } while (qn_now_ns() < t->until);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* One item a thread: each runs until the take's time is over. */
static double rate(struct qn_pool *pool, struct take *t) {
    double rates[TAKES];
    unsigned threads = pool ? qn_pool_threads(pool) : 1;
    if (threads > MAX_POOL) threads = MAX_POOL;
    for (int k = 0; k < TAKES; k++) {
        double sum = 0;
        memset(t->done, 0, sizeof t->done);
        uint64_t start = qn_now_ns();
        t->until = start + TAKE_NS;
        qn_pool_run(pool, threads, run_take, t);
        double seconds = (double)(qn_now_ns() - start) * 1e-9;
        for (unsigned i = 0; i < threads; i++) sum += t->done[i];
        rates[k] = sum / seconds;
    }
    qsort(rates, TAKES, sizeof *rates, by_value);
    return rates[TAKES / 2];
}

double qn_probe_read(struct qn_pool *pool, size_t bytes) {
    struct take t = {.ops = qn_probe_ops()};
    unsigned threads = pool ? qn_pool_threads(pool) : 1;
    t.part = bytes / threads / UNIT * UNIT;
    if (!t.part || threads > MAX_POOL) return 0;
    struct qn_arena a = {0}; /* huge pages, as the weights have: with small ones a quarter is lost */
    if (!qn_arena_open(&a, t.part * threads + UNIT)) return 0;
    uint8_t *p = qn_arena_take(&a, t.part * threads);
    double r = 0;
    if (p) {
        memset(p, 1, t.part * threads); /* pages of their own, not the shared zero page */
        t.memory = p;
        r = rate(pool, &t);
    }
    qn_arena_close(&a);
    return r;
}

double qn_probe_compute(struct qn_pool *pool, uint64_t (*loop)(uint32_t rounds)) {
    struct take t = {.loop = loop};
    return loop ? rate(pool, &t) : 0;
}
