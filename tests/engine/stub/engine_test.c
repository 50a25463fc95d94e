/* The engine on the fake model: every answer against the fake's own definition, every way a job can end, and
 * the state pool empty after each test. */
#include <math.h>

#include "tests/engine/kit.h"
#include "tests/stub/stub_model.h"

static void reset_knobs(void) {
    qn_stub.step_us = 0;
    qn_stub.row_us = 0;
    qn_stub.fail_steps = 0;
    qn_stub.fail_prepare = 0;
    qn_stub.eog_percent = 0;
    qn_stub.ascii = true;
    qn_stub.max_rows = 0;
    qn_stub.steps = 0;
    qn_stub.rows = 0;
}

static void start(struct kit *k, uint32_t context, uint32_t blocks, struct qn_engine_options opt) {
    struct qn_model *m = qn_stub_open("stub", context, blocks, true);
    assert_non_null(m);
    reset_knobs();
    kit_start(k, &m, 1, opt);
}

/* What greedy generation gives, from the fake's definition. */
static uint32_t oracle(const char *prompt, uint32_t max, int32_t *out) {
    int32_t t[4096];
    uint32_t n = 0, made = 0;
    for (; prompt[n]; n++) t[n] = (unsigned char)prompt[n];
    while (made < max) {
        t[n] = qn_stub_next(t, n);
        out[made++] = t[n];
        if (t[n++] == QN_STUB_EOG) break;
    }
    return made;
}

static void check_tokens(const struct qn_output *o, const char *prompt, uint32_t max) {
    int32_t want[4096];
    uint32_t n = oracle(prompt, max, want);
    assert_int_equal(o->n_tokens, n);
    assert_memory_equal(o->tokens, want, n * sizeof *want);
}

static void generate(void **state) {
    struct kit k;
    struct kit_call c;
    struct qn_buf reply = {0};
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){0});
    qn_stub.step_us = 300;
    kit_run(&k, &c, kit_text("hello world", 40));
    const struct qn_output *o = &c.job->outputs[0];
    assert_int_equal(c.job->error, QN_API_OK);
    check_tokens(o, "hello world", 40);
    assert_int_equal(o->finish, QN_FINISH_LENGTH);
    assert_int_equal(o->text.n, 40);
    assert_int_equal(c.events[0], 0); /* events are for streams */
    qn_job_write_reply(c.job, &reply);
    assert_false(reply.failed);
    assert_non_null(strstr(reply.p, "\"finish_reason\":\"length\""));
    const struct qn_api_timings *t = qn_job_timings(c.job);
    kit_check_sum(t);
    kit_check_sum(&o->timings);
    assert_int_equal(t->steps, 40); /* one prefill, 39 decode rows */
    assert_true(t->ttft >= t->prefill && t->ttft <= t->total);
    assert_true(t->prefill >= 0.3 && t->decode >= 39 * 0.3);
    assert_true(t->compute <= t->total && t->compute >= 40 * 0.3);
    assert_true(t->prefill_tps > 0 && t->decode_tps > 0);
    assert_true(fabs(t->mean_batch - 1) < 1e-9);
    /* peak: what admission reserved, 11 + 40 tokens in blocks of 16 */
    assert_int_equal(o->bytes.peak, 4 * 1024);
    assert_true(c.job->cost.flops > 50 * 2e6 && c.job->cost.gflops > 0);
    qn_buf_free(&reply);
    kit_free(&c);
    kit_stop(&k);
}

static void stream(void **state) {
    struct kit k;
    struct kit_call c;
    struct qn_api_infer r = kit_text("stream me", 50);
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){0});
    qn_stub.ascii = false; /* any bytes: invalid UTF-8, characters over several tokens */
    r.stream = true;
    kit_run(&k, &c, r);
    const struct qn_output *o = &c.job->outputs[0];
    check_tokens(o, "stream me", 50);
    assert_int_equal(c.events[0], 50);
    assert_int_equal(c.stream[0].n, o->text.n);
    assert_memory_equal(c.stream[0].p, o->text.p, o->text.n);
    kit_free(&c);
    kit_stop(&k);
}

