/* Opens a checkpoint: tells the format, glues parser, spec, weights and vocabulary, and frees it all again.
 */
#include "model/load/checkpoint.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/cpu.h"
#include "kernels/mem.h"
#include "model/load/chat_text.h"
#include "model/load/gguf_spec.h"
#include "model/load/hf_config.h"
#include "model/load/json.h"
#include "model/load/mapped.h"
#include "model/load/open.h"
#include "model/load/panels.h"
#include "model/load/quern_config.h"
#include "model/load/quern_weights.h"
#include "model/load/weights.h"
#include "model/synthetic.h"
#include "model/zoo/zoo.h"

/* Less than this is allocated piece by piece: a huge page would be larger than what it holds. */
#define ARENA_MIN ((size_t)8 << 20)

static const struct qn_json_limits config_limits = {.depth = 32, .nodes = 100000};
/* tokenizer_config.json says "model_max_length": 1000000000000000019884624838656 when there is no limit. */
static const struct qn_json_limits settings_limits = {.depth = 32, .nodes = 100000, .reals = true};
static const struct qn_json_limits tokenizer_limits = {.depth = 32, .nodes = 16000000};

static void progress(const struct qn_load_options *opt, const char *phase, double done) {
    if (opt->progress) opt->progress(opt->progress_ctx, phase, done);
}

/* The panels of a file lie beside it, those of a directory in it. False when the path is too long. */
static bool panels_of(const char *path, const char *dir, char out[PATH_MAX]) {
    const char *name = strcmp(path, dir) == 0 ? "/model" : "";
    return snprintf(out, PATH_MAX, "%s%s" QN_PANELS_ENDING, path, name) < PATH_MAX;
}

/* ---- GGUF ---- */

/* general.name, reduced to printable ASCII so that it can go into logs and replies as it is. */
static void take_name(const struct qn_gguf *g, struct qn_checkpoint *c) {
    struct qn_str name;
    if (qn_gguf_str(g, "general.name", &name, NULL) != QN_OK || name.n == 0) return;
    size_t n = name.n < sizeof c->name - 1 ? name.n : sizeof c->name - 1;
    for (size_t i = 0; i < n; i++) c->name[i] = name.p[i] >= 32 && name.p[i] < 127 ? name.p[i] : '?';
    c->name[n] = 0;
}

static int family_weights(void *src, const struct qn_load_options *opt, struct qn_checkpoint *c,
                          struct qn_err *err) {
    return qn_weights_load(src, opt, c, err);
}

static int build_gguf(const struct qn_gguf *g, const struct qn_load_options *opt, struct qn_checkpoint *c,
                      struct qn_err *err) {
    struct qn_weights_source src = {.dir = &g->dir, .gguf = true};
    snprintf(c->format, sizeof c->format, "gguf");
    take_name(g, c);
    int rc = qn_gguf_spec(g, &c->spec, &src.family, err);
    if (rc != QN_OK) return rc;
    src.qkv = src.family->gguf_qkv;
    uint64_t t0 = qn_now_ns();
    rc = qn_mapped_weights(c, opt, family_weights, &src, err);
    uint64_t t1 = qn_now_ns();
    c->ms_pack = (double)(t1 - t0) * 1e-6;
    if (rc != QN_OK) return rc;
    progress(opt, "tokenizer", 0);
    rc = qn_vocab_from_gguf(g, c->spec.vocab, &c->tokenizer, err);
    if (rc == QN_OK) rc = qn_chat_text_from_gguf(g, c, err);
    c->ms_tokenizer = (double)(qn_now_ns() - t1) * 1e-6;
    if (rc == QN_OK) progress(opt, "tokenizer", 1);
    return rc;
}

int qn_open_gguf(const void *data, size_t size, const struct qn_load_options *opt, struct qn_checkpoint *c,
                 struct qn_err *err) {
    struct qn_gguf g;
    uint64_t t0 = qn_now_ns();
    int rc = qn_gguf_parse(data, size, &g, err);
    c->ms_map += (double)(qn_now_ns() - t0) * 1e-6;
    if (rc != QN_OK) return rc;
    c->file_bytes = size;
    rc = build_gguf(&g, opt, c, err);
    qn_gguf_free(&g);
    return rc;
}

static int load_gguf(const char *path, const struct qn_mapfile *m, const struct qn_load_options *opt,
                     struct qn_checkpoint *c, struct qn_err *err) {
    char panels[PATH_MAX];
    progress(opt, "map", 1);
    if (opt->mmap && panels_of(path, "", panels)) qn_mapped_begin(c, panels, m, 1, opt);
    return qn_open_gguf(m->data, m->size, opt, c, err);
}

