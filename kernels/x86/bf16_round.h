/* What BF16 products need of CPUs without bfloat16: rounding to it, and the floating-point mode in which tiny
 * values are zeros (MXCSR's FTZ and DAZ). Private to kernels/x86. Thread: any; the mode is the thread's. */
#ifndef QN_KERNELS_X86_BF16_ROUND_H
#define QN_KERNELS_X86_BF16_ROUND_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* The mode that was. Operations on floats must not move across: call what needs the mode out of line. */
static inline unsigned qn_tiny_as_zero(void) {
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040u);
    return mode;
}

static inline void qn_float_mode(unsigned mode) {
    _mm_setcsr(mode);
}

/* To nearest even, what is below the least normal number as zero; in integers, so that the loop becomes
 * vectors whatever the mode. */
static inline void round_row(const float *x, uint16_t *dst, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) {
        uint32_t u, r;
        memcpy(&u, x + k, sizeof u);
        r = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
        r = (u & 0x7fffffffu) > 0x7f800000u ? (u >> 16 | 0x40u) : r;
        r = (u & 0x7fffffffu) < 0x00800000u ? (u >> 16 & 0x8000u) : r;
        dst[k] = (uint16_t)r;
    }
}

#endif
