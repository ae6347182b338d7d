/* bus_nats - see bus.h.  The NATS body: one connection and one bus thread a process, for all ports.
 *
 * The bus thread alone connects, subscribes, publishes and reads.  A port's owner puts messages
 * into the send ring and never waits for a socket.  What arrived goes as nats' own memory to the
 * port's queue, all that one read brought with one wake-up: bus_take gives it out without a copy.
 * nats.c sorts a read's messages by subject; their numbers put each sender's in order again, for a
 * LOAD speaks of the tokens before it and not of those behind.
 *
 * Here: created and destroyed.  bus_nats_impl.h says where the rest is, and the order of locks. */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "bus/bus_nats_impl.h"

#define PARTS_OPEN_MAX 32u
#define PARTS_AGE_US 5000000u
#define DESTROY_WAIT_MS 5000u /* for nats.c's last callbacks */

size_t bus_nats_message_bytes_max(const struct bus *base) {
    const struct bus_nats *bus = (const struct bus_nats *) base;
    return bus->ring_bytes_max - sizeof(struct bus_record) - BUS_PART_HEADER_BYTES;
}

static bool nats_is_connected(const struct bus *base) {
    return atomic_load(&((const struct bus_nats *) base)->is_connected);
}

/* --- create, destroy -------------------------------------------------------------------------- */

static void release_bus(struct bus_nats *bus) {
    natsOptions_Destroy(bus->options);
    bus_part_table_destroy(bus->parts);
    bus_ring_release(&bus->ring);
    if (bus->kick_fd >= 0) close(bus->kick_fd);
    pthread_mutex_destroy(&bus->lock);
    pthread_rwlock_destroy(&bus->ports_lock);
    alloc_free(bus->url);
    alloc_free(bus);
}

static void nats_destroy(struct bus *base) {
    struct bus_nats *bus = (struct bus_nats *) base;
    CHECK(!bus->ports);
    pthread_mutex_lock(&bus->lock);
    bus->must_stop = true;
    pthread_mutex_unlock(&bus->lock);
    bus_nats_thread_kick(bus);
    pthread_join(bus->thread, NULL);
    /* nats.c may still be inside a callback of ours. */
    for (uint32_t ms = 0; atomic_load(&bus->closing_count) > 0 && ms < DESTROY_WAIT_MS; ms++)
        nats_Sleep(1);
    if (atomic_load(&bus->closing_count) == 0) release_bus(bus);
    else log_warn("bus: nats keeps its threads; %zu bytes are left to it", sizeof *bus);
}

static const struct bus_ops nats_ops = {
    .destroy = nats_destroy,
    .is_connected = nats_is_connected,
    .message_bytes_max = bus_nats_message_bytes_max,
    .port_open = bus_nats_port_open,
    .port_close = bus_nats_port_close,
    .send = bus_nats_port_send,
    .take = bus_nats_port_take,
    .lost = bus_nats_port_lost,
    .lossy_count = bus_nats_port_lossy_count,
};

/* nats.c frees messages, counts pings and calls back on threads of its own.  None of that may
 * interrupt whoever is at work: as batch threads they wait for their turn, and a batch of messages
 * given back wakes one of them once instead of once a message (0.5 us of a streamed token).  They
 * inherit it from the thread that opens the library. */
static natsStatus open_library(void) {
    struct sched_param none = {0}, before;
    int policy = sched_getscheduler(0);
    bool has_policy = policy == SCHED_OTHER && sched_getparam(0, &before) == 0 &&
                      sched_setscheduler(0, SCHED_BATCH, &none) == 0;
    natsStatus s = nats_Open(-1);
    if (has_policy) (void) sched_setscheduler(0, policy, &before);
    return s;
}

static enum err init_bus(struct bus_nats *bus, const struct bus_nats_options *o,
                         struct err_text *text) {
    const char *no_memory = "no memory for the bus";
    bus->prefix_bytes =
        (size_t) snprintf(bus->prefix, sizeof bus->prefix, "gramme.%s.", o->name_space);
    bus->ring_messages_max = o->ring_messages_max;
    bus->ring_bytes_max = o->ring_bytes_max;
    bus->url = alloc_string(o->url, strlen(o->url));
    if (!bus->url) return err_set(text, ERR_MEMORY, "%s", no_memory);
    enum err e = bus_ring_init(&bus->ring, o->ring_messages_max, o->ring_bytes_max);
    if (!e) e = bus_part_table_create(PARTS_OPEN_MAX, o->ring_bytes_max, PARTS_AGE_US, &bus->parts);
    if (e) return err_set(text, e, "%s", no_memory);
    bus->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (bus->kick_fd < 0) return err_set(text, ERR_IO, "the bus's eventfd: %s", strerror(errno));
    natsStatus s = open_library();
    if (s == NATS_OK) s = natsOptions_Create(&bus->options);
    if (s == NATS_OK) s = bus_nats_options_set(bus, o);
    if (s == NATS_NO_MEMORY) return err_set(text, ERR_MEMORY, "%s", no_memory);
    if (s != NATS_OK) {
        natsStatus last;
        const char *why = nats_GetLastError(&last);
        return err_set(text, ERR_USAGE, "the bus at %s: %s", o->url,
                       why && why[0] ? why : natsStatus_GetText(s));
    }
    int failed = pthread_create(&bus->thread, NULL, bus_nats_thread_run, bus);
    if (failed) return err_set(text, ERR_IO, "the bus thread: %s", strerror(failed));
    return ERR_OK;
}

enum err bus_nats_create(const struct bus_nats_options *options, struct err_text *text,
                         struct bus **out) {
    enum err e = bus_nats_options_check(options, text);
    if (e) return e;
    struct bus_nats *bus = alloc_zero(1, sizeof *bus);
    if (!bus) return err_set(text, ERR_MEMORY, "no memory for the bus");
    bus->base.ops = &nats_ops;
    pthread_rwlock_init(&bus->ports_lock, NULL);
    pthread_mutex_init(&bus->lock, NULL);
    atomic_store(&bus->socket, -1);
    bus->kick_fd = -1;
    e = init_bus(bus, options, text);
    if (e) {
        release_bus(bus);
        return e;
    }
    *out = &bus->base;
    return ERR_OK;
}
