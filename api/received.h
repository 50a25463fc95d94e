/* Replies as a client reads them: bytes of a server that may be any server -> the structs that the server
 * writes them from. Everything is checked: types, counts, that what the tables of a command show is there.
 * Thread: any; what was read last is freed first (api/jload.h). */
#ifndef QN_API_RECEIVED_H
#define QN_API_RECEIVED_H

#include "api/compare.h"
#include "api/models.h"

enum qn_api_kind_of_reply {
    QN_GOT_OTHER = 0, /* JSON of another kind */
    QN_GOT_TOKEN,     /* an event of an inference */
    QN_GOT_SAMPLE,    /* an event of a comparison */
    QN_GOT_REPLY,     /* of an inference */
    QN_GOT_COMPARISON,
    QN_GOT_ERROR
};

struct qn_api_memory_of; /* private: what the members below borrow from */
struct qn_api_received {
    enum qn_api_kind_of_reply kind;
    const char *text; /* of the token; the error's message */
    size_t text_len;
    uint32_t index; /* of the token's output */
    struct qn_api_sample sample;
    struct qn_api_reply reply;
    struct qn_api_comparison comparison;
    struct qn_api_memory_of *own;
};

/* An event, or a whole reply. 0, or -1 with *err. Free either way. */
int qn_api_receive(const char *json, size_t n, struct qn_api_received *out, struct qn_api_err *err);
void qn_api_received_free(struct qn_api_received *r);

/* What a model can run, out of the replies of GET /v1/structures and GET /v1/models/{id} (the bytes of both);
 * model "" = the first of the list. *rows: free(), [*n]. Names in it are constant. *own: the native one. */
struct qn_api_runs {
    struct qn_api_structure_entry *rows;
    size_t n;
    char model[65];
};
int qn_api_receive_structures(const char *json, size_t n, struct qn_api_runs *out, struct qn_api_err *err);
int qn_api_receive_native(const char *json, size_t n, struct qn_api_structure *own, struct qn_api_err *err);

#endif
