/* Chooses the kernels: reference first, then every level that the CPU and the caller allow overwrites
 * entries.
 *
 * Thread: qn_kernels_init once at start (tests: with nothing else running); the table is read-only
 * afterwards. */
#include "kernels/gemm.h"
#include "kernels/kernels.h"
#include "kernels/ref/ref.h"

static struct qn_ops table;
static const struct qn_ops *in_force = &qn_ref_ops;

void qn_ops_fill(struct qn_ops *ops, enum qn_isa max) {
    (void)max;
    *ops = qn_ref_ops;
}

void qn_kernels_init(enum qn_isa max) {
    qn_gemm_init();
    qn_ops_fill(&table, max);
    in_force = &table;
}

const struct qn_ops *qn_ops(void) {
    return in_force;
}
