/* prefix_index - see prefix_index.h.
 *
 * Shards by hash, each a table of cache lines that doubles on its own, so that no call
 * pays for the growth of the whole.  A line that was full when a block came to it passes the
 * block on to the next line and counts it, so a lookup stops at the first line that has passed
 * none.  Entries never move but when their shard grows: the sweep needs no more than a cursor. */
#include "router/prefix_index.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/num.h"
#include "router/prefix_set.h"

#define SHARDS 256u
#define LEVELS 22u     /* 2^21 x LEVEL_LINES lines a shard: 5 thousand million blocks */
#define LEVEL_LINES 2u /* of the smallest shard */
#define LARGE_PAGE_BYTES (2u << 20)
#define LINE_BLOCKS 5u
#define LINE_BYTES 64u
#define FULL_NUMERATOR 15u /* a shard doubles at 15/20 = 3/4 of its room */
#define AHEAD 16u          /* blocks whose lines are on their way while one is worked on */
#define STRIDE 32u         /* positions between two probes of a match */
#define SWEEP_LINES 64u    /* of a call, at least */
#define HASH_OF_0 0x9E3779B97F4A7C15u
#define WAITING_MAX 64u /* numbers that may wait for a sweep beyond those in use */
#define WORDS(holders) (((holders) + 63) / 64)

_Static_assert(sizeof(struct kv_event) % sizeof(uint64_t) == 0, "hashes of events have a stride");

struct line {
    uint64_t hashes[LINE_BLOCKS]; /* 0: nothing here (a block of hash 0 goes as HASH_OF_0) */
    uint32_t values[LINE_BLOCKS]; /* the holders, prefix_set.h */
    uint32_t passed_count;
};
_Static_assert(sizeof(struct line) == LINE_BYTES, "one cache line");

struct shard {
    struct line *lines; /* in the region of its level */
    uint32_t line_count, block_count, block_max;
    uint32_t level; /* lines are LEVEL_LINES << level; 0 lines: none yet */
};

/* The lines of all shards of one size lie together, so that large pages can hold them. */
struct region {
    void *memory; /* owned; NULL while no shard has this size */
    struct line *lines;
    uint32_t shard_count; /* that live here */
};

struct prefix_index {
    struct shard shards[SHARDS];
    struct region regions[LEVELS];
    struct prefix_set *sets; /* owned */
    uint32_t *holder_blocks; /* by holder, owned */
    uint64_t *is_live;       /* bits by holder, owned: has not left */
    uint64_t *is_leaving;    /* the ones that this sweep takes out */
    uint64_t *is_waiting;    /* left since it began: for the next sweep */
    uint64_t *alive;         /* scratch of a match: holders of all blocks so far */
    uint64_t *members;       /* scratch of a match */
    uint32_t holder_room;    /* of the arrays; a multiple of 64 */
    uint32_t holder_top, live_count;
    uint64_t entry_count; /* of live holders */
    uint64_t waiting_entries;
    uint32_t waiting_count;
    bool is_sweeping, has_failed;
    uint32_t sweep_mark, sweep_shard, sweep_line;
};

/* --- life -------------------------------------------------------------------------------- */

enum err prefix_index_create(struct prefix_index **out) {
    struct prefix_index *index = alloc_zero(1, sizeof *index);
    if (!index) return ERR_MEMORY;
    enum err e = prefix_set_create(&index->sets);
    if (e) {
        alloc_free(index);
        return e;
    }
    *out = index;
    return ERR_OK;
}

void prefix_index_destroy(struct prefix_index *index) {
    if (!index) return;
    for (uint32_t i = 0; i < LEVELS; i++) alloc_free(index->regions[i].memory);
    prefix_set_destroy(index->sets);
    alloc_free(index->holder_blocks);
    alloc_free(index->is_live);
    alloc_free(index->is_leaving);
    alloc_free(index->is_waiting);
    alloc_free(index->alive);
    alloc_free(index->members);
    alloc_free(index);
}