/* ---- Hugging Face ---- */

int qn_open_tokenizer_json(const char *text, size_t len, json_t **out, struct qn_err *err) {
    return qn_json_parse(text, len, "tokenizer.json", tokenizer_limits, out, err);
}

/* One family of Hugging Face's with one structure. */
static int hf_weights(const json_t *config, const struct qn_tensor_dir *dir,
                      const struct qn_load_options *opt, struct qn_checkpoint *c, struct qn_err *err) {
    struct qn_hf_model m;
    int rc = qn_hf_config(config, dir, &m, err);
    if (rc != QN_OK) return rc;
    c->spec = m.spec;
    struct qn_weights_source src = {.dir = dir, .family = m.family, .qkv = m.qkv};
    return qn_mapped_weights(c, opt, family_weights, &src, err);
}

static int member_weights(void *dir, const struct qn_load_options *opt, struct qn_checkpoint *c,
                          struct qn_err *err) {
    return qn_quern_weights(dir, opt, c, err);
}

/* Our own family, with several. */
static int quern_weights(const json_t *config, const struct qn_tensor_dir *dir,
                         const struct qn_load_options *opt, struct qn_checkpoint *c, struct qn_err *err) {
    int rc = qn_quern_config(config, &c->spec, err);
    if (rc == QN_OK) rc = qn_quern_held_out(config, c, err);
    return rc == QN_OK ? qn_mapped_weights(c, opt, member_weights, (void *)(uintptr_t)dir, err) : rc;
}

int qn_open_hf(const struct qn_hf_vocab *files, const struct qn_tensor_dir *dir,
               const struct qn_load_options *opt, struct qn_checkpoint *c, struct qn_err *err) {
    snprintf(c->format, sizeof c->format, "safetensors");
    uint64_t t0 = qn_now_ns();
    int rc = (qn_quern_is(files->config) ? quern_weights : hf_weights)(files->config, dir, opt, c, err);
    uint64_t t1 = qn_now_ns();
    c->ms_pack = (double)(t1 - t0) * 1e-6;
    if (rc != QN_OK) return rc;
    progress(opt, "tokenizer", 0);
    rc = qn_vocab_from_hf(files, c->spec.vocab, opt, &c->tokenizer, err);
    if (rc == QN_OK) rc = qn_chat_text_from_hf(files, c, err);
    c->ms_tokenizer += (double)(qn_now_ns() - t1) * 1e-6;
    if (rc == QN_OK) progress(opt, "tokenizer", 1);
    return rc;
}

struct hf_files {
    json_t *config, *tokenizer, *settings, *generation;
    char *chat;
    size_t n_chat;
};

static struct qn_hf_vocab vocab_of(const struct hf_files *f) {
    return (struct qn_hf_vocab){f->tokenizer, f->settings, f->generation, f->config, f->chat, f->n_chat};
}

static int read_side_file(const char *dir, const char *name, bool optional, struct qn_json_limits limits,
                          json_t **out, struct qn_err *err) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return qn_err_set(err, QN_ERR_IO, "the path is too long");
    return qn_json_file(path, name, optional, limits, out, err);
}

static int read_side_files(const char *dir, struct hf_files *f, struct qn_err *err) {
    int rc = read_side_file(dir, "config.json", false, config_limits, &f->config, err);
    if (rc == QN_OK) rc = read_side_file(dir, "tokenizer.json", true, tokenizer_limits, &f->tokenizer, err);
    if (rc == QN_OK)
        rc = read_side_file(dir, "tokenizer_config.json", true, settings_limits, &f->settings, err);
    if (rc == QN_OK)
        rc = read_side_file(dir, "generation_config.json", true, config_limits, &f->generation, err);
    if (rc == QN_OK) rc = qn_chat_text_file(dir, &f->chat, &f->n_chat, err);
    return rc;
}

static int parse_builtin(const struct qn_zoo_model *z, struct hf_files *f, struct qn_tensor_dir *dir,
                         struct qn_err *err) {
    const char *config = (const char *)z->config.begin, *tokenizer = (const char *)z->tokenizer.begin,
               *settings = (const char *)z->settings.begin;
    int rc = qn_json_parse(config, (size_t)(z->config.end - z->config.begin), "config.json", config_limits,
                           &f->config, err);
    if (rc == QN_OK)
        rc = qn_open_tokenizer_json(tokenizer, (size_t)(z->tokenizer.end - z->tokenizer.begin), &f->tokenizer,
                                    err);
    if (rc == QN_OK)
        rc = qn_json_parse(settings, (size_t)(z->settings.end - z->settings.begin), "tokenizer_config.json",
                           settings_limits, &f->settings, err);
    if (rc == QN_OK)
        rc = qn_safetensors_parse(z->weights.begin, (size_t)(z->weights.end - z->weights.begin), dir, err);
    return rc == QN_OK ? qn_tensor_dir_index(dir, err) : rc;
}

