/* What a request body may hold: the rows of its fields, and which of them must be there. One table drives the
 * parser of the body (api/infer_set.h), its schema in /openapi.json and its part of docs/api.md. Thread: any;
 * tables are constant. */
#ifndef QN_API_TABLE_H
#define QN_API_TABLE_H

#include "api/infer_fields.h"

/* A row that is the inference's row of the same name. Only for members of a struct qn_api_infer that stands
 * at the beginning of the struct that the table describes. */
#define QN_FIELD_AS_INFER(name)                                                                              \
    { (name), QN_FIELD_SHARED, 0, 0, false, 0, NULL, NULL, 0, 0 }

struct qn_api_table {
    const char *schema; /* its name among the schemas of /openapi.json */
    const struct qn_api_field *fields;
    size_t n;
    const char *required[3]; /* names of fields that must be there */
    const char *any_of[4];   /* names of fields of which one must be there */
};

extern const struct qn_api_table qn_api_infer_table, qn_api_compare_table, qn_api_compare_structure_table,
    qn_api_tokenize_table, qn_api_detokenize_table, qn_api_completion_table, qn_api_chat_table,
    qn_api_embedding_table;

/* Row i < t->n; a shared one is the inference's. */
const struct qn_api_field *qn_api_table_row(const struct qn_api_table *t, size_t i);
/* Row by name; NULL. */
const struct qn_api_field *qn_api_table_find(const struct qn_api_table *t, const char *name);
/* Whether a body without this field is refused; fields of any_of count when they are the only one. */
bool qn_api_table_requires(const struct qn_api_table *t, const char *name);

#endif
