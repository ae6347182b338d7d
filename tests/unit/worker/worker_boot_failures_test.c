/* worker_boot_failures_test - Goal: loading, from plan to engine, survives the failure of each of its
 * allocations and a stop at each of its stages: an error with a sentence, nothing held, and the
 * next try works.  On both bodies, one rank and two. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cpu/cpu_backend.h"
#include "backend/sim/sim_backend.h"
#include "base/alloc.h"
#include "model/model.h"
#include "worker/worker_boot.h"

static struct model *dummy(void) {
    struct model_open_options options = {
        .is_dummy = true, .dummy_seed = 1, .dummy_type = TENSOR_F16, .shape = "tiny-llama-test"};
    struct model *model = NULL;
    struct err_text text = {""};
    if (model_open("test", &options, &text, &model)) fail_msg("%s", text.text);
    return model;
}

static struct worker_boot_options options_of(const struct backend_ops *ops, uint32_t ranks) {
    return (struct worker_boot_options){
        .ops = ops,
        .backend = {.rank_count = ranks,
                    .block_size = 16,
                    .seat_count = 2,
                    .batched_tokens_max = 32,
                    .row_tile = 4096,
                    .model_len_max = 64,
                    .thread_count = 1},
        .engine = {.queue_requests_max = 4,
                   .queue_prompt_bytes_max = 1 << 16,
                   .is_chunked_prefill = true,
                   .has_prefix_cache = true},
        .budget = {.total_bytes = 1ull << 30, .available_bytes = 1ull << 30},
    };
}

static void holds_nothing(const struct worker_boot *boot) {
    assert_null(boot->backend);
    assert_null(boot->engine);
    for (uint32_t rank = 0; rank < PLAN_RANKS_MAX; rank++) assert_null(boot->mems[rank]);
}

static void allocations_may_fail(void **state) {
    (void) state;
    struct model *model = dummy();
    const struct backend_ops *bodies[] = {&cpu_backend_ops, &sim_backend_ops};
    for (uint32_t body = 0; body < 2; body++)
        for (uint32_t ranks = 1; ranks <= 2; ranks++) {
            struct worker_boot_options options = options_of(bodies[body], ranks);
            uint64_t n = 1;
            for (;; n++) {
                struct worker_boot boot;
                struct err_text text = {""};
                alloc_fail_at(n, 0);
                enum err e = worker_boot_open(&options, model, NULL, NULL, &text, &boot);
                bool was_hit = alloc_count() >= n;
                alloc_fail_at(0, 0);
                if (!was_hit) {
                    if (e) fail_msg("%s", text.text);
                    assert_int_equal(e, ERR_OK);
                    assert_non_null(boot.engine);
                    worker_boot_close(&boot);
                    break;
                }
                assert_int_equal(e, ERR_MEMORY);
                assert_true(text.text[0]);
                holds_nothing(&boot);
            }
            assert_true(n > 10); /* it was loading that failed */
        }
    model_close(model);
}

struct stop {
    uint32_t calls_left;
    bool was_hit;
};

static bool stop_after(void *ctx, const char *stage, uint64_t done_bytes, uint64_t total_bytes) {
    struct stop *stop = ctx;
    assert_true(stage && done_bytes <= total_bytes);
    if (stop->calls_left--) return true;
    stop->was_hit = true;
    return false;
}

static void stops_at_each_stage(void **state) {
    (void) state;
    struct model *model = dummy();
    struct worker_boot_options options = options_of(&cpu_backend_ops, 2);
    for (uint32_t n = 0;; n++) {
        struct stop stop = {.calls_left = n};
        struct worker_boot boot;
        struct err_text text = {""};
        enum err e = worker_boot_open(&options, model, stop_after, &stop, &text, &boot);
        if (!stop.was_hit) {
            assert_int_equal(e, ERR_OK);
            assert_true(n > 2);
            worker_boot_close(&boot);
            break;
        }
        assert_int_equal(e, ERR_CANCELLED);
        holds_nothing(&boot);
    }
    model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(allocations_may_fail),
                                       cmocka_unit_test(stops_at_each_stage)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
