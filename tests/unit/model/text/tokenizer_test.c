/* The tokenizer as its callers see it, on the tiny vocabularies of tests/golden/tokenizers: texts come back,
 * limits and flags hold, hostile vocabularies are refused, long runs end on a small stack. */
// clang-format off
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/text/tokenizer.h"
#include "model/text/utf8.h"
#include "tests/support/vocab_fixture.h"

#define DIR "tests/golden/tokenizers/"
static const char *const bpe_names[] = {DIR "tiny_gpt2.vocab", DIR "tiny_llama3.vocab",
                                        DIR "tiny_smollm.vocab"};

static struct qn_tokenizer *open_tiny(const char *path) {
    struct qn_tokenizer *t = qn_vocab_fixture_tokenizer(path);
    assert_non_null(t);
    return t;
}

/* Encodes; the ids (free()). */
static int32_t *encode(const struct qn_tokenizer *t, const char *text, size_t len, unsigned flags,
                       size_t *n) {
    struct qn_err err = {0};
    int32_t *ids = NULL;
    const int rc = qn_tokenizer_encode(t, text, len, flags, 0, &ids, n, &err);
    if (rc != QN_OK) fail_msg("encode: %s", err.msg);
    assert_non_null(ids);
    return ids;
}

/* The pieces of ids, joined (free()). */
static char *decode(const struct qn_tokenizer *t, const int32_t *ids, size_t n, size_t *len) {
    size_t cap = 1;
    for (size_t i = 0; i < n; i++) cap += qn_tokenizer_piece(t, ids[i], true).n;
    char *out = malloc(cap);
    assert_non_null(out);
    *len = 0;
    for (size_t i = 0; i < n; i++) {
        const struct qn_str p = qn_tokenizer_piece(t, ids[i], true);
        memcpy(out + *len, p.p, p.n);
        *len += p.n;
    }
    return out;
}

static uint32_t next_random(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

/* Random characters, ASCII more often; the length. */
static size_t random_text(uint8_t *out, size_t chars, uint64_t *seed) {
    size_t n = 0;
    for (size_t i = 0; i < chars; i++) {
        const uint32_t r = next_random(seed);
        uint32_t cp = r % 3 ? next_random(seed) % 128 : next_random(seed) % (r % 2 ? 0x3000 : 0x110000);
        if ((cp >= 0xD800 && cp < 0xE000) || cp == 0x2581) cp = 0x20; /* U+2581 comes back as a blank */
        n += qn_utf8_put(cp, out + n);
    }
    return n;
}

static void bpe_texts_come_back(void **state) {
    (void)state;
    for (size_t v = 0; v < sizeof bpe_names / sizeof *bpe_names; v++) {
        struct qn_tokenizer *t = open_tiny(bpe_names[v]);
        uint64_t seed = 11;
        for (int round = 0; round < 3000; round++) {
            uint8_t text[4 * 80];
            size_t n, len;
            const size_t text_n = random_text(text, next_random(&seed) % 80, &seed);
            int32_t *ids = encode(t, (const char *)text, text_n, 0, &n);
            char *back = decode(t, ids, n, &len);
            if (len != text_n || memcmp(back, text, len) != 0)
                fail_msg("round %d, seed 11, %s", round, bpe_names[v]);
            free(back);
            free(ids);
        }
        qn_tokenizer_free(t);
    }
}

/* With the leading blank dropped, SentencePiece texts come back too: what has no token has its bytes. */
static void spm_texts_come_back(void **state) {
    (void)state;
    struct qn_tokenizer *t = open_tiny(DIR "tiny_spm_merges.vocab");
    uint64_t seed = 12;
    assert_true(qn_tokenizer_strips_first_blank(t));
    for (int round = 0; round < 3000; round++) {
        uint8_t text[4 * 80];
        size_t n, len;
        const size_t text_n = random_text(text, 1 + next_random(&seed) % 79, &seed);
        int32_t *ids = encode(t, (const char *)text, text_n, QN_TOK_PLAIN, &n);
        char *back = decode(t, ids, n, &len);
        if (len != text_n + 1 || back[0] != ' ' || memcmp(back + 1, text, text_n) != 0)
            fail_msg("round %d, seed 12", round);
        free(back);
        free(ids);
    }
    qn_tokenizer_free(t);
}

static void invalid_bytes_become_replacements(void **state) {
    (void)state;
    struct qn_tokenizer *t = open_tiny(bpe_names[0]);
    size_t n, m, len;
    int32_t *a = encode(t, "x\xFF\xE2\x82y\xF0\x9F", 7, 0, &n);
    int32_t *b = encode(t, "x\xEF\xBF\xBD\xEF\xBF\xBDy\xEF\xBF\xBD", 11, 0, &m);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, n * sizeof *a);
    char *back = decode(t, a, n, &len);
    assert_int_equal(len, 11);
    free(back);
    free(a);
    free(b);
    qn_tokenizer_free(t);
}

