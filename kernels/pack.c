/* Packed matrices: file rows -> panels of 16 rows (kernels/quant.h has the layout), rows back, and gathers.
 *
 * Data flow: loader -> qn_matrix_alloc, qn_matrix_set_row for every row -> products read data only.
 * Thread: any; different panels may be written by different threads at once. */
#include <string.h>

#include "kernels/mem.h"
#include "kernels/quant.h"

bool qn_matrix_bytes(enum qn_type t, size_t rows, size_t cols, size_t *out) {
    const struct qn_layout *l = qn_type_layout(t);
    size_t padded, panel;
    if (!l || !rows || !cols || rows > UINT32_MAX - QN_PANEL || cols > UINT32_MAX || cols % l->block)
        return false;
    size_t blocks = cols / l->panel_ks + (cols % l->panel_ks != 0);
    return qn_size_align(rows, QN_PANEL, &padded) && qn_size_mul(blocks, l->panel_bytes, &panel) &&
           qn_size_mul(padded / QN_PANEL, panel, out);
}

bool qn_matrix_at(struct qn_matrix *m, enum qn_type t, size_t rows, size_t cols, uint8_t *data) {
    size_t bytes;
    memset(m, 0, sizeof *m);
    if (!data || !qn_matrix_bytes(t, rows, cols, &bytes)) return false;
    *m = (struct qn_matrix){
        .type = t, .rows = (uint32_t)rows, .cols = (uint32_t)cols, .bytes = bytes, .data = data};
    return true;
}

bool qn_matrix_alloc(struct qn_matrix *m, enum qn_type t, size_t rows, size_t cols) {
    size_t bytes;
    memset(m, 0, sizeof *m);
    return qn_matrix_bytes(t, rows, cols, &bytes) && qn_matrix_at(m, t, rows, cols, qn_mem_alloc(bytes));
}

void qn_matrix_free(struct qn_matrix *m) {
    if (!m) return;
    qn_mem_free(m->data);
    memset(m, 0, sizeof *m);
}

/* First packed block of the panel that holds row r. */
static uint8_t *panel_of(const struct qn_matrix *m, uint32_t r) {
    return m->data + (size_t)(r / QN_PANEL) * qn_matrix_blocks(m) * qn_type_layout(m->type)->panel_bytes;
}

static void put_u16(uint8_t *base, unsigned lane, uint16_t v) {
    memcpy(base + 2 * lane, &v, sizeof v);
}

static uint16_t get_u16(const uint8_t *base, unsigned lane) {
    uint16_t v;
    memcpy(&v, base + 2 * lane, sizeof v);
    return v;
}

/* 32 codes of sub-block `sub` into lane `lane` of a packed block. */
static void put_codes(const struct qn_layout *l, uint8_t *block, unsigned sub, unsigned lane,
                      const uint8_t *code) {
    uint8_t *lo = block + l->lo + (size_t)sub * (l->lo_bits == 8 ? 512 : 256) + 4 * lane;
    if (l->lo_bits == 8) {
        for (unsigned c = 0; c < 8; c++) memcpy(lo + 64 * c, code + 4 * c, 4);
        return;
    }
    for (unsigned j = 0; j < 4; j++) {
        for (unsigned i = 0; i < 4; i++) {
            lo[64 * j + i] = (uint8_t)((code[8 * j + i] & 15u) | (uint8_t)(code[8 * j + 4 + i] << 4));
        }
    }
    if (l->hi_bits == 1) {
        uint8_t *hi = block + l->hi + (size_t)sub * 64 + 4 * lane;
        for (unsigned i = 0; i < 4; i++) {
            unsigned v = 0;
            for (unsigned c = 0; c < 8; c++) v |= (code[4 * c + i] >> 4 & 1u) << c;
            hi[i] = (uint8_t)v;
        }
    } else if (l->hi_bits == 2) {
        uint8_t *hi = block + l->hi + (size_t)sub * 128 + 4 * lane;
        for (unsigned g = 0; g < 2; g++) {
            for (unsigned i = 0; i < 4; i++) {
                unsigned v = 0;
                for (unsigned f = 0; f < 4; f++) v |= (code[16 * g + 4 * f + i] >> 4 & 3u) << (2 * f);
                hi[64 * g + i] = (uint8_t)v;
            }
        }
    }
}

