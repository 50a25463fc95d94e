/* Softmax attention over paged KV blocks: mha, gqa and mqa are one implementation with kv_heads as its
 * parameter.
 *
 * Query head i reads KV head floor(i * kv_heads / heads): contiguous groups. A block holds, per layer and KV
 * head, K as [head_dim][16 tokens] and then V as [16 tokens][head_dim]; keys are stored rotated. With a
 * sliding window the older tokens stay in their blocks and are not read.
 *
 * Conversions: more KV heads by repeating rows of K and V (bit for bit, so logits stay those of the source);
 * fewer by the mean over each group, as Ainslie et al. do before they train further. The mean is kept in F32.
 * Without causality (embed) rows read their whole sequence and nothing is kept: whole.c.
 * Thread: engine for run and convert, any for the rest. */
#include "model/attention/attention.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/attention/whole.h"

/* Meaning of struct qn_attention's arg: k_norm covers all KV heads, and is converted as they are. */
enum { ARG_NORM_WHOLE };

/* A row's tokens are read in parts of so many, cut at absolute positions: few KV heads can keep all threads
 * busy, and the K and V of a part stay in a core's L2 cache while groups of query heads go over them. */
#define PART_TOKENS 1024
/* Rows of one sequence are read together: as many as have so many query heads on a KV head. */
#define TILE_HEADS 48

/* --- what a request's part means --- */
static const struct qn_attention_ops *ops_of(uint32_t heads, uint32_t kv_heads) {
    if (kv_heads == heads) return &qn_attention_mha;
    return kv_heads == 1 ? &qn_attention_mqa : &qn_attention_gqa;
}

static bool is_softmax(const struct qn_attn_member *m) {
    return m->slots == 0 && m->features == 0;
}

static void label(const struct qn_spec *spec, struct qn_attention *a) {
    struct qn_choice *c = &a->choice;
    const struct qn_attn_member *m = &spec->attn[a->member];
    uint32_t from = m->kv_heads, to = a->kv_heads;
    if (!is_softmax(m)) {
        c->exactness = QN_UNAVAILABLE;
        snprintf(c->why, sizeof c->why,
                 "the weights were trained with %.15s, which has no softmax over tokens", m->type);
    } else if (spec->heads % to != 0) {
        c->exactness = QN_UNAVAILABLE;
        snprintf(c->why, sizeof c->why, "kv_heads must divide the %u query heads", spec->heads);
    } else if (!a->causal && spec->window > 0) {
        c->exactness = QN_UNAVAILABLE;
        snprintf(c->why, sizeof c->why, "a sliding window looks back only");
    } else if (!a->causal && (to % from == 0 || from % to == 0)) {
        c->exactness = QN_UNTRAINED;
        snprintf(c->why, sizeof c->why,
                 "every row reads the whole sequence; the weights read backwards only");
    } else if (to == from) {
        c->origin = QN_ORIGIN_NATIVE;
    } else if (to % from == 0) {
        c->exactness = QN_EXACT;
        snprintf(c->why, sizeof c->why, "each of the %u KV heads is repeated %u times", from, to / from);
    } else if (from % to == 0) {
        c->exactness = QN_UNTRAINED;
        snprintf(c->why, sizeof c->why,
                 "mean of each %u KV heads' projections: structural conversion, quality not preserved",
                 from / to);
    } else {
        c->exactness = QN_UNAVAILABLE;
        snprintf(c->why, sizeof c->why,
                 "%u KV heads are neither a multiple nor a divisor of the %u that the checkpoint has", to,
                 from);
    }
}

