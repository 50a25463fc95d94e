/* The renderers behind chat_template.h, and the sink that they write to. Private to model/text.
 *
 * A renderer only appends. It runs twice: the first time the sink counts bytes (and the renderer stops at a
 * conversation that the template refuses), the second time it writes into memory of exactly that size. Both
 * runs see the same input, so they come to the same length. */
#ifndef QN_MODEL_TEXT_CHAT_RENDER_H
#define QN_MODEL_TEXT_CHAT_RENDER_H

#include "model/text/chat_template.h"

enum qn_chat_flag {
    QN_CHAT_TRIM = 1,        /* blanks around the assistant's messages go */
    QN_CHAT_SYSTEM = 2,      /* takes a system message, before the first user message or, … */
    QN_CHAT_SYSTEM_LAST = 4, /* … with this one, before the last one */
    QN_CHAT_TODAY = 8,       /* tells today's date, not a fixed one */
    QN_CHAT_ALWAYS = 16      /* ends with the assistant's header whether asked to or not */
};

#define QN_CHAT_NEED  6
#define QN_CHAT_NEVER 12

struct qn_chat_render {
    const struct qn_chat_template *t;
    const struct qn_chat_context *ctx;
    const struct qn_chat_message *msgs;
    size_t n;
    bool prompt; /* add_generation_prompt */
    struct qn_err *err;
    char *out;     /* NULL: count */
    size_t len;    /* bytes so far */
    bool overflow; /* they don't fit into a size_t */
};

struct qn_chat_template {
    const char *name;
    int (*render)(struct qn_chat_render *r);
    unsigned flags;
    const char *system;                       /* ChatML: for a conversation that has none of its own */
    const char *open, *close, *answer, *done; /* [INST]: around a user's message; before the assistant's,
                                                 and after its end-of-sequence token */
    /* In the normal form of chat_template.c: a text that holds all of these and … */
    const char *need[QN_CHAT_NEED];
    const char *never[QN_CHAT_NEVER]; /* … none of these is this template's */
};

/* Each gives QN_OK, or QN_ERR_INVALID with the message at fault. */
int qn_chat_render_chatml(struct qn_chat_render *r);
int qn_chat_render_qwen25(struct qn_chat_render *r);
int qn_chat_render_qwen3(struct qn_chat_render *r);
int qn_chat_render_llama2(struct qn_chat_render *r);
int qn_chat_render_llama3(struct qn_chat_render *r);
int qn_chat_render_llama31(struct qn_chat_render *r);
int qn_chat_render_mistral(struct qn_chat_render *r);
int qn_chat_render_gemma(struct qn_chat_render *r);
int qn_chat_render_zephyr(struct qn_chat_render *r);

#endif
