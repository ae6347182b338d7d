/* xfer_ucx_data - see xfer_ucx.h: pieces out, over either lane, and pieces in, over TCP.
 *
 * Shared memory takes them part by part (xfer_ucx_shm.c).  TCP out: a run of at least
 * XFER_UCX_DIRECT_BYTES goes straight from the block; shorter ones are packed into a slot, as many
 * parts of one work as fit.  In: the header decides before a byte is taken; a part that is one run
 * here is received straight into its block, the rest through a slot. */
#include <string.h>

#include <xxhash.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "xfer/xfer_ucx.h"

#define DATA_ID 1u
#define NO_SLOT UINT32_MAX
#define LOST_AFTER_US 500000 /* from the close by force; UCX's callbacks come within one turn */

static const char *const connection_lost = "the connection to the peer is lost";

static uint32_t take_slot(struct xfer_ucx_slots *slots) {
    return slots->free_count ? slots->free[--slots->free_count] : NO_SLOT;
}
static void give_slot(struct xfer_ucx_slots *slots, uint32_t slot) {
    if (slot != NO_SLOT) slots->free[slots->free_count++] = slot;
}
static uint8_t *slot_bytes(const struct xfer_ucx_slots *slots, uint32_t slot) {
    return slots->memory + (uint64_t) slot * XFER_PART_BYTES;
}

/* --- out -------------------------------------------------------------------------------------- */

static void append(struct xfer_ucx_peer *peer, struct xfer_piece *piece) {
    piece->queue_next = NULL;
    *peer->queue_end = piece;
    peer->queue_end = &piece->queue_next;
}

void xfer_ucx_queue(struct xfer_ucx_peer *peer, struct xfer_piece *piece) {
    if (peer->link && !peer->queue) peer->link->moved_us = peer->ucx->now_us;
    append(peer, piece);
}

static void pop_queue(struct xfer_ucx_peer *peer) {
    peer->queue = peer->queue->queue_next;
    if (!peer->queue) peer->queue_end = &peer->queue;
}

/* Nothing of it is under way or will be: the owner hears. */
static void end_piece(struct xfer_ucx *ucx, struct xfer_piece *piece) {
    if (piece->parts_begun > 0) xfer_tell_ended(&ucx->base, clock_now_us());
    if (piece->failure) xfer_tell_failed(&ucx->base, piece, piece->failure);
    else xfer_tell_sent(&ucx->base, piece);
}

/* A part of the queue's head is half written: the reader counts on the rest. */
static bool is_in_ring(const struct xfer_ucx_peer *peer, const struct xfer_piece *piece) {
    return peer->link && peer->link->is_mid && piece->parts_begun > piece->parts_ended;
}

void xfer_ucx_flush_queue(struct xfer_ucx_peer *peer, const char *reason, bool only_abandoned) {
    struct xfer_piece *piece = peer->queue;
    peer->queue = NULL;
    peer->queue_end = &peer->queue;
    while (piece) {
        struct xfer_piece *next = piece->queue_next;
        if (only_abandoned && (!atomic_load(&piece->is_abandoned) || is_in_ring(peer, piece))) {
            append(peer, piece);
        } else {
            if (!piece->failure) piece->failure = reason;
            /* Else its messages' ends find the failure. */
            if (piece->parts_ended == piece->parts_begun) end_piece(peer->ucx, piece);
        }
        piece = next;
    }
}

static void end_part(struct xfer_ucx_peer *peer, struct xfer_piece *piece, const char *failure) {
    piece->parts_ended++;
    if (failure && !piece->failure) piece->failure = failure;
    bool is_whole = piece->parts_ended == piece->plan->part_count;
    /* One that is begun in part is the queue's head, or was flushed from it. */
    bool is_last = piece->parts_ended == piece->parts_begun && peer->queue != piece;
    if (is_whole || (piece->failure && is_last)) end_piece(peer->ucx, piece);
}

