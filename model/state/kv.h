/* The pool of state, the sequences that hold it, and the prefix cache.
 *
 * A paged block keeps QN_KV_BLOCK tokens of all layers of one variant; a fixed block keeps the fixed-size
 * state of one sequence, all layers. A variant may use either, both or neither. Blocks of different variants
 * differ in size: each size has its free list, and free memory goes back to the system when another size
 * needs the budget.
 *
 *   free -[take]-> held by 1..n sequences -[last one leaves]-> cached when published, else free
 *   cached -[match]-> held;  cached -[budget needed, least recently used first]-> evicted
 *
 * A fixed block has one holder and is never shared. What later sequences may begin with is a copy of it, a
 * snapshot: made at every multiple of QN_SNAPSHOT_TOKENS and where the caller says so (before a prompt's last
 * token), kept in the cache beside published blocks, with all the tokens that led to it, and copied back by
 * restore. A snapshot that saves fewer than QN_SNAPSHOT_GAP tokens over the last multiple is not worth its
 * bytes and is left out, and all snapshots together, those being made included, take at most half the budget:
 * many short prompts, or one long one, can't turn everything else out of the cache.
 *
 * Rules. (1) used + cached + free <= budget, in bytes of data, always. (2) A block is published only when all
 * its tokens are final; a published block is never written. (3) A hash finds a cached block; the parent's
 * identity, the salt, the domain (variant) and the 16 tokens decide, so a match means that the whole prefix
 * is equal; of a snapshot all tokens are compared. (4) Content never reaches a sequence of another salt: such
 * a block is zeroed when it is handed on, and before its memory goes back to the system.
 *
 * Accounting. Every used block has exactly one owner among its holders: the first, and when that one leaves,
 * any other. A sequence's `held` counts all blocks in its table, `shared` those that another sequence owns.
 * Hence the sum over sequences of held - shared is the pool's used count, byte for byte. Thread: engine;
 * qn_kv_stats from any thread. */
#ifndef QN_MODEL_STATE_KV_H
#define QN_MODEL_STATE_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"
#include "model/model.h"

#define QN_SNAPSHOT_TOKENS 256u
#define QN_SNAPSHOT_GAP    64u

struct qn_kv_pool;
struct qn_kv_seq;

/* Header of a block. Headers outlive the data and are never given back before the pool is freed, so that a
 * stale reference is found by its generation and not by a crash. */
struct qn_kv_block {
    uint8_t *data; /* bytes long, QN_ALIGN aligned; NULL for a spare header */
    size_t bytes;
    uint32_t refs;       /* sequences that hold it */
    uint32_t generation; /* raised whenever its content stops being valid */
    uint32_t sealed;     /* slots [0, sealed) are relied upon by holders other than the owner */
    bool published, in_slab;
    struct qn_kv_seq
        *owner; /* the holder that counts it and may write slots from `sealed` on; NULL when unused */
    uint64_t salt, domain; /* of the last holder */
    uint64_t uid, parent;  /* published: its own identity and that of the block before it (0 = none) */
    uint64_t hash;         /* published: of all tokens from the sequence's start */
    int32_t tokens[QN_KV_BLOCK];
    int32_t *prefix; /* snapshot: the n_prefix tokens that it is the state of; counted as state. NULL else */
    uint32_t n_prefix;
    struct qn_kv_block *hash_next;
    struct qn_kv_block *prev, *next; /* LRU list when cached; next: free list, spare headers */
    uint64_t cached_at;              /* orders the LRU lists among each other */
};

/* What the pool remembers per block of a sequence, apart from the data pointers that kernels read. */
struct qn_kv_entry {
    struct qn_kv_block *block;
    uint32_t generation; /* of block when it was taken */
    uint64_t uid, hash;  /* of the published block (its own or an equal one) that ends here; uid 0: none */
};

struct qn_kv_seq {
    struct qn_kv_pool *pool;
    size_t block_bytes, fixed_bytes; /* of a paged block, of the fixed state; 0: the variant has none */
    uint64_t salt, domain;
    struct qn_kv_block *fixed;   /* the fixed state; NULL while nothing is reserved */
    struct qn_kv_entry *entries; /* [n], room for cap */
    uint8_t **data;              /* [n] data of each block, in order */
    uint32_t n, cap;
    uint32_t shared;          /* entries that another sequence owns */
    size_t peak, peak_shared; /* most bytes held, and how many were shared then */
    struct qn_kv_seq *prev, *next;
};

