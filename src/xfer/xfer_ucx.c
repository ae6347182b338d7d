/* xfer_ucx - see xfer_ucx.h: the transfer thread, and what the owner's calls become.
 *
 * The thread turns: commands, UCX's progress, peers.  While something is under way it spins a
 * little, then it arms UCX's event descriptors and sleeps. */
#include "xfer/xfer_ucx.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"

#define MESSAGES_MAX 128u /* under way to all peers */
#define SPIN_US 20        /* as a team's (protocol.md 6): the core may be wanted */
#define SPIN_LINK_US 50   /* the other side is within a chunk of a copy */
/* With one message alone under way its time is that of wake-ups: so it waits through two of an
 * idle core's, which the peer needs to answer.  Each turn yields; one that comes back late says
 * that the core is wanted, and then it sleeps, for who spins is not let in soon after. */
#define SPIN_ALONE_US 100
#define CROWDED_AFTER_US 200
#define CROWDED_FOR_US 20000
#define KEEPALIVE_TURNS 33 /* UCX looks at its keepalive clock once in 32 calls of progress */
/* Sleeps: with something under way timeouts must be seen; UCX's keepalive needs its turns. */
#define SLEEP_BUSY_US 20000
#define SLEEP_IDLE_US 250000
#define PAUSE_US (4 * SLEEP_BUSY_US)
/* UCX sometimes cannot be armed for long: then no spinning for ever. */
#define NAP_US 1000
#define NAP_AFTER_US 5000

/* UCX 1.13 over TCP, measured: 0.8 MiB private and 3 MiB of its pages for the library; 350 KiB a
 * peer that sends (64 of them at once, meetings too), 70 KiB one that is sent to. */
#define LIBRARY_BYTES (4u << 20)
#define ENDPOINT_BYTES (384u << 10)
/* Works are not in it: they are a thousandth of the blocks that they hold, of the heap. */
_Static_assert(XFER_UCX_LINKS_MAX *(XFER_RING_BYTES + 8192u) +
                       2u * XFER_UCX_SLOTS * XFER_PART_BYTES + LIBRARY_BYTES +
                       XFER_UCX_PEERS_MAX * (ENDPOINT_BYTES + sizeof(struct xfer_ucx_peer)) +
                       MESSAGES_MAX * sizeof(struct xfer_ucx_message) + XFER_UCX_PATTERN_BYTES +
                       XFER_STACK_BYTES + XFER_PIECES_MAX * sizeof(struct xfer_piece) +
                       XFER_CONTACTS_MAX * (sizeof(struct xfer_contact) + XFER_ADDRESS_BYTES) <=
                   XFER_MEMORY_BYTES,
               "what the plan counts for a transfer bounds it");

static struct xfer_ucx *ucx_of(struct xfer *xfer) { return (struct xfer_ucx *) (void *) xfer; }

/* --- the thread ------------------------------------------------------------------------------- */

static void find_peer_for(struct xfer_ucx *ucx, struct xfer_command *command) {
    bool is_send = command->kind == XFER_DO_SEND;
    struct xfer_piece *piece = is_send ? command->subject : NULL;
    struct xfer_contact *contact = is_send ? piece->contact : command->subject;
    const char *reason = NULL;
    struct xfer_ucx_peer *peer = xfer_ucx_get_peer(ucx, contact->address, contact->hash, &reason);
    if (is_send) {
        if (peer) xfer_ucx_queue(peer, piece);
        else xfer_tell_failed(&ucx->base, piece, reason);
    } else if (peer) {
        command->node.next = peer->probes;
        peer->probes = &command->node;
    } else {
        contact->probe_error = err_set(&contact->probe_text, ERR_FORMAT, "%s", reason);
        xfer_tell_probed(&ucx->base, contact);
    }
}

