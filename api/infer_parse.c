/* POST /v1/infer: the body's bytes -> struct qn_api_infer. Data flow: bounds over the raw bytes and the tree
 * (jload.c), then each key through the field table (infer_set.c), then the rules of the whole
 * (infer_fields.c). Thread: any. */
#include <stdlib.h>
#include <string.h>

#include "api/infer_set.h"
#include "api/jget.h"
#include "api/jload.h"

#define MAX_FIELDS 64

static int unknown(const char *key, struct qn_api_err *err) {
    const char *names[MAX_FIELDS];
    size_t n;
    const struct qn_api_field *f = qn_api_infer_fields(&n);
    if (n > MAX_FIELDS) n = MAX_FIELDS;
    for (size_t i = 0; i < n; i++) names[i] = f[i].name;
    return qn_junknown(key, names, n, err);
}

static int read_fields(json_t *root, const struct qn_api_limits *lim, struct qn_api_infer *out,
                       struct qn_api_err *err) {
    const char *key;
    json_t *v;
    json_object_foreach(root, key, v) {
        const struct qn_api_field *f = qn_api_infer_field(key);
        if (!f) return unknown(key, err);
        if (qn_api_infer_set_json(out, f, v, lim, err)) return -1;
    }
    return 0;
}

int qn_api_infer_parse(const char *body, size_t len, const struct qn_api_limits *lim,
                       struct qn_api_infer *out, struct qn_api_err *err) {
    struct qn_jbounds bounds = {lim ? lim->max_depth : 0, lim ? lim->max_elements : 0};
    struct qn_jdoc doc;
    qn_api_infer_init(out);
    int rc = qn_jdoc_open(&doc, body, len, &bounds, err);
    if (rc == 0) rc = read_fields(doc.root, lim, out, err);
    if (rc == 0) rc = qn_api_infer_check(out, lim, err);
    qn_jdoc_close(&doc);
    return rc;
}
