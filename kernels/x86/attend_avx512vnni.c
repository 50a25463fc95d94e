/* Attention over 8-bit keys and values with AVX-512 VNNI: the 16-bit dot product adds up by itself. Other
 * types have nothing to gain from it. Thread: any. */
#include <immintrin.h>

#define DOT_I16(acc, a, b) _mm512_dpwssd_epi32(acc, a, b)
#include "kernels/x86/attend512.h"

void qn_avx512vnni_attend(const struct qn_attend *args) {
    if (args->type == QN_KV_Q8) {
        attend(FORM_Q8, args);
    } else {
        qn_avx512_attend(args);
    }
}
