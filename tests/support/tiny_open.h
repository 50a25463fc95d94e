/* Opens a tiny random model (tiny_model.h) for tests of model/: written to a temporary file, opened, removed.
 * Thread: the test's. */
#ifndef QN_TESTS_SUPPORT_TINY_OPEN_H
#define QN_TESTS_SUPPORT_TINY_OPEN_H

#include "model/model.h"
#include "tests/support/tiny_model.h"

/* Ends the test with a message when it can't. */
struct qn_model *qn_test_tiny_open(const struct qn_test_tiny *t, const struct qn_open_options *opt);
/* The variant of an attention type ("" = native; kv_heads 0 = not given), prepared. Ends the test when it
 * can't. */
struct qn_variant *qn_test_variant(struct qn_model *m, const char *attention, uint32_t kv_heads);
/* splitmix64: the next number of a test's own sequence. */
uint64_t qn_test_random(uint64_t *state);
/* In [0, n). */
uint32_t qn_test_below(uint64_t *state, uint32_t n);

#endif
