/* Refusals that need only a request's head. Loop thread. */
#ifndef QN_SERVER_GATE_H
#define QN_SERVER_GATE_H

#include "server/http_guard.h"
#include "server/request.h"

/* Names the request, finds its route, checks key, method and sizes. A refusal is left in r (then r->ready).
 * False when the message can't be trusted to have an end: reply and close without reading its body. path: as
 * sent, without query; over_limit: the connection is one too many. */
bool qn_gate(struct qn_request *r, const struct qn_head *head, const char *path, const char *version,
             bool over_limit);

/* ?model=… as it was sent, of a request that qn_gate let in: goes to r->arg where the route asks for it. A
 * value that is no name is refused there. */
void qn_gate_model(struct qn_request *r, const char *model);

#endif
