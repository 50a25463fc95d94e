/* GET /openapi.json. Data flow: the list of api/endpoints.c, its tables of fields (api/openapi_fields.c) and
 * the constant texts below, which say what replies hold -> bytes.
 * The texts are written with ' for " (none of them needs an apostrophe), so that they can be read. Thread:
 * any. */
#include "api/openapi.h"

#include <string.h>

#include "api/endpoints.h"

#define q qn_api_openapi_text

void qn_api_openapi_text(struct qn_buf *b, const char *s) {
    for (;;) {
        size_t n = strcspn(s, "'");
        qn_buf_add(b, s, n);
        if (!s[n]) return;
        qn_buf_add(b, "\"", 1);
        s += n + 1;
    }
}

/* ---- components: parts of requests ---- */

static const char schemas_in[] =
    "'StructureName':{'type':'string','pattern':'^[a-z0-9_]{1,23}$','examples':['gqa']},"
    "'StructurePart':{'type':'object','required':['type'],'maxProperties':9,'properties':{'type':{'$ref':"
    "'#/components/schemas/"
    "StructureName'}},'additionalProperties':{'type':['number','boolean','string','null']},"
    "'examples':[{'type':'gqa','kv_heads':2}]},"
    "'TokenId':{'type':'integer','minimum':0,'maximum':2147483647},"
    "'Sequence':{'anyOf':[{'type':'string','minLength':1},{'type':'array','minItems':1,'items':{'$ref':"
    "'#/components/schemas/TokenId'}}]},";

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
    "'Document':{'type':'object','required':['openapi','info','paths','components'],'properties':{"
    "'openapi':{'type':'string'}},'additionalProperties':true},"
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
    size_t n;
    const struct qn_api_refusal *errors = qn_api_refusals(&n);
    q(b, "'responses':{");
    for (size_t i = 0; i < n; i++) {
        if (i) q(b, ",");
        qn_buf_json_str(b, errors[i].key, strlen(errors[i].key));
        q(b, ":{'description':");
        qn_buf_json_str(b, errors[i].text, strlen(errors[i].text));
        q(b, ",'headers':{'x-request-id':{'$ref':'#/components/headers/RequestId'}");
        if (errors[i].retry) q(b, ",'Retry-After':{'$ref':'#/components/headers/RetryAfter'}");
        q(b, "},'content':{'application/json':{'schema':{'$ref':'#/components/schemas/Error'}}}}");
    }
    q(b, ",'NotReady':{'description':'Not ready: loading, draining, without a model; or out of connections.',"
         "'headers':{'x-request-id':{'$ref':'#/components/headers/RequestId'},'Retry-After':{'$ref':"
         "'#/components/headers/RetryAfter'}},'content':{'text/plain':{'schema':{'type':'string'}},"
         "'application/json':{'schema':{'$ref':'#/components/schemas/Error'}}}}},");
}

/* ---- paths ---- */

static void schema_ref(struct qn_buf *b, const char *name) {
    q(b, "{'$ref':'#/components/schemas/");
    qn_buf_str(b, name);
    q(b, "'}");
}

static void content_of_200(struct qn_buf *b, const struct qn_api_endpoint *e) {
    if (strchr(e->reply, '/')) {
        qn_buf_json_str(b, e->reply, strlen(e->reply));
        q(b, ":{'schema':{'type':'string'}}");
    } else {
        q(b, "'application/json':{'schema':");
        schema_ref(b, e->reply);
        q(b, "}");
    }
    if (e->flags & QN_EP_PAGE) q(b, ",'text/html':{'schema':{'type':'string'}}");
    if (!e->event) return;
    q(b, ",'text/event-stream':{'schema':{'type':'string','description':'With stream: data lines only. ");
    qn_buf_str(b, e->events);
    q(b,
      ", then [DONE]. An error after the start is a data line with an Error object. Lines that begin with a "
      "colon are pings.'},'x-event':{'anyOf':[");
    schema_ref(b, e->event);
    q(b, ",");
    if (!(e->flags & QN_EP_CHUNKS)) {
        schema_ref(b, e->reply);
        q(b, ",");
    }
    schema_ref(b, "Error");
    q(b, "]}}");
}

