/* Requests to a quern server over libcurl; the only file that includes its header. Data flow: body ->
 * request; answer -> buffer, or server-sent events -> sink. Nothing of a server is believed: buffers have
 * limits, and a server that falls silent is left. Thread: main. */
#include "server/remote.h"

#include <ctype.h>
#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <time.h>

#include "api/received.h"
#include "server/sse_read.h"

#define MAX_REPLY  ((size_t)32 << 20)
#define CONNECT_MS 10000L

/* ---- the library ---- */

static struct {
    CURLcode (*global_init)(long);
    CURL *(*easy_init)(void);
    CURLcode (*setopt)(CURL *, CURLoption, ...);
    CURLcode (*getinfo)(CURL *, CURLINFO, ...);
    void (*easy_cleanup)(CURL *);
    const char *(*strerror)(CURLcode);
    CURLM *(*multi_init)(void);
    CURLMcode (*add)(CURLM *, CURL *);
    CURLMcode (*perform)(CURLM *, int *);
    CURLMcode (*poll)(CURLM *, struct curl_waitfd[], unsigned, int, int *);
    CURLMsg *(*info_read)(CURLM *, int *);
    CURLMcode (*take_out)(CURLM *, CURL *);
    CURLMcode (*multi_cleanup)(CURLM *);
    struct curl_slist *(*append)(struct curl_slist *, const char *);
    void (*free_list)(struct curl_slist *);
} curl;

static bool load(void) {
    const struct {
        const char *name;
        void *at; /* pointers to functions have the size of others on every system with dlsym */
    } symbols[] = {{"curl_global_init", &curl.global_init},     {"curl_easy_init", &curl.easy_init},
                   {"curl_easy_setopt", &curl.setopt},          {"curl_easy_getinfo", &curl.getinfo},
                   {"curl_easy_cleanup", &curl.easy_cleanup},   {"curl_easy_strerror", &curl.strerror},
                   {"curl_multi_init", &curl.multi_init},       {"curl_multi_add_handle", &curl.add},
                   {"curl_multi_perform", &curl.perform},       {"curl_multi_poll", &curl.poll},
                   {"curl_multi_info_read", &curl.info_read},   {"curl_multi_remove_handle", &curl.take_out},
                   {"curl_multi_cleanup", &curl.multi_cleanup}, {"curl_slist_append", &curl.append},
                   {"curl_slist_free_all", &curl.free_list}};
    static bool loaded;
    if (loaded) return true;
    void *lib = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!lib) lib = dlopen("libcurl-gnutls.so.4", RTLD_NOW | RTLD_LOCAL);
    bool ok = lib != NULL;
    for (size_t i = 0; ok && i < sizeof symbols / sizeof symbols[0]; i++) {
        void *f = dlsym(lib, symbols[i].name);
        memcpy(symbols[i].at, &f, sizeof f);
        ok = f != NULL;
    }
    if (!ok) fprintf(stderr, "quern: --url needs libcurl (Debian: apt-get install libcurl4)\n");
    loaded = ok && curl.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
    return loaded;
}

/* ---- options ---- */

static int read_key(struct qn_remote *r) {
    char line[sizeof r->key + 2] = "";
    const char *env = getenv("QUERN_API_KEY"), *name = r->key_file ? r->key_file : "QUERN_API_KEY";
    if (r->key_file) {
        FILE *f = fopen(r->key_file, "r");
        if (!f || !fgets(line, sizeof line, f)) line[0] = '\0';
        if (f) fclose(f);
        if (!f) {
            fprintf(stderr, "quern: can't open %s: %s\n", r->key_file, strerror(errno));
            return 1;
        }
    } else if (env) {
        snprintf(line, sizeof line, "%s", env);
    }
    size_t n = strcspn(line, "\r\n");
    line[n] = '\0';
    bool ok = n < sizeof r->key && (n || !r->key_file);
    for (size_t i = 0; i < n; i++) ok = ok && isgraph((unsigned char)line[i]);
    if (!ok) {
        fprintf(stderr, "quern: %s holds no key: visible characters, at most %zu\n", name, sizeof r->key - 1);
        return 2;
    }
    memcpy(r->key, line, n + 1);
    return 0;
}

