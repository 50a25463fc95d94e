/* The constraint of a request's outputs from JSON values: `regex`, `json_schema`, and the response formats of
 * other endpoints. Internal to api/. Thread: any. */
#ifndef QN_API_CONSTRAINT_H
#define QN_API_CONSTRAINT_H

#include <jansson.h>

#include "api/infer.h"

/* A string: every output matches it as a whole. An output has one constraint: INVALID when *c came from
 * another field. 0, or -1 with *err naming `param`. */
int qn_api_constraint_regex(struct qn_api_constraint *c, const json_t *v, const char *param,
                            struct qn_api_err *err);
/* true (any JSON object), or a schema as an object, of which compact JSON text is kept. 0, or -1. */
int qn_api_constraint_schema(struct qn_api_constraint *c, const json_t *v, const char *param,
                             struct qn_api_err *err);
/* Appends a value as compact JSON text, keys in their order. */
void qn_api_json_text(struct qn_buf *b, json_t *v);
void qn_api_constraint_free(struct qn_api_constraint *c); /* also resets */

#endif
