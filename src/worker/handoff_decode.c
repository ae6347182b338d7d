/* handoff_decode - see handoff_decode.h. */
#include "worker/handoff_decode.h"

#include <string.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/num.h"
#include "worker/handoff_peers.h"

#define SYNC_US 250000u   /* specified: protocol.md 2 */
#define TRIES_MAX 3u      /* prefill workers asked for one prompt */
#define RETRY_TICKS 2u    /* longest wait for the old blocks before another is asked */
#define SYNCS_AFTER 3u    /* SYNCs to a worker behind the last live attempt: two omit it */
#define TARGETS_MAX 64u   /* prefill workers that SYNCs go to */
#define RECORDS_MAX 1024u /* beyond it prompts are computed here */
#define TEXT_BYTES 128u

enum state { QUEUED, SENT, RETRYING, OVER };

struct handoff {
    struct handoff *next;
    enum state state;
    uint64_t engine_id;
    struct xfer_id id; /* .attempt 0: nothing was sent yet */
    uint64_t peer;     /* instance that was asked */
    uint64_t named;    /* by GENERATE; 0: none */
    uint64_t tried[TRIES_MAX];
    uint32_t try_count;
    uint64_t end_us; /* the request's own deadline; 0: none */
    uint64_t deadline_us, sent_us;
    uint32_t first_piece, piece_count, received_count;
    uint32_t known_tokens;   /* prompt, and what was sampled elsewhere */
    uint32_t prefill_tokens; /* that P has to compute at most */
    uint32_t retry_ticks, over_ticks;
    enum msg_remote_result retry_for;
    bool is_exposed;   /* expected and not let go of */
    bool is_forgotten; /* xfer_forget was called */
    bool is_done;      /* PREFILL_DONE was heard */
    bool was_lost;     /* a worker knew nothing of the PREFILL */
    char request_id[TEXT_BYTES], traceparent[TEXT_BYTES];
};

/* Prefill workers that SYNCs go to. */
struct target {
    uint64_t instance;
    uint32_t left; /* SYNCs still to be sent without any live attempt */
};

struct handoff_decode {
    struct handoff_options options;
    struct handoff_peers *peers;
    struct handoff *first;
    uint32_t count;
    uint64_t attempt_last, sync_number, sync_at_us;
    struct target targets[TARGETS_MAX];
    uint32_t target_count;
    struct buf out;
    struct handoff_decode_counts counts;
};

static void send_out(struct handoff_decode *decode, enum bus_subject subject, uint64_t to) {
    if (!buf_error(&decode->out)) /* no memory: as good as lost */
        decode->options.send(decode->options.send_ctx, subject, to, decode->out.data,
                             decode->out.bytes);
}

static void send_who(struct handoff_decode *decode) {
    buf_clear(&decode->out);
    msg_encode_who(&decode->out);
    send_out(decode, BUS_HELLO, 0);
}

enum err handoff_decode_create(const struct handoff_options *options, uint64_t now_us,
                               struct handoff_decode **out) {
    struct handoff_decode *decode = alloc_zero(1, sizeof *decode);
    if (!decode) return ERR_MEMORY;
    decode->options = *options;
    decode->sync_at_us = now_us + SYNC_US;
    buf_init(&decode->out, 0);
    enum err e = handoff_peers_create(options, &decode->peers);
    if (e) {
        handoff_decode_destroy(decode);
        return e;
    }
    send_who(decode);
    *out = decode;
    return ERR_OK;
}

void handoff_decode_destroy(struct handoff_decode *decode) {
    if (!decode) return;
    while (decode->first) {
        struct handoff *handoff = decode->first;
        decode->first = handoff->next;
        alloc_free(handoff);
    }
    handoff_peers_destroy(decode->peers);
    buf_release(&decode->out);
    alloc_free(decode);
}

/* --- records ---------------------------------------------------------------------------------- */

