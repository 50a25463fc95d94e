/* The reply of POST /v1/infer, written by hand (jansson is tens of times slower on arrays of numbers). Data
 * flow: measurements and borrowed texts -> bytes of a buffer. Field names and order are the documented ones.
 * Thread: any. */
#include "api/infer_write.h"

#include <string.h>

static void add_str(struct qn_buf *b, const char *key, const char *v) {
    qn_buf_str(b, key);
    if (v)
        qn_buf_json_str(b, v, strlen(v));
    else
        qn_buf_str(b, "null");
}

static void add_uint(struct qn_buf *b, const char *key, uint64_t v) {
    qn_buf_str(b, key);
    qn_buf_json_uint(b, v);
}

static void add_num(struct qn_buf *b, const char *key, double v, unsigned digits) {
    qn_buf_str(b, key);
    qn_buf_json_num(b, v, digits);
}

/* The same where a negative value stands for "none". */
static void add_optional(struct qn_buf *b, const char *key, double v) {
    qn_buf_str(b, key);
    if (v >= 0)
        qn_buf_json_num(b, v, 3);
    else
        qn_buf_str(b, "null");
}

void qn_api_part_write(struct qn_buf *b, const struct qn_api_part *p) {
    add_str(b, "{\"type\":", p->type);
    for (uint32_t i = 0; i < p->n_params && i < QN_API_PARTS; i++) {
        double v = p->params[i].value;
        qn_buf_str(b, ",");
        qn_buf_json_str(b, p->params[i].name, strlen(p->params[i].name));
        qn_buf_str(b, ":");
        if (p->params[i].kind == QN_API_BOOL)
            qn_buf_str(b, v > 0 || v < 0 ? "true" : "false");
        else if (p->params[i].kind == QN_API_TEXT)
            qn_buf_json_str(b, p->params[i].text, strlen(p->params[i].text));
        else
            qn_buf_json_num(b, v, p->params[i].kind == QN_API_INT ? 0 : 9);
    }
    qn_buf_str(b, "}");
}

static void write_structure(struct qn_buf *b, const struct qn_api_structure *s) {
    qn_buf_str(b, "{\"attention\":");
    qn_api_part_write(b, &s->attention);
    qn_buf_str(b, ",\"ffn\":");
    qn_api_part_write(b, &s->ffn);
    qn_buf_str(b, ",\"sharing\":");
    qn_api_part_write(b, &s->sharing);
    add_str(b, ",\"origin\":", s->origin);
    add_str(b, ",\"exactness\":", s->exactness);
}

void qn_api_structure_write(struct qn_buf *b, const struct qn_api_structure *s) {
    write_structure(b, s);
    qn_buf_str(b, "}");
}

static void write_divergence(struct qn_buf *b, const struct qn_api_divergence *d) {
    qn_buf_str(b, ",\"divergence\":");
    if (!d->positions) {
        qn_buf_str(b, "null");
        return;
    }
    add_num(b, "{\"baseline\":\"native\",\"mean_kl\":", d->mean_kl, 9);
    add_num(b, ",\"top1_agreement\":", d->top1_agreement, 6);
    add_uint(b, ",\"positions\":", d->positions);
    qn_buf_str(b, "}");
}

void qn_api_ran_write(struct qn_buf *b, const struct qn_api_structure *s, const struct qn_api_divergence *d) {
    write_structure(b, s);
    write_divergence(b, d);
    qn_buf_str(b, "}");
}

