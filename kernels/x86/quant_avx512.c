/* Quantised products with AVX-512 BW, without VNNI; and the fill of the whole AVX-512 level. Thread: any. */
#include "kernels/x86/avx512.h"
#include "kernels/x86/linear512.h"
#include "kernels/x86/x86.h"

void qn_avx512_fill(struct qn_ops *ops) {
    ops->isa = QN_ISA_AVX512;
    fill_quant(ops);
    ops->linear[QN_F32] = qn_avx512_linear_f32;
    ops->linear[QN_F16] = qn_avx512_linear_f16;
    ops->linear[QN_BF16] = qn_avx512_linear_bf16;
    ops->quantize_row = qn_avx512_quantize_row;
    ops->attend = qn_avx512_attend;
    ops->mix = qn_avx512_mix;
    ops->dots = qn_avx512_dots;
    ops->softmax = qn_avx512_softmax;
    ops->favor_append = qn_avx512_favor_append;
    ops->favor_read = qn_avx512_favor_read;
    ops->rmsnorm = qn_avx512_rmsnorm;
    ops->layernorm = qn_avx512_layernorm;
    ops->rope = qn_avx512_rope;
    ops->activate = qn_avx512_activate;
    ops->gated = qn_avx512_gated;
    ops->add = qn_avx512_add;
    ops->scale = qn_avx512_scale;
    ops->logsumexp = qn_avx512_logsumexp;
}
