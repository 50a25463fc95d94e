/* Log lines on stderr, as text or JSON, one per event.
 *
 * A line is formatted by the caller into a shared buffer and written by a thread of its own, so a slow or
 * stalled reader of stderr never holds up the loop: lines that don't fit are dropped and counted. Prompt text
 * is never given to this module. Thread: any may log. */
#ifndef QN_SERVER_LOG_H
#define QN_SERVER_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum qn_log_level { QN_LOG_ERROR = 0, QN_LOG_WARN, QN_LOG_INFO, QN_LOG_DEBUG };

struct qn_log;

/* fd is borrowed. NULL when memory or the thread can't be had. */
struct qn_log *qn_log_new(int fd, bool json, int level);
void qn_log_free(struct qn_log *l); /* writes what is left (for at most a second); NULL is fine */
/* l may be NULL everywhere (nothing is logged). */
bool qn_log_on(const struct qn_log *l, enum qn_log_level level);
void qn_log_line(struct qn_log *l, enum qn_log_level level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
uint64_t qn_log_dropped(struct qn_log *l); /* lines lost so far */

/* A line with named values. Values are escaped; names are the program's. */
struct qn_log_field {
    const char *name;
    enum { QN_LF_STR = 0, QN_LF_UINT, QN_LF_MS, QN_LF_BOOL } kind;
    const char *s;
    uint64_t u;
    double ms;
};
void qn_log_fields(struct qn_log *l, enum qn_log_level level, const char *msg, const struct qn_log_field *f,
                   size_t n);

#endif
