/* A fake of model.h, batch.h and sample.h for tests of server/ without a model.
 *
 * Its vocabulary is the 256 bytes and one end token; the text of a token is its byte. A row's logits are a
 * hash of the tokens up to it, so that any mistake in what was run, recomputed, forked or matched shows in
 * the next token. What a sequence "knows" is kept as hashes in blocks of 16 positions, in a pool with the
 * real one's meaning: reference counts, copy on write, a prefix cache, a budget in bytes, all-or-nothing
 * reservations. */
#include "tests/stub/stub_model.h"
#include "model/save/save.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BLOCK       QN_STUB_BLOCK
#define BLOCK_BYTES ((size_t)1024)
#define MOST_BLOCKS ((size_t)1 << 16)
#define D_MODEL     8u

struct qn_stub_knobs qn_stub;

struct block {
    uint32_t refs;        /* sequences that hold it */
    bool cached;          /* may be found by key */
    uint64_t key;         /* salt and all tokens up to its end */
    uint64_t used_at;     /* for eviction */
    uint64_t hash[BLOCK]; /* running hash after each of its positions */
};

struct qn_variant {
    struct qn_model *model;
    struct qn_structure structure;
    atomic_int refs;
    bool prepared;
    uint64_t flavour; /* 0: predicts as the native structure does */
};

#define VARIANTS 5
struct qn_model {
    struct qn_model_info info;
    struct qn_variant variants[VARIANTS]; /* gqa (native), mha (exact), mqa (untrained), performer
                                             (approximate), linformer (native, not causal) */
    struct block *blocks;
    uint32_t n_blocks;
    bool prefix_cache;
    atomic_size_t used, cached; /* blocks */
    uint64_t clock;
    struct qn_seq *seqs; /* all of them, for the pool check */
};

struct qn_seq {
    struct qn_seq *next, **link;
    struct qn_variant *variant;
    uint64_t salt;
    bool use_cache;
    uint32_t length, settled, n_blocks;
    uint32_t *blocks;
    size_t peak, peak_shared;
};

/* ---- hashes ---- */
static uint64_t mix(uint64_t h, uint64_t v) {
    h = (h ^ v) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 29);
}

static uint64_t begin_hash(void) {
    return 0x1234567;
}

static uint64_t hash_tokens(const int32_t *t, uint32_t n) {
    uint64_t h = begin_hash();
    for (uint32_t i = 0; i < n; i++) h = mix(h, (uint64_t)t[i] + 1);
    return h;
}

/* Logits of a row: small multiples of 1/64 by hash, the chosen token on top. */
static int32_t choose(uint64_t h) {
    if ((int)(mix(h, 7) % 100) < atomic_load(&qn_stub.eog_percent)) return QN_STUB_EOG;
    uint64_t v = mix(h, 9);
    if (atomic_load(&qn_stub.ascii)) return v % 7 ? (int32_t)('a' + v % 26) : ' ';
    return (int32_t)(v % 256);
}

/* flavour: structures that are not exact predict other things, most tokens alike. */
static void fill_logits(uint64_t h, uint64_t flavour, float *v) {
    if (flavour && mix(h, flavour) % 4 == 0) h = mix(h, 1000 + flavour);
    for (uint32_t i = 0; i < QN_STUB_VOCAB; i++) v[i] = (float)(mix(h, 100 + i) % 256) / 64.0f;
    v[choose(h)] = 6.0f;
}

int32_t qn_stub_next(const int32_t *tokens, uint32_t n) {
    return choose(hash_tokens(tokens, n));
}

/* exp and log by series would do; the tests link libm anyway. */
#include <math.h>
static double lse_of(const float *v) {
    double s = 0;
    for (uint32_t i = 0; i < QN_STUB_VOCAB; i++) s += exp((double)v[i]);
    return log(s);
}

double qn_stub_logprob(const int32_t *tokens, uint32_t n, int32_t id) {
    float v[QN_STUB_VOCAB];
    fill_logits(hash_tokens(tokens, n), 0, v);
    return (double)(float)((double)v[id] - lse_of(v));
}

void qn_stub_row(const int32_t *tokens, uint32_t n, unsigned variant, float *v) {
    fill_logits(hash_tokens(tokens, n), variant, v);
}

