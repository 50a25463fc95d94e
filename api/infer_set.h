/* Fields from JSON values, by their rows. Internal to api/: the HTTP parsers and the command-line setter
 * share it. Thread: any. */
#ifndef QN_API_INFER_SET_H
#define QN_API_INFER_SET_H

#include <jansson.h>

#include "api/infer_fields.h"
#include "api/table.h"

/* Sets the member of the struct at `to` that the row describes (rows of sequences, stop strings, tasks and
 * guesses: of a struct that begins with a struct qn_api_infer). null means "not given" and changes nothing.
 * lim may be NULL. 0, or -1 with *err. */
int qn_api_field_set(void *to, const struct qn_api_field *f, json_t *v, const struct qn_api_limits *lim,
                     struct qn_api_err *err);
/* Every field of an object, each through its row; a field without one is an error that names the nearest. */
int qn_api_table_read(const struct qn_api_table *t, json_t *object, void *to, const struct qn_api_limits *lim,
                      struct qn_api_err *err);

/* QN_FIELD_STRUCTURES, which api/compare.c knows. */
struct qn_api_compare;
int qn_api_compare_set_structures(struct qn_api_compare *r, const json_t *v, struct qn_api_err *err);
/* The types of the OpenAI endpoints alone, which api/openai_parse.c knows. v is not null. */
struct qn_api_openai;
int qn_api_openai_set(struct qn_api_openai *r, const struct qn_api_field *f, json_t *v,
                      struct qn_api_err *err);

#endif