static void stops(void **state) {
    struct kit k;
    struct kit_call full, c;
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){0});
    kit_run(&k, &full, kit_text("stop here", 60));
    const struct qn_buf *text = &full.job->outputs[0].text;
    char stop[5] = {0};
    memcpy(stop, text->p + 30, 4);
    size_t at = (size_t)(strstr(text->p, stop) - text->p);
    struct qn_api_infer r = kit_text("stop here", 60);
    r.stream = true;
    kit_add_stop(&r, "never there");
    kit_add_stop(&r, stop);
    kit_run(&k, &c, r);
    const struct qn_output *o = &c.job->outputs[0];
    assert_int_equal(o->finish, QN_FINISH_STOP);
    assert_int_equal(o->text.n, at);
    assert_memory_equal(o->text.p, text->p, at);
    assert_int_equal(o->n_tokens, at + 4); /* ended in the step that completed it */
    assert_int_equal(c.stream[0].n, at);
    kit_free(&c);
    kit_free(&full);
    kit_stop(&k);
}

static void end_tokens(void **state) {
    struct kit k;
    struct kit_call c;
    struct qn_api_infer r = kit_text("until the end", 500);
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){0});
    qn_stub.eog_percent = 10;
    kit_run(&k, &c, kit_text("until the end", 500));
    const struct qn_output *o = &c.job->outputs[0];
    check_tokens(o, "until the end", 500);
    assert_int_equal(o->finish, QN_FINISH_STOP);
    assert_int_equal(o->tokens[o->n_tokens - 1], QN_STUB_EOG);
    assert_int_equal(o->text.n, o->n_tokens - 1);
    kit_free(&c);
    r.ignore_eos = true;
    kit_run(&k, &c, r);
    assert_int_equal(c.job->outputs[0].n_tokens, 500);
    assert_int_equal(c.job->outputs[0].finish, QN_FINISH_LENGTH);
    kit_free(&c);
    kit_stop(&k);
}

static void edges(void **state) {
    struct kit k;
    struct kit_call c;
    char long_prompt[65] = {0};
    (void)state;
    start(&k, 64, 256, (struct qn_engine_options){0});
    kit_run(&k, &c, kit_text("prompt only", 0)); /* runs the prompt, generates nothing */
    assert_int_equal(c.job->outputs[0].finish, QN_FINISH_LENGTH);
    assert_int_equal(c.job->outputs[0].n_tokens, 0);
    assert_int_equal(c.job->outputs[0].timings.steps, 1);
    kit_free(&c);
    memset(long_prompt, 'x', 60);
    kit_run(&k, &c, kit_text(long_prompt, 500)); /* clipped by the context */
    assert_int_equal(c.job->outputs[0].finish, QN_FINISH_LENGTH);
    assert_int_equal(c.job->outputs[0].n_tokens, 4);
    kit_free(&c);
    memset(long_prompt, 'x', 64);
    assert_int_equal(kit_make(&k, &c, kit_text(long_prompt, 1), 0), -1);
    assert_int_equal(c.err.code, QN_API_CONTEXT);
    assert_string_equal(c.err.param, "sequence");
    struct qn_api_infer r = kit_text(long_prompt, 0);
    kit_run(&k, &c, r); /* it fits as long as nothing is generated */
    kit_free(&c);
    /* the whole prompt in the cache: something is left to run, and the answer is the same */
    memset(long_prompt + 32, 0, 33);
    kit_run(&k, &c, kit_text(long_prompt, 8));
    assert_int_equal(c.job->outputs[0].cached_tokens, 16);
    check_tokens(&c.job->outputs[0], long_prompt, 8);
    kit_free(&c);
    kit_stop(&k);
}

