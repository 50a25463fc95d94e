/* Sources: opening by kind, rows, freeing. See source.h. */
#include "model/save/source.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct qn_save_tensor *qn_save_add(struct qn_save_source *s) {
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap : 128, bytes;
        struct qn_save_tensor *grown = NULL;
        if (qn_size_mul(cap, 2, &cap) && qn_size_mul(cap, sizeof *grown, &bytes))
            grown = realloc(s->t, bytes);
        if (!grown) return NULL;
        s->t = grown;
        s->cap = cap;
    }
    s->t[s->n] = (struct qn_save_tensor){.n_dims = 0};
    return &s->t[s->n++];
}

/* Row of the matrix that a file's row f is: in the file, pairs that are rotated together are neighbours. */
static uint32_t unpaired(const struct qn_save_tensor *t, uint32_t f) {
    if (t->rot == 0) return f;
    uint32_t in = f % t->block;
    return in < t->rot ? f - in + in / 2 + (in % 2) * (t->rot / 2) : f;
}

void qn_save_row(const struct qn_save_tensor *t, uint64_t r, float *dst) {
    if (t->data) {
        size_t row_bytes = t->cols / qn_type_block(t->type) * qn_type_block_bytes(t->type);
        qn_type_row_to_f32(t->type, t->data + (size_t)r * row_bytes, dst, t->cols);
    } else if (t->v) {
        memcpy(dst, t->v + (size_t)r * t->cols, t->cols * sizeof *dst);
    } else {
        const struct qn_matrix *const *m = t->parts;
        for (; r >= (*m)->rows; m++) r -= (*m)->rows;
        qn_matrix_get_row(*m, unpaired(t, (uint32_t)r), dst);
    }
}

static bool is_gguf(const char *path) {
    struct stat st;
    struct qn_mapfile m;
    if (stat(path, &st) != 0 || !S_ISREG(st.st_mode) || qn_mapfile_open(&m, path, NULL) != QN_OK)
        return false;
    bool yes = m.size >= 4 && memcmp(m.data, "GGUF", 4) == 0;
    qn_mapfile_close(&m);
    return yes;
}

int qn_save_source_open(const char *path, const struct qn_load_options *opt, struct qn_save_source *s,
                        struct qn_err *err) {
    *s = (struct qn_save_source){0};
    qn_gguf_writer_init(&s->meta, 32);
    return is_gguf(path) ? qn_save_from_gguf(path, s, err) : qn_save_from_checkpoint(path, opt, s, err);
}

void qn_save_source_close(struct qn_save_source *s) {
    free(s->t);
    qn_gguf_writer_free(&s->meta);
    qn_gguf_free(&s->gguf);
    qn_mapfile_close(&s->map);
    qn_checkpoint_free(s->ckpt);
    qn_mem_free_all(&s->owned);
    *s = (struct qn_save_source){0};
}
