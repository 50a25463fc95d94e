/* CPU features as named levels. A level counts only when the operating system saves its registers (XCR0). */
#include <cpuid.h>
#include <string.h>

#include "kernels/x86/x86.h"

#define XCR0_AVX    0x06u /* SSE and AVX state */
#define XCR0_AVX512 0xe6u /* and opmask, upper halves, upper 16 registers */

static unsigned read_xcr0(void) {
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

static bool has(unsigned reg, unsigned bits) {
    return (reg & bits) == bits;
}

enum qn_isa qn_x86_isa(void) {
    unsigned a, b, c, d, b7, c7, d7, a71 = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C))
        return QN_ISA_REF;
    unsigned xcr0 = read_xcr0();
    if (!has(xcr0, XCR0_AVX) || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !has(b7, bit_AVX2))
        return QN_ISA_REF;
    if (a >= 1) __get_cpuid_count(7, 1, &a71, &b, &c, &d);
    if (!has(xcr0, XCR0_AVX512) || !has(b7, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL))
        return QN_ISA_AVX2;
    if (!has(c7, bit_AVX512VNNI)) return QN_ISA_AVX512;
    return has(a71, 1u << 5) ? QN_ISA_AVX512_BF16 : QN_ISA_AVX512_VNNI;
}

void qn_x86_model(char out[49]) {
    unsigned r[12], top = (unsigned)__get_cpuid_max(0x80000000u, NULL);
    char text[49] = {0};
    out[0] = 0;
    if (top < 0x80000004u) return;
    for (unsigned i = 0; i < 3; i++) {
        __get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]);
    }
    memcpy(text, r, 48);
    size_t from = strspn(text, " "), len = strlen(text + from);
    while (len && text[from + len - 1] == ' ') len--;
    memcpy(out, text + from, len);
    out[len] = 0;
}
