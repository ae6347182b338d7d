/* prefix_index - see prefix_index.h.
 *
 * Shards by hash, each a table of cache lines that doubles on its own, so that no call
 * pays for the growth of the whole.  A line that was full when a block came to it passes the
 * block on to the next line and counts it, so a lookup stops at the first line that has passed
 * none (so does folly's F14, folly/container/F14.md).  Entries never move but when their shard
 * grows: the sweep needs no more than a cursor.
 *
 * A match keeps those that hold all so far as bits and tells who drops out by number, a byte of
 * bits at a time by table (Lemire and others, "Roaring Bitmaps", 2018). */
#include "router/prefix_index.h"

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
#define NAMED_AT_ONCE 8u
#define IN_EACH_LANE 0x0001000100010001u
#define WAITING_MAX 64u /* numbers that may wait for a sweep beyond those in use */
#define WORDS(holders) (((holders) + 63) / 64)

_Static_assert(sizeof(struct kv_event) % sizeof(uint64_t) == 0, "hashes of events have a stride");

struct line {
    uint64_t names[LINE_BLOCKS];  /* hashes; 0: nothing here (hash 0 goes as HASH_OF_0) */
    uint32_t values[LINE_BLOCKS]; /* the holders, prefix_set.h */
    uint32_t passed_count;
};
_Static_assert(sizeof(struct line) == LINE_BYTES, "one cache line");

struct shard {
    struct line *lines; /* in the region of its level */
    uint32_t line_count, block_count, block_max;
    uint8_t level; /* lines are LEVEL_LINES << level */
    uint8_t shift; /* leaves of a mixed hash the number of its line */
};

/* The lines of all shards of one size lie together, so that large pages can hold them. */
struct region {
    void *memory; /* owned; NULL while no shard has this size */
    struct line *lines;
    uint32_t shard_count; /* that live here */
};

struct prefix_index {
    struct shard shards[SHARDS];
    uint64_t byte_bits[256][2]; /* the numbers of a byte's bits, in lanes of 16 */
    uint8_t byte_counts[256];
    struct region regions[LEVELS];
    struct prefix_set *sets;     /* owned */
    uint32_t *holder_blocks;     /* by holder, owned */
    uint64_t *is_live;           /* bits by holder, owned: has not left */
    uint64_t *is_leaving;        /* the ones that this sweep takes out */
    uint64_t *is_waiting;        /* left since it began: for the next sweep */
    uint64_t *alive;             /* scratch of a match: holders of all blocks so far */
    uint64_t *gone;              /* scratch of a match: those that end at this one */
    uint64_t *members;           /* scratch of a match */
    struct prefix_level *levels; /* of the last match, owned; a level has a holder of its own */
    uint16_t *named;             /* of the last match, owned: its holders, and room to write a few
                                    too many */
    uint32_t holder_room;        /* of the arrays; a multiple of 64 */
    uint32_t holder_top, live_count;
    uint64_t entry_count; /* of live holders */
    uint64_t waiting_entries;
    uint32_t waiting_count;
    bool is_sweeping, has_failed;
    uint32_t sweep_mark, sweep_shard, sweep_line;
};

/* --- memory ------------------------------------------------------------------------------ */

