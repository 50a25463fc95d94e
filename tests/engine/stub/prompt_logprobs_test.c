/* Log-probabilities of a prompt's own tokens while it is run for generation: against the fake model's
 * definition, in any chunks, with and without new tokens, for several choices, with the prefix in the cache,
 * through preemption; and where tokens stand in the text of a completion. */
#include <jansson.h>
#include <math.h>

#include "tests/engine/kit.h"
#include "tests/stub/stub_model.h"

static void start(struct kit *k, uint32_t blocks, struct qn_engine_options opt) {
    struct qn_model *m = qn_stub_open("stub", 1024, blocks, true);
    assert_non_null(m);
    qn_stub.step_us = 0;
    qn_stub.ascii = true;
    qn_stub.eog_percent = 0;
    kit_start(k, &m, 1, opt);
}

static struct qn_api_infer request(const char *text, uint32_t max_tokens, uint32_t n) {
    struct qn_api_infer r = kit_text(text, max_tokens);
    r.logprobs_given = r.prompt_logprobs = true;
    r.logprobs = 3;
    r.n = n;
    return r;
}

static void check(const struct qn_job *j) {
    uint32_t choices = j->n_outputs / j->req.n_seqs;
    assert_int_equal(j->error, QN_API_OK);
    for (uint32_t i = 0; i < j->n_outputs; i++) {
        const struct qn_output *o = &j->outputs[i];
        assert_int_equal(o->n_tokens, j->req.max_tokens);
        assert_int_equal(o->n_logprobs, o->n_tokens);
        assert_int_equal(o->n_prompt_logprobs, i % choices ? 0 : o->n_prompt - 1);
        assert_int_equal(o->finish, QN_FINISH_LENGTH);
        for (uint32_t k = 0; k < o->n_prompt_logprobs; k++) {
            const struct qn_sampled *s = &o->prompt_logprobs[k];
            assert_int_equal(s->id, o->prompt[k + 1]);
            assert_int_equal(s->n_top, 3);
            assert_true(fabs((double)s->logprob - qn_stub_logprob(o->prompt, k + 1, s->id)) < 1e-4);
        }
    }
}

static const char text[] =
    "a prompt that is longer than a few of the chunks in which it will be run, and than a block";

static void in_any_chunks(void **state) {
    static const uint32_t chunks[] = {1, 3, 16, 17, 512};
    (void)state;
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++)
        for (uint32_t max = 0; max < 3; max++) {
            struct kit k;
            struct kit_call c;
            start(&k, 256, (struct qn_engine_options){.step_tokens = chunks[i], .prefill_chunk = chunks[i]});
            kit_run(&k, &c, request(text, max, 1));
            check(c.job);
            kit_free(&c);
            kit_stop(&k);
        }
}

/* The cache has the prefix after the first run; the second one reports all the same, and the same. */
static void with_a_warm_cache(void **state) {
    struct kit k;
    struct kit_call c[2], other;
    (void)state;
    start(&k, 256, (struct qn_engine_options){0});
    for (int i = 0; i < 2; i++) {
        kit_run(&k, &c[i], request(text, 4, 2));
        check(c[i].job);
        assert_int_equal(c[i].job->outputs[0].cached_tokens, 0);
    }
    kit_run(&k, &other, kit_text(text, 4));
    assert_true(other.job->outputs[0].cached_tokens >= 48);
    for (uint32_t t = 0; t < 4; t++)
        assert_int_equal(other.job->outputs[0].tokens[t], c[1].job->outputs[0].tokens[t]);
    kit_free(&other);
    kit_free(&c[0]);
    kit_free(&c[1]);
    kit_stop(&k);
}

static void batches_and_choices(void **state) {
    struct kit k;
    struct kit_call c;
    struct qn_api_infer r = request("one", 5, 3);
    (void)state;
    kit_add_seq(&r, text, NULL, sizeof text - 1);
    kit_add_seq(&r, NULL, (const int32_t[]){65}, 1);
    r.temperature = 1;
    start(&k, 256, (struct qn_engine_options){.step_tokens = 32, .prefill_chunk = 7, .max_running = 4});
    kit_run(&k, &c, r);
    check(c.job);
    kit_free(&c);
    r = request(text, 0, 2); /* nothing to fork: each choice runs by itself */
    kit_run(&k, &c, r);
    check(c.job);
    kit_free(&c);
    kit_stop(&k);
}

