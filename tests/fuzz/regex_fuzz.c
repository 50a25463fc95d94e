/* Fuzzes model/constrain/ and api/schema.c with libFuzzer. The first byte chooses: an expression, a grammar,
 * or a JSON schema; the rest is its text. What is made is walked with tokens that the bytes choose: a mask
 * says the same as asking for its tokens one by one, and work stays within its bounds. */
#include <stdlib.h>
#include <string.h>

#include "api/schema.h"
#include "model/constrain/constrain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define EXPECT(x)                                                                                            \
    do {                                                                                                     \
        if (!(x)) __builtin_trap();                                                                          \
    } while (0)

#define EOS 256
static const char *const words[] = {"ab", "abc", "\": ", "{\"", "\"}", "\xC3\xA9", "\xE2\x82\xAC\"",
                                    "  ", "true"};
#define N_TOKENS (EOS + 1 + sizeof words / sizeof *words)

static struct qn_str_ref piece(const void *ctx, int32_t id) {
    static char bytes[256];
    (void)ctx;
    if (id > EOS) return (struct qn_str_ref){words[id - EOS - 1], strlen(words[id - EOS - 1])};
    bytes[id & 255] = (char)id;
    return (struct qn_str_ref){&bytes[id & 255], id < EOS ? 1 : 0};
}

static bool ends(const void *ctx, int32_t id) {
    (void)ctx;
    return id == EOS;
}

static bool bit(const uint64_t *mask, size_t id) {
    return mask[id / 64] >> (id % 64) & 1;
}

static void walk(struct qn_constraint *c, const uint8_t *data, size_t size) {
    int32_t tokens[64];
    struct qn_cursor cur;
    qn_cursor_init(&cur, data[0] & 1);
    for (uint32_t n = 0; n < 64; n++) {
        struct qn_cursor_at at = {tokens, n};
        const uint64_t *mask;
        bool yes, done;
        if (qn_cursor_mask(c, &cur, &at, &mask)) return;
        size_t id = data[n % size] + (n % 3 ? 0u : 11u), from = id;
        while (!bit(mask, id)) {
            id = (id + 1) % N_TOKENS;
            EXPECT(id != from); /* a mask is never empty */
        }
        int rc = qn_cursor_allows(c, &cur, &at, (int32_t)id, &yes);
        EXPECT(rc || yes);
        size_t other = (id * 7 + 3) % N_TOKENS;
        rc = qn_cursor_allows(c, &cur, &at, (int32_t)other, &yes);
        EXPECT(rc || yes == bit(mask, other));
        EXPECT(qn_cursor_done(c, &cur, &at, &done) || !done || id == EOS);
        if (id == EOS) return;
        tokens[n] = (int32_t)id;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct qn_lexicon *lexicon;
    struct qn_lexicon_source src = {N_TOKENS, NULL, piece, ends};
    struct qn_constraint *c = NULL;
    struct qn_buf grammar = {0};
    struct qn_err e = {0};
    if (!lexicon && qn_lexicon_new(&src, &lexicon, &e)) return 0;
    if (size < 2) return 0;
    const char *text = (const char *)data + 1;
    if (data[0] % 3 == 2) {
        struct qn_api_err err = {0};
        char *copy = malloc(size);
        EXPECT(copy);
        memcpy(copy, text, size - 1);
        copy[size - 1] = '\0';
        struct qn_api_constraint q = {.kind = QN_CONSTRAIN_SCHEMA, .text = copy, .n = size - 1};
        if (!qn_api_schema_grammar(&q, "json_schema", &grammar, &err))
            qn_constraint_new(lexicon, grammar.p, grammar.n, true, &c, &e);
        free(copy);
        qn_buf_free(&grammar);
    } else {
        qn_constraint_new(lexicon, text, size - 1, data[0] % 3, &c, &e);
    }
    if (c) walk(c, data, size);
    qn_constraint_unref(c);
    return 0;
}
