/* router - see router.h. */
#include "router/router.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "router/router_belief.h"

#define NONE UINT32_MAX

/* An attempt of this sender that runs or waits at a worker. */
struct task {
    uint64_t attempt;
    struct task *hash_next;
    struct task *next, *previous; /* of its worker, by attempt */
    uint32_t slot;                /* NONE: its worker has gone */
    uint32_t prompt_tokens;       /* until the first token */
    uint32_t waiting_tokens;      /* of them, what is not believed there already */
    uint32_t blocks;              /* that are not there already */
    uint32_t all_blocks;
    bool is_above; /* the echo: counted here, not yet in the worker's LOAD */
};

struct worker {
    uint64_t instance; /* 0: a free slot */
    uint64_t turn;     /* of round-robin: when it was last chosen */
    uint64_t echo;
    struct router_load load;
    struct task *first, *last;
    struct task *first_above; /* the first one above the echo; all after it are above too */
    uint64_t above_requests, above_tokens, above_blocks;
    /* What the last LOAD still counts of tasks that have gone on or ended since. */
    uint64_t done_requests, done_tokens, done_blocks;
};

struct router {
    struct router_options options;
    struct router_belief *belief; /* NULL: another policy than kv */
    struct worker *workers;       /* by slot, owned */
    /* By slot, owned; one array each, so that a choice among a thousand reads little memory. */
    double *waiting_tokens, *used_blocks, *request_counts;
    double *closed;     /* 0, or INFINITY for a slot that is not to be chosen */
    double *costs;      /* scratch of a choice; INFINITY: closed */
    uint32_t *overlaps; /* scratch of a choice */
    bool *is_open;
    uint32_t *table;    /* by instance, of 2 x room, owned: a slot, or NONE */
    uint32_t room, top; /* slots (a power of two); none is used at or above top */
    uint32_t worker_count, open_count;
    uint32_t block_size; /* of the workers here */
    uint64_t turn_last;
    uint64_t random_state;
    struct task **tasks; /* buckets by attempt, owned */
    uint32_t task_room, task_count;
    uint64_t choice_count, request_blocks, overlap_blocks;
};

void router_options_init(struct router_options *options) {
    *options = (struct router_options){.policy = ROUTER_ROUND_ROBIN,
                                       .overlap_weight = 1,
                                       .has_events = true,
                                       .approximate_us = 120000000,
                                       .predicted_us = 5000000,
                                       .guessed_blocks_max = 1u << 20};
}

enum err router_create(const struct router_options *options, struct router **out) {
    struct router *router = alloc_zero(1, sizeof *router);
    if (!router) return ERR_MEMORY;
    router->options = *options;
    router->random_state = options->seed;
    router->task_room = 256;
    router->tasks = alloc_zero(router->task_room, sizeof *router->tasks);
    enum err e = router->tasks ? ERR_OK : ERR_MEMORY;
    if (!e && options->policy == ROUTER_KV) {
        struct router_belief_options belief = {.approximate_us = options->approximate_us,
                                               .predicted_us = options->predicted_us,
                                               .guesses_max = options->guessed_blocks_max};
        e = router_belief_create(&belief, &router->belief);
    }
    if (e) {
        router_destroy(router);
        return e;
    }
    *out = router;
    return ERR_OK;
}

void router_destroy(struct router *router) {
    if (!router) return;
    for (uint32_t i = 0; router->tasks && i < router->task_room; i++) {
        struct task *next;
        for (struct task *task = router->tasks[i]; task; task = next) {
            next = task->hash_next;
            alloc_free(task);
        }
    }
    router_belief_destroy(router->belief);
    alloc_free(router->tasks);
    alloc_free(router->workers);
    alloc_free(router->waiting_tokens);
    alloc_free(router->used_blocks);
    alloc_free(router->request_counts);
    alloc_free(router->closed);
    alloc_free(router->costs);
    alloc_free(router->table);
    alloc_free(router->overlaps);
    alloc_free(router->is_open);
    alloc_free(router);
}

bool router_wants_hashes(const struct router *router) { return router->belief != NULL; }

/* --- workers ----------------------------------------------------------------------------- */

