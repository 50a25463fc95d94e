/* The field table of POST /v1/infer, the defaults, and the rules that need the whole request. Thread: any. */
#include "api/infer_fields.h"

#include <string.h>

#include "api/table.h"

#define AT(member)    offsetof(struct qn_api_infer, member)
#define SAFE_INTEGER  9007199254740991.0 /* 2^53 - 1: what every JSON reader keeps exactly */
#define MAX_TOKENS    1048576.0
#define MAX_STOP_SIZE 256.0

static const struct qn_api_field fields[] = {
    {"model", QN_FIELD_MODEL, 1, 64, false, QN_FOR_ALL, NULL,
     "Id of a loaded model; the first loaded one when left out.", AT(model), 0},
    {"attention", QN_FIELD_PART, 0, 0, false, QN_FOR_ALL, NULL,
     "Attention structure, a name or an object with parameters; the native one of the model when left out.",
     AT(attention), 0},
    {"ffn", QN_FIELD_PART, 0, 0, false, QN_FOR_ALL, NULL,
     "Feed-forward structure, a name or an object with parameters; the native one when left out.", AT(ffn),
     0},
    {"sharing", QN_FIELD_PART, 0, 0, false, QN_FOR_ALL, NULL,
     "How layers share weights, a name or an object with parameters; the native way when left out.",
     AT(sharing), 0},
    {"convert", QN_FIELD_BOOL, 0, 0, false, QN_FOR_ALL, "false",
     "Also allow approximate and untrained conversions; exact ones need no leave.", AT(convert), 0},
    {"sequence", QN_FIELD_SEQUENCE, 1, QN_API_MAX_OUTPUTS, false, QN_FOR_ALL, NULL,
     "Text, an array of token ids, or an array of texts and arrays of ids (a batch). Never empty; text may "
     "not hold "
     "the character U+0000.",
     AT(seqs), 0},
    {"task", QN_FIELD_TASK, 0, QN_TASK_EMBED, false, QN_FOR_ALL, "\"generate\"",
     "Continue the sequence, score it (log-probability), or embed it.", AT(task), 0},
    {"max_tokens", QN_FIELD_U32, 0, MAX_TOKENS, false, QN_FOR_GENERATE, "64",
     "Most tokens to generate for one output; the server may allow fewer.", AT(max_tokens),
     AT(max_tokens_given)},
    {"n", QN_FIELD_U32, 1, QN_API_MAX_OUTPUTS, false, QN_FOR_GENERATE, "1",
     "Continuations of each sequence; sequences times n is bounded.", AT(n), 0},
    {"temperature", QN_FIELD_FLOAT, 0, 100, false, QN_FOR_GENERATE, "0",
     "Sampling temperature; 0 always takes the likeliest token.", AT(temperature), 0},
    {"top_k", QN_FIELD_U32, 0, MAX_TOKENS, false, QN_FOR_GENERATE, "0",
     "Sample from the k likeliest tokens only; 0 is off.", AT(top_k), 0},
    {"top_p", QN_FIELD_FLOAT, 0, 1, true, QN_FOR_GENERATE, "1",
     "Sample from the smallest set of tokens that holds this much probability; 1 is off.", AT(top_p), 0},
    {"min_p", QN_FIELD_FLOAT, 0, 1, false, QN_FOR_GENERATE, "0",
     "Drop tokens less likely than this share of the likeliest one; 0 is off.", AT(min_p), 0},
    {"repetition_penalty", QN_FIELD_FLOAT, 0, 10, true, QN_FOR_GENERATE, "1",
     "Divides positive and multiplies negative logits of tokens seen before; 1 is off.",
     AT(repetition_penalty), 0},
    {"presence_penalty", QN_FIELD_FLOAT, -2, 2, false, QN_FOR_GENERATE, "0",
     "Taken off the logit of every token generated before.", AT(presence_penalty), 0},
    {"frequency_penalty", QN_FIELD_FLOAT, -2, 2, false, QN_FOR_GENERATE, "0",
     "Taken off the logit once for each time that a token was generated.", AT(frequency_penalty), 0},
    {"seed", QN_FIELD_U64, 0, SAFE_INTEGER, false, QN_FOR_ALL, NULL,
     "Seed of the sampling; the same request with the same seed gives the same output. Drawn anew for each "
     "request when left out.",
     AT(seed), AT(seed_given)},
    {"stop", QN_FIELD_STOP, 1, MAX_STOP_SIZE, false, QN_FOR_GENERATE, "[]",
     "A string, or up to 16 of them, that ends the output; it is not part of the output.", AT(stop), 0},
    {"logprobs", QN_FIELD_U32, 0, 20, false, QN_FOR_GENERATE | QN_FOR_SCORE, NULL,
     "Report the log-probability of every token, with this many alternatives; no report when left out.",
     AT(logprobs), AT(logprobs_given)},
    {"ignore_eos", QN_FIELD_BOOL, 0, 0, false, QN_FOR_GENERATE, "false",
     "Keep going past the tokens that end a text, to max_tokens.", AT(ignore_eos), 0},
    {"speculative", QN_FIELD_SPECULATIVE, 0, 0, false, QN_FOR_GENERATE, "\"off\"",
     "Guess the next tokens from where the same ones stood before in the sequence and check all guesses in "
     "one "
     "step; the output is the same with and without.",
     AT(speculative), 0},
    {"regex", QN_FIELD_REGEX, 1, QN_API_MAX_REGEX, false, QN_FOR_GENERATE, NULL,
     "Every output is a text that this regular expression matches as a whole, unless its length ends first.",
     AT(constraint), 0},
    {"json_schema", QN_FIELD_SCHEMA, 0, QN_API_MAX_SCHEMA, false, QN_FOR_GENERATE, NULL,
     "Every output is JSON that this schema describes, unless its length ends first; true: any JSON object.",
     AT(constraint), 0},
    {"stream", QN_FIELD_BOOL, 0, 0, false, QN_FOR_GENERATE | QN_FOR_SCORE, "false",
     "Send tokens as server-sent events while they come, then the whole reply.", AT(stream), 0},
    {"cache", QN_FIELD_BOOL, 0, 0, false, QN_FOR_ALL, "true",
     "Reuse the state of a prefix that was computed before.", AT(cache), 0},
    {"timeout_ms", QN_FIELD_U32, 0, 3600000, false, QN_FOR_ALL, "0",
     "Longest time for the whole request in milliseconds; 0 is the default of the server.", AT(timeout_ms),
     0},
};