static void refused(void **state) {
    struct kit k;
    struct kit_call c;
    int32_t ids[2] = {1, QN_STUB_VOCAB};
    struct qn_api_infer r = kit_request();
    (void)state;
    start(&k, 1024, 4, (struct qn_engine_options){0});
    kit_add_seq(&r, NULL, ids, 2);
    assert_int_equal(kit_make(&k, &c, r, 0), -1);
    assert_int_equal(c.err.code, QN_API_INVALID);
    r = kit_text("x", 1);
    snprintf(r.model, sizeof r.model, "other");
    assert_int_equal(kit_make(&k, &c, r, 0), -1);
    assert_int_equal(c.err.code, QN_API_MODEL_NOT_FOUND);
    r = kit_text("x", 1);
    snprintf(r.attention.type, sizeof r.attention.type, "mqa");
    assert_int_equal(kit_make(&k, &c, r, 0), -1);
    assert_int_equal(c.err.code, QN_API_UNSUPPORTED);
    assert_string_equal(c.err.param, "convert");
    assert_int_equal(kit_make(&k, &c, kit_text("", 1), 0), -1);
    assert_int_equal(c.err.code, QN_API_INVALID);
    /* never fits: 4 blocks of 16 */
    assert_int_equal(kit_submit(&k, &c, kit_text("x", 80), 0), -1);
    assert_int_equal(c.err.code, QN_API_TOO_LARGE_WORK);
    kit_free(&c);
    kit_run(&k, &c, kit_text("x", 63)); /* exactly fits */
    assert_int_equal(c.job->error, QN_API_OK);
    kit_free(&c);
    kit_stop(&k);
}

static void score(void **state) {
    struct kit k;
    struct kit_call c;
    const char *text = "to be or not to be";
    int32_t ids[32];
    double want = 0;
    uint32_t n = (uint32_t)strlen(text);
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){.prefill_chunk = 5, .step_tokens = 7, .max_running = 2});
    for (uint32_t i = 0; i < n; i++) ids[i] = (unsigned char)text[i];
    for (uint32_t i = 1; i < n; i++) want += qn_stub_logprob(ids, i, ids[i]);
    for (int twice = 0; twice < 2; twice++) { /* also with its blocks in the cache */
        struct qn_api_infer r = kit_text(text, 0);
        r.task = QN_TASK_SCORE;
        r.logprobs_given = true;
        r.logprobs = 2;
        kit_run(&k, &c, r);
        const struct qn_output *o = &c.job->outputs[0];
        assert_int_equal(o->finish, QN_FINISH_COMPLETE);
        assert_int_equal(o->scored_tokens, n - 1);
        assert_int_equal(o->scored_bytes, n - 1);
        assert_true(o->log_prob == want);
        assert_int_equal(o->n_logprobs, n - 1);
        for (uint32_t i = 0; i + 1 < n; i++) assert_int_equal(o->logprobs[i].id, ids[i + 1]);
        assert_int_equal(o->logprobs[3].n_top, 2);
        assert_true(o->timings.ttft < 0);
        assert_true(c.job->timings.decode <= 0);
        kit_free(&c);
    }
    struct qn_api_infer r = kit_text("x", 0); /* nothing to score */
    r.task = QN_TASK_SCORE;
    kit_run(&k, &c, r);
    assert_int_equal(c.job->error, QN_API_OK);
    assert_int_equal(c.job->outputs[0].scored_tokens, 0);
    kit_free(&c);
    kit_stop(&k);
}

static void embed(void **state) {
    struct kit k;
    struct kit_call a, b;
    struct qn_api_infer r = kit_text("some text to embed", 0);
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){.prefill_chunk = 4, .step_tokens = 4, .max_running = 4});
    r.task = QN_TASK_EMBED;
    kit_add_seq(&r, "another", NULL, 7);
    kit_run(&k, &a, r);
    r = kit_text("another", 0);
    r.task = QN_TASK_EMBED;
    kit_run(&k, &b, r);
    assert_int_equal(a.job->outputs[0].finish, QN_FINISH_COMPLETE);
    assert_memory_equal(a.job->outputs[1].embedding, b.job->outputs[0].embedding, 8 * sizeof(float));
    assert_true(a.job->outputs[0].embedding[0] > 0 && a.job->outputs[0].embedding[0] < 1);
    assert_int_equal(qn_model_state(k.models.models[0]).cached, 0); /* never feeds the prefix cache */
    kit_free(&a);
    kit_free(&b);
    kit_stop(&k);
}

