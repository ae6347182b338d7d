/* router_belief - see router_belief.h. */
#include "router/router_belief.h"

#include "base/alloc.h"
#include "router/prefix_index.h"

#define NONE UINT32_MAX
#define BAG_SPANS 4u /* bags of one worker within a time to live */
#define BAGS_OF_MAX                                                                                \
    16u /* a bag is full at guesses_max / this, so that pruning is not all or nothing */
#define SWEEP_LINES 16u /* of each index, a match */

struct site {
    bool is_here, sends_events, has_dump;
    uint32_t told;   /* holder of the exact index */
    uint32_t dump;   /* the next one, while a dump comes in */
    uint32_t bag;    /* holder of the guesses being gathered; NONE: none */
    uint64_t bag_us; /* when it was begun */
    uint64_t event_last;
};

/* By holder number of the guesses. */
struct owner {
    uint32_t slot;   /* NONE: nobody */
    uint32_t serial; /* of the bag */
};

struct bag {
    uint64_t end_us;
    uint32_t holder, serial;
};

/* Bags in the order of their ends. */
struct bag_queue {
    struct bag *bags; /* a ring, owned; room is a power of two */
    uint32_t room, first, count;
};

struct router_belief {
    struct router_belief_options options;
    struct prefix_index *told, *guessed;
    struct site *sites; /* by slot, owned */
    uint32_t site_room;
    uint32_t quiet_count; /* sites that send no events */
    uint32_t *told_slots; /* by holder, owned: whose it is; NONE while a dump comes in */
    uint32_t told_room;
    struct owner *owners; /* by holder, owned */
    uint32_t owner_room;
    uint32_t serial_last;
    struct bag_queue approximate, predicted;
    uint64_t event_count, gap_count, dump_count, lost_count;
};

/* --- life -------------------------------------------------------------------------------- */

enum err router_belief_create(const struct router_belief_options *options,
                              struct router_belief **out) {
    struct router_belief *belief = alloc_zero(1, sizeof *belief);
    if (!belief) return ERR_MEMORY;
    belief->options = *options;
    enum err e = prefix_index_create(&belief->told);
    if (!e) e = prefix_index_create(&belief->guessed);
    if (e) {
        router_belief_destroy(belief);
        return e;
    }
    *out = belief;
    return ERR_OK;
}

void router_belief_destroy(struct router_belief *belief) {
    if (!belief) return;
    prefix_index_destroy(belief->told);
    prefix_index_destroy(belief->guessed);
    alloc_free(belief->sites);
    alloc_free(belief->told_slots);
    alloc_free(belief->owners);
    alloc_free(belief->approximate.bags);
    alloc_free(belief->predicted.bags);
    alloc_free(belief);
}

static struct site *site_of(const struct router_belief *belief, uint32_t slot) {
    CHECK(slot < belief->site_room && belief->sites[slot].is_here);
    return &belief->sites[slot];
}

static uint32_t larger_room(uint32_t room, uint32_t wanted) {
    if (room < 16) room = 16;
    while (room < wanted) room *= 2;
    return room;
}

static enum err join_told(struct router_belief *belief, uint32_t slot, uint32_t *out) {
    uint32_t holder;
    enum err e = prefix_index_join(belief->told, &holder);
    if (e) return e;
    if (holder >= belief->told_room) {
        uint32_t room = larger_room(belief->told_room, holder + 1);
        uint32_t *slots = alloc_resize(belief->told_slots, room * sizeof *slots);
        if (slots) {
            for (uint32_t i = belief->told_room; i < room; i++) slots[i] = NONE;
            belief->told_slots = slots;
            belief->told_room = room;
        } else {
            e = ERR_MEMORY;
        }
    }
    if (e) {
        prefix_index_leave(belief->told, holder);
        return e;
    }
    belief->told_slots[holder] = slot;
    *out = holder;
    return ERR_OK;
}

static void leave_told(struct router_belief *belief, uint32_t *holder) {
    if (*holder == NONE) return;
    prefix_index_leave(belief->told, *holder);
    belief->told_slots[*holder] = NONE;
    *holder = NONE;
}