/* What `ask` means with so many KV heads. */
static int fill(const struct qn_spec *spec, uint32_t member, uint32_t kv_heads, const struct qn_part *ask,
                struct qn_attention *out, struct qn_err *err) {
    memset(out, 0, sizeof *out);
    out->member = member;
    out->rope = spec->pos == QN_POS_ROPE && !spec->attn[member].no_rope;
    out->causal = true;
    int rc = qn_attention_bool(ask, "causal", &out->causal, err);
    if (rc) return rc;
    out->ops = ops_of(spec->heads, kv_heads);
    out->heads = spec->heads;
    out->kv_heads = kv_heads;
    out->head_dim = spec->head_dim;
    out->window = spec->window;
    out->made = kv_heads != spec->attn[member].kv_heads;
    out->scale = (float)(1.0 / sqrt((double)spec->head_dim));
    out->arg[ARG_NORM_WHOLE] = spec->qk_norm_whole;
    struct qn_choice *c = &out->choice;
    c->origin = QN_ORIGIN_CONVERTED;
    c->exactness = QN_EXACT;
    qn_part_init(&c->part, out->ops->name);
    qn_part_add(&c->part, "heads", QN_PARAM_INT, spec->heads);
    qn_part_add(&c->part, "kv_heads", QN_PARAM_INT, kv_heads);
    qn_part_add(&c->part, "causal", QN_PARAM_BOOL, out->causal);
    if (spec->window > 0) qn_part_add(&c->part, "window", QN_PARAM_INT, spec->window);
    label(spec, out);
    return qn_part_check(ask, &c->part, "attention", err);
}

static int resolve_gqa(const struct qn_spec *spec, uint32_t member, const struct qn_part *ask,
                       struct qn_attention *out, struct qn_err *err) {
    uint32_t kv_heads = 0, own = spec->attn[member].kv_heads;
    int rc = qn_part_uint(ask, "attention", "kv_heads", spec->heads, &kv_heads, err);
    if (rc) return rc;
    if (kv_heads == 0 && (own == 1 || own == spec->heads)) {
        return qn_err_param(
            err, QN_ERR_INVALID, "attention",
            "attention \"gqa\" needs \"kv_heads\" here: the model's own %u can't tell a group size", own);
    }
    return fill(spec, member, kv_heads ? kv_heads : own, ask, out, err);
}

static int resolve_mha(const struct qn_spec *spec, uint32_t member, const struct qn_part *ask,
                       struct qn_attention *out, struct qn_err *err) {
    return fill(spec, member, spec->heads, ask, out, err);
}

static int resolve_mqa(const struct qn_spec *spec, uint32_t member, const struct qn_part *ask,
                       struct qn_attention *out, struct qn_err *err) {
    return fill(spec, member, 1, ask, out, err);
}

static size_t option_named(const char *name, struct qn_part *out, size_t max) {
    if (max > 0) qn_part_init(&out[0], name);
    return 1;
}

static size_t options_mha(const struct qn_spec *spec, struct qn_part *out, size_t max) {
    (void)spec;
    return option_named("mha", out, max);
}

static size_t options_mqa(const struct qn_spec *spec, struct qn_part *out, size_t max) {
    return spec->heads > 1 ? option_named("mqa", out, max) : 0;
}

static size_t options_gqa(const struct qn_spec *spec, struct qn_part *out, size_t max) {
    size_t n = 0;
    for (uint32_t g = 2; g < spec->heads; g++) {
        if (spec->heads % g != 0) continue;
        if (n < max) {
            qn_part_init(&out[n], "gqa");
            qn_part_add(&out[n], "kv_heads", QN_PARAM_INT, g);
        }
        n++;
    }
    return n;
}

static void rules_gqa(const struct qn_spec *spec, struct qn_rules *out) {
    qn_rule_int(out, "kv_heads", 1, spec->heads);
}

/* --- state and cost --- */
/* Bytes of K (and as many of V) of one KV head in a block. */
static size_t half_bytes(const struct qn_attention *a, enum qn_kv_type type) {
    return qn_kv_half_bytes(type, a->head_dim);
}

static struct qn_state_size state(const struct qn_attention *a, enum qn_kv_type type) {
    return (struct qn_state_size){.block_bytes = a->causal ? 2 * half_bytes(a, type) * a->kv_heads : 0};
}

/* For the whole-sequence form; for a tile of rows and one KV head: a part, and what the parts before came to,
 * where heads of a KV head times rows are at most TILE_HEADS, or one row's heads; and, of all threads
 * together, for the parts of rows that are cut between them: of the longest row there may be, and as many
 * more as keep the threads busy. */
