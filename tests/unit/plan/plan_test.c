/* plan: over random backends and budgets, a budget of exactly the planned total fits and one byte
 * less is refused by name; the default rule of the CPU; shrinking; what is printed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/buf.h"
#include "base/num.h"
#include "plan/plan.h"
#include "plan/plan_auto.h"

#define GIB ((uint64_t) 1 << 30)

/* A backend of given sizes. */
struct fake {
    struct backend_head head;
    uint64_t weights_bytes, activation_bytes, workspace_bytes;
    uint64_t block_bytes[PLAN_RANKS_MAX];
};

static void fake_plan(const struct backend *backend, uint32_t rank, struct mem_plan *plan) {
    const struct fake *fake = (const void *) backend;
    mem_plan_add(plan, MEM_WEIGHTS, fake->weights_bytes + rank, "weights");
    mem_plan_add(plan, MEM_ACTIVATIONS, fake->activation_bytes, "activations");
    mem_plan_add(plan, MEM_WORKSPACE, fake->workspace_bytes + fake->block_bytes[rank], "block 0");
}
static uint64_t fake_block_bytes(const struct backend *backend, uint32_t rank) {
    return ((const struct fake *) (const void *) backend)->block_bytes[rank];
}
static const struct backend_ops fake_ops = {
    .name = "fake", .plan = fake_plan, .block_bytes = fake_block_bytes};

static struct fake fake_make(uint64_t weights, uint64_t block_bytes) {
    struct fake fake = {{&fake_ops}, weights, weights / 16, weights / 64, {0}};
    for (int i = 0; i < PLAN_RANKS_MAX; i++) fake.block_bytes[i] = block_bytes;
    return fake;
}

static const struct model_spec spec = {
    .name = "org/test \"model\"", .vocab_size = 49152, .context_tokens = 8192, .segment_count = 1};
static const struct backend_options usual = {.rank_count = 1,
                                             .block_size = 16,
                                             .seat_count = 64,
                                             .batched_tokens_max = 2048,
                                             .model_len_max = 8192,
                                             .thread_count = 2};
static struct plan plan; /* half a megabyte */

static void make(const struct fake *fake, const struct backend_options *options,
                 const struct plan_budget *budget) {
    struct err_text text = {""};
    if (plan_make(&spec, (const void *) fake, options, budget, &text, &plan))
        fail_msg("%s", text.text);
    for (uint32_t rank = 0; rank < plan.rank_count; rank++) {
        const struct mem_plan *lines = &plan.ranks[rank];
        assert_string_equal(lines->lines[lines->line_count - 1].reason, "kv");
    }
    assert_int_equal(plan.kv_tokens, (uint64_t) plan.block_count * options->block_size);
    if (!plan.fits) {
        assert_true(strlen(plan.verdict.text) > 0);
        return;
    }
    assert_string_equal(plan.verdict.text, "");
    assert_true(plan.kv_tokens >= plan.model_len_max);
    assert_true(plan.total_bytes <= plan.budget_bytes);
    assert_int_equal(plan.headroom_bytes, plan.budget_bytes - plan.total_bytes);
}

/* What one request of full length needs with everything else: the least that fits. */
static uint64_t least_bytes(const struct backend_options *options) {
    uint64_t blocks = num_div_up(options->model_len_max, options->block_size), widest = 0;
    for (uint32_t rank = 0; rank < plan.rank_count; rank++) {
        const struct mem_plan *lines = &plan.ranks[rank];
        const struct mem_line *kv = &lines->lines[lines->line_count - 1];
        uint64_t block_bytes = plan.block_count ? kv->bytes / plan.block_count : 0;
        widest = num_max(widest, mem_plan_total(lines) - kv->bytes + blocks * block_bytes);
    }
    return widest;
}