static void through_preemption(void **state) {
    struct kit k;
    struct kit_call c[6];
    unsigned long least = 0;
    (void)state;
    start(&k, 24, (struct qn_engine_options){.reserve_tokens = 8, .step_tokens = 16, .prefill_chunk = 5});
    qn_stub.rows = 0;
    for (int i = 0; i < 6; i++) assert_int_equal(kit_submit(&k, &c[i], request(text + i, 100, 1), 0), 0);
    for (int i = 0; i < 6; i++) {
        kit_wait(&k, &c[i]);
        check(c[i].job);
        least += c[i].job->outputs[0].n_prompt + 99;
        kit_free(&c[i]);
    }
    assert_true(qn_stub.rows > least); /* something was run again */
    kit_stop(&k);
}

/* Older sequences grow while the prompt is read a token at a time: it gives way in its midst and starts
 * again. */
static void preempted_in_its_midst(void **state) {
    struct kit k;
    struct kit_call c[3];
    char prompt[251];
    (void)state;
    for (size_t i = 0; i < sizeof prompt - 1; i++) prompt[i] = text[i % (sizeof text - 1)];
    prompt[sizeof prompt - 1] = '\0';
    start(&k, 24, (struct qn_engine_options){.reserve_tokens = 2, .step_tokens = 3, .prefill_chunk = 1});
    qn_stub.rows = 0;
    for (int i = 0; i < 2; i++) assert_int_equal(kit_submit(&k, &c[i], request(text + 80 + i, 120, 1), 0), 0);
    assert_int_equal(kit_submit(&k, &c[2], request(prompt, 1, 1), 0), 0);
    for (int i = 0; i < 3; i++) {
        kit_wait(&k, &c[i]);
        check(c[i].job);
    }
    assert_true(qn_stub.rows >
                c[0].job->outputs[0].n_prompt + c[1].job->outputs[0].n_prompt + 2 * 119 + 250 + 20);
    for (int i = 0; i < 3; i++) kit_free(&c[i]);
    kit_stop(&k);
}

/* ---- the completion that shows them ---- */
static json_t *reply_of(struct kit_call *c, bool echo) {
    struct qn_buf b = {0};
    c->job->style = (struct qn_job_style){.form = QN_FORM_COMPLETION, .echo = echo};
    qn_job_write_reply(c->job, &b);
    assert_false(b.failed);
    json_t *v = json_loadb(b.p, b.n, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(v);
    qn_buf_free(&b);
    return v;
}

static size_t characters(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((unsigned char)s[i] & 0xC0) != 0x80;
    return count;
}

/* Offsets of single-byte tokens: characters before them, whatever they are part of. */
static void offsets(void **state) {
    static const char prompt[] = "h\xC3\xA9llo \xE2\x82\xAC"; /* héllo € */
    struct kit k;
    struct kit_call c;
    (void)state;
    start(&k, 256, (struct qn_engine_options){0});
    for (int echo = 0; echo < 2; echo++) {
        kit_run(&k, &c, request(prompt, 6, 2));
        json_t *v = reply_of(&c, echo);
        for (uint32_t i = 0; i < 2; i++) {
            const struct qn_output *o = &c.job->outputs[i];
            json_t *choice = json_array_get(json_object_get(v, "choices"), i);
            json_t *lp = json_object_get(choice, "logprobs"), *at = json_object_get(lp, "text_offset");
            const char *shown = json_string_value(json_object_get(choice, "text"));
            size_t n = echo ? sizeof prompt - 1 : 0, all = n + 6;
            assert_int_equal(strncmp(shown, prompt, n), 0);
            assert_memory_equal(shown + n, o->text.p, o->text.n);
            assert_int_equal(json_array_size(at), all);
            assert_int_equal(json_array_size(json_object_get(lp, "tokens")), all);
            assert_int_equal(json_array_size(json_object_get(lp, "top_logprobs")), all);
            for (size_t t = 0; t < all; t++) {
                assert_int_equal(json_integer_value(json_array_get(at, t)), characters(shown, t));
                json_t *p = json_array_get(json_object_get(lp, "token_logprobs"), t);
                assert_true(echo && !t ? json_is_null(p) : json_is_number(p));
            }
        }
        json_decref(v);
        kit_free(&c);
    }
    kit_stop(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_any_chunks),       cmocka_unit_test(with_a_warm_cache),
        cmocka_unit_test(batches_and_choices), cmocka_unit_test(preempted_in_its_midst),
        cmocka_unit_test(through_preemption),  cmocka_unit_test(offsets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
