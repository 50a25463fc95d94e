/* Pieces of the grammars of api/schema.c. Internal to api/. Thread: any. */
#ifndef QN_API_SCHEMA_TEXT_H
#define QN_API_SCHEMA_TEXT_H

#include <jansson.h>

#include "api/buf.h"

#define QN_SCHEMA_BLANKS "(?: |\\n {0,16})?" /* between the parts of objects and arrays */
#define QN_SCHEMA_COLON  ": ?"
/* Characters of strings: no control characters but tab and line breaks, which are escaped. */
#define QN_SCHEMA_CHAR "[^\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f]"
#define QN_SCHEMA_TEXT "\"(?j:" QN_SCHEMA_CHAR "*)\""
#define QN_SCHEMA_NUM  "-?(?:0|[1-9]\\d{0,14})(?:\\.\\d{1,15})?(?:[eE][+-]?\\d{1,2})?"

/* A value's own compact text, character by character. */
void qn_schema_literal(struct qn_buf *out, json_t *v);
/* Any text of JSON, so that an expression matches it alone. */
void qn_schema_quote(struct qn_buf *out, const char *s, size_t n);
struct qn_schema_range {
    double lo, hi; /* whole; infinite: open */
    bool lo_open, hi_open;
};
/* Integers in [lo, hi] (never open here), or numbers; false: there are none. */
bool qn_schema_integer(struct qn_buf *out, const struct qn_schema_range *r);
bool qn_schema_number(struct qn_buf *out, const struct qn_schema_range *r);
/* The expression of a format, of the string's content; NULL: not supported. */
const char *qn_schema_format(const char *name);

#endif
