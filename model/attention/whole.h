/* Softmax attention over whole sequences, in both directions: what mha, gqa and mqa run without causality. No
 * state: a span is the whole sequence. Private to model/attention. */
#ifndef QN_MODEL_ATTENTION_WHOLE_H
#define QN_MODEL_ATTENTION_WHOLE_H

#include "model/attention/attention.h"

/* The run hook. Every row reads all rows of its span. */
void qn_whole_run(const struct qn_attention_call *call);
/* Floats of work memory per thread. */
size_t qn_whole_work(uint32_t head_dim);

#endif
