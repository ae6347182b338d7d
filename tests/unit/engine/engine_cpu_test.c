/* Goal: on the real CPU backend the same request gives the same tokens and logprobs, bit for bit:
 * alone and in batches of 2, 7 and 16, in prefill chunks of 1, 16, 17 and 512, with and without
 * prefix hits, before and after preemption, with 1 and 2 threads, and on every body of a class.
 * (design.md 8; a small random model, f32a and q8a32.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "engine/engine.h"
#include "model/model.h"

#define VOCAB 512u
#define REQUESTS 16u
#define OUTPUTS 24u
#define PROMPT_MAX 90u

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":128,"
    "\"intermediate_size\":256,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
    "\"num_hidden_layers\":2,\"vocab_size\":512,\"max_position_embeddings\":512,"
    "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"tie_word_embeddings\":false,"
    "\"hidden_act\":\"silu\",\"eos_token_id\":2}";

struct answer {
    uint32_t ids[OUTPUTS], count;
    float logprobs[OUTPUTS];
};

struct setting {
    const char *what;
    uint32_t batch; /* requests that run side by side */
    uint32_t chunk, threads, block_count;
    bool has_cache, runs_twice; /* the second time with prefix hits */
    const char *body;
};

static struct model *open_model(enum tensor_type type) {
    char path[] = "/tmp/engine_cpu_test_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, config, sizeof config - 1), sizeof config - 1);
    close(fd);
    char shape[64];
    snprintf(shape, sizeof shape, "%s.json", path);
    assert_int_equal(rename(path, shape), 0);
    struct model_open_options options = {
        .is_dummy = true, .dummy_seed = 7, .dummy_type = type, .shape = shape};
    struct err_text text = {""};
    struct model *model = NULL;
    if (model_open("test", &options, &text, &model)) fail_msg("%s", text.text);
    unlink(shape);
    return model;
}

static uint32_t prompt_of(uint32_t request, uint32_t *prompt) {
    uint32_t count = 5 + request * 37 % (PROMPT_MAX - 5), state = request;
    for (uint32_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        /* Half of them begin alike. */
        prompt[i] = i < 40 && request % 2 ? (i * 31 + 5) % VOCAB : (state >> 8) % VOCAB;
    }
    return count;
}

static void add(struct engine *engine, uint32_t request) {
    uint32_t prompt[PROMPT_MAX];
    struct sampling s;
    struct err_text text = {""};
    struct engine_choice choice = {.index = 0};
    sampling_init(&s);
    s.temperature = request % 3 ? 1.0f : 0.0f;
    s.top_p = 0.95f;
    s.seed = request;
    s.presence_penalty = request % 4 ? 0.0f : 0.7f;
    s.max_tokens = OUTPUTS;
    s.logprobs = 0;
    s.ignore_eos = true;
    struct engine_request r = {.id = request + 1,
                               .prompt_ids = prompt,
                               .prompt_count = prompt_of(request, prompt),
                               .choices = &choice,
                               .choice_count = 1,
                               .sampling = &s};
    if (engine_add(engine, &r, &text)) fail_msg("%s", text.text);
}

static void run_group(struct engine *engine, uint32_t first, uint32_t count,
                      struct answer *answers) {
    uint64_t now_us = 1;
    for (uint32_t i = 0; i < count; i++) {
        answers[first + i].count = 0;
        add(engine, first + i);
    }
    while (!engine_is_idle(engine)) {
        const struct engine_output *outputs;
        uint32_t output_count;
        assert_int_equal(engine_step(engine, now_us++, &outputs, &output_count), ERR_OK);
        for (uint32_t i = 0; i < output_count; i++) {
            const struct engine_output *o = &outputs[i];
            if (o->token_id == BACKEND_NO_TOKEN) continue;
            struct answer *answer = &answers[o->request_id - 1];
            assert_true(answer->count < OUTPUTS && o->has_logprob);
            answer->logprobs[answer->count] = o->logprob.logprob;
            answer->ids[answer->count++] = o->token_id;
        }
    }
    engine_check(engine);
}

