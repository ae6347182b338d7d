/* cmd_model - see cmd_model.h. */
#include "cmd/cmd_model.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cmd/cmd_fault.h"
#include "device/device_cpu.h"
#include "device/device_gpu.h"
#include "device/device_process.h"
#include "model/model_catalog.h"
#include "model/model_resolve.h"

/* --shape PATH=NAME|config.json for this path; NULL: none.  "NAME" alone speaks of any path. */
static const char *shape_of(const struct options *options, const char *path) {
    size_t bytes = strlen(path);
    for (uint32_t i = 0; i < options_list_count(options, OPT_SHAPE); i++) {
        const char *item = options_list_item(options, OPT_SHAPE, i);
        if (!strchr(item, '=')) return item;
        if (strncmp(item, path, bytes) == 0 && item[bytes] == '=') return item + bytes + 1;
    }
    return NULL;
}

/* A model that is not here is planned by what the user says it is, or by its name. */
static enum err open_elsewhere(const char *name, struct model_open_options *open,
                               struct err_text *text, struct model **out) {
    struct model_spec spec;
    struct model_source source;
    bool is_here = model_resolve(name, NULL, &source) != ERR_NOT_FOUND;
    open->is_dummy = open->is_dummy || open->shape || (!is_here && model_catalog_find(name, &spec));
    enum err e = model_open(name, open, text, out);
    if (e == ERR_NOT_FOUND && !is_here && !open->shape) {
        struct err_text why = *text;
        return err_set(text, e, "%s; to plan it for elsewhere: --shape '%s=NAME|config.json'",
                       why.text, name);
    }
    if (!e && open->is_dummy)
        log_info("planned by shape alone, matrices as %s: no file of %s was looked at",
                 tensor_type_name(open->dummy_type), name);
    return e;
}

static bool is_sim(const struct options *options) {
    return strcasecmp(options_text(options, OPT_ENGINE), "sim") == 0;
}

enum err cmd_model_open(const struct options *options, const char *name, struct err_text *text,
                        struct model **out) {
    if (!name) name = options_text(options, OPT_MODEL);
    if (!name) return err_set(text, ERR_USAGE, "no model: give -m MODEL");
    struct model_open_options open = {
        .is_dummy = strcasecmp(options_text(options, OPT_LOAD_FORMAT), "dummy") == 0,
        .dummy_seed = options_count(options, OPT_DUMMY_SEED),
        .shape = shape_of(options, name),
    };
    CHECK(tensor_type_parse(options_text(options, OPT_DUMMY_TYPE), &open.dummy_type));
    if (!open.shape && options_list_count(options, OPT_SHAPE))
        return err_set(text, ERR_USAGE, "--shape %s: the model is %s; say --shape '%s=NAME'",
                       options_list_item(options, OPT_SHAPE, 0), name, name);
    if (options_command(options) == OPTION_PLAN) return open_elsewhere(name, &open, text, out);
    enum err e = model_open(name, &open, text, out);
    if (!e) cmd_fault_know(*out);
    if (e != ERR_NOT_FOUND || open.is_dummy || !is_sim(options)) return e;
    /* It computes nothing: the shape of a known name is enough to try a layout. */
    struct err_text why;
    open.is_dummy = true;
    if (model_open(name, &open, &why, out)) return e;
    log_info("%s is not here: simulated by its shape", name);
    return ERR_OK;
}

