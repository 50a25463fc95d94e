/* Replies of the OpenAI endpoints, whole and streamed. Data flow: the same measurements and borrowed texts as
 * the reply of /v1/infer -> bytes, in the shapes that OpenAI's clients insist on; quern's own figures stand
 * beside them and, for clients that drop what they don't know, inside usage. Thread: any. */
#include <math.h>
#include <string.h>

#include "api/infer_write.h"
#include "api/openai.h"

static void add_str(struct qn_buf *b, const char *key, const char *v) {
    qn_buf_str(b, key);
    qn_buf_json_str(b, v, strlen(v));
}

static void add_uint(struct qn_buf *b, const char *key, uint64_t v) {
    qn_buf_str(b, key);
    qn_buf_json_uint(b, v);
}

static void add_text(struct qn_buf *b, const char *key, const char *text, size_t n) {
    qn_buf_str(b, key);
    qn_buf_json_str(b, text ? text : "", text ? n : 0);
}

/* ---- log-probabilities ---- */
/* Clients do arithmetic with these: what never happens is a number, too. */
static void add_logprob(struct qn_buf *b, const char *key, float v) {
    qn_buf_str(b, key);
    if (isinf(v))
        qn_buf_str(b, "-9999");
    else
        qn_buf_json_float(b, v); /* null when it is none */
}

/* A token's text; one that is no text by itself as its bytes, so that different tokens stay different. */
static void add_token(struct qn_buf *b, const struct qn_api_logprob *t) {
    const char *text = t->text ? t->text : "";
    size_t n = t->text ? t->text_len : 0;
    if (qn_buf_utf8_ok(text, n)) {
        qn_buf_json_str(b, text, n);
        return;
    }
    qn_buf_str(b, "\"bytes:");
    for (size_t i = 0; i < n; i++) qn_buf_printf(b, "\\\\x%02x", (unsigned char)text[i]);
    qn_buf_str(b, "\"");
}

static bool same_text(const struct qn_api_logprob *x, const struct qn_api_logprob *y) {
    size_t n = x->text ? x->text_len : 0;
    return n == (y->text ? y->text_len : 0) && (!n || !memcmp(x->text, y->text, n));
}

/* {"token": logprob, …}: the alternatives, and the token itself. Of tokens that look alike the likeliest, so
 * that no key comes twice. */
static void add_top(struct qn_buf *b, const struct qn_api_token *t) {
    bool any = false, chosen = false;
    if (isnan(t->chosen.logprob)) {
        qn_buf_str(b, "null");
        return;
    }
    qn_buf_str(b, "{");
    for (uint32_t i = 0; i < t->n_top; i++) {
        bool twice = false;
        for (uint32_t k = 0; k < i && !twice; k++) twice = same_text(&t->top[i], &t->top[k]);
        if (twice) continue;
        chosen = chosen || same_text(&t->top[i], &t->chosen);
        if (any) qn_buf_str(b, ",");
        add_token(b, &t->top[i]);
        add_logprob(b, ":", t->top[i].logprob);
        any = true;
    }
    if (!chosen) {
        if (any) qn_buf_str(b, ",");
        add_token(b, &t->chosen);
        add_logprob(b, ":", t->chosen.logprob);
    }
    qn_buf_str(b, "}");
}

/* {"tokens":[…],"token_logprobs":[…],"top_logprobs":[…],"text_offset":[…]} */
static void completion_logprobs(struct qn_buf *b, const struct qn_api_token *t, size_t n,
                                const uint32_t *offsets) {
    qn_buf_str(b, "{\"tokens\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) qn_buf_str(b, ",");
        add_token(b, &t[i].chosen);
    }
    qn_buf_str(b, "],\"token_logprobs\":[");
    for (size_t i = 0; i < n; i++) add_logprob(b, i ? "," : "", t[i].chosen.logprob);
    qn_buf_str(b, "],\"top_logprobs\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) qn_buf_str(b, ",");
        add_top(b, &t[i]);
    }
    qn_buf_str(b, "],\"text_offset\":[");
    for (size_t i = 0; i < n; i++) add_uint(b, i ? "," : "", offsets[i]);
    qn_buf_str(b, "]}");
}

static void chat_logprob(struct qn_buf *b, const struct qn_api_logprob *t) {
    add_text(b, "{\"token\":", t->text, t->text_len);
    add_logprob(b, ",\"logprob\":", t->logprob);
    qn_buf_str(b, ",\"bytes\":[");
    for (size_t i = 0; t->text && i < t->text_len; i++) add_uint(b, i ? "," : "", (unsigned char)t->text[i]);
    qn_buf_str(b, "]");
}

