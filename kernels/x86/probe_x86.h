/* What kernels/x86 gives to probe.c: each level overwrites the loops that it makes faster. Private to
 * kernels/. */
#ifndef QN_KERNELS_PROBE_X86_H
#define QN_KERNELS_PROBE_X86_H

#include "kernels/probe.h"

#define QN_PROBE_CHAINS 12 /* independent sums: more than latency times issue rate */

void qn_probe_avx2(struct qn_probe_ops *ops);
void qn_probe_avx512(struct qn_probe_ops *ops);
void qn_probe_avx512vnni(struct qn_probe_ops *ops);
void qn_probe_avx512bf16(struct qn_probe_ops *ops);

#endif