static enum err read_engine_options(const struct options *options, const struct model_spec *spec,
                                    struct err_text *text, struct worker_boot_options *out) {
    struct backend_options *backend = &out->backend;
    out->ops = is_sim(options) ? &sim_backend_ops : &cpu_backend_ops;
    uint64_t block_size = options_count(options, OPT_BLOCK_SIZE);
    if (block_size < 8 || block_size > 128 || (block_size & (block_size - 1)))
        return err_set(text, ERR_USAGE, "--block-size: %llu is none of 8, 16, 32, 64, 128",
                       (unsigned long long) block_size);
    *backend = (struct backend_options){
        .rank_count = (uint32_t) options_count(options, OPT_TENSOR_PARALLEL_SIZE),
        .block_size = (uint32_t) block_size,
        .seat_count = (uint32_t) options_count(options, OPT_MAX_NUM_SEQS),
        .batched_tokens_max = (uint32_t) options_count(options, OPT_MAX_NUM_BATCHED_TOKENS),
        .model_len_max = spec->context_tokens,
        .row_tile = (uint32_t) options_count(options, OPT_ROW_TILE),
        .sim_step_us = options_number(options, OPT_SIM_STEP) * 1000,
        .sim_is_on_grid = options_bool(options, OPT_SIM_GRID),
        .sim_token_us = options_number(options, OPT_SIM_TOKEN) * 1000,
    };
    CHECK(numerics_parse(options_text(options, OPT_NUMERICS), &backend->numerics));
    CHECK(kv_dtype_parse(options_text(options, OPT_KV_CACHE_DTYPE), &backend->kv_dtype));
    if (strcasecmp(options_text(options, OPT_CPU), "auto") != 0)
        backend->cpu_body = options_text(options, OPT_CPU);
    if (options_is_set(options, OPT_MAX_MODEL_LEN)) {
        uint64_t wanted = options_count(options, OPT_MAX_MODEL_LEN);
        if (wanted > spec->context_tokens)
            return err_set(text, ERR_USAGE,
                           "--max-model-len: %llu is more than the %u tokens that %s was made for",
                           (unsigned long long) wanted, spec->context_tokens, spec->name);
        backend->model_len_max = (uint32_t) wanted;
    } else {
        out->budget.may_shrink_len = true;
    }
    if (backend->batched_tokens_max < backend->seat_count)
        return err_set(text, ERR_USAGE,
                       "--max-num-batched-tokens (%u) must be at least --max-num-seqs (%u)",
                       backend->batched_tokens_max, backend->seat_count);
    if (!options_bool(options, OPT_ENABLE_CHUNKED_PREFILL) &&
        backend->batched_tokens_max < backend->model_len_max)
        return err_set(
            text, ERR_USAGE,
            "--max-num-batched-tokens (%u) is smaller than max-model-len (%u) and chunked "
            "prefill is off: raise it, or --enable-chunked-prefill",
            backend->batched_tokens_max, backend->model_len_max);
    return ERR_OK;
}

enum err cmd_model_boot_options(const struct options *options, const struct model_spec *spec,
                                struct err_text *text, struct worker_boot_options *out) {
    struct worker_boot_options boot = {0};
    enum err e = read_engine_options(options, spec, text, &boot);
    if (e) return e;
    struct device_cpu cpu;
    device_cpu_look(NULL, &cpu);
    boot.backend.thread_count = cpu.thread_count;
    if (options_is_set(options, OPT_THREADS))
        boot.backend.thread_count = (uint32_t) options_count(options, OPT_THREADS);
    boot.backend.may_spin = boot.backend.thread_count <= cpu.thread_count;
    if (options_is_set(options, OPT_THREADS)) {
        cpu.thread_count = boot.backend.thread_count;
        cpu.thread_bound = "--threads";
    }
    log_line(options_command(options) & (OPTION_SERVE | OPTION_WORKER) ? LOG_INFO : LOG_DEBUG, "%s",
             device_cpu_describe(&cpu).text);
    boot.budget.is_shared = true; /* all ranks on this machine's memory */
    boot.budget.process = (struct plan_process){.library_bytes = device_process_library_bytes() +
                                                                 device_gpu_library_bytes(NULL),
                                                .has_frontend = true};
    boot.budget.total_bytes = cpu.memory_bytes;
    boot.budget.available_bytes = cpu.memory_available_bytes;
    if (options_is_set(options, OPT_GPU_MEMORY_UTILIZATION))
        boot.budget.utilization = options_number(options, OPT_GPU_MEMORY_UTILIZATION);
    if (options_is_set(options, OPT_KV_CACHE_MEMORY_BYTES))
        boot.budget.kv_bytes = options_count(options, OPT_KV_CACHE_MEMORY_BYTES);
    boot.engine = (struct engine_options){
        .queue_requests_max = 4096,
        .queue_prompt_bytes_max = 256u << 20,
        .is_chunked_prefill = options_bool(options, OPT_ENABLE_CHUNKED_PREFILL),
        .prefill_chunk_max = (uint32_t) options_count(options, OPT_PREFILL_CHUNK),
        .has_prefix_cache = options_bool(options, OPT_ENABLE_PREFIX_CACHING),
    };
    boot.prefault = options_bool(options, OPT_PREFAULT);
    *out = boot;
    return ERR_OK;
}

