/* The figures of a comparison as rows for people (aligned; medians with their spread) and for programs (CSV,
 * RFC 4180). Generated text is shown without control characters: a model may say anything. Thread: any. */
#include "server/compare_table.h"

#include <math.h>
#include <string.h>

#include "server/structure_text.h"

#define CELL      QN_STRUCTURE_NAME
#define TEXT_SHOW 60 /* characters of generated text in the table */

enum column {
    C_STRUCTURE,
    C_LABEL,
    C_PREFILL,
    C_DECODE,
    C_RATE,
    C_STATE,
    C_WEIGHTS,
    C_KL,
    C_TOP1,
    C_BITS,
    C_TEXT,
    C_COUNT
};
static const char *const heads[C_COUNT] = {"structure", "label",       "prefill ms",  "ms/token",
                                           "tokens/s",  "state KiB",   "weights MiB", "KL",
                                           "top-1",     "bits/byte +", "text"};
static const bool left[C_COUNT] = {[C_STRUCTURE] = true, [C_LABEL] = true, [C_TEXT] = true};

struct row {
    char cell[C_COUNT][CELL];
};

/* Characters, not bytes: what a cell takes on the screen. */
static int width(const char *s) {
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xC0) != 0x80;
    return n;
}

static void put_number(char cell[CELL], double v, double spread, int digits) {
    if (!isfinite(v))
        snprintf(cell, CELL, "-");
    else if (spread >= 0)
        snprintf(cell, CELL, "%.*f \xC2\xB1%.*f", digits, v, digits, spread);
    else
        snprintf(cell, CELL, "%.*f", digits, v);
}

/* One line of at most TEXT_SHOW characters; line ends as \n, other control characters (also those of two
 * bytes, C2 80 to C2 9F, which terminals obey) as dots. */
static void put_text(char cell[CELL], const struct qn_api_output *o) {
    size_t at = 0, i = 0;
    for (int shown = 0; i < o->text_len && shown < TEXT_SHOW; shown++) {
        const unsigned char *p = (const unsigned char *)o->text + i;
        size_t n = 1;
        while (i + n < o->text_len && (p[n] & 0xC0) == 0x80) n++;
        bool control = p[0] < 0x20 || p[0] == 0x7F || (p[0] == 0xC2 && n > 1 && p[1] < 0xA0);
        if (at + (n > 2 ? n : 2) >= CELL) break;
        if (control) {
            memcpy(cell + at, p[0] == '\n' ? "\\n" : ".", 2);
            at += p[0] == '\n' ? 2 : 1;
        } else {
            memcpy(cell + at, p, n);
            at += n;
        }
        i += n;
    }
    cell[at] = '\0';
    if (o->score) snprintf(cell, CELL, "%.4f bits/byte", o->score->bits_per_byte);
}

/* Milliseconds for a token after the first; not a number when there was none. */
static double per_token(const struct qn_api_timings *t) {
    return t->decode_tps > 0 ? 1000 / t->decode_tps : (double)NAN;
}

static const char *label(const struct qn_api_structure *s) {
    return strcmp(s->origin, "converted") == 0 ? s->exactness : s->origin;
}

static void fill(struct row *row, const struct qn_api_comparison *r, uint32_t i) {
    const struct qn_api_compared *c = &r->results[i];
    const struct qn_api_timings *m = &c->median;
    const struct qn_api_fidelity *f = c->fidelity;
    double none = (double)NAN, rate = m->decode_tps > 0 ? m->decode_tps : m->prefill_tps;
    qn_structure_name(r, i, row->cell[C_STRUCTURE], CELL);
    snprintf(row->cell[C_LABEL], CELL, "%s", label(&c->structure));
    put_number(row->cell[C_PREFILL], m->prefill, c->spread.prefill, 1);
    put_number(row->cell[C_DECODE], per_token(m), -1, 2);
    put_number(row->cell[C_RATE], rate > 0 ? rate : none, -1, 1);
    put_number(row->cell[C_STATE], (double)c->memory.state / 1024, -1, 1);
    put_number(row->cell[C_WEIGHTS], (double)c->memory.weights / 1048576, -1, 1);
    put_number(row->cell[C_KL], f ? f->mean_kl : none, -1, 4);
    put_number(row->cell[C_TOP1], f ? f->top1_agreement : none, -1, 3);
    put_number(row->cell[C_BITS], f ? f->bits_per_byte_delta : none, -1, 3);
    put_text(row->cell[C_TEXT], &c->outputs[0]);
}

