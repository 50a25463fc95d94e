/* Malformed or unsupported tokenizer.json and side files: one piece of a small valid file replaced, each
 * refused with a message that names the fault; truncations; and the pipelines that must be recognised. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/load/json.h"
#include "model/load/open.h"
#include "tests/support/tiny_model.h"

#define VOCAB 272

struct edit {
    const char *name, *family, *from, *to, *expect;
};

static const struct edit edits[] = {
    {"top an array", "gpt2", "{\"version\":\"1.0\",", "[{\"version\":\"1.0\",", "tokenizer.json"},
    {"duplicate key", "gpt2", "\"version\"", "\"model\"", "duplicate object key"},
    {"no model", "gpt2", "\"model\":", "\"x\":", "'model' is missing"},
    {"model WordPiece", "gpt2", "\"type\":\"BPE\"", "\"type\":\"WordPiece\"", "model type 'WordPiece'"},
    {"model Unigram", "gpt2", "\"type\":\"BPE\"", "\"type\":\"Unigram\"", "model type 'Unigram'"},
    {"model type a number", "gpt2", "\"type\":\"BPE\"", "\"type\":3", "'type' must be a string"},
    {"no vocab", "gpt2", "\"vocab\":", "\"x\":", "'vocab' is missing"},
    {"vocab an array", "gpt2", "\"vocab\":{", "\"vocab\":[],\"x\":{", "'vocab' is missing or not an object"},
    {"id negative", "gpt2", "\"hello\":261", "\"hello\":-1", "id is not an integer from 0 to 271"},
    {"id a string", "gpt2", "\"hello\":261", "\"hello\":\"261\"", "id is not an integer from 0 to 271"},
    {"id a float", "gpt2", "\"hello\":261", "\"hello\":261.0", "id is not an integer from 0 to 271"},
    {"id null", "gpt2", "\"hello\":261", "\"hello\":null", "id is not an integer"},
    {"id beyond the embedding table", "gpt2", "\"hello\":261", "\"hello\":272",
     "id is not an integer from 0 to 271"},
    {"id 2^31", "gpt2", "\"hello\":261", "\"hello\":2147483648", "id is not an integer"},
    {"id 2^64", "gpt2", "\"hello\":261", "\"hello\":18446744073709551616", "too big integer"},
    {"two tokens with one id", "gpt2", "\"hello\":261", "\"hello\":260", "two tokens have the same id"},
    {"duplicate token", "gpt2", "\"hello\":261", "\"hell\":261", "duplicate object key"},
    {"added_tokens an object", "gpt2", "\"added_tokens\":[", "\"added_tokens\":{},\"x\":[",
     "is not an array"},
    {"added id missing", "gpt2", "{\"id\":256,", "{\"x\":256,", "an added token's id"},
    {"added id huge", "gpt2", "{\"id\":256,", "{\"id\":2000000000,", "an added token's id"},
    {"added id of another token", "gpt2", "{\"id\":256,", "{\"id\":0,", "has another token's id"},
    {"added content missing", "gpt2", "\"content\":\"<|endoftext|>\"", "\"x\":1", "no 'content'"},
    {"added content empty", "gpt2", "\"content\":\"<|endoftext|>\"", "\"content\":\"\"", "no 'content'"},
    {"added special a string", "gpt2", "\"special\":true", "\"special\":\"yes\"", "must be true or false"},
    {"added single_word", "gpt2", "\"single_word\":false", "\"single_word\":true",
     "'single_word' are not supported"},
    {"no merges", "gpt2", "\"merges\":", "\"x\":", "'merges' is missing"},
    {"merges an object", "gpt2", "\"merges\":[", "\"merges\":{},\"x\":[", "not an array"},
    {"merge a number", "gpt2", "\"h e\"", "5", "merge 0 is not a pair"},
    {"merge without a blank", "gpt2", "\"h e\"", "\"he\"", "merge 0 is not a pair"},
    {"merge a blank", "gpt2", "\"h e\"", "\" \"", "merge 0 is not a pair"},
    {"merge of three", "gpt2", "\"h e\"", "[\"h\",\"e\",\"l\"]", "merge 0 is not a pair"},
    {"merge of one", "gpt2", "\"h e\"", "[\"h\"]", "merge 0 is not a pair"},
    {"merge with an empty half", "gpt2", "\"h e\"", "[\"\",\"e\"]", "merge 0 is not a pair"},
    {"merge of numbers", "gpt2", "\"h e\"", "[1,2]", "merge 0 is not a pair"},
    {"merge of unknown tokens", "gpt2", "\"h e\"", "\"zz qq\"", "merge 0"},
    {"merge whose result is unknown", "gpt2", "\"h e\"", "\"e h\"", "merge 0"},
    {"ignore_merges a number", "gpt2", "\"type\":\"BPE\"", "\"type\":\"BPE\",\"ignore_merges\":1",
     "must be true"},
    {"normalizer without type", "qwen2", "{\"type\":\"NFC\"}", "{}", "a step of normalizer has no 'type'"},
    {"normalizer a number", "qwen2", "{\"type\":\"NFC\"}", "7", "a step of normalizer has no 'type'"},
    {"normalizer Lowercase", "qwen2", "\"NFC\"", "\"Lowercase\"", "normalizer 'Lowercase'"},
    {"normalizer NFKC", "qwen2", "\"NFC\"", "\"NFKC\"", "normalizer 'NFKC'"},
    {"normalizer sequence without members", "qwen2", "{\"type\":\"NFC\"}", "{\"type\":\"Sequence\"}",
     "has no 'normalizers'"},
    {"normalizer sequence in a sequence", "qwen2", "{\"type\":\"NFC\"}",
     "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Sequence\",\"normalizers\":[]}]}",
     "normalizer 'Sequence'"},
    {"too many steps", "qwen2", "{\"type\":\"NFC\"}",
     "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"NFC\"},{\"type\":\"NFC\"},{"
     "\"type\":"
     "\"NFC\"},{\"type\":\"NFC\"},{\"type\":\"NFC\"},{\"type\":\"NFC\"},{\"type\":\"NFC\"},{\"type\":\"NFC\"}"
     "]}",
     "more than 8 steps"},
    {"prepend another text", "llama", "\"prepend\":\"\xe2\x96\x81\"", "\"prepend\":\"x\"",
     "normalizer 'Prepend'"},
    {"replace another text", "llama", "{\"String\":\" \"}", "{\"String\":\"x\"}", "normalizer 'Replace'"},
    {"no pre-tokenizer", "gpt2", "\"pre_tokenizer\":{", "\"x\":{",
     "neither byte-level BPE nor SentencePiece"},
    {"pre-tokenizer Whitespace", "gpt2", "\"type\":\"ByteLevel\"", "\"type\":\"Whitespace\"",
     "neither byte-level"},
    {"byte level with a prefix", "gpt2", "\"add_prefix_space\":false", "\"add_prefix_space\":true",
     "ByteLevel with add_prefix_space"},
    {"unknown regex", "qwen2", "(?i:'s|", "(?i:'x|", "pre_tokenizer '(?i:'x|"},
    {"regex run twice", "qwen2", "\"use_regex\":false", "\"use_regex\":true", "pre_tokenizer '"},
    {"regex inverted", "qwen2", "\"invert\":false", "\"invert\":true", "pre_tokenizer '"},
    {"split removed", "qwen2", "\"Isolated\"", "\"Removed\"", "pre_tokenizer '"},
    {"split without a regex", "qwen2", "\"Regex\"", "\"String\"", "Split in this form"},
    {"digits grouped", "gpt_bigcode", "\"individual_digits\":true", "\"individual_digits\":false",
     "Digits in this form"},
    {"three steps", "gpt_bigcode", "[{\"type\":\"Digits\"",
     "[{\"type\":\"Punctuation\"},{\"type\":\"Digits\"", "a sequence of this form"},
    {"pre-tokenizer without members", "gpt_bigcode", "\"pretokenizers\"", "\"x\"", "has no 'pretokenizers'"},
    {"no byte fallback", "llama", "\"byte_fallback\":true", "\"byte_fallback\":false", "with byte_fallback"},
    {"metaspace that splits", "llama", "\"pre_tokenizer\":null",
     "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\"}",
     "pre_tokenizer 'Metaspace'"},
    {"post-processor Bert", "llama", "\"TemplateProcessing\"", "\"BertProcessing\"",
     "post_processor 'BertProcessing'"},
    {"template without single", "llama", "\"single\"", "\"x\"", "a template has no 'single'"},
    {"template of an unknown token", "llama", "\"SpecialToken\":{\"id\":\"<s>\"",
     "\"SpecialToken\":{\"id\":\"<q>\"", "names a token that is not in the vocabulary"},
    {"template with two tokens", "llama", "[{\"SpecialToken\"",
     "[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"SpecialToken\"", "several special tokens on one side"},
    {"template item of another kind", "llama", "{\"SpecialToken\":", "{\"Other\":", "neither a sequence nor"},
    {"template with two sequences", "llama", "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}",
     "{\"Sequence\":{}},{\"Sequence\":{}}", "two sequences"},
    {"lone surrogate", "gpt2", "\"hello\":261", "\"\\ud800\":261", "tokenizer.json"},
    {"NUL in a token", "gpt2", "\"hello\":261", "\"\\u0000\":261", "NUL byte in object key"},
    {"bad escape", "gpt2", "\"hello\":261", "\"\\x\":261", "invalid escape"},
    {"control byte in a string", "gpt2", "\"hello\":261", "\"\x01\":261", "control character"},
    {"not UTF-8", "gpt2", "\"hello\":261", "\"\xc3\":261", "unable to decode byte"},
    {"trailing comma", "gpt2", "\"hello\":261", "\"hello\":261,,", "tokenizer.json"},
    {"NaN", "gpt2", "\"hello\":261", "\"hello\":NaN", "tokenizer.json"},
};

static void replace(struct qn_test_buf *b, const char *from, const char *to, const char *name) {
    size_t len = strlen(from);
    uint8_t *p = memmem(b->p, b->n, from, len);
    struct qn_test_buf out = {0};
    if (!p) fail_msg("%s: nothing to replace", name);
    qn_test_put(&out, b->p, (size_t)(p - b->p));
    qn_test_put(&out, to, strlen(to));
    qn_test_put(&out, p + len, b->n - (size_t)(p - b->p) - len);
    qn_test_buf_free(b);
    *b = out;
}

static json_t *json(const char *text) {
    json_t *out = NULL;
    struct qn_err err = {0};
    if (!text) return NULL;
    if (qn_open_tokenizer_json(text, strlen(text), &out, &err) != QN_OK) fail_msg("%s", err.msg);
    return out;
}

/* Side files as text; NULL when absent. */
struct side {
    const char *settings, *generation, *config;
};

