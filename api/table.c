/* Look-up in tables of fields, and reading an object through one. Data flow: table + JSON object -> members
 * of the struct that the table describes, or an error that names the field. Thread: any. */
#include "api/table.h"

#include <string.h>

#include "api/infer_set.h"
#include "api/jget.h"

#define MAX_FIELDS 64

const struct qn_api_field *qn_api_table_row(const struct qn_api_table *t, size_t i) {
    const struct qn_api_field *f = &t->fields[i];
    return f->type == QN_FIELD_SHARED ? qn_api_infer_field(f->name) : f;
}

const struct qn_api_field *qn_api_table_find(const struct qn_api_table *t, const char *name) {
    for (size_t i = 0; i < t->n; i++)
        if (!strcmp(t->fields[i].name, name)) return qn_api_table_row(t, i);
    return NULL;
}

bool qn_api_table_requires(const struct qn_api_table *t, const char *name) {
    for (size_t i = 0; i < sizeof t->required / sizeof *t->required && t->required[i]; i++)
        if (!strcmp(t->required[i], name)) return true;
    return t->any_of[0] && !t->any_of[1] && !strcmp(t->any_of[0], name);
}

static int unknown(const struct qn_api_table *t, const char *key, struct qn_api_err *err) {
    const char *names[MAX_FIELDS];
    size_t n = t->n < MAX_FIELDS ? t->n : MAX_FIELDS;
    for (size_t i = 0; i < n; i++) names[i] = t->fields[i].name;
    return qn_junknown(key, names, n, err);
}

int qn_api_table_read(const struct qn_api_table *t, json_t *object, void *to, const struct qn_api_limits *lim,
                      struct qn_api_err *err) {
    const char *key;
    json_t *v;
    json_object_foreach(object, key, v) {
        const struct qn_api_field *f = qn_api_table_find(t, key);
        if (!f) return unknown(t, key, err);
        if (qn_api_field_set(to, f, v, lim, err)) return -1;
    }
    return 0;
}
