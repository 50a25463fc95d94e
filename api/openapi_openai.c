/* Schemas of what the OpenAI endpoints answer, for /openapi.json. Data flow: the shapes that
 * api/openai_write.c writes -> bytes. The texts are written with ' for ". Thread: any. */
#include "api/endpoints.h"
#include "api/openapi.h"

#define q qn_api_openapi_text

static void ref(struct qn_buf *b, const char *name) {
    q(b, "{'$ref':'#/components/schemas/");
    qn_buf_str(b, name);
    q(b, "'}");
}

static void or_null(struct qn_buf *b, const char *name) {
    q(b, "{'anyOf':[");
    ref(b, name);
    q(b, ",{'type':'null'}]}");
}

static void list_of(struct qn_buf *b, const char *name) {
    q(b, "{'type':'array','items':");
    ref(b, name);
    q(b, "}");
}

/* What every reply measures, as properties. */
static void figures(struct qn_buf *b) {
    q(b, "'timings':");
    ref(b, "Timings");
    q(b, ",'memory':");
    ref(b, "Memory");
    q(b, ",'structure':");
    ref(b, "Structure");
}

/* ---- parts of all of them ---- */

static const char message[] =
    "'Message':{'type':'object','required':['role','content'],'additionalProperties':false,'properties':{"
    "'role':{'enum':['system','developer','user','assistant','tool']},"
    "'content':{'anyOf':[{'type':'string'},{'type':'array','items':{'type':'object','required':['type',"
    "'text'],'properties':{'type':{'const':'text'},'text':{'type':'string'}}}}]},"
    "'name':{},'tool_call_id':{},'refusal':{},'annotations':{},'reasoning_content':{},"
    "'tool_calls':{'enum':[null,[]]},'function_call':{'enum':[null,[]]},'audio':{'enum':[null,[]]}}},";

static void usage(struct qn_buf *b) {
    q(b, "'Figures':{'type':'object','description':'What is at the top of the reply too, for clients that "
         "drop what they do not know there.','required':['timings','memory','structure'],'properties':{");
    figures(b);
    q(b, "}},'CompletionUsage':{'type':'object','required':['prompt_tokens','completion_tokens',"
         "'total_tokens','prompt_tokens_details','quern'],'properties':{"
         "'prompt_tokens':{'type':'integer','minimum':0},'completion_tokens':{'type':'integer','minimum':0},"
         "'total_tokens':{'type':'integer','minimum':0},"
         "'prompt_tokens_details':{'type':'object','required':['cached_tokens'],'properties':{"
         "'cached_tokens':{'type':'integer','minimum':0}}},'quern':");
    ref(b, "Figures");
    q(b, "}},");
}

static const char logprobs[] =
    "'CompletionLogprobs':{'type':'object','required':['tokens','token_logprobs','top_logprobs',"
    "'text_offset'],'properties':{'tokens':{'type':'array','items':{'type':'string'}},"
    "'token_logprobs':{'type':'array','items':{'type':['number','null']}},"
    "'top_logprobs':{'type':'array','items':{'type':['object','null'],'additionalProperties':{'type':"
    "'number'}}},'text_offset':{'type':'array','items':{'type':'integer','minimum':0}}},"
    "'description':'Of a prompt that is echoed the first token has none.'},"
    "'ChatAlternative':{'type':'object','required':['token','logprob','bytes'],'properties':{"
    "'token':{'type':'string'},'logprob':{'type':'number'},"
    "'bytes':{'type':'array','items':{'type':'integer','minimum':0,'maximum':255}}}},"
    "'ChatLogprobs':{'type':'object','required':['content','refusal'],'properties':{'refusal':{'type':'null'}"
    ","
    "'content':{'type':'array','items':{'type':'object','required':['token','logprob','bytes',"
    "'top_logprobs'],'properties':{'token':{'type':'string'},'logprob':{'type':'number'},"
    "'bytes':{'type':'array','items':{'type':'integer','minimum':0,'maximum':255}},'top_logprobs':";

/* ---- completions and chats ---- */

/* One choice: what it holds, beside its index, as text of a schema. */
struct choice {
    const char *name, *key, *schema, *logprobs;
    bool piece; /* of a stream */
};

