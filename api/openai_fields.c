/* The field tables of the OpenAI endpoints. Where type, range, default and meaning are those of POST
 * /v1/infer the row is that one. Thread: any; constant data. */
#include <stdio.h>
#include <string.h>

#include "api/openai.h"

#define AT(member)  offsetof(struct qn_api_openai, member)
#define RUN(member) (AT(run) + offsetof(struct qn_api_infer, member))
#define MAX_TOKENS  1048576.0

#define IGNORED(name)                                                                                        \
    { name, QN_FIELD_IGNORED, 0, 0, false, QN_FOR_ALL, NULL, "Accepted, and changes nothing.", 0, 0 }
#define REFUSED(name, doc)                                                                                   \
    {                                                                                                        \
        name, QN_FIELD_REFUSED, 0, 0, false, QN_FOR_ALL, NULL,                                               \
            doc " Only null and empty values are accepted.", 0, 0                                            \
    }
#define TARGET                                                                                               \
    {                                                                                                        \
        "model", QN_FIELD_TARGET, 1, QN_API_TARGET - 1, false, QN_FOR_ALL, NULL,                             \
            "Id of a loaded model, the first one when left out; a structure may follow behind an @, as in "  \
            "grist@mqa+moe (attention+ffn+sharing, parts that are left out being the native ones).",         \
            AT(target), 0                                                                                    \
    }
#define STREAM_OPTIONS                                                                                       \
    {                                                                                                        \
        "stream_options", QN_FIELD_STREAM_OPTIONS, 0, 0, false, QN_FOR_ALL, NULL,                            \
            "With include_usage a streamed reply ends with a chunk that has no choices but the usage.",      \
            AT(include_usage), 0                                                                             \
    }
#define TEMPERATURE                                                                                          \
    {                                                                                                        \
        "temperature", QN_FIELD_FLOAT, 0, 100, false, QN_FOR_ALL, "1",                                       \
            "Sampling temperature; 0 always takes the likeliest token.", RUN(temperature), 0                 \
    }

static const struct qn_api_field completion[] = {
    TARGET,
    {"prompt", QN_FIELD_SEQUENCE, 1, QN_API_MAX_OUTPUTS, false, QN_FOR_ALL, NULL,
     "Text, an array of token ids, or an array of texts and arrays of ids. Never empty; text may not hold "
     "the character U+0000.",
     RUN(seqs), 0},
    {"max_tokens", QN_FIELD_U32, 0, MAX_TOKENS, false, QN_FOR_ALL, "16",
     "Most tokens to generate for one choice; the server may allow fewer.", RUN(max_tokens),
     RUN(max_tokens_given)},
    TEMPERATURE,
    {"echo", QN_FIELD_BOOL, 0, 0, false, QN_FOR_ALL, "false",
     "Put the prompt before the text, and its tokens before those of logprobs (which can not be streamed).",
     AT(echo), 0},
    STREAM_OPTIONS,
    REFUSED("best_of", "Choices are not ranked here: ask for n of them."),
    REFUSED("suffix", "Text is not inserted here."),
    REFUSED("logit_bias", "Logits can not be biased here."),
    IGNORED("user"),
    QN_FIELD_AS_INFER("n"),
    QN_FIELD_AS_INFER("stop"),
    QN_FIELD_AS_INFER("seed"),
    QN_FIELD_AS_INFER("logprobs"),
    QN_FIELD_AS_INFER("top_p"),
    QN_FIELD_AS_INFER("presence_penalty"),
    QN_FIELD_AS_INFER("frequency_penalty"),
    QN_FIELD_AS_INFER("stream"),
    QN_FIELD_AS_INFER("attention"),
    QN_FIELD_AS_INFER("ffn"),
    QN_FIELD_AS_INFER("sharing"),
    QN_FIELD_AS_INFER("convert"),
    QN_FIELD_AS_INFER("top_k"),
    QN_FIELD_AS_INFER("min_p"),
    QN_FIELD_AS_INFER("repetition_penalty"),
    QN_FIELD_AS_INFER("ignore_eos"),
    QN_FIELD_AS_INFER("speculative"),
    QN_FIELD_AS_INFER("regex"),
    QN_FIELD_AS_INFER("json_schema"),
    QN_FIELD_AS_INFER("cache"),
    QN_FIELD_AS_INFER("timeout_ms"),
};