static void free_side_files(struct hf_files *f) {
    json_decref(f->config);
    json_decref(f->tokenizer);
    json_decref(f->settings);
    json_decref(f->generation);
    free(f->chat);
}

/* A model that lies in the binary. */
static int load_builtin(const struct qn_zoo_model *z, const struct qn_load_options *opt,
                        struct qn_checkpoint *c, struct qn_err *err) {
    struct hf_files f = {0};
    struct qn_tensor_dir dir = {0};
    progress(opt, "map", 1);
    snprintf(c->name, sizeof c->name, "%s", z->name);
    c->file_bytes = (size_t)(z->weights.end - z->weights.begin);
    int rc = parse_builtin(z, &f, &dir, err);
    struct qn_hf_vocab files = vocab_of(&f);
    if (rc == QN_OK) rc = qn_open_hf(&files, &dir, opt, c, err);
    qn_tensor_dir_free(&dir);
    free_side_files(&f);
    return rc;
}

static int load_hf(const char *path, const char *dir, const struct qn_load_options *opt,
                   struct qn_checkpoint *c, struct qn_err *err) {
    char panels[PATH_MAX];
    struct hf_files f = {0};
    struct qn_safetensors s = {0};
    uint64_t t0 = qn_now_ns();
    int rc = read_side_files(dir, &f, err);
    uint64_t t1 = qn_now_ns();
    if (rc == QN_OK) rc = qn_safetensors_open(path, &s, err);
    c->ms_tokenizer = (double)(t1 - t0) * 1e-6; /* nearly all of it is tokenizer.json */
    c->ms_map = (double)(qn_now_ns() - t1) * 1e-6;
    c->file_bytes = s.bytes;
    if (rc == QN_OK) {
        struct qn_hf_vocab files = vocab_of(&f);
        progress(opt, "map", 1);
        if (opt->mmap && panels_of(path, dir, panels)) qn_mapped_begin(c, panels, s.shards, s.n, opt);
        rc = qn_open_hf(&files, &s.dir, opt, c, err);
        for (size_t i = 0; i < s.n; i++) rc = qn_mapfile_check(&s.shards[i], "a file of weights", rc, err);
    }
    qn_safetensors_close(&s);
    free_side_files(&f);
    return rc;
}

/* ---- the front door ---- */

/* "models/Foo.Q4_1.gguf" -> "Foo.Q4_1"; "models/foo/" -> "foo". */
static void stem_of(const char *path, char *out, size_t room) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    static const char *const endings[] = {".gguf", ".safetensors"};
    for (size_t i = 0; i < 2; i++) {
        size_t n = strlen(endings[i]);
        if (end - begin > n && memcmp(path + end - n, endings[i], n) == 0) end -= n;
    }
    snprintf(out, room, "%.*s", (int)(end - begin < 4096 ? end - begin : 4096), path + begin);
}

static int parent_of(const char *path, char *dir, struct qn_err *err) {
    const char *slash = strrchr(path, '/');
    int n = slash ? snprintf(dir, PATH_MAX, "%.*s", (int)(slash - path < PATH_MAX ? slash - path : PATH_MAX),
                             path)
                  : snprintf(dir, PATH_MAX, ".");
    if (n >= PATH_MAX) return qn_err_set(err, QN_ERR_IO, "the path is too long");
    if (n == 0) snprintf(dir, PATH_MAX, "/");
    return QN_OK;
}

/* A safetensors file has no magic: eight length bytes, then a JSON object. */
static bool looks_like_safetensors(const struct qn_mapfile *m) {
    return m->size >= 9 && m->data[8] == '{';
}

