/* xfer_ucx_peer - see xfer_ucx.h: how two workers meet, and how a pair is closed by force.
 *
 * Who wants to send dials, by shared memory where it leads there, else by TCP.  Over TCP it opens
 * an endpoint and sends HELLO with its address and a pattern by rendezvous; the other opens its own
 * endpoint to that address, which UCX joins with the first, so that each side holds a handle to
 * close, and sends the pattern back.  So the lane has carried bulk data both ways before a block
 * depends on it. */
#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#include "base/alloc.h"
#include "base/log.h"
#include "xfer/xfer_ucx.h"

#define CONTROL_ID 0u
#define JOIN_TRIES 16u
/* Closed peers are kept a while for what is known of them; past these the idle ones go. */
#define PEERS_KEPT 32u

static const char *const peer_gone = "the peer is gone";
static const char *const peer_silent = "the peer does not answer within the transfer timeout";

static uint64_t draw(struct xfer_ucx *ucx) {
    ucx->random += 0x9e3779b97f4a7c15u;
    uint64_t z = ucx->random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return z ? z : 1;
}

static bool is_unused(const struct xfer_ucx_peer *peer) {
    return peer->state == XFER_UCX_IDLE && !peer->queue && !peer->messages && !peer->receives &&
           !peer->probes && !peer->closing_count && !peer->lost_count;
}

static void drop_unused(struct xfer_ucx *ucx) {
    for (struct xfer_ucx_peer **at = &ucx->peers; *at;) {
        struct xfer_ucx_peer *peer = *at;
        if (!is_unused(peer)) {
            at = &peer->next;
            continue;
        }
        *at = peer->next;
        ucx->peer_count--;
        alloc_free(peer);
    }
}

struct xfer_ucx_peer *xfer_ucx_get_peer(struct xfer_ucx *ucx, const char *text, uint64_t hash,
                                        const char **reason) {
    struct xfer_ucx_peer *peer = ucx->peers;
    while (peer && (peer->hash != hash || strcmp(peer->text, text) != 0)) peer = peer->next;
    if (peer) return peer;
    if (ucx->peer_count >= PEERS_KEPT) drop_unused(ucx);
    if (ucx->peer_count >= XFER_UCX_PEERS_MAX) {
        *reason = "too many peers";
        return NULL;
    }
    struct xfer_wire_address address;
    enum err e = xfer_wire_read_address(text, &address);
    if (e) {
        *reason = e == ERR_UNSUPPORTED
                      ? "the peer's transfer address is of another version of the program"
                      : "the peer's transfer address is not of this program's UCX body";
        return NULL;
    }
    peer = alloc_zero(1, sizeof *peer);
    if (!peer) {
        *reason = "no memory for another peer";
        return NULL;
    }
    peer->ucx = ucx;
    snprintf(peer->text, sizeof peer->text, "%s", text);
    peer->hash = hash;
    peer->address = address;
    peer->queue_end = &peer->queue;
    peer->next = ucx->peers;
    ucx->peers = peer;
    ucx->peer_count++;
    return peer;
}

struct xfer_ucx_peer *xfer_ucx_find_dial(struct xfer_ucx *ucx, uint64_t remote_dial) {
    struct xfer_ucx_peer *peer = ucx->peers;
    while (peer && (!peer->ep || peer->remote_dial != remote_dial)) peer = peer->next;
    return peer;
}

/* --- closing ---------------------------------------------------------------------------------- */

static void end_probes(struct xfer_ucx_peer *peer, enum err e, const char *reason) {
    while (peer->probes) {
        const struct xfer_command *command = (const struct xfer_command *) (void *) peer->probes;
        struct xfer_contact *contact = command->subject;
        peer->probes = peer->probes->next;
        contact->probe_error = e;
        if (e) err_set(&contact->probe_text, e, "%s", reason);
        else snprintf(contact->lane, sizeof contact->lane, "%s", xfer_ucx_lane_name(peer->lane));
        xfer_tell_probed(&peer->ucx->base, contact);
    }
}

