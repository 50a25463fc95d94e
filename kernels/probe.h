/* The limits of this machine, as `quern bench --machine` measures them: bytes per second that can be read,
 * multiply-adds per second. Loops of the widest instructions of the level in use, with no work around them,
 * so that a figure of the model can be held against what memory or arithmetic would allow. Thread: main. */
#ifndef QN_KERNELS_PROBE_H
#define QN_KERNELS_PROBE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/pool.h"

struct qn_probe_ops {
    /* The exclusive or of all 64-bit words of p; bytes a multiple of 512. */
    uint64_t (*read)(const void *p, size_t bytes);
    /* Loops of multiply-adds of 1 and 1; return how many were done, as their own sum says (at most 2^22
     * rounds: sums stay exact). NULL: the level has no such instruction. */
    uint64_t (*f32)(uint32_t rounds);
    uint64_t (*bf16)(uint32_t rounds);
    uint64_t (*int8)(uint32_t rounds);
};
#define QN_PROBE_ROUNDS (1u << 22)
/* Those of the level that qn_cpu_isa() gives. */
const struct qn_probe_ops *qn_probe_ops(void);

/* Bytes per second at which the pool's threads together read `bytes` in all again and again, each its own
 * part: the median of several takes. 0: memory is short. */
double qn_probe_read(struct qn_pool *pool, size_t bytes);
/* Multiply-adds per second of the pool's threads together; loop NULL: 0. */
double qn_probe_compute(struct qn_pool *pool, uint64_t (*loop)(uint32_t rounds));

#endif
