/* A comparison: one sequence run in several structures, as a chain of engine jobs.
 *
 *   request -> variants, tokens, bounds -> [next job -> engine -> DONE -> take]* -> reply
 *
 * First every structure once for warm-up, then the structures in turn, `repeats` rounds; each run is an
 * ordinary job, so its output is what POST /v1/infer gives. At last each structure is held against the
 * baseline on the baseline's tokens. One job at a time: runs of one comparison never share a step. It knows
 * nothing of HTTP: whoever owns it (a request, a command) submits its jobs. Thread: the owner's, one at a
 * time. */
#ifndef QN_SERVER_COMPARISON_H
#define QN_SERVER_COMPARISON_H

#include "api/compare.h"
#include "server/job.h"

struct qn_comparison;

/* Finds the model, resolves every structure, tokenizes, checks that all of it is bounded and fits. Takes over
 * *req (cleared) on success and on failure. 0, or -1 with *err: a structure's error names its place. */
int qn_comparison_new(const struct qn_registry *models, struct qn_api_compare *req,
                      const struct qn_job_options *opt, struct qn_comparison **out, struct qn_api_err *err);
void qn_comparison_free(struct qn_comparison *c); /* its last job must be done; NULL is fine */

/* The next job, to be submitted; the comparison keeps its own reference. NULL: all is done, or it failed. */
struct qn_job *qn_comparison_next(struct qn_comparison *c);
/* That job is DONE: takes its numbers. true: *s is a finished run to tell about. */
bool qn_comparison_take(struct qn_comparison *c, struct qn_api_sample *s);
struct qn_job *
qn_comparison_job(const struct qn_comparison *c); /* the one that was last given out, or NULL */
/* It could not go on: the first reason stays. */
void qn_comparison_fail(struct qn_comparison *c, const struct qn_api_err *err);
/* QN_API_OK while nothing failed. */
const struct qn_api_err *qn_comparison_error(const struct qn_comparison *c);
/* Runs taken so far, and how many there are in all: for a progress bar. */
void qn_comparison_progress(const struct qn_comparison *c, uint32_t *done, uint32_t *all);
/* All is done, without error: the reply. The struct borrows from c. */
const struct qn_api_comparison *qn_comparison_result(struct qn_comparison *c);
/* For the log. */
const struct qn_api_compare *qn_comparison_request(const struct qn_comparison *c);
const char *qn_comparison_id(const struct qn_comparison *c);
const char *qn_comparison_model(const struct qn_comparison *c);

/* Median and interquartile range of n values by linear interpolation; sorts them. */
void qn_quartiles(double *v, uint32_t n, double *median, double *spread);
/* The same of every timing; what one sample lacks has none. work: [n]. */
void qn_timing_quartiles(const struct qn_api_timings *samples, uint32_t n, double *work,
                         struct qn_api_timings *median, struct qn_api_timings *spread);

#endif
