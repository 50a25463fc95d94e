/* libFuzzer target: what a client reads of a server that may be any server: replies, events, lists of
 * structures. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "api/received.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *json = (const char *)data;
    struct qn_api_received got;
    struct qn_api_runs runs = {.rows = NULL};
    struct qn_api_structure own;
    struct qn_api_err e = {.code = QN_API_OK};
    if (qn_api_receive(json, size, &got, &e) == 0 && got.kind == QN_GOT_COMPARISON)
        if (got.comparison.baseline >= got.comparison.n_results) abort(); /* what prints it counts on it */
    qn_api_received_free(&got);
    e.code = QN_API_OK;
    if (qn_api_receive_structures(json, size, &runs, &e) == 0) free(runs.rows);
    e.code = QN_API_OK;
    (void)qn_api_receive_native(json, size, &own, &e);
    return 0;
}