/* ---- open ---- */
static void set_part(struct qn_part *p, const char *type, int kv_heads) {
    memset(p, 0, sizeof *p);
    snprintf(p->type, sizeof p->type, "%s", type);
    if (!kv_heads) return;
    p->n_params = 1;
    snprintf(p->params[0].name, sizeof p->params[0].name, "kv_heads");
    p->params[0].value = kv_heads;
}

static void init_variant(struct qn_model *m, uint32_t i) {
    static const char *const names[VARIANTS] = {"gqa", "mha", "mqa", "performer", "linformer"};
    static const int kv[VARIANTS] = {2, 4, 1, 2, 2};
    static const enum qn_exactness exact[VARIANTS] = {QN_EXACT, QN_EXACT, QN_UNTRAINED, QN_APPROXIMATE,
                                                      QN_EXACT};
    struct qn_variant *v = &m->variants[i];
    v->model = m;
    set_part(&v->structure.attention, names[i], kv[i]);
    set_part(&v->structure.ffn, "swiglu", 0);
    set_part(&v->structure.sharing, "none", 0);
    v->structure.origin = i % 4 ? QN_ORIGIN_CONVERTED : QN_ORIGIN_NATIVE;
    v->structure.causal = i < 4;
    v->structure.rollback = i < 3;
    if (exact[i] != QN_EXACT) v->flavour = i;
    v->structure.exactness = exact[i];
    v->structure.weights_bytes = v->structure.weights_active_bytes = 1u << 20;
    v->structure.state_bytes_per_token = BLOCK_BYTES / BLOCK;
    v->prepared = i % 4 == 0;
}

struct qn_model *qn_stub_open(const char *id, uint32_t context, uint32_t state_blocks, bool prefix_cache) {
    struct qn_model *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->blocks = calloc(state_blocks ? state_blocks : 1, sizeof *m->blocks);
    if (!m->blocks) {
        free(m);
        return NULL;
    }
    m->n_blocks = state_blocks;
    m->prefix_cache = prefix_cache;
    struct qn_model_info *f = &m->info;
    snprintf(f->id, sizeof f->id, "%s", id);
    snprintf(f->family, sizeof f->family, "stub");
    snprintf(f->format, sizeof f->format, "none");
    f->path = "";
    f->params_total = f->params_active = 1u << 20;
    f->layers = 1;
    f->d_model = D_MODEL;
    f->heads = 4;
    f->kv_heads = 2;
    f->head_dim = 2;
    f->ffn_dim = 16;
    f->vocab = QN_STUB_VOCAB;
    f->context = context;
    f->weights_bytes = f->file_bytes = 1u << 20;
    f->scratch_bytes = 4096;
    f->has_tokenizer = true;
    f->bos = f->unk = f->pad = -1;
    f->eos = QN_STUB_EOG;
    f->chat_template = strcmp(id, "nochat") ? "chatml" : "";
    f->chat_template_text = f->chat_template[0] ? "{# the fake model's #}" : "";
    for (uint32_t i = 0; i < VARIANTS; i++) init_variant(m, i);
    return m;
}

int qn_model_open(const char *path, const struct qn_open_options *opt, struct qn_model **out,
                  struct qn_err *err) {
    const char *name = strrchr(path, '/');
    size_t blocks = opt->state_bytes ? opt->state_bytes / BLOCK_BYTES : 4096;
    if (blocks > MOST_BLOCKS) blocks = MOST_BLOCKS; /* they are searched one by one */
    if (opt->id) name = NULL;
    *out = qn_stub_open(name      ? name + 1
                        : opt->id ? opt->id
                                  : path,
                        4096, (uint32_t)blocks, opt->prefix_cache);
    return *out ? QN_OK : qn_err_set(err, QN_ERR_NOMEM, "out of memory");
}

const char *qn_model_builtin(void) {
    return NULL;
}

void qn_model_close(struct qn_model **m) {
    if (!*m) return;
    free((*m)->blocks);
    free(*m);
    *m = NULL;
}

const struct qn_model_info *qn_model_info(const struct qn_model *m) {
    return &m->info;
}

