/* sim_backend - see sim_backend.h. */
#include "backend/sim/sim_backend.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/num.h"

#define IN_FLIGHT_MAX 2u
#define SLOT_BYTES 16u /* a key and a value of u64 */

struct seat {
    bool is_set;
    uint32_t choice_index;
    uint32_t last_id; /* the one sampled last */
    uint64_t history;
    struct sampling sampling; /* its arrays are the three below */
    uint32_t stop_ids[SAMPLING_STOP_IDS_MAX];
    uint64_t *allowed; /* vocabulary bits; used when allowed_id_count > 0 */
};

struct flight {
    struct batch batch;
    uint64_t due_ns;
};

struct backend {
    struct backend_head head;
    struct backend_options options;
    uint32_t vocab_size;
    uint32_t block_count; /* without block 0 */
    uint8_t *none;        /* block 0 */
    uint8_t *blocks;      /* blocks 1.. */
    struct seat *seats;
    struct result_row *results;
    struct token_logprob *prompt_logprobs;
    struct flight flights[IN_FLIGHT_MAX]; /* oldest first */
    uint32_t flight_count;
    uint64_t due_ns; /* of the batch submitted last */
    uint64_t collect_count;
};

/* --- the function that stands for a model ---------------------------------------------------- */

static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t z = a * 0x9e3779b97f4a7c15u + b + 0x2545f4914f6cdd1du;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t key_of(uint64_t sum, uint32_t token_id, uint32_t position) {
    return mix(sum, (uint64_t) position << 32 | token_id);
}
static uint64_t value_of(uint64_t key) { return (key << 17 | key >> 47) ^ 0x5851f42d4c957f2du; }

/* What positions add to the sum that all later ones see: a number of the slot among GROUP, times
 * one of the group.  Products of 32 bits, so that compilers use vectors for them on any x86-64:
 * reading all of a long sequence back at each token is most of the sim's cost. */
#define GROUP 8u /* divides every block size */

static uint64_t slot_share(uint64_t key, uint64_t value, uint32_t slot) {
    uint64_t both = key ^ value;
    return (uint64_t) (uint32_t) both * (2 * slot + 1) + (both >> 32);
}
static uint64_t group_share(uint64_t slots, uint32_t group) {
    return slots * (2 * (uint64_t) group + 1);
}
static uint64_t share_of(uint64_t key, uint64_t value, uint32_t position) {
    return group_share(slot_share(key, value, position % GROUP), position / GROUP);
}

void sim_backend_feed(struct sim_text *text, uint32_t token_id) {
    uint64_t key = key_of(text->sum, token_id, text->position);
    text->sum += share_of(key, value_of(key), text->position);
    text->position++;
}

uint64_t sim_backend_history(uint32_t token_id) { return mix(token_id, 77); }

static bool has_penalty(const struct sampling *s) {
    return s->presence_penalty != 0.0f || s->frequency_penalty != 0.0f ||
           s->repetition_penalty != 1.0f;
}

static bool has_bit(const uint64_t *bits, uint32_t id) { return bits[id / 64] >> (id % 64) & 1; }

static bool is_stop(const struct sampling *s, uint32_t id) {
    for (uint32_t i = 0; i < s->stop_id_count; i++)
        if (s->stop_ids[i] == id) return true;
    return false;
}

static bool is_listed(const struct sampling *s, uint32_t id) {
    for (uint32_t i = 0; i < s->allowed_id_count; i++)
        if (s->allowed_ids[i] == id) return true;
    return s->allowed_id_count == 0;
}

/* `allowed`: the listed ids as bits, NULL: look them up in the list. */
static bool may_draw(const struct sampling *s, const uint64_t *allowed, const uint64_t *mask,
                     uint32_t id) {
    if (mask && !has_bit(mask, id)) return false;
    if (s->allowed_id_count == 0) return true;
    return allowed ? has_bit(allowed, id) : is_listed(s, id);
}

