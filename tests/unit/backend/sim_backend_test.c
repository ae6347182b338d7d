/* Goal: the sim's answers are the function of the tokens alone, whatever blocks, chunks and seats
 * carried them; and a block that is stale, lost, misplaced or half copied changes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/sim/sim_backend.h"

#define VOCAB 300u
#define SIZE 8u
#define BLOCKS 12u

struct rig {
    struct backend *backend;
    struct mem *mem;
};

static void rig_open(struct rig *rig, uint32_t stop_period) {
    struct model_spec spec = {.vocab_size = VOCAB, .weight_type = TENSOR_BF16};
    struct backend_options options = {.rank_count = 1,
                                      .block_size = SIZE,
                                      .seat_count = 2,
                                      .batched_tokens_max = 64,
                                      .model_len_max = 96,
                                      .sim_stop_period = stop_period};
    struct mem_plan plan = {0};
    struct err_text text;
    assert_int_equal(sim_backend_ops.open(&spec, &options, &text, &rig->backend), ERR_OK);
    sim_backend_ops.plan(rig->backend, 0, &plan);
    mem_plan_add(&plan, MEM_KV, BLOCKS * sim_backend_ops.block_bytes(rig->backend, 0), "kv");
    assert_int_equal(mem_create(&plan, UINT64_MAX, &text, &rig->mem), ERR_OK);
    assert_int_equal(sim_backend_ops.load(rig->backend, NULL, BLOCKS, &rig->mem, NULL, NULL, &text),
                     ERR_OK);
    assert_int_equal(mem_seal(rig->mem, &text), ERR_OK); /* plan and boot agree to the byte */
}

static void rig_close(struct rig *rig) {
    sim_backend_ops.close(rig->backend);
    mem_destroy(rig->mem);
}

static void seat(struct rig *rig, uint32_t at, const struct sampling *sampling) {
    struct seat_setup setup = {.sampling = sampling};
    assert_int_equal(sim_backend_ops.seat_set(rig->backend, at, &setup), ERR_OK);
}

/* Computes tokens [first, first + count); the token drawn, or none. */
static uint32_t run(struct rig *rig, uint32_t at, const uint32_t *tokens, uint32_t first,
                    uint32_t count, const uint32_t *blocks, bool wants_sample) {
    struct batch_row row = {.seat = at,
                            .token_count = count,
                            .tokens = tokens + first,
                            .first_position = first,
                            .blocks = blocks,
                            .block_count = 4,
                            .wants_sample = wants_sample};
    struct batch batch = {&row, 1, count};
    const struct result_row *results;
    sim_backend_ops.submit(rig->backend, &batch);
    assert_int_equal(sim_backend_ops.collect(rig->backend, &results), ERR_OK);
    return results[0].token_id;
}

static uint32_t expected(const uint32_t *tokens, uint32_t count, const struct sampling *s) {
    struct sim_text text = {0};
    for (uint32_t i = 0; i < count; i++) sim_backend_feed(&text, tokens[i]);
    struct sim_draw how = {s, 0, 0, VOCAB, 0, 0};
    return sim_backend_draw(&text, &how);
}

static void test_function(void **state) {
    struct rig rig;
    struct sampling s;
    uint32_t tokens[30], a[4] = {3, 1, 7, 2}, b[4] = {12, 11, 10, 9};
    sampling_init(&s);
    rig_open(&rig, 0);
    seat(&rig, 0, &s);
    seat(&rig, 1, &s);
    for (uint32_t i = 0; i < 30; i++) tokens[i] = i * 7 % VOCAB;
    uint32_t whole = run(&rig, 0, tokens, 0, 30, a, true);
    assert_int_equal(whole, expected(tokens, 30, &s));
    for (uint32_t i = 0; i < 29; i++) run(&rig, 1, tokens, i, 1, b, false);
    assert_int_equal(run(&rig, 1, tokens, 29, 1, b, true), whole);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(sim_backend_ops.kv_checksum(rig.backend, 0, a[i], SIZE),
                         sim_backend_ops.kv_checksum(rig.backend, 0, b[i], SIZE));
    rig_close(&rig);
}

