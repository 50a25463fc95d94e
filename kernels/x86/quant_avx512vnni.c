/* Quantised products with AVX-512 VNNI. Thread: any. */
#include "kernels/x86/avx512.h"
#include "kernels/x86/linear512.h"
#include "kernels/x86/x86.h"

void qn_avx512vnni_fill(struct qn_ops *ops) {
    ops->isa = QN_ISA_AVX512_VNNI;
    fill_quant(ops);
    ops->attend = qn_avx512vnni_attend;
}