int qn_model_inspect(const char *path, struct qn_inspect *out, struct qn_err *err) {
    (void)path;
    memset(out, 0, sizeof *out);
    return qn_err_set(err, QN_ERR_UNSUPPORTED, "the fake model has no files");
}

const char *qn_convert_types(void) {
    return "none";
}

int qn_model_convert(const char *path, const struct qn_convert_options *opt, struct qn_convert_report *report,
                     struct qn_err *err) {
    (void)path, (void)opt;
    memset(report, 0, sizeof *report);
    return qn_err_set(err, QN_ERR_UNSUPPORTED, "the fake model has no files");
}

/* ---- structures ---- */
const char *qn_exactness_name(enum qn_exactness e) {
    static const char *const names[] = {"exact", "approximate", "untrained", "unavailable"};
    return names[e];
}

int qn_variant_resolve(struct qn_model *m, const struct qn_structure_request *req, struct qn_variant **out,
                       struct qn_err *err) {
    uint32_t i = 0;
    const char *type = req->attention.type[0] ? req->attention.type : "gqa";
    while (i < VARIANTS && strcmp(m->variants[i].structure.attention.type, type)) i++;
    if (i == VARIANTS)
        return qn_err_param(err, QN_ERR_INVALID, "attention",
                            "attention \"%s\" is not one of gqa (native), mha, mqa (with convert)", type);
    const struct qn_param *p = req->attention.params;
    bool bidirectional = req->attention.n_params && !strcmp(p->name, "causal") && p->value < 1;
    if (bidirectional == m->variants[i].structure.causal)
        return qn_err_param(err, QN_ERR_INVALID, "attention", "attention \"%s\" is not causal like that",
                            type);
    if (bidirectional && req->causal)
        return qn_err_param(err, QN_ERR_INVALID, "attention",
                            "attention \"%s\" is not causal: it can only embed", type);
    if (m->variants[i].structure.exactness > QN_EXACT && !req->convert)
        return qn_err_param(err, QN_ERR_INVALID, "convert", "attention \"%s\" is untrained: set convert",
                            type);
    if (req->ffn.type[0] && strcmp(req->ffn.type, "swiglu"))
        return qn_err_param(err, QN_ERR_INVALID, "ffn", "ffn \"%s\" is not swiglu", req->ffn.type);
    if (req->sharing.type[0] && strcmp(req->sharing.type, "none"))
        return qn_err_param(err, QN_ERR_INVALID, "sharing", "sharing \"%s\" is not none", req->sharing.type);
    *out = &m->variants[i];
    qn_variant_ref(*out);
    return QN_OK;
}

void qn_variant_ref(struct qn_variant *v) {
    atomic_fetch_add(&v->refs, 1);
}

void qn_variant_unref(struct qn_variant *v) {
    atomic_fetch_sub(&v->refs, 1);
}

const struct qn_structure *qn_variant_structure(const struct qn_variant *v) {
    return &v->structure;
}

struct qn_model *qn_variant_model(const struct qn_variant *v) {
    return v->model;
}

static void sleep_us(uint64_t us) {
    struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
    if (us) nanosleep(&t, NULL);
}

int qn_variant_prepare(struct qn_variant *v, double *ms, struct qn_err *err) {
    *ms = 0;
    if (atomic_load(&qn_stub.fail_prepare) > 0) {
        atomic_fetch_sub(&qn_stub.fail_prepare, 1);
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory for converted weights");
    }
    if (v->prepared) return QN_OK;
    sleep_us(2000);
    *ms = 2;
    v->prepared = true;
    return QN_OK;
}

bool qn_variants_fit(struct qn_variant *const *v, uint32_t n, size_t *bytes, size_t *budget) {
    size_t sum = 0, most = atomic_load(&qn_stub.convert_budget);
    for (uint32_t i = 0; i < n; i++) {
        bool again = v[i]->structure.origin != QN_ORIGIN_CONVERTED;
        for (uint32_t k = 0; k < i; k++) again = again || v[k] == v[i];
        sum += again ? 0 : QN_STUB_CONVERTED;
    }
    if (!most) most = SIZE_MAX;
    if (bytes) *bytes = sum;
    if (budget) *budget = most;
    return sum <= most;
}

size_t qn_variant_state_bytes(const struct qn_variant *v, uint32_t tokens) {
    (void)v;
    return (tokens + BLOCK - 1) / BLOCK * BLOCK_BYTES;
}