void xfer_ucx_take_commands(struct xfer_ucx *ucx) {
    struct xfer_node *node = xfer_stack_take(&ucx->commands);
    while (node) {
        struct xfer_command *command = (struct xfer_command *) (void *) node;
        node = node->next;
        switch (command->kind) {
        case XFER_DO_EXPECT: xfer_work_add(&ucx->table, command->subject); break;
        case XFER_DO_FORGET:
            /* A link's part that is half here ends the work's last hold. */
            xfer_work_forget(&ucx->base, &ucx->table, command->subject, ucx->now_us);
            xfer_ucx_end_work(ucx, command->subject);
            break;
        default: find_peer_for(ucx, command); break;
        }
    }
}

static bool progress(struct xfer_ucx *ucx, uint32_t turns) {
    bool is_any = false;
    for (uint32_t k = 0; k < turns && ucx->tcp.worker; k++)
        if (ucx->ucp->worker_progress(ucx->tcp.worker)) is_any = true;
    return is_any;
}

/* false: UCX has something to do first. */
static bool arm(struct xfer_ucx *ucx) {
    return !ucx->tcp.worker || ucx->ucp->worker_arm(ucx->tcp.worker) == UCS_OK;
}

static uint32_t count_busy(const struct xfer_ucx *ucx) {
    return ucx->under_way + xfer_ucx_count_busy(ucx);
}

/* Until a call of the owner, or what UCX was armed for; UINT64_MAX: no limit. */
static void sleep_for(struct xfer_ucx *ucx, uint64_t us, bool is_armed) {
    struct epoll_event events[8];
    struct pollfd item = {.fd = is_armed ? ucx->epoll_fd : ucx->kick_fd, .events = POLLIN};
    struct timespec limit = {(time_t) (us / 1000000), (long) (us % 1000000 * 1000)};
    if (ppoll(&item, 1, us == UINT64_MAX ? NULL : &limit, NULL) <= 0) return;
    int count = epoll_wait(ucx->epoll_fd, events, ARRAY_COUNT(events), 0);
    uint64_t kicks;
    ucx->has_events = true;
    for (int i = 0; i < count; i++)
        if (events[i].data.fd == ucx->kick_fd && read(ucx->kick_fd, &kicks, sizeof kicks) < 0)
            DCHECK(errno == EAGAIN);
}

static void rest(struct xfer_ucx *ucx, uint64_t idle_us) {
    uint64_t limit_us = count_busy(ucx) || ucx->closing ? SLEEP_BUSY_US
                        : ucx->peers && ucx->tcp.worker ? SLEEP_IDLE_US
                                                        : UINT64_MAX;
    atomic_store(&ucx->is_sleeping, true);
    bool is_quiet = xfer_stack_is_empty(&ucx->commands) && !atomic_load(&ucx->is_stopping) &&
                    !atomic_load(&ucx->has_abandoned) && xfer_ucx_wait_links(ucx);
    if (is_quiet && arm(ucx)) sleep_for(ucx, limit_us, true);
    else if (is_quiet && idle_us > NAP_AFTER_US) sleep_for(ucx, NAP_US, false);
    atomic_store(&ucx->is_sleeping, false);
}

static void drop_abandoned(struct xfer_ucx *ucx) {
    for (struct xfer_ucx_peer *peer = ucx->peers; peer; peer = peer->next)
        xfer_ucx_flush_queue(peer, "given up", true);
}

/* A time in which this thread did not run is no silence of a peer. */
static void look_at_clock(struct xfer_ucx *ucx) {
    uint64_t now_us = clock_now_us() - ucx->lag_us, gap_us = now_us - ucx->now_us;
    bool was_asleep = !count_busy(ucx) && !ucx->closing;
    if (gap_us > PAUSE_US && !was_asleep) {
        ucx->lag_us += gap_us - PAUSE_US;
        now_us -= gap_us - PAUSE_US;
    }
    ucx->now_us = now_us;
}

