/* Jobs: a parsed request and a model become prompts, a variant and empty outputs. The only place where api/
 * and model/ meet (with job_reply.c, the way back).
 *
 *   qn_api_infer -> model by name -> structure -> tokens of each sequence -> qn_job
 *
 * Thread: loop thread, or a libuv worker for large bodies; everything used of model/ is safe on any thread.
 */
#include "server/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "api/infer_fields.h"
#include "kernels/cpu.h"
#include "kernels/mem.h"
#include "server/constraints.h"
#include "server/engine.h"
#include "server/translate.h"

/* ---- ownership ---- */
static void free_output(struct qn_output *o) {
    free(o->tokens);
    free(o->logprobs);
    free(o->prompt_logprobs);
    free(o->hidden_sum);
    free(o->embedding);
    qn_buf_free(&o->text);
}

static void free_job(struct qn_job *j) {
    if (!j) return;
    for (uint32_t i = 0; j->outputs && i < j->n_outputs; i++) free_output(&j->outputs[i]);
    for (uint32_t i = 0; j->prompts && i < j->req.n_seqs; i++) free(j->prompts[i]);
    free(j->outputs);
    free(j->prompts);
    free(j->n_prompts);
    free(j->positions);
    if (j->variant) qn_variant_unref(j->variant);
    if (j->baseline) qn_variant_unref(j->baseline);
    qn_constraint_unref(j->constraint);
    qn_api_infer_free(&j->req);
    free(j);
}

void qn_job_ref(struct qn_job *j) {
    atomic_fetch_add_explicit(&j->refs, 1, memory_order_relaxed);
}

void qn_job_unref(struct qn_job *j) {
    /* Release, then acquire: whoever is last sees what the others wrote. */
    if (j && atomic_fetch_sub_explicit(&j->refs, 1, memory_order_acq_rel) == 1) free_job(j);
}

/* ---- structure ---- */
/* What is not exact is held against the structure that the model was trained with. */
static void set_baseline(struct qn_job *j) {
    enum qn_exactness e = qn_variant_structure(j->variant)->exactness;
    if (j->req.task == QN_TASK_EMBED || e == QN_EXACT) return;
    j->baseline = qn_native_variant(j->model);
    j->fidelity_tokens = QN_FIDELITY_TOKENS;
    if (!j->baseline || (j->baseline != j->variant && qn_variant_structure(j->baseline)->causal)) return;
    qn_variant_unref(j->baseline);
    j->baseline = NULL;
}

static int resolve(struct qn_job *j, struct qn_api_err *err) {
    struct qn_api_parts parts = {&j->req.attention, &j->req.ffn, &j->req.sharing, j->req.convert};
    if (qn_resolve_parts(j->model, &parts, j->req.task, &j->variant, err)) return -1;
    set_baseline(j);
    return 0;
}

/* ---- constraint ---- */
bool qn_job_unprepared(const struct qn_job *j) {
    return j->req.constraint.kind != QN_CONSTRAIN_NONE && !j->constraint;
}

int qn_job_prepare(struct qn_job *j, struct qn_api_err *err) {
    if (!qn_job_unprepared(j)) return 0;
    return qn_constraints_make(j->model, &j->req.constraint, &j->constraint, err);
}

static int find_constraint(struct qn_job *j, struct qn_api_err *err) {
    if (j->req.constraint.kind == QN_CONSTRAIN_NONE) return 0;
    if (j->req.ignore_eos)
        return qn_api_fail(err, QN_API_INVALID, "ignore_eos",
                           "a text that must be complete ends there: leave \"ignore_eos\" out");
    if (!qn_model_info(j->model)->has_tokenizer)
        return qn_api_fail(err, QN_API_INVALID, "model",
                           "model %s has no tokenizer: its outputs have no text to constrain",
                           qn_model_info(j->model)->id);
    j->constraint = qn_constraints_find(j->model, &j->req.constraint);
    return 0;
}