int qn_remote_prepare(struct qn_remote *r) {
    bool http = !strncmp(r->url, "http://", 7) && r->url[7],
         https = !strncmp(r->url, "https://", 8) && r->url[8];
    if (!http && !https) {
        fprintf(stderr, "quern: --url must look like http://127.0.0.1:8080\n");
        return 2;
    }
    int rc = read_key(r);
    if (rc) return rc;
    return load() ? 0 : 1;
}

/* ---- one request ---- */

struct call {
    const struct qn_remote *remote;
    struct qn_remote_sink *sink;
    CURL *easy;
    struct qn_sse sse;
    char why[CURL_ERROR_SIZE];
    time_t heard; /* monotonic seconds: when the last byte came */
    bool started, stream, done, stopped, too_long;
    long status;
};

static time_t seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

static bool on_event(void *ctx, const char *data, size_t n) {
    struct call *c = ctx;
    if (n == 6 && !memcmp(data, "[DONE]", 6)) {
        c->done = true;
        return true;
    }
    if (c->sink->event(c->sink->ctx, data, n)) return true;
    c->stopped = true;
    return false;
}

/* Status and type are known with the first byte of the body. */
static void start(struct call *c) {
    const char *type = NULL;
    c->started = true;
    curl.getinfo(c->easy, CURLINFO_RESPONSE_CODE, &c->status);
    curl.getinfo(c->easy, CURLINFO_CONTENT_TYPE, &type);
    c->stream = c->status == 200 && c->sink->event && type && !strncmp(type, "text/event-stream", 17);
}

static size_t on_body(char *p, size_t size, size_t n, void *ctx) {
    struct call *c = ctx;
    size_t bytes = size * n;
    c->heard = seconds();
    if (!c->started) start(c);
    if (c->stream) {
        if (qn_sse_feed(&c->sse, p, bytes)) return bytes;
        c->too_long = !c->stopped;
        return 0;
    }
    qn_buf_add(&c->sink->body, p, bytes);
    c->too_long = c->sink->body.failed;
    return c->too_long ? 0 : bytes;
}

static size_t on_header(char *p, size_t size, size_t n, void *ctx) {
    (void)p;
    ((struct call *)ctx)->heard = seconds();
    return size * n;
}

static void set_request(struct call *c, const char *url, const struct qn_buf *body,
                        struct curl_slist *headers) {
    CURL *e = c->easy;
    curl.setopt(e, CURLOPT_URL, url);
    curl.setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl.setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl.setopt(e, CURLOPT_HTTPHEADER, headers);
    curl.setopt(e, CURLOPT_USERAGENT, "quern/" QN_VERSION);
    curl.setopt(e, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl.setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl.setopt(e, CURLOPT_ERRORBUFFER, c->why);
    curl.setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl.setopt(e, CURLOPT_WRITEDATA, c);
    curl.setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    curl.setopt(e, CURLOPT_HEADERDATA, c);
    if (!body) return;
    curl.setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->n);
    curl.setopt(e, CURLOPT_POSTFIELDS, body->p);
}

enum end { END_OK, END_FAILED, END_SILENT, END_INTERRUPTED };

static enum end drive(struct call *c, CURLM *multi, CURLcode *code) {
    int running = 1, left;
    c->heard = seconds();
    while (running) {
        if (curl.perform(multi, &running) != CURLM_OK) return END_FAILED;
        if (c->remote->stop && *c->remote->stop) return END_INTERRUPTED;
        if (running && curl.poll(multi, NULL, 0, 100, NULL) != CURLM_OK) return END_FAILED;
        if (running && seconds() - c->heard > (time_t)c->remote->idle_s) return END_SILENT;
    }
    CURLMsg *m = curl.info_read(multi, &left);
    *code = m ? m->data.result : CURLE_FAILED_INIT;
    return *code == CURLE_OK ? END_OK : END_FAILED;
}

