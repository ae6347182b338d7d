/* kernels_bench - the CPU products against what this machine can do.
 *
 * usage: kernels_bench [--threads N] [--body NAME] [--type NAME] [--n N --k K] [--rows R]
 *                      [--warm 1]
 *
 * One JSON line a case: rows 1 in GB/s of packed weights read (they pass the caches: copies of the
 * matrix are cycled, unless --warm), more rows in GMAC/s; each with its share of a ceiling measured in the same
 * run: streaming reads, and multiply-adds in registers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/cpu_matmul.h"
#include "backend/cpu/cpu_matmul_body.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/num.h"
#include "base/team.h"

#define COLD_BYTES (128u << 20) /* well past any L3 of the machines we measure on */
#define ROUND_NS 500000u /* short, many, the best: other work on the machine comes and goes */
#define ROUND_COUNT 400

struct options {
    uint32_t threads, n, k, rows, warm;
    const char *body, *type;
};

struct bench {
    struct team *team;
    enum cpu_body body;
    struct cpu_matrix matrix;
    struct cpu_activations activations;
    uint8_t *arena; /* COLD_BYTES, then room for one copy more */
    uint64_t arena_bytes;
    uint32_t copy_count, copy;
    float *x, *out;
    double sink[TEAM_THREADS_MAX];
};

static void die(const char *what) {
    fprintf(stderr, "kernels_bench: %s\n", what);
    exit(1);
}

static void *take(uint64_t bytes) {
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) die("out of memory");
    madvise(block, bytes, MADV_HUGEPAGE);
    return block;
}

/* --- ceilings ---------------------------------------------------------------------------- */

static void read_body(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct bench *bench = ctx;
    typedef uint64_t quad __attribute__((vector_size(32)));
    enum {
        STREAMS = 4
    }; /* one stream a thread leaves DRAM banks idle: measured 34 against 50 GB/s */
    uint64_t bytes = COLD_BYTES / thread_count / STREAMS & ~4095ull;
    const uint8_t *at = bench->arena + thread * STREAMS * bytes;
    quad sum[STREAMS] = {0};
    for (uint64_t i = 0; i < bytes; i += 2 * sizeof(quad))
        for (unsigned j = 0; j < STREAMS; j++) {
            const quad *line = (const quad *) (const void *) (at + j * bytes + i);
            __builtin_prefetch((const uint8_t *) line + 1024, 0, 3);
            sum[j] += line[0] + line[1];
        }
    sum[0] += sum[1] + sum[2] + sum[3];
    bench->sink[thread] = (double) sum[0][0];
}

#define PEAK_STEPS 50000u

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2,fma"))) static void peak_f32_avx2(double *sink) {
    __m256 sum[12], a = _mm256_set1_ps(1e-9f), b = _mm256_set1_ps(1.0f);
    for (unsigned i = 0; i < 12; i++) sum[i] = _mm256_set1_ps((float) i);
    for (uint32_t step = 0; step < PEAK_STEPS; step++) {
        __asm__ volatile("" : "+x"(a));
#pragma GCC unroll 12
        for (unsigned i = 0; i < 12; i++) sum[i] = _mm256_fmadd_ps(a, b, sum[i]);
    }
    for (unsigned i = 1; i < 12; i++) sum[0] = _mm256_add_ps(sum[0], sum[i]);
    *sink = sum[0][0];
}

/* vpmaddubsw + vpaddw, the 4-bit step, without any of the rest. */
__attribute__((target("avx2,fma"))) static void peak_int8_avx2(double *sink) {
    __m256i sum[12], a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(0);
    for (unsigned i = 0; i < 12; i++) sum[i] = _mm256_set1_epi16((short) i);
    for (uint32_t step = 0; step < PEAK_STEPS; step++) {
        __asm__ volatile("" : "+x"(a));
#pragma GCC unroll 12
        for (unsigned i = 0; i < 12; i++) {
            __m256i products = _mm256_maddubs_epi16(a, b);
            __asm__ volatile("" : "+x"(products));
            sum[i] = _mm256_add_epi16(sum[i], products);
        }
    }
    for (unsigned i = 1; i < 12; i++) sum[0] = _mm256_add_epi16(sum[0], sum[i]);
    *sink = (double) _mm256_extract_epi16(sum[0], 0);
}

