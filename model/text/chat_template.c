/* What chat_template.h promises: the table of templates, and one renderer per format.
 *
 * A renderer only appends to a sink. It runs twice: the first time the sink counts bytes (and stops at a
 * conversation that the template refuses), the second time it writes into memory of exactly that size. */
#include "model/text/chat_template.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"

struct render {
    const struct qn_chat_template *t;
    const struct qn_chat_context *ctx;
    const struct qn_chat_message *msgs;
    size_t n;
    bool prompt; /* add_generation_prompt */
    struct qn_err *err;
    char *out;     /* NULL: count */
    size_t len;    /* bytes so far */
    bool overflow; /* they don't fit into a size_t */
};

struct qn_chat_template {
    const char *name;
    int (*render)(struct render *r);
    const char *system;   /* its own system message, for a conversation that has none; or NULL */
    const char *need[4];  /* a text that holds all of these and … */
    const char *never[6]; /* … none of these is this template's */
};

/* --- the sink --- */
static void put_bytes(struct render *r, const char *p, size_t n) {
    if (r->out && n > 0) memcpy(r->out + r->len, p, n);
    if (!qn_size_add(r->len, n, &r->len)) r->overflow = true;
}

static void put(struct render *r, const char *s) {
    put_bytes(r, s, strlen(s));
}

static void put_content(struct render *r, const struct qn_chat_message *m) {
    put_bytes(r, m->content, m->n);
}

static bool is_role(const struct qn_chat_message *m, const char *role) {
    return strcmp(m->role, role) == 0;
}

/* --- ChatML: any role, each message between <|im_start|> and <|im_end|> --- */
static void put_im(struct render *r, const struct qn_chat_message *m) {
    put(r, "<|im_start|>");
    put(r, m->role);
    put(r, "\n");
    put_content(r, m);
    put(r, "<|im_end|>\n");
}

static int render_chatml(struct render *r) {
    if (r->t->system && r->n > 0 && !is_role(&r->msgs[0], "system")) {
        put(r, "<|im_start|>system\n");
        put(r, r->t->system);
        put(r, "<|im_end|>\n");
    }
    for (size_t i = 0; i < r->n; i++) put_im(r, &r->msgs[i]);
    if (r->prompt) put(r, "<|im_start|>assistant\n");
    return QN_OK;
}

/* --- the table --- */
/* In the order in which a text is held against them. */
static const struct qn_chat_template templates[] = {
    {"smollm2",
     render_chatml,
     "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
     {"<|im_start|>", "<|im_end|>", "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
     {"tools", "<think>"}},
    {"qwen2",
     render_chatml,
     "You are a helpful assistant.",
     {"<|im_start|>", "<|im_end|>", "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>"},
     {"tools", "<think>"}},
    {"chatml", render_chatml, NULL, {"<|im_start|>", "<|im_end|>"}, {"tools", "<think>", "system"}},
};
#define N_TEMPLATES (sizeof templates / sizeof *templates)

static bool holds(const char *text, size_t n, const char *part) {
    return memmem(text, n, part, strlen(part)) != NULL;
}

static bool matches(const struct qn_chat_template *t, const char *text, size_t n) {
    const size_t n_need = sizeof t->need / sizeof *t->need, n_never = sizeof t->never / sizeof *t->never;
    for (size_t i = 0; i < n_need && t->need[i]; i++)
        if (!holds(text, n, t->need[i])) return false;
    for (size_t i = 0; i < n_never && t->never[i]; i++)
        if (holds(text, n, t->never[i])) return false;
    return true;
}

const struct qn_chat_template *qn_chat_recognise(const char *text, size_t n) {
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (matches(&templates[i], text, n)) return &templates[i];
    return NULL;
}

const struct qn_chat_template *qn_chat_find(const char *name) {
    for (size_t i = 0; i < N_TEMPLATES; i++)
        if (strcmp(templates[i].name, name) == 0) return &templates[i];
    return NULL;
}

const char *qn_chat_name(const struct qn_chat_template *t) {
    return t->name;
}

const char *qn_chat_names(void) {
    return "chatml, qwen2, smollm2";
}

int qn_chat_render(const struct qn_chat_template *t, const struct qn_chat_context *ctx,
                   const struct qn_chat_message *msgs, size_t n, bool add_generation_prompt, char **out,
                   size_t *len, struct qn_err *err) {
    struct render r = {.t = t, .ctx = ctx, .msgs = msgs, .n = n, .prompt = add_generation_prompt, .err = err};
    *out = NULL;
    *len = 0;
    if (n == 0) return qn_err_param(err, QN_ERR_INVALID, "messages", "there must be at least one message");
    int rc = t->render(&r);
    if (rc != QN_OK) return rc;
    size_t bytes = r.len;
    r.out = r.overflow ? NULL : malloc(bytes ? bytes : 1);
    if (!r.out) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a conversation");
    r.len = 0;
    rc = t->render(&r);
    if (rc != QN_OK) {
        free(r.out);
        return rc;
    }
    *out = r.out;
    *len = bytes;
    return QN_OK;
}
