/* Loading weights through the file of packed matrices (panels.h): the steps of --mmap.
 *
 *   begin -> load -[all came from the mapping]-> done
 *                 -[some or all were packed here]-> written -> mapped -> load again
 *
 * Whatever stands in the way leaves the weights in quern's own memory, and a note that says what. Thread: one
 * loader. */
#ifndef QN_MODEL_LOAD_MAPPED_H
#define QN_MODEL_LOAD_MAPPED_H

#include "model/load/checkpoint.h"
#include "model/load/mapfile.h"

/* Makes c->panels for the file `path` of a checkpoint of n files, or writes c->note. */
void qn_mapped_begin(struct qn_checkpoint *c, const char *path, const struct qn_mapfile *files, size_t n,
                     const struct qn_load_options *opt);

/* Fills the weights of *c; packs matrices, or takes them from c->panels. Called up to three times. */
typedef int (*qn_weights_fn)(void *arg, const struct qn_load_options *opt, struct qn_checkpoint *c,
                             struct qn_err *err);
/* Runs it. On failure *c is half-built. */
int qn_mapped_weights(struct qn_checkpoint *c, const struct qn_load_options *opt, qn_weights_fn load,
                      void *arg, struct qn_err *err);

#endif