/* Choices by fork, by separate runs (one slot), and under memory pressure: the same tokens. */
static void choices(void **state) {
    const struct qn_engine_options opts[] = {
        {.max_running = 8}, {.max_running = 1}, {.max_running = 3, .reserve_tokens = 1}};
    const uint32_t blocks[] = {256, 256, 9};
    int32_t first[4][60];
    (void)state;
    for (uint32_t v = 0; v < 3; v++) {
        struct kit k;
        struct kit_call c;
        start(&k, 1024, blocks[v], opts[v]);
        struct qn_api_infer r = kit_text("a prompt of more than a block", 60);
        r.n = 4;
        r.temperature = 1;
        r.stream = true;
        kit_run(&k, &c, r);
        assert_int_equal(c.job->error, QN_API_OK);
        kit_reply(&c);
        for (uint32_t i = 0; i < 4; i++) {
            const struct qn_output *o = &c.job->outputs[i];
            assert_int_equal(o->n_tokens, 60);
            if (!v)
                memcpy(first[i], o->tokens, sizeof first[i]);
            else
                assert_memory_equal(o->tokens, first[i], sizeof first[i]);
            assert_int_equal(c.stream[i].n, o->text.n);
            kit_check_sum(&o->timings);
        }
        assert_memory_not_equal(first[0], first[1], sizeof first[0]);
        if (!v) assert_true(c.job->outputs[1].bytes.peak_shared > 0);
        kit_free(&c);
        kit_stop(&k);
    }
}

static void deadlines(void **state) {
    struct kit k;
    struct kit_call a, b;
    struct qn_api_infer r = kit_text("running out of time", 900);
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){.max_running = 1});
    qn_stub.step_us = 2000;
    r.timeout_ms = 60;
    r.stream = true;
    assert_int_equal(kit_submit(&k, &a, r, 0), 0);
    r = kit_text("queued", 5);
    r.timeout_ms = 20;
    assert_int_equal(kit_submit(&k, &b, r, 0), 0);
    kit_wait(&k, &b);
    assert_int_equal(b.job->error, QN_API_TIMEOUT);
    assert_false(a.done);
    kit_wait(&k, &a);
    assert_int_equal(a.job->error, QN_API_OK);
    assert_int_equal(a.job->outputs[0].finish, QN_FINISH_TIMEOUT);
    assert_true(a.job->outputs[0].n_tokens > 0);
    assert_int_equal(a.stream[0].n, a.job->outputs[0].text.n);
    kit_free(&a);
    kit_free(&b);
    kit_stop(&k);
}

static void cancels(void **state) {
    struct kit k;
    struct kit_call c[3];
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){.max_running = 2});
    qn_stub.step_us = 1000;
    for (int i = 0; i < 3; i++) assert_int_equal(kit_submit(&k, &c[i], kit_text("cancel me", 900), 0), 0);
    while (qn_engine_stats(k.engine).running < 2) kit_pump(&k, 1);
    assert_int_equal(qn_engine_stats(k.engine).queued, 1);
    for (int i = 2; i >= 0; i--) qn_engine_cancel(k.engine, c[i].job);
    for (int i = 0; i < 3; i++) {
        kit_wait(&k, &c[i]);
        assert_int_equal(c[i].job->outputs[0].finish, QN_FINISH_CANCELLED);
        assert_true(c[i].job->outputs[0].n_tokens < 100);
        kit_free(&c[i]);
    }
    assert_int_equal(qn_engine_stats(k.engine).running, 0);
    assert_int_equal(qn_model_state(k.models.models[0]).used, 0);
    kit_stop(&k);
}

