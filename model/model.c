/* A model's life: open (load, size the state pool and the scratch), describe, inspect, text, close.
 * Thread: see model.h. */
#include "model/model.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu.h"
#include "kernels/mem.h"
#include "model/exact.h"
#include "model/internal.h"
#include "model/text/chat_template.h"
#include "model/zoo/zoo.h"

#define DEFAULT_STEP_TOKENS 512
#define MAX_DEFAULT_STATE   ((size_t)4 << 30)
#define UNKNOWN_STATE       ((size_t)1 << 30) /* when the machine's memory is unknown */

/* --- describe --- */
/* The file's name without its directory and known endings; what an id may not hold becomes '-'. */
static void make_id(const char *path, const char *fallback, char id[65]) {
    static const char *const endings[] = {".gguf", ".safetensors"};
    const char *end = path + strlen(path);
    while (end > path && end[-1] == '/') end--;
    const char *start = end;
    while (start > path && start[-1] != '/') start--;
    size_t n = (size_t)(end - start);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t k = strlen(endings[i]);
        if (n > k && strncmp(end - k, endings[i], k) == 0) {
            n -= k;
            break;
        }
    }
    if (n == 0 || (n == 1 && *start == '.')) {
        start = fallback[0] ? fallback : "model";
        n = strlen(start);
    }
    if (n > 64) n = 64;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)start[i];
        id[i] = (char)(c < 128 && (isalnum(c) || c == '.' || c == '_' || c == '-') ? c : '-');
    }
    id[n] = 0;
}

/* Parameters of the default structure that one token uses: all of the file but other experts, or, where there
 * are other members besides, those of the first ones' blocks. */
static uint64_t active_params(const struct qn_checkpoint *c) {
    const struct qn_spec *s = &c->spec;
    static const struct qn_part any = {0};
    const struct qn_ffn_ops *ops = qn_ffn_find(s, "");
    struct qn_ffn f;
    if (s->n_attn + s->n_ffn + s->n_share == 3) return c->params - s->ffn_blocks * qn_ffn_idle_params(s, 0);
    if (!ops || ops->resolve(ops, s, 0, &any, &f, NULL) != QN_OK) return c->params;
    uint64_t d = s->d_model, q = (uint64_t)s->heads * s->head_dim;
    uint64_t kv = (uint64_t)s->attn[0].kv_heads * s->head_dim;
    uint64_t own = 2 * s->attn[0].slots + (uint64_t)s->attn[0].features * s->head_dim;
    uint64_t e = s->d_embed, tables = (uint64_t)qn_spec_table_width(s) * s->vocab * (s->embed_lags + 1) + d;
    tables += e * d + (s->tied ? e * d : d * s->vocab);
    return tables + s->share[0].attn_blocks * (d + 2 * d * (q + kv) + own) +
           s->share[0].ffn_blocks * (d + (uint64_t)ops->row_macs(&f));
}

static void fill_info(struct qn_model_info *info, const struct qn_checkpoint *c, const char *path) {
    const struct qn_spec *s = &c->spec;
    memset(info, 0, sizeof *info);
    make_id(c->synthetic ? "" : path, c->name, info->id);
    snprintf(info->family, sizeof info->family, "%s", s->family);
    snprintf(info->format, sizeof info->format, "%s", c->format);
    info->path = path;
    info->params_total = c->params;
    info->params_active = active_params(c);
    info->layers = s->layers;
    info->d_model = s->d_model;
    info->heads = s->heads;
    info->kv_heads = s->attn[0].kv_heads;
    info->head_dim = s->head_dim;
    info->ffn_dim = s->ffn[0].dim;
    info->vocab = s->vocab;
    info->context = s->context;
    info->file_bytes = c->file_bytes;
    info->weights_bytes = c->weights_bytes;
    size_t slot = 0;
    for (int t = 0; t < QN_TYPE_COUNT && slot < QN_TYPE_SLOTS; t++) {
        if (c->bytes_by_type[t] == 0) continue;
        info->by_type[slot].name = qn_type_name((enum qn_type)t);
        info->by_type[slot++].bytes = c->bytes_by_type[t];
    }
    info->has_tokenizer = c->tokenizer != NULL;
    info->bos = c->tokenizer ? qn_tokenizer_bos(c->tokenizer) : -1;
    info->eos = c->tokenizer ? qn_tokenizer_eos(c->tokenizer) : -1;
    info->unk = c->tokenizer ? qn_tokenizer_unk(c->tokenizer) : -1;
    info->pad = c->tokenizer ? qn_tokenizer_pad(c->tokenizer) : -1;
    info->adds_eos = c->tokenizer && qn_tokenizer_adds_eos(c->tokenizer);
    info->adds_bos = c->tokenizer && qn_tokenizer_adds_bos(c->tokenizer);
    info->map_ms = c->ms_map;
    info->pack_ms = c->ms_pack;
    info->tokenizer_ms = c->ms_tokenizer;
    info->mapped = c->panels != NULL;
    info->note = c->note;
    info->chat_template = "";
    info->chat_template_text = c->chat_text ? c->chat_text : "";
}

