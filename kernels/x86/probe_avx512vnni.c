/* A probe of 8-bit dot products (vpdpbusd): 64 multiply-adds an instruction. */
#include <immintrin.h>

#include "kernels/x86/probe_x86.h"

static uint64_t int8(uint32_t rounds) {
    volatile char one = 1;
    __m512i a = _mm512_set1_epi8(one), s[QN_PROBE_CHAINS];
    uint64_t all = 0;
    for (int k = 0; k < QN_PROBE_CHAINS; k++) s[k] = _mm512_setzero_si512();
    for (uint32_t r = 0; r < rounds; r++)
        for (int k = 0; k < QN_PROBE_CHAINS; k++) s[k] = _mm512_dpbusd_epi32(s[k], a, a);
    for (int k = 0; k < QN_PROBE_CHAINS; k++) {
        uint32_t lanes[16];
        _mm512_storeu_si512(lanes, s[k]);
        for (int i = 0; i < 16; i++) all += lanes[i];
    }
    return all;
}

void qn_probe_avx512vnni(struct qn_probe_ops *ops) {
    ops->int8 = int8;
}