static uint32_t draw(uint64_t sum, const struct sim_draw *how, const uint64_t *allowed,
                     const uint64_t *mask) {
    const struct sampling *s = how->sampling;
    uint64_t chance = mix(sum, 1);
    if (has_penalty(s)) chance = mix(chance, how->history);
    if (s->temperature > 0.0f)
        chance = mix(mix(chance, s->seed), (uint64_t) how->choice_index << 32 | how->output_index);
    uint64_t stop_chance = mix(chance, 2);
    if (how->stop_period && s->stop_id_count && how->output_index >= s->min_tokens &&
        stop_chance % how->stop_period == 0) {
        uint32_t id = s->stop_ids[(stop_chance >> 32) % s->stop_id_count];
        if (may_draw(s, allowed, mask, id)) return id;
    }
    uint32_t id = (uint32_t) (chance % how->vocab_size);
    for (uint32_t tries = 0; tries < how->vocab_size; tries++) {
        if (may_draw(s, allowed, mask, id) && !is_stop(s, id)) return id;
        id = id + 1 < how->vocab_size ? id + 1 : 0;
    }
    return id; /* nothing but stop ids may be drawn */
}

uint32_t sim_backend_draw(const struct sim_text *text, const struct sim_draw *how) {
    return draw(text->sum, how, NULL, NULL);
}

/* Numbers that look like logprobs: they fall from the best on, and depend on the text alone. */
static void fill_logprob(uint64_t sum, uint32_t id, uint32_t rank, uint32_t top_count,
                         uint32_t vocab_size, struct token_logprob *out) {
    float best = -0.05f - (float) (mix(sum, 3) % 100) / 100.0f;
    top_count = (uint32_t) num_min(top_count, vocab_size);
    *out = (struct token_logprob){.token_id = id, .rank = rank, .top_count = top_count};
    out->logprob = best - 0.25f * (float) (rank - 1);
    for (uint32_t i = 0; i < top_count; i++) {
        /* Rank r holds id + (r - rank) around the vocabulary: distinct, the token at its rank. */
        out->top_ids[i] = (uint32_t) (((uint64_t) id + vocab_size + i + 1 - rank) % vocab_size);
        out->top_logprobs[i] = best - 0.25f * (float) i;
    }
}

/* --- open, plan, load ------------------------------------------------------------------------ */

static enum err sim_open(const struct model_spec *spec, const struct backend_options *options,
                         struct err_text *text, struct backend **out) {
    if (options->rank_count != 1)
        return err_set(text, ERR_UNSUPPORTED,
                       "tensor-parallel-size: the sim backend has 1 rank, "
                       "not %u",
                       options->rank_count);
    uint32_t size = options->block_size;
    if (size != 8 && size != 16 && size != 32 && size != 64 && size != 128)
        return err_set(text, ERR_USAGE, "block-size must be 8, 16, 32, 64 or 128, not %u", size);
    if (options->seat_count == 0 || options->batched_tokens_max == 0 || spec->vocab_size == 0)
        return err_set(text, ERR_USAGE,
                       "max-num-seqs, max-num-batched-tokens and the vocabulary must be above 0");
    if (options->sim_in_flight_max > IN_FLIGHT_MAX)
        return err_set(text, ERR_USAGE, "the sim backend runs at most %u batches ahead, not %u",
                       IN_FLIGHT_MAX, options->sim_in_flight_max);
    struct backend *backend = alloc_zero(1, sizeof *backend);
    if (!backend) return err_set(text, ERR_MEMORY, "no memory for the sim backend");
    backend->head.ops = &sim_backend_ops;
    backend->options = *options;
    backend->options.numerics = numerics_resolve(options->numerics, spec->weight_type);
    backend->options.kv_dtype = kv_dtype_resolve(options->kv_dtype, spec->weight_type);
    backend->vocab_size = spec->vocab_size;
    *out = backend;
    return ERR_OK;
}

static uint64_t sim_block_bytes(const struct backend *backend, uint32_t rank) {
    return (uint64_t) backend->options.block_size * SLOT_BYTES;
}

static uint64_t allowed_words(const struct backend *backend) {
    return num_div_up(backend->vocab_size, 64);
}

static void sim_plan(const struct backend *backend, uint32_t rank, struct mem_plan *plan) {
    const struct backend_options *o = &backend->options;
    uint64_t seat_bytes = sizeof(struct seat) + allowed_words(backend) * sizeof(uint64_t);
    mem_plan_add(plan, MEM_ACTIVATIONS, o->seat_count * seat_bytes, "seats");
    mem_plan_add(plan, MEM_ACTIVATIONS, o->seat_count * sizeof(struct result_row), "results");
    mem_plan_add(plan, MEM_ACTIVATIONS, o->batched_tokens_max * sizeof(struct token_logprob),
                 "prompt logprobs");
    mem_plan_add(plan, MEM_WORKSPACE, sim_block_bytes(backend, rank), "block 0");
}

