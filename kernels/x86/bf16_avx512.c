/* BF16 products with AVX-512 that has no bfloat16: two fused multiply-adds for a pair, in the mode that takes
 * tiny values as zeros. Thread: any; it has its own mode back in the end. */
#include "kernels/x86/avx512.h"
#include "kernels/x86/bf16_round.h"

#define LANES   16u
#define VECTORS 4
#define ROWS    4

typedef __m512 vec;
typedef __m512i pairs;

static inline pairs weights(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}

static inline pairs same(uint32_t two) {
    return _mm512_set1_epi32((int)two);
}

static inline __m512 odd_of(pairs v) {
    return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000u)));
}

static inline __m512 even_of(pairs v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

static inline vec dot(vec acc, pairs w, pairs x) {
    return _mm512_fmadd_ps(even_of(w), even_of(x), _mm512_fmadd_ps(odd_of(w), odd_of(x), acc));
}

static inline vec start(const float *p, size_t n) {
    return p ? _mm512_maskz_loadu_ps(qn_tail16(n), p) : _mm512_setzero_ps();
}

static inline void store(float *p, vec v, size_t n) {
    _mm512_mask_storeu_ps(p, qn_tail16(n), v);
}

#include "kernels/x86/bf16.h"

void qn_avx512_linear_bf16(const struct qn_linear_args *args) {
    unsigned mode = qn_tiny_as_zero();
    bf16_range(args);
    qn_float_mode(mode);
}
