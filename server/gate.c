/* What is decided about a request from its head alone: identity, framing, key, route, method, size.
 * Data flow: head -> a refusal in the request, or nothing. Thread: loop. */
#include "server/gate.h"

#include <string.h>
#include <strings.h>

#include "server/handlers.h"
#include "server/route.h"

#define BODIES_MIN ((size_t)64 * 1024 * 1024) /* at least so many bytes of bodies may be held at once */
#define PATH_BYTES 1024

static void make_id(struct qn_request *r, const char *asked) {
    struct qn_server *srv = r->srv;
    if (asked && qn_request_id_sane(asked)) {
        memcpy(r->id, asked, strlen(asked) + 1);
        return;
    }
    static const char hex[] = "0123456789abcdef";
    uint64_t x[2] = {srv->id_seed + ++srv->id_count * 0x9e3779b97f4a7c15u, srv->id_count};
    x[0] = (x[0] ^ (x[0] >> 30)) * 0xbf58476d1ce4e5b9u;
    x[0] = (x[0] ^ (x[0] >> 27)) * 0x94d049bb133111ebu;
    x[0] ^= x[0] >> 31;
    memcpy(r->id, "req-", 4);
    for (unsigned i = 0; i < 24; i++) /* 16 mixed digits, and 8 that count, so that ids never meet */
        r->id[4 + i] = hex[(i < 16 ? x[0] >> (60 - 4 * i) : x[1] >> (92 - 4 * i)) & 15];
    r->id[28] = '\0';
}

static const char *bearer(const struct qn_head *head) {
    if (head->authorization && strncasecmp(head->authorization, "Bearer ", 7) == 0) {
        const char *key = head->authorization + 7;
        while (*key == ' ') key++;
        return key;
    }
    return head->api_key;
}

/* May this request have its route? The key decides before anything about the path is told. */
static bool allowed(struct qn_request *r, const struct qn_head *head) {
    struct qn_server *srv = r->srv;
    const char *key = bearer(head);
    bool ok = qn_auth_check(srv->auth, key, key ? strlen(key) : 0, &r->salt);
    if (ok) return true;
    if (r->route && r->route->access == QN_OPEN) return true;
    if (r->route && r->route->access == QN_METRICS && !srv->cfg.metrics_auth) return true;
    return r->method == QN_OPTIONS && head->preflight_method; /* says the same for every path */
}

static void check_route(struct qn_request *r, const struct qn_head *head, const char *path) {
    struct qn_server *srv = r->srv;
    struct qn_api_err err = {.code = QN_API_OK};
    char decoded[PATH_BYTES];
    const char *arg = "";
    size_t n = strlen(path);
    if (n < sizeof decoded) {
        memcpy(decoded, path, n + 1);
        if (qn_path_decode(decoded)) r->route = qn_route_find(decoded, &arg);
    }
    if (!allowed(r, head)) {
        qn_reply_fail(r, QN_API_UNAUTHORIZED,
                      "an API key is needed: Authorization: Bearer <key>, or x-api-key: <key>");
    } else if (r->method == QN_OPTIONS && (r->route || head->preflight_method)) {
        r->allow = r->route ? r->route->allow : NULL;
        qn_reply_as(r, 204, NULL);
    } else if (!r->route || strlen(arg) >= sizeof r->arg) {
        qn_api_fail(&err, QN_API_NOT_FOUND, "", "no such route; GET /openapi.json lists them");
        qn_reply_error(r, &err);
    } else if (!(r->route->methods & (r->method == QN_HEAD ? (unsigned)QN_GET : r->method))) {
        r->allow = r->route->allow;
        qn_api_fail(&err, QN_API_METHOD, "", "this route takes %s", r->route->allow);
        qn_reply_error(r, &err);
    } else if (srv->state >= QN_SERVER_DRAINING && r->route->needs_model) {
        qn_reply_fail(r, QN_API_DRAINING, "the server is stopping");
    } else if (r->route->needs_model && !qn_server_loaded(srv)) {
        qn_reply_fail(r, QN_API_LOADING, "the model is still loading");
    }
    if (r->route) memcpy(r->arg, arg, strlen(arg) < sizeof r->arg ? strlen(arg) + 1 : 0);
}

static void check_size(struct qn_request *r, const struct qn_head *head) {
    struct qn_server *srv = r->srv;
    size_t bound = srv->cfg.max_body * 16 > BODIES_MIN ? srv->cfg.max_body * 16 : BODIES_MIN;
    struct qn_api_err err = {.code = QN_API_OK};
    if (head->length > srv->cfg.max_body) {
        qn_api_fail(&err, QN_API_BODY_TOO_LARGE, "", "the body is longer than %zu bytes", srv->cfg.max_body);
        qn_reply_error(r, &err);
    } else if ((head->length || head->chunked) && srv->bodies > bound) {
        qn_reply_fail(r, QN_API_QUEUE_FULL, "too many request bodies are being received");
    }
}

bool qn_gate(struct qn_request *r, const struct qn_head *head, const char *path, const char *version,
             bool over_limit) {
    struct qn_api_err err = {.code = QN_API_OK};
    make_id(r, head->request_id);
    r->cors = head->origin != NULL;
    r->preflight = head->preflight_headers;
    r->html = head->accept && strcasestr(head->accept, "text/html");
    r->if_none_match = head->if_none_match;
    if (qn_head_check(head, version, &err) != 0) {
        qn_reply_error(r, &err);
        return err.code == QN_API_MEDIA_TYPE; /* else it is uncertain where the body ends */
    }
    if (over_limit) {
        qn_reply_fail(r, QN_API_TOO_MANY_CONNECTIONS, "too many open connections");
        return true;
    }
    check_route(r, head, path);
    if (!r->ready) check_size(r, head);
    return true;
}

void qn_gate_model(struct qn_request *r, const char *model) {
    struct qn_api_err err = {.code = QN_API_OK};
    char decoded[QN_REQUEST_ARG_MAX];
    size_t n = strlen(model);
    if (r->ready || !r->route || r->route->run != qn_handle_tokenizer_info) return; /* others ask nothing */
    if (n > 0 && n < sizeof decoded) {
        memcpy(decoded, model, n + 1);
        if (qn_path_decode(decoded)) {
            memcpy(r->arg, decoded, strlen(decoded) + 1);
            return;
        }
    }
    qn_api_fail(&err, QN_API_INVALID, "model", "the query's model is not a model's name");
    qn_reply_error(r, &err);
}
