/* prefix_set - see prefix_set.h. */
#include "router/prefix_set.h"

#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

#define SMALL 16u /* members of a set that is a list: what fills its cache line */
#define CHUNK 1024u
#define LINE_BYTES 64u
#define STEPS 1024u /* of the table of changes; a power of two */
#define VALUE_FIRST (PREFIX_SET_SINGLE_MAX + 1)

struct set {
    uint64_t hash; /* of the members, whatever their order */
    uint32_t references;
    uint32_t next;       /* in the free list; 0: last */
    uint32_t generation; /* counts the lives of this number */
    uint32_t mark;
    uint32_t count;
    uint32_t words; /* 0: a list */
    union {
        uint16_t list[SMALL]; /* ascending; what is past count is 0 */
        uint64_t *bits;       /* owned; the last word is not 0 */
    } members;
};
_Static_assert(sizeof(struct set) == LINE_BYTES, "one cache line");

struct chunk {
    void *memory; /* owned */
    struct set *sets;
};

/* Of the table: the half of the hash that says which sets need not be looked at. */
struct bucket {
    uint32_t value; /* 0: empty */
    uint32_t tag;
};

struct step {
    uint32_t from, to;
    uint32_t from_generation, to_generation;
    uint32_t change; /* holder x 2 + (1: taken out) ; UINT32_MAX: empty */
};

struct prefix_set {
    struct chunk *chunks; /* set n of value VALUE_FIRST + n */
    uint32_t chunk_count, chunk_room;
    uint32_t made_count; /* numbers given out so far */
    uint32_t free_first; /* value; 0: none */
    uint32_t live_count;
    uint64_t bits_bytes;
    struct bucket *buckets; /* by tag, the next free one where it is taken */
    uint32_t bucket_count;  /* a power of two */
    struct step steps[STEPS];
    /* A set under construction. */
    uint64_t bits[PREFIX_SET_WORDS_MAX];
    struct set draft;
};

enum err prefix_set_create(struct prefix_set **out) {
    struct prefix_set *sets = alloc_zero(1, sizeof *sets);
    if (!sets) return ERR_MEMORY;
    sets->bucket_count = 64;
    sets->buckets = alloc_zero(sets->bucket_count, sizeof *sets->buckets);
    if (!sets->buckets) {
        alloc_free(sets);
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < STEPS; i++) sets->steps[i].change = UINT32_MAX;
    *out = sets;
    return ERR_OK;
}

static struct set *set_of(const struct prefix_set *sets, uint32_t value) {
    uint32_t number = value - VALUE_FIRST;
    return &sets->chunks[number / CHUNK].sets[number % CHUNK];
}

void prefix_set_destroy(struct prefix_set *sets) {
    if (!sets) return;
    for (uint32_t i = 0; i < sets->made_count; i++) {
        struct set *set = set_of(sets, VALUE_FIRST + i);
        if (set->words) alloc_free(set->members.bits);
    }
    for (uint32_t i = 0; i < sets->chunk_count; i++) alloc_free(sets->chunks[i].memory);
    alloc_free(sets->chunks);
    alloc_free(sets->buckets);
    alloc_free(sets);
}

static bool is_interned(uint32_t value) { return value >= VALUE_FIRST; }

/* --- members ----------------------------------------------------------------------------- */

