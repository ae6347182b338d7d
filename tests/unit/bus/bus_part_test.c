/* Goal: the header before each message is read back as written and refused when its fields
 * contradict each other; parts in order give the message, and every gap, double, stranger and
 * bound loses one message and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "bus/bus_part.h"

#define HEADER BUS_PART_HEADER_BYTES

static uint8_t pattern(uint64_t number, uint32_t at) { return (uint8_t) (number * 131 + at * 7); }

/* Part `k` of a message of `total` bytes in parts of `size`. */
static struct bus_part part_of(uint64_t from, uint64_t number, uint32_t k, uint32_t total,
                               uint32_t size) {
    return (struct bus_part){.from = from,
                             .number = number,
                             .part = k,
                             .part_count = (total + size - 1) / size,
                             .total_bytes = total,
                             .offset = k * size};
}

static void add(struct bus_part_table *table, struct bus_part part, uint32_t size, uint64_t now_us,
                uint8_t **whole) {
    uint8_t body[4096];
    uint32_t bytes = part.total_bytes - part.offset < size ? part.total_bytes - part.offset : size;
    for (uint32_t i = 0; i < bytes; i++) body[i] = pattern(part.number, part.offset + i);
    bus_part_table_add(table, &part, body, bytes, now_us, whole);
}

static void check_whole(uint8_t *whole, uint64_t number, uint32_t total) {
    assert_non_null(whole);
    for (uint32_t i = 0; i < total; i++) assert_int_equal(whole[i], pattern(number, i));
    alloc_free(whole);
}

static void test_header(void **state) {
    uint8_t data[HEADER + 100] = {0};
    struct bus_part in = {7, 9, 1, 3, 250, 100}, out;
    bus_part_write(&in, data);
    assert_int_equal(bus_part_read(data, HEADER + 100, &out), ERR_OK);
    assert_memory_equal(&in, &out, sizeof in);
    for (size_t cut = 0; cut < HEADER + 1; cut++) /* no header, no body */
        assert_int_equal(bus_part_read(data, cut, &out), ERR_FORMAT);
    const struct bus_part wrong[] = {
        {0, 9, 1, 3, 250, 100}, /* nobody */
        {7, 9, 3, 3, 250, 100}, /* part 3 of 3 */
        {7, 9, 1, 3, 250, 251}, /* past the end */
        {7, 9, 2, 3, 250, 100}, /* the last, and not to the end */
        {7, 9, 1, 3, 250, 150}, /* not the last, and to the end */
        {7, 9, 1, 3, 250, 200}, /* longer than what is left */
        {7, 9, 0, 3, 250, 100}, /* the first, not at 0 */
        {7, 9, 1, 3, 250, 0},   /* not the first, at 0 */
        {7, 9, 0, 1, 250, 0},   /* one part, not whole */
        {7, 9, 0, 0, 100, 0},   /* no part at all */
    };
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        bus_part_write(&wrong[i], data);
        if (!bus_part_read(data, HEADER + 100, &out)) fail_msg("wrong header %zu was taken", i);
    }
    struct bus_part whole = {7, 9, 0, 1, 100, 0}, empty = {7, 9, 0, 1, 0, 0};
    bus_part_write(&whole, data);
    assert_int_equal(bus_part_read(data, HEADER + 100, &out), ERR_OK);
    data[0] ^= 1; /* the magic */
    assert_int_equal(bus_part_read(data, HEADER + 100, &out), ERR_FORMAT);
    bus_part_write(&empty, data);
    assert_int_equal(bus_part_read(data, HEADER, &out), ERR_OK);
}

static void test_in_order(void **state) {
    struct bus_part_table *table;
    assert_int_equal(bus_part_table_create(4, 100000, 1000, &table), ERR_OK);
    uint8_t *whole;
    /* Three senders' messages interleaved, two of them with one number. */
    for (uint32_t k = 0; k < 3; k++) {
        for (uint64_t from = 1; from <= 3; from++) {
            add(table, part_of(from, from == 3 ? 2 : from, k, 2500, 1000), 1000, 5, &whole);
            if (k < 2) assert_null(whole);
            else check_whole(whole, from == 3 ? 2 : from, 2500);
        }
    }
    /* A part twice changes nothing. */
    add(table, part_of(1, 4, 0, 2500, 1000), 1000, 5, &whole);
    add(table, part_of(1, 4, 0, 2500, 1000), 1000, 5, &whole);
    add(table, part_of(1, 4, 1, 2500, 1000), 1000, 5, &whole);
    add(table, part_of(1, 4, 2, 2500, 1000), 1000, 5, &whole);
    check_whole(whole, 4, 2500);
    assert_int_equal(bus_part_table_lost(table), 0);
    bus_part_table_destroy(table);
}