static void get_codes(const struct qn_layout *l, const uint8_t *block, unsigned sub, unsigned lane,
                      uint8_t *code) {
    const uint8_t *lo = block + l->lo + (size_t)sub * (l->lo_bits == 8 ? 512 : 256) + 4 * lane;
    if (l->lo_bits == 8) {
        for (unsigned c = 0; c < 8; c++) memcpy(code + 4 * c, lo + 64 * c, 4);
        return;
    }
    for (unsigned j = 0; j < 4; j++) {
        for (unsigned i = 0; i < 4; i++) {
            code[8 * j + i] = lo[64 * j + i] & 15u;
            code[8 * j + 4 + i] = lo[64 * j + i] >> 4;
        }
    }
    const uint8_t *hi = block + l->hi + (size_t)sub * 64 * l->hi_bits + 4 * lane;
    for (unsigned k = 0; l->hi_bits == 1 && k < 32; k++) {
        unsigned h = hi[k & 3];
        code[k] = (uint8_t)(code[k] | ((h >> (k >> 2)) & 1u) << 4);
    }
    for (unsigned k = 0; l->hi_bits == 2 && k < 32; k++) {
        unsigned h = hi[64 * (k >> 4) + (k & 3)];
        code[k] = (uint8_t)(code[k] | ((h >> (2 * ((k >> 2) & 3))) & 3u) << 4);
    }
}

static void put_block(enum qn_type t, const struct qn_codes *c, uint8_t *block, unsigned lane) {
    const struct qn_layout *l = qn_type_layout(t);
    put_u16(block, lane, c->d);
    if (l->m) put_u16(block + l->m, lane, c->m);
    for (unsigned s = 0; l->sc && s < (l->mn ? 8u : 16u); s++)
        block[l->sc + QN_PANEL * s + lane] = c->scale[s];
    for (unsigned s = 0; l->mn && s < 8; s++) block[l->mn + QN_PANEL * s + lane] = c->min[s];
    for (unsigned s = 0; s < l->block / 32u; s++) put_codes(l, block, s, lane, c->code + (size_t)32 * s);
}

static void get_block(enum qn_type t, const uint8_t *block, unsigned lane, struct qn_codes *c) {
    const struct qn_layout *l = qn_type_layout(t);
    c->d = get_u16(block, lane);
    c->m = l->m ? get_u16(block + l->m, lane) : 0;
    for (unsigned s = 0; l->sc && s < (l->mn ? 8u : 16u); s++)
        c->scale[s] = block[l->sc + QN_PANEL * s + lane];
    for (unsigned s = 0; l->mn && s < 8; s++) c->min[s] = block[l->mn + QN_PANEL * s + lane];
    for (unsigned s = 0; s < l->block / 32u; s++) get_codes(l, block, s, lane, c->code + (size_t)32 * s);
}

/* One row of float elements between two strided places; the sizes are constants so that the copy is one move.
 */
static void copy_elements(size_t size, uint8_t *dst, size_t dst_step, const uint8_t *src, size_t src_step,
                          size_t n) {
    if (size == 4) {
        for (size_t k = 0; k < n; k++) memcpy(dst + k * dst_step, src + k * src_step, 4);
    } else {
        for (size_t k = 0; k < n; k++) memcpy(dst + k * dst_step, src + k * src_step, 2);
    }
}

