/* GET /openapi.json: OpenAPI 3.1, generated from the list of endpoints and the same field tables that
 * validate requests, so that it can't drift from them. Pure; built once at start. */
#ifndef QN_API_OPENAPI_H
#define QN_API_OPENAPI_H

#include "api/buf.h"

/* Appends s with every ' turned into ". For the files that write the document. */
void qn_api_openapi_text(struct qn_buf *out, const char *s);

void qn_api_openapi_write(struct qn_buf *out, const char *version);

#endif