static size_t work_floats(const struct qn_spec *spec, unsigned threads) {
    size_t whole = qn_whole_work(spec->head_dim), one = (size_t)spec->head_dim + 2, parts;
    size_t heads = spec->heads > TILE_HEADS ? spec->heads : TILE_HEADS, tile = 2 * heads * one;
    if (!qn_size_mul(spec->context / PART_TOKENS + 2 + 4 * (size_t)threads, spec->heads * one, &parts))
        return SIZE_MAX;
    parts = parts / threads + 1;
    if (tile < whole) tile = whole;
    return parts > tile ? parts : tile;
}

/* Sum over positions [begin, end) of the tokens that each sees. */
static double seen_sum(double begin, double end, double window) {
    double full = 0.5 * (end * (end + 1) - begin * (begin + 1)); /* position p sees p + 1 */
    if (window <= 0 || end <= window) return full;
    if (begin >= window) return (end - begin) * window;
    return 0.5 * (window * (window + 1) - begin * (begin + 1)) + (end - window) * window;
}

static struct qn_attention_cost cost(const struct qn_attention *a, enum qn_kv_type type, uint32_t begin,
                                     uint32_t end, uint32_t chunk) {
    double n = end - begin;
    if (!a->causal) return (struct qn_attention_cost){.flops = 4 * n * a->heads * a->head_dim * end};
    double token = 2.0 * a->kv_heads * (double)qn_kv_half_bytes(type, a->head_dim) / QN_KV_BLOCK;
    double macs = 2.0 * a->heads * a->head_dim * seen_sum(begin, end, a->window);
    double read = 0;
    for (uint64_t at = begin; at < end; at += chunk) {
        uint64_t last = at + chunk < end ? at + chunk : end;
        uint64_t first = a->window > 0 && at + 1 > a->window ? at + 1 - a->window : 0;
        read += (double)(last - first);
    }
    return (struct qn_attention_cost){.flops = 2 * macs, .state_bytes = token * (read + n)};
}

/* --- conversion of weights --- */
static size_t convert_bytes(const struct qn_attention *a, const struct qn_attn_weights *src,
                            size_t *replaced) {
    size_t rows = (size_t)a->kv_heads * a->head_dim, k, v;
    size_t biases = (src->bk ? 1u : 0u) + (src->bv ? 1u : 0u);
    if (src->k_norm && a->arg[ARG_NORM_WHOLE]) biases++;
    *replaced = src->k.bytes + src->v.bytes + biases * src->k.rows * sizeof(float);
    bool pool = rows < src->k.rows;
    if (!qn_matrix_bytes(pool ? QN_F32 : src->k.type, rows, src->k.cols, &k)) return SIZE_MAX;
    if (!qn_matrix_bytes(pool ? QN_F32 : src->v.type, rows, src->v.cols, &v)) return SIZE_MAX;
    size_t total;
    if (!qn_size_add(k, v, &total)) return SIZE_MAX;
    return qn_size_add(total, biases * rows * sizeof(float), &total) ? total : SIZE_MAX;
}

static bool repeat_matrix(struct qn_matrix *dst, const struct qn_matrix *src, uint32_t times,
                          uint32_t head_dim) {
    size_t n = (size_t)src->rows * times;
    uint32_t *index = qn_mem_alloc_array(n, sizeof *index);
    if (!index) return false;
    for (size_t i = 0; i < n; i++) {
        size_t head = i / head_dim / times;
        index[i] = (uint32_t)(head * head_dim + i % head_dim);
    }
    bool ok = qn_matrix_gather(dst, src, index, n);
    qn_mem_free(index);
    return ok;
}

static bool pool_matrix(struct qn_matrix *dst, const struct qn_matrix *src, uint32_t kv_heads,
                        uint32_t head_dim) {
    uint32_t per = src->rows / head_dim / kv_heads;
    float *sum = qn_mem_alloc_array(src->cols, 2 * sizeof *sum);
    if (!sum) return false;
    float *row = sum + src->cols;
    if (!qn_matrix_alloc(dst, QN_F32, (size_t)kv_heads * head_dim, src->cols)) {
        qn_mem_free(sum);
        return false;
    }
    for (uint32_t r = 0; r < dst->rows; r++) {
        uint32_t first = r / head_dim * per * head_dim + r % head_dim;
        memset(sum, 0, src->cols * sizeof *sum);
        for (uint32_t i = 0; i < per; i++) {
            qn_matrix_get_row(src, first + i * head_dim, row);
            for (uint32_t c = 0; c < src->cols; c++) sum[c] += row[c];
        }
        for (uint32_t c = 0; c < src->cols; c++) sum[c] /= (float)per;
        qn_matrix_set_row(dst, r, sum);
    }
    qn_mem_free(sum);
    return true;
}

