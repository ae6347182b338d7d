/* A handover comes out as it went in, options with their sources; broken files are refused; every
 * failing allocation is an error.  Reports are parsed as they were sent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/alloc.h"
#include "fleet/handover.h"
#include "fleet/report.h"

static const struct handover sample = {.instance = 0xfedcba9876543210u,
                                       .name = "VllmWorker.0",
                                       .url = "nats://127.0.0.1:4222",
                                       .name_space = "g1",
                                       .token = "s3cret with \"quotes\"",
                                       .core_count = 3,
                                       .memory_sharers = 2,
                                       .core_slot = 2,
                                       .system_port = 9100,
                                       .device_bytes = 1ull << 40,
                                       .tells_workers = true};

static struct options *make_options(void) {
    struct options *options = NULL;
    struct err_text text;
    assert_int_equal(options_create(OPTION_SERVE, &options), ERR_OK);
    assert_int_equal(options_set(options, OPT_MODEL, "a b\nc", SOURCE_FILE, "f", &text), ERR_OK);
    assert_int_equal(options_set(options, OPT_PORT, "8001", SOURCE_FLAG, "--port", &text), ERR_OK);
    assert_int_equal(options_set(options, OPT_API_KEY, "one", SOURCE_FLAG, "k", &text), ERR_OK);
    assert_int_equal(options_set(options, OPT_API_KEY, "two", SOURCE_FLAG, "k", &text), ERR_OK);
    assert_int_equal(
        options_set(options, OPT_DRAIN_TIMEOUT, "250ms", SOURCE_ENVIRONMENT, "d", &text), ERR_OK);
    return options;
}

static void test_round_trip(void **state) {
    (void) state;
    struct options *options = make_options(), *out = NULL;
    struct err_text text;
    struct handover handover;
    int fd = -1;
    assert_int_equal(handover_write(&sample, options, &text, &fd), ERR_OK);
    assert_int_equal(options_create(OPTION_FRONTEND, &out), ERR_OK);
    assert_int_equal(handover_read(fd, &handover, out, &text), ERR_OK);
    assert_memory_equal(&handover, &sample, sizeof sample);
    assert_string_equal(options_text(out, OPT_MODEL), "a b\nc");
    assert_int_equal(options_count(out, OPT_PORT), 8001);
    assert_int_equal(options_source(out, OPT_PORT), SOURCE_FLAG);
    assert_int_equal(options_source(out, OPT_MODEL), SOURCE_FILE);
    assert_int_equal(options_list_count(out, OPT_API_KEY), 2);
    assert_string_equal(options_list_item(out, OPT_API_KEY, 1), "two");
    assert_int_equal(options_ms(out, OPT_DRAIN_TIMEOUT), 250);
    assert_false(options_is_set(out, OPT_HOST));
    close(fd);
    options_destroy(out);
    options_destroy(options);
}

static void read_bytes(const char *bytes, size_t count, enum err wanted) {
    int fd = memfd_create("test", MFD_CLOEXEC);
    assert_int_equal(write(fd, bytes, count), count);
    struct options *options = NULL;
    struct handover handover;
    struct err_text text;
    assert_int_equal(options_create(OPTION_WORKER, &options), ERR_OK);
    assert_int_equal(handover_read(fd, &handover, options, &text), wanted);
    options_destroy(options);
    close(fd);
}

static void test_broken(void **state) {
    (void) state;
#define READ(literal, wanted) read_bytes(literal, sizeof literal - 1, wanted)
    READ("", ERR_FORMAT);
    READ("name", ERR_FORMAT);
    READ("name\0", ERR_FORMAT);
    READ("name\0x\0", ERR_OK);
    READ("strange\0x\0", ERR_FORMAT);
    READ("option:9:model\0x\0", ERR_FORMAT);
    READ("option:4:no-such-option\0x\0", ERR_FORMAT);
    READ("option:4:port\0x\0", ERR_OK); /* not one of a worker's */
    READ("option:4:block-size\0many\0", ERR_USAGE);
#undef READ
}

static void test_allocations(void **state) {
    (void) state;
    struct options *options = make_options();
    struct err_text text;
    for (uint64_t n = 1;; n++) {
        int fd = -1;
        struct options *out = NULL;
        struct handover handover;
        alloc_fail_at(n, 0);
        enum err e = handover_write(&sample, options, &text, &fd);
        if (!e) e = options_create(OPTION_WORKER, &out);
        if (!e) e = handover_read(fd, &handover, out, &text);
        uint64_t asked = alloc_count();
        alloc_fail_at(0, 0);
        if (fd >= 0) close(fd);
        options_destroy(out);
        if (asked < n) {
            assert_int_equal(e, ERR_OK);
            break;
        }
        assert_int_equal(e, ERR_MEMORY);
    }
    options_destroy(options);
}

static void test_reports(void **state) {
    (void) state;
    static const struct report reports[] = {
        {.kind = REPORT_LOADING, .done_bytes = 12, .total_bytes = 34, .text = "layers 3 of 4"},
        {.kind = REPORT_READY, .text = "demo on http://127.0.0.1:8000"},
        {.kind = REPORT_FAILED, .is_permanent = true, .text = "no model:\nhere"},
    };
    for (size_t i = 0; i < 3; i++) {
        int ends[2];
        char line[REPORT_LINE_MAX + 1] = {0};
        assert_int_equal(pipe(ends), 0);
        report_send(ends[1], &reports[i]);
        ssize_t got = read(ends[0], line, REPORT_LINE_MAX);
        assert_true(got > 1 && line[got - 1] == '\n');
        line[got - 1] = '\0';
        struct report out;
        assert_true(report_parse(line, &out));
        assert_int_equal(out.kind, reports[i].kind);
        assert_int_equal(out.done_bytes, reports[i].done_bytes);
        assert_int_equal(out.total_bytes, reports[i].total_bytes);
        assert_int_equal(out.is_permanent, reports[i].is_permanent);
        assert_string_equal(out.text, i == 2 ? "no model: here" : reports[i].text);
        close(ends[0]);
        close(ends[1]);
    }
    struct report out;
    static const char *const strange[] = {"",  "L",   "L 1", "L 1 2", "L x 2 y",
                                          "F", "F 1", "X 1", "R"};
    for (size_t i = 0; i < ARRAY_COUNT(strange); i++) assert_false(report_parse(strange[i], &out));
    report_send(-1, &reports[0]);
    assert_true(report_is_permanent(ERR_NO_ROOM));
    assert_false(report_is_permanent(ERR_IO));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_broken),
        cmocka_unit_test(test_allocations), cmocka_unit_test(test_reports)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
