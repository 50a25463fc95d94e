/* Jobs of the OpenAI endpoints as reply bytes; see openai_reply.h.
 *
 *   outputs of the reply -> [completion: prompt text and tokens in front, offsets] -> api/openai.h -> bytes
 *
 * Thread: loop. */
#include "server/openai_reply.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- where tokens stand ---- */
/* Characters of the text before this token; its own ones are counted for the next. Characters are counted
 * by their first bytes, so a token that only ends one adds nothing. */
static uint32_t advance(struct qn_text_pos *p, struct qn_str_ref s) {
    uint32_t at = p->chars;
    if (p->strip && s.n && s.p[0] == ' ') s.p++, s.n--, p->strip = false;
    if (s.n) p->strip = false;
    for (size_t i = 0; i < s.n; i++) p->chars += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return at;
}

/* The sequence that an output continues. A job has outputs for each of its sequences, so at least one. */
static const struct qn_api_seq *seq_of(const struct qn_job *j, const struct qn_output *o) {
    uint32_t seqs = j->req.n_seqs ? j->req.n_seqs : 1, choices = j->n_outputs / seqs;
    return &j->req.seqs[choices ? o->index / choices : 0];
}

/* Was this token put before the text, of which it is no part? */
static bool put_before(const struct qn_job *j, const struct qn_output *o, uint32_t i) {
    const struct qn_api_seq *s = seq_of(j, o);
    const struct qn_model_info *m = qn_model_info(j->model);
    return i == 0 && !s->is_ids && !s->rendered && m->adds_bos && o->prompt[0] == m->bos;
}

/* The prompt as text: what the client sent, or what its ids stand for. */
static void prompt_text(const struct qn_job *j, const struct qn_output *o, struct qn_buf *out) {
    const struct qn_api_seq *s = seq_of(j, o);
    if (!s->is_ids) {
        qn_buf_add(out, s->text, s->n);
        return;
    }
    bool strip = qn_model_strips_first_blank(j->model);
    for (uint32_t i = 0; i < o->n_prompt; i++) {
        struct qn_str_ref p = qn_model_piece(j->model, o->prompt[i], true);
        if (strip && p.n && p.p[0] == ' ') p.p++, p.n--;
        if (p.n) strip = false;
        qn_buf_add(out, p.p, p.n);
    }
}

/* ---- what a completion has beyond its generated text ---- */
struct extra { /* of all outputs, one behind the other */
    struct qn_api_output *outputs;
    struct qn_api_token *tokens;
    struct qn_api_logprob *tops;
    uint32_t *offsets;
    struct qn_buf *texts; /* [n_outputs], owned */
};

static const struct qn_output *leader(const struct qn_job *j, const struct qn_output *o) {
    return &j->outputs[o->index - o->choice]; /* whose prompt was scored for all its choices */
}

static bool alloc_extra(const struct qn_job *j, const struct qn_api_reply *r, struct extra *x) {
    size_t tokens = 1, tops = 1;
    for (uint32_t i = 0; i < j->n_outputs; i++) {
        const struct qn_output *o = &j->outputs[i], *l = leader(j, o);
        tokens += o->n_logprobs + (j->style.echo ? (size_t)o->n_prompt : 0);
        for (uint32_t k = 0; j->style.echo && k < l->n_prompt_logprobs; k++)
            tops += l->prompt_logprobs[k].n_top;
    }
    x->outputs = calloc(r->n_outputs, sizeof *x->outputs);
    x->texts = calloc(r->n_outputs, sizeof *x->texts);
    x->tokens = calloc(tokens, sizeof *x->tokens);
    x->offsets = calloc(tokens, sizeof *x->offsets);
    x->tops = calloc(tops, sizeof *x->tops);
    return x->outputs && x->texts && x->tokens && x->offsets && x->tops;
}

static void free_extra(struct extra *x, uint32_t n) {
    for (uint32_t i = 0; x->texts && i < n; i++) qn_buf_free(&x->texts[i]);
    free(x->outputs);
    free(x->texts);
    free(x->tokens);
    free(x->offsets);
    free(x->tops);
}

/* The prompt's tokens from *at on; a token of which nothing is known yet (the first one always, all of them
 * when time was over before) has no log-probability. */
static void echo_tokens(const struct qn_job *j, const struct qn_output *o, struct extra *at,
                        struct qn_text_pos *pos) {
    const struct qn_output *l = leader(j, o);
    for (uint32_t i = 0; i < o->n_prompt; i++, at->tokens++, at->offsets++) {
        struct qn_str_ref s = qn_model_piece(j->model, o->prompt[i], true);
        if (i && i <= l->n_prompt_logprobs) {
            qn_token_to_api(j->model, &l->prompt_logprobs[i - 1], at->tokens, at->tops);
            at->tops += at->tokens->n_top;
        } else {
            at->tokens->chosen = (struct qn_api_logprob){o->prompt[i], (float)NAN, s.p, s.n};
        }
        *at->offsets = advance(pos, put_before(j, o, i) ? (struct qn_str_ref){s.p, 0} : s);
    }
}

