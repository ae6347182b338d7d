/* cpu_sample - see cpu_sample.h.
 *
 * Logits are changed in a copy, as logprobs are of the raw ones.
 *
 * Filters never sort the vocabulary.  Each of min_p, top_k, top_p comes to one cut (cpu_scan.h):
 * tokens are counted into bins by their distance from the maximum, the bin in which the filter
 * ends is gathered and sorted alone, and the cut is read off.  Sums are integers, so the cut is
 * exactly that of a full sort. */
#include "backend/cpu/cpu_sample.h"

#include <math.h>
#include <string.h>

#include "base/num.h"

#define HISTORY_IDS SAMPLING_BAD_WORD_IDS_MAX /* no bad word is longer; a power of two */
/* Below it a temperature counts as greedy: logit / T would leave f32. */
#define TEMPERATURE_MIN 1e-5f

struct penalty {
    uint32_t token_id;
    uint32_t output_count : 31;
    uint32_t is_in_prompt : 1;
};

struct cpu_seat {
    struct sampling sampling; /* its arrays are the ones below */
    uint32_t vocab_size;
    uint32_t choice_index;
    uint32_t last_token;
    uint32_t history_count; /* generated tokens; the last HISTORY_IDS of them are kept */
    uint32_t penalty_count;
    uint32_t penalty_room;
    uint32_t slot_mask;
    bool is_set;
    bool has_allowed;
    struct sampling_bias bias[SAMPLING_LOGIT_BIAS_MAX];
    uint32_t stop_ids[SAMPLING_STOP_IDS_MAX];
    uint32_t bad_ids[SAMPLING_BAD_WORD_IDS_MAX];
    uint32_t bad_lengths[SAMPLING_BAD_WORDS_MAX];
    uint32_t history[HISTORY_IDS];
    uint64_t *allowed;         /* vocab bits */
    struct penalty *penalties; /* (penalty_room), in order of appearance */
    uint32_t *penalty_slots;   /* hash table: index into penalties + 1; 0: free */
};

/* --- layout ------------------------------------------------------------------------------- */

static uint64_t allowed_bytes(uint32_t vocab_size) {
    return num_div_up(vocab_size, 64) * sizeof(uint64_t);
}

/* Distinct tokens of one sequence. */
static uint32_t distinct_max(uint32_t vocab_size, uint32_t model_len_max) {
    return (uint32_t) num_min(vocab_size, (uint64_t) model_len_max + 1);
}

static uint32_t slot_count(uint32_t distinct) { /* at most 2/3 full */
    uint32_t count = 16;
    while (count < UINT32_MAX / 2 && (uint64_t) count * 2 < (uint64_t) distinct * 3) count *= 2;
    return count;
}

uint64_t cpu_sample_seat_bytes(uint32_t vocab_size, uint32_t model_len_max) {
    uint32_t distinct = distinct_max(vocab_size, model_len_max);
    uint64_t bytes = num_round_up(sizeof(struct cpu_seat), 64);
    bytes += num_round_up(allowed_bytes(vocab_size), 64);
    bytes += num_round_up((uint64_t) distinct * sizeof(struct penalty), 64);
    return bytes + num_round_up((uint64_t) slot_count(distinct) * sizeof(uint32_t), 64);
}

void cpu_sample_seat_init(struct cpu_seat *seat, uint32_t vocab_size, uint32_t model_len_max) {
    uint32_t distinct = distinct_max(vocab_size, model_len_max);
    uint8_t *at = (uint8_t *) seat + num_round_up(sizeof *seat, 64);
    seat->vocab_size = vocab_size;
    seat->allowed = (uint64_t *) (void *) at;
    at += num_round_up(allowed_bytes(vocab_size), 64);
    seat->penalties = (struct penalty *) (void *) at;
    at += num_round_up((uint64_t) distinct * sizeof(struct penalty), 64);
    seat->penalty_slots = (uint32_t *) (void *) at;
    seat->penalty_room = distinct;
    seat->slot_mask = slot_count(distinct) - 1;
}

/* --- the seat ----------------------------------------------------------------------------- */

static bool has_penalties(const struct sampling *sampling) {
    return sampling->presence_penalty != 0 || sampling->frequency_penalty != 0 ||
           sampling->repetition_penalty != 1;
}

