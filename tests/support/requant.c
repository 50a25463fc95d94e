/* GGUF in, GGUF out, matrices dequantised (see requant.h). Data flow: mapped source -> header and metadata
 * copied, tensor directory rewritten with new types and offsets -> one row at a time through
 * qn_type_row_to_f32. Thread: any. */
#include "tests/support/requant.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/mem.h"

enum { ALIGN = 32, GGUF_STRING = 8, GGUF_ARRAY = 9 };

/* The source; `at` walks it. Reading past the end sets bad and gives zeros. */
struct source {
    const uint8_t *bytes;
    size_t size, at;
    bool bad;
};

struct tensor {
    const uint8_t *name;
    size_t name_bytes; /* with its length word */
    uint32_t n_dims;
    uint64_t dims[4], offset, rows, cols;
    enum qn_type type, to;
};

static const uint8_t *skip(struct source *s, uint64_t n) {
    if (s->bad || n > s->size - s->at) {
        s->bad = true;
        return NULL;
    }
    const uint8_t *p = s->bytes + s->at;
    s->at += (size_t)n;
    return p;
}

static uint64_t number(struct source *s, size_t n) {
    uint64_t v = 0;
    const uint8_t *p = skip(s, n);
    if (p) memcpy(&v, p, n);
    return v;
}

static void skip_value(struct source *s, uint64_t type) {
    static const uint8_t sizes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type == GGUF_STRING) {
        skip(s, number(s, 8));
    } else if (type == GGUF_ARRAY) {
        uint64_t item = number(s, 4), n = number(s, 8);
        if (item == GGUF_STRING)
            for (; n > 0 && !s->bad; n--) skip(s, number(s, 8));
        else if (item < sizeof sizes && n < s->size)
            skip(s, n * sizes[item]);
        else
            s->bad = true;
    } else if (type < sizeof sizes) {
        skip(s, sizes[type]);
    } else {
        s->bad = true;
    }
}

static const uint8_t file_types[QN_TYPE_COUNT] = {
    [QN_F32] = 0,  [QN_F16] = 1,  [QN_BF16] = 30, [QN_Q8_0] = 8,  [QN_Q4_0] = 2, [QN_Q4_1] = 3,
    [QN_Q5_0] = 6, [QN_Q5_1] = 7, [QN_Q4_K] = 12, [QN_Q5_K] = 13, [QN_Q6_K] = 14};

static void read_tensor(struct source *s, struct tensor *t, enum qn_type to) {
    size_t start = s->at;
    skip(s, number(s, 8));
    t->name = s->bytes + start;
    t->name_bytes = s->at - start;
    t->n_dims = (uint32_t)number(s, 4);
    t->rows = t->cols = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        t->dims[i % 4] = number(s, 8);
        if (i == 0)
            t->cols = t->dims[0];
        else
            t->rows *= t->dims[i % 4];
    }
    uint64_t type = number(s, 4);
    t->offset = number(s, 8);
    t->type = QN_TYPE_COUNT;
    for (unsigned i = 0; i < QN_TYPE_COUNT; i++)
        if (file_types[i] == type) t->type = (enum qn_type)i;
    if (t->type == QN_TYPE_COUNT || t->n_dims == 0 || t->n_dims > 4) s->bad = true;
    t->to = t->type == QN_F32 ? QN_F32 : to;
}

static void put(FILE *f, uint64_t v, size_t n) {
    fwrite(&v, 1, n, f);
}

static void pad(FILE *f) {
    while (ftell(f) % ALIGN != 0) fputc(0, f);
}

static bool write_rows(FILE *f, const struct source *s, size_t data, const struct tensor *t) {
    size_t row = 0;
    if (!qn_type_row_bytes(t->type, (size_t)t->cols, &row)) return false;
    if (data > s->size || t->offset > s->size - data || t->rows > (s->size - data - t->offset) / row)
        return false;
    float *x = malloc((size_t)t->cols * sizeof *x);
    uint16_t *h = malloc((size_t)t->cols * sizeof *h);
    for (size_t r = 0; x && h && r < t->rows; r++) {
        qn_type_row_to_f32(t->type, s->bytes + data + t->offset + r * row, x, (size_t)t->cols);
        for (size_t i = 0; i < t->cols && t->to != QN_F32; i++)
            h[i] = t->to == QN_F16 ? qn_f32_to_f16(x[i]) : qn_f32_to_bf16(x[i]);
        if (t->to != QN_F32)
            fwrite(h, sizeof *h, (size_t)t->cols, f);
        else
            fwrite(x, sizeof *x, (size_t)t->cols, f);
    }
    bool ok = x && h && !ferror(f);
    free(x);
    free(h);
    pad(f);
    return ok;
}

/* Directory and data; the source stands behind the metadata. */
static bool write_tensors(FILE *f, struct source *s, struct tensor *tensors, size_t n, enum qn_type to) {
    for (size_t i = 0; i < n; i++) read_tensor(s, &tensors[i], to);
    size_t data = 0;
    if (s->bad || !qn_size_align(s->at, ALIGN, &data)) return false;
    uint64_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        const struct tensor *t = &tensors[i];
        fwrite(t->name, 1, t->name_bytes, f);
        put(f, t->n_dims, 4);
        fwrite(t->dims, sizeof t->dims[0], t->n_dims, f);
        put(f, file_types[t->to], 4);
        put(f, offset, 8);
        uint64_t bytes = t->rows * t->cols * (t->to == QN_F32 ? 4 : 2);
        offset += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    }
    pad(f);
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) ok = write_rows(f, s, data, &tensors[i]);
    return ok;
}

static bool rewrite(struct source *s, const char *path, enum qn_type to) {
    skip(s, 8); /* magic and version */
    uint64_t n_tensors = number(s, 8), n_values = number(s, 8);
    for (; n_values > 0 && !s->bad; n_values--) {
        skip(s, number(s, 8));
        skip_value(s, number(s, 4));
    }
    if (s->bad || n_tensors > 100000) return false;
    FILE *f = fopen(path, "wb");
    struct tensor *tensors = calloc((size_t)n_tensors + 1, sizeof *tensors);
    bool ok = f && tensors;
    if (ok) {
        fwrite(s->bytes, 1, s->at, f);
        ok = write_tensors(f, s, tensors, (size_t)n_tensors, to);
    }
    free(tensors);
    if (f && fclose(f) != 0) ok = false;
    return ok;
}

bool qn_requant(const char *from, const char *path, enum qn_type to) {
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size <= 0) {
        if (fd >= 0) close(fd);
        return false;
    }
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return false;
    struct source s = {.bytes = map, .size = (size_t)st.st_size};
    bool ok = rewrite(&s, path, to);
    munmap(map, (size_t)st.st_size);
    if (!ok) unlink(path);
    return ok;
}