void qn_api_timings_write(struct qn_buf *b, const struct qn_api_timings *t) {
    add_num(b, "{\"queue_ms\":", t->queue, 3);
    add_num(b, ",\"tokenize_ms\":", t->tokenize, 3);
    add_num(b, ",\"convert_ms\":", t->convert, 3);
    add_num(b, ",\"prefill_ms\":", t->prefill, 3);
    add_num(b, ",\"decode_ms\":", t->decode, 3);
    add_num(b, ",\"finish_ms\":", t->finish, 3);
    add_num(b, ",\"total_ms\":", t->total, 3);
    add_optional(b, ",\"ttft_ms\":", t->ttft);
    add_num(b, ",\"compute_ms\":", t->compute, 3);
    add_optional(b, ",\"prefill_tokens_per_second\":", t->prefill_tps);
    add_optional(b, ",\"decode_tokens_per_second\":", t->decode_tps);
    add_uint(b, ",\"steps\":", t->steps);
    add_num(b, ",\"mean_batch\":", t->mean_batch, 3);
    if (t->speculation.asked) {
        add_uint(b, ",\"speculative\":{\"drafted\":", t->speculation.drafted);
        add_uint(b, ",\"accepted\":", t->speculation.accepted);
        add_uint(b, ",\"steps\":", t->speculation.steps);
        add_str(b, ",\"reason\":", t->speculation.reason);
        qn_buf_str(b, "}");
    }
    qn_buf_str(b, "}");
}

void qn_api_memory_write(struct qn_buf *b, const struct qn_api_memory *m) {
    add_uint(b, "{\"weights_bytes\":", m->weights);
    add_uint(b, ",\"weights_active_bytes\":", m->weights_active);
    add_uint(b, ",\"state_bytes\":", m->state);
    add_uint(b, ",\"state_shared_bytes\":", m->state_shared);
    add_uint(b, ",\"state_bytes_per_token\":", m->state_per_token);
    add_uint(b, ",\"scratch_bytes\":", m->scratch);
    add_uint(b, ",\"process_rss_bytes\":", m->rss);
    qn_buf_str(b, "}");
}

static void write_logprob(struct qn_buf *b, const struct qn_api_logprob *l) {
    qn_buf_str(b, "{\"id\":");
    qn_buf_json_int(b, l->id);
    qn_buf_str(b, ",\"token\":");
    qn_buf_json_str(b, l->text ? l->text : "", l->text ? l->text_len : 0);
    qn_buf_str(b, ",\"logprob\":");
    qn_buf_json_float(b, l->logprob);
}

void qn_api_top_write(struct qn_buf *b, const struct qn_api_token *t) {
    qn_buf_str(b, "[");
    for (uint32_t i = 0; i < t->n_top; i++) {
        if (i) qn_buf_str(b, ",");
        write_logprob(b, &t->top[i]);
        qn_buf_str(b, "}");
    }
    qn_buf_str(b, "]");
}

static void write_logprobs(struct qn_buf *b, const struct qn_api_token *t, size_t n) {
    if (!t) {
        qn_buf_str(b, "null");
        return;
    }
    qn_buf_str(b, "[");
    for (size_t i = 0; i < n; i++) {
        if (i) qn_buf_str(b, ",");
        write_logprob(b, &t[i].chosen);
        qn_buf_str(b, ",\"top\":");
        qn_api_top_write(b, &t[i]);
        qn_buf_str(b, "}");
    }
    qn_buf_str(b, "]");
}

void qn_api_ids_write(struct qn_buf *b, const int32_t *ids, size_t n) {
    qn_buf_str(b, "[");
    for (size_t i = 0; i < n; i++) {
        if (i) qn_buf_add(b, ",", 1);
        qn_buf_json_int(b, ids[i]);
    }
    qn_buf_str(b, "]");
}

static void write_embedding(struct qn_buf *b, const float *v, size_t n) {
    qn_buf_str(b, ",\"embedding\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) qn_buf_add(b, ",", 1);
        qn_buf_json_float(b, v[i]);
    }
    qn_buf_str(b, "]");
}

