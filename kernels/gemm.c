/* Products through OpenBLAS, for embed, bidirectional encoders and load-time algebra.
 *
 * W is dequantised in panels of GEMM_ROWS output columns, a size that does not depend on the thread count, so
 * that OpenBLAS sees the same shapes whoever runs them. Each thread has its own piece of the caller's work
 * area. Thread: the pool's caller. */
#include "kernels/gemm.h"

#include <cblas.h>

#include "kernels/kernels.h"
#include "kernels/mem.h"

#define GEMM_ROWS 128

void qn_gemm_init(void) {
    openblas_set_num_threads(1);
}

bool qn_gemm_work_bytes(unsigned threads, size_t cols, size_t *out) {
    size_t n;
    return qn_size_mul(cols, GEMM_ROWS * sizeof(float), &n) && qn_size_align(n, QN_ALIGN, &n) &&
           qn_size_mul(n, threads ? threads : 1, out);
}

struct gemm {
    const struct qn_matrix *w;
    const struct qn_act *a;
    const float *bias;
    float *y, *work;
    size_t ldy;
};

static void gemm_item(void *arg, size_t item, unsigned thread) {
    const struct gemm *g = arg;
    uint32_t n0 = (uint32_t)item * GEMM_ROWS, n = g->w->rows - n0;
    size_t cols = g->w->cols;
    float *panel = g->work + thread * ((cols * GEMM_ROWS + 15) & ~(size_t)15);
    float beta = g->bias ? 1.0f : 0.0f, *y = g->y + n0;
    if (n > GEMM_ROWS) n = GEMM_ROWS;
    for (uint32_t r = 0; r < n; r++) qn_matrix_get_row(g->w, n0 + r, panel + r * cols);
    for (uint32_t m = 0; g->bias && m < g->a->rows; m++) {
        for (uint32_t r = 0; r < n; r++) y[m * g->ldy + r] = g->bias[n0 + r];
    }
    if (g->a->rows == 1) { /* sgemm packs W for a single row: several times slower than sgemv */
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (blasint)n, (blasint)cols, 1.0f, panel, (blasint)cols,
                    g->a->x, 1, beta, y, 1);
        return;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)g->a->rows, (blasint)n, (blasint)cols, 1.0f,
                g->a->x, (blasint)g->a->ldx, panel, (blasint)cols, beta, y, (blasint)g->ldy);
}

void qn_gemm_linear(struct qn_pool *pool, const struct qn_matrix *w, const struct qn_act *a,
                    const float *bias, float *y, size_t ldy, void *work) {
    struct gemm g = {.w = w, .a = a, .bias = bias, .y = y, .work = work, .ldy = ldy};
    if (!a->rows || !w->rows) return;
    qn_pool_run(pool, w->rows / GEMM_ROWS + (w->rows % GEMM_ROWS != 0), gemm_item, &g);
}
