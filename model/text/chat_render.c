/* One renderer per format: messages in, the text that the published template gives out (chat_render.h).
 *
 * What a template refuses is refused here, and also what it would leave out without a word: a message of a
 * role that it has no place for. Blanks are trimmed as the templates' language does it, that is, Unicode's
 * white space. Thread: any. */
#include "model/text/chat_render.h"

#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"

/* --- the sink --- */
static void put_ref(struct qn_chat_render *r, struct qn_str_ref s) {
    if (r->out && s.n > 0) memcpy(r->out + r->len, s.p, s.n);
    if (!qn_size_add(r->len, s.n, &r->len)) r->overflow = true;
}

static void put(struct qn_chat_render *r, const char *s) {
    put_ref(r, (struct qn_str_ref){s, strlen(s)});
}

static struct qn_str_ref content(const struct qn_chat_message *m) {
    return (struct qn_str_ref){m->content, m->n};
}

static bool is_role(const struct qn_chat_message *m, const char *role) {
    return strcmp(m->role, role) == 0;
}

static int refuse(struct qn_chat_render *r, size_t i, const char *why) {
    char param[48];
    snprintf(param, sizeof param, "messages[%zu].role", i);
    return qn_err_param(r->err, QN_ERR_INVALID, param, "messages[%zu]: the model's chat template (%s) %s", i,
                        r->t->name, why);
}

/* --- strings as the templates' language cuts them --- */

/* Bytes of the white-space character that s begins with, 0 when it is another one. */
static size_t blank_at(const char *s, size_t n) {
    const unsigned char *p = (const unsigned char *)s;
    if (n == 0) return 0;
    if (p[0] < 0x80) return p[0] == ' ' || (p[0] >= 9 && p[0] <= 13) || (p[0] >= 0x1C && p[0] <= 0x1F);
    if (n >= 2 && p[0] == 0xC2) return p[1] == 0x85 || p[1] == 0xA0 ? 2 : 0;
    if (n < 3) return 0;
    if (p[0] == 0xE1) return p[1] == 0x9A && p[2] == 0x80 ? 3 : 0; /* U+1680 */
    if (p[0] == 0xE3) return p[1] == 0x80 && p[2] == 0x80 ? 3 : 0; /* U+3000 */
    if (p[0] != 0xE2) return 0;
    if (p[1] == 0x80) /* U+2000 to U+200A, U+2028, U+2029, U+202F */
        return (p[2] >= 0x80 && p[2] <= 0x8A) || p[2] == 0xA8 || p[2] == 0xA9 || p[2] == 0xAF ? 3 : 0;
    return p[1] == 0x81 && p[2] == 0x9F ? 3 : 0; /* U+205F */
}

static size_t blank_before(const char *s, size_t n) {
    for (size_t k = 1; k <= 3 && k <= n; k++)
        if (blank_at(s + n - k, k) == k) return k;
    return 0;
}

static struct qn_str_ref trim_end(struct qn_str_ref s) {
    for (size_t k; (k = blank_before(s.p, s.n)) > 0;) s.n -= k;
    return s;
}

static struct qn_str_ref trim(struct qn_str_ref s) {
    for (size_t k; (k = blank_at(s.p, s.n)) > 0;) {
        s.p += k;
        s.n -= k;
    }
    return trim_end(s);
}

static struct qn_str_ref skip_lines(struct qn_str_ref s) { /* lstrip("\n") */
    while (s.n > 0 && s.p[0] == '\n') {
        s.p++;
        s.n--;
    }
    return s;
}

static struct qn_str_ref drop_lines(struct qn_str_ref s) { /* rstrip("\n") */
    while (s.n > 0 && s.p[s.n - 1] == '\n') s.n--;
    return s;
}

static bool begins(struct qn_str_ref s, const char *with) {
    size_t k = strlen(with);
    return s.n >= k && memcmp(s.p, with, k) == 0;
}

static bool ends(struct qn_str_ref s, const char *with) {
    size_t k = strlen(with);
    return s.n >= k && memcmp(s.p + s.n - k, with, k) == 0;
}

static const char *find(struct qn_str_ref s, const char *part) {
    return s.n > 0 ? memmem(s.p, s.n, part, strlen(part)) : NULL;
}

/* What stands after the last `part`; all of s when there is none. */
static struct qn_str_ref after_last(struct qn_str_ref s, const char *part) {
    size_t k = strlen(part);
    for (const char *at; (at = find(s, part)) != NULL;) {
        s.n -= (size_t)(at - s.p) + k;
        s.p = at + k;
    }
    return s;
}

/* --- ChatML: each message between <|im_start|> and <|im_end|> --- */
static void put_im(struct qn_chat_render *r, const char *role, struct qn_str_ref text) {
    put(r, "<|im_start|>");
    put(r, role);
    put(r, "\n");
    put_ref(r, text);
    put(r, "<|im_end|>\n");
}