void xfer_ucx_count_pair(struct xfer_ucx *ucx, enum xfer_lane_kind lane, int64_t step) {
    struct xfer *xfer = &ucx->base;
    atomic_fetch_add(lane == XFER_LANE_SHM ? &xfer->counts.pairs_shm : &xfer->counts.pairs_tcp,
                     (uint64_t) step);
}

/* The endpoint or link only; UCX ends what is under way through its callbacks. */
static void close_endpoint(struct xfer_ucx_peer *peer) {
    struct xfer_ucx *ucx = peer->ucx;
    if (peer->state == XFER_UCX_MEETING) ucx->under_way--;
    if (peer->state == XFER_UCX_READY) xfer_ucx_count_pair(ucx, peer->lane, -1);
    peer->state = XFER_UCX_IDLE;
    peer->dial = peer->remote_dial = 0;
    peer->failure = NULL;
    peer->is_stalled = false;
    if (peer->link) {
        /* A part that is half written ends here, with its piece. */
        if (peer->link->is_mid) peer->queue->parts_ended++;
        xfer_ucx_close_link(ucx, peer->link);
        peer->link = NULL;
        return;
    }
    ucp_ep_h ep = peer->ep;
    peer->ep = NULL;
    xfer_ucx_mark_closed(peer);
    ucp_request_param_t param = {.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS,
                                 .flags = UCP_EP_CLOSE_FLAG_FORCE};
    void *request = ucx->ucp->ep_close_nbx(ep, &param);
    if (!UCS_PTR_IS_PTR(request)) return;
    struct xfer_ucx_closing *closing = alloc_zero(1, sizeof *closing);
    if (!closing) { /* UCX goes on without being watched */
        ucx->ucp->request_free(request);
        return;
    }
    closing->peer = peer;
    closing->request = request;
    closing->next = ucx->closing;
    ucx->closing = closing;
    peer->closing_count++;
}

static void close_peer(struct xfer_ucx_peer *peer, const char *reason) {
    struct xfer_ucx *ucx = peer->ucx;
    if (peer->state == XFER_UCX_READY && (peer->remote_dial || peer->link)) {
        atomic_fetch_add(&ucx->base.counts.peers_lost, 1);
        log_info("transfer: the pair over %s is closed: %s", xfer_ucx_lane_name(peer->lane),
                 reason);
    }
    close_endpoint(peer);
    xfer_ucx_break_works(peer, reason);
    xfer_ucx_flush_queue(peer, reason, false);
    end_probes(peer, ERR_PEER_GONE, reason);
}

static bool serve_closing(struct xfer_ucx *ucx) {
    bool is_any = false;
    for (struct xfer_ucx_closing **at = &ucx->closing; *at;) {
        struct xfer_ucx_closing *closing = *at;
        if (ucx->ucp->request_check_status(closing->request) == UCS_INPROGRESS) {
            at = &closing->next;
            continue;
        }
        ucx->ucp->request_free(closing->request);
        closing->peer->closing_count--;
        *at = closing->next;
        alloc_free(closing);
        is_any = true;
    }
    return is_any;
}

/* --- control messages ------------------------------------------------------------------------- */

static void on_control_sent(void *request, ucs_status_t status, void *user_data) {
    struct xfer_ucx_control *control = user_data;
    control->ucx->ucp->request_free(request);
    alloc_free(control); /* an error shows on the endpoint too */
}

