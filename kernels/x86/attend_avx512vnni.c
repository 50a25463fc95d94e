/* Attention over 8-bit keys and values with AVX-512 VNNI: the 16-bit dot product adds up by itself. Other
 * types have nothing to gain from it. Thread: any. */
#include <immintrin.h>

/* Not the intrinsic: gcc 12 copies its accumulators about, and runs out of registers. */
#define ADD_DOT_I16(acc, a, b) __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b))
#include "kernels/x86/attend512.h"

void qn_avx512vnni_attend(const struct qn_attend *args) {
    if (args->type == QN_KV_Q8) {
        attend(FORM_Q8, args);
    } else {
        qn_avx512_attend(args);
    }
}