const struct qn_model_info *qn_model_info(const struct qn_model *m) {
    return &m->info;
}

/* "gqa, mha, mqa" and so on; all fit. */
static void list_members(const struct qn_spec *s, struct qn_inspect *out) {
    size_t at[3] = {0, 0, 0};
    for (uint32_t i = 0; i < QN_MEMBERS; i++) {
        const char *name[3] = {i < s->n_attn ? s->attn[i].type : NULL, i < s->n_ffn ? s->ffn[i].type : NULL,
                               i < s->n_share ? s->share[i].type : NULL};
        for (int k = 0; k < 3; k++) {
            if (!name[k] || at[k] >= QN_INSPECT_NAMES) continue;
            int n =
                snprintf(out->members[k] + at[k], QN_INSPECT_NAMES - at[k], "%s%s", i ? ", " : "", name[k]);
            at[k] += n > 0 ? (size_t)n : 0;
        }
    }
}

static int inspect_chat(const struct qn_checkpoint *c, struct qn_inspect *out, struct qn_err *err) {
    const struct qn_chat_template *t = NULL;
    out->chat_text = c->chat_text != NULL;
    int rc = c->chat_text ? qn_chat_recognise(c->chat_text, strlen(c->chat_text), &t, err) : QN_OK;
    if (t) out->info.chat_template = qn_chat_name(t);
    return rc;
}

int qn_model_inspect(const char *path, struct qn_inspect *out, struct qn_err *err) {
    struct qn_checkpoint *c = NULL;
    struct qn_load_options opt = {.spec_only = true};
    static const struct qn_part native = {0};
    memset(out, 0, sizeof *out);
    int rc = qn_checkpoint_load(path, &opt, &c, err);
    if (rc) return rc;
    snprintf(out->path, sizeof out->path, "%s", path);
    fill_info(&out->info, c, out->path);
    const struct qn_attention_ops *ops = qn_attention_find(&c->spec, "");
    const struct qn_sharing_ops *sharing = qn_sharing_find(&c->spec, "");
    struct qn_attention a;
    rc = ops ? ops->resolve(&c->spec, 0, &native, &a, err)
             : qn_err_set(err, QN_ERR_UNSUPPORTED, "unknown attention");
    if (rc == QN_OK) {
        snprintf(out->attention, sizeof out->attention, "%s", a.choice.part.type);
        snprintf(out->ffn, sizeof out->ffn, "%s", c->spec.ffn[0].type);
        snprintf(out->sharing, sizeof out->sharing, "%s", sharing ? sharing->name : "");
        struct qn_state_size state = qn_state_size_of(&c->spec, &a, QN_KV_F16);
        out->state_bytes_per_token = state.block_bytes / QN_KV_BLOCK;
        out->state_fixed_bytes = state.fixed_bytes;
        list_members(&c->spec, out);
        rc = inspect_chat(c, out, err);
    }
    out->info.note = out->info.chat_template_text = ""; /* were the checkpoint's */
    qn_checkpoint_free(c);
    return rc;
}

bool qn_model_lost(const struct qn_model *m) {
    return qn_checkpoint_lost(m->ckpt);
}

struct qn_state_stats qn_model_state(const struct qn_model *m) {
    return qn_kv_stats(m->kv);
}

struct qn_memory qn_model_memory(const struct qn_model *m) {
    struct qn_state_stats s = qn_kv_stats(m->kv);
    return (struct qn_memory){
        .weights = m->ckpt->weights_bytes,
        .converted = atomic_load(&m->converted_bytes),
        .state_budget = s.budget,
        .state_used = s.used,
        .state_cached = s.cached,
        .scratch = m->scratch.bytes,
        .tokenizer = m->ckpt->tokenizer ? qn_tokenizer_bytes(m->ckpt->tokenizer) : 0,
    };
}

size_t qn_model_held_out(const struct qn_model *m, struct qn_held_out *out, size_t max) {
    size_t n = m->ckpt->n_held_out;
    for (size_t i = 0; i < n && i < max; i++) out[i] = m->ckpt->held_out[i];
    return n;
}

void qn_model_drop_cache(struct qn_model *m) {
    qn_kv_drop(m->kv);
}

