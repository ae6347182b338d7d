/* bench_router - see bench_router.h.
 *
 * Two loads.  "index": 64 workers of 100,000 blocks each, half of them shared by all (6.4 million
 * entries), stored in events of 512, then prompts of 512 blocks matched.  "trace": a conversation
 * trace (bench_trace.h) routed over 1,000 workers whose caches are kept as real ones are (least
 * recently used, leaves first); a request's blocks are looked up, stored and removed.  One
 * operation is one block: an event applied, or a block of a prompt matched.
 *
 * Beside them stand what this machine can do at most: a copy, a chain of misses, and a change of
 * random cache lines that were asked for 16 ahead. */
#include "cmd/bench_router.h"

#include <argp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "cmd/bench_stamp.h"
#include "cmd/bench_trace.h"
#include "router/prefix_index.h"
#include "router/router.h"

#define INDEX_WORKERS 64u
#define WORKER_BLOCKS 100000u
#define EVENT_BLOCKS 512u
#define MATCHES 2000u
/* 877,568 tokens: what an 8B model leaves on an H200 (measured, vLLM 0.26, 2026-11). */
#define CACHE_BLOCKS 1714u
#define LIVE_REQUESTS 4000u
#define REPLAYS 5
#define CEILING_BYTES (64u << 20)

struct bench {
    uint32_t worker_count, request_count;
    uint64_t seed;
    bool is_json;
};

/* --- figures ----------------------------------------------------------------------------- */

static void print_figure(const struct bench *bench, const char *name, double value,
                         const char *unit, const char *words) {
    if (bench->is_json) {
        printf("{\"bench\":\"router\",\"name\":\"%s\",\"value\":%.6g,\"unit\":\"%s\"", name, value,
               unit);
        bench_stamp_end_line();
    } else printf("  %-44s %12.5g %s\n", words, value, unit);
}

static void print_title(const struct bench *bench, const char *title) {
    if (!bench->is_json) printf("%s\n", title);
}

static int compare_u32(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) b;
    return (x > y) - (x < y);
}