static void send_control(struct xfer_ucx_peer *peer, enum xfer_hello_kind kind, uint64_t echo) {
    struct xfer_ucx *ucx = peer->ucx;
    struct xfer_ucx_control *control = alloc_zero(1, sizeof *control);
    if (!control) return; /* the meeting times out */
    control->ucx = ucx;
    control->hello.kind = (uint8_t) kind;
    control->hello.lane = XFER_LANE_TCP;
    control->hello.dial = peer->dial;
    control->hello.echo = echo;
    snprintf(control->hello.address, sizeof control->hello.address, "%s", ucx->base.address);
    size_t header_bytes = xfer_wire_write_hello(&control->hello, control->header);
    ucp_request_param_t param = {
        .op_attr_mask =
            UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS,
        .flags = UCP_AM_SEND_FLAG_RNDV | UCP_AM_SEND_FLAG_REPLY,
        .cb.send = on_control_sent,
        .user_data = control,
    };
    void *request = ucx->ucp->am_send_nbx(peer->ep, CONTROL_ID, control->header, header_bytes,
                                          ucx->pattern, XFER_UCX_PATTERN_BYTES, &param);
    if (!UCS_PTR_IS_PTR(request)) alloc_free(control);
    if (UCS_PTR_IS_ERR(request)) peer->failure = peer_gone;
}

static void put_inbox(struct xfer_ucx *ucx, struct xfer_ucx_control *control) {
    control->next = NULL;
    *ucx->inbox_end = control;
    ucx->inbox_end = &control->next;
}

static void free_control(struct xfer_ucx_control *control) {
    if (!control) return;
    alloc_free(control->pattern);
    alloc_free(control);
}

static void end_pattern(struct xfer_ucx_control *control, ucs_status_t status) {
    struct xfer_ucx *ucx = control->ucx;
    if (status == UCS_OK && memcmp(control->pattern, ucx->pattern, XFER_UCX_PATTERN_BYTES) == 0) {
        put_inbox(ucx, control);
        return;
    }
    if (status == UCS_OK) log_warn("transfer: a test pattern came wrong over tcp");
    free_control(control);
}

static void on_pattern(void *request, ucs_status_t status, size_t bytes, void *user_data) {
    struct xfer_ucx_control *control = user_data;
    control->ucx->ucp->request_free(request);
    end_pattern(control, status);
}

ucs_status_t xfer_ucx_on_control(void *arg, const void *header, size_t header_bytes, void *data,
                                 size_t bytes, const ucp_am_recv_param_t *param) {
    struct xfer_ucx *ucx = arg;
    struct xfer_ucx_control *control = alloc_zero(1, sizeof *control);
    if (!control) return UCS_OK;
    control->ucx = ucx;
    enum err e = xfer_wire_read_hello(header, header_bytes, &control->hello);
    if (e || control->hello.lane != XFER_LANE_TCP || bytes != XFER_UCX_PATTERN_BYTES) {
        free_control(control);
        return UCS_OK;
    }
    if (param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) control->reply_ep = param->reply_ep;
    control->pattern = alloc_bytes(XFER_UCX_PATTERN_BYTES);
    if (!control->pattern) {
        free_control(control);
        return UCS_OK;
    }
    if (!(param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV)) {
        memcpy(control->pattern, data, bytes);
        end_pattern(control, UCS_OK);
        return UCS_OK;
    }
    ucp_request_param_t receive = {
        .op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA,
        .cb.recv_am = on_pattern,
        .user_data = control,
    };
    void *request =
        ucx->ucp->am_recv_data_nbx(ucx->tcp.worker, data, control->pattern, bytes, &receive);
    if (!UCS_PTR_IS_PTR(request)) end_pattern(control, UCS_PTR_STATUS(request));
    return UCS_INPROGRESS;
}

/* --- meeting ---------------------------------------------------------------------------------- */

static void on_endpoint_error(void *arg, ucp_ep_h ep, ucs_status_t status) {
    struct xfer_ucx_peer *peer = arg;
    if (peer->ep != ep) return;
    log_debug("transfer: endpoint over %s: %s", xfer_ucx_lane_name(peer->lane),
              peer->ucx->ucp->status_string(status));
    peer->failure = peer_gone;
}

