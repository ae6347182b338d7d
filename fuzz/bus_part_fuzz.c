/* Payloads from anywhere on the bus: the input is a row of them, each with its length before it.
 * Headers are read and parts put together; nothing is read past a payload, what is held stays
 * within the table's bound, and a whole message is exactly what its parts said. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "bus/bus_part.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct bus_part_table *table;
    uint64_t now_us = 0;
    if (bus_part_table_create(3, 1 << 20, 1000, &table)) return 0;
    while (bytes >= 2) {
        size_t length = (size_t) data[0] | (size_t) data[1] << 8;
        data += 2;
        bytes -= 2;
        if (length > bytes) length = bytes;
        uint8_t *payload = malloc(length ? length : 1); /* of its own, so that ASan sees its end */
        if (!payload) break;
        memcpy(payload, data, length);
        data += length;
        bytes -= length;
        now_us += length;
        struct bus_part part;
        if (!bus_part_read(payload, length, &part)) {
            uint8_t again[BUS_PART_HEADER_BYTES];
            bus_part_write(&part, again);
            if (memcmp(again, payload, sizeof again) != 0) abort();
            uint8_t *whole = NULL;
            size_t body_bytes = length - sizeof again;
            if (part.part_count > 1)
                bus_part_table_add(table, &part, payload + sizeof again, body_bytes, now_us,
                                   &whole);
            if (whole && memcmp(whole + part.offset, payload + sizeof again, body_bytes) != 0)
                abort();
            alloc_free(whole);
        }
        free(payload);
    }
    bus_part_table_destroy(table);
    return 0;
}
