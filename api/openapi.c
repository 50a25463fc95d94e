/* GET /openapi.json. Data flow: the field table of api/infer_fields.c and the constant texts below -> bytes.
 * The texts are written with ' for " (none of them needs an apostrophe), so that they can be read. Thread:
 * any. */
#include "api/openapi.h"

#include <string.h>

#include "api/compare.h"
#include "api/infer_fields.h"
#include "api/openai.h"
#include "api/openapi_parts.h"

void qn_openapi_text(struct qn_buf *b, const char *s) {
    for (;;) {
        size_t n = strcspn(s, "'");
        qn_buf_add(b, s, n);
        if (!s[n]) return;
        qn_buf_add(b, "\"", 1);
        s += n + 1;
    }
}

static void q(struct qn_buf *b, const char *s) {
    qn_openapi_text(b, s);
}

/* ---- components: the request, from the table ---- */

static void bounds(struct qn_buf *b, const struct qn_api_field *f) {
    q(b, f->min_open ? ",'exclusiveMinimum':" : ",'minimum':");
    qn_buf_json_num(b, f->min, 3);
    q(b, ",'maximum':");
    qn_buf_json_num(b, f->max, 3);
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
        q(b, "'type':'array','minItems':1,'maxItems':");
        qn_buf_json_num(b, f->max, 0);
        q(b, ",'items':{'$ref':'#/components/schemas/Message'}");
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
             "StructurePart'},"
             "{'type':'null'}]");
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
        q(b, "'type':['string','null'],'enum':['generate','score','embed',null]");
        break;
    case QN_FIELD_SEQUENCE:
        q(b, "'anyOf':[{'$ref':'#/components/schemas/Sequence'},{'type':'array','minItems':1,'maxItems':");
        qn_buf_json_num(b, f->max, 0);
        q(b, ",'items':{'$ref':'#/components/schemas/Sequence'}}]");
        break;
    case QN_FIELD_STOP:
        q(b, "'anyOf':[{'$ref':'#/components/schemas/Stop'},{'type':'array','maxItems':");
        qn_buf_json_int(b, QN_API_MAX_STOP);
        q(b, ",'items':{'$ref':'#/components/schemas/Stop'}},{'type':'null'}]");
        break;
    case QN_FIELD_SPECULATIVE:
        q(b, "'anyOf':[{'enum':['off','prompt',false,null]},{'type':'object','required':['type'],"
             "'additionalProperties':false,'properties':{'type':{'enum':['off','prompt',false]},"
             "'max_draft':{'type':['integer','null'],'minimum':1,'maximum':");
        qn_buf_json_int(b, QN_API_MAX_DRAFT);
        q(b, ",'default':8},'ngram':{'type':['integer','null'],'minimum':1,'maximum':");
        qn_buf_json_int(b, QN_API_MAX_NGRAM);
        q(b, ",'default':3}}}]");
        break;
    case QN_FIELD_REGEX:
        q(b, "'type':['string','null'],'minLength':1,'maxLength':");
        qn_buf_json_num(b, f->max, 0);
        break;
    case QN_FIELD_SCHEMA:
        q(b, "'anyOf':[{'type':'object'},{'const':true},{'type':'null'}]");
        break;
    default:
        openai_type_of(b, f);
        break;
    }
}

