/* xfer_ucx_shm - see xfer_ucx.h: the lane of shared memory, which is our own.
 *
 * A worker listens on an abstract socket of a random name, part of its address.  Who wants to send
 * connects, makes a ring and passes its descriptor; the other maps it and answers one byte.  From
 * then on the socket carries wake-ups alone, and its hang-up is the peer's death.  In the ring each
 * part is a frame: the header of a message of one entry, then its bytes, both padded to FRAME_BYTES
 * so that headers never wrap.  They are copied in from the sender's block and out into the
 * receiver's, by each itself: a sender, however stale, can write into no block.
 *
 * Why not UCX's own shared memory: its small fragments reached 60 % of the copy between two
 * processes at 16 MiB, its 1.13 aborts healthy processes at times when peers die, and a worker that
 * is killed while it starts leaves files in /dev/shm. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/num.h"
#include "xfer/xfer_ucx.h"

#define FRAME_BYTES 128u
#define CHUNK_BYTES (32u << 10) /* after each the other side may go on */
#define TURN_BYTES (512u << 10) /* of one link, before others have their turn */
#define LOOK_US 10000           /* at the sockets, while there is no time to sleep */
#define NAME_BYTES 16u
#define BACKLOG 64
#define GREETING 'r'
#define WELCOME 'w'
#define WAKE '.'

_Static_assert(XFER_HEADER_OF_BYTES(1) <= FRAME_BYTES, "a header of one entry fits into a frame");
_Static_assert(XFER_RING_BYTES % CHUNK_BYTES == 0 && CHUNK_BYTES % FRAME_BYTES == 0, "no wrap");

static const char *const peer_gone = "the peer is gone";
static const char *const peer_broken = "the peer breaks the protocol of shared memory";
static const char *const peer_silent = "the peer does not answer within the transfer timeout";

/* --- sockets ---------------------------------------------------------------------------------- */

/* Abstract: no file, gone with its process, seen within one network namespace. */
static socklen_t make_name(const uint8_t name[NAME_BYTES], struct sockaddr_un *out) {
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length = snprintf(out->sun_path + 1, sizeof out->sun_path - 1, "gramme-transfer-");
    for (uint32_t i = 0; i < NAME_BYTES; i++)
        length += snprintf(out->sun_path + 1 + length, sizeof out->sun_path - 1 - (size_t) length,
                           "%02x", name[i]);
    return (socklen_t) (offsetof(struct sockaddr_un, sun_path) + 1 + (size_t) length);
}