enum err router_belief_add(struct router_belief *belief, uint32_t slot, bool sends_events) {
    if (slot >= belief->site_room) {
        uint32_t room = larger_room(belief->site_room, slot + 1);
        struct site *sites = alloc_resize(belief->sites, room * sizeof *sites);
        if (!sites) return ERR_MEMORY;
        for (uint32_t i = belief->site_room; i < room; i++)
            sites[i] = (struct site){.told = NONE, .dump = NONE, .bag = NONE};
        belief->sites = sites;
        belief->site_room = room;
    }
    CHECK(!belief->sites[slot].is_here);
    uint32_t told = NONE;
    if (sends_events) {
        enum err e = join_told(belief, slot, &told);
        if (e) return e;
    }
    belief->quiet_count += !sends_events;
    belief->sites[slot] = (struct site){
        .is_here = true, .sends_events = sends_events, .told = told, .dump = NONE, .bag = NONE};
    return ERR_OK;
}

/* --- guesses ----------------------------------------------------------------------------- */

static void end_bag(struct router_belief *belief, uint32_t holder) {
    struct owner *owner = &belief->owners[holder];
    struct site *site = &belief->sites[owner->slot];
    if (site->bag == holder) site->bag = NONE;
    owner->slot = NONE;
    prefix_index_leave(belief->guessed, holder);
}

static struct bag *first_bag(struct bag_queue *queue) {
    return queue->count ? &queue->bags[queue->first] : NULL;
}

static void drop_first_bag(struct router_belief *belief, struct bag_queue *queue) {
    struct bag bag = *first_bag(queue);
    queue->first = (queue->first + 1) & (queue->room - 1);
    queue->count--;
    const struct owner *owner = &belief->owners[bag.holder];
    if (owner->slot != NONE && owner->serial == bag.serial) end_bag(belief, bag.holder);
}

static uint64_t guess_count(const struct router_belief *belief) {
    return prefix_index_entry_count(belief->guessed);
}

static void expire(struct router_belief *belief, struct bag_queue *queue, uint64_t now_us) {
    while (first_bag(queue) && first_bag(queue)->end_us <= now_us) drop_first_bag(belief, queue);
}

/* The one that ends first goes first. */
static void prune(struct router_belief *belief) {
    uint64_t max = belief->options.guesses_max;
    if (guess_count(belief) <= max) return;
    while (guess_count(belief) > max / 10 * 8) {
        struct bag *a = first_bag(&belief->approximate), *b = first_bag(&belief->predicted);
        if (!a && !b) return;
        bool is_approximate = a && (!b || a->end_us <= b->end_us);
        drop_first_bag(belief, is_approximate ? &belief->approximate : &belief->predicted);
    }
}

static enum err make_queue_room(struct bag_queue *queue) {
    if (queue->count < queue->room) return ERR_OK;
    uint32_t room = larger_room(queue->room, queue->room + 1);
    struct bag *bags = alloc_array(room, sizeof *bags);
    if (!bags) return ERR_MEMORY;
    for (uint32_t i = 0; i < queue->count; i++)
        bags[i] = queue->bags[(queue->first + i) & (queue->room - 1)];
    alloc_free(queue->bags);
    *queue = (struct bag_queue){.bags = bags, .room = room, .count = queue->count};
    return ERR_OK;
}

static enum err begin_bag(struct router_belief *belief, uint32_t slot, uint64_t now_us) {
    struct site *site = site_of(belief, slot);
    struct bag_queue *queue = site->sends_events ? &belief->predicted : &belief->approximate;
    uint64_t life_us =
        site->sends_events ? belief->options.predicted_us : belief->options.approximate_us;
    uint32_t holder;
    enum err e = make_queue_room(queue);
    if (!e) e = prefix_index_join(belief->guessed, &holder);
    if (e) return e;
    if (holder >= belief->owner_room) {
        uint32_t room = larger_room(belief->owner_room, holder + 1);
        struct owner *owners = alloc_resize(belief->owners, room * sizeof *owners);
        if (owners) {
            for (uint32_t i = belief->owner_room; i < room; i++)
                owners[i] = (struct owner){.slot = NONE};
            belief->owners = owners;
            belief->owner_room = room;
        } else {
            e = ERR_MEMORY;
        }
    }
    if (e) {
        prefix_index_leave(belief->guessed, holder);
        return e;
    }
    belief->owners[holder] = (struct owner){slot, ++belief->serial_last};
    queue->bags[(queue->first + queue->count++) & (queue->room - 1)] =
        (struct bag){now_us + life_us, holder, belief->serial_last};
    site->bag = holder;
    site->bag_us = now_us;
    return ERR_OK;
}

