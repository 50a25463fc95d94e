/* Pre-tokenizers: where a text is cut into words before byte-pair merging. Each is a hand-written scanner for
 * one published regular expression; it looks at a run of equal characters a constant number of times and
 * keeps no stack, so a text of one million equal characters costs what any other text costs. Pure; any
 * thread. */
#ifndef QN_MODEL_TEXT_PRETOK_H
#define QN_MODEL_TEXT_PRETOK_H

#include <stddef.h>
#include <stdint.h>

#include "model/text/tokenizer.h"

/* Bytes of the first word of s (valid UTF-8, n >= 1 bytes up to the text's end): 1..n. Cutting a text word by
 * word gives the same words as the regular expression's successive matches. */
size_t qn_pretok_word(enum qn_pretok kind, const uint8_t *s, size_t n);

#endif