void qn_openapi_field(struct qn_buf *b, const struct qn_api_field *f) {
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

static void infer_request(struct qn_buf *b) {
    size_t n;
    const struct qn_api_field *f = qn_api_infer_fields(&n);
    q(b,
      "'InferRequest':{'type':'object','additionalProperties':false,'required':['sequence'],'properties':{");
    for (size_t i = 0; i < n; i++) {
        if (i) q(b, ",");
        qn_buf_json_str(b, f[i].name, strlen(f[i].name));
        q(b, ":");
        qn_openapi_field(b, &f[i]);
    }
    q(b, "}},");
}

/* A comparison's own fields, and those that it shares with an inference. */
static void compare_request(struct qn_buf *b) {
    size_t n;
    const struct qn_api_compare_field *f = qn_api_compare_fields(&n);
    q(b,
      "'CompareRequest':{'type':'object','additionalProperties':false,'required':['sequence','structures'],"
      "'properties':{");
    for (size_t i = 0; i < n; i++) {
        const struct qn_api_field *shared = qn_api_infer_field(f[i].name);
        if (i) q(b, ",");
        qn_buf_json_str(b, f[i].name, strlen(f[i].name));
        q(b, ":");
        if (!f[i].schema) {
            qn_openapi_field(b, shared);
        } else {
            size_t end = strlen(f[i].schema) - 1; /* the closing brace comes after the description */
            char schema[256];
            memcpy(schema, f[i].schema, end);
            schema[end] = '\0';
            q(b, schema);
            q(b, ",'description':");
            qn_buf_json_str(b, f[i].doc, strlen(f[i].doc));
            q(b, "}");
        }
    }
    q(b, "}},'CompareStructure':{'type':'object','additionalProperties':false,'properties':{");
    static const char *const parts[] = {"attention", "ffn", "sharing", "convert"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (i) q(b, ",");
        qn_buf_json_str(b, parts[i], strlen(parts[i]));
        q(b, ":");
        qn_openapi_field(b, qn_api_infer_field(parts[i]));
    }
    q(b, "}},'Stop':{'type':'string','minLength':1,'maxLength':");
    qn_buf_json_num(b, qn_api_infer_field("stop")->max, 0);
    q(b, ",'description':'Counted in bytes of UTF-8.'},");
}

static const char schemas_in[] =
    "'StructureName':{'type':'string','pattern':'^[a-z0-9_]{1,23}$','examples':['gqa']},"
    "'StructurePart':{'type':'object','required':['type'],'maxProperties':9,'properties':{'type':{'$ref':"
    "'#/components/schemas/"
    "StructureName'}},'additionalProperties':{'type':['number','boolean','string','null']},"
    "'examples':[{'type':'gqa','kv_heads':2}]},"
    "'TokenId':{'type':'integer','minimum':0,'maximum':2147483647},"
    "'Sequence':{'anyOf':[{'type':'string','minLength':1},{'type':'array','minItems':1,'items':{'$ref':"
    "'#/components/schemas/TokenId'}}]},"
    "'TokenizeRequest':{'type':'object','additionalProperties':false,'description':'The text is given once.',"
    "'properties':{'model':{'type':['string','null']},'prompt':{'type':['string','null']},"
    "'text':{'type':['string','null']},'content':{'type':['string','null']},"
    "'add_special_tokens':{'type':['boolean','null'],'default':true},"
    "'add_special':{'type':['boolean','null'],'default':true},"
    "'with_pieces':{'type':['boolean','null'],'default':false}}},"
    "'DetokenizeRequest':{'type':'object','additionalProperties':false,'required':['tokens'],'properties':{"
    "'model':{'type':['string','null']},'tokens':{'type':'array','items':{'$ref':'#/components/schemas/"
    "TokenId'}}}},";

/* ---- components: replies ---- */

/* An object schema with its properties, required but for those of type o: "name type" pairs, type one of the
 * letters below. */
struct prop {
    const char *name;
    char type; /* i integer, n number, N number or null, s string, S string or null, b boolean, o Speculation,
                  which may be left out (never the first) */
};

static void object_of(struct qn_buf *b, const char *name, const struct prop *p, size_t n) {
    qn_buf_json_str(b, name, strlen(name));
    q(b, ":{'type':'object','required':[");
    for (size_t i = 0; i < n; i++) {
        if (p[i].type == 'o') continue;
        if (i) q(b, ",");
        qn_buf_json_str(b, p[i].name, strlen(p[i].name));
    }
    q(b, "],'properties':{");
    for (size_t i = 0; i < n; i++) {
        if (i) q(b, ",");
        qn_buf_json_str(b, p[i].name, strlen(p[i].name));
        switch (p[i].type) {
        case 'i':
            q(b, ":{'type':'integer','minimum':0}");
            break;
        case 'n':
            q(b, ":{'type':'number'}");
            break;
        case 'N':
            q(b, ":{'type':['number','null']}");
            break;
        case 's':
            q(b, ":{'type':'string'}");
            break;
        case 'S':
            q(b, ":{'type':['string','null']}");
            break;
        case 'o':
            q(b, ":{'$ref':'#/components/schemas/Speculation'}");
            break;
        default:
            q(b, ":{'type':'boolean'}");
            break;
        }
    }
    q(b, "}},");
}

#define OBJECT(b, name, props) object_of((b), (name), (props), sizeof(props) / sizeof((props)[0]))

static void measurement_schemas(struct qn_buf *b) {
    static const struct prop timings[] = {{"queue_ms", 'n'},
                                          {"tokenize_ms", 'n'},
                                          {"convert_ms", 'n'},
                                          {"prefill_ms", 'n'},
                                          {"decode_ms", 'n'},
                                          {"finish_ms", 'n'},
                                          {"total_ms", 'n'},
                                          {"ttft_ms", 'N'},
                                          {"compute_ms", 'n'},
                                          {"prefill_tokens_per_second", 'N'},
                                          {"decode_tokens_per_second", 'N'},
                                          {"steps", 'i'},
                                          {"mean_batch", 'n'},
                                          {"speculative", 'o'}};
    static const struct prop speculation[] = {
        {"drafted", 'i'}, {"accepted", 'i'}, {"steps", 'i'}, {"reason", 'S'}};
    static const struct prop memory[] = {{"weights_bytes", 'i'},         {"weights_active_bytes", 'i'},
                                         {"state_bytes", 'i'},           {"state_shared_bytes", 'i'},
                                         {"state_bytes_per_token", 'i'}, {"scratch_bytes", 'i'},
                                         {"process_rss_bytes", 'i'}};
    static const struct prop cost[] = {{"analytic_flops", 'n'},
                                       {"analytic_bytes", 'n'},
                                       {"achieved_gflops", 'N'},
                                       {"achieved_gbytes_per_second", 'N'}};
    static const struct prop usage[] = {
        {"prompt_tokens", 'i'}, {"completion_tokens", 'i'}, {"total_tokens", 'i'}, {"cached_tokens", 'i'}};
    static const struct prop score[] = {
        {"tokens", 'i'}, {"bytes", 'i'}, {"log_prob", 'n'}, {"bits_per_byte", 'n'}};
    static const struct prop alternative[] = {{"id", 'i'}, {"token", 's'}, {"logprob", 'N'}};
    OBJECT(b, "Timings", timings);
    OBJECT(b, "Speculation", speculation);
    OBJECT(b, "Memory", memory);
    OBJECT(b, "Cost", cost);
    OBJECT(b, "Usage", usage);
    OBJECT(b, "Score", score);
    OBJECT(b, "Alternative", alternative);
    static const struct prop divergence[] = {
        {"baseline", 's'}, {"mean_kl", 'N'}, {"top1_agreement", 'N'}, {"positions", 'i'}};
    static const struct prop fidelity[] = {
        {"mean_kl", 'N'}, {"top1_agreement", 'N'}, {"bits_per_byte_delta", 'N'}, {"positions", 'i'}};
    static const struct prop compare_timings[] = {{"tokenize_ms", 'n'}, {"warmup_ms", 'n'},
                                                  {"samples_ms", 'n'},  {"fidelity_ms", 'n'},
                                                  {"other_ms", 'n'},    {"total_ms", 'n'}};
    static const struct prop held_out[] = {
        {"attention", 's'}, {"ffn", 's'}, {"sharing", 's'}, {"nats_per_byte", 'n'}, {"bits_per_byte", 'n'}};
    OBJECT(b, "Divergence", divergence);
    OBJECT(b, "Fidelity", fidelity);
    OBJECT(b, "CompareTimings", compare_timings);
    OBJECT(b, "HeldOut", held_out);
}

static const char schemas_out[] =
    "'TokenLogprob':{'type':'object','required':['id','token','logprob','top'],'properties':{"
    "'id':{'type':'integer'},'token':{'type':'string'},'logprob':{'type':['number','null']},"
    "'top':{'type':'array','items':{'$ref':'#/components/schemas/Alternative'}}}},"
    "'ResolvedPart':{'type':'object','required':['type'],'properties':{'type':{'type':'string'}},"
    "'additionalProperties':{'type':['number','boolean','string','null']}},"
    "'Structure':{'type':'object','required':['attention','ffn','sharing','origin','exactness'],'properties':"
    "{"
    "'attention':{'$ref':'#/components/schemas/ResolvedPart'},'ffn':{'$ref':'#/components/schemas/"
    "ResolvedPart'},"
    "'sharing':{'$ref':'#/components/schemas/ResolvedPart'},"
    "'origin':{'type':['string','null'],'enum':['native','converted','synthetic',null]},"
    "'exactness':{'type':['string','null'],'enum':['exact','approximate','untrained','unavailable',null]},"
    "'divergence':{'anyOf':[{'$ref':'#/components/schemas/Divergence'},{'type':'null'}],'description':'In "
    "replies of an inference: how far an approximate or untrained structure is from the native one, over the "
    "first 256 tokens of each output; null for native and exact ones.'}}},"
    "'Output':{'type':'object','required':['index','text','tokens','finish_reason','logprobs'],'properties':{"
    "'index':{'type':'integer','minimum':0},'text':{'type':'string'},"
    "'tokens':{'type':'array','items':{'$ref':'#/components/schemas/TokenId'}},"
    "'finish_reason':{'type':['string','null'],'enum':['stop','length','timeout','cancelled','error',null],"
    "'description':'null for score and embed'},"
    "'logprobs':{'type':['array','null'],'items':{'$ref':'#/components/schemas/TokenLogprob'}},"
    "'score':{'$ref':'#/components/schemas/"
    "Score'},'embedding':{'type':'array','items':{'type':['number','null']}},"
    "'timings':{'$ref':'#/components/schemas/Timings'},'memory':{'$ref':'#/components/schemas/Memory'},"
    "'divergence':{'anyOf':[{'$ref':'#/components/schemas/Divergence'},{'type':'null'}]}}},"
    "'CompareReply':{'type':'object','required':['id','object','created','model','task','baseline','repeats',"
    "'results','usage','timings'],'properties':{'id':{'type':'string'},'object':{'const':'comparison'},"
    "'created':{'type':'integer'},'model':{'type':'string'},'task':{'type':'string'},"
    "'baseline':{'type':'integer','minimum':0},'repeats':{'type':'integer','minimum':1},"
    "'results':{'type':'array','items':{'$ref':'#/components/schemas/Compared'}},"
    "'usage':{'$ref':'#/components/schemas/Usage'},"
    "'timings':{'$ref':'#/components/schemas/CompareTimings'}}},"
    "'Sample':{'type':'object','required':['timings'],'properties':{'timings':{'$ref':"
    "'#/components/schemas/Timings'}}},"
    "'Compared':{'type':'object','required':['structure','outputs','warmup','samples','median','spread',"
    "'memory','cost','fidelity'],'properties':{'structure':{'$ref':'#/components/schemas/Structure'},"
    "'outputs':{'type':'array','items':{'$ref':'#/components/schemas/Output'}},"
    "'warmup':{'$ref':'#/components/schemas/Sample'},"
    "'samples':{'type':'array','items':{'$ref':'#/components/schemas/Sample'}},"
    "'median':{'$ref':'#/components/schemas/Timings'},'spread':{'$ref':'#/components/schemas/Timings',"
    "'description':'Interquartile range of the samples.'},"
    "'memory':{'$ref':'#/components/schemas/Memory'},'cost':{'$ref':'#/components/schemas/Cost'},"
    "'fidelity':{'anyOf':[{'$ref':'#/components/schemas/Fidelity'},{'type':'null'}],'description':'Against "
    "the baseline on its tokens; null when state or weights of both can not be held at once.'}}},"
    "'CompareSample':{'type':'object','required':['structure','sample','of','warmup','timings'],'properties':"
    "{"
    "'structure':{'type':'integer'},'sample':{'type':'integer'},'of':{'type':'integer'},"
    "'warmup':{'type':'boolean'},'timings':{'$ref':'#/components/schemas/Timings'}}},"
    "'InferReply':{'type':'object','required':['id','object','created','model','structure','outputs','usage',"
    "'timings','memory','cost'],'properties':{'id':{'type':'string'},'object':{'const':'inference'},"
    "'created':{'type':'integer'},'model':{'type':'string'},"
    "'structure':{'$ref':'#/components/schemas/Structure'},"
    "'outputs':{'type':'array','items':{'$ref':'#/components/schemas/Output'}},"
    "'usage':{'$ref':'#/components/schemas/Usage'},'timings':{'$ref':'#/components/schemas/Timings'},"
    "'memory':{'$ref':'#/components/schemas/Memory'},'cost':{'$ref':'#/components/schemas/Cost'}}},"
    "'StreamToken':{'type':'object','required':['index','token','text','logprob'],'properties':{"
    "'index':{'type':'integer'},'token':{'type':'integer'},'text':{'type':'string'},"
    "'logprob':{'type':['number','null']},"
    "'top':{'type':'array','items':{'$ref':'#/components/schemas/Alternative'}}}},"
    "'Model':{'type':'object','required':['id','object','created','owned_by'],'properties':{"
    "'id':{'type':'string'},'object':{'const':'model'},'created':{'type':'integer'},'owned_by':{'type':'"
    "string'},"
    "'family':{'type':['string','null']},'format':{'type':['string','null']},'parameters':{'type':'integer'},"
    "'parameters_active':{'type':'integer'},'layers':{'type':'integer'},'d_model':{'type':'integer'},"
    "'heads':{'type':'integer'},'kv_heads':{'type':'integer'},'head_dim':{'type':'integer'},"
    "'ffn_dim':{'type':'integer'},'vocabulary':{'type':'integer'},'context':{'type':'integer'},"
    "'file_bytes':{'type':'integer'},'weights_bytes':{'type':'integer'},"
    "'state_bytes_per_token':{'type':'integer'},'kv_type':{'type':['string','null']},'structure':{'$ref':'#/"
    "components/schemas/Structure'},"
    "'file_bytes_by_type':{'type':'object','additionalProperties':{'type':'integer'}},"
    "'embedding':{'type':'object','description':'What an embedding is made of.','required':['pooling','of',"
    "'dimensions','normalized'],'properties':{'pooling':{'const':'mean'},'of':{'type':'string'},"
    "'dimensions':{'type':'integer'},'normalized':{'type':'boolean'}}},"
    "'state_budget_bytes':{'type':'integer'},'chat_template':{'type':['string','null']},"
    "'structures':{'type':'object','description':'By slot, what it can run and how exact that is.',"
    "'additionalProperties':{'type':'object','additionalProperties':{'type':'string'}}}}},"
    "'ModelList':{'type':'object','required':['object','data'],'properties':{'object':{'const':'list'},"
    "'data':{'type':'array','items':{'$ref':'#/components/schemas/Model'}}}},"
    "'StructureEntry':{'type':'object','required':['slot','structure','origin','exactness','why','causal','"
    "rollback',"
    "'state_bytes_per_token','state_fixed_bytes','state_bytes','parameters'],'properties':{"
    "'slot':{'type':'string','enum':['attention','ffn','sharing']},"
    "'structure':{'$ref':'#/components/schemas/ResolvedPart'},'origin':{'type':['string','null']},"
    "'exactness':{'type':['string','null']},'why':{'type':['string','null']},'causal':{'type':'boolean'},"
    "'rollback':{'type':'boolean'},'state_bytes_per_token':{'type':'integer','minimum':0},"
    "'state_fixed_bytes':{'type':'integer','minimum':0},"
    "'state_bytes':{'type':['array','null'],'description':'One sequence by its length; null where there is "
    "no "
    "state.','items':{'type':'object','required':['tokens','bytes'],'properties':{'tokens':{'type':'integer'}"
    ","
    "'bytes':{'type':'integer'}}}},"
    "'parameters':{'type':'array','description':'What a request may set on this part; the others are the "
    "model\\u2019s.',"
    "'items':{'type':'object','required':['name','type','default'],'properties':{'name':{'type':'string'},"
    "'type':{'type':'string','enum':['integer','boolean','number','string']},'minimum':{'type':'number'},"
    "'maximum':{'type':'number'},'values':{'type':'array','items':{'type':'string'}},"
    "'default':{'type':['number','boolean','string','null'],'description':'Null: it depends on the model or "
    "must be given.'}}}}}},"
    "'StructureList':{'type':'object','required':['object','data'],'properties':{'object':{'const':'list'},"
    "'data':{'type':'array','items':{'type':'object','required':['model','context','structures','held_out'],"
    "'properties':{'model':{'type':'string'},'context':{'type':'integer'},"
    "'structures':{'type':'array','items':{'$ref':'#/components/schemas/StructureEntry'}},"
    "'held_out':{'type':'array','items':{'$ref':'#/components/schemas/HeldOut'}}}}}}},"
    "'TokenizeReply':{'type':'object','required':['count','max_model_len','tokens'],'properties':{"
    "'count':{'type':'integer'},'max_model_len':{'type':'integer'},"
    "'tokens':{'type':'array','items':{'$ref':'#/components/schemas/TokenId'}},"
    "'pieces':{'type':'array','items':{'type':'string'}}}},"
    "'TokenizerInfo':{'type':'object','required':['model','tokenizer_class','vocab_size','model_max_length',"
    "'add_bos_token','add_eos_token','bos_token','eos_token','unk_token','pad_token','chat_template'],"
    "'properties':{'model':{'type':'string'},'tokenizer_class':{'type':'string'},"
    "'vocab_size':{'type':'integer'},'model_max_length':{'type':'integer'},"
    "'add_bos_token':{'type':'boolean'},'add_eos_token':{'type':'boolean'},"
    "'bos_token':{'type':['string','null']},'bos_token_id':{'type':['integer','null']},"
    "'eos_token':{'type':['string','null']},'eos_token_id':{'type':['integer','null']},"
    "'unk_token':{'type':['string','null']},'unk_token_id':{'type':['integer','null']},"
    "'pad_token':{'type':['string','null']},'pad_token_id':{'type':['integer','null']},"
    "'chat_template':{'type':['string','null'],'description':'The checkpoint\u2019s own text.'},"
    "'chat_template_name':{'type':['string','null'],'description':'The format that chats are written in; "
    "null: none is known.'}}},"
    "'DetokenizeReply':{'type':'object','required':['prompt','text'],'properties':{'prompt':{'type':'string'}"
    ","
    "'text':{'type':'string'}}},"
    "'Error':{'type':'object','required':['error'],'properties':{'error':{'type':'object',"
    "'required':['message','type','param','code'],'properties':{'message':{'type':'string'},"
    "'type':{'type':'string'},'param':{'type':['string','null'],'description':'The field at fault.'},"
    "'code':{'type':'string','enum':[";

/* Every code the service can answer, from the table of api/error.c. */
static void error_codes(struct qn_buf *b) {
    for (int c = QN_API_INVALID; c < QN_API_CODE_COUNT; c++) {
        const char *name = qn_api_code_name((enum qn_api_code)c);
        if (c > QN_API_INVALID) q(b, ",");
        qn_buf_json_str(b, name, strlen(name));
    }
    q(b, "]}}}}}");
}

/* ---- components: error replies and headers ---- */

static const struct error_reply {
    const char *key, *text;
    unsigned status;
    bool retry;
} errors[] = {
    {"BadRequest", "The body, a field, the structure or the framing is not valid; `param` names the field.",
     400, false},
    {"Unauthorized", "An API key is set and the request carries none, or a wrong one.", 401, false},
    {"NotFound", "No such path, or no such model.", 404, false},
    {"MethodNotAllowed", "The path exists, with another method; `Allow` names it.", 405, false},
    {"Timeout", "The deadline passed before any output.", 408, false},
    {"BodyTooLarge", "The body is larger than the server takes.", 413, false},
    {"UnsupportedMediaType", "The body is not JSON, or it is compressed.", 415, false},
    {"QueueFull", "The queue is full; come back after `Retry-After`.", 429, true},
    {"HeadersTooLarge", "The headers are larger than the server takes.", 431, false},
    {"Internal", "A fault of the server.", 500, false},
    {"NotImplemented", "A transfer coding that the server does not know.", 501, false},
    {"Unavailable", "Loading, draining, out of memory or out of connections.", 503, true},
};

static const char headers[] =
    "'headers':{'RequestId':{'description':'Id of this request: the one the client sent, or a fresh one.',"
    "'schema':{'type':'string'}},"
    "'ServerTiming':{'description':'Milliseconds by phase: queue, tokenize, convert, prefill, decode, "
    "finish, total; warmup, samples and "
    "fidelity of a comparison.','schema':{'type':'string'},'example':'queue;dur=0.1, tokenize;dur=0.2, "
    "total;dur=52.4'},"
    "'RetryAfter':{'description':'Seconds to wait before the next attempt.','schema':{'type':'integer',"
    "'minimum':0}}},";

static void error_replies(struct qn_buf *b) {
    q(b, "'responses':{");
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (i) q(b, ",");
        qn_buf_json_str(b, errors[i].key, strlen(errors[i].key));
        q(b, ":{'description':");
        qn_buf_json_str(b, errors[i].text, strlen(errors[i].text));
        q(b, ",'headers':{'x-request-id':{'$ref':'#/components/headers/RequestId'}");
        if (errors[i].retry) q(b, ",'Retry-After':{'$ref':'#/components/headers/RetryAfter'}");
        q(b, "},'content':{'application/json':{'schema':{'$ref':'#/components/schemas/Error'}}}}");
    }
    q(b, "},");
}