void router_belief_guess(struct router_belief *belief, uint32_t slot, const uint64_t *hashes,
                         uint32_t count, uint64_t now_us) {
    struct site *site = site_of(belief, slot);
    uint64_t life_us =
        site->sends_events ? belief->options.predicted_us : belief->options.approximate_us;
    if (!count || !life_us || !belief->options.guesses_max) return;
    bool is_old = site->bag == NONE || now_us - site->bag_us >= life_us / BAG_SPANS ||
                  prefix_index_holder_blocks(belief->guessed, site->bag) >=
                      belief->options.guesses_max / BAGS_OF_MAX;
    if (is_old && begin_bag(belief, slot, now_us)) {
        belief->lost_count += count;
        return;
    }
    if (prefix_index_store(belief->guessed, site->bag, hashes, count)) belief->lost_count++;
    prune(belief);
}

void router_belief_remove(struct router_belief *belief, uint32_t slot) {
    struct site *site = site_of(belief, slot);
    leave_told(belief, &site->told);
    leave_told(belief, &site->dump);
    for (uint32_t holder = 0; holder < belief->owner_room; holder++)
        if (belief->owners[holder].slot == slot) end_bag(belief, holder);
    belief->quiet_count -= !site->sends_events;
    *site = (struct site){.told = NONE, .dump = NONE, .bag = NONE};
}

/* --- events and dumps -------------------------------------------------------------------- */

static bool forget_told(struct router_belief *belief, uint32_t slot) {
    struct site *site = site_of(belief, slot);
    uint32_t fresh;
    if (join_told(belief, slot, &fresh)) return false;
    leave_told(belief, &site->told);
    site->told = fresh;
    return true;
}

bool router_belief_events(struct router_belief *belief, uint32_t slot,
                          const struct kv_event *events, uint32_t count) {
    struct site *site = site_of(belief, slot);
    if (!site->sends_events) return true;
    while (count && events->number <= site->event_last) events++, count--; /* known */
    if (!count) return true;
    if (site->has_dump || events->number != site->event_last + 1) {
        belief->gap_count++;
        return false;
    }
    for (uint32_t at = 0, end; at < count; at = end) {
        for (end = at; end < count && events[end].kind != KV_EVENT_CLEARED;) end++;
        if (end > at && prefix_index_apply(belief->told, site->told, events + at, end - at))
            belief->lost_count++;
        if (end == count) break;
        if (!forget_told(belief, slot)) { /* no memory for an empty one: a dump brings it */
            belief->gap_count++;
            return false;
        }
        end++;
    }
    site->event_last = events[count - 1].number;
    belief->event_count += count;
    return true;
}

enum err router_belief_dump_begin(struct router_belief *belief, uint32_t slot) {
    struct site *site = site_of(belief, slot);
    leave_told(belief, &site->dump);
    site->has_dump = false;
    if (!site->sends_events) return ERR_OK;
    enum err e = join_told(belief, slot, &site->dump);
    if (e) return e;
    belief->told_slots[site->dump] = NONE; /* not to be matched yet */
    site->has_dump = true;
    return ERR_OK;
}

enum err router_belief_dump_add(struct router_belief *belief, uint32_t slot,
                                const struct kv_event *stored, uint32_t count) {
    struct site *site = site_of(belief, slot);
    if (!site->has_dump) return ERR_OK;
    return prefix_index_apply(belief->told, site->dump, stored, count);
}

void router_belief_dump_end(struct router_belief *belief, uint32_t slot, uint64_t event_number) {
    struct site *site = site_of(belief, slot);
    if (!site->has_dump) return;
    leave_told(belief, &site->told);
    site->told = site->dump;
    belief->told_slots[site->told] = slot;
    site->dump = NONE;
    site->has_dump = false;
    site->event_last = event_number;
    belief->dump_count++;
}

