/* Probes of 512-bit loads and multiply-adds. */
#include <immintrin.h>

#include "kernels/x86/probe_x86.h"

static uint64_t read(const void *p, size_t bytes) {
    const uint8_t *v = p;
    __m512i x[8];
    for (int k = 0; k < 8; k++) x[k] = _mm512_setzero_si512();
    for (size_t i = 0; i < bytes; i += 512)
        for (size_t k = 0; k < 8; k++) x[k] = _mm512_xor_si512(x[k], _mm512_loadu_si512(v + i + 64 * k));
    for (int k = 1; k < 8; k++) x[0] = _mm512_xor_si512(x[0], x[k]);
    uint64_t w[8], all = 0;
    _mm512_storeu_si512(w, x[0]);
    for (int k = 0; k < 8; k++) all ^= w[k];
    return all;
}

static uint64_t f32(uint32_t rounds) {
    volatile float one = 1.0f;
    __m512 a = _mm512_set1_ps(one), s[QN_PROBE_CHAINS];
    double all = 0;
    for (int k = 0; k < QN_PROBE_CHAINS; k++) s[k] = _mm512_setzero_ps();
    for (uint32_t r = 0; r < rounds; r++)
        for (int k = 0; k < QN_PROBE_CHAINS; k++) s[k] = _mm512_fmadd_ps(a, a, s[k]);
    for (int k = 0; k < QN_PROBE_CHAINS; k++) {
        float lanes[16];
        _mm512_storeu_ps(lanes, s[k]);
        for (int i = 0; i < 16; i++) all += (double)lanes[i];
    }
    return (uint64_t)all;
}

void qn_probe_avx512(struct qn_probe_ops *ops) {
    ops->read = read;
    ops->f32 = f32;
}