/* A bias of `from` KV heads for `to`: repeated or averaged like the rows it belongs to. */
static float *convert_bias(const float *src, uint32_t from, uint32_t to, uint32_t head_dim) {
    float *dst = qn_mem_alloc_array((size_t)to * head_dim, sizeof *dst);
    if (!dst) return NULL;
    for (uint32_t h = 0; h < to; h++) {
        for (uint32_t d = 0; d < head_dim; d++) {
            uint32_t per = to < from ? from / to : 1;
            uint32_t head = to < from ? h * per : h / (to / from);
            float sum = 0;
            for (uint32_t i = 0; i < per; i++) sum += src[(head + i) * head_dim + d];
            dst[h * head_dim + d] = sum / (float)per;
        }
    }
    return dst;
}

static bool convert_matrix(const struct qn_attention *a, const struct qn_matrix *src, struct qn_matrix *dst) {
    uint32_t from = src->rows / a->head_dim;
    if (a->kv_heads < from) return pool_matrix(dst, src, a->kv_heads, a->head_dim);
    return repeat_matrix(dst, src, a->kv_heads / from, a->head_dim);
}

static int convert(const struct qn_attention *a, uint32_t block, const struct qn_attn_weights *src,
                   struct qn_attn_weights *dst, struct qn_err *err) {
    (void)block;
    uint32_t from = src->k.rows / a->head_dim;
    *dst = *src;
    memset(&dst->k, 0, sizeof dst->k);
    memset(&dst->v, 0, sizeof dst->v);
    dst->bk = dst->bv = NULL;
    bool ok = convert_matrix(a, &src->k, &dst->k) && convert_matrix(a, &src->v, &dst->v);
    if (ok && src->bk) ok = (dst->bk = convert_bias(src->bk, from, a->kv_heads, a->head_dim)) != NULL;
    if (ok && src->bv) ok = (dst->bv = convert_bias(src->bv, from, a->kv_heads, a->head_dim)) != NULL;
    if (ok && src->k_norm && a->arg[ARG_NORM_WHOLE]) {
        dst->k_norm = convert_bias(src->k_norm, from, a->kv_heads, a->head_dim);
        ok = dst->k_norm_made = dst->k_norm != NULL;
    }
    return ok ? QN_OK : qn_err_set(err, QN_ERR_NOMEM, "out of memory for converted attention weights");
}

static void release(struct qn_attn_weights *dst) {
    qn_matrix_free(&dst->k);
    qn_matrix_free(&dst->v);
    qn_mem_free(dst->bk);
    qn_mem_free(dst->bv);
    if (dst->k_norm_made) qn_mem_free(dst->k_norm);
    memset(dst, 0, sizeof *dst);
}

/* --- one layer of one step --- */
static void write_item(void *arg, size_t item, unsigned thread) {
    (void)thread;
    const struct qn_attention_call *c = arg;
    const struct qn_attention *a = c->a;
    size_t r = item / a->kv_heads, g = item % a->kv_heads, half = half_bytes(a, c->type);
    const struct qn_row *row = &c->rows[r];
    struct qn_kv_write w = {
        .k = c->k + (r * a->kv_heads + g) * a->head_dim,
        .v = c->v + (r * a->kv_heads + g) * a->head_dim,
        .block = row->blocks[row->pos / QN_KV_BLOCK],
        .k_offset = c->state_offset + g * 2 * half,
        .v_offset = c->state_offset + g * 2 * half + half,
        .type = c->type,
        .head_dim = a->head_dim,
        .slot = row->pos % QN_KV_BLOCK,
    };
    qn_ops()->kv_write(&w);
}

/* Bringing a block from memory takes as long as the arithmetic of so many query heads. */
#define READ_HEADS 4

/* How the read of a step is cut. A row's tokens are cut at absolute multiples of PART_TOKENS, always: what
 * the parts come to together is the row's result. Threads may share out (row, KV head) pairs, and where those
 * are few also their parts and query heads; no result depends on that. */
