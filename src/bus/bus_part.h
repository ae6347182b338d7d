/* bus_part - what stands before each message on a wire, and messages put together of parts.
 *
 * A server carries payloads up to a limit; a longer message goes in parts, each with a header of
 * its own: (magic, part, part_count, sender's instance, message number, total bytes, offset).  A
 * message of one part has the same header.
 *
 * Parts of one sender come in order.  A gap loses the whole message, so does waiting too long for
 * the next part, and no more is ever allocated than twice what has come.  Foreign bytes: every
 * field is checked.  No lock, no clock of its own. */
#ifndef GRAMME_BUS_BUS_PART_H
#define GRAMME_BUS_BUS_PART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define BUS_PART_HEADER_BYTES 32u
#define BUS_PART_COUNT_MAX 65535u

struct bus_part {
    uint64_t from;   /* the sender's instance, never 0 */
    uint64_t number; /* of the message, the sender's own count */
    uint32_t part, part_count;
    uint32_t total_bytes, offset;
};

void bus_part_write(const struct bus_part *part, uint8_t *header);
/* ERR_FORMAT: no header, or its fields contradict each other or the bytes behind it. */
MUST_USE enum err bus_part_read(const uint8_t *data, size_t bytes, struct bus_part *out);

struct bus_part_table;

/* At most open_max messages begun and not ended, and bytes_max in all of them; one whose next part
 * does not come within age_us is lost. */
MUST_USE enum err bus_part_table_create(uint32_t open_max, size_t bytes_max, uint64_t age_us,
                                        struct bus_part_table **out);
void bus_part_table_destroy(struct bus_part_table *table);
/* One part of a message of several (part_count > 1), its body copied.  *message_out is the whole
 * message, part->total_bytes long and the caller's (alloc_free), when this was the last part,
 * else NULL. */
void bus_part_table_add(struct bus_part_table *table, const struct bus_part *part,
                        const uint8_t *body, size_t body_bytes, uint64_t now_us,
                        uint8_t **message_out);
/* Messages given up so far. */
uint64_t bus_part_table_lost(const struct bus_part_table *table);

#endif
