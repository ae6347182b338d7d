/* handoff_peers - see handoff_peers.h. */
#include "worker/handoff_peers.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/num.h"

#define TICK_MS 100u
#define SUSPECT_TICKS 10u /* specified: protocol.md 3 */
#define GOOD_LOADS 3u     /* specified: protocol.md 3 */
#define FORGET_TICKS 600u /* a minute */
#define PROVE_TICKS 300u  /* a bad path is tried again, silently, after 30 s */
#define PEERS_MAX 4096u
#define WHO_GAP_TICKS 10u

struct handoff_peers {
    struct handoff_options options;
    struct handoff_peer *first;
    uint32_t count;
    bool has_unknown;
    uint32_t who_ticks; /* since WHO was asked last */
};

enum err handoff_peers_create(const struct handoff_options *options, struct handoff_peers **out) {
    struct handoff_peers *peers = alloc_zero(1, sizeof *peers);
    if (!peers) return ERR_MEMORY;
    peers->options = *options;
    *out = peers;
    return ERR_OK;
}

void handoff_peers_destroy(struct handoff_peers *peers) {
    if (!peers) return;
    while (peers->first) {
        struct handoff_peer *peer = peers->first;
        peers->first = peer->next;
        alloc_free(peer);
    }
    alloc_free(peers);
}

static struct handoff_peer *find(const struct handoff_peers *peers, uint64_t instance) {
    struct handoff_peer *peer = peers->first;
    while (peer && peer->hello.instance != instance) peer = peer->next;
    return peer;
}

static const char *name_of(const struct handoff_peer *peer) {
    return peer->hello.name[0] ? peer->hello.name : "?";
}

static void forget(struct handoff_peers *peers, uint64_t instance, const char *why) {
    struct handoff_peer **at = &peers->first;
    while (*at && (*at)->hello.instance != instance) at = &(*at)->next;
    if (!*at) return;
    struct handoff_peer *peer = *at;
    if (peer->is_like)
        log_warn("prefill worker %s (%016llx) is gone: %s", name_of(peer),
                 (unsigned long long) instance, why);
    *at = peer->next;
    peers->count--;
    alloc_free(peer);
}

const struct handoff_peer *handoff_peers_first(const struct handoff_peers *peers) {
    return peers->first;
}

const struct handoff_peer *handoff_peers_find(const struct handoff_peers *peers,
                                              uint64_t instance) {
    return find(peers, instance);
}

bool handoff_peers_is_usable(const struct handoff_peer *peer) {
    return peer->is_like && peer->path == HANDOFF_GOOD && !peer->is_suspect && !peer->is_draining;
}

/* --- HELLO, BYE ------------------------------------------------------------------------------- */

/* Why its KV is of no use here; NULL: it is. */
static const char *find_unlike(const struct handoff_peers *peers, const struct msg_hello *hello) {
    const struct msg_hello *own = peers->options.hello;
    if (hello->block_size != own->block_size) return "its block size is another";
    if (hello->numeric_digest != own->numeric_digest)
        return "its model, KV dtype or numerics class is another";
    if (!hello->transfer_address[0]) return "it has no transfer address";
    return NULL;
}

static void start_proof(struct handoff_peers *peers, struct handoff_peer *peer) {
    peer->path = HANDOFF_UNPROVEN;
    if (!peers->options.xfer) return;
    enum err e = xfer_probe(peers->options.xfer, peer->hello.transfer_address);
    peer->path = e ? HANDOFF_BAD : HANDOFF_PROVING;
    peer->bad_ticks = 0;
    if (e)
        log_warn("prefill worker %s (%016llx) is not used: transfer address %s: %s", name_of(peer),
                 (unsigned long long) peer->hello.instance, peer->hello.transfer_address,
                 err_name(e));
}

/* Its log says it too. */
static void tell_unlike(struct handoff_peers *peers, uint64_t instance, const char *unlike) {
    struct buf out;
    char text[120];
    snprintf(text, sizeof text, "no prompts come from %.32s: %s",
             peers->options.hello->name[0] ? peers->options.hello->name : "a decode worker",
             unlike);
    buf_init(&out, 0);
    msg_encode_refuse(&(struct msg_refuse){.reason = MSG_REFUSE_UNLIKE, .text = text}, &out);
    if (!buf_error(&out))
        peers->options.send(peers->options.send_ctx, BUS_INBOX, instance, out.data, out.bytes);
    buf_release(&out);
}

static void take_hello(struct handoff_peers *peers, const struct msg_hello *hello) {
    if (hello->instance == 0) return;
    struct handoff_peer *peer = find(peers, hello->instance);
    bool is_new = !peer;
    if (is_new) {
        if (peers->count >= PEERS_MAX) return;
        peer = alloc_zero(1, sizeof *peer);
        if (!peer) return; /* its next HELLO */
        peer->next = peers->first;
        peers->first = peer;
        peers->count++;
    }
    bool has_moved = strcmp(peer->hello.transfer_address, hello->transfer_address) != 0;
    peer->hello = *hello;
    peer->silent_ticks = 0;
    if (hello->component != HANDOFF_COMPONENT_PREFILL || !(is_new || has_moved)) return;
    const char *unlike = find_unlike(peers, hello);
    peer->is_like = !unlike;
    if (unlike) {
        log_warn("prefill worker %s (%016llx) is not used: %s", name_of(peer),
                 (unsigned long long) hello->instance, unlike);
        tell_unlike(peers, hello->instance, unlike);
        return;
    }
    uint32_t len_max = hello->model_len_max, own_len_max = peers->options.hello->model_len_max;
    if (len_max && len_max < own_len_max)
        log_warn("prefill worker %s (%016llx) takes prompts of up to %u tokens, this worker of up "
                 "to %u: longer ones are computed elsewhere",
                 name_of(peer), (unsigned long long) hello->instance, len_max, own_len_max);
    start_proof(peers, peer);
}

