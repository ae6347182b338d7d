/* cmd_rates - see cmd_rates.h. */
#include "cmd/cmd_rates.h"

#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/cpu_matmul.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/team.h"

#define READ_BYTES (256u << 20) /* past the caches of most machines */
#define STREAMS 4               /* one a thread leaves memory banks idle */
#define OUTPUTS 2048u
#define COLUMNS 2048u
#define ROWS 128u               /* of a prompt's chunk */
#define ROUND_COUNT 24          /* short, many, the best: other work comes and goes */
#define ROUND_NS_MAX 400000000u /* of each kind, in all */

struct rates {
    enum cpu_body body;
    struct cpu_matrix matrix;
    struct cpu_activations activations;
    const uint8_t *data;
    float *out;
    uint64_t sums[TEAM_THREADS_MAX]; /* kept, so that the reads are not optimised away */
};

static void read_share(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct rates *rates = ctx;
    uint64_t words = READ_BYTES / 8 / thread_count / STREAMS & ~7ull, sums[STREAMS] = {0};
    const uint64_t *at = (const uint64_t *) (const void *) rates->data + thread * STREAMS * words;
    for (uint64_t i = 0; i < words; i += 8)
        for (unsigned j = 0; j < STREAMS; j++) {
            const uint64_t *line = at + j * words + i;
            __builtin_prefetch(line + 128);
            sums[j] += (line[0] ^ line[1]) + (line[2] ^ line[3]) + (line[4] ^ line[5]) +
                       (line[6] ^ line[7]);
        }
    rates->sums[thread] = sums[0] + sums[1] + sums[2] + sums[3];
}

static void multiply_share(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct rates *rates = ctx;
    uint32_t groups = rates->matrix.group_count;
    uint32_t first = (uint32_t) ((uint64_t) groups * thread / thread_count);
    uint32_t end = (uint32_t) ((uint64_t) groups * (thread + 1) / thread_count);
    cpu_matmul(rates->body, &rates->matrix, &rates->activations, first, end, rates->out, OUTPUTS);
}

/* Seconds of the fastest round. */
static double best_s(struct team *team, team_fn fn, struct rates *rates) {
    uint64_t best_ns = UINT64_MAX, spent_ns = 0;
    for (int round = 0; round < ROUND_COUNT && (round < 3 || spent_ns < ROUND_NS_MAX); round++) {
        uint64_t started_ns = clock_now_ns();
        team_run(team, fn, rates);
        uint64_t took_ns = clock_now_ns() - started_ns;
        best_ns = num_min(best_ns, took_ns);
        spent_ns += took_ns;
    }
    return (double) best_ns / 1e9;
}

static void *take(uint64_t bytes) {
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return NULL;
    madvise(block, bytes, MADV_HUGEPAGE);
    memset(block, 0, bytes); /* the values do not change the time */
    return block;
}

enum err cmd_rates_measure(uint32_t thread_count, enum tensor_type type, enum numerics numerics,
                           struct err_text *text, double *read_gb_per_s, double *tflops) {
    struct rates rates = {0};
    numerics = numerics_resolve(numerics, type);
    enum err e = cpu_body_choose(NULL, text, &rates.body);
    if (!e) e = cpu_matrix_init(&rates.matrix, numerics, type, OUTPUTS, COLUMNS, NULL, 1, text);
    if (e) return e;
    numerics = rates.matrix.numerics;
    uint64_t matrix_bytes = cpu_matrix_bytes(&rates.matrix);
    uint64_t row_bytes = cpu_activations_bytes(numerics, ROWS, COLUMNS);
    uint64_t out_bytes = (uint64_t) ROWS * OUTPUTS * sizeof(float);
    uint64_t bytes = num_max(READ_BYTES, matrix_bytes) + row_bytes + out_bytes + 4096;
    uint8_t *block = take(bytes);
    struct team *team = NULL;
    e = block ? team_create(thread_count, true, &team) : ERR_MEMORY;
    if (e) {
        if (block) munmap(block, bytes);
        return err_set(text, e, "no memory to measure in");
    }
    rates.data = rates.matrix.data = block;
    uint8_t *rest = block + num_max(READ_BYTES, matrix_bytes);
    rest += -(uintptr_t) rest & 63;
    rates.activations = (struct cpu_activations){
        .numerics = numerics, .rows = ROWS, .columns = COLUMNS, .data = rest};
    rates.out = (float *) (void *) (rest + (row_bytes + 63) / 64 * 64);
    *read_gb_per_s = READ_BYTES / best_s(team, read_share, &rates) / 1e9;
    *tflops = 2.0 * ROWS * OUTPUTS * COLUMNS / best_s(team, multiply_share, &rates) / 1e12;
    team_destroy(team);
    munmap(block, bytes);
    return ERR_OK;
}
