/* Schemas of the OpenAI endpoints for /openapi.json. Data flow: the field tables of api/openai_fields.c, and
 * the shapes that api/openai_write.c writes, -> bytes. Thread: any. */
#include <string.h>

#include "api/openai.h"
#include "api/openapi_parts.h"

static void request(struct qn_buf *b, enum qn_api_form form) {
    const struct qn_api_field *f;
    qn_buf_json_str(b, qn_api_form_schema(form), strlen(qn_api_form_schema(form)));
    qn_openapi_text(b, ":{'type':'object','additionalProperties':false,'required':[");
    qn_buf_json_str(b, qn_api_form_input(form), strlen(qn_api_form_input(form)));
    qn_openapi_text(b, "],'properties':{");
    for (size_t i = 0; (f = qn_api_form_field(form, i)); i++) {
        if (i) qn_openapi_text(b, ",");
        qn_buf_json_str(b, f->name, strlen(f->name));
        qn_openapi_text(b, ":");
        qn_openapi_field(b, f);
    }
    qn_openapi_text(b, "}},");
}

#define REF(name)     "{'$ref':'#/components/schemas/" name "'}"
#define LIST_OF(name) "{'type':'array','items':" REF(name) "}"
#define OR_NULL(name) "{'anyOf':[" REF(name) ",{'type':'null'}]}"
#define FIGURES       "'timings':" REF("Timings") ",'memory':" REF("Memory") ",'structure':" REF("Structure")
/* Every reply and chunk of a completion or chat begins so. */
#define HEAD(object, choice)                                                                                 \
    "'id':{'type':'string'},'object':{'const':'" object "'},'created':{'type':'integer'},"                   \
    "'model':{'type':'string'},'choices':" LIST_OF(choice)
#define REPLY_OF(name, object, choice)                                                                       \
    "'" name "':{'type':'object','required':['id','object','created','model','choices','usage','timings',"   \
    "'memory','structure'],'properties':{" HEAD(object,                                                      \
                                                choice) ",'usage':" REF("CompletionUsage") "," FIGURES "}},"
#define CHUNK_OF(name, object, choice)                                                                       \
    "'" name "':{'type':'object','required':['id','object','created','model','choices'],'properties':"       \
    "{" HEAD(object, choice) ",'usage':" OR_NULL(                                                            \
        "CompletionUsage") "," FIGURES "},'description':'The last choice to end brings timings, "            \
                           "memory and structure. With include_usage one "                                   \
                           "more comes without choices, and with usage, which is null before.'},"
#define REASON       "'finish_reason':{'enum':['stop','length']},'finish_detail':" DETAIL
#define REASON_CHUNK "'finish_reason':{'enum':['stop','length',null]},'finish_detail':" DETAIL
#define DETAIL                                                                                               \
    "{'type':'string','description':'What cut the output short, when it was neither its end nor its "        \
    "length: "                                                                                               \
    "timeout, cancelled.'}"