static int load_file(const char *path, const struct qn_load_options *opt, struct qn_checkpoint *c,
                     struct qn_err *err) {
    struct qn_mapfile m;
    char dir[PATH_MAX];
    uint64_t t0 = qn_now_ns();
    int rc = qn_mapfile_open(&m, path, err);
    if (rc != QN_OK) return rc;
    c->ms_map = (double)(qn_now_ns() - t0) * 1e-6;
    if (m.size >= 4 && memcmp(m.data, "GGUF", 4) == 0) {
        rc = qn_mapfile_check(&m, "the file", load_gguf(path, &m, opt, c, err), err);
        qn_mapfile_close(&m);
        return rc;
    }
    bool safetensors = looks_like_safetensors(&m);
    qn_mapfile_close(&m);
    if (!safetensors) return qn_err_set(err, QN_ERR_FORMAT, "'%s' is neither GGUF nor safetensors", path);
    rc = parent_of(path, dir, err);
    return rc == QN_OK ? load_hf(path, dir, opt, c, err) : rc;
}

static int load_path(const char *path, const struct qn_load_options *opt, struct qn_checkpoint *c,
                     struct qn_err *err) {
    struct stat st;
    const struct qn_zoo_model *builtin = qn_zoo_find(path);
    if (qn_synthetic_is(path)) return qn_synthetic_load(path, opt, c, err);
    if (builtin) return load_builtin(builtin, opt, c, err);
    if (stat(path, &st) != 0)
        return qn_err_set(err, QN_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    progress(opt, "map", 0);
    stem_of(path, c->name, sizeof c->name);
    return S_ISDIR(st.st_mode) ? load_hf(path, path, opt, c, err) : load_file(path, opt, c, err);
}

int qn_checkpoint_load(const char *path, const struct qn_load_options *opt, struct qn_checkpoint **out,
                       struct qn_err *err) {
    static const struct qn_load_options defaults = {0};
    *out = NULL;
    if (!opt) opt = &defaults;
    struct qn_checkpoint *c = calloc(1, sizeof *c);
    if (!c) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the checkpoint");
    int rc = load_path(path, opt, c, err);
    if (rc != QN_OK) {
        qn_checkpoint_free(c);
        return rc;
    }
    *out = c;
    return QN_OK;
}

/* ---- ownership ---- */

void qn_checkpoint_expect(struct qn_checkpoint *c, size_t bytes) {
    if (bytes >= ARENA_MIN && !c->arena.base) (void)qn_arena_open(&c->arena, bytes);
}

/* Zeroed memory of the arena, or, when that is full or there is none, a piece of its own. */
static void *take(struct qn_checkpoint *c, size_t n) {
    void *p = qn_arena_take(&c->arena, n);
    if (p) return p;
    p = qn_mem_alloc(n);
    return qn_mem_keep(&c->owned, p) ? p : NULL;
}

bool qn_checkpoint_matrix(struct qn_checkpoint *c, struct qn_matrix *m, enum qn_type t, size_t rows,
                          size_t cols) {
    size_t bytes;
    *m = (struct qn_matrix){0};
    if (!qn_matrix_bytes(t, rows, cols, &bytes) || !qn_matrix_at(m, t, rows, cols, take(c, bytes)))
        return false;
    c->weights_bytes += bytes;
    return true;
}

float *qn_checkpoint_vector(struct qn_checkpoint *c, size_t n) {
    size_t bytes;
    float *v = qn_size_mul(n, sizeof *v, &bytes) ? take(c, bytes) : NULL;
    if (v) c->weights_bytes += bytes;
    return v;
}

struct qn_ffn_matrices *qn_checkpoint_experts(struct qn_checkpoint *c, size_t n) {
    struct qn_ffn_matrices *e = qn_mem_alloc_array(n, sizeof *e);
    return qn_mem_keep(&c->owned, e) ? e : NULL;
}

void qn_checkpoint_drop_weights(struct qn_checkpoint *c) {
    qn_mem_free_all(&c->owned);
    qn_arena_close(&c->arena);
    free(c->attn);
    free(c->ffn);
    c->attn = NULL;
    c->ffn = NULL;
    c->embed = c->embed_map = c->output_map = c->output = (struct qn_matrix){0};
    memset(c->lags, 0, sizeof c->lags);
    c->pos_embed = c->rope_factors = NULL;
    c->out_norm = (struct qn_norm_weights){0};
    c->params = 0;
    c->weights_bytes = 0;
    memset(c->bytes_by_type, 0, sizeof c->bytes_by_type);
}

bool qn_checkpoint_lost(const struct qn_checkpoint *c) {
    return c->panels && qn_panels_lost(c->panels);
}

void qn_checkpoint_free(struct qn_checkpoint *c) {
    if (!c) return;
    qn_checkpoint_drop_weights(c);
    qn_panels_free(c->panels);
    free(c->held_out);
    qn_tokenizer_free(c->tokenizer);
    free(c->chat_text);
    free(c);
}