static void free_message(struct xfer_ucx *ucx, struct xfer_ucx_message *message) {
    give_slot(&ucx->send_slots, message->slot);
    message->next = ucx->free_messages;
    ucx->free_messages = message;
}

/* Out of the peer's list, and its pieces' parts are ended. */
static void end_parts(struct xfer_ucx_message *message, const char *failure) {
    struct xfer_ucx_peer *peer = message->peer;
    struct xfer_ucx_message **at = &peer->messages;
    while (*at != message) at = &(*at)->next;
    *at = message->next;
    peer->message_count--;
    peer->ucx->under_way--;
    for (uint32_t i = 0; i < message->entry_count; i++) end_part(peer, message->pieces[i], failure);
}

static void end_message(struct xfer_ucx_message *message, const char *failure) {
    struct xfer_ucx_peer *peer = message->peer;
    bool is_current = !message->closed_us && peer->state != XFER_UCX_IDLE;
    if (message->is_lost) {
        peer->lost_count--;
        if (!failure && peer->lost_count == 0) peer->is_stalled = false; /* it runs again */
    } else {
        peer->sent_us = peer->ucx->now_us;
        end_parts(message, failure);
        if (failure && is_current && !peer->failure) peer->failure = failure;
    }
    free_message(peer->ucx, message);
}

static void lose_message(struct xfer_ucx_message *message, const char *reason) {
    message->is_lost = true;
    message->peer->lost_count++;
    end_parts(message, reason);
}

void xfer_ucx_give_up(struct xfer_ucx_peer *peer, const char *reason) {
    while (peer->messages) lose_message(peer->messages, reason);
}

void xfer_ucx_mark_closed(struct xfer_ucx_peer *peer) {
    for (struct xfer_ucx_message *message = peer->messages; message; message = message->next)
        if (!message->closed_us) message->closed_us = peer->ucx->now_us;
    peer->has_closed = peer->messages != NULL;
}

/* UCX 1.13 sometimes keeps a send that waited for room at a peer that died.  Nobody reads it any
 * more; its header and slot stay UCX's. */
void xfer_ucx_drop_lost(struct xfer_ucx_peer *peer) {
    bool is_left = false;
    for (struct xfer_ucx_message *message = peer->messages, *next; message; message = next) {
        next = message->next;
        if (!message->closed_us) continue;
        if (peer->ucx->now_us - message->closed_us < LOST_AFTER_US) {
            is_left = true;
            continue;
        }
        log_debug("transfer: a message to a closed peer is given up");
        lose_message(message, connection_lost);
    }
    peer->has_closed = is_left;
}

static void on_sent(void *request, ucs_status_t status, void *user_data) {
    struct xfer_ucx_message *message = user_data;
    message->peer->ucx->ucp->request_free(request);
    end_message(message, status == UCS_OK ? NULL : connection_lost);
}

/* The next part of the queue's head, straight from the block if that is one run long enough. */
static const uint8_t *head_is_straight(const struct xfer_ucx *ucx, const struct xfer_piece *piece,
                                       uint64_t *bytes) {
    struct xfer_part part = xfer_plan_part(piece->plan, piece->parts_begun);
    *bytes = part.bytes;
    if (part.bytes < XFER_UCX_DIRECT_BYTES) return NULL;
    return xfer_plan_contiguous(piece->plan, ucx->base.layouts, part.pair, piece->block, part.at,
                                part.bytes);
}

/* Counts the head's next part into the message. */
static void add_part(struct xfer_ucx *ucx, struct xfer_ucx_peer *peer,
                     struct xfer_ucx_message *message, struct xfer_header *header) {
    struct xfer_piece *piece = peer->queue;
    struct xfer_part part = xfer_plan_part(piece->plan, piece->parts_begun);
    header->entries[header->entry_count++] = (struct xfer_entry){
        .piece = piece->piece,
        .part = piece->parts_begun,
        .source_rank = (uint16_t) part.pair->own_rank,
        .target_rank = (uint16_t) part.pair->peer_rank,
        .at = part.at,
        .bytes = (uint32_t) part.bytes,
    };
    message->pieces[message->entry_count++] = piece;
    if (piece->parts_begun++ == 0) xfer_tell_begun(&ucx->base, clock_now_us());
    if (piece->parts_begun == piece->plan->part_count) pop_queue(peer);
}

