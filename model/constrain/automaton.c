/* States on demand. Data flow: a state's places and a byte -> places after it -> closure over jumps, calls
 * and returns -> the same set met before, or a new state. See automaton.h. */
#include "model/constrain/automaton.h"

#include <stdlib.h>
#include <string.h>

#define UNKNOWN     UINT32_MAX
#define NO_SLOT     UINT32_MAX
#define BYTES_MOST  ((size_t)16 << 20) /* of one automaton, between two calls of qn_auto_forget */
#define FIRST_SLOTS 64u

static uint64_t mix(uint64_t x) {
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ (x >> 33);
}

static uint32_t give_up(struct qn_auto *a, int why) {
    if (!a->failed) a->failed = why;
    return QN_AUTO_FAIL;
}

/* Room for `need` elements. */
static bool room(struct qn_auto *a, void **at, uint32_t *cap, uint32_t need, size_t size) {
    uint32_t want = *cap ? *cap : 32;
    if (need <= *cap) return true;
    while (want < need) want *= 2;
    void *q = realloc(*at, want * size);
    if (!q) {
        give_up(a, QN_ERR_NOMEM);
        return false;
    }
    *at = q;
    *cap = want;
    return true;
}

/* ---- stacks ---- */

static uint64_t stack_hash(const struct qn_auto_stack *s) {
    return mix((uint64_t)s->ret << 32 | s->parent);
}

/* A table twice as large; false without memory. */
static bool grow_stack_slots(struct qn_auto *a) {
    uint32_t n = a->n_stack_slots ? a->n_stack_slots * 2 : FIRST_SLOTS;
    uint32_t *slots = calloc(n, sizeof *slots);
    if (!slots) {
        give_up(a, QN_ERR_NOMEM);
        return false;
    }
    for (uint32_t i = 1; i < a->n_stacks; i++) {
        uint32_t h = (uint32_t)stack_hash(&a->stacks[i]) & (n - 1);
        while (slots[h]) h = (h + 1) & (n - 1);
        slots[h] = i;
    }
    free(a->stack_slots);
    a->stack_slots = slots;
    a->n_stack_slots = n;
    return true;
}

/* The stack `parent` with one more caller; QN_AUTO_FAIL. Stack 0 is the empty one. */
static uint32_t push(struct qn_auto *a, uint32_t ret, uint32_t parent) {
    struct qn_auto_stack s = {ret, parent, a->stacks[parent].depth + 1};
    if (a->n_stacks * 2 >= a->n_stack_slots && !grow_stack_slots(a)) return QN_AUTO_FAIL;
    uint32_t mask = a->n_stack_slots - 1, h = (uint32_t)stack_hash(&s) & mask;
    for (; a->stack_slots[h]; h = (h + 1) & mask) {
        const struct qn_auto_stack *t = &a->stacks[a->stack_slots[h]];
        if (t->ret == ret && t->parent == parent) return a->stack_slots[h];
    }
    if (!room(a, (void **)&a->stacks, &a->cap_stacks, a->n_stacks + 1, sizeof *a->stacks))
        return QN_AUTO_FAIL;
    a->bytes += sizeof s + 2 * sizeof *a->stack_slots;
    a->stack_slots[h] = a->n_stacks;
    a->stacks[a->n_stacks] = s;
    return a->n_stacks++;
}

/* ---- the list of places ---- */

static bool grow_list_slots(struct qn_auto *a) {
    uint32_t n = a->n_list_slots ? a->n_list_slots * 2 : FIRST_SLOTS;
    uint32_t *slots = calloc(n, sizeof *slots);
    if (!slots) {
        give_up(a, QN_ERR_NOMEM);
        return false;
    }
    for (uint32_t i = 0; i < a->n_list; i++) {
        uint32_t h = (uint32_t)mix(a->list[i]) & (n - 1);
        while (slots[h]) h = (h + 1) & (n - 1);
        slots[h] = i + 1;
    }
    free(a->list_slots);
    a->list_slots = slots;
    a->n_list_slots = n;
    return true;
}

/* Adds a place that is not in the list yet and from which the end can be reached within the depth. */
static bool add(struct qn_auto *a, uint32_t inst, uint32_t stack) {
    uint64_t place = (uint64_t)inst << 32 | stack;
    a->work++;
    if (a->stacks[stack].depth + a->p->at[inst].height > QN_PROGRAM_DEPTH) return true;
    if (a->n_list * 2 >= a->n_list_slots && !grow_list_slots(a)) return false;
    uint32_t mask = a->n_list_slots - 1, h = (uint32_t)mix(place) & mask;
    for (; a->list_slots[h]; h = (h + 1) & mask)
        if (a->list[a->list_slots[h] - 1] == place) return true;
    if (!room(a, (void **)&a->list, &a->cap_list, a->n_list + 1, sizeof *a->list)) return false;
    a->list[a->n_list++] = place;
    a->list_slots[h] = a->n_list;
    return true;
}

