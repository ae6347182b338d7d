/* xfer - see xfer.h.  The owner's half: objects, lists, news; the bodies are behind xfer_body.h.
 *
 * A work is freed when its RELEASED is taken, a piece when its SENT or FAILED is: both are the last
 * thing that a body says of them. */
#include "xfer/xfer.h"

#include <string.h>

#include <xxhash.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/num.h"
#include "xfer/xfer_body.h"

#define WORKS_MAX 4096u /* open; past them ERR_BUSY */

enum err xfer_init(struct xfer *xfer, const struct xfer_ops *ops,
                   const struct xfer_options *options) {
    CHECK(options->rank_count > 0 && options->instance != 0);
    xfer->ops = ops;
    xfer->options = *options;
    xfer->layouts = alloc_array(options->rank_count, sizeof *xfer->layouts);
    if (!xfer->layouts) return ERR_MEMORY;
    memcpy(xfer->layouts, options->layouts, options->rank_count * sizeof *xfer->layouts);
    xfer->options.layouts = xfer->layouts;
    if (!xfer->options.transfer_timeout_ms) xfer->options.transfer_timeout_ms = 2000;
    return ERR_OK;
}

int xfer_start_thread(pthread_t *thread, void *(*run)(void *), void *ctx) {
    pthread_attr_t attributes;
    int status = pthread_attr_init(&attributes);
    if (status != 0) return status;
    pthread_attr_setstacksize(&attributes, XFER_STACK_BYTES);
    status = pthread_create(thread, &attributes, run, ctx);
    pthread_attr_destroy(&attributes);
    return status;
}

static void free_work(struct xfer_work *work) {
    if (!work) return;
    alloc_free(work->blocks);
    alloc_free(work->news);
    alloc_free(work->begun);
    alloc_free(work->parts_left);
    alloc_free(work);
}

static void free_contact(struct xfer_contact *contact) {
    alloc_free(contact->address);
    alloc_free(contact);
}

void xfer_release(struct xfer *xfer) {
    for (uint32_t i = 0; i < XFER_BUCKETS; i++)
        for (struct xfer_work *work = xfer->works[i], *next; work; work = next) {
            next = work->next;
            free_work(work);
        }
    for (struct xfer_piece *piece = xfer->pieces, *next; piece; piece = next) {
        next = piece->next;
        alloc_free(piece);
    }
    for (struct xfer_contact *contact = xfer->contacts, *next; contact; contact = next) {
        next = contact->next;
        free_contact(contact);
    }
    for (uint32_t i = 0; i < xfer->plan_count; i++) xfer_plan_destroy(xfer->plans[i].plan);
    alloc_free(xfer->layouts);
}

void xfer_destroy(struct xfer *xfer) {
    if (xfer) xfer->ops->destroy(xfer);
}

const char *xfer_address(const struct xfer *xfer) { return xfer->address; }

/* --- what is kept of peers -------------------------------------------------------------- */

static enum err find_plan(struct xfer *xfer, enum xfer_side side, uint32_t peer_tp,
                          const struct xfer_plan **out) {
    for (uint32_t i = 0; i < xfer->plan_count; i++) {
        const struct xfer_plan *plan = xfer->plans[i].plan;
        if (plan->side != side || plan->peer_tp != peer_tp) continue;
        *out = plan;
        return ERR_OK;
    }
    if (xfer->plan_count == ARRAY_COUNT(xfer->plans)) return ERR_LIMIT;
    struct xfer_plan *plan = NULL;
    enum err e = xfer_plan_create(xfer->layouts, xfer->options.rank_count, side, peer_tp, &plan);
    if (e) return e;
    xfer->plans[xfer->plan_count++].plan = plan;
    *out = plan;
    return ERR_OK;
}

static struct xfer_contact *find_contact(const struct xfer *xfer, const char *address,
                                         uint64_t hash) {
    struct xfer_contact *contact = xfer->contacts;
    while (contact && (contact->hash != hash || strcmp(contact->address, address) != 0))
        contact = contact->next;
    return contact;
}

