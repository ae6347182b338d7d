/* Goal: groups stay within a node, no device is given twice unless lists ask for it, the freest
 * devices come first, and what has no room is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "plan/place.h"

static struct device_list devices_of(const char *text) {
    struct device_list list;
    struct err_text error;
    assert_int_equal(device_list_parse(text, NULL, &error, &list), ERR_OK);
    return list;
}

/* Every group in one node, no device twice. */
static void check(const struct place *place, const struct device_list *list, bool may_share) {
    uint8_t taken[DEVICE_LIST_MAX] = {0};
    for (uint32_t g = 0; g < place->group_count; g++)
        for (uint32_t i = 0; i < place->groups[g].count; i++) {
            uint32_t device = place->devices[place->groups[g].first + i];
            assert_true(device < list->count);
            assert_int_equal(list->items[device].node, place->groups[g].node);
            if (!may_share) assert_false(taken[device]);
            taken[device] = 1;
        }
    uint32_t idle = 0;
    for (uint32_t i = 0; i < list->count; i++) idle += !taken[i];
    assert_int_equal(idle, place->idle_count);
}

static void test_groups_within_nodes(void **state) {
    (void) state;
    struct device_list list = devices_of("2x(8xA100-40GB)");
    /* Written small first: were they placed so, no node would keep eight. */
    const struct place_request requests[] = {{"PrefillWorker", 4, 1, NULL, 0},
                                             {"VllmWorker", 1, 8, NULL, 0}};
    struct place place;
    struct err_text text;
    assert_int_equal(place_make(requests, 2, &list, &text, &place), ERR_OK);
    check(&place, &list, false);
    assert_int_equal(place.idle_count, 4);
    place_release(&place);
    device_list_release(&list);
}

static void test_no_room(void **state) {
    (void) state;
    struct device_list list = devices_of("2x(4xL4)");
    struct place place;
    struct err_text text = {0};
    const struct place_request many = {"VllmWorker", 3, 3, NULL, 0};
    assert_int_equal(place_make(&many, 1, &list, &text, &place), ERR_NO_ROOM);
    assert_non_null(strstr(text.text, "asks for 9 devices and there are 8"));
    const struct place_request wide = {"VllmWorker", 1, 8, NULL, 0};
    assert_int_equal(place_make(&wide, 1, &list, &text, &place), ERR_NO_ROOM);
    assert_non_null(strstr(text.text, "8 devices of one node"));
    device_list_release(&list);
}

static void test_freest_first(void **state) {
    (void) state;
    struct device_list list = devices_of("4xL4");
    list.items[0].free_bytes = 1;
    list.items[2].free_bytes = 2;
    const struct place_request request = {"VllmWorker", 2, 1, NULL, 0};
    struct place place;
    struct err_text text;
    assert_int_equal(place_make(&request, 1, &list, &text, &place), ERR_OK);
    assert_int_equal(place.devices[0], 1);
    assert_int_equal(place.devices[1], 3);
    place_release(&place);
    device_list_release(&list);
}

static void test_lists(void **state) {
    (void) state;
    struct device_list list = devices_of("8xL4");
    static const uint32_t first[] = {4, 5}, second[] = {5};
    const struct place_request requests[] = {{"VllmWorker", 1, 2, first, 2},
                                             {"PrefillWorker", 1, 1, second, 1}};
    struct place place;
    struct err_text text;
    assert_int_equal(place_make(requests, 2, &list, &text, &place), ERR_OK);
    check(&place, &list, true);
    assert_int_equal(place.shared, 5);
    assert_int_equal(place.shared_a, 0);
    assert_int_equal(place.shared_b, 1);
    place_release(&place);
    assert_int_equal(place_make(requests, 1, &list, &text, &place), ERR_OK);
    assert_int_equal(place.shared, UINT32_MAX);
    place_release(&place);
    static const uint32_t far[] = {8};
    const struct place_request absent = {"VllmWorker", 1, 1, far, 1};
    assert_int_equal(place_make(&absent, 1, &list, &text, &place), ERR_NO_ROOM);
    device_list_release(&list);
}

static void test_no_memory(void **state) {
    (void) state;
    struct device_list list = devices_of("8xL4");
    const struct place_request request = {"VllmWorker", 2, 2, NULL, 0};
    for (uint64_t n = 1; n < 20; n++) {
        struct place place;
        struct err_text text;
        alloc_fail_at(n, 0);
        enum err e = place_make(&request, 1, &list, &text, &place);
        bool is_over = alloc_count() < n;
        alloc_fail_at(0, 0);
        assert_true(e == (is_over ? ERR_OK : ERR_MEMORY));
        if (!e) place_release(&place);
        if (is_over) break;
    }
    device_list_release(&list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups_within_nodes), cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_freest_first),        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