void qn_remote_complain(const char *text, size_t n) {
    struct qn_api_err shown = {.code = QN_API_OK}; /* which has no control characters left in it */
    qn_api_fail(&shown, QN_API_INVALID, "", "%.*s", n < 1000 ? (int)n : 1000, text);
    fprintf(stderr, "quern: %s\n", shown.msg);
}

/* The server's own words for a status that is not 200. */
static int complain_status(struct call *c) {
    struct qn_api_received got = {.kind = QN_GOT_OTHER};
    struct qn_api_err err = {.code = QN_API_OK};
    const struct qn_buf *b = &c->sink->body;
    bool read = b->n && qn_api_receive(b->p, b->n, &got, &err) == 0;
    if (read && got.kind == QN_GOT_ERROR && got.text_len)
        qn_remote_complain(got.text, got.text_len);
    else
        fprintf(stderr, "quern: %s answered with status %ld\n", c->remote->url, c->status);
    qn_api_received_free(&got);
    return 1;
}

static int verdict(struct call *c, enum end end, CURLcode code) {
    const char *url = c->remote->url;
    long os = 0;
    if (c->stopped) return 1;
    if (end == END_INTERRUPTED) {
        fprintf(stderr, "\nquern: interrupted\n");
    } else if (end == END_SILENT) {
        fprintf(stderr, "quern: nothing came from %s for %u s (--idle-timeout)\n", url, c->remote->idle_s);
    } else if (c->too_long) {
        fprintf(stderr, "quern: the answer of %s is too long\n", url);
    } else if (code == CURLE_COULDNT_CONNECT) {
        curl.getinfo(c->easy, CURLINFO_OS_ERRNO, &os);
        fprintf(stderr, "quern: can't connect to %s: %s\n", url, os ? strerror((int)os) : c->why);
    } else if (end == END_FAILED) {
        fprintf(stderr, "quern: %s: %s\n", url, c->why[0] ? c->why : curl.strerror(code));
    } else {
        if (!c->started) start(c);
        if (c->status != 200) return complain_status(c);
        if (!c->stream || c->done) return 0;
        fprintf(stderr, "quern: the answer of %s ended too early\n", url);
    }
    return 1;
}

int qn_remote_call(const struct qn_remote *r, const char *path, const struct qn_buf *body,
                   struct qn_remote_sink *sink) {
    struct call c = {.remote = r, .sink = sink, .easy = curl.easy_init()};
    CURLM *multi = curl.multi_init();
    struct qn_buf url = {0}, auth = {0};
    struct curl_slist *headers = curl.append(NULL, "Content-Type: application/json"), *more;
    CURLcode code = CURLE_OK;
    size_t n = strlen(r->url);
    int rc = 1;
    while (n && r->url[n - 1] == '/') n--;
    qn_buf_printf(&url, "%.*s%s", (int)n, r->url, path);
    qn_buf_printf(&auth, r->key[0] ? "Authorization: Bearer %s" : "Accept: */*", r->key);
    more = headers && !auth.failed ? curl.append(headers, auth.p) : NULL;
    if (more) more = curl.append(headers, "Expect:"); /* no waiting for 100 before a long body */
    c.sse = (struct qn_sse){.line.limit = MAX_REPLY, .data.limit = MAX_REPLY, .event = on_event, .ctx = &c};
    sink->body.limit = MAX_REPLY;
    if (c.easy && multi && more && !url.failed) {
        set_request(&c, url.p, body, headers);
        enum end end = curl.add(multi, c.easy) == CURLM_OK ? drive(&c, multi, &code) : END_FAILED;
        rc = verdict(&c, end, code);
        curl.take_out(multi, c.easy);
    } else {
        fprintf(stderr, "quern: out of memory\n");
    }
    curl.free_list(headers);
    if (c.easy) curl.easy_cleanup(c.easy);
    if (multi) curl.multi_cleanup(multi);
    qn_sse_free(&c.sse);
    qn_buf_free(&url);
    qn_buf_free(&auth);
    return rc;
}
