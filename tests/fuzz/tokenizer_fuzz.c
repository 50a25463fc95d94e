/* Fuzzes model/text/ with libFuzzer (clang, -fsanitize=fuzzer). The first byte chooses:
 *   even  a fixed vocabulary and the rest as text: byte-level texts must come back as their repaired UTF-8,
 * ids must be in range, and a limit of one token less must be refused odd   the rest as a vocabulary (tokens,
 * attributes, merges, ids) and a text for it: nothing but codes may come out
 */
#include <stdlib.h>
#include <string.h>

#include "model/text/tokenizer.h"
#include "model/text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define EXPECT(x)                                                                                            \
    do {                                                                                                     \
        if (!(x)) __builtin_trap();                                                                          \
    } while (0)

/* --- fixed vocabularies --- */

enum { N_FIXED = 256 + 6 };

/* The 256 characters of GPT-2's byte alphabet and a few merges over letters and blanks. */
static struct qn_tokenizer *byte_level(enum qn_pretok pretok) {
    static char text[256][4];
    static struct qn_str tokens[N_FIXED] = {{0}};
    static uint8_t attrs[N_FIXED];
    static const struct qn_str more[] = {{"aa", 2},        {"aaaa", 4},  {"th", 2},
                                         {"\xC4\xA0t", 3}, {"<|x|>", 5}, {"<m>", 3}};
    static const struct qn_str merges[] = {{"a a", 3}, {"aa aa", 5}, {"t h", 3}, {"\xC4\xA0 t", 4}};
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; b++) {
        const bool itself = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        tokens[b] = (struct qn_str){text[b], qn_utf8_put(itself ? b : next++, (uint8_t *)text[b])};
    }
    memcpy(tokens + 256, more, sizeof more);
    attrs[260] = QN_ATTR_SPECIAL | QN_ATTR_ADDED;
    attrs[261] = QN_ATTR_ADDED | QN_ATTR_LSTRIP | QN_ATTR_RSTRIP;
    const struct qn_vocab_desc d = {.kind = QN_TOK_BPE,
                                    .pretok = pretok,
                                    .n_tokens = N_FIXED,
                                    .tokens = tokens,
                                    .attrs = attrs,
                                    .n_merges = 4,
                                    .merges = merges,
                                    .bos = -1,
                                    .eos = -1,
                                    .unk = -1,
                                    .pad = -1,
                                    .ignore_merges = pretok == QN_PRETOK_LLAMA3};
    struct qn_tokenizer *t = NULL;
    EXPECT(qn_tokenizer_new(&d, &t, NULL) == QN_OK);
    return t;
}

/* Pieces of plain ids must be the repaired text. */
static void check_round_trip(const struct qn_tokenizer *t, const uint8_t *text, size_t len,
                             const int32_t *ids, size_t n) {
    size_t want_n = 0, at = 0;
    uint8_t *want = qn_utf8_repair(text, len, &want_n);
    EXPECT(want);
    for (size_t i = 0; i < n; i++) {
        const struct qn_str p = qn_tokenizer_piece(t, ids[i], true);
        EXPECT(p.n > 0 && p.n <= want_n - at && memcmp(p.p, want + at, p.n) == 0);
        at += p.n;
    }
    EXPECT(at == want_n);
    free(want);
}

static void fuzz_text(unsigned which, const uint8_t *text, size_t len) {
    static struct qn_tokenizer *t[5];
    const unsigned kind = which % 5;
    const unsigned flags = which & 64 ? 0 : QN_TOK_PLAIN;
    int32_t *ids = NULL, *none = NULL;
    size_t n = 0, m = 0;
    if (!t[kind]) t[kind] = byte_level((enum qn_pretok)kind);
    EXPECT(qn_tokenizer_encode(t[kind], (const char *)text, len, flags, 0, &ids, &n, NULL) == QN_OK);
    for (size_t i = 0; i < n; i++) EXPECT(ids[i] >= 0 && ids[i] < N_FIXED);
    if (flags & QN_TOK_PLAIN) check_round_trip(t[kind], text, len, ids, n);
    if (n > 1) {
        EXPECT(qn_tokenizer_encode(t[kind], (const char *)text, len, flags, n - 1, &none, &m, NULL) ==
               QN_ERR_TOO_LONG);
        EXPECT(!none && m == 0);
    }
    free(ids);
}

/* --- vocabularies from the input --- */

struct cursor {
    const uint8_t *p;
    size_t n;
};

static uint8_t take(struct cursor *c) {
    if (c->n == 0) return 0;
    c->n--;
    return *c->p++;
}

static struct qn_str take_str(struct cursor *c) {
    size_t n = take(c) % 12;
    if (n > c->n) n = c->n;
    const struct qn_str s = {(const char *)c->p, n};
    c->p += n;
    c->n -= n;
    return s;
}

static void fuzz_vocab(struct cursor c) {
    enum { MAX = 64 };
    struct qn_str tokens[MAX], merges[MAX];
    uint8_t attrs[MAX];
    float scores[MAX];
    int32_t eog[2];
    const uint8_t bits = take(&c);
    struct qn_vocab_desc d = {.kind = bits & 1 ? QN_TOK_SPM : QN_TOK_BPE,
                              .pretok = (enum qn_pretok)(take(&c) % 5),
                              .n_tokens = take(&c) % MAX,
                              .tokens = tokens,
                              .attrs = attrs,
                              .scores = bits & 2 ? scores : NULL,
                              .merges = merges,
                              .eog = eog,
                              .add_bos = (bits & 4) != 0,
                              .add_eos = (bits & 8) != 0,
                              .add_space_prefix = (bits & 16) != 0,
                              .ignore_merges = (bits & 32) != 0,
                              .nfc = (bits & 64) != 0};
    d.n_merges = take(&c) % MAX;
    d.bos = (int8_t)take(&c);
    d.eos = (int8_t)take(&c);
    d.unk = (int8_t)take(&c);
    d.pad = -1;
    d.n_eog = bits & 128 ? 2 : 0;
    for (size_t i = 0; i < 2; i++) eog[i] = (int8_t)take(&c);
    for (uint32_t i = 0; i < d.n_tokens; i++) {
        attrs[i] = take(&c);
        scores[i] = (float)(int8_t)take(&c);
        tokens[i] = take_str(&c);
    }
    for (uint32_t i = 0; i < d.n_merges; i++) merges[i] = take_str(&c);
    struct qn_tokenizer *t = NULL;
    struct qn_err err = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    const int rc = qn_tokenizer_new(&d, &t, &err);
    EXPECT((rc == QN_OK) == (t != NULL) && err.code == rc);
    if (rc != QN_OK) return;
    EXPECT(qn_tokenizer_encode(t, (const char *)c.p, c.n, bits >> 5 & 3, 0, &ids, &n, NULL) == QN_OK);
    for (size_t i = 0; i < n; i++) {
        EXPECT(ids[i] >= 0 && (uint32_t)ids[i] < d.n_tokens);
        EXPECT(qn_tokenizer_piece(t, ids[i], true).p);
    }
    free(ids);
    qn_tokenizer_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    if (data[0] & 1)
        fuzz_vocab((struct cursor){data + 1, size - 1});
    else
        fuzz_text(data[0] / 2, data + 1, size - 1);
    return 0;
}
