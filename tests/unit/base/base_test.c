/* Goal: the small pieces of base hold their promises at their edges: buf and arena limits, err
 * sentences, and the arena that compares with its plan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/buf.h"
#include "base/mem.h"

static void test_buf_keeps_its_first_error(void **state) {
    (void) state;
    struct buf buf;
    buf_init(&buf, 10);
    buf_add_string(&buf, "12345");
    buf_add_format(&buf, "%d", 67890);
    assert_int_equal(buf_error(&buf), ERR_OK);
    assert_string_equal(buf_string(&buf), "1234567890");
    buf_add_byte(&buf, 'x');
    assert_int_equal(buf_error(&buf), ERR_LIMIT);
    assert_null(buf_string(&buf));
    buf_clear(&buf);
    assert_int_equal(buf_error(&buf), ERR_OK);
    buf_release(&buf);
}

static void test_json_escapes(void **state) {
    (void) state;
    struct buf buf;
    buf_init(&buf, 0);
    static const char text[] = "a\"b\\c\n\x01\x1f\xc3\xa9";
    buf_add_json_escaped(&buf, text, sizeof text - 1);
    assert_string_equal(buf_string(&buf), "a\\\"b\\\\c\\n\\u0001\\u001f\xc3\xa9");
    buf_release(&buf);
}

static void test_arena_limit_and_alignment(void **state) {
    (void) state;
    struct arena arena;
    arena_init(&arena, 100000);
    for (size_t n = 1; n < 300; n++) {
        char *at = arena_take(&arena, n);
        assert_non_null(at);
        assert_int_equal((uintptr_t) at % 16, 0);
        memset(at, 1, n);
    }
    assert_null(arena_take(&arena, 100000));
    assert_null(arena_take(&arena, SIZE_MAX));
    assert_string_equal(arena_copy(&arena, "word", 4), "word");
    arena_release(&arena);
}

/* What is kept serves the next round without an allocation; what is large is not kept. */
static void test_arena_clear_keeps_moderate_memory(void **state) {
    (void) state;
    struct arena arena;
    arena_init(&arena, 0);
    arena_clear(&arena);
    for (uint32_t i = 0; i < 100; i++) assert_non_null(arena_take(&arena, 100));
    arena_clear(&arena);
    assert_int_equal(arena.taken_bytes, 0);
    alloc_fail_at(1, 0);
    char *at = arena_take(&arena, 5000);
    alloc_fail_at(0, 0);
    assert_non_null(at);
    memset(at, 1, 5000);
    assert_non_null(arena_take(&arena, 1000000));
    arena_clear(&arena);
    assert_null(arena.chunks);
    arena_release(&arena);
}

static void test_err_prefix_keeps_the_sentence(void **state) {
    (void) state;
    struct err_text text;
    assert_int_equal(err_set(&text, ERR_FORMAT, "byte %d", 7), ERR_FORMAT);
    err_prefix(&text, "file %s", "a.gguf");
    assert_string_equal(text.text, "file a.gguf: byte 7");
}

static void test_mem_holds_boot_to_the_plan(void **state) {
    (void) state;
    struct mem_plan plan = {0};
    struct err_text text = {0};
    mem_plan_add(&plan, MEM_WEIGHTS, 1000, "layers");
    mem_plan_add(&plan, MEM_KV, 5000, "kv");
    mem_plan_add(&plan, MEM_WEIGHTS, 24, "layers");
    assert_int_equal(mem_plan_total(&plan), 6024);
    assert_int_equal(mem_plan_kind_total(&plan, MEM_WEIGHTS), 1024);
    struct mem *mem = NULL;
    void *at = NULL;
    assert_int_equal(mem_create(&plan, 6023, &text, &mem), ERR_OK);
    assert_int_equal(mem_take(mem, "layers", 1024, &text, &at), ERR_OK);
    assert_int_equal(mem_take(mem, "kv", 5000, &text, &at), ERR_NO_ROOM);
    assert_string_equal(text.text, "kv needs 5000 bytes and 4999 bytes of the budget of 6023 bytes "
                                   "are free");
    mem_destroy(mem);
    assert_int_equal(mem_create(&plan, 6024, &text, &mem), ERR_OK);
    assert_int_equal(mem_take(mem, "layers", 1000, &text, &at), ERR_OK);
    assert_int_equal(((uint8_t *) at)[999], 0);
    assert_int_equal(mem_take(mem, "layers", 25, &text, &at), ERR_NO_ROOM);
    assert_int_equal(mem_take(mem, "staging", 1, &text, &at), ERR_NOT_FOUND);
    assert_int_equal(mem_seal(mem, &text), ERR_NO_ROOM);
    assert_non_null(strstr(text.text, "layers"));
    assert_int_equal(mem_take(mem, "layers", 24, &text, &at), ERR_OK);
    assert_int_equal(mem_take(mem, "kv", 5000, &text, &at), ERR_OK);
    assert_int_equal(mem_seal(mem, &text), ERR_OK);
    assert_int_equal(mem_taken_bytes(mem), 6024);
    assert_int_equal(mem_free_bytes(mem), 0);
    mem_prefault(mem);
    mem_destroy(mem);
}

/* Two ranks on one device; a buffer filled in stages; a line that is no memory of the arena. */
static void test_mem_stages(void **state) {
    struct mem_plan plan = {0};
    struct err_text text = {0};
    mem_plan_add(&plan, MEM_WEIGHTS, 3 * 4096, "layers");
    mem_plan_add(&plan, MEM_CONTEXT, 100, "process");
    plan.lines[1].is_outside = true;
    struct mem *first = NULL, *second = NULL;
    assert_int_equal(mem_create(&plan, 6 * 4096 + 100, &text, &first), ERR_OK);
    assert_int_equal(mem_create(&plan, 7, &text, &second), ERR_OK);
    mem_join(second, first);
    void *at = NULL, *other = NULL;
    assert_int_equal(mem_map(first, "process", &text, &at), ERR_NOT_FOUND);
    assert_int_equal(mem_take(first, "process", 100, &text, &at), ERR_NOT_FOUND);
    assert_int_equal(mem_claim(first, "process", 100, &text), ERR_OK);
    assert_int_equal(mem_map(first, "layers", &text, &at), ERR_OK);
    assert_int_equal(mem_map(second, "layers", &text, &other), ERR_OK);
    assert_int_equal(mem_free_bytes(first), 6 * 4096);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mem_claim(first, "layers", 4096, &text), ERR_OK);
        assert_int_equal(mem_claim(second, "layers", 4096, &text), ERR_OK);
    }
    memset(at, 1, 3 * 4096);
    mem_prefault_range((uint8_t *) at + 5000, 5000);
    assert_int_equal(((uint8_t *) at)[3 * 4096 - 1], 1);
    assert_int_equal(mem_claim(first, "layers", 1, &text), ERR_NO_ROOM);
    assert_int_equal(mem_claim(second, "process", 100, &text), ERR_NO_ROOM);
    assert_int_equal(mem_seal(second, &text), ERR_OK); /* outside it may be less */
    assert_int_equal(mem_seal(first, &text), ERR_OK);
    mem_destroy(second);
    mem_destroy(first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf_keeps_its_first_error),
        cmocka_unit_test(test_json_escapes),
        cmocka_unit_test(test_arena_limit_and_alignment),
        cmocka_unit_test(test_arena_clear_keeps_moderate_memory),
        cmocka_unit_test(test_err_prefix_keeps_the_sentence),
        cmocka_unit_test(test_mem_holds_boot_to_the_plan),
        cmocka_unit_test(test_mem_stages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
