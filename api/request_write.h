/* A request as a client sends it: the way back of the parsers, by the same tables. Pure. Thread: any. */
#ifndef QN_API_REQUEST_WRITE_H
#define QN_API_REQUEST_WRITE_H

#include "api/compare.h"
#include "api/table.h"

/* The body that reads as *from: of the inference's, the comparison's, or the comparison's structures' table.
 * defaults: a struct of the same kind after its init. */
void qn_api_request_write(struct qn_buf *out, const struct qn_api_table *t, const void *from,
                          const void *defaults);

#endif