/* Something is under way and may come at once.  false: rest. */
static bool spin(struct xfer_ucx *ucx, uint64_t idle_us) {
    if (xfer_ucx_count_busy(ucx)) return idle_us < SPIN_LINK_US;
    if (!ucx->under_way) return false;
    if (ucx->under_way > 1 || ucx->now_us < ucx->crowded_until_us) return idle_us < SPIN_US;
    if (idle_us >= SPIN_ALONE_US) return false;
    uint64_t before_us = clock_now_us();
    sched_yield();
    if (clock_now_us() - before_us > CROWDED_AFTER_US)
        ucx->crowded_until_us = ucx->now_us + CROWDED_FOR_US;
    return true;
}

static void *run(void *ctx) {
    struct xfer_ucx *ucx = ctx;
    prctl(PR_SET_TIMERSLACK, 5000ul); /* ns; naps are short */
    uint64_t active_us = ucx->now_us;
    uint32_t turns = 1;
    while (!atomic_load(&ucx->is_stopping)) {
        look_at_clock(ucx);
        bool is_any = !xfer_stack_is_empty(&ucx->commands);
        xfer_ucx_take_commands(ucx);
        if (atomic_exchange(&ucx->has_abandoned, false)) drop_abandoned(ucx);
        if (progress(ucx, turns)) is_any = true;
        turns = 1;
        if (ucx->held && xfer_ucx_accept_held(ucx)) is_any = true;
        if (xfer_ucx_serve_links(ucx)) is_any = true;
        if (xfer_ucx_serve_peers(ucx)) is_any = true;
        if (is_any) active_us = ucx->now_us;
        uint64_t idle_us = ucx->now_us - active_us;
        if (is_any || spin(ucx, idle_us)) continue;
        rest(ucx, idle_us);
        if (clock_now_us() - ucx->lag_us - ucx->now_us > NAP_US) turns = KEEPALIVE_TURNS;
    }
    return NULL;
}

/* --- the owner -------------------------------------------------------------------------------- */

static void kick(struct xfer_ucx *ucx) {
    if (!atomic_load(&ucx->is_sleeping)) return;
    uint64_t one = 1;
    if (write(ucx->kick_fd, &one, sizeof one) < 0) DCHECK(errno == EAGAIN);
}

static void push(struct xfer *xfer, struct xfer_command *command) {
    xfer_stack_push(&ucx_of(xfer)->commands, &command->node);
    kick(ucx_of(xfer));
}

static void ucx_expect(struct xfer *xfer, struct xfer_work *work) { push(xfer, &work->expect); }
static void ucx_forget(struct xfer *xfer, struct xfer_work *work) { push(xfer, &work->forget); }
static void ucx_send(struct xfer *xfer, struct xfer_piece *piece) { push(xfer, &piece->command); }
static void ucx_probe(struct xfer *xfer, struct xfer_contact *contact) {
    push(xfer, &contact->probe);
}
static void ucx_abandon(struct xfer *xfer) {
    atomic_store(&ucx_of(xfer)->has_abandoned, true);
    kick(ucx_of(xfer));
}

/* Everything that create made, in whatever state it stands. */
static void release(struct xfer_ucx *ucx) {
    ucx->base.options.wake = NULL; /* what UCX gives back now is no news */
    xfer_ucx_free_peers(ucx);
    while (ucx->held) {
        struct xfer_ucx_receive *next = ucx->held->next;
        alloc_free(ucx->held);
        ucx->held = next;
    }
    xfer_ucx_close_lanes(ucx);
    while (ucx->inbox) {
        struct xfer_ucx_control *next = ucx->inbox->next;
        alloc_free(ucx->inbox->pattern);
        alloc_free(ucx->inbox);
        ucx->inbox = next;
    }
    while (ucx->closing) {
        struct xfer_ucx_closing *next = ucx->closing->next;
        alloc_free(ucx->closing);
        ucx->closing = next;
    }
    while (ucx->peers) {
        struct xfer_ucx_peer *next = ucx->peers->next;
        while (ucx->peers->receives) {
            struct xfer_ucx_receive *receive = ucx->peers->receives;
            ucx->peers->receives = receive->next;
            alloc_free(receive);
        }
        alloc_free(ucx->peers);
        ucx->peers = next;
    }
    if (ucx->epoll_fd >= 0) close(ucx->epoll_fd);
    if (ucx->kick_fd >= 0) close(ucx->kick_fd);
    alloc_free(ucx->messages);
    alloc_free(ucx->send_slots.memory);
    alloc_free(ucx->receive_slots.memory);
    alloc_free(ucx->pattern);
    xfer_release(&ucx->base);
    alloc_free(ucx);
}