/* --- sampling ---------------------------------------------------------------------------- */

static enum err read_seed(const struct options *options, struct err_text *text, uint64_t *seed) {
    const char *written = options_text(options, OPT_SEED);
    if (!written) {
        if (getrandom(seed, sizeof *seed, 0) != sizeof *seed) *seed = clock_wall_ns();
        return ERR_OK;
    }
    char *end;
    errno = 0;
    long long value = strtoll(written, &end, 10);
    if (errno || end == written || *end)
        return err_set(text, ERR_USAGE, "--seed: '%s' is not a whole number of 64 bits", written);
    *seed = (uint64_t) value;
    return ERR_OK;
}

static void apply_generation_config(const struct options *options, const struct model *model,
                                    struct sampling *out) {
    const struct model_generation *generation = model_generation_defaults(model);
    if (strcasecmp(options_text(options, OPT_GENERATION_CONFIG), "none") == 0) return;
    if (generation->has_temperature) out->temperature = generation->temperature;
    if (generation->has_top_p) out->top_p = generation->top_p;
    if (generation->has_top_k) out->top_k = generation->top_k;
    if (generation->has_min_p) out->min_p = generation->min_p;
    if (generation->has_repetition_penalty)
        out->repetition_penalty = generation->repetition_penalty;
}

enum err cmd_model_sampling(const struct options *options, const struct model *model,
                            float temperature_default, struct err_text *text,
                            struct sampling *out) {
    const struct model_spec *spec = model_get_spec(model);
    sampling_init(out);
    out->temperature = temperature_default;
    out->max_tokens = spec->context_tokens;
    apply_generation_config(options, model, out);
    static const struct {
        enum option_id id;
        size_t offset;
    } floats[] = {
        {OPT_TEMPERATURE, offsetof(struct sampling, temperature)},
        {OPT_TOP_P, offsetof(struct sampling, top_p)},
        {OPT_MIN_P, offsetof(struct sampling, min_p)},
        {OPT_PRESENCE_PENALTY, offsetof(struct sampling, presence_penalty)},
        {OPT_FREQUENCY_PENALTY, offsetof(struct sampling, frequency_penalty)},
        {OPT_REPETITION_PENALTY, offsetof(struct sampling, repetition_penalty)},
    };
    for (size_t i = 0; i < ARRAY_COUNT(floats); i++)
        if (options_is_set(options, floats[i].id))
            *(float *) (void *) ((char *) out + floats[i].offset) =
                (float) options_number(options, floats[i].id);
    if (options_is_set(options, OPT_TOP_K)) {
        double top_k = options_number(options, OPT_TOP_K);
        if (top_k != floor(top_k))
            return err_set(text, ERR_USAGE, "--top-k: %g is not a whole number", top_k);
        out->top_k = (int32_t) top_k;
    }
    if (options_is_set(options, OPT_MAX_TOKENS))
        out->max_tokens = (uint32_t) options_count(options, OPT_MAX_TOKENS);
    out->min_tokens = (uint32_t) options_count(options, OPT_MIN_TOKENS);
    out->ignore_eos = options_bool(options, OPT_IGNORE_EOS);
    out->stop_ids = spec->eos_ids;
    out->stop_id_count = out->ignore_eos ? 0 : spec->eos_count;
    return read_seed(options, text, &out->seed);
}

static enum err fill_number(struct options *options, enum option_id id, double value,
                            struct err_text *text) {
    if (!(option_get(id)->commands & options_command(options))) return ERR_OK;
    char written[40];
    snprintf(written, sizeof written, value == floor(value) ? "%.0f" : "%.7g", value);
    return options_set(options, id, written, SOURCE_MODEL, "the model's files", text);
}

