/* safetensors parser: u64 header length, JSON header, tensor bytes. */
#include "model/load/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/mem.h"
#include "model/load/json.h"
#include "model/load/reader.h"

#define HEADER_MAX     100000000u
#define SHARDS_MAX     1024
#define SHARD_NAME_MAX 128

static const struct qn_json_limits header_limits = {.depth = 4, .nodes = 4000000};
static const struct qn_json_limits index_limits = {.depth = 4, .nodes = 4000000};

static const struct dtype {
    const char *name;
    enum qn_type type;
    unsigned bytes;
} dtypes[] = {
    {"F32", QN_F32, 4},
    {"F16", QN_F16, 2},
    {"BF16", QN_BF16, 2},
    {"F64", QN_TYPE_COUNT, 8},
    {"I64", QN_TYPE_COUNT, 8},
    {"U64", QN_TYPE_COUNT, 8},
    {"I32", QN_TYPE_COUNT, 4},
    {"U32", QN_TYPE_COUNT, 4},
    {"I16", QN_TYPE_COUNT, 2},
    {"U16", QN_TYPE_COUNT, 2},
    {"I8", QN_TYPE_COUNT, 1},
    {"U8", QN_TYPE_COUNT, 1},
    {"BOOL", QN_TYPE_COUNT, 1},
    {"F8_E4M3", QN_TYPE_COUNT, 1},
    {"F8_E5M2", QN_TYPE_COUNT, 1},
    {"C64", QN_TYPE_COUNT, 8},
};

static int bad(struct qn_err *err, const char *tensor, const char *why) {
    char s[64];
    qn_str_show((struct qn_str){tensor, strlen(tensor)}, s);
    return qn_err_set(err, QN_ERR_FORMAT, "safetensors header: tensor '%s': %s", s, why);
}

static int check_metadata(const json_t *meta, struct qn_err *err) {
    const char *key;
    json_t *v;
    if (!json_is_object(meta))
        return qn_err_set(err, QN_ERR_FORMAT, "safetensors header: __metadata__ is not an object");
    json_object_foreach((json_t *)(uintptr_t)meta, key, v) {
        if (!json_is_string(v))
            return qn_err_set(err, QN_ERR_FORMAT,
                              "safetensors header: __metadata__ holds something else than strings");
    }
    return QN_OK;
}

/* "dtype" and "shape" of one entry; t->bytes becomes what they ask for. */
static int read_shape(const char *name, const json_t *dtype, const json_t *shape, struct qn_tensor *t,
                      struct qn_err *err) {
    size_t n = 1, i;
    json_t *v;
    if (!json_is_string(dtype)) return bad(err, name, "'dtype' is not a string");
    const struct dtype *d = NULL;
    for (i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (qn_str_is(qn_json_text(dtype), dtypes[i].name)) d = &dtypes[i];
    if (!d) return bad(err, name, "unknown 'dtype'");
    t->type = d->type;
    t->type_name = d->name;
    if (!json_is_array(shape)) return bad(err, name, "'shape' is not an array");
    if (json_array_size(shape) > QN_TENSOR_DIMS_MAX) return bad(err, name, "more than 8 dimensions");
    t->n_dims = (uint32_t)json_array_size(shape);
    json_array_foreach(shape, i, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return bad(err, name, "'shape' holds something else than integers >= 0");
        t->dims[i] = (uint64_t)json_integer_value(v);
        if (!qn_size_mul(n, (size_t)t->dims[i], &n))
            return bad(err, name, "the product of 'shape' overflows");
    }
    if (!qn_size_mul(n, d->bytes, &t->bytes)) return bad(err, name, "its size overflows");
    return QN_OK;
}

/* "data_offsets": [begin, end) within the data section of `room` bytes. */
static int read_offsets(const char *name, const json_t *offsets, const uint8_t *base, size_t room,
                        struct qn_tensor *t, struct qn_err *err) {
    const json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(b) || !json_is_integer(e) ||
        json_integer_value(b) < 0 || json_integer_value(e) < json_integer_value(b))
        return bad(err, name, "'data_offsets' is not [begin, end] with 0 <= begin <= end");
    uint64_t begin = (uint64_t)json_integer_value(b), end = (uint64_t)json_integer_value(e);
    if (end > room) return bad(err, name, "'data_offsets' reach beyond the end of the file");
    if (end - begin != t->bytes) return bad(err, name, "'data_offsets' do not match 'shape' and 'dtype'");
    t->data = base + (size_t)begin;
    return QN_OK;
}

