/* xfer_ucx - the body between processes, its parts to each other: lanes, peers, messages.
 *
 * All of it belongs to the transfer thread, but for the command stack.  Two lanes: shared memory is
 * our own (xfer_ucx_shm.c), TCP is UCX's.  A peer is another worker, by its address:
 *
 *   IDLE --open, HELLO--> MEETING --WELCOME--> READY      (who dials)
 *   IDLE --HELLO came, WELCOME back--------> READY        (who is dialled; TCP)
 *   MEETING, READY --error, silence: close by force--> IDLE
 *
 * Shared memory leads one way: a link is a ring that the dialler writes and the other reads.  Who
 * is dialled has the link alone, and knows no peer of it.
 *
 * A peer silent over TCP is closed by force where it may still write to our blocks.  A sender over
 * TCP only gives up (is_stalled): UCX 1.13 was seen to crash when such an endpoint is closed and
 * the peer then runs again.
 *
 * Invariant: at most one endpoint or link to a peer; a receive that UCX holds keeps its block and
 * its work until UCX's callback, whatever becomes of the peer. */
#ifndef GRAMME_XFER_XFER_UCX_H
#define GRAMME_XFER_XFER_UCX_H

#include <pthread.h>

#include "xfer/xfer_body.h"
#include "xfer/xfer_ring.h"
#include "xfer/xfer_ucp.h"
#include "xfer/xfer_wire.h"
#include "xfer/xfer_work.h"

/* TCP.  Measured with `gramme bench xfer`: 8 parts keep both sides busy, the others are for
 * scheduling gaps. */
#define XFER_UCX_PEER_MESSAGES_MAX 14u
#define XFER_UCX_SLOTS 16u            /* of XFER_PART_BYTES, for each direction */
#define XFER_UCX_PEERS_MAX 64u        /* an endpoint to each, whose buffers UCX keeps */
#define XFER_UCX_DIRECT_BYTES 65536u  /* shorter runs are packed, several to a message */
#define XFER_UCX_PATTERN_BYTES 65536u /* of a HELLO: many fragments */
/* Both ways; past these a pair goes over TCP, so that the rings' memory is bounded. */
#define XFER_UCX_LINKS_MAX 32u

struct xfer_ucx;
struct xfer_ucx_peer;

/* TCP. */
struct xfer_ucx_lane {
    ucp_context_h context;
    ucp_worker_h worker; /* NULL: this lane is not there */
    int efd;
};

enum xfer_ucx_link_state { XFER_UCX_LINK_MEETING, XFER_UCX_LINK_READY };
/* Shared memory, one way. */
struct xfer_ucx_link {
    struct xfer_ucx_link *next;
    enum xfer_ucx_link_state state;
    int fd;                     /* the socket: descriptor and welcome, wake-ups, hang-up */
    struct xfer_ucx_peer *peer; /* whom we write to; NULL: we read */
    struct xfer_ring ring;
    uint64_t moved_us;   /* when bytes last moved, or the wait for them began */
    const char *failure; /* the loop closes it, once all that was written is read */

    bool is_mid; /* some of the part is through */
    uint64_t done, bytes;
    struct xfer_part part;   /* write */
    struct xfer_work *work;  /* read; NULL: the part is skipped */
    struct xfer_entry entry; /* read */
    uint64_t checksum;       /* read */
    bool has_checksum;       /* read */
};

/* Staging: a stack of free slots. */
struct xfer_ucx_slots {
    uint8_t *memory;
    uint32_t free[XFER_UCX_SLOTS];
    uint32_t free_count;
};

/* P: under way. */
struct xfer_ucx_message {
    struct xfer_ucx_message *next; /* in the peer's list, or free */
    uint64_t closed_us;            /* its endpoint was closed with it under way; 0: not so */
    bool is_lost;                  /* UCX did not give it back in time: waits for UCX alone */
    struct xfer_ucx_peer *peer;
    struct xfer_piece *pieces[XFER_ENTRIES_MAX];
    uint32_t entry_count;
    uint32_t slot; /* UINT32_MAX: straight from the block */
    uint8_t header[XFER_HEADER_BYTES];
};