static const char schemas[] =
    "'Message':{'type':'object','required':['role','content'],'additionalProperties':false,'"
    "properties':{"
    "'role':{'enum':['system','developer','user','assistant','tool']},"
    "'content':{'anyOf':[{'type':'string'},{'type':'array','items':{'type':'object','required':['"
    "type','text'"
    "],"
    "'properties':{'type':{'const':'text'},'text':{'type':'string'}}}}]},"
    "'name':{},'tool_call_id':{},'refusal':{},'annotations':{},'reasoning_content':{},"
    "'tool_calls':{'enum':[null,[]]},'function_call':{'enum':[null,[]]},'audio':{'enum':[null,[]]"
    "}}},"
    "'CompletionUsage':{'type':'object','required':['prompt_tokens','completion_tokens','total_"
    "tokens',"
    "'prompt_tokens_details','quern'],'properties':{'prompt_tokens':{'type':'integer','minimum':"
    "0},"
    "'completion_tokens':{'type':'integer','minimum':0},'total_tokens':{'type':'integer','"
    "minimum':0},"
    "'prompt_tokens_details':{'type':'object','required':['cached_tokens'],'properties':{"
    "'cached_tokens':{'type':'integer','minimum':0}}},'quern':" REF(
        "Figures") "}},"
                   "'Figures':{'type':'object','description':'What is at the top of the reply "
                   "too, for "
                   "clients that drop what "
                   "they do not know "
                   "there.','required':['timings','memory','structure'],'properties':{" FIGURES "}},"
                   "'CompletionLogprobs':{'type':'object','required':['tokens','token_logprobs','"
                   "top_"
                   "logprobs','text_offset'],"
                   "'properties':{'tokens':{'type':'array','items':{'type':'string'}},"
                   "'token_logprobs':{'type':'array','items':{'type':['number','null']}},"
                   "'top_logprobs':{'type':'array','items':{'type':['object','null'],'"
                   "additionalProperties':{"
                   "'type':'number'}}},"
                   "'text_offset':{'type':'array','items':{'type':'integer','minimum':0}}},"
                   "'description':'Of a prompt that is echoed the first token has none.'},"
                   "'CompletionChoice':{'type':'object','required':['index','text','logprobs','"
                   "finish_reason'"
                   "],'properties':{"
                   "'index':{'type':'integer','minimum':0},'text':{'type':'string'},"
                   "'logprobs':" OR_NULL(
                       "CompletionLogprobs") "," REASON "}},"
                                             "'CompletionChunkChoice':{'type':'object','required'"
                                             ":['index','"
                                             "text','logprobs','finish_reason'],"
                                             "'properties':{'index':{'type':'integer','minimum':"
                                             "0},'text':{'"
                                             "type':'string'},"
                                             "'logprobs':" OR_NULL(
                                                 "CompletionLogprobs") "," REASON_CHUNK "}}," REPLY_OF("Compl"
                                                                                                       "etion"
                                                                                                       "Repl"
                                                                                                       "y",
                                                                                                       "text_"
                                                                                                       "compl"
                                                                                                       "etio"
                                                                                                       "n",
                                                                                                       "Compl"
                                                                                                       "etion"
                                                                                                       "Choic"
                                                                                                       "e")
                                                 CHUNK_OF(
                                                     "CompletionChunk", "text_completion",
                                                     "CompletionChunkChoice") "'ChatAlternative':"
                                                                              "{'type':'"
                                                                              "object','required'"
                                                                              ":['token','"
                                                                              "logprob','bytes'],"
                                                                              "'properties'"
                                                                              ":{"
                                                                              "'token':{'type':'"
                                                                              "string'},'"
                                                                              "logprob':{'type':'"
                                                                              "number'},"
                                                                              "'bytes':{'type':'"
                                                                              "array','"
                                                                              "items':{'type':'"
                                                                              "integer','"
                                                                              "minimum':0,'"
                                                                              "maximum':255}}}},"
                                                                              "'ChatLogprobs':{'"
                                                                              "type':'"
                                                                              "object','required'"
                                                                              ":['content',"
                                                                              "'refusal'],'"
                                                                              "properties':{'"
                                                                              "refusal':{'type':'"
                                                                              "null'},"
                                                                              "'content':{'type':"
                                                                              "'array','"
                                                                              "items':{'type':'"
                                                                              "object','"
                                                                              "required':['token'"
                                                                              ",'logprob','"
                                                                              "bytes','top_"
                                                                              "logprobs'],"
                                                                              "'properties':{'"
                                                                              "token':{'type':"
                                                                              "'string'},'"
                                                                              "logprob':{'type':'"
                                                                              "number'},"
                                                                              "'bytes':{'type':'"
                                                                              "array','"
                                                                              "items':{'type':'"
                                                                              "integer','"
                                                                              "minimum':0,'"
                                                                              "maximum':255}},"
                                                                              "'top_logprobs'"
                                                                              ":" LIST_OF(
                                                                                  "ChatAlternativ"
                                                                                  "e") "}}}}},"
                                                                                       "'ChatCh"
                                                                                       "oice':{"
                                                                                       "'type':"
                                                                                       "'object"
                                                                                       "','"
                                                                                       "require"
                                                                                       "d':['"
                                                                                       "index',"
                                                                                       "'messag"
                                                                                       "e','"
                                                                                       "logprob"
                                                                                       "s','"
                                                                                       "finish_"
                                                                                       "reason'"
                                                                                       "],'"
                                                                                       "propert"
                                                                                       "ies':{"
                                                                                       "'index'"
                                                                                       ":{'"
                                                                                       "type':'"
                                                                                       "integer"
                                                                                       "','"
                                                                                       "minimum"
                                                                                       "':0},'"
                                                                                       "message"
                                                                                       "':{'"
                                                                                       "type':'"
                                                                                       "object'"
                                                                                       ",'"
                                                                                       "require"
                                                                                       "d':['"
                                                                                       "role','"
                                                                                       "content"
                                                                                       "','"
                                                                                       "refusal"
                                                                                       "'],"
                                                                                       "'proper"
                                                                                       "ties':{"
                                                                                       "'role':"
                                                                                       "{'"
                                                                                       "const':"
                                                                                       "'assist"
                                                                                       "ant'},'"
                                                                                       "content"
                                                                                       "':{'"
                                                                                       "type':'"
                                                                                       "string'"
                                                                                       "},'"
                                                                                       "refusal"
                                                                                       "':{'"
                                                                                       "type':'"
                                                                                       "null'}}"
                                                                                       "},"
                                                                                       "'logpro"
                                                                                       "bs'"
                                                                                       ":" OR_NULL(
                                                                                           "Cha"
                                                                                           "tLo"
                                                                                           "gpr"
                                                                                           "ob"
                                                                                           "s") "," REASON
                                                                                                "}},"
                                                                                                "'ChatChunkCh"
                                                                                                "oice':{'"
                                                                                                "type':'"
                                                                                                "object','"
                                                                                                "required':['"
                                                                                                "index','"
                                                                                                "delta','"
                                                                                                "logprobs','"
                                                                                                "finish_"
                                                                                                "reason'],'"
                                                                                                "properties':"
                                                                                                "{"
                                                                                                "'index':{'"
                                                                                                "type':'"
                                                                                                "integer','"
                                                                                                "minimum':0},"
                                                                                                "'delta':{'"
                                                                                                "type':'"
                                                                                                "object','"
                                                                                                "properties':"
                                                                                                "{'role':{'"
                                                                                                "const':'"
                                                                                                "assistant'},"
                                                                                                "'content':{'"
                                                                                                "type':'"
                                                                                                "string'}}},'"
                                                                                                "logprobs'"
                                                                                                ":" OR_NULL("ChatLogprobs") "," REASON_CHUNK "}}," REPLY_OF(
                                                                                                    "ChatRepl"
                                                                                                    "y",
                                                                                                    "chat."
                                                                                                    "completi"
                                                                                                    "on",
                                                                                                    "ChatChoi"
                                                                                                    "ce")
                                                                                                    CHUNK_OF(
                                                                                                        "Chat"
                                                                                                        "Chun"
                                                                                                        "k",
                                                                                                        "chat"
                                                                                                        ".com"
                                                                                                        "plet"
                                                                                                        "ion."
                                                                                                        "chun"
                                                                                                        "k",
                                                                                                        "Chat"
                                                                                                        "Chun"
                                                                                                        "kCho"
                                                                                                        "ice") "'EmbeddingReply':{'type':'object','required':['object','data','model','usage','timings','memory','structure'],"
                                                                                                               "'properties':{'object':{'const':'list'},'data':{'type':'array','items':{'type':'object',"
                                                                                                               "'required':['object','index','embedding'],'properties':{'object':{'const':'embedding'},"
                                                                                                               "'index':{'type':'integer','minimum':0},'embedding':{'anyOf':[{'type':'array','items':{'type':'number'}},"
                                                                                                               "{'type':'string','contentEncoding':'base64'}]}}}},'model':{'type':'string'},"
                                                                                                               "'usage':{'type':'object','required':['prompt_tokens','total_tokens','quern'],'properties':{"
                                                                                                               "'prompt_tokens':{'type':'integer','minimum':0},'total_tokens':{'type':'integer','minimum':0},"
                                                                                                               "'quern':" REF(
                                                                                                                   "Figures") "}}," FIGURES
                                                                                                                              "}},";

void qn_openapi_openai(struct qn_buf *b) {
    for (int form = QN_FORM_COMPLETION; form < QN_FORM_COUNT; form++) request(b, (enum qn_api_form)form);
    qn_openapi_text(b, schemas);
}
