/* sim_backend - see sim_backend.h. */
#include "backend/sim/sim_backend.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#include "backend/sim/sim_kv.h"
#include "backend/tensor_parallel.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/num.h"

#define IN_FLIGHT_MAX 2u

struct seat {
    bool is_set;
    uint32_t choice_index;
    uint32_t last_id; /* the one sampled last */
    uint64_t history;
    struct sampling sampling; /* its arrays are the three below */
    uint32_t stop_ids[SAMPLING_STOP_IDS_MAX];
};

struct flight {
    struct batch batch;
    uint64_t due_ns;
};

struct backend {
    struct backend_head head;
    struct backend_options options;
    uint32_t vocab_size;
    struct sim_kv kv;
    struct seat *seats;
    struct result_row *results;
    struct token_logprob *prompt_logprobs;
    struct flight flights[IN_FLIGHT_MAX]; /* oldest first */
    uint32_t flight_count;
    uint64_t due_ns;  /* of the batch submitted last */
    uint64_t work_ns; /* that the batch collected last took to compute */
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
void sim_backend_feed(struct sim_text *text, uint32_t token_id) {
    uint64_t key = key_of(text->sum, token_id, text->position);
    text->sum = sim_kv_add(text->sum, sim_kv_share(key, text->position));
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
    enum err e = tensor_parallel_check(spec, options->rank_count, text);
    if (e) return e;
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
    e = sim_kv_init(&backend->kv, spec->kv_head_count, options->rank_count, size);
    if (e) {
        alloc_free(backend);
        return err_set(text, e, "no memory for the sim backend");
    }
    backend->head.ops = &sim_backend_ops;
    backend->options = *options;
    backend->options.numerics = numerics_resolve(options->numerics, spec->weight_type);
    backend->options.kv_dtype = kv_dtype_resolve(options->kv_dtype, spec->weight_type);
    backend->vocab_size = spec->vocab_size;
    *out = backend;
    return ERR_OK;
}

static uint64_t sim_block_bytes(const struct backend *backend, uint32_t rank) {
    CHECK(rank < backend->kv.rank_count);
    return sim_kv_block_bytes(&backend->kv);
}

static uint64_t allowed_words(const struct backend *backend) {
    return num_div_up(backend->vocab_size, 64);
}

static uint64_t seats_bytes(const struct backend *backend) {
    uint64_t each = sizeof(struct seat) + allowed_words(backend) * sizeof(uint64_t);
    return backend->options.seat_count * each;
}

/* Seats and results stand on rank 0. */
static void sim_plan(const struct backend *backend, uint32_t rank, struct mem_plan *plan) {
    const struct backend_options *o = &backend->options;
    mem_plan_add(plan, MEM_WORKSPACE, sim_block_bytes(backend, rank), "block 0");
    if (rank != 0) return;
    mem_plan_add(plan, MEM_ACTIVATIONS, seats_bytes(backend), "seats");
    mem_plan_add(plan, MEM_ACTIVATIONS, o->seat_count * sizeof(struct result_row), "results");
    mem_plan_add(plan, MEM_ACTIVATIONS, o->batched_tokens_max * sizeof(struct token_logprob),
                 "prompt logprobs");
}

/* Thousands of workers share a machine: pages of 4 KiB, touched as they are used.  Without the
 * advice (an old kernel) it only costs more. */
static void keep_small(void *base, uint64_t bytes) { (void) madvise(base, bytes, MADV_NOHUGEPAGE); }

static enum err take(struct mem *mem, const char *stage, const char *reason, uint64_t bytes,
                     struct err_text *text, void **out) {
    enum err e = mem_take(mem, reason, bytes, text, out);
    if (e) err_prefix(text, "stage %s", stage);
    else keep_small(*out, bytes);
    return e;
}

/* In the order of sim_plan, KV last. */
static enum err sim_load(struct backend *backend, const struct model *model, uint32_t block_count,
                         struct mem *const *mems, backend_progress_fn progress, void *progress_ctx,
                         struct err_text *text) {
    const struct backend_options *o = &backend->options;
    const char *stage = "buffers";
    void *none, *seats, *results, *logprobs; /* none: planned as on every body, never touched */
    enum err e = take(mems[0], stage, "block 0", sim_block_bytes(backend, 0), text, &none);
    if (!e) e = take(mems[0], stage, "seats", seats_bytes(backend), text, &seats);
    if (!e)
        e = take(mems[0], stage, "results", o->seat_count * sizeof(struct result_row), text,
                 &results);
    if (!e)
        e = take(mems[0], stage, "prompt logprobs",
                 o->batched_tokens_max * sizeof(struct token_logprob), text, &logprobs);
    for (uint32_t rank = 1; !e && rank < backend->kv.rank_count; rank++)
        e = take(mems[rank], stage, "block 0", sim_block_bytes(backend, rank), text, &none);
    for (uint32_t rank = 0; !e && rank < backend->kv.rank_count; rank++) {
        void *blocks;
        e = take(mems[rank], "kv", "kv", block_count * sim_block_bytes(backend, rank), text,
                 &blocks);
        if (!e) sim_kv_place(&backend->kv, rank, blocks);
    }
    if (e) return e;
    backend->seats = seats;
    backend->results = results;
    backend->prompt_logprobs = logprobs;
    backend->kv.block_count = block_count;
    if (progress && !progress(progress_ctx, "nothing to load", 1, 1)) return ERR_CANCELLED;
    return ERR_OK;
}

static void sim_close(struct backend *backend) {
    if (backend) sim_kv_release(&backend->kv);
    alloc_free(backend);
}

/* --- seats ------------------------------------------------------------------------------------ */

/* A seat's vocabulary bits, used when allowed_id_count > 0; behind all seats. */
static uint64_t *allowed_of(const struct backend *backend, uint32_t seat) {
    return (uint64_t *) (void *) &backend->seats[backend->options.seat_count] +
           seat * allowed_words(backend);
}

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
    uint64_t *allowed = allowed_of(backend, seat_index);
    if (s->allowed_id_count) memset(allowed, 0, allowed_words(backend) * sizeof *allowed);
    for (uint32_t i = 0; i < s->allowed_id_count; i++)
        allowed[s->allowed_ids[i] / 64] |= (uint64_t) 1 << (s->allowed_ids[i] % 64);
    return ERR_OK;
}

