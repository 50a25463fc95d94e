/* From a row of logits to one token: see sample.h. Pure; thread: any.
 *
 * Order: (log-probabilities of the raw row) -> penalties -> top_k -> top_p -> min_p -> temperature -> draw.
 * A mask takes its tokens out after the penalties, before everything else; log-probabilities are without it.
 * This is llama.cpp's default chain: top_p and min_p look at the distribution before temperature. Penalties
 * as llama.cpp and Hugging Face define them: repetition divides positive and multiplies negative logits of
 * every token of the history once; frequency takes off per occurrence, presence once, over generated tokens.
 *
 * NaN counts as -inf, and infinities as the largest finite values, so every row has a token to give: a row
 * without any finite logit is a uniform distribution. Greedy (temperature 0) and every tie take the lowest
 * id. A draw walks the candidates in a fixed order (by id, or by rising logit when a cut had to sort) with
 * their weights, exp to float's precision, summed in double, against one number made from (seed, choice,
 * position). */
#include "model/sample.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "model/random.h"

#define ARGMAX_LANES 32
#define SUM_LANES    8 /* of sums and maxima */

struct candidate {
    float logit;
    int32_t id;
};

/* Work memory: [vocab] candidates, then [vocab] counts of generated tokens, later weights. */
#define SEEN UINT32_C(0x80000000) /* bit of a count: the token stands in the history */

size_t qn_sample_work_bytes(uint32_t vocab) {
    return (size_t)vocab * (sizeof(struct candidate) + sizeof(uint32_t));
}

static float clean(float x) {
    if (isnan(x) || x < -FLT_MAX) return -FLT_MAX;
    return x > FLT_MAX ? FLT_MAX : x;
}