/* --- LOAD, ROSTER ----------------------------------------------------------------------------- */

static void take_load(struct handoff_peers *peers, uint64_t from, const struct msg_load *load) {
    struct handoff_peer *peer = find(peers, from);
    if (!peer) {
        peers->has_unknown = true;
        return;
    }
    peer->silent_ticks = 0;
    if (peer->hello.component != HANDOFF_COMPONENT_PREFILL) return;
    bool is_moving = load->step_count != peer->step_count || load->queued_prefills == 0;
    if (is_moving) peer->stuck_ticks = 0;
    if (peer->is_suspect && is_moving && ++peer->good_loads >= GOOD_LOADS) {
        peer->is_suspect = false;
        log_info("prefill worker %s (%016llx) is back", name_of(peer), (unsigned long long) from);
    }
    peer->step_count = load->step_count;
    peer->is_draining = load->is_draining;
    peer->queued_prefills = load->queued_prefills;
    peer->queued_tokens = load->queued_prefill_tokens;
    for (uint32_t i = 0; i < load->sender_count; i++)
        if (load->senders[i].instance == peers->options.hello->instance)
            peer->echo = num_max(peer->echo, load->senders[i].attempt);
}

static void take_roster(struct handoff_peers *peers, const struct msg_roster *roster) {
    for (uint32_t i = 0; i < roster->dead_count; i++) {
        bool is_killed = roster->dead[i].reason == MSG_REAP_KILLED;
        forget(peers, roster->dead[i].instance, is_killed ? "killed" : "it has ended");
    }
}

bool handoff_peers_take(struct handoff_peers *peers, const struct bus_message *message,
                        struct arena *arena) {
    enum err e = ERR_OK;
    struct msg_hello hello;
    struct msg_load load;
    struct msg_roster roster;
    switch (msg_peek_kind(message->data, message->bytes)) {
    case MSG_HELLO:
        e = msg_decode_hello(message->data, message->bytes, &hello);
        if (!e) take_hello(peers, &hello);
        break;
    case MSG_BYE: forget(peers, message->from, "it says bye"); break;
    case MSG_LOAD:
        e = msg_decode_load(message->data, message->bytes, arena, &load);
        if (!e) take_load(peers, message->from, &load);
        break;
    case MSG_ROSTER:
        e = msg_decode_roster(message->data, message->bytes, arena, &roster);
        if (!e) take_roster(peers, &roster);
        break;
    default: break;
    }
    return e != ERR_FORMAT;
}

/* --- time ------------------------------------------------------------------------------------- */

static void suspect(struct handoff_peer *peer, const char *why) {
    if (peer->is_suspect) return;
    peer->is_suspect = true;
    peer->good_loads = 0;
    if (peer->is_like)
        log_warn("prefill worker %s (%016llx) is suspect: %s", name_of(peer),
                 (unsigned long long) peer->hello.instance, why);
}

static void tick_peer(struct handoff_peers *peers, struct handoff_peer *peer) {
    peer->silent_ticks++;
    if (peer->queued_prefills > 0) peer->stuck_ticks++;
    if (peer->silent_ticks >= SUSPECT_TICKS) {
        peer->good_loads = 0;
        suspect(peer, "silent for a second");
    }
    uint32_t step_timeout_ms = peers->options.step_timeout_ms;
    if (step_timeout_ms && (uint64_t) peer->stuck_ticks * TICK_MS >= step_timeout_ms)
        suspect(peer, "it does not step, and prompts wait");
    if (peer->path == HANDOFF_BAD && peer->is_like && ++peer->bad_ticks >= PROVE_TICKS)
        peer->path = HANDOFF_UNPROVEN;
    if (peer->path == HANDOFF_UNPROVEN && peer->is_like) start_proof(peers, peer);
}

void handoff_peers_tick(struct handoff_peers *peers) {
    peers->who_ticks++;
    struct handoff_peer *next;
    for (struct handoff_peer *peer = peers->first; peer; peer = next) {
        next = peer->next;
        tick_peer(peers, peer);
        if (peer->silent_ticks >= FORGET_TICKS)
            forget(peers, peer->hello.instance, "silent for a minute");
    }
}

void handoff_peers_poll(struct handoff_peers *peers) {
    for (struct handoff_peer *peer = peers->first; peer; peer = peer->next) {
        if (peer->path != HANDOFF_PROVING) continue;
        struct err_text text = {""};
        char lane[32] = "";
        enum err e =
            xfer_probe_result(peers->options.xfer, peer->hello.transfer_address, &text, lane);
        if (e == ERR_BUSY) continue;
        peer->path = e ? HANDOFF_BAD : HANDOFF_GOOD;
        peer->bad_ticks = 0;
        if (e)
            log_warn("prefill worker %s (%016llx) is not used: transfer address %s: %s",
                     name_of(peer), (unsigned long long) peer->hello.instance,
                     peer->hello.transfer_address, text.text[0] ? text.text : err_name(e));
        else
            log_info("prefill worker %s (%016llx): transfers go by %s", name_of(peer),
                     (unsigned long long) peer->hello.instance, lane);
    }
}

bool handoff_peers_wants_who(struct handoff_peers *peers) {
    if (!peers->has_unknown || peers->who_ticks < WHO_GAP_TICKS) return false;
    peers->has_unknown = false;
    peers->who_ticks = 0;
    return true;
}