/* ---- paths ---- */

struct operation {
    const char *path, *method, *id, *summary;
    const char *request; /* schema of the body; NULL: none */
    const char *reply;   /* schema of the 200 body; NULL: text */
    bool open;           /* no API key needed */
    bool model;          /* 404 for an unknown model, and the path may have {id} */
    const char *events;  /* goes through the queue: 408, 429, SSE of these ("": none); NULL: does not */
    bool ready;          /* 503 tells that it is not ready, without an error object */
};

static const struct operation operations[] = {
    {"/v1/infer", "post", "infer", "Run a sequence through a structure", "InferRequest", "InferReply", false,
     true, "StreamToken object per token, then the whole InferReply", false},
    {"/v1/compare", "post", "compare", "Run a sequence through several structures, side by side",
     "CompareRequest", "CompareReply", false, true,
     "CompareSample object per finished run, then the whole CompareReply", false},
    {"/v1/completions", "post", "createCompletion", "Continue a prompt, as OpenAI's clients ask for it",
     "CompletionRequest", "CompletionReply", false, true, "CompletionChunk object per piece of text", false},
    {"/v1/chat/completions", "post", "createChatCompletion",
     "Continue a conversation, as OpenAI's clients ask for it", "ChatRequest", "ChatReply", false, true,
     "ChatChunk object per piece of text", false},
    {"/v1/embeddings", "post", "createEmbedding", "Vectors of texts, as OpenAI's clients ask for them",
     "EmbeddingRequest", "EmbeddingReply", false, true, "", false},
    {"/v1/structures", "get", "listStructures", "Structures that the loaded models can run", NULL,
     "StructureList", false, false, NULL, false},
    {"/v1/models", "get", "listModels", "The loaded models", NULL, "ModelList", false, false, NULL, false},
    {"/v1/models/{id}", "get", "getModel", "One loaded model", NULL, "Model", false, true, NULL, false},
    {"/tokenize", "post", "tokenize", "Text to token ids", "TokenizeRequest", "TokenizeReply", false, true,
     NULL, false},
    {"/detokenize", "post", "detokenize", "Token ids to text", "DetokenizeRequest", "DetokenizeReply", false,
     true, NULL, false},
    {"/tokenizer_info", "get", "tokenizerInfo", "Special tokens and chat template of a model", NULL,
     "TokenizerInfo", false, true, NULL, false},
    {"/livez", "get", "livez", "The process answers", NULL, NULL, true, false, NULL, false},
    {"/readyz", "get", "readyz", "Models are loaded and work is accepted", NULL, NULL, true, false, NULL,
     true},
    {"/healthz", "get", "healthz", "The same as /readyz", NULL, NULL, true, false, NULL, true},
    {"/health", "get", "health", "The same as /readyz", NULL, NULL, true, false, NULL, true},
    {"/metrics", "get", "metrics", "Prometheus text; needs the key only with --metrics-auth", NULL, NULL,
     true, false, NULL, false},
    {"/openapi.json", "get", "openapi", "This document", NULL, "", false, false, NULL, false},
};

