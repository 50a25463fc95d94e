/* Trees of expressions -> one program of byte ranges, jumps and calls. Internal to model/constrain/. Thread:
 * any; a program is constant once it is made. */
#ifndef QN_MODEL_CONSTRAIN_PROGRAM_H
#define QN_MODEL_CONSTRAIN_PROGRAM_H

#include "model/constrain/regex.h"

#define QN_PROGRAM_MAX   262144u  /* instructions */
#define QN_PROGRAM_WORK  1000000u /* parts looked at while it is made */
#define QN_PROGRAM_RULES 8192u
#define QN_PROGRAM_DEPTH 32u /* calls inside each other */
#define QN_HEIGHT_NONE   255u

enum qn_op {
    QN_OP_RANGE, /* a byte in [lo, hi], then x */
    QN_OP_SPLIT, /* x or y */
    QN_OP_CALL,  /* rule x, then y */
    QN_OP_RET    /* back to the caller; the outermost rule's: accept */
};
struct qn_inst {
    uint8_t op, lo, hi;
    uint8_t height; /* calls inside each other that the way to RET needs at least */
    uint16_t set;   /* RANGE: from here on up to `run` bytes out of sets[set] go on, whichever they are */
    uint16_t run;   /* 0: no such thing is known; UINT16_MAX: without end */
    uint32_t x, y;
};
struct qn_ascii { /* a set of bytes below 128 */
    uint64_t at[2];
};
struct qn_program {
    struct qn_inst *at;
    uint32_t n, cap;
    uint32_t *rules; /* where each begins; rule 0 is the whole */
    uint32_t n_rules;
    struct qn_ascii *sets;
    uint32_t n_sets, cap_sets;
    /* Bytes that no instruction tells apart have one class. */
    uint8_t class_of[256];
    uint32_t n_classes;
};

/* text: an expression, or with `grammar` one rule a line. QN_OK, QN_ERR_INVALID (with the reason),
 * QN_ERR_TOO_LONG (more parts than are allowed), QN_ERR_NOMEM. */
int qn_program_make(const char *text, size_t n, bool grammar, struct qn_program *out, struct qn_err *err);
void qn_program_free(struct qn_program *p);

#endif
