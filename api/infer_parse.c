/* POST /v1/infer: the body's bytes -> struct qn_api_infer. Data flow: bounds over the raw bytes and the tree
 * (jload.c), then each key through the field table (infer_set.c), then the rules of the whole
 * (infer_fields.c). Thread: any. */
#include "api/infer_set.h"
#include "api/jload.h"

int qn_api_infer_parse(const char *body, size_t len, const struct qn_api_limits *lim,
                       struct qn_api_infer *out, struct qn_api_err *err) {
    struct qn_jbounds bounds = {.max_depth = lim ? lim->max_depth : 0,
                                .max_elements = lim ? lim->max_elements : 0};
    struct qn_jdoc doc;
    qn_api_infer_init(out);
    int rc = qn_jdoc_open(&doc, body, len, &bounds, err);
    if (rc == 0) rc = qn_api_table_read(&qn_api_infer_table, doc.root, out, lim, err);
    if (rc == 0) rc = qn_api_infer_check(out, lim, err);
    if (rc == 0) qn_api_infer_bound(out, lim);
    qn_jdoc_close(&doc);
    return rc;
}