static bool add_call(struct qn_auto *a, const struct qn_inst *i, uint32_t stack) {
    uint32_t to = a->p->rules[i->x];
    if (a->p->at[i->y].op == QN_OP_RET) return add(a, to, stack); /* it returns where this rule would */
    if (a->stacks[stack].depth + 1 + a->p->at[to].height > QN_PROGRAM_DEPTH) return true;
    uint32_t s = push(a, i->y, stack);
    return s != QN_AUTO_FAIL && add(a, to, s);
}

/* Follows everything that takes no byte. What is left of the list are RANGEs; *accepts: the end was met. */
static bool close_list(struct qn_auto *a, bool *accepts) {
    bool ok = true;
    *accepts = false;
    for (uint32_t k = 0; k < a->n_list && ok; k++) {
        uint32_t stack = (uint32_t)a->list[k];
        const struct qn_inst *i = &a->p->at[a->list[k] >> 32];
        if (a->work > a->limit) {
            give_up(a, QN_ERR_TOO_LONG);
            return false;
        }
        if (i->op == QN_OP_SPLIT)
            ok = add(a, i->x, stack) && add(a, i->y, stack);
        else if (i->op == QN_OP_CALL)
            ok = add_call(a, i, stack);
        else if (i->op == QN_OP_RET && stack)
            ok = add(a, a->stacks[stack].ret, a->stacks[stack].parent);
        else if (i->op == QN_OP_RET)
            *accepts = true;
    }
    return ok;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Empties the hash table and leaves the places that take a byte, in order. */
static void tidy_list(struct qn_auto *a) {
    uint32_t kept = 0;
    if (a->n_list * 8 > a->n_list_slots) {
        memset(a->list_slots, 0, a->n_list_slots * sizeof *a->list_slots);
    } else {
        for (uint32_t k = 0; k < a->n_list; k++) { /* all of a run: whatever collided is in the list too */
            uint32_t h = (uint32_t)mix(a->list[k]) & (a->n_list_slots - 1);
            while (a->list_slots[h]) {
                a->list_slots[h] = 0;
                h = (h + 1) & (a->n_list_slots - 1);
            }
        }
    }
    for (uint32_t k = 0; k < a->n_list; k++)
        if (a->p->at[a->list[k] >> 32].op == QN_OP_RANGE) a->list[kept++] = a->list[k];
    a->n_list = kept;
    if (kept > 1) qsort(a->list, kept, sizeof *a->list, by_value);
}

/* ---- states ---- */

static uint64_t list_hash(const uint64_t *at, uint32_t n, bool accepts) {
    uint64_t h = n * 2 + accepts;
    for (uint32_t i = 0; i < n; i++) h = mix(h ^ at[i]) + i;
    return mix(h);
}

static bool grow_state_slots(struct qn_auto *a) {
    uint32_t n = a->n_state_slots ? a->n_state_slots * 2 : FIRST_SLOTS;
    uint32_t *slots = calloc(n, sizeof *slots);
    if (!slots) {
        give_up(a, QN_ERR_NOMEM);
        return false;
    }
    for (uint32_t i = 1; i < a->n_states; i++) {
        const struct qn_auto_state *s = &a->states[i];
        uint32_t h = (uint32_t)list_hash(a->places + s->at, s->n, s->accepts) & (n - 1);
        while (slots[h]) h = (h + 1) & (n - 1);
        slots[h] = i;
    }
    free(a->state_slots);
    a->state_slots = slots;
    a->n_state_slots = n;
    return true;
}

/* What the list's places know about the bytes that go on from here. */
static void note(const struct qn_auto *a, struct qn_auto_state *s) {
    for (uint32_t i = 0; i < a->n_list; i++) {
        const struct qn_inst *in = &a->p->at[a->list[i] >> 32];
        if (in->run > s->run) s->run = in->run, s->set = in->set;
    }
}

static uint32_t new_state(struct qn_auto *a, bool accepts) {
    uint32_t classes = a->p->n_classes, cap = a->cap_states;
    size_t row = classes * sizeof *a->next;
    if (a->bytes > BYTES_MOST) return give_up(a, QN_ERR_TOO_LONG);
    if (!room(a, (void **)&a->places, &a->cap_places, a->n_places + a->n_list, sizeof *a->places) ||
        !room(a, (void **)&a->states, &a->cap_states, a->n_states + 1, sizeof *a->states))
        return QN_AUTO_FAIL;
    if (cap != a->cap_states) {
        uint32_t *q = realloc(a->next, a->cap_states * row);
        if (!q) {
            a->cap_states = cap; /* of the two arrays the shorter one counts */
            return give_up(a, QN_ERR_NOMEM);
        }
        a->next = q;
    }
    struct qn_auto_state s = {.at = a->n_places, .n = a->n_list, .accepts = accepts};
    note(a, &s);
    if (a->n_list) memcpy(a->places + a->n_places, a->list, a->n_list * sizeof *a->list);
    memset(a->next + (size_t)a->n_states * classes, 0xFF, row);
    a->n_places += a->n_list;
    a->bytes += sizeof s + row + a->n_list * sizeof *a->list;
    a->work += classes / 8 + a->n_list;
    a->states[a->n_states] = s;
    return a->n_states++;
}

/* The state of the closed and tidied list. */
static uint32_t find_state(struct qn_auto *a, bool accepts) {
    if (!a->n_list && !accepts) return QN_AUTO_DEAD;
    if (a->n_states * 2 >= a->n_state_slots && !grow_state_slots(a)) return QN_AUTO_FAIL;
    uint32_t mask = a->n_state_slots - 1, h = (uint32_t)list_hash(a->list, a->n_list, accepts) & mask;
    for (; a->state_slots[h]; h = (h + 1) & mask) {
        const struct qn_auto_state *s = &a->states[a->state_slots[h]];
        if (s->n == a->n_list && s->accepts == accepts &&
            !memcmp(a->places + s->at, a->list, s->n * sizeof *a->list))
            return a->state_slots[h];
    }
    uint32_t s = new_state(a, accepts);
    if (s != QN_AUTO_FAIL) a->state_slots[h] = s;
    return s;
}

static uint32_t close_state(struct qn_auto *a, bool ok) {
    bool accepts = false;
    ok = ok && close_list(a, &accepts);
    if (a->n_list) tidy_list(a);
    uint32_t s = ok ? find_state(a, accepts) : QN_AUTO_FAIL;
    a->n_list = 0;
    return s;
}

uint32_t qn_auto_start(struct qn_auto *a) {
    if (a->failed) return QN_AUTO_FAIL;
    if (a->start) return a->start;
    uint32_t s = close_state(a, add(a, a->p->rules[0], 0));
    if (s != QN_AUTO_FAIL) a->start = s;
    return s;
}

uint32_t qn_auto_step(struct qn_auto *a, uint32_t state, uint8_t byte) {
    uint32_t class = a->p->class_of[byte];
    size_t slot = (size_t)state * a->p->n_classes + class;
    if (state == QN_AUTO_DEAD) return QN_AUTO_DEAD;
    if (a->next[slot] != UNKNOWN) return a->next[slot];
    if (a->failed) return QN_AUTO_FAIL;
    struct qn_auto_state s = a->states[state]; /* a copy: the array may move */
    bool ok = true;
    a->work += s.n;
    for (uint32_t i = s.at; i < s.at + s.n && ok; i++) {
        const struct qn_inst *in = &a->p->at[a->places[i] >> 32];
        if (byte >= in->lo && byte <= in->hi) ok = add(a, in->x, (uint32_t)a->places[i]);
    }
    uint32_t to = close_state(a, ok);
    if (to != QN_AUTO_FAIL) a->next[slot] = to;
    return to;
}

/* The dead state and the empty stack are always there. */
static int begin(struct qn_auto *a) {
    if (!room(a, (void **)&a->stacks, &a->cap_stacks, 1, sizeof *a->stacks)) return QN_ERR_NOMEM;
    a->stacks[0] = (struct qn_auto_stack){0, 0, 0};
    a->n_stacks = 1;
    return new_state(a, false) == QN_AUTO_FAIL ? QN_ERR_NOMEM : QN_OK;
}

int qn_auto_init(struct qn_auto *a, const struct qn_program *p) {
    *a = (struct qn_auto){.p = p, .limit = UINT64_MAX};
    return begin(a);
}

void qn_auto_forget(struct qn_auto *a) {
    for (uint32_t i = 0; i < a->n_states; i++) free(a->states[i].mask);
    a->n_states = a->n_places = a->n_stacks = a->n_list = a->start = 0;
    if (a->state_slots) memset(a->state_slots, 0, a->n_state_slots * sizeof *a->state_slots);
    if (a->stack_slots) memset(a->stack_slots, 0, a->n_stack_slots * sizeof *a->stack_slots);
    if (a->list_slots) memset(a->list_slots, 0, a->n_list_slots * sizeof *a->list_slots);
    a->bytes = 0;
    a->failed = 0;
    a->age++;
    begin(a); /* has the memory that it had */
}

void qn_auto_free(struct qn_auto *a) {
    for (uint32_t i = 0; i < a->n_states; i++) free(a->states[i].mask);
    free(a->states);
    free(a->places);
    free(a->next);
    free(a->stacks);
    free(a->state_slots);
    free(a->stack_slots);
    free(a->list);
    free(a->list_slots);
    *a = (struct qn_auto){0};
}