static struct penalty *penalty_of(struct cpu_seat *seat, uint32_t token_id) {
    uint32_t at = (token_id * 2654435761u >> 7) & seat->slot_mask; /* Knuth's multiplier */
    for (;; at = (at + 1) & seat->slot_mask) {
        uint32_t index = seat->penalty_slots[at];
        if (!index) break;
        if (seat->penalties[index - 1].token_id == token_id) return &seat->penalties[index - 1];
    }
    CHECK(seat->penalty_count < seat->penalty_room);
    struct penalty *penalty = &seat->penalties[seat->penalty_count++];
    *penalty = (struct penalty){.token_id = token_id};
    seat->penalty_slots[at] = seat->penalty_count;
    return penalty;
}

void cpu_sample_seat_clear(struct cpu_seat *seat) {
    if (seat->penalty_count)
        memset(seat->penalty_slots, 0, ((uint64_t) seat->slot_mask + 1) * sizeof(uint32_t));
    if (seat->has_allowed) memset(seat->allowed, 0, allowed_bytes(seat->vocab_size));
    seat->penalty_count = 0;
    seat->history_count = 0;
    seat->has_allowed = false;
    seat->is_set = false;
}

static bool ids_fit(const uint32_t *ids, uint32_t count, uint32_t vocab_size) {
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] >= vocab_size) return false;
    return true;
}

static enum err setup_check(const struct cpu_seat *seat, const struct seat_setup *setup) {
    const struct sampling *sampling = setup->sampling;
    uint64_t bad_id_count = 0;
    if (sampling->bad_word_count > SAMPLING_BAD_WORDS_MAX) return ERR_LIMIT;
    for (uint32_t i = 0; i < sampling->bad_word_count; i++)
        bad_id_count += sampling->bad_word_lengths[i];
    if (sampling->stop_id_count > SAMPLING_STOP_IDS_MAX ||
        sampling->logit_bias_count > SAMPLING_LOGIT_BIAS_MAX ||
        bad_id_count > SAMPLING_BAD_WORD_IDS_MAX)
        return ERR_LIMIT;
    bool fits = ids_fit(setup->prompt_ids, setup->prompt_count, seat->vocab_size) &&
                ids_fit(setup->output_ids, setup->output_count, seat->vocab_size) &&
                ids_fit(sampling->stop_ids, sampling->stop_id_count, seat->vocab_size) &&
                ids_fit(sampling->allowed_ids, sampling->allowed_id_count, seat->vocab_size) &&
                ids_fit(sampling->bad_word_ids, (uint32_t) bad_id_count, seat->vocab_size);
    for (uint32_t i = 0; i < sampling->logit_bias_count; i++)
        fits &= sampling->logit_bias[i].token_id < seat->vocab_size;
    return fits ? ERR_OK : ERR_USAGE;
}

static void copy_ids(uint32_t *to, const uint32_t *from, uint64_t count) {
    if (count) memcpy(to, from, count * sizeof *to);
}

enum err cpu_sample_seat_set(struct cpu_seat *seat, const struct seat_setup *setup) {
    cpu_sample_seat_clear(seat);
    enum err e = setup_check(seat, setup);
    if (e) return e;
    const struct sampling *from = setup->sampling;
    struct sampling *to = &seat->sampling;
    *to = *from;
    uint32_t bad_id_count = 0;
    for (uint32_t i = 0; i < from->bad_word_count; i++) bad_id_count += from->bad_word_lengths[i];
    copy_ids(seat->stop_ids, from->stop_ids, from->stop_id_count);
    copy_ids(seat->bad_ids, from->bad_word_ids, bad_id_count);
    copy_ids(seat->bad_lengths, from->bad_word_lengths, from->bad_word_count);
    if (from->logit_bias_count)
        memcpy(seat->bias, from->logit_bias, from->logit_bias_count * sizeof *seat->bias);
    for (uint32_t i = 0; i < from->allowed_id_count; i++)
        seat->allowed[from->allowed_ids[i] / 64] |= (uint64_t) 1 << from->allowed_ids[i] % 64;
    seat->has_allowed = from->allowed_id_count > 0;
    to->stop_ids = seat->stop_ids;
    to->bad_word_ids = seat->bad_ids;
    to->bad_word_lengths = seat->bad_lengths;
    to->logit_bias = seat->bias;
    to->allowed_ids = NULL;
    seat->choice_index = setup->choice_index;
    seat->last_token = setup->prompt_count ? setup->prompt_ids[setup->prompt_count - 1] : 0;
    if (to->repetition_penalty != 1)
        for (uint32_t i = 0; i < setup->prompt_count; i++)
            penalty_of(seat, setup->prompt_ids[i])->is_in_prompt = 1;
    seat->is_set = true;
    for (uint32_t i = 0; i < setup->output_count; i++)
        cpu_sample_seat_take(seat, setup->output_ids[i]);
    return ERR_OK;
}