static enum err sim_load(struct backend *backend, const struct model *model, uint32_t block_count,
                         struct mem *const *mems, backend_progress_fn progress, void *progress_ctx,
                         struct err_text *text) {
    const struct backend_options *o = &backend->options;
    uint64_t seats_bytes = o->seat_count * sizeof(struct seat);
    uint64_t allowed_bytes = o->seat_count * allowed_words(backend) * sizeof(uint64_t);
    uint64_t block_bytes = sim_block_bytes(backend, 0);
    void *seats, *allowed, *results, *logprobs, *none, *blocks;
    enum err e = mem_take(mems[0], "seats", seats_bytes, text, &seats);
    if (!e) e = mem_take(mems[0], "seats", allowed_bytes, text, &allowed);
    if (!e)
        e = mem_take(mems[0], "results", o->seat_count * sizeof(struct result_row), text, &results);
    if (!e)
        e = mem_take(mems[0], "prompt logprobs",
                     o->batched_tokens_max * sizeof(struct token_logprob), text, &logprobs);
    if (!e) e = mem_take(mems[0], "block 0", block_bytes, text, &none);
    if (!e) e = mem_take(mems[0], "kv", block_count * block_bytes, text, &blocks);
    if (e) return e;
    backend->seats = seats;
    for (uint32_t i = 0; i < o->seat_count; i++)
        backend->seats[i].allowed = (uint64_t *) allowed + i * allowed_words(backend);
    backend->results = results;
    backend->prompt_logprobs = logprobs;
    backend->none = none;
    backend->blocks = blocks;
    backend->block_count = block_count;
    if (progress) progress(progress_ctx, "nothing to load", 1, 1);
    return ERR_OK;
}

static void sim_close(struct backend *backend) { alloc_free(backend); }

/* --- seats ------------------------------------------------------------------------------------ */

static void check_not_in_flight(const struct backend *backend, uint32_t seat) {
    for (uint32_t f = 0; f < backend->flight_count; f++)
        for (uint32_t i = 0; i < backend->flights[f].batch.row_count; i++)
            CHECK(backend->flights[f].batch.rows[i].seat != seat);
}

static enum err sim_seat_set(struct backend *backend, uint32_t seat_index,
                             const struct seat_setup *setup) {
    CHECK(seat_index < backend->options.seat_count);
    check_not_in_flight(backend, seat_index);
    struct seat *seat = &backend->seats[seat_index];
    const struct sampling *s = setup->sampling;
    CHECK(!seat->is_set && s->stop_id_count <= SAMPLING_STOP_IDS_MAX);
    seat->is_set = true;
    seat->choice_index = setup->choice_index;
    seat->last_id = BACKEND_NO_TOKEN;
    seat->history = 0;
    for (uint32_t i = 0; i < setup->output_count; i++)
        seat->history += sim_backend_history(setup->output_ids[i]);
    seat->sampling = *s;
    if (s->stop_id_count)
        memcpy(seat->stop_ids, s->stop_ids, s->stop_id_count * sizeof *s->stop_ids);
    seat->sampling.stop_ids = seat->stop_ids;
    seat->sampling.allowed_ids = NULL;
    if (s->allowed_id_count)
        memset(seat->allowed, 0, allowed_words(backend) * sizeof *seat->allowed);
    for (uint32_t i = 0; i < s->allowed_id_count; i++)
        seat->allowed[s->allowed_ids[i] / 64] |= (uint64_t) 1 << (s->allowed_ids[i] % 64);
    return ERR_OK;
}

static void sim_seat_clear(struct backend *backend, uint32_t seat) {
    CHECK(seat < backend->options.seat_count && backend->seats[seat].is_set);
    check_not_in_flight(backend, seat);
    backend->seats[seat].is_set = false;
}

/* --- the step ------------------------------------------------------------------------------- */

static uint64_t *block_keys(const struct backend *backend, uint32_t block) {
    CHECK(block <= backend->block_count);
    uint64_t block_bytes = sim_block_bytes(backend, 0);
    uint8_t *at = block ? backend->blocks + (block - 1) * block_bytes : backend->none;
    return (uint64_t *) (void *) at;
}

