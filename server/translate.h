/* The wall between api/ and model/: the same structures in the words of both sides, and the model's errors as
 * errors of a request. Thread: any. */
#ifndef QN_SERVER_TRANSLATE_H
#define QN_SERVER_TRANSLATE_H

#include "api/infer.h"
#include "model/model.h"

void qn_api_to_part(const struct qn_api_part *from, struct qn_part *to);
void qn_part_to_api(const struct qn_part *from, struct qn_api_part *to);
void qn_structure_to_api(const struct qn_structure *from, struct qn_api_structure *to);
const char *qn_origin_name(enum qn_origin o); /* "native" "converted" "synthetic" */

/* A failure of model/ that names the request's field already. code: unless memory was short. Returns -1. */
int qn_fail_from_model(struct qn_api_err *err, const struct qn_err *from, enum qn_api_code code);

/* Three parts of a request. */
struct qn_api_parts {
    const struct qn_api_part *attention, *ffn, *sharing;
    bool convert;
};
/* What they mean for a model: one reference in *out. task: only embed may run a structure that looks ahead.
 * 0, or -1 with *err. */
int qn_resolve_parts(struct qn_model *m, const struct qn_api_parts *parts, enum qn_api_task task,
                     struct qn_variant **out, struct qn_api_err *err);
/* The structure of a model when nothing is asked for; NULL when it can't be resolved. One reference. */
struct qn_variant *qn_native_variant(struct qn_model *m);

#endif