enum err cmd_model_fill_options(struct options *options, struct err_text *text) {
    struct model *model = NULL;
    enum err e = cmd_model_open(options, NULL, text, &model);
    if (e) return e;
    e = fill_number(options, OPT_MAX_MODEL_LEN, model_get_spec(model)->context_tokens, text);
    const struct model_generation *g = model_generation_defaults(model);
    const struct {
        enum option_id id;
        bool is_there;
        double value;
    } numbers[] = {
        {OPT_TEMPERATURE, g->has_temperature, (double) g->temperature},
        {OPT_TOP_P, g->has_top_p, (double) g->top_p},
        {OPT_TOP_K, g->has_top_k, (double) g->top_k},
        {OPT_MIN_P, g->has_min_p, (double) g->min_p},
        {OPT_REPETITION_PENALTY, g->has_repetition_penalty, (double) g->repetition_penalty},
    };
    bool is_off = strcasecmp(options_text(options, OPT_GENERATION_CONFIG), "none") == 0;
    for (size_t i = 0; i < ARRAY_COUNT(numbers) && !e && !is_off; i++)
        if (numbers[i].is_there) e = fill_number(options, numbers[i].id, numbers[i].value, text);
    model_close(model);
    return e;
}

/* --- progress ---------------------------------------------------------------------------- */

#define PLAIN_PROGRESS_NS 3000000000u  /* between two lines where there is no terminal, */
#define GRAPH_PROGRESS_NS 10000000000u /* and of each worker of a graph */

bool cmd_model_has_bar(void) {
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0);
}

/* "1.2 of 2.9 GiB  850 MB/s  2 s left" */
static void describe_progress(uint64_t done_bytes, uint64_t total_bytes, uint64_t age_ns, char *out,
                              size_t room) {
    double seconds = (double) age_ns / 1e9, rate = seconds > 0 ? (double) done_bytes / seconds : 0;
    double unit = total_bytes >= 1u << 30 ? 1u << 30 : 1u << 20;
    int bytes = snprintf(out, room, "%.1f of %.1f %s", (double) done_bytes / unit,
                         (double) total_bytes / unit, total_bytes >= 1u << 30 ? "GiB" : "MiB");
    if (rate > 0 && bytes > 0 && (size_t) bytes < room)
        snprintf(out + bytes, room - (size_t) bytes, ", %.0f MB/s, %.0f s left", rate / 1e6,
                 (double) (total_bytes - done_bytes) / rate);
}

bool cmd_model_progress(void *ctx, const char *stage, uint64_t done_bytes, uint64_t total_bytes) {
    const bool *is_one_of_many = ctx;
    static uint64_t drawn_ns, began_ns;
    uint64_t gap_ns = is_one_of_many && *is_one_of_many ? GRAPH_PROGRESS_NS : PLAIN_PROGRESS_NS;
    bool is_done = done_bytes >= total_bytes;
    uint64_t now_ns = clock_now_ns();
    if (!total_bytes) { /* it waits for its turn: the rate is that of loading */
        began_ns = drawn_ns = 0;
        return true;
    }
    if (!began_ns) began_ns = now_ns;
    if (!cmd_model_has_bar()) { /* a quick load says nothing: the caller's lines do */
        if (!drawn_ns) drawn_ns = now_ns;
        if (is_done || now_ns - drawn_ns < gap_ns) return true;
    } else if (!is_done && now_ns - drawn_ns < 50000000u) {
        return true;
    }
    drawn_ns = now_ns;
    char amount[64];
    describe_progress(done_bytes, total_bytes, now_ns - began_ns, amount, sizeof amount);
    if (is_done) began_ns = drawn_ns = 0; /* the next one */
    if (!cmd_model_has_bar()) {
        log_info("loading %s: %u %%, %s", stage, (unsigned) (done_bytes * 100 / total_bytes),
                 amount);
        return true;
    }
    char bar[21];
    unsigned filled = total_bytes ? (unsigned) (done_bytes * 20 / total_bytes) : 20;
    for (unsigned i = 0; i < 20; i++) bar[i] = i < filled ? '#' : '.';
    bar[20] = '\0';
    if (is_done) fputs("\r\033[K", stderr);
    else fprintf(stderr, "\r[%s] %-10.10s %-45.45s", bar, stage, amount);
    fflush(stderr);
    return true;
}