static void sim_seat_clear(struct backend *backend, uint32_t seat) {
    CHECK(seat < backend->options.seat_count && backend->seats[seat].is_set);
    check_not_in_flight(backend, seat);
    backend->seats[seat].is_set = false;
}

/* --- the step ------------------------------------------------------------------------------- */

static void check_row(const struct backend *backend, const struct batch_row *row) {
    CHECK(row->seat < backend->options.seat_count && backend->seats[row->seat].is_set);
    CHECK(row->token_count >= 1 && (row->tokens || row->token_count == 1));
    uint64_t end = (uint64_t) row->first_position + row->token_count;
    CHECK(end <= (uint64_t) row->block_count * backend->options.block_size);
    for (uint32_t i = 0; i < row->block_count; i++)
        CHECK(row->blocks[i] >= 1 && row->blocks[i] <= backend->kv.block_count);
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
    uint64_t step_ns = (uint64_t) (o->sim_step_us * 1000.0);
    if (span_ns) backend->due_ns = num_max(clock_now_ns(), backend->due_ns) + span_ns;
    /* The first multiple of a step past the submit and the tokens' time. */
    if (o->sim_is_on_grid && step_ns) backend->due_ns -= backend->due_ns % step_ns;
    backend->flights[backend->flight_count++] = (struct flight){*batch, backend->due_ns};
}

