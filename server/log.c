/* Log lines: caller formats -> buffer under a mutex -> writer thread -> write(2).
 *
 * The writer waits a moment after it was woken, so that under load one system call carries many lines and
 * callers don't pay for a wake-up each. Thread: any may log; one writer. */
#include "server/log.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUFFER    (512u * 1024u)
#define LINE      2048u
#define GATHER_NS 2000000

struct qn_log {
    int fd, level;
    bool json;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t filled;
    bool waiting, stop; /* under lock */
    uint64_t dropped;   /* under lock */
    size_t n;           /* under lock: bytes in front */
    char *front, *back; /* front: being filled, under lock; back: being written */
};

static const char *const level_names[] = {"error", "warn", "info", "debug"};

/* Writes all of it, but gives up on a reader that takes nothing for a second while we are stopping. */
static void write_all(struct qn_log *l, const char *p, size_t n) {
    while (n > 0) {
        ssize_t k = write(l->fd, p, n);
        if (k > 0) {
            p += k;
            n -= (size_t)k;
            continue;
        }
        if (k < 0 && errno == EINTR) continue;
        if (k < 0 && errno != EAGAIN) return; /* stderr is gone */
        struct pollfd pfd = {.fd = l->fd, .events = POLLOUT};
        if (poll(&pfd, 1, 1000) == 0) {
            pthread_mutex_lock(&l->lock);
            bool stop = l->stop;
            pthread_mutex_unlock(&l->lock);
            if (stop) return;
        }
    }
}

static void *writer(void *arg) {
    struct qn_log *l = arg;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (l->n == 0 && !l->stop) {
            l->waiting = true;
            pthread_cond_wait(&l->filled, &l->lock);
        }
        l->waiting = false;
        if (l->n == 0) break;
        if (!l->stop) {
            pthread_mutex_unlock(&l->lock);
            struct timespec gather = {0, GATHER_NS};
            nanosleep(&gather, NULL);
            pthread_mutex_lock(&l->lock);
        }
        char *p = l->front;
        size_t n = l->n;
        l->front = l->back;
        l->back = p;
        l->n = 0;
        pthread_mutex_unlock(&l->lock);
        write_all(l, p, n);
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static int start_writer(struct qn_log *l) {
    sigset_t all, old; /* signals belong to the loop */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&l->thread, NULL, writer, l);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

struct qn_log *qn_log_new(int fd, bool json, int level) {
    struct qn_log *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->fd = fd;
    l->json = json;
    l->level = level;
    l->front = malloc(BUFFER);
    l->back = malloc(BUFFER);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->filled, NULL);
    if (!l->front || !l->back || start_writer(l) != 0) {
        free(l->front);
        free(l->back);
        free(l);
        return NULL;
    }
    return l;
}

void qn_log_free(struct qn_log *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->filled);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_cond_destroy(&l->filled);
    pthread_mutex_destroy(&l->lock);
    free(l->front);
    free(l->back);
    free(l);
}

bool qn_log_on(const struct qn_log *l, enum qn_log_level level) {
    return l && (int)level <= l->level;
}

uint64_t qn_log_dropped(struct qn_log *l) {
    if (!l) return 0;
    pthread_mutex_lock(&l->lock);
    uint64_t n = l->dropped;
    pthread_mutex_unlock(&l->lock);
    return n;
}

static void emit(struct qn_log *l, const char *line, size_t n) {
    pthread_mutex_lock(&l->lock);
    if (n > BUFFER - l->n) {
        l->dropped++;
    } else {
        memcpy(l->front + l->n, line, n);
        l->n += n;
    }
    bool wake = l->waiting;
    l->waiting = false;
    pthread_mutex_unlock(&l->lock);
    if (wake) pthread_cond_signal(&l->filled);
}

/* A line under construction: never longer than LINE, always ends in a newline. */
struct line {
    size_t n;
    char p[LINE];
};

static void put(struct line *o, const char *s, size_t n) {
    if (n > LINE - 2 - o->n) n = LINE - 2 - o->n;
    memcpy(o->p + o->n, s, n);
    o->n += n;
}

static void puts_(struct line *o, const char *s) {
    put(o, s, strlen(s));
}