static int compare_double(const void *a, const void *b) {
    double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

static double quantile_us(uint32_t *sorted_ns, uint32_t count, double q) {
    uint32_t at = (uint32_t) (q * (count - 1) + 0.5);
    return sorted_ns[at] / 1e3;
}

/* --- what the machine can do ------------------------------------------------------------- */

static double measure_clock_ns(void) {
    uint32_t count = 100000;
    uint64_t started_ns = clock_now_ns();
    for (uint32_t i = 1; i < count; i++) (void) clock_now_ns();
    return (double) (clock_now_ns() - started_ns) / count;
}

static void measure_ceilings(const struct bench *bench) {
    uint64_t line_count = CEILING_BYTES / 64;
    uint8_t *memory = alloc_bytes(2 * (size_t) CEILING_BYTES);
    if (!memory) return;
    memset(memory, 1, 2 * (size_t) CEILING_BYTES);
    uint64_t started_ns = clock_now_ns();
    for (int pass = 0; pass < 4; pass++) memcpy(memory + CEILING_BYTES, memory, CEILING_BYTES);
    double copy_ns = (double) (clock_now_ns() - started_ns) / 4;
    uint64_t at = 0, steps = 300000;
    started_ns = clock_now_ns();
    for (uint64_t i = 0; i < steps; i++)
        at = bench_trace_mix(i ^ (memory[at * 64] & 1)) % line_count;
    double chase_ns = (double) (clock_now_ns() - started_ns) / (double) steps;
    started_ns = clock_now_ns();
    for (uint64_t i = 0; i < 4 * steps; i++) {
        __builtin_prefetch(memory + bench_trace_mix(i + 16) % line_count * 64);
        memory[bench_trace_mix(i) % line_count * 64] += (uint8_t) at;
    }
    double line_ns = (double) (clock_now_ns() - started_ns) / (double) (4 * steps);
    print_title(bench, "this machine, one core");
    print_figure(bench, "copy_gb_per_s", CEILING_BYTES / copy_ns, "GB/s", "copy of 64 MiB");
    print_figure(bench, "chase_ns", chase_ns, "ns", "one miss behind the other, 64 MiB");
    print_figure(bench, "line_ns", line_ns, "ns", "random lines changed, asked for 16 ahead");
    alloc_free(memory);
}

/* --- index ------------------------------------------------------------------------------- */

/* Block i of a worker: the first half is everybody's. */
static uint64_t hash_of(uint32_t worker, uint32_t i) {
    return i < WORKER_BLOCKS / 2 ? bench_trace_mix(i)
                                 : bench_trace_mix(((uint64_t) worker + 1) << 32 | i);
}

static uint64_t store_worker(struct prefix_index *index, uint32_t worker, uint32_t holder,
                             bool is_removed) {
    uint64_t hashes[EVENT_BLOCKS], spent_ns = 0;
    for (uint32_t first = 0; first < WORKER_BLOCKS; first += EVENT_BLOCKS) {
        uint32_t count = 0;
        for (uint32_t i = first; i < WORKER_BLOCKS && count < EVENT_BLOCKS; i++)
            hashes[count++] = hash_of(worker, i);
        uint64_t started_ns = clock_now_ns();
        enum err e = is_removed ? prefix_index_remove(index, holder, hashes, count)
                                : prefix_index_store(index, holder, hashes, count);
        spent_ns += clock_now_ns() - started_ns;
        CHECK(!e || e == ERR_MEMORY);
    }
    return spent_ns;
}

enum match_case { MATCH_SHARED, MATCH_PRIVATE, MATCH_PARTLY, MATCH_NONE, MATCH_CASES };

static void fill_prompt(enum match_case match, uint32_t round, uint64_t *hashes) {
    uint32_t worker = round % INDEX_WORKERS;
    uint32_t half = WORKER_BLOCKS / 2;
    uint32_t first = (uint32_t) (bench_trace_mix(round) % (half - EVENT_BLOCKS));
    for (uint32_t i = 0; i < EVENT_BLOCKS; i++) {
        bool is_shared = match == MATCH_SHARED || (match == MATCH_PARTLY && i < 200);
        hashes[i] = match == MATCH_NONE ? bench_trace_mix(~(uint64_t) (round * 1000 + i))
                    : is_shared         ? hash_of(worker, first + i)
                                        : hash_of(worker, half + first + i);
    }
}

static void measure_matches(const struct bench *bench, struct prefix_index *index,
                            uint32_t *times_ns) {
    static const char *const names[MATCH_CASES] = {"match_shared", "match_private", "match_partly",
                                                   "match_none"};
    static const char *const words[MATCH_CASES] = {
        "match of 512 blocks that all workers hold, p50", "  that one worker holds, p50",
        "  200 that all hold, then one's own, p50", "  that nobody holds, p50"};
    uint64_t hashes[EVENT_BLOCKS];
    struct prefix_match found;
    for (uint32_t match = 0; match < MATCH_CASES; match++) {
        char name[64];
        for (uint32_t round = 0; round < MATCHES; round++) {
            fill_prompt((enum match_case) match, round, hashes);
            uint64_t started_ns = clock_now_ns();
            prefix_index_match(index, hashes, EVENT_BLOCKS, true, 0, &found);
            times_ns[round] = (uint32_t) (clock_now_ns() - started_ns);
        }
        qsort(times_ns, MATCHES, sizeof *times_ns, compare_u32);
        snprintf(name, sizeof name, "%s_p50_us", names[match]);
        print_figure(bench, name, quantile_us(times_ns, MATCHES, 0.5), "us", words[match]);
        snprintf(name, sizeof name, "%s_p99_us", names[match]);
        print_figure(bench, name, quantile_us(times_ns, MATCHES, 0.99), "us", "  p99");
    }
}

static enum err run_index(const struct bench *bench) {
    struct prefix_index *index = NULL;
    uint32_t holders[INDEX_WORKERS];
    uint32_t *times_ns = alloc_array(MATCHES, sizeof *times_ns);
    enum err e = times_ns ? prefix_index_create(&index) : ERR_MEMORY;
    uint64_t spent_ns = 0;
    for (uint32_t w = 0; !e && w < INDEX_WORKERS; w++) {
        e = prefix_index_join(index, &holders[w]);
        if (!e) spent_ns += store_worker(index, w, holders[w], false);
    }
    if (!e) {
        struct prefix_index_counts counts;
        prefix_index_get_counts(index, &counts);
        double entries = (double) counts.entries;
        print_title(bench, "index: 64 workers of 100,000 blocks, half of them everybody's");
        print_figure(bench, "entries", entries, "", "entries (block, worker)");
        print_figure(bench, "store_ns", (double) spent_ns / entries, "ns", "store, a block");
        print_figure(bench, "bytes_per_block", (double) counts.bytes / (double) counts.blocks, "B",
                     "memory, a distinct block");
        print_figure(bench, "bytes_per_entry", (double) counts.bytes / entries, "B",
                     "memory, an entry");
        measure_matches(bench, index, times_ns);
        spent_ns = store_worker(index, 0, holders[0], true);
        print_figure(bench, "remove_ns", (double) spent_ns / WORKER_BLOCKS, "ns",
                     "remove, a block");
    }
    prefix_index_destroy(index);
    alloc_free(times_ns);
    return e;
}

/* --- trace: the caches ------------------------------------------------------------------- */

/* All workers' blocks in one open table, keyed by both; each worker's in a ring by use. */
struct cached {
    uint64_t hash;
    uint32_t worker; /* UINT32_MAX: free */
    uint32_t older, newer;
};

struct caches {
    struct cached *blocks;
    uint32_t *table; /* by (worker, hash): a block + 1 */
    uint32_t table_mask;
    struct {
        uint32_t oldest, newest, count;
    } * workers;
    uint32_t free_first;
};

#define NONE UINT32_MAX

static uint32_t slot_of(const struct caches *caches, uint32_t worker, uint64_t hash) {
    return (uint32_t) bench_trace_mix(hash ^ ((uint64_t) worker << 40)) & caches->table_mask;
}

static uint32_t find_cached(const struct caches *caches, uint32_t worker, uint64_t hash) {
    for (uint32_t at = slot_of(caches, worker, hash);; at = (at + 1) & caches->table_mask) {
        uint32_t block = caches->table[at];
        if (!block) return NONE;
        const struct cached *cached = &caches->blocks[block - 1];
        if (cached->hash == hash && cached->worker == worker) return block - 1;
    }
}

static void unlink_block(struct caches *caches, uint32_t block) {
    struct cached *cached = &caches->blocks[block];
    uint32_t worker = cached->worker;
    if (cached->older != NONE) caches->blocks[cached->older].newer = cached->newer;
    else caches->workers[worker].oldest = cached->newer;
    if (cached->newer != NONE) caches->blocks[cached->newer].older = cached->older;
    else caches->workers[worker].newest = cached->older;
    caches->workers[worker].count--;
}

static void link_newest(struct caches *caches, uint32_t block, uint32_t worker) {
    struct cached *cached = &caches->blocks[block];
    cached->worker = worker;
    cached->newer = NONE;
    cached->older = caches->workers[worker].newest;
    if (cached->older != NONE) caches->blocks[cached->older].newer = block;
    else caches->workers[worker].oldest = block;
    caches->workers[worker].newest = block;
    caches->workers[worker].count++;
}

static void forget(struct caches *caches, uint32_t block) {
    uint32_t mask = caches->table_mask;
    uint32_t at = slot_of(caches, caches->blocks[block].worker, caches->blocks[block].hash);
    while (caches->table[at] != block + 1) at = (at + 1) & mask;
    unlink_block(caches, block);
    caches->blocks[block].older = caches->free_first;
    caches->free_first = block;
    /* Close the gap: what stands behind it moves up if its home allows. */
    for (uint32_t next = (at + 1) & mask; caches->table[next]; next = (next + 1) & mask) {
        const struct cached *cached = &caches->blocks[caches->table[next] - 1];
        uint32_t home = slot_of(caches, cached->worker, cached->hash);
        if (((next - home) & mask) < ((next - at) & mask)) continue;
        caches->table[at] = caches->table[next];
        at = next;
    }
    caches->table[at] = 0;
}

static enum err caches_init(struct caches *caches, uint32_t worker_count) {
    uint64_t block_count = (uint64_t) worker_count * (CACHE_BLOCKS + BENCH_TRACE_BLOCKS_MAX);
    uint32_t table_room = 1024;
    while (table_room < 2 * block_count) table_room *= 2;
    caches->blocks = alloc_array(block_count, sizeof *caches->blocks);
    caches->table = alloc_zero(table_room, sizeof *caches->table);
    caches->workers = alloc_array(worker_count, sizeof *caches->workers);
    caches->table_mask = table_room - 1;
    if (!caches->blocks || !caches->table || !caches->workers) return ERR_MEMORY;
    for (uint32_t i = 0; i < block_count; i++)
        caches->blocks[i].older = i + 1 < block_count ? i + 1 : NONE;
    for (uint32_t w = 0; w < worker_count; w++) {
        caches->workers[w].oldest = caches->workers[w].newest = NONE;
        caches->workers[w].count = 0;
    }
    return ERR_OK;
}

static void caches_release(struct caches *caches) {
    alloc_free(caches->blocks);
    alloc_free(caches->table);
    alloc_free(caches->workers);
}

/* A prompt runs at a worker: what it lacks is stored, what is too much removed.  Deeper blocks
 * are used before their parents, so that leaves go first. */
static uint32_t use_cache(struct caches *caches, uint32_t worker, const uint64_t *hashes,
                          uint32_t count, struct kv_event *events) {
    uint32_t event_count = 0;
    for (uint32_t i = 0; i < count; i++)
        if (find_cached(caches, worker, hashes[i]) == NONE)
            events[event_count++] = (struct kv_event){
                .kind = KV_EVENT_STORED, .hash = hashes[i], .parent_hash = i ? hashes[i - 1] : 0};
    for (uint32_t i = count; i--;) {
        uint32_t block = find_cached(caches, worker, hashes[i]);
        if (block == NONE) {
            block = caches->free_first;
            caches->free_first = caches->blocks[block].older;
            caches->blocks[block].hash = hashes[i];
            uint32_t at = slot_of(caches, worker, hashes[i]);
            while (caches->table[at]) at = (at + 1) & caches->table_mask;
            caches->table[at] = block + 1;
        } else {
            unlink_block(caches, block);
        }
        link_newest(caches, block, worker);
    }
    while (caches->workers[worker].count > CACHE_BLOCKS) {
        uint32_t oldest = caches->workers[worker].oldest;
        events[event_count++] =
            (struct kv_event){.kind = KV_EVENT_REMOVED, .hash = caches->blocks[oldest].hash};
        forget(caches, oldest);
    }
    return event_count;
}

/* --- trace: the run ---------------------------------------------------------------------- */

/* What the index saw, to be done again in one go. */
struct record {
    uint32_t worker, hash_count, event_count;
};
struct recording {
    struct record *records;
    uint64_t *hashes;
    struct kv_event *events;
    size_t hash_count, hash_room, event_count, event_room;
};

struct trace_run {
    const struct bench *bench;
    struct router *router;
    struct prefix_index *index; /* the same events and matches, without choice and load */
    struct recording recording;
    struct bench_trace *trace;
    struct caches caches;
    uint32_t *holders;
    uint64_t *event_last;
    uint32_t *running; /* requests by worker */
    uint32_t *places;  /* of the last LIVE_REQUESTS: their workers */
    uint32_t *times_ns;
    uint64_t block_count, event_count, hit_count;
    uint64_t choose_ns, start_ns, apply_ns, index_match_ns, index_apply_ns;
};

static enum err start_run(struct trace_run *run, const struct bench *bench) {
    struct router_options options;
    router_options_init(&options);
    options.policy = ROUTER_KV;
    options.seed = bench->seed;
    run->bench = bench;
    run->holders = alloc_array(bench->worker_count, sizeof *run->holders);
    run->event_last = alloc_zero(bench->worker_count, sizeof *run->event_last);
    run->running = alloc_zero(bench->worker_count, sizeof *run->running);
    run->places = alloc_zero(LIVE_REQUESTS, sizeof *run->places);
    run->times_ns = alloc_array(bench->request_count, sizeof *run->times_ns);
    run->recording.records = alloc_array(bench->request_count, sizeof(struct record));
    if (!run->recording.records || !run->holders || !run->event_last || !run->running ||
        !run->places || !run->times_ns)
        return ERR_MEMORY;
    enum err e = caches_init(&run->caches, bench->worker_count);
    if (!e) e = bench_trace_create(bench->seed, &run->trace);
    if (!e) e = router_create(&options, &run->router);
    if (!e) e = prefix_index_create(&run->index);
    for (uint32_t w = 0; !e && w < bench->worker_count; w++) {
        struct router_worker worker = {
            .instance = w + 1, .block_size = BENCH_TRACE_BLOCK_TOKENS, .sends_events = true};
        e = router_add(run->router, &worker);
        if (!e) e = prefix_index_join(run->index, &run->holders[w]);
    }
    return e;
}

static void end_run(struct trace_run *run) {
    router_destroy(run->router);
    prefix_index_destroy(run->index);
    bench_trace_destroy(run->trace);
    caches_release(&run->caches);
    alloc_free(run->holders);
    alloc_free(run->event_last);
    alloc_free(run->running);
    alloc_free(run->places);
    alloc_free(run->times_ns);
    alloc_free(run->recording.records);
    alloc_free(run->recording.hashes);
    alloc_free(run->recording.events);
}

static void *make_room(void *array, size_t count, size_t *room, size_t size) {
    if (count <= *room) return array;
    size_t wanted = count > 2 * *room ? count : 2 * *room;
    void *larger = alloc_resize(array, wanted * size);
    if (larger) *room = wanted;
    return larger;
}

static enum err record(struct recording *to, uint32_t number, const struct record *record,
                       const uint64_t *hashes, const struct kv_event *events) {
    uint64_t *all_hashes =
        make_room(to->hashes, to->hash_count + record->hash_count, &to->hash_room, sizeof *hashes);
    if (!all_hashes) return ERR_MEMORY;
    to->hashes = all_hashes;
    struct kv_event *all_events = make_room(to->events, to->event_count + record->event_count + 1,
                                            &to->event_room, sizeof *events);
    if (!all_events) return ERR_MEMORY;
    to->events = all_events;
    memcpy(to->hashes + to->hash_count, hashes, record->hash_count * sizeof *hashes);
    memcpy(to->events + to->event_count, events, record->event_count * sizeof *events);
    to->hash_count += record->hash_count;
    to->event_count += record->event_count;
    to->records[number] = *record;
    return ERR_OK;
}

/* The same matches and events once more, into an empty index, with nothing between them. */
static enum err replay(const struct trace_run *run, double *seconds) {
    const struct recording *from = &run->recording;
    struct prefix_index *index = NULL;
    enum err e = prefix_index_create(&index);
    for (uint32_t w = 0; !e && w < run->bench->worker_count; w++)
        e = prefix_index_join(index, &run->holders[w]);
    const uint64_t *hashes = from->hashes;
    const struct kv_event *events = from->events;
    uint64_t started_ns = clock_now_ns();
    for (uint32_t i = 0; !e && i < run->bench->request_count; i++) {
        const struct record *done = &from->records[i];
        struct prefix_match found;
        prefix_index_match(index, hashes, done->hash_count, true, 0, &found);
        e = prefix_index_apply(index, run->holders[done->worker], events, done->event_count);
        hashes += done->hash_count;
        events += done->event_count;
    }
    *seconds = (double) (clock_now_ns() - started_ns) / 1e9;
    prefix_index_destroy(index);
    return e;
}

static void tell_load(struct trace_run *run, uint32_t worker, uint64_t attempt) {
    struct router_load load = {.blocks_used = run->running[worker] * 24,
                               .request_count = run->running[worker],
                               .echo = attempt};
    router_load(run->router, worker + 1, &load);
}

static enum err route(struct trace_run *run, uint32_t number) {
    static struct kv_event events[BENCH_TRACE_BLOCKS_MAX * 4];
    uint32_t count, worker_count = run->bench->worker_count;
    const uint64_t *hashes = bench_trace_next(run->trace, &count);
    struct router_request request = {.sequence_hashes = hashes,
                                     .block_count = count,
                                     .prompt_tokens = count * BENCH_TRACE_BLOCK_TOKENS,
                                     .overlap_weight = -1,
                                     .temperature = -1,
                                     .reads_cache = true};
    struct router_choice choice;
    uint64_t now_us = (uint64_t) number * 1000; /* a thousand requests a second */
    uint64_t t0 = clock_now_ns();
    enum err e = router_choose(run->router, &request, now_us, &choice);
    uint64_t t1 = clock_now_ns();
    if (!e) e = router_start(run->router, number + 1, &request, &choice, now_us);
    uint64_t t2 = clock_now_ns();
    if (e) return e;
    uint32_t worker = (uint32_t) choice.instance - 1;
    uint32_t event_count = use_cache(&run->caches, worker, hashes, count, events);
    for (uint32_t i = 0; i < event_count; i++) events[i].number = ++run->event_last[worker];
    uint64_t t3 = clock_now_ns();
    if (!router_events(run->router, worker + 1, events, event_count)) return ERR_FORMAT;
    uint64_t t4 = clock_now_ns();
    struct prefix_match found;
    prefix_index_match(run->index, hashes, count, true, 0, &found);
    uint64_t t5 = clock_now_ns();
    e = prefix_index_apply(run->index, run->holders[worker], events, event_count);
    uint64_t t6 = clock_now_ns();
    run->times_ns[number] = (uint32_t) (t1 - t0);
    run->choose_ns += t1 - t0;
    run->start_ns += t2 - t1;
    run->apply_ns += t4 - t3;
    run->index_match_ns += t5 - t4;
    run->index_apply_ns += t6 - t5;
    run->block_count += count;
    run->event_count += event_count;
    run->hit_count += choice.overlap_blocks;
    if (!e)
        e = record(&run->recording, number, &(struct record){worker, count, event_count}, hashes,
                   events);
    /* The world goes on: an old request ends, a worker reports. */
    if (number >= LIVE_REQUESTS) {
        router_end(run->router, number + 1 - LIVE_REQUESTS);
        run->running[run->places[number % LIVE_REQUESTS]]--;
    }
    run->running[worker]++;
    run->places[number % LIVE_REQUESTS] = worker;
    tell_load(run, number * 7 % worker_count, number);
    return e;
}

static void print_trace(const struct bench *bench, struct trace_run *run, double replay_s) {
    char title[128];
    uint32_t n = bench->request_count;
    double blocks = (double) run->block_count, events = (double) run->event_count;
    struct prefix_index_counts counts;
    prefix_index_get_counts(run->index, &counts);
    qsort(run->times_ns, n, sizeof *run->times_ns, compare_u32);
    snprintf(title, sizeof title,
             "trace: %u workers of %u blocks, %u requests, blocks of 512 tokens",
             bench->worker_count, CACHE_BLOCKS, n);
    print_title(bench, title);
    print_figure(bench, "request_blocks", blocks / n, "", "blocks of a request, mean");
    print_figure(bench, "hit_share", (double) run->hit_count / blocks, "",
                 "share of them believed at the chosen worker");
    print_figure(bench, "event_blocks", events / n, "", "blocks stored and removed, a request");
    print_figure(bench, "choice_p50_us", quantile_us(run->times_ns, n, 0.5), "us", "a choice, p50");
    print_figure(bench, "choice_p99_us", quantile_us(run->times_ns, n, 0.99), "us", "  p99");
    print_figure(bench, "choice_max_us", quantile_us(run->times_ns, n, 1), "us", "  max");
    /* A reading of the clock costs as much as a block: it is taken off. */
    double clock_ns = measure_clock_ns() * n;
    double match_ns = (double) run->index_match_ns - clock_ns;
    double apply_ns = (double) run->index_apply_ns - clock_ns;
    double all_ns = (double) (run->choose_ns + run->start_ns + run->apply_ns) - 3 * clock_ns;
    print_figure(bench, "index_ops_per_s", (blocks + events) / replay_s, "block/s",
                 "index alone, again, median of 5: matched, applied");
    print_figure(bench, "index_requests_per_s", n / replay_s, "1/s", "  requests");
    print_figure(bench, "index_match_ns", match_ns / blocks, "ns",
                 "  between choices: match, a block");
    print_figure(bench, "index_apply_ns", apply_ns / events, "ns",
                 "  between choices: event, a block");
    print_figure(bench, "ops_per_s", (blocks + events) / all_ns * 1e9, "block/s",
                 "with choice, load and guesses");
    print_figure(bench, "requests_per_s", n / all_ns * 1e9, "1/s", "  requests");
    print_figure(bench, "trace_bytes_per_block", (double) counts.bytes / (double) counts.blocks,
                 "B", "memory, a distinct block");
    print_figure(bench, "trace_blocks", (double) counts.blocks, "", "distinct blocks at the end");
    print_figure(bench, "trace_sets", (double) counts.sets, "", "distinct sets of workers");
}

static enum err run_trace(const struct bench *bench) {
    struct trace_run run = {0};
    enum err e = start_run(&run, bench);
    for (uint32_t i = 0; !e && i < bench->request_count; i++) e = route(&run, i);
    double replay_s[REPLAYS];
    for (uint32_t i = 0; !e && i < REPLAYS; i++) e = replay(&run, &replay_s[i]);
    if (!e) {
        qsort(replay_s, REPLAYS, sizeof *replay_s, compare_double);
        print_trace(bench, &run, replay_s[REPLAYS / 2]);
    }
    end_run(&run);
    return e;
}

/* --- options ----------------------------------------------------------------------------- */

static const struct argp_option argp_options[] = {
    {"workers", 'w', "N", 0, "workers of the trace (1000)", 0},
    {"requests", 'r', "N", 0, "requests of the trace (100000)", 0},
    {"seed", 's', "N", 0, "of the trace (1)", 0},
    {"json", 'j', NULL, 0, "one line a figure", 0},
    {0},
};

static uint64_t read_number(const char *text, uint64_t least, uint64_t most,
                            struct argp_state *state) {
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    if (*end || end == text || value < least || value > most)
        argp_error(state, "%s is not a number from %llu to %llu", text, (unsigned long long) least,
                   (unsigned long long) most);
    return value;
}

static error_t read_option(int key, char *text, struct argp_state *state) {
    struct bench *bench = state->input;
    switch (key) {
    case 'w':
        bench->worker_count = (uint32_t) read_number(text, 1, ROUTER_WORKERS_MAX, state);
        return 0;
    case 'r': bench->request_count = (uint32_t) read_number(text, 1, 100000000, state); return 0;
    case 's': bench->seed = read_number(text, 0, UINT64_MAX, state); return 0;
    case 'j': bench->is_json = true; return 0;
    case ARGP_KEY_ARG: argp_error(state, "what is %s?", text); return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

enum err bench_router_run(int argc, char **argv) {
    static const struct argp argp = {
        argp_options, read_option,
        NULL,         "What a choice of a worker costs, and what a block in the prefix index does.",
        NULL,         NULL,
        NULL};
    struct bench bench = {.worker_count = 1000, .request_count = 100000, .seed = 1};
    static char name[] = "gramme bench router";
    char *args[64] = {name};
    int count = 1;
    for (int i = 0; i < argc && count < 63; i++) args[count++] = argv[i];
    argp_err_exit_status = 2;
    if (argp_parse(&argp, count, args, 0, NULL, &bench)) return ERR_USAGE;
    measure_ceilings(&bench);
    enum err e = run_index(&bench);
    if (!e) e = run_trace(&bench);
    if (e) fprintf(stderr, "gramme: bench router: %s\n", err_name(e));
    return e;
}
