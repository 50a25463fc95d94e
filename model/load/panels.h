/* Packed matrices in a file of their own, beside the checkpoint (--mmap): written by the first load, mapped
 * by later ones, so that these repack nothing and several processes share the page cache.
 *
 *   open -[valid]-> take (matrix by matrix, from the mapping)
 *        -[absent, stale or damaged]-> add (what was packed) -> write (aside, then renamed) -> map, take
 *
 * Nothing in the file is believed: it must have been written for this layout of panels, byte order, size and
 * time of modification of the checkpoint's files; header, table and every matrix carry checksums, which
 * mapping compares; and a matrix is taken only for the tensor that it was packed from (name, type, shape,
 * order of rows, samples of its bytes). Its last page holds a number that changes with every writing: while
 * it is there and the same, no byte before it is lost. What it can't tell is a forger who can write beside
 * the checkpoint; so the file must belong to this user, to root, or to whom the checkpoint belongs. Thread:
 * one loader; qn_panels_lost: any. */
#ifndef QN_MODEL_LOAD_PANELS_H
#define QN_MODEL_LOAD_PANELS_H

#include "kernels/kernels.h"
#include "model/err.h"
#include "model/load/mapfile.h"
#include "model/load/tensors.h"

#define QN_PANELS_ENDING ".quern-panels"

struct qn_panels;

/* The checkpoint's files. */
struct qn_panels_source {
    uint64_t bytes; /* of all of them */
    uint64_t stamp; /* of their times of modification */
    uint32_t owner; /* user that the first one belongs to */
};
/* Adds one file to *s (zeroed to begin with). QN_ERR_IO when it can't be looked at. */
int qn_panels_source_add(struct qn_panels_source *s, const struct qn_mapfile *m, struct qn_err *err);

/* What a matrix is made from, and how. */
struct qn_panels_key {
    const struct qn_tensor *tensor;
    size_t rows, cols;
    uint64_t how[5]; /* everything else that decides which row of the tensor becomes which of the matrix */
};

/* For the file `path`. *out gathers what qn_panels_add is given until qn_panels_map succeeds. QN_ERR_NOMEM.
 */
int qn_panels_new(const char *path, const struct qn_panels_source *src, struct qn_panels **out,
                  struct qn_err *err);
/* Maps the file and checks all of it, on the pool's threads (NULL: here). QN_ERR_IO: there is none, or it
 * can't be read; QN_ERR_FORMAT: it is not the one of this checkpoint, layout and machine, or damaged;
 * QN_ERR_NOMEM. *p then gathers. */
int qn_panels_map(struct qn_panels *p, struct qn_pool *pool, struct qn_err *err);
/* *dst = the next matrix of the mapping, in the order of writing; its data belongs to p. False when p is NULL
 * or gathers, or the next one is another: then p is of no use (qn_panels_whole) and has to be made again. */
bool qn_panels_take(struct qn_panels *p, const struct qn_panels_key *key, struct qn_matrix *dst);
/* Notes a packed matrix for writing; its data must stay until then. Does nothing when p is NULL or mapped.
 * False without memory. */
bool qn_panels_add(struct qn_panels *p, const struct qn_panels_key *key, const struct qn_matrix *m);
bool qn_panels_mapped(const struct qn_panels *p);
/* Everything that was asked for came out of the mapping, and nothing is left in it. */
bool qn_panels_whole(const struct qn_panels *p);
/* Unmaps, forgets what was added, and gathers. What was taken must not be used any more. */
void qn_panels_reset(struct qn_panels *p);
/* Writes what was added. When another process is just writing the same file, waits until it has (30 s), and
 * writes nothing. QN_ERR_IO with the reason; what was there before is then still there. */
int qn_panels_write(struct qn_panels *p, struct qn_pool *pool, struct qn_err *err);
/* The mapped file is no longer what it was: some bytes that were taken are zeros or others. It stays so.
 * False while nothing is mapped. */
bool qn_panels_lost(const struct qn_panels *p);
void qn_panels_free(struct qn_panels *p);

#endif
