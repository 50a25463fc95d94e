/* Errors of model/: a status code and a fixed-size message that the caller owns. The first error wins, so a
 * cleanup that fails later can't hide the cause. Messages are written for the person who sent the request or
 * the file: they name what is wrong, and never carry addresses or paths that the caller did not give. */
#ifndef QN_MODEL_ERR_H
#define QN_MODEL_ERR_H

enum qn_status {
    QN_OK = 0,
    QN_ERR_NOMEM = -1,       /* allocation failed */
    QN_ERR_IO = -2,          /* a file can't be opened, mapped or read */
    QN_ERR_FORMAT = -3,      /* a file breaks its format's rules */
    QN_ERR_UNSUPPORTED = -4, /* well-formed, but quern can't run it */
    QN_ERR_INVALID = -5,     /* a request's value is out of range or unknown */
    QN_ERR_TOO_LONG = -6,    /* a sequence exceeds the model's context */
    QN_ERR_NO_STATE = -7,    /* the state pool has no room now */
    QN_ERR_LOST = -8         /* the file that weights are mapped from was cut or overwritten */
};

struct qn_err {
    int code;       /* 0 while nothing failed */
    char param[64]; /* the request field or file key at fault, "" when none */
    char msg[1024];
};

/* Sets *e unless it already holds an error; returns code. e may be NULL. */
int qn_err_set(struct qn_err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same with the field at fault. */
int qn_err_param(struct qn_err *e, int code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