/* Packs parts of the head's work until the slot is full; returns the bytes. */
static uint64_t pack(struct xfer_ucx *ucx, struct xfer_ucx_peer *peer,
                     struct xfer_ucx_message *message, struct xfer_header *header) {
    uint8_t *slot = slot_bytes(&ucx->send_slots, message->slot);
    uint64_t filled = 0;
    while (peer->queue && header->entry_count < XFER_ENTRIES_MAX) {
        const struct xfer_piece *piece = peer->queue;
        if (memcmp(&piece->id, &header->id, sizeof header->id) != 0) break;
        if (atomic_load(&piece->is_abandoned)) break;
        uint64_t bytes;
        if (head_is_straight(ucx, piece, &bytes) || filled + bytes > XFER_PART_BYTES) break;
        struct xfer_part part = xfer_plan_part(piece->plan, piece->parts_begun);
        xfer_plan_gather(piece->plan, ucx->base.layouts, part.pair, piece->block, part.at,
                         part.bytes, slot + filled);
        filled += bytes;
        add_part(ucx, peer, message, header);
    }
    return filled;
}

static void post_message(struct xfer_ucx *ucx, struct xfer_ucx_peer *peer,
                         struct xfer_ucx_message *message, struct xfer_header *header,
                         const uint8_t *data, uint64_t bytes) {
    if (ucx->base.options.is_verifying) {
        header->has_checksum = true;
        header->checksum = XXH3_64bits(data, bytes);
    }
    size_t header_bytes = xfer_wire_write_header(header, message->header);
    if (peer->message_count++ == 0) peer->sent_us = ucx->now_us;
    message->next = peer->messages;
    peer->messages = message;
    ucx->under_way++;
    ucp_request_param_t param = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = UCP_AM_SEND_FLAG_RNDV,
        .cb.send = on_sent,
        .user_data = message,
    };
    void *request = ucx->ucp->am_send_nbx(peer->ep, DATA_ID, message->header, header_bytes, data,
                                          bytes, &param);
    if (!UCS_PTR_IS_PTR(request))
        end_message(message, UCS_PTR_STATUS(request) == UCS_OK ? NULL : connection_lost);
}

/* One message from the head of the queue; false: none can go now. */
static bool send_one(struct xfer_ucx *ucx, struct xfer_ucx_peer *peer) {
    struct xfer_piece *piece = peer->queue;
    uint64_t bytes;
    const uint8_t *data = head_is_straight(ucx, piece, &bytes);
    struct xfer_ucx_message *message = ucx->free_messages;
    uint32_t slot = data || !message ? NO_SLOT : take_slot(&ucx->send_slots);
    if (!message || (!data && slot == NO_SLOT)) return false;
    ucx->free_messages = message->next;
    message->peer = peer;
    message->entry_count = 0;
    message->closed_us = 0;
    message->is_lost = false;
    message->slot = slot;
    struct xfer_header header;
    header.dial = peer->dial;
    header.id = piece->id;
    header.has_checksum = false;
    header.entry_count = 0;
    if (data) {
        add_part(ucx, peer, message, &header);
    } else {
        data = slot_bytes(&ucx->send_slots, slot);
        bytes = pack(ucx, peer, message, &header);
    }
    post_message(ucx, peer, message, &header, data, bytes);
    return true;
}

/* Over shared memory: the parts of the queue's head, until there is no room.  A part that is
 * through has left the block, whenever the peer takes it.  true: something went. */
