/* What this machine and this container allow: instruction-set level and number of threads; and its clock.
 * Thread: any; but for the clock, call once at start: the results are constants afterwards. */
#ifndef QN_KERNELS_CPU_H
#define QN_KERNELS_CPU_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* Named levels, in rising order; a level implies all below it. */
enum qn_isa {
    QN_ISA_REF = 0,     /* portable C */
    QN_ISA_AVX2,        /* AVX2 + FMA + F16C */
    QN_ISA_AVX512,      /* AVX-512 F, BW, DQ, VL */
    QN_ISA_AVX512_VNNI, /* + VNNI */
    QN_ISA_AVX512_BF16, /* + BF16 */
    QN_ISA_COUNT
};

/* Highest level of this CPU: CPUID bits and the operating system's XCR0 state, lowered by the environment
 * variable QUERN_ISA (ref, avx2, avx512, avx512vnni, avx512bf16) when that is set. */
enum qn_isa qn_cpu_isa(void);
const char *qn_isa_name(enum qn_isa isa);
/* "AMD EPYC ..." from CPUID, trimmed; never NULL. */
const char *qn_cpu_model(void);

/* How many threads may compute: min(affinity mask, floor(cgroup quota / period)), at least 1; v1 and v2,
 * the whole chain of ancestors. *why (static text) tells which limit decided: "affinity" or "cgroup quota".
 */
unsigned qn_cpu_threads(const char **why);
/* The same read below another root ("/" in production; a fixture tree in tests). affinity = CPUs in the mask.
 */
unsigned qn_cpu_threads_at(const char *root, unsigned affinity, const char **why);

/* Physical memory and the cgroup memory limit (whichever is smaller), bytes; 0 when unknown. */
size_t qn_cpu_memory_bytes(void);

/* The monotonic clock in nanoseconds: for durations and deadlines. */
static inline uint64_t qn_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#endif
