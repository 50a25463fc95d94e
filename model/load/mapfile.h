/* A file as read-only memory. Only while a checkpoint is loaded: everything that outlives the load is copied,
 * so a file that is replaced later can't hurt. Thread: any. */
#ifndef QN_MODEL_LOAD_MAPFILE_H
#define QN_MODEL_LOAD_MAPFILE_H

#include <stddef.h>
#include <stdint.h>

#include "model/err.h"

struct qn_mapfile {
    const uint8_t *data; /* NULL when closed */
    size_t size;         /* bytes, >= 1 */
};

/* Maps a regular file. QN_ERR_IO names the path and the reason; QN_ERR_FORMAT for an empty file. */
int qn_mapfile_open(struct qn_mapfile *m, const char *path, struct qn_err *err);
/* Unmaps; fine on a zeroed or closed one. */
void qn_mapfile_close(struct qn_mapfile *m);

#endif
