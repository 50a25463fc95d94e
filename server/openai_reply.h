/* Replies and stream events in the words of the OpenAI endpoints: what they show of a job that the reply of
 * /v1/infer does not (the prompt before the text, where tokens stand in it), then the writers of
 * api/openai.h. Loop thread. */
#ifndef QN_SERVER_OPENAI_REPLY_H
#define QN_SERVER_OPENAI_REPLY_H

#include "server/engine.h"

/* Fills *t and its alternatives; top has room for QN_TOP_LOGPROBS. (job_reply.c) */
void qn_token_to_api(const struct qn_model *m, const struct qn_sampled *s, struct qn_api_token *t,
                     struct qn_api_logprob *top);

/* r is complete. end: the last lines of a stream, else the whole reply. */
void qn_openai_write(const struct qn_job *j, const struct qn_api_reply *r, bool end, struct qn_buf *out);
/* First lines of a stream: the role, or the echoed prompt, of each output. */
void qn_openai_write_start(const struct qn_job *j, struct qn_buf *out);
/* One token; lp NULL: without log-probability. */
void qn_openai_write_event(const struct qn_event *ev, const struct qn_api_token *lp, struct qn_buf *out);

#endif