/* Peers come and go: one that nothing waits for makes room. */
static void drop_a_contact(struct xfer *xfer) {
    for (struct xfer_contact **at = &xfer->contacts; *at; at = &(*at)->next) {
        struct xfer_contact *contact = *at;
        if (contact->piece_count > 0 || contact->probe_state == XFER_PROBING) continue;
        *at = contact->next;
        xfer->contact_count--;
        free_contact(contact);
        return;
    }
}

static enum err get_contact(struct xfer *xfer, const char *address, struct xfer_contact **out) {
    size_t bytes = strnlen(address, XFER_ADDRESS_BYTES);
    if (bytes >= XFER_ADDRESS_BYTES) return ERR_FORMAT;
    uint64_t hash = XXH3_64bits(address, bytes);
    struct xfer_contact *contact = find_contact(xfer, address, hash);
    if (!contact) {
        if (xfer->contact_count >= XFER_CONTACTS_MAX) drop_a_contact(xfer);
        if (xfer->contact_count >= XFER_CONTACTS_MAX) return ERR_BUSY;
        contact = alloc_zero(1, sizeof *contact);
        if (!contact) return ERR_MEMORY;
        contact->address = alloc_string(address, bytes);
        if (!contact->address) {
            alloc_free(contact);
            return ERR_MEMORY;
        }
        contact->hash = hash;
        contact->next = xfer->contacts;
        xfer->contacts = contact;
        xfer->contact_count++;
    }
    *out = contact;
    return ERR_OK;
}

/* --- D ------------------------------------------------------------------------------------ */

static struct xfer_work **owner_bucket(struct xfer *xfer, uint64_t attempt) {
    return &xfer->works[attempt % XFER_BUCKETS];
}

static struct xfer_work *find_work(struct xfer *xfer, const struct xfer_id *id) {
    struct xfer_work *work = *owner_bucket(xfer, id->attempt);
    while (work && (work->id.instance != id->instance || work->id.attempt != id->attempt))
        work = work->next;
    return work;
}

static struct xfer_work *make_work(const struct xfer_plan *plan, const uint32_t *blocks,
                                   uint32_t block_count) {
    struct xfer_work *work = alloc_zero(1, sizeof *work);
    if (!work) return NULL;
    uint64_t bit_count = (uint64_t) block_count * plan->part_count;
    work->blocks = alloc_array(block_count, sizeof *blocks);
    work->news = alloc_zero((size_t) block_count + 2, sizeof *work->news);
    work->begun = alloc_zero(num_div_up(bit_count, 64), sizeof *work->begun);
    work->parts_left = alloc_array(block_count, sizeof *work->parts_left);
    if (!work->blocks || !work->news || !work->begun || !work->parts_left) {
        free_work(work);
        return NULL;
    }
    memcpy(work->blocks, blocks, block_count * sizeof *blocks);
    for (uint32_t i = 0; i < block_count; i++) work->parts_left[i] = plan->part_count;
    work->plan = plan;
    work->piece_count = block_count;
    return work;
}

enum err xfer_expect(struct xfer *xfer, const struct xfer_id *id, uint32_t peer_tp,
                     uint32_t first_piece, const uint32_t *blocks, uint32_t block_count) {
    CHECK(block_count > 0 && block_count <= UINT32_MAX - first_piece);
    for (uint32_t i = 0; i < block_count; i++)
        CHECK(blocks[i] > 0 && blocks[i] < xfer->layouts[0].block_count);
    if (find_work(xfer, id)) return ERR_USAGE;
    if (xfer->work_count >= WORKS_MAX) return ERR_BUSY;
    const struct xfer_plan *plan;
    enum err e = find_plan(xfer, XFER_TARGET, peer_tp, &plan);
    if (e) return e;
    struct xfer_work *work = make_work(plan, blocks, block_count);
    if (!work) return ERR_MEMORY;
    work->id = *id;
    work->first_piece = first_piece;
    work->expect = (struct xfer_command){.kind = XFER_DO_EXPECT, .subject = work};
    work->forget = (struct xfer_command){.kind = XFER_DO_FORGET, .subject = work};
    struct xfer_work **bucket = owner_bucket(xfer, id->attempt);
    work->next = *bucket;
    *bucket = work;
    xfer->work_count++;
    xfer->ops->expect(xfer, work);
    return ERR_OK;
}

