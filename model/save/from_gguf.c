/* A GGUF file as a source: its tensors in their order, all of its metadata but what tells of quantisation and
 * of splits. The file must be one that quern loads. See source.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/load/open.h"
#include "model/save/source.h"

static int by_data(const void *a, const void *b) {
    const struct qn_tensor *x = *(const struct qn_tensor *const *)a, *y = *(const struct qn_tensor *const *)b;
    return x->data < y->data ? -1 : x->data > y->data;
}

static int kv_by_data(const void *a, const void *b) {
    const struct qn_gguf_kv *x = *(const struct qn_gguf_kv *const *)a,
                            *y = *(const struct qn_gguf_kv *const *)b;
    return x->data < y->data ? -1 : x->data > y->data;
}

static int no_memory(struct qn_err *err) {
    return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the tensor list");
}

static int add_tensor(struct qn_save_source *s, const struct qn_tensor *t, struct qn_err *err) {
    struct qn_save_tensor *o = qn_save_add(s);
    char shown[64];
    if (!o) return no_memory(err);
    if (t->type == QN_TYPE_COUNT)
        return qn_err_set(err, QN_ERR_UNSUPPORTED, "tensor '%s' has type %s, which quern can't convert",
                          qn_str_show(t->name, shown), t->type_name);
    memcpy(o->name, t->name.p, t->name.n); /* both hold QN_TENSOR_NAME_MAX */
    o->n_dims = t->n_dims;
    memcpy(o->dims, t->dims, sizeof o->dims);
    o->cols = (size_t)t->dims[t->n_dims - 1];
    o->rows = 1;
    for (uint32_t i = 0; i + 1 < t->n_dims; i++) o->rows *= t->dims[i]; /* fits: bytes do */
    o->type = t->type;
    o->data = t->data;
    o->bytes = t->bytes;
    return QN_OK;
}

static int add_tensors(struct qn_save_source *s, struct qn_err *err) {
    size_t n = s->gguf.dir.n;
    const struct qn_tensor **order = calloc(n + 1, sizeof(struct qn_tensor *));
    if (!order) return no_memory(err);
    for (size_t i = 0; i < n; i++) order[i] = &s->gguf.dir.t[i];
    qsort(order, n, sizeof(struct qn_tensor *), by_data);
    int rc = QN_OK;
    for (size_t i = 0; i < n && rc == QN_OK; i++) rc = add_tensor(s, order[i], err);
    free(order);
    return rc;
}

static bool begins(struct qn_str s, const char *with) {
    size_t n = strlen(with);
    return s.n >= n && memcmp(s.p, with, n) == 0;
}

static int copy_metadata(struct qn_save_source *s, struct qn_err *err) {
    const struct qn_gguf_kv **order = calloc(s->gguf.n_kv + 1, sizeof(struct qn_gguf_kv *));
    if (!order) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the metadata");
    for (size_t i = 0; i < s->gguf.n_kv; i++) order[i] = &s->gguf.kv[i];
    qsort(order, s->gguf.n_kv, sizeof(struct qn_gguf_kv *), kv_by_data);
    s->meta.alignment = s->gguf.alignment;
    for (size_t i = 0; i < s->gguf.n_kv; i++) {
        struct qn_str key = order[i]->key;
        if (!qn_str_is(key, "general.file_type") && !qn_str_is(key, "general.quantization_version") &&
            !begins(key, "split."))
            qn_gguf_put_kv(&s->meta, order[i]);
    }
    free(order);
    return QN_OK;
}

/* Checks the whole file as loading does; takes what the choice of types rests on. */
static int check(struct qn_save_source *s, struct qn_err *err) {
    struct qn_load_options opt = {.spec_only = true};
    struct qn_str arch;
    s->ckpt = calloc(1, sizeof *s->ckpt);
    if (!s->ckpt) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the checkpoint");
    int rc = qn_open_gguf(s->map.data, s->map.size, &opt, s->ckpt, err);
    if (rc != QN_OK) return rc;
    s->layers = s->ckpt->spec.layers;
    s->heads = s->ckpt->spec.heads;
    s->kv_heads = s->ckpt->spec.attn[0].kv_heads;
    s->experts = s->ckpt->spec.ffn[0].experts;
    if (qn_gguf_str(&s->gguf, "general.architecture", &arch, NULL) == QN_OK)
        snprintf(s->arch, sizeof s->arch, "%.*s", (int)(arch.n < 23 ? arch.n : 23), arch.p);
    return QN_OK;
}

int qn_save_from_gguf(const char *path, struct qn_save_source *s, struct qn_err *err) {
    int rc = qn_mapfile_open(&s->map, path, err);
    if (rc == QN_OK) rc = qn_gguf_parse(s->map.data, s->map.size, &s->gguf, err);
    if (rc == QN_OK) rc = check(s, err);
    if (rc == QN_OK) rc = add_tensors(s, err);
    return rc == QN_OK ? copy_metadata(s, err) : rc;
}