const char *qn_model_builtin(void) {
    const struct qn_zoo_model *z = qn_zoo_default();
    return z ? z->name : NULL;
}

/* --- open and close --- */
static size_t state_budget(const struct qn_open_options *opt) {
    if (opt->state_bytes > 0) return opt->state_bytes;
    size_t quarter = qn_cpu_memory_bytes() / 4;
    if (quarter == 0) return UNKNOWN_STATE;
    return quarter < MAX_DEFAULT_STATE ? quarter : MAX_DEFAULT_STATE;
}

static int init_rope(struct qn_model *m, struct qn_err *err) {
    const struct qn_spec *s = &m->ckpt->spec;
    m->inv_freq = qn_mem_alloc_array(s->rope_dim / 2 + 1, sizeof *m->inv_freq);
    if (!m->inv_freq) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the position tables");
    if (s->rope_dim > 0) qn_spec_rope_freqs(s, m->ckpt->rope_factors, m->inv_freq);
    return QN_OK;
}

static int init_state(struct qn_model *m, const struct qn_open_options *opt, struct qn_err *err) {
    static const struct qn_part native = {0};
    const struct qn_attention_ops *ops = qn_attention_find(&m->ckpt->spec, "");
    struct qn_attention a;
    if (!ops || !qn_ffn_find(&m->ckpt->spec, "") || !qn_sharing_find(&m->ckpt->spec, "")) {
        return qn_err_set(err, QN_ERR_UNSUPPORTED, "no known structure fits this checkpoint (ffn \"%.15s\")",
                          m->ckpt->spec.ffn[0].type);
    }
    int rc = ops->resolve(&m->ckpt->spec, 0, &native, &a, err);
    if (rc) return rc;
    struct qn_state_size size = qn_state_size_of(&m->ckpt->spec, &a, m->kv_type);
    m->kv = qn_kv_pool_new(state_budget(opt), size.block_bytes ? size.block_bytes : size.fixed_bytes);
    return m->kv ? QN_OK : qn_err_set(err, QN_ERR_NOMEM, "out of memory for the state pool");
}

static const enum qn_kv_type kv_types[QN_STATE_TYPES] = {[QN_STATE_F16] = QN_KV_F16,
                                                         [QN_STATE_F32] = QN_KV_F32,
                                                         [QN_STATE_BF16] = QN_KV_BF16,
                                                         [QN_STATE_Q8] = QN_KV_Q8};

/* The named template, or the one that the checkpoint's own text stands for, if any. */
static int choose_chat(struct qn_model *m, const char *name, struct qn_err *err) {
    int rc = QN_OK;
    if (name)
        m->chat = qn_chat_find(name);
    else if (m->ckpt->chat_text)
        rc = qn_chat_recognise(m->ckpt->chat_text, strlen(m->ckpt->chat_text), &m->chat, err);
    if (name && !m->chat)
        return qn_err_param(err, QN_ERR_INVALID, "chat_template",
                            "no chat template is named '%.60s'; these are: %s", name, qn_chat_names());
    if (m->chat) m->info.chat_template = qn_chat_name(m->chat);
    return rc;
}

static int init_model(struct qn_model *m, const char *path, const struct qn_open_options *opt,
                      struct qn_err *err) {
    m->pool = opt->pool;
    m->kv_type = kv_types[opt->state_type];
    m->prefix_cache = opt->prefix_cache;
    m->max_rows = opt->max_step_tokens ? opt->max_step_tokens : DEFAULT_STEP_TOKENS;
    if (m->max_rows > QN_MAX_STEP_TOKENS) m->max_rows = QN_MAX_STEP_TOKENS;
    m->convert_budget = opt->convert_bytes ? opt->convert_bytes : m->ckpt->weights_bytes;
    if (pthread_mutex_init(&m->lock, NULL) != 0)
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a lock");
    m->has_lock = true;
    m->path = strdup(path ? path : "");
    if (!m->path) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a path");
    int rc = init_state(m, opt, err);
    if (rc == QN_OK) rc = init_rope(m, err);
    unsigned threads = m->pool ? qn_pool_threads(m->pool) : 1;
    if (rc == QN_OK) rc = qn_scratch_init(&m->scratch, &m->ckpt->spec, m->max_rows, threads, err);
    if (rc) return rc;
    fill_info(&m->info, m->ckpt, m->path);
    if (opt->id) snprintf(m->info.id, sizeof m->info.id, "%.64s", opt->id);
    if ((rc = choose_chat(m, opt->chat_template, err)) != QN_OK) return rc;
    m->info.kv_type = qn_kv_type_name(m->kv_type);
    m->info.scratch_bytes = m->scratch.bytes;
    m->info.opened_at = (int64_t)time(NULL);
    return QN_OK;
}