static void failures(void **state) {
    struct kit k;
    struct kit_call c;
    struct qn_api_infer r;
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){0});
    qn_stub.fail_steps = 1;
    kit_run(&k, &c, kit_text("fails", 10));
    assert_int_equal(c.job->error, QN_API_INTERNAL);
    kit_free(&c);
    kit_run(&k, &c, kit_text("works", 10));
    check_tokens(&c.job->outputs[0], "works", 10);
    kit_free(&c);
    qn_stub.fail_prepare = 1;
    kit_run(&k, &c, kit_text("no weights", 10));
    assert_int_equal(c.job->error, QN_API_OUT_OF_MEMORY);
    kit_free(&c);
    r = kit_text("converted", 10);
    snprintf(r.attention.type, sizeof r.attention.type, "mha");
    kit_run(&k, &c, r);
    assert_int_equal(c.job->error, QN_API_OK);
    assert_true(c.job->timings.convert >= 2);
    kit_free(&c);
    kit_stop(&k);
}

static void bounded_queue(void **state) {
    struct kit k;
    struct kit_call c[8], over;
    (void)state;
    start(&k, 1024, 256,
          (struct qn_engine_options){.max_running = 1, .max_queue_requests = 3, .max_queue_tokens = 20});
    qn_stub.step_us = 1000;
    assert_int_equal(kit_submit(&k, &c[0], kit_text("12345", 900), 0), 0);
    while (!qn_engine_stats(k.engine).running) kit_pump(&k, 1);
    for (int i = 1; i < 4; i++) assert_int_equal(kit_submit(&k, &c[i], kit_text("12345", 3), 0), 0);
    assert_int_equal(kit_submit(&k, &over, kit_text("1", 3), 0), -1);
    assert_int_equal(over.err.code, QN_API_QUEUE_FULL);
    assert_in_range(over.retry_after, 1, 30);
    kit_free(&over);
    assert_int_equal(kit_submit(&k, &over, kit_text("123456789012345678901", 3), 0), -1);
    assert_int_equal(over.err.code, QN_API_TOO_LARGE_WORK);
    kit_free(&over);
    qn_engine_cancel(k.engine, c[0].job);
    for (int i = 0; i < 4; i++) {
        kit_wait(&k, &c[i]);
        kit_free(&c[i]);
    }
    assert_int_equal(qn_engine_stats(k.engine).queued, 0);
    assert_int_equal(qn_engine_stats(k.engine).queued_tokens, 0);
    qn_engine_drain(k.engine);
    assert_int_equal(kit_submit(&k, &over, kit_text("1", 3), 0), -1);
    assert_int_equal(over.err.code, QN_API_DRAINING);
    kit_free(&over);
    kit_stop(&k);
}

/* A pool that can't hold all of them at their longest: the newest give way and come back, same tokens. */
static void preemption(void **state) {
    struct kit k;
    struct kit_call c[6];
    const char *prompts[6] = {"one", "two", "three", "four", "five", "six"};
    unsigned long least = 0;
    (void)state;
    start(&k, 1024, 16, (struct qn_engine_options){.reserve_tokens = 8});
    for (int i = 0; i < 6; i++) assert_int_equal(kit_submit(&k, &c[i], kit_text(prompts[i], 100), 0), 0);
    for (int i = 0; i < 6; i++) {
        kit_wait(&k, &c[i]);
        assert_int_equal(c[i].job->error, QN_API_OK);
        check_tokens(&c[i].job->outputs[0], prompts[i], 100);
        least += strlen(prompts[i]) + 99;
        kit_reply(&c[i]);
        kit_check_sum(&c[i].job->outputs[0].timings);
        kit_free(&c[i]);
    }
    assert_true(qn_stub.rows > least); /* something was run again */
    kit_stop(&k);
}

/* Two models: who waits for memory of one pool holds up nobody of the other. */
static void pools_apart(void **state) {
    struct kit k;
    struct kit_call c[3];
    struct qn_model *m[2] = {qn_stub_open("small", 1024, 8, true), qn_stub_open("large", 1024, 64, true)};
    (void)state;
    assert_true(m[0] && m[1]);
    reset_knobs();
    qn_stub.step_us = 1000;
    kit_start(&k, m, 2, (struct qn_engine_options){0});
    for (int i = 0; i < 3; i++) {
        struct qn_api_infer r = kit_text("hello", i < 2 ? 100 : 5);
        snprintf(r.model, sizeof r.model, "%s", i < 2 ? "small" : "large");
        assert_int_equal(kit_submit(&k, &c[i], r, 0), 0);
    }
    kit_wait(&k, &c[2]);
    assert_false(c[0].done || c[1].done);
    for (int i = 0; i < 3; i++) {
        kit_wait(&k, &c[i]);
        check_tokens(&c[i].job->outputs[0], "hello", i < 2 ? 100 : 5);
        kit_free(&c[i]);
    }
    kit_stop(&k);
}

