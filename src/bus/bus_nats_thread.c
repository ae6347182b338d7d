/* bus_nats_thread - the NATS body's one thread, which alone connects, subscribes, publishes and
 * reads: the event loop that nats.c asks for, a poll of its socket and of kick_fd. */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "bus/bus_nats_impl.h"

#define WRITE_BYTES 262144u /* published before the socket is asked again to take it */
#define FLUSH_WAIT_MS 500u

/* --- kicks, and what nats.c asks of an event loop --------------------------------------------- */

void bus_nats_thread_kick(struct bus_nats *bus) {
    uint64_t one = 1;
    if (!atomic_exchange(&bus->is_waiting, false)) return;
    while (write(bus->kick_fd, &one, sizeof one) < 0 && errno == EINTR) continue;
}

/* What nats.c asks of an event loop.  Of any thread: it connects again on one of its own. */
static natsStatus ev_attach(void **user, void *loop, natsConnection *connection, natsSock socket) {
    struct bus_nats *bus = loop;
    (void) connection;
    *user = bus;
    atomic_store(&bus->wants_write, false);
    atomic_store(&bus->socket, socket);
    bus_nats_thread_kick(bus);
    return NATS_OK;
}

static natsStatus ev_read(void *user, bool is_wanted) {
    struct bus_nats *bus = user;
    if (!is_wanted) atomic_store(&bus->socket, -1);
    return NATS_OK;
}

static natsStatus ev_write(void *user, bool is_wanted) {
    struct bus_nats *bus = user;
    atomic_store(&bus->wants_write, is_wanted);
    if (is_wanted) bus_nats_thread_kick(bus);
    return NATS_OK;
}

/* The last of all, after on_closed: the bus may be gone. */
static natsStatus ev_detach(void *user) {
    (void) user;
    return NATS_OK;
}

natsStatus bus_nats_thread_set_events(struct bus_nats *bus, natsOptions *options) {
    return natsOptions_SetEventLoop(options, bus, ev_attach, ev_read, ev_write, ev_detach);
}

/* --- work ------------------------------------------------------------------------------------- */

static natsStatus publish_parts(struct bus_nats *bus, const char *subject,
                                const struct bus_record *record, uint8_t *data, size_t part_bytes) {
    uint32_t total_bytes = record->bytes - BUS_PART_HEADER_BYTES;
    uint64_t part_count = num_max(1, num_div_up(total_bytes, part_bytes));
    if (part_count > BUS_PART_COUNT_MAX) return NATS_MAX_PAYLOAD;
    struct bus_part part = {.from = record->from,
                            .number = ++bus->message_number,
                            .part_count = (uint32_t) part_count,
                            .total_bytes = total_bytes};
    natsStatus s = NATS_OK;
    for (; part.part < part.part_count && s == NATS_OK; part.part++) {
        /* Each header goes over the end of the part before, which is out already. */
        part.offset = part.part * (uint32_t) part_bytes;
        size_t body_bytes = num_min(part_bytes, total_bytes - part.offset);
        bus_part_write(&part, data + part.offset);
        s = natsConnection_Publish(bus->connection, subject, data + part.offset,
                                   (int) (BUS_PART_HEADER_BYTES + body_bytes));
    }
    return s;
}

/* A failure loses the message, as may happen to any; a lost connection shows in the callbacks. */
static void publish(struct bus_nats *bus, const struct bus_record *record, uint8_t *data) {
    char subject[BUS_NATS_SUBJECT_BYTES];
    bool is_kv = record->subject == BUS_KV;
    bus_nats_subject_write(bus, (enum bus_subject) record->subject,
                           is_kv ? record->from : record->to, subject);
    int64_t payload_max = natsConnection_GetMaxPayload(bus->connection);
    natsStatus s = NATS_MAX_PAYLOAD;
    if (payload_max > 2 * (int64_t) BUS_PART_HEADER_BYTES)
        s = publish_parts(bus, subject, record, data,
                          num_min((uint64_t) payload_max, INT32_MAX) - BUS_PART_HEADER_BYTES);
    if (s != NATS_OK) bus_nats_port_tell_lossy(bus);
}