static void empty_text_and_special_ids(void **state) {
    (void)state;
    struct qn_vocab_fixture f;
    struct qn_tokenizer *t = NULL;
    size_t n;
    assert_int_equal(qn_vocab_fixture_read(&f, DIR "tiny_spm_merges.vocab"), 0);
    f.desc.bos = 1;
    f.desc.eos = 2;
    f.desc.add_bos = f.desc.add_eos = true;
    f.eog[0] = 5;
    f.desc.n_eog = 1;
    assert_int_equal(qn_tokenizer_new(&f.desc, &t, NULL), QN_OK);
    qn_vocab_fixture_free(&f);
    int32_t *ids = encode(t, NULL, 0, 0, &n);
    assert_int_equal(n, 0);
    free(ids);
    ids = encode(t, "", 0, QN_TOK_ADD_SPECIAL, &n);
    assert_int_equal(n, 2);
    assert_int_equal(ids[0], 1);
    assert_int_equal(ids[1], 2);
    free(ids);
    assert_true(qn_tokenizer_adds_bos(t));
    assert_int_equal(qn_tokenizer_bos(t), 1);
    assert_int_equal(qn_tokenizer_eos(t), 2);
    assert_true(qn_tokenizer_is_eog(t, 2) && qn_tokenizer_is_eog(t, 5));
    assert_false(qn_tokenizer_is_eog(t, 1));
    assert_true(qn_tokenizer_is_special(t, 0) && qn_tokenizer_is_special(t, 1));
    assert_false(qn_tokenizer_is_special(t, 300));
    assert_int_equal(qn_tokenizer_piece(t, 1, false).n, 0);
    assert_int_equal(qn_tokenizer_piece(t, 1, true).n, 3);
    qn_tokenizer_free(t);
}

static void ids_out_of_range_are_empty(void **state) {
    (void)state;
    struct qn_tokenizer *t = open_tiny(bpe_names[0]);
    const int32_t ids[] = {-1, INT32_MIN, INT32_MAX, (int32_t)qn_tokenizer_size(t)};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(qn_tokenizer_piece(t, ids[i], true).n, 0);
        assert_non_null(qn_tokenizer_piece(t, ids[i], true).p);
        assert_false(qn_tokenizer_is_eog(t, ids[i]));
        assert_false(qn_tokenizer_is_special(t, ids[i]));
    }
    assert_true(qn_tokenizer_bytes(t) > 1000);
    qn_tokenizer_free(t);
}

static void too_many_tokens_are_refused(void **state) {
    (void)state;
    struct qn_tokenizer *t = open_tiny(bpe_names[0]);
    struct qn_err err = {0};
    int32_t *ids;
    size_t n;
    int32_t *all = encode(t, "a b c d e", 9, 0, &n);
    const size_t full = n;
    free(all);
    assert_int_equal(qn_tokenizer_encode(t, "a b c d e", 9, 0, full, &ids, &n, &err), QN_OK);
    free(ids);
    assert_int_equal(qn_tokenizer_encode(t, "a b c d e", 9, 0, full - 1, &ids, &n, &err), QN_ERR_TOO_LONG);
    assert_null(ids);
    assert_int_equal(n, 0);
    assert_int_equal(err.code, QN_ERR_TOO_LONG);
    qn_tokenizer_free(t);
}