__attribute__((target("avx512f,avx512bw"))) static void peak_f32_avx512(double *sink) {
    __m512 sum[12], a = _mm512_set1_ps(1e-9f), b = _mm512_set1_ps(1.0f);
    for (unsigned i = 0; i < 12; i++) sum[i] = _mm512_set1_ps((float) i);
    for (uint32_t step = 0; step < PEAK_STEPS; step++) {
        __asm__ volatile("" : "+v"(a));
#pragma GCC unroll 12
        for (unsigned i = 0; i < 12; i++) sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
    }
    for (unsigned i = 1; i < 12; i++) sum[0] = _mm512_add_ps(sum[0], sum[i]);
    *sink = sum[0][0];
}

__attribute__((target("avx512f,avx512bw,avx512vnni"))) static void peak_int8_vnni(double *sink) {
    __m512i sum[12], a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(0);
    for (unsigned i = 0; i < 12; i++) sum[i] = _mm512_set1_epi32((int) i);
    for (uint32_t step = 0; step < PEAK_STEPS; step++) {
        __asm__ volatile("" : "+v"(a));
#pragma GCC unroll 12
        for (unsigned i = 0; i < 12; i++) sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
    }
    for (unsigned i = 1; i < 12; i++) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
    *sink = (double) _mm512_reduce_add_epi32(sum[0]);
}
#endif

struct peak {
    struct bench *bench;
    bool is_int8;
};

/* Multiply-adds a step of the loop above, 0 where there is none for this body. */
static uint32_t peak_width(const struct bench *bench, bool is_int8) {
    if (bench->body == CPU_BODY_SCALAR) return 0;
    if (bench->body == CPU_BODY_AVX512 && (!is_int8 || cpu_body_has_vnni()))
        return 12 * (is_int8 ? 64 : 16);
    return 12 * (is_int8 ? 32 : 8);
}

static void peak_body(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct peak *peak = ctx;
    double *sink = &peak->bench->sink[thread];
    (void) thread_count;
#if defined(__x86_64__)
    bool is_wide = peak->bench->body == CPU_BODY_AVX512;
    if (peak->is_int8 && is_wide && cpu_body_has_vnni()) peak_int8_vnni(sink);
    else if (peak->is_int8) peak_int8_avx2(sink);
    else if (is_wide) peak_f32_avx512(sink);
    else peak_f32_avx2(sink);
#else
    *sink = 0;
#endif
}

static double best_seconds(struct bench *bench, team_fn fn, void *ctx, unsigned count) {
    uint64_t best = UINT64_MAX;
    for (unsigned i = 0; i < count; i++) {
        uint64_t start = clock_now_ns();
        team_run(bench->team, fn, ctx);
        best = num_min(best, clock_now_ns() - start);
    }
    return (double) best * 1e-9;
}

/* --- products ---------------------------------------------------------------------------- */

static void product_body(void *ctx, uint32_t thread, uint32_t thread_count) {
    struct bench *bench = ctx;
    uint32_t groups = bench->matrix.group_count;
    cpu_matmul(bench->body, &bench->matrix, &bench->activations, groups * thread / thread_count,
               groups * (thread + 1) / thread_count, bench->out, bench->matrix.rows);
}

