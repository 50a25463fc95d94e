/* Byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM): vocabulary files spell each byte as one printable character;
 * here everything is turned back into bytes at load, so that encoding never sees that alphabet.
 *
 * build: token texts -> raw pieces, byte tokens, merge pairs. encode: text -> words (pretok) -> bytes ->
 * merges. */
#include <stdlib.h>
#include <string.h>

#include "kernels/mem.h"
#include "model/text/pretok.h"
#include "model/text/utf8.h"
#include "model/text/vocab.h"

/* GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes follow from U+0100 in order. */
static bool stands_for_itself(uint32_t b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
}

struct alphabet {
    int16_t byte_of[0x144]; /* -1: not in the alphabet */
};

static void alphabet_init(struct alphabet *a) {
    int16_t next = 0x100;
    memset(a->byte_of, 0xFF, sizeof a->byte_of);
    for (int16_t b = 0; b < 256; b++) {
        if (stands_for_itself((uint32_t)b))
            a->byte_of[b] = b;
        else
            a->byte_of[next++] = b;
    }
}

/* Spelled text to raw bytes in out (room for text.n); false when a character is not in the alphabet. */
static bool unspell(const struct alphabet *a, struct qn_str text, char *out, size_t *out_n) {
    const uint8_t *s = (const uint8_t *)text.p;
    size_t w = 0;
    for (size_t i = 0; i < text.n;) {
        uint32_t cp;
        i += qn_utf8_next(s + i, text.n - i, &cp, NULL);
        if (cp >= 0x144 || a->byte_of[cp] < 0) return false;
        out[w++] = (char)a->byte_of[cp];
    }
    *out_n = w;
    return true;
}

/* Raw pieces into the blob. Added and control tokens are plain text in the file; so is a token that strays
 * from the alphabet (spelled[i] stays false: no word can become it). */
static void fill_pieces(struct qn_tokenizer *t, const struct qn_vocab_desc *d, const struct alphabet *a,
                        bool *spelled) {
    size_t at = 0;
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        const struct qn_str text = d->tokens[i];
        size_t n = 0;
        if ((t->attrs[i] & (QN_ATTR_ADDED | QN_ATTR_SPECIAL)) == 0)
            spelled[i] = unspell(a, text, t->blob + at, &n);
        if (!spelled[i]) {
            if (text.n > 0) memcpy(t->blob + at, text.p, text.n);
            n = text.n;
        }
        t->piece[i] = (struct qn_str){t->blob + at, n};
        at += n;
    }
}

/* Words first, so that an added token of the same text never takes a word's place. */
static bool fill_words(struct qn_tokenizer *t, const bool *spelled) {
    if (!qn_text_table_init(&t->words, t->piece, t->n_tokens)) return false;
    for (uint32_t i = 0; i < t->n_tokens; i++)
        if (spelled[i] && !qn_vocab_hidden(t->attrs[i])) qn_text_table_put(&t->words, i);
    for (uint32_t i = 0; i < t->n_tokens; i++)
        if (t->attrs[i] & (QN_ATTR_ADDED | QN_ATTR_SPECIAL | QN_ATTR_UNKNOWN))
            qn_text_table_put(&t->words, i);
    return true;
}

static void fill_bytes(struct qn_tokenizer *t) {
    for (unsigned b = 0; b < 256; b++) {
        const char c = (char)b;
        const uint32_t id = qn_text_table_get(&t->words, &c, 1);
        t->byte_id[b] = id != QN_NO_ID && !qn_vocab_hidden(t->attrs[id]) ? id : QN_NO_ID;
    }
}

/* Adds merge i. A merge that strays from the alphabet or makes a control token can't apply to text: left out.
 */
