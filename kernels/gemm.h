/* Start-up of OpenBLAS. Private to kernels/; the product itself is declared in kernels/kernels.h. */
#ifndef QN_KERNELS_GEMM_H
#define QN_KERNELS_GEMM_H

/* One thread per OpenBLAS call: the pool is the only place where work is split. Idempotent. */
void qn_gemm_init(void);

#endif