size_t qn_model_structures(const struct qn_model *m, struct qn_structure_entry *out, size_t max) {
    for (size_t i = 0; i < VARIANTS && i < max; i++) {
        const struct qn_structure *s = &m->variants[i].structure;
        out[i] = (struct qn_structure_entry){.slot = "attention",
                                             .part = s->attention,
                                             .origin = s->origin,
                                             .exactness = s->exactness,
                                             .causal = s->causal,
                                             .rollback = s->rollback,
                                             .state_bytes_per_token = s->state_bytes_per_token};
    }
    return VARIANTS;
}

size_t qn_model_held_out(const struct qn_model *m, struct qn_held_out *out, size_t max) {
    (void)m;
    if (max) *out = (struct qn_held_out){"gqa", "swiglu", "none", 1.5, 2.164};
    return 1;
}

/* As a mixture's: many rows read twice what one reads. */
struct qn_step_weights qn_variant_step_weights(const struct qn_variant *v, uint32_t rows) {
    double body = (double)v->structure.weights_active_bytes - 4096.0;
    return (struct qn_step_weights){.body = body * (2 - 1.0 / rows), .head = 4096.0};
}

struct qn_cost qn_variant_cost(const struct qn_variant *v, uint32_t begin, uint32_t end, uint32_t logit_rows,
                               uint32_t rows_per_step) {
    uint32_t rows = end - begin, chunk = rows_per_step ? rows_per_step : rows;
    struct qn_step_weights w = qn_variant_step_weights(v, chunk);
    return (struct qn_cost){.flops = rows * 2e6 + (end + begin) * (double)rows * 4 +
                                     logit_rows * 2.0 * QN_STUB_VOCAB * D_MODEL,
                            .bytes = (double)rows / chunk * w.body + (logit_rows ? w.head : 0) + end * 64.0};
}

/* ---- text ---- */
int qn_model_tokenize(const struct qn_model *m, const char *text, size_t len, bool add_special,
                      size_t max_tokens, int32_t **out, size_t *n, struct qn_err *err) {
    (void)m;
    (void)add_special;
    if (max_tokens && len > max_tokens)
        return qn_err_set(err, QN_ERR_TOO_LONG, "more than %zu tokens", max_tokens);
    int32_t *ids = malloc((len ? len : 1) * sizeof *ids);
    if (!ids) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < len; i++) ids[i] = (unsigned char)text[i];
    *out = ids;
    *n = len;
    return QN_OK;
}

struct qn_str_ref qn_model_piece(const struct qn_model *m, int32_t id, bool special) {
    static char bytes[256];
    static atomic_bool filled;
    (void)m;
    if (!atomic_load(&filled)) { /* idempotent, and every writer writes the same */
        for (int i = 0; i < 256; i++) __atomic_store_n(&bytes[i], (char)i, __ATOMIC_RELAXED);
        atomic_store(&filled, true);
    }
    if (id == QN_STUB_EOG) return (struct qn_str_ref){.p = "<end>", .n = special ? 5 : 0};
    if (id < 0 || id > 255) return (struct qn_str_ref){.p = "", .n = 0};
    return (struct qn_str_ref){.p = &bytes[id], .n = 1};
}

bool qn_model_strips_first_blank(const struct qn_model *m) {
    (void)m;
    return false;
}

bool qn_model_is_eog(const struct qn_model *m, int32_t id) {
    (void)m;
    return id == QN_STUB_EOG && !atomic_load(&qn_stub.endless);
}

/* A format of its own, as plain as ChatML; a model named nochat has none, and no message may come from a
 * tool. */
const char *qn_model_chat_names(void) {
    return "chatml";
}

bool qn_model_chat_known(const char *name) {
    return strcmp(name, "chatml") == 0;
}