uint32_t cpu_sample_seat_last(const struct cpu_seat *seat) {
    CHECK(seat->is_set);
    return seat->last_token;
}

uint32_t cpu_sample_prompt_top(const struct cpu_seat *seat) {
    return seat->sampling.prompt_logprobs > 0 ? (uint32_t) seat->sampling.prompt_logprobs : 0;
}

void cpu_sample_seat_take(struct cpu_seat *seat, uint32_t token_id) {
    seat->last_token = token_id;
    seat->history[seat->history_count++ % HISTORY_IDS] = token_id;
    if (has_penalties(&seat->sampling)) penalty_of(seat, token_id)->output_count++;
}

/* --- what changes the logits -------------------------------------------------------------- */

static bool forbids_stop(const struct cpu_seat *seat, const struct batch_row *row) {
    return row->output_index < seat->sampling.min_tokens && seat->sampling.stop_id_count;
}

static bool changes_logits(const struct cpu_seat *seat, const struct batch_row *row) {
    const struct sampling *sampling = &seat->sampling;
    return sampling->logit_bias_count || seat->has_allowed || row->allowed_mask ||
           sampling->bad_word_count || forbids_stop(seat, row) || has_penalties(sampling);
}

bool cpu_sample_seat_is_random(const struct cpu_seat *seat) {
    return seat->sampling.temperature >= TEMPERATURE_MIN;
}

static void keep_only(const uint64_t *mask, uint32_t vocab_size, float *logits) {
    for (uint32_t i = 0; i < vocab_size; i += 64) {
        uint64_t barred = ~mask[i / 64];
        if (vocab_size - i < 64) barred &= UINT64_MAX >> (64 - (vocab_size - i));
        for (; barred; barred &= barred - 1) logits[i + __builtin_ctzll(barred)] = -INFINITY;
    }
}

/* A bad word whose beginning was generated last must not be finished. */
static void bar_bad_words(const struct cpu_seat *seat, float *logits) {
    const uint32_t *word = seat->bad_ids;
    for (uint32_t i = 0; i < seat->sampling.bad_word_count; i++) {
        uint32_t length = seat->bad_lengths[i];
        bool is_begun = length > 0 && seat->history_count >= length - 1;
        for (uint32_t k = 0; is_begun && k + 1 < length; k++)
            is_begun =
                seat->history[(seat->history_count - (length - 1) + k) % HISTORY_IDS] == word[k];
        if (is_begun) logits[word[length - 1]] = -INFINITY;
        word += length;
    }
}

static void change_logits(const struct cpu_seat *seat, const struct batch_row *row, float *logits) {
    const struct sampling *sampling = &seat->sampling;
    for (uint32_t i = 0; i < sampling->logit_bias_count; i++)
        logits[seat->bias[i].token_id] += seat->bias[i].bias;
    if (seat->has_allowed) keep_only(seat->allowed, seat->vocab_size, logits);
    if (row->allowed_mask) keep_only(row->allowed_mask, seat->vocab_size, logits);
    bar_bad_words(seat, logits);
    if (forbids_stop(seat, row))
        for (uint32_t i = 0; i < sampling->stop_id_count; i++)
            logits[seat->stop_ids[i]] = -INFINITY;
    if (!has_penalties(sampling)) return;
    for (uint32_t i = 0; i < seat->penalty_count; i++) {
        const struct penalty *penalty = &seat->penalties[i];
        float logit = logits[penalty->token_id];
        logit =
            logit > 0 ? logit / sampling->repetition_penalty : logit * sampling->repetition_penalty;
        logit -= sampling->frequency_penalty * (float) penalty->output_count;
        if (penalty->output_count) logit -= sampling->presence_penalty;
        logits[penalty->token_id] = logit;
    }
}

/* --- cuts --------------------------------------------------------------------------------- */

struct scratch {
    float *logits;     /* (vocab) changed and divided */
    uint64_t *keys;    /* (vocab) */
    uint64_t *weights; /* (CPU_SCAN_BINS) */
    uint32_t *counts;  /* (CPU_SCAN_BINS) */
};

uint64_t cpu_sample_scratch_bytes(uint32_t vocab_size) {
    return num_round_up((uint64_t) vocab_size * sizeof(float), 64) +
           num_round_up((uint64_t) vocab_size * sizeof(uint64_t), 64) +
           CPU_SCAN_BINS * (sizeof(uint64_t) + sizeof(uint32_t));
}