struct read {
    const struct qn_attention_call *call;
    size_t row;     /* cut rows: the first of those that are read at once */
    uint32_t parts; /* most that one of them has */
    uint32_t cuts;  /* of the query heads of a group */
    uint32_t tile;  /* rows that one item reads */
};

/* What one pass over K and V serves. */
static uint32_t tile_rows(uint32_t group) {
    return group < TILE_HEADS ? TILE_HEADS / group : 1;
}

static uint32_t first_seen(const struct qn_attention_call *c, size_t r) {
    uint32_t length = c->rows[r].pos + 1, window = c->a->window;
    return window > 0 && length > window ? length - window : 0;
}

static uint32_t parts_of(const struct qn_attention_call *c, size_t r) {
    return c->rows[r].pos / PART_TOKENS - first_seen(c, r) / PART_TOKENS + 1;
}

/* Floats of one part of one pair. */
static size_t part_floats(const struct qn_attention *a) {
    return (size_t)(a->heads / a->kv_heads) * (a->head_dim + 2);
}

/* What one call reads: of `rows` rows and one KV head, query heads [head, head + heads) of its group, part
 * `part` of the sequence's tokens. */
static struct qn_attend attend_of(const struct qn_attention_call *c, size_t row, uint32_t rows, size_t g,
                                  uint32_t part, size_t head, size_t heads) {
    const struct qn_attention *a = c->a;
    size_t half = half_bytes(a, c->type);
    return (struct qn_attend){
        .q = c->q + (row * a->heads + g * (a->heads / a->kv_heads) + head) * a->head_dim,
        .ldq = a->head_dim,
        .q_row = (size_t)a->heads * a->head_dim,
        .blocks = (const uint8_t *const *)c->rows[row].blocks,
        .k_offset = c->state_offset + g * 2 * half,
        .v_offset = c->state_offset + g * 2 * half + half,
        .type = c->type,
        .group = (uint32_t)heads,
        .head_dim = a->head_dim,
        .rows = rows,
        .pos = c->rows[row].pos,
        .begin = part * PART_TOKENS,
        .end = UINT32_MAX - part * PART_TOKENS < PART_TOKENS ? UINT32_MAX : (part + 1) * PART_TOKENS,
        .window = a->window,
        .scale = a->scale,
    };
}

/* Reads part `part` of those that a pair has with query heads [head, head + n) of its group, into out. */
static void read_part(const struct qn_attention_call *c, size_t pair, uint32_t part, size_t head, size_t n,
                      float *out, size_t ldo) {
    size_t r = pair / c->a->kv_heads;
    struct qn_attend t =
        attend_of(c, r, 1, pair % c->a->kv_heads, first_seen(c, r) / PART_TOKENS + part, head, n);
    t.out = out;
    t.ldo = ldo;
    t.part = parts_of(c, r) > 1;
    qn_ops()->attend(&t);
}

static float *pair_out(const struct qn_attention_call *c, size_t pair) {
    return c->out + pair * (c->a->heads / c->a->kv_heads) * c->a->head_dim;
}

/* One pair, all of it. */
static void read_pair(void *arg, size_t pair, unsigned thread) {
    const struct read *read = arg;
    const struct qn_attention_call *c = read->call;
    const struct qn_attention *a = c->a;
    float *work = c->work + thread * c->work_floats;
    uint32_t n = parts_of(c, pair / a->kv_heads), group = a->heads / a->kv_heads;
    if (n == 1) {
        read_part(c, pair, 0, 0, group, pair_out(c, pair), a->head_dim);
        return;
    }
    float *part = work + part_floats(a);
    for (uint32_t i = 0; i < n; i++) {
        read_part(c, pair, i, 0, group, part, a->head_dim + 2u);
        qn_ops()->attend_join(work, part, i == 0, group, a->head_dim);
    }
    qn_attend_finish(work, group, a->head_dim, pair_out(c, pair), a->head_dim);
}

/* Rows that are read together: of one sequence, next to each other. */
static uint32_t run_of_rows(const struct qn_attention_call *c, size_t first, size_t end) {
    uint32_t n = 1;
    while (first + n < end && c->rows[first + n].blocks == c->rows[first].blocks &&
           c->rows[first + n].pos == c->rows[first].pos + n)
        n++;
    return n;
}

