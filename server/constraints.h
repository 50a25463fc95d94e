/* Constraints of requests, made once per text and model and kept for the next request with the same text.
 * Thread: any; making one takes up to 50 ms, so the loop only looks whether it is there. */
#ifndef QN_SERVER_CONSTRAINTS_H
#define QN_SERVER_CONSTRAINTS_H

#include "api/infer.h"
#include "model/constrain/constrain.h"

/* The constraint that is there already, with one reference; NULL. */
struct qn_constraint *qn_constraints_find(const struct qn_model *m, const struct qn_api_constraint *c);
/* Finds or makes it. One reference in *out. 0, or -1 with *err that names the field (and keyword). */
int qn_constraints_make(struct qn_model *m, const struct qn_api_constraint *c, struct qn_constraint **out,
                        struct qn_api_err *err);
/* Before a model is closed. */
void qn_constraints_drop(const struct qn_model *m);

#endif
