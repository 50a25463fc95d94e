/* BF16 products with AVX2: two fused multiply-adds for a pair, in the mode that takes tiny values as zeros.
 * Thread: any; it has its own mode back in the end. */
#include "kernels/x86/avx2.h"
#include "kernels/x86/bf16_round.h"

#define LANES   8u
#define VECTORS 4
#define ROWS    2

typedef __m256 vec;
typedef __m256i pairs;

static inline pairs weights(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

static inline pairs same(uint32_t two) {
    return _mm256_set1_epi32((int)two);
}

static inline __m256 odd_of(pairs v) {
    return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000u)));
}

static inline __m256 even_of(pairs v) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
}

static inline vec dot(vec acc, pairs w, pairs x) {
    return _mm256_fmadd_ps(even_of(w), even_of(x), _mm256_fmadd_ps(odd_of(w), odd_of(x), acc));
}

static inline vec start(const float *p, size_t n) {
    return p ? _mm256_maskload_ps(p, qn_tail8((ptrdiff_t)n)) : _mm256_setzero_ps();
}

static inline void store(float *p, vec v, size_t n) {
    _mm256_maskstore_ps(p, qn_tail8((ptrdiff_t)n), v);
}

#include "kernels/x86/bf16.h"

void qn_avx2_linear_bf16(const struct qn_linear_args *args) {
    unsigned mode = qn_tiny_as_zero();
    bf16_range(args);
    qn_float_mode(mode);
}