static uint32_t table_at(const struct router *router, uint64_t instance) {
    return (uint32_t) (instance * 0x9e3779b97f4a7c15u >> 32) & (2 * router->room - 1);
}

static uint32_t find_slot(const struct router *router, uint64_t instance) {
    if (!instance || !router->room) return NONE;
    for (uint32_t at = table_at(router, instance);; at = (at + 1) & (2 * router->room - 1)) {
        uint32_t slot = router->table[at];
        if (slot == NONE || router->workers[slot].instance == instance) return slot;
    }
}

/* Workers come and go seldom. */
static void fill_table(struct router *router) {
    for (uint32_t i = 0; i < 2 * router->room; i++) router->table[i] = NONE;
    for (uint32_t slot = 0; slot < router->top; slot++) {
        if (!router->workers[slot].instance) continue;
        uint32_t at = table_at(router, router->workers[slot].instance);
        while (router->table[at] != NONE) at = (at + 1) & (2 * router->room - 1);
        router->table[at] = slot;
    }
}

static uint64_t less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

static void refresh(struct router *router, uint32_t slot) {
    const struct worker *worker = &router->workers[slot];
    router->waiting_tokens[slot] =
        (double) (less(worker->load.waiting_tokens, worker->done_tokens) + worker->above_tokens);
    router->used_blocks[slot] =
        (double) (less(worker->load.blocks_used, worker->done_blocks) + worker->above_blocks);
    router->request_counts[slot] =
        (double) (less(worker->load.request_count, worker->done_requests) + worker->above_requests);
}

static bool resize(void *array, uint32_t count, size_t size) {
    void **at = array;
    void *resized = alloc_resize(*at, count * size);
    if (resized) *at = resized;
    return resized != NULL;
}

static enum err make_room(struct router *router) {
    uint32_t room = router->room ? 2 * router->room : 16;
    if (!resize(&router->workers, room, sizeof *router->workers) ||
        !resize(&router->waiting_tokens, room, sizeof(double)) ||
        !resize(&router->used_blocks, room, sizeof(double)) ||
        !resize(&router->request_counts, room, sizeof(double)) ||
        !resize(&router->closed, room, sizeof(double)) ||
        !resize(&router->costs, room, sizeof(double)) ||
        !resize(&router->overlaps, room, sizeof(uint32_t)) ||
        !resize(&router->is_open, room, sizeof(bool)))
        return ERR_MEMORY;
    uint32_t *table = alloc_array(2 * (size_t) room, sizeof *table);
    if (!table) return ERR_MEMORY;
    alloc_free(router->table);
    router->table = table;
    memset(router->overlaps + router->room, 0, (room - router->room) * sizeof(uint32_t));
    router->room = room;
    fill_table(router);
    return ERR_OK;
}

enum err router_add(struct router *router, const struct router_worker *worker) {
    CHECK(worker->instance && worker->block_size);
    CHECK(find_slot(router, worker->instance) == NONE);
    if (router->worker_count == ROUTER_WORKERS_MAX) return ERR_LIMIT;
    uint32_t slot = 0;
    while (slot < router->top && router->workers[slot].instance) slot++;
    if (slot == router->room) {
        enum err e = make_room(router);
        if (e) return e;
    }
    if (router->belief) {
        bool sends_events = worker->sends_events && router->options.has_events;
        enum err e = router_belief_add(router->belief, slot, sends_events);
        if (e) return e;
    }
    /* A newcomer's turn is now: it does not get all that it missed. */
    router->workers[slot] =
        (struct worker){.instance = worker->instance, .turn = router->turn_last};
    if (slot == router->top) router->top++;
    if (router->worker_count++ == 0) router->block_size = worker->block_size;
    router->is_open[slot] = true;
    router->closed[slot] = 0;
    router->open_count++;
    refresh(router, slot);
    fill_table(router);
    return ERR_OK;
}

void router_remove(struct router *router, uint64_t instance) {
    uint32_t slot = find_slot(router, instance);
    if (slot == NONE) return;
    struct worker *worker = &router->workers[slot];
    for (struct task *task = worker->first; task; task = task->next) task->slot = NONE;
    if (router->belief) router_belief_remove(router->belief, slot);
    router->open_count -= router->is_open[slot];
    router->is_open[slot] = false;
    router->closed[slot] = INFINITY;
    *worker = (struct worker){0};
    refresh(router, slot);
    router->worker_count--;
    while (router->top && !router->workers[router->top - 1].instance) router->top--;
    fill_table(router);
}

