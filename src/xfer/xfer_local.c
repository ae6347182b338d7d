/* xfer_local - the body for workers of one process: a registry, and a thread a worker that copies.
 *
 * The sender's thread copies from region to region.  One lock guards the registry and all tables
 * of expected works; it is never held during a copy, so the owner's calls wait for no copy.  A
 * worker that is destroyed leaves the registry first and waits for copies into it to end. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "xfer/xfer_body.h"
#include "xfer/xfer_work.h"

struct xfer_local {
    struct xfer base;
    struct xfer_local *next; /* in the registry */
    struct xfer_table table; /* registry_lock */
    uint32_t copies_into;    /* registry_lock */
    struct xfer_stack commands;
    sem_t command_count;
    pthread_t thread;
    atomic_bool is_stopping;
};

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t registry_idle = PTHREAD_COND_INITIALIZER; /* a copies_into came to 0 */
static struct xfer_local *registry;
static uint64_t registry_number; /* tells apart addresses of one instance */

static struct xfer_local *local_of(struct xfer *xfer) {
    return (struct xfer_local *) (void *) xfer;
}

/* With the lock held. */
static struct xfer_local *find_peer(const char *address) {
    struct xfer_local *peer = registry;
    while (peer && strcmp(peer->base.address, address) != 0) peer = peer->next;
    return peer;
}

/* Copies the piece into the block that the peer's work names; NULL, or why the bytes are bad. */
static const char *copy_piece(struct xfer *xfer, struct xfer *peer, const struct xfer_piece *piece,
                              const struct xfer_work *work, uint32_t block) {
    bool is_verifying = xfer->options.is_verifying || peer->options.is_verifying;
    uint64_t hash = is_verifying ? xfer_plan_hash(piece->plan, xfer->layouts, piece->block) : 0;
    for (uint32_t pair = 0; pair < piece->plan->pair_count; pair++)
        xfer_plan_copy(piece->plan, xfer->layouts, piece->block, work->plan, peer->layouts, block,
                       pair);
    if (!is_verifying || xfer_plan_hash(work->plan, peer->layouts, block) == hash) return NULL;
    atomic_fetch_add(&peer->counts.checksum_errors, 1);
    return "the block's checksum differs";
}

static bool is_alike(const struct xfer_piece *piece, const struct xfer_work *work) {
    return piece->plan->pair_count == work->plan->pair_count &&
           piece->plan->piece_bytes == work->plan->piece_bytes;
}

static void send_piece(struct xfer_local *local, struct xfer_piece *piece) {
    struct xfer *xfer = &local->base;
    if (atomic_load(&piece->is_abandoned)) {
        xfer_tell_failed(xfer, piece, "given up");
        return;
    }
    pthread_mutex_lock(&registry_lock);
    struct xfer_local *peer = find_peer(piece->contact->address);
    if (!peer) {
        pthread_mutex_unlock(&registry_lock);
        xfer_tell_failed(xfer, piece, "no worker of this process has this address");
        return;
    }
    struct xfer_work *work = xfer_work_find(&peer->table, &piece->id);
    uint32_t part_count = piece->plan->part_count;
    if (!work || !is_alike(piece, work) || !xfer_work_begin(work, piece->piece, 0, part_count)) {
        atomic_fetch_add(&peer->base.counts.discarded_pieces, 1);
        pthread_mutex_unlock(&registry_lock);
        xfer_tell_sent(xfer, piece);
        return;
    }
    peer->copies_into++;
    pthread_mutex_unlock(&registry_lock);

    xfer_tell_begun(xfer, clock_now_us());
    const char *failure =
        copy_piece(xfer, &peer->base, piece, work, xfer_work_block(work, piece->piece));
    xfer_tell_ended(xfer, clock_now_us());

    pthread_mutex_lock(&registry_lock);
    xfer_work_end(&peer->base, &peer->table, work, piece->piece, 0, part_count, failure);
    if (--peer->copies_into == 0) pthread_cond_broadcast(&registry_idle);
    pthread_mutex_unlock(&registry_lock);
    xfer_tell_sent(xfer, piece);
}

