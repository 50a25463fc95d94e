/* SentencePiece BPE (Llama 2, Mistral, Gemma): the text is not cut into words; blanks are the character
 * U+2581; a character outside the vocabulary falls back to its bytes' <0xNN> tokens, or to the unknown token.
 *
 * Files say which pairs merge in two ways. tokenizer.json lists merges in order. GGUF gives each token a
 * score, and two neighbours merge when their joint text is a token, best score first; here the scores are
 * turned into the same table of pairs at load by splitting each token at each of its characters. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/text/utf8.h"
#include "model/text/vocab.h"

enum { SCORED_BYTES_MAX = 1024 }; /* bytes of a token that merges by score; load time is quadratic in it */

static const char blank_utf8[3] = {(char)0xE2, (char)0x96, (char)0x81};

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

/* The byte that "<0xNN>" names, or -1. By hand: strtol would take "<0x-1>" for a number. */
static int byte_token(struct qn_str s) {
    if (s.n != 6 || memcmp(s.p, "<0x", 3) != 0 || s.p[5] != '>') return -1;
    const int hi = hex_digit(s.p[3]), lo = hex_digit(s.p[4]);
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

/* Text of a token with blanks for U+2581 into out (room for text.n); the length. */
static size_t unblank(struct qn_str text, char *out) {
    size_t w = 0;
    for (size_t i = 0; i < text.n;) {
        if (text.n - i >= 3 && memcmp(text.p + i, blank_utf8, 3) == 0) {
            out[w++] = ' ';
            i += 3;
        } else {
            out[w++] = text.p[i++];
        }
    }
    return w;
}

/* Pieces and byte tokens. A token spelled <0xNN> is a byte even if the file does not mark it as one. */
static int fill_pieces(struct qn_tokenizer *t, const struct qn_vocab_desc *d, struct qn_err *err) {
    size_t at = 0;
    for (unsigned b = 0; b < 256; b++) t->byte_id[b] = QN_NO_ID;
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        const struct qn_str text = d->tokens[i];
        char *out = t->blob + at;
        size_t n = text.n;
        const int byte = byte_token(text);
        if (byte < 0 && (t->attrs[i] & QN_ATTR_BYTE))
            return qn_err_set(err, QN_ERR_FORMAT, "token %u is a byte token but is not spelled <0xNN>", i);
        if (qn_vocab_hidden(t->attrs[i])) {
            if (n > 0) memcpy(out, text.p, n);
        } else if (byte >= 0) {
            t->attrs[i] |= QN_ATTR_BYTE;
            if (t->byte_id[byte] == QN_NO_ID) t->byte_id[byte] = i;
            out[0] = (char)byte;
            n = 1;
        } else {
            n = unblank(text, out);
        }
        t->piece[i] = (struct qn_str){out, n};
        at += n;
    }
    return QN_OK;
}

/* The one character that a text consists of, or QN_NO_ID. */
static uint32_t only_char(struct qn_str s) {
    uint32_t cp;
    bool valid;
    if (s.n == 0 || s.n > 4) return QN_NO_ID;
    return qn_utf8_next((const uint8_t *)s.p, s.n, &cp, &valid) == s.n && valid ? cp : QN_NO_ID;
}

static bool add_char(struct qn_tokenizer *t, uint32_t cp, uint32_t symbol) {
    const struct qn_pair p = {cp, 0, 0, symbol};
    return qn_pair_map_put(&t->chars, &p);
}

/* Control and byte tokens are never the result of merging text. */
static bool unmergeable(uint8_t attr) {
    return qn_vocab_hidden(attr) || (attr & QN_ATTR_BYTE) != 0;
}

/* True when a blank follows another character somewhere in the text. */
static bool blank_inside(struct qn_str text) {
    bool other = false;
    for (size_t i = 0; i < text.n;) {
        if (text.n - i >= 3 && memcmp(text.p + i, blank_utf8, 3) == 0) {
            if (other) return true;
            i += 3;
        } else {
            other = true;
            i++;
        }
    }
    return false;
}

/* Texts that merges may name, and the tokens of single characters. Unmergeable tokens come last, so that they
 * are found only when no other token has their text. */
static bool fill_texts(struct qn_tokenizer *t, const struct qn_vocab_desc *d, struct qn_text_table *texts) {
    if (!qn_text_table_init(texts, d->tokens, t->n_tokens)) return false;
    if (!qn_pair_map_init(&t->chars, 1024)) return false;
    t->cut_at_blanks = true;
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        if (unmergeable(t->attrs[i])) continue;
        qn_text_table_put(texts, i);
        if (blank_inside(d->tokens[i])) t->cut_at_blanks = false;
        const uint32_t cp = only_char(d->tokens[i]);
        if (cp != QN_NO_ID && !add_char(t, cp, i)) return false;
    }
    for (uint32_t i = 0; i < t->n_tokens; i++)
        if (unmergeable(t->attrs[i])) qn_text_table_put(texts, i);
    return true;
}