static void extend(const struct qn_job *j, const struct qn_output *o, struct extra *at,
                   struct qn_api_output *a) {
    struct qn_text_pos pos = {0, qn_job_starts_text(j, o)};
    if (j->style.echo) {
        prompt_text(j, o, at->texts);
        qn_buf_add(at->texts, a->text, a->text_len);
        a->text = at->texts->p ? at->texts->p : "";
        a->text_len = at->texts->n;
        at->texts++;
    }
    if (!a->logprobs && !j->req.logprobs_given) return;
    const struct qn_api_token *made = a->logprobs;
    size_t n = made ? a->n_logprobs : 0;
    a->logprobs = at->tokens;
    a->offsets = at->offsets;
    if (j->style.echo) {
        pos.strip = qn_model_strips_first_blank(j->model);
        echo_tokens(j, o, at, &pos);
    }
    for (size_t k = 0; k < n; k++) {
        *at->tokens++ = made[k];
        *at->offsets++ = advance(&pos, qn_model_piece(j->model, made[k].chosen.id, false));
    }
    a->n_logprobs = (size_t)(at->tokens - a->logprobs);
}

static void write_completion(const struct qn_job *j, const struct qn_api_reply *r, struct qn_buf *out) {
    struct extra x = {0}, at;
    struct qn_api_reply extended = *r;
    if (!alloc_extra(j, r, &x)) {
        out->failed = true;
        free_extra(&x, r->n_outputs);
        return;
    }
    at = x;
    for (uint32_t i = 0; i < r->n_outputs; i++) {
        x.outputs[i] = r->outputs[i];
        extend(j, &j->outputs[i], &at, &x.outputs[i]);
    }
    for (uint32_t i = 0; i < r->n_outputs; i++) out->failed = out->failed || x.texts[i].failed;
    extended.outputs = x.outputs;
    qn_api_completion_write(out, &extended);
    free_extra(&x, r->n_outputs);
}

/* A chat's tokens are those of its message, which the one that ended it is no part of. */
static bool ends_message(const struct qn_job *j, int32_t token) {
    return j->style.form == QN_FORM_CHAT && !j->req.ignore_eos && qn_model_is_eog(j->model, token);
}

static void write_chat(const struct qn_job *j, const struct qn_api_reply *r, struct qn_buf *out) {
    struct qn_api_output *outputs = calloc(r->n_outputs, sizeof *outputs);
    struct qn_api_reply shown = *r;
    if (!outputs) {
        out->failed = true;
        return;
    }
    for (uint32_t i = 0; i < r->n_outputs; i++) {
        size_t n = r->outputs[i].n_logprobs;
        outputs[i] = r->outputs[i];
        if (n && ends_message(j, outputs[i].logprobs[n - 1].chosen.id)) outputs[i].n_logprobs--;
    }
    shown.outputs = outputs;
    qn_api_chat_write(out, &shown);
    free(outputs);
}

void qn_openai_write(const struct qn_job *j, const struct qn_api_reply *r, bool end, struct qn_buf *out) {
    bool chat = j->style.form == QN_FORM_CHAT;
    if (end)
        qn_api_finish_write(out, r, chat, j->style.usage);
    else if (chat)
        write_chat(j, r, out);
    else if (j->style.form == QN_FORM_EMBEDDING)
        qn_api_embedding_write(out, r, j->style.base64);
    else
        write_completion(j, r, out);
}

/* ---- streams ---- */
static struct qn_api_chunk chunk_of(const struct qn_job *j, uint32_t index) {
    return (struct qn_api_chunk){.id = j->id,
                                 .model = qn_model_info(j->model)->id,
                                 .created = j->created,
                                 .chat = j->style.form == QN_FORM_CHAT,
                                 .usage = j->style.usage,
                                 .index = index};
}

void qn_openai_write_start(const struct qn_job *j, struct qn_buf *out) {
    for (uint32_t i = 0; i < j->n_outputs; i++) {
        struct qn_api_chunk c = chunk_of(j, i);
        struct qn_buf text = {0};
        c.role = c.chat;
        if (!c.chat && !j->style.echo) continue;
        if (j->style.echo) prompt_text(j, &j->outputs[i], &text);
        c.text = text.p;
        c.n = text.n;
        out->failed = out->failed || text.failed;
        qn_api_chunk_write(out, &c);
        qn_buf_free(&text);
    }
}

void qn_openai_write_event(const struct qn_event *ev, const struct qn_api_token *lp, struct qn_buf *out) {
    struct qn_api_chunk c = chunk_of(ev->job, ev->index);
    struct qn_str_ref s = qn_model_piece(ev->job->model, ev->token, false);
    if (lp && ends_message(ev->job, ev->token)) lp = NULL;
    if (!ev->n && !lp) return; /* its text is held back: a later chunk has it */
    c.text = ev->text;
    c.n = ev->n;
    c.lp = lp;
    if (lp && ev->job->positions) c.offset = advance(&ev->job->positions[ev->index], s);
    qn_api_chunk_write(out, &c);
}
