/* From the pieces of generated tokens to text that is safe to show: whole UTF-8 characters, nothing of a stop
 * string, and never a byte that a later piece could still turn into one.
 *
 *   piece bytes -> [complete characters, U+FFFD for invalid parts] -> [stop strings, hold-back] -> text
 *
 * It runs on the engine thread, not on the loop that writes the reply: a stop string must end its sequence in
 * the step that completed it. Found later, on another thread, it would cost steps whose tokens nobody sees,
 * hold state that others wait for, and make the token count of a reply depend on how busy that thread is.
 *
 * Pure: the result depends on the concatenated bytes alone, not on how they were cut into pieces. */
#ifndef QN_SERVER_TEXT_OUT_H
#define QN_SERVER_TEXT_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/buf.h"

struct qn_text_out {
    const char *const *stops; /* borrowed, [n_stops] */
    const size_t *stop_lens;  /* borrowed; empty stop strings never match */
    uint32_t n_stops;
    bool strip_blank;      /* drop one blank at the very start (SentencePiece texts) */
    bool stopped;          /* a stop string was found: further pieces are ignored */
    unsigned char part[4]; /* begin of a character that is not complete */
    uint32_t n_part;
    struct qn_buf held; /* whole characters that may be the begin of a stop string */
};

void qn_text_out_init(struct qn_text_out *t, const char *const *stops, const size_t *stop_lens,
                      uint32_t n_stops, bool strip_blank);
void qn_text_out_free(struct qn_text_out *t);
/* Appends to *out what is now safe. 0; 1 when a stop string was completed (the text before it was appended;
 * of several, the one whose end comes first counts, and of those the longest); -1 when memory was short. */
int qn_text_out_push(struct qn_text_out *t, const char *piece, size_t n, struct qn_buf *out);
/* The end of the text: what was held back is appended, an incomplete character as U+FFFD. Same results. */
int qn_text_out_flush(struct qn_text_out *t, struct qn_buf *out);

#endif