/* Each way to lose KV, and the answer changes. */
static void test_damage(void **state) {
    for (uint32_t damage = 0; damage < 6; damage++) {
        struct rig rig;
        struct sampling s;
        uint32_t tokens[30], other[30], a[4] = {3, 1, 7, 2}, b[4] = {12, 11, 10, 9};
        sampling_init(&s);
        rig_open(&rig, 0);
        seat(&rig, 0, &s);
        for (uint32_t i = 0; i < 30; i++) tokens[i] = i, other[i] = VOCAB - 1 - i;
        run(&rig, 0, tokens, 0, 29, a, false);
        run(&rig, 0, other, 0, 29, b, false);
        uint32_t table[4] = {a[0], a[1], a[2], a[3]};
        switch (damage) {
        case 0: break;                                   /* none: the answer stands */
        case 1: table[1] = a[0]; break;                  /* the wrong block */
        case 2: table[0] = a[1], table[1] = a[0]; break; /* misplaced */
        case 3: table[2] = b[2]; break;                  /* stale, of another sequence */
        case 4:                                          /* half copied */
            sim_backend_ops.kv_copy(rig.backend, a[1], 5, SIZE - 1);
            table[1] = 5;
            break;
        case 5: table[1] = 6; break; /* never written */
        }
        uint32_t drawn = run(&rig, 0, tokens, 29, 1, table, true);
        if (damage == 0) assert_int_equal(drawn, expected(tokens, 30, &s));
        else assert_int_not_equal(drawn, expected(tokens, 30, &s));
        rig_close(&rig);
    }
}

static void test_copy(void **state) {
    struct rig rig;
    struct sampling s;
    uint32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8}, a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8};
    sampling_init(&s);
    rig_open(&rig, 0);
    seat(&rig, 0, &s);
    run(&rig, 0, tokens, 0, 6, a, false);
    sim_backend_ops.kv_copy(rig.backend, 1, 5, 6);
    assert_int_equal(sim_backend_ops.kv_checksum(rig.backend, 0, 1, 6),
                     sim_backend_ops.kv_checksum(rig.backend, 0, 5, 6));
    assert_int_equal(run(&rig, 0, tokens, 6, 2, b, true), expected(tokens, 8, &s));
    struct kv_layout layout;
    sim_backend_ops.kv_layout(rig.backend, 0, &layout);
    assert_int_equal(layout.block_count, BLOCKS + 1);
    assert_int_equal(layout.block_bytes, sim_backend_ops.block_bytes(rig.backend, 0));
    assert_memory_equal(layout.base + 1 * layout.block_stride,
                        layout.base + 5 * layout.block_stride, 6 * 8);
    rig_close(&rig);
}

static void test_sampling(void **state) {
    struct sampling s;
    struct sim_text text = {0};
    uint32_t stop_ids[2] = {10, 11}, allowed[3] = {10, 20, 30}, stops = 0;
    sampling_init(&s);
    s.stop_ids = stop_ids;
    s.stop_id_count = 2;
    for (uint32_t i = 0; i < 2000; i++) {
        sim_backend_feed(&text, i % VOCAB);
        struct sim_draw never = {&s, 0, i, VOCAB, 0, 0}, some = {&s, 0, i, VOCAB, 10, 0};
        uint32_t id = sim_backend_draw(&text, &never);
        assert_true(id != 10 && id != 11); /* unless asked, no stop id */
        s.min_tokens = i + 1;
        id = sim_backend_draw(&text, &some);
        assert_true(id != 10 && id != 11); /* nor before min_tokens */
        s.min_tokens = i;
        id = sim_backend_draw(&text, &some);
        stops += id == 10 || id == 11;
        struct sampling only = s;
        only.allowed_ids = allowed;
        only.allowed_id_count = 3;
        some.sampling = &only;
        id = sim_backend_draw(&text, &some);
        assert_true(id == 10 || id == 20 || id == 30);
    }
    assert_in_range(stops, 100, 300); /* about one in ten */
    s.min_tokens = 0;
    /* Greedy does not see seed and choice; sampling does. */
    struct sim_draw a = {&s, 0, 5, VOCAB, 0, 0}, b = {&s, 1, 5, VOCAB, 0, 0};
    assert_int_equal(sim_backend_draw(&text, &a), sim_backend_draw(&text, &b));
    s.temperature = 1;
    assert_int_not_equal(sim_backend_draw(&text, &a), sim_backend_draw(&text, &b));
}

static void test_doors(void **state) {
    struct model_spec spec = {.vocab_size = VOCAB};
    struct backend_options good = {.rank_count = 1,
                                   .block_size = SIZE,
                                   .seat_count = 2,
                                   .batched_tokens_max = 64,
                                   .model_len_max = 96};
    struct backend *backend;
    struct err_text text;
    struct backend_options bad = good;
    bad.block_size = 17;
    assert_int_equal(sim_backend_ops.open(&spec, &bad, &text, &backend), ERR_USAGE);
    assert_non_null(strstr(text.text, "block-size"));
    bad = good;
    bad.rank_count = 2;
    assert_int_equal(sim_backend_ops.open(&spec, &bad, &text, &backend), ERR_UNSUPPORTED);
    bad = good;
    bad.sim_in_flight_max = 3;
    assert_int_equal(sim_backend_ops.open(&spec, &bad, &text, &backend), ERR_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_function), cmocka_unit_test(test_damage), cmocka_unit_test(test_copy),
        cmocka_unit_test(test_sampling), cmocka_unit_test(test_doors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
