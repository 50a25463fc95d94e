/* What the pre-tokenizers and normalisers need to know about characters; tables are libutf8proc's.
 * Pure functions; any thread. */
#ifndef QN_MODEL_TEXT_UNICODE_H
#define QN_MODEL_TEXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

enum qn_uclass {
    QN_UC_OTHER = 0, /* [^\s\p{L}\p{N}]: punctuation, symbols, marks, controls, unassigned */
    QN_UC_LETTER,    /* \p{L} */
    QN_UC_NUMBER,    /* \p{N} */
    QN_UC_SPACE      /* \s: White_Space, i.e. U+0009-000D, U+0085 and the Z categories */
};

/* Class of any value (those past U+10FFFF are QN_UC_OTHER). */
enum qn_uclass qn_uclass_of(uint32_t cp);

/* NFC of n bytes of valid UTF-8. When the text is already known to be NFC (all below U+0300) *out is NULL
 * and the caller keeps its own; else *out is malloc'ed (free()) and *out_n its length. 0, or -1 when memory
 * is short. Linear but for log factors, also for a run of a million combining marks. */
int qn_nfc(const uint8_t *s, size_t n, uint8_t **out, size_t *out_n);

#endif
