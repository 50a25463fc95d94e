/* The page at / and the files it loads, as constants of the binary: HTML, style, scripts from server/page,
 * and Chart.js as the system's package has it. Data flow: name -> bytes with their content type and tag. */
#ifndef QN_SERVER_PAGE_H
#define QN_SERVER_PAGE_H

#include <stdint.h>

#define QN_PAGE_TAG 20

struct qn_page_file {
    const char *name, *type;
    const uint8_t *p, *end;
};

struct qn_page_header {
    const char *name, *value;
};

/* NULL when there is none. Thread: any. */
const struct qn_page_file *qn_page_find(const char *name);
/* What every file of the page is sent with, a nameless one at the end. Thread: any. */
const struct qn_page_header *qn_page_headers(void);
/* Its strong entity tag, with quotes, from its bytes. */
void qn_page_tag(const struct qn_page_file *f, char tag[QN_PAGE_TAG]);

#endif
