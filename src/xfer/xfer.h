/* xfer - moves KV blocks from a prefill worker's region (P) into a decode worker's (D).
 *
 * One xfer a worker: it names the KV regions of all ranks by their strides and has an address that
 * peers send to.  P pushes whole blocks; D has said beforehand which block of its own each piece
 * goes to, so that a stale sender can write nowhere (protocol.md 4).  A piece is one block of the
 * sequence, of all ranks; what crosses between unlike TP is cut into runs by xfer_plan.
 *
 *   D: expect --pieces arrive--> RECEIVED each ... --forget--> (receives under way) --> RELEASED
 *   P: send   --------------------> SENT | FAILED
 *
 * Bodies: in-process (workers of one process), ucx (shared memory on a node, UCX over TCP between
 * nodes), fake (tests: delay, loss, death).  Calls come from the owner, the step thread; bytes move
 * on the body's own thread; wake is called from any thread when xfer_take has something. */
#ifndef GRAMME_XFER_XFER_H
#define GRAMME_XFER_XFER_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/backend.h"
#include "base/err.h"

#define XFER_ADDRESS_BYTES 1024 /* text with its NUL */
/* No body takes more of its process, with all peers and pieces that it allows (xfer_ucx.c). */
#define XFER_MEMORY_BYTES (64u << 20)

struct xfer;

/* The work a piece belongs to: D's instance and attempt, and a key only P and D know. */
struct xfer_id {
    uint64_t instance, attempt;
    uint64_t key[2];
};

struct xfer_options {
    uint64_t instance;               /* this worker's */
    const struct kv_layout *layouts; /* rank_count of them, copied; the regions are borrowed */
    uint32_t rank_count;
    uint32_t block_size;
    bool is_verifying;              /* checksums over each message's bytes (--verify-kv) */
    const char *listen;             /* --transfer-listen: address or interface; NULL: loopback */
    uint16_t port_first, port_last; /* 0: any */
    const char *transports;         /* of shm and tcp, between commas; NULL: both */
    uint32_t transfer_timeout_ms;   /* a receive older than this closes the pair: 2,000 */
    void (*wake)(void *ctx);
    void *wake_ctx;
};

enum xfer_event_kind {
    XFER_RECEIVED, /* D: this piece lies whole in its block */
    XFER_RELEASED, /* D: after xfer_forget: nothing can write to its blocks any more */
    XFER_SENT,     /* P: the source block may be reused */
    XFER_FAILED,   /* P: this piece did not get through, or was given up; the work is lost */
    XFER_BROKEN,   /* D: a piece of this work is lost for good (peer gone, checksum): fall back */
};
struct xfer_event {
    enum xfer_event_kind kind;
    uint64_t instance, attempt; /* of xfer_id */
    uint32_t piece;
    const char *reason; /* FAILED, BROKEN: static text */
};

/* What has been moved so far; for metrics.  Any thread. */
struct xfer_counts {
    uint64_t sent_bytes, sent_pieces, received_bytes, received_pieces, discarded_pieces;
    uint64_t failed_pieces, checksum_errors, peers_lost;
    uint64_t busy_us;              /* time with at least one send under way */
    uint64_t pairs_shm, pairs_tcp; /* peers met now, by what carries them */
};

MUST_USE enum err xfer_local_create(const struct xfer_options *options, struct err_text *text,
                                    struct xfer **out);
/* Shared memory on a node, TCP by UCX between nodes; without the UCX library shared memory alone,
 * or, where that is not wanted, ERR_UNSUPPORTED with the reason. */
MUST_USE enum err xfer_ucx_create(const struct xfer_options *options, struct err_text *text,
                                  struct xfer **out);
/* Waits for the body's thread; whatever was under way is given up. */
void xfer_destroy(struct xfer *xfer);
/* Where peers send to: printable text that names the body; for HELLO and PREFILL. */
const char *xfer_address(const struct xfer *xfer);

/* D: piece i of `id` (i = first_piece ...) goes to blocks[i - first_piece].  The blocks belong to
 * the transfer until XFER_RELEASED.  peer_tp: ranks of P.  One call an id; every expect is ended
 * by one forget.  ERR_BUSY (4,096 works open), ERR_MEMORY, ERR_UNSUPPORTED (peer_tp is no degree of
 * this model), ERR_USAGE (the id is expected already): nothing kept. */
MUST_USE enum err xfer_expect(struct xfer *xfer, const struct xfer_id *id, uint32_t peer_tp,
                              uint32_t first_piece, const uint32_t *blocks, uint32_t block_count);
/* D: no more of it; also after success.  From this call on xfer_take tells of the work only one
 * XFER_RELEASED, at the latest after the transfer timeout, when the pair's connection is closed by
 * force.  The id must be expected and not forgotten yet. */
void xfer_forget(struct xfer *xfer, const struct xfer_id *id);
/* P: sends the block as piece `piece` of the peer's work.  The block stays untouched until SENT or
 * FAILED, one of which follows.  peer_tp: ranks of D.  SENT does not say that the peer wanted it.
 * ERR_BUSY (32,768 pieces under way, 1,024 peers in use), ERR_MEMORY, ERR_UNSUPPORTED (peer_tp),
 * ERR_FORMAT (no address): nothing kept, no event. */
MUST_USE enum err xfer_send(struct xfer *xfer, const char *address, const struct xfer_id *id,
                            uint32_t peer_tp, uint32_t piece, uint32_t block);
/* P: gives up what of this work is not under way yet; FAILED follows for each piece given up. */
void xfer_abandon(struct xfer *xfer, const struct xfer_id *id);

/* A small transfer to the peer and back: the path is good.  The outcome comes as *lane ("local",
 * "shm", "tcp": what carries it) by xfer_probe_result; a failing address is named. */
MUST_USE enum err xfer_probe(struct xfer *xfer, const char *address);
/* ERR_BUSY: not yet known; ERR_OK with the lane; else what is wrong with it. */
MUST_USE enum err xfer_probe_result(struct xfer *xfer, const char *address, struct err_text *text,
                                    char lane[32]);

MUST_USE bool xfer_take(struct xfer *xfer, struct xfer_event *out);
void xfer_get_counts(const struct xfer *xfer, struct xfer_counts *out);

#endif