static void slow_reader(void **state) {
    struct kit k;
    struct kit_call c;
    struct qn_api_infer r = kit_text("slow reader", 500);
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){.stream_high_water = 100, .stall_timeout_ms = 60});
    qn_stub.step_us = 500;
    r.stream = true;
    assert_int_equal(kit_submit(&k, &c, r, 0), 0);
    while (!c.events[0]) kit_pump(&k, 10);
    atomic_store(&c.job->pending, 101);
    while (!qn_engine_stats(k.engine).paused) kit_pump(&k, 1);
    kit_take(&k);
    uint32_t held = c.events[0];
    kit_pump(&k, 10);
    assert_true(c.events[0] <= held + 1);
    atomic_store(&c.job->pending, 0);
    qn_engine_nudge(k.engine);
    while (c.events[0] < held + 20) kit_pump(&k, 10);
    atomic_store(&c.job->pending, 101); /* and now for good */
    kit_wait(&k, &c);
    assert_int_equal(c.job->outputs[0].finish, QN_FINISH_CANCELLED);
    kit_free(&c);
    kit_stop(&k);
}

/* Slow readers fill every place, or all of the state: others are served, and the readers get all of their
 * text once they read on. */
static void paused_gives_way(uint32_t max_running, uint32_t blocks) {
    struct kit k;
    struct kit_call c[3];
    const char *prompts[3] = {"slow reader", "another slow one", "quick"};
    start(&k, 1024, blocks, (struct qn_engine_options){.stream_high_water = 100, .max_running = max_running});
    qn_stub.step_us = 500;
    for (int i = 0; i < 2; i++) {
        struct qn_api_infer r = kit_text(prompts[i], 80);
        r.stream = true;
        assert_int_equal(kit_submit(&k, &c[i], r, 0), 0);
        while (!c[i].events[0]) kit_pump(&k, 10);
        atomic_store(&c[i].job->pending, 101);
    }
    while (qn_engine_stats(k.engine).paused < 2) kit_pump(&k, 1);
    kit_run(&k, &c[2], kit_text(prompts[2], 80));
    assert_int_equal(qn_engine_stats(k.engine).paused, 2);
    for (int i = 0; i < 2; i++) atomic_store(&c[i].job->pending, 0);
    qn_engine_nudge(k.engine);
    for (int i = 0; i < 3; i++) {
        kit_wait(&k, &c[i]);
        assert_int_equal(c[i].job->outputs[0].finish, QN_FINISH_LENGTH);
        check_tokens(&c[i].job->outputs[0], prompts[i], 80);
        if (i < 2) assert_int_equal(c[i].stream[0].n, c[i].job->outputs[0].text.n);
        kit_free(&c[i]);
    }
    kit_stop(&k);
}

static void slow_readers_give_way(void **state) {
    (void)state;
    paused_gives_way(2, 256); /* no place */
    paused_gives_way(8, 13);  /* no state: 6 blocks each */
}

static void stop_with_work(void **state) {
    struct kit k;
    struct kit_call c[4];
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){.max_running = 2});
    qn_stub.step_us = 1000;
    for (int i = 0; i < 4; i++) assert_int_equal(kit_submit(&k, &c[i], kit_text("left over", 900), 0), 0);
    while (qn_engine_stats(k.engine).running < 2) kit_pump(&k, 1);
    qn_engine_stop(k.engine);
    kit_take(&k);
    for (int i = 0; i < 4; i++) {
        assert_true(c[i].done);
        assert_int_equal(c[i].job->error, i < 2 ? QN_API_OK : QN_API_DRAINING);
        kit_free(&c[i]);
    }
    kit_stop(&k);
}