static void check_row(const struct backend *backend, const struct batch_row *row) {
    CHECK(row->seat < backend->options.seat_count && backend->seats[row->seat].is_set);
    CHECK(row->token_count >= 1 && (row->tokens || row->token_count == 1));
    uint64_t end = (uint64_t) row->first_position + row->token_count;
    CHECK(end <= (uint64_t) row->block_count * backend->options.block_size);
    for (uint32_t i = 0; i < row->block_count; i++)
        CHECK(row->blocks[i] >= 1 && row->blocks[i] <= backend->block_count);
}

static void sim_submit(struct backend *backend, const struct batch *batch) {
    const struct backend_options *o = &backend->options;
    CHECK(backend->flight_count < num_max(1, o->sim_in_flight_max));
    CHECK(batch->row_count >= 1 && batch->row_count <= o->seat_count);
    uint32_t token_count = 0;
    for (uint32_t i = 0; i < batch->row_count; i++) {
        check_row(backend, &batch->rows[i]);
        token_count += batch->rows[i].token_count;
    }
    CHECK(token_count == batch->token_count && token_count <= o->batched_tokens_max);
    uint64_t span_ns = (uint64_t) ((o->sim_step_us + token_count * o->sim_token_us) * 1000.0);
    if (span_ns) backend->due_ns = num_max(clock_now_ns(), backend->due_ns) + span_ns;
    backend->flights[backend->flight_count++] = (struct flight){*batch, backend->due_ns};
}

/* Blocks lie anywhere: without this each one costs a trip to memory. */
static void prefetch_block(const struct backend *backend, uint32_t block) {
    const char *at = (const char *) block_keys(backend, block);
    uint64_t block_bytes = sim_block_bytes(backend, 0);
    for (uint64_t i = 0; i < block_bytes; i += 64) __builtin_prefetch(at + i);
}

#define PREFETCH_BLOCKS 3u

/* The sum over the stored KV of all positions before `position`. */
static uint64_t read_sum(const struct backend *backend, const struct batch_row *row,
                         uint32_t position) {
    uint32_t block_size = backend->options.block_size;
    uint64_t sum = 0;
    for (uint32_t block = 0; block * block_size < position; block++) {
        if (block + PREFETCH_BLOCKS < row->block_count)
            prefetch_block(backend, row->blocks[block + PREFETCH_BLOCKS]);
        const uint64_t *keys = block_keys(backend, row->blocks[block]);
        const uint64_t *values = keys + block_size;
        uint32_t first = block * block_size;
        uint32_t count = (uint32_t) num_min(block_size, position - first), at = 0;
        for (; at + GROUP <= count; at += GROUP) {
            uint64_t slots = 0;
            for (uint32_t i = 0; i < GROUP; i++)
                slots += slot_share(keys[at + i], values[at + i], i);
            sum += group_share(slots, (first + at) / GROUP);
        }
        for (; at < count; at++) sum += share_of(keys[at], values[at], first + at);
    }
    return sum;
}

static void run_row(struct backend *backend, const struct batch_row *row,
                    struct token_logprob *prompt_logprobs, struct result_row *result) {
    uint32_t block_size = backend->options.block_size;
    struct seat *seat = &backend->seats[row->seat];
    const uint32_t *tokens = row->tokens ? row->tokens : &seat->last_id;
    uint32_t prompt_top =
        (uint32_t) (seat->sampling.prompt_logprobs > 0 ? seat->sampling.prompt_logprobs : 0);
    uint64_t sum = read_sum(backend, row, row->first_position);
    *result = (struct result_row){.token_id = BACKEND_NO_TOKEN};
    for (uint32_t t = 0; t < row->token_count; t++) {
        uint32_t position = row->first_position + t;
        CHECK(tokens[t] < backend->vocab_size);
        uint64_t key = key_of(sum, tokens[t], position), value = value_of(key);
        uint64_t *keys = block_keys(backend, row->blocks[position / block_size]);
        keys[position % block_size] = key;
        keys[block_size + position % block_size] = value;
        sum += share_of(key, value, position);
        if (row->wants_prompt_logprobs && row->next_tokens[t] != BACKEND_NO_TOKEN)
            fill_logprob(sum, row->next_tokens[t], 1 + (uint32_t) (mix(sum, 4) % 40), prompt_top,
                         backend->vocab_size, &prompt_logprobs[t]);
    }
    if (row->wants_prompt_logprobs) result->prompt_logprobs = prompt_logprobs;
    if (!row->wants_sample) return;
    struct sim_draw how = {&seat->sampling,
                           seat->choice_index,
                           row->output_index,
                           backend->vocab_size,
                           backend->options.sim_stop_period,
                           seat->history};
    result->token_id = draw(sum, &how, seat->allowed, row->allowed_mask);
    seat->last_id = result->token_id;
    seat->history += sim_backend_history(result->token_id);
    if (seat->sampling.logprobs >= 0)
        fill_logprob(sum, result->token_id, 1, (uint32_t) seat->sampling.logprobs,
                     backend->vocab_size, &result->logprob);
}