static const struct qn_api_field chat[] = {
    TARGET,
    {"messages", QN_FIELD_MESSAGES, 1, 1024, false, QN_FOR_ALL, NULL,
     "The conversation: objects with a role and a content (a text, or parts of type text).", AT(messages), 0},
    {"max_completion_tokens", QN_FIELD_U32, 0, MAX_TOKENS, false, QN_FOR_ALL, NULL,
     "Most tokens to generate for one choice; as many as there is room for when left out.",
     AT(max_completion_tokens), AT(max_completion_given)},
    {"max_tokens", QN_FIELD_U32, 0, MAX_TOKENS, false, QN_FOR_ALL, NULL,
     "The older name of max_completion_tokens.", RUN(max_tokens), RUN(max_tokens_given)},
    TEMPERATURE,
    {"logprobs", QN_FIELD_BOOL, 0, 0, false, QN_FOR_ALL, "false",
     "Report the log-probability of every generated token.", AT(chat_logprobs), 0},
    {"top_logprobs", QN_FIELD_U32, 0, 20, false, QN_FOR_ALL, NULL,
     "With logprobs: report this many alternatives of each token.", AT(top_logprobs), AT(top_logprobs_given)},
    STREAM_OPTIONS,
    {"response_format", QN_FIELD_RESPONSE_FORMAT, 0, QN_API_MAX_SCHEMA, false, QN_FOR_ALL, NULL,
     "What every answer is, unless its length ends first: text, any JSON object, or JSON that a schema "
     "describes.",
     AT(run), 0},
    REFUSED("tools", "No chat template here carries tools."),
    REFUSED("functions", "No chat template here carries functions."),
    REFUSED("audio", "There is no speech here."),
    REFUSED("web_search_options", "There is no search here."),
    REFUSED("logit_bias", "Logits can not be biased here."),
    IGNORED("tool_choice"),
    IGNORED("function_call"),
    IGNORED("parallel_tool_calls"),
    IGNORED("user"),
    IGNORED("metadata"),
    IGNORED("store"),
    IGNORED("service_tier"),
    IGNORED("safety_identifier"),
    IGNORED("prompt_cache_key"),
    IGNORED("prompt_cache_retention"),
    IGNORED("prediction"),
    IGNORED("modalities"),
    IGNORED("reasoning_effort"),
    IGNORED("verbosity"),
    QN_FIELD_AS_INFER("n"),
    QN_FIELD_AS_INFER("stop"),
    QN_FIELD_AS_INFER("seed"),
    QN_FIELD_AS_INFER("top_p"),
    QN_FIELD_AS_INFER("presence_penalty"),
    QN_FIELD_AS_INFER("frequency_penalty"),
    QN_FIELD_AS_INFER("stream"),
    QN_FIELD_AS_INFER("attention"),
    QN_FIELD_AS_INFER("ffn"),
    QN_FIELD_AS_INFER("sharing"),
    QN_FIELD_AS_INFER("convert"),
    QN_FIELD_AS_INFER("top_k"),
    QN_FIELD_AS_INFER("min_p"),
    QN_FIELD_AS_INFER("repetition_penalty"),
    QN_FIELD_AS_INFER("ignore_eos"),
    QN_FIELD_AS_INFER("speculative"),
    QN_FIELD_AS_INFER("regex"),
    QN_FIELD_AS_INFER("json_schema"),
    QN_FIELD_AS_INFER("cache"),
    QN_FIELD_AS_INFER("timeout_ms"),
};

static const struct qn_api_field embedding[] = {
    TARGET,
    {"input", QN_FIELD_SEQUENCE, 1, QN_API_MAX_INPUTS, false, QN_FOR_ALL, NULL,
     "Text, an array of token ids, or an array of texts and arrays of ids. Never empty; text may not hold "
     "the character U+0000.",
     RUN(seqs), 0},
    {"encoding_format", QN_FIELD_ENCODING, 0, 0, false, QN_FOR_ALL, "\"float\"",
     "Numbers, or base64 of 32-bit floats, the least significant byte first.", AT(base64), 0},
    {"dimensions", QN_FIELD_U32, 1, MAX_TOKENS, false, QN_FOR_ALL, NULL,
     "Must be what the model has: its vectors can not be shortened.", AT(dimensions), AT(dimensions_given)},
    IGNORED("user"),
    QN_FIELD_AS_INFER("attention"),
    QN_FIELD_AS_INFER("ffn"),
    QN_FIELD_AS_INFER("sharing"),
    QN_FIELD_AS_INFER("convert"),
    QN_FIELD_AS_INFER("timeout_ms"),
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
const struct qn_api_table qn_api_completion_table = {
    "CompletionRequest", completion, COUNT(completion), {"prompt"}, {NULL}};
const struct qn_api_table qn_api_chat_table = {"ChatRequest", chat, COUNT(chat), {"messages"}, {NULL}};
const struct qn_api_table qn_api_embedding_table = {
    "EmbeddingRequest", embedding, COUNT(embedding), {"input"}, {NULL}};

const struct qn_api_table *qn_api_form_table(enum qn_api_form form) {
    static const struct qn_api_table *const tables[QN_FORM_COUNT] = {
        [QN_FORM_NATIVE] = &qn_api_infer_table,
        [QN_FORM_COMPLETION] = &qn_api_completion_table,
        [QN_FORM_CHAT] = &qn_api_chat_table,
        [QN_FORM_EMBEDDING] = &qn_api_embedding_table,
    };
    return tables[form];
}

const char *qn_api_form_input(enum qn_api_form form) {
    return qn_api_form_table(form)->required[0];
}

void qn_api_form_rename(enum qn_api_form form, struct qn_api_err *err) {
    static const char from[] = "sequence";
    size_t n = sizeof from - 1;
    char rest[sizeof err->param];
    if (form == QN_FORM_NATIVE || strncmp(err->param, from, n) != 0) return;
    if (err->code == QN_API_UNKNOWN_FIELD) return; /* the client's own word */
    if (err->param[n] && err->param[n] != '[') return;
    snprintf(rest, sizeof rest, "%s", err->param + n);
    snprintf(err->param, sizeof err->param, "%s%.32s", qn_api_form_input(form), rest);
}

void qn_api_openai_init(enum qn_api_form form, struct qn_api_openai *r) {
    memset(r, 0, sizeof *r);
    qn_api_infer_init(&r->run);
    r->form = form;
    r->run.temperature = 1.0f;
    if (form == QN_FORM_COMPLETION) r->run.max_tokens = 16;
    if (form == QN_FORM_EMBEDDING) {
        r->run.temperature = 0;
        r->run.task = QN_TASK_EMBED;
    }
}