static void put_default_system(struct qn_chat_render *r) {
    if (r->t->system && !is_role(&r->msgs[0], "system"))
        put_im(r, "system", (struct qn_str_ref){r->t->system, strlen(r->t->system)});
}

static void put_im_prompt(struct qn_chat_render *r) {
    if (r->prompt) put(r, "<|im_start|>assistant\n");
}

int qn_chat_render_chatml(struct qn_chat_render *r) { /* any role */
    put_default_system(r);
    for (size_t i = 0; i < r->n; i++) put_im(r, r->msgs[i].role, content(&r->msgs[i]));
    put_im_prompt(r);
    return QN_OK;
}

/* What a tool answered is part of a user's message, several that follow each other of the same one. */
static void put_tool_response(struct qn_chat_render *r, size_t i) {
    if (i == 0 || !is_role(&r->msgs[i - 1], "tool")) put(r, "<|im_start|>user");
    put(r, "\n<tool_response>\n");
    put_ref(r, content(&r->msgs[i]));
    put(r, "\n</tool_response>");
    if (i + 1 == r->n || !is_role(&r->msgs[i + 1], "tool")) put(r, "<|im_end|>\n");
}

static bool qwen_takes(const struct qn_chat_message *m) {
    return is_role(m, "user") || is_role(m, "system") || is_role(m, "assistant") || is_role(m, "tool");
}

static const char qwen_roles[] = "takes the roles system, user, assistant and tool only";

int qn_chat_render_qwen25(struct qn_chat_render *r) {
    put_default_system(r);
    for (size_t i = 0; i < r->n; i++) {
        if (!qwen_takes(&r->msgs[i])) return refuse(r, i, qwen_roles);
        if (is_role(&r->msgs[i], "tool"))
            put_tool_response(r, i);
        else
            put_im(r, r->msgs[i].role, content(&r->msgs[i]));
    }
    put_im_prompt(r);
    return QN_OK;
}

/* The last question that a person asked: a user's message that is not a tool's answer. */
static size_t last_query(const struct qn_chat_render *r) {
    for (size_t i = r->n; i-- > 0;) {
        struct qn_str_ref s = content(&r->msgs[i]);
        if (is_role(&r->msgs[i], "user") && !(begins(s, "<tool_response>") && ends(s, "</tool_response>")))
            return i;
    }
    return r->n - 1;
}

/* Thoughts are kept only in what came after the last question. */
static void put_qwen3_answer(struct qn_chat_render *r, size_t i, size_t query) {
    struct qn_str_ref text = content(&r->msgs[i]), thought = {"", 0};
    const char *end = find(text, "</think>");
    if (end) {
        thought = drop_lines((struct qn_str_ref){text.p, (size_t)(end - text.p)});
        thought = skip_lines(after_last(thought, "<think>"));
        text = skip_lines(after_last(text, "</think>"));
    }
    put(r, "<|im_start|>assistant\n");
    if (i > query && (i + 1 == r->n || thought.n > 0)) {
        put(r, "<think>\n");
        put_ref(r, drop_lines(skip_lines(thought)));
        put(r, "\n</think>\n\n");
        text = skip_lines(text);
    }
    put_ref(r, text);
    put(r, "<|im_end|>\n");
}

int qn_chat_render_qwen3(struct qn_chat_render *r) {
    size_t query = last_query(r);
    for (size_t i = 0; i < r->n; i++) {
        if (!qwen_takes(&r->msgs[i])) return refuse(r, i, qwen_roles);
        if (is_role(&r->msgs[i], "tool"))
            put_tool_response(r, i);
        else if (is_role(&r->msgs[i], "assistant"))
            put_qwen3_answer(r, i, query);
        else
            put_im(r, r->msgs[i].role, content(&r->msgs[i]));
    }
    put_im_prompt(r);
    return QN_OK;
}

/* --- [INST]: Llama 2 and Mistral --- */

/* After an optional system message: user, assistant, user … */
static int check_turns(struct qn_chat_render *r, size_t first) {
    if (first == r->n) return refuse(r, 0, "puts a system message into a user's, and there is none");
    for (size_t i = first; i < r->n; i++) {
        bool user = (i - first) % 2 == 0;
        if (is_role(&r->msgs[i], "system"))
            return refuse(r, i,
                          first == 0 && !(r->t->flags & QN_CHAT_SYSTEM)
                              ? "has no place for a system message"
                              : "takes one system message, as the first one");
        if (!is_role(&r->msgs[i], user ? "user" : "assistant"))
            return refuse(r, i, "takes user and assistant in turn, user first");
    }
    return QN_OK;
}

static size_t first_turn(const struct qn_chat_render *r) {
    return (r->t->flags & QN_CHAT_SYSTEM) && is_role(&r->msgs[0], "system") ? 1 : 0;
}