static void sleep_until(uint64_t due_ns) {
    struct timespec due = {.tv_sec = (time_t) (due_ns / 1000000000u),
                           .tv_nsec = (long) (due_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR) continue;
}

/* Everything happens here and not in submit, so that a block or an id that the caller changed
 * too early shows. */
static enum err sim_collect(struct backend *backend, const struct result_row **rows) {
    CHECK(backend->flight_count > 0);
    struct flight flight = backend->flights[0];
    if (flight.due_ns) sleep_until(flight.due_ns);
    backend->flights[0] = backend->flights[1];
    backend->flight_count--;
    if (++backend->collect_count == backend->options.sim_fail_batch) return ERR_IO;
    struct token_logprob *prompt_logprobs = backend->prompt_logprobs;
    for (uint32_t i = 0; i < flight.batch.row_count; i++) {
        const struct batch_row *row = &flight.batch.rows[i];
        run_row(backend, row, prompt_logprobs, &backend->results[i]);
        if (row->wants_prompt_logprobs) prompt_logprobs += row->token_count;
    }
    *rows = backend->results;
    return ERR_OK;
}

static uint32_t sim_in_flight_max(const struct backend *backend) {
    return (uint32_t) num_max(1, backend->options.sim_in_flight_max);
}

/* --- KV ------------------------------------------------------------------------------------- */

static void sim_kv_layout(const struct backend *backend, uint32_t rank, struct kv_layout *out) {
    uint64_t block_bytes = sim_block_bytes(backend, rank);
    *out = (struct kv_layout){
        /* Block 0 lies elsewhere and is never sent. */
        .base = (uint8_t *) ((uintptr_t) backend->blocks - block_bytes),
        .block_count = backend->block_count + 1,
        .layer_count = 1,
        .head_count = 1,
        .head_total = 1,
        .block_stride = block_bytes,
        .layer_stride = block_bytes,
        .value_stride = block_bytes / 2,
        .head_stride = block_bytes / 2,
        .head_bytes = block_bytes / 2,
        .block_bytes = block_bytes,
    };
}

static void sim_kv_copy(struct backend *backend, uint32_t from, uint32_t to, uint32_t slot_count) {
    uint32_t block_size = backend->options.block_size;
    CHECK(slot_count <= block_size);
    const uint64_t *source = block_keys(backend, from);
    uint64_t *target = block_keys(backend, to);
    memcpy(target, source, slot_count * sizeof *target);
    memcpy(target + block_size, source + block_size, slot_count * sizeof *target);
}

static uint64_t sim_kv_checksum(const struct backend *backend, uint32_t rank, uint32_t block,
                                uint32_t slot_count) {
    uint32_t block_size = backend->options.block_size;
    CHECK(slot_count <= block_size);
    uint64_t image[2 * 128]; /* [K|V][slot] */
    const uint64_t *keys = block_keys(backend, block);
    memcpy(image, keys, slot_count * sizeof *image);
    memcpy(image + slot_count, keys + block_size, slot_count * sizeof *image);
    return XXH3_64bits(image, 2 * slot_count * sizeof *image);
}

static enum numerics sim_numerics(const struct backend *backend) {
    return backend->options.numerics;
}
static enum kv_dtype sim_kv_dtype(const struct backend *backend) {
    return backend->options.kv_dtype;
}

const struct backend_ops sim_backend_ops = {
    .name = "sim",
    .open = sim_open,
    .plan = sim_plan,
    .block_bytes = sim_block_bytes,
    .load = sim_load,
    .close = sim_close,
    .seat_set = sim_seat_set,
    .seat_clear = sim_seat_clear,
    .submit = sim_submit,
    .collect = sim_collect,
    .in_flight_max = sim_in_flight_max,
    .kv_layout = sim_kv_layout,
    .kv_copy = sim_kv_copy,
    .kv_checksum = sim_kv_checksum,
    .numerics = sim_numerics,
    .kv_dtype = sim_kv_dtype,
};
