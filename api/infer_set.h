/* One field of POST /v1/infer from one JSON value. Internal to api/: the HTTP parser and the command-line
 * setter share it. Thread: any. */
#ifndef QN_API_INFER_SET_H
#define QN_API_INFER_SET_H

#include <jansson.h>

#include "api/infer_fields.h"

/* null means "not given" and changes nothing. lim may be NULL. 0, or -1 with *err. */
int qn_api_infer_set_json(struct qn_api_infer *r, const struct qn_api_field *f, json_t *v,
                          const struct qn_api_limits *lim, struct qn_api_err *err);

#endif
