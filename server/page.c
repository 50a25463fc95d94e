/* The files of the page as constants of the binary, and the routes / and /page/NAME that serve them. Data
 * flow: file at build time -> two symbols -> the reply's body, uncopied. A browser asks each time whether its
 * copy is still good (no-cache and a tag of the bytes), so that a new version is seen at once. The policy
 * allows what comes from this server and nothing else. Thread: loop. */
#include "server/page.h"

#include <stdio.h>
#include <string.h>

#include "server/handlers.h"

#ifndef QN_CHART_JS /* the Makefile sets it; static analysis doesn't */
#define QN_CHART_JS "/usr/share/javascript/chart.js/chart.min.js"
#endif

/* One file between two symbols; the assembler reads it, so that no compiler has to. */
#define EMBED(symbol, file)                                                                                  \
    __asm__(".pushsection .rodata\n.balign 64\n.hidden " #symbol "\n.globl " #symbol "\n" #symbol            \
            ":\n.incbin \"" file "\"\n.hidden " #symbol "_end\n.globl " #symbol "_end\n" #symbol             \
            "_end:\n.byte 0\n.popsection\n");                                                                \
    extern const uint8_t symbol[] __attribute__((visibility("hidden")));                                     \
    extern const uint8_t symbol##_end[] __attribute__((visibility("hidden")))

EMBED(qn_page_index, "server/page/index.html");
EMBED(qn_page_style, "server/page/style.css");
EMBED(qn_page_icon, "server/page/icon.svg");
EMBED(qn_page_theme, "server/page/theme.js");
EMBED(qn_page_app, "server/page/app.js");
EMBED(qn_page_api, "server/page/api.js");
EMBED(qn_page_charts, "server/page/charts.js");
EMBED(qn_page_dom, "server/page/dom.js");
EMBED(qn_page_live, "server/page/live.js");
EMBED(qn_page_run, "server/page/run.js");
EMBED(qn_page_structures, "server/page/structures.js");
EMBED(qn_page_sweep, "server/page/sweep.js");
EMBED(qn_page_chart_js, QN_CHART_JS);

#define HTML   "text/html; charset=utf-8"
#define CSS    "text/css; charset=utf-8"
#define SCRIPT "text/javascript; charset=utf-8"

static const struct qn_page_file files[] = {
    {"index.html", HTML, qn_page_index, qn_page_index_end},
    {"style.css", CSS, qn_page_style, qn_page_style_end},
    {"icon.svg", "image/svg+xml", qn_page_icon, qn_page_icon_end},
    {"theme.js", SCRIPT, qn_page_theme, qn_page_theme_end},
    {"app.js", SCRIPT, qn_page_app, qn_page_app_end},
    {"api.js", SCRIPT, qn_page_api, qn_page_api_end},
    {"charts.js", SCRIPT, qn_page_charts, qn_page_charts_end},
    {"dom.js", SCRIPT, qn_page_dom, qn_page_dom_end},
    {"live.js", SCRIPT, qn_page_live, qn_page_live_end},
    {"run.js", SCRIPT, qn_page_run, qn_page_run_end},
    {"structures.js", SCRIPT, qn_page_structures, qn_page_structures_end},
    {"sweep.js", SCRIPT, qn_page_sweep, qn_page_sweep_end},
    {"chart.min.js", SCRIPT, qn_page_chart_js, qn_page_chart_js_end},
};
#define N_FILES (sizeof files / sizeof files[0])

static const struct qn_page_header headers[] = {
    {"Content-Security-Policy",
     "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
     "img-src 'self' data:; base-uri 'none'; form-action 'none'; "
     "frame-ancestors 'none'"},
    {"X-Content-Type-Options", "nosniff"},
    {"Referrer-Policy", "no-referrer"},
    {"Cache-Control", "no-cache"},
    {NULL, NULL},
};

const struct qn_page_header *qn_page_headers(void) {
    return headers;
}

const struct qn_page_file *qn_page_find(const char *name) {
    for (size_t i = 0; i < N_FILES; i++)
        if (strcmp(files[i].name, name) == 0) return &files[i];
    return NULL;
}

void qn_page_tag(const struct qn_page_file *f, char tag[QN_PAGE_TAG]) {
    static const unsigned char key[16] = "quern page files";
    snprintf(tag, QN_PAGE_TAG, "\"%016llx\"",
             (unsigned long long)qn_siphash(key, f->p, (size_t)(f->end - f->p)));
}

static void reply_file(struct qn_request *r, const struct qn_page_file *f) {
    qn_page_tag(f, r->tag);
    bool same = r->if_none_match && (strcmp(r->if_none_match, "*") == 0 || strstr(r->if_none_match, r->tag));
    r->file = f;
    qn_reply_as(r, same ? 304 : 200, same ? NULL : f->type);
}

void qn_handle_page(struct qn_request *r) {
    const struct qn_page_file *f = qn_page_find(r->arg);
    if (f) {
        reply_file(r, f);
        return;
    }
    struct qn_api_err err = {.code = QN_API_OK};
    qn_api_fail(&err, QN_API_NOT_FOUND, "", "the page has no such file");
    qn_reply_error(r, &err);
}

void qn_handle_index(struct qn_request *r) {
    r->vary = true;
    if (r->html) {
        reply_file(r, qn_page_find("index.html"));
        return;
    }
    qn_reply_text(r, 200,
                  "quern: transformer inference; every request chooses its structure.\n\n"
                  "POST /v1/infer       run a sequence\n"
                  "POST /v1/compare     run it in several structures, side by side\n"
                  "GET  /v1/structures  what each model can run as\n"
                  "GET  /v1/models      models\n"
                  "POST /v1/completions, /v1/chat/completions, /v1/embeddings: as OpenAI's clients ask\n"
                  "POST /tokenize       POST /detokenize       GET /tokenizer_info\n"
                  "GET  /openapi.json   the whole interface\n"
                  "GET  /livez /readyz /metrics\n\n"
                  "In a browser, this address is a page.\n");
}
