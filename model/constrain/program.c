/* Compiles expressions from their ends to their beginnings, so that every part knows what follows it and no
 * jump has to be filled in later. Data flow: lines -> trees (regex.c) -> instructions over bytes -> what each
 * instruction needs of the stack (heights), rules that call themselves without having read a byte (refused),
 * and classes of bytes.
 *
 * All work is counted: the same text is accepted or refused on every machine. Thread: any. */
#include "model/constrain/program.h"

#include <stdlib.h>
#include <string.h>

struct maker {
    struct qn_program *p;
    const struct qn_re *re;
    uint32_t work;
    struct qn_err *err;
    int rc;           /* the first failure; what is emitted after it means nothing */
    uint32_t tail[4]; /* of the class that is being emitted: 1 to 3 bytes 80..BF, then what follows */
};

static uint32_t fail(struct maker *m, int code, const char *msg) {
    if (!m->rc) {
        qn_err_set(m->err, code, "%s", msg);
        m->rc = code;
    }
    return 0;
}

static bool spend(struct maker *m) {
    if (m->rc) return false;
    if (++m->work <= QN_PROGRAM_WORK) return true;
    fail(m, QN_ERR_TOO_LONG, "it takes more work to prepare than is allowed");
    return false;
}

static uint32_t emit(struct maker *m, struct qn_inst inst) {
    struct qn_program *p = m->p;
    if (!spend(m)) return 0;
    if (p->n >= QN_PROGRAM_MAX)
        return fail(m, QN_ERR_TOO_LONG, "it is too large: counted repetitions multiply");
    if (p->n == p->cap) {
        uint32_t cap = p->cap ? p->cap * 2 : 256;
        struct qn_inst *q = realloc(p->at, cap * sizeof *q);
        if (!q) return fail(m, QN_ERR_NOMEM, "out of memory");
        p->at = q;
        p->cap = cap;
    }
    p->at[p->n] = inst;
    return p->n++;
}

static uint32_t split(struct maker *m, uint32_t x, uint32_t y) {
    return emit(m, (struct qn_inst){.op = QN_OP_SPLIT, .x = x, .y = y});
}

static uint32_t range(struct maker *m, unsigned lo, unsigned hi, uint32_t next) {
    return emit(m, (struct qn_inst){.op = QN_OP_RANGE, .lo = (uint8_t)lo, .hi = (uint8_t)hi, .x = next});
}

/* ---- one character ---- */

/* Alternatives of one class, and what is known of their first bytes. */
struct choice {
    uint32_t at, next;
    bool any;
    uint16_t set, run;
};

static void add_choice(struct maker *m, struct choice *c, uint32_t at) {
    struct qn_inst *first = m->rc ? NULL : &m->p->at[at];
    if (first && c->run) first->set = c->set, first->run = c->run;
    c->at = c->any ? split(m, at, c->at) : at;
    c->any = true;
}

static uint32_t tail_of(struct maker *m, unsigned bytes, uint32_t next) {
    if (!bytes) return next;
    if (!m->tail[bytes]) m->tail[bytes] = range(m, 0x80, 0xBF, tail_of(m, bytes - 1, next)) + 1;
    return m->tail[bytes] - 1;
}

static unsigned encode(uint32_t c, uint8_t out[4]) {
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    unsigned n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (unsigned i = n; i-- > 1; c >>= 6) out[i] = (uint8_t)(0x80 | (c & 0x3F));
    out[0] = (uint8_t)(lead[n] | c);
    return n;
}

/* Code points whose UTF-8 differs in ranges of each byte independently. */
static void add_sequence(struct maker *m, struct choice *c, uint32_t lo, uint32_t hi) {
    uint8_t a[4] = {0}, b[4] = {0};
    unsigned n = encode(lo, a), full = 0;
    encode(hi, b);
    while (full + 1 < n && a[n - 1 - full] == 0x80 && b[n - 1 - full] == 0xBF) full++;
    uint32_t at = tail_of(m, full, c->next);
    for (unsigned i = n - full; i-- > 0;) at = range(m, a[i], b[i], at);
    add_choice(m, c, at);
}