static void ucx_destroy(struct xfer *xfer) {
    struct xfer_ucx *ucx = ucx_of(xfer);
    atomic_store(&ucx->is_stopping, true);
    uint64_t one = 1;
    if (write(ucx->kick_fd, &one, sizeof one) < 0) DCHECK(errno == EAGAIN);
    pthread_join(ucx->thread, NULL);
    release(ucx);
}

static const struct xfer_ops ucx_ops = {
    .name = "ucx",
    .destroy = ucx_destroy,
    .expect = ucx_expect,
    .forget = ucx_forget,
    .send = ucx_send,
    .abandon = ucx_abandon,
    .probe = ucx_probe,
};

static bool make_slots(struct xfer_ucx_slots *slots) {
    slots->memory = alloc_array(XFER_UCX_SLOTS, XFER_PART_BYTES);
    for (uint32_t i = 0; i < XFER_UCX_SLOTS; i++) slots->free[i] = i;
    slots->free_count = XFER_UCX_SLOTS;
    return slots->memory != NULL;
}

static bool make_pools(struct xfer_ucx *ucx) {
    ucx->pattern = alloc_bytes(XFER_UCX_PATTERN_BYTES);
    ucx->messages = alloc_zero(MESSAGES_MAX, sizeof *ucx->messages);
    if (!ucx->pattern || !ucx->messages) return false;
    for (uint32_t i = 0; i < XFER_UCX_PATTERN_BYTES; i++)
        ucx->pattern[i] = (uint8_t) (i * 2654435761u >> 24);
    for (uint32_t i = 0; i < MESSAGES_MAX; i++) {
        ucx->messages[i].next = ucx->free_messages;
        ucx->free_messages = &ucx->messages[i];
    }
    return make_slots(&ucx->send_slots) && make_slots(&ucx->receive_slots);
}

static bool watch(struct xfer_ucx *ucx, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(ucx->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static enum err open_events(struct xfer_ucx *ucx, struct err_text *text) {
    ucx->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    ucx->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    bool is_good = ucx->kick_fd >= 0 && ucx->epoll_fd >= 0 && watch(ucx, ucx->kick_fd);
    if (is_good) return ERR_OK;
    return err_set(text, ERR_IO, "transfer: no event descriptor: %s", strerror(errno));
}

enum err xfer_ucx_create(const struct xfer_options *options, struct err_text *text,
                         struct xfer **out) {
    struct xfer_ucx *ucx = alloc_zero(1, sizeof *ucx);
    enum err e = ERR_OK;
    if (!ucx) return err_set(text, ERR_MEMORY, "no memory for the transfer of KV blocks");
    ucx->kick_fd = ucx->epoll_fd = ucx->listen_fd = -1;
    ucx->held_end = &ucx->held;
    ucx->inbox_end = &ucx->inbox;
    ucx->random = options->instance ^ clock_wall_ns();
    ucx->now_us = clock_now_us();
    if (xfer_init(&ucx->base, &ucx_ops, options) || !make_pools(ucx))
        e = err_set(text, ERR_MEMORY, "no memory for the transfer of KV blocks");
    if (!e) e = open_events(ucx, text);
    if (!e) e = xfer_ucx_open_lanes(ucx, text);
    if (!e && ucx->tcp.worker && !watch(ucx, ucx->tcp.efd))
        e = err_set(text, ERR_IO, "transfer: no event descriptor: %s", strerror(errno));
    if (!e && xfer_start_thread(&ucx->thread, run, ucx) != 0)
        e = err_set(text, ERR_MEMORY, "no thread for the transfer of KV blocks");
    if (e) {
        release(ucx);
        return e;
    }
    *out = &ucx->base;
    return ERR_OK;
}