static bool write_some(struct xfer_ucx *ucx, struct xfer_ucx_peer *peer) {
    struct xfer_piece *piece = peer->queue;
    struct xfer_ucx_link *link = peer->link;
    if (link->failure) return false;
    if (!link->is_mid && piece->parts_begun++ == 0) xfer_tell_begun(&ucx->base, clock_now_us());
    uint64_t before = link->ring.at;
    if (xfer_ucx_write_part(ucx, link, piece, piece->parts_begun - 1)) {
        piece->parts_ended++;
        if (piece->parts_ended == piece->plan->part_count) {
            pop_queue(peer);
            end_piece(ucx, piece);
        }
        return true;
    }
    if (!link->is_mid && --piece->parts_begun == 0) xfer_tell_ended(&ucx->base, clock_now_us());
    return link->ring.at != before;
}

static bool can_send(const struct xfer_ucx_peer *peer) {
    return peer->queue && !peer->failure && !peer->is_stalled &&
           peer->message_count < XFER_UCX_PEER_MESSAGES_MAX;
}

bool xfer_ucx_start_sends(struct xfer_ucx *ucx, struct xfer_ucx_peer *peer) {
    bool is_any = false;
    while (can_send(peer)) {
        struct xfer_piece *piece = peer->queue;
        bool is_unwanted = piece->failure || atomic_load(&piece->is_abandoned);
        if (is_unwanted && !is_in_ring(peer, piece)) {
            pop_queue(peer);
            if (!piece->failure) piece->failure = "given up";
            if (piece->parts_ended == piece->parts_begun) end_piece(ucx, piece);
            continue;
        }
        if (!(peer->link ? write_some(ucx, peer) : send_one(ucx, peer))) break;
        is_any = true;
    }
    return is_any;
}

/* --- in --------------------------------------------------------------------------------------- */

static void discard(struct xfer_ucx *ucx, const struct xfer_header *header) {
    uint64_t count = 0; /* of pieces: each has one first part */
    for (uint32_t i = 0; i < header->entry_count; i++) count += header->entries[i].part == 0;
    atomic_fetch_add(&ucx->base.counts.discarded_pieces, count);
}

static void end_entries(struct xfer_ucx *ucx, struct xfer_ucx_receive *receive,
                        const char *reason) {
    /* The last end may free the work. */
    for (uint32_t i = 0; i < receive->header.entry_count; i++)
        if (receive->begun >> i & 1)
            xfer_work_end(&ucx->base, &ucx->table, receive->work, receive->header.entries[i].piece,
                          receive->header.entries[i].part, 1, reason);
}

static void unpack(struct xfer_ucx *ucx, const struct xfer_ucx_receive *receive,
                   const uint8_t *data) {
    const struct xfer_header *header = &receive->header;
    for (uint32_t i = 0; i < header->entry_count; i++) {
        const struct xfer_entry *entry = &header->entries[i];
        if (receive->begun >> i & 1) {
            struct xfer_part part = xfer_plan_part(receive->work->plan, entry->part);
            xfer_plan_scatter(receive->work->plan, ucx->base.layouts, part.pair,
                              xfer_work_block(receive->work, entry->piece), part.at, part.bytes,
                              data);
        }
        data += entry->bytes;
    }
}

static const char *check_sum(struct xfer_ucx *ucx, const struct xfer_ucx_receive *receive,
                             const uint8_t *data) {
    const struct xfer_header *header = &receive->header;
    if (!header->has_checksum || XXH3_64bits(data, receive->bytes) == header->checksum) return NULL;
    atomic_fetch_add(&ucx->base.counts.checksum_errors, 1);
    return "the block's checksum differs";
}

static void end_receive(struct xfer_ucx_receive *receive, ucs_status_t status, uint64_t bytes) {
    struct xfer_ucx_peer *peer = receive->peer;
    struct xfer_ucx *ucx = peer->ucx;
    struct xfer_ucx_receive **at = &peer->receives;
    while (*at != receive) at = &(*at)->next;
    *at = receive->next;
    ucx->under_way--;
    peer->received_us = ucx->now_us;
    const char *reason = status == UCS_OK && bytes == receive->bytes ? NULL : connection_lost;
    if (!reason) reason = check_sum(ucx, receive, receive->target);
    if (!reason && receive->slot != NO_SLOT) unpack(ucx, receive, receive->target);
    end_entries(ucx, receive, reason);
    give_slot(&ucx->receive_slots, receive->slot);
    alloc_free(receive);
}