static uint64_t run_setting(struct model *model, const struct setting *setting,
                            struct answer *answers) {
    const struct model_spec *spec = model_get_spec(model);
    const struct backend_ops *ops = &cpu_backend_ops;
    struct backend_options b = {.rank_count = 1,
                                .block_size = 16,
                                .seat_count = REQUESTS,
                                .batched_tokens_max = 512,
                                .model_len_max = 256,
                                .row_tile = 4096,
                                .thread_count = setting->threads,
                                .may_spin = false,
                                .cpu_body = setting->body,
                                .model = model};
    static struct mem_plan plan;
    struct backend *backend;
    struct mem *mem;
    struct engine *engine;
    struct err_text text = {""};
    plan.line_count = 0;
    if (ops->open(spec, &b, &text, &backend)) fail_msg("%s", text.text);
    ops->plan(backend, 0, &plan);
    mem_plan_add(&plan, MEM_KV, setting->block_count * ops->block_bytes(backend, 0), "kv");
    if (mem_create(&plan, UINT64_MAX, &text, &mem)) fail_msg("%s", text.text);
    if (ops->load(backend, model, setting->block_count, &mem, NULL, NULL, &text))
        fail_msg("%s", text.text);
    if (mem_seal(mem, &text)) fail_msg("%s", text.text);
    struct engine_options o = {.block_size = 16,
                               .block_count = setting->block_count,
                               .seat_count = REQUESTS,
                               .batched_tokens_max = 512,
                               .model_len_max = 256,
                               .vocab_size = spec->vocab_size,
                               .queue_requests_max = 100,
                               .queue_prompt_bytes_max = 1 << 20,
                               .is_chunked_prefill = true,
                               .prefill_chunk_max = setting->chunk,
                               .has_prefix_cache = setting->has_cache};
    assert_int_equal(engine_create(&o, backend, &engine), ERR_OK);
    for (uint32_t times = 0; times <= setting->runs_twice; times++)
        for (uint32_t first = 0; first < REQUESTS; first += setting->batch) {
            uint32_t left = REQUESTS - first;
            run_group(engine, first, setting->batch < left ? setting->batch : left, answers);
        }
    struct engine_load load;
    engine_get_load(engine, &load);
    engine_destroy(engine);
    ops->close(backend);
    mem_destroy(mem);
    if (setting->runs_twice) assert_true(load.prefix_hit_tokens > 0);
    return load.preemption_count;
}

static const struct setting settings[] = {
    {"batch of 2", 2, 512, 1, 200, false, false, NULL},
    {"batch of 7", 7, 512, 1, 200, false, false, NULL},
    {"batch of 16", 16, 512, 1, 200, false, false, NULL},
    {"chunks of 1", 16, 1, 1, 200, false, false, NULL},
    {"chunks of 16", 7, 16, 1, 200, false, false, NULL},
    {"chunks of 17", 16, 17, 1, 200, false, false, NULL},
    {"prefix hits", 7, 17, 1, 200, true, true, NULL},
    {"preemption", 16, 512, 1, 16, false, false, NULL},
    {"preemption and hits", 16, 17, 1, 16, true, true, NULL},
    {"two threads", 16, 17, 2, 200, true, false, NULL},
    {"scalar", 7, 512, 1, 200, false, false, "scalar"},
    {"avx2", 16, 512, 1, 200, false, false, "avx2"},
    {"avx512", 16, 512, 1, 200, false, false, "avx512"},
};

static bool has_body(const char *body) {
    if (!body || strcmp(body, "scalar") == 0) return true;
#if defined(__x86_64__)
    if (strcmp(body, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

static void same_everywhere(enum tensor_type type) {
    static struct answer alone[REQUESTS], answers[REQUESTS];
    struct model *model = open_model(type);
    struct setting reference = {"alone", 1, 512, 1, 200, false, false, NULL};
    run_setting(model, &reference, alone);
    bool is_varied = false;
    for (uint32_t r = 0; r < REQUESTS; r++) {
        assert_int_equal(alone[r].count, OUTPUTS);
        for (uint32_t i = 1; i < OUTPUTS; i++) is_varied |= alone[r].ids[i] != alone[r].ids[0];
    }
    assert_true(is_varied); /* a model that says one word would prove nothing */
    for (uint32_t k = 0; k < sizeof settings / sizeof *settings; k++) {
        if (!has_body(settings[k].body)) continue;
        uint64_t preemptions = run_setting(model, &settings[k], answers);
        if (settings[k].block_count < 100) assert_true(preemptions > 0);
        for (uint32_t r = 0; r < REQUESTS; r++) {
            assert_int_equal(answers[r].count, OUTPUTS);
            if (memcmp(answers[r].ids, alone[r].ids, sizeof alone[r].ids) != 0)
                fail_msg("%s: request %u has other tokens than alone", settings[k].what, r);
            if (memcmp(answers[r].logprobs, alone[r].logprobs, sizeof alone[r].logprobs) != 0)
                fail_msg("%s: request %u has other logprobs than alone", settings[k].what, r);
        }
    }
    model_close(model);
}

static void test_f32a(void **state) { same_everywhere(TENSOR_F32); }
static void test_q8a32(void **state) { same_everywhere(TENSOR_Q8_0); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32a),
        cmocka_unit_test(test_q8a32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