static void schema_ref(struct qn_buf *b, const char *name) {
    q(b, "{'$ref':'#/components/schemas/");
    qn_buf_str(b, name);
    q(b, "'}");
}

static bool may_answer(const struct operation *o, unsigned status) {
    switch (status) {
    case 400:
    case 405:
    case 431:
    case 500:
        return true;
    case 401:
        return !o->open;
    case 404:
        return o->model;
    case 408:
    case 429:
        return o->events != NULL;
    case 413:
    case 415:
    case 501:
        return o->request != NULL;
    default:
        return !o->ready; /* 503 */
    }
}

static void replies(struct qn_buf *b, const struct operation *o) {
    q(b, "'responses':{'200':{'description':'OK','headers':{'x-request-id':{'$ref':"
         "'#/components/headers/RequestId'}");
    if (o->events) q(b, ",'Server-Timing':{'$ref':'#/components/headers/ServerTiming'}");
    q(b, "},'content':{");
    if (!o->reply) {
        q(b, "'text/plain':{'schema':{'type':'string'}}");
    } else {
        q(b, "'application/json':{'schema':");
        if (o->reply[0])
            schema_ref(b, o->reply);
        else
            q(b, "{'type':'object'}");
        q(b, "}");
    }
    if (o->events && o->events[0]) {
        q(b, ",'text/event-stream':{'schema':{'type':'string','description':'With stream: data lines only. "
             "One ");
        qn_buf_str(b, o->events);
        q(b, ", then [DONE]. An error after the start is a data line with an Error object. Lines that begin "
             "with a colon are pings.'}}");
    }
    q(b, "}}");
    if (o->ready)
        q(b, ",'503':{'description':'Not ready: loading or draining.','headers':{'x-request-id':{'$ref':"
             "'#/components/headers/RequestId'},'Retry-After':{'$ref':'#/components/headers/RetryAfter'}},"
             "'content':{'text/plain':{'schema':{'type':'string'}}}}");
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (!may_answer(o, errors[i].status)) continue;
        qn_buf_printf(b, ",\"%u\":{\"$ref\":\"#/components/responses/%s\"}", errors[i].status, errors[i].key);
    }
    q(b, "}");
}

