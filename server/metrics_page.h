/* GET /metrics as a whole: what was recorded (metrics.c), and gauges read at this moment from engine, models
 * and the kernel. Loop thread. */
#ifndef QN_SERVER_METRICS_PAGE_H
#define QN_SERVER_METRICS_PAGE_H

#include "api/buf.h"
#include "server/server.h"

void qn_metrics_page(struct qn_server *srv, struct qn_buf *out);
/* process_* of this process and throttling of its cgroup. */
void qn_metrics_process(struct qn_buf *out);

#endif