/* The lane to try now.  false: none leads there. */
static bool choose_lane(const struct xfer_ucx_peer *peer, enum xfer_lane_kind *out) {
    const struct xfer_ucx *ucx = peer->ucx;
    bool is_near = peer->address.host == ucx->own.host && peer->address.network == ucx->own.network;
    *out = XFER_LANE_SHM;
    if (ucx->listen_fd >= 0 && is_near && !peer->is_shm_bad &&
        peer->address.lane_bytes[XFER_LANE_SHM] == ucx->own.lane_bytes[XFER_LANE_SHM])
        return true;
    *out = XFER_LANE_TCP;
    return ucx->tcp.worker && peer->address.lane_bytes[XFER_LANE_TCP];
}

static bool open_endpoint(struct xfer_ucx_peer *peer) {
    struct xfer_ucx *ucx = peer->ucx;
    ucp_ep_params_t params = {
        .field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_FLAGS,
        .address = (const ucp_address_t *) (const void *) peer->address.lanes[XFER_LANE_TCP],
        .err_mode = UCP_ERR_HANDLING_MODE_PEER,
        .err_handler = {on_endpoint_error, peer},
        .flags = UCP_EP_PARAMS_FLAGS_NO_LOOPBACK,
    };
    ucp_ep_h ep = NULL;
    ucs_status_t status = ucx->ucp->ep_create(ucx->tcp.worker, &params, &ep);
    if (status != UCS_OK) {
        log_debug("transfer: no endpoint over tcp: %s", ucx->ucp->status_string(status));
        return false;
    }
    peer->ep = ep;
    peer->lane = XFER_LANE_TCP;
    peer->dial = draw(ucx);
    peer->remote_dial = 0;
    peer->failure = NULL;
    peer->opened_us = ucx->now_us;
    return true;
}

static bool open_link(struct xfer_ucx_peer *peer) {
    peer->link = xfer_ucx_dial_link(peer->ucx, peer);
    peer->lane = XFER_LANE_SHM;
    peer->failure = NULL;
    peer->opened_us = peer->ucx->now_us;
    return peer->link != NULL;
}

static void fail_meeting(struct xfer_ucx_peer *peer, const char *reason) {
    peer->is_shm_bad = false; /* next time from the start */
    xfer_ucx_flush_queue(peer, reason, false);
    end_probes(peer, ERR_PEER_GONE, reason);
}

static void dial(struct xfer_ucx_peer *peer) {
    enum xfer_lane_kind lane;
    for (bool is_open = false; !is_open;) {
        if (!choose_lane(peer, &lane)) {
            fail_meeting(peer, "no transport leads to the peer: different nodes need TCP and "
                               "--transfer-listen with an address that both reach");
            return;
        }
        is_open = lane == XFER_LANE_SHM ? open_link(peer) : open_endpoint(peer);
        if (!is_open && lane == XFER_LANE_TCP) {
            fail_meeting(peer, "the peer's transfer address cannot be reached over TCP: is it on "
                               "another node and listens on loopback? (--transfer-listen)");
            return;
        }
        if (!is_open) peer->is_shm_bad = true;
    }
    peer->state = XFER_UCX_MEETING;
    peer->ucx->under_way++;
    if (lane == XFER_LANE_TCP) send_control(peer, XFER_HELLO, 0);
}

/* The meeting failed on this lane: the next one, or the end.  Who is silent on shared memory is
 * there, and will be silent on TCP too. */
static void meet_elsewhere(struct xfer_ucx_peer *peer, const char *reason) {
    bool was_shm = peer->lane == XFER_LANE_SHM;
    close_endpoint(peer);
    if (!was_shm || reason == peer_silent) {
        fail_meeting(peer, reason);
        return;
    }
    peer->is_shm_bad = true;
    dial(peer);
}

