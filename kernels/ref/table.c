/* The reference table: what qn_ops() gives before qn_kernels_init, and the base that other levels overwrite.
 */
#include "kernels/ref/ref.h"

const struct qn_ops qn_ref_ops = {
    .isa = QN_ISA_REF,
    .linear = {[QN_F32] = qn_ref_linear_float,
               [QN_F16] = qn_ref_linear_float,
               [QN_BF16] = qn_ref_linear_float,
               [QN_Q8_0] = qn_ref_linear_quant,
               [QN_Q4_0] = qn_ref_linear_quant,
               [QN_Q4_1] = qn_ref_linear_quant,
               [QN_Q5_0] = qn_ref_linear_quant,
               [QN_Q5_1] = qn_ref_linear_quant,
               [QN_Q4_K] = qn_ref_linear_quant,
               [QN_Q5_K] = qn_ref_linear_quant,
               [QN_Q6_K] = qn_ref_linear_quant},
    .quantize_row = qn_ref_quantize_row,
    .attend = qn_ref_attend,
    .kv_write = qn_ref_kv_write,
    .mix = qn_ref_mix,
    .dots = qn_ref_dots,
    .softmax = qn_ref_softmax,
    .favor_append = qn_ref_favor_append,
    .favor_read = qn_ref_favor_read,
    .rmsnorm = qn_ref_rmsnorm,
    .layernorm = qn_ref_layernorm,
    .rope = qn_ref_rope,
    .activate = qn_ref_activate,
    .gated = qn_ref_gated,
    .add = qn_ref_add,
    .scale = qn_ref_scale,
    .logsumexp = qn_ref_logsumexp,
};