static bool has_bit(const uint64_t *bits, uint32_t at) { return bits[at / 64] >> (at % 64) & 1; }
static void set_bit(uint64_t *bits, uint32_t at) { bits[at / 64] |= 1ull << (at % 64); }
static void clear_bit(uint64_t *bits, uint32_t at) { bits[at / 64] &= ~(1ull << (at % 64)); }

static bool resize_bits(uint64_t **bits, uint32_t old_room, uint32_t room) {
    uint64_t *resized = alloc_resize(*bits, WORDS(room) * sizeof *resized);
    if (!resized) return false;
    memset(resized + WORDS(old_room), 0, (WORDS(room) - WORDS(old_room)) * sizeof *resized);
    *bits = resized;
    return true;
}

static enum err make_holder_room(struct prefix_index *index) {
    uint32_t old = index->holder_room, room = old ? 2 * old : 64;
    uint32_t *blocks = alloc_resize(index->holder_blocks, room * sizeof *blocks);
    if (!blocks) return ERR_MEMORY;
    memset(blocks + old, 0, (room - old) * sizeof *blocks);
    index->holder_blocks = blocks;
    if (!resize_bits(&index->is_live, old, room) || !resize_bits(&index->is_leaving, old, room) ||
        !resize_bits(&index->is_waiting, old, room) || !resize_bits(&index->alive, old, room) ||
        !resize_bits(&index->members, old, room))
        return ERR_MEMORY;
    index->holder_room = room;
    return ERR_OK;
}

static bool is_taken(const struct prefix_index *index, uint32_t holder) {
    return has_bit(index->is_live, holder) || has_bit(index->is_leaving, holder) ||
           has_bit(index->is_waiting, holder);
}

static uint32_t first_free(const struct prefix_index *index) {
    for (uint32_t w = 0; w < WORDS(index->holder_top); w++) {
        uint64_t taken = index->is_live[w] | index->is_leaving[w] | index->is_waiting[w];
        if (~taken) return w * 64 + (uint32_t) __builtin_ctzll(~taken);
    }
    return (uint32_t) num_round_up(index->holder_top, 64);
}

enum err prefix_index_join(struct prefix_index *index, uint32_t *holder) {
    uint32_t number = first_free(index);
    if (number == PREFIX_INDEX_HOLDERS_MAX) return ERR_LIMIT;
    if (number == index->holder_room) {
        enum err e = make_holder_room(index);
        if (e) return e;
    }
    if (number >= index->holder_top) index->holder_top = number + 1;
    set_bit(index->is_live, number);
    index->holder_blocks[number] = 0;
    index->live_count++;
    *holder = number;
    return ERR_OK;
}

void prefix_index_leave(struct prefix_index *index, uint32_t holder) {
    CHECK(holder < index->holder_top && has_bit(index->is_live, holder));
    clear_bit(index->is_live, holder);
    index->live_count--;
    if (!index->holder_blocks[holder]) return; /* nothing to sweep */
    index->entry_count -= index->holder_blocks[holder];
    index->waiting_entries += index->holder_blocks[holder];
    index->waiting_count++;
    index->holder_blocks[holder] = 0;
    set_bit(index->is_waiting, holder);
}

uint32_t prefix_index_holder_room(const struct prefix_index *index) { return index->holder_top; }

uint32_t prefix_index_holder_blocks(const struct prefix_index *index, uint32_t holder) {
    return index->holder_blocks[holder];
}

uint64_t prefix_index_entry_count(const struct prefix_index *index) { return index->entry_count; }

/* --- the table --------------------------------------------------------------------------- */

/* A block on its way: where it lives, with its line asked for. */
struct aim {
    uint64_t hash; /* never 0 */
    uint64_t mixed;
    struct shard *shard;
    uint32_t home;
};

static inline uint32_t home_of(const struct shard *shard, uint64_t mixed) {
    return (uint32_t) (((mixed >> 24 & UINT32_MAX) * shard->line_count) >> 32);
}

/* Hashes are mixed once more: foreign ones may be mixed badly. */
static inline struct aim aim_at(const struct prefix_index *index, uint64_t hash) {
    struct aim aim = {.hash = hash ? hash : HASH_OF_0};
    aim.mixed = (aim.hash ^ aim.hash >> 32) * 0x9E3779B97F4A7C15u;
    aim.shard = (struct shard *) &index->shards[aim.mixed >> 56];
    aim.home = home_of(aim.shard, aim.mixed);
    return aim;
}