static void tell_lane(struct xfer_ucx_peer *peer) {
    static atomic_bool is_told;
    const struct xfer_ucx *ucx = peer->ucx;
    xfer_ucx_count_pair(peer->ucx, peer->lane, 1);
    log_info("transfer: a peer is reached over %s", xfer_ucx_lane_name(peer->lane));
    bool wanted_shm = ucx->listen_fd >= 0 && peer->address.host == ucx->own.host &&
                      peer->address.lane_bytes[XFER_LANE_SHM];
    if (peer->lane != XFER_LANE_TCP || !wanted_shm || atomic_exchange(&is_told, true)) return;
    log_warn("transfer: shared memory does not carry blocks between workers of this node: they go "
             "over TCP, several times slower; %s",
             peer->address.network == ucx->own.network
                 ? "both need the same user, and at most 16 peers each"
                 : "they are in different network namespaces (docker --network, or one pod)");
}

void xfer_ucx_welcome(struct xfer_ucx_peer *peer) {
    peer->state = XFER_UCX_READY;
    peer->ucx->under_way--;
    tell_lane(peer);
    end_probes(peer, ERR_OK, NULL);
}

/* Our endpoint to who dialled.  UCX joins the n-th endpoint that one worker opens to another with
 * the n-th of the other; a dial that never arrived leaves us behind, so we open until it fits:
 * only then does closing ours end what the peer's carries. */
static bool answer_dial(struct xfer_ucx_peer *peer, const struct xfer_ucx_control *control) {
    for (uint32_t i = 0; i < JOIN_TRIES; i++) {
        if (!open_endpoint(peer)) return false;
        if (!control->reply_ep || peer->ep == control->reply_ep) return true;
        close_endpoint(peer);
    }
    log_debug("transfer: a dial could not be joined");
    return false;
}

static void on_hello(struct xfer_ucx *ucx, const struct xfer_ucx_control *control) {
    const struct xfer_hello *hello = &control->hello;
    uint64_t hash = XXH3_64bits(hello->address, strlen(hello->address));
    const char *reason = NULL;
    struct xfer_ucx_peer *peer = xfer_ucx_get_peer(ucx, hello->address, hash, &reason);
    if (!peer) {
        log_warn("transfer: a worker that wants to send is refused: %s", reason);
        return;
    }
    bool is_stale = peer->state != XFER_UCX_IDLE && peer->ep && peer->remote_dial &&
                    peer->remote_dial != hello->dial;
    if (is_stale || peer->link) close_peer(peer, "the peer has opened a new connection");
    peer->is_shm_bad = true; /* it found out, if it was not clear from the start */
    if (peer->state == XFER_UCX_IDLE) {
        if (!answer_dial(peer, control)) return; /* the peer's meeting times out */
        peer->state = XFER_UCX_READY;
        tell_lane(peer);
    }
    peer->remote_dial = hello->dial;
    send_control(peer, XFER_WELCOME, hello->dial);
}

static void on_welcome(struct xfer_ucx *ucx, const struct xfer_ucx_control *control) {
    for (struct xfer_ucx_peer *peer = ucx->peers; peer; peer = peer->next) {
        if (peer->state != XFER_UCX_MEETING || !peer->ep || peer->dial != control->hello.echo)
            continue;
        peer->remote_dial = control->hello.dial;
        peer->is_stalled = false;
        xfer_ucx_welcome(peer);
        return;
    }
}

static bool serve_inbox(struct xfer_ucx *ucx) {
    struct xfer_ucx_control *control = ucx->inbox;
    ucx->inbox = NULL;
    ucx->inbox_end = &ucx->inbox;
    bool is_any = control != NULL;
    while (control) {
        struct xfer_ucx_control *next = control->next;
        if (control->hello.kind == XFER_HELLO) on_hello(ucx, control);
        else on_welcome(ucx, control);
        free_control(control);
        control = next;
    }
    return is_any;
}

