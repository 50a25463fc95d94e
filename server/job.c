/* Jobs: a parsed request and a model become prompts, a variant and empty outputs. The only place where api/
 * and model/ meet (with job_reply.c, the way back).
 *
 *   qn_api_infer -> model by name -> structure -> tokens of each sequence -> qn_job
 *
 * Thread: loop thread, or a libuv worker for large bodies; everything used of model/ is safe on any thread.
 */
#include "server/job.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "kernels/cpu.h"
#include "server/engine.h"

/* ---- ownership ---- */
static void free_output(struct qn_output *o) {
    free(o->tokens);
    free(o->logprobs);
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
    if (j->variant) qn_variant_unref(j->variant);
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

/* ---- translation ---- */
static enum qn_param_kind kind_of(enum qn_api_kind k) {
    return k == QN_API_BOOL ? QN_PARAM_BOOL : k == QN_API_NUMBER ? QN_PARAM_NUMBER : QN_PARAM_INT;
}

static_assert(QN_API_PARTS == QN_PART_PARAMS, "a part has as many parameters on both sides");

static void part_from_api(const struct qn_api_part *a, struct qn_part *p) {
    memset(p, 0, sizeof *p);
    snprintf(p->type, sizeof p->type, "%s", a->type);
    for (uint32_t i = 0; i < a->n_params && i < QN_PART_PARAMS; i++) {
        snprintf(p->params[i].name, sizeof p->params[i].name, "%s", a->params[i].name);
        p->params[i].kind = kind_of(a->params[i].kind);
        p->params[i].value = a->params[i].value;
        p->n_params++;
    }
}

/* The model's errors name request fields already. */
static int fail_model(struct qn_api_err *err, const struct qn_err *me, enum qn_api_code code) {
    if (me->code == QN_ERR_NOMEM) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    return qn_api_fail(err, code, me->param, "%s", me->msg);
}

static int resolve(struct qn_job *j, struct qn_api_err *err) {
    struct qn_structure_request r;
    struct qn_err me = {0};
    part_from_api(&j->req.attention, &r.attention);
    part_from_api(&j->req.ffn, &r.ffn);
    part_from_api(&j->req.sharing, &r.sharing);
    r.convert = j->req.convert;
    if (qn_variant_resolve(j->model, &r, &j->variant, &me)) return fail_model(err, &me, QN_API_UNSUPPORTED);
    return 0;
}

static int too_long(struct qn_api_err *err, uint32_t at, size_t n, uint32_t context, bool generate) {
    if (n <= context)
        return qn_api_fail(
            err, QN_API_CONTEXT, "sequence",
            "sequence %u has %zu tokens, which leaves no room to generate in the model's context "
            "of %u",
            at, n, context);
    return qn_api_fail(
        err, QN_API_CONTEXT, "sequence", "sequence %u has more than %u tokens, the most that %s", at,
        generate ? context - 1 : context, generate ? "leave room to generate" : "the model's context holds");
}

static int tokenize_text(struct qn_job *j, uint32_t at, struct qn_api_err *err) {
    const struct qn_model_info *info = qn_model_info(j->model);
    const struct qn_api_seq *s = &j->req.seqs[at];
    struct qn_err me = {0};
    size_t n = 0;
    if (!info->has_tokenizer)
        return qn_api_fail(err, QN_API_INVALID, "sequence",
                           "model %s has no tokenizer: give token ids instead of text", info->id);
    int rc = qn_model_tokenize(j->model, s->text, s->n, true, info->context, &j->prompts[at], &n, &me);
    if (rc == QN_ERR_TOO_LONG)
        return too_long(err, at, (size_t)info->context + 1, info->context, j->req.task == QN_TASK_GENERATE);
    if (rc) {
        if (!me.param[0]) snprintf(me.param, sizeof me.param, "sequence");
        return fail_model(err, &me, QN_API_INVALID);
    }
    j->n_prompts[at] = (uint32_t)n; /* <= context */
    return 0;
}

static int take_ids(struct qn_job *j, uint32_t at, struct qn_api_err *err) {
    const struct qn_model_info *info = qn_model_info(j->model);
    const struct qn_api_seq *s = &j->req.seqs[at];
    if (s->n > info->context) return too_long(err, at, s->n, info->context, j->req.task == QN_TASK_GENERATE);
    for (size_t i = 0; i < s->n; i++)
        if (s->ids[i] < 0 || (uint32_t)s->ids[i] >= info->vocab)
            return qn_api_fail(err, QN_API_INVALID, "sequence",
                               "token %d at place %zu of sequence %u is outside the vocabulary [0, %u)",
                               s->ids[i], i, at, info->vocab);
    j->prompts[at] = malloc((s->n ? s->n : 1) * sizeof **j->prompts);
    if (!j->prompts[at]) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    if (s->n) memcpy(j->prompts[at], s->ids, s->n * sizeof **j->prompts);
    j->n_prompts[at] = (uint32_t)s->n;
    return 0;
}

static int tokenize(struct qn_job *j, struct qn_api_err *err) {
    uint32_t context = qn_model_info(j->model)->context;
    j->prompts = calloc(j->req.n_seqs, sizeof *j->prompts);
    j->n_prompts = calloc(j->req.n_seqs, sizeof *j->n_prompts);
    if (!j->prompts || !j->n_prompts) return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    for (uint32_t i = 0; i < j->req.n_seqs; i++) {
        if (j->req.seqs[i].is_ids ? take_ids(j, i, err) : tokenize_text(j, i, err)) return -1;
        if (!j->n_prompts[i])
            return qn_api_fail(err, QN_API_INVALID, "sequence", "sequence %u has no tokens", i);
        bool generate = j->req.task == QN_TASK_GENERATE && j->req.max_tokens > 0;
        if (generate && j->n_prompts[i] >= context) return too_long(err, i, j->n_prompts[i], context, true);
    }
    return 0;
}

static int make_outputs(struct qn_job *j, struct qn_api_err *err) {
    uint32_t n = j->req.task == QN_TASK_GENERATE && j->req.n ? j->req.n : 1;
    if (!j->req.n_seqs || j->req.n_seqs > QN_API_MAX_OUTPUTS || n > QN_API_MAX_OUTPUTS / j->req.n_seqs)
        return qn_api_fail(err, QN_API_INVALID, "n", "a request has 1 to %d outputs", QN_API_MAX_OUTPUTS);
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

/* ---- identity ---- */
static void random_bytes(void *p, size_t n) {
    if (getrandom(p, n, 0) == (ssize_t)n) return;
    uint64_t x = qn_now_ns(); /* no entropy: ids need to differ, not to be secret */
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)p)[i] = (unsigned char)((x = x * 6364136223846793005u + 1) >> 56);
}

