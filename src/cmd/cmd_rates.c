/* cmd_rates - see cmd_rates.h. */
#include "cmd/cmd_rates.h"

#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/cpu_matmul.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/team.h"

#define READ_BYTES (256u << 20) /* past the caches of most machines; models below it may fit */
#define STREAMS 4               /* one a thread leaves memory banks idle */
#define OUTPUTS 2048u
#define COLUMNS 2048u
#define ROWS 128u               /* of a prompt's chunk */
#define ROUND_COUNT 24          /* short, many, the best: other work comes and goes */
#define ROUND_NS_MAX 400000000u /* of each kind, in all */

/* Between two of them the threads meet: q, k and v; o; gate and up; down; and the head. */
#define PHASES 5
#define MATRICES 8

struct rates {
    enum cpu_body body;
    struct team *team;
    struct cpu_matrix matrix;
    struct cpu_activations activations;
    const uint8_t *data;
    float *out;
    /* One step of decode: so many layers, each from fresh bytes, and so many rows of the head. */
    struct cpu_matrix matrices[MATRICES];
    uint8_t phase_ends[PHASES];
    uint32_t layer_count;
    uint64_t layer_bytes;
    float *row_outs[MATRICES];
    struct cpu_activations row_inputs[MATRICES];
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

static void multiply_row(struct rates *rates, uint32_t first, uint32_t end, uint64_t at,
                         uint32_t thread, uint32_t thread_count) {
    for (uint32_t i = first; i < end; i++) {
        struct cpu_matrix matrix = rates->matrices[i];
        uint64_t groups = matrix.group_count;
        matrix.data = rates->data + at;
        at += (cpu_matrix_bytes(&matrix) + 63) & ~63ull;
        cpu_matmul(rates->body, &matrix, &rates->row_inputs[i],
                   (uint32_t) (groups * thread / thread_count),
                   (uint32_t) (groups * (thread + 1) / thread_count), rates->row_outs[i],
                   matrix.rows);
    }
}

static uint64_t bytes_of(const struct rates *rates, uint32_t first, uint32_t end) {
    uint64_t bytes = 0;
    for (uint32_t i = first; i < end; i++)
        bytes += (cpu_matrix_bytes(&rates->matrices[i]) + 63) & ~63ull;
    return bytes;
}

static void step_share(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct rates *rates = ctx;
    uint64_t at = 0;
    for (uint32_t layer = 0; layer < rates->layer_count; layer++)
        for (uint32_t phase = 0; phase + 1 < PHASES; phase++) {
            uint32_t first = phase ? rates->phase_ends[phase - 1] : 0;
            uint32_t end = rates->phase_ends[phase];
            multiply_row(rates, first, end, at, thread, thread_count);
            at += bytes_of(rates, first, end);
            team_barrier(rates->team);
        }
    multiply_row(rates, MATRICES - 1, MATRICES, at, thread, thread_count);
}

/* The model's matrices, with as many layers and as much of the head as the room holds. */
static enum err shape_step(const struct model_spec *spec, enum numerics numerics,
                           struct err_text *text, struct rates *rates) {
    uint32_t q = spec->head_count * spec->head_dim, kv = spec->kv_head_count * spec->head_dim;
    const uint32_t shapes[MATRICES][2] = {{q, spec->hidden_size},
                                          {kv, spec->hidden_size},
                                          {kv, spec->hidden_size},
                                          {spec->hidden_size, q},
                                          {spec->ffn_size, spec->hidden_size},
                                          {spec->ffn_size, spec->hidden_size},
                                          {spec->hidden_size, spec->ffn_size},
                                          {spec->vocab_size, spec->hidden_size}};
    static const uint8_t ends[PHASES] = {3, 4, 6, 7, 8};
    memcpy(rates->phase_ends, ends, sizeof ends);
    enum tensor_type type = spec->weight_type;
    /* The makers of small formats leave the head at 8 bits or so. */
    enum tensor_type head = tensor_type_is_quantized(type) ? TENSOR_Q8_0 : type;
    rates->layer_count = spec->layer_count;
    uint32_t head_rows = spec->vocab_size;
    for (int way = 0; way < 2; way++) { /* as the model is, then as much of it as there is room */
        for (uint32_t i = 0; i < MATRICES; i++) {
            enum tensor_type of = i == MATRICES - 1 ? head : type;
            uint64_t columns = num_round_up(shapes[i][1], tensor_type_block(of));
            enum err e = cpu_matrix_init(&rates->matrices[i], numerics, of,
                                         i == MATRICES - 1 ? head_rows : shapes[i][0],
                                         (uint32_t) columns, NULL, 1, text);
            if (e) return e;
        }
        rates->layer_bytes = bytes_of(rates, 0, MATRICES - 1);
        uint64_t head_bytes = bytes_of(rates, MATRICES - 1, MATRICES);
        double share =
            (double) READ_BYTES / (double) (rates->layer_bytes * rates->layer_count + head_bytes);
        if (way || share >= 1) break;
        rates->layer_count = (uint32_t) (share * spec->layer_count);
        head_rows = (uint32_t) (share * spec->vocab_size);
        if (!rates->layer_count || !head_rows) break; /* one layer is more than the room */
    }
    return ERR_OK;
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

/* Where inputs and outputs of the products lie, behind the weights: bytes, or with a base their
 * places. */
static uint64_t lay_out(struct rates *rates, uint8_t *base) {
    uint64_t at = 0;
    enum numerics numerics = rates->matrix.numerics;
    rates->activations = (struct cpu_activations){
        .numerics = numerics, .rows = ROWS, .columns = COLUMNS, .data = base};
    at += num_round_up(cpu_activations_bytes(numerics, ROWS, COLUMNS), 64);
    rates->out = (float *) (void *) (base ? base + at : NULL);
    at += (uint64_t) ROWS * OUTPUTS * sizeof(float);
    for (uint32_t i = 0; i < MATRICES; i++) {
        const struct cpu_matrix *matrix = &rates->matrices[i];
        rates->row_inputs[i] = (struct cpu_activations){.numerics = matrix->numerics,
                                                        .rows = 1,
                                                        .columns = matrix->columns,
                                                        .data = base ? base + at : NULL};
        at += num_round_up(cpu_activations_bytes(matrix->numerics, 1, matrix->columns), 64);
        rates->row_outs[i] = (float *) (void *) (base ? base + at : NULL);
        at += num_round_up((uint64_t) matrix->group_count * CPU_GROUP * sizeof(float), 64);
    }
    return at;
}

enum err cmd_rates_measure(uint32_t thread_count, const struct model_spec *spec,
                           enum numerics numerics, struct err_text *text, struct cmd_rates *out) {
    struct rates *rates = alloc_zero(1, sizeof *rates);
    if (!rates) return err_set(text, ERR_MEMORY, "no memory to measure in");
    numerics = numerics_resolve(numerics, spec->weight_type);
    enum err e = cpu_body_choose(NULL, text, &rates->body);
    if (!e)
        e = cpu_matrix_init(&rates->matrix, numerics, spec->weight_type, OUTPUTS, COLUMNS, NULL, 1,
                            text);
    if (!e) e = shape_step(spec, numerics, text, rates);
    if (e) {
        alloc_free(rates);
        return e;
    }
    uint64_t step_bytes =
        rates->layer_bytes * rates->layer_count + bytes_of(rates, MATRICES - 1, MATRICES);
    bool has_step = step_bytes <= READ_BYTES;
    uint64_t data_bytes = num_max(READ_BYTES, cpu_matrix_bytes(&rates->matrix));
    uint64_t bytes = data_bytes + lay_out(rates, NULL) + 64;
    uint8_t *block = take(bytes);
    e = block ? team_create(thread_count, true, &rates->team) : ERR_MEMORY;
    if (e) {
        if (block) munmap(block, bytes);
        alloc_free(rates);
        return err_set(text, e, "no memory to measure in");
    }
    rates->data = rates->matrix.data = block;
    (void) lay_out(rates, block + num_round_up(data_bytes, 64));
    out->read_gb_per_s = READ_BYTES / best_s(rates->team, read_share, rates) / 1e9;
    out->tflops =
        2.0 * ROWS * OUTPUTS * COLUMNS / best_s(rates->team, multiply_share, rates) / 1e12;
    out->product_gb_per_s =
        has_step ? (double) step_bytes / best_s(rates->team, step_share, rates) / 1e9 : 0;
    team_destroy(rates->team);
    munmap(block, bytes);
    alloc_free(rates);
    return ERR_OK;
}
