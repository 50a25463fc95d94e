/* A comparison on a terminal: aligned table, or CSV. Thread: any. */
#ifndef QN_SERVER_COMPARE_TABLE_H
#define QN_SERVER_COMPARE_TABLE_H

#include <stdio.h>

#include "api/compare.h"

void qn_compare_table(FILE *f, const struct qn_api_comparison *r);
void qn_compare_csv(FILE *f, const struct qn_api_comparison *r);

#endif
