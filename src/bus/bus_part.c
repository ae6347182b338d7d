/* bus_part - see bus_part.h. */
#include "bus/bus_part.h"

#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

#define MAGIC 0x316d7267u /* "grm1" */
#define FIRST_ROOM_BYTES 65536u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the header is copied as it lies");

struct header {
    uint32_t magic;
    uint16_t part, part_count;
    uint64_t from, number;
    uint32_t total_bytes, offset;
};
_Static_assert(sizeof(struct header) == BUS_PART_HEADER_BYTES, "the header has no gaps");

/* A message begun.  is_lost: it stays only so that its other parts are known as such. */
struct open_message {
    uint64_t from, number;
    uint64_t heard_us;
    uint32_t part_next, part_count, total_bytes;
    uint32_t bytes, room_bytes;
    uint8_t *data; /* owned */
    bool is_used, is_lost;
};

struct bus_part_table {
    uint32_t open_max;
    size_t bytes_max, room_bytes; /* the sum over all */
    uint64_t age_us;
    uint64_t lost_count;
    struct open_message messages[];
};

void bus_part_write(const struct bus_part *part, uint8_t *out) {
    struct header header = {.magic = MAGIC,
                            .part = (uint16_t) part->part,
                            .part_count = (uint16_t) part->part_count,
                            .from = part->from,
                            .number = part->number,
                            .total_bytes = part->total_bytes,
                            .offset = part->offset};
    memcpy(out, &header, sizeof header);
}

enum err bus_part_read(const uint8_t *data, size_t bytes, struct bus_part *out) {
    struct header header;
    if (bytes < sizeof header) return ERR_FORMAT;
    memcpy(&header, data, sizeof header);
    if (header.magic != MAGIC || header.from == 0) return ERR_FORMAT;
    if (header.part >= header.part_count) return ERR_FORMAT;
    if (header.offset > header.total_bytes) return ERR_FORMAT;
    size_t body_bytes = bytes - sizeof header, rest_bytes = header.total_bytes - header.offset;
    bool is_last = header.part + 1u == header.part_count;
    if (is_last ? body_bytes != rest_bytes : body_bytes >= rest_bytes) return ERR_FORMAT;
    if ((header.part == 0) != (header.offset == 0) && header.total_bytes != 0) return ERR_FORMAT;
    if (header.part_count > 1 && body_bytes == 0) return ERR_FORMAT;
    *out = (struct bus_part){.from = header.from,
                             .number = header.number,
                             .part = header.part,
                             .part_count = header.part_count,
                             .total_bytes = header.total_bytes,
                             .offset = header.offset};
    return ERR_OK;
}

enum err bus_part_table_create(uint32_t open_max, size_t bytes_max, uint64_t age_us,
                               struct bus_part_table **out) {
    CHECK(open_max > 0);
    struct bus_part_table *table =
        alloc_zero(1, sizeof *table + open_max * sizeof *table->messages);
    if (!table) return ERR_MEMORY;
    table->open_max = open_max;
    table->bytes_max = bytes_max;
    table->age_us = age_us;
    *out = table;
    return ERR_OK;
}

void bus_part_table_destroy(struct bus_part_table *table) {
    if (!table) return;
    for (uint32_t i = 0; i < table->open_max; i++) alloc_free(table->messages[i].data);
    alloc_free(table);
}

uint64_t bus_part_table_lost(const struct bus_part_table *table) { return table->lost_count; }

static void forget_data(struct bus_part_table *table, struct open_message *message) {
    table->room_bytes -= message->room_bytes;
    alloc_free(message->data);
    message->data = NULL;
    message->room_bytes = 0;
}

static void lose(struct bus_part_table *table, struct open_message *message) {
    if (!message->is_lost) table->lost_count++;
    message->is_lost = true;
    forget_data(table, message);
}

static void close_message(struct bus_part_table *table, struct open_message *message) {
    forget_data(table, message);
    *message = (struct open_message){0};
}

/* The entry of this part's message: the one that is there, or a new one in the place of none, or of
 * the one that has been silent longest. */
static struct open_message *find_or_open(struct bus_part_table *table, const struct bus_part *part,
                                         uint64_t now_us) {
    struct open_message *oldest = &table->messages[0], *unused = NULL;
    for (uint32_t i = 0; i < table->open_max; i++) {
        struct open_message *message = &table->messages[i];
        if (message->is_used && message->from == part->from && message->number == part->number)
            return message;
        if (message->is_used && now_us - message->heard_us > table->age_us) {
            lose(table, message);
            close_message(table, message);
        }
        if (!message->is_used) unused = message;
        else if (message->heard_us < oldest->heard_us) oldest = message;
    }
    if (!unused) {
        lose(table, oldest);
        close_message(table, oldest);
        unused = oldest;
    }
    *unused = (struct open_message){.from = part->from,
                                    .number = part->number,
                                    .part_count = part->part_count,
                                    .total_bytes = part->total_bytes,
                                    .is_used = true};
    return unused;
}

/* Room for what has come and as much again, never past the message's end. */
static bool make_room(struct bus_part_table *table, struct open_message *message,
                      size_t body_bytes) {
    size_t wanted = message->bytes + body_bytes;
    if (wanted <= message->room_bytes) return true;
    size_t room = num_min(message->total_bytes, num_max(2 * wanted, FIRST_ROOM_BYTES));
    if (table->room_bytes - message->room_bytes + room > table->bytes_max) return false;
    uint8_t *data = alloc_resize(message->data, room);
    if (!data) return false;
    table->room_bytes += room - message->room_bytes;
    message->data = data;
    message->room_bytes = (uint32_t) room;
    return true;
}

void bus_part_table_add(struct bus_part_table *table, const struct bus_part *part,
                        const uint8_t *body, size_t body_bytes, uint64_t now_us,
                        uint8_t **message_out) {
    *message_out = NULL;
    struct open_message *message = find_or_open(table, part, now_us);
    bool is_last = part->part + 1 == part->part_count;
    message->heard_us = now_us;
    if (!message->is_lost && part->part < message->part_next) return; /* twice */
    bool is_next = part->part == message->part_next && part->offset == message->bytes &&
                   part->part_count == message->part_count &&
                   part->total_bytes == message->total_bytes;
    if (!message->is_lost && (!is_next || !make_room(table, message, body_bytes)))
        lose(table, message);
    if (message->is_lost) {
        if (is_last) close_message(table, message);
        return;
    }
    memcpy(message->data + message->bytes, body, body_bytes);
    message->bytes += (uint32_t) body_bytes;
    message->part_next++;
    if (!is_last) return;
    *message_out = message->data;
    table->room_bytes -= message->room_bytes;
    *message = (struct open_message){0};
}
