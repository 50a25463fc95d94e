/* Character classes and NFC over libutf8proc; see unicode.h.
 *
 * utf8proc_map is not used for NFC: it sorts a run of combining marks by swapping neighbours, which is
 * quadratic in the run's length, and the length is the caller's text's. Here each run is sorted by counting;
 * the library decomposes single characters and composes the sorted result. */
#include "model/text/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "kernels/mem.h"
#include "model/text/utf8.h"

/* One letter per ASCII character: s space, n number, l letter, . other. */
static const char ascii_class[128] = "........."
                                     "sssss"
                                     ".................."
                                     "s"
                                     "..............."
                                     "nnnnnnnnnn"
                                     "......."
                                     "llllllllllllllllllllllllll"
                                     "......"
                                     "llllllllllllllllllllllllll"
                                     ".....";

enum qn_uclass qn_uclass_of(uint32_t cp) {
    if (cp < 128) {
        const char c = ascii_class[cp];
        return c == 'l' ? QN_UC_LETTER : c == 's' ? QN_UC_SPACE : c == 'n' ? QN_UC_NUMBER : QN_UC_OTHER;
    }
    if (cp == 0x85) return QN_UC_SPACE;
    if (cp > 0x10FFFF) return QN_UC_OTHER;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return QN_UC_LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return QN_UC_NUMBER;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return QN_UC_SPACE;
    default:
        return QN_UC_OTHER;
    }
}

/* --- NFC --- */

/* The longest canonical decomposition of one character is 4 code points (U+0390 and its like have 3). */
enum { DECOMP_MAX = 8 };

static const utf8proc_option_t nfc_options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;

static unsigned ccc(utf8proc_int32_t cp) {
    return (unsigned)utf8proc_get_property(cp)->combining_class & 0xFFu;
}

/* Stable sort of n marks by combining class; tmp has room for n. */
static void sort_marks(utf8proc_int32_t *v, size_t n, utf8proc_int32_t *tmp) {
    if (n < 24) {
        for (size_t i = 1; i < n; i++) {
            const utf8proc_int32_t x = v[i];
            const unsigned key = ccc(x);
            size_t j = i;
            for (; j > 0 && ccc(v[j - 1]) > key; j--) v[j] = v[j - 1];
            v[j] = x;
        }
        return;
    }
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++) at[ccc(v[i]) + 1]++;
    for (size_t k = 1; k < 257; k++) at[k] += at[k - 1];
    for (size_t i = 0; i < n; i++) tmp[at[ccc(v[i])]++] = v[i];
    memcpy(v, tmp, n * sizeof *v);
}

static void sort_all_marks(utf8proc_int32_t *v, size_t n, utf8proc_int32_t *tmp) {
    for (size_t i = 0; i < n;) {
        if (ccc(v[i]) == 0) {
            i++;
            continue;
        }
        size_t end = i + 1;
        while (end < n && ccc(v[end]) != 0) end++;
        sort_marks(v + i, end - i, tmp);
        i = end;
    }
}

/* Decomposes the text into v, or only counts when v is NULL; the number of code points. */
static size_t decompose(const uint8_t *s, size_t n, utf8proc_int32_t *v) {
    size_t count = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        utf8proc_int32_t buf[DECOMP_MAX];
        int boundclass = 0;
        i += qn_utf8_next(s + i, n - i, &cp, NULL);
        utf8proc_ssize_t k =
            utf8proc_decompose_char((utf8proc_int32_t)cp, buf, DECOMP_MAX, nfc_options, &boundclass);
        if (k < 1 || k > DECOMP_MAX) { /* not a case that exists; keep the character as it is */
            buf[0] = (utf8proc_int32_t)cp;
            k = 1;
        }
        if (v) memcpy(v + count, buf, (size_t)k * sizeof *buf);
        count += (size_t)k;
    }
    return count;
}

static uint8_t *encode(const utf8proc_int32_t *v, size_t n, size_t *out_n) {
    size_t need = 0;
    uint8_t four[4];
    for (size_t i = 0; i < n; i++) need += qn_utf8_put((uint32_t)v[i], four);
    uint8_t *out = malloc(need > 0 ? need : 1);
    if (!out) return NULL;
    size_t w = 0;
    for (size_t i = 0; i < n; i++) w += qn_utf8_put((uint32_t)v[i], out + w);
    *out_n = w;
    return out;
}

/* Everything below U+0300 is its own NFC; in UTF-8 that is "no lead byte above 0xCB". */
static bool plainly_nfc(const uint8_t *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (s[i] >= 0xCC) return false;
    return true;
}

int qn_nfc(const uint8_t *s, size_t n, uint8_t **out, size_t *out_n) {
    *out = NULL;
    *out_n = n;
    if (plainly_nfc(s, n)) return 0;
    const size_t count = decompose(s, n, NULL);
    size_t bytes;
    if (!qn_size_mul(count, sizeof(utf8proc_int32_t), &bytes)) return -1;
    utf8proc_int32_t *v = malloc(bytes), *tmp = malloc(bytes);
    int rc = -1;
    if (v && tmp) {
        decompose(s, n, v);
        sort_all_marks(v, count, tmp);
        const utf8proc_ssize_t k = utf8proc_normalize_utf32(v, (utf8proc_ssize_t)count, nfc_options);
        if (k >= 0) *out = encode(v, (size_t)k, out_n);
        if (*out) rc = 0;
    }
    free(tmp);
    free(v);
    return rc;
}