uint64_t router_belief_event_last(const struct router_belief *belief, uint32_t slot) {
    return site_of(belief, slot)->event_last;
}

/* --- matching ---------------------------------------------------------------------------- */

void router_belief_match(struct router_belief *belief, const uint64_t *hashes, uint32_t count,
                         uint64_t now_us, uint32_t *overlaps, uint32_t slot_count) {
    expire(belief, &belief->approximate, now_us);
    expire(belief, &belief->predicted, now_us);
    prefix_index_sweep(belief->guessed, SWEEP_LINES);
    prefix_index_sweep(belief->told, SWEEP_LINES);
    struct prefix_match match;
    prefix_index_match(belief->told, hashes, count, true, 0, &match);
    for (uint32_t slot = 0; slot < slot_count; slot++)
        overlaps[slot] = belief->sites[slot].told != NONE ? match.floor : 0;
    for (uint32_t l = 0; l < match.level_count; l++) {
        const struct prefix_level *level = &match.levels[l];
        for (uint32_t i = level->first; i < level->end; i++) {
            uint32_t slot = belief->told_slots[match.holders[i]];
            if (slot < slot_count) overlaps[slot] = level->block_count;
        }
    }
    /* Guesses that say less than every worker's events do need not be heard. */
    uint32_t above = belief->quiet_count ? 0 : match.floor;
    prefix_index_match(belief->guessed, hashes, count, false, above, &match);
    for (uint32_t l = 0; l < match.level_count; l++) {
        const struct prefix_level *level = &match.levels[l];
        for (uint32_t i = level->first; i < level->end; i++) {
            uint32_t slot = belief->owners[match.holders[i]].slot;
            if (slot < slot_count && overlaps[slot] < level->block_count)
                overlaps[slot] = level->block_count;
        }
    }
}

uint64_t router_belief_blocks(const struct router_belief *belief, uint32_t slot) {
    const struct site *site = site_of(belief, slot);
    uint64_t blocks = 0;
    if (site->told != NONE) blocks += prefix_index_holder_blocks(belief->told, site->told);
    if (site->bag != NONE) blocks += prefix_index_holder_blocks(belief->guessed, site->bag);
    return blocks;
}

/* --- counts ------------------------------------------------------------------------------ */

void router_belief_get_counts(const struct router_belief *belief,
                              struct router_belief_counts *out) {
    struct prefix_index_counts told, guessed;
    prefix_index_get_counts(belief->told, &told);
    prefix_index_get_counts(belief->guessed, &guessed);
    *out = (struct router_belief_counts){
        .events = belief->event_count,
        .gaps = belief->gap_count,
        .dumps = belief->dump_count,
        .lost = belief->lost_count,
        .blocks = told.blocks + guessed.blocks,
        .entries = told.entries,
        .guesses = guessed.entries,
        .bytes =
            told.bytes + guessed.bytes + sizeof *belief +
            belief->site_room * sizeof *belief->sites +
            belief->told_room * sizeof *belief->told_slots +
            belief->owner_room * sizeof *belief->owners +
            (uint64_t) (belief->approximate.room + belief->predicted.room) * sizeof(struct bag),
    };
}

void router_belief_check(const struct router_belief *belief) {
    prefix_index_check(belief->told);
    prefix_index_check(belief->guessed);
    for (uint32_t slot = 0; slot < belief->site_room; slot++) {
        const struct site *site = &belief->sites[slot];
        if (!site->is_here) continue;
        CHECK(site->sends_events == (site->told != NONE));
        CHECK(site->told == NONE || belief->told_slots[site->told] == slot);
        CHECK(site->has_dump == (site->dump != NONE));
        CHECK(site->bag == NONE || belief->owners[site->bag].slot == slot);
    }
    for (uint32_t holder = 0; holder < belief->owner_room; holder++) {
        uint32_t slot = belief->owners[holder].slot;
        CHECK(slot == NONE || belief->sites[slot].is_here);
    }
    for (uint32_t holder = 0; holder < belief->told_room; holder++) {
        uint32_t slot = belief->told_slots[holder];
        CHECK(slot == NONE || (belief->sites[slot].is_here && belief->sites[slot].told == holder));
    }
}