static inline void prefetch(const struct aim *aim) {
    /* Without lines the address is no pointer; a prefetch of it does nothing. */
    uintptr_t lines = (uintptr_t) aim->shard->lines;
    __builtin_prefetch((const void *) (lines + aim->home * sizeof *aim->shard->lines));
}

static void ask(const struct prefix_index *index, uint64_t hash) {
    struct aim aim = aim_at(index, hash);
    prefetch(&aim);
}

struct place {
    struct line *line;
    uint32_t slot;
    uint32_t home, line_index;
};

/* A bit for each slot with this hash.  No branch: which slot it is cannot be foreseen. */
static inline uint32_t find_slots(const struct line *line, uint64_t hash) {
    uint32_t found = 0;
    for (uint32_t slot = 0; slot < LINE_BLOCKS; slot++)
        found |= (uint32_t) (line->hashes[slot] == hash) << slot;
    return found;
}

static uint32_t next_line(const struct shard *shard, uint32_t line_index) {
    return line_index + 1 == shard->line_count ? 0 : line_index + 1;
}

/* Past the home line, which has passed some on. */
static __attribute__((noinline)) bool find_far(const struct aim *aim, struct place *out) {
    const struct shard *shard = aim->shard;
    for (uint32_t at = next_line(shard, aim->home); at != aim->home; at = next_line(shard, at)) {
        struct line *line = &shard->lines[at];
        uint32_t found = find_slots(line, aim->hash);
        if (found) {
            *out = (struct place){line, (uint32_t) __builtin_ctz(found), aim->home, at};
            return true;
        }
        if (!line->passed_count) return false;
    }
    return false;
}

static inline bool find(const struct aim *aim, struct place *out) {
    if (!aim->shard->line_count) return false;
    struct line *line = &aim->shard->lines[aim->home];
    uint32_t found = find_slots(line, aim->hash);
    if (found) {
        *out = (struct place){line, (uint32_t) __builtin_ctz(found), aim->home, aim->home};
        return true;
    }
    return line->passed_count && find_far(aim, out);
}

static inline uint32_t value_at(const struct aim *aim) {
    if (!aim->shard->line_count) return 0;
    const struct line *line = &aim->shard->lines[aim->home];
    uint32_t found = find_slots(line, aim->hash);
    if (found) return line->values[__builtin_ctz(found)];
    struct place place;
    return line->passed_count && find_far(aim, &place) ? place.line->values[place.slot] : 0;
}

/* The hash is not there, and the shard has room. */
static inline void insert(const struct aim *aim, uint32_t value) {
    struct shard *shard = aim->shard;
    for (uint32_t at = aim->home;; at = next_line(shard, at)) {
        struct line *line = &shard->lines[at];
        uint32_t empty = find_slots(line, 0);
        if (empty) {
            uint32_t slot = (uint32_t) __builtin_ctz(empty);
            line->hashes[slot] = aim->hash;
            line->values[slot] = value;
            shard->block_count++;
            return;
        }
        line->passed_count++;
    }
}

static void erase(struct shard *shard, const struct place *place) {
    place->line->hashes[place->slot] = 0;
    for (uint32_t at = place->home; at != place->line_index; at = next_line(shard, at))
        shard->lines[at].passed_count--;
    shard->block_count--;
}

static enum err open_region(struct region *region, uint32_t level) {
    size_t bytes = ((size_t) SHARDS * LEVEL_LINES << level) * sizeof(struct line);
    region->memory = alloc_zero(bytes + LINE_BYTES, 1);
    if (!region->memory) return ERR_MEMORY;
    uintptr_t at = ((uintptr_t) region->memory + LINE_BYTES - 1) & ~(uintptr_t) (LINE_BYTES - 1);
    region->lines = (struct line *) at;
    /* Fewer misses of addresses; where it is refused, all is as well but slower. */
    uintptr_t first = (at + LARGE_PAGE_BYTES - 1) & ~(uintptr_t) (LARGE_PAGE_BYTES - 1);
    uintptr_t end = (at + bytes) & ~(uintptr_t) (LARGE_PAGE_BYTES - 1);
    if (end > first) (void) !madvise((void *) first, end - first, MADV_HUGEPAGE);
    return ERR_OK;
}