bool qn_variant_fits(const struct qn_variant *v, uint32_t tokens) {
    return qn_variant_state_bytes(v, tokens) <= qn_model_state(qn_variant_model(v)).budget;
}

/* ---- tokens ---- */
static int too_long(struct qn_api_err *err, const struct qn_job_sequence *s, size_t n, uint32_t context) {
    /* Clients look for "maximum context length" in the text. */
    if (n <= context)
        return qn_api_fail(err, QN_API_CONTEXT, "sequence",
                           "sequence %u has %zu tokens, which leaves no room to generate in the model's "
                           "maximum context length of %u",
                           s->index, n, context);
    return qn_api_fail(err, QN_API_CONTEXT, "sequence",
                       "sequence %u has more than %u tokens; the model's maximum context length is %u%s",
                       s->index, s->generate ? context - 1 : context, context,
                       s->generate ? ", and there must be room to generate" : "");
}

static int tokenize_text(struct qn_model *m, const struct qn_job_sequence *s, int32_t **out, uint32_t *count,
                         struct qn_api_err *err) {
    const struct qn_model_info *info = qn_model_info(m);
    struct qn_err me = {0};
    size_t n = 0;
    if (!info->has_tokenizer)
        return qn_api_fail(err, QN_API_INVALID, "sequence",
                           "model %s has no tokenizer: give token ids instead of text", info->id);
    int rc = qn_model_tokenize(m, s->seq->text, s->seq->n, !s->seq->rendered, info->context, out, &n, &me);
    if (rc == QN_ERR_TOO_LONG) return too_long(err, s, (size_t)info->context + 1, info->context);
    if (rc) {
        if (!me.param[0]) snprintf(me.param, sizeof me.param, "sequence");
        return qn_fail_from_model(err, &me, QN_API_INVALID);
    }
    *count = (uint32_t)n; /* <= context */
    return 0;
}

static int take_ids(struct qn_model *m, const struct qn_job_sequence *q, int32_t **out, uint32_t *count,
                    struct qn_api_err *err) {
    const struct qn_model_info *info = qn_model_info(m);
    const struct qn_api_seq *s = q->seq;
    if (s->n > info->context) return too_long(err, q, s->n, info->context);
    for (size_t i = 0; i < s->n; i++)
        if (s->ids[i] < 0 || (uint32_t)s->ids[i] >= info->vocab)
            return qn_api_fail(err, QN_API_INVALID, "sequence",
                               "token %d at place %zu of sequence %u is outside the vocabulary [0, %u)",
                               s->ids[i], i, q->index, info->vocab);
    *out = malloc((s->n ? s->n : 1) * sizeof **out);
    if (!*out) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    if (s->n) memcpy(*out, s->ids, s->n * sizeof **out);
    *count = (uint32_t)s->n;
    return 0;
}

int qn_job_tokenize(struct qn_model *m, const struct qn_job_sequence *s, int32_t **out, uint32_t *n,
                    struct qn_api_err *err) {
    uint32_t context = qn_model_info(m)->context;
    *out = NULL;
    *n = 0;
    int rc = s->seq->is_ids ? take_ids(m, s, out, n, err) : tokenize_text(m, s, out, n, err);
    if (!rc && !*n) rc = qn_api_fail(err, QN_API_INVALID, "sequence", "sequence %u has no tokens", s->index);
    if (!rc && s->generate && *n >= context) rc = too_long(err, s, *n, context);
    if (!rc) return 0;
    free(*out);
    *out = NULL;
    return rc;
}

static int tokenize(struct qn_job *j, struct qn_api_err *err) {
    bool generate = j->req.task == QN_TASK_GENERATE && j->req.max_tokens > 0;
    j->prompts = calloc(j->req.n_seqs, sizeof *j->prompts);
    j->n_prompts = calloc(j->req.n_seqs, sizeof *j->n_prompts);
    if (!j->prompts || !j->n_prompts) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    for (uint32_t i = 0; i < j->req.n_seqs; i++) {
        struct qn_job_sequence s = {&j->req.seqs[i], i, generate};
        if (qn_job_tokenize(j->model, &s, &j->prompts[i], &j->n_prompts[i], err)) return -1;
    }
    return 0;
}