static bool has(const int32_t *ids, size_t n, int32_t id) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

/* Four added tokens follow the tiny vocabularies' 480: <|end|>, <|end|>x, <mask> (lstrip), <sep> (rstrip). */
static void added_tokens_in_text(void **state) {
    (void)state;
    struct qn_tokenizer *t = open_tiny(bpe_names[0]);
    const int32_t base = (int32_t)qn_tokenizer_size(t) - 4;
    size_t n;
    int32_t *ids = encode(t, "<|end|>x<|end|><|end", 20, 0, &n);
    assert_true(n > 2);
    assert_int_equal(ids[0], base + 1); /* the longest that starts there */
    assert_int_equal(ids[1], base);
    free(ids);
    ids = encode(t, "a \n <mask> b", 12, 0, &n);
    assert_int_equal(ids[1], base + 2); /* "a", then the blanks belong to the token */
    free(ids);
    ids = encode(t, "<sep> \t\n", 8, 0, &n);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], base + 3);
    free(ids);
    ids = encode(t, "<|end|><mask><sep>", 18, QN_TOK_PLAIN, &n);
    for (int32_t i = base; i < base + 4; i++) assert_false(has(ids, n, i));
    free(ids);
    qn_tokenizer_free(t);
}

/* --- vocabularies that must be refused, or made harmless --- */

#define S(text)                                                                                              \
    { text, sizeof(text) - 1 }

static int try_new(const struct qn_vocab_desc *d, struct qn_err *err) {
    struct qn_tokenizer *t = NULL;
    memset(err, 0, sizeof *err);
    const int rc = qn_tokenizer_new(d, &t, err);
    if (rc == QN_OK)
        assert_non_null(t);
    else
        assert_null(t);
    assert_int_equal(err->code, rc);
    qn_tokenizer_free(t);
    return rc;
}

static void byte_tokens_are_parsed_by_hand(void **state) {
    (void)state;
    static const char *const bad[] = {"<0x-1>", "<0x+1>", "<0x 1>", "<0x1>", "<0x111>",
                                      "<0xGG>", "0x41",   "",       "<0X41>"};
    const uint8_t attrs[2] = {QN_ATTR_NORMAL, QN_ATTR_BYTE};
    const float scores[2] = {0, 0};
    struct qn_err err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const struct qn_str tokens[2] = {S("a"), {bad[i], strlen(bad[i])}};
        const struct qn_vocab_desc d = {.kind = QN_TOK_SPM,
                                        .n_tokens = 2,
                                        .tokens = tokens,
                                        .scores = scores,
                                        .attrs = attrs,
                                        .bos = -1,
                                        .eos = -1,
                                        .unk = -1,
                                        .pad = -1};
        assert_int_equal(try_new(&d, &err), QN_ERR_FORMAT);
    }
}

