/* GGUF parser. Order of the file: header, key/values, tensor infos, padding, tensor data. */
#include "model/load/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"

#define KEY_MAX        65535 /* the format's own limit */
#define ALIGNMENT_MAX  65536
#define KV_MIN_BYTES   13 /* key length 8, type 4, value >= 1 */
#define INFO_MIN_BYTES 32 /* name length 8, n_dims 4, one dim 8, type 4, offset 8 */

static const uint8_t scalar_bytes[QN_GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
static const char *const type_names[QN_GGUF_TYPE_COUNT] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};

/* Every ggml tensor type with a known block, by its number; type QN_TYPE_COUNT: refused only when needed. */
static const struct ggml_type {
    uint32_t id;
    enum qn_type type;
    const char *name;
    uint32_t block, bytes;
} ggml_types[] = {
    {0, QN_F32, "F32", 1, 4},
    {1, QN_F16, "F16", 1, 2},
    {2, QN_Q4_0, "Q4_0", 32, 18},
    {3, QN_Q4_1, "Q4_1", 32, 20},
    {6, QN_Q5_0, "Q5_0", 32, 22},
    {7, QN_Q5_1, "Q5_1", 32, 24},
    {8, QN_Q8_0, "Q8_0", 32, 34},
    {9, QN_TYPE_COUNT, "Q8_1", 32, 36},
    {10, QN_TYPE_COUNT, "Q2_K", 256, 84},
    {11, QN_TYPE_COUNT, "Q3_K", 256, 110},
    {12, QN_Q4_K, "Q4_K", 256, 144},
    {13, QN_Q5_K, "Q5_K", 256, 176},
    {14, QN_Q6_K, "Q6_K", 256, 210},
    {15, QN_TYPE_COUNT, "Q8_K", 256, 292},
    {16, QN_TYPE_COUNT, "IQ2_XXS", 256, 66},
    {17, QN_TYPE_COUNT, "IQ2_XS", 256, 74},
    {18, QN_TYPE_COUNT, "IQ3_XXS", 256, 98},
    {19, QN_TYPE_COUNT, "IQ1_S", 256, 50},
    {20, QN_TYPE_COUNT, "IQ4_NL", 32, 18},
    {21, QN_TYPE_COUNT, "IQ3_S", 256, 110},
    {22, QN_TYPE_COUNT, "IQ2_S", 256, 82},
    {23, QN_TYPE_COUNT, "IQ4_XS", 256, 136},
    {24, QN_TYPE_COUNT, "I8", 1, 1},
    {25, QN_TYPE_COUNT, "I16", 1, 2},
    {26, QN_TYPE_COUNT, "I32", 1, 4},
    {27, QN_TYPE_COUNT, "I64", 1, 8},
    {28, QN_TYPE_COUNT, "F64", 1, 8},
    {29, QN_TYPE_COUNT, "IQ1_M", 256, 56},
    {30, QN_BF16, "BF16", 1, 2},
    {34, QN_TYPE_COUNT, "TQ1_0", 256, 54},
    {35, QN_TYPE_COUNT, "TQ2_0", 256, 66},
    {39, QN_TYPE_COUNT, "MXFP4", 32, 17},
};

/* ---- header and key/values ---- */

static void parse_header(struct qn_reader *r, struct qn_gguf *g, uint64_t *n_tensors, uint64_t *n_kv) {
    const uint8_t *magic = qn_reader_bytes(r, 4, "the magic");
    if (!magic) return;
    if (memcmp(magic, "GGUF", 4) != 0) {
        qn_reader_fail(r, "not a GGUF file: the magic is missing");
        return;
    }
    g->version = qn_reader_u32(r, "the version");
    if (r->status != QN_OK) return;
    if (g->version != 0 && (g->version & 0xffff) == 0) {
        r->status = qn_err_set(r->err, QN_ERR_UNSUPPORTED,
                               "big-endian GGUF is not supported; convert the file to little-endian");
        return;
    }
    if (g->version != 2 && g->version != 3) {
        r->status =
            qn_err_set(r->err, QN_ERR_UNSUPPORTED,
                       "GGUF version %" PRIu32 " is not supported (versions 2 and 3 are)", g->version);
        return;
    }
    *n_tensors = qn_reader_u64(r, "the tensor count");
    *n_kv = qn_reader_u64(r, "the metadata count");
    if (qn_reader_fits(r, *n_tensors, INFO_MIN_BYTES, "tensors"))
        (void)qn_reader_fits(r, *n_kv, KV_MIN_BYTES, "metadata keys");
}