static void choice_of(struct qn_buf *b, const struct choice *c) {
    qn_buf_printf(b, "\"%s\":{", c->name);
    q(b, "'type':'object','required':['index','");
    qn_buf_str(b, c->key);
    q(b, "','logprobs','finish_reason'],'properties':{'index':{'type':'integer','minimum':0},'");
    qn_buf_str(b, c->key);
    q(b, "':");
    q(b, c->schema);
    q(b, ",'logprobs':");
    or_null(b, c->logprobs);
    q(b, c->piece ? ",'finish_reason':{'enum':['stop','length',null]}"
                  : ",'finish_reason':{'enum':['stop','length']}");
    q(b,
      ",'finish_detail':{'type':'string','description':'What cut the output short, when it was neither its "
      "end nor its length: timeout, cancelled.'}}},");
}

/* A whole reply, or a chunk of one. */
static void reply_of(struct qn_buf *b, const char *name, const char *object, const struct choice *c) {
    qn_buf_printf(b, "\"%s\":{", name);
    q(b, "'type':'object','required':['id','object','created','model','choices'");
    if (!c->piece) q(b, ",'usage','timings','memory','structure'");
    q(b, "],'properties':{'id':{'type':'string'},'object':{'const':'");
    qn_buf_str(b, object);
    q(b, "'},'created':{'type':'integer'},'model':{'type':'string'},'choices':");
    list_of(b, c->name);
    q(b, ",'usage':");
    if (c->piece)
        or_null(b, "CompletionUsage");
    else
        ref(b, "CompletionUsage");
    q(b, ",");
    figures(b);
    q(b, "}");
    if (c->piece)
        q(b, ",'description':'The last choice to end brings timings, memory and structure. With "
             "include_usage one more comes without choices, and with usage, which is null before.'");
    q(b, "},");
}

static void texts(struct qn_buf *b) {
    static const char string[] = "{'type':'string'}";
    static const char answer[] =
        "{'type':'object','required':['role','content','refusal'],'properties':{'role':{'const':'assistant'},"
        "'content':{'type':'string'},'refusal':{'type':'null'}}}";
    static const char delta[] = "{'type':'object','properties':{'role':{'const':'assistant'},"
                                "'content':{'type':'string'}}}";
    static const struct {
        const char *name, *object;
        struct choice choice;
    } replies[] = {
        {"CompletionReply",
         "text_completion",
         {"CompletionChoice", "text", string, "CompletionLogprobs", false}},
        {"CompletionChunk",
         "text_completion",
         {"CompletionChunkChoice", "text", string, "CompletionLogprobs", true}},
        {"ChatReply", "chat.completion", {"ChatChoice", "message", answer, "ChatLogprobs", false}},
        {"ChatChunk", "chat.completion.chunk", {"ChatChunkChoice", "delta", delta, "ChatLogprobs", true}},
    };
    for (size_t i = 0; i < sizeof replies / sizeof *replies; i++) {
        choice_of(b, &replies[i].choice);
        reply_of(b, replies[i].name, replies[i].object, &replies[i].choice);
    }
}

/* ---- embeddings ---- */

static void embedding(struct qn_buf *b) {
    q(b,
      "'EmbeddingReply':{'type':'object','required':['object','data','model','usage','timings','memory',"
      "'structure'],'properties':{'object':{'const':'list'},'data':{'type':'array','items':{'type':'object',"
      "'required':['object','index','embedding'],'properties':{'object':{'const':'embedding'},"
      "'index':{'type':'integer','minimum':0},'embedding':{'anyOf':[{'type':'array','items':{'type':"
      "'number'}},{'type':'string','contentEncoding':'base64'}]}}}},'model':{'type':'string'},"
      "'usage':{'type':'object','required':['prompt_tokens','total_tokens','quern'],'properties':{"
      "'prompt_tokens':{'type':'integer','minimum':0},'total_tokens':{'type':'integer','minimum':0},"
      "'quern':");
    ref(b, "Figures");
    q(b, "}},");
    figures(b);
    q(b, "}},");
}

void qn_api_openai_schemas(struct qn_buf *b) {
    q(b, message);
    usage(b);
    q(b, logprobs);
    list_of(b, "ChatAlternative");
    q(b, "}}}}},");
    texts(b);
    embedding(b);
}