int qn_model_from_checkpoint(struct qn_checkpoint *c, const char *path, const struct qn_open_options *opt,
                             struct qn_model **out, struct qn_err *err) {
    struct qn_model *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m) {
        qn_checkpoint_free(c);
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a model");
    }
    m->ckpt = c;
    int rc = init_model(m, path, opt, err);
    if (rc) {
        qn_model_close(&m);
        return rc;
    }
    *out = m;
    return QN_OK;
}

int qn_model_open(const char *path, const struct qn_open_options *opt, struct qn_model **out,
                  struct qn_err *err) {
    uint64_t start = qn_now_ns();
    struct qn_checkpoint *c = NULL;
    struct qn_load_options load = {
        .pool = opt->pool, .progress = opt->progress, .progress_ctx = opt->progress_ctx, .mmap = opt->mmap};
    *out = NULL;
    qn_kernels_ensure();
    int rc = qn_checkpoint_load(path, &load, &c, err);
    if (rc == QN_OK) rc = qn_checkpoint_routers(c, opt->pool, err);
    if (rc == QN_OK && opt->f16_as_bf16) rc = qn_checkpoint_f16_as_bf16(c, opt->pool, err);
    if (rc == QN_OK && opt->exact) rc = qn_checkpoint_exact(c, opt->pool, err);
    if (rc) {
        qn_checkpoint_free(c);
        return rc;
    }
    rc = qn_model_from_checkpoint(c, path, opt, out, err);
    if (*out) (*out)->info.load_ms = (double)(qn_now_ns() - start) * 1e-6;
    return rc;
}

void qn_model_close(struct qn_model **pm) {
    struct qn_model *m = pm ? *pm : NULL;
    if (!m) return;
    qn_variant_free_all(m);
    qn_conversion_free_all(m);
    qn_kv_pool_free(m->kv);
    qn_scratch_free(&m->scratch);
    qn_mem_free(m->inv_freq);
    free(m->path);
    if (m->has_lock) pthread_mutex_destroy(&m->lock);
    qn_checkpoint_free(m->ckpt);
    free(m);
    *pm = NULL;
}

/* --- text --- */
int qn_model_tokenize(const struct qn_model *m, const char *text, size_t len, bool add_special,
                      size_t max_tokens, int32_t **out, size_t *n, struct qn_err *err) {
    *out = NULL;
    *n = 0;
    if (!m->ckpt->tokenizer) {
        return qn_err_param(err, QN_ERR_UNSUPPORTED, "sequence",
                            "this checkpoint has no tokenizer: the sequence must be token ids");
    }
    unsigned flags = add_special ? QN_TOK_ADD_SPECIAL : 0;
    return qn_tokenizer_encode(m->ckpt->tokenizer, text, len, flags, max_tokens, out, n, err);
}

struct qn_str_ref qn_model_piece(const struct qn_model *m, int32_t id, bool special) {
    if (!m->ckpt->tokenizer) return (struct qn_str_ref){"", 0};
    struct qn_str s = qn_tokenizer_piece(m->ckpt->tokenizer, id, special);
    return (struct qn_str_ref){s.p, s.n};
}

bool qn_model_strips_first_blank(const struct qn_model *m) {
    return m->ckpt->tokenizer && qn_tokenizer_strips_first_blank(m->ckpt->tokenizer);
}

bool qn_model_is_eog(const struct qn_model *m, int32_t id) {
    return m->ckpt->tokenizer && qn_tokenizer_is_eog(m->ckpt->tokenizer, id);
}

const char *qn_model_chat_names(void) {
    return qn_chat_names();
}

bool qn_model_chat_known(const char *name) {
    return qn_chat_find(name) != NULL;
}

int qn_model_chat(const struct qn_model *m, const struct qn_chat_message *msgs, size_t n,
                  bool add_generation_prompt, char **out, size_t *len, struct qn_err *err) {
    char today[32] = "";
    time_t now = time(NULL);
    struct tm tm;
    *out = NULL;
    *len = 0;
    if (!m->chat)
        return qn_err_param(err, QN_ERR_UNSUPPORTED, "messages",
                            "model '%s' has no chat template that quern knows (%s are known; --chat-template "
                            "chooses one): use completions instead",
                            m->info.id, qn_chat_names());
    if (localtime_r(&now, &tm)) (void)strftime(today, sizeof today, "%d %b %Y", &tm);
    const struct qn_chat_context ctx = {.bos = qn_model_piece(m, m->info.bos, true),
                                        .eos = qn_model_piece(m, m->info.eos, true),
                                        .today = today};
    return qn_chat_render(m->chat, &ctx, msgs, n, add_generation_prompt, out, len, err);
}