static int open_text(const struct qn_test_buf *b, struct side side, struct qn_tokenizer **t,
                     struct qn_err *err) {
    json_t *root = NULL, *s = json(side.settings), *g = json(side.generation), *c = json(side.config);
    char *copy = malloc(b->n ? b->n : 1);
    assert_non_null(copy);
    if (b->n) memcpy(copy, b->p, b->n);
    *t = NULL;
    int rc = qn_open_tokenizer_json(copy, b->n, &root, err);
    free(copy);
    struct qn_hf_vocab files = {.tokenizer = root, .settings = s, .generation = g, .config = c};
    if (rc == QN_OK) rc = qn_vocab_from_hf(&files, VOCAB, NULL, t, err);
    json_decref(root);
    json_decref(s);
    json_decref(g);
    json_decref(c);
    return rc;
}

static struct qn_test_buf tiny(const char *family) {
    struct qn_test_tiny t = qn_test_tiny_default(family);
    struct qn_test_buf b = {0};
    qn_test_tiny_tokenizer_json(&t, &b);
    return b;
}

static void every_kind_is_refused(void **state) {
    size_t n = sizeof edits / sizeof *edits, wrong = 0;
    (void)state;
    for (size_t i = 0; i < n; i++) {
        struct qn_test_buf b = tiny(edits[i].family);
        struct qn_tokenizer *t;
        struct qn_err err = {0};
        replace(&b, edits[i].from, edits[i].to, edits[i].name);
        int rc = open_text(&b, (struct side){0}, &t, &err);
        if ((rc != QN_ERR_FORMAT && rc != QN_ERR_UNSUPPORTED) || t || !strstr(err.msg, edits[i].expect)) {
            print_message("%s: %d '%s', expected '%s'\n", edits[i].name, rc, err.msg, edits[i].expect);
            wrong++;
        }
        qn_tokenizer_free(t);
        qn_test_buf_free(&b);
    }
    print_message("%zu kinds of malformed tokenizer.json\n", n);
    assert_int_equal(wrong, 0);
}