static void parse_elements(struct qn_reader *r, const struct qn_gguf_kv *kv) {
    char s[64];
    if (kv->type == QN_GGUF_STRING) {
        if (!qn_reader_fits(r, kv->count, 8, "strings")) return;
        for (uint64_t i = 0; i < kv->count && r->status == QN_OK; i++)
            (void)qn_reader_string(r, UINT64_MAX, "a string of the metadata");
        return;
    }
    size_t bytes, each = scalar_bytes[kv->type];
    if (!qn_reader_fits(r, kv->count, each, "array elements")) return;
    if (!qn_size_mul((size_t)kv->count, each, &bytes)) return;
    const uint8_t *p = qn_reader_bytes(r, bytes, "a metadata value");
    if (p && kv->type == QN_GGUF_BOOL) {
        for (uint64_t i = 0; i < kv->count; i++) {
            if (p[i] > 1) {
                qn_reader_fail(r, "key '%s': a bool is neither 0 nor 1", qn_str_show(kv->key, s));
                return;
            }
        }
    }
}

static void parse_kv(struct qn_reader *r, struct qn_gguf_kv *kv) {
    char s[64];
    kv->key = qn_reader_string(r, KEY_MAX, "a metadata key");
    if (r->status == QN_OK && kv->key.n == 0) qn_reader_fail(r, "a metadata key is empty");
    uint32_t type = qn_reader_u32(r, "a value's type");
    kv->count = 1;
    if (r->status == QN_OK && type == QN_GGUF_ARRAY) {
        kv->array = true;
        type = qn_reader_u32(r, "an array's element type");
        kv->count = qn_reader_u64(r, "an array's length");
        if (r->status == QN_OK && type == QN_GGUF_ARRAY)
            qn_reader_fail(r, "key '%s': arrays of arrays are not allowed", qn_str_show(kv->key, s));
    }
    if (r->status == QN_OK && type >= QN_GGUF_TYPE_COUNT)
        qn_reader_fail(r, "key '%s': unknown value type %" PRIu32, qn_str_show(kv->key, s), type);
    if (r->status != QN_OK) return;
    kv->type = (enum qn_gguf_type)type;
    kv->data = r->data + r->pos;
    parse_elements(r, kv);
}

static int by_key(const void *a, const void *b) {
    return qn_str_compare(((const struct qn_gguf_kv *)a)->key, ((const struct qn_gguf_kv *)b)->key);
}

static int parse_metadata(struct qn_reader *r, struct qn_gguf *g, uint64_t n_kv) {
    char s[64];
    if (n_kv == 0) return QN_OK;
    g->kv = calloc((size_t)n_kv, sizeof *g->kv);
    if (!g->kv) return qn_err_set(r->err, QN_ERR_NOMEM, "out of memory for the metadata");
    g->n_kv = (size_t)n_kv;
    for (size_t i = 0; i < g->n_kv && r->status == QN_OK; i++) parse_kv(r, &g->kv[i]);
    if (r->status != QN_OK) return r->status;
    qsort(g->kv, g->n_kv, sizeof *g->kv, by_key);
    for (size_t i = 1; i < g->n_kv; i++)
        if (by_key(&g->kv[i - 1], &g->kv[i]) == 0)
            return qn_reader_fail(r, "metadata key '%s' occurs twice", qn_str_show(g->kv[i].key, s));
    return QN_OK;
}

static int read_alignment(struct qn_gguf *g, struct qn_err *err) {
    uint64_t a = 32;
    const struct qn_gguf_kv *kv = qn_gguf_find(g, "general.alignment");
    if (kv && (kv->array || kv->type != QN_GGUF_U32))
        return qn_err_param(err, QN_ERR_FORMAT, "general.alignment", "general.alignment must be a u32");
    if (kv) a = qn_load_u32(kv->data);
    if (a == 0 || (a & (a - 1)) != 0 || a > ALIGNMENT_MAX)
        return qn_err_param(err, QN_ERR_FORMAT, "general.alignment",
                            "general.alignment is %" PRIu64 ", not a power of two of at most %d", a,
                            ALIGNMENT_MAX);
    g->alignment = (size_t)a;
    return QN_OK;
}

/* ---- tensor infos ---- */