static void probe(struct xfer_local *local, struct xfer_contact *contact) {
    pthread_mutex_lock(&registry_lock);
    bool is_there = find_peer(contact->address) != NULL;
    pthread_mutex_unlock(&registry_lock);
    snprintf(contact->lane, sizeof contact->lane, "local");
    contact->probe_error =
        is_there
            ? ERR_OK
            : err_set(&contact->probe_text, ERR_PEER_GONE,
                      "no worker of this process has the transfer address %s", contact->address);
    xfer_tell_probed(&local->base, contact);
}

static void *run(void *ctx) {
    struct xfer_local *local = ctx;
    for (;;) {
        while (sem_wait(&local->command_count) != 0) continue; /* EINTR */
        struct xfer_node *node = xfer_stack_take(&local->commands);
        if (atomic_load(&local->is_stopping)) return NULL;
        while (node) {
            const struct xfer_command *command = (const struct xfer_command *) (void *) node;
            node = node->next;
            if (command->kind == XFER_DO_SEND) send_piece(local, command->subject);
            else probe(local, command->subject);
        }
    }
}

static void push_command(struct xfer *xfer, struct xfer_command *command) {
    struct xfer_local *local = local_of(xfer);
    if (xfer_stack_push(&local->commands, &command->node)) sem_post(&local->command_count);
}

static void local_send(struct xfer *xfer, struct xfer_piece *piece) {
    push_command(xfer, &piece->command);
}
static void local_probe(struct xfer *xfer, struct xfer_contact *contact) {
    push_command(xfer, &contact->probe);
}
static void local_abandon(struct xfer *xfer) {} /* seen when each piece's turn comes */

static void local_expect(struct xfer *xfer, struct xfer_work *work) {
    pthread_mutex_lock(&registry_lock);
    xfer_work_add(&local_of(xfer)->table, work);
    pthread_mutex_unlock(&registry_lock);
}

static void local_forget(struct xfer *xfer, struct xfer_work *work) {
    pthread_mutex_lock(&registry_lock);
    xfer_work_forget(xfer, &local_of(xfer)->table, work, clock_now_us());
    pthread_mutex_unlock(&registry_lock);
}

static void local_destroy(struct xfer *xfer) {
    struct xfer_local *local = local_of(xfer);
    atomic_store(&local->is_stopping, true);
    sem_post(&local->command_count);
    pthread_join(local->thread, NULL);
    pthread_mutex_lock(&registry_lock);
    struct xfer_local **at = &registry;
    while (*at != local) at = &(*at)->next;
    *at = local->next;
    while (local->copies_into > 0) pthread_cond_wait(&registry_idle, &registry_lock);
    pthread_mutex_unlock(&registry_lock);
    sem_destroy(&local->command_count);
    xfer_release(xfer);
    alloc_free(local);
}

static const struct xfer_ops local_ops = {
    .name = "local",
    .destroy = local_destroy,
    .expect = local_expect,
    .forget = local_forget,
    .send = local_send,
    .abandon = local_abandon,
    .probe = local_probe,
};

enum err xfer_local_create(const struct xfer_options *options, struct err_text *text,
                           struct xfer **out) {
    struct xfer_local *local = alloc_zero(1, sizeof *local);
    if (!local || xfer_init(&local->base, &local_ops, options)) {
        alloc_free(local);
        return err_set(text, ERR_MEMORY, "no memory for the transfer of KV blocks");
    }
    sem_init(&local->command_count, 0, 0);
    if (xfer_start_thread(&local->thread, run, local) != 0) {
        sem_destroy(&local->command_count);
        xfer_release(&local->base);
        alloc_free(local);
        return err_set(text, ERR_MEMORY, "no thread for the transfer of KV blocks");
    }
    pthread_mutex_lock(&registry_lock);
    snprintf(local->base.address, sizeof local->base.address, "local:%016llx-%llx",
             (unsigned long long) options->instance, (unsigned long long) ++registry_number);
    local->next = registry;
    registry = local;
    pthread_mutex_unlock(&registry_lock);
    *out = &local->base;
    return ERR_OK;
}
