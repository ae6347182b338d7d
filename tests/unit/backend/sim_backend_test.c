/* Goal: the sim's answers are the function of the tokens alone, whatever blocks, chunks, seats,
 * heads and ranks carried them; and a block, or a run of one on one rank, that is stale, lost,
 * misplaced or half copied changes them.  On a grid, steps end at whole multiples of a step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "backend/sim/sim_backend.h"
#include "base/alloc.h"
#include "base/clock.h"

#define VOCAB 300u
#define SIZE 8u
#define BLOCKS 12u

#define RANKS_MAX 8u

struct rig {
    struct backend *backend;
    struct mem *mems[RANKS_MAX];
    uint32_t ranks;
};

static void rig_open_options(struct rig *rig, uint32_t kv_heads, struct backend_options options) {
    uint32_t ranks = options.rank_count;
    struct model_spec spec = {.vocab_size = VOCAB,
                              .weight_type = TENSOR_BF16,
                              .head_count = kv_heads * 8,
                              .kv_head_count = kv_heads};
    options.block_size = SIZE;
    options.seat_count = 2;
    options.batched_tokens_max = 64;
    options.model_len_max = 96;
    struct err_text text;
    *rig = (struct rig){.ranks = ranks};
    assert_int_equal(sim_backend_ops.open(&spec, &options, &text, &rig->backend), ERR_OK);
    for (uint32_t r = 0; r < ranks; r++) {
        struct mem_plan plan = {0};
        sim_backend_ops.plan(rig->backend, r, &plan);
        mem_plan_add(&plan, MEM_KV, BLOCKS * sim_backend_ops.block_bytes(rig->backend, r), "kv");
        assert_int_equal(mem_create(&plan, UINT64_MAX, &text, &rig->mems[r]), ERR_OK);
    }
    assert_int_equal(sim_backend_ops.load(rig->backend, NULL, BLOCKS, rig->mems, NULL, NULL, &text),
                     ERR_OK);
    for (uint32_t r = 0; r < ranks; r++) /* plan and boot agree to the byte */
        assert_int_equal(mem_seal(rig->mems[r], &text), ERR_OK);
}

static void rig_open_ranks(struct rig *rig, uint32_t stop_period, uint32_t kv_heads,
                           uint32_t ranks) {
    rig_open_options(rig, kv_heads,
                     (struct backend_options){.rank_count = ranks, .sim_stop_period = stop_period});
}

static void rig_open(struct rig *rig, uint32_t stop_period) {
    rig_open_ranks(rig, stop_period, 0, 1);
}

static void rig_close(struct rig *rig) {
    sim_backend_ops.close(rig->backend);
    for (uint32_t r = 0; r < rig->ranks; r++) mem_destroy(rig->mems[r]);
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
                        layout.base + 5 * layout.block_stride, 6 * 4);
    rig_close(&rig);
}

static const struct {
    uint32_t kv_heads, ranks;
} cuts[] = {{1, 1}, {1, 2}, {1, 8}, {2, 1}, {2, 2}, {2, 4}, {3, 1},
            {3, 3}, {4, 2}, {4, 8}, {8, 1}, {8, 2}, {8, 4}, {8, 8}};

static void fill(struct rig *rig, const uint32_t *tokens, const uint32_t *blocks) {
    struct sampling s;
    sampling_init(&s);
    seat(rig, 0, &s);
    run(rig, 0, tokens, 0, 29, blocks, false);
}

