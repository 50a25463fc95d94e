/* What each route does. The run functions are named in route.c; see route.h for what they may touch. */
#ifndef QN_SERVER_HANDLERS_H
#define QN_SERVER_HANDLERS_H

#include "server/request.h"

void qn_handle_livez(struct qn_request *r);
void qn_handle_readyz(struct qn_request *r);
void qn_handle_metrics(struct qn_request *r);
void qn_handle_index(struct qn_request *r); /* page.c, as the next one */
void qn_handle_page(struct qn_request *r);
void qn_handle_openapi(struct qn_request *r);
void qn_handle_models(struct qn_request *r);
void qn_handle_model(struct qn_request *r);
void qn_handle_structures(struct qn_request *r);
void qn_handle_infer(struct qn_request *r);
void qn_handle_completions(struct qn_request *r);
void qn_handle_chat(struct qn_request *r);
void qn_handle_embeddings(struct qn_request *r);
void qn_handle_compare(struct qn_request *r);
void qn_handle_tokenize(struct qn_request *r);
void qn_handle_detokenize(struct qn_request *r);
void qn_handle_tokenizer_info(struct qn_request *r);

/* The request is complete: runs its handler here, or on a worker when the body is large. Afterwards r->ready
 * (a reply), r->stream.open (a stream) or neither (the reply comes later: the caller suspends). Loop thread.
 */
void qn_request_start(struct qn_request *r);
/* Hands what was read since the last call to the engine; resumes what it refused, and streams. */
void qn_handle_submits(struct qn_server *srv);
/* Everything the engine has finished or produced, to its requests. The caller pumps HTTP afterwards. */
void qn_handle_events(struct qn_server *srv);
/* The client left: stop working for it, within one step of the engine. */
void qn_request_cancel(struct qn_request *r);

/* handlers_compare.c: the loop's side of a comparison. */
/* Its next job goes to the engine. false: there is none, or it was refused (the comparison has failed then,
 * and *retry_after may be set). */
bool qn_compare_submit(struct qn_request *r, unsigned *retry_after);
/* Its job is done: progress to a stream, the next job. true: the whole comparison is over. */
bool qn_compare_done(struct qn_request *r);
/* The reply's JSON into r->reply. */
void qn_compare_reply(struct qn_request *r);

#endif