void qn_matrix_set_row(struct qn_matrix *m, uint32_t r, const void *file_row) {
    const struct qn_layout *l = qn_type_layout(m->type);
    const uint8_t *src = file_row;
    uint8_t *panel = panel_of(m, r);
    unsigned lane = r % QN_PANEL;
    size_t blocks = qn_matrix_blocks(m);
    if (!l->lo_bits) {
        size_t size = l->file_bytes, ks = l->panel_ks;
        uint8_t *dst = panel + lane * ks * size;
        for (size_t e = 0; e < ks; e++)
            copy_elements(size, dst + e * size, l->panel_bytes, src + e * size, ks * size,
                          (m->cols + ks - 1 - e) / ks);
        return;
    }
    struct qn_codes c = {0};
    for (size_t b = 0; b < blocks; b++, src += l->file_bytes, panel += l->panel_bytes) {
        qn_codes_from_file(m->type, src, &c);
        put_block(m->type, &c, panel, lane);
    }
}

void qn_matrix_get_row(const struct qn_matrix *m, uint32_t r, float *dst) {
    const struct qn_layout *l = qn_type_layout(m->type);
    const uint8_t *panel = panel_of(m, r);
    unsigned lane = r % QN_PANEL;
    size_t blocks = qn_matrix_blocks(m);
    struct qn_codes c = {0};
    for (size_t b = 0; b < blocks; b++, panel += l->panel_bytes) {
        if (m->type == QN_F32) {
            memcpy(dst + b, panel + 4 * (size_t)lane, 4);
        } else if (m->type == QN_F16) {
            dst[b] = qn_f16_to_f32(get_u16(panel, lane));
        } else if (m->type == QN_BF16) {
            dst[2 * b] = qn_bf16_to_f32(get_u16(panel, 2 * lane));
            if (2 * b + 1 < m->cols) dst[2 * b + 1] = qn_bf16_to_f32(get_u16(panel, 2 * lane + 1));
        } else {
            get_block(m->type, panel, lane, &c);
            qn_codes_to_f32(m->type, &c, dst + b * l->block);
        }
    }
}

/* Two k of 16 rows, [2][16], become 16 pairs in the same 64 bytes. */
static void narrow_item(void *arg, size_t panel, unsigned thread) {
    (void)thread;
    const struct qn_matrix *m = arg;
    uint8_t *at = m->data + panel * m->cols * 2 * QN_PANEL;
    for (size_t k = 0; k < m->cols; k += 2, at += (size_t)4 * QN_PANEL) {
        uint16_t pairs[2 * QN_PANEL];
        for (unsigned i = 0; i < 2 * QN_PANEL; i++) {
            uint16_t h = get_u16(at, i % 2 * QN_PANEL + i / 2);
            pairs[i] = qn_f32_to_bf16(qn_f16_to_f32(h));
        }
        memcpy(at, pairs, sizeof pairs);
    }
}

void qn_matrix_f16_to_bf16(struct qn_pool *pool, struct qn_matrix *m) {
    if (m->type != QN_F16 || m->cols % 2 != 0) return;
    qn_pool_run(pool, (m->rows + QN_PANEL - 1) / QN_PANEL, narrow_item, m);
    m->type = QN_BF16;
}

static void copy_row(struct qn_matrix *dst, uint32_t to, const struct qn_matrix *src, uint32_t from) {
    const struct qn_layout *l = qn_type_layout(src->type);
    const uint8_t *in = panel_of(src, from);
    uint8_t *out = panel_of(dst, to);
    unsigned a = from % QN_PANEL, b = to % QN_PANEL;
    size_t blocks = qn_matrix_blocks(src);
    if (!l->lo_bits) {
        size_t size = (size_t)l->file_bytes * l->panel_ks; /* BF16: a pair, 4 bytes */
        copy_elements(size, out + b * size, l->panel_bytes, in + a * size, l->panel_bytes, blocks);
        return;
    }
    for (size_t i = 0; i < blocks; i++, in += l->panel_bytes, out += l->panel_bytes) {
        struct qn_codes c = {0};
        get_block(src->type, in, a, &c);
        put_block(src->type, &c, out, b);
    }
}

bool qn_matrix_gather(struct qn_matrix *dst, const struct qn_matrix *src, const uint32_t *index, size_t n) {
    if (!qn_matrix_alloc(dst, src->type, n, src->cols)) return false;
    for (size_t i = 0; i < n; i++) copy_row(dst, (uint32_t)i, src, index[i]);
    return true;
}
