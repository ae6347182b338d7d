/* Goal: a look tells what the machine, this process and the cards hold; each warning is given once
 * when it begins, again only after it ended well clear of that, with numbers and who it was; the
 * thread looks by itself and ends when it is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/num.h"
#include "device/device_watch.h"

#define GIB (1ull << 30)
#define MIB (1ull << 20)

static struct device_watch_sample sample_of(uint64_t total, uint64_t available, uint64_t used,
                                            uint64_t planned) {
    return (struct device_watch_sample){.number = 1,
                                        .host = {.total_bytes = total,
                                                 .available_bytes = available,
                                                 .bound = "free memory",
                                                 .used_bytes = used,
                                                 .planned_bytes = planned}};
}

static void test_plan_is_short(void **state) {
    (void) state;
    /* Of 8 GiB planned 3 are used: 5 are counted on. */
    static const struct {
        uint64_t available;
        bool warns;
    } looks[] = {
        {6 * GIB, false},             /* enough */
        {5 * GIB, false},             /* exactly */
        {5 * GIB - 1, true},          /* begins */
        {1 * GIB, false},             /* told */
        {5 * GIB + 100 * MIB, false}, /* not well clear: a tenth of 5 GiB is */
        {4 * GIB, false},             /* so it is still the same */
        {6 * GIB, false},             /* over */
        {4 * GIB, true},              /* begins again */
    };
    struct device_watch_state watch = {{false}};
    for (size_t i = 0; i < ARRAY_COUNT(looks); i++) {
        struct device_watch_sample sample =
            sample_of(16 * GIB, looks[i].available, 3 * GIB, 8 * GIB);
        if (device_watch_judge(&watch, DEVICE_WATCH_PLAN, &sample) != looks[i].warns)
            fail_msg("look %zu", i);
    }
    struct device_watch_sample sample = sample_of(16 * GIB, 4 * GIB, 3 * GIB, 8 * GIB);
    const struct device_watch_holder largest = {42, "browser", 9 * GIB};
    char line[400];
    device_watch_describe(DEVICE_WATCH_PLAN, &sample, &largest, line, sizeof line);
    assert_string_equal(line,
                        "the plan counts on memory that is not there: 5.00 GiB of the planned "
                        "8.00 are yet to be used and 4.00 GiB are left (free memory); the "
                        "largest process beside is browser (pid 42) with 9.00 GiB; free some, or "
                        "start again with less (--max-model-len, --kv-cache-memory-bytes)");
    /* Pages of weights that another worker's figure counts are here all the same. */
    sample.host.lent_bytes = 1 * GIB + 1;
    sample.host.available_bytes = 4 * GIB - 1;
    struct device_watch_state fresh = {{false}};
    assert_false(device_watch_judge(&fresh, DEVICE_WATCH_PLAN, &sample));
    sample.host.available_bytes = 4 * GIB - 2;
    assert_true(device_watch_judge(&fresh, DEVICE_WATCH_PLAN, &sample));
    device_watch_describe(DEVICE_WATCH_PLAN, &sample, NULL, line, sizeof line);
    assert_non_null(strstr(line, ": 4.00 GiB of the planned 8.00 are yet to be used"));
    /* All that was planned is there: nothing is left to lose. */
    sample = sample_of(16 * GIB, 0, 8 * GIB, 8 * GIB);
    assert_false(device_watch_judge(&watch, DEVICE_WATCH_PLAN, &sample));
    sample = sample_of(16 * GIB, 0, 8 * GIB, 0);
    assert_false(device_watch_judge(&watch, DEVICE_WATCH_PLAN, &sample));
}

static void test_other_warnings(void **state) {
    (void) state;
    struct device_watch_state watch = {{false}};
    struct device_watch_sample sample = sample_of(64 * GIB, 256 * MIB - 1, 0, 0);
    assert_true(device_watch_judge(&watch, DEVICE_WATCH_LOW, &sample));
    sample.host.available_bytes = 500 * MIB; /* not twice that */
    assert_false(device_watch_judge(&watch, DEVICE_WATCH_LOW, &sample));
    assert_true(watch.is_warned[DEVICE_WATCH_LOW]);
    sample.host.available_bytes = 513 * MIB;
    assert_false(device_watch_judge(&watch, DEVICE_WATCH_LOW, &sample));
    assert_false(watch.is_warned[DEVICE_WATCH_LOW]);
    /* A small container: 2 % of it. */
    sample = sample_of(1 * GIB, 30 * MIB, 0, 0);
    assert_false(device_watch_judge(&watch, DEVICE_WATCH_LOW, &sample));
    sample.host.available_bytes = 20 * MIB;
    assert_true(device_watch_judge(&watch, DEVICE_WATCH_LOW, &sample));

    sample = sample_of(16 * GIB, 9 * GIB, 2 * GIB + 20 * MIB + 64 * MIB, 2 * GIB);
    assert_false(
        device_watch_judge(&watch, DEVICE_WATCH_DRIFT, &sample)); /* a hundredth, a little */
    sample.host.used_bytes = 3 * GIB;
    sample.host.drift_bytes = 1 * GIB;
    assert_true(device_watch_judge(&watch, DEVICE_WATCH_DRIFT, &sample));
    char line[400];
    device_watch_describe(DEVICE_WATCH_DRIFT, &sample, NULL, line, sizeof line);
    assert_non_null(strstr(line, "uses 3.00 GiB and 2.00 were planned: 1.00 GiB too much"));

    sample = sample_of(16 * GIB, 9 * GIB, 1 * GIB, 2 * GIB);
    sample.host.lent_bytes = 2 * GIB; /* half of all is counted elsewhere, and it is too much */
    watch.is_warned[DEVICE_WATCH_DRIFT] = false;
    assert_true(device_watch_judge(&watch, DEVICE_WATCH_DRIFT, &sample));
}