static int add_entry(const char *name, const json_t *entry, const uint8_t *base, size_t room,
                     struct qn_tensor_dir *dir, struct qn_err *err) {
    struct qn_tensor t = {0};
    size_t len = strlen(name);
    if (len == 0 || len > QN_TENSOR_NAME_MAX)
        return bad(err, name, "its name is empty or longer than 255 bytes");
    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return bad(err, name, "not an object of 'dtype', 'shape' and 'data_offsets'");
    int rc = read_shape(name, json_object_get(entry, "dtype"), json_object_get(entry, "shape"), &t, err);
    if (rc != QN_OK) return rc;
    rc = read_offsets(name, json_object_get(entry, "data_offsets"), base, room, &t, err);
    if (rc != QN_OK) return rc;
    t.owned = strdup(name);
    if (!t.owned) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for a tensor's name");
    t.name = (struct qn_str){t.owned, len};
    return qn_tensor_dir_add(dir, &t, err);
}

static int by_data(const void *a, const void *b) {
    const struct qn_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* No holes, no overlap, nothing after the last tensor: a file has exactly one reading. */
static int check_contiguous(struct qn_tensor *t, size_t n, const uint8_t *base, size_t room,
                            struct qn_err *err) {
    size_t at = 0;
    if (n) qsort(t, n, sizeof *t, by_data);
    for (size_t i = 0; i < n; i++) {
        if ((size_t)(t[i].data - base) != at)
            return bad(err, t[i].owned,
                       (size_t)(t[i].data - base) < at ? "overlaps the tensor before it"
                                                       : "leaves a hole before it");
        if (!qn_size_add(at, t[i].bytes, &at)) return bad(err, t[i].owned, "its end overflows");
    }
    if (at != room)
        return qn_err_set(err, QN_ERR_FORMAT, "safetensors: %zu bytes after the last tensor", room - at);
    return QN_OK;
}

static int parse_header(const json_t *root, const uint8_t *base, size_t room, struct qn_tensor_dir *dir,
                        struct qn_err *err) {
    const char *name;
    json_t *entry;
    size_t first = dir->n;
    int rc = QN_OK;
    json_object_foreach((json_t *)(uintptr_t)root, name, entry) {
        rc = strcmp(name, "__metadata__") == 0 ? check_metadata(entry, err)
                                               : add_entry(name, entry, base, room, dir, err);
        if (rc != QN_OK) return rc;
    }
    /* An empty directory has no array to point into. */
    if (dir->n == first) return check_contiguous(NULL, 0, base, room, err);
    return check_contiguous(dir->t + first, dir->n - first, base, room, err);
}

int qn_safetensors_parse(const void *data, size_t size, struct qn_tensor_dir *dir, struct qn_err *err) {
    struct qn_reader r;
    json_t *root;
    qn_reader_init(&r, data, size, err);
    uint64_t n = qn_reader_u64(&r, "the safetensors header length");
    if (r.status == QN_OK && n > HEADER_MAX)
        qn_reader_fail(&r, "the safetensors header length is %" PRIu64 ", more than %u", n, HEADER_MAX);
    const uint8_t *text = qn_reader_bytes(&r, n, "the safetensors header");
    if (r.status == QN_OK && (n < 2 || text[0] != '{'))
        qn_reader_fail(&r, "the safetensors header does not start with '{'");
    if (r.status != QN_OK) return r.status;
    int rc = qn_json_parse((const char *)text, (size_t)n, "safetensors header", header_limits, &root, err);
    if (rc != QN_OK) return rc;
    rc = parse_header(root, r.data + r.pos, r.size - r.pos, dir, err);
    json_decref(root);
    return rc;
}

/* ---- files and shards ---- */

static int add_shard(struct qn_safetensors *s, const char *path, struct qn_err *err) {
    struct qn_mapfile m;
    int rc = qn_mapfile_open(&m, path, err);
    if (rc != QN_OK) return rc;
    size_t bytes;
    struct qn_mapfile *grown = NULL;
    if (qn_size_mul(s->n + 1, sizeof *grown, &bytes)) grown = realloc(s->shards, bytes);
    if (!grown) {
        qn_mapfile_close(&m);
        return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the shards");
    }
    s->shards = grown;
    s->shards[s->n++] = m;
    if (!qn_size_add(s->bytes, m.size, &s->bytes))
        return qn_err_set(err, QN_ERR_FORMAT, "the shards are too large");
    return qn_safetensors_parse(m.data, m.size, &s->dir, err);
}

/* A shard's name must stay inside the directory: one plain component ending in .safetensors. */
static bool plain_shard_name(const char *name) {
    size_t n = strlen(name);
    if (n > SHARD_NAME_MAX || n < 13 || name[0] == '.' || strcmp(name + n - 12, ".safetensors") != 0)
        return false;
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Opens each file that weight_map names, once. */
static int open_shards(struct qn_safetensors *s, const char *dir, json_t *map, struct qn_err *err) {
    const char *tensor;
    json_t *v;
    char path[PATH_MAX];
    size_t n = 0;
    const char **files = calloc(json_object_size(map) + 1, sizeof *files);
    if (!files) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for the index");
    int rc = QN_OK;
    json_object_foreach(map, tensor, v) {
        if (!json_is_string(v) || !plain_shard_name(json_string_value(v))) {
            rc = qn_err_set(err, QN_ERR_FORMAT,
                            "model.safetensors.index.json: not a plain file name in weight_map");
            break;
        }
        files[n++] = json_string_value(v);
    }
    if (n) qsort(files, n, sizeof *files, by_text);
    for (size_t i = 0; i < n && rc == QN_OK; i++) {
        if (i && strcmp(files[i], files[i - 1]) == 0) continue;
        if (s->n == SHARDS_MAX)
            rc = qn_err_set(err, QN_ERR_UNSUPPORTED, "more than %d shards", SHARDS_MAX);
        else if (snprintf(path, sizeof path, "%s/%s", dir, files[i]) >= (int)sizeof path)
            rc = qn_err_set(err, QN_ERR_IO, "a shard's path is too long");
        else
            rc = add_shard(s, path, err);
    }
    free(files);
    return rc;
}

static int open_index(struct qn_safetensors *s, const char *dir, const char *path, struct qn_err *err) {
    json_t *root;
    const char *tensor;
    json_t *v;
    int rc = qn_json_file(path, "model.safetensors.index.json", false, index_limits, &root, err);
    if (rc != QN_OK) return rc;
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        rc = qn_err_set(err, QN_ERR_FORMAT, "model.safetensors.index.json has no 'weight_map'");
    if (rc == QN_OK) rc = open_shards(s, dir, map, err);
    if (rc == QN_OK) rc = qn_tensor_dir_index(&s->dir, err);
    if (rc == QN_OK) {
        json_object_foreach(map, tensor, v) {
            if (qn_tensor_dir_find(&s->dir, tensor)) continue;
            char name[64];
            qn_str_show((struct qn_str){tensor, strlen(tensor)}, name);
            rc = qn_err_set(err, QN_ERR_FORMAT, "tensor '%s' of the index is in no shard", name);
            break;
        }
    }
    json_decref(root);
    return rc;
}

int qn_safetensors_open(const char *path, struct qn_safetensors *s, struct qn_err *err) {
    struct stat st;
    char file[PATH_MAX], index[PATH_MAX];
    *s = (struct qn_safetensors){0};
    if (stat(path, &st) != 0)
        return qn_err_set(err, QN_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    int rc;
    if (!S_ISDIR(st.st_mode)) {
        rc = add_shard(s, path, err);
        if (rc == QN_OK) rc = qn_tensor_dir_index(&s->dir, err);
    } else if (snprintf(index, sizeof index, "%s/model.safetensors.index.json", path) >= (int)sizeof index) {
        rc = qn_err_set(err, QN_ERR_IO, "the path is too long");
    } else if (snprintf(file, sizeof file, "%s/model.safetensors", path) > 0 && stat(file, &st) == 0) {
        rc = add_shard(s, file, err);
        if (rc == QN_OK) rc = qn_tensor_dir_index(&s->dir, err);
    } else if (stat(index, &st) == 0) {
        rc = open_index(s, path, index, err);
    } else {
        rc = qn_err_set(err, QN_ERR_IO, "'%s' holds neither model.safetensors nor its index", path);
    }
    if (rc != QN_OK) qn_safetensors_close(s);
    return rc;
}

void qn_safetensors_close(struct qn_safetensors *s) {
    qn_tensor_dir_free(&s->dir);
    for (size_t i = 0; i < s->n; i++) qn_mapfile_close(&s->shards[i]);
    free(s->shards);
    *s = (struct qn_safetensors){0};
}