/* The answer does not know how the KV is cut, and needs every run of every rank. */
static void test_ranks(void **state) {
    struct sampling s;
    uint32_t tokens[30], a[4] = {3, 1, 7, 2};
    sampling_init(&s);
    for (uint32_t i = 0; i < 30; i++) tokens[i] = (i * 11 + 3) % VOCAB;
    uint32_t want = expected(tokens, 30, &s);
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        struct rig rig;
        rig_open_ranks(&rig, 0, cuts[c].kv_heads, cuts[c].ranks);
        fill(&rig, tokens, a);
        assert_int_equal(run(&rig, 0, tokens, 29, 1, a, true), want);
        uint32_t seen = 0;
        for (uint32_t r = 0; r < cuts[c].ranks; r++) {
            struct kv_layout l;
            sim_backend_ops.kv_layout(rig.backend, r, &l);
            assert_int_equal(l.head_total, cuts[c].kv_heads);
            for (uint32_t h = 0; h < l.head_count; h++) seen |= 1u << (l.head_first + h);
            for (uint32_t block = 0; block < 4; block++)
                for (uint32_t run_at = 0; run_at < 2 * l.head_count; run_at++) {
                    uint8_t *bytes = l.base + a[block] * l.block_stride +
                                     run_at % 2 * l.value_stride + run_at / 2 * l.head_stride;
                    uint8_t kept[SIZE * 4];
                    uint64_t length = block == 3 ? 5 * 4 : l.head_bytes; /* slots 24 to 28 */
                    assert_true(l.head_bytes == sizeof kept);
                    memcpy(kept, bytes, length);
                    memset(bytes, 0, length); /* lost */
                    assert_int_not_equal(run(&rig, 0, tokens, 29, 1, a, true), want);
                    memcpy(bytes, kept, length - 4); /* half written: the last slot lacks */
                    assert_int_not_equal(run(&rig, 0, tokens, 29, 1, a, true), want);
                    memcpy(bytes, kept, length);
                    assert_int_equal(run(&rig, 0, tokens, 29, 1, a, true), want);
                }
        }
        assert_int_equal(seen, (1u << cuts[c].kv_heads) - 1);
        rig_close(&rig);
    }
}

/* Exchanges the run at (rank, block, part, head) of a layout with another. */
static void exchange(const struct kv_layout *l, uint32_t block, uint32_t part, uint32_t head,
                     const struct kv_layout *m, uint32_t other, uint32_t other_part,
                     uint32_t other_head) {
    uint8_t *x = l->base + block * l->block_stride + part * l->value_stride + head * l->head_stride;
    uint8_t *y = m->base + other * m->block_stride + other_part * m->value_stride +
                 other_head * m->head_stride;
    for (uint64_t i = 0; i < l->head_bytes; i++) {
        uint8_t kept = x[i];
        x[i] = y[i];
        y[i] = kept;
    }
}

static void test_misplaced_runs(void **state) {
    struct sampling s;
    uint32_t tokens[30], a[4] = {3, 1, 7, 2};
    sampling_init(&s);
    for (uint32_t i = 0; i < 30; i++) tokens[i] = (i * 7 + 1) % VOCAB;
    uint32_t want = expected(tokens, 30, &s);
    struct rig rig;
    rig_open_ranks(&rig, 0, 8, 4);
    fill(&rig, tokens, a);
    struct kv_layout l[4];
    for (uint32_t r = 0; r < 4; r++) sim_backend_ops.kv_layout(rig.backend, r, &l[r]);
    for (uint32_t way = 0; way < 5; way++)
        for (uint32_t undo = 0; undo < 2; undo++) {
            switch (way) {
            case 0: exchange(&l[1], 1, 0, 0, &l[1], 1, 0, 1); break; /* heads of a rank */
            case 1: exchange(&l[0], 1, 0, 0, &l[3], 1, 0, 0); break; /* ranks */
            case 2: exchange(&l[2], 1, 0, 1, &l[2], 1, 1, 1); break; /* K and V */
            case 3: exchange(&l[2], 3, 1, 0, &l[2], 7, 1, 0); break; /* blocks, of one head */
            case 4:                                                  /* all of two ranks */
                for (uint32_t i = 0; i < 16; i++)
                    exchange(&l[1], a[i / 4], i % 2, i / 2 % 2, &l[2], a[i / 4], i % 2, i / 2 % 2);
                break;
            }
            uint32_t drawn = run(&rig, 0, tokens, 29, 1, a, true);
            if (undo) assert_int_equal(drawn, want);
            else if (drawn == want) fail_msg("misplaced in way %u: the same answer", way);
        }
    rig_close(&rig);
}

