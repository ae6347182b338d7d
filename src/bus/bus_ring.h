/* bus_ring - messages in one piece of memory, first in first out.
 *
 * No lock: whoever shares a ring holds one around each call.  A record never wraps, and the one
 * last taken stays where it is until the next take, so that nobody copies it. */
#ifndef GRAMME_BUS_BUS_RING_H
#define GRAMME_BUS_BUS_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct bus_record {
    uint32_t subject; /* enum bus_subject */
    uint32_t bytes;   /* of the data behind it */
    uint64_t from, to;
};

struct bus_ring {
    uint8_t *memory; /* owned */
    size_t bytes;
    uint32_t messages_max;
    size_t head; /* of the oldest record */
    size_t used_bytes;
    uint32_t message_count; /* the one last taken counts until the next take */
    size_t taken_bytes;     /* of the record last taken */
};

/* bytes: at least BUS_RING_BYTES_MIN, below 4 GiB. */
#define BUS_RING_BYTES_MIN (4 * sizeof(struct bus_record))
MUST_USE enum err bus_ring_init(struct bus_ring *ring, uint32_t messages_max, size_t bytes);
void bus_ring_release(struct bus_ring *ring);
/* The most data of one record. */
size_t bus_ring_data_bytes_max(const struct bus_ring *ring);
/* Copies the data behind front_bytes of room that the reader will fill (record->bytes counts both).
 * ERR_BUSY: full now.  ERR_LIMIT: never fits. */
enum err bus_ring_put(struct bus_ring *ring, const struct bus_record *record, size_t front_bytes,
                      const void *data);
/* false: nothing there.  The data is the reader's to write to, until the next take. */
MUST_USE bool bus_ring_take(struct bus_ring *ring, struct bus_record *record, uint8_t **data);

#endif