static enum err open_region(struct region *region, uint32_t level) {
    size_t bytes = ((size_t) SHARDS * LEVEL_LINES << level) * sizeof(struct line);
    region->memory = alloc_bytes(bytes + LINE_BYTES);
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

/* Room for a shard at this level, with nothing in it yet. */
static enum err take_lines(struct prefix_index *index, uint32_t number, uint32_t level,
                           struct shard *out) {
    if (level == LEVELS) return ERR_LIMIT;
    struct region *region = &index->regions[level];
    if (!region->memory) {
        enum err e = open_region(region, level);
        if (e) return e;
    }
    uint32_t line_count = LEVEL_LINES << level;
    uint64_t block_room = (uint64_t) line_count * LINE_BLOCKS;
    region->shard_count++;
    *out = (struct shard){.lines = region->lines + (size_t) number * line_count,
                          .line_count = line_count,
                          .block_max = (uint32_t) (block_room * FULL_NUMERATOR / 20),
                          .level = (uint8_t) level,
                          .shift = (uint8_t) (63 - level)};
    /* Here and not for the whole region at once, so that no call pays for it all. */
    memset(out->lines, 0, line_count * sizeof *out->lines);
    return ERR_OK;
}

/* --- life -------------------------------------------------------------------------------- */

static void fill_byte_bits(struct prefix_index *index) {
    for (uint32_t byte = 0; byte < 256; byte++)
        for (uint32_t bit = 0; bit < 8; bit++) {
            if (!(byte >> bit & 1)) continue;
            uint32_t lane = index->byte_counts[byte]++;
            index->byte_bits[byte][lane / 4] |= (uint64_t) bit << (lane % 4 * 16);
        }
}

enum err prefix_index_create(struct prefix_index **out) {
    struct prefix_index *index = alloc_zero(1, sizeof *index);
    if (!index) return ERR_MEMORY;
    fill_byte_bits(index);
    enum err e = prefix_set_create(&index->sets);
    for (uint32_t i = 0; !e && i < SHARDS; i++) e = take_lines(index, i, 0, &index->shards[i]);
    if (e) {
        prefix_index_destroy(index);
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
    alloc_free(index->gone);
    alloc_free(index->members);
    alloc_free(index->levels);
    alloc_free(index->named);
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
        !resize_bits(&index->gone, old, room) || !resize_bits(&index->members, old, room))
        return ERR_MEMORY;
    struct prefix_level *levels = alloc_resize(index->levels, room * sizeof *levels);
    if (!levels) return ERR_MEMORY;
    index->levels = levels;
    uint16_t *named = alloc_resize(index->named, (room + NAMED_AT_ONCE) * sizeof *named);
    if (!named) return ERR_MEMORY;
    index->named = named;
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

/* Where a block lives. */
struct home {
    struct shard *shard;
    struct line *line;
};

static inline struct line *line_of(const struct shard *shard, uint64_t mixed) {
    return shard->lines + (mixed << 8 >> shard->shift);
}

static inline uint64_t name_of(uint64_t hash) { return hash ? hash : HASH_OF_0; }

/* Hashes are mixed once more: foreign ones may be mixed badly. */
static inline uint64_t mix(uint64_t name) { return (name ^ name >> 32) * 0x9E3779B97F4A7C15u; }

static inline struct home home_of(const struct prefix_index *index, uint64_t name) {
    uint64_t mixed = mix(name);
    struct shard *shard = (struct shard *) &index->shards[mixed >> 56];
    return (struct home){shard, line_of(shard, mixed)};
}

/* Its line will be read soon. */
static inline void ask(const struct prefix_index *index, uint64_t hash) {
    __builtin_prefetch(home_of(index, name_of(hash)).line);
}

struct place {
    struct line *line;
    uint32_t slot;
};

/* A bit for each slot with this name.  No branch: which slot it is cannot be foreseen. */
static inline uint32_t find_slots(const struct line *line, uint64_t name) {
    uint32_t found = 0;
    for (uint32_t slot = 0; slot < LINE_BLOCKS; slot++)
        found |= (uint32_t) (line->names[slot] == name) << slot;
    return found;
}

static struct line *next_line(const struct shard *shard, struct line *line) {
    return line + 1 == shard->lines + shard->line_count ? shard->lines : line + 1;
}

/* Past the home line, which has passed some on. */
static __attribute__((noinline)) bool find_far(struct home home, uint64_t name, struct place *out) {
    for (struct line *line = next_line(home.shard, home.line); line != home.line;
         line = next_line(home.shard, line)) {
        uint32_t found = find_slots(line, name);
        if (found) {
            *out = (struct place){line, (uint32_t) __builtin_ctz(found)};
            return true;
        }
        if (!line->passed_count) return false;
    }
    return false;
}

static inline bool find(struct home home, uint64_t name, struct place *out) {
    uint32_t found = find_slots(home.line, name);
    if (found) {
        *out = (struct place){home.line, (uint32_t) __builtin_ctz(found)};
        return true;
    }
    return home.line->passed_count && find_far(home, name, out);
}

static inline uint32_t value_of(const struct prefix_index *index, uint64_t hash) {
    uint64_t name = name_of(hash);
    struct place place;
    return find(home_of(index, name), name, &place) ? place.line->values[place.slot] : 0;
}

/* The name is not there, and the shard has room. */
static inline void insert(struct home home, uint64_t name, uint32_t value) {
    for (struct line *line = home.line;; line = next_line(home.shard, line)) {
        uint32_t empty = find_slots(line, 0);
        if (empty) {
            uint32_t slot = (uint32_t) __builtin_ctz(empty);
            line->names[slot] = name;
            line->values[slot] = value;
            home.shard->block_count++;
            return;
        }
        line->passed_count++;
    }
}

static void erase(struct home home, const struct place *place) {
    place->line->names[place->slot] = 0;
    for (struct line *line = home.line; line != place->line; line = next_line(home.shard, line))
        line->passed_count--;
    home.shard->block_count--;
}

#define FILL_ONE                                                                                   \
    (1u << 28) /* while a shard grows, passed_count tells the filled slots above this */

/* Into lines that nothing was taken out of yet.  An empty name is written and not counted: no
 * branch, since which slots are empty cannot be foreseen. */
static inline void put_fresh(const struct shard *shard, uint64_t name, uint32_t value) {
    struct line *line = line_of(shard, mix(name));
    while (line->passed_count >= LINE_BLOCKS * FILL_ONE) {
        if (!name) return;
        line->passed_count++;
        line = next_line(shard, line);
    }
    uint32_t slot = line->passed_count / FILL_ONE;
    line->names[slot] = name;
    line->values[slot] = value;
    line->passed_count += name ? FILL_ONE : 0;
}

static __attribute__((noinline)) enum err grow(struct prefix_index *index, struct shard *shard) {
    struct shard larger;
    enum err e = take_lines(index, (uint32_t) (shard - index->shards), shard->level + 1, &larger);
    if (e) return e;
    for (uint32_t i = 0; i < shard->line_count; i++)
        for (uint32_t slot = 0; slot < LINE_BLOCKS; slot++)
            put_fresh(&larger, shard->lines[i].names[slot], shard->lines[i].values[slot]);
    for (uint32_t i = 0; i < larger.line_count; i++) larger.lines[i].passed_count &= FILL_ONE - 1;
    larger.block_count = shard->block_count;
    leave_region(&index->regions[shard->level]);
    *shard = larger;
    if (index->is_sweeping && shard == &index->shards[index->sweep_shard]) index->sweep_line = 0;
    return ERR_OK;
}

/* Takes a holder out of a block; an empty block goes. */
static enum err take_out(struct prefix_index *index, struct home home, const struct place *place,
                         uint32_t holder, bool *was_there) {
    uint32_t *value = &place->line->values[place->slot], before = *value;
    enum err e = prefix_set_take(index->sets, value, holder);
    if (e) return e;
    *was_there = *value != before;
    if (!*value) erase(home, place);
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

static void sweep_block(struct prefix_index *index, const struct place *place) {
    uint32_t value = place->line->values[place->slot], words;
    if (value <= PREFIX_SET_SINGLE_MAX) { /* most are */
        if (!has_bit(index->is_leaving, value - 1)) return;
    } else if (prefix_set_mark(index->sets, value) == index->sweep_mark) {
        return;
    } else if (!prefix_set_meets(index->sets, value, index->is_leaving)) {
        prefix_set_note(index->sets, value, index->sweep_mark);
        return;
    }
    /* The set may go with the first one that is taken out: its members are copied. */
    const uint64_t *members = prefix_set_members(index->sets, value, index->members, &words);
    if (members != index->members) memcpy(index->members, members, words * sizeof *members);
    struct home home = home_of(index, place->line->names[place->slot]);
    for (uint32_t w = 0; w < words; w++) {
        for (uint64_t out = index->members[w] & index->is_leaving[w]; out; out &= out - 1) {
            uint32_t holder = w * 64 + (uint32_t) __builtin_ctzll(out);
            bool was_there;
            if (take_out(index, home, place, holder, &was_there)) index->has_failed = true;
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
            struct place place = {line, slot};
            if (line->names[slot]) sweep_block(index, &place);
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

/* Hashes that lie `stride` words apart. */
struct batch {
    const uint64_t *hashes;
    size_t stride;
    uint32_t count;
};

static inline uint64_t hash_at(const struct batch *batch, uint32_t i) {
    return batch->hashes[i * batch->stride];
}

static void ask_first(const struct prefix_index *index, const struct batch *batch) {
    uint32_t count = batch->count < AHEAD ? batch->count : AHEAD;
    for (uint32_t i = 0; i < count; i++) ask(index, hash_at(batch, i));
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

static enum err add_block(struct prefix_index *index, struct home home, uint64_t name,
                          uint32_t holder) {
    if (home.shard->block_count >= home.shard->block_max) {
        enum err e = grow(index, home.shard);
        if (e) return e;
        home = home_of(index, name);
    }
    insert(home, name, holder + 1);
    return ERR_OK;
}

static enum err store_all(struct prefix_index *index, uint32_t holder, const struct batch *batch) {
    enum err first = ERR_OK;
    struct run run = {0};
    uint32_t new_count = 0;
    ask_first(index, batch);
    for (uint32_t i = 0; i < batch->count; i++) {
        if (i + AHEAD < batch->count) ask(index, hash_at(batch, i + AHEAD));
        uint64_t name = name_of(hash_at(batch, i));
        struct home home = home_of(index, name);
        struct place place;
        enum err e = ERR_OK;
        bool is_new = true;
        if (find(home, name, &place)) {
            uint32_t *value = &place.line->values[place.slot];
            if (*value == run.from && run.from != run.to) *value = run.to, run.count++;
            else e = put(index, &run, holder, value, &is_new);
        } else {
            e = add_block(index, home, name, holder);
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

static enum err remove_all(struct prefix_index *index, uint32_t holder, const struct batch *batch) {
    enum err first = ERR_OK;
    uint32_t gone_count = 0;
    ask_first(index, batch);
    for (uint32_t i = 0; i < batch->count; i++) {
        if (i + AHEAD < batch->count) ask(index, hash_at(batch, i + AHEAD));
        uint64_t name = name_of(hash_at(batch, i));
        struct home home = home_of(index, name);
        struct place place;
        bool was_there = false;
        enum err e = ERR_OK;
        if (find(home, name, &place)) e = take_out(index, home, &place, holder, &was_there);
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
    struct prefix_index *index;
    uint32_t first, end; /* words of index->alive that are not 0 */
    uint32_t value;      /* the holders of the block before */
    bool is_full;        /* every holder holds all so far, and who asks wants to know */
    uint32_t floor;
    uint32_t quiet; /* holders of at most this many blocks are not named */
    uint32_t level_count, named_count;
};

/* Byte by byte: the numbers of a byte's bits stand in a table. */
static void name(struct walk *walk, uint32_t word, uint64_t members) {
    const struct prefix_index *index = walk->index;
    uint32_t skipped = (uint32_t) __builtin_ctzll(members) & ~7u;
    uint64_t base = (word * 64ull + skipped) * IN_EACH_LANE;
    uint16_t *out = index->named + walk->named_count;
    for (members >>= skipped; members; members >>= 8, base += 8 * IN_EACH_LANE) {
        const uint64_t *of_byte = index->byte_bits[members & 255];
        uint64_t numbers[2] = {of_byte[0] + base, of_byte[1] + base};
        memcpy(out, numbers, sizeof numbers); /* what is too much is written over */
        out += index->byte_counts[members & 255];
    }
    walk->named_count = (uint32_t) (out - index->named);
}

/* Words first..end - 1 of bits: who holds just so many blocks. */
static void name_all(struct walk *walk, const uint64_t *bits, uint32_t first, uint32_t end,
                     uint32_t block_count) {
    uint32_t named_first = walk->named_count;
    for (uint32_t w = first; w < end; w++)
        if (bits[w]) name(walk, w, bits[w]);
    if (walk->named_count == named_first) return;
    walk->index->levels[walk->level_count++] =
        (struct prefix_level){block_count, named_first, walk->named_count};
}

/* Splits alive by the members: who goes, into gone; who stays.  Whether any goes. */
static bool split(struct walk *walk, const uint64_t *restrict members, uint32_t there) {
    uint64_t *restrict alive = walk->index->alive, *restrict gone = walk->index->gone;
    uint32_t both = there < walk->end ? there : walk->end;
    uint64_t any = 0;
    for (uint32_t w = walk->first; w < both; w++) {
        gone[w] = alive[w] & ~members[w];
        alive[w] &= members[w];
        any |= gone[w];
    }
    for (uint32_t w = both > walk->first ? both : walk->first; w < walk->end; w++) {
        gone[w] = alive[w];
        alive[w] = 0;
        any |= gone[w];
    }
    return any;
}

static void narrow(struct walk *walk) {
    const uint64_t *alive = walk->index->alive;
    while (walk->first < walk->end && !alive[walk->end - 1]) walk->end--;
    while (walk->first < walk->end && !alive[walk->first]) walk->first++;
}

/* Position 0: who is there at all. */
static void begin(struct walk *walk, uint32_t value) {
    struct prefix_index *index = walk->index;
    uint32_t words = WORDS(index->holder_top), there;
    const uint64_t *members = prefix_set_members(index->sets, value, index->members, &there);
    memcpy(index->alive, index->is_live, words * sizeof *index->alive);
    walk->value = value;
    walk->end = words;
    if (split(walk, members, there)) walk->is_full = false;
    narrow(walk);
}

/* The holders change at this position. */
static void enter(struct walk *walk, uint32_t position, uint32_t value) {
    struct prefix_index *index = walk->index;
    uint32_t there, first = walk->first, end = walk->end;
    const uint64_t *members = prefix_set_members(index->sets, value, index->members, &there);
    walk->value = value;
    if (!split(walk, members, there)) return;
    narrow(walk);
    if (walk->is_full) {
        walk->is_full = false;
        walk->floor = position;
        if (position > walk->quiet) walk->quiet = position;
    }
    if (position > walk->quiet) name_all(walk, index->gone, first, end, position);
}

/* The positions between two probes, all their lines asked for, then their sets. */
static void walk_window(struct walk *walk, const uint64_t *hashes, uint32_t first, uint32_t end) {
    struct prefix_index *index = walk->index;
    uint32_t value = walk->value, change_count = 0;
    struct {
        uint32_t position, value;
    } changes[STRIDE]; /* where the holders are not those of the position before */
    for (uint32_t at = first; value && at < end; at++) {
        uint32_t next = value_of(index, hashes[at]);
        if (next == value) continue;
        value = next; /* 0: nobody holds what follows either, or so we bet */
        changes[change_count].position = at;
        changes[change_count++].value = value;
        prefix_set_fetch(index->sets, value);
    }
    for (uint32_t i = 0; i < change_count; i++)
        prefix_set_fetch_bits(index->sets, changes[i].value);
    for (uint32_t i = 0; i < change_count && walk->first < walk->end; i++)
        enter(walk, changes[i].position, changes[i].value);
}

void prefix_index_match(struct prefix_index *index, const uint64_t *hashes, uint32_t count,
                        bool has_floor, uint32_t above, struct prefix_match *out) {
    *out = (struct prefix_match){.levels = index->levels, .holders = index->named};
    if (!count || !index->live_count) return;
    struct walk walk = {.index = index, .is_full = has_floor, .quiet = above};
    uint32_t end = count < STRIDE ? count : STRIDE;
    for (uint32_t i = 0; i < end; i++) ask(index, hashes[i]);
    for (uint32_t i = 2; i <= count / STRIDE && i <= AHEAD; i++) ask(index, hashes[i * STRIDE - 1]);
    ask(index, hashes[count - 1]);
    begin(&walk, value_of(index, hashes[0]));
    bool was_full = walk.is_full;
    walk_window(&walk, hashes, 1, end);
    for (uint32_t first = end; first < count && walk.first < walk.end; first = end) {
        end = first + STRIDE < count ? first + STRIDE : count;
        uint32_t ahead = end + AHEAD * STRIDE - 1;
        if (ahead < count) ask(index, hashes[ahead]);
        if (value_of(index, hashes[end - 1]) == walk.value) continue;
        for (uint32_t i = first; i < end; i++) ask(index, hashes[i]);
        walk_window(&walk, hashes, first, end);
    }
    if (was_full) out->floor = walk.is_full ? count : walk.floor;
    if (!walk.is_full && count > walk.quiet)
        name_all(&walk, index->alive, walk.first, walk.end, count);
    out->level_count = walk.level_count;
}

/* --- counts ------------------------------------------------------------------------------ */

void prefix_index_get_counts(const struct prefix_index *index, struct prefix_index_counts *out) {
    *out = (struct prefix_index_counts){.entries = index->entry_count,
                                        .sets = prefix_set_total(index->sets),
                                        .bytes = sizeof *index + prefix_set_bytes(index->sets),
                                        .holders = index->live_count};
    out->bytes += index->holder_room *
                  (sizeof *index->holder_blocks + sizeof *index->levels + sizeof *index->named);
    out->bytes += 6 * WORDS(index->holder_room) * sizeof(uint64_t);
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
                count += index->shards[i].lines[l].names[slot] &&
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
            if (!line->names[slot]) continue;
            struct home home = home_of(index, line->names[slot]);
            struct place place;
            block_count++;
            CHECK(line->values[slot] && home.shard == shard);
            CHECK(find(home, line->names[slot], &place));
            CHECK(place.line == line && place.slot == slot);
            distance +=
                (l + shard->line_count - (uint32_t) (home.line - shard->lines)) % shard->line_count;
            for (uint32_t holder = 0; holder < index->holder_top; holder++) {
                if (!prefix_set_has(index->sets, line->values[slot], holder)) continue;
                CHECK(is_taken(index, holder));
                if (has_bit(index->is_live, holder)) ++*entry_count;
            }
        }
    }
    CHECK(block_count == shard->block_count && passed_count == distance);
    CHECK(shard->lines == index->regions[shard->level].lines +
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