static void fill(struct bench *bench) {
    const struct cpu_matrix *matrix = &bench->matrix;
    uint64_t bytes = tensor_type_bytes(matrix->type, matrix->columns), state = 1;
    uint8_t *row = take(bytes);
    uint64_t matrix_bytes = cpu_matrix_bytes(matrix);
    memset(bench->arena, 0, matrix_bytes);
    for (uint32_t n = 0; n < matrix->rows; n++) {
        /* Bytes below 0x40: every f16, bf16 and f32 field is finite and small. */
        for (uint64_t i = 0; i < bytes; i++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            row[i] = (uint8_t) (state >> 58 & 0x3b);
        }
        cpu_matrix_set_lane(matrix, n % CPU_GROUP, row,
                            bench->arena + n / CPU_GROUP * matrix->group_bytes);
    }
    munmap(row, bytes);
    bench->copy_count = (uint32_t) num_div_up(COLD_BYTES, matrix_bytes);
    for (uint32_t copy = 1; copy < bench->copy_count; copy++)
        memcpy(bench->arena + copy * matrix_bytes, bench->arena, matrix_bytes);
}

/* Seconds a product, best of the rounds, over cold copies. */
static double time_product(struct bench *bench) {
    double best = 1e9;
    for (unsigned round = 0; round < ROUND_COUNT; round++) {
        uint64_t start = clock_now_ns(), now = start, count = 0;
        while (now - start < ROUND_NS || count < 1) {
            bench->copy = (bench->copy + 1) % bench->copy_count;
            bench->matrix.data = bench->arena + bench->copy * cpu_matrix_bytes(&bench->matrix);
            team_run(bench->team, product_body, bench);
            count++;
            now = clock_now_ns();
        }
        double seconds = (double) (now - start) * 1e-9 / (double) count;
        if (seconds < best) best = seconds;
    }
    return best;
}

static void run_case(struct bench *bench, const struct options *options, enum tensor_type type,
                     uint32_t rows) {
    const struct cpu_matrix *matrix = &bench->matrix;
    struct cpu_activations *activations = &bench->activations;
    *activations = (struct cpu_activations){
        .numerics = matrix->numerics, .rows = rows, .columns = matrix->columns};
    uint64_t bytes = cpu_activations_bytes(matrix->numerics, rows, matrix->columns);
    activations->data = take(bytes);
    bench->x = take((uint64_t) rows * matrix->columns * 4);
    bench->out = take((uint64_t) rows * matrix->rows * 4);
    for (uint64_t i = 0; i < (uint64_t) rows * matrix->columns; i++)
        bench->x[i] = (float) (i * 2654435761u % 1000) / 500.0f - 1.0f;
    uint64_t start = clock_now_ns();
    cpu_activations_set(bench->body, activations, 0, rows, bench->x, matrix->columns);
    double set_seconds = (double) (clock_now_ns() - start) * 1e-9;

    bool is_int8 = matrix->numerics == NUMERICS_Q8A32;
    struct peak peak = {bench, is_int8};
    double seconds = 1e9, ceiling = 0;
    for (unsigned i = 0; i < 2; i++) { /* interleaved: the machine drifts */
        double now = time_product(bench);
        if (now < seconds) seconds = now;
        double limit;
        if (rows == 1) limit = (double) COLD_BYTES / best_seconds(bench, read_body, bench, 10);
        else
            limit = (double) peak_width(bench, is_int8) * PEAK_STEPS * options->threads /
                    best_seconds(bench, peak_body, &peak, 100);
        if (limit > ceiling) ceiling = limit;
    }
    double work = rows == 1 ? (double) cpu_matrix_bytes(matrix)
                            : (double) rows * matrix->rows * matrix->columns;
    double rate = work / seconds;
    printf("{\"bench\":\"kernels\",\"type\":\"%s\",\"numerics\":\"%s\",\"body\":\"%s%s\","
           "\"threads\":%u,\"n\":%u,\"k\":%u,\"rows\":%u,\"us\":%.1f,\"%s\":%.2f,"
           "\"ceiling\":%.2f,\"share\":%.3f,\"set_us_one_thread\":%.1f}\n",
           tensor_type_name(type), numerics_name(matrix->numerics), cpu_body_name(bench->body),
           bench->body == CPU_BODY_AVX512 && cpu_body_has_vnni() ? "+vnni" : "", options->threads,
           matrix->rows, matrix->columns, rows, seconds * 1e6,
           rows == 1 ? "gb_per_s" : "gmac_per_s", rate * 1e-9, ceiling * 1e-9,
           ceiling > 0 ? rate / ceiling : 0, set_seconds * 1e6);
    fflush(stdout);
    munmap(activations->data, bytes);
    munmap(bench->x, (uint64_t) rows * matrix->columns * 4);
    munmap(bench->out, (uint64_t) rows * matrix->rows * 4);
}

