/* The OpenAI endpoints: /v1/completions, /v1/chat/completions, /v1/embeddings. Request bytes -> an inference
 * (struct qn_api_infer) and what is particular to the endpoint; the reply of an inference -> the bytes that
 * clients of that endpoint expect. Pure: no I/O, no model knowledge.
 *
 * Each endpoint has a table of fields (api/openai_fields.c): rows of its own, and rows that it shares with
 * POST /v1/infer. Parser, messages, /openapi.json and docs/api.md follow from it. Thread: any. */
#ifndef QN_API_OPENAI_H
#define QN_API_OPENAI_H

#include "api/infer.h"
#include "api/table.h"

enum qn_api_form { QN_FORM_NATIVE = 0, QN_FORM_COMPLETION, QN_FORM_CHAT, QN_FORM_EMBEDDING, QN_FORM_COUNT };

#define QN_API_TARGET 321 /* bytes of "id@attention+ffn+sharing" with its end */

struct qn_api_message {
    char role[16]; /* system developer user assistant tool */
    char *text;    /* owned, UTF-8, NUL-terminated; n bytes */
    size_t n;
};

struct qn_api_openai {
    struct qn_api_infer run; /* first: rows of the tables count from it. Of a chat `seqs` is for the caller to
                                make out of the messages, of all the caller splits `target` */
    enum qn_api_form form;
    char target[QN_API_TARGET];      /* the field "model" as it came; "" = not given */
    struct qn_api_message *messages; /* owned, [n_messages] */
    uint32_t n_messages;
    bool echo, include_usage, base64;
    bool chat_logprobs;
    uint32_t top_logprobs, max_completion_tokens, dimensions;
    bool top_logprobs_given, max_completion_given, dimensions_given;
};

/* Defaults, parse, free: as for an inference. form is not NATIVE. */
void qn_api_openai_init(enum qn_api_form form, struct qn_api_openai *r);
int qn_api_openai_parse(enum qn_api_form form, const char *body, size_t len, const struct qn_api_limits *lim,
                        struct qn_api_openai *out, struct qn_api_err *err);
void qn_api_openai_free(struct qn_api_openai *r);

/* The table of its body; the name of the field in it that holds what to run: "prompt". */
const struct qn_api_table *qn_api_form_table(enum qn_api_form form);
const char *qn_api_form_input(enum qn_api_form form);
/* An error of the inference that names "sequence" names the endpoint's own field instead. */
void qn_api_form_rename(enum qn_api_form form, struct qn_api_err *err);

/* ---- replies ---- */
/* Whole replies. Outputs' logprobs of completions need offsets; a logprob that is not a number is null (there
 * is none for a first token), one of -infinity is written as -9999. */
void qn_api_completion_write(struct qn_buf *out, const struct qn_api_reply *r);
void qn_api_chat_write(struct qn_buf *out, const struct qn_api_reply *r);
void qn_api_embedding_write(struct qn_buf *out, const struct qn_api_reply *r, bool base64);

/* One piece of a streamed completion or chat, as a whole `data:` line. */
struct qn_api_chunk {
    const char *id, *model;
    int64_t created;
    bool chat, usage; /* usage: its place is kept, with null */
    bool role;        /* chat: the first one, which names the role */
    uint32_t index;
    const char *text;
    size_t n;
    const struct qn_api_token *lp; /* NULL: null */
    uint32_t offset;               /* completions: characters of the text before lp's token */
};
void qn_api_chunk_write(struct qn_buf *out, const struct qn_api_chunk *c);
/* The last lines of a stream: one with the finish_reason of each output, the last of them with timings,
 * memory and structure; with usage one more, without choices. Not the [DONE]. */
void qn_api_finish_write(struct qn_buf *out, const struct qn_api_reply *r, bool chat, bool usage);

#endif