static void bad_vocabularies_are_refused(void **state) {
    (void)state;
    const struct qn_str tokens[4] = {S("a"), S("b"), S("ab"), S("<s>")};
    const uint8_t attrs[4] = {0, 0, 0, QN_ATTR_SPECIAL};
    const struct qn_str good[1] = {S("a b")};
    const int32_t eog[1] = {4};
    const float nan_scores[4] = {0, NAN, 0, 0};
    static char long_text[5000];
    memset(long_text, 'a', sizeof long_text);
    struct qn_err err;
    const struct qn_vocab_desc base = {.kind = QN_TOK_BPE,
                                       .n_tokens = 4,
                                       .tokens = tokens,
                                       .attrs = attrs,
                                       .n_merges = 1,
                                       .merges = good,
                                       .bos = -1,
                                       .eos = -1,
                                       .unk = -1,
                                       .pad = -1};
    assert_int_equal(try_new(&base, &err), QN_OK);
    struct qn_vocab_desc d = base;
    d.n_tokens = 0;
    assert_int_equal(try_new(&d, &err), QN_ERR_FORMAT);
    d.n_tokens = UINT32_MAX;
    assert_int_equal(try_new(&d, &err), QN_ERR_UNSUPPORTED);
    for (int which = 0; which < 4; which++) {
        static const int32_t ids[] = {4, -2, INT32_MAX, INT32_MIN};
        for (size_t k = 0; k < 4; k++) {
            d = base;
            *(which == 0 ? &d.bos : which == 1 ? &d.eos : which == 2 ? &d.unk : &d.pad) = ids[k];
            assert_int_equal(try_new(&d, &err), QN_ERR_FORMAT);
        }
    }
    d = base;
    d.eog = eog;
    d.n_eog = 1;
    assert_int_equal(try_new(&d, &err), QN_ERR_FORMAT);
    static const struct qn_str bad_merges[] = {S("a"),  S(""),    S(" "),   S("a "),
                                               S(" b"), S("a c"), S("b a"), S("ab a")};
    for (int kind = QN_TOK_BPE; kind <= QN_TOK_SPM; kind++)
        for (size_t i = 0; i < sizeof bad_merges / sizeof *bad_merges; i++) {
            d = base;
            d.kind = (enum qn_tok_kind)kind;
            d.merges = &bad_merges[i];
            assert_int_equal(try_new(&d, &err), QN_ERR_FORMAT);
        }
    d = base;
    d.kind = QN_TOK_SPM;
    d.n_merges = 0;
    assert_int_equal(try_new(&d, &err), QN_ERR_FORMAT); /* neither merges nor scores */
    d.scores = nan_scores;
    assert_int_equal(try_new(&d, &err), QN_ERR_FORMAT);
    const struct qn_str huge[1] = {{long_text, sizeof long_text}};
    d = base;
    d.tokens = huge;
    d.n_tokens = 1;
    d.n_merges = 0;
    assert_int_equal(try_new(&d, &err), QN_ERR_FORMAT);
}

/* A merge that spells a control token must not let plain text become one. */
static void text_never_becomes_a_control_token(void **state) {
    (void)state;
    const struct qn_str tokens[4] = {S("a"), S("b"), S("ab"), S("c")};
    const uint8_t attrs[4] = {0, 0, QN_ATTR_SPECIAL | QN_ATTR_ADDED, 0};
    const struct qn_str merges[1] = {S("a b")};
    const float scores[4] = {0, 0, 9, 0};
    struct qn_vocab_desc d = {.kind = QN_TOK_BPE,
                              .pretok = QN_PRETOK_GPT2,
                              .n_tokens = 4,
                              .tokens = tokens,
                              .scores = scores,
                              .attrs = attrs,
                              .n_merges = 1,
                              .merges = merges,
                              .bos = -1,
                              .eos = -1,
                              .unk = -1,
                              .pad = -1,
                              .ignore_merges = true};
    for (int form = 0; form < 3; form++) { /* BPE, SPM with merges, SPM with scores */
        struct qn_tokenizer *t = NULL;
        size_t n;
        d.kind = form == 0 ? QN_TOK_BPE : QN_TOK_SPM;
        d.n_merges = form < 2 ? 1 : 0;
        assert_int_equal(qn_tokenizer_new(&d, &t, NULL), QN_OK);
        int32_t *ids = encode(t, "ab", 2, QN_TOK_PLAIN, &n);
        assert_int_equal(n, 2);
        assert_int_equal(ids[0], 0);
        free(ids);
        ids = encode(t, "cab", 3, 0, &n);
        assert_int_equal(n, 2);
        assert_int_equal(ids[1], 2);
        free(ids);
        qn_tokenizer_free(t);
    }
}

/* A merge list may contain tokens with blanks inside; the split that names tokens is taken. */
static void merges_of_tokens_with_blanks(void **state) {
    (void)state;
    const struct qn_str tokens[3] = {S("x y"), S("z"), S("x yz")};
    const uint8_t attrs[3] = {0, 0, 0};
    const struct qn_str merges[1] = {S("x y z")};
    struct qn_err err;
    const struct qn_vocab_desc d = {.kind = QN_TOK_SPM,
                                    .n_tokens = 3,
                                    .tokens = tokens,
                                    .attrs = attrs,
                                    .n_merges = 1,
                                    .merges = merges,
                                    .bos = -1,
                                    .eos = -1,
                                    .unk = -1,
                                    .pad = -1};
    assert_int_equal(try_new(&d, &err), QN_OK);
}