static void operation(struct qn_buf *b, const struct operation *o) {
    qn_buf_printf(b, "\"%s\":{\"%s\":{\"operationId\":\"%s\",\"summary\":\"%s\",", o->path, o->method, o->id,
                  o->summary);
    q(b, o->open ? "'security':[]," : "'security':[{'bearer':[]},{}],");
    q(b, "'parameters':[{'$ref':'#/components/parameters/RequestId'}");
    if (strstr(o->path, "{id}"))
        q(b, ",{'name':'id','in':'path','required':true,'schema':{'type':'string'},'description':'Id of a "
             "model, "
             "percent-encoded where needed.'}");
    if (strcmp(o->path, "/tokenizer_info") == 0)
        q(b, ",{'name':'model','in':'query','required':false,'schema':{'type':'string'},'description':'Id of "
             "a model; the first one when not given.'}");
    q(b, "],");
    if (o->request) {
        q(b, "'requestBody':{'required':true,'content':{'application/json':{'schema':");
        schema_ref(b, o->request);
        q(b, "}}},");
    }
    replies(b, o);
    q(b, "}}");
}

void qn_api_openapi_write(struct qn_buf *b, const char *version) {
    q(b,
      "{'openapi':'3.1.0','info':{'title':'quern','description':'CPU inference of transformer models; every "
      "request chooses the structure it runs with, and is told what that cost.','license':{'name':"
      "'Apache-2.0','identifier':'Apache-2.0'},'version':");
    qn_buf_json_str(b, version, strlen(version));
    q(b, "},'servers':[{'url':'/'}],'security':[{'bearer':[]},{}],'paths':{");
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        if (i) q(b, ",");
        operation(b, &operations[i]);
    }
    q(b, "},'components':{'securitySchemes':{'bearer':{'type':'http','scheme':'bearer','description':'Needed "
         "only "
         "when the server was started with API keys.'}},'parameters':{'RequestId':{'name':'x-request-id',"
         "'in':'header','required':false,'schema':{'type':'string'},'description':'Comes back in the reply "
         "when it "
         "is sane.'}},");
    q(b, headers);
    error_replies(b);
    q(b, "'schemas':{");
    infer_request(b);
    compare_request(b);
    qn_openapi_openai(b);
    q(b, schemas_in);
    measurement_schemas(b);
    q(b, schemas_out);
    error_codes(b);
    q(b, "}}}");
}