static void exact_budget_fits_one_byte_less_does_not(void **state) {
    unsigned seed = (unsigned) time(NULL);
    print_message("seed %u\n", seed);
    srand(seed);
    for (int i = 0; i < 2000; i++) {
        struct fake fake =
            fake_make((uint64_t) rand() * 7 + 1, (uint64_t) (rand() % (4 << 20)) + 1);
        struct backend_options options = usual;
        options.rank_count = (uint32_t) (1 + rand() % 4);
        options.block_size = (uint32_t) (8 << rand() % 5);
        options.model_len_max = (uint32_t) (1 + rand() % 40000);
        for (uint32_t r = 0; r < options.rank_count; r++)
            fake.block_bytes[r] += (uint64_t) rand() % 100;
        struct plan_budget budget = {.total_bytes = UINT64_MAX / 4096, .utilization = 1};
        make(&fake, &options, &budget);
        assert_true(plan.fits);
        uint64_t least = least_bytes(&options);
        budget.total_bytes = least;
        make(&fake, &options, &budget);
        assert_true(plan.fits);
        uint32_t rounded = (uint32_t) num_round_up(options.model_len_max, options.block_size);
        assert_int_equal(plan.kv_tokens, rounded);
        assert_int_equal(plan.total_bytes, least);
        assert_int_equal(plan.headroom_bytes, 0);
        budget.total_bytes = least - 1;
        make(&fake, &options, &budget);
        assert_false(plan.fits);
        assert_memory_equal(plan.verdict.text, "kv needs ", 9);
        /* One block more is used as soon as it fits on every rank. */
        uint64_t more = 0;
        for (uint32_t r = 0; r < options.rank_count; r++) more = num_max(more, fake.block_bytes[r]);
        budget.total_bytes = least + more;
        make(&fake, &options, &budget);
        assert_int_equal(plan.kv_tokens, rounded + options.block_size);
        /* Too little even for the weights: they are named, and what there is for them. */
        uint64_t process = plan.ranks[0].lines[plan.ranks[0].line_count - 2].bytes;
        budget.total_bytes = process + fake.weights_bytes - 1;
        make(&fake, &options, &budget);
        assert_false(plan.fits);
        assert_memory_equal(plan.verdict.text, "weights needs ", 14);
        assert_string_equal(plan.refusal.reason, "weights");
        assert_int_equal(plan.refusal.wanted_bytes, fake.weights_bytes);
        assert_int_equal(plan.refusal.free_bytes, fake.weights_bytes - 1);
        assert_int_equal(plan.block_count, 0);
    }
}

static void shared_memory_exact(void **state) {
    struct fake fake = fake_make(100 << 20, 64 << 10);
    struct backend_options options = usual;
    options.rank_count = 2;
    struct plan_budget budget = {.total_bytes = 16 * GIB, .available_bytes = 16 * GIB};
    make(&fake, &options, &budget);
    assert_true(plan.fits);
    uint64_t all = 0, kv = (uint64_t) plan.block_count * 2 * (64 << 10);
    for (uint32_t rank = 0; rank < 2; rank++) all += mem_plan_total(&plan.ranks[rank]);
    assert_int_equal(plan.total_bytes, all);
    assert_int_equal(plan.budget_bytes, all);
    budget.available_bytes = all - kv + 512 * 2 * (64 << 10); /* one request of 8,192 */
    make(&fake, &options, &budget);
    assert_true(plan.fits);
    assert_int_equal(plan.block_count, 512);
    budget.available_bytes--;
    make(&fake, &options, &budget);
    assert_false(plan.fits);
    assert_non_null(strstr(plan.verdict.text, "set max-model-len: 8176"));
    budget.may_shrink_len = true;
    make(&fake, &options, &budget);
    assert_true(plan.fits && plan.is_len_shrunk);
    assert_int_equal(plan.model_len_max, 8176);
}

static void default_rule_of_the_cpu(void **state) {
    /* 8 x max-model-len, when that is the least */
    struct fake fake = fake_make(100 << 20, 360 << 10);
    struct plan_budget budget = {.total_bytes = 64 * GIB, .available_bytes = 60 * GIB};
    make(&fake, &usual, &budget);
    assert_int_equal(plan.kv_tokens, 8 * 8192);
    assert_true(plan.concurrency == 8);
    /* 4 GiB */
    fake = fake_make(100 << 20, 2 << 20);
    make(&fake, &usual, &budget);
    assert_int_equal(plan.block_count, 4 * GIB / (2 << 20));
    /* a quarter of what is available */
    budget.available_bytes = 8 * GIB;
    make(&fake, &usual, &budget);
    assert_int_equal(plan.block_count, 2 * GIB / (2 << 20));
    /* never under one full request, though that is more than a quarter */
    fake = fake_make(100 << 20, 8 << 20);
    make(&fake, &usual, &budget);
    assert_int_equal(plan.block_count, 512);
    assert_true(plan.fits);
    /* a written length that does not fit, and an unwritten one */
    budget.available_bytes = 4 * GIB;
    make(&fake, &usual, &budget);
    assert_false(plan.fits);
    budget.may_shrink_len = true;
    make(&fake, &usual, &budget);
    assert_true(plan.fits && plan.is_len_shrunk && plan.model_len_max < 8192);
    assert_true(plan.total_bytes <= budget.available_bytes);
    /* nothing sensible is left to shrink to */
    fake = fake_make((uint64_t) 3700 << 20, 8 << 20);
    make(&fake, &usual, &budget);
    assert_false(plan.fits);
}

