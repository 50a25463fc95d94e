/* Requests to a quern server, for the commands that run on one (--url). libcurl does HTTP; it is loaded when
 * the first request is made, so that a server, which makes none, carries neither it nor its TLS libraries.
 * Thread: main. */
#ifndef QN_SERVER_REMOTE_H
#define QN_SERVER_REMOTE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/buf.h"

struct qn_remote {
    const char *url, *key_file; /* options */
    uint32_t idle_s;
    const volatile sig_atomic_t
        *stop; /* set by Ctrl-C: the request ends, and the server frees what it held */
    char key[520];
};

/* Rows of a command's table. */
#define QN_REMOTE_OPTIONS(r)                                                                                 \
    {"url",                                                                                                  \
     QN_CLI_STRING,                                                                                          \
     &(r)->url,                                                                                              \
     0,                                                                                                      \
     0,                                                                                                      \
     "URL",                                                                                                  \
     "run on this server instead, such as http://127.0.0.1:8080"},                                           \
        {"api-key-file",                                                                                     \
         QN_CLI_STRING,                                                                                      \
         &(r)->key_file,                                                                                     \
         0,                                                                                                  \
         0,                                                                                                  \
         "FILE",                                                                                             \
         "the first line is the key for that server; else QUERN_API_KEY of the environment"},                \
    {                                                                                                        \
        "idle-timeout", QN_CLI_UINT, &(r)->idle_s, 1, 86400, "S",                                            \
            "give up when nothing came from that server for so many seconds"                                 \
    }
#define QN_REMOTE_IDLE 60

/* After the options were read: the key, and what can't be. 0, or 1 or 2 with a message. */
int qn_remote_prepare(struct qn_remote *r);

/* What becomes of an answer. event NULL: no stream was asked for. */
struct qn_remote_sink {
    bool (*event)(void *ctx, const char *json,
                  size_t n); /* each event of a stream; false: stop, it was said why */
    void *ctx;
    struct qn_buf body; /* of an answer that is no stream */
};
/* A server's words on stderr, without control characters. */
void qn_remote_complain(const char *text, size_t n);
/* GET (body NULL) or POST. 0: the whole answer came, with status 200; 1 with a message on stderr otherwise.
 */
int qn_remote_call(const struct qn_remote *r, const char *path, const struct qn_buf *body,
                   struct qn_remote_sink *sink);

#endif
