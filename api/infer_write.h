/* Pieces of replies that more than one endpoint writes. Internal to api/. Thread: any. */
#ifndef QN_API_INFER_WRITE_H
#define QN_API_INFER_WRITE_H

#include "api/infer.h"

void qn_api_part_write(struct qn_buf *b, const struct qn_api_part *p);           /* {"type":…, …} */
void qn_api_structure_write(struct qn_buf *b, const struct qn_api_structure *s); /* {"attention":…, …} */
/* The same as it ran: with its divergence. */
void qn_api_ran_write(struct qn_buf *b, const struct qn_api_structure *s, const struct qn_api_divergence *d);
void qn_api_ids_write(struct qn_buf *b, const int32_t *ids, size_t n); /* [1,2] */
void qn_api_top_write(struct qn_buf *b, const struct qn_api_token *t); /* [{"id","token","logprob"}] */

void qn_api_timings_write(struct qn_buf *b, const struct qn_api_timings *t);
void qn_api_memory_write(struct qn_buf *b, const struct qn_api_memory *m);
void qn_api_usage_write(struct qn_buf *b, uint64_t prompt, uint64_t completion, uint64_t cached);
void qn_api_cost_write(struct qn_buf *b, const struct qn_api_cost *c);
/* One of outputs[]; several: with its own timings, memory and divergence. */
void qn_api_output_write(struct qn_buf *b, const struct qn_api_output *o, bool several);

#endif