static void leave_region(struct region *region) {
    if (--region->shard_count) return;
    alloc_free(region->memory);
    *region = (struct region){0};
}

static __attribute__((noinline)) enum err grow(struct prefix_index *index, struct shard *shard) {
    struct shard larger = {.level = shard->line_count ? shard->level + 1 : 0};
    if (larger.level == LEVELS) return ERR_LIMIT;
    struct region *region = &index->regions[larger.level];
    if (!region->memory) {
        enum err e = open_region(region, larger.level);
        if (e) return e;
    }
    larger.line_count = LEVEL_LINES << larger.level;
    larger.block_max =
        (uint32_t) ((uint64_t) larger.line_count * LINE_BLOCKS * FULL_NUMERATOR / 20);
    larger.lines = region->lines + (size_t) (shard - index->shards) * larger.line_count;
    region->shard_count++;
    for (uint32_t i = 0; i < shard->line_count; i++) {
        const struct line *line = &shard->lines[i];
        for (uint32_t slot = 0; slot < LINE_BLOCKS; slot++) {
            if (!line->hashes[slot]) continue;
            struct aim aim = aim_at(index, line->hashes[slot]);
            aim.shard = &larger;
            aim.home = home_of(&larger, aim.mixed);
            insert(&aim, line->values[slot]);
        }
    }
    if (shard->line_count) leave_region(&index->regions[shard->level]);
    *shard = larger;
    if (index->is_sweeping && shard == &index->shards[index->sweep_shard]) index->sweep_line = 0;
    return ERR_OK;
}

/* Takes a holder out of a block; an empty block goes. */
static enum err take_out(struct prefix_index *index, struct shard *shard, const struct place *place,
                         uint32_t holder, bool *was_there) {
    uint32_t *value = &place->line->values[place->slot], before = *value;
    enum err e = prefix_set_take(index->sets, value, holder);
    if (e) return e;
    *was_there = *value != before;
    if (!*value) erase(shard, place);
    return ERR_OK;
}

/* --- the sweep --------------------------------------------------------------------------- */

/* A pass reads the whole table: not for a few blocks, nor for a few numbers. */
static bool start_sweep(struct prefix_index *index) {
    if (!index->waiting_count || (index->waiting_entries * 2 < index->entry_count &&
                                  index->waiting_count < index->live_count + WAITING_MAX))
        return false;
    index->waiting_count = 0;
    index->waiting_entries = 0;
    uint64_t *leaving = index->is_leaving; /* nothing is set in it */
    index->is_leaving = index->is_waiting;
    index->is_waiting = leaving;
    index->has_failed = false;
    index->is_sweeping = true;
    index->sweep_shard = index->sweep_line = 0;
    index->sweep_mark++;
    return true;
}

static void sweep_block(struct prefix_index *index, struct shard *shard, struct place *place) {
    uint32_t words = WORDS(index->holder_top), value = place->line->values[place->slot];
    if (value <= PREFIX_SET_SINGLE_MAX) { /* most are */
        if (!has_bit(index->is_leaving, value - 1)) return;
    } else if (prefix_set_mark(index->sets, value) == index->sweep_mark) {
        return;
    } else if (!prefix_set_meets(index->sets, value, index->is_leaving)) {
        prefix_set_note(index->sets, value, index->sweep_mark);
        return;
    }
    uint64_t *members = index->members;
    prefix_set_bits(index->sets, value, members, 0, words);
    place->home = aim_at(index, place->line->hashes[place->slot]).home;
    for (uint32_t w = 0; w < words; w++) {
        for (uint64_t out = members[w] & index->is_leaving[w]; out; out &= out - 1) {
            uint32_t holder = w * 64 + (uint32_t) __builtin_ctzll(out);
            bool was_there;
            if (take_out(index, shard, place, holder, &was_there)) index->has_failed = true;
        }
    }
}