static void print_row(FILE *f, char cells[C_COUNT][CELL], const int *widths) {
    for (int k = 0; k < C_COUNT; k++) {
        int pad = widths[k] - width(cells[k]);
        if (k == C_TEXT) pad = 0;
        if (left[k])
            fprintf(f, "%s%*s", cells[k], pad, "");
        else
            fprintf(f, "%*s%s", pad, "", cells[k]);
        fputs(k + 1 < C_COUNT ? "  " : "\n", f);
    }
}

void qn_compare_table(FILE *f, const struct qn_api_comparison *r) {
    struct row rows[QN_COMPARE_STRUCTURES + 1];
    int widths[C_COUNT] = {0};
    uint32_t n = r->n_results < QN_COMPARE_STRUCTURES ? r->n_results : QN_COMPARE_STRUCTURES;
    memset(&rows[0], 0, sizeof rows[0]);
    for (int k = 0; k < C_COUNT; k++) snprintf(rows[0].cell[k], CELL, "%s", heads[k]);
    for (uint32_t i = 0; i < n; i++) {
        memset(&rows[i + 1], 0, sizeof rows[0]);
        fill(&rows[i + 1], r, i);
    }
    for (uint32_t i = 0; i <= n; i++)
        for (int k = 0; k < C_COUNT; k++)
            if (width(rows[i].cell[k]) > widths[k]) widths[k] = width(rows[i].cell[k]);
    for (uint32_t i = 0; i <= n; i++) print_row(f, rows[i].cell, widths);
    char base[CELL];
    fprintf(f,
            "\nmedian of %u run%s, \xC2\xB1 interquartile range; KL (nats), top-1 and bits/byte against %s\n",
            r->repeats, r->repeats == 1 ? "" : "s", qn_structure_name(r, r->baseline, base, sizeof base));
}

/* ---- CSV ---- */
static void csv_text(FILE *f, const char *s, size_t n) {
    putc('"', f);
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '"') putc('"', f);
        putc(s[i], f);
    }
    putc('"', f);
}

/* Empty for what there is not. */
static void csv_number(FILE *f, double v) {
    if (isfinite(v))
        fprintf(f, ",%.9g", v);
    else
        putc(',', f);
}

static void csv_row(FILE *f, const struct qn_api_comparison *r, uint32_t i) {
    const struct qn_api_compared *c = &r->results[i];
    const struct qn_api_timings *m = &c->median, *s = &c->spread;
    const struct qn_api_fidelity *d = c->fidelity;
    double none = (double)NAN;
    double values[] = {m->prefill,
                       s->prefill,
                       per_token(m),
                       m->decode_tps > 0 ? m->decode_tps : none,
                       s->decode_tps >= 0 ? s->decode_tps : none,
                       m->prefill_tps > 0 ? m->prefill_tps : none,
                       m->total,
                       s->total,
                       (double)c->memory.state,
                       (double)c->memory.state_per_token,
                       (double)c->memory.weights,
                       (double)c->memory.weights_active,
                       c->cost.flops,
                       c->cost.bytes,
                       d ? d->mean_kl : none,
                       d ? d->top1_agreement : none,
                       d ? d->bits_per_byte_delta : none,
                       d ? (double)d->positions : none,
                       c->outputs[0].score ? c->outputs[0].score->bits_per_byte : none};
    for (int slot = QN_SLOT_ATTENTION; slot <= QN_SLOT_SHARING; slot++) {
        char name[CELL];
        qn_structure_part_name(r, i, (enum qn_slot)slot, name, sizeof name);
        csv_text(f, name, strlen(name));
        putc(',', f);
    }
    fprintf(f, "%s,%s", c->structure.origin, c->structure.exactness);
    for (size_t k = 0; k < sizeof values / sizeof *values; k++) csv_number(f, values[k]);
    putc(',', f);
    csv_text(f, c->outputs[0].text ? c->outputs[0].text : "",
             c->outputs[0].text ? c->outputs[0].text_len : 0);
    fputs("\r\n", f);
}

void qn_compare_csv(FILE *f, const struct qn_api_comparison *r) {
    fputs(
        "attention,ffn,sharing,origin,exactness,prefill_ms,prefill_ms_spread,decode_ms_per_token,"
        "decode_tokens_per_second,decode_tokens_per_second_spread,prefill_tokens_per_second,total_ms,"
        "total_ms_spread,state_bytes,state_bytes_per_token,weights_bytes,weights_active_bytes,analytic_flops,"
        "analytic_bytes,mean_kl,top1_agreement,bits_per_byte_delta,positions,bits_per_byte,text\r\n",
        f);
    for (uint32_t i = 0; i < r->n_results; i++) csv_row(f, r, i);
}
