/* Rewrites a GGUF file with its quantised matrices as F32 or F16: the same model without quantised
 * arithmetic. Thread: any. */
#ifndef QN_TESTS_SUPPORT_REQUANT_H
#define QN_TESTS_SUPPORT_REQUANT_H

#include <stdbool.h>

#include "kernels/kernels.h"

/* Metadata is copied byte for byte; tensors of other types than F32 are dequantised to `to` (QN_F32 or
 * QN_F16, QN_BF16). The source is trusted (a test's own or a checked download). False when a file can't be
 * read or written or holds a type that quern does not know. */
bool qn_requant(const char *from, const char *path, enum qn_type to);

#endif
