/* BF16 products with vdpbf16ps, and the fill of the BF16 level. The instruction adds a lane's odd product and
 * then its even one, each rounded once to nearest even, tiny values as zeros, whatever the floating-point
 * mode (Intel SDM; tests/kernels/linear_test.c holds it against the reference). Thread: any. */
#include "kernels/x86/avx512.h"
#include "kernels/x86/x86.h"

#define LANES   16u
#define VECTORS 4
#define ROWS    6

typedef __m512 vec;
typedef __m512bh pairs;

static inline pairs weights(const uint8_t *p) {
    return (__m512bh)_mm512_loadu_si512(p);
}

static inline pairs same(uint32_t two) {
    return (__m512bh)_mm512_set1_epi32((int)two);
}

static inline vec dot(vec acc, pairs w, pairs x) {
    return _mm512_dpbf16_ps(acc, w, x);
}

static inline vec start(const float *p, size_t n) {
    return p ? _mm512_maskz_loadu_ps(qn_tail16(n), p) : _mm512_setzero_ps();
}

static inline void store(float *p, vec v, size_t n) {
    _mm512_mask_storeu_ps(p, qn_tail16(n), v);
}

static inline void round_row(const float *x, uint16_t *dst, uint32_t n) {
    for (uint32_t k = 0; k < n; k += 16) {
        __mmask16 lanes = qn_tail16(n - k);
        _mm256_mask_storeu_epi16(dst + k, lanes,
                                 (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(lanes, x + k)));
    }
}

#include "kernels/x86/bf16.h"

void qn_avx512bf16_fill(struct qn_ops *ops) {
    ops->isa = QN_ISA_AVX512_BF16;
    ops->linear[QN_BF16] = bf16_range;
}
