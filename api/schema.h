/* JSON schemas -> grammars, in the words of model/constrain/regex.h (one rule a line). Thread: any.
 *
 * The subset is what OpenAI's strict mode allows, and a little more; what is not in it is refused by name and
 * place. Every text of the grammar is JSON that the schema describes, though not every such JSON is a text of
 * it: members come in the order of `properties`, blanks and line breaks are bounded, numbers have at most 15
 * digits on each side of the point. */
#ifndef QN_API_SCHEMA_H
#define QN_API_SCHEMA_H

#include "api/infer.h"

#define QN_SCHEMA_DIGITS 15   /* of a number, before and after the point */
#define QN_SCHEMA_STRING 4096 /* most characters of a string whose maxLength is larger */
#define QN_SCHEMA_INDENT 16   /* most blanks after a line break */

/* The grammar of a constraint of kind QN_CONSTRAIN_JSON or QN_CONSTRAIN_SCHEMA; param: the field that it came
 * from. 0, or -1 with *err (param.keyword for what is not supported). */
int qn_api_schema_grammar(const struct qn_api_constraint *c, const char *param, struct qn_buf *out,
                          struct qn_api_err *err);

#endif