static void run_type(struct bench *bench, const struct options *options, enum tensor_type type,
                     uint32_t n, uint32_t k) {
    struct err_text text;
    uint64_t bytes;
    if (cpu_matrix_init(&bench->matrix, NUMERICS_Q8A32, type, n, k, NULL, 0, &text)) die(text.text);
    bytes = COLD_BYTES + 2 * cpu_matrix_bytes(&bench->matrix);
    bench->arena = take(bytes);
    fill(bench);
    if (options->warm != 0) bench->copy_count = 1;
    const uint32_t counts[] = {1, 2, 4, 16, 32, 512};
    for (unsigned i = 0; i < ARRAY_COUNT(counts); i++)
        if (options->rows == 0 || options->rows == counts[i])
            run_case(bench, options, type, counts[i]);
    munmap(bench->arena, bytes);
}

static struct options parse(int argc, char **argv) {
    struct options options = {.threads = 2};
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        uint32_t number = (uint32_t) strtoul(value, NULL, 10);
        if (strcmp(argv[i], "--threads") == 0) options.threads = number;
        else if (strcmp(argv[i], "--n") == 0) options.n = number;
        else if (strcmp(argv[i], "--k") == 0) options.k = number;
        else if (strcmp(argv[i], "--rows") == 0) options.rows = number;
        else if (strcmp(argv[i], "--warm") == 0) options.warm = number;
        else if (strcmp(argv[i], "--body") == 0) options.body = value;
        else if (strcmp(argv[i], "--type") == 0) options.type = value;
        else die("unknown option (see the head of bench/kernels_bench.c)");
    }
    if (argc % 2 == 0) die("an option without its value");
    return options;
}

int main(int argc, char **argv) {
    struct options options = parse(argc, argv);
    static struct bench bench;
    struct err_text text;
    if (cpu_body_choose(options.body, &text, &bench.body)) die(text.text);
    if (team_create(options.threads, true, &bench.team)) die("no threads");
    const enum tensor_type types[] = {TENSOR_Q4_1, TENSOR_Q8_0, TENSOR_BF16, TENSOR_F16,
                                      TENSOR_F32,  TENSOR_Q4_0, TENSOR_Q5_1, TENSOR_Q4_K,
                                      TENSOR_Q5_K, TENSOR_Q6_K};
    /* The demo model's gate and down, then a 1B shape's gate. */
    const uint32_t shapes[][2] = {{1536, 576}, {576, 1536}, {8192, 2048}};
    for (unsigned t = 0; t < ARRAY_COUNT(types); t++) {
        enum tensor_type wanted = types[t];
        if (options.type != NULL &&
            (!tensor_type_parse(options.type, &wanted) || wanted != types[t]))
            continue;
        for (unsigned s = 0; s < ARRAY_COUNT(shapes); s++) {
            uint32_t n = shapes[s][0], k = shapes[s][1];
            if (options.n != 0 && (s > 0 || options.k == 0)) continue;
            if (options.n != 0) n = options.n, k = options.k;
            if (k % tensor_type_block(types[t]) != 0) continue;
            run_type(&bench, &options, types[t], n, k);
        }
    }
    team_destroy(bench.team);
    return 0;
}