static bool watch(const struct xfer_ucx *ucx, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(ucx->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

enum err xfer_ucx_open_shm(struct xfer_ucx *ucx) {
    struct sockaddr_un name;
    uint8_t *own = ucx->own.lanes[XFER_LANE_SHM];
    if (getrandom(own, NAME_BYTES, 0) != NAME_BYTES) return ERR_IO;
    socklen_t bytes = make_name(own, &name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return ERR_IO;
    if (bind(fd, (const struct sockaddr *) (const void *) &name, bytes) != 0 ||
        listen(fd, BACKLOG) != 0 || !watch(ucx, fd)) {
        close(fd);
        return ERR_IO;
    }
    ucx->listen_fd = fd;
    ucx->own.lane_bytes[XFER_LANE_SHM] = NAME_BYTES;
    return ERR_OK;
}

void xfer_ucx_close_shm(struct xfer_ucx *ucx) {
    while (ucx->links) xfer_ucx_close_link(ucx, ucx->links);
    if (ucx->listen_fd >= 0) close(ucx->listen_fd);
    ucx->listen_fd = -1;
}

/* Memory is shared between processes of one user alone. */
static bool is_same_user(int fd) {
    struct ucred other;
    socklen_t bytes = sizeof other;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &other, &bytes) == 0 && other.uid == geteuid();
}

/* Takes fd over, whatever comes of it. */
static struct xfer_ucx_link *add_link(struct xfer_ucx *ucx, int fd, struct xfer_ucx_peer *peer) {
    struct xfer_ucx_link *link = NULL;
    if (ucx->link_count >= XFER_UCX_LINKS_MAX)
        log_debug("transfer: more than %u links over shared memory", XFER_UCX_LINKS_MAX);
    else if (is_same_user(fd) && watch(ucx, fd)) link = alloc_zero(1, sizeof *link);
    if (!link) {
        close(fd);
        return NULL;
    }
    link->fd = fd;
    link->peer = peer;
    link->moved_us = ucx->now_us;
    link->next = ucx->links;
    ucx->links = link;
    ucx->link_count++;
    return link;
}

/* What is half here ends without its rest. */
static void end_part(struct xfer_ucx *ucx, struct xfer_ucx_link *link, const char *reason) {
    struct xfer_work *work = link->work;
    link->work = NULL;
    if (work)
        xfer_work_end(&ucx->base, &ucx->table, work, link->entry.piece, link->entry.part, 1,
                      reason);
}

void xfer_ucx_close_link(struct xfer_ucx *ucx, struct xfer_ucx_link *link) {
    const char *reason = link->failure ? link->failure : peer_gone;
    struct xfer_ucx_link **at = &ucx->links;
    while (*at != link) at = &(*at)->next;
    *at = link->next;
    ucx->link_count--;
    end_part(ucx, link, reason);
    if (!link->peer) xfer_work_break_from(&ucx->base, &ucx->table, link, reason);
    if (!link->peer && link->state == XFER_UCX_LINK_READY)
        xfer_ucx_count_pair(ucx, XFER_LANE_SHM, -1);
    xfer_ring_close(&link->ring);
    close(link->fd);
    alloc_free(link);
}

static void wake(const struct xfer_ucx_link *link) {
    char byte = WAKE; /* full: it has enough to wake up for; gone: the next look shows it */
    if (send(link->fd, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) return;
}

/* --- meeting ---------------------------------------------------------------------------------- */

static bool pass_descriptor(int socket, int fd) {
    char byte = GREETING;
    struct iovec part = {&byte, 1};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof fd)];
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    return sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
}

struct xfer_ucx_link *xfer_ucx_dial_link(struct xfer_ucx *ucx, struct xfer_ucx_peer *peer) {
    struct sockaddr_un name;
    socklen_t bytes = make_name(peer->address.lanes[XFER_LANE_SHM], &name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), memory = -1;
    if (fd < 0) return NULL;
    if (connect(fd, (const struct sockaddr *) (const void *) &name, bytes) != 0) {
        close(fd);
        return NULL;
    }
    struct xfer_ucx_link *link = add_link(ucx, fd, peer);
    if (!link) return NULL;
    bool is_good = !xfer_ring_create(&link->ring, &memory) && pass_descriptor(fd, memory);
    if (memory >= 0) close(memory);
    if (is_good) return link;
    xfer_ucx_close_link(ucx, link);
    return NULL;
}

static void accept_links(struct xfer_ucx *ucx) {
    for (uint32_t i = 0; i < BACKLOG; i++) {
        int fd = accept4(ucx->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) return;
        add_link(ucx, fd, NULL); /* NULL: it is hung up, and the peer goes another way */
    }
}

/* Who dialled passes its ring. */
static void greet(struct xfer_ucx *ucx, struct xfer_ucx_link *link, char byte, int fd) {
    char answer = WELCOME;
    if (byte != GREETING || fd < 0 || xfer_ring_open(&link->ring, fd) ||
        send(link->fd, &answer, 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1) {
        link->failure = peer_broken;
        return;
    }
    link->state = XFER_UCX_LINK_READY;
    xfer_ucx_count_pair(ucx, XFER_LANE_SHM, 1);
    log_info("transfer: a peer sends over %s", xfer_ucx_lane_name(XFER_LANE_SHM));
}

/* Bytes on the socket, and the descriptor among them, if any.  As recv. */
static ssize_t read_socket(int socket, char *bytes, size_t room, int *fd) {
    struct iovec part = {bytes, room};
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof *fd)];
    } control;
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    *fd = -1;
    ssize_t got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *rights = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
        rights->cmsg_len == CMSG_LEN(sizeof *fd))
        memcpy(fd, CMSG_DATA(rights), sizeof *fd);
    return got;
}

static void look_at_socket(struct xfer_ucx *ucx, struct xfer_ucx_link *link) {
    char bytes[64];
    int fd;
    ssize_t got = read_socket(link->fd, bytes, sizeof bytes, &fd);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        link->failure = peer_gone;
    } else if (got > 0 && link->state == XFER_UCX_LINK_MEETING) {
        if (!link->peer) {
            greet(ucx, link, bytes[0], fd);
        } else if (bytes[0] == WELCOME) {
            link->state = XFER_UCX_LINK_READY;
            xfer_ucx_welcome(link->peer);
        } else {
            link->failure = peer_broken;
        }
    }
    if (fd >= 0) close(fd);
}