static void test_losses(void **state) {
    struct bus_part_table *table;
    uint8_t *whole;
    assert_int_equal(bus_part_table_create(2, 5000, 1000, &table), ERR_OK);
    /* Part 1 of 4 never comes: one message lost, once. */
    add(table, part_of(1, 1, 0, 4000, 1000), 1000, 0, &whole);
    add(table, part_of(1, 1, 2, 4000, 1000), 1000, 0, &whole);
    add(table, part_of(1, 1, 3, 4000, 1000), 1000, 0, &whole);
    assert_null(whole);
    assert_int_equal(bus_part_table_lost(table), 1);
    /* The beginning never came. */
    add(table, part_of(1, 2, 1, 3000, 1000), 1000, 0, &whole);
    add(table, part_of(1, 2, 2, 3000, 1000), 1000, 0, &whole);
    assert_null(whole);
    assert_int_equal(bus_part_table_lost(table), 2);
    /* Two parts that speak of different messages. */
    add(table, part_of(1, 3, 0, 3000, 1000), 1000, 0, &whole);
    add(table, part_of(1, 3, 1, 4000, 1000), 1000, 0, &whole);
    assert_int_equal(bus_part_table_lost(table), 3);
    add(table, part_of(1, 3, 2, 3000, 1000), 1000, 0, &whole);
    assert_null(whole);
    assert_int_equal(bus_part_table_lost(table), 3);
    /* Too slow: the rest of it is strange when it comes. */
    add(table, part_of(1, 4, 0, 2000, 1000), 1000, 0, &whole);
    add(table, part_of(2, 5, 0, 2000, 1000), 1000, 2000, &whole);
    assert_int_equal(bus_part_table_lost(table), 4);
    add(table, part_of(2, 5, 1, 2000, 1000), 1000, 2000, &whole);
    check_whole(whole, 5, 2000);
    add(table, part_of(1, 4, 1, 2000, 1000), 1000, 2000, &whole);
    assert_null(whole);
    assert_int_equal(bus_part_table_lost(table), 5);
    /* More begun than may be: the oldest goes. */
    for (uint64_t number = 10; number < 13; number++)
        add(table, part_of(1, number, 0, 1500, 1000), 1000, 2000 + number, &whole);
    assert_int_equal(bus_part_table_lost(table), 6);
    add(table, part_of(1, 12, 1, 1500, 1000), 1000, 2020, &whole);
    check_whole(whole, 12, 1500);
    add(table, part_of(1, 11, 1, 1500, 1000), 1000, 2020, &whole);
    check_whole(whole, 11, 1500);
    /* More bytes than may be, and what was held is given back. */
    for (int round = 0; round < 3; round++) {
        for (uint32_t k = 0; k < 8; k++) {
            add(table, part_of(1, 20, k, 8000, 1000), 1000, 2030, &whole);
            assert_null(whole);
        }
        assert_int_equal(bus_part_table_lost(table), 7 + round);
        for (uint32_t k = 0; k < 5; k++)
            add(table, part_of(1, 21, k, 5000, 1000), 1000, 2030, &whole);
        check_whole(whole, 21, 5000);
    }
    bus_part_table_destroy(table);
}

/* A sender that names a giant must send it: nothing is allocated by the number alone. */
static void test_giant(void **state) {
    struct bus_part_table *table;
    uint8_t *whole, body[64] = {0};
    assert_int_equal(bus_part_table_create(8, 8 * 65536, 1000, &table), ERR_OK);
    for (uint64_t number = 1; number <= 8; number++) {
        struct bus_part part = {1, number, 0, 60000, UINT32_MAX, 0};
        bus_part_table_add(table, &part, body, sizeof body, 0, &whole);
    }
    assert_int_equal(bus_part_table_lost(table), 0); /* all eight fit the bound */
    bus_part_table_destroy(table);
}

static void test_no_memory(void **state) {
    for (uint64_t n = 1; n <= 3; n++) {
        struct bus_part_table *table = NULL;
        uint8_t *whole = NULL;
        alloc_fail_at(n, 0);
        enum err e = bus_part_table_create(2, 1 << 20, 1000, &table);
        if (n == 1) assert_int_equal(e, ERR_MEMORY);
        else assert_int_equal(e, ERR_OK);
        if (!e) {
            add(table, part_of(1, 1, 0, 2000, 1000), 1000, 0, &whole);
            add(table, part_of(1, 1, 1, 2000, 1000), 1000, 0, &whole);
            if (n == 2) assert_null(whole);
            else check_whole(whole, 1, 2000);
            assert_int_equal(bus_part_table_lost(table), n == 2);
        }
        alloc_fail_at(0, 0);
        bus_part_table_destroy(table);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header),    cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_losses),    cmocka_unit_test(test_giant),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