static void end_sweep(struct prefix_index *index) {
    index->is_sweeping = false;
    uint32_t words = WORDS(index->holder_top);
    for (uint32_t w = 0; w < words; w++) {
        /* Where memory lacked, the same ones are swept again. */
        if (index->has_failed) index->is_waiting[w] |= index->is_leaving[w];
        index->is_leaving[w] = 0;
    }
    if (index->has_failed) index->waiting_count += index->live_count + WAITING_MAX;
}

void prefix_index_sweep(struct prefix_index *index, uint32_t line_count) {
    if (!index->is_sweeping && !start_sweep(index)) return;
    while (line_count--) {
        struct shard *shard = &index->shards[index->sweep_shard];
        if (index->sweep_line >= shard->line_count) {
            index->sweep_line = 0;
            if (++index->sweep_shard < SHARDS) continue;
            end_sweep(index);
            return;
        }
        struct line *line = &shard->lines[index->sweep_line];
        for (uint32_t slot = 0; slot < LINE_BLOCKS; slot++) {
            struct place place = {line, slot, 0, index->sweep_line};
            if (line->hashes[slot]) sweep_block(index, shard, &place);
        }
        index->sweep_line++;
    }
}

/* Twice the lines that `count` blocks can fill: a sweep ends before the table can double. */
static void sweep_some(struct prefix_index *index, uint32_t count) {
    if (index->is_sweeping || index->waiting_count)
        prefix_index_sweep(index, count > SWEEP_LINES ? count : SWEEP_LINES);
}

/* --- batches ----------------------------------------------------------------------------- */

/* Hashes that lie `stride` words apart, each line asked for AHEAD blocks before its use. */
struct batch {
    const uint64_t *hashes;
    size_t stride;
    uint32_t count;
    struct aim aims[AHEAD];
};

static inline void aim_ahead(const struct prefix_index *index, struct batch *batch, uint32_t at) {
    struct aim *aim = &batch->aims[at % AHEAD];
    if (at >= batch->count) return;
    *aim = aim_at(index, batch->hashes[at * batch->stride]);
    prefetch(aim);
}

static void aim_first(const struct prefix_index *index, struct batch *batch) {
    for (uint32_t i = 0; i < AHEAD; i++) aim_ahead(index, batch, i);
}

/* The same step from one set of holders to another, taken by one block after the other. */
struct run {
    uint32_t from, to, count;
};

static void end_run(struct prefix_index *index, struct run *run) {
    if (run->count) prefix_set_move(index->sets, run->from, run->to, run->count);
    *run = (struct run){0};
}

static __attribute__((noinline)) enum err put(struct prefix_index *index, struct run *run,
                                              uint32_t holder, uint32_t *value, bool *is_new) {
    uint32_t before = *value;
    end_run(index, run);
    enum err e = prefix_set_put(index->sets, value, holder);
    *is_new = *value != before;
    if (!e) *run = (struct run){.from = before, .to = *value};
    return e;
}

static enum err store_all(struct prefix_index *index, uint32_t holder, struct batch *batch) {
    enum err first = ERR_OK;
    struct run run = {0};
    uint32_t new_count = 0;
    aim_first(index, batch);
    for (uint32_t i = 0; i < batch->count; i++) {
        struct aim aim = batch->aims[i % AHEAD];
        aim_ahead(index, batch, i + AHEAD);
        struct place place;
        enum err e = ERR_OK;
        bool is_new = true;
        if (find(&aim, &place)) {
            uint32_t *value = &place.line->values[place.slot];
            if (*value == run.from && run.from != run.to) *value = run.to, run.count++;
            else e = put(index, &run, holder, value, &is_new);
        } else {
            if (aim.shard->block_count >= aim.shard->block_max) {
                e = grow(index, aim.shard);
                aim.home = home_of(aim.shard, aim.mixed);
                for (uint32_t k = 0; k < AHEAD; k++)
                    if (batch->aims[k].shard == aim.shard)
                        batch->aims[k].home = home_of(aim.shard, batch->aims[k].mixed);
            }
            if (!e) insert(&aim, holder + 1);
        }
        if (e) first = e;
        else new_count += is_new;
    }
    end_run(index, &run);
    index->holder_blocks[holder] += new_count;
    index->entry_count += new_count;
    sweep_some(index, batch->count);
    return first;
}