/* {"content":[{"token","logprob","bytes","top_logprobs"}],"refusal":null} */
static void chat_logprobs(struct qn_buf *b, const struct qn_api_token *t, size_t n) {
    qn_buf_str(b, "{\"content\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) qn_buf_str(b, ",");
        chat_logprob(b, &t[i].chosen);
        qn_buf_str(b, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < t[i].n_top; k++) {
            if (k) qn_buf_str(b, ",");
            chat_logprob(b, &t[i].top[k]);
            qn_buf_str(b, "}");
        }
        qn_buf_str(b, "]}");
    }
    qn_buf_str(b, "],\"refusal\":null}");
}

/* ---- parts ---- */
struct head {
    const char *id, *object, *model;
    int64_t created;
};

static void write_head(struct qn_buf *b, const struct head *h) {
    add_str(b, "{\"id\":", h->id);
    add_str(b, ",\"object\":", h->object);
    qn_buf_str(b, ",\"created\":");
    qn_buf_json_int(b, h->created);
    add_str(b, ",\"model\":", h->model);
}

/* Clients know "stop" and "length"; an output that its deadline cut says so beside it. */
static void finish_reason(struct qn_buf *b, const char *reason) {
    bool stop = !strcmp(reason, "stop"), length = !strcmp(reason, "length");
    add_str(b, ",\"finish_reason\":", stop ? "stop" : "length");
    if (!stop && !length) add_str(b, ",\"finish_detail\":", reason);
}

/* "timings":…,"memory":…,"structure":… */
static void write_figures(struct qn_buf *b, const struct qn_api_reply *r) {
    qn_buf_str(b, "\"timings\":");
    qn_api_timings_write(b, &r->timings);
    qn_buf_str(b, ",\"memory\":");
    qn_api_memory_write(b, &r->memory);
    qn_buf_str(b, ",\"structure\":");
    qn_api_ran_write(b, &r->structure, &r->divergence);
}

static void write_usage(struct qn_buf *b, const struct qn_api_reply *r, bool generated) {
    add_uint(b, "{\"prompt_tokens\":", r->prompt_tokens);
    if (generated) add_uint(b, ",\"completion_tokens\":", r->completion_tokens);
    add_uint(b, ",\"total_tokens\":", r->prompt_tokens + r->completion_tokens);
    if (generated) {
        add_uint(b, ",\"prompt_tokens_details\":{\"cached_tokens\":", r->cached_tokens);
        qn_buf_str(b, "}");
    }
    qn_buf_str(b, ",\"quern\":{");
    write_figures(b, r);
    qn_buf_str(b, "}}");
}

/* ],"usage":…, figures} */
static void write_tail(struct qn_buf *b, const struct qn_api_reply *r, bool generated) {
    qn_buf_str(b, "],\"usage\":");
    write_usage(b, r, generated);
    qn_buf_str(b, ",");
    write_figures(b, r);
    qn_buf_str(b, "}");
}

/* ---- whole replies ---- */
void qn_api_completion_write(struct qn_buf *b, const struct qn_api_reply *r) {
    write_head(b, &(struct head){r->id, "text_completion", r->model, r->created});
    qn_buf_str(b, ",\"choices\":[");
    for (uint32_t i = 0; i < r->n_outputs; i++) {
        const struct qn_api_output *o = &r->outputs[i];
        add_uint(b, i ? ",{\"index\":" : "{\"index\":", o->index);
        add_text(b, ",\"text\":", o->text, o->text_len);
        qn_buf_str(b, ",\"logprobs\":");
        if (o->logprobs && o->offsets)
            completion_logprobs(b, o->logprobs, o->n_logprobs, o->offsets);
        else
            qn_buf_str(b, "null");
        finish_reason(b, o->finish_reason);
        qn_buf_str(b, "}");
    }
    write_tail(b, r, true);
}

void qn_api_chat_write(struct qn_buf *b, const struct qn_api_reply *r) {
    write_head(b, &(struct head){r->id, "chat.completion", r->model, r->created});
    qn_buf_str(b, ",\"choices\":[");
    for (uint32_t i = 0; i < r->n_outputs; i++) {
        const struct qn_api_output *o = &r->outputs[i];
        add_uint(b, i ? ",{\"index\":" : "{\"index\":", o->index);
        add_text(b, ",\"message\":{\"role\":\"assistant\",\"content\":", o->text, o->text_len);
        qn_buf_str(b, ",\"refusal\":null},\"logprobs\":");
        if (o->logprobs)
            chat_logprobs(b, o->logprobs, o->n_logprobs);
        else
            qn_buf_str(b, "null");
        finish_reason(b, o->finish_reason);
        qn_buf_str(b, "}");
    }
    write_tail(b, r, true);
}