void qn_api_output_write(struct qn_buf *b, const struct qn_api_output *o, bool several) {
    add_uint(b, "{\"index\":", o->index);
    qn_buf_str(b, ",\"text\":");
    qn_buf_json_str(b, o->text ? o->text : "", o->text ? o->text_len : 0);
    qn_buf_str(b, ",\"tokens\":");
    qn_api_ids_write(b, o->tokens, o->tokens ? o->n_tokens : 0);
    add_str(b, ",\"finish_reason\":", o->score || o->embedding ? NULL : o->finish_reason);
    qn_buf_str(b, ",\"logprobs\":");
    write_logprobs(b, o->logprobs, o->n_logprobs);
    if (o->score) {
        add_uint(b, ",\"score\":{\"tokens\":", o->score->tokens);
        add_uint(b, ",\"bytes\":", o->score->bytes);
        add_num(b, ",\"log_prob\":", o->score->log_prob, 6);
        add_num(b, ",\"bits_per_byte\":", o->score->bits_per_byte, 6);
        qn_buf_str(b, "}");
    }
    if (o->embedding) write_embedding(b, o->embedding, o->n_embedding);
    if (several) {
        qn_buf_str(b, ",\"timings\":");
        qn_api_timings_write(b, &o->timings);
        qn_buf_str(b, ",\"memory\":");
        qn_api_memory_write(b, &o->memory);
        write_divergence(b, &o->divergence);
    }
    qn_buf_str(b, "}");
}

void qn_api_usage_write(struct qn_buf *b, uint64_t prompt, uint64_t completion, uint64_t cached) {
    add_uint(b, "{\"prompt_tokens\":", prompt);
    add_uint(b, ",\"completion_tokens\":", completion);
    add_uint(b, ",\"total_tokens\":", prompt + completion);
    add_uint(b, ",\"cached_tokens\":", cached);
    qn_buf_str(b, "}");
}

void qn_api_cost_write(struct qn_buf *b, const struct qn_api_cost *c) {
    add_num(b, "{\"analytic_flops\":", c->flops, 0);
    add_num(b, ",\"analytic_bytes\":", c->bytes, 0);
    add_optional(b, ",\"achieved_gflops\":", c->gflops);
    add_optional(b, ",\"achieved_gbytes_per_second\":", c->gbytes);
    qn_buf_str(b, "}");
}

void qn_api_infer_write(struct qn_buf *b, const struct qn_api_reply *r) {
    add_str(b, "{\"id\":", r->id);
    qn_buf_str(b, ",\"object\":\"inference\",\"created\":");
    qn_buf_json_int(b, r->created);
    add_str(b, ",\"model\":", r->model);
    qn_buf_str(b, ",\"structure\":");
    qn_api_ran_write(b, &r->structure, &r->divergence);
    qn_buf_str(b, ",\"outputs\":[");
    for (uint32_t i = 0; i < r->n_outputs; i++) {
        if (i) qn_buf_str(b, ",");
        qn_api_output_write(b, &r->outputs[i], r->n_outputs > 1);
    }
    qn_buf_str(b, "],\"usage\":");
    qn_api_usage_write(b, r->prompt_tokens, r->completion_tokens, r->cached_tokens);
    qn_buf_str(b, ",\"timings\":");
    qn_api_timings_write(b, &r->timings);
    qn_buf_str(b, ",\"memory\":");
    qn_api_memory_write(b, &r->memory);
    qn_buf_str(b, ",\"cost\":");
    qn_api_cost_write(b, &r->cost);
    qn_buf_str(b, "}");
}

void qn_api_server_timing(struct qn_buf *b, const struct qn_api_timings *t) {
    const struct {
        const char *name;
        double ms;
    } phases[] = {{"queue;dur=", t->queue},       {", tokenize;dur=", t->tokenize},
                  {", convert;dur=", t->convert}, {", prefill;dur=", t->prefill},
                  {", decode;dur=", t->decode},   {", finish;dur=", t->finish},
                  {", total;dur=", t->total}};
    for (size_t i = 0; i < sizeof phases / sizeof phases[0]; i++)
        add_num(b, phases[i].name, phases[i].ms == phases[i].ms ? phases[i].ms : 0, 3);
}