/* --- a /proc of our own --------------------------------------------------------------------- */

static void put(const char *root, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void put_folder(const char *root, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static void remove_all(const char *root) {
    static const char *const names[] = {
        "meminfo", "self/statm", "self/smaps", "12/statm", "12/comm", "13/statm", "13/comm",
        "77/stat", "self",       "12",         "13",       "77",      ""};
    char path[512];
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        snprintf(path, sizeof path, "%s/%s", root, names[i]);
        remove(path);
    }
}

static void test_cards(void **state) {
    (void) state;
    struct device_watch_options options = {
        .library = FAKE_NVML, .card_count = 2, .card_planned_bytes = {100, 0}};
    static struct device_watch_sample sample;
    device_watch_look(&options, &sample);
    assert_int_equal(sample.card_count, 2);
    const struct device_watch_card *card = &sample.cards[0];
    assert_int_equal(card->total_bytes, 1000);
    assert_int_equal(card->used_bytes, 900);
    assert_int_equal(card->other_bytes, 900);
    assert_int_equal(card->own_bytes, 0);
    assert_string_equal(card->name, "Card 0");
    assert_int_equal(card->largest.pid, 77);
    assert_int_equal(card->largest.bytes, 900);
    assert_int_equal(sample.cards[1].used_bytes, 0);
    /* Held by a child of the family's: ours, and only what nobody is named for is another's. */
    char root[] = "/tmp/gramme_watch_XXXXXX";
    assert_non_null(mkdtemp(root));
    put_folder(root, "77");
    put(root, "77/stat", "77 (a) b) S 4242 77\n");
    const struct device_roots roots = {.proc = root, .cgroup = "/nonexistent"};
    options.roots = &roots;
    for (uint32_t is_family = 0; is_family < 2; is_family++) {
        options.family_pid = is_family ? 4242 : 4241;
        device_watch_look(&options, &sample);
        assert_int_equal(card->own_bytes, is_family ? 900 : 0);
        assert_int_equal(card->other_bytes, is_family ? 0 : 900);
    }
    remove_all(root);
    sample.cards[0].own_bytes = 0;
    sample.cards[0].other_bytes = 900;
    struct device_watch_state watch = {{false}};
    enum device_watch_kind first = DEVICE_WATCH_CARD, second = DEVICE_WATCH_CARD + 1;
    assert_false(device_watch_judge(&watch, first, &sample)); /* 100 are left, as planned */
    sample.cards[0].planned_bytes = 101;
    assert_true(device_watch_judge(&watch, first, &sample));
    assert_false(device_watch_judge(&watch, first, &sample));
    assert_false(device_watch_judge(&watch, second, &sample)); /* nothing is planned there */
    assert_false(device_watch_judge(&watch, DEVICE_WATCH_CARD + 2, &sample)); /* no such card */
    sample.cards[0] = (struct device_watch_card){.total_bytes = 80 * GIB,
                                                 .planned_bytes = 72 * GIB,
                                                 .other_bytes = 20 * GIB,
                                                 .largest = {7, "python", 19 * GIB}};
    char line[400];
    device_watch_describe(first, &sample, NULL, line, sizeof line);
    assert_string_equal(line, "card 0: others hold 20.00 of its 80.00 GiB, most by python pid 7 "
                              "with 19.00 GiB, and 72.00 are planned there: end them, or leave the "
                              "card out with CUDA_VISIBLE_DEVICES");
}

static void test_host(void **state) {
    (void) state;
    char root[] = "/tmp/gramme_watch_XXXXXX";
    assert_non_null(mkdtemp(root));
    put(root, "meminfo", "MemTotal: 1048576 kB\nMemFree: 1 kB\nMemAvailable: 524288 kB\n");
    put_folder(root, "self");
    put_folder(root, "12");
    put_folder(root, "13");
    /* size resident shared, in pages: 200 MiB resident, of them 100 its own */
    put(root, "self/statm", "99999 51200 25600 1 0 1 0\n");
    put(root, "12/statm", "99999 30000 10000 1 0 1 0\n");
    put(root, "12/comm", "small\n");
    put(root, "13/statm", "99999 50000 10000 1 0 1 0\n");
    put(root, "13/comm", "lar\033ge\n");
    const struct device_roots roots = {.proc = root, .cgroup = "/nonexistent"};
    struct device_watch_options options = {
        .roots = &roots, .planned_bytes = 150 * MIB, .is_node = true};
    struct device_watch_sample sample;
    device_watch_look(&options, &sample);
    assert_int_equal(sample.host.total_bytes, 1024 * MIB);
    assert_int_equal(sample.host.available_bytes, 512 * MIB);
    assert_int_equal(sample.host.used_bytes, 200 * MIB);
    assert_int_equal(sample.host.drift_bytes, 50 * MIB);
    assert_int_equal(sample.host.other_bytes, 412 * MIB); /* 512 taken, 100 of them ours */
    struct device_watch_holder largest;
    device_watch_find_largest(&roots, &largest);
    assert_int_equal(largest.pid, 13);
    assert_string_equal(largest.name, "lar?ge");
    assert_int_equal(largest.bytes, 40000ull * (uint64_t) sysconf(_SC_PAGESIZE));
    /* As the plan counts: of a file of weights its share; what is lent is drift all the same. */
    put(root, "self/smaps",
        "10000000-18000000 r--p 00000000 fe:00 7 /models/a.gguf\n"
        "Rss: 102400 kB\nPss: 51200 kB\nShared_Clean: 102400 kB\n"
        "7f0000000000-7f0006400000 rw-p 00000000 00:00 0 \n"
        "Rss: 102400 kB\nPss: 102400 kB\nPrivate_Dirty: 102400 kB\n");
    const struct device_process_range weights = {(void *) 0x10000000, 128 * MIB};
    options.weights = &weights;
    options.weights_count = 1;
    device_watch_look(&options, &sample);
    assert_int_equal(sample.host.used_bytes, 150 * MIB);
    assert_int_equal(sample.host.lent_bytes, 50 * MIB);
    assert_int_equal(sample.host.drift_bytes, 50 * MIB);
    options.planned_bytes = 200 * MIB;
    device_watch_look(&options, &sample);
    assert_int_equal(sample.host.drift_bytes, 0);
    /* A kernel without smaps: resident pages stand for it. */
    put(root, "self/smaps", "gone\n");
    device_watch_look(&options, &sample);
    assert_int_equal(sample.host.used_bytes, 200 * MIB);
    assert_int_equal(sample.host.lent_bytes, 0);
    remove_all(root);
    /* Nothing to read: nothing is said, and nothing breaks. */
    device_watch_look(&options, &sample);
    assert_int_equal(sample.host.used_bytes, 0);
    device_watch_find_largest(&roots, &largest);
    assert_int_equal(largest.pid, 0);
}

struct heard {
    int count;
    char line[400];
};

static void hear(void *ctx, const char *line) {
    struct heard *heard = ctx;
    heard->count++;
    snprintf(heard->line, sizeof heard->line, "%s", line);
}

static void test_thread(void **state) {
    (void) state;
    struct heard heard = {0};
    /* A plan of one byte is passed at once. */
    struct device_watch_options options = {.interval_ms = 1,
                                           .planned_bytes = UINT64_MAX / 4,
                                           .library = FAKE_NVML,
                                           .card_count = 1,
                                           .warn = hear,
                                           .warn_ctx = &heard};
    struct device_watch *watch = NULL;
    static struct device_watch_sample sample;
    assert_int_equal(device_watch_start(&options, &watch), ERR_OK);
    for (int i = 0; i < 10000 && sample.number < 3; i++) {
        device_watch_get(watch, &sample);
        usleep(1000);
    }
    device_watch_stop(watch);
    assert_true(sample.number >= 3);
    assert_true(sample.host.used_bytes > 0 && sample.host.total_bytes > 0);
    assert_int_equal(sample.card_count, 1);
    assert_int_equal(sample.cards[0].used_bytes, 900);
    assert_int_equal(heard.count, 1); /* once, over three looks */
    assert_non_null(strstr(heard.line, "the plan counts on memory that is not there"));
    device_watch_stop(NULL);
}

static void test_no_memory(void **state) {
    (void) state;
    struct device_watch_options options = {.interval_ms = 1, .library = FAKE_NVML, .card_count = 1};
    for (uint64_t n = 1; n < 8; n++) {
        struct device_watch *watch = NULL;
        alloc_fail_at(n, 0);
        enum err e = device_watch_start(&options, &watch);
        usleep(2000);
        device_watch_stop(watch);
        alloc_fail_at(0, 0);
        assert_true(e == ERR_OK || (e == ERR_MEMORY && !watch));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_is_short), cmocka_unit_test(test_other_warnings),
        cmocka_unit_test(test_cards),         cmocka_unit_test(test_host),
        cmocka_unit_test(test_thread),        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
