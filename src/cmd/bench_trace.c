/* bench_trace - see bench_trace.h. */
#include "cmd/bench_trace.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"

#define CONVERSATIONS 8192u /* that may be gone back to */
#define BEGINNINGS 256u     /* system prompts, tools, shared documents */

struct conversation {
    uint32_t block_count;
    uint64_t hashes[BENCH_TRACE_BLOCKS_MAX];
};

struct bench_trace {
    uint64_t state;
    uint64_t block_last;         /* fresh blocks so far */
    struct conversation *recent; /* a ring, owned */
    uint32_t next, count;
};

uint64_t bench_trace_mix(uint64_t x) {
    x = (x + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static double draw(struct bench_trace *trace) {
    trace->state++;
    return (double) (bench_trace_mix(trace->state) >> 11) * 0x1p-53;
}

/* 0 .. n - 1, each with a chance ~ 1 / (i + 1) */
static uint32_t draw_power(struct bench_trace *trace, uint32_t n) {
    uint32_t i = (uint32_t) exp(draw(trace) * log((double) n + 1)) - 1;
    return i < n ? i : n - 1;
}

/* Log-normal with this median; at least 1. */
static uint32_t draw_length(struct bench_trace *trace, double median, double sigma) {
    double normal = sqrt(-2 * log(draw(trace) + 1e-18)) * cos(6.283185307179586 * draw(trace));
    double length = median * exp(sigma * normal);
    return length < 1 ? 1 : length > 1e6 ? 1000000 : (uint32_t) length;
}

enum err bench_trace_create(uint64_t seed, struct bench_trace **out) {
    struct bench_trace *trace = alloc_zero(1, sizeof *trace);
    if (!trace) return ERR_MEMORY;
    trace->state = bench_trace_mix(seed);
    trace->recent = alloc_array(CONVERSATIONS, sizeof *trace->recent);
    if (!trace->recent) {
        alloc_free(trace);
        return ERR_MEMORY;
    }
    *out = trace;
    return ERR_OK;
}

void bench_trace_destroy(struct bench_trace *trace) {
    if (!trace) return;
    alloc_free(trace->recent);
    alloc_free(trace);
}

static void append(struct conversation *conversation, uint64_t name) {
    uint32_t at = conversation->block_count;
    if (at == BENCH_TRACE_BLOCKS_MAX) return;
    uint64_t parent = at ? conversation->hashes[at - 1] : 0;
    conversation->hashes[at] = bench_trace_mix(parent ^ bench_trace_mix(name));
    conversation->block_count++;
}

const uint64_t *bench_trace_next(struct bench_trace *trace, uint32_t *block_count) {
    struct conversation *to = &trace->recent[trace->next];
    bool goes_on = trace->count && draw(trace) < 0.6;
    if (goes_on) {
        uint32_t back = 1 + draw_power(trace, trace->count);
        uint32_t from = (trace->next + CONVERSATIONS - back) % CONVERSATIONS;
        if (from != trace->next) memcpy(to, &trace->recent[from], sizeof *to);
    }
    if (!goes_on || to->block_count > BENCH_TRACE_BLOCKS_MAX - 8) {
        to->block_count = 0;
        uint32_t beginning = draw_power(trace, BEGINNINGS);
        append(to, 0); /* one system prompt for all */
        uint32_t shared = 1 + (uint32_t) (bench_trace_mix(beginning) % 6);
        for (uint32_t i = 1; i < shared; i++) append(to, 1 + beginning);
    }
    uint32_t fresh = draw_length(trace, goes_on ? 3.5 : 7, 1.0);
    for (uint32_t i = 0; i < fresh; i++) append(to, 1000 + ++trace->block_last);
    trace->next = (trace->next + 1) % CONVERSATIONS;
    if (trace->count < CONVERSATIONS) trace->count++;
    *block_count = to->block_count;
    return to->hashes;
}
