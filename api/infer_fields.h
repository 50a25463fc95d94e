/* The one table of the fields of POST /v1/infer: the parser, its error messages, /openapi.json and the
 * options of `quern run` are all driven by it. A new scalar field is one row here and one member of struct
 * qn_api_infer. Thread: any; the table is constant. */
#ifndef QN_API_INFER_FIELDS_H
#define QN_API_INFER_FIELDS_H

#include "api/infer.h"

enum qn_field_type {
    QN_FIELD_MODEL = 0, /* model id */
    QN_FIELD_PART,      /* "gqa" or {"type":"gqa", …} */
    QN_FIELD_BOOL,
    QN_FIELD_U32,
    QN_FIELD_U64,
    QN_FIELD_FLOAT,
    QN_FIELD_TASK,        /* generate | score | embed, up to max */
    QN_FIELD_SEQUENCE,    /* text, ids, or an array of either, up to max of them */
    QN_FIELD_STOP,        /* a string or an array of them */
    QN_FIELD_SPECULATIVE, /* "off", "prompt" or {"type":"prompt", …} */
    QN_FIELD_REGEX,       /* text of a regular expression */
    QN_FIELD_SCHEMA,      /* a JSON schema as an object, or true: any JSON object */
    QN_FIELD_ONE,         /* one sequence: text or ids */
    QN_FIELD_STRUCTURES,  /* an array of {"attention", "ffn", "sharing", "convert"} */
    QN_FIELD_TEXT,        /* into a struct qn_api_text */
    QN_FIELD_IDS,         /* token ids, into a struct qn_api_ids */
    /* of the OpenAI endpoints alone (api/openai_parse.c) */
    QN_FIELD_TARGET,          /* model id, and a structure behind an @ */
    QN_FIELD_MESSAGES,        /* a chat */
    QN_FIELD_STREAM_OPTIONS,  /* {"include_usage": …} */
    QN_FIELD_ENCODING,        /* float | base64 */
    QN_FIELD_RESPONSE_FORMAT, /* {"type": text | json_object | json_schema, …} */
    QN_FIELD_IGNORED,         /* any value: it has nothing to say here */
    QN_FIELD_REFUSED,         /* null, or empty: it would change the answer, and is not done */
    QN_FIELD_SHARED           /* the inference's row of that name (api/table.h) */
};

enum { /* tasks in which a field has a meaning */
       QN_FOR_GENERATE = 1,
       QN_FOR_SCORE = 2,
       QN_FOR_EMBED = 4,
       QN_FOR_ALL = 7
};

struct qn_api_field {
    const char *name;
    enum qn_field_type type;
    double min, max; /* numbers: the value; stop: bytes of one string; sequence, ids, structures and messages:
                      * how many; both inclusive unless min_open */
    bool min_open;   /* min itself is not allowed */
    unsigned tasks;  /* QN_FOR_…; elsewhere only the default (or 0 or false) may be given */
    const char *def; /* default as JSON text; NULL: none */
    const char *doc; /* one sentence, no quotes */
    size_t offset;   /* of the member in struct qn_api_infer, or in the struct of the table it stands in */
    size_t given;    /* of the bool that remembers that it was given; 0: none */
};

/* The table, in the order of the documentation; *n rows. */
const struct qn_api_field *qn_api_infer_fields(size_t *n);
/* Row by name; NULL. */
const struct qn_api_field *qn_api_infer_field(const char *name);

/* Fills in the defaults. Everything else here expects a struct that went through this. */
void qn_api_infer_init(struct qn_api_infer *r);
/* Sets one field from text of a command line: numbers and true/false as JSON writes them (on, off, yes, no,
 * 1, 0 also for booleans), structure parts as a name or a JSON object, `sequence` as plain text (replaces),
 * `stop` as one string (adds). The same ranges and messages as over HTTP. 0, or -1 with *err. */
int qn_api_infer_set(struct qn_api_infer *r, const char *name, const char *value, struct qn_api_err *err);
/* What only the whole request can tell: a sequence is there, outputs fit, fields suit the task. lim NULL: the
 * table's own limits. 0, or -1 with *err. */
int qn_api_infer_check(const struct qn_api_infer *r, const struct qn_api_limits *lim, struct qn_api_err *err);

/* After the check: the default of max_tokens, which nobody asked for, stays within the server's bound too. */
void qn_api_infer_bound(struct qn_api_infer *r, const struct qn_api_limits *lim);

/* Most outputs (sequences times n) of one request; lim may be NULL. */
uint32_t qn_api_infer_most(const struct qn_api_limits *lim);

const char *qn_api_task_name(enum qn_api_task t); /* "generate" "score" "embed" */

#endif
