/* Server-sent events: `data:` lines only, no named events (clients fail on those). Data flow: one token or
 * one JSON text -> bytes of the stream; JSON escapes line ends, so an event is always one line. Thread: any.
 */
#include "api/infer_write.h"

void qn_api_sse_token(struct qn_buf *out, const struct qn_api_stream_token *t) {
    qn_buf_str(out, "data: {\"index\":");
    qn_buf_json_uint(out, t->index);
    qn_buf_str(out, ",\"token\":");
    qn_buf_json_int(out, t->token);
    qn_buf_str(out, ",\"text\":");
    qn_buf_json_str(out, t->text ? t->text : "", t->text ? t->text_len : 0);
    qn_buf_str(out, ",\"logprob\":");
    if (t->lp)
        qn_buf_json_float(out, t->lp->chosen.logprob);
    else
        qn_buf_str(out, "null");
    if (t->lp && t->lp->n_top) {
        qn_buf_str(out, ",\"top\":");
        qn_api_top_write(out, t->lp);
    }
    qn_buf_str(out, "}\n\n");
}

void qn_api_sse_data(struct qn_buf *out, const char *json, size_t n) {
    qn_buf_str(out, "data: ");
    qn_buf_add(out, json, n);
    qn_buf_str(out, "\n\n");
}

void qn_api_sse_done(struct qn_buf *out) {
    qn_buf_str(out, "data: [DONE]\n\n");
}

void qn_api_sse_ping(struct qn_buf *out) {
    qn_buf_str(out, ": ping\n\n");
}
