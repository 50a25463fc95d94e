/* A probe of bfloat16 dot products (vdpbf16ps): 32 multiply-adds an instruction. */
#include <immintrin.h>

#include "kernels/x86/probe_x86.h"

static uint64_t bf16(uint32_t rounds) {
    volatile float one = 1.0f;
    __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(one), _mm512_set1_ps(one));
    __m512 s[QN_PROBE_CHAINS];
    double all = 0;
    for (int k = 0; k < QN_PROBE_CHAINS; k++) s[k] = _mm512_setzero_ps();
    for (uint32_t r = 0; r < rounds; r++)
        for (int k = 0; k < QN_PROBE_CHAINS; k++) s[k] = _mm512_dpbf16_ps(s[k], a, a);
    for (int k = 0; k < QN_PROBE_CHAINS; k++) {
        float lanes[16];
        _mm512_storeu_ps(lanes, s[k]);
        for (int i = 0; i < 16; i++) all += (double)lanes[i];
    }
    return (uint64_t)all;
}

void qn_probe_avx512bf16(struct qn_probe_ops *ops) {
    ops->bf16 = bf16;
}