/* The one that the engine's request is bound to now. */
static struct handoff *find_engine(const struct handoff_decode *decode, uint64_t engine_id) {
    struct handoff *handoff = decode->first;
    while (handoff && (handoff->engine_id != engine_id || handoff->state == OVER))
        handoff = handoff->next;
    return handoff;
}

static struct handoff *find_attempt(const struct handoff_decode *decode, uint64_t attempt) {
    struct handoff *handoff = decode->first;
    while (handoff && handoff->id.attempt != attempt) handoff = handoff->next;
    return attempt ? handoff : NULL;
}

/* Messages are taken only from the (instance, attempt) that a prompt is bound to now. */
static struct handoff *find_bound(struct handoff_decode *decode, uint64_t from, uint64_t attempt) {
    struct handoff *handoff = find_attempt(decode, attempt);
    if (handoff && handoff->state == SENT && handoff->peer == from) return handoff;
    decode->counts.stale++;
    return NULL;
}

static void record_free(struct handoff_decode *decode, struct handoff *handoff) {
    CHECK(!handoff->is_exposed);
    struct handoff **at = &decode->first;
    while (*at != handoff) at = &(*at)->next;
    *at = handoff->next;
    decode->count--;
    alloc_free(handoff);
}

static void copy_text(char out[TEXT_BYTES], const char *text) {
    size_t bytes = text ? strnlen(text, TEXT_BYTES - 1) : 0;
    if (bytes) memcpy(out, text, bytes);
    out[bytes] = '\0';
}

static void count(struct handoff_decode *decode, enum msg_remote_result result) {
    decode->counts.results[result]++;
}

/* --- the rule --------------------------------------------------------------------------------- */

/* Tokens known before the first step; 0: this request is not for others (n choices that go on
 * from different ids, prompt logprobs, an answer that is over). */
static uint32_t known_tokens(const struct msg_generate *message) {
    if (message->sampling.prompt_logprobs >= 0 || message->sampling.max_tokens == 0) return 0;
    if (message->choice_count == 0 || message->prompt_count == 0) return 0;
    uint32_t output_count = message->choices[0].output_count;
    for (uint32_t i = 1; i < message->choice_count; i++)
        if (message->choices[i].output_count || output_count) return 0;
    if (output_count >= message->sampling.max_tokens) return 0;
    return message->prompt_count + output_count;
}

/* (our attempts at this worker that its LOAD does not show yet, their tokens) */
static uint32_t unseen_of(const struct handoff_decode *decode, const struct handoff_peer *peer,
                          uint64_t *tokens) {
    uint32_t unseen = 0;
    *tokens = 0;
    for (const struct handoff *h = decode->first; h; h = h->next) {
        if (h->state != SENT || h->peer != peer->hello.instance || h->id.attempt <= peer->echo)
            continue;
        unseen++;
        *tokens += h->prefill_tokens;
    }
    return unseen;
}

/* The classic router's conditions (protocol.md 2: queue is a mean over the live workers). */
static bool is_queue_full(const struct handoff_decode *decode, bool *has_peer) {
    uint64_t queued = 0, live = 0, tokens;
    for (const struct handoff_peer *p = handoff_peers_first(decode->peers); p; p = p->next) {
        if (!handoff_peers_is_usable(p)) continue;
        queued += (uint64_t) p->queued_prefills + unseen_of(decode, p, &tokens);
        live++;
    }
    *has_peer = live > 0;
    return queued >= decode->options.rule.queue_max * live;
}