void router_set_open(struct router *router, uint64_t instance, bool is_open) {
    uint32_t slot = find_slot(router, instance);
    if (slot == NONE || router->is_open[slot] == is_open) return;
    router->is_open[slot] = is_open;
    router->closed[slot] = is_open ? 0 : INFINITY;
    if (is_open) router->open_count++;
    else router->open_count--;
}

uint32_t router_open_count(const struct router *router) { return router->open_count; }

/* What the worker knows of is counted by it from now on. */
static void pass_echo(struct worker *worker, uint64_t echo) {
    if (echo > worker->echo) worker->echo = echo;
    while (worker->first_above && worker->first_above->attempt <= worker->echo) {
        struct task *task = worker->first_above;
        task->is_above = false;
        worker->above_requests--;
        worker->above_tokens -= task->waiting_tokens;
        worker->above_blocks -= task->blocks;
        worker->first_above = task->next;
    }
}

void router_load(struct router *router, uint64_t instance, const struct router_load *load) {
    uint32_t slot = find_slot(router, instance);
    if (slot == NONE) return;
    struct worker *worker = &router->workers[slot];
    worker->load = *load;
    worker->done_requests = worker->done_tokens = worker->done_blocks = 0;
    pass_echo(worker, load->echo);
    refresh(router, slot);
}

bool router_get_view(const struct router *router, uint64_t instance, struct router_view *out) {
    uint32_t slot = find_slot(router, instance);
    if (slot == NONE) return false;
    *out = (struct router_view){.waiting_tokens = router->waiting_tokens[slot],
                                .used_blocks = router->used_blocks[slot],
                                .request_count = router->request_counts[slot],
                                .is_open = router->is_open[slot]};
    return true;
}

/* --- beliefs ----------------------------------------------------------------------------- */

bool router_events(struct router *router, uint64_t instance, const struct kv_event *events,
                   uint32_t count) {
    uint32_t slot = find_slot(router, instance);
    if (slot == NONE || !router->belief) return true;
    return router_belief_events(router->belief, slot, events, count);
}

enum err router_dump_begin(struct router *router, uint64_t instance) {
    uint32_t slot = find_slot(router, instance);
    if (slot == NONE || !router->belief) return ERR_OK;
    return router_belief_dump_begin(router->belief, slot);
}

enum err router_dump_add(struct router *router, uint64_t instance, const struct kv_event *stored,
                         uint32_t count) {
    uint32_t slot = find_slot(router, instance);
    if (slot == NONE || !router->belief) return ERR_OK;
    return router_belief_dump_add(router->belief, slot, stored, count);
}

void router_dump_end(struct router *router, uint64_t instance, uint64_t event_number) {
    uint32_t slot = find_slot(router, instance);
    if (slot != NONE && router->belief) router_belief_dump_end(router->belief, slot, event_number);
}

uint64_t router_event_last(const struct router *router, uint64_t instance) {
    uint32_t slot = find_slot(router, instance);
    if (slot == NONE || !router->belief) return 0;
    return router_belief_event_last(router->belief, slot);
}