/* Rows [row, row + n) and one KV head: part `part` of the sequence's tokens, of those rows that see some of
 * it, joined to what the parts before came to. */
static void read_rows_part(const struct qn_attention_call *c, size_t row, uint32_t n, size_t g, uint32_t part,
                           float *work) {
    const struct qn_attention *a = c->a;
    size_t one = part_floats(a);
    uint32_t from = 0, to = n;
    while (from < n && c->rows[row + from].pos / PART_TOKENS < part) from++;
    while (to > from && first_seen(c, row + to - 1) / PART_TOKENS > part) to--;
    if (from == to) return;
    struct qn_attend t = attend_of(c, row + from, to - from, g, part, 0, a->heads / a->kv_heads);
    t.out = work;
    t.out_row = one;
    t.ldo = (size_t)a->head_dim + 2;
    t.part = true;
    qn_ops()->attend(&t);
    for (uint32_t i = from; i < to; i++) {
        bool first = first_seen(c, row + i) / PART_TOKENS == part;
        qn_ops()->attend_join(work + (n + i) * one, work + (i - from) * one, first, t.group, a->head_dim);
    }
}

/* n rows and one KV head, all parts. */
static void read_rows(const struct qn_attention_call *c, size_t row, uint32_t n, size_t g, float *work) {
    const struct qn_attention *a = c->a;
    uint32_t part = first_seen(c, row) / PART_TOKENS, last = c->rows[row + n - 1].pos / PART_TOKENS;
    if (part == last) {
        struct qn_attend t = attend_of(c, row, n, g, part, 0, a->heads / a->kv_heads);
        t.out = pair_out(c, row * a->kv_heads + g);
        t.out_row = t.q_row;
        t.ldo = a->head_dim;
        qn_ops()->attend(&t);
        return;
    }
    for (; part <= last; part++) read_rows_part(c, row, n, g, part, work);
    for (uint32_t i = 0; i < n; i++) {
        qn_attend_finish(work + (n + i) * part_floats(a), a->heads / a->kv_heads, a->head_dim,
                         pair_out(c, (row + i) * a->kv_heads + g), a->head_dim);
    }
}

/* One tile of rows and one KV head: runs of rows of one sequence together, others alone. */
static void read_tile(void *arg, size_t item, unsigned thread) {
    const struct read *read = arg;
    const struct qn_attention_call *c = read->call;
    size_t g = item % c->a->kv_heads, row = item / c->a->kv_heads * read->tile, end = row + read->tile;
    if (end > c->n_rows) end = c->n_rows;
    while (row < end) {
        uint32_t n = run_of_rows(c, row, end);
        if (n > 1) {
            read_rows(c, row, n, g, c->work + thread * c->work_floats);
        } else {
            read_pair(arg, row * c->a->kv_heads + g, thread);
        }
        row += n;
    }
}

/* One part of one pair, some heads of it. */
static void read_cut(void *arg, size_t item, unsigned thread) {
    (void)thread;
    const struct read *read = arg;
    const struct qn_attention_call *c = read->call;
    const struct qn_attention *a = c->a;
    size_t cut = item % read->cuts, unit = item / read->cuts;
    size_t pair = read->row * a->kv_heads + unit / read->parts;
    uint32_t part = (uint32_t)(unit % read->parts), n = parts_of(c, pair / a->kv_heads);
    uint32_t group = a->heads / a->kv_heads;
    size_t head = cut * group / read->cuts, end = (cut + 1) * group / read->cuts;
    if (part >= n) return;
    size_t ldo = n > 1 ? a->head_dim + 2u : a->head_dim;
    float *out = n > 1 ? c->work + unit * part_floats(a) : pair_out(c, pair);
    read_part(c, pair, part, head, end - head, out + head * ldo, ldo);
}