bool handoff_decode_wants(struct handoff_decode *decode, uint64_t engine_id,
                          const struct msg_generate *message, uint64_t now_us) {
    const struct handoff_rule *rule = &decode->options.rule;
    uint32_t known = known_tokens(message), hit = 0;
    bool has_peer;
    if (!rule->is_remote || !decode->options.xfer || known == 0) return false;
    /* Of a resumed sequence only the prompt is looked up: its ids lie in one piece. */
    if (!message->sampling.skip_prefix_cache)
        hit = engine_prefix_hit(decode->options.engine, message->prompt_ids, message->prompt_count);
    uint32_t rest = known - hit;
    bool is_full = is_queue_full(decode, &has_peer);
    enum msg_remote_result why = MSG_REMOTE_DONE;
    if (!has_peer) why = MSG_REMOTE_LOCAL_NO_PEER;
    else if (rest <= 1 || (rule->is_conditional && rest <= rule->local_tokens_max))
        why = MSG_REMOTE_LOCAL_SHORT;
    else if (!engine_remote_fits(decode->options.engine, known)) why = MSG_REMOTE_LOCAL_LARGE;
    else if ((rule->is_conditional && is_full) || decode->count >= RECORDS_MAX)
        why = MSG_REMOTE_LOCAL_QUEUE;
    struct handoff *handoff = why == MSG_REMOTE_DONE ? alloc_zero(1, sizeof *handoff) : NULL;
    if (!handoff) { /* without memory it is computed here, like the others */
        if (why != MSG_REMOTE_DONE) count(decode, why);
        return false;
    }
    handoff->state = QUEUED;
    handoff->engine_id = engine_id;
    handoff->known_tokens = known;
    handoff->named = message->prefill_instance;
    handoff->end_us = message->remaining_ms ? now_us + (uint64_t) message->remaining_ms * 1000 : 0;
    copy_text(handoff->request_id, message->request_id);
    copy_text(handoff->traceparent, message->traceparent);
    handoff->next = decode->first;
    decode->first = handoff;
    decode->count++;
    return true;
}

/* --- PREFILL ---------------------------------------------------------------------------------- */

static bool was_tried(const struct handoff *handoff, uint64_t instance) {
    for (uint32_t i = 0; i < handoff->try_count; i++)
        if (handoff->tried[i] == instance) return true;
    return false;
}

/* The one that the frontend named, else the one with the fewest waiting tokens; NULL: none. */
static const struct handoff_peer *choose(const struct handoff_decode *decode,
                                         const struct handoff *handoff) {
    const struct handoff_peer *best = NULL;
    uint64_t best_tokens = 0, tokens;
    if (handoff->try_count >= TRIES_MAX) return NULL;
    for (const struct handoff_peer *p = handoff_peers_first(decode->peers); p; p = p->next) {
        if (!handoff_peers_is_usable(p) || was_tried(handoff, p->hello.instance)) continue;
        if (p->hello.model_len_max && handoff->known_tokens > p->hello.model_len_max) continue;
        if (p->hello.instance == handoff->named) return p;
        unseen_of(decode, p, &tokens);
        tokens += p->queued_tokens;
        if (best && tokens >= best_tokens) continue;
        best = p;
        best_tokens = tokens;
    }
    return best;
}

/* A key that only this worker and the one that is asked can know. */
static void make_key(const struct handoff_decode *decode, uint64_t attempt, uint64_t key[2]) {
    uint64_t parts[4] = {decode->options.secret[0], attempt, decode->options.secret[1],
                         decode->options.hello->instance};
    XXH128_hash_t hash = XXH3_128bits(parts, sizeof parts);
    key[0] = hash.low64;
    key[1] = hash.high64;
}

static void add_target(struct handoff_decode *decode, uint64_t instance) {
    uint32_t at = 0;
    while (at < decode->target_count && decode->targets[at].instance != instance) at++;
    if (at == TARGETS_MAX) return; /* its own silence timeout ends what is lost there */
    if (at == decode->target_count) decode->target_count++;
    decode->targets[at] = (struct target){instance, SYNCS_AFTER};
}

static void send_prefill(struct handoff_decode *decode, struct handoff *handoff,
                         const uint32_t *tokens, uint32_t token_count, const uint32_t *blocks,
                         uint64_t now_us) {
    const struct msg_hello *own = decode->options.hello;
    uint64_t rest_ms = num_div_up(handoff->deadline_us - now_us, 1000);
    struct msg_prefill message = {
        .attempt = handoff->id.attempt,
        .prompt_ids = tokens,
        .prompt_count = token_count,
        .have_count = handoff->first_piece,
        .blocks = blocks + handoff->first_piece,
        .block_count = handoff->piece_count,
        .block_size = own->block_size,
        .tp = own->tp,
        .numeric_digest = own->numeric_digest,
        .key = {handoff->id.key[0], handoff->id.key[1]},
        .transfer_address = xfer_address(decode->options.xfer),
        .remaining_ms = (uint32_t) num_min(rest_ms, UINT32_MAX),
        .request_id = handoff->request_id,
        .traceparent = handoff->traceparent,
    };
    buf_clear(&decode->out);
    msg_encode_prefill(&message, &decode->out);
    send_out(decode, BUS_INBOX, handoff->peer);
}

