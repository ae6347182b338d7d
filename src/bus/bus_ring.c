/* bus_ring - see bus_ring.h.  A record is (struct bus_record, data) at a multiple of 8; what is
 * left at the end of the memory begins with SKIP in place of a subject. */
#include "bus/bus_ring.h"

#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

#define RECORD_ALIGN 8u
#define SKIP UINT32_MAX

_Static_assert(offsetof(struct bus_record, subject) == 0 && RECORD_ALIGN >= sizeof(uint32_t),
               "the rest of a ring has room for SKIP");

enum err bus_ring_init(struct bus_ring *ring, uint32_t messages_max, size_t bytes) {
    CHECK(messages_max > 0 && bytes >= BUS_RING_BYTES_MIN && bytes <= UINT32_MAX);
    uint8_t *memory = alloc_bytes(bytes);
    if (!memory) return ERR_MEMORY;
    *ring = (struct bus_ring){.memory = memory,
                              .bytes = bytes & ~(size_t) (RECORD_ALIGN - 1),
                              .messages_max = messages_max};
    return ERR_OK;
}

void bus_ring_release(struct bus_ring *ring) {
    alloc_free(ring->memory);
    *ring = (struct bus_ring){0};
}

size_t bus_ring_data_bytes_max(const struct bus_ring *ring) {
    return ring->bytes - sizeof(struct bus_record);
}

enum err bus_ring_put(struct bus_ring *ring, const struct bus_record *record, size_t front_bytes,
                      const void *data) {
    size_t room = num_round_up(sizeof *record + record->bytes, RECORD_ALIGN);
    if (room > ring->bytes) return ERR_LIMIT;
    if (ring->message_count >= ring->messages_max) return ERR_BUSY;
    size_t tail = (ring->head + ring->used_bytes) % ring->bytes;
    size_t to_end = ring->bytes - tail;
    size_t skipped = room > to_end ? to_end : 0;
    if (ring->used_bytes + skipped + room > ring->bytes) return ERR_BUSY;
    if (skipped) {
        uint32_t subject = SKIP;
        memcpy(ring->memory + tail, &subject, sizeof subject);
        tail = 0;
    }
    memcpy(ring->memory + tail, record, sizeof *record);
    if (record->bytes > front_bytes)
        memcpy(ring->memory + tail + sizeof *record + front_bytes, data,
               record->bytes - front_bytes);
    ring->used_bytes += skipped + room;
    ring->message_count++;
    return ERR_OK;
}

static void drop_head(struct bus_ring *ring, size_t bytes) {
    ring->head = (ring->head + bytes) % ring->bytes;
    ring->used_bytes -= bytes;
    if (ring->used_bytes == 0) ring->head = 0; /* the whole ring in one piece again */
}

bool bus_ring_take(struct bus_ring *ring, struct bus_record *record, uint8_t **data) {
    if (ring->taken_bytes) {
        drop_head(ring, ring->taken_bytes);
        ring->taken_bytes = 0;
        ring->message_count--;
    }
    if (ring->used_bytes == 0) return false;
    uint32_t subject;
    memcpy(&subject, ring->memory + ring->head, sizeof subject);
    if (subject == SKIP) drop_head(ring, ring->bytes - ring->head);
    memcpy(record, ring->memory + ring->head, sizeof *record);
    ring->taken_bytes = num_round_up(sizeof *record + record->bytes, RECORD_ALIGN);
    *data = ring->memory + ring->head + sizeof *record;
    return true;
}
