/* xfer_wire - the bytes of the UCX body: the address text, and the headers of its messages.
 *
 * Pure; little endian, fixed width.  A decoder checks every count against the bytes it has.  What a
 * lane itself puts into an address stays opaque; a checksum finds text that was cut or mangled. */
#ifndef GRAMME_XFER_XFER_WIRE_H
#define GRAMME_XFER_XFER_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "xfer/xfer.h"

/* 2: shared memory is our own ring, where 1 had an address of UCX. */
#define XFER_WIRE_VERSION 2u
#define XFER_WIRE_LANES 2u
enum xfer_lane_kind { XFER_LANE_SHM, XFER_LANE_TCP };

/* Raw bytes behind "ucx:" in base64: 1023 - 4 characters hold 764 bytes. */
#define XFER_WIRE_ADDRESS_BYTES 764u

struct xfer_wire_address {
    uint64_t host;    /* a hash of the node's boot id: the same memory */
    uint64_t network; /* of its network namespace: where its socket can be found */
    uint32_t lane_bytes[XFER_WIRE_LANES]; /* 0: the worker has no such lane */
    uint8_t lanes[XFER_WIRE_LANES][XFER_WIRE_ADDRESS_BYTES];
};

/* ERR_LIMIT: it does not fit into XFER_ADDRESS_BYTES. */
MUST_USE enum err xfer_wire_write_address(const struct xfer_wire_address *address,
                                          char out[XFER_ADDRESS_BYTES]);
MUST_USE enum err xfer_wire_read_address(const char *text, struct xfer_wire_address *out);

/* --- the meeting of two workers on a lane ----------------------------------------------------- */

enum xfer_hello_kind {
    XFER_HELLO = 1, /* who I am; its body is a pattern that comes back */
    XFER_WELCOME,   /* the pattern, back */
};
/* A dial is one endpoint: drawn anew whenever a side opens one. */
struct xfer_hello {
    uint8_t kind; /* enum xfer_hello_kind */
    uint8_t lane;
    uint64_t dial; /* the sender's */
    uint64_t echo; /* WELCOME: the receiver's dial that it answers */
    char address[XFER_ADDRESS_BYTES];
};
#define XFER_HELLO_BYTES (24u + XFER_ADDRESS_BYTES) /* at most */

size_t xfer_wire_write_hello(const struct xfer_hello *hello, uint8_t out[XFER_HELLO_BYTES]);
MUST_USE enum err xfer_wire_read_hello(const uint8_t *data, size_t bytes, struct xfer_hello *out);

/* --- pieces ----------------------------------------------------------------------------------- */

#define XFER_ENTRIES_MAX 64u
struct xfer_entry { /* one part of one piece (xfer_plan.h) */
    uint32_t piece, part;
    uint16_t source_rank, target_rank;
    uint64_t at;
    uint32_t bytes;
};
struct xfer_header {
    uint64_t dial; /* the sender's */
    struct xfer_id id;
    uint64_t checksum; /* XXH3-64 of the message's bytes; only if has_checksum */
    bool has_checksum;
    uint32_t entry_count;
    struct xfer_entry entries[XFER_ENTRIES_MAX]; /* their bytes follow each other */
};
#define XFER_ENTRY_WIRE_BYTES 24u
#define XFER_HEADER_OF_BYTES(entries) (56u + (entries) *XFER_ENTRY_WIRE_BYTES)
#define XFER_HEADER_BYTES XFER_HEADER_OF_BYTES(XFER_ENTRIES_MAX)

size_t xfer_wire_write_header(const struct xfer_header *header, uint8_t out[XFER_HEADER_BYTES]);
MUST_USE enum err xfer_wire_read_header(const uint8_t *data, size_t bytes, struct xfer_header *out);

#endif
