/* What kernels/x86 gives to dispatch.c and cpu.c. Private to kernels/. */
#ifndef QN_KERNELS_X86_H
#define QN_KERNELS_X86_H

#include "kernels/kernels.h"

/* Highest level that CPUID and the operating system's XCR0 allow. */
enum qn_isa qn_x86_isa(void);
/* CPUID's brand string, trimmed, into out[49]; empty when the CPU has none. */
void qn_x86_model(char out[49]);

/* Each overwrites the entries that its level makes faster, and sets ops->isa. */
void qn_avx2_fill(struct qn_ops *ops);
void qn_avx512_fill(struct qn_ops *ops);
void qn_avx512vnni_fill(struct qn_ops *ops);
void qn_avx512bf16_fill(struct qn_ops *ops);

#endif