void xfer_forget(struct xfer *xfer, const struct xfer_id *id) {
    struct xfer_work *work = find_work(xfer, id);
    CHECK(work && !work->is_over);
    work->is_over = true;
    xfer->ops->forget(xfer, work);
}

/* --- P ------------------------------------------------------------------------------------ */

enum err xfer_send(struct xfer *xfer, const char *address, const struct xfer_id *id,
                   uint32_t peer_tp, uint32_t piece, uint32_t block) {
    CHECK(block > 0 && block < xfer->layouts[0].block_count);
    if (xfer->piece_count >= XFER_PIECES_MAX) return ERR_BUSY;
    const struct xfer_plan *plan;
    enum err e = find_plan(xfer, XFER_SOURCE, peer_tp, &plan);
    if (e) return e;
    struct xfer_contact *contact;
    e = get_contact(xfer, address, &contact);
    if (e) return e;
    struct xfer_piece *new = alloc_zero(1, sizeof *new);
    if (!new) return ERR_MEMORY;
    new->command = (struct xfer_command){.kind = XFER_DO_SEND, .subject = new};
    new->contact = contact;
    new->plan = plan;
    new->id = *id;
    new->piece = piece;
    new->block = block;
    new->next = xfer->pieces;
    if (new->next) new->next->previous = new;
    xfer->pieces = new;
    xfer->piece_count++;
    contact->piece_count++;
    xfer->ops->send(xfer, new);
    return ERR_OK;
}

void xfer_abandon(struct xfer *xfer, const struct xfer_id *id) {
    bool is_any = false;
    for (struct xfer_piece *piece = xfer->pieces; piece; piece = piece->next) {
        if (piece->id.instance != id->instance || piece->id.attempt != id->attempt) continue;
        atomic_store(&piece->is_abandoned, true);
        is_any = true;
    }
    if (is_any) xfer->ops->abandon(xfer);
}

enum err xfer_probe(struct xfer *xfer, const char *address) {
    struct xfer_contact *contact;
    enum err e = get_contact(xfer, address, &contact);
    if (e) return e;
    if (atomic_load(&contact->probe_state) == XFER_PROBING) return ERR_OK;
    contact->probe = (struct xfer_command){.kind = XFER_DO_PROBE, .subject = contact};
    atomic_store(&contact->probe_state, XFER_PROBING);
    xfer->ops->probe(xfer, contact);
    return ERR_OK;
}

enum err xfer_probe_result(struct xfer *xfer, const char *address, struct err_text *text,
                           char lane[32]) {
    size_t bytes = strnlen(address, XFER_ADDRESS_BYTES);
    const struct xfer_contact *contact = find_contact(xfer, address, XXH3_64bits(address, bytes));
    if (!contact || contact->probe_state == XFER_UNPROBED)
        return err_set(text, ERR_NOT_FOUND, "this address was not probed");
    if (contact->probe_state == XFER_PROBING) return ERR_BUSY;
    if (contact->probe_error)
        return err_set(text, contact->probe_error, "%s", contact->probe_text.text);
    memcpy(lane, contact->lane, sizeof contact->lane);
    return ERR_OK;
}

/* --- news ----------------------------------------------------------------------------------- */

void xfer_tell(struct xfer *xfer, struct xfer_news *news) {
    bool is_first = xfer_stack_push(&xfer->news, &news->node);
    if (is_first && xfer->options.wake) xfer->options.wake(xfer->options.wake_ctx);
}

