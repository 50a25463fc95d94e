/* Median and interquartile range of repeated measurements. Pure. Thread: any. */
#include <stdlib.h>

#include "server/comparison.h"

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Value at share q of the way from the least to the greatest. */
static double at_share(const double *v, uint32_t n, double q) {
    double at = q * (double)(n - 1);
    uint32_t i = (uint32_t)at;
    double part = at - (double)i;
    return i + 1 < n ? v[i] + (v[i + 1] - v[i]) * part : v[i];
}

void qn_quartiles(double *v, uint32_t n, double *median, double *spread) {
    *median = *spread = 0;
    if (!n) return;
    qsort(v, n, sizeof *v, ascending);
    *median = at_share(v, n, 0.5);
    *spread = at_share(v, n, 0.75) - at_share(v, n, 0.25);
}

#define AT(member) offsetof(struct qn_api_timings, member)
static const size_t members[] = {AT(queue),   AT(tokenize),    AT(convert),    AT(prefill),
                                 AT(decode),  AT(finish),      AT(total),      AT(ttft),
                                 AT(compute), AT(prefill_tps), AT(decode_tps), AT(mean_batch)};

static double *member(struct qn_api_timings *t, size_t at) {
    return (double *)(void *)((char *)t + at);
}

void qn_timing_quartiles(const struct qn_api_timings *samples, uint32_t n, double *work,
                         struct qn_api_timings *median, struct qn_api_timings *spread) {
    double steps, range;
    for (size_t k = 0; k < sizeof members / sizeof *members; k++) {
        bool all = true;
        for (uint32_t i = 0; i < n; i++) {
            struct qn_api_timings t = samples[i];
            work[i] = *member(&t, members[k]);
            all = all && work[i] >= 0; /* below zero: there is none */
        }
        qn_quartiles(work, n, member(median, members[k]), member(spread, members[k]));
        if (!all) *member(median, members[k]) = *member(spread, members[k]) = -1;
    }
    for (uint32_t i = 0; i < n; i++) work[i] = (double)samples[i].steps;
    qn_quartiles(work, n, &steps, &range);
    median->steps = (uint64_t)(steps + 0.5);
    spread->steps = (uint64_t)(range + 0.5);
}