static struct scratch scratch_of(uint8_t *memory, uint32_t vocab_size) {
    struct scratch scratch;
    scratch.logits = (float *) (void *) memory;
    memory += num_round_up((uint64_t) vocab_size * sizeof(float), 64);
    scratch.keys = (uint64_t *) (void *) memory;
    memory += num_round_up((uint64_t) vocab_size * sizeof(uint64_t), 64);
    scratch.weights = (uint64_t *) (void *) memory;
    memory += CPU_SCAN_BINS * sizeof(uint64_t);
    scratch.counts = (uint32_t *) (void *) memory;
    return scratch;
}

/* Heapsort: in place, and n log n on any input (all logits may be equal). */
static void sort_keys(uint64_t *keys, uint32_t count) {
    uint32_t end = count, root = count / 2;
    while (end > 1) {
        uint64_t key;
        if (root > 0) {
            key = keys[--root];
        } else {
            key = keys[--end];
            keys[end] = keys[0];
        }
        uint32_t at = root;
        for (;;) {
            uint64_t child = 2 * (uint64_t) at + 1;
            if (child >= end) break;
            if (child + 1 < end && keys[child] < keys[child + 1]) child++;
            if (keys[child] <= key) break;
            keys[at] = keys[child];
            at = (uint32_t) child;
        }
        keys[at] = key;
    }
}

/* The cut behind the k-th token of those within `cut`. */
static struct cpu_scan_cut cut_count(const struct cpu_scan_ops *scan, const float *x,
                                     uint32_t vocab_size, float max, struct cpu_scan_cut cut,
                                     uint32_t k, const struct scratch *scratch) {
    memset(scratch->counts, 0, CPU_SCAN_BINS * sizeof *scratch->counts);
    scan->bins(x, vocab_size, max, cut, scratch->counts, NULL);
    uint32_t bin = 0, passed = 0;
    while (bin < CPU_SCAN_BINS && passed + scratch->counts[bin] < k)
        passed += scratch->counts[bin++];
    if (bin == CPU_SCAN_BINS) return cut;
    uint32_t count = scan->gather(x, vocab_size, max, cut, bin, scratch->keys);
    sort_keys(scratch->keys, count);
    return cpu_scan_cut_of(scratch->keys[k - passed - 1]);
}

/* The cut behind the first token at which the sum of weights reaches top_p of the whole. */
static struct cpu_scan_cut cut_weight(const struct cpu_scan_ops *scan, const float *x,
                                      uint32_t vocab_size, float max, struct cpu_scan_cut cut,
                                      float top_p, const struct scratch *scratch) {
    memset(scratch->counts, 0, CPU_SCAN_BINS * sizeof *scratch->counts);
    memset(scratch->weights, 0, CPU_SCAN_BINS * sizeof *scratch->weights);
    scan->bins(x, vocab_size, max, cut, scratch->counts, scratch->weights);
    uint64_t total = 0;
    for (uint32_t i = 0; i < CPU_SCAN_BINS; i++) total += scratch->weights[i];
    /* top_p in 2^-40, as the weights are. */
    uint64_t share = (uint64_t) ((double) top_p * 0x1p40);
    uint64_t wanted = (uint64_t) ((unsigned __int128) total * share >> 40);
    uint32_t bin = 0;
    uint64_t passed = 0;
    while (bin < CPU_SCAN_BINS && passed + scratch->weights[bin] < wanted)
        passed += scratch->weights[bin++];
    if (bin == CPU_SCAN_BINS) return cut;
    uint32_t count = scan->gather(x, vocab_size, max, cut, bin, scratch->keys);
    if (count == 0) return cut; /* wanted is 0 and the bin is empty: cannot be, bin 0 holds max */
    sort_keys(scratch->keys, count);
    for (uint32_t i = 0; i < count; i++) {
        struct cpu_scan_cut last = cpu_scan_cut_of(scratch->keys[i]);
        passed += (uint64_t) (int64_t) (scan->exp_sum(&last.value, 0, 1, max) * 0x1p40f);
        if (passed >= wanted) return last;
    }
    return cpu_scan_cut_of(scratch->keys[count - 1]);
}

