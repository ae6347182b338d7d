/* Lines come out whole however the bytes are cut; over-long ones once, cut; NULs are blanked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "fleet/line_cut.h"

struct seen {
    char text[65536];
    size_t bytes;
    uint32_t count, cut_count;
};

static void on_line(void *ctx, const char *line, size_t bytes, bool is_cut) {
    struct seen *seen = ctx;
    assert_int_equal(strlen(line), bytes);
    assert_true(seen->bytes + bytes + 1 < sizeof seen->text);
    memcpy(seen->text + seen->bytes, line, bytes);
    seen->bytes += bytes;
    seen->text[seen->bytes++] = '\n';
    seen->count++;
    seen->cut_count += is_cut;
}

static void test_pieces(void **state) {
    (void) state;
    static const char text[] = "one\ntwo\n\nthree\nlast";
    for (size_t piece = 1; piece <= sizeof text; piece++) {
        static struct line_cut cut;
        static struct seen seen;
        cut = (struct line_cut){0};
        memset(&seen, 0, sizeof seen);
        for (size_t at = 0; at < sizeof text - 1; at += piece) {
            size_t rest = sizeof text - 1 - at;
            line_cut_feed(&cut, text + at, rest < piece ? rest : piece, on_line, &seen);
        }
        assert_int_equal(seen.count, 4);
        line_cut_end(&cut, on_line, &seen);
        line_cut_end(&cut, on_line, &seen);
        assert_string_equal(seen.text, "one\ntwo\n\nthree\nlast\n");
    }
}

static void test_long(void **state) {
    (void) state;
    static struct line_cut cut;
    static struct seen seen;
    char piece[1000];
    memset(piece, 'x', sizeof piece);
    for (int i = 0; i < 20; i++) line_cut_feed(&cut, piece, sizeof piece, on_line, &seen);
    line_cut_feed(&cut, "\na\0b\n", 5, on_line, &seen);
    assert_int_equal(seen.count, 2);
    assert_int_equal(seen.cut_count, 1);
    assert_int_equal(seen.bytes, LINE_CUT_MAX + 1 + 4);
    assert_memory_equal(seen.text + LINE_CUT_MAX + 1, "a b\n", 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pieces), cmocka_unit_test(test_long)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