static enum err remove_all(struct prefix_index *index, uint32_t holder, struct batch *batch) {
    enum err first = ERR_OK;
    uint32_t gone_count = 0;
    aim_first(index, batch);
    for (uint32_t i = 0; i < batch->count; i++) {
        struct aim aim = batch->aims[i % AHEAD];
        aim_ahead(index, batch, i + AHEAD);
        struct place place;
        bool was_there = false;
        enum err e = ERR_OK;
        if (find(&aim, &place)) e = take_out(index, aim.shard, &place, holder, &was_there);
        if (e) first = e;
        gone_count += was_there;
    }
    index->holder_blocks[holder] -= gone_count;
    index->entry_count -= gone_count;
    sweep_some(index, batch->count);
    return first;
}

static void check_holder(const struct prefix_index *index, uint32_t holder) {
    CHECK(holder < index->holder_top && has_bit(index->is_live, holder));
}

enum err prefix_index_store(struct prefix_index *index, uint32_t holder, const uint64_t *hashes,
                            uint32_t count) {
    struct batch batch = {.hashes = hashes, .stride = 1, .count = count};
    check_holder(index, holder);
    return store_all(index, holder, &batch);
}

enum err prefix_index_remove(struct prefix_index *index, uint32_t holder, const uint64_t *hashes,
                             uint32_t count) {
    struct batch batch = {.hashes = hashes, .stride = 1, .count = count};
    check_holder(index, holder);
    return remove_all(index, holder, &batch);
}

enum err prefix_index_apply(struct prefix_index *index, uint32_t holder,
                            const struct kv_event *events, uint32_t count) {
    enum err first = ERR_OK;
    check_holder(index, holder);
    for (uint32_t at = 0, end; at < count; at = end) {
        for (end = at + 1; end < count && events[end].kind == events[at].kind;) end++;
        /* a step's events are few of each kind: the next kind's lines come meanwhile */
        for (uint32_t i = end; i < count && i < end + AHEAD; i++) ask(index, events[i].hash);
        struct batch batch = {.hashes = &events[at].hash,
                              .stride = sizeof *events / sizeof(uint64_t),
                              .count = end - at};
        CHECK(events[at].kind != KV_EVENT_CLEARED);
        enum err e = events[at].kind == KV_EVENT_STORED ? store_all(index, holder, &batch)
                                                        : remove_all(index, holder, &batch);
        if (e) first = e;
    }
    return first;
}

/* --- matching ---------------------------------------------------------------------------- */

struct walk {
    const struct prefix_index *index;
    const uint64_t *hashes;
    uint32_t first, end; /* words of index->alive that are not 0 */
    uint32_t value;      /* the holders of the block before */
    bool is_full;        /* every holder holds all so far, and who asks wants to know */
    uint32_t floor;
    uint32_t quiet; /* hits of at most this many blocks are not told */
    struct prefix_hit *hits;
    uint32_t hit_count;
};

static void add_hits(struct walk *walk, uint32_t word, uint64_t members, uint32_t block_count) {
    struct prefix_hit *hit = walk->hits + walk->hit_count;
    walk->hit_count += (uint32_t) __builtin_popcountll(members);
    for (; members; members &= members - 1)
        *hit++ = (struct prefix_hit){word * 64 + (uint32_t) __builtin_ctzll(members), block_count};
}

/* Position 0: who is there at all. */
static void begin(struct walk *walk, uint32_t words, uint32_t value) {
    const struct prefix_index *index = walk->index;
    uint64_t lacking = 0;
    walk->value = value;
    walk->first = words;
    prefix_set_bits(index->sets, value, index->alive, 0, words);
    for (uint32_t w = 0; w < words; w++) {
        lacking |= index->is_live[w] & ~index->alive[w];
        index->alive[w] &= index->is_live[w];
        if (!index->alive[w]) continue;
        if (walk->first == words) walk->first = w;
        walk->end = w + 1;
    }
    if (lacking) walk->is_full = false;
}