/* Cuts a range until its parts are sequences. */
static void add_chars(struct maker *m, struct choice *c, uint32_t lo, uint32_t hi) {
    static const uint32_t ends[] = {0x7F, 0x7FF, 0xFFFF};
    for (unsigned i = 0; i < 3; i++) {
        if (lo > ends[i] || hi <= ends[i]) continue;
        add_chars(m, c, lo, ends[i]);
        add_chars(m, c, ends[i] + 1, hi);
        return;
    }
    uint8_t bytes[4] = {0};
    unsigned n = encode(lo, bytes);
    for (unsigned i = 1; i < n; i++) {
        uint32_t low = (1u << (6 * i)) - 1;
        if ((lo & ~low) == (hi & ~low)) continue;
        if (lo & low) {
            add_chars(m, c, lo, lo | low);
            add_chars(m, c, (lo | low) + 1, hi);
            return;
        }
        if ((hi & low) != low) {
            add_chars(m, c, lo, (hi & ~low) - 1);
            add_chars(m, c, hi & ~low, hi);
            return;
        }
    }
    add_sequence(m, c, lo, hi);
}

/* A character as JSON escapes it; nothing for those that stand for themselves. */
static void add_escaped(struct maker *m, struct choice *c, uint32_t x) {
    static const char from[] = "\"\\\n\t\r\b\f", to[] = "\"\\ntrbf";
    static const char hex[] = "0123456789abcdef";
    const char *known = x ? strchr(from, (int)x) : NULL;
    uint32_t at;
    if (known) {
        unsigned e = (unsigned char)to[known - from];
        at = range(m, e, e, c->next);
    } else {
        unsigned low = (unsigned char)hex[x & 15], high = (unsigned char)hex[x >> 4];
        at = range(m, high, high, range(m, low, low, c->next));
        at = range(m, 'u', 'u', range(m, '0', '0', range(m, '0', '0', at)));
    }
    add_choice(m, c, range(m, '\\', '\\', at));
}

static void add_json(struct maker *m, struct choice *c, uint32_t lo, uint32_t hi) {
    static const struct qn_re_range plain[] = {{0x20, 0x21}, {0x23, 0x5B}, {0x5D, 0x10FFFF}};
    for (uint32_t x = lo; x <= hi && x <= '\\'; x++)
        if (x < 0x20 || x == '"' || x == '\\') add_escaped(m, c, x);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        uint32_t a = lo > plain[i].lo ? lo : plain[i].lo, b = hi < plain[i].hi ? hi : plain[i].hi;
        if (a <= b) add_chars(m, c, a, b);
    }
}

/* The set of plain ASCII bytes of a class, for its note. */
static uint16_t set_of(struct maker *m, const struct qn_re_node *n) {
    struct qn_ascii s = {{0, 0}};
    struct qn_program *p = m->p;
    for (uint32_t i = n->a; i < n->a + n->b; i++)
        for (uint32_t c = m->re->ranges[i].lo; c <= m->re->ranges[i].hi && c < 128; c++)
            if (!n->json || (c >= 0x20 && c != '"' && c != '\\')) s.at[c >> 6] |= UINT64_C(1) << (c & 63);
    for (uint32_t i = 0; i < p->n_sets; i++)
        if (!memcmp(&p->sets[i], &s, sizeof s)) return (uint16_t)i;
    if (p->n_sets == p->cap_sets) {
        uint32_t cap = p->cap_sets ? p->cap_sets * 2 : 8;
        struct qn_ascii *q = cap <= 64 ? realloc(p->sets, cap * sizeof *q) : NULL;
        if (!q) return UINT16_MAX; /* does without: notes only save time */
        p->sets = q;
        p->cap_sets = cap;
    }
    p->sets[p->n_sets] = s;
    return (uint16_t)p->n_sets++;
}

/* run: how often the class may still be repeated from here; 0: not at all. */
static uint32_t emit_class(struct maker *m, const struct qn_re_node *n, uint32_t next, uint32_t run) {
    struct choice c = {.next = next};
    memset(m->tail, 0, sizeof m->tail);
    if (run) {
        c.set = set_of(m, n);
        c.run = c.set == UINT16_MAX ? 0 : run < UINT16_MAX ? (uint16_t)run : UINT16_MAX;
    }
    for (uint32_t i = n->a; i < n->a + n->b && !m->rc; i++) {
        if (n->json)
            add_json(m, &c, m->re->ranges[i].lo, m->re->ranges[i].hi);
        else
            add_chars(m, &c, m->re->ranges[i].lo, m->re->ranges[i].hi);
    }
    return c.any ? c.at : fail(m, QN_ERR_INVALID, "a class without any character");
}