/* A byte-level vocabulary without some bytes: its unknown token if it is one, never a control token. */
static void bytes_without_tokens(void **state) {
    (void)state;
    const struct qn_str tokens[2] = {S("<|endoftext|>"), S("a")};
    uint8_t attrs[2] = {QN_ATTR_SPECIAL | QN_ATTR_ADDED, 0};
    const struct qn_vocab_desc d = {.kind = QN_TOK_BPE,
                                    .n_tokens = 2,
                                    .tokens = tokens,
                                    .attrs = attrs,
                                    .bos = -1,
                                    .eos = 0,
                                    .unk = 0,
                                    .pad = -1};
    for (int known = 0; known < 2; known++) {
        struct qn_tokenizer *t = NULL;
        size_t n;
        if (known) attrs[0] = QN_ATTR_UNKNOWN;
        assert_int_equal(qn_tokenizer_new(&d, &t, NULL), QN_OK);
        int32_t *ids = encode(t,
                              "a\x01"
                              "a",
                              3, 0, &n);
        assert_int_equal(n, known ? 3 : 2);
        assert_int_equal(ids[1], known ? 0 : 1);
        free(ids);
        qn_tokenizer_free(t);
    }
}

/* Most vocabularies let the text be cut at blanks; one with a token across a blank must not be. */
static void tokens_may_span_words(void **state) {
    (void)state;
    const struct qn_str tokens[5] = {S("a"), S("b"), S("\xE2\x96\x81"), S("a\xE2\x96\x81"),
                                     S("a\xE2\x96\x81"
                                       "b")};
    const uint8_t attrs[5] = {0};
    const float scores[5] = {0, 0, 0, -1, -2};
    const struct qn_vocab_desc d = {.kind = QN_TOK_SPM,
                                    .n_tokens = 5,
                                    .tokens = tokens,
                                    .scores = scores,
                                    .attrs = attrs,
                                    .bos = -1,
                                    .eos = -1,
                                    .unk = -1,
                                    .pad = -1};
    struct qn_tokenizer *t = NULL;
    size_t n;
    assert_int_equal(qn_tokenizer_new(&d, &t, NULL), QN_OK);
    int32_t *ids = encode(t, "a ba b", 6, 0, &n);
    assert_int_equal(n, 2);
    assert_int_equal(ids[0], 4);
    assert_int_equal(ids[1], 4);
    free(ids);
    qn_tokenizer_free(t);
}

static void unknown_characters_without_byte_tokens(void **state) {
    (void)state;
    const struct qn_str tokens[3] = {S("<unk>"), S("a"), S("\xE2\x96\x81")};
    const uint8_t attrs[3] = {QN_ATTR_UNKNOWN, 0, 0};
    const float scores[3] = {0, 0, 0};
    struct qn_vocab_desc d = {.kind = QN_TOK_SPM,
                              .n_tokens = 3,
                              .tokens = tokens,
                              .scores = scores,
                              .attrs = attrs,
                              .bos = -1,
                              .eos = -1,
                              .unk = 0,
                              .pad = -1,
                              .add_space_prefix = true};
    struct qn_tokenizer *t = NULL;
    size_t n;
    assert_int_equal(qn_tokenizer_new(&d, &t, NULL), QN_OK);
    int32_t *ids = encode(t, "axyz a", 6, 0, &n);
    static const int32_t want[] = {2, 1, 0, 2, 1}; /* neighbours that are unknown become one */
    assert_int_equal(n, 5);
    assert_memory_equal(ids, want, sizeof want);
    free(ids);
    qn_tokenizer_free(t);
    d.unk = -1;
    assert_int_equal(qn_tokenizer_new(&d, &t, NULL), QN_OK);
    ids = encode(t, "xyz", 3, 0, &n);
    assert_int_equal(n, 1);
    free(ids);
    qn_tokenizer_free(t);
}

/* --- long runs --- */

