/* A file that appears whole or not at all: written under another name beside its place, made durable, then
 * renamed. A failure or a stop leaves what was there before, and no remains. Thread: one writer. */
#ifndef QN_MODEL_SAVE_OUT_FILE_H
#define QN_MODEL_SAVE_OUT_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "model/err.h"

struct qn_out_file {
    int fd;           /* -1: none */
    const char *path; /* borrowed */
    char *temp;       /* where it is written; NULL: straight to path, which is no regular file */
    bool replace;     /* what is at path may be replaced */
    size_t written;
};

/* QN_ERR_INVALID (param "out") when something is there and may not be replaced, or when path is the file
 * `input` (NULL: none) or, where that is a directory, a file in it; QN_ERR_IO with the reason. A path that is
 * there and no regular file (a pipe, /dev/stdout) is written to directly. */
int qn_out_open(struct qn_out_file *f, const char *path, const char *input, bool replace, struct qn_err *err);
/* Tells the file system how long the file will be, so that a full disk is noticed at once. */
int qn_out_reserve(struct qn_out_file *f, size_t bytes, struct qn_err *err);
int qn_out_write(struct qn_out_file *f, const void *bytes, size_t n, struct qn_err *err);
/* Puts the file in its place; f is closed either way, and removed on failure. */
int qn_out_finish(struct qn_out_file *f, struct qn_err *err);
/* Closes and removes; fine on a finished or zeroed-but-for-fd -1 one. */
void qn_out_discard(struct qn_out_file *f);

#endif