bool qn_job_starts_text(const struct qn_job *j, const struct qn_output *o) {
    if (!qn_model_strips_first_blank(j->model)) return false;
    for (uint32_t i = 0; i < o->n_prompt; i++)
        if (qn_model_piece(j->model, o->prompt[i], false).n) return false;
    return true;
}

static int make_outputs(struct qn_job *j, struct qn_api_err *err) {
    uint32_t n = j->req.task == QN_TASK_GENERATE && j->req.n ? j->req.n : 1;
    uint32_t most = j->req.task == QN_TASK_EMBED ? QN_API_MAX_INPUTS : QN_API_MAX_OUTPUTS;
    if (!j->req.n_seqs || j->req.n_seqs > most || n > most / j->req.n_seqs)
        return qn_api_fail(err, QN_API_INVALID, "n", "a request has 1 to %u outputs", most);
    j->outputs = calloc(j->req.n_seqs * n, sizeof *j->outputs);
    if (!j->outputs) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    j->n_outputs = j->req.n_seqs * n;
    for (uint32_t i = 0; i < j->n_outputs; i++) {
        struct qn_output *o = &j->outputs[i];
        o->index = i;
        o->choice = i % n;
        o->prompt = j->prompts[i / n];
        o->n_prompt = j->n_prompts[i / n];
    }
    return 0;
}

/* A streamed completion says of every token where it stands. */
static int make_positions(struct qn_job *j, struct qn_api_err *err) {
    if (j->style.form != QN_FORM_COMPLETION || !j->req.stream || !j->req.logprobs_given) return 0;
    j->positions = calloc(j->n_outputs, sizeof *j->positions);
    if (!j->positions) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    for (uint32_t i = 0; i < j->n_outputs; i++) j->positions[i].strip = qn_job_starts_text(j, &j->outputs[i]);
    return 0;
}

/* ---- identity ---- */
static void random_bytes(void *p, size_t n) {
    if (getrandom(p, n, 0) == (ssize_t)n) return;
    uint64_t x = qn_now_ns(); /* no entropy: ids need to differ, not to be secret */
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)p)[i] = (unsigned char)((x = x * 6364136223846793005u + 1) >> 56);
}

void qn_job_id(const char *prefix, char id[40]) {
    static const char hex[] = "0123456789abcdef";
    unsigned char r[12];
    size_t n = strnlen(prefix, 15);
    random_bytes(r, sizeof r);
    memcpy(id, prefix, n);
    for (size_t i = 0; i < sizeof r; i++) {
        id[n++] = hex[r[i] >> 4];
        id[n++] = hex[r[i] & 15];
    }
    id[n] = '\0';
}

static void identify(struct qn_job *j) {
    static const char *const prefixes[QN_FORM_COUNT] = {[QN_FORM_NATIVE] = "inf-",
                                                        [QN_FORM_COMPLETION] = "cmpl-",
                                                        [QN_FORM_CHAT] = "chatcmpl-",
                                                        [QN_FORM_EMBEDDING] = "embd-"};
    qn_job_id(prefixes[j->style.form], j->id);
    j->created = (int64_t)time(NULL);
    if (!j->req.seed_given) random_bytes(&j->req.seed, sizeof j->req.seed);
}

/* One reference, nothing asked for yet. */
static struct qn_job *new_job(void) {
    struct qn_job *j = calloc(1, sizeof *j);
    if (!j) return NULL;
    atomic_init(&j->refs, 1);
    atomic_init(&j->cancel, false);
    atomic_init(&j->pending, 0);
    return j;
}