static void put_uint(struct line *o, uint64_t v, unsigned width) {
    char t[24];
    size_t i = sizeof t;
    do {
        t[--i] = (char)('0' + v % 10);
        v /= 10;
    } while (v || sizeof t - i < width);
    put(o, t + i, sizeof t - i);
}

/* A JSON string's inside; also keeps text lines on one line. Cut where the line is full. */
static void put_escaped(struct line *o, const char *s) {
    static const char hex[] = "0123456789abcdef";
    for (; *s && o->n < LINE - 16; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') {
            char e[2] = {'\\', (char)c};
            put(o, e, 2);
        } else if (c < ' ' || c >= 0x7f) { /* bytes above ASCII as Latin-1: valid JSON whatever they were */
            char e[6] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
            put(o, e, 6);
        } else {
            put(o, s, 1);
        }
    }
}

static void put_ms(struct line *o, double ms) {
    if (!isfinite(ms) || ms < 0) ms = 0;
    if (ms > 1e12) ms = 1e12;
    uint64_t us = (uint64_t)(ms * 1000 + 0.5);
    put_uint(o, us / 1000, 1);
    puts_(o, ".");
    put_uint(o, us % 1000, 3);
}

/* 2026-01-31T12:00:00.123Z; the date part is made once a second. */
static void put_time(struct line *o) {
    static _Thread_local time_t cached_second;
    static _Thread_local char cached[24];
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (ts.tv_sec != cached_second) {
        struct tm tm;
        gmtime_r(&ts.tv_sec, &tm);
        strftime(cached, sizeof cached, "%Y-%m-%dT%H:%M:%S", &tm);
        cached_second = ts.tv_sec;
    }
    puts_(o, cached);
    puts_(o, ".");
    put_uint(o, (uint64_t)ts.tv_nsec / 1000000, 3);
    puts_(o, "Z");
}

static void begin(const struct qn_log *l, struct line *o, enum qn_log_level level, const char *msg) {
    o->n = 0;
    if (l->json) {
        puts_(o, "{\"time\":\"");
        put_time(o);
        puts_(o, "\",\"level\":\"");
        puts_(o, level_names[level]);
        puts_(o, "\",\"msg\":\"");
        put_escaped(o, msg);
        puts_(o, "\"");
    } else {
        put_time(o);
        puts_(o, " ");
        puts_(o, level_names[level]);
        puts_(o, " ");
        put_escaped(o, msg);
    }
}

static void end(struct qn_log *l, struct line *o) {
    if (l->json) o->p[o->n++] = '}';
    o->p[o->n++] = '\n';
    emit(l, o->p, o->n);
}

void qn_log_line(struct qn_log *l, enum qn_log_level level, const char *fmt, ...) {
    if (!qn_log_on(l, level)) return;
    char msg[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    struct line o;
    begin(l, &o, level, msg);
    end(l, &o);
}

static void put_value(struct line *o, const struct qn_log_field *f, bool quote) {
    switch (f->kind) {
    case QN_LF_UINT:
        put_uint(o, f->u, 1);
        break;
    case QN_LF_MS:
        put_ms(o, f->ms);
        break;
    case QN_LF_BOOL:
        puts_(o, f->u ? "true" : "false");
        break;
    case QN_LF_STR:
        if (quote) puts_(o, "\"");
        put_escaped(o, f->s);
        if (quote) puts_(o, "\"");
        break;
    }
}

void qn_log_fields(struct qn_log *l, enum qn_log_level level, const char *msg, const struct qn_log_field *f,
                   size_t n) {
    if (!qn_log_on(l, level)) return;
    struct line o;
    begin(l, &o, level, msg);
    for (size_t i = 0; i < n && o.n < LINE - 128; i++) { /* a field is written whole or not at all */
        if (f[i].kind == QN_LF_STR && strlen(f[i].s) * 6 > LINE - 128 - o.n) continue;
        puts_(&o, l->json ? ",\"" : " ");
        puts_(&o, f[i].name);
        puts_(&o, l->json ? "\":" : "=");
        bool quote = l->json || (f[i].kind == QN_LF_STR && (*f[i].s == '\0' || strpbrk(f[i].s, " =\"")));
        put_value(&o, &f[i], quote);
    }
    end(l, &o);
}
