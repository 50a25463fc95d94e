/* Random numbers that mean the same everywhere: splitmix64 (Steele et al. 2014). What is drawn from a seed is
 * part of results and of synthetic models, so none of this may change. Thread: any; no state but the
 * caller's. */
#ifndef QN_MODEL_RANDOM_H
#define QN_MODEL_RANDOM_H

#include <stdint.h>

#define QN_RANDOM_STEP UINT64_C(0x9e3779b97f4a7c15) /* from state to state */

/* The finaliser: every bit of z has a say in every bit of the result. */
static inline uint64_t qn_random_mix(uint64_t z) {
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* The next number of a sequence. */
static inline uint64_t qn_random_next(uint64_t *state) {
    return qn_random_mix(*state += QN_RANDOM_STEP);
}

#endif
