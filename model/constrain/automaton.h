/* A program run over bytes: a deterministic automaton whose states are made when they are first met.
 *
 * A state is the set of all places (instruction, stack of callers) where the program may stand, so that no
 * way is ever tried twice and nothing is taken back. Stacks are interned, and no deeper than
 * QN_PROGRAM_DEPTH. States stay until qn_auto_forget. Internal to model/constrain/. Thread: one at a time. */
#ifndef QN_MODEL_CONSTRAIN_AUTOMATON_H
#define QN_MODEL_CONSTRAIN_AUTOMATON_H

#include "model/constrain/program.h"

#define QN_AUTO_DEAD 0u         /* nothing follows and nothing is accepted */
#define QN_AUTO_FAIL UINT32_MAX /* memory or work is used up: see failed */

struct qn_auto_state {
    uint32_t at, n;    /* its places in `places` */
    uint16_t set, run; /* as of struct qn_inst: of the place that knows most */
    bool accepts;
    uint64_t *mask; /* owned: the tokens that may follow; NULL = not made yet */
};
struct qn_auto_stack {
    uint32_t ret, parent, depth;
};
struct qn_auto {
    const struct qn_program *p;
    struct qn_auto_state *states; /* [n_states]; 0 is QN_AUTO_DEAD */
    uint32_t n_states, cap_states;
    uint64_t *places; /* instruction << 32 | stack */
    uint32_t n_places, cap_places;
    uint32_t *next; /* [state][class]; UINT32_MAX = not known yet */
    struct qn_auto_stack *stacks;
    uint32_t n_stacks, cap_stacks;
    uint32_t *state_slots, *stack_slots; /* hash tables of indexes; 0 = free */
    uint32_t n_state_slots, n_stack_slots;
    uint64_t *list; /* places of the state that is being made */
    uint32_t n_list, cap_list;
    uint32_t *list_slots, n_list_slots;
    uint32_t start; /* 0 until it is made */
    uint64_t work;  /* places looked at, ever */
    uint64_t limit; /* of work: beyond it no new state is made */
    size_t bytes;   /* held by states and masks */
    int failed;     /* QN_ERR_NOMEM or QN_ERR_TOO_LONG, once it failed */
    uint32_t age;   /* how often everything was forgotten */
};

int qn_auto_init(struct qn_auto *a, const struct qn_program *p); /* QN_OK or QN_ERR_NOMEM */
/* The state before the first byte; QN_AUTO_FAIL. */
uint32_t qn_auto_start(struct qn_auto *a);
/* After one more byte; QN_AUTO_DEAD, QN_AUTO_FAIL. */
uint32_t qn_auto_step(struct qn_auto *a, uint32_t state, uint8_t byte);
/* Drops all states and masks: numbers of states mean nothing afterwards. */
void qn_auto_forget(struct qn_auto *a);
void qn_auto_free(struct qn_auto *a);

#endif