int qn_model_chat(const struct qn_model *m, const struct qn_chat_message *msgs, size_t n,
                  bool add_generation_prompt, char **out, size_t *len, struct qn_err *err) {
    static const char prompt[] = "<|im_start|>assistant\n";
    size_t room = sizeof prompt, at = 0;
    char param[64];
    *out = NULL;
    *len = 0;
    if (!m->info.chat_template[0])
        return qn_err_param(err, QN_ERR_UNSUPPORTED, "messages",
                            "model '%s' has no chat template that quern "
                            "knows",
                            m->info.id);
    for (size_t i = 0; i < n; i++) {
        room += strlen(msgs[i].role) + msgs[i].n + 32;
        if (strcmp(msgs[i].role, "tool") != 0) continue;
        snprintf(param, sizeof param, "messages[%zu].role", i);
        return qn_err_param(err, QN_ERR_INVALID, param, "the template has no place for a tool's message");
    }
    char *text = malloc(room);
    if (!text) return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        at += (size_t)snprintf(text + at, room - at, "<|im_start|>%s\n", msgs[i].role);
        if (msgs[i].n) memcpy(text + at, msgs[i].content, msgs[i].n);
        at += msgs[i].n;
        at += (size_t)snprintf(text + at, room - at, "<|im_end|>\n");
    }
    if (add_generation_prompt) at += (size_t)snprintf(text + at, room - at, "%s", prompt);
    *out = text;
    *len = at;
    return QN_OK;
}

/* ---- pool ---- */
static struct block *blk(const struct qn_seq *s, uint32_t i) {
    return &s->variant->model->blocks[s->blocks[i]];
}

static void hold_block(struct qn_model *m, uint32_t b) {
    if (m->blocks[b].refs++) return;
    if (m->blocks[b].cached) atomic_fetch_sub(&m->cached, 1);
    atomic_fetch_add(&m->used, 1);
}

static void drop_block(struct qn_model *m, uint32_t b) {
    if (--m->blocks[b].refs) return;
    atomic_fetch_sub(&m->used, 1);
    if (m->blocks[b].cached) atomic_fetch_add(&m->cached, 1);
    m->blocks[b].used_at = ++m->clock;
}

/* A block that nobody uses, the longest unused cached one if there is no empty one. */
static int64_t find_block(struct qn_model *m) {
    int64_t best = -1;
    for (uint32_t i = 0; i < m->n_blocks; i++) {
        const struct block *b = &m->blocks[i];
        if (b->refs) continue;
        if (!b->cached) return i;
        if (best < 0 || b->used_at < m->blocks[best].used_at) best = i;
    }
    return best;
}

static void take_block(struct qn_model *m, struct qn_seq *s, uint32_t at, uint32_t b) {
    if (m->blocks[b].cached) {
        m->blocks[b].cached = false;
        atomic_fetch_sub(&m->cached, 1);
    }
    hold_block(m, b);
    s->blocks[at] = b;
}

static void note_peak(struct qn_seq *s) {
    struct qn_seq_bytes b = qn_seq_bytes(s);
    if (b.held > s->peak) {
        s->peak = b.held;
        s->peak_shared = b.shared;
    }
}

int qn_seq_new(struct qn_variant *v, uint64_t salt, bool use_cache, struct qn_seq **out, struct qn_err *err) {
    struct qn_seq *s = calloc(1, sizeof *s);
    struct qn_model *m = v->model;
    if (s) s->blocks = calloc((m->info.context + BLOCK - 1) / BLOCK + 1, sizeof *s->blocks);
    if (!s || !s->blocks) {
        free(s);
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory");
    }
    s->variant = v;
    s->salt = salt ^ (uint64_t)(v - m->variants) << 32;
    s->use_cache = use_cache && m->prefix_cache;
    s->next = m->seqs;
    s->link = &m->seqs;
    if (s->next) s->next->link = &s->next;
    m->seqs = s;
    qn_variant_ref(v);
    *out = s;
    return QN_OK;
}

void qn_seq_reset(struct qn_seq *s) {
    for (uint32_t i = 0; i < s->n_blocks; i++) drop_block(s->variant->model, s->blocks[i]);
    s->n_blocks = s->length = s->settled = 0;
}

void qn_seq_free(struct qn_seq **ps) {
    struct qn_seq *s = *ps;
    if (!s) return;
    *ps = NULL;
    qn_seq_reset(s);
    *s->link = s->next;
    if (s->next) s->next->link = s->link;
    qn_variant_unref(s->variant);
    free(s->blocks);
    free(s);
}

uint32_t qn_seq_length(const struct qn_seq *s) {
    return s->length;
}