/* ---- expressions ---- */

static uint32_t emit_node(struct maker *m, uint32_t node, uint32_t next);

/* One more copy of what is repeated; `left` of them, it included, may follow each other. */
static uint32_t emit_copy(struct maker *m, uint32_t child, uint32_t next, uint32_t left) {
    const struct qn_re_node *n = &m->re->nodes[child];
    return n->kind == QN_RE_CLASS ? emit_class(m, n, next, left) : emit_node(m, child, next);
}

static uint32_t emit_repeat(struct maker *m, const struct qn_re_node *n, uint32_t next) {
    uint32_t at = next, min = n->min, left = 0;
    if (n->max == QN_RE_MANY) {
        uint32_t loop = split(m, 0, next);
        at = emit_copy(m, n->a, loop, UINT16_MAX);
        if (m->rc) return 0;
        m->p->at[loop].x = at;
        if (min)
            min--;
        else
            at = loop;
        left = UINT16_MAX;
    } else {
        for (uint32_t k = n->max; k > min && spend(m); k--) {
            uint32_t copy = emit_copy(m, n->a, at, n->max - k + 1);
            at = split(m, copy, next);
        }
        left = n->max - min;
    }
    for (uint32_t k = min; k > 0 && spend(m); k--) {
        left += left < UINT16_MAX;
        at = emit_copy(m, n->a, at, left);
    }
    return at;
}

static uint32_t emit_node(struct maker *m, uint32_t node, uint32_t next) {
    const struct qn_re_node *n = &m->re->nodes[node];
    uint32_t at = next;
    if (!spend(m)) return 0;
    switch (n->kind) {
    case QN_RE_CLASS:
        return emit_class(m, n, next, 0);
    case QN_RE_CALL:
        return emit(m, (struct qn_inst){.op = QN_OP_CALL, .x = n->a, .y = next});
    case QN_RE_REPEAT:
        return emit_repeat(m, n, next);
    case QN_RE_CAT:
        for (uint32_t c = n->a; c != QN_RE_NONE && !m->rc; c = m->re->nodes[c].prev) at = emit_node(m, c, at);
        return at;
    case QN_RE_ALT:
        at = emit_node(m, n->a, next);
        for (uint32_t c = m->re->nodes[n->a].prev; c != QN_RE_NONE && !m->rc; c = m->re->nodes[c].prev)
            at = split(m, emit_node(m, c, next), at);
        return at;
    }
    return at;
}

/* ---- what the whole needs ---- */

static uint8_t height_of(const struct qn_program *p, const struct qn_inst *i) {
    unsigned a, b;
    switch (i->op) {
    case QN_OP_RANGE:
        return p->at[i->x].height;
    case QN_OP_SPLIT:
        a = p->at[i->x].height, b = p->at[i->y].height;
        return (uint8_t)(a < b ? a : b);
    case QN_OP_CALL:
        a = p->at[p->rules[i->x]].height, b = p->at[i->y].height;
        if (p->at[i->y].op != QN_OP_RET && a != QN_HEIGHT_NONE) a++; /* a call at the end takes no room */
        return (uint8_t)(a > b ? a : b);
    default:
        return 0;
    }
}

/* Least fixed point from above; instructions stand behind what follows them, so few passes are enough. */
static void set_heights(struct maker *m) {
    struct qn_program *p = m->p;
    for (uint32_t i = 0; i < p->n; i++) p->at[i].height = QN_HEIGHT_NONE;
    for (bool changed = true; changed && !m->rc;) {
        changed = false;
        for (uint32_t i = 0; i < p->n; i++) {
            uint8_t h = height_of(p, &p->at[i]);
            if (h > QN_PROGRAM_DEPTH) h = QN_HEIGHT_NONE;
            changed = changed || h != p->at[i].height;
            p->at[i].height = h;
        }
        m->work += p->n / 4; /* a quarter of what emitting one costs */
        spend(m);
    }
}

struct left {       /* of each rule: what it can do before it reads a byte */
    uint32_t level; /* calls inside each other */
    bool empty;     /* end */
};