/* --- merges in order (tokenizer.json) ------------------------------------------------------------------- */

enum { BLANKS_TRIED = 8 }; /* a merge's text is split at one of its first blanks */

static int add_merge(struct qn_tokenizer *t, const struct qn_vocab_desc *d, const struct qn_text_table *texts,
                     uint32_t i, struct qn_err *err) {
    char joint[2 * QN_TOKEN_BYTES_MAX];
    const struct qn_str merge = d->merges[i];
    struct qn_str l, r;
    if (merge.n > sizeof joint + 1) return qn_vocab_bad_merge(err, i, merge);
    for (size_t nth = 0; nth < BLANKS_TRIED && qn_vocab_split_merge(merge, nth, &l, &r); nth++) {
        memcpy(joint, l.p, l.n);
        memcpy(joint + l.n, r.p, r.n);
        const struct qn_pair pair = {qn_text_table_get(texts, l.p, l.n), qn_text_table_get(texts, r.p, r.n),
                                     i, qn_text_table_get(texts, joint, l.n + r.n)};
        if (pair.left == QN_NO_ID || pair.right == QN_NO_ID || pair.result == QN_NO_ID) continue;
        const uint8_t attrs = t->attrs[pair.left] | t->attrs[pair.right] | t->attrs[pair.result];
        if (unmergeable(attrs)) return QN_OK;
        if (!qn_pair_map_put(&t->pairs, &pair)) return qn_err_set(err, QN_ERR_NOMEM, "no memory for merges");
        return QN_OK;
    }
    return qn_vocab_bad_merge(err, i, merge);
}

/* --- scores (GGUF) --- */

struct scored {
    float score;
    uint32_t id;
};