static uint64_t block_key(const struct qn_seq *s, uint64_t hash_at_end) {
    return mix(mix(hash_at_end, s->salt), 77);
}

uint32_t qn_seq_match(struct qn_seq *s, const int32_t *tokens, uint32_t n) {
    struct qn_model *m = s->variant->model;
    if (!s->use_cache || s->length) return 0;
    while (s->length + BLOCK < n) {
        uint64_t key = block_key(s, hash_tokens(tokens, s->length + BLOCK));
        uint32_t b = 0;
        while (b < m->n_blocks && !(m->blocks[b].cached && m->blocks[b].key == key)) b++;
        if (b == m->n_blocks) break;
        hold_block(m, b);
        s->blocks[s->n_blocks++] = b;
        s->length += BLOCK;
    }
    note_peak(s);
    s->settled = s->length;
    return s->length;
}

/* The partial block that is written next is copied first when others hold it. */
static bool must_copy(const struct qn_seq *s, uint32_t length) {
    uint32_t at = s->length / BLOCK;
    return length > s->length && at < s->n_blocks && blk(s, at)->refs > 1;
}

static uint32_t need_blocks(const struct qn_seq *s, uint32_t length) {
    uint32_t want = (length + BLOCK - 1) / BLOCK;
    return (want > s->n_blocks ? want - s->n_blocks : 0) + must_copy(s, length);
}

size_t qn_seq_need(const struct qn_seq *s, uint32_t length) {
    return need_blocks(s, length) * BLOCK_BYTES;
}

int qn_seq_reserve(struct qn_seq *s, uint32_t length) {
    struct qn_model *m = s->variant->model;
    if (length > m->info.context) return QN_ERR_TOO_LONG;
    uint32_t want = (length + BLOCK - 1) / BLOCK;
    if (need_blocks(s, length) > m->n_blocks - atomic_load(&m->used)) return QN_ERR_NO_STATE;
    if (must_copy(s, length)) {
        uint32_t at = s->length / BLOCK, old = s->blocks[at];
        take_block(m, s, at, (uint32_t)find_block(m));
        memcpy(m->blocks[s->blocks[at]].hash, m->blocks[old].hash, sizeof m->blocks[old].hash);
        drop_block(m, old);
    }
    while (s->n_blocks < want) {
        take_block(m, s, s->n_blocks, (uint32_t)find_block(m));
        s->n_blocks++;
    }
    note_peak(s);
    return QN_OK;
}

int qn_seq_truncate(struct qn_seq *s, uint32_t length) {
    if (length > s->length) return QN_ERR_INVALID;
    uint32_t keep = (length + BLOCK - 1) / BLOCK;
    while (s->n_blocks > keep) drop_block(s->variant->model, s->blocks[--s->n_blocks]);
    s->length = length;
    if (s->settled > length) s->settled = length;
    return QN_OK;
}

int qn_seq_rewind(struct qn_seq *s, uint32_t length) {
    if (length > s->length || length < s->settled || !s->variant->structure.rollback) return QN_ERR_INVALID;
    s->length = length;
    return QN_OK;
}

/* Shares the blocks that hold the state, not the ones merely reserved. */
int qn_seq_fork(struct qn_seq *s, struct qn_seq **out, struct qn_err *err) {
    struct qn_seq *f;
    int rc = qn_seq_new(s->variant, 0, s->use_cache, &f, err);
    if (rc) return rc;
    f->salt = s->salt;
    f->length = s->length;
    f->settled = s->settled;
    f->n_blocks = (s->length + BLOCK - 1) / BLOCK;
    for (uint32_t i = 0; i < f->n_blocks; i++) hold_block(s->variant->model, f->blocks[i] = s->blocks[i]);
    note_peak(f);
    *out = f;
    return QN_OK;
}

struct qn_seq_bytes qn_seq_bytes(const struct qn_seq *s) {
    struct qn_seq_bytes b = {.peak = s->peak, .peak_shared = s->peak_shared};
    for (uint32_t i = 0; i < s->n_blocks; i++) {
        b.held += BLOCK_BYTES;
        if (blk(s, i)->refs > 1) b.shared += BLOCK_BYTES;
    }
    return b;
}