/* --- out -------------------------------------------------------------------------------------- */

static void pass(struct xfer_ucx *ucx, struct xfer_ucx_link *link, uint64_t bytes) {
    link->moved_us = ucx->now_us;
    if (xfer_ring_pass(&link->ring, bytes)) wake(link);
}

static bool write_frame(struct xfer_ucx *ucx, struct xfer_ucx_link *link,
                        const struct xfer_piece *piece, uint32_t number) {
    uint8_t *to;
    if (xfer_ring_look(&link->ring, &to) < FRAME_BYTES) return false;
    struct xfer_part part = xfer_plan_part(piece->plan, number);
    struct xfer_header header;
    header.dial = 1;
    header.id = piece->id;
    header.has_checksum = ucx->base.options.is_verifying;
    if (header.has_checksum)
        header.checksum = xfer_plan_hash_part(piece->plan, ucx->base.layouts, part.pair,
                                              piece->block, part.at, part.bytes);
    header.entry_count = 1;
    header.entries[0] = (struct xfer_entry){
        .piece = piece->piece,
        .part = number,
        .source_rank = (uint16_t) part.pair->own_rank,
        .target_rank = (uint16_t) part.pair->peer_rank,
        .at = part.at,
        .bytes = (uint32_t) part.bytes,
    };
    xfer_wire_write_header(&header, to);
    link->part = part;
    link->is_mid = true;
    link->done = 0;
    link->bytes = part.bytes;
    pass(ucx, link, FRAME_BYTES);
    return true;
}

bool xfer_ucx_write_part(struct xfer_ucx *ucx, struct xfer_ucx_link *link,
                         const struct xfer_piece *piece, uint32_t part) {
    if (!link->is_mid && !write_frame(ucx, link, piece, part)) {
        if (link->ring.is_bad) link->failure = peer_broken;
        return false;
    }
    while (link->done < link->bytes) {
        uint8_t *to;
        uint64_t room = num_min(xfer_ring_look(&link->ring, &to), CHUNK_BYTES);
        uint64_t share = num_min(room, link->bytes - link->done);
        if (link->ring.is_bad) link->failure = peer_broken;
        if (share == 0) return false;
        xfer_plan_gather(piece->plan, ucx->base.layouts, link->part.pair, piece->block,
                         link->part.at + link->done, share, to);
        link->done += share;
        pass(ucx, link, link->done < link->bytes ? share : num_round_up(share, FRAME_BYTES));
    }
    link->is_mid = false;
    return true;
}

/* --- in --------------------------------------------------------------------------------------- */

/* The header is copied first: what is checked cannot change any more. */
static bool read_frame(struct xfer_ucx *ucx, struct xfer_ucx_link *link) {
    uint8_t *from, bytes[XFER_HEADER_OF_BYTES(1)];
    if (xfer_ring_look(&link->ring, &from) < FRAME_BYTES) return false;
    struct xfer_header header;
    memcpy(bytes, from, sizeof bytes);
    pass(ucx, link, FRAME_BYTES);
    if (xfer_wire_read_header(bytes, sizeof bytes, &header) || header.entries[0].bytes == 0 ||
        header.entries[0].bytes > XFER_PART_BYTES) {
        link->failure = peer_broken;
        return false;
    }
    link->entry = header.entries[0];
    link->has_checksum = header.has_checksum;
    link->checksum = header.checksum;
    link->is_mid = true;
    link->done = 0;
    link->bytes = link->entry.bytes;
    struct xfer_work *work = xfer_ucx_find_work(ucx, &header.id);
    if (work && xfer_work_fits(work, &link->entry) &&
        xfer_work_begin(work, link->entry.piece, link->entry.part, 1)) {
        link->work = work;
        work->from = link;
        link->part = xfer_plan_part(work->plan, link->entry.part);
    } else if (link->entry.part == 0) { /* of pieces: each has one first part */
        atomic_fetch_add(&ucx->base.counts.discarded_pieces, 1);
    }
    return true;
}

static const char *check_sum(struct xfer_ucx *ucx, const struct xfer_ucx_link *link) {
    if (!link->work || !link->has_checksum ||
        xfer_plan_hash_part(link->work->plan, ucx->base.layouts, link->part.pair,
                            xfer_work_block(link->work, link->entry.piece), link->part.at,
                            link->bytes) == link->checksum)
        return NULL;
    atomic_fetch_add(&ucx->base.counts.checksum_errors, 1);
    return "the block's checksum differs";
}

