/* Text of generated tokens: UTF-8 hold-back, stop strings. See text_out.h. Engine thread. */
#include "server/text_out.h"

#include <string.h>

static const char replacement[3] = {'\xEF', '\xBF', '\xBD'};

void qn_text_out_init(struct qn_text_out *t, const char *const *stops, const size_t *stop_lens,
                      uint32_t n_stops, bool strip_blank) {
    memset(t, 0, sizeof *t);
    t->stops = stops;
    t->stop_lens = stop_lens;
    t->n_stops = n_stops;
    t->strip_blank = strip_blank;
}

void qn_text_out_free(struct qn_text_out *t) {
    qn_buf_free(&t->held);
}

/* Is the begun character part[0..n) still the begin of a valid one? Unicode table 3-7: the second byte's
 * range depends on the first; later ones are 80..BF. Sets *need to the whole character's length. */
static bool part_valid(const unsigned char *p, uint32_t n, uint32_t *need) {
    unsigned char lo = 0x80, hi = 0xBF;
    *need = 1;
    if (p[0] < 0x80) return true;
    if (p[0] < 0xC2 || p[0] > 0xF4) return false;
    *need = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    if (p[0] == 0xE0) lo = 0xA0;
    if (p[0] == 0xED) hi = 0x9F; /* surrogates */
    if (p[0] == 0xF0) lo = 0x90;
    if (p[0] == 0xF4) hi = 0x8F;
    for (uint32_t i = 1; i < n; i++, lo = 0x80, hi = 0xBF)
        if (p[i] < lo || p[i] > hi) return false;
    return true;
}

/* A stop string that ends where `held` ends; the longest of them, 0 when there is none. */
static size_t stop_at_end(const struct qn_text_out *t) {
    size_t best = 0;
    for (uint32_t i = 0; i < t->n_stops; i++) {
        size_t n = t->stop_lens[i];
        if (n <= best || n > t->held.n) continue;
        if (!memcmp(t->held.p + t->held.n - n, t->stops[i], n)) best = n;
    }
    return best;
}

/* One byte of valid UTF-8 into the held text. Byte by byte, because the first stop string to end must win
 * wherever the pieces were cut. */
static int hold(struct qn_text_out *t, const char *p, size_t n) {
    if (!t->n_stops) qn_buf_add(&t->held, p, n);
    for (size_t i = 0; t->n_stops && i < n; i++) {
        qn_buf_add(&t->held, p + i, 1);
        if (t->held.failed) return -1;
        size_t cut = stop_at_end(t);
        if (cut) {
            t->held.n -= cut;
            t->stopped = true;
            return 1;
        }
    }
    return t->held.failed ? -1 : 0;
}

static int hold_char(struct qn_text_out *t, const char *p, size_t n) {
    bool blank = t->strip_blank && n == 1 && p[0] == ' ';
    t->strip_blank = false; /* the first character decides */
    return blank ? 0 : hold(t, p, n);
}

static int feed_byte(struct qn_text_out *t, unsigned char c) {
    uint32_t need;
    t->part[t->n_part++] = c;
    if (!part_valid(t->part, t->n_part, &need)) {
        /* The begun part ends before this byte, and the byte starts anew (unless it stood alone). */
        bool again = t->n_part > 1;
        t->n_part = 0;
        int rc = hold_char(t, replacement, sizeof replacement);
        return rc || !again ? rc : feed_byte(t, c);
    }
    if (t->n_part < need) return 0;
    t->n_part = 0;
    return hold_char(t, (const char *)t->part, need);
}

/* Bytes at the end of `held` that begin a stop string: the longest such suffix. */
static size_t held_back(const struct qn_text_out *t) {
    size_t best = 0;
    for (uint32_t i = 0; i < t->n_stops; i++) {
        size_t max = t->stop_lens[i] ? t->stop_lens[i] - 1 : 0;
        if (max > t->held.n) max = t->held.n;
        for (size_t k = max; k > best; k--)
            if (!memcmp(t->held.p + t->held.n - k, t->stops[i], k)) best = k;
    }
    return best;
}

static int emit(struct qn_text_out *t, size_t keep, struct qn_buf *out) {
    size_t n = t->held.n - keep;
    if (!n) return 0;
    qn_buf_add(out, t->held.p, n);
    memmove(t->held.p, t->held.p + n, keep);
    t->held.n = keep;
    return out->failed ? -1 : 0;
}

int qn_text_out_push(struct qn_text_out *t, const char *piece, size_t n, struct qn_buf *out) {
    int rc = 0;
    if (t->stopped) return 1;
    for (size_t i = 0; i < n && !rc; i++) rc = feed_byte(t, (unsigned char)piece[i]);
    if (rc < 0) return rc;
    return emit(t, rc ? 0 : held_back(t), out) ? -1 : rc;
}

int qn_text_out_flush(struct qn_text_out *t, struct qn_buf *out) {
    int rc = 0;
    if (t->stopped) return 1;
    if (t->n_part) {
        t->n_part = 0;
        rc = hold_char(t, replacement, sizeof replacement);
    }
    if (rc < 0) return rc;
    return emit(t, 0, out) ? -1 : rc;
}