/* The request's own time is up: nobody else is asked. */
static bool is_out_of_time(const struct handoff *handoff, uint64_t now_us) {
    return handoff->end_us && now_us >= handoff->end_us;
}

/* Each worker that is asked has remote-prefill-timeout, within the request's own time. */
static void set_deadline(const struct handoff_decode *decode, struct handoff *handoff,
                         uint64_t now_us) {
    handoff->deadline_us = now_us + (uint64_t) decode->options.rule.timeout_ms * 1000;
    if (handoff->end_us) handoff->deadline_us = num_min(handoff->deadline_us, handoff->end_us);
}

/* Asks this worker; false: its pieces cannot be expected now. */
static bool ask(struct handoff_decode *decode, struct handoff *handoff,
                const struct handoff_peer *peer, uint64_t now_us) {
    const uint32_t *tokens, *blocks;
    uint32_t token_count, block_count;
    if (!engine_get_sequence(decode->options.engine, handoff->engine_id, &tokens, &token_count,
                             &blocks, &block_count))
        return false;
    handoff->tried[handoff->try_count++] = peer->hello.instance;
    handoff->id.instance = decode->options.hello->instance;
    handoff->id.attempt = ++decode->attempt_last;
    make_key(decode, handoff->id.attempt, handoff->id.key);
    handoff->piece_count = block_count - handoff->first_piece;
    enum err e =
        xfer_expect(decode->options.xfer, &handoff->id, peer->hello.tp, handoff->first_piece,
                    blocks + handoff->first_piece, handoff->piece_count);
    if (e) {
        log_request(LOG_WARN, handoff->request_id, "no transfer from prefill worker %s: %s",
                    peer->hello.name, err_name(e));
        handoff->id.attempt = 0;
        return false;
    }
    engine_remote_expose(decode->options.engine, handoff->engine_id);
    handoff->state = SENT;
    handoff->peer = peer->hello.instance;
    handoff->is_exposed = true;
    handoff->is_forgotten = handoff->is_done = false;
    handoff->received_count = handoff->retry_ticks = 0;
    handoff->sent_us = now_us;
    set_deadline(decode, handoff, now_us);
    handoff->prefill_tokens =
        token_count - handoff->first_piece * decode->options.hello->block_size;
    add_target(decode, handoff->peer);
    if (decode->options.hello->name[0])
        log_request(LOG_INFO, handoff->request_id, "prefill asked of %s (%016llx)",
                    peer->hello.name, (unsigned long long) handoff->peer);
    send_prefill(decode, handoff, tokens, token_count, blocks, now_us);
    return true;
}

/* Computed here after all.  The record stays until its blocks are let go of. */
static void fall_back(struct handoff_decode *decode, struct handoff *handoff,
                      enum msg_remote_result result) {
    count(decode, result);
    engine_remote_fallback(decode->options.engine, handoff->engine_id);
    handoff->state = OVER;
    if (!handoff->is_exposed) record_free(decode, handoff);
}

/* Asks the next one, or falls back for the reason given. */
static void ask_next(struct handoff_decode *decode, struct handoff *handoff,
                     enum msg_remote_result result, uint64_t now_us) {
    const struct handoff_peer *peer = NULL;
    if (!is_out_of_time(handoff, now_us)) peer = choose(decode, handoff);
    bool is_retry = handoff->try_count > 0;
    while (peer && !ask(decode, handoff, peer, now_us)) peer = choose(decode, handoff);
    if (!peer) fall_back(decode, handoff, result);
    else if (is_retry) count(decode, MSG_REMOTE_RETRIED);
}

