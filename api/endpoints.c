/* The list of operations, of the tables of their bodies, and of what may be answered instead. Thread: any;
 * all of it is constant. */
#include "api/endpoints.h"

static const struct qn_api_endpoint endpoints[] = {
    {"post", "/v1/infer", "infer", "Run a sequence through a structure", &qn_api_infer_table, "InferReply",
     "StreamToken", "One StreamToken object for each token, then the whole InferReply",
     QN_EP_MODEL | QN_EP_QUEUE},
    {"post", "/v1/compare", "compare", "Run a sequence through several structures, side by side",
     &qn_api_compare_table, "CompareReply", "CompareSample",
     "One CompareSample object for each finished run, then the whole CompareReply",
     QN_EP_MODEL | QN_EP_QUEUE},
    {"post", "/v1/completions", "createCompletion", "Continue a prompt, as OpenAI's clients ask for it",
     &qn_api_completion_table, "CompletionReply", "CompletionChunk",
     "One CompletionChunk object for each piece of text", QN_EP_MODEL | QN_EP_QUEUE | QN_EP_CHUNKS},
    {"post", "/v1/chat/completions", "createChatCompletion",
     "Continue a conversation, as OpenAI's clients ask for it", &qn_api_chat_table, "ChatReply", "ChatChunk",
     "One ChatChunk object for each piece of text", QN_EP_MODEL | QN_EP_QUEUE | QN_EP_CHUNKS},
    {"post", "/v1/embeddings", "createEmbedding", "Vectors of texts, as OpenAI's clients ask for them",
     &qn_api_embedding_table, "EmbeddingReply", NULL, NULL, QN_EP_MODEL | QN_EP_QUEUE},
    {"get", "/v1/structures", "listStructures", "Structures that the loaded models can run", NULL,
     "StructureList", NULL, NULL, 0},
    {"get", "/v1/models", "listModels", "The loaded models", NULL, "ModelList", NULL, NULL, 0},
    {"get", "/v1/models/{id}", "getModel", "One loaded model", NULL, "Model", NULL, NULL, QN_EP_MODEL},
    {"post", "/tokenize", "tokenize", "Text to token ids", &qn_api_tokenize_table, "TokenizeReply", NULL,
     NULL, QN_EP_MODEL},
    {"post", "/detokenize", "detokenize", "Token ids to text", &qn_api_detokenize_table, "DetokenizeReply",
     NULL, NULL, QN_EP_MODEL},
    {"get", "/tokenizer_info", "tokenizerInfo", "Special tokens and chat template of a model", NULL,
     "TokenizerInfo", NULL, NULL, QN_EP_MODEL | QN_EP_ASKS},
    {"get", "/livez", "livez", "The process answers", NULL, "text/plain", NULL, NULL, QN_EP_OPEN},
    {"get", "/readyz", "readyz", "Models are loaded and work is accepted", NULL, "text/plain", NULL, NULL,
     QN_EP_OPEN | QN_EP_READY},
    {"get", "/healthz", "healthz", "The same as /readyz", NULL, "text/plain", NULL, NULL,
     QN_EP_OPEN | QN_EP_READY},
    {"get", "/health", "health", "The same as /readyz", NULL, "text/plain", NULL, NULL,
     QN_EP_OPEN | QN_EP_READY},
    {"get", "/metrics", "metrics", "Prometheus text", NULL, "text/plain", NULL, NULL, QN_EP_METRICS},
    {"get", "/", "index", "What there is, for people; in a browser a page to try it on", NULL, "text/plain",
     NULL, NULL, QN_EP_OPEN | QN_EP_PAGE},
    {"get", "/openapi.json", "openapi", "This document", NULL, "Document", NULL, NULL, 0},
};

const struct qn_api_endpoint *qn_api_endpoints(size_t *n) {
    *n = sizeof endpoints / sizeof *endpoints;
    return endpoints;
}

const struct qn_api_table *const *qn_api_tables(void) {
    static const struct qn_api_table *const tables[] = {
        &qn_api_infer_table,      &qn_api_compare_table,    &qn_api_compare_structure_table,
        &qn_api_completion_table, &qn_api_chat_table,       &qn_api_embedding_table,
        &qn_api_tokenize_table,   &qn_api_detokenize_table, NULL};
    return tables;
}

static const struct qn_api_refusal refusals[] = {
    {"BadRequest",
     "The body, a field, the structure or the framing is not valid; `param` names what is at fault.", 400,
     false},
    {"Unauthorized", "An API key is set and the request carries none, or a wrong one.", 401, false},
    {"NotFound", "No such path, or no such model.", 404, false},
    {"MethodNotAllowed", "The path exists, with another method; `Allow` names it.", 405, false},
    {"Timeout",
     "The body did not arrive in time, or the deadline passed before any output; of a comparison, before "
     "its end.",
     408, false},
    {"BodyTooLarge", "The body is larger than `--max-body`.", 413, false},
    {"UnsupportedMediaType", "The body is compressed.", 415, false},
    {"QueueFull",
     "The queue is full, or too many bodies are being received; come back after `Retry-After`, 1 to 30 s "
     "from the measured rate.",
     429, true},
    {"HeadersTooLarge", "The headers are larger than the server takes.", 431, false},
    {"Internal", "A fault of the server.", 500, false},
    {"NotImplemented", "A transfer coding that the server does not know.", 501, false},
    {"Unavailable",
     "Loading, draining, out of memory or out of connections; `model_lost` (`--mmap` only) stays until "
     "a restart.",
     503, true},
};

const struct qn_api_refusal *qn_api_refusals(size_t *n) {
    *n = sizeof refusals / sizeof *refusals;
    return refusals;
}

bool qn_api_may_answer(const struct qn_api_endpoint *e, unsigned status) {
    switch (status) {
    case 401:
        return !(e->flags & QN_EP_OPEN);
    case 404:
        return e->flags & QN_EP_MODEL;
    default:
        return true; /* any request may have a body that is too large, late, compressed, badly framed … */
    }
}