static void tell_piece(struct xfer *xfer, struct xfer_piece *piece, enum xfer_event_kind kind,
                       const char *reason) {
    piece->news.event = (struct xfer_event){.kind = kind,
                                            .instance = piece->id.instance,
                                            .attempt = piece->id.attempt,
                                            .piece = piece->piece,
                                            .reason = reason};
    piece->news.piece = piece;
    xfer_tell(xfer, &piece->news);
}

void xfer_tell_sent(struct xfer *xfer, struct xfer_piece *piece) {
    atomic_fetch_add(&xfer->counts.sent_bytes, piece->plan->piece_bytes);
    atomic_fetch_add(&xfer->counts.sent_pieces, 1);
    tell_piece(xfer, piece, XFER_SENT, NULL);
}

void xfer_tell_failed(struct xfer *xfer, struct xfer_piece *piece, const char *reason) {
    atomic_fetch_add(&xfer->counts.failed_pieces, 1);
    tell_piece(xfer, piece, XFER_FAILED, reason);
}

void xfer_tell_probed(struct xfer *xfer, struct xfer_contact *contact) {
    atomic_store(&contact->probe_state, XFER_PROBED);
    if (xfer->options.wake) xfer->options.wake(xfer->options.wake_ctx);
}

void xfer_tell_begun(struct xfer *xfer, uint64_t now_us) {
    if (xfer->sending++ == 0) atomic_store(&xfer->counts.busy_since_us, now_us ? now_us : 1);
}

void xfer_tell_ended(struct xfer *xfer, uint64_t now_us) {
    CHECK(xfer->sending > 0);
    if (--xfer->sending > 0) return;
    uint64_t since_us = atomic_exchange(&xfer->counts.busy_since_us, 0);
    if (now_us > since_us) atomic_fetch_add(&xfer->counts.busy_us, now_us - since_us);
}

static void end_piece(struct xfer *xfer, struct xfer_piece *piece) {
    if (piece->previous) piece->previous->next = piece->next;
    else xfer->pieces = piece->next;
    if (piece->next) piece->next->previous = piece->previous;
    xfer->piece_count--;
    piece->contact->piece_count--;
    alloc_free(piece);
}

static void end_work(struct xfer *xfer, struct xfer_work *work) {
    struct xfer_work **at = owner_bucket(xfer, work->id.attempt);
    while (*at != work) at = &(*at)->next;
    *at = work->next;
    xfer->work_count--;
    free_work(work);
}

bool xfer_take(struct xfer *xfer, struct xfer_event *out) {
    for (;;) {
        if (!xfer->taken) xfer->taken = xfer_stack_take(&xfer->news);
        if (!xfer->taken) return false;
        const struct xfer_news *news = (const struct xfer_news *) (const void *) xfer->taken;
        xfer->taken = xfer->taken->next;
        struct xfer_event event = news->event;
        if (news->piece) end_piece(xfer, news->piece);
        else if (event.kind == XFER_RELEASED) end_work(xfer, news->work);
        else if (news->work->is_over) continue;
        *out = event;
        return true;
    }
}

void xfer_get_counts(const struct xfer *xfer, struct xfer_counts *out) {
    uint64_t since_us = atomic_load(&xfer->counts.busy_since_us);
    *out = (struct xfer_counts){
        .sent_bytes = xfer->counts.sent_bytes,
        .sent_pieces = xfer->counts.sent_pieces,
        .received_bytes = xfer->counts.received_bytes,
        .received_pieces = xfer->counts.received_pieces,
        .discarded_pieces = xfer->counts.discarded_pieces,
        .failed_pieces = xfer->counts.failed_pieces,
        .checksum_errors = xfer->counts.checksum_errors,
        .peers_lost = xfer->counts.peers_lost,
        .busy_us = xfer->counts.busy_us,
        .pairs_shm = xfer->counts.pairs_shm,
        .pairs_tcp = xfer->counts.pairs_tcp,
    };
    uint64_t now_us = clock_now_us();
    if (since_us && now_us > since_us) out->busy_us += now_us - since_us;
}
