/* What the files that write /openapi.json share. Internal to api/. Thread: any. */
#ifndef QN_API_OPENAPI_PARTS_H
#define QN_API_OPENAPI_PARTS_H

#include "api/infer_fields.h"

/* Appends s with every ' turned into ". */
void qn_openapi_text(struct qn_buf *b, const char *s);
/* The schema of one row of a field table, in braces. */
void qn_openapi_field(struct qn_buf *b, const struct qn_api_field *f);
/* Schemas of the OpenAI endpoints, each with a comma behind it. (openapi_openai.c) */
void qn_openapi_openai(struct qn_buf *b);

#endif