static void replies(struct qn_buf *b, const struct qn_api_endpoint *e) {
    size_t n;
    const struct qn_api_refusal *errors = qn_api_refusals(&n);
    q(b, "'responses':{'200':{'description':'OK','headers':{'x-request-id':{'$ref':"
         "'#/components/headers/RequestId'}");
    if (e->flags & QN_EP_QUEUE) q(b, ",'Server-Timing':{'$ref':'#/components/headers/ServerTiming'}");
    q(b, "},'content':{");
    content_of_200(b, e);
    q(b, "}}");
    for (size_t i = 0; i < n; i++) {
        if (!qn_api_may_answer(e, errors[i].status)) continue;
        if (errors[i].status == 503 && (e->flags & QN_EP_READY))
            q(b, ",'503':{'$ref':'#/components/responses/NotReady'}");
        else
            qn_buf_printf(b, ",\"%u\":{\"$ref\":\"#/components/responses/%s\"}", errors[i].status,
                          errors[i].key);
    }
    q(b, "}");
}

/* One operation; the methods of one path stand in one object. */
static void operation(struct qn_buf *b, const struct qn_api_endpoint *e) {
    qn_buf_printf(b, "\"%s\":{\"operationId\":\"%s\",\"summary\":\"%s\",", e->method, e->id, e->summary);
    if (e->flags & QN_EP_METRICS) q(b, "'description':'Needs the key only with --metrics-auth.',");
    q(b, e->flags & QN_EP_OPEN ? "'security':[]," : "'security':[{'bearer':[]},{}],");
    q(b, "'parameters':[{'$ref':'#/components/parameters/RequestId'}");
    if (strstr(e->path, "{id}"))
        q(b, ",{'name':'id','in':'path','required':true,'schema':{'type':'string'},'description':'Id of a "
             "model, percent-encoded where needed.'}");
    if (e->flags & QN_EP_ASKS)
        q(b, ",{'name':'model','in':'query','required':false,'schema':{'type':'string'},'description':'Id of "
             "a model; the first one when not given.'}");
    q(b, "],");
    if (e->request) {
        q(b, "'requestBody':{'required':true,'content':{'application/json':{'schema':");
        schema_ref(b, e->request->schema);
        q(b, "}}},");
    }
    replies(b, e);
    q(b, "}");
}

static void paths(struct qn_buf *b) {
    size_t n;
    const struct qn_api_endpoint *e = qn_api_endpoints(&n);
    for (size_t i = 0; i < n; i++) {
        bool same = i && strcmp(e[i].path, e[i - 1].path) == 0;
        if (i) q(b, same ? "," : "},");
        if (!same) qn_buf_printf(b, "\"%s\":{", e[i].path);
        operation(b, &e[i]);
    }
    q(b, "}");
}

void qn_api_openapi_write(struct qn_buf *b, const char *version) {
    q(b,
      "{'openapi':'3.1.0','info':{'title':'quern','description':'CPU inference of transformer models; every "
      "request chooses the structure it runs with, and is told what that cost.','license':{'name':"
      "'Apache-2.0','identifier':'Apache-2.0'},'version':");
    qn_buf_json_str(b, version, strlen(version));
    q(b, "},'servers':[{'url':'/'}],'security':[{'bearer':[]},{}],'paths':{");
    paths(b);
    q(b, "},'components':{'securitySchemes':{'bearer':{'type':'http','scheme':'bearer','description':'Needed "
         "only "
         "when the server was started with API keys.'}},'parameters':{'RequestId':{'name':'x-request-id',"
         "'in':'header','required':false,'schema':{'type':'string'},'description':'Comes back in the reply "
         "when it "
         "is sane.'}},");
    q(b, headers);
    error_replies(b);
    q(b, "'schemas':{");
    qn_api_request_schemas(b);
    q(b, ",");
    q(b, schemas_in);
    measurement_schemas(b);
    qn_api_openai_schemas(b);
    q(b, schemas_out);
    error_codes(b);
    q(b, "}}}");
}
