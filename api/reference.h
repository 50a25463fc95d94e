/* The tables of docs/api.md: fields of each body, endpoints, errors, as Markdown. Written from the tables
 * that the parsers go by; `make docs` puts them into the page. Pure. Thread: any. */
#ifndef QN_API_REFERENCE_H
#define QN_API_REFERENCE_H

#include "api/buf.h"

/* Sections, each after a line `<!-- table: NAME -->`: endpoints, every table of api/endpoints.h by the name
 * of its schema, errors. */
void qn_api_reference_write(struct qn_buf *out);

#endif
