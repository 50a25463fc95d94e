/* Converting: see save.h. */
#include "model/save/save.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/save/mix.h"
#include "model/save/out_file.h"
#include "model/save/source.h"

#define SLAB_BYTES    ((size_t)8 << 20) /* of output, at least a row */
#define ITEM_ROWS     8                 /* rows of one item of the pool */
#define QUANT_VERSION 2                 /* ggml's, of its block layouts */
#define PAGE          4096              /* or part of one */
#define HALF_MAX      65504.0f

struct plan { /* one tensor */
    enum qn_type type;
    size_t row_bytes, bytes;
};

struct job {
    const struct qn_convert_options *opt;
    const struct qn_type_mix *mix;
    struct qn_save_source src;
    struct plan *plan; /* [src.n] */
    struct qn_out_file out;
    struct qn_convert_report *report;
    size_t total, done; /* tensor bytes */
    struct qn_err *err;
};

const char *qn_convert_types(void) {
    return qn_type_mix_names();
}

/* ---- plan ---- */

static void count(struct qn_convert_report *r, enum qn_type type, size_t bytes) {
    const char *name = qn_type_name(type);
    size_t i = 0;
    while (r->by_type[i].name && r->by_type[i].name != name) i++;
    r->by_type[i].name = name;
    r->by_type[i].tensors++;
    r->by_type[i].bytes += bytes;
}

static bool kept(const struct job *j, size_t i) {
    return j->src.t[i].data && j->src.t[i].type == j->plan[i].type;
}

static int plan_all(struct job *j) {
    j->plan = qn_mem_alloc_array(j->src.n, sizeof *j->plan);
    if (!j->plan) return qn_err_set(j->err, QN_ERR_NOMEM, "out of memory for the tensor list");
    for (size_t i = 0; i < j->src.n; i++) {
        const struct qn_save_tensor *t = &j->src.t[i];
        struct plan *p = &j->plan[i];
        bool fell_back;
        p->type = qn_type_mix_of(j->mix, &j->src, t, &fell_back);
        if (!qn_type_row_bytes(p->type, t->cols, &p->row_bytes) ||
            !qn_size_mul((size_t)t->rows, p->row_bytes, &p->bytes) ||
            !qn_size_add(j->total, p->bytes, &j->total))
            return qn_err_set(j->err, QN_ERR_UNSUPPORTED, "the size of tensor '%.200s' overflows", t->name);
        qn_gguf_put_tensor(&j->src.meta, t->name, p->type, t->dims, t->n_dims, p->bytes);
        count(j->report, p->type, p->bytes);
        j->report->tensors++;
        j->report->fell_back += fell_back;
        j->report->kept += kept(j, i);
    }
    return QN_OK;
}

static int write_head(struct job *j) {
    struct qn_bytes head;
    size_t bytes = 0;
    qn_gguf_put_u32(&j->src.meta, "general.quantization_version", QUANT_VERSION);
    qn_gguf_put_u32(&j->src.meta, "general.file_type", j->mix->ftype);
    int rc = qn_gguf_head(&j->src.meta, &head, j->err);
    if (rc != QN_OK) return rc;
    if (qn_size_add(head.n, j->src.meta.data, &bytes)) rc = qn_out_reserve(&j->out, bytes, j->err);
    if (rc == QN_OK) rc = qn_out_write(&j->out, head.p, head.n, j->err);
    free(head.p);
    return rc;
}

/* ---- rows ---- */

struct slab {
    const struct qn_save_tensor *t;
    const struct plan *p;
    uint64_t first, rows;
    bool fast;
    float *floats; /* [threads, cols] */
    uint8_t *dst;
    atomic_bool bad; /* a value that the type can't hold */
};

/* Blocks and halves hold no more than their scales do; BF16 and F32 hold what comes. */
static bool fits(enum qn_type type, const float *x, size_t n) {
    float most = 0;
    if (type == QN_F32 || type == QN_BF16) return true;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return false;
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    return most <= HALF_MAX;
}

static void round_rows(void *arg, size_t item, unsigned thread) {
    struct slab *s = arg;
    size_t cols = s->t->cols;
    float *row = s->floats + (size_t)thread * cols;
    uint64_t end = (item + 1) * ITEM_ROWS < s->rows ? (item + 1) * ITEM_ROWS : s->rows;
    for (uint64_t r = item * ITEM_ROWS; r < end; r++) {
        qn_save_row(s->t, s->first + r, row);
        if (!fits(s->p->type, row, cols)) atomic_store(&s->bad, true);
        (s->fast ? qn_type_row_from_f32 : qn_type_row_fit_f32)(s->p->type, row,
                                                               s->dst + (size_t)r * s->p->row_bytes, cols);
    }
}

static int check_going(struct job *j) {
    if (j->opt->cancel && atomic_load(j->opt->cancel)) return qn_err_set(j->err, QN_ERR_INVALID, "stopped");
    if (j->opt->progress)
        j->opt->progress(j->opt->progress_ctx, "write", j->total ? (double)j->done / (double)j->total : 1);
    return QN_OK;
}