static void deep_nesting_is_refused(void **state) {
    struct qn_test_buf b = {0};
    struct qn_tokenizer *t;
    struct qn_err err = {0};
    (void)state;
    qn_test_printf(&b, "{\"a\":");
    for (int i = 0; i < 100000; i++) qn_test_put(&b, "[", 1);
    assert_int_equal(open_text(&b, (struct side){0}, &t, &err), QN_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "nested deeper than 32"));
    qn_test_buf_free(&b);
}

static void truncation_at_every_64th_byte(void **state) {
    static const char *const families[] = {"llama", "qwen2", "gpt2"};
    (void)state;
    for (size_t f = 0; f < 3; f++) {
        struct qn_test_buf b = tiny(families[f]);
        size_t whole = b.n;
        for (size_t n = 0; n < whole; n += 64) {
            struct qn_tokenizer *t;
            struct qn_err err = {0};
            b.n = n;
            if (open_text(&b, (struct side){0}, &t, &err) != QN_ERR_FORMAT)
                fail_msg("cut to %zu: accepted", n);
        }
        qn_test_buf_free(&b);
    }
}

static void bit_flips_never_crash(void **state) {
    struct qn_test_buf b = tiny("llama");
    size_t refused = 0;
    (void)state;
    for (size_t i = 0; i < b.n; i++) {
        struct qn_tokenizer *t;
        struct qn_err err = {0};
        uint8_t bit = (uint8_t)(1u << (i * 5 + i / 7) % 8);
        b.p[i] ^= bit;
        int rc = open_text(&b, (struct side){0}, &t, &err);
        if (rc < 0 && (err.msg[0] == 0 || rc != err.code)) fail_msg("bit %zu: %d '%s'", i, rc, err.msg);
        refused += rc < 0;
        qn_tokenizer_free(t);
        b.p[i] ^= bit;
    }
    assert_true(refused > 0);
    qn_test_buf_free(&b);
}

