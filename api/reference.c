/* The tables of docs/api.md. Data flow: list of endpoints, tables of fields, codes -> Markdown. Thread: any.
 */
#include "api/reference.h"

#include <ctype.h>
#include <string.h>

#include "api/endpoints.h"
#include "api/error.h"

static void section(struct qn_buf *b, const char *name) {
    qn_buf_printf(b, "<!-- table: %s -->\n", name);
}

static void endpoints(struct qn_buf *b) {
    size_t n;
    const struct qn_api_endpoint *e = qn_api_endpoints(&n);
    section(b, "endpoints");
    qn_buf_str(b, "| | | body | 200 |\n|---|---|---|---|\n");
    for (size_t i = 0; i < n; i++) {
        char method[8] = "";
        for (size_t k = 0; e[i].method[k] && k + 1 < sizeof method; k++)
            method[k] = (char)toupper((unsigned char)e[i].method[k]);
        qn_buf_printf(b, "| `%s %s` | %s | %s%s%s | %s%s |\n", method, e[i].path, e[i].summary,
                      e[i].request ? "`" : "", e[i].request ? e[i].request->schema : "",
                      e[i].request ? "`" : "", e[i].reply, e[i].event ? ", or events" : "");
    }
}

static void range(struct qn_buf *b, const struct qn_api_field *f) {
    qn_buf_str(b, f->min_open ? ", above " : ", ");
    qn_buf_json_num(b, f->min, 3);
    qn_buf_str(b, f->min_open ? ", at most " : " to ");
    qn_buf_json_num(b, f->max, 3);
}

static void type(struct qn_buf *b, const struct qn_api_field *f) {
    static const char *const names[] = {[QN_FIELD_MODEL] = "model id",
                                        [QN_FIELD_PART] = "name or object",
                                        [QN_FIELD_BOOL] = "boolean",
                                        [QN_FIELD_U32] = "integer",
                                        [QN_FIELD_U64] = "integer",
                                        [QN_FIELD_FLOAT] = "number",
                                        [QN_FIELD_SEQUENCE] = "text, ids, or an array of either",
                                        [QN_FIELD_STOP] = "string or array",
                                        [QN_FIELD_SPECULATIVE] = "name or object",
                                        [QN_FIELD_REGEX] = "text",
                                        [QN_FIELD_SCHEMA] = "object or `true`",
                                        [QN_FIELD_TARGET] = "model id",
                                        [QN_FIELD_MESSAGES] = "array of objects",
                                        [QN_FIELD_STREAM_OPTIONS] = "object",
                                        [QN_FIELD_ENCODING] = "`float`, `base64`",
                                        [QN_FIELD_RESPONSE_FORMAT] = "object",
                                        [QN_FIELD_IGNORED] = "any",
                                        [QN_FIELD_REFUSED] = "`null` or empty",
                                        [QN_FIELD_ONE] = "text or ids",
                                        [QN_FIELD_STRUCTURES] = "array of objects",
                                        [QN_FIELD_TEXT] = "text",
                                        [QN_FIELD_IDS] = "array of ids"};
    switch (f->type) {
    case QN_FIELD_U32:
    case QN_FIELD_U64:
    case QN_FIELD_FLOAT:
        qn_buf_str(b, names[f->type]);
        range(b, f);
        return;
    case QN_FIELD_STRUCTURES:
    case QN_FIELD_IDS:
    case QN_FIELD_MESSAGES:
        qn_buf_str(b, names[f->type]);
        qn_buf_printf(b, ", %.0f to %.0f", f->min, f->max);
        return;
    case QN_FIELD_TASK:
        for (unsigned t = 0; t <= (unsigned)f->max; t++)
            qn_buf_printf(b, "%s`%s`", t ? ", " : "", qn_api_task_name((enum qn_api_task)t));
        return;
    default:
        qn_buf_str(b, names[f->type]);
    }
}

/* Text of a cell: bars would end it. */
static void cell(struct qn_buf *b, const char *s) {
    for (; *s; s++) {
        if (*s == '|') qn_buf_str(b, "\\");
        qn_buf_add(b, s, 1);
    }
}

static void fields(struct qn_buf *b, const struct qn_api_table *t) {
    section(b, t->schema);
    qn_buf_str(b, "| field | type | default | meaning |\n|---|---|---|---|\n");
    for (size_t i = 0; i < t->n; i++) {
        const struct qn_api_field *f = qn_api_table_row(t, i);
        qn_buf_printf(b, "| `%s` | ", f->name);
        type(b, f);
        qn_buf_str(b, " | ");
        if (qn_api_table_requires(t, f->name))
            qn_buf_str(b, "required");
        else if (f->def)
            qn_buf_printf(b, "`%s`", f->def);
        qn_buf_str(b, " | ");
        cell(b, f->doc);
        qn_buf_str(b, " |\n");
    }
}

static void errors(struct qn_buf *b) {
    size_t n;
    const struct qn_api_refusal *r = qn_api_refusals(&n);
    section(b, "errors");
    qn_buf_str(b, "| status | code | when |\n|---|---|---|\n");
    for (size_t i = 0; i < n; i++) {
        const char *between = "";
        qn_buf_printf(b, "| %u | ", r[i].status);
        for (int c = QN_API_INVALID; c < QN_API_CODE_COUNT; c++) {
            if (qn_api_status((enum qn_api_code)c) != r[i].status) continue;
            qn_buf_printf(b, "%s`%s`", between, qn_api_code_name((enum qn_api_code)c));
            between = ", ";
        }
        qn_buf_str(b, " | ");
        cell(b, r[i].text);
        qn_buf_str(b, r[i].retry ? " With `Retry-After`. |\n" : " |\n");
    }
}

void qn_api_reference_write(struct qn_buf *b) {
    const struct qn_api_table *const *t = qn_api_tables();
    endpoints(b);
    for (; *t; t++) fields(b, *t);
    errors(b);
}
