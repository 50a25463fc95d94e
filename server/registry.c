/* The loaded models by name: a short list, searched linearly. Filled once at start, read-only afterwards. */
#include "server/registry.h"

#include <string.h>

#include "server/constraints.h"

struct qn_model *qn_registry_find(const struct qn_registry *r, const char *id) {
    if (!id[0]) return r->n ? r->models[0] : NULL;
    for (uint32_t i = 0; i < r->n; i++)
        if (!strcmp(qn_model_info(r->models[i])->id, id)) return r->models[i];
    return NULL;
}

uint32_t qn_registry_alive(const struct qn_registry *r) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->n; i++) n += !qn_model_lost(r->models[i]);
    return n;
}

void qn_registry_close(struct qn_registry *r) {
    for (uint32_t i = 0; i < r->n; i++) {
        qn_constraints_drop(r->models[i]);
        qn_model_close(&r->models[i]);
    }
    r->n = 0;
}
