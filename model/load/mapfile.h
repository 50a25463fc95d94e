/* A file as read-only memory: while a checkpoint is loaded, and, with --mmap, for as long as its packed
 * weights are used.
 *
 * A file may be cut while it is mapped, and a disk may fail: touching such a page raises SIGBUS, which ends
 * a process. qn_mapfile_open installs a handler for it that knows the mapped ranges: it puts pages
 * of zeros in place of what can't be read, from the fault to the end of the range, and marks the range as
 * lost; whoever uses it asks qn_mapfile_lost before it believes what it computed. A fault anywhere else goes
 * to the handler that was there before. Threads that read a mapping must not block SIGBUS. Thread: any. */
#ifndef QN_MODEL_LOAD_MAPFILE_H
#define QN_MODEL_LOAD_MAPFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/err.h"

#define QN_MAPFILES 1024 /* that are open at the same time, in the whole process */

struct qn_mapfile {
    const uint8_t *data; /* NULL when closed */
    size_t size;         /* bytes, >= 1 */
    int fd;
    int slot;         /* in the table that the handler reads */
    int64_t mtime_ns; /* when it was opened */
};

/* Maps a regular file. QN_ERR_IO names the path and the reason; QN_ERR_FORMAT for an empty file. */
int qn_mapfile_open(struct qn_mapfile *m, const char *path, struct qn_err *err);
/* Unmaps; fine on a zeroed or closed one. */
void qn_mapfile_close(struct qn_mapfile *m);
/* Bytes of it could not be read; where they are, zeros stand for them. */
bool qn_mapfile_lost(const struct qn_mapfile *m);
/* After reading: `rc`, when that is not QN_OK and all bytes could be read; QN_OK when what was read is what
 * the file held all the time: nothing is lost, and its size and time of modification are the same. Else
 * QN_ERR_IO in place of what *err says; `what` names the file. */
int qn_mapfile_check(const struct qn_mapfile *m, const char *what, int rc, struct qn_err *err);
/* [p, p + n) will not be read again soon: its pages leave this process (not the page cache). Does nothing
 * for memory that is not part of a mapped file. */
void qn_mapfile_release(const void *p, size_t n);

#endif
