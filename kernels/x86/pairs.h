/* Integer activations as vpmaddwd wants them, for products without VNNI: two 16-bit values per 32-bit lane.
 *
 * A 32-bit lane of packed codes holds k = 4c .. 4c + 3 of one output row. Its even and odd bytes, widened in
 * place, are two operands of 16-bit pairs, (4c, 4c + 2) and (4c + 1, 4c + 3): lanes stay rows, and nothing is
 * shuffled. Here the activations are put into the same pairs. A product of codes up to 255 with these is
 * exact in 32 bits, offsets left in (see kernels/ref/linear.c). Private to kernels/x86. */
#ifndef QN_KERNELS_X86_PAIRS_H
#define QN_KERNELS_X86_PAIRS_H

#include <immintrin.h>

#include "kernels/act.h"

/* One block's 32 values: out[c] = (v[4c], v[4c + 2]), out[8 + c] = (v[4c + 1], v[4c + 3]). */
static inline __attribute__((always_inline)) void qn_act_pairs(const struct qn_act_block *b,
                                                               int32_t out[16]) {
    __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)b->high);
    __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)b->low));
    low =
        _mm256_permutevar8x32_epi32(low, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)); /* one for two groups */
    __m256i even_low = _mm256_srai_epi16(_mm256_slli_epi16(low, 8), 8), odd_low = _mm256_srai_epi16(low, 8);
    even_low = _mm256_blend_epi32(even_low, _mm256_slli_epi16(even_low, 4), 0xaa);
    odd_low = _mm256_blend_epi32(odd_low, _mm256_slli_epi16(odd_low, 4), 0xaa);
    __m256i even = _mm256_add_epi16(_mm256_slli_epi16(high, 8), even_low);
    __m256i odd = _mm256_add_epi16(_mm256_and_si256(high, _mm256_set1_epi16((short)0xff00)), odd_low);
    _mm256_storeu_si256((__m256i *)(void *)out, even);
    _mm256_storeu_si256((__m256i *)(void *)(out + 8), odd);
}

#endif