static const struct ggml_type *ggml_type_of(uint32_t id) {
    for (size_t i = 0; i < sizeof ggml_types / sizeof *ggml_types; i++)
        if (ggml_types[i].id == id) return &ggml_types[i];
    return NULL;
}

/* Bytes of a tensor; false on overflow or when rows are not whole blocks. dims: innermost first, as stored.
 */
static bool tensor_bytes(const struct ggml_type *type, const uint64_t *dims, uint32_t n_dims, size_t *out) {
    if (dims[0] % type->block != 0) return false;
    size_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++)
        if (dims[i] > SIZE_MAX || !qn_size_mul(n, (size_t)dims[i], &n)) return false;
    /* Elements are also counted in 64 bits elsewhere: keep room for a sign. */
    if (n > (size_t)INT64_MAX) return false;
    return qn_size_mul(n / type->block, type->bytes, out);
}

static void parse_dims(struct qn_reader *r, struct qn_tensor *t, uint64_t stored[4]) {
    char s[64];
    t->n_dims = qn_reader_u32(r, "a tensor's dimension count");
    if (r->status == QN_OK && (t->n_dims < 1 || t->n_dims > 4))
        qn_reader_fail(r, "tensor '%s' has %" PRIu32 " dimensions, 1 to 4 are allowed",
                       qn_str_show(t->name, s), t->n_dims);
    if (r->status != QN_OK) return;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        stored[i] = qn_reader_u64(r, "a tensor's dimension");
        if (r->status == QN_OK && stored[i] == 0)
            qn_reader_fail(r, "tensor '%s' has a dimension of 0", qn_str_show(t->name, s));
        t->dims[t->n_dims - 1 - i] = stored[i];
    }
}

/* One tensor info; its data pointer is set later, when the data section's start is known. */
static void parse_info(struct qn_reader *r, const struct qn_gguf *g, struct qn_tensor *t, uint64_t *offset) {
    char s[64];
    uint64_t stored[4] = {0};
    t->name = qn_reader_string(r, QN_TENSOR_NAME_MAX, "a tensor's name");
    if (r->status == QN_OK && t->name.n == 0) qn_reader_fail(r, "a tensor's name is empty");
    parse_dims(r, t, stored);
    uint32_t id = qn_reader_u32(r, "a tensor's type");
    *offset = qn_reader_u64(r, "a tensor's offset");
    if (r->status != QN_OK) return;
    qn_str_show(t->name, s);
    const struct ggml_type *type = ggml_type_of(id);
    if (!type) {
        r->status =
            qn_err_set(r->err, QN_ERR_UNSUPPORTED, "tensor '%s' has the unknown type %" PRIu32, s, id);
        return;
    }
    t->type = type->type;
    t->type_name = type->name;
    if (stored[0] % type->block != 0)
        qn_reader_fail(r,
                       "tensor '%s': rows of %" PRIu64 " elements are not whole blocks of %s (%" PRIu32 ")",
                       s, stored[0], type->name, type->block);
    else if (!tensor_bytes(type, stored, t->n_dims, &t->bytes))
        qn_reader_fail(r, "tensor '%s': its size overflows", s);
    else if (*offset % g->alignment != 0)
        qn_reader_fail(r, "tensor '%s': offset %" PRIu64 " is not a multiple of the alignment", s, *offset);
}

static int by_data(const void *a, const void *b) {
    const struct qn_tensor *x = a, *y = b;
    return x->data < y->data ? -1 : x->data > y->data;
}

/* Places each tensor in the data section and refuses overlaps. offsets[i] belongs to dir.t[i]. */
static int place_tensors(struct qn_reader *r, struct qn_gguf *g, const uint64_t *offsets) {
    char s[64];
    struct qn_tensor *t = g->dir.t;
    size_t base;
    if (!qn_size_align(r->pos, g->alignment, &base))
        return qn_reader_fail(r, "the data section's start overflows");
    if (base > r->size) return qn_reader_fail(r, "the file ends before the tensor data");
    size_t room = r->size - base;
    for (size_t i = 0; i < g->dir.n; i++) {
        if (offsets[i] > room || t[i].bytes > room - (size_t)offsets[i])
            return qn_reader_fail(r,
                                  "tensor '%s' reaches beyond the end of the file (offset %" PRIu64
                                  ", %zu bytes, %zu in the data section)",
                                  qn_str_show(t[i].name, s), offsets[i], t[i].bytes, room);
        t[i].data = r->data + base + (size_t)offsets[i];
    }
    if (g->dir.n) qsort(t, g->dir.n, sizeof *t, by_data);
    for (size_t i = 1; i < g->dir.n; i++) {
        if ((size_t)(t[i].data - t[i - 1].data) < t[i - 1].bytes) {
            char s2[64];
            return qn_reader_fail(r, "tensors '%s' and '%s' overlap", qn_str_show(t[i - 1].name, s),
                                  qn_str_show(t[i].name, s2));
        }
    }
    return QN_OK;
}