void handoff_decode_admitted(struct handoff_decode *decode, uint64_t engine_id, bool is_placed,
                             uint32_t cached_tokens, uint64_t now_us) {
    struct handoff *handoff = find_engine(decode, engine_id);
    if (!handoff || handoff->state != QUEUED) return;
    if (!is_placed) { /* the prefix cache has it all by now */
        count(decode, MSG_REMOTE_LOCAL_SHORT);
        record_free(decode, handoff);
        return;
    }
    handoff->first_piece = cached_tokens / decode->options.hello->block_size;
    bool is_late = is_out_of_time(handoff, now_us);
    ask_next(decode, handoff, is_late ? MSG_REMOTE_TIMEOUT : MSG_REMOTE_LOCAL_NO_PEER, now_us);
}

/* --- giving up -------------------------------------------------------------------------------- */

static void let_go(struct handoff_decode *decode, struct handoff *handoff) {
    if (!handoff->is_exposed || handoff->is_forgotten) return;
    handoff->is_forgotten = true;
    xfer_forget(decode->options.xfer, &handoff->id);
}

static void send_cancel(struct handoff_decode *decode, const struct handoff *handoff) {
    buf_clear(&decode->out);
    msg_encode_cancel(&(struct msg_attempt){handoff->id.attempt}, &decode->out);
    send_out(decode, BUS_INBOX, handoff->peer);
}

static void give_up(struct handoff_decode *decode, struct handoff *handoff,
                    enum msg_remote_result result, const char *why, uint64_t now_us) {
    const struct handoff_peer *peer = handoff_peers_find(decode->peers, handoff->peer);
    bool may_retry = !is_out_of_time(handoff, now_us) && choose(decode, handoff);
    decode->counts.late_retries += may_retry && result == MSG_REMOTE_TIMEOUT;
    /* Of a worker's end its own line tells. */
    log_request(result == MSG_REMOTE_DEAD ? LOG_INFO : LOG_WARN, handoff->request_id,
                "prefill at %s (%016llx) given up: %s; %s",
                peer ? peer->hello.name : "a worker that is gone",
                (unsigned long long) handoff->peer, why,
                may_retry ? "another one is asked" : "computed here");
    send_cancel(decode, handoff);
    let_go(decode, handoff);
    if (!may_retry) {
        fall_back(decode, handoff, result);
        return;
    }
    handoff->state = RETRYING;
    handoff->retry_for = result;
    if (!handoff->is_exposed) ask_next(decode, handoff, result, now_us);
}

void handoff_decode_end(struct handoff_decode *decode, uint64_t engine_id) {
    struct handoff *handoff = find_engine(decode, engine_id);
    if (!handoff) return;
    if (handoff->state == SENT) send_cancel(decode, handoff);
    if (handoff->state != QUEUED) count(decode, MSG_REMOTE_CANCELLED);
    decode->counts.cancelled_exposed += handoff->is_exposed;
    let_go(decode, handoff);
    handoff->state = OVER;
    if (!handoff->is_exposed) record_free(decode, handoff);
}

/* --- answers and events ----------------------------------------------------------------------- */

static void maybe_join(struct handoff_decode *decode, struct handoff *handoff, uint64_t now_us) {
    if (handoff->is_exposed || !handoff->is_done) return;
    count(decode, MSG_REMOTE_DONE);
    decode->counts.handoff_us += now_us > handoff->sent_us ? now_us - handoff->sent_us : 0;
    engine_remote_join(decode->options.engine, handoff->engine_id);
    record_free(decode, handoff);
}

static void take_done(struct handoff_decode *decode, uint64_t from,
                      const struct msg_prefill_done *done, uint64_t now_us) {
    struct handoff *handoff = find_bound(decode, from, done->attempt);
    if (!handoff || handoff->is_done) return;
    if (done->piece_count != handoff->piece_count) {
        give_up(decode, handoff, MSG_REMOTE_BROKEN, "it sent another number of blocks", now_us);
        return;
    }
    bool is_whole = handoff->received_count == handoff->piece_count;
    decode->counts.pieces_first += is_whole;
    decode->counts.done_first += !is_whole;
    handoff->is_done = true;
    maybe_join(decode, handoff, now_us);
}

