/* Structures as people write them: attention+ffn+sharing, each with parameters in brackets, parts that are
 * left out (or empty) being the model's own:
 *
 *   gqa+swiglu+none    mqa    +moe(experts_per_token=1)    performer(features=64,kernel=relu)+moe+all
 *
 * Pure. Thread: any. */
#ifndef QN_SERVER_STRUCTURE_TEXT_H
#define QN_SERVER_STRUCTURE_TEXT_H

#include <stddef.h>

#include "api/compare.h"
#include "model/model.h"

/* One structure out of text[0, n). 0, or -1 with *err saying what is wrong where. */
int qn_structure_text(const char *text, size_t n, struct qn_api_compare_structure *out,
                      struct qn_api_err *err);
/* A list of them with commas between. *out: free(). At most QN_COMPARE_STRUCTURES. */
int qn_structure_list(const char *text, struct qn_api_compare_structure **out, uint32_t *n,
                      struct qn_api_err *err);
/* Every causal combination that a model can run: the native ones; when there is only one, or with convert,
 * those that can be had by exact conversions too, and with convert all others. The model's own comes first.
 * *out: free(). */
int qn_structure_all(struct qn_model *m, bool convert, struct qn_api_compare_structure **out, uint32_t *n,
                     struct qn_api_err *err);
/* "gqa+swiglu+none" into out; returns out. */
const char *qn_structure_name(const struct qn_api_structure *s, char *out, size_t size);

#endif
