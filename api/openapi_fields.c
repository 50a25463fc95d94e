/* Schemas of request bodies for /openapi.json. Data flow: tables of fields (api/table.h), those that the
 * parsers go by -> bytes. Thread: any. */
#include <string.h>

#include "api/endpoints.h"
#include "api/openapi.h"

#define q qn_api_openapi_text

static void bounds(struct qn_buf *b, const struct qn_api_field *f) {
    q(b, f->min_open ? ",'exclusiveMinimum':" : ",'minimum':");
    qn_buf_json_num(b, f->min, 3);
    q(b, ",'maximum':");
    qn_buf_json_num(b, f->max, 3);
}

static void items(struct qn_buf *b, const struct qn_api_field *f, const char *schema) {
    q(b, ",'minItems':");
    qn_buf_json_num(b, f->min, 0);
    q(b, ",'maxItems':");
    qn_buf_json_num(b, f->max, 0);
    q(b, ",'items':{'$ref':'#/components/schemas/");
    q(b, schema);
    q(b, "'}");
}

static void task(struct qn_buf *b, const struct qn_api_field *f) {
    q(b, "'type':['string','null'],'enum':[");
    for (unsigned t = 0; t <= (unsigned)f->max; t++) {
        const char *name = qn_api_task_name((enum qn_api_task)t);
        qn_buf_json_str(b, name, strlen(name));
        q(b, ",");
    }
    q(b, "null]");
}

static void stop(struct qn_buf *b, const struct qn_api_field *f) {
    char one[128];
    struct qn_buf s = {0};
    q(&s, "{'type':'string','minLength':");
    qn_buf_json_num(&s, f->min, 0);
    q(&s, ",'maxLength':"); /* of characters: the bound is one of bytes, so this is the wider one */
    qn_buf_json_num(&s, f->max, 0);
    q(&s, "}");
    size_t n = s.failed || s.n >= sizeof one ? 0 : s.n;
    if (n) memcpy(one, s.p, n);
    b->failed = b->failed || !n;
    qn_buf_free(&s);
    q(b, "'anyOf':[");
    qn_buf_add(b, one, n);
    q(b, ",{'type':'array','maxItems':");
    qn_buf_json_int(b, QN_API_MAX_STOP);
    q(b, ",'items':");
    qn_buf_add(b, one, n);
    q(b, "},{'type':'null'}]");
}

static void speculative(struct qn_buf *b) {
    q(b, "'anyOf':[{'enum':['off','prompt',false,null]},{'type':'object','required':['type'],"
         "'additionalProperties':false,'properties':{'type':{'enum':['off','prompt',false]},"
         "'max_draft':{'type':['integer','null'],'minimum':1,'maximum':");
    qn_buf_json_int(b, QN_API_MAX_DRAFT);
    q(b, ",'default':8},'ngram':{'type':['integer','null'],'minimum':1,'maximum':");
    qn_buf_json_int(b, QN_API_MAX_NGRAM);
    q(b, ",'default':3}}}]");
}

/* Types that only the OpenAI endpoints have. */
static void openai_type_of(struct qn_buf *b, const struct qn_api_field *f) {
    switch (f->type) {
    case QN_FIELD_TARGET:
        q(b, "'type':['string','null'],'minLength':1,'maxLength':");
        qn_buf_json_num(b, f->max, 0);
        q(b, ",'examples':['grist','grist@mqa+moe']");
        break;
    case QN_FIELD_MESSAGES:
        q(b, "'type':'array'");
        items(b, f, "Message");
        break;
    case QN_FIELD_STREAM_OPTIONS:
        q(b, "'type':['object','null'],'additionalProperties':false,'properties':{'include_usage':{'type':"
             "['boolean','null'],'default':false},'include_obfuscation':{'type':['boolean','null']}}");
        break;
    case QN_FIELD_ENCODING:
        q(b, "'enum':['float','base64',null]");
        break;
    case QN_FIELD_RESPONSE_FORMAT:
        q(b, "'anyOf':[{'type':'null'},{'type':'object','required':['type'],'properties':{'type':{'enum':["
             "'text','json_object']}}},{'type':'object','required':['type','json_schema'],'properties':{"
             "'type':{'const':'json_schema'},'json_schema':{'type':'object','required':['schema'],"
             "'additionalProperties':false,'properties':{'name':{},'description':{},'strict':{},"
             "'schema':{'type':'object'}}}}}]");
        break;
    case QN_FIELD_REFUSED:
        q(b, "'enum':[null,'',[],{}]");
        break;
    default: /* ignored: anything */
        q(b, "'type':['string','number','boolean','object','array','null']");
        break;
    }
}