static void merge_item(void *arg, size_t item, unsigned thread) {
    (void)thread;
    const struct read *read = arg;
    const struct qn_attention_call *c = read->call;
    const struct qn_attention *a = c->a;
    size_t pair = read->row * a->kv_heads + item, one = part_floats(a);
    uint32_t n = parts_of(c, pair / a->kv_heads), group = a->heads / a->kv_heads;
    float *parts = c->work + item * read->parts * one;
    if (n == 1) return;
    for (uint32_t i = 0; i < n; i++)
        qn_ops()->attend_join(parts, parts + i * one, i == 0, group, a->head_dim);
    qn_attend_finish(parts, group, a->head_dim, pair_out(c, pair), a->head_dim);
}

/* Cuts a group only where there are too few units for the threads: every cut reads K and V again. */
static uint32_t group_cuts(size_t units, uint32_t group, uint32_t threads) {
    uint32_t best = 1;
    size_t least = SIZE_MAX;
    if (units >= 4 * (size_t)threads) return 1;
    for (uint32_t p = 1; p <= group; p++) {
        size_t cost = (units * p + threads - 1) / threads * ((group + p - 1) / p + READ_HEADS);
        if (cost < least) {
            least = cost;
            best = p;
        }
    }
    return best;
}

/* Rows from read->row on whose parts find room in the work memory of all threads, at least one; sets parts.
 */
static size_t rows_at_once(struct read *read) {
    const struct qn_attention_call *c = read->call;
    size_t all = (c->pool ? qn_pool_threads(c->pool) : 1) * c->work_floats, n = 0;
    size_t room = all / (part_floats(c->a) * c->a->kv_heads);
    for (read->parts = 1; read->row + n < c->n_rows; n++) {
        uint32_t own = parts_of(c, read->row + n), most = own > read->parts ? own : read->parts;
        if (n > 0 && (n + 1) * most > room) break;
        read->parts = most;
    }
    return n;
}

static void read_all(const struct qn_attention_call *c, struct qn_pool *pool) {
    struct read read = {.call = c, .parts = 1, .cuts = 1};
    size_t pairs = (size_t)c->n_rows * c->a->kv_heads;
    uint32_t threads = pool ? qn_pool_threads(pool) : 1;
    if (pairs >= 4 * (size_t)threads || c->n_rows > threads) {
        read.tile = tile_rows(c->a->heads / c->a->kv_heads);
        size_t tiles = (c->n_rows + read.tile - 1) / read.tile;
        qn_pool_run(pool, tiles * c->a->kv_heads, read_tile, &read);
        return;
    }
    for (size_t n; read.row < c->n_rows; read.row += n) {
        n = rows_at_once(&read);
        size_t units = n * c->a->kv_heads * read.parts;
        read.cuts = group_cuts(units, c->a->heads / c->a->kv_heads, threads);
        qn_pool_run(pool, units * read.cuts, read_cut, &read);
        if (read.parts > 1) qn_pool_run(NULL, n * c->a->kv_heads, merge_item, &read);
    }
}

static void run(const struct qn_attention_call *call) {
    if (!call->a->causal) {
        qn_whole_run(call);
        return;
    }
    struct qn_attention_call c = *call;
    size_t items = (size_t)c.n_rows * c.a->kv_heads;
    double macs = 0;
    /* All appends come first: rows of one span read each other's keys. */
    qn_pool_run(c.n_rows < 8 ? NULL : c.pool, items, write_item, &c);
    if (c.readers) {
        c.rows = c.readers;
        c.n_rows = c.n_readers;
    }
    for (uint32_t r = 0; r < c.n_rows; r++) macs += 2.0 * c.a->heads * c.a->head_dim * (c.rows[r].pos + 1.0);
    read_all(&c, macs < QN_POOL_MIN_MACS ? NULL : c.pool);
}

#define SOFTMAX_OPS(kind, its_rules)                                                                         \
    {                                                                                                        \
        .name = #kind, .rollback = true, .reads_some = true, .resolve = resolve_##kind,                      \
        .options = options_##kind, .rules = (its_rules), .state = state, .work_floats = work_floats,         \
        .convert_bytes = convert_bytes, .convert = convert, .release = release, .run = run, .cost = cost     \
    }
const struct qn_attention_ops qn_attention_mha = SOFTMAX_OPS(mha, NULL);
const struct qn_attention_ops qn_attention_gqa = SOFTMAX_OPS(gqa, rules_gqa);
const struct qn_attention_ops qn_attention_mqa = SOFTMAX_OPS(mqa, NULL);
