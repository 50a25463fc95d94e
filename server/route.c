/* The table of routes. Thread: constant data. */
#include "server/route.h"

#include <string.h>

#include "server/handlers.h"

#define GETS  "GET, HEAD, OPTIONS"
#define POSTS "POST, OPTIONS"

static const struct qn_route routes[] = {
    {"/livez", false, QN_GET, GETS, QN_OPEN, true, false, false, qn_handle_livez},
    {"/readyz", false, QN_GET, GETS, QN_OPEN, true, false, false, qn_handle_readyz},
    {"/healthz", false, QN_GET, GETS, QN_OPEN, true, false, false, qn_handle_readyz},
    {"/health", false, QN_GET, GETS, QN_OPEN, true, false, false, qn_handle_readyz},
    {"/metrics", false, QN_GET, GETS, QN_METRICS, true, false, false, qn_handle_metrics},
    {"/", false, QN_GET, GETS, QN_OPEN, false, false, false, qn_handle_index},
    {"/page/", true, QN_GET, GETS, QN_OPEN, true, false, false, qn_handle_page},
    {"/openapi.json", false, QN_GET, GETS, QN_KEYED, false, false, false, qn_handle_openapi},
    {"/v1/infer", false, QN_POST, POSTS, QN_KEYED, false, true, true, qn_handle_infer},
    {"/v1/compare", false, QN_POST, POSTS, QN_KEYED, false, true, true, qn_handle_compare},
    {"/v1/completions", false, QN_POST, POSTS, QN_KEYED, false, true, true, qn_handle_completions},
    {"/v1/chat/completions", false, QN_POST, POSTS, QN_KEYED, false, true, true, qn_handle_chat},
    {"/v1/embeddings", false, QN_POST, POSTS, QN_KEYED, false, true, true, qn_handle_embeddings},
    {"/v1/models", false, QN_GET, GETS, QN_KEYED, false, true, false, qn_handle_models},
    {"/v1/models/", true, QN_GET, GETS, QN_KEYED, false, true, false, qn_handle_model},
    {"/v1/structures", false, QN_GET, GETS, QN_KEYED, false, true, false, qn_handle_structures},
    {"/tokenize", false, QN_POST, POSTS, QN_KEYED, false, true, true, qn_handle_tokenize},
    {"/detokenize", false, QN_POST, POSTS, QN_KEYED, false, true, true, qn_handle_detokenize},
    {"/tokenizer_info", false, QN_GET, GETS, QN_KEYED, false, true, false, qn_handle_tokenizer_info},
};

const struct qn_route *qn_routes(size_t *n) {
    *n = sizeof routes / sizeof routes[0];
    return routes;
}

const struct qn_route *qn_route_find(const char *path, const char **arg) {
    *arg = "";
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        const struct qn_route *r = &routes[i];
        size_t n = strlen(r->path);
        if (strncmp(path, r->path, n) != 0) continue;
        if (r->prefix ? path[n] == '\0' : path[n] != '\0') continue;
        *arg = path + n;
        return r;
    }
    return NULL;
}

unsigned qn_method_of(const char *name) {
    static const struct {
        const char *name;
        unsigned bit;
    } methods[] = {{"GET", QN_GET}, {"POST", QN_POST}, {"HEAD", QN_HEAD}, {"OPTIONS", QN_OPTIONS}};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (strcmp(name, methods[i].name) == 0) return methods[i].bit;
    return QN_OTHER;
}