/* The holders change at this position. */
static void enter(struct walk *walk, uint32_t position, uint32_t value) {
    const struct prefix_index *index = walk->index;
    uint32_t first = walk->first, end = walk->end;
    walk->value = value;
    prefix_set_bits(index->sets, value, index->members, first, end);
    if (walk->is_full) {
        uint64_t gone = 0;
        for (uint32_t w = first; w < end; w++) gone |= index->alive[w] & ~index->members[w];
        if (!gone) return;
        walk->is_full = false;
        walk->floor = position;
        if (position > walk->quiet) walk->quiet = position;
    }
    walk->first = walk->end = end;
    for (uint32_t w = first; w < end; w++) {
        uint64_t gone = index->alive[w] & ~index->members[w];
        if (gone && position > walk->quiet) add_hits(walk, w, gone, position);
        index->alive[w] &= index->members[w];
        if (!index->alive[w]) continue;
        if (walk->first == end) walk->first = w;
        walk->end = w + 1;
    }
}

/* The positions between two probes, with their lines and then their sets asked for. */
struct window {
    uint32_t first, end;
    struct aim aims[STRIDE];
    uint32_t values[STRIDE];
    uint32_t changes[STRIDE]; /* where the holders are not those of the position before */
    uint32_t change_count;
};

static void ask_window(const struct walk *walk, struct window *window, uint32_t first,
                       uint32_t end) {
    window->first = first;
    window->end = end;
    for (uint32_t i = 0; i < end - first; i++) {
        window->aims[i] = aim_at(walk->index, walk->hashes[first + i]);
        prefetch(&window->aims[i]);
    }
}

static void look(const struct walk *walk, struct window *window, uint32_t before) {
    const struct prefix_set *sets = walk->index->sets;
    uint32_t count = window->end - window->first, value = before;
    window->change_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t next = value_at(&window->aims[i]);
        window->values[i] = next;
        if (next == value) continue;
        value = next;
        window->changes[window->change_count++] = i;
        prefix_set_fetch(sets, value);
        if (!value) { /* nobody holds what follows either, or so we bet */
            for (uint32_t rest = i + 1; rest < count; rest++) window->values[rest] = 0;
            break;
        }
    }
    for (uint32_t i = 0; i < window->change_count; i++)
        prefix_set_fetch_bits(sets, window->values[window->changes[i]]);
}

static void enter_window(struct walk *walk, const struct window *window) {
    for (uint32_t i = 0; i < window->change_count && walk->first < walk->end; i++) {
        uint32_t at = window->changes[i];
        if (window->first + at) enter(walk, window->first + at, window->values[at]);
    }
}

uint32_t prefix_index_match(const struct prefix_index *index, const uint64_t *hashes,
                            uint32_t count, uint32_t above, struct prefix_hit *hits,
                            uint32_t *floor) {
    if (floor) *floor = 0;
    if (!count || !index->live_count) return 0;
    struct walk walk = {
        .index = index, .hashes = hashes, .is_full = floor != NULL, .quiet = above, .hits = hits};
    struct window window;
    uint32_t words = WORDS(index->holder_top);
    ask_window(&walk, &window, 0, count < STRIDE ? count : STRIDE);
    for (uint32_t i = 2; i <= count / STRIDE && i <= AHEAD; i++) ask(index, hashes[i * STRIDE - 1]);
    ask(index, hashes[count - 1]);
    look(&walk, &window, 0);
    begin(&walk, words, window.values[0]);
    bool was_full = walk.is_full;
    enter_window(&walk, &window);
    for (uint32_t first = STRIDE, end; first < count && walk.first < walk.end; first = end) {
        end = first + STRIDE < count ? first + STRIDE : count;
        uint32_t ahead = end + AHEAD * STRIDE - 1;
        if (ahead < count) ask(index, hashes[ahead]);
        struct aim last = aim_at(index, hashes[end - 1]);
        if (value_at(&last) == walk.value) continue;
        ask_window(&walk, &window, first, end);
        look(&walk, &window, walk.value);
        enter_window(&walk, &window);
    }
    if (was_full) *floor = walk.is_full ? count : walk.floor;
    if (!walk.is_full && count > walk.quiet)
        for (uint32_t w = walk.first; w < walk.end; w++) add_hits(&walk, w, index->alive[w], count);
    return walk.hit_count;
}