static void on_received(void *request, ucs_status_t status, size_t bytes, void *user_data) {
    struct xfer_ucx_receive *receive = user_data;
    receive->peer->ucx->ucp->request_free(request);
    end_receive(receive, status, bytes);
}

/* Which entries are wanted now; they are begun. */
static void begin_entries(struct xfer_ucx_receive *receive) {
    receive->begun = 0;
    for (uint32_t i = 0; i < receive->header.entry_count; i++) {
        const struct xfer_entry *entry = &receive->header.entries[i];
        if (xfer_work_fits(receive->work, entry) &&
            xfer_work_begin(receive->work, entry->piece, entry->part, 1))
            receive->begun |= 1ull << i;
    }
}

struct xfer_work *xfer_ucx_find_work(struct xfer_ucx *ucx, const struct xfer_id *id) {
    struct xfer_work *work = xfer_work_find(&ucx->table, id);
    if (work) return work;
    xfer_ucx_take_commands(ucx); /* its expect came after the last look */
    return xfer_work_find(&ucx->table, id);
}

/* Where the one entry lies as one run of its block; NULL: it needs a slot. */
static uint8_t *straight_target(const struct xfer_ucx *ucx,
                                const struct xfer_ucx_receive *receive) {
    const struct xfer_entry *entry = &receive->header.entries[0];
    if (receive->header.entry_count != 1) return NULL;
    struct xfer_part part = xfer_plan_part(receive->work->plan, entry->part);
    return xfer_plan_contiguous(receive->work->plan, ucx->base.layouts, part.pair,
                                xfer_work_block(receive->work, entry->piece), part.at, part.bytes);
}

/* Whether any of it could be written without a slot, so that it need not wait for one. */
static bool needs_slot(const struct xfer_ucx *ucx, const struct xfer_ucx_receive *receive) {
    const struct xfer_entry *entry = &receive->header.entries[0];
    const struct xfer_work *work = receive->work;
    if (receive->header.entry_count != 1) return true;
    if (!xfer_work_fits(work, entry) || entry->piece < work->first_piece ||
        entry->piece - work->first_piece >= work->piece_count)
        return false; /* is discarded */
    return straight_target(ucx, receive) == NULL;
}

enum verdict { DISCARDED, TAKEN, MUST_WAIT };

/* Begins the receive, if it is wanted and there is room for it. */
static enum verdict accept_one(struct xfer_ucx *ucx, struct xfer_ucx_receive *receive) {
    receive->work = xfer_ucx_find_work(ucx, &receive->header.id);
    if (!receive->work) return DISCARDED;
    bool is_staged = needs_slot(ucx, receive);
    if (is_staged && !ucx->receive_slots.free_count) return MUST_WAIT;
    begin_entries(receive);
    if (!receive->begun) return DISCARDED;
    receive->work->from = receive->peer;
    receive->slot = is_staged ? take_slot(&ucx->receive_slots) : NO_SLOT;
    receive->target =
        is_staged ? slot_bytes(&ucx->receive_slots, receive->slot) : straight_target(ucx, receive);
    struct xfer_ucx_peer *peer = receive->peer;
    if (!peer->receives) peer->received_us = ucx->now_us;
    receive->next = peer->receives;
    peer->receives = receive;
    ucx->under_way++;
    ucp_request_param_t param = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.recv_am = on_received,
        .user_data = receive,
    };
    void *request = ucx->ucp->am_recv_data_nbx(ucx->tcp.worker, receive->data, receive->target,
                                               receive->bytes, &param);
    if (!UCS_PTR_IS_PTR(request)) end_receive(receive, UCS_PTR_STATUS(request), receive->bytes);
    return TAKEN;
}