static int add_merge(struct qn_tokenizer *t, const struct qn_vocab_desc *d, const struct alphabet *a,
                     uint32_t i, struct qn_err *err) {
    char raw[2 * QN_TOKEN_BYTES_MAX];
    struct qn_str left, right;
    size_t ln, rn;
    if (d->merges[i].n > sizeof raw + 1 || !qn_vocab_split_merge(d->merges[i], 0, &left, &right))
        return qn_vocab_bad_merge(err, i, d->merges[i]);
    if (!unspell(a, left, raw, &ln) || !unspell(a, right, raw + ln, &rn)) return QN_OK;
    const uint32_t l = qn_text_table_get(&t->words, raw, ln);
    const uint32_t r = qn_text_table_get(&t->words, raw + ln, rn);
    const uint32_t both = qn_text_table_get(&t->words, raw, ln + rn);
    if (l == QN_NO_ID || r == QN_NO_ID || both == QN_NO_ID) return qn_vocab_bad_merge(err, i, d->merges[i]);
    if (qn_vocab_hidden(t->attrs[l]) || qn_vocab_hidden(t->attrs[r]) || qn_vocab_hidden(t->attrs[both]))
        return QN_OK;
    const struct qn_pair pair = {l, r, i, both};
    if (!qn_pair_map_put(&t->pairs, &pair)) return qn_err_set(err, QN_ERR_NOMEM, "no memory for merges");
    return QN_OK;
}

int qn_bpe_build(struct qn_tokenizer *t, const struct qn_vocab_desc *d, struct qn_err *err) {
    struct alphabet a;
    alphabet_init(&a);
    /* GGUF files of byte-level vocabularies often name the end-of-text token as the unknown one, although
     * their tokenizer has none: a byte without a token must not turn into that control token. */
    if (t->unk >= 0 && !(t->attrs[t->unk] & QN_ATTR_UNKNOWN)) t->unk = -1;
    bool *spelled = calloc(t->n_tokens, sizeof *spelled);
    bool ok = spelled != NULL;
    if (ok) fill_pieces(t, d, &a, spelled);
    ok = ok && fill_words(t, spelled) && qn_pair_map_init(&t->pairs, d->n_merges);
    free(spelled);
    if (!ok) return qn_err_set(err, QN_ERR_NOMEM, "no memory for a vocabulary of %u tokens", t->n_tokens);
    fill_bytes(t);
    for (uint32_t i = 0; i < d->n_merges; i++) {
        const int rc = add_merge(t, d, &a, i, err);
        if (rc != QN_OK) return rc;
    }
    if (!t->ignore_merges) qn_text_table_free(&t->words);
    return QN_OK;
}

/* One byte that has no token: the unknown token, or nothing when the vocabulary has none (as Hugging Face).
 */
static int push_byte(const struct qn_tokenizer *t, uint8_t b, struct qn_encoding *e) {
    uint32_t id = t->byte_id[b];
    if (id == QN_NO_ID && t->unk >= 0) id = (uint32_t)t->unk;
    return id == QN_NO_ID ? QN_OK : qn_merger_push(&e->merger, id);
}

static int encode_word(const struct qn_tokenizer *t, const uint8_t *s, size_t n, struct qn_encoding *e) {
    if (t->ignore_merges) {
        const uint32_t id = qn_text_table_get(&t->words, s, n);
        if (id != QN_NO_ID && !(t->attrs[id] & (QN_ATTR_ADDED | QN_ATTR_SPECIAL | QN_ATTR_UNKNOWN)))
            return qn_encoding_push(e, id);
    }
    int rc = QN_OK;
    e->merger.n = 0;
    for (size_t i = 0; i < n && rc == QN_OK; i++) rc = push_byte(t, s[i], e);
    if (rc == QN_OK) rc = qn_merger_run(&e->merger, &t->pairs);
    if (e->merger.n == 0) return rc;
    for (uint32_t i = 0; i != QN_NO_ID && rc == QN_OK; i = e->merger.sym[i].next)
        rc = qn_encoding_push(e, e->merger.sym[i].id);
    return rc;
}

int qn_bpe_encode(const struct qn_tokenizer *t, const uint8_t *s, size_t n, struct qn_encoding *e) {
    /* Without merges (a byte vocabulary) every byte is a token of its own: no words needed, and any length.
     */
    const bool bytes_only = t->pairs.used == 0 && !t->ignore_merges;
    for (size_t at = 0; at < n;) {
        const size_t len = bytes_only ? 1 : qn_pretok_word(t->pretok, s + at, n - at);
        const int rc = encode_word(t, s + at, len, e);
        if (rc != QN_OK) return rc;
        at += len;
    }
    return QN_OK;
}
