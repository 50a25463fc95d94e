/* The constraint of a request's outputs. Data flow: a value of the request's tree -> struct
 * qn_api_constraint, which outlives the tree: a schema is written out again as compact JSON text, keys in
 * their order. Thread: any. */
#include "api/constraint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/buf.h"
#include "api/jget.h"

void qn_api_constraint_free(struct qn_api_constraint *c) {
    free(c->text);
    *c = (struct qn_api_constraint){0};
}

/* Makes room for a new constraint of one of the two kinds; given twice by one field, the last one holds. */
static int take(struct qn_api_constraint *c, bool regex, const char *param, struct qn_api_err *err) {
    if (c->kind != QN_CONSTRAIN_NONE && (c->kind == QN_CONSTRAIN_REGEX) != regex)
        return qn_api_fail(err, QN_API_INVALID, param,
                           "an output follows a regular expression or a JSON schema, not both");
    qn_api_constraint_free(c);
    return 0;
}

int qn_api_constraint_regex(struct qn_api_constraint *c, const json_t *v, const char *param,
                            struct qn_api_err *err) {
    if (take(c, true, param, err) || qn_jget_text(v, param, 1, QN_API_MAX_REGEX, &c->text, &c->n, err))
        return -1;
    c->kind = QN_CONSTRAIN_REGEX;
    return 0;
}

/* jansson's own writer allocates on the way, which an open document has no memory for (jload.c). The loader
 * has bounded the depth. */
void qn_api_json_text(struct qn_buf *b, json_t *v) {
    const char *key;
    json_t *item;
    bool first = true;
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        qn_buf_str(b, "{");
        json_object_foreach(v, key, item) {
            if (!first) qn_buf_str(b, ",");
            first = false;
            qn_buf_json_str(b, key, strlen(key));
            qn_buf_str(b, ":");
            qn_api_json_text(b, item);
        }
        qn_buf_str(b, "}");
        break;
    case JSON_ARRAY:
        qn_buf_str(b, "[");
        for (size_t i = 0; i < json_array_size(v); i++) {
            if (i) qn_buf_str(b, ",");
            qn_api_json_text(b, json_array_get(v, i));
        }
        qn_buf_str(b, "]");
        break;
    case JSON_STRING:
        qn_buf_json_str(b, json_string_value(v), json_string_length(v));
        break;
    case JSON_INTEGER:
        qn_buf_json_int(b, json_integer_value(v));
        break;
    case JSON_REAL: {
        char number[40];
        for (int digits = 15; digits <= 17; digits++) { /* 0.1 stays 0.1 */
            snprintf(number, sizeof number, "%.*g", digits, json_real_value(v));
            if (strtod(number, NULL) == json_real_value(v)) break;
        }
        qn_buf_str(b, number);
        if (!strpbrk(number, ".e")) qn_buf_str(b, ".0"); /* stays a real when read again */
        break;
    }
    case JSON_TRUE:
    case JSON_FALSE:
        qn_buf_str(b, json_is_true(v) ? "true" : "false");
        break;
    case JSON_NULL:
        qn_buf_str(b, "null");
        break;
    }
}

int qn_api_constraint_schema(struct qn_api_constraint *c, const json_t *v, const char *param,
                             struct qn_api_err *err) {
    struct qn_buf b = {0};
    char show[QN_JSHOW];
    if (!json_is_true(v) && !json_is_object(v))
        return qn_api_fail(err, QN_API_INVALID, param,
                           "\"%s\" must be a JSON schema as an object, or true for any JSON object, got %s",
                           param, qn_jshow(v, show));
    if (take(c, false, param, err)) return -1;
    if (json_is_true(v)) {
        c->kind = QN_CONSTRAIN_JSON;
        return 0;
    }
    qn_api_json_text(&b, (json_t *)(uintptr_t)v); /* jansson's loops want no const */
    bool short_of_memory = b.failed;
    if (short_of_memory || b.n > QN_API_MAX_SCHEMA) {
        qn_buf_free(&b);
        if (short_of_memory) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
        return qn_api_fail(err, QN_API_INVALID, param, "\"%s\" is larger than %d bytes of compact JSON",
                           param, QN_API_MAX_SCHEMA);
    }
    *c = (struct qn_api_constraint){.kind = QN_CONSTRAIN_SCHEMA, .text = b.p, .n = b.n};
    return 0;
}