static void run_row(struct backend *backend, const struct batch_row *row,
                    struct token_logprob *prompt_logprobs, struct result_row *result) {
    const struct sim_kv *kv = &backend->kv;
    struct seat *seat = &backend->seats[row->seat];
    const uint32_t *tokens = row->tokens ? row->tokens : &seat->last_id;
    uint32_t prompt_top =
        (uint32_t) (seat->sampling.prompt_logprobs > 0 ? seat->sampling.prompt_logprobs : 0);
    uint64_t sum = sim_kv_sum(kv, row->blocks, row->block_count, row->first_position);
    *result = (struct result_row){.token_id = BACKEND_NO_TOKEN};
    for (uint32_t t = 0; t < row->token_count; t++) {
        uint32_t position = row->first_position + t;
        CHECK(tokens[t] < backend->vocab_size);
        uint64_t key = key_of(sum, tokens[t], position);
        sim_kv_write(kv, row->blocks, position, key);
        sum = sim_kv_add(sum, sim_kv_share(key, position));
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
    result->token_id = draw(sum, &how, allowed_of(backend, row->seat), row->allowed_mask);
    seat->last_id = result->token_id;
    seat->history += sim_backend_history(result->token_id);
    if (seat->sampling.logprobs >= 0)
        fill_logprob(sum, result->token_id, 1, (uint32_t) seat->sampling.logprobs,
                     backend->vocab_size, &result->logprob);
}

/* As punctual as a device: by default the kernel lets sleepers be 50 us late. */
static void sleep_until(uint64_t due_ns) {
    static _Thread_local bool is_punctual;
    if (!is_punctual) is_punctual = prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0) == 0;
    struct timespec due = {.tv_sec = (time_t) (due_ns / 1000000000u),
                           .tv_nsec = (long) (due_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR) continue;
}

/* Everything happens here and not in submit, so that a block or an id that the caller changed
 * too early shows; and just before the step ends: then the results are there, and who was busy with
 * the step before had the processor for himself. */
static enum err sim_collect(struct backend *backend, const struct result_row **rows) {
    CHECK(backend->flight_count > 0);
    struct flight flight = backend->flights[0];
    if (flight.due_ns > 2 * backend->work_ns) sleep_until(flight.due_ns - 2 * backend->work_ns);
    uint64_t begun_ns = flight.due_ns ? clock_now_ns() : 0;
    backend->flights[0] = backend->flights[1];
    backend->flight_count--;
    uint64_t fail_batch = backend->options.sim_fail_batch; /* gone is gone: all after it, too */
    if (++backend->collect_count >= fail_batch && fail_batch) return ERR_IO;
    struct token_logprob *prompt_logprobs = backend->prompt_logprobs;
    for (uint32_t i = 0; i < flight.batch.row_count; i++) {
        const struct batch_row *row = &flight.batch.rows[i];
        run_row(backend, row, prompt_logprobs, &backend->results[i]);
        if (row->wants_prompt_logprobs) prompt_logprobs += row->token_count;
    }
    *rows = backend->results;
    if (flight.due_ns) {
        backend->work_ns = clock_now_ns() - begun_ns;
        sleep_until(flight.due_ns);
    }
    return ERR_OK;
}

static uint32_t sim_in_flight_max(const struct backend *backend) {
    return (uint32_t) num_max(1, backend->options.sim_in_flight_max);
}

/* --- the table ------------------------------------------------------------------------------ */

static void sim_layout(const struct backend *backend, uint32_t rank, struct kv_layout *out) {
    CHECK(rank < backend->kv.rank_count);
    sim_kv_layout(&backend->kv, rank, out);
}

static void sim_copy(struct backend *backend, uint32_t from, uint32_t to, uint32_t slot_count) {
    sim_kv_copy(&backend->kv, from, to, slot_count);
}

static uint64_t sim_checksum(const struct backend *backend, uint32_t rank, uint32_t block,
                             uint32_t slot_count) {
    CHECK(rank < backend->kv.rank_count);
    return sim_kv_checksum(&backend->kv, rank, block, slot_count);
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
    .kv_layout = sim_layout,
    .kv_copy = sim_copy,
    .kv_checksum = sim_checksum,
    .numerics = sim_numerics,
    .kv_dtype = sim_kv_dtype,
};