static void written_kv_bytes(void **state) {
    struct fake fake = fake_make(100 << 20, 1 << 20);
    struct plan_budget budget = {
        .total_bytes = 8 * GIB, .available_bytes = 8 * GIB, .kv_bytes = GIB};
    make(&fake, &usual, &budget);
    assert_true(plan.fits);
    assert_int_equal(plan.block_count, 1024);
    budget.kv_bytes = 100 << 20;
    make(&fake, &usual, &budget);
    assert_false(plan.fits);
    assert_non_null(strstr(plan.verdict.text, "kv-cache-memory-bytes"));
    budget.kv_bytes = 9 * GIB;
    make(&fake, &usual, &budget);
    assert_false(plan.fits);
    assert_non_null(strstr(plan.verdict.text, "kv-cache-memory-bytes"));
}

static void utilization_over_what_is_available(void **state) {
    struct fake fake = fake_make(100 << 20, 1 << 20);
    struct plan_budget budget = {
        .total_bytes = 8 * GIB, .available_bytes = 4 * GIB, .utilization = 0.9};
    make(&fake, &usual, &budget);
    assert_false(plan.fits);
    assert_non_null(strstr(plan.verdict.text, "available"));
    budget.utilization = 0.25;
    make(&fake, &usual, &budget);
    assert_true(plan.fits);
    assert_int_equal(plan.budget_bytes, 2 * GIB);
    struct err_text text = {""};
    budget.utilization = 8;
    assert_int_equal(plan_make(&spec, (void *) &fake, &usual, &budget, &text, &plan), ERR_USAGE);
}

static void printed(void **state) {
    struct fake fake = fake_make(100 << 20, 360 << 10);
    struct plan_budget budget = {.total_bytes = 64 * GIB, .available_bytes = 60 * GIB};
    struct buf out;
    buf_init(&out, 0);
    for (int way = 0; way < 4; way++) { /* on one rank, and on three that share a memory */
        const int fits = way % 2;
        struct backend_options options = usual;
        options.rank_count = way < 2 ? 1 : 3;
        budget.available_bytes = fits ? 60 * GIB : 200 << 20;
        make(&fake, &options, &budget);
        assert_int_equal(plan.fits, fits);
        buf_clear(&out);
        plan_print(&plan, &spec, true, &out);
        char text[8192];
        snprintf(text, sizeof text, "%s", buf_string(&out));
        assert_non_null(strstr(text, fits ? "fits: org/test" : "does not fit: VllmWorker: "));
        assert_non_null(strstr(text, "block 0"));
        buf_clear(&out);
        const struct plan_auto_fit fit = {
            .tensor_parallel_min = 1, .model_len_max = 77, .batched_tokens_max = 88};
        plan_print_json(&plan, &spec, way ? &fit : NULL, &out);
        json_error_t error;
        json_t *root = json_loads(buf_string(&out), JSON_REJECT_DUPLICATES, &error);
        if (!root) fail_msg("%s: %s", error.text, buf_string(&out));
        assert_int_equal(json_is_true(json_object_get(root, "fits")), fits);
        json_t *component = json_array_get(json_object_get(root, "components"), 0);
        json_t *device = json_object_get(component, "per_device");
        json_t *would = json_object_get(component, "would_fit");
        assert_int_equal(json_integer_value(json_object_get(would, "model_len_max")), way ? 77 : 0);
        json_int_t parts = 0;
        static const char *const names[] = {"weights_bytes", "activations_bytes", "workspace_bytes",
                                            "context_bytes", "kv_bytes",          "headroom_bytes"};
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            parts += json_integer_value(json_object_get(device, names[i]));
        if (fits)
            assert_int_equal(parts, json_integer_value(json_object_get(device, "budget_bytes")));
        /* The spec has one segment, so three ranks are not exact: a note. */
        assert_int_equal(json_array_size(json_object_get(root, "problems")), !fits + (way > 1));
        assert_int_equal(strstr(text, "not bitwise") != NULL, way > 1);
        json_decref(root);
    }
    buf_release(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_budget_fits_one_byte_less_does_not),
        cmocka_unit_test(shared_memory_exact),
        cmocka_unit_test(default_rule_of_the_cpu),
        cmocka_unit_test(written_kv_bytes),
        cmocka_unit_test(utilization_over_what_is_available),
        cmocka_unit_test(printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