static void write_vector(struct qn_buf *b, const float *v, size_t n) {
    qn_buf_str(b, "[");
    for (size_t i = 0; i < n; i++) {
        if (i) qn_buf_add(b, ",", 1);
        qn_buf_json_float(b, v[i]);
    }
    qn_buf_str(b, "]");
}

/* Byte k of the floats as they are written: 32 bits, the least significant byte first. */
static unsigned byte_of(const float *v, size_t k) {
    uint32_t bits;
    memcpy(&bits, &v[k / 4], sizeof bits);
    return bits >> (8 * (k % 4)) & 255;
}

static void write_base64(struct qn_buf *b, const float *v, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t bytes = n * 4;
    qn_buf_str(b, "\"");
    for (size_t k = 0; k < bytes; k += 3) {
        size_t have = bytes - k < 3 ? bytes - k : 3;
        unsigned x = byte_of(v, k) << 16;
        if (have > 1) x |= byte_of(v, k + 1) << 8;
        if (have > 2) x |= byte_of(v, k + 2);
        char out[4] = {digits[x >> 18], digits[x >> 12 & 63], have > 1 ? digits[x >> 6 & 63] : '=',
                       have > 2 ? digits[x & 63] : '='};
        qn_buf_add(b, out, sizeof out);
    }
    qn_buf_str(b, "\"");
}

void qn_api_embedding_write(struct qn_buf *b, const struct qn_api_reply *r, bool base64) {
    qn_buf_str(b, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < r->n_outputs; i++) {
        const struct qn_api_output *o = &r->outputs[i];
        qn_buf_str(b, i ? ",{\"object\":\"embedding\"" : "{\"object\":\"embedding\"");
        add_uint(b, ",\"index\":", o->index);
        qn_buf_str(b, ",\"embedding\":");
        (base64 ? write_base64 : write_vector)(b, o->embedding, o->n_embedding);
        qn_buf_str(b, "}");
    }
    add_str(b, "],\"model\":", r->model);
    qn_buf_str(b, ",\"usage\":");
    write_usage(b, r, false);
    qn_buf_str(b, ",");
    write_figures(b, r);
    qn_buf_str(b, "}");
}

/* ---- streams ---- */
static const char *chunk_object(bool chat) {
    return chat ? "chat.completion.chunk" : "text_completion";
}

static void chunk_head(struct qn_buf *b, const struct head *h) {
    qn_buf_str(b, "data: ");
    write_head(b, h);
    qn_buf_str(b, ",\"choices\":[");
}

void qn_api_chunk_write(struct qn_buf *b, const struct qn_api_chunk *c) {
    chunk_head(b, &(struct head){c->id, chunk_object(c->chat), c->model, c->created});
    add_uint(b, "{\"index\":", c->index);
    if (c->chat) {
        qn_buf_str(b, c->role ? ",\"delta\":{\"role\":\"assistant\"," : ",\"delta\":{");
        add_text(b, "\"content\":", c->text, c->n);
        qn_buf_str(b, "}");
    } else {
        add_text(b, ",\"text\":", c->text, c->n);
    }
    qn_buf_str(b, ",\"logprobs\":");
    if (!c->lp)
        qn_buf_str(b, "null");
    else if (c->chat)
        chat_logprobs(b, c->lp, 1);
    else
        completion_logprobs(b, c->lp, 1, &c->offset);
    qn_buf_str(b, ",\"finish_reason\":null}]");
    if (c->usage) qn_buf_str(b, ",\"usage\":null");
    qn_buf_str(b, "}\n\n");
}

void qn_api_finish_write(struct qn_buf *b, const struct qn_api_reply *r, bool chat, bool usage) {
    const struct head h = {r->id, chunk_object(chat), r->model, r->created};
    for (uint32_t i = 0; i < r->n_outputs; i++) {
        chunk_head(b, &h);
        add_uint(b, "{\"index\":", r->outputs[i].index);
        qn_buf_str(b, chat ? ",\"delta\":{}" : ",\"text\":\"\"");
        qn_buf_str(b, ",\"logprobs\":null");
        finish_reason(b, r->outputs[i].finish_reason);
        qn_buf_str(b, "}]");
        if (usage) qn_buf_str(b, ",\"usage\":null");
        if (i + 1 == r->n_outputs) {
            qn_buf_str(b, ",");
            write_figures(b, r);
        }
        qn_buf_str(b, "}\n\n");
    }
    if (!usage) return;
    chunk_head(b, &h);
    write_tail(b, r, true);
    qn_buf_str(b, "\n\n");
}