/* The filters in their order. */
static struct cpu_scan_cut filter(const struct cpu_scan_ops *scan, const struct cpu_seat *seat,
                                  const float *x, float max, const struct scratch *scratch) {
    const struct sampling *sampling = &seat->sampling;
    uint32_t vocab_size = seat->vocab_size;
    struct cpu_scan_cut cut = {.value = -INFINITY, .id = UINT32_MAX};
    if (sampling->min_p > 0) cut.value = max + scan->log(sampling->min_p);
    if (sampling->top_k > 0 && (uint32_t) sampling->top_k < vocab_size)
        cut = cut_count(scan, x, vocab_size, max, cut, (uint32_t) sampling->top_k, scratch);
    if (sampling->top_p < 1)
        cut = cut_weight(scan, x, vocab_size, max, cut, sampling->top_p, scratch);
    return cut;
}

void cpu_sample_begin(const struct cpu_scan_ops *scan, const struct cpu_seat *seat,
                      const struct batch_row *row, const float *logits, struct cpu_scan_top top,
                      uint8_t *memory, struct cpu_sample_draw *draw, struct result_row *out) {
    CHECK(seat->is_set);
    *draw = (struct cpu_sample_draw){.x = logits, .best = top, .raw_max = top.value};
    if (!top.is_finite) {
        out->error = ERR_FORMAT;
        return;
    }
    const struct sampling *sampling = &seat->sampling;
    struct scratch scratch = scratch_of(memory, seat->vocab_size);
    if (changes_logits(seat, row)) {
        memcpy(scratch.logits, logits, seat->vocab_size * sizeof *logits);
        change_logits(seat, row, scratch.logits);
        draw->x = scratch.logits;
        draw->best = scan->top(scratch.logits, 0, seat->vocab_size);
        if (draw->best.value == -INFINITY) { /* every token is forbidden */
            out->error = ERR_USAGE;
            return;
        }
    }
    if (!cpu_sample_seat_is_random(seat)) return;
    float max = draw->best.value;
    if (sampling->temperature != 1) {
        scan->divide(draw->x, seat->vocab_size, sampling->temperature, scratch.logits);
        draw->x = scratch.logits;
        max /= sampling->temperature;
    }
    draw->cut = filter(scan, seat, draw->x, max, &scratch);
    draw->how = (struct cpu_scan_draw){sampling->seed, seat->choice_index, row->output_index};
    draw->best = (struct cpu_scan_top){.value = -INFINITY, .id = UINT32_MAX};
    draw->is_open = true;
}

void cpu_sample_end(const struct cpu_scan_ops *scan, struct cpu_seat *seat, const float *logits,
                    const struct cpu_sample_draw *draw, struct result_row *out) {
    if (out->error) return;
    out->token_id = draw->best.id;
    if (seat->sampling.logprobs >= 0)
        cpu_sample_logprob(scan, logits, seat->vocab_size, draw->raw_max, draw->best.id,
                           (uint32_t) seat->sampling.logprobs, &out->logprob);
    cpu_sample_seat_take(seat, draw->best.id);
}

void cpu_sample_row(const struct cpu_scan_ops *scan, struct cpu_seat *seat,
                    const struct batch_row *row, const float *logits, struct cpu_scan_top top,
                    uint8_t *memory, struct result_row *out) {
    struct cpu_sample_draw draw;
    cpu_sample_begin(scan, seat, row, logits, top, memory, &draw, out);
    if (draw.is_open)
        draw.best = scan->draw(draw.x, 0, seat->vocab_size, draw.cut, draw.how, draw.best);
    cpu_sample_end(scan, seat, logits, &draw, out);
}

void cpu_sample_logprob(const struct cpu_scan_ops *scan, const float *logits, uint32_t vocab_size,
                        float max, uint32_t token_id, uint32_t top_count,
                        struct token_logprob *out) {
    float sum = 0;
    for (uint32_t first = 0; first < vocab_size; first += CPU_SCAN_PIECE)
        sum += scan->exp_sum(
            logits, first, (uint32_t) num_min((uint64_t) first + CPU_SCAN_PIECE, vocab_size), max);
    float log_sum = scan->log(sum);
    out->token_id = token_id;
    out->logprob = (logits[token_id] - max) - log_sum;
    out->rank = 1 + scan->before(logits, vocab_size, logits[token_id], token_id);
    out->top_count = (uint32_t) num_min(num_min(top_count, SAMPLING_TOP_LOGPROBS_MAX), vocab_size);
    float values[SAMPLING_TOP_LOGPROBS_MAX];
    if (out->top_count) scan->best(logits, vocab_size, out->top_count, out->top_ids, values);
    for (uint32_t i = 0; i < out->top_count; i++)
        out->top_logprobs[i] = (values[i] - max) - log_sum;
}