static int write_slab(struct job *j, struct slab *s) {
    size_t bytes = (size_t)s->rows * s->p->row_bytes;
    int rc = QN_OK;
    qn_pool_run(j->opt->pool, (size_t)((s->rows + ITEM_ROWS - 1) / ITEM_ROWS), round_rows, s);
    if (atomic_load(&s->bad))
        return qn_err_set(j->err, QN_ERR_UNSUPPORTED,
                          "tensor '%.200s' holds a value that is not finite or beyond what %s can hold",
                          s->t->name, qn_type_name(s->p->type));
    rc = qn_out_write(&j->out, s->dst, bytes, j->err);
    j->done += bytes;
    return rc == QN_OK ? check_going(j) : rc;
}

static int write_rounded(struct job *j, size_t i) {
    const struct qn_save_tensor *t = &j->src.t[i];
    struct slab s = {.t = t, .p = &j->plan[i], .fast = j->src.fast};
    uint64_t rows = SLAB_BYTES / s.p->row_bytes;
    size_t row = 0, bytes = 0;
    rows = rows < 1 ? 1 : rows < t->rows ? rows : t->rows;
    if (qn_size_mul(t->cols, sizeof(float), &row) && qn_size_mul((size_t)rows, s.p->row_bytes, &bytes)) {
        s.floats = qn_mem_alloc_array(j->opt->pool ? qn_pool_threads(j->opt->pool) : 1, row);
        s.dst = qn_mem_alloc(bytes);
    }
    int rc = s.floats && s.dst ? QN_OK : qn_err_set(j->err, QN_ERR_NOMEM, "out of memory for rows");
    for (; s.first < t->rows && rc == QN_OK; s.first += s.rows) {
        s.rows = t->rows - s.first < rows ? t->rows - s.first : rows;
        rc = write_slab(j, &s);
    }
    qn_mem_free(s.floats);
    qn_mem_free(s.dst);
    return rc;
}

/* A page that can't be read must fault here, where mapfile's handler sees it, and not within write. */
static void touch(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i += PAGE) (void)*(const volatile uint8_t *)(p + i);
    if (n > 0) (void)*(const volatile uint8_t *)(p + n - 1);
}

static int write_kept(struct job *j, size_t i) {
    const uint8_t *p = j->src.t[i].data;
    int rc = QN_OK;
    for (size_t n = j->plan[i].bytes, k; n > 0 && rc == QN_OK; n -= k, p += k) {
        k = n < SLAB_BYTES ? n : SLAB_BYTES;
        touch(p, k);
        rc = qn_out_write(&j->out, p, k, j->err);
        j->done += k;
        if (rc == QN_OK) rc = check_going(j);
    }
    return rc;
}

static int write_data(struct job *j) {
    static const uint8_t zero[64] = {0};
    int rc = QN_OK;
    for (size_t i = 0; i < j->src.n && rc == QN_OK; i++) {
        size_t end = j->plan[i].bytes, n = 0;
        rc = kept(j, i) ? write_kept(j, i) : write_rounded(j, i);
        if (j->src.t[i].data) qn_mapfile_release(j->src.t[i].data, j->src.t[i].bytes);
        if (rc == QN_OK && qn_size_align(end, j->src.meta.alignment, &end)) n = end - j->plan[i].bytes;
        for (size_t k; n > 0 && rc == QN_OK; n -= k) {
            k = n < sizeof zero ? n : sizeof zero;
            rc = qn_out_write(&j->out, zero, k, j->err);
        }
    }
    return rc;
}

/* ---- all of it ---- */

int qn_model_convert(const char *path, const struct qn_convert_options *opt, struct qn_convert_report *report,
                     struct qn_err *err) {
    struct job j = {.opt = opt, .report = report, .err = err, .out = {.fd = -1}};
    struct qn_load_options load = {
        .pool = opt->pool, .progress = opt->progress, .progress_ctx = opt->progress_ctx};
    *report = (struct qn_convert_report){0};
    qn_kernels_ensure();
    j.mix = qn_type_mix_find(opt->type);
    if (!j.mix)
        return qn_err_param(err, QN_ERR_INVALID, "type", "type \"%.40s\" is not known (%s)", opt->type,
                            qn_type_mix_names());
    /* First, so that a wrong name is told before anything is read. */
    int rc = qn_out_open(&j.out, opt->out, path, opt->replace, err);
    if (rc != QN_OK) return rc;
    rc = qn_save_source_open(path, &load, &j.src, err);
    if (rc == QN_OK) rc = plan_all(&j);
    if (rc == QN_OK) rc = write_head(&j);
    if (rc == QN_OK) rc = write_data(&j);
    if (j.src.map.data) rc = qn_mapfile_check(&j.src.map, path, rc, err);
    report->file_bytes = j.out.written;
    if (rc == QN_OK) rc = qn_out_finish(&j.out, err);
    qn_out_discard(&j.out);
    qn_mem_free(j.plan);
    qn_save_source_close(&j.src);
    return rc;
}