/* min_block_bytes sizes the hash table. NULL when memory is short. */
struct qn_kv_pool *qn_kv_pool_new(size_t budget, size_t min_block_bytes) __attribute__((warn_unused_result));
/* All sequences must be gone; NULL is fine. */
void qn_kv_pool_free(struct qn_kv_pool *p);
struct qn_state_stats qn_kv_stats(const struct qn_kv_pool *p);
/* Evicts every cached block and gives all free memory back. */
void qn_kv_drop(struct qn_kv_pool *p);

/* Lists an empty sequence with the pool; can't fail. */
void qn_kv_seq_init(struct qn_kv_seq *s, struct qn_kv_pool *p, size_t block_bytes, size_t fixed_bytes,
                    uint64_t salt, uint64_t domain);
/* Gives all state back and leaves the pool's list. */
void qn_kv_seq_done(struct qn_kv_seq *s);

/* Bytes that qn_kv_reserve(s, length, to) would take from the pool. */
size_t qn_kv_need(const struct qn_kv_seq *s, uint32_t length, uint32_t to);
/* Makes slots [length, to) exist and be writable, where `length` tokens are in the state: takes blocks and
 * copies a shared open one; takes the fixed state, zeroed. All or nothing: QN_OK, QN_ERR_NO_STATE,
 * QN_ERR_NOMEM. */
int qn_kv_reserve(struct qn_kv_seq *s, uint32_t length, uint32_t to);
/* True when slots [length, to) can be written now (and no entry is stale). */
bool qn_kv_writable(const struct qn_kv_seq *s, uint32_t length, uint32_t to);
/* Empty sequence: takes cached state of a prefix of tokens[0, n), as long a one as there is; returns the
 * tokens covered, less than n, and a multiple of QN_KV_BLOCK where there are paged blocks. */
uint32_t qn_kv_match(struct qn_kv_seq *s, const int32_t *tokens, uint32_t n);
/* Notes the tokens of slots [length, length + n), which are being written. */
void qn_kv_set_tokens(struct qn_kv_seq *s, uint32_t length, const int32_t *tokens, uint32_t n);
/* Publishes blocks that became full as the state grew from `from` to `to` tokens. Allocates nothing. */
void qn_kv_publish(struct qn_kv_seq *s, uint32_t from, uint32_t to);
/* Gives back all blocks past `length` tokens, reserved ones too; with length 0 the fixed state as well. */
void qn_kv_truncate(struct qn_kv_seq *s, uint32_t length);
/* dst (initialised, empty, same pool) shares src's blocks of its first `length` tokens and gets a copy of its
 * fixed state. QN_OK, QN_ERR_NO_STATE (no room for the copy), QN_ERR_NOMEM; dst may then hold some. */
int qn_kv_fork(struct qn_kv_seq *dst, struct qn_kv_seq *src, uint32_t length);
struct qn_seq_bytes qn_kv_bytes(const struct qn_kv_seq *s);

/* --- snapshots of the fixed state (snapshot.c) --- */
/* Room for a snapshot of s after tokens[0, n), or NULL: it is not worth it, it is there already (then it
 * counts as used just now), or the budget or memory does not give it. It counts as used until end, and in the
 * snapshots' half of the budget. more: snapshots of s that are due after this one before any of them ends;
 * they come first, since one that reaches farther is worth more. */
struct qn_kv_block *qn_kv_snapshot_begin(struct qn_kv_seq *s, const int32_t *tokens, uint32_t n,
                                         uint32_t more) __attribute__((warn_unused_result));
/* The caller has filled b->data: it enters the cache, or makes way for an equal one that is there. */
void qn_kv_snapshot_end(struct qn_kv_pool *p, struct qn_kv_block *b);
/* The longest snapshot, of at least `least` and at most `most` tokens and a multiple of `unit` long, whose
 * tokens are a prefix of tokens[0, most): copies it into s, whose fixed state is taken if need be. Returns
 * its tokens, 0 = none. Where the budget can't hold both, the snapshot itself becomes the sequence's state.
 */
struct qn_kv_range {
    uint32_t least, most, unit;
};
uint32_t qn_kv_restore(struct qn_kv_seq *s, const int32_t *tokens, struct qn_kv_range r);

#endif