/* Everything that rule r reaches without a byte. */
static void look_left(struct maker *m, uint32_t r, struct left *rules, uint32_t *seen, uint32_t *todo) {
    const struct qn_program *p = m->p;
    uint32_t n = 1;
    todo[0] = p->rules[r];
    seen[todo[0]] = r + 1;
    while (n && spend(m)) {
        const struct qn_inst *i = &p->at[todo[--n]];
        uint32_t next[2] = {i->x, i->y}, k = 0;
        if (i->op == QN_OP_RANGE) continue;
        if (i->op == QN_OP_RET) rules[r].empty = true;
        if (i->op == QN_OP_RET) continue;
        if (i->op == QN_OP_CALL) {
            const struct left *c = &rules[i->x];
            if (rules[r].level <= c->level) rules[r].level = c->level + 1;
            if (!c->empty) continue;
            k = 1;
        }
        for (; k < 2; k++)
            if (seen[next[k]] != r + 1) seen[next[k]] = r + 1, todo[n++] = next[k];
    }
}

/* A rule that comes back to itself without a byte would be called for ever. */
static void check_left(struct maker *m) {
    struct qn_program *p = m->p;
    struct left *rules = calloc(p->n_rules, sizeof *rules);
    uint32_t *seen = calloc(p->n, sizeof *seen), *todo = calloc(p->n, sizeof *todo);
    bool ok = rules && seen && todo;
    if (!ok) fail(m, QN_ERR_NOMEM, "out of memory");
    for (bool changed = true; changed && ok && !m->rc;) {
        changed = false;
        for (uint32_t r = 0; r < p->n_rules && !m->rc; r++) {
            struct left was = rules[r];
            look_left(m, r, rules, seen, todo);
            changed = changed || was.level != rules[r].level || was.empty != rules[r].empty;
            if (rules[r].level > p->n_rules)
                fail(m, QN_ERR_INVALID, "it refers to itself with nothing in between");
        }
        memset(seen, 0, p->n * sizeof *seen);
    }
    free(rules);
    free(seen);
    free(todo);
}

static void set_classes(struct qn_program *p) {
    bool begins[257] = {false};
    for (uint32_t i = 0; i < p->n; i++)
        if (p->at[i].op == QN_OP_RANGE) begins[p->at[i].lo] = begins[p->at[i].hi + 1] = true;
    p->n_classes = 1;
    for (unsigned b = 0; b < 256; b++) {
        if (b && begins[b]) p->n_classes++;
        p->class_of[b] = (uint8_t)(p->n_classes - 1);
    }
}

/* ---- rules ---- */

static int make_rules(struct maker *m, struct qn_re *re, const char *text, size_t n, bool grammar) {
    struct qn_program *p = m->p;
    uint32_t count = 1, r = 0;
    for (size_t i = 0; grammar && i < n; i++) count += text[i] == '\n';
    if (count > QN_PROGRAM_RULES) return qn_err_set(m->err, QN_ERR_TOO_LONG, "it has too many parts");
    p->rules = calloc(count, sizeof *p->rules);
    if (!p->rules) return qn_err_set(m->err, QN_ERR_NOMEM, "out of memory");
    p->n_rules = count;
    for (size_t at = 0; r < count && !m->rc; r++) {
        const char *end = grammar ? memchr(text + at, '\n', n - at) : NULL;
        struct qn_re_source src = {text + at, end ? (size_t)(end - text) - at : n - at, grammar ? count : 0};
        uint32_t root = 0;
        int rc = qn_re_parse(re, &src, &root, m->err);
        if (rc) return rc;
        p->rules[r] = emit_node(m, root, emit(m, (struct qn_inst){.op = QN_OP_RET}));
        at += src.n + 1;
    }
    return m->rc;
}

int qn_program_make(const char *text, size_t n, bool grammar, struct qn_program *out, struct qn_err *err) {
    struct qn_re re = {0};
    struct maker m = {.p = out, .re = &re, .err = err};
    *out = (struct qn_program){0};
    int rc = make_rules(&m, &re, text, n, grammar);
    qn_re_free(&re);
    if (!rc) {
        set_heights(&m);
        if (grammar && !m.rc) check_left(&m);
        set_classes(out);
        if (!m.rc && out->at[out->rules[0]].height == QN_HEIGHT_NONE)
            fail(&m, QN_ERR_INVALID, "no text of bounded nesting satisfies it");
        rc = m.rc;
    }
    if (rc) qn_program_free(out);
    return rc;
}

void qn_program_free(struct qn_program *p) {
    free(p->at);
    free(p->rules);
    free(p->sets);
    *p = (struct qn_program){0};
}
