/* An attention for tests of fixed-size state alone: out = q / 8 + S + B, where S is folded token by token as
 * S' = 3/4 S + v and B, when it also keeps paged blocks, is the v of the token half-way back. Each layer
 * counts its tokens in the state: a state that is not exactly that of the tokens before a row is noticed.
 * Thread: as any attention. */
#ifndef QN_TESTS_SUPPORT_FOLD_H
#define QN_TESTS_SUPPORT_FOLD_H

#include "model/internal.h"

/* Makes a native variant, of which no sequence exists yet, run with this attention; paged: with blocks too.
 */
void qn_test_fold(struct qn_variant *v, bool paged);
/* Makes it run with an attention that is not causal and keeps no state: out = q / 8 + mean of the span's v.
 */
void qn_test_whole(struct qn_variant *v);
/* Rows whose state was not that of the tokens before them, since the process began. */
unsigned qn_test_fold_faults(void);

#endif
