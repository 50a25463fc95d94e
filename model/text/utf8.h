/* UTF-8 in and out: decoding that repairs what is broken, and the cut points a stream may be cut at.
 * Pure functions on byte ranges; any thread. */
#ifndef QN_MODEL_TEXT_UTF8_H
#define QN_MODEL_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QN_UTF8_BAD 0xFFFDu /* what each maximal invalid part of a text becomes */

/* Decodes the character at s (n >= 1 bytes left); returns the bytes it takes, 1..4. An invalid sequence gives
 * QN_UTF8_BAD and the length of its maximal subpart (Unicode 3.9, "substitution of maximal subparts", which
 * is what Python's errors="replace" does), so that a loop over any bytes ends. *valid (may be NULL) tells a
 * literal U+FFFD from a repaired one. */
size_t qn_utf8_next(const uint8_t *s, size_t n, uint32_t *cp, bool *valid);

/* Length in bytes of the character that ends right before s + n (valid UTF-8, n >= 1), and the character. */
size_t qn_utf8_prev(const uint8_t *s, size_t n, uint32_t *cp);

/* Writes cp (a scalar value) as 1..4 bytes to out; returns how many. */
size_t qn_utf8_put(uint32_t cp, uint8_t out[4]);

/* Offset of the first byte that is not part of a valid character, n when all of it is valid. */
size_t qn_utf8_valid_len(const uint8_t *s, size_t n);

/* Copies n bytes to a new malloc'ed buffer (free()) with each maximal invalid part replaced by U+FFFD;
 * *out_n is its length. NULL when memory is short. */
uint8_t *qn_utf8_repair(const uint8_t *s, size_t n, size_t *out_n) __attribute__((warn_unused_result));

/* How many of the n bytes of a growing text may be shown now: all but a trailing sequence that more bytes
 * could still complete. Bytes that can never become valid are not held back. n - result is 0..3. */
size_t qn_utf8_safe_len(const uint8_t *s, size_t n);

#endif