const struct qn_api_table qn_api_infer_table = {
    "InferRequest", fields, sizeof fields / sizeof fields[0], {"sequence"}, {NULL}};

const struct qn_api_field *qn_api_infer_fields(size_t *n) {
    *n = sizeof fields / sizeof fields[0];
    return fields;
}

const struct qn_api_field *qn_api_infer_field(const char *name) {
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (!strcmp(fields[i].name, name)) return &fields[i];
    return NULL;
}

void qn_api_infer_init(struct qn_api_infer *r) {
    memset(r, 0, sizeof *r);
    r->max_tokens = 64;
    r->n = 1;
    r->top_p = 1.0f;
    r->repetition_penalty = 1.0f;
    r->seed = 1;
    r->speculative.max_draft = 8;
    r->speculative.ngram = 3;
    r->cache = true;
}

const char *qn_api_task_name(enum qn_api_task t) {
    static const char *const names[] = {"generate", "score", "embed"};
    return names[(unsigned)t < 3 ? t : 0];
}

uint32_t qn_api_infer_most(const struct qn_api_limits *lim) {
    if (lim && lim->max_inputs)
        return lim->max_inputs < QN_API_MAX_INPUTS ? lim->max_inputs : QN_API_MAX_INPUTS;
    bool lower = lim && lim->max_outputs && lim->max_outputs < QN_API_MAX_OUTPUTS;
    return lower ? lim->max_outputs : QN_API_MAX_OUTPUTS;
}

/* Whether the field holds anything but its default, 0 or false: something that was meant. */
static bool is_set(const struct qn_api_infer *r, const struct qn_api_infer *defaults,
                   const struct qn_api_field *f) {
    const char *p = (const char *)r + f->offset, *d = (const char *)defaults + f->offset;
    bool yes;
    float x, y;
    uint32_t u, v;
    switch (f->type) {
    case QN_FIELD_BOOL:
        memcpy(&yes, p, sizeof yes);
        return yes;
    case QN_FIELD_FLOAT:
        memcpy(&x, p, sizeof x);
        memcpy(&y, d, sizeof y);
        return (x < y || x > y) && (x < 0 || x > 0);
    case QN_FIELD_U32:
        memcpy(&u, p, sizeof u);
        memcpy(&v, d, sizeof v);
        return u != v && u != 0;
    case QN_FIELD_STOP:
        return r->n_stop > 0;
    case QN_FIELD_SPECULATIVE:
        return r->speculative.prompt;
    case QN_FIELD_REGEX:
        return r->constraint.kind == QN_CONSTRAIN_REGEX;
    case QN_FIELD_SCHEMA:
        return r->constraint.kind == QN_CONSTRAIN_JSON || r->constraint.kind == QN_CONSTRAIN_SCHEMA;
    default:
        return false; /* the others have a meaning in every task */
    }
}

void qn_api_infer_bound(struct qn_api_infer *r, const struct qn_api_limits *lim) {
    if (lim && lim->max_tokens && r->max_tokens > lim->max_tokens) r->max_tokens = lim->max_tokens;
}

int qn_api_infer_check(const struct qn_api_infer *r, const struct qn_api_limits *lim,
                       struct qn_api_err *err) {
    uint32_t most = qn_api_infer_most(lim);
    struct qn_api_infer defaults;
    if (r->n_seqs == 0)
        return qn_api_fail(err, QN_API_INVALID, "sequence",
                           "\"sequence\" is required: text, token ids, or an array of either");
    unsigned task = 1u << (unsigned)r->task;
    qn_api_infer_init(&defaults);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        if (!(fields[i].tasks & task) && is_set(r, &defaults, &fields[i]))
            return qn_api_fail(err, QN_API_INVALID, fields[i].name,
                               "\"%s\" has no meaning for task \"%s\": leave it out", fields[i].name,
                               qn_api_task_name(r->task));
    if (r->logprobs_given && r->task == QN_TASK_EMBED)
        return qn_api_fail(err, QN_API_INVALID, "logprobs",
                           "an embedding has no tokens to report: leave \"logprobs\" out");
    if ((uint64_t)r->n * r->n_seqs > most)
        return qn_api_fail(err, QN_API_INVALID, r->n > 1 ? "n" : "sequence",
                           "%u sequences with n = %u make more than %u outputs", (unsigned)r->n_seqs,
                           (unsigned)r->n, (unsigned)most);
    return 0;
}