/* D: held until there is a slot, or under way. */
struct xfer_ucx_receive {
    struct xfer_ucx_receive *next;
    struct xfer_ucx_peer *peer;
    void *data; /* UCX's, while held */
    uint64_t bytes;
    struct xfer_header header;
    struct xfer_work *work;
    uint64_t begun; /* bits: entries that were wanted */
    uint32_t slot;  /* UINT32_MAX: straight into the block */
    uint8_t *target;
};

/* A HELLO or WELCOME, either way. */
struct xfer_ucx_control {
    struct xfer_ucx_control *next;
    struct xfer_ucx *ucx;
    struct xfer_hello hello;
    uint8_t header[XFER_HELLO_BYTES];
    uint8_t *pattern;  /* received; NULL otherwise */
    ucp_ep_h reply_ep; /* what UCX made for the sender's endpoint */
};

enum xfer_ucx_state { XFER_UCX_IDLE, XFER_UCX_MEETING, XFER_UCX_READY };

struct xfer_ucx_peer {
    struct xfer_ucx_peer *next;
    struct xfer_ucx *ucx;
    char text[XFER_ADDRESS_BYTES];
    uint64_t hash;
    struct xfer_wire_address address;
    enum xfer_ucx_state state;
    enum xfer_lane_kind lane;   /* while not IDLE */
    struct xfer_ucx_link *link; /* SHM */
    ucp_ep_h ep;                /* TCP */
    uint64_t dial, remote_dial; /* 0: none */
    uint64_t opened_us;
    bool is_shm_bad;     /* shared memory failed at a meeting */
    const char *failure; /* seen in a callback: the loop closes the endpoint */

    struct xfer_piece *queue, **queue_end;
    struct xfer_ucx_message *messages; /* under way */
    uint32_t message_count;
    uint32_t lost_count;               /* messages given up that UCX still holds */
    bool has_closed;                   /* some messages are of an endpoint that is closed */
    bool is_stalled;                   /* TCP: it stands still; what is sent now fails at once */
    uint64_t sent_us;                  /* when a message last began on an empty pair, or ended */
    struct xfer_ucx_receive *receives; /* under way */
    uint64_t received_us;
    struct xfer_node *probes; /* commands of contacts that wait for the meeting */
    uint32_t closing_count;
};

struct xfer_ucx_closing {
    struct xfer_ucx_closing *next;
    struct xfer_ucx_peer *peer;
    void *request;
};

struct xfer_ucx {
    struct xfer base;
    const struct xfer_ucp *ucp; /* NULL: no TCP */
    struct xfer_ucx_lane tcp;
    int listen_fd; /* of links; -1: no shared memory */
    struct xfer_ucx_link *links;
    uint32_t link_count;
    uint64_t looked_us; /* at the links' sockets */
    bool has_events;    /* something came on them, perhaps */
    struct xfer_wire_address own;
    uint8_t *pattern;

    pthread_t thread;
    struct xfer_stack commands;
    atomic_bool is_stopping, is_sleeping, has_abandoned;
    int kick_fd, epoll_fd;

    struct xfer_table table;
    struct xfer_ucx_peer *peers;
    uint32_t peer_count;
    struct xfer_ucx_message *messages; /* owned; the free ones are in free_messages */
    struct xfer_ucx_message *free_messages;
    struct xfer_ucx_slots send_slots, receive_slots;
    struct xfer_ucx_receive *held, **held_end;
    struct xfer_ucx_control *inbox, **inbox_end; /* came; handled outside of UCX's callbacks */
    struct xfer_ucx_closing *closing;
    uint64_t random;
    uint32_t under_way; /* messages, receives, meetings: worth spinning for */
    uint64_t now_us;    /* stands still while this process does not run */
    uint64_t lag_us;
    uint64_t crowded_until_us; /* others want this thread's core: no long spinning */
};

/* --- xfer_ucx.c */
void xfer_ucx_take_commands(struct xfer_ucx *ucx);

/* --- xfer_ucx_lane.c: what can carry bytes here. */
MUST_USE enum err xfer_ucx_open_lanes(struct xfer_ucx *ucx, struct err_text *text);
void xfer_ucx_close_lanes(struct xfer_ucx *ucx);
const char *xfer_ucx_lane_name(enum xfer_lane_kind kind);