static int parse_tensors(struct qn_reader *r, struct qn_gguf *g, uint64_t n) {
    if (n == 0) return QN_OK;
    uint64_t *offsets = calloc((size_t)n, sizeof *offsets);
    if (!offsets) return qn_err_set(r->err, QN_ERR_NOMEM, "out of memory for the tensor directory");
    int rc = QN_OK;
    for (uint64_t i = 0; i < n && rc == QN_OK; i++) {
        struct qn_tensor t = {0};
        parse_info(r, g, &t, &offsets[i]);
        rc = r->status == QN_OK ? qn_tensor_dir_add(&g->dir, &t, r->err) : r->status;
    }
    if (rc == QN_OK) rc = place_tensors(r, g, offsets);
    free(offsets);
    return rc;
}

int qn_gguf_parse(const void *data, size_t size, struct qn_gguf *g, struct qn_err *err) {
    struct qn_reader r;
    uint64_t n_tensors = 0, n_kv = 0;
    *g = (struct qn_gguf){0};
    qn_reader_init(&r, data, size, err);
    parse_header(&r, g, &n_tensors, &n_kv);
    int rc = r.status;
    if (rc == QN_OK) rc = parse_metadata(&r, g, n_kv);
    if (rc == QN_OK) rc = read_alignment(g, err);
    if (rc == QN_OK) rc = parse_tensors(&r, g, n_tensors);
    if (rc == QN_OK) rc = qn_tensor_dir_index(&g->dir, err);
    if (rc != QN_OK) qn_gguf_free(g);
    return rc;
}

void qn_gguf_free(struct qn_gguf *g) {
    free(g->kv);
    qn_tensor_dir_free(&g->dir);
    *g = (struct qn_gguf){0};
}

/* ---- accessors ---- */

uint32_t qn_gguf_type_id(enum qn_type type) {
    for (size_t i = 0; i < sizeof ggml_types / sizeof *ggml_types; i++)
        if (ggml_types[i].type == type) return ggml_types[i].id;
    return 0;
}

size_t qn_gguf_kv_bytes(const struct qn_gguf_kv *kv) {
    if (kv->type != QN_GGUF_STRING) return (size_t)kv->count * scalar_bytes[kv->type];
    size_t n = 0; /* all of it was checked to lie in the file */
    for (uint64_t i = 0; i < kv->count; i++) n += 8 + (size_t)qn_load_u64(kv->data + n);
    return n;
}

const struct qn_gguf_kv *qn_gguf_find(const struct qn_gguf *g, const char *key) {
    struct qn_gguf_kv k = {.key = {key, strlen(key)}};
    return g->n_kv ? bsearch(&k, g->kv, g->n_kv, sizeof k, by_key) : NULL;
}

static int wrong_type(const struct qn_gguf_kv *kv, const char *key, const char *want, struct qn_err *err) {
    return qn_err_param(err, QN_ERR_FORMAT, key, "metadata key '%s' is %s%s, expected %s", key,
                        kv->array ? "an array of " : "of type ", type_names[kv->type], want);
}

/* One integer element; false when the type is none or the value is negative. */
static bool load_integer(enum qn_gguf_type type, const uint8_t *p, uint64_t *out) {
    switch (type) {
    case QN_GGUF_I8:
    case QN_GGUF_U8:
        *out = p[0];
        return type == QN_GGUF_U8 || p[0] < 0x80;
    case QN_GGUF_I16:
    case QN_GGUF_U16:
        *out = (uint64_t)p[0] | (uint64_t)p[1] << 8;
        return type == QN_GGUF_U16 || p[1] < 0x80;
    case QN_GGUF_I32:
    case QN_GGUF_U32:
        *out = qn_load_u32(p);
        return type == QN_GGUF_U32 || p[3] < 0x80;
    case QN_GGUF_I64:
    case QN_GGUF_U64:
        *out = qn_load_u64(p);
        return type == QN_GGUF_U64 || p[7] < 0x80;
    default:
        return false;
    }
}

