/* Goal: the policy's decisions, one row of a table each: who gets how many tokens of a step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/check.h"
#include "sched/sched_policy.h"

#define D UINT32_MAX /* a decode: one pending token */

struct deal {
    const char *what;
    uint32_t batched, chunk;
    bool is_chunked;
    uint32_t pending[6]; /* ends at the first 0 but for an explicit IDLE */
    uint32_t tokens[6];
    uint32_t left;
};
#define IDLE (UINT32_MAX - 1)

static const struct deal deals[] = {
    {"nobody runs: all is left", 64, 64, true, {0}, {0}, 64},
    {"decodes get one each", 64, 64, true, {D, D, D}, {1, 1, 1}, 61},
    {"decodes before prefills, whatever their age", 10, 64, true, {100, D, D}, {8, 1, 1}, 0},
    {"a prefill gets at most its chunk", 64, 16, true, {100, D}, {16, 1}, 47},
    {"prefills share in order", 64, 40, true, {50, 50, 50}, {40, 24, 0}, 0},
    {"a short prefill leaves the rest", 64, 64, true, {10, 20}, {10, 20}, 34},
    {"one that waits for its batch gets nothing, and blocks nobody",
     64,
     64,
     true,
     {IDLE, 5},
     {0, 5},
     59},
    {"more decodes than tokens: the oldest first", 2, 2, true, {D, D, D}, {1, 1, 0}, 0},
    {"a prefill that got nothing lets nobody new pass", 3, 64, true, {D, D, D, 9}, {1, 1, 1, 0}, 0},
    {"whole prompts go before decodes", 64, 64, false, {D, 64, D}, {0, 64, 0}, 0},
    {"decodes get what whole prompts leave", 64, 64, false, {D, 63, D}, {1, 63, 0}, 0},
    {"a whole prompt that does not fit waits, those after it too",
     64,
     64,
     false,
     {40, 30, 10, D},
     {40, 0, 0, 1},
     0},
    {"longer than any step goes in pieces", 64, 64, false, {100}, {64}, 0},
};

static void test_deal(void **state) {
    for (uint32_t i = 0; i < ARRAY_COUNT(deals); i++) {
        const struct deal *deal = &deals[i];
        struct sched_limits limits = {deal->batched, deal->chunk, deal->is_chunked};
        struct sched_row rows[6];
        uint32_t count = 0;
        for (; count < 6 && deal->pending[count]; count++) {
            uint32_t pending = deal->pending[count];
            rows[count] = (struct sched_row){.pending_tokens = pending == D      ? 1
                                                               : pending == IDLE ? 0
                                                                                 : pending,
                                             .is_decode = pending == D,
                                             .tokens = 99};
        }
        uint32_t left = sched_policy_deal(&limits, rows, count);
        if (left != deal->left) fail_msg("%s: %u left", deal->what, left);
        for (uint32_t k = 0; k < count; k++)
            if (rows[k].tokens != deal->tokens[k])
                fail_msg("%s: row %u gets %u", deal->what, k, rows[k].tokens);
    }
}

static void test_blocks(void **state) {
    static const struct {
        uint32_t known, positions_max, size, blocks;
    } cases[] = {
        {1, 100, 16, 1},  {15, 100, 16, 1},
        {16, 100, 16, 2}, /* one more token needs its room */
        {16, 16, 16, 1},  /* but not when none can come */
        {17, 20, 8, 3},   {31, 1000, 8, 4},
        {32, 1000, 8, 5}, {UINT32_MAX, UINT32_MAX, 128, 1u << 25},
    };
    for (uint32_t i = 0; i < ARRAY_COUNT(cases); i++)
        assert_int_equal(sched_policy_blocks(cases[i].known, cases[i].positions_max, cases[i].size),
                         cases[i].blocks);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deal),
        cmocka_unit_test(test_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