int qn_job_new(const struct qn_registry *models, struct qn_api_infer *req, const struct qn_job_options *opt,
               struct qn_job **out, struct qn_api_err *err) {
    struct qn_job *j = new_job();
    uint64_t start = qn_now_ns();
    *out = NULL;
    if (!j) {
        qn_api_infer_free(req);
        return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    }
    j->req = *req;
    memset(req, 0, sizeof *req);
    j->salt = opt->salt;
    j->owner = opt->owner;
    j->style = opt->style;
    j->t_received_ns = opt->t_received_ns && opt->t_received_ns < start ? opt->t_received_ns : start;
    uint32_t timeout = j->req.timeout_ms ? j->req.timeout_ms : opt->default_timeout_ms;
    if (timeout) j->deadline_ns = j->t_received_ns + (uint64_t)timeout * 1000000u;
    j->model = qn_registry_find(models, j->req.model);
    int rc = j->model ? 0
                      : qn_api_fail(err, QN_API_MODEL_NOT_FOUND, "model", "there is no model \"%s\" here",
                                    j->req.model);
    if (!rc) rc = resolve(j, err);
    if (!rc) rc = find_constraint(j, err);
    start = qn_now_ns();
    if (!rc) rc = tokenize(j, err);
    j->tokenize_ms = (double)(qn_now_ns() - start) * 1e-6;
    if (!rc) rc = make_outputs(j, err);
    if (!rc) rc = make_positions(j, err);
    if (rc) {
        free_job(j);
        return -1;
    }
    identify(j);
    *out = j;
    return 0;
}

void qn_job_open_end(struct qn_job *j, uint32_t most) {
    uint32_t longest = 0, context = qn_model_info(j->model)->context;
    for (uint32_t i = 0; i < j->req.n_seqs; i++)
        if (j->n_prompts[i] > longest) longest = j->n_prompts[i];
    uint32_t low = 0, high = context > longest ? context - longest : 0;
    if (most && most < high) high = most;
    while (low < high) { /* state grows with length: the last count that fits */
        uint32_t mid = low + (high - low + 1) / 2;
        if (qn_variant_fits(j->variant, longest + mid))
            low = mid;
        else
            high = mid - 1;
    }
    j->req.max_tokens = low ? low : 1; /* what fits nowhere is refused as such */
}

static bool set_tokens(struct qn_job *j, const struct qn_job_tokens *t) {
    j->req.seqs = calloc(1, sizeof *j->req.seqs);
    j->prompts = calloc(1, sizeof *j->prompts);
    j->n_prompts = calloc(1, sizeof *j->n_prompts);
    if (!j->req.seqs || !j->prompts || !j->n_prompts) return false;
    j->req.n_seqs = 1;
    j->prompts[0] = malloc(t->n * sizeof **j->prompts);
    if (!j->prompts[0]) return false;
    memcpy(j->prompts[0], t->tokens, t->n * sizeof **j->prompts);
    j->n_prompts[0] = t->n;
    return true;
}

int qn_job_from_tokens(const struct qn_job_tokens *t, struct qn_job **out, struct qn_api_err *err) {
    struct qn_job *j = new_job();
    *out = NULL;
    if (!j) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    qn_api_infer_init(&j->req);
    j->req.task = t->task;
    j->req.max_tokens = t->max_tokens;
    j->req.ignore_eos = t->ignore_eos;
    j->req.seed_given = true;
    j->req.cache = false;
    j->salt = t->salt;
    j->owner = t->owner;
    j->quiet = true;
    j->t_received_ns = qn_now_ns();
    j->deadline_ns = t->deadline_ns;
    j->model = qn_variant_model(t->variant);
    qn_variant_ref(t->variant);
    j->variant = t->variant;
    if (t->baseline) {
        qn_variant_ref(t->baseline);
        j->baseline = t->baseline;
        j->fidelity_only = true;
        j->fidelity_tokens = t->n;
    }
    int rc =
        set_tokens(j, t) ? make_outputs(j, err) : qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    if (rc) {
        free_job(j);
        return -1;
    }
    identify(j);
    *out = j;
    return 0;
}