static const uint32_t run_chars[] = {' ',    '\n',   '\r',   '\t',    'a',     'Z',     '7',     '\'',
                                     '!',    '<',    '_',    0,       0x1B,    0x85,    0xA0,    0xE9,
                                     0x301,  0x345,  0x5D0,  0x64B,   0x660,   0x915,   0xE01,   0x1100,
                                     0x200D, 0x2028, 0x2581, 0x3000,  0x3042,  0x4E00,  0xAC00,  0xB2,
                                     0xFFFD, 0xFE0F, 0xFEFF, 0x1F600, 0x1D7D8, 0x20000, 0xE0001, 0x10FFFF};

struct run_job {
    const struct qn_tokenizer *t;
    size_t done;
};

static void *encode_runs(void *arg) {
    struct run_job *job = arg;
    const size_t size = 1 << 20;
    uint8_t *text = malloc(size + 8);
    if (!text) return NULL;
    for (size_t c = 0; c < sizeof run_chars / sizeof *run_chars; c++) {
        size_t n = 0, n_ids = 0, total = 0;
        int32_t *ids = NULL;
        while (n + 4 < size) n += qn_utf8_put(run_chars[c], text + n);
        if (c % 2) n += qn_utf8_put('x', text + n);
        if (qn_tokenizer_encode(job->t, (char *)text, n, 0, 0, &ids, &n_ids, NULL) != QN_OK) break;
        for (size_t i = 0; i < n_ids; i++) total += qn_tokenizer_piece(job->t, ids[i], true).n;
        free(ids);
        if (total >= (run_chars[c] == 0x2581 ? n / 3 : n)) job->done++; /* U+2581 comes back as a blank */
    }
    free(text);
    return NULL;
}

static void run_on_small_stack(const char *path) {
    struct qn_tokenizer *t = open_tiny(path);
    struct run_job job = {t, 0};
    pthread_attr_t attr;
    pthread_t thread;
    assert_int_equal(pthread_attr_init(&attr), 0); /* 60 KiB of the stack are OpenBLAS's thread-local data */
    assert_int_equal(pthread_attr_setstacksize(&attr, 128 * 1024), 0);
    assert_int_equal(pthread_create(&thread, &attr, encode_runs, &job), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attr);
    assert_int_equal(job.done, sizeof run_chars / sizeof *run_chars);
    qn_tokenizer_free(t);
}

static void runs_of_forty_classes_end_gpt2(void **state) {
    (void)state;
    run_on_small_stack(DIR "tiny_gpt2.vocab");
}

static void runs_of_forty_classes_end_llama3(void **state) {
    (void)state;
    run_on_small_stack(DIR "tiny_llama3.vocab");
}

static void runs_of_forty_classes_end_qwen2(void **state) {
    (void)state;
    run_on_small_stack(DIR "tiny_qwen2.vocab");
}

static void runs_of_forty_classes_end_spm(void **state) {
    (void)state;
    run_on_small_stack(DIR "tiny_spm_scores.vocab");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bpe_texts_come_back),
        cmocka_unit_test(spm_texts_come_back),
        cmocka_unit_test(invalid_bytes_become_replacements),
        cmocka_unit_test(empty_text_and_special_ids),
        cmocka_unit_test(ids_out_of_range_are_empty),
        cmocka_unit_test(too_many_tokens_are_refused),
        cmocka_unit_test(added_tokens_in_text),
        cmocka_unit_test(byte_tokens_are_parsed_by_hand),
        cmocka_unit_test(bad_vocabularies_are_refused),
        cmocka_unit_test(text_never_becomes_a_control_token),
        cmocka_unit_test(merges_of_tokens_with_blanks),
        cmocka_unit_test(bytes_without_tokens),
        cmocka_unit_test(tokens_may_span_words),
        cmocka_unit_test(unknown_characters_without_byte_tokens),
        cmocka_unit_test(runs_of_forty_classes_end_gpt2),
        cmocka_unit_test(runs_of_forty_classes_end_llama3),
        cmocka_unit_test(runs_of_forty_classes_end_qwen2),
        cmocka_unit_test(runs_of_forty_classes_end_spm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