/* Two structures and two kinds of arithmetic side by side: groups alternate, nobody starves. */
static void groups(void **state) {
    struct kit k;
    struct kit_call a, b, c;
    struct qn_api_infer r = kit_text("mha", 200);
    (void)state;
    start(&k, 4096, 1024, (struct qn_engine_options){.prefill_chunk = 16, .step_tokens = 64});
    qn_stub.step_us = 100;
    snprintf(r.attention.type, sizeof r.attention.type, "mha");
    assert_int_equal(kit_submit(&k, &a, kit_text("gqa", 200), 0), 0);
    assert_int_equal(kit_submit(&k, &b, r, 1), 0);
    char text[2001];
    memset(text, 'e', 2000);
    text[2000] = 0;
    r = kit_text(text, 0);
    r.task = QN_TASK_EMBED;
    assert_int_equal(kit_submit(&k, &c, r, 2), 0);
    kit_wait(&k, &a);
    kit_wait(&k, &b);
    kit_wait(&k, &c);
    check_tokens(&a.job->outputs[0], "gqa", 200);
    check_tokens(&b.job->outputs[0], "mha", 200);
    assert_int_equal(c.job->outputs[0].finish, QN_FINISH_COMPLETE);
    kit_free(&a);
    kit_free(&b);
    kit_free(&c);
    kit_stop(&k);
}

/* Sequences that share a step share the weights that it reads once: what they are charged is what one step of
 * all their rows costs, in whatever portions. */
static void shares_add_up(void **state) {
    struct kit k;
    struct kit_call c;
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){.step_tokens = 512});
    struct qn_api_infer r = kit_text("the first sequence", 0);
    r.task = QN_TASK_SCORE;
    double states = 17 * 64.0;
    uint32_t rows = 17;
    for (uint32_t i = 0; i < 5; i++) {
        static const char text[] = "one of the others, each of them longer";
        kit_add_seq(&r, text, NULL, 5 + 7 * i);
        rows += 4 + 7 * i;
        states += (4 + 7 * i) * 64.0;
    }
    kit_run(&k, &c, r);
    assert_int_equal(c.job->error, QN_API_OK);
    assert_int_equal(c.job->timings.steps, 6); /* one for each of the six */
    assert_true(fabs(c.job->timings.mean_batch - 6) < 1e-9);
    struct qn_step_weights w = qn_variant_step_weights(c.job->variant, rows);
    assert_true(fabs(c.job->cost.bytes - (w.body + w.head + states)) < 1.0);
    kit_free(&c);
    kit_stop(&k);
}

/* What goes on with admitted work was let in already, however many tokens it has by now. */
static void seated(void **state) {
    struct kit k;
    struct kit_call c;
    (void)state;
    start(&k, 1024, 256, (struct qn_engine_options){.max_queue_tokens = 10});
    assert_int_equal(kit_make(&k, &c, kit_text("eleven long", 4), 0), 0);
    assert_int_equal(qn_engine_submit(k.engine, c.job, &c.err, NULL), -1);
    assert_int_equal(c.err.code, QN_API_TOO_LARGE_WORK);
    c.job->seated = true;
    assert_int_equal(qn_engine_submit(k.engine, c.job, &c.err, NULL), 0);
    kit_wait(&k, &c);
    assert_int_equal(c.job->error, QN_API_OK);
    kit_free(&c);
    kit_stop(&k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_add_up), cmocka_unit_test(seated),
        cmocka_unit_test(generate),      cmocka_unit_test(stream),
        cmocka_unit_test(stops),         cmocka_unit_test(end_tokens),
        cmocka_unit_test(edges),         cmocka_unit_test(refused),
        cmocka_unit_test(score),         cmocka_unit_test(embed),
        cmocka_unit_test(choices),       cmocka_unit_test(deadlines),
        cmocka_unit_test(cancels),       cmocka_unit_test(failures),
        cmocka_unit_test(bounded_queue), cmocka_unit_test(preemption),
        cmocka_unit_test(slow_reader),   cmocka_unit_test(slow_readers_give_way),
        cmocka_unit_test(pools_apart),   cmocka_unit_test(stop_with_work),
        cmocka_unit_test(groups)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
