/* Conversations as text, in the formats that instruction-tuned checkpoints were trained with.
 *
 *   the checkpoint's own template text -[recognise]-> a renderer in C; messages -[render]-> one text
 *
 * Templates are published as Jinja programs. quern runs none of them: it knows what those of the common
 * families come to, and tells them apart by what their text holds. One that it doesn't know is no template at
 * all, since a near miss would give the model a prompt that it never saw, silently.
 *
 * Thread: any; constant data. */
#ifndef QN_MODEL_TEXT_CHAT_TEMPLATE_H
#define QN_MODEL_TEXT_CHAT_TEMPLATE_H

#include "model/model.h"

struct qn_chat_template; /* constant, never freed */

/* NULL when no template has that name. */
const struct qn_chat_template *qn_chat_find(const char *name);
/* The template that a checkpoint's text stands for, or NULL. text need not be terminated. QN_ERR_NOMEM. */
int qn_chat_recognise(const char *text, size_t n, const struct qn_chat_template **out, struct qn_err *err);
const char *qn_chat_name(const struct qn_chat_template *t);
/* "chatml, gemma, …" */
const char *qn_chat_names(void);

/* What templates take from outside the conversation. */
struct qn_chat_context {
    struct qn_str_ref bos, eos; /* texts of these tokens; empty when the tokenizer has none */
    const char *today;          /* "05 Mar 2025", for those that tell the date */
};
/* As qn_model_chat. */
int qn_chat_render(const struct qn_chat_template *t, const struct qn_chat_context *ctx,
                   const struct qn_chat_message *msgs, size_t n, bool add_generation_prompt, char **out,
                   size_t *len, struct qn_err *err);

#endif
