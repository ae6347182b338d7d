/* Goal: addresses and headers come back as they were written, and nothing else is read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "xfer/xfer_wire.h"
#include "xfer_rig.h"

static uint64_t random_state;
static void fill(void *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) ((uint8_t *) data)[i] = (uint8_t) rig_random(&random_state);
}

static void test_addresses(void **state) {
    for (uint32_t round = 0; round < 200; round++) {
        struct xfer_wire_address address, again;
        memset(&address, 0, sizeof address);
        address.host = rig_random(&random_state);
        address.network = rig_random(&random_state);
        for (uint32_t i = 0; i < XFER_WIRE_LANES; i++) {
            address.lane_bytes[i] = rig_draw(&random_state, 340);
            fill(address.lanes[i], address.lane_bytes[i]);
        }
        char text[XFER_ADDRESS_BYTES], spoilt[XFER_ADDRESS_BYTES];
        assert_int_equal(xfer_wire_write_address(&address, text), ERR_OK);
        assert_int_equal(strncmp(text, "ucx:", 4), 0);
        assert_int_equal(xfer_wire_read_address(text, &again), ERR_OK);
        assert_memory_equal(&address, &again, sizeof address);
        size_t length = strlen(text);
        memcpy(spoilt, text, length + 1);
        spoilt[rig_draw(&random_state, (uint32_t) length)] = '!';
        assert_int_equal(xfer_wire_read_address(spoilt, &again), ERR_FORMAT);
        memcpy(spoilt, text, length + 1);
        uint32_t at = 4 + rig_draw(&random_state, (uint32_t) length - 4);
        spoilt[at] = spoilt[at] == 'A' ? 'B' : 'A';
        assert_int_not_equal(xfer_wire_read_address(spoilt, &again), ERR_OK);
        memcpy(spoilt, text, length + 1);
        spoilt[4 + rig_draw(&random_state, (uint32_t) length - 4)] = '\0';
        assert_int_equal(xfer_wire_read_address(spoilt, &again), ERR_FORMAT);
    }
}

static void test_address_limit(void **state) {
    static struct xfer_wire_address address;
    char text[XFER_ADDRESS_BYTES];
    uint32_t most = 0;
    for (uint32_t bytes = 0; bytes <= XFER_WIRE_ADDRESS_BYTES; bytes++) {
        address.lane_bytes[XFER_LANE_TCP] = bytes;
        if (xfer_wire_write_address(&address, text) == ERR_OK) {
            assert_true(strlen(text) < XFER_ADDRESS_BYTES);
            most = bytes;
        }
    }
    assert_in_range(most, 700, XFER_WIRE_ADDRESS_BYTES);
    address.lane_bytes[XFER_LANE_TCP] = most + 1;
    assert_int_equal(xfer_wire_write_address(&address, text), ERR_LIMIT);
    assert_int_equal(xfer_wire_read_address("", &address), ERR_FORMAT);
    assert_int_equal(xfer_wire_read_address("local:1-1", &address), ERR_FORMAT);
    assert_int_equal(xfer_wire_read_address("ucx:", &address), ERR_FORMAT);
    char *longest = malloc(4 * XFER_ADDRESS_BYTES);
    memset(longest, 'A', 4 * XFER_ADDRESS_BYTES - 1);
    longest[4 * XFER_ADDRESS_BYTES - 1] = '\0';
    memcpy(longest, "ucx:", 4);
    assert_int_equal(xfer_wire_read_address(longest, &address), ERR_FORMAT);
    free(longest);
}

static void test_hellos(void **state) {
    uint8_t bytes[XFER_HELLO_BYTES + 1];
    struct xfer_hello hello, again;
    memset(&hello, 0, sizeof hello);
    hello = (struct xfer_hello){.kind = XFER_WELCOME, .lane = XFER_LANE_TCP, .dial = 7, .echo = 9};
    snprintf(hello.address, sizeof hello.address, "ucx:abc");
    size_t size = xfer_wire_write_hello(&hello, bytes);
    assert_int_equal(xfer_wire_read_hello(bytes, size, &again), ERR_OK);
    assert_int_equal(again.kind, XFER_WELCOME);
    assert_int_equal(again.dial, 7);
    assert_int_equal(again.echo, 9);
    assert_string_equal(again.address, "ucx:abc");
    for (size_t i = 0; i < size; i++)
        assert_int_not_equal(xfer_wire_read_hello(bytes, i, &again), ERR_OK);
    assert_int_equal(xfer_wire_read_hello(bytes, size + 1, &again), ERR_FORMAT);
    bytes[1] = 9;
    assert_int_equal(xfer_wire_read_hello(bytes, size, &again), ERR_FORMAT);
    bytes[1] = XFER_HELLO;
    bytes[0] = XFER_WIRE_VERSION - 1;
    assert_int_equal(xfer_wire_read_hello(bytes, size, &again), ERR_UNSUPPORTED);
}

static void test_headers(void **state) {
    static struct xfer_header header, again;
    uint8_t bytes[XFER_HEADER_BYTES + 1];
    for (uint32_t count = 1; count <= XFER_ENTRIES_MAX; count++) {
        memset(&header, 0, sizeof header);
        memset(&again, 0, sizeof again);
        header.dial = rig_random(&random_state);
        fill(&header.id, sizeof header.id);
        header.has_checksum = count % 2;
        if (header.has_checksum) header.checksum = rig_random(&random_state);
        header.entry_count = count;
        for (uint32_t i = 0; i < count; i++) {
            struct xfer_entry *entry = &header.entries[i];
            entry->piece = (uint32_t) rig_random(&random_state);
            entry->part = (uint32_t) rig_random(&random_state);
            entry->source_rank = (uint16_t) rig_random(&random_state);
            entry->target_rank = (uint16_t) rig_random(&random_state);
            entry->at = rig_random(&random_state);
            entry->bytes = (uint32_t) rig_random(&random_state);
        }
        size_t size = xfer_wire_write_header(&header, bytes);
        assert_int_equal(xfer_wire_read_header(bytes, size, &again), ERR_OK);
        assert_memory_equal(&header.id, &again.id, sizeof header.id);
        assert_int_equal(header.dial, again.dial);
        assert_int_equal(header.checksum, again.checksum);
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(header.entries[i].piece, again.entries[i].piece);
            assert_int_equal(header.entries[i].part, again.entries[i].part);
            assert_int_equal(header.entries[i].at, again.entries[i].at);
            assert_int_equal(header.entries[i].bytes, again.entries[i].bytes);
        }
        assert_int_equal(xfer_wire_read_header(bytes, size - 1, &again), ERR_FORMAT);
        assert_int_equal(xfer_wire_read_header(bytes, size + 1, &again), ERR_FORMAT);
        assert_int_equal(xfer_wire_read_header(bytes, rig_draw(&random_state, 56), &again),
                         ERR_FORMAT);
    }
}

int main(void) {
    random_state = (uint64_t) time(NULL);
    printf("seed %llu\n", (unsigned long long) random_state);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_address_limit),
        cmocka_unit_test(test_hellos),
        cmocka_unit_test(test_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
