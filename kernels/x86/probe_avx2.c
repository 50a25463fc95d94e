/* Probes of 256-bit loads and multiply-adds. Values pass through volatile, so that no compiler knows the sum.
 */
#include <immintrin.h>

#include "kernels/x86/probe_x86.h"

static uint64_t read(const void *p, size_t bytes) {
    const __m256i *v = p;
    __m256i x[8];
    uint64_t w[4];
    for (int k = 0; k < 8; k++) x[k] = _mm256_setzero_si256();
    for (size_t i = 0; i < bytes / 32; i += 8)
        for (size_t k = 0; k < 8; k++) x[k] = _mm256_xor_si256(x[k], _mm256_loadu_si256(v + i + k));
    for (int k = 1; k < 8; k++) x[0] = _mm256_xor_si256(x[0], x[k]);
    _mm256_storeu_si256((__m256i *)(void *)w, x[0]);
    return w[0] ^ w[1] ^ w[2] ^ w[3];
}

static uint64_t f32(uint32_t rounds) {
    volatile float one = 1.0f;
    __m256 a = _mm256_set1_ps(one), s[QN_PROBE_CHAINS];
    float lanes[8];
    double all = 0;
    for (int k = 0; k < QN_PROBE_CHAINS; k++) s[k] = _mm256_setzero_ps();
    for (uint32_t r = 0; r < rounds; r++)
        for (int k = 0; k < QN_PROBE_CHAINS; k++) s[k] = _mm256_fmadd_ps(a, a, s[k]);
    for (int k = 0; k < QN_PROBE_CHAINS; k++) {
        _mm256_storeu_ps(lanes, s[k]);
        for (int i = 0; i < 8; i++) all += (double)lanes[i];
    }
    return (uint64_t)all;
}

void qn_probe_avx2(struct qn_probe_ops *ops) {
    ops->read = read;
    ops->f32 = f32;
}