/* One order or message.  false: there was nothing to do. */
static bool work_once(struct bus_nats *bus, size_t *published_bytes) {
    struct bus_record record;
    uint8_t *data;
    pthread_mutex_lock(&bus->lock);
    bool is_closed = bus->is_closed, has_port_change = bus->has_port_change;
    bool has_message = !is_closed && !has_port_change && bus_ring_take(&bus->ring, &record, &data);
    bus->has_port_change = false;
    pthread_mutex_unlock(&bus->lock);
    if (is_closed) {
        log_warn("bus: nats gave the connection up; it is opened anew");
        bus_nats_link_drop(bus);
        bus_nats_port_tell_lossy(bus);
    } else if (has_port_change) {
        (void) bus_nats_link_follow_ports(bus);
    } else if (has_message) {
        publish(bus, &record, data);
        *published_bytes += record.bytes;
    }
    return is_closed || has_port_change || has_message;
}

/* All there is to do but reading; what a full socket does not take waits in the ring. */
static void work(struct bus_nats *bus) {
    bool has_more = true;
    while (has_more && bus->connection) {
        size_t published_bytes = 0;
        has_more = false;
        if (!atomic_load(&bus->wants_write))
            while (bus->connection && published_bytes < WRITE_BYTES)
                if (!(has_more = work_once(bus, &published_bytes))) break;
        if (!bus->connection || !atomic_load(&bus->wants_write)) continue;
        natsConnection_ProcessWriteEvent(bus->connection);
        if (atomic_load(&bus->wants_write)) has_more = false;
    }
}

/* --- sleep ------------------------------------------------------------------------------------ */

static bool has_order(struct bus_nats *bus) {
    pthread_mutex_lock(&bus->lock);
    bool has = bus->must_stop || bus->is_closed || bus->has_port_change ||
               (bus->ring.message_count > 0 && !atomic_load(&bus->wants_write));
    pthread_mutex_unlock(&bus->lock);
    return has;
}

/* Until there is something to read, to write or an order, or for wait_ms (-1: for ever). */
static void wait_for_work(struct bus_nats *bus, int wait_ms) {
    struct pollfd fds[2] = {{.fd = bus->kick_fd, .events = POLLIN}, {.fd = -1}};
    atomic_store(&bus->is_waiting, true);
    if (bus->connection) {
        bool wants_write = atomic_load(&bus->wants_write);
        fds[1].fd = atomic_load(&bus->socket);
        fds[1].events = (short) (wants_write ? POLLIN | POLLOUT : POLLIN);
        if (has_order(bus)) wait_ms = 0;
    }
    (void) poll(fds, 2, wait_ms);
    atomic_store(&bus->is_waiting, false);
    uint64_t count;
    if (fds[0].revents && read(bus->kick_fd, &count, sizeof count) < 0) DCHECK(errno == EINTR);
    if (fds[1].revents & ~POLLOUT) bus_nats_read(bus);
}

/* What stands in the ring still goes out: a worker's BYE. */
static void say_last(struct bus_nats *bus) {
    uint64_t end_us = clock_now_us() + FLUSH_WAIT_MS * 1000;
    while (bus->connection && atomic_load(&bus->is_connected) && clock_now_us() < end_us) {
        work(bus);
        struct pollfd fd = {.fd = atomic_load(&bus->socket), .events = POLLOUT};
        if (!atomic_load(&bus->wants_write)) break;
        (void) poll(&fd, 1, 1);
    }
}

static bool must_stop(struct bus_nats *bus) {
    pthread_mutex_lock(&bus->lock);
    bool must = bus->must_stop;
    pthread_mutex_unlock(&bus->lock);
    return must;
}

void *bus_nats_thread_run(void *ctx) {
    struct bus_nats *bus = ctx;
    while (!must_stop(bus)) {
        uint64_t retry_ms = 0;
        if (bus->connection) {
            work(bus);
            wait_for_work(bus, -1);
        } else if (!bus_nats_link_connect(bus, &retry_ms)) {
            wait_for_work(bus, (int) retry_ms);
        }
    }
    say_last(bus);
    if (bus->connection) bus_nats_link_drop(bus);
    nats_ReleaseThreadMemory();
    return NULL;
}
