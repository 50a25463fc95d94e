/* The tiny models' vocabularies: byte-level BPE (qwen2, qwen3, gpt2, gpt_bigcode) or SentencePiece BPE
 * (llama, gemma), each with a handful of merges that build "hello" and " world". Private to tests/support. */
#ifndef QN_TESTS_SUPPORT_TINY_VOCAB_H
#define QN_TESTS_SUPPORT_TINY_VOCAB_H

#include "tests/support/tiny_model.h"

void qn_test_tiny_vocab_gguf(const struct qn_test_tiny *t, struct qn_test_gguf *g);

#endif