bool handoff_decode_take(struct handoff_decode *decode, const struct bus_message *message,
                         struct arena *arena, uint64_t now_us) {
    enum err e;
    struct msg_prefill_done done;
    struct msg_refuse refuse;
    struct msg_attempt gone;
    struct handoff *handoff;
    switch (msg_peek_kind(message->data, message->bytes)) {
    case MSG_PREFILL_DONE:
        e = msg_decode_prefill_done(message->data, message->bytes, &done);
        if (!e) take_done(decode, message->from, &done, now_us);
        return e != ERR_FORMAT;
    case MSG_REFUSE:
        e = msg_decode_refuse(message->data, message->bytes, arena, &refuse);
        handoff = e ? NULL : find_bound(decode, message->from, refuse.attempt);
        if (handoff) give_up(decode, handoff, MSG_REMOTE_REFUSED, refuse.text, now_us);
        return e != ERR_FORMAT;
    case MSG_GONE:
        e = msg_decode_attempt(message->data, message->bytes, &gone);
        handoff = e ? NULL : find_bound(decode, message->from, gone.attempt);
        if (!handoff) return e != ERR_FORMAT;
        decode->counts.gone++;
        if (!handoff->was_lost) handoff->try_count--; /* the PREFILL was lost: asked once more */
        handoff->was_lost = true;
        give_up(decode, handoff, MSG_REMOTE_REFUSED, "it knows nothing of it", now_us);
        return true;
    default: return handoff_peers_take(decode->peers, message, arena);
    }
}

static void take_received(struct handoff_decode *decode, struct handoff *handoff) {
    if (handoff->state != SENT || handoff->is_forgotten) return;
    handoff->received_count++;
    if (handoff->received_count == handoff->piece_count) let_go(decode, handoff);
}

static void take_released(struct handoff_decode *decode, struct handoff *handoff, uint64_t now_us) {
    handoff->is_exposed = false;
    engine_remote_release(decode->options.engine, handoff->engine_id);
    switch (handoff->state) {
    case SENT: maybe_join(decode, handoff, now_us); break;
    case RETRYING: ask_next(decode, handoff, handoff->retry_for, now_us); break;
    case OVER:
        decode->counts.released_late++;
        record_free(decode, handoff);
        break;
    case QUEUED: CHECK(false);
    }
}

void handoff_decode_event(struct handoff_decode *decode, const struct xfer_event *event,
                          uint64_t now_us) {
    struct handoff *handoff = find_attempt(decode, event->attempt);
    if (!handoff) return;
    switch (event->kind) {
    case XFER_RECEIVED: take_received(decode, handoff); break;
    case XFER_RELEASED: take_released(decode, handoff, now_us); break;
    case XFER_BROKEN:
        if (handoff->state != SENT || handoff->is_forgotten) break;
        decode->counts.transfer_failures++;
        give_up(decode, handoff, MSG_REMOTE_BROKEN, event->reason ? event->reason : "broken",
                now_us);
        break;
    case XFER_SENT:
    case XFER_FAILED: break; /* P's */
    }
}

/* --- time ------------------------------------------------------------------------------------- */

static void send_sync(struct handoff_decode *decode, uint64_t to, bool *has_live) {
    struct msg_sync_entry entries[RECORDS_MAX];
    uint32_t entry_count = 0;
    for (const struct handoff *h = decode->first; h; h = h->next)
        if (h->state == SENT && h->peer == to)
            entries[entry_count++] = (struct msg_sync_entry){.attempt = h->id.attempt};
    *has_live = entry_count > 0;
    decode->counts.syncs++;
    buf_clear(&decode->out);
    msg_encode_sync(&(struct msg_sync){++decode->sync_number, entries, entry_count}, &decode->out);
    send_out(decode, BUS_INBOX, to);
}