/* --- counts ------------------------------------------------------------------------------ */

void prefix_index_get_counts(const struct prefix_index *index, struct prefix_index_counts *out) {
    *out = (struct prefix_index_counts){.entries = index->entry_count,
                                        .sets = prefix_set_total(index->sets),
                                        .bytes = sizeof *index + prefix_set_bytes(index->sets),
                                        .holders = index->live_count};
    out->bytes += index->holder_room * sizeof *index->holder_blocks;
    out->bytes += 5 * WORDS(index->holder_room) * sizeof(uint64_t);
    for (uint32_t i = 0; i < SHARDS; i++) {
        out->blocks += index->shards[i].block_count;
        out->bytes += (uint64_t) index->shards[i].line_count * LINE_BYTES;
    }
}

static uint32_t count_references(void *ctx, uint32_t value) {
    const struct prefix_index *index = ctx;
    uint32_t count = 0;
    for (uint32_t i = 0; i < SHARDS; i++)
        for (uint32_t l = 0; l < index->shards[i].line_count; l++)
            for (uint32_t slot = 0; slot < LINE_BLOCKS; slot++)
                count += index->shards[i].lines[l].hashes[slot] &&
                         index->shards[i].lines[l].values[slot] == value;
    return count;
}

static void check_shard(const struct prefix_index *index, const struct shard *shard,
                        uint64_t *entry_count) {
    uint32_t block_count = 0;
    uint64_t passed_count = 0, distance = 0;
    for (uint32_t l = 0; l < shard->line_count; l++) {
        const struct line *line = &shard->lines[l];
        passed_count += line->passed_count;
        for (uint32_t slot = 0; slot < LINE_BLOCKS; slot++) {
            if (!line->hashes[slot]) continue;
            struct aim aim = aim_at(index, line->hashes[slot]);
            struct place place;
            block_count++;
            CHECK(line->values[slot] && aim.shard == shard);
            CHECK(find(&aim, &place));
            CHECK(place.line == line && place.slot == slot);
            distance += (l + shard->line_count - place.home) % shard->line_count;
            for (uint32_t holder = 0; holder < index->holder_top; holder++) {
                if (!prefix_set_has(index->sets, line->values[slot], holder)) continue;
                CHECK(is_taken(index, holder));
                if (has_bit(index->is_live, holder)) ++*entry_count;
            }
        }
    }
    CHECK(block_count == shard->block_count && passed_count == distance);
    CHECK(!shard->line_count ||
          shard->lines == index->regions[shard->level].lines +
                              (size_t) (shard - index->shards) * shard->line_count);
}

void prefix_index_check(const struct prefix_index *index) {
    uint64_t entry_count = 0, holder_sum = 0;
    for (uint32_t i = 0; i < SHARDS; i++) check_shard(index, &index->shards[i], &entry_count);
    for (uint32_t level = 0; level < LEVELS; level++) {
        uint32_t shard_count = 0;
        for (uint32_t i = 0; i < SHARDS; i++)
            shard_count += index->shards[i].line_count == LEVEL_LINES << level;
        CHECK(shard_count == index->regions[level].shard_count);
    }
    uint32_t live_count = 0;
    for (uint32_t holder = 0; holder < index->holder_top; holder++) {
        CHECK(has_bit(index->is_live, holder) + has_bit(index->is_leaving, holder) +
                  has_bit(index->is_waiting, holder) <=
              1);
        live_count += has_bit(index->is_live, holder);
        holder_sum += index->holder_blocks[holder];
    }
    CHECK(live_count == index->live_count);
    CHECK(entry_count == index->entry_count && holder_sum == entry_count);
    prefix_set_check(index->sets, count_references, (void *) (uintptr_t) index);
}
