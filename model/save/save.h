/* Writing a checkpoint as GGUF in another type.
 *
 *   source (GGUF, safetensors, description) -[mix.c: a type for each tensor]-> directory
 *     -[rows as floats -> rounded on the pool, a slab at a time]-> out_file
 *
 * Tensors whose type stays are copied bit for bit. Thread: main and the pool. */
#ifndef QN_MODEL_SAVE_SAVE_H
#define QN_MODEL_SAVE_SAVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/pool.h"
#include "model/err.h"

struct qn_convert_options {
    const char *type; /* "q4_k_m", …: see qn_convert_types */
    const char *out;
    bool replace;              /* out may be there already */
    struct qn_pool *pool;      /* may be NULL */
    const atomic_bool *cancel; /* set by a signal handler: stop; may be NULL */
    void (*progress)(void *ctx, const char *phase, double done); /* may be NULL */
    void *progress_ctx;
};

#define QN_CONVERT_TYPES 16
struct qn_convert_report {
    size_t file_bytes;
    uint32_t tensors, kept, fell_back; /* kept: copied as they were; fell_back: rows did not fit the type */
    struct {
        const char *name; /* NULL ends */
        uint32_t tensors;
        size_t bytes;
    } by_type[QN_CONVERT_TYPES];
};

/* "q8_0, q4_0, …", for messages. */
const char *qn_convert_types(void);
/* Writes `path` (whatever qn_model_open takes) to opt->out, which appears whole or not at all. Errors name
 * the tensor; param "type" or "out" when those are at fault. */
int qn_model_convert(const char *path, const struct qn_convert_options *opt, struct qn_convert_report *report,
                     struct qn_err *err);

#endif
