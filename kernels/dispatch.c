/* Chooses the kernels: reference first, then every level that the CPU and the caller allow overwrites
 * entries.
 *
 * Thread: qn_kernels_init once at start (tests: with nothing else running); the table is read-only
 * afterwards. */
#include "kernels/gemm.h"
#include "kernels/kernels.h"
#include "kernels/ref/ref.h"
#if defined(__x86_64__)
#include "kernels/x86/x86.h"
#endif

static struct qn_ops table;
static const struct qn_ops *in_force = &qn_ref_ops;

void qn_ops_fill(struct qn_ops *ops, enum qn_isa max) {
    enum qn_isa isa = qn_cpu_isa();
    if (isa > max) isa = max;
    *ops = qn_ref_ops;
#if defined(__x86_64__)
    if (isa < QN_ISA_AVX2) return;
    qn_avx2_fill(ops);
    if (isa < QN_ISA_AVX512) return;
    qn_avx512_fill(ops);
    if (isa < QN_ISA_AVX512_VNNI) return;
    qn_avx512vnni_fill(ops);
    if (isa >= QN_ISA_AVX512_BF16) qn_avx512bf16_fill(ops);
#endif
}

void qn_kernels_init(enum qn_isa max) {
    qn_gemm_init();
    qn_ops_fill(&table, max);
    in_force = &table;
}

void qn_kernels_ensure(void) {
    if (in_force != &table) qn_kernels_init(QN_ISA_COUNT - 1);
}

const struct qn_ops *qn_ops(void) {
    return in_force;
}
