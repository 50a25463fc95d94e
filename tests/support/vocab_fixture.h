/* Vocabularies and expected token ids in the flat text form that tools/golden/tokenizers.py writes, so that
 * tests of model/text/ depend neither on a loader nor on the network.
 *
 * A .vocab file, one item a line: "kind bpe|spm", "pretok NAME", "ids BOS EOS UNK PAD", "flags ADD_BOS
 * ADD_EOS SPACE_PREFIX IGNORE_MERGES NFC", "scores 0|1", "t ATTRS SCORE TEXT" in id order, "m TEXT" in rank
 * order, "e ID". A .cases file: "FLAGS ID,ID,... TEXT", with "-" for no ids. TEXT has every byte but
 * 0x21-0x7E, and the backslash, written as \xNN. */
#ifndef QN_TESTS_SUPPORT_VOCAB_FIXTURE_H
#define QN_TESTS_SUPPORT_VOCAB_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "model/text/tokenizer.h"

/* The parsed file; desc points into it. */
struct qn_vocab_fixture {
    struct qn_vocab_desc desc;
    char *file;
    struct qn_str *tokens, *merges;
    float *scores;
    uint8_t *attrs;
    int32_t eog[32];
};

/* 0, or -1 with a message on stderr. */
int qn_vocab_fixture_read(struct qn_vocab_fixture *f, const char *path);
void qn_vocab_fixture_free(struct qn_vocab_fixture *f);
/* Reads path and builds the tokenizer; NULL with a message on stderr. */
struct qn_tokenizer *qn_vocab_fixture_tokenizer(const char *path);

struct qn_token_case {
    unsigned flags; /* enum qn_tok_flags */
    struct qn_str text;
    int32_t *ids; /* [n] */
    size_t n;
};

struct qn_token_cases {
    char *file;
    struct qn_token_case *v;
    size_t n;
    int32_t *ids;
};

int qn_token_cases_read(struct qn_token_cases *c, const char *path);
void qn_token_cases_free(struct qn_token_cases *c);

/* How many cases encode to their ids; the first `shown` others are printed to stderr. */
size_t qn_token_cases_check(const struct qn_tokenizer *t, const struct qn_token_cases *c, size_t shown);

#endif