/* The next bytes, to where they belong.  false: there are none. */
static bool read_chunk(struct xfer_ucx *ucx, struct xfer_ucx_link *link) {
    uint8_t *from;
    uint64_t have = num_min(xfer_ring_look(&link->ring, &from), CHUNK_BYTES);
    uint64_t share = num_min(have, link->bytes - link->done);
    if (share == 0) return false;
    if (link->work)
        xfer_plan_scatter(link->work->plan, ucx->base.layouts, link->part.pair,
                          xfer_work_block(link->work, link->entry.piece),
                          link->part.at + link->done, share, from);
    link->done += share;
    bool is_whole = link->done == link->bytes;
    pass(ucx, link, is_whole ? num_round_up(share, FRAME_BYTES) : share);
    if (!is_whole) return true;
    link->is_mid = false;
    end_part(ucx, link, check_sum(ucx, link));
    return true;
}

static bool read_link(struct xfer_ucx *ucx, struct xfer_ucx_link *link) {
    uint64_t start = link->ring.at;
    while (!link->ring.is_bad && link->ring.at - start < TURN_BYTES)
        if (!(link->is_mid ? read_chunk(ucx, link) : read_frame(ucx, link))) break;
    if (link->ring.is_bad) link->failure = peer_broken;
    return link->ring.at != start;
}

void xfer_ucx_end_work(struct xfer_ucx *ucx, struct xfer_work *work) {
    for (struct xfer_ucx_link *link = ucx->links; link; link = link->next)
        if (link->work == work) end_part(ucx, link, "given up");
}

/* --- the loop's share ------------------------------------------------------------------------- */

/* One that we read; a writer's is its peer's to close. */
static bool serve_link(struct xfer_ucx *ucx, struct xfer_ucx_link *link) {
    bool is_ready = link->state == XFER_UCX_LINK_READY;
    uint64_t timeout_us = 1000ull * ucx->base.options.transfer_timeout_ms;
    if (is_ready && link->failure != peer_broken && read_link(ucx, link)) return true;
    if (!link->failure && (link->is_mid || !is_ready) && ucx->now_us - link->moved_us > timeout_us)
        link->failure = peer_silent;
    if (!link->failure) return false;
    if (is_ready) {
        atomic_fetch_add(&ucx->base.counts.peers_lost, 1);
        log_info("transfer: a peer that sent over %s: %s", xfer_ucx_lane_name(XFER_LANE_SHM),
                 link->failure);
    }
    xfer_ucx_close_link(ucx, link);
    return true;
}

bool xfer_ucx_serve_links(struct xfer_ucx *ucx) {
    bool is_any = false;
    if (ucx->listen_fd < 0) return false;
    if (ucx->has_events || ucx->now_us - ucx->looked_us > LOOK_US) {
        ucx->has_events = false;
        ucx->looked_us = ucx->now_us;
        accept_links(ucx);
        for (struct xfer_ucx_link *link = ucx->links; link; link = link->next)
            if (!link->failure) look_at_socket(ucx, link);
    }
    for (struct xfer_ucx_link *link = ucx->links, *next; link; link = next) {
        next = link->next;
        if (link->peer && link->failure && !link->peer->failure)
            link->peer->failure = link->failure;
        if (!link->peer && serve_link(ucx, link)) is_any = true;
    }
    return is_any;
}

static bool is_writing(const struct xfer_ucx_link *link) {
    return link->peer && link->peer->queue && link->state == XFER_UCX_LINK_READY;
}

uint32_t xfer_ucx_count_busy(const struct xfer_ucx *ucx) {
    uint32_t count = 0;
    for (const struct xfer_ucx_link *link = ucx->links; link; link = link->next)
        count += link->is_mid || link->state == XFER_UCX_LINK_MEETING || is_writing(link);
    return count;
}

bool xfer_ucx_wait_links(struct xfer_ucx *ucx) {
    for (struct xfer_ucx_link *link = ucx->links; link; link = link->next) {
        if (link->failure) return false;
        if (link->state != XFER_UCX_LINK_READY || (link->peer && !link->peer->queue)) continue;
        if (!xfer_ring_wait(&link->ring)) return false;
    }
    return true;
}