int qn_seq_fill(struct qn_seq *s, uint32_t n, uint64_t seed, struct qn_err *err) {
    (void)s, (void)n, (void)seed;
    return qn_err_set(err, QN_ERR_UNSUPPORTED, "the fake model's state can't be filled");
}

struct qn_state_stats qn_model_state(const struct qn_model *m) {
    size_t used = atomic_load(&m->used), cached = atomic_load(&m->cached);
    return (struct qn_state_stats){.budget = m->n_blocks * BLOCK_BYTES,
                                   .used = used * BLOCK_BYTES,
                                   .cached = cached * BLOCK_BYTES,
                                   .blocks_used = used,
                                   .blocks_cached = cached};
}

struct qn_memory qn_model_memory(const struct qn_model *m) {
    struct qn_state_stats s = qn_model_state(m);
    return (struct qn_memory){.weights = m->info.weights_bytes,
                              .state_budget = s.budget,
                              .state_used = s.used,
                              .state_cached = s.cached,
                              .scratch = m->info.scratch_bytes};
}

bool qn_model_lost(const struct qn_model *m) {
    (void)m;
    return atomic_load(&qn_stub.lost);
}

void qn_model_drop_cache(struct qn_model *m) {
    for (uint32_t i = 0; i < m->n_blocks; i++) {
        if (!m->blocks[i].cached) continue;
        m->blocks[i].cached = false;
        if (!m->blocks[i].refs) atomic_fetch_sub(&m->cached, 1);
    }
}

int qn_stub_check_pool(const struct qn_model *m) {
    uint32_t *refs = calloc(m->n_blocks, sizeof *refs), used = 0;
    int bad = !refs;
    for (const struct qn_seq *s = m->seqs; s && !bad; s = s->next)
        for (uint32_t i = 0; i < s->n_blocks; i++) refs[s->blocks[i]]++;
    for (uint32_t i = 0; i < m->n_blocks && !bad; i++) {
        bad = refs[i] != m->blocks[i].refs;
        used += refs[i] > 0;
    }
    free(refs);
    return bad || used != atomic_load(&m->used) || used > m->n_blocks;
}

/* ---- step ---- */
static uint64_t hash_at(const struct qn_seq *s, uint32_t length) {
    return length ? blk(s, (length - 1) / BLOCK)->hash[(length - 1) % BLOCK] : begin_hash();
}

static int check_step(const struct qn_step *st, struct qn_err *err) {
    for (uint32_t i = 0; i < st->n_spans; i++) {
        const struct qn_span *s = &st->spans[i];
        if (!st->variant->structure.causal && s->seq->length)
            return qn_err_set(err, QN_ERR_INVALID, "span %u: not causal, and in pieces", i);
        if (s->drafts >= s->n || (s->drafts && !st->variant->structure.rollback))
            return qn_err_set(err, QN_ERR_INVALID, "span %u: guesses that can't be taken back", i);
        if (!s->n || s->seq->variant != st->variant || !st->variant->prepared)
            return qn_err_set(err, QN_ERR_INVALID, "span %u: empty, or of another variant", i);
        if (need_blocks(s->seq, s->seq->length + s->n))
            return qn_err_set(err, QN_ERR_INVALID, "span %u: state was not reserved", i);
        for (uint32_t k = 0; k < i; k++)
            if (st->spans[k].seq == s->seq)
                return qn_err_set(err, QN_ERR_INVALID, "a sequence has two spans");
        for (uint32_t k = 0; k < s->n; k++)
            if (s->tokens[k] < 0 || s->tokens[k] >= QN_STUB_VOCAB)
                return qn_err_set(err, QN_ERR_INVALID, "token outside the vocabulary");
    }
    return QN_OK;
}

static void run_row(const struct qn_step *st, uint32_t span, uint32_t pos, uint64_t h, bool last) {
    float v[QN_STUB_VOCAB];
    enum qn_want want = st->spans[span].want;
    if (want == QN_WANT_NONE || (want == QN_WANT_LAST && !last)) return;
    if (want == QN_WANT_HIDDEN)
        for (uint32_t i = 0; i < D_MODEL; i++) v[i] = (float)(mix(h, i) % 1000) / 1000.0f;
    else
        fill_logits(h, st->variant->flavour, v);
    st->on_row(st->ctx, span, pos, v);
}