/* --- the choice -------------------------------------------------------------------------- */

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t draw(struct router *router) {
    uint64_t z = (router->random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double draw_share(struct router *router) { return (double) (draw(router) >> 11) * 0x1p-53; }

/* The n-th open worker, n drawn. */
static uint32_t choose_random(struct router *router, uint32_t avoided) {
    bool skips = avoided != NONE && router->is_open[avoided];
    uint64_t n = draw(router) % (router->open_count - skips);
    for (uint32_t slot = 0;; slot++)
        if (router->is_open[slot] && slot != avoided && n-- == 0) return slot;
}

/* The one whose last turn is the longest ago; newcomers in the order of their slots. */
static uint32_t choose_in_turn(struct router *router, uint32_t avoided) {
    uint32_t best = NONE;
    for (uint32_t slot = 0; slot < router->top; slot++) {
        if (!router->is_open[slot] || slot == avoided) continue;
        if (best == NONE || router->workers[slot].turn < router->workers[best].turn) best = slot;
    }
    router->workers[best].turn = ++router->turn_last;
    return best;
}

static double rank_of_tie(const struct router *router, uint32_t slot) {
    if (router->belief) return (double) router_belief_blocks(router->belief, slot);
    return router->used_blocks[slot];
}

/* Four at a time: a chain of minima would wait for each. */
static double find_lowest(const double *costs, uint32_t count) {
    double lowest[4] = {INFINITY, INFINITY, INFINITY, INFINITY};
    uint32_t i = 0;
    for (; i + 4 <= count; i += 4)
        for (uint32_t k = 0; k < 4; k++)
            lowest[k] = costs[i + k] < lowest[k] ? costs[i + k] : lowest[k];
    for (; i < count; i++) lowest[0] = costs[i] < lowest[0] ? costs[i] : lowest[0];
    for (uint32_t k = 1; k < 4; k++) lowest[0] = lowest[k] < lowest[0] ? lowest[k] : lowest[0];
    return lowest[0];
}

/* The lowest cost; then the smallest belief (or least used pool); then chance. */
static uint32_t choose_lowest(struct router *router) {
    double lowest = find_lowest(router->costs, router->top), rank = 0;
    uint32_t best = NONE, ties = 0;
    for (uint32_t slot = 0; slot < router->top; slot++) {
        if (router->costs[slot] != lowest) continue;
        double own = rank_of_tie(router, slot);
        if (best == NONE || own < rank) {
            best = slot;
            rank = own;
            ties = 1;
        } else if (own == rank && draw(router) % ++ties == 0) {
            best = slot;
        }
    }
    return best;
}

/* p ~ exp(-(cost / (highest - lowest)) / temperature), drawn in one pass by keeping a slot with
 * the chance that it has among those seen. */
static uint32_t choose_softly(struct router *router, double temperature) {
    double lowest = INFINITY, highest = -INFINITY, sum = 0;
    uint32_t best = NONE;
    for (uint32_t slot = 0; slot < router->top; slot++) {
        double cost = router->costs[slot];
        if (cost < lowest) lowest = cost;
        if (cost > highest && cost < INFINITY) highest = cost;
    }
    double span = highest > lowest ? highest - lowest : 1;
    for (uint32_t slot = 0; slot < router->top; slot++) {
        if (router->costs[slot] == INFINITY) continue;
        double p = exp(-(router->costs[slot] - lowest) / span / temperature);
        sum += p;
        if (best == NONE || draw_share(router) * sum < p) best = slot;
    }
    return best;
}

static void set_loads_as_costs(struct router *router) {
    for (uint32_t slot = 0; slot < router->top; slot++)
        router->costs[slot] = router->request_counts[slot] + router->closed[slot];
}

static void set_costs(struct router *router, const struct router_request *request, uint64_t now_us,
                      double weight) {
    uint32_t block_count = request->reads_cache ? request->block_count : 0;
    router_belief_match(router->belief, request->sequence_hashes, block_count, now_us,
                        router->overlaps, router->top);
    double a_token = weight / router->block_size, prompt_tokens = request->prompt_tokens;
    double block_tokens = router->block_size;
    const double *waiting = router->waiting_tokens, *used = router->used_blocks;
    const double *closed = router->closed;
    const uint32_t *overlaps = router->overlaps;
    double *costs = router->costs;
    for (uint32_t slot = 0; slot < router->top; slot++) {
        double new_tokens = prompt_tokens - (int32_t) overlaps[slot] * block_tokens;
        costs[slot] = a_token * (new_tokens + waiting[slot]) + used[slot] + closed[slot];
    }
}

enum err router_choose(struct router *router, const struct router_request *request, uint64_t now_us,
                       struct router_choice *out) {
    if (!router->open_count) return ERR_NOT_FOUND;
    uint32_t avoided = find_slot(router, request->avoided);
    if (avoided != NONE && router->is_open[avoided] && router->open_count == 1) avoided = NONE;
    double weight =
        request->overlap_weight >= 0 ? request->overlap_weight : router->options.overlap_weight;
    double temperature =
        request->temperature >= 0 ? request->temperature : router->options.temperature;
    uint32_t slot = NONE;
    switch (router->options.policy) {
    case ROUTER_RANDOM: slot = choose_random(router, avoided); break;
    case ROUTER_ROUND_ROBIN: slot = choose_in_turn(router, avoided); break;
    case ROUTER_LEAST_LOADED:
    case ROUTER_KV:
        if (router->belief) set_costs(router, request, now_us, weight);
        else set_loads_as_costs(router);
        if (avoided != NONE) router->costs[avoided] = INFINITY;
        slot = temperature > 0 ? choose_softly(router, temperature) : choose_lowest(router);
        break;
    }
    bool has_cost = router->options.policy == ROUTER_LEAST_LOADED || router->belief;
    *out = (struct router_choice){.instance = router->workers[slot].instance,
                                  .overlap_blocks = router->belief ? router->overlaps[slot] : 0,
                                  .cost = has_cost ? router->costs[slot] : 0};
    router->choice_count++;
    router->request_blocks += request->block_count;
    router->overlap_blocks += out->overlap_blocks;
    return ERR_OK;
}

/* --- what was dispatched ----------------------------------------------------------------- */

static struct task **bucket_of(const struct router *router, uint64_t attempt) {
    return &router->tasks[attempt & (router->task_room - 1)]; /* attempts are counted: no hash */
}

static struct task *find_task(const struct router *router, uint64_t attempt) {
    struct task *task = *bucket_of(router, attempt);
    while (task && task->attempt != attempt) task = task->hash_next;
    return task;
}

/* Without memory the chains grow longer. */
static void grow_tasks(struct router *router) {
    if (router->task_count < router->task_room || router->task_room > UINT32_MAX / 4) return;
    uint32_t old_room = router->task_room;
    struct task **old = router->tasks;
    struct task **tasks = alloc_zero(2 * (size_t) old_room, sizeof *tasks);
    if (!tasks) return;
    router->tasks = tasks;
    router->task_room = 2 * old_room;
    for (uint32_t i = 0; i < old_room; i++) {
        struct task *next;
        for (struct task *task = old[i]; task; task = next) {
            next = task->hash_next;
            struct task **bucket = bucket_of(router, task->attempt);
            task->hash_next = *bucket;
            *bucket = task;
        }
    }
    alloc_free(old);
}

enum err router_start(struct router *router, uint64_t attempt, const struct router_request *request,
                      const struct router_choice *choice, uint64_t now_us) {
    uint32_t slot = find_slot(router, choice->instance);
    if (slot == NONE) return ERR_OK;
    struct worker *worker = &router->workers[slot];
    CHECK(!worker->last || attempt > worker->last->attempt);
    struct task *task = alloc_zero(1, sizeof *task);
    if (!task) return ERR_MEMORY;
    uint64_t there = (uint64_t) choice->overlap_blocks * router->block_size;
    uint32_t blocks = request->prompt_tokens / router->block_size + 1;
    *task = (struct task){
        .attempt = attempt,
        .slot = slot,
        .prompt_tokens = request->prompt_tokens,
        .waiting_tokens =
            request->prompt_tokens > there ? request->prompt_tokens - (uint32_t) there : 0,
        .blocks = blocks > choice->overlap_blocks ? blocks - choice->overlap_blocks : 0,
        .all_blocks = blocks,
        .previous = worker->last,
        .is_above = attempt > worker->echo,
    };
    grow_tasks(router);
    struct task **bucket = bucket_of(router, attempt);
    task->hash_next = *bucket;
    *bucket = task;
    router->task_count++;
    if (worker->last) worker->last->next = task;
    else worker->first = task;
    worker->last = task;
    if (task->is_above) {
        if (!worker->first_above) worker->first_above = task;
        worker->above_requests++;
        worker->above_tokens += task->waiting_tokens;
        worker->above_blocks += task->blocks;
    }
    refresh(router, slot);
    if (router->belief && request->reads_cache)
        router_belief_guess(router->belief, slot, request->sequence_hashes, request->block_count,
                            now_us);
    return ERR_OK;
}

/* A LOAD counts a waiting prompt whole: before it is admitted its worker does not know either how
 * much of it is there already. */
void router_first_token(struct router *router, uint64_t attempt) {
    struct task *task = find_task(router, attempt);
    if (!task || !task->prompt_tokens) return;
    if (task->slot != NONE) {
        struct worker *worker = &router->workers[task->slot];
        if (task->is_above) worker->above_tokens -= task->waiting_tokens;
        else worker->done_tokens += task->prompt_tokens;
        refresh(router, task->slot);
    }
    task->prompt_tokens = task->waiting_tokens = 0;
}

void router_end(struct router *router, uint64_t attempt) {
    struct task **at = bucket_of(router, attempt);
    while (*at && (*at)->attempt != attempt) at = &(*at)->hash_next;
    struct task *task = *at;
    if (!task) return;
    *at = task->hash_next;
    router->task_count--;
    if (task->slot != NONE) {
        struct worker *worker = &router->workers[task->slot];
        if (worker->first_above == task) worker->first_above = task->next;
        if (task->next) task->next->previous = task->previous;
        else worker->last = task->previous;
        if (task->previous) task->previous->next = task->next;
        else worker->first = task->next;
        if (task->is_above) {
            worker->above_requests--;
            worker->above_tokens -= task->waiting_tokens;
            worker->above_blocks -= task->blocks;
        } else {
            worker->done_requests++;
            worker->done_tokens += task->prompt_tokens;
            worker->done_blocks += task->all_blocks;
        }
        refresh(router, task->slot);
    }
    alloc_free(task);
}

/* --- counts ------------------------------------------------------------------------------ */

void router_get_counts(const struct router *router, struct router_counts *out) {
    *out = (struct router_counts){.choices = router->choice_count,
                                  .request_blocks = router->request_blocks,
                                  .overlap_blocks = router->overlap_blocks};
    if (!router->belief) return;
    struct router_belief_counts belief;
    router_belief_get_counts(router->belief, &belief);
    out->events = belief.events;
    out->gaps = belief.gaps;
    out->dumps = belief.dumps;
    out->index_blocks = belief.blocks;
    out->index_entries = belief.entries;
    out->index_guesses = belief.guesses;
    out->index_bytes = belief.bytes;
}

static uint32_t check_worker(const struct router *router, uint32_t slot) {
    const struct worker *worker = &router->workers[slot];
    uint64_t requests = 0, tokens = 0, blocks = 0;
    uint32_t task_count = 0;
    const struct task *first_above = NULL, *last = NULL;
    for (const struct task *task = worker->first; task; last = task, task = task->next) {
        task_count++;
        CHECK(task->previous == last && task->slot == slot);
        CHECK(!last || last->attempt < task->attempt);
        CHECK(find_task(router, task->attempt) == task);
        CHECK(task->is_above == (task->attempt > worker->echo));
        if (!task->is_above) continue;
        if (!first_above) first_above = task;
        requests++;
        tokens += task->waiting_tokens;
        blocks += task->blocks;
    }
    CHECK(last == worker->last && first_above == worker->first_above);
    CHECK(requests == worker->above_requests && tokens == worker->above_tokens);
    CHECK(blocks == worker->above_blocks);
    CHECK(router->request_counts[slot] ==
          (double) (less(worker->load.request_count, worker->done_requests) + requests));
    return task_count;
}

void router_check(const struct router *router) {
    uint32_t worker_count = 0, open_count = 0, task_count = 0, placed_count = 0;
    for (uint32_t slot = 0; slot < router->top; slot++) {
        if (router->workers[slot].instance) {
            worker_count++;
            placed_count += check_worker(router, slot);
        } else {
            CHECK(!router->is_open[slot]);
            CHECK(router->closed[slot] == INFINITY);
        }
        open_count += router->is_open[slot];
    }
    CHECK(worker_count == router->worker_count && open_count == router->open_count);
    for (uint32_t i = 0; i < router->task_room; i++)
        for (const struct task *task = router->tasks[i]; task; task = task->hash_next) {
            task_count++;
            placed_count += task->slot == NONE;
        }
    CHECK(task_count == router->task_count && placed_count == task_count);
    if (router->belief) router_belief_check(router->belief);
}