/* A schema's type and limits, without the braces. */
static void type_of(struct qn_buf *b, const struct qn_api_field *f) {
    switch (f->type) {
    case QN_FIELD_MODEL:
        q(b, "'type':['string','null'],'pattern':'^[A-Za-z0-9._-]{1,64}$'");
        break;
    case QN_FIELD_PART:
        q(b, "'anyOf':[{'$ref':'#/components/schemas/StructureName'},{'$ref':'#/components/schemas/"
             "StructurePart'},{'type':'null'}]");
        break;
    case QN_FIELD_BOOL:
        q(b, "'type':['boolean','null']");
        break;
    case QN_FIELD_U32:
    case QN_FIELD_U64:
        q(b, "'type':['integer','null']");
        bounds(b, f);
        break;
    case QN_FIELD_FLOAT:
        q(b, "'type':['number','null']");
        bounds(b, f);
        break;
    case QN_FIELD_TASK:
        task(b, f);
        break;
    case QN_FIELD_SEQUENCE:
        q(b, "'anyOf':[{'$ref':'#/components/schemas/Sequence'},{'type':'array','minItems':1,'maxItems':");
        qn_buf_json_num(b, f->max, 0);
        q(b, ",'items':{'$ref':'#/components/schemas/Sequence'}}]");
        break;
    case QN_FIELD_ONE:
        q(b, "'anyOf':[{'$ref':'#/components/schemas/Sequence'}]");
        break;
    case QN_FIELD_STOP:
        stop(b, f);
        break;
    case QN_FIELD_SPECULATIVE:
        speculative(b);
        break;
    case QN_FIELD_REGEX:
        q(b, "'type':['string','null'],'minLength':1,'maxLength':");
        qn_buf_json_num(b, f->max, 0);
        break;
    case QN_FIELD_SCHEMA:
        q(b, "'anyOf':[{'type':'object'},{'const':true},{'type':'null'}]");
        break;
    case QN_FIELD_STRUCTURES:
        q(b, "'type':'array'");
        items(b, f, qn_api_compare_structure_table.schema);
        break;
    case QN_FIELD_TEXT:
        q(b, "'type':['string','null']");
        break;
    case QN_FIELD_IDS:
        q(b, "'type':'array'");
        items(b, f, "TokenId");
        break;
    case QN_FIELD_SHARED: /* never handed out */
        break;
    default:
        openai_type_of(b, f);
        break;
    }
}

void qn_api_field_schema(struct qn_buf *b, const struct qn_api_field *f) {
    q(b, "{");
    type_of(b, f);
    if (f->def) {
        q(b, ",'default':");
        qn_buf_str(b, f->def);
    }
    q(b, ",'description':");
    qn_buf_json_str(b, f->doc, strlen(f->doc));
    q(b, "}");
}

static void names(struct qn_buf *b, const char *const *list, size_t n, const char *before,
                  const char *between, const char *after) {
    if (!list[0]) return;
    q(b, before);
    for (size_t i = 0; i < n && list[i]; i++) {
        if (i) q(b, between);
        qn_buf_json_str(b, list[i], strlen(list[i]));
    }
    q(b, after);
}

static void request(struct qn_buf *b, const struct qn_api_table *t) {
    qn_buf_json_str(b, t->schema, strlen(t->schema));
    q(b, ":{'type':'object','additionalProperties':false");
    names(b, t->required, sizeof t->required / sizeof *t->required, ",'required':[", ",", "]");
    names(b, t->any_of, sizeof t->any_of / sizeof *t->any_of, ",'anyOf':[{'required':[", "]},{'required':[",
          "]}]");
    q(b, ",'properties':{");
    for (size_t i = 0; i < t->n; i++) {
        const struct qn_api_field *f = qn_api_table_row(t, i);
        if (i) q(b, ",");
        qn_buf_json_str(b, f->name, strlen(f->name));
        q(b, ":");
        qn_api_field_schema(b, f);
    }
    q(b, "}}");
}

void qn_api_request_schemas(struct qn_buf *b) {
    const struct qn_api_table *const *tables = qn_api_tables();
    for (size_t i = 0; tables[i]; i++) {
        if (i) q(b, ",");
        request(b, tables[i]);
    }
}