static void publish(struct qn_seq *s, uint32_t end) {
    struct qn_model *m = s->variant->model;
    for (uint32_t i = s->settled / BLOCK; s->use_cache && i < end / BLOCK; i++) {
        struct block *b = blk(s, i);
        uint64_t key = block_key(s, b->hash[BLOCK - 1]);
        bool there = false;
        for (uint32_t k = 0; k < m->n_blocks && !there; k++)
            there = m->blocks[k].cached && m->blocks[k].key == key;
        if (there) continue;
        b->cached = true;
        b->key = key;
    }
}

int qn_step_run(const struct qn_step *st, struct qn_err *err) {
    unsigned long rows = 0;
    int rc = check_step(st, err);
    if (rc) return rc;
    if (atomic_load(&qn_stub.lost)) return qn_err_set(err, QN_ERR_LOST, "injected loss");
    for (uint32_t i = 0; i < st->n_spans; i++) rows += st->spans[i].n;
    atomic_fetch_add(&qn_stub.steps, 1);
    atomic_fetch_add(&qn_stub.rows, rows);
    if (rows > atomic_load(&qn_stub.max_rows)) atomic_store(&qn_stub.max_rows, rows);
    sleep_us(atomic_load(&qn_stub.step_us) + (uint64_t)rows * atomic_load(&qn_stub.row_us));
    if (atomic_load(&qn_stub.fail_steps) > 0) {
        atomic_fetch_sub(&qn_stub.fail_steps, 1);
        return qn_err_set(err, QN_ERR_INVALID, "injected failure");
    }
    for (uint32_t i = 0; i < st->n_spans; i++) {
        const struct qn_span *sp = &st->spans[i];
        uint32_t at = sp->seq->length;
        uint64_t h = hash_at(sp->seq, at);
        for (uint32_t k = 0; k < sp->n; k++, at++) {
            h = mix(h, (uint64_t)sp->tokens[k] + 1);
            blk(sp->seq, at / BLOCK)->hash[at % BLOCK] = h;
            run_row(st, i, at, h, k + 1 == sp->n);
        }
    }
    for (uint32_t i = 0; i < st->n_spans; i++) {
        struct qn_seq *s = st->spans[i].seq;
        s->length += st->spans[i].n;
        publish(s, s->length - st->spans[i].drafts);
        s->settled = s->length - st->spans[i].drafts;
    }
    return QN_OK;
}

/* ---- sampling ---- */
size_t qn_sample_work_bytes(uint32_t vocab) {
    return vocab;
}

uint32_t qn_argmax(const float *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

void qn_logprob_of(const float *logits, uint32_t vocab, int32_t id, uint32_t n_top, struct qn_sampled *out) {
    float copy[QN_STUB_VOCAB];
    double lse = lse_of(logits);
    memset(out, 0, sizeof *out);
    out->id = id;
    out->logprob = (float)((double)logits[id] - lse);
    memcpy(copy, logits, vocab * sizeof *copy);
    for (uint32_t k = 0; k < n_top; k++) {
        uint32_t best = qn_argmax(copy, vocab);
        out->top[out->n_top++] =
            (struct qn_token_logprob){.id = (int32_t)best, .logprob = (float)((double)copy[best] - lse)};
        copy[best] = -1e30f;
    }
}

/* Greedy at temperature 0; above it a token by hash of (seed, choice, position). */
void qn_sample(const struct qn_sampling *p, const struct qn_sample_input *in, struct qn_sampled *out) {
    uint32_t best = qn_argmax(in->logits, in->vocab);
    if (p->temperature > 0)
        best = (uint32_t)(mix(mix(mix(p->seed, in->choice + 1), in->position), best) % 256);
    while (in->mask && !(in->mask[best / 64] >> (best % 64) & 1)) best = (best + 1) % in->vocab;
    if (p->logprobs)
        qn_logprob_of(in->logits, in->vocab, (int32_t)best, p->top_logprobs, out);
    else
        memset(out, 0, sizeof *out);
    out->id = (int32_t)best;
    memset(in->logits, 0xFF, in->vocab * sizeof *in->logits); /* allowed to: nobody may rely on them */
}
