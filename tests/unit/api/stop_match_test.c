/* Goal: stop strings are found exactly where a search over the whole text finds them, whatever
 * pieces the text comes in, and no byte that might belong to one leaves too early or too late. */
#include "api_fixture.h"

#include "api/stop_match.h"

struct expected {
    size_t end; /* of the text given out */
    uint32_t hit;
};

/* The slow twin: the first position at which any string ends. */
static struct expected search(const char *text, size_t bytes, const char *const *stops,
                              uint32_t count, size_t may_stop_from, bool is_included) {
    for (size_t end = 1; end <= bytes; end++)
        for (uint32_t s = 0; s < count; s++) {
            size_t length = strlen(stops[s]);
            if (end > may_stop_from && length <= end &&
                memcmp(text + end - length, stops[s], length) == 0)
                return (struct expected){is_included ? end : end - length, s};
        }
    return (struct expected){bytes, STOP_MATCH_NONE};
}

/* Feeds in pieces whose ends are the bits of `cuts`; also proves that what is held back is held
 * for a reason. */
static void run_pieces(const char *text, size_t bytes, const char *const *stops, uint32_t count,
                       uint64_t cuts, size_t may_stop_from, bool is_included) {
    struct arena arena;
    struct stop_set set = {.count = 0};
    struct stop_match match;
    struct buf out;
    arena_init(&arena, 0);
    buf_init(&out, 0);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(stop_match_set_add(&set, &arena, stops[i], strlen(stops[i])), ERR_OK);
    assert_int_equal(stop_match_init(&match, &set, &arena), ERR_OK);
    struct expected want = search(text, bytes, stops, count, may_stop_from, is_included);
    bool is_hit = false;
    size_t from = 0;
    for (size_t end = 1; end <= bytes && !is_hit; end++) {
        bool is_cut = end == bytes || (cuts >> (end % 64) & 1) || end == may_stop_from;
        if (!is_cut) continue;
        is_hit = stop_match_feed(&match, (const uint8_t *) text + from, end - from,
                                 from >= may_stop_from, is_included, &out);
        from = end;
        if (is_hit) break;
        assert_int_equal(out.bytes + match.held_bytes, end);
        bool is_prefix = match.held_bytes == 0;
        for (uint32_t s = 0; s < count; s++)
            if (strlen(stops[s]) > match.held_bytes &&
                memcmp(stops[s], text + out.bytes, match.held_bytes) == 0)
                is_prefix = true;
        assert_true(is_prefix);
    }
    if (!is_hit) stop_match_finish(&match, &out);
    assert_int_equal(match.hit, want.hit);
    assert_int_equal(out.bytes, want.end);
    assert_memory_equal(out.data ? out.data : (const uint8_t *) "", text, want.end);
    buf_release(&out);
    arena_release(&arena);
}

static void test_every_chunking(void **state) {
    static const struct {
        const char *text;
        const char *stops[3];
        uint32_t count;
    } cases[] = {
        {"hello world", {"o w"}, 1},
        {"aaaab", {"aab"}, 1},
        {"abababac", {"ababac", "bac"}, 2},
        {"xyzzy", {"zzz"}, 1},
        {"ab", {"b", "ab"}, 2},
        {"ab", {"ab", "b"}, 2},
        {"end<|", {"<|end|>", "<"}, 2},
        {"caf\xc3\xa9 \xe4\xbd\xa0", {"\xc3\xa9 \xe4"}, 1},
        {"stop stop", {"stop"}, 1},
        {"abc", {"abcd", "bcx", "c!"}, 3},
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        size_t bytes = strlen(cases[i].text);
        for (uint64_t cuts = 0; cuts < 1u << bytes; cuts++)
            for (int included = 0; included < 2; included++)
                run_pieces(cases[i].text, bytes, cases[i].stops, cases[i].count, cuts << 1, 0,
                           included);
    }
}

static void test_min_tokens(void **state) {
    static const char *const stops[] = {"ab"};
    for (size_t from = 0; from <= 6; from++)
        for (uint64_t cuts = 0; cuts < 64; cuts++)
            run_pieces("ababab", 6, stops, 1, cuts << 1, from, false);
}

static void test_random(void **state) {
    uint64_t seed = 20240607;
    print_message("seed %llu\n", (unsigned long long) seed);
    for (int round = 0; round < 20000; round++) {
        char text[41], words[4][8];
        const char *stops[4];
        size_t bytes = fixture_random(&seed) % 40 + 1;
        for (size_t i = 0; i < bytes; i++) text[i] = (char) ('a' + fixture_random(&seed) % 3);
        uint32_t count = (uint32_t) (fixture_random(&seed) % 4 + 1);
        for (uint32_t s = 0; s < count; s++) {
            size_t length = fixture_random(&seed) % 6 + 1;
            for (size_t i = 0; i < length; i++)
                words[s][i] = (char) ('a' + fixture_random(&seed) % 3);
            words[s][length] = '\0';
            stops[s] = words[s];
        }
        uint64_t cuts = fixture_random(&seed);
        run_pieces(text, bytes, stops, count, cuts, round % 3 ? 0 : bytes / 2, round & 1);
    }
}

static void test_bounds_and_memory(void **state) {
    struct arena arena;
    struct stop_set set = {.count = 0};
    arena_init(&arena, 0);
    for (int i = 0; i < STOP_MATCH_STRINGS_MAX; i++)
        assert_int_equal(stop_match_set_add(&set, &arena, "x", 1), ERR_OK);
    assert_int_equal(stop_match_set_add(&set, &arena, "x", 1), ERR_LIMIT);
    arena_release(&arena);
    alloc_fail_at(1, 1);
    set.count = 0;
    assert_int_equal(stop_match_set_add(&set, &arena, "x", 1), ERR_MEMORY);
    alloc_fail_at(0, 0);
    assert_int_equal(set.count, 0);
    arena_release(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_chunking),
        cmocka_unit_test(test_min_tokens),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_bounds_and_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
