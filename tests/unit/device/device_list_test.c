/* Goal: every form of --devices is read as its user meant it, a wrong one is refused with the
 * column; CUDA_VISIBLE_DEVICES counts as CUDA counts it; the catalogue is sound. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "device/device_list.h"

#define GIB 1073741824.0

static void test_forms(void **state) {
    (void) state;
    static const struct {
        const char *text;
        uint32_t count, nodes;
        enum device_kind kind;
        double gib;
    } rows[] = {
        {"8xcpu:1GiB", 8, 1, DEVICE_CPU, 1},
        {"cpu:512MiB", 1, 1, DEVICE_CPU, 0.5},
        {"16xA100-40GB", 16, 1, DEVICE_CUDA, 39.39},
        {"16xa100_40gb", 16, 1, DEVICE_CUDA, 39.39},
        {"2x(8xH100-80GB)", 16, 2, DEVICE_CUDA, 79.17},
        {"(4xL4),(2xT4,2xL4)", 8, 2, DEVICE_CUDA, 21.95},
        {"4xcuda0:39.39GiB", 4, 1, DEVICE_CUDA, 39.39},
        {"2xH100:40GiB, L40S", 3, 1, DEVICE_CUDA, 40},
        {"16x(8xH100)", 128, 16, DEVICE_CUDA, 79.17},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct device_list list;
        struct err_text text = {0};
        enum err e = device_list_parse(rows[i].text, NULL, &text, &list);
        if (e) fail_msg("%s: %s", rows[i].text, text.text);
        assert_int_equal(list.count, rows[i].count);
        assert_int_equal(list.node_count, rows[i].nodes);
        assert_int_equal(list.items[0].kind, rows[i].kind);
        assert_true((double) list.items[0].total_bytes > rows[i].gib * GIB - 2 &&
                    (double) list.items[0].total_bytes < rows[i].gib * GIB + 2);
        assert_int_equal(list.items[list.count - 1].node, rows[i].nodes - 1);
        device_list_release(&list);
    }
}

static void test_refused(void **state) {
    (void) state;
    static const struct {
        const char *text, *part;
    } rows[] = {
        {"", "column 1"},
        {"8x", "name of a device"},
        {"0xcpu:1G", "count"},
        {"8xcpu", "needs bytes"},
        {"9999xcpu:1G", "count"},
        {"8xH10-80GB", "did you mean H100-80GB"},
        {"A100", "did you mean A100-40GB"},
        {"2x(8xH100", "')' is missing"},
        {"2x(2x(L4))", "node within"},
        {"L4,(L4)", "outside"},
        {"(L4),L4", "outside"},
        {"L4 L4", "',' or the end"},
        {"cuda0", "give its bytes"},
        {"cuda99:1G", "no such card"},
        {"cpu:-1G", "size"},
        {"cpu:nan", "size"},
        {"4096xL4,L4", "more than"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct device_list list;
        struct err_text text = {0};
        assert_true(device_list_parse(rows[i].text, NULL, &text, &list) != ERR_OK);
        if (!strstr(text.text, rows[i].part)) fail_msg("%s: %s", rows[i].text, text.text);
    }
}

static struct device_gpus two_cards(void) {
    struct device_gpus gpus = {.card_count = 2};
    snprintf(gpus.cards[0].uuid, sizeof gpus.cards[0].uuid, "GPU-aaaa-1");
    snprintf(gpus.cards[1].uuid, sizeof gpus.cards[1].uuid, "GPU-aabb-2");
    for (int i = 0; i < 2; i++) {
        gpus.cards[i].total_bytes = (uint64_t) 80 << 30;
        gpus.cards[i].free_bytes = (uint64_t) (70 - i) << 30;
    }
    return gpus;
}

static void test_visible(void **state) {
    (void) state;
    static const struct {
        const char *value;
        int count; /* -1: an error */
        uint32_t first;
    } rows[] = {{NULL, 2, 0},      {"", 0, 0},           {"1", 1, 1},      {"1,0", 2, 1},
                {"-1", 0, 0},      {"1,-1,0", 1, 1},     {"2", -1, 0},     {"GPU-aab", 1, 1},
                {"GPU-aa", -1, 0}, {"gpu-aaaa-1", 1, 0}, {"0,0", -1, 0},   {"all", 2, 0},
                {"none", 0, 0},    {"x", -1, 0},         {" 1 , 0 ", 2, 1}};
    struct device_gpus gpus = two_cards();
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct device_list list;
        struct err_text text = {0};
        enum err e = device_list_of_machine(&gpus, rows[i].value, &text, &list);
        assert_int_equal(e != ERR_OK, rows[i].count < 0);
        if (e) {
            assert_non_null(strstr(text.text, "CUDA_VISIBLE_DEVICES"));
            continue;
        }
        assert_int_equal(list.count, rows[i].count);
        if (list.count) assert_int_equal(list.items[0].ordinal, rows[i].first);
        device_list_release(&list);
    }
    struct device_list list;
    struct err_text text;
    assert_int_equal(device_list_parse("cuda1", &gpus, &text, &list), ERR_OK);
    assert_true(list.items[0].total_bytes == (uint64_t) 80 << 30 &&
                list.items[0].free_bytes == (uint64_t) 69 << 30);
    device_list_release(&list);
}

static void test_catalogue(void **state) {
    (void) state;
    uint32_t count = 0;
    for (const struct device_card *card; (card = device_card_get(count)); count++) {
        assert_ptr_equal(device_card_find(card->name), card);
        assert_true(card->total_bytes > (uint64_t) 14 << 30);
        assert_true(card->read_gb_per_s >= 300 && card->bf16_tflops > 50);
    }
    assert_true(count >= 21);
    assert_null(device_card_find("H1000"));
}

static void test_no_memory(void **state) {
    (void) state;
    for (uint64_t n = 1; n < 20; n++) {
        struct device_list list;
        struct err_text text;
        alloc_fail_at(n, 0);
        enum err e = device_list_parse("2x(8xL4)", NULL, &text, &list);
        bool is_over = alloc_count() < n;
        alloc_fail_at(0, 0);
        assert_true(e == (is_over ? ERR_OK : ERR_MEMORY));
        if (!e) device_list_release(&list);
        if (is_over) return;
    }
    fail();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_visible),   cmocka_unit_test(test_catalogue),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