static void bad_side_files_are_refused(void **state) {
    static const struct {
        struct side side;
        const char *expect;
    } kinds[] = {
        {{0, "{\"eos_token_id\":272}", 0}, "generation_config.json: 'eos_token_id'"},
        {{0, "{\"eos_token_id\":-1}", 0}, "generation_config.json: 'eos_token_id'"},
        {{0, "{\"eos_token_id\":[2,9999]}", 0}, "generation_config.json: 'eos_token_id'"},
        {{0, "{\"eos_token_id\":\"</s>\"}", 0}, "generation_config.json: 'eos_token_id'"},
        {{0, "{\"eos_token_id\":{}}", 0}, "generation_config.json: 'eos_token_id'"},
        {{0, 0, "{\"eos_token_id\":1e3}"}, "config.json: 'eos_token_id'"},
        {{0, 0, "{\"bos_token_id\":4294967296}"}, "config.json: 'bos_token_id'"},
        {{"{\"add_bos_token\":1}", 0, 0}, "'add_bos_token' must be true or false"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct qn_test_buf b = tiny("gpt2");
        struct qn_tokenizer *t;
        struct qn_err err = {0};
        int rc = open_text(&b, kinds[i].side, &t, &err);
        if (rc != QN_ERR_FORMAT || t || !strstr(err.msg, kinds[i].expect))
            fail_msg("%zu: %d '%s'", i, rc, err.msg);
        qn_test_buf_free(&b);
    }
}

/* ---- what must be understood ---- */

static struct qn_tokenizer *must_open(struct qn_test_buf *b, struct side side) {
    struct qn_tokenizer *t;
    struct qn_err err = {0};
    if (open_text(b, side, &t, &err) != QN_OK) fail_msg("%s", err.msg);
    qn_test_buf_free(b);
    return t;
}

static void side_files_name_the_special_tokens(void **state) {
    struct qn_test_buf b = tiny("gpt2");
    (void)state;
    struct qn_tokenizer *t = must_open(
        &b,
        (struct side){
            "{\"bos_token\":{\"content\":\"<|im_end|>\"},\"eos_token\":\"<|endoftext|>\",\"add_bos_token\":"
            "true}",
            "{\"eos_token_id\":[100,101]}", "{\"eos_token_id\":102,\"bos_token_id\":1}"});
    assert_int_equal(qn_tokenizer_bos(t), 257);
    assert_int_equal(qn_tokenizer_eos(t), 256);
    assert_true(qn_tokenizer_adds_bos(t));
    const int32_t ends[] = {100, 101, 102, 256, 257};
    for (size_t i = 0; i < 5; i++) assert_true(qn_tokenizer_is_eog(t, ends[i]));
    assert_false(qn_tokenizer_is_eog(t, 99));
    qn_tokenizer_free(t);
}

static void merges_as_pairs_are_the_same(void **state) {
    struct qn_test_buf b = tiny("gpt2");
    struct qn_err err = {0};
    int32_t *ids;
    size_t n;
    (void)state;
    replace(&b, "\"h e\",\"l l\",\"he ll\",\"hell o\"",
            "[\"h\",\"e\"],[\"l\",\"l\"],[\"he\",\"ll\"],\"hell o\"", "pairs");
    struct qn_tokenizer *t = must_open(&b, (struct side){0});
    assert_int_equal(qn_tokenizer_encode(t, "hello", 5, 0, 0, &ids, &n, &err), QN_OK);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 261);
    free(ids);
    qn_tokenizer_free(t);
}

static void metaspace_without_split_is_sentencepiece(void **state) {
    struct qn_test_buf b = tiny("llama");
    struct qn_err err = {0};
    int32_t *ids;
    size_t n;
    (void)state;
    replace(&b, "\"normalizer\":{", "\"x\":{", "normalizer");
    replace(&b, "\"pre_tokenizer\":null",
            "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":"
            "\"never\","
            "\"split\":false}",
            "metaspace");
    struct qn_tokenizer *t = must_open(&b, (struct side){0});
    assert_int_equal(qn_tokenizer_encode(t, "hello", 5, 0, 0, &ids, &n, &err), QN_OK);
    assert_int_equal(n, 1);
    free(ids);
    qn_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_is_refused),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(truncation_at_every_64th_byte),
        cmocka_unit_test(bit_flips_never_crash),
        cmocka_unit_test(bad_side_files_are_refused),
        cmocka_unit_test(side_files_name_the_special_tokens),
        cmocka_unit_test(merges_as_pairs_are_the_same),
        cmocka_unit_test(metaspace_without_split_is_sentencepiece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