/* Runs carried by head from any number of ranks to any other are the sequence's KV there. */
static void test_across_ranks(void **state) {
    struct sampling s;
    uint32_t tokens[30], a[4] = {3, 1, 7, 2}, b[4] = {9, 4, 12, 5};
    sampling_init(&s);
    for (uint32_t i = 0; i < 30; i++) tokens[i] = (i * 13 + 9) % VOCAB;
    uint32_t want = expected(tokens, 30, &s);
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++)
        for (size_t d = 0; d < sizeof cuts / sizeof *cuts; d++) {
            if (cuts[c].kv_heads != cuts[d].kv_heads) continue;
            struct rig from, to;
            rig_open_ranks(&from, 0, cuts[c].kv_heads, cuts[c].ranks);
            rig_open_ranks(&to, 0, cuts[d].kv_heads, cuts[d].ranks);
            fill(&from, tokens, a);
            for (uint32_t r = 0; r < cuts[d].ranks; r++)
                for (uint32_t q = 0; q < cuts[c].ranks; q++) {
                    struct kv_layout l, m;
                    sim_backend_ops.kv_layout(from.backend, q, &l);
                    sim_backend_ops.kv_layout(to.backend, r, &m);
                    for (uint32_t i = 0; i < 4 * 2 * l.head_count; i++) {
                        uint32_t head = l.head_first + i / 8, block = i % 4, part = i / 4 % 2;
                        if (head < m.head_first || head >= m.head_first + m.head_count) continue;
                        memcpy(m.base + b[block] * m.block_stride + part * m.value_stride +
                                   (head - m.head_first) * m.head_stride,
                               l.base + a[block] * l.block_stride + part * l.value_stride +
                                   i / 8 * l.head_stride,
                               l.head_bytes);
                    }
                }
            seat(&to, 1, &s);
            assert_int_equal(run(&to, 1, tokens, 29, 1, b, true), want);
            rig_close(&from);
            rig_close(&to);
        }
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
    assert_int_equal(sim_backend_ops.open(&spec, &bad, &text, &backend), ERR_USAGE);
    assert_non_null(strstr(text.text, "tensor-parallel-size"));
    bad = good;
    bad.sim_in_flight_max = 3;
    assert_int_equal(sim_backend_ops.open(&spec, &bad, &text, &backend), ERR_USAGE);
}

static void test_allocations(void **state) {
    struct model_spec spec = {.vocab_size = VOCAB, .head_count = 8, .kv_head_count = 8};
    struct backend_options options = {
        .rank_count = 8, .block_size = SIZE, .seat_count = 2, .batched_tokens_max = 64};
    uint32_t failures = 0;
    for (uint64_t n = 1;; n++) {
        struct backend *backend = NULL;
        struct err_text text = {""};
        alloc_fail_at(n, 0);
        enum err e = sim_backend_ops.open(&spec, &options, &text, &backend);
        alloc_fail_at(0, 0);
        sim_backend_ops.close(backend);
        if (!e) break;
        assert_int_equal(e, ERR_MEMORY);
        assert_true(text.text[0]);
        failures++;
    }
    assert_int_equal(failures, 2);
}

/* A step that begins between two multiples ends at the next, so before a whole step is over; off the
 * grid none does. */
static void test_grid(void **state) {
    (void) state;
    const uint64_t step_us = 5000;
    struct rig rig;
    struct sampling greedy = {.max_tokens = 8};
    static const uint32_t tokens[] = {1}, blocks[] = {1, 2, 3, 4};
    rig_open_options(&rig, 0,
                     (struct backend_options){
                         .rank_count = 1, .sim_step_us = (double) step_us, .sim_is_on_grid = true});
    seat(&rig, 0, &greedy);
    bool was_short = false;
    for (uint32_t i = 0; i < 1000 && !was_short; i++) { /* a busy machine may sleep too long */
        uint64_t begun_us = clock_now_us();
        (void) run(&rig, 0, tokens, 0, 1, blocks, false);
        uint64_t ended_us = clock_now_us();
        assert_true(ended_us / step_us > begun_us / step_us);
        was_short = ended_us - begun_us < step_us;
    }
    assert_true(was_short);
    sim_backend_ops.seat_clear(rig.backend, 0);
    rig_close(&rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_function),       cmocka_unit_test(test_damage),
        cmocka_unit_test(test_copy),           cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_doors),          cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_misplaced_runs), cmocka_unit_test(test_across_ranks),
        cmocka_unit_test(test_grid),           cmocka_unit_test(test_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
