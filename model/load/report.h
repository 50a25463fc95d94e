/* One message for everything that is wrong with a checkpoint's tensors: problems are added one by one, the
 * first ones are spelled out as far as there is room, the rest is counted. Thread: one loader. */
#ifndef QN_MODEL_LOAD_REPORT_H
#define QN_MODEL_LOAD_REPORT_H

#include "model/err.h"
#include "model/load/tensors.h"

#define QN_REPORT_HIDDEN 4096 /* faults that are counted beyond those that are spelled out */
#define QN_REPORT_ROOM   760  /* of qn_err.msg, the rest is for the frame around it */

struct qn_report {
    char text[QN_REPORT_ROOM];
    size_t len;
    unsigned shown, hidden;
    bool format; /* some problem is more than an unsupported type */
};

/* format: the file breaks the rules, and is not only beyond what quern supports. */
void qn_report_add(struct qn_report *r, bool format, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* More than anybody reads: the search for further faults may end. A small file can ask for millions of
 * tensors. */
bool qn_report_full(const struct qn_report *r);
/* Compares t with what is wanted: dims of n_want dimensions (1: a vector, which must be F32, F16 or BF16; 2:
 * a matrix; more: as a vector) and a type that quern computes with. False, and a line, when it won't do. */
bool qn_report_check(struct qn_report *r, const char *name, const struct qn_tensor *t, const uint64_t *want,
                     uint32_t n_want);
/* QN_OK when nothing was added, else QN_ERR_FORMAT or QN_ERR_UNSUPPORTED with the list. */
int qn_report_result(const struct qn_report *r, const char *family, struct qn_err *err);

#endif