static void identify(struct qn_job *j) {
    static const char hex[] = "0123456789abcdef";
    unsigned char r[12 + sizeof j->req.seed];
    random_bytes(r, sizeof r);
    memcpy(j->id, "inf-", 4);
    for (size_t i = 0; i < 12; i++) {
        j->id[4 + 2 * i] = hex[r[i] >> 4];
        j->id[5 + 2 * i] = hex[r[i] & 15];
    }
    j->created = (int64_t)time(NULL);
    if (!j->req.seed_given) memcpy(&j->req.seed, r + 12, sizeof j->req.seed);
}

int qn_job_new(const struct qn_registry *models, struct qn_api_infer *req, const struct qn_job_options *opt,
               struct qn_job **out, struct qn_api_err *err) {
    struct qn_job *j = calloc(1, sizeof *j);
    uint64_t start = qn_now_ns();
    *out = NULL;
    if (!j) {
        qn_api_infer_free(req);
        return qn_api_fail(err, QN_API_OUT_OF_MEMORY, "", "out of memory");
    }
    atomic_init(&j->refs, 1);
    atomic_init(&j->cancel, false);
    atomic_init(&j->pending, 0);
    j->req = *req;
    memset(req, 0, sizeof *req);
    j->salt = opt->salt;
    j->owner = opt->owner;
    j->t_received_ns = opt->t_received_ns && opt->t_received_ns < start ? opt->t_received_ns : start;
    uint32_t timeout = j->req.timeout_ms ? j->req.timeout_ms : opt->default_timeout_ms;
    if (timeout) j->deadline_ns = j->t_received_ns + (uint64_t)timeout * 1000000u;
    j->model = qn_registry_find(models, j->req.model);
    int rc = j->model ? 0
                      : qn_api_fail(err, QN_API_MODEL_NOT_FOUND, "model", "there is no model \"%s\" here",
                                    j->req.model);
    if (!rc) rc = resolve(j, err);
    start = qn_now_ns();
    if (!rc) rc = tokenize(j, err);
    j->tokenize_ms = (double)(qn_now_ns() - start) * 1e-6;
    if (!rc) rc = make_outputs(j, err);
    if (rc) {
        free_job(j);
        return -1;
    }
    identify(j);
    *out = j;
    return 0;
}
