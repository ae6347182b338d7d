/* xfer_body - what a body of xfer implements, and what it is given: inside the room and its tests.
 *
 * xfer.c is the owner's half: it allocates works, pieces and contacts, keeps the owner's lists and
 * hands objects over; a body never allocates for them and cannot fail them.  A body's struct
 * begins with struct xfer.  What the body has to say goes back as news over a stack without
 * locks, from any thread.
 *
 *   xfer_expect --expect--> body ... news: RECEIVED, BROKEN ... --forget--> news: RELEASED, freed
 *   xfer_send   --send----> body ... news: SENT or FAILED, freed by the take
 *
 * Fields marked (owner) are the owner's alone, (body) the body's thread's or lock's. */
#ifndef GRAMME_XFER_XFER_BODY_H
#define GRAMME_XFER_XFER_BODY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "xfer/xfer.h"
#include "xfer/xfer_plan.h"
#include "xfer/xfer_stack.h"

struct xfer_piece;
struct xfer_work;
struct xfer_contact;

/* An event on its way to the owner; of a piece or of a work. */
struct xfer_news {
    struct xfer_node node;
    struct xfer_event event;
    struct xfer_piece *piece;
    struct xfer_work *work;
};

enum xfer_command_kind { XFER_DO_SEND, XFER_DO_EXPECT, XFER_DO_FORGET, XFER_DO_PROBE };
/* For bodies with a thread: a call on its way to it. */
struct xfer_command {
    struct xfer_node node;
    enum xfer_command_kind kind;
    void *subject; /* the piece, work or contact */
};

/* P: a block to be sent. */
struct xfer_piece {
    struct xfer_command command;
    struct xfer_news news;
    struct xfer_piece *next, *previous; /* (owner) all that are not answered yet */
    struct xfer_contact *contact;
    const struct xfer_plan *plan;
    struct xfer_id id;
    uint32_t piece, block;
    atomic_bool is_abandoned; /* set by the owner: give up what is not under way */

    struct xfer_piece *queue_next; /* (body) */
    uint32_t parts_begun, parts_ended;
    const char *failure; /* of a part; NULL: none */
};

/* D: what is expected under one id.  xfer_work.h has the rules. */
struct xfer_work {
    struct xfer_command expect, forget;
    struct xfer_work *next; /* (owner) in a bucket */
    bool is_over;           /* (owner) forgotten: only RELEASED is still told */
    struct xfer_id id;
    const struct xfer_plan *plan;
    uint32_t first_piece, piece_count;
    uint32_t *blocks;

    struct xfer_work *table_next; /* (body) */
    struct xfer_news *news;       /* piece_count + 2: pieces, BROKEN, RELEASED */
    uint64_t *begun;              /* bits: parts of pieces whose bytes are here or coming */
    uint32_t *parts_left;         /* of each piece */
    uint32_t under_way;           /* receives that may write to blocks */
    bool is_forgotten, is_broken, is_in_table;
    void *from;            /* the peer that sends it, as the body knows it */
    uint64_t forgotten_us; /* for the transfer timeout */
};

enum xfer_probe_state { XFER_UNPROBED, XFER_PROBING, XFER_PROBED };
/* A peer's address as the owner named it. */
struct xfer_contact {
    struct xfer_contact *next; /* (owner) */
    char *address;
    uint64_t hash;        /* of the address */
    uint32_t piece_count; /* (owner) pieces not answered yet */
    struct xfer_command probe;
    atomic_uint probe_state; /* PROBING -> PROBED by the body, which wrote the next three first */
    enum err probe_error;
    struct err_text probe_text;
    char lane[32];
};

struct xfer_ops {
    const char *name; /* what stands before the colon in addresses */
    /* Stops the body: no news afterwards; works and pieces are freed by xfer.c.  The body's own
     * struct is freed here, after xfer_release. */
    void (*destroy)(struct xfer *xfer);
    void (*expect)(struct xfer *xfer, struct xfer_work *work);
    void (*forget)(struct xfer *xfer, struct xfer_work *work);
    void (*send)(struct xfer *xfer, struct xfer_piece *piece);
    /* is_abandoned was set on some pieces. */
    void (*abandon)(struct xfer *xfer);
    void (*probe)(struct xfer *xfer, struct xfer_contact *contact);
};

#define XFER_BUCKETS 256u
/* Bounds of what one worker may have open; past them ERR_BUSY. */
#define XFER_PIECES_MAX 32768u
#define XFER_CONTACTS_MAX 1024u

struct xfer {
    const struct xfer_ops *ops;
    struct xfer_options options;
    struct kv_layout *layouts; /* owned; options.layouts is this */
    char address[XFER_ADDRESS_BYTES];

    struct xfer_stack news; /* from any thread */
    struct xfer_node *taken;
    struct xfer_work *works[XFER_BUCKETS]; /* (owner) by attempt */
    uint32_t work_count;
    struct xfer_piece *pieces; /* (owner) */
    uint32_t piece_count;
    struct xfer_contact *contacts; /* (owner) */
    uint32_t contact_count;
    struct {
        struct xfer_plan *plan;
    } plans[2 * 64]; /* (owner) one for each side and degree met */
    uint32_t plan_count;

    struct {
        _Atomic uint64_t sent_bytes, sent_pieces, received_bytes, received_pieces;
        _Atomic uint64_t discarded_pieces, failed_pieces, checksum_errors, peers_lost;
        _Atomic uint64_t pairs_shm, pairs_tcp;
        _Atomic uint64_t busy_us, busy_since_us; /* since: 0 while nothing is being sent */
    } counts;
    uint32_t sending; /* (body) pieces of which something is under way */
};

#define XFER_STACK_BYTES (1u << 20) /* of a body's thread */
/* pthread_create with that stack; 0, or its error. */
MUST_USE int xfer_start_thread(pthread_t *thread, void *(*run)(void *), void *ctx);

/* The struct is the body's, zeroed.  On failure nothing is kept. */
MUST_USE enum err xfer_init(struct xfer *xfer, const struct xfer_ops *ops,
                            const struct xfer_options *options);
/* Frees all that xfer.c holds; not the struct. */
void xfer_release(struct xfer *xfer);

/* Bodies say, from any thread: */
void xfer_tell_sent(struct xfer *xfer, struct xfer_piece *piece);
void xfer_tell_failed(struct xfer *xfer, struct xfer_piece *piece, const char *reason);
/* The contact's probe is over: error, text and lane are written already. */
void xfer_tell_probed(struct xfer *xfer, struct xfer_contact *contact);
/* The first byte of a piece goes out, at `now_us`; the last is through, or it is given up. */
void xfer_tell_begun(struct xfer *xfer, uint64_t now_us);
void xfer_tell_ended(struct xfer *xfer, uint64_t now_us);
void xfer_tell(struct xfer *xfer, struct xfer_news *news);

#endif