bool xfer_ucx_accept_held(struct xfer_ucx *ucx) {
    bool is_any = false;
    while (ucx->held) {
        struct xfer_ucx_receive *receive = ucx->held, *next = receive->next;
        enum verdict verdict = accept_one(ucx, receive);
        if (verdict == MUST_WAIT) break;
        ucx->held = next;
        if (!next) ucx->held_end = &ucx->held;
        is_any = true;
        if (verdict == TAKEN) continue; /* and perhaps freed */
        discard(ucx, &receive->header);
        ucx->ucp->am_data_release(ucx->tcp.worker, receive->data);
        alloc_free(receive);
    }
    return is_any;
}

/* Bytes that came with their header. */
static void take_eager(struct xfer_ucx *ucx, struct xfer_ucx_receive *receive,
                       const uint8_t *data) {
    receive->work = xfer_ucx_find_work(ucx, &receive->header.id);
    if (receive->work) begin_entries(receive);
    if (!receive->begun) {
        discard(ucx, &receive->header);
        return;
    }
    receive->work->from = receive->peer;
    const char *reason = check_sum(ucx, receive, data);
    if (!reason) unpack(ucx, receive, data);
    end_entries(ucx, receive, reason);
}

static bool has_right_size(const struct xfer_header *header, uint64_t bytes) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < header->entry_count; i++) sum += header->entries[i].bytes;
    return sum == bytes && bytes <= XFER_PART_BYTES;
}

ucs_status_t xfer_ucx_on_data(void *arg, const void *header, size_t header_bytes, void *data,
                              size_t bytes, const ucp_am_recv_param_t *param) {
    struct xfer_ucx *ucx = arg;
    struct xfer_ucx_receive *receive = alloc_zero(1, sizeof *receive);
    /* A piece that is not taken never arrives: D's deadline ends its work. */
    if (!receive) return UCS_OK;
    enum err e = xfer_wire_read_header(header, header_bytes, &receive->header);
    receive->peer = e ? NULL : xfer_ucx_find_dial(ucx, receive->header.dial);
    if (!receive->peer || !has_right_size(&receive->header, bytes)) {
        atomic_fetch_add(&ucx->base.counts.discarded_pieces, 1);
        alloc_free(receive);
        return UCS_OK;
    }
    receive->data = data;
    receive->bytes = bytes;
    if (!(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
        take_eager(ucx, receive, data);
        alloc_free(receive);
        return UCS_OK;
    }
    enum verdict verdict = ucx->held ? MUST_WAIT : accept_one(ucx, receive);
    if (verdict == DISCARDED) {
        discard(ucx, &receive->header);
        alloc_free(receive);
        return UCS_OK;
    }
    if (verdict == MUST_WAIT) {
        receive->next = NULL;
        *ucx->held_end = receive;
        ucx->held_end = &receive->next;
    }
    return UCS_INPROGRESS;
}

void xfer_ucx_break_works(struct xfer_ucx_peer *peer, const char *reason) {
    struct xfer_ucx *ucx = peer->ucx;
    struct xfer_ucx_receive *held = ucx->held;
    ucx->held = NULL;
    ucx->held_end = &ucx->held;
    while (held) {
        struct xfer_ucx_receive *next = held->next;
        held->next = NULL;
        if (held->peer == peer) {
            ucx->ucp->am_data_release(ucx->tcp.worker, held->data);
            alloc_free(held);
        } else {
            *ucx->held_end = held;
            ucx->held_end = &held->next;
        }
        held = next;
    }
    xfer_work_break_from(&ucx->base, &ucx->table, peer, reason);
}

bool xfer_ucx_is_late(const struct xfer_ucx_peer *peer) {
    uint64_t now_us = peer->ucx->now_us;
    uint64_t timeout_us = 1000ull * peer->ucx->base.options.transfer_timeout_ms;
    if (!peer->receives) return false;
    if (now_us - peer->received_us > timeout_us) return true;
    for (const struct xfer_ucx_receive *receive = peer->receives; receive; receive = receive->next)
        if (receive->work->is_forgotten && now_us - receive->work->forgotten_us > timeout_us)
            return true;
    return false;
}
