/* engine_golden - prints what the engine thinks of given token sequences, for engine_golden.py.
 *
 * usage: engine_golden MODEL NUMERICS KV_DTYPE < sequences
 * A line in: "FIRST id,id,...".  A line out for each position from FIRST on: the given id, then the
 * 16 likeliest ids with their logprobs, as prompt logprobs of one request. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "worker/worker_boot.h"

#define SEQUENCE_TOKENS_MAX 4096
#define TOP 16

static void print_positions(const struct engine_output *output, const uint32_t *ids,
                            uint32_t first) {
    for (uint32_t i = 0; i < output->prompt_logprob_count; i++) {
        const struct token_logprob *entry = &output->prompt_logprobs[i];
        uint32_t position = output->prompt_first + i;
        if (position < first) continue;
        printf("%u %u", position, ids[position]);
        for (uint32_t k = 0; k < entry->top_count; k++)
            printf(" %u %.6f", entry->top_ids[k], (double) entry->top_logprobs[k]);
        putchar('\n');
    }
}

static enum err run_sequence(struct engine *engine, const uint32_t *ids, uint32_t count,
                             uint32_t first, struct err_text *text) {
    struct sampling sampling;
    sampling_init(&sampling);
    sampling.max_tokens = 1;
    sampling.prompt_logprobs = TOP;
    struct engine_choice choice = {0};
    struct engine_request request = {.id = 1,
                                     .prompt_ids = ids,
                                     .prompt_count = count,
                                     .choices = &choice,
                                     .choice_count = 1,
                                     .sampling = &sampling};
    enum err e = engine_add(engine, &request, text);
    while (!e && !engine_is_idle(engine)) {
        const struct engine_output *outputs;
        uint32_t output_count;
        e = engine_step(engine, clock_now_us(), &outputs, &output_count);
        for (uint32_t i = 0; !e && i < output_count; i++) print_positions(&outputs[i], ids, first);
    }
    return e;
}

static enum err run_all(struct engine *engine, struct err_text *text) {
    static char line[SEQUENCE_TOKENS_MAX * 8];
    static uint32_t ids[SEQUENCE_TOKENS_MAX];
    while (fgets(line, sizeof line, stdin)) {
        char *at = line;
        uint32_t first = (uint32_t) strtoul(at, &at, 10), count = 0;
        while (count < SEQUENCE_TOKENS_MAX && (*at == ' ' || *at == ','))
            ids[count++] = (uint32_t) strtoul(at + 1, &at, 10);
        enum err e = run_sequence(engine, ids, count, first, text);
        if (e) return e;
        puts("end");
    }
    return ERR_OK;
}

int main(int argc, char **argv) {
    struct err_text text = {0};
    struct model *model = NULL;
    struct worker_boot boot = {0};
    struct model_open_options open = {0};
    struct worker_boot_options options = {
        .ops = &cpu_backend_ops,
        .backend = {.rank_count = 1,
                    .block_size = 16,
                    .seat_count = 4,
                    .batched_tokens_max = 256,
                    .row_tile = 4096,
                    .model_len_max = 1024,
                    .thread_count = 2,
                    .may_spin = false},
        .engine = {.queue_requests_max = 4,
                   .queue_prompt_bytes_max = 1 << 20,
                   .is_chunked_prefill = true,
                   .has_prefix_cache = true},
        .budget = {.total_bytes = 8ull << 30, .available_bytes = 8ull << 30},
    };
    if (argc != 4 || !numerics_parse(argv[2], &options.backend.numerics) ||
        !kv_dtype_parse(argv[3], &options.backend.kv_dtype)) {
        fputs("usage: engine_golden MODEL NUMERICS KV_DTYPE < sequences\n", stderr);
        return 2;
    }
    enum err e = model_open(argv[1], &open, &text, &model);
    if (!e) e = worker_boot_open(&options, model, NULL, NULL, &text, &boot);
    if (!e) e = run_all(boot.engine, &text);
    if (e) fprintf(stderr, "engine_golden: %s\n", text.text[0] ? text.text : err_name(e));
    worker_boot_close(&boot);
    model_close(model);
    return e != ERR_OK;
}