static void sync_all(struct handoff_decode *decode, uint64_t now_us) {
    decode->sync_at_us = now_us + SYNC_US;
    for (uint32_t i = 0; i < decode->target_count;) {
        struct target *target = &decode->targets[i];
        bool has_live;
        send_sync(decode, target->instance, &has_live);
        if (has_live) target->left = SYNCS_AFTER;
        else target->left--;
        if (target->left > 0) i++;
        else *target = decode->targets[--decode->target_count];
    }
}

void handoff_decode_poll(struct handoff_decode *decode, uint64_t now_us) {
    handoff_peers_poll(decode->peers);
    if (decode->target_count > 0 && now_us >= decode->sync_at_us) sync_all(decode, now_us);
}

uint64_t handoff_decode_wake_at(const struct handoff_decode *decode) {
    return decode->target_count ? decode->sync_at_us : UINT64_MAX;
}

void handoff_decode_lossy(struct handoff_decode *decode, uint64_t now_us) {
    send_who(decode);
    sync_all(decode, now_us);
}

static void tick_record(struct handoff_decode *decode, struct handoff *handoff, uint64_t now_us) {
    if (handoff->state == RETRYING && ++handoff->retry_ticks >= RETRY_TICKS) {
        fall_back(decode, handoff, handoff->retry_for);
        return;
    }
    if (handoff->state == OVER) {
        handoff->over_ticks++;
        if (handoff->over_ticks * 100 == decode->options.quarantine_timeout_ms / 100 * 100)
            log_request(LOG_WARN, handoff->request_id, "%u blocks are still in quarantine",
                        handoff->piece_count);
        return;
    }
    if (handoff->state != SENT) return;
    const struct handoff_peer *peer = handoff_peers_find(decode->peers, handoff->peer);
    if (now_us >= handoff->deadline_us)
        give_up(decode, handoff, MSG_REMOTE_TIMEOUT, "its deadline has passed", now_us);
    else if (!peer || peer->is_suspect)
        give_up(decode, handoff, MSG_REMOTE_DEAD, peer ? "it is suspect" : "it is dead", now_us);
}

void handoff_decode_tick(struct handoff_decode *decode, bool is_connected, uint64_t now_us) {
    if (is_connected) handoff_peers_tick(decode->peers);
    if (handoff_peers_wants_who(decode->peers)) send_who(decode);
    struct handoff *next;
    for (struct handoff *handoff = decode->first; handoff; handoff = next) {
        next = handoff->next;
        tick_record(decode, handoff, now_us);
    }
}

/* --- seen from outside ------------------------------------------------------------------------ */

bool handoff_decode_is_empty(const struct handoff_decode *decode) { return decode->count == 0; }

void handoff_decode_get_counts(const struct handoff_decode *decode,
                               struct handoff_decode_counts *out) {
    *out = decode->counts;
}

void handoff_decode_add_load(const struct handoff_decode *decode, struct msg_load *message) {
    memcpy(message->remote_results, decode->counts.results, sizeof message->remote_results);
    message->handoff_us = decode->counts.handoff_us;
    message->transfer_failures = decode->counts.transfer_failures;
}

void handoff_decode_check(const struct handoff_decode *decode) {
    uint32_t records = 0;
    for (const struct handoff *h = decode->first; h; h = h->next) {
        records++;
        CHECK(!h->is_exposed || h->id.attempt != 0);
        CHECK(h->state != QUEUED || (!h->is_exposed && h->try_count == 0));
        CHECK(h->state != SENT || h->peer != 0);
        CHECK(h->state != SENT || h->received_count <= h->piece_count);
        CHECK(h->state != RETRYING || (h->is_exposed && h->is_forgotten));
        CHECK(h->state != OVER || (h->is_exposed && h->is_forgotten));
        CHECK(h->id.attempt == 0 || find_attempt(decode, h->id.attempt) == h);
    }
    CHECK(records == decode->count);
}