/* In lanes, as compilers vectorise it: a row of logits is read for every token. */
uint32_t qn_argmax(const float *x, uint32_t n) {
    float lane[ARGMAX_LANES], top = -FLT_MAX;
    uint32_t i = 0;
    for (uint32_t j = 0; j < ARGMAX_LANES; j++) lane[j] = top;
    for (; n - i >= ARGMAX_LANES; i += ARGMAX_LANES) {
        for (uint32_t j = 0; j < ARGMAX_LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    }
    for (; i < n; i++) lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (uint32_t j = 0; j < ARGMAX_LANES; j++) top = lane[j] > top ? lane[j] : top;
    if (!(top > -FLT_MAX)) return 0; /* all are as unlikely */
    top = clean(top);
    for (i = 0; n - i >= ARGMAX_LANES; i += ARGMAX_LANES) {
        int here = 0;
        for (uint32_t j = 0; j < ARGMAX_LANES; j++) here |= x[i + j] >= top;
        if (here) break;
    }
    while (!(x[i] >= top)) i++;
    return i;
}

/* --- log-probabilities --- */
static double log_sum(const float *x, uint32_t n) {
    size_t at;
    float fast = qn_ops()->logsumexp(x, n, &at);
    if (isfinite(fast)) return fast;
    double max = -FLT_MAX, sum = 0; /* some value is not a number: slowly, with such values replaced */
    for (uint32_t i = 0; i < n; i++) max = fmax(max, (double)clean(x[i]));
    for (uint32_t i = 0; i < n; i++) sum += exp((double)clean(x[i]) - max);
    return max + log(fmax(sum, 1)); /* the largest alone adds 1 */
}

static float log_prob(float logit, double lse) {
    double p = (double)clean(logit) - lse;
    return (float)(p > 0 ? 0 : p < -FLT_MAX ? -FLT_MAX : p);
}

/* Ascending ids and a strict comparison put the lowest id first among equals. */
static void top_of(const float *x, uint32_t n, uint32_t want, double lse, struct qn_sampled *out) {
    uint32_t have = 0;
    float value[QN_TOP_LOGPROBS] = {0};
    if (want > QN_TOP_LOGPROBS) want = QN_TOP_LOGPROBS;
    for (uint32_t i = 0; i < n && want > 0; i++) {
        float v = clean(x[i]);
        if (have == want && !(v > value[want - 1])) continue;
        uint32_t at = have < want ? have++ : want - 1;
        for (; at > 0 && v > value[at - 1]; at--) {
            value[at] = value[at - 1];
            out->top[at] = out->top[at - 1];
        }
        value[at] = v;
        out->top[at] = (struct qn_token_logprob){(int32_t)i, log_prob(v, lse)};
    }
    out->n_top = have;
}

void qn_logprob_of(const float *logits, uint32_t vocab, int32_t id, uint32_t n_top, struct qn_sampled *out) {
    memset(out, 0, sizeof *out);
    out->id = id;
    double lse = log_sum(logits, vocab);
    if (id >= 0 && (uint32_t)id < vocab) out->logprob = log_prob(logits[id], lse);
    top_of(logits, vocab, n_top, lse, out);
}

/* --- penalties --- */
static void penalise(const struct qn_sampling *p, const struct qn_sample_input *in, uint32_t *count) {
    bool repeat = p->repetition_penalty != 1.0f && p->repetition_penalty > 0;
    if (!repeat && p->presence_penalty == 0 && p->frequency_penalty == 0) return;
    memset(count, 0, in->vocab * sizeof *count);
    uint32_t generated_from =
        in->n_history - (in->n_generated < in->n_history ? in->n_generated : in->n_history);
    for (uint32_t i = 0; i < in->n_history; i++) {
        int32_t id = in->history[i];
        if (id < 0 || (uint32_t)id >= in->vocab) continue;
        count[id] |= SEEN;
        if (i >= generated_from) count[id]++;
    }
    for (uint32_t i = 0; i < in->vocab; i++) {
        if (count[i] == 0) continue;
        uint32_t n = count[i] & ~SEEN;
        float x = clean(in->logits[i]);
        if (repeat) x = x > 0 ? x / p->repetition_penalty : x * p->repetition_penalty;
        x -= (float)n * p->frequency_penalty + (n > 0 ? p->presence_penalty : 0.0f);
        in->logits[i] = x;
    }
}

/* --- candidates: a heap with the likeliest on top, so that a cut sorts no more than it keeps --- */
static bool before(const struct candidate *a, const struct candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

/* worst: the heap has the least likely on top. */
static bool above(bool worst, const struct candidate *a, const struct candidate *b) {
    return worst ? before(b, a) : before(a, b);
}

static void sift(struct candidate *h, uint32_t n, uint32_t at, bool worst) {
    for (;;) {
        uint32_t best = at, left = 2 * at + 1;
        if (left < n && above(worst, &h[left], &h[best])) best = left;
        if (left + 1 < n && above(worst, &h[left + 1], &h[best])) best = left + 1;
        if (best == at) return;
        struct candidate t = h[at];
        h[at] = h[best];
        h[best] = t;
        at = best;
    }
}

static void make_heap(struct candidate *h, uint32_t n, bool worst) {
    for (uint32_t i = n / 2; i-- > 0;) sift(h, n, i, worst);
}

/* Takes the top off a heap of n; it lands at h[n - 1]. Pops therefore line up from the end, likeliest last.
 */
static void pop(struct candidate *h, uint32_t n) {
    struct candidate t = h[0];
    h[0] = h[n - 1];
    h[n - 1] = t;
    sift(h, n - 1, 0, false);
}

/* Sum in lanes, then lane by lane: one order for every row. */
static double sum_of(const float *w, uint32_t n) {
    double lane[SUM_LANES] = {0}, sum = 0;
    uint32_t i = 0;
    for (; n - i >= SUM_LANES; i += SUM_LANES)
        for (uint32_t j = 0; j < SUM_LANES; j++) lane[j] += (double)w[i + j];
    for (uint32_t j = 0; j < SUM_LANES; j++) sum += lane[j];
    for (; i < n; i++) sum += (double)w[i];
    return sum;
}

static float largest(const struct candidate *c, uint32_t n) {
    float lane[SUM_LANES], max = -FLT_MAX;
    uint32_t i = 0;
    for (uint32_t j = 0; j < SUM_LANES; j++) lane[j] = max;
    for (; n - i >= SUM_LANES; i += SUM_LANES)
        for (uint32_t j = 0; j < SUM_LANES; j++)
            lane[j] = c[i + j].logit > lane[j] ? c[i + j].logit : lane[j];
    for (; i < n; i++) lane[0] = c[i].logit > lane[0] ? c[i].logit : lane[0];
    for (uint32_t j = 0; j < SUM_LANES; j++) max = lane[j] > max ? lane[j] : max;
    return max;
}

/* w[i] = exp((logit - the largest) / t), to float's precision; 0 for those that min_p drops. */
static void weights(const struct candidate *c, uint32_t n, float t, float min_p, float *w) {
    float max = largest(c, n), scale = fminf(1.0f / t, FLT_MAX);
    double least = min_p > 0 ? (double)max + log((double)min_p) : -INFINITY;
    for (uint32_t i = 0; i < n; i++) w[i] = (double)c[i].logit >= least ? c[i].logit - max : -INFINITY;
    qn_ops()->softmax(w, n, scale);
}

/* The k likeliest, in rising order, at h. A likelier one takes the place of the least likely so far. */
static void keep_top(struct candidate *h, uint32_t n, uint32_t k) {
    make_heap(h, k, true);
    for (uint32_t i = k; i < n; i++) {
        if (!before(&h[i], &h[0])) continue;
        h[0] = h[i];
        sift(h, k, 0, true);
    }
    make_heap(h, k, false);
    for (uint32_t i = k; i > 1; i--) pop(h, i);
}

/* Of n in rising order the likeliest that hold the share top_p; returns how many. */
static uint32_t nucleus_sorted(double top_p, const struct candidate *h, uint32_t n) {
    double max = h[n - 1].logit, total = 0, sum = 0;
    uint32_t take = 0;
    for (uint32_t i = 0; i < n; i++) total += exp((double)h[i].logit - max);
    for (; take < n && (take == 0 || sum < top_p * total); take++)
        sum += exp((double)h[n - 1 - take].logit - max);
    return take;
}

/* The same of all. Those that together hold less than half of what may be left out take no part: few are left
 * to be sorted. The result stands at the end of the first *n. */
static uint32_t nucleus(double top_p, struct candidate *h, uint32_t *n, float *w) {
    weights(h, *n, 1, 0, w);
    double total = sum_of(w, *n), least = 0.5 * (1 - top_p) * total / *n, sum = 0;
    uint32_t m = 0, take = 0;
    for (uint32_t i = 0; i < *n; i++)
        if ((double)w[i] >= least) h[m++] = h[i];
    make_heap(h, m, false);
    double max = h[0].logit;
    for (; take < m && (take == 0 || sum < top_p * total); take++) {
        pop(h, m - take);
        sum += exp((double)h[m - 1 - take].logit - max);
    }
    *n = m;
    return take;
}

/* What top_k and then top_p leave of n candidates; *kept: how many. w: [n] work memory. */
static const struct candidate *cut(const struct qn_sampling *p, struct candidate *h, uint32_t n, float *w,
                                   uint32_t *kept) {
    *kept = n;
    if (p->top_k > 0 && p->top_k < n) {
        keep_top(h, n, p->top_k);
        n = *kept = p->top_k;
        if (p->top_p < 1.0f) *kept = nucleus_sorted((double)p->top_p, h, n);
    } else if (p->top_p < 1.0f) {
        *kept = nucleus((double)p->top_p, h, &n, w);
    }
    return h + (n - *kept);
}

/* --- the draw --- */
static uint64_t mix(uint64_t z) {
    return qn_random_next(&z);
}

/* In [0, 1), 53 bits, a function of (seed, choice, position). */
static double uniform(uint64_t seed, uint32_t choice, uint32_t position) {
    uint64_t z = mix(mix(seed) ^ (((uint64_t)choice << 32) | position));
    return (double)(mix(z) >> 11) * 0x1p-53;
}

static int32_t draw(const struct qn_sampling *p, const struct candidate *c, uint32_t n, double u, float *w) {
    weights(c, n, p->temperature, p->min_p, w);
    double target = u * sum_of(w, n), sum = 0;
    int32_t last = c[0].id;
    for (uint32_t i = 0; i < n; i++) {
        sum += (double)w[i];
        if (w[i] > 0) last = c[i].id;
        if (sum > target) return c[i].id;
    }
    return last; /* rounding: target reached the very end */
}

static bool allowed(const uint64_t *mask, uint32_t id) {
    return mask[id >> 6] >> (id & 63) & 1;
}

/* The likeliest of those that are allowed. */
static uint32_t allowed_argmax(float *logits, uint32_t n, const uint64_t *mask) {
    for (uint32_t w = 0; w < n; w += 64) {
        uint32_t end = n - w < 64 ? n - w : 64;
        if (mask[w >> 6] == UINT64_MAX) continue;
        for (uint32_t i = 0; i < end; i++)
            if (!(mask[w >> 6] >> i & 1)) logits[w + i] = -INFINITY;
    }
    uint32_t best = qn_argmax(logits, n);
    for (uint32_t i = 0; i < n && !allowed(mask, best); i++) best = i; /* none has a finite logit */
    return best;
}

void qn_sample(const struct qn_sampling *p, const struct qn_sample_input *in, struct qn_sampled *out) {
    memset(out, 0, sizeof *out);
    struct candidate *c = in->work;
    uint32_t *count = (uint32_t *)(void *)(c + in->vocab), n = in->vocab, kept = n;
    double lse = 0;
    bool logs = p->logprobs || p->top_logprobs > 0;
    if (logs) {
        lse = log_sum(in->logits, n);
        top_of(in->logits, n, p->top_logprobs, lse, out);
        /* The raw row is needed again for the token that is not yet known. */
        for (uint32_t i = 0; i < n; i++) c[i].logit = in->logits[i];
    }
    if (!(p->temperature > 0)) {
        penalise(p, in, count);
        out->id = (int32_t)(in->mask ? allowed_argmax(in->logits, n, in->mask) : qn_argmax(in->logits, n));
        if (logs) out->logprob = log_prob(c[out->id].logit, lse);
        return;
    }
    penalise(p, in, count);
    float *raw = in->logits; /* after this loop logits hold the raw row when it is wanted */
    uint32_t m = 0;          /* candidates; none is written before its place was read */
    for (uint32_t i = 0; i < n; i++) {
        float x = clean(in->logits[i]);
        if (logs) raw[i] = c[i].logit;
        if (!in->mask || allowed(in->mask, i)) c[m++] = (struct candidate){x, (int32_t)i};
    }
    float *w = (float *)(void *)count; /* the penalties are done */
    const struct candidate *from = cut(p, c, m, w, &kept);
    out->id = draw(p, from, kept, uniform(p->seed, in->choice, in->position), w);
    if (logs) out->logprob = log_prob(raw[out->id], lse);
}
