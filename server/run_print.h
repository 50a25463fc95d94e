/* What `quern run` prints of a reply: outputs that were not printed as they came, and the table. Thread: any.
 */
#ifndef QN_SERVER_RUN_PRINT_H
#define QN_SERVER_RUN_PRINT_H

#include <stdio.h>

#include "api/infer.h"

/* Scores, embeddings, and texts when there are several. */
void qn_run_outputs(FILE *f, const struct qn_api_reply *r);
/* Structure, time by phase, memory. */
void qn_run_table(FILE *f, const struct qn_api_reply *r);

#endif