/* --- xfer_ucx_shm.c: links. */
MUST_USE enum err xfer_ucx_open_shm(struct xfer_ucx *ucx);
void xfer_ucx_close_shm(struct xfer_ucx *ucx);
/* NULL: shared memory does not lead there. */
struct xfer_ucx_link *xfer_ucx_dial_link(struct xfer_ucx *ucx, struct xfer_ucx_peer *peer);
void xfer_ucx_close_link(struct xfer_ucx *ucx, struct xfer_ucx_link *link);
/* Takes what came.  true: it did something. */
bool xfer_ucx_serve_links(struct xfer_ucx *ucx);
/* The next bytes of the part.  true: all of it is through. */
MUST_USE bool xfer_ucx_write_part(struct xfer_ucx *ucx, struct xfer_ucx_link *link,
                                  const struct xfer_piece *piece, uint32_t part);
/* Its parts that are half here end, for nothing of it may be written any more. */
void xfer_ucx_end_work(struct xfer_ucx *ucx, struct xfer_work *work);
/* Links with something under way. */
uint32_t xfer_ucx_count_busy(const struct xfer_ucx *ucx);
/* The thread wants to sleep.  false: there is something to do first. */
MUST_USE bool xfer_ucx_wait_links(struct xfer_ucx *ucx);

/* --- xfer_ucx_peer.c: meeting, closing. */
/* NULL: no memory, too many, or no address. */
struct xfer_ucx_peer *xfer_ucx_get_peer(struct xfer_ucx *ucx, const char *text, uint64_t hash,
                                        const char **reason);
struct xfer_ucx_peer *xfer_ucx_find_dial(struct xfer_ucx *ucx, uint64_t remote_dial);
/* The peer of this link answered. */
void xfer_ucx_welcome(struct xfer_ucx_peer *peer);
/* A pair met over this lane, or (step -1) parted. */
void xfer_ucx_count_pair(struct xfer_ucx *ucx, enum xfer_lane_kind lane, int64_t step);
ucs_status_t xfer_ucx_on_control(void *arg, const void *header, size_t header_bytes, void *data,
                                 size_t bytes, const ucp_am_recv_param_t *param);
/* Opens what is wanted, closes what failed or is late, answers HELLOs.  true: it did something. */
bool xfer_ucx_serve_peers(struct xfer_ucx *ucx);
void xfer_ucx_free_peers(struct xfer_ucx *ucx);

/* --- xfer_ucx_data.c: pieces. */
ucs_status_t xfer_ucx_on_data(void *arg, const void *header, size_t header_bytes, void *data,
                              size_t bytes, const ucp_am_recv_param_t *param);
/* true: something was begun. */
bool xfer_ucx_start_sends(struct xfer_ucx *ucx, struct xfer_ucx_peer *peer);
void xfer_ucx_queue(struct xfer_ucx_peer *peer, struct xfer_piece *piece);
/* Gives up pieces of which nothing is under way: all of them, or (only_abandoned) some. */
void xfer_ucx_flush_queue(struct xfer_ucx_peer *peer, const char *reason, bool only_abandoned);
/* One work for both lanes: NULL when it is not expected, or under another key. */
struct xfer_work *xfer_ucx_find_work(struct xfer_ucx *ucx, const struct xfer_id *id);
/* Breaks the works that come from this peer, and lets go of what is held. */
void xfer_ucx_break_works(struct xfer_ucx_peer *peer, const char *reason);
/* Those that wait for a slot.  true: one went on. */
bool xfer_ucx_accept_held(struct xfer_ucx *ucx);
/* The endpoint was closed: UCX gives the messages back, or some are given up after a while. */
void xfer_ucx_mark_closed(struct xfer_ucx_peer *peer);
void xfer_ucx_drop_lost(struct xfer_ucx_peer *peer);
/* Gives up all that is under way to it, though UCX does not: only what is read, never written. */
void xfer_ucx_give_up(struct xfer_ucx_peer *peer, const char *reason);
/* Whether a receive of this peer outlives the transfer timeout. */
bool xfer_ucx_is_late(const struct xfer_ucx_peer *peer);

#endif
