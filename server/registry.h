/* The loaded models by name. Filled before the engine starts, read-only afterwards: any thread. */
#ifndef QN_SERVER_REGISTRY_H
#define QN_SERVER_REGISTRY_H

#include <stdint.h>

#include "model/model.h"

#define QN_MAX_MODELS 16

struct qn_registry {
    struct qn_model *models[QN_MAX_MODELS]; /* owned */
    uint32_t n;
};

/* "" = the first one. NULL when there is no such model. */
struct qn_model *qn_registry_find(const struct qn_registry *r, const char *id);
/* Models that are not lost (qn_model_lost). */
uint32_t qn_registry_alive(const struct qn_registry *r);
void qn_registry_close(struct qn_registry *r);

#endif
