/* A vocabulary that was written as GGUF metadata encodes every text as it did before: byte-level BPE with all
 * pre-tokenizers, SentencePiece with scores, and with merges whose order becomes scores. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/load/vocab.h"
#include "model/save/source.h"
#include "tests/support/vocab_fixture.h"

static struct qn_tokenizer *through_gguf(const struct qn_vocab_desc *d) {
    struct qn_gguf_writer w;
    struct qn_bytes head;
    struct qn_gguf g;
    struct qn_tokenizer *t = NULL;
    struct qn_err err = {0};
    qn_gguf_writer_init(&w, 32);
    assert_int_equal(qn_save_vocab(&w, d, &err), QN_OK);
    assert_int_equal(qn_gguf_head(&w, &head, &err), QN_OK);
    if (qn_gguf_parse(head.p, head.n, &g, &err) || qn_vocab_from_gguf(&g, d->n_tokens, &t, &err))
        fail_msg("%s", err.msg);
    qn_gguf_free(&g);
    free(head.p);
    qn_gguf_writer_free(&w);
    return t;
}

static void same_ids(const struct qn_tokenizer *a, const struct qn_tokenizer *b,
                     const struct qn_token_case *c) {
    int32_t *x, *y;
    size_t nx, ny;
    assert_int_equal(qn_tokenizer_encode(a, c->text.p, c->text.n, c->flags, 0, &x, &nx, NULL), QN_OK);
    assert_int_equal(qn_tokenizer_encode(b, c->text.p, c->text.n, c->flags, 0, &y, &ny, NULL), QN_OK);
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx * sizeof *x);
    free(x);
    free(y);
}

static void texts_encode_as_before(void **state) {
    (void)state;
    static const char *const names[] = {"tiny_gpt2",   "tiny_llama3",     "tiny_qwen2",
                                        "tiny_smollm", "tiny_spm_merges", "tiny_spm_scores"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        struct qn_vocab_fixture f;
        struct qn_token_cases cases;
        struct qn_tokenizer *before;
        snprintf(path, sizeof path, "tests/golden/tokenizers/%s.vocab", names[i]);
        assert_int_equal(qn_vocab_fixture_read(&f, path), 0);
        snprintf(path, sizeof path, "tests/golden/tokenizers/%s.cases", names[i]);
        assert_int_equal(qn_token_cases_read(&cases, path), 0);
        /* GGUF has no place for blanks that a token takes away. */
        for (uint32_t id = 0; id < f.desc.n_tokens; id++)
            f.attrs[id] &= (uint8_t) ~(QN_ATTR_LSTRIP | QN_ATTR_RSTRIP);
        assert_int_equal(qn_tokenizer_new(&f.desc, &before, NULL), QN_OK);
        struct qn_tokenizer *t = through_gguf(&f.desc);
        for (size_t k = 0; k < cases.n; k++) same_ids(before, t, &cases.v[k]);
        assert_int_equal(qn_tokenizer_bos(t), qn_tokenizer_bos(before));
        assert_int_equal(qn_tokenizer_eos(t), qn_tokenizer_eos(before));
        assert_int_equal(qn_tokenizer_adds_bos(t), qn_tokenizer_adds_bos(before));
        for (uint32_t id = 0; id < f.desc.n_tokens; id++) {
            struct qn_str a = qn_tokenizer_piece(before, (int32_t)id, true),
                          b = qn_tokenizer_piece(t, (int32_t)id, true);
            assert_int_equal(a.n, b.n);
            assert_memory_equal(a.p, b.p, a.n);
            assert_int_equal(qn_tokenizer_is_special(before, (int32_t)id),
                             qn_tokenizer_is_special(t, (int32_t)id));
        }
        qn_tokenizer_free(t);
        qn_tokenizer_free(before);
        qn_token_cases_free(&cases);
        qn_vocab_fixture_free(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(texts_encode_as_before)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
