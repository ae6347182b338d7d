/* fake_bus - see fake_bus.h.  A heap by (due time, number). */
#include "fake_bus.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define LISTENERS_MAX 64u

struct parcel {
    uint64_t due_us, number, from, to;
    enum bus_subject subject;
    uint8_t *data; /* owned */
    size_t bytes;
};

struct fake_bus {
    struct fake_bus_options options;
    uint64_t random;
    struct {
        uint64_t instance;
        unsigned subjects;
    } listeners[LISTENERS_MAX];
    uint32_t listener_count;
    struct parcel *heap;
    size_t count, room;
    uint64_t number_last, number_taken;
    uint8_t *taken; /* the data handed out last */
    struct fake_bus_counts counts;
};

static uint32_t draw(struct fake_bus *bus, uint32_t below) {
    bus->random += 0x9e3779b97f4a7c15u;
    uint64_t z = bus->random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t) ((z >> 33) % below);
}

struct fake_bus *fake_bus_create(const struct fake_bus_options *options) {
    struct fake_bus *bus = calloc(1, sizeof *bus);
    CHECK(bus);
    bus->options = *options;
    bus->random = options->seed;
    return bus;
}

void fake_bus_destroy(struct fake_bus *bus) {
    for (size_t i = 0; i < bus->count; i++) free(bus->heap[i].data);
    free(bus->heap);
    free(bus->taken);
    free(bus);
}

void fake_bus_listen(struct fake_bus *bus, uint64_t instance, unsigned subjects) {
    CHECK(bus->listener_count < LISTENERS_MAX);
    bus->listeners[bus->listener_count].instance = instance;
    bus->listeners[bus->listener_count++].subjects = subjects;
}

void fake_bus_leave(struct fake_bus *bus, uint64_t instance) {
    for (uint32_t i = 0; i < bus->listener_count; i++)
        if (bus->listeners[i].instance == instance)
            bus->listeners[i--] = bus->listeners[--bus->listener_count];
}

static bool is_before(const struct parcel *a, const struct parcel *b) {
    return a->due_us != b->due_us ? a->due_us < b->due_us : a->number < b->number;
}

static void put(struct fake_bus *bus, struct parcel parcel) {
    if (bus->count == bus->room) {
        bus->room = bus->room ? bus->room * 2 : 256;
        bus->heap = realloc(bus->heap, bus->room * sizeof *bus->heap);
        CHECK(bus->heap);
    }
    size_t at = bus->count++;
    for (; at > 0 && is_before(&parcel, &bus->heap[(at - 1) / 2]); at = (at - 1) / 2)
        bus->heap[at] = bus->heap[(at - 1) / 2];
    bus->heap[at] = parcel;
}

static struct parcel pop(struct fake_bus *bus) {
    struct parcel top = bus->heap[0], last = bus->heap[--bus->count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= bus->count) break;
        if (child + 1 < bus->count && is_before(&bus->heap[child + 1], &bus->heap[child])) child++;
        if (!is_before(&bus->heap[child], &last)) break;
        bus->heap[at] = bus->heap[child];
        at = child;
    }
    bus->heap[at] = last;
    return top;
}

static void send_to(struct fake_bus *bus, uint64_t now_us, uint64_t from, enum bus_subject subject,
                    uint64_t to, const void *data, size_t bytes) {
    bus->counts.sent++;
    if (draw(bus, 1000) < bus->options.lost_per_mille) {
        bus->counts.lost++;
        return;
    }
    uint32_t copies = 1;
    if (draw(bus, 1000) < bus->options.doubled_per_mille) {
        copies = 2;
        bus->counts.doubled++;
    }
    for (uint32_t i = 0; i < copies; i++) {
        uint8_t *copy = malloc(bytes ? bytes : 1);
        CHECK(copy);
        memcpy(copy, data, bytes);
        /* Some second copies come very late: when what they ask for is long over. */
        uint32_t factor = i > 0 && draw(bus, 4) == 0 ? 40 : 1;
        uint64_t delay_us = (uint64_t) factor * draw(bus, bus->options.delay_us_max + 1);
        put(bus, (struct parcel){.due_us = now_us + 1 + delay_us,
                                 .number = ++bus->number_last,
                                 .from = from,
                                 .to = to,
                                 .subject = subject,
                                 .data = copy,
                                 .bytes = bytes});
    }
}

void fake_bus_send(struct fake_bus *bus, uint64_t now_us, uint64_t from, enum bus_subject subject,
                   uint64_t to, const void *data, size_t bytes) {
    if (subject == BUS_INBOX) {
        send_to(bus, now_us, from, subject, to, data, bytes);
        return;
    }
    for (uint32_t i = 0; i < bus->listener_count; i++)
        if (bus->listeners[i].instance != from && bus->listeners[i].subjects & (1u << subject))
            send_to(bus, now_us, from, subject, bus->listeners[i].instance, data, bytes);
}

static bool is_listening(const struct fake_bus *bus, uint64_t instance) {
    for (uint32_t i = 0; i < bus->listener_count; i++)
        if (bus->listeners[i].instance == instance) return true;
    return false;
}

bool fake_bus_take(struct fake_bus *bus, uint64_t now_us, uint64_t *to,
                   struct bus_message *message) {
    while (bus->count > 0 && bus->heap[0].due_us <= now_us) {
        struct parcel parcel = pop(bus);
        if (parcel.number < bus->number_taken) bus->counts.reordered++;
        else bus->number_taken = parcel.number;
        free(bus->taken);
        bus->taken = parcel.data;
        if (!is_listening(bus, parcel.to)) continue;
        *to = parcel.to;
        *message = (struct bus_message){parcel.subject, parcel.from, parcel.data, parcel.bytes};
        return true;
    }
    return false;
}

uint64_t fake_bus_next_us(const struct fake_bus *bus) {
    return bus->count ? bus->heap[0].due_us : UINT64_MAX;
}

void fake_bus_get_counts(const struct fake_bus *bus, struct fake_bus_counts *out) {
    *out = bus->counts;
}