static uint64_t hash_holder(uint32_t holder) {
    uint64_t x = (holder + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

bool prefix_set_has(const struct prefix_set *sets, uint32_t value, uint32_t holder) {
    if (!is_interned(value)) return value == holder + 1;
    const struct set *set = set_of(sets, value);
    if (set->words)
        return holder / 64 < set->words && (set->members.bits[holder / 64] >> (holder % 64) & 1);
    for (uint32_t i = 0; i < set->count; i++)
        if (set->members.list[i] == holder) return true;
    return false;
}

uint32_t prefix_set_count(const struct prefix_set *sets, uint32_t value) {
    return is_interned(value) ? set_of(sets, value)->count : value != 0;
}

void prefix_set_fetch(const struct prefix_set *sets, uint32_t value) {
    if (is_interned(value)) __builtin_prefetch(set_of(sets, value));
}

void prefix_set_fetch_bits(const struct prefix_set *sets, uint32_t value) {
    if (!is_interned(value)) return;
    const struct set *set = set_of(sets, value);
    for (uint32_t w = 0; w < set->words; w += 8) __builtin_prefetch(&set->members.bits[w]);
}

static void set_bit(uint64_t *bits, uint32_t at) { bits[at / 64] |= 1ull << (at % 64); }

/* The bits of few members, written out. */
static const uint64_t *write_members(const uint16_t *list, uint32_t count, uint64_t *room,
                                     uint32_t *word_count) {
    *word_count = list[count - 1] / 64u + 1;
    memset(room, 0, *word_count * sizeof *room);
    for (uint32_t i = 0; i < count; i++) set_bit(room, list[i]);
    return room;
}

const uint64_t *prefix_set_members(const struct prefix_set *sets, uint32_t value, uint64_t *room,
                                   uint32_t *word_count) {
    uint16_t single = (uint16_t) (value - 1);
    *word_count = 0;
    if (!value) return room;
    if (!is_interned(value)) return write_members(&single, 1, room, word_count);
    const struct set *set = set_of(sets, value);
    if (!set->words) return write_members(set->members.list, set->count, room, word_count);
    *word_count = set->words;
    return set->members.bits;
}

static bool has_bit(const uint64_t *bits, uint32_t at) { return bits[at / 64] >> (at % 64) & 1; }

bool prefix_set_meets(const struct prefix_set *sets, uint32_t value, const uint64_t *bits) {
    if (!is_interned(value)) return value && has_bit(bits, value - 1);
    const struct set *set = set_of(sets, value);
    for (uint32_t w = 0; w < set->words; w++)
        if (set->members.bits[w] & bits[w]) return true;
    for (uint32_t i = 0; !set->words && i < set->count; i++)
        if (has_bit(bits, set->members.list[i])) return true;
    return false;
}

uint32_t prefix_set_mark(const struct prefix_set *sets, uint32_t value) {
    return is_interned(value) ? set_of(sets, value)->mark : 0;
}

void prefix_set_note(struct prefix_set *sets, uint32_t value, uint32_t mark) {
    if (is_interned(value)) set_of(sets, value)->mark = mark;
}

/* --- the table --------------------------------------------------------------------------- */

static uint32_t tag_of(uint64_t hash) { return (uint32_t) (hash >> 32); }

static uint32_t next_bucket(const struct prefix_set *sets, uint32_t at) {
    return (at + 1) & (sets->bucket_count - 1);
}

static void put_in_table(struct prefix_set *sets, struct bucket bucket) {
    uint32_t at = bucket.tag & (sets->bucket_count - 1);
    while (sets->buckets[at].value) at = next_bucket(sets, at);
    sets->buckets[at] = bucket;
}

static void take_out_of_table(struct prefix_set *sets, uint32_t value) {
    uint32_t mask = sets->bucket_count - 1, at = tag_of(set_of(sets, value)->hash) & mask;
    while (sets->buckets[at].value != value) at = next_bucket(sets, at);
    /* Close the gap: what stands behind it moves up if its home allows. */
    for (uint32_t next = next_bucket(sets, at); sets->buckets[next].value;
         next = next_bucket(sets, next)) {
        if (((next - sets->buckets[next].tag) & mask) < ((next - at) & mask)) continue;
        sets->buckets[at] = sets->buckets[next];
        at = next;
    }
    sets->buckets[at] = (struct bucket){0};
}

static bool is_same(const struct set *a, const struct set *b) {
    if (a->hash != b->hash || a->count != b->count || a->words != b->words) return false;
    if (!a->words) return memcmp(a->members.list, b->members.list, sizeof a->members.list) == 0;
    return memcmp(a->members.bits, b->members.bits, a->words * sizeof(uint64_t)) == 0;
}

/* At most three quarters full; without memory fuller. */
static enum err make_bucket_room(struct prefix_set *sets) {
    uint32_t old_count = sets->bucket_count;
    if (sets->live_count < old_count / 4 * 3) return ERR_OK;
    struct bucket *old = sets->buckets;
    struct bucket *buckets = alloc_zero(2 * (size_t) old_count, sizeof *buckets);
    if (!buckets) return sets->live_count + 1 < old_count ? ERR_OK : ERR_MEMORY;
    sets->buckets = buckets;
    sets->bucket_count = 2 * old_count;
    for (uint32_t i = 0; i < old_count; i++)
        if (old[i].value) put_in_table(sets, old[i]);
    alloc_free(old);
    return ERR_OK;
}

static bool add_chunk(struct prefix_set *sets) {
    if (sets->chunk_count == sets->chunk_room) {
        uint32_t room = sets->chunk_room ? 2 * sets->chunk_room : 16;
        struct chunk *chunks = alloc_resize(sets->chunks, room * sizeof *chunks);
        if (!chunks) return false;
        sets->chunks = chunks;
        sets->chunk_room = room;
    }
    struct chunk chunk = {.memory = alloc_zero(CHUNK + 1, sizeof(struct set))};
    if (!chunk.memory) return false;
    chunk.sets = (struct set *) num_round_up((uintptr_t) chunk.memory, LINE_BYTES);
    sets->chunks[sets->chunk_count++] = chunk;
    return true;
}

/* A number for a new set: 0 without memory. */
static uint32_t take_number(struct prefix_set *sets) {
    if (sets->free_first) {
        uint32_t value = sets->free_first;
        sets->free_first = set_of(sets, value)->next;
        return value;
    }
    if (sets->made_count > UINT32_MAX - VALUE_FIRST - CHUNK) return 0;
    if (sets->made_count / CHUNK == sets->chunk_count && !add_chunk(sets)) return 0;
    return VALUE_FIRST + sets->made_count++;
}

/* The value of the draft, whose bits (if it has words) stand in sets->bits. */
static enum err intern(struct prefix_set *sets, uint32_t *out) {
    const struct set *draft = &sets->draft;
    uint32_t tag = tag_of(draft->hash);
    for (uint32_t at = tag & (sets->bucket_count - 1); sets->buckets[at].value;
         at = next_bucket(sets, at)) {
        uint32_t value = sets->buckets[at].value;
        if (sets->buckets[at].tag != tag || !is_same(set_of(sets, value), draft)) continue;
        *out = value;
        return ERR_OK;
    }
    if (make_bucket_room(sets)) return ERR_MEMORY;
    uint64_t *bits = NULL;
    if (draft->words) {
        bits = alloc_array(draft->words, sizeof *bits);
        if (!bits) return ERR_MEMORY;
        memcpy(bits, sets->bits, draft->words * sizeof *bits);
    }
    uint32_t value = take_number(sets);
    if (!value) {
        alloc_free(bits);
        return ERR_MEMORY;
    }
    struct set *set = set_of(sets, value);
    uint32_t generation = set->generation;
    *set = *draft;
    set->generation = generation;
    if (bits) set->members.bits = bits;
    sets->bits_bytes += draft->words * sizeof *bits;
    put_in_table(sets, (struct bucket){value, tag});
    sets->live_count++;
    *out = value;
    return ERR_OK;
}

static void forget(struct prefix_set *sets, uint32_t value) {
    struct set *set = set_of(sets, value);
    take_out_of_table(sets, value);
    if (set->words) alloc_free(set->members.bits);
    sets->bits_bytes -= set->words * sizeof(uint64_t);
    *set = (struct set){.generation = set->generation + 1, .next = sets->free_first};
    sets->free_first = value;
    sets->live_count--;
}

void prefix_set_move(struct prefix_set *sets, uint32_t from, uint32_t to, uint32_t count) {
    if (is_interned(to)) set_of(sets, to)->references += count;
    if (!is_interned(from)) return;
    struct set *set = set_of(sets, from);
    set->references -= count;
    if (set->references == 0) forget(sets, from);
}

/* --- changes ----------------------------------------------------------------------------- */

static uint32_t generation_of(const struct prefix_set *sets, uint32_t value) {
    return is_interned(value) ? set_of(sets, value)->generation : 0;
}

static struct step *step_of(struct prefix_set *sets, uint32_t value, uint32_t change) {
    uint32_t mixed = (value * 0x9E3779B1u) ^ (change * 0x85EBCA6Bu);
    return &sets->steps[mixed >> 22];
}

/* Members of the draft from bits: the list when there are few. */
static void set_draft_form(struct prefix_set *sets, uint32_t words) {
    struct set *draft = &sets->draft;
    while (words && !sets->bits[words - 1]) words--;
    draft->words = draft->count > SMALL ? words : 0;
    if (draft->words) {
        draft->members.bits = sets->bits;
        return;
    }
    memset(draft->members.list, 0, sizeof draft->members.list);
    uint32_t at = 0;
    for (uint32_t w = 0; w < words; w++)
        for (uint64_t rest = sets->bits[w]; rest; rest &= rest - 1)
            draft->members.list[at++] = (uint16_t) (w * 64 + (uint32_t) __builtin_ctzll(rest));
}

/* A list with one member more or less, which is a list again. */
static void draft_list(struct prefix_set *sets, const struct set *from, uint32_t holder,
                       bool is_out) {
    struct set *draft = &sets->draft;
    uint32_t at = 0, count = 0;
    for (; at < from->count && from->members.list[at] < holder; at++)
        draft->members.list[count++] = from->members.list[at];
    if (is_out) at++;
    else draft->members.list[count++] = (uint16_t) holder;
    for (; at < from->count; at++) draft->members.list[count++] = from->members.list[at];
}

static void draft_bits(struct prefix_set *sets, uint32_t value, uint32_t holder) {
    uint32_t words = holder / 64 + 1;
    uint32_t there;
    const uint64_t *members = prefix_set_members(sets, value, sets->bits, &there);
    if (members != sets->bits) memcpy(sets->bits, members, there * sizeof *members);
    if (there > words) words = there;
    memset(sets->bits + there, 0, (words - there) * sizeof *sets->bits);
    sets->bits[holder / 64] ^= 1ull << (holder % 64);
    set_draft_form(sets, words);
}

/* holder is (not) a member: the change is real. */
static enum err change(struct prefix_set *sets, uint32_t value, uint32_t holder, bool is_out,
                       uint32_t *out) {
    struct set single = {.hash = hash_holder(value - 1), .count = 1};
    single.members.list[0] = (uint16_t) (value - 1);
    const struct set *from = is_interned(value) ? set_of(sets, value) : &single;
    uint32_t count = is_out ? from->count - 1 : from->count + 1;
    sets->draft = (struct set){.hash = from->hash ^ hash_holder(holder), .count = count};
    if (!from->words && count <= SMALL) draft_list(sets, from, holder, is_out);
    else draft_bits(sets, value, holder);
    if (count == 1) {
        *out = sets->draft.members.list[0] + 1u;
        return ERR_OK;
    }
    return intern(sets, out);
}

static enum err take_step(struct prefix_set *sets, uint32_t value, uint32_t holder, bool is_out,
                          uint32_t *out) {
    uint32_t name = 2 * holder + is_out;
    struct step *step = step_of(sets, value, name);
    if (step->change == name && step->from == value &&
        step->from_generation == generation_of(sets, value) &&
        step->to_generation == generation_of(sets, step->to)) {
        *out = step->to;
        return ERR_OK;
    }
    uint32_t to = value;
    if (prefix_set_has(sets, value, holder) == is_out) {
        enum err e = change(sets, value, holder, is_out, &to);
        if (e) return e;
    }
    *step = (struct step){.from = value,
                          .to = to,
                          .from_generation = generation_of(sets, value),
                          .to_generation = generation_of(sets, to),
                          .change = name};
    *out = to;
    return ERR_OK;
}

enum err prefix_set_put(struct prefix_set *sets, uint32_t *value, uint32_t holder) {
    uint32_t to;
    if (*value == 0 || *value == holder + 1) {
        *value = holder + 1;
        return ERR_OK;
    }
    enum err e = take_step(sets, *value, holder, false, &to);
    if (e || to == *value) return e;
    prefix_set_move(sets, *value, to, 1);
    *value = to;
    return ERR_OK;
}

enum err prefix_set_take(struct prefix_set *sets, uint32_t *value, uint32_t holder) {
    uint32_t to;
    if (!is_interned(*value)) {
        if (*value == holder + 1) *value = 0;
        return ERR_OK;
    }
    enum err e = take_step(sets, *value, holder, true, &to);
    if (e || to == *value) return e;
    prefix_set_move(sets, *value, to, 1);
    *value = to;
    return ERR_OK;
}

/* --- counts ------------------------------------------------------------------------------ */

uint64_t prefix_set_total(const struct prefix_set *sets) { return sets->live_count; }

uint64_t prefix_set_bytes(const struct prefix_set *sets) {
    return sizeof *sets + sets->bits_bytes + (uint64_t) sets->bucket_count * sizeof(struct bucket) +
           (uint64_t) sets->chunk_room * sizeof(struct chunk) +
           (uint64_t) sets->chunk_count * (CHUNK + 1) * sizeof(struct set);
}

static void check_set(const struct prefix_set *sets, uint32_t value, uint64_t *bits_bytes) {
    const struct set *set = set_of(sets, value);
    uint64_t hash = 0;
    uint32_t count = 0;
    CHECK(set->references > 0);
    CHECK(set->count >= 2 && (set->words != 0) == (set->count > SMALL));
    for (uint32_t k = 0; !set->words && k < set->count; k++, count++) {
        CHECK(k == 0 || set->members.list[k - 1] < set->members.list[k]);
        hash ^= hash_holder(set->members.list[k]);
    }
    for (uint32_t w = 0; w < set->words; w++)
        for (uint64_t rest = set->members.bits[w]; rest; rest &= rest - 1, count++)
            hash ^= hash_holder(w * 64 + (uint32_t) __builtin_ctzll(rest));
    CHECK(hash == set->hash && count == set->count);
    CHECK(!set->words || set->members.bits[set->words - 1]);
    *bits_bytes += set->words * sizeof(uint64_t);
}

void prefix_set_check(const struct prefix_set *sets,
                      uint32_t (*references)(void *ctx, uint32_t value), void *ctx) {
    uint32_t live_count = 0;
    uint64_t bits_bytes = 0;
    for (uint32_t i = 0; i < sets->bucket_count; i++) {
        uint32_t value = sets->buckets[i].value, tag = sets->buckets[i].tag;
        if (!value) continue;
        live_count++;
        check_set(sets, value, &bits_bytes);
        CHECK(tag == tag_of(set_of(sets, value)->hash));
        CHECK(set_of(sets, value)->references == references(ctx, value));
        /* It is found from its home, and its content only once. */
        for (uint32_t at = tag & (sets->bucket_count - 1); at != i; at = next_bucket(sets, at)) {
            CHECK(sets->buckets[at].value);
            CHECK(!is_same(set_of(sets, sets->buckets[at].value), set_of(sets, value)));
        }
    }
    uint32_t free_count = 0;
    for (uint32_t value = sets->free_first; value; value = set_of(sets, value)->next) free_count++;
    CHECK(live_count == sets->live_count && live_count + free_count == sets->made_count);
    CHECK(bits_bytes == sets->bits_bytes);
}