static int by_score(const void *a, const void *b) {
    const struct scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The symbol of a part of a token: a token, or a character that is none by itself (a loose one, registered on
 * its first use), or QN_NO_ID. */
static int part_symbol(struct qn_tokenizer *t, const struct qn_text_table *texts, struct qn_str part,
                       uint32_t *symbol) {
    *symbol = qn_text_table_get(texts, part.p, part.n);
    if (*symbol != QN_NO_ID && unmergeable(t->attrs[*symbol])) *symbol = QN_NO_ID;
    const uint32_t cp = *symbol == QN_NO_ID ? only_char(part) : QN_NO_ID;
    if (cp == QN_NO_ID) return QN_OK;
    const struct qn_pair *have = qn_pair_map_get(&t->chars, cp, 0);
    if (have) {
        *symbol = have->result;
        return QN_OK;
    }
    if (t->n_loose == t->cap_loose) {
        const size_t cap = t->cap_loose > 0 ? t->cap_loose * 2 : 64; /* characters: at most 0x110000 */
        uint32_t *p = realloc(t->loose, cap * sizeof *p);
        if (!p) return QN_ERR_NOMEM;
        t->loose = p;
        t->cap_loose = cap;
    }
    *symbol = t->n_tokens + (uint32_t)t->n_loose;
    t->loose[t->n_loose++] = cp;
    return add_char(t, cp, *symbol) ? QN_OK : QN_ERR_NOMEM;
}

/* Every way to make token id out of two symbols. */
static int add_splits(struct qn_tokenizer *t, const struct qn_text_table *texts, struct qn_str text,
                      uint32_t id, uint32_t rank) {
    const uint8_t *s = (const uint8_t *)text.p;
    for (size_t at = 0; at < text.n;) {
        uint32_t cp;
        at += qn_utf8_next(s + at, text.n - at, &cp, NULL);
        if (at == text.n) break;
        struct qn_pair p = {0, 0, rank, id};
        int rc = part_symbol(t, texts, (struct qn_str){text.p, at}, &p.left);
        if (rc == QN_OK) rc = part_symbol(t, texts, (struct qn_str){text.p + at, text.n - at}, &p.right);
        if (rc != QN_OK) return rc;
        if (p.left == QN_NO_ID || p.right == QN_NO_ID) continue;
        if (!qn_pair_map_put(&t->pairs, &p)) return QN_ERR_NOMEM;
    }
    return QN_OK;
}

/* Equal scores share a rank, so that the leftmost of them merges first. */
static int add_scored(struct qn_tokenizer *t, const struct qn_vocab_desc *d,
                      const struct qn_text_table *texts, struct qn_err *err) {
    struct scored *order = calloc(t->n_tokens, sizeof *order);
    if (!order) return qn_err_set(err, QN_ERR_NOMEM, "no memory for %u scores", t->n_tokens);
    int rc = QN_OK;
    for (uint32_t i = 0; i < t->n_tokens && rc == QN_OK; i++) {
        order[i] = (struct scored){d->scores[i], i};
        if (isnan(d->scores[i])) rc = qn_err_set(err, QN_ERR_FORMAT, "score of token %u is not a number", i);
    }
    if (rc == QN_OK) qsort(order, t->n_tokens, sizeof *order, by_score);
    uint32_t rank = 0;
    for (uint32_t k = 0; k < t->n_tokens && rc == QN_OK; k++) {
        const uint32_t id = order[k].id;
        if (k > 0 && order[k].score != order[k - 1].score) rank++;
        if (unmergeable(t->attrs[id])) continue;
        if (d->tokens[id].n > SCORED_BYTES_MAX)
            rc = qn_err_set(err, QN_ERR_UNSUPPORTED, "token %u has more than %d bytes", id, SCORED_BYTES_MAX);
        else if (add_splits(t, texts, d->tokens[id], id, rank) != QN_OK)
            rc = qn_err_set(err, QN_ERR_NOMEM, "no memory for merges");
    }
    free(order);
    return rc;
}

int qn_spm_build(struct qn_tokenizer *t, const struct qn_vocab_desc *d, struct qn_err *err) {
    if (d->n_merges == 0 && !d->scores)
        return qn_err_set(err, QN_ERR_FORMAT, "a SentencePiece vocabulary needs scores or merges");
    int rc = fill_pieces(t, d, err);
    if (rc != QN_OK) return rc;
    struct qn_text_table texts;
    const size_t expect = d->n_merges > 0 ? d->n_merges : t->n_tokens;
    const bool ok = fill_texts(t, d, &texts) && qn_pair_map_init(&t->pairs, expect);
    if (!ok) rc = qn_err_set(err, QN_ERR_NOMEM, "no memory for a vocabulary of %u tokens", t->n_tokens);
    for (uint32_t i = 0; i < d->n_merges && rc == QN_OK; i++) rc = add_merge(t, d, &texts, i, err);
    if (rc == QN_OK && d->n_merges == 0) rc = add_scored(t, d, &texts, err);
    qn_text_table_free(&texts);
    return rc;
}

/* --- encoding --- */

/* Appends what stands for a character without a token: its bytes, else the unknown token, which swallows
 * unknown neighbours (*unknown: the previous character ended in it). A vocabulary with neither drops it. */
static int push_fallback(const struct qn_tokenizer *t, uint32_t cp, bool *unknown, struct qn_encoding *e) {
    uint8_t b[4];
    const size_t n = qn_utf8_put(cp, b);
    bool all = true;
    for (size_t i = 0; i < n; i++) all = all && t->byte_id[b[i]] != QN_NO_ID;
    if (!all) {
        const bool fused = *unknown;
        *unknown = t->unk >= 0;
        return t->unk < 0 || fused ? QN_OK : qn_encoding_push(e, (uint32_t)t->unk);
    }
    *unknown = false;
    int rc = QN_OK;
    for (size_t i = 0; i < n && rc == QN_OK; i++) rc = qn_encoding_push(e, t->byte_id[b[i]]);
    return rc;
}

/* Symbols from here up are characters without any symbol: no pair names them, so they stay as they are. */
#define RAW_CHAR 0x80000000u

static int push_char(const struct qn_tokenizer *t, uint32_t cp, struct qn_encoding *e) {
    const struct qn_pair *c = qn_pair_map_get(&t->chars, cp, 0);
    return qn_merger_push(&e->merger, c ? c->result : RAW_CHAR | cp);
}

/* Merges the symbols collected so far and appends their ids. */
static int flush_word(const struct qn_tokenizer *t, bool *unknown, struct qn_encoding *e) {
    if (e->merger.n == 0) return QN_OK;
    int rc = qn_merger_run(&e->merger, &t->pairs);
    for (uint32_t i = 0; i != QN_NO_ID && rc == QN_OK; i = e->merger.sym[i].next) {
        const uint32_t id = e->merger.sym[i].id;
        if (id < t->n_tokens) {
            *unknown = false;
            rc = qn_encoding_push(e, id);
        } else {
            const uint32_t cp = id & RAW_CHAR ? id & ~RAW_CHAR : t->loose[id - t->n_tokens];
            rc = push_fallback(t, cp, unknown, e);
        }
    }
    e->merger.n = 0;
    return rc;
}

int qn_spm_encode(const struct qn_tokenizer *t, const uint8_t *s, size_t n, struct qn_encoding *e) {
    bool unknown = false, blank = false;
    int rc = QN_OK;
    e->merger.n = 0;
    if (n > 0 && t->add_space_prefix) {
        rc = push_char(t, QN_BLANK, e);
        blank = true;
    }
    for (size_t at = 0; at < n && rc == QN_OK;) {
        uint32_t cp;
        at += qn_utf8_next(s + at, n - at, &cp, NULL);
        if (cp == ' ') cp = QN_BLANK;
        if (cp == QN_BLANK && !blank && t->cut_at_blanks) rc = flush_word(t, &unknown, e);
        blank = cp == QN_BLANK;
        if (rc == QN_OK) rc = push_char(t, cp, e);
    }
    return rc == QN_OK ? flush_word(t, &unknown, e) : rc;
}
