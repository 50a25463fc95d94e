/* Attention with AVX-512, without VNNI. Thread: any. */
#include "kernels/x86/attend512.h"

void qn_avx512_attend(const struct qn_attend *args) {
    switch (args->type) {
    case QN_KV_F32:
        attend(FORM_F32, args);
        break;
    case QN_KV_F16:
        attend(FORM_F16, args);
        break;
    case QN_KV_BF16:
        attend(FORM_BF16, args);
        break;
    default:
        attend(FORM_Q8, args);
        break;
    }
}