/* --- the loop's share ------------------------------------------------------------------------- */

/* Our own deadlines: a stopped peer is never noticed by UCX. */
static bool is_meeting_late(const struct xfer_ucx_peer *peer) {
    uint64_t timeout_us = 1000ull * peer->ucx->base.options.transfer_timeout_ms;
    return peer->state == XFER_UCX_MEETING && peer->ucx->now_us - peer->opened_us > timeout_us;
}
static bool is_sending_late(const struct xfer_ucx_peer *peer) {
    uint64_t timeout_us = 1000ull * peer->ucx->base.options.transfer_timeout_ms;
    if (peer->link)
        return peer->state == XFER_UCX_READY && peer->queue &&
               peer->ucx->now_us - peer->link->moved_us > timeout_us;
    return peer->messages && !peer->has_closed && peer->ucx->now_us - peer->sent_us > timeout_us;
}

static void fail_waiting(struct xfer_ucx_peer *peer, const char *reason) {
    xfer_ucx_flush_queue(peer, reason, false);
    end_probes(peer, ERR_TIMEOUT, reason);
}

/* Over TCP: the endpoint stays, for the peer may run again. */
static void stall(struct xfer_ucx_peer *peer) {
    if (!peer->is_stalled) log_info("transfer: a peer over tcp stands still");
    peer->is_stalled = true;
    xfer_ucx_give_up(peer, peer_silent);
    fail_waiting(peer, peer_silent);
}

static bool serve_open_peer(struct xfer_ucx_peer *peer) {
    bool is_meeting = peer->state == XFER_UCX_MEETING, is_tcp = peer->lane == XFER_LANE_TCP;
    bool is_late = is_meeting_late(peer) || is_sending_late(peer);
    if (peer->failure && is_meeting) meet_elsewhere(peer, peer->failure);
    else if (peer->failure) close_peer(peer, peer->failure);
    else if (xfer_ucx_is_late(peer)) close_peer(peer, peer_silent);
    else if (is_late && is_tcp && !peer->is_stalled) stall(peer);
    else if (is_late && is_meeting && !is_tcp) meet_elsewhere(peer, peer_silent);
    else if (is_late && !is_tcp) close_peer(peer, peer_silent);
    else return false;
    return true;
}

static bool serve_peer(struct xfer_ucx_peer *peer) {
    if (peer->has_closed) xfer_ucx_drop_lost(peer);
    if (peer->state != XFER_UCX_IDLE && serve_open_peer(peer)) return true;
    if (!peer->queue && !peer->probes) return false;
    if (peer->is_stalled) {
        fail_waiting(peer, peer_silent);
        return true;
    }
    if (peer->state == XFER_UCX_IDLE) {
        dial(peer);
        return true;
    }
    if (peer->state != XFER_UCX_READY) return false;
    if (peer->probes) end_probes(peer, ERR_OK, NULL);
    return peer->queue && xfer_ucx_start_sends(peer->ucx, peer);
}

bool xfer_ucx_serve_peers(struct xfer_ucx *ucx) {
    bool is_any = serve_inbox(ucx);
    if (ucx->closing && serve_closing(ucx)) is_any = true;
    for (struct xfer_ucx_peer *peer = ucx->peers; peer; peer = peer->next)
        if (serve_peer(peer)) is_any = true;
    return is_any;
}

void xfer_ucx_free_peers(struct xfer_ucx *ucx) {
    for (struct xfer_ucx_peer *peer = ucx->peers; peer; peer = peer->next)
        if (peer->state != XFER_UCX_IDLE) close_endpoint(peer);
    /* What UCX holds comes back through its callbacks: a few rounds, each of which may end some. */
    for (uint32_t i = 0; i < 1000 && (i < 10 || ucx->closing); i++) {
        if (ucx->tcp.worker) ucx->ucp->worker_progress(ucx->tcp.worker);
        serve_closing(ucx);
    }
}