/* The system message and the first user message are one text, which is then trimmed. */
static void put_llama2_first(struct qn_chat_render *r, struct qn_str_ref text) {
    put(r, "<<SYS>>\n");
    put_ref(r, content(&r->msgs[0]));
    put(r, "\n<</SYS>>");
    struct qn_str_ref end = trim_end(text);
    if (end.n == 0) return;
    put(r, "\n\n");
    put_ref(r, end);
}

int qn_chat_render_llama2(struct qn_chat_render *r) {
    size_t first = first_turn(r);
    int rc = check_turns(r, first);
    for (size_t i = first; i < r->n && rc == QN_OK; i++) {
        struct qn_str_ref text = content(&r->msgs[i]);
        if (is_role(&r->msgs[i], "user")) {
            put_ref(r, r->ctx->bos);
            put(r, "[INST] ");
            if (first == 1 && i == 1)
                put_llama2_first(r, text);
            else
                put_ref(r, trim(text));
            put(r, " [/INST]");
        } else {
            put(r, " ");
            put_ref(r, trim(text));
            put(r, " ");
            put_ref(r, r->ctx->eos);
        }
    }
    return rc;
}

int qn_chat_render_mistral(struct qn_chat_render *r) {
    size_t first = first_turn(r);
    size_t with_system = r->t->flags & QN_CHAT_SYSTEM_LAST ? r->n - 1 : first;
    int rc = check_turns(r, first);
    put_ref(r, r->ctx->bos);
    for (size_t i = first; i < r->n && rc == QN_OK; i++) {
        struct qn_str_ref text = content(&r->msgs[i]);
        if (is_role(&r->msgs[i], "user")) {
            put(r, r->t->open);
            if (first == 1 && i == with_system) {
                put_ref(r, content(&r->msgs[0]));
                put(r, "\n\n");
            }
            put_ref(r, text);
            put(r, r->t->close);
        } else {
            put(r, r->t->answer);
            put_ref(r, r->t->flags & QN_CHAT_TRIM ? trim(text) : text);
            put_ref(r, r->ctx->eos);
            put(r, r->t->done);
        }
    }
    return rc;
}

/* --- Llama 3 --- */
static void put_header(struct qn_chat_render *r, const char *role) {
    put(r, "<|start_header_id|>");
    put(r, role);
    put(r, "<|end_header_id|>\n\n");
}

static void put_llama3(struct qn_chat_render *r, const struct qn_chat_message *m) {
    put_header(r, m->role);
    put_ref(r, trim(content(m)));
    put(r, "<|eot_id|>");
}

int qn_chat_render_llama3(struct qn_chat_render *r) { /* any role */
    put_ref(r, r->ctx->bos);
    for (size_t i = 0; i < r->n; i++) put_llama3(r, &r->msgs[i]);
    if (r->prompt || (r->t->flags & QN_CHAT_ALWAYS)) put_header(r, "assistant");
    return QN_OK;
}

int qn_chat_render_llama31(struct qn_chat_render *r) {
    size_t first = is_role(&r->msgs[0], "system") ? 1 : 0;
    put_ref(r, r->ctx->bos);
    put_header(r, "system");
    put(r, "Cutting Knowledge Date: December 2023\nToday Date: ");
    put(r, r->t->flags & QN_CHAT_TODAY ? r->ctx->today : "26 Jul 2024");
    put(r, "\n\n");
    if (first == 1) put_ref(r, trim(content(&r->msgs[0])));
    put(r, "<|eot_id|>");
    for (size_t i = first; i < r->n; i++) {
        if (is_role(&r->msgs[i], "tool") || is_role(&r->msgs[i], "ipython"))
            return refuse(r, i, "takes no tool's message here");
        put_llama3(r, &r->msgs[i]);
    }
    if (r->prompt) put_header(r, "assistant");
    return QN_OK;
}

/* --- Gemma --- */
int qn_chat_render_gemma(struct qn_chat_render *r) {
    int rc = check_turns(r, 0);
    put_ref(r, r->ctx->bos);
    for (size_t i = 0; i < r->n && rc == QN_OK; i++) {
        put(r, "<start_of_turn>");
        put(r, is_role(&r->msgs[i], "assistant") ? "model" : "user");
        put(r, "\n");
        put_ref(r, trim(content(&r->msgs[i])));
        put(r, "<end_of_turn>\n");
    }
    if (r->prompt) put(r, "<start_of_turn>model\n");
    return rc;
}

/* --- Zephyr: any order --- */
int qn_chat_render_zephyr(struct qn_chat_render *r) {
    for (size_t i = 0; i < r->n; i++) {
        const struct qn_chat_message *m = &r->msgs[i];
        if (!is_role(m, "user") && !is_role(m, "system") && !is_role(m, "assistant"))
            return refuse(r, i, "takes the roles system, user and assistant only");
        put(r, "<|");
        put(r, m->role);
        put(r, "|>\n");
        put_ref(r, content(m));
        put_ref(r, r->ctx->eos);
        put(r, "\n");
    }
    if (r->prompt) put(r, "<|assistant|>\n");
    return QN_OK;
}
