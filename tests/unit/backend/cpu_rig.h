/* cpu_rig - a loaded CPU backend for tests: plan, memory, load, sequences with block tables. */
#ifndef GRAMME_TESTS_UNIT_BACKEND_CPU_RIG_H
#define GRAMME_TESTS_UNIT_BACKEND_CPU_RIG_H

#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "backend/cpu/cpu_backend.h"
#include "base/check.h"

#define RIG_LEN_MAX 2048
#define RIG_SEATS_MAX 16
#define RIG_RANKS_MAX 16

struct rig {
    struct model *model;
    struct backend *backend;
    struct mem *mems[RIG_RANKS_MAX];
    struct backend_options options;
};

/* Whether whole models can be computed by this body here: it is this processor's, and not the
 * scalar one in a sanitized build, where it takes minutes (cpu_matmul_test has its reads there). */
static inline bool rig_has_body(const char *name) {
    enum cpu_body body;
    if (CHECK_IS_SANITIZED && name && strcmp(name, "scalar") == 0) return false;
    return cpu_body_choose(name, NULL, &body) == ERR_OK;
}

struct rig_sequence {
    uint32_t seat;
    uint32_t ids[RIG_LEN_MAX]; /* prompt and output */
    uint32_t prompt_count, count;
    uint32_t computed; /* tokens whose KV is there */
    uint32_t blocks[RIG_LEN_MAX / 8];
    struct sampling sampling;
    uint32_t choice_index;
};

__attribute__((unused)) static struct backend_options rig_options(void) {
    return (struct backend_options){
        .rank_count = 1,
        .block_size = 16,
        .seat_count = RIG_SEATS_MAX,
        .batched_tokens_max = 512,
        .model_len_max = RIG_LEN_MAX,
        .row_tile = 4096,
        .thread_count = 1,
        .may_spin = true,
    };
}

__attribute__((unused)) static const struct backend_ops *rig_ops(void) { return &cpu_backend_ops; }

/* spec NULL: the model's own. */
__attribute__((unused)) static void rig_open(struct rig *rig, struct model *model,
                                             const struct model_spec *spec,
                                             const struct backend_options *options,
                                             uint32_t block_count) {
    struct err_text text = {""};
    static struct mem_plan plan;
    const uint32_t ranks = options->rank_count;
    *rig = (struct rig){.model = model, .options = *options};
    rig->options.model = model;
    assert_in_range(ranks, 1, RIG_RANKS_MAX);
    if (rig_ops()->open(spec ? spec : model_get_spec(model), &rig->options, &text, &rig->backend))
        fail_msg("open: %s", text.text);
    for (uint32_t r = 0; r < ranks; r++) {
        plan = (struct mem_plan){.line_count = 0};
        rig_ops()->plan(rig->backend, r, &plan);
        mem_plan_add(&plan, MEM_KV, block_count * rig_ops()->block_bytes(rig->backend, r), "kv");
        if (mem_create(&plan, UINT64_MAX, &text, &rig->mems[r])) fail_msg("mem: %s", text.text);
    }
    if (rig_ops()->load(rig->backend, model, block_count, rig->mems, NULL, NULL, &text))
        fail_msg("load: %s", text.text);
    for (uint32_t r = 0; r < ranks; r++)
        if (mem_seal(rig->mems[r], &text)) fail_msg("seal of rank %u: %s", r, text.text);
}

__attribute__((unused)) static void rig_close(struct rig *rig) {
    rig_ops()->close(rig->backend);
    for (uint32_t r = 0; r < RIG_RANKS_MAX; r++) mem_destroy(rig->mems[r]);
}

__attribute__((unused)) static struct cpu_backend *rig_cpu(struct rig *rig) {
    return (struct cpu_backend *) (void *) rig->backend;
}

__attribute__((unused)) static struct model *rig_dummy(const char *shape, enum tensor_type type) {
    struct model *model = NULL;
    struct err_text text = {""};
    struct model_open_options options = {
        .is_dummy = true, .dummy_seed = 1, .dummy_type = type, .shape = shape};
    if (model_open("test", &options, &text, &model)) fail_msg("%s", text.text);
    return model;
}

/* The demo model's path, or NULL (the test is then skipped). */
__attribute__((unused)) static const char *rig_demo_path(void) {
    static char path[4096];
    const char *named = getenv("GRAMME_MODEL");
    if (named && *named) return named;
    glob_t found;
    const char *patterns[] = {"build/models/*.gguf", "models/*.gguf", "../build/models/*.gguf"};
    for (size_t i = 0; i < 3; i++) {
        if (glob(patterns[i], 0, NULL, &found) == 0) {
            snprintf(path, sizeof path, "%s", found.gl_pathv[0]);
            globfree(&found);
            return path;
        }
    }
    return NULL;
}

/* Blocks first_block + 0, + stride, ...; the seat is set. */
__attribute__((unused)) static void rig_sequence(struct rig *rig, struct rig_sequence *sequence,
                                                 uint32_t seat, const uint32_t *ids, uint32_t count,
                                                 uint32_t first_block, uint32_t stride) {
    sequence->seat = seat;
    memcpy(sequence->ids, ids, count * sizeof *ids);
    sequence->prompt_count = sequence->count = count;
    sequence->computed = 0;
    for (uint32_t i = 0; i < RIG_LEN_MAX / rig->options.block_size; i++)
        sequence->blocks[i] = first_block + i * stride;
    struct seat_setup setup = {.prompt_ids = ids,
                               .prompt_count = count,
                               .sampling = &sequence->sampling,
                               .choice_index = sequence->choice_index};
    assert_int_equal(rig_ops()->seat_set(rig->backend, seat, &setup), ERR_OK);
}

/* The row of the sequence's next `chunk` tokens; samples when it ends the known ids. */
__attribute__((unused)) static struct batch_row
rig_row(const struct rig *rig, struct rig_sequence *sequence, uint32_t chunk) {
    uint32_t left = sequence->count - sequence->computed;
    uint32_t count = chunk < left ? chunk : left;
    return (struct batch_row){
        .seat = sequence->seat,
        .token_count = count,
        .tokens = sequence->ids + sequence->computed,
        .first_position = sequence->computed,
        .blocks = sequence->blocks,
        .block_count = RIG_LEN_MAX / rig->options.block_size,
        .wants_sample = count == left,
        .output_index = sequence->count - sequence->prompt_count,
    };
}

/* Runs one step over the rows (row i of sequences[i]) and takes the tokens drawn. */
__attribute__((unused)) static const struct result_row *
rig_step(struct rig *rig, struct batch_row *rows, struct rig_sequence *const *sequences,
         uint32_t row_count) {
    struct batch batch = {.rows = rows, .row_count = row_count};
    for (uint32_t i = 0; i < row_count; i++) batch.token_count += rows[i].token_count;
    const struct result_row *results;
    rig_ops()->submit(rig->backend, &batch);
    assert_int_equal(rig_ops()->collect(rig->backend, &results), ERR_OK);
    for (uint32_t i = 0; i < row_count; i++) {
        sequences[i]->computed += rows[i].token_count;
        if (!rows[i].wants_sample) continue;
        assert_int_equal(results[i].error, ERR_OK);
        sequences[i]->ids[sequences[i]->count++] = results[i].token_id;
    }
    return results;
}

#endif
