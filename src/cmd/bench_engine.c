/* bench_engine - see bench_engine.h. */
#include "cmd/bench_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/num.h"
#include "cmd/bench_stamp.h"
#include "cmd/cmd.h"
#include "cmd/cmd_model.h"
#include "cmd/cmd_rates.h"
#include "device/device_cpu.h"
#include "plan/plan_predict.h"

/* --- one case ---------------------------------------------------------------------------- */

struct bench_case {
    uint32_t prompt_tokens, gen_tokens, batch;
    double prefill_s, decode_s;
};

static uint32_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) (*state >> 33);
}

/* `batch` requests of fresh random prompts: the time until all have their first token, and from
 * there until all have gen_tokens. */
static enum err run_case(struct engine *engine, uint32_t vocab_size, struct bench_case *bench,
                         uint64_t *state, struct err_text *text) {
    uint32_t *prompt = alloc_array(bench->prompt_tokens, sizeof *prompt);
    if (!prompt) return ERR_MEMORY;
    struct sampling sampling;
    sampling_init(&sampling);
    sampling.max_tokens = bench->gen_tokens + 1;
    sampling.ignore_eos = true;
    sampling.skip_prefix_cache = true;
    enum err e = ERR_OK;
    uint64_t started_ns = clock_now_ns(), prefilled_ns = 0;
    for (uint32_t i = 0; !e && i < bench->batch; i++) {
        for (uint32_t k = 0; k < bench->prompt_tokens; k++)
            prompt[k] = next_random(state) % vocab_size;
        struct engine_choice choice = {0};
        struct engine_request request = {.id = i + 1,
                                         .prompt_ids = prompt,
                                         .prompt_count = bench->prompt_tokens,
                                         .choices = &choice,
                                         .choice_count = 1,
                                         .sampling = &sampling};
        e = engine_add(engine, &request, text);
    }
    uint32_t first_count = 0;
    while (!e && !engine_is_idle(engine)) {
        const struct engine_output *outputs;
        uint32_t count;
        e = engine_step(engine, clock_now_us(), &outputs, &count);
        for (uint32_t i = 0; !e && i < count; i++) {
            if (outputs[i].finish == FINISH_ERROR) e = outputs[i].error;
            if (outputs[i].token_id != BACKEND_NO_TOKEN && outputs[i].output_index == 0 &&
                ++first_count == bench->batch)
                prefilled_ns = clock_now_ns();
        }
    }
    uint64_t end_ns = clock_now_ns();
    bench->prefill_s = (double) (prefilled_ns - started_ns) / 1e9;
    bench->decode_s = (double) (end_ns - prefilled_ns) / 1e9;
    alloc_free(prompt);
    return e;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

static double median(double *values, uint32_t count) {
    qsort(values, count, sizeof *values, compare_doubles);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* What `gramme plan --input-len` would have said, from this run's own rates. */
struct predicted {
    double prefill_tokens_per_s, decode_tokens_per_s;
};

static struct predicted predict(const struct options *options, const struct model *model,
                                const struct worker_boot *boot, const struct bench_case *bench,
                                double kv_token_bytes, const struct cmd_rates *measured) {
    const struct model_spec *spec = model_get_spec(model);
    double bits = 8.0 * (double) tensor_type_bytes(spec->weight_type, 256) / 256;
    const struct cuda_estimate_format format = {.weight_bits = bits,
                                                .head_bits = bits < 8.5 ? 8.5 : bits};
    uint64_t chunk = num_min(options_count(options, OPT_PREFILL_CHUNK),
                             options_count(options, OPT_MAX_NUM_BATCHED_TOKENS));
    struct plan_predict_rates rates;
    struct plan_predict_model predict;
    /* Ranks here share one machine, so together they are as fast as one. */
    double ranks = boot->plan.rank_count;
    plan_predict_cpu(measured->read_gb_per_s / ranks, measured->tflops / ranks,
                     measured->product_gb_per_s / ranks, &rates);
    plan_predict_model(spec, &format, kv_token_bytes, boot->plan.rank_count, (uint32_t) chunk,
                       &predict);
    double prompt_s = plan_predict_prompt(&predict, &rates, bench->prompt_tokens).alone_s;
    struct plan_predict_step step =
        plan_predict_step(&predict, &rates, bench->prompt_tokens + bench->gen_tokens / 2.0);
    return (struct predicted){.prefill_tokens_per_s = bench->prompt_tokens / prompt_s,
                              .decode_tokens_per_s =
                                  bench->batch / (step.base_s + bench->batch * step.each_s)};
}

static void print_result(const struct options *options, const struct model *model,
                         const struct worker_boot *boot, const struct bench_case *bench,
                         uint32_t threads, double prefill_s, double decode_s,
                         const struct cmd_rates *measured) {
    const double ceiling = measured->read_gb_per_s, tflops = measured->tflops;
    const struct model_spec *spec = model_get_spec(model);
    const struct backend_ops *ops = backend_ops_of(boot->backend);
    const uint32_t ranks = boot->plan.rank_count;
    double tokens = (double) bench->batch;
    double prefill = tokens * bench->prompt_tokens / prefill_s;
    double decode = bench->gen_tokens ? tokens * bench->gen_tokens / decode_s : 0;
    /* Bytes a step reads: all weights once, and each sequence's KV at its mean depth. */
    uint64_t block_bytes = 0;
    for (uint32_t r = 0; r < ranks; r++) block_bytes += ops->block_bytes(boot->backend, r);
    double kv = (double) block_bytes / (double) options_count(options, OPT_BLOCK_SIZE);
    double depth = bench->prompt_tokens + bench->gen_tokens / 2.0;
    double step_bytes = (double) model_weight_bytes(model) + tokens * depth * kv;
    double read = bench->gen_tokens ? step_bytes * bench->gen_tokens / decode_s / 1e9 : 0;
    struct predicted predicted = predict(options, model, boot, bench, kv, measured);
    struct bench_stamp stamp;
    bench_stamp_read(&stamp);
    if (options_bool(options, OPT_JSON)) {
        printf("{\"model\":\"%s\",\"weights\":\"%s\",\"numerics\":\"%s\",\"prompt_tokens\":%u,"
               "\"gen_tokens\":%u,\"batch\":%u,\"threads\":%u,\"tensor_parallel\":%u,"
               "\"prefill_tokens_per_s\":%.2f,"
               "\"decode_tokens_per_s\":%.2f,\"read_gb_per_s\":%.2f,\"ceiling_gb_per_s\":%.2f,"
               "\"ceiling_tflops\":%.4f,\"ceiling_product_gb_per_s\":%.2f,\"predicted_prefill_"
               "tokens_per_s\":%.2f,"
               "\"predicted_decode_tokens_per_s\":%.2f,"
               "\"version\":\"%s\",\"commit\":\"%s\",\"machine\":\"%s\",\"date\":\"%s\"}\n",
               spec->name, tensor_type_name(spec->weight_type),
               numerics_name(ops->numerics(boot->backend)), bench->prompt_tokens, bench->gen_tokens,
               bench->batch, threads, ranks, prefill, decode, read, ceiling, tflops,
               measured->product_gb_per_s, predicted.prefill_tokens_per_s,
               predicted.decode_tokens_per_s, GRAMME_VERSION, stamp.commit, stamp.machine,
               stamp.date);
        return;
    }
    printf("%s %s, %s, %u ranks, %u threads, %s\n", spec->name, tensor_type_name(spec->weight_type),
           numerics_name(ops->numerics(boot->backend)), ranks, threads, stamp.machine);
    printf("prefill %u x %u tokens   %10.1f tokens/s\n", bench->batch, bench->prompt_tokens,
           prefill);
    printf(
        "decode  %u x %u tokens   %10.1f tokens/s   %.1f GB/s read, %.0f %% of the %.1f GB/s that "
        "memory gives\n",
        bench->batch, bench->gen_tokens, decode, read, ceiling > 0 ? 100 * read / ceiling : 0.0,
        ceiling);
    printf("predicted by plan: prefill %.1f (%+.0f %%), decode %.1f (%+.0f %%) of %.3f TFLOP/s\n",
           predicted.prefill_tokens_per_s, 100 * (predicted.prefill_tokens_per_s / prefill - 1),
           predicted.decode_tokens_per_s,
           decode > 0 ? 100 * (predicted.decode_tokens_per_s / decode - 1) : 0.0, tflops);
}

static enum err run_all(const struct options *options, struct model *model, struct err_text *text) {
    struct worker_boot_options boot_options;
    struct worker_boot boot = {0};
    enum err e = cmd_model_boot_options(options, model_get_spec(model), text, &boot_options);
    struct bench_case bench = {
        .prompt_tokens = (uint32_t) options_count(options, OPT_PROMPT_TOKENS),
        .gen_tokens = (uint32_t) options_count(options, OPT_GEN_TOKENS),
        .batch = (uint32_t) options_count(options, OPT_BATCH),
    };
    uint32_t repeat = (uint32_t) options_count(options, OPT_REPEAT);
    if (!e && bench.batch > boot_options.backend.seat_count)
        e = err_set(text, ERR_USAGE, "--batch %u is more than --max-num-seqs %u", bench.batch,
                    boot_options.backend.seat_count);
    if (e) return e;
    struct cmd_rates rates; /* what this machine's memory and cores give */
    e = cmd_rates_measure(boot_options.backend.thread_count, model_get_spec(model),
                          boot_options.backend.numerics, text, &rates);
    if (!e) e = worker_boot_open(&boot_options, model, cmd_model_progress, NULL, text, &boot);
    double *prefill = alloc_zero(repeat, sizeof *prefill),
           *decode = alloc_zero(repeat, sizeof *decode);
    if (!e && (!prefill || !decode)) e = ERR_MEMORY;
    uint64_t state = 42;
    struct bench_case warm = bench;
    if (warm.gen_tokens > 8) warm.gen_tokens = 8;
    if (!e) e = run_case(boot.engine, model_get_spec(model)->vocab_size, &warm, &state, text);
    for (uint32_t i = 0; !e && i < repeat; i++) {
        e = run_case(boot.engine, model_get_spec(model)->vocab_size, &bench, &state, text);
        prefill[i] = bench.prefill_s;
        decode[i] = bench.decode_s;
    }
    if (!e)
        print_result(options, model, &boot, &bench, boot_options.backend.thread_count,
                     median(prefill, repeat), median(decode, repeat), &rates);
    alloc_free(prefill);
    alloc_free(decode);
    worker_boot_close(&boot);
    return e;
}

int bench_engine_run(int argc, char **argv) {
    struct options *options = NULL;
    const char *positional[CMD_POSITIONAL_MAX];
    uint32_t positional_count = 0;
    int status = cmd_options(OPTION_BENCH, argc, argv, &options, positional, &positional_count);
    if (status) return status;
    struct err_text text = {0};
    struct model *model = NULL;
    enum err e = cmd_model_open(options, positional_count ? positional[0] : NULL, &text, &model);
    if (!e) e = run_all(options, model, &text);
    model_close(model);
    options_destroy(options);
    return e ? cmd_fail(e, &text) : CMD_DONE;
}