int qn_gguf_u64(const struct qn_gguf *g, const char *key, uint64_t *out, struct qn_err *err) {
    const struct qn_gguf_kv *kv = qn_gguf_find(g, key);
    uint64_t first = 0;
    if (!kv) return QN_GGUF_ABSENT;
    if (kv->count == 0)
        return qn_err_param(err, QN_ERR_FORMAT, key, "metadata key '%s' is an empty array", key);
    for (uint64_t i = 0; i < kv->count; i++) {
        uint64_t v;
        /* In bounds: the parser has checked count elements of this type. */
        if (!load_integer(kv->type, kv->data + i * scalar_bytes[kv->type], &v))
            return wrong_type(kv, key, "an integer >= 0", err);
        if (i == 0) first = v;
        if (v != first)
            return qn_err_param(err, QN_ERR_UNSUPPORTED, key, "metadata key '%s' differs between layers",
                                key);
    }
    *out = first;
    return QN_OK;
}

int qn_gguf_f32(const struct qn_gguf *g, const char *key, float *out, struct qn_err *err) {
    const struct qn_gguf_kv *kv = qn_gguf_find(g, key);
    double v;
    if (!kv) return QN_GGUF_ABSENT;
    if (kv->array || (kv->type != QN_GGUF_F32 && kv->type != QN_GGUF_F64))
        return wrong_type(kv, key, "a number", err);
    if (kv->type == QN_GGUF_F32) {
        v = (double)qn_load_f32(kv->data);
    } else {
        uint64_t u = qn_load_u64(kv->data);
        memcpy(&v, &u, sizeof v);
    }
    if (!isfinite(v) || !isfinite((float)v))
        return qn_err_param(err, QN_ERR_FORMAT, key, "metadata key '%s' is not a finite number", key);
    *out = (float)v;
    return QN_OK;
}

int qn_gguf_bool(const struct qn_gguf *g, const char *key, bool *out, struct qn_err *err) {
    const struct qn_gguf_kv *kv = qn_gguf_find(g, key);
    if (!kv) return QN_GGUF_ABSENT;
    if (kv->array || kv->type != QN_GGUF_BOOL) return wrong_type(kv, key, "a bool", err);
    *out = kv->data[0] != 0;
    return QN_OK;
}

int qn_gguf_str(const struct qn_gguf *g, const char *key, struct qn_str *out, struct qn_err *err) {
    const struct qn_gguf_kv *kv = qn_gguf_find(g, key);
    if (!kv) return QN_GGUF_ABSENT;
    if (kv->array || kv->type != QN_GGUF_STRING) return wrong_type(kv, key, "a string", err);
    *out = (struct qn_str){(const char *)kv->data + 8, (size_t)qn_load_u64(kv->data)};
    return QN_OK;
}

int qn_gguf_array(const struct qn_gguf *g, const char *key, enum qn_gguf_type type, const uint8_t **data,
                  uint64_t *count, struct qn_err *err) {
    const struct qn_gguf_kv *kv = qn_gguf_find(g, key);
    if (!kv) return QN_GGUF_ABSENT;
    if (!kv->array || kv->type != type || scalar_bytes[type] == 0) {
        char want[32];
        snprintf(want, sizeof want, "an array of %s", type_names[type]);
        return wrong_type(kv, key, want, err);
    }
    *data = kv->data;
    *count = kv->count;
    return QN_OK;
}

int qn_gguf_strings(const struct qn_gguf *g, const char *key, struct qn_str **out, uint64_t *count,
                    struct qn_err *err) {
    const struct qn_gguf_kv *kv = qn_gguf_find(g, key);
    if (!kv) return QN_GGUF_ABSENT;
    if (!kv->array || kv->type != QN_GGUF_STRING) return wrong_type(kv, key, "an array of strings", err);
    struct qn_str *s = calloc(kv->count ? (size_t)kv->count : 1, sizeof *s);
    if (!s) return qn_err_set(err, QN_ERR_NOMEM, "out of memory for '%s'", key);
    const uint8_t *p = kv->data;
    for (uint64_t i = 0; i < kv->count; i++) {
        s[i] = (struct qn_str){(const char *)p + 8, (size_t)qn_load_u64(p)};
        p += 8;
        p += s[i].n;
    }
    *out = s;
    *count = kv->count;
    return QN_OK;
}
