/* check_peers - what the components of a graph say against one another. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "plan/check_impl.h"

#define SMALL_STEP_TOKENS 256 /* below, a step is mostly reading weights: prompts crawl */

static const struct options *options_of(const struct checker *checker, enum graph_section_id id) {
    return checker->graph->sections[id].options;
}

struct where {
    char text[32];
};

/* " (line 3)", " (default)", " (command line)". */
static struct where where(const struct checker *checker, enum graph_section_id id,
                          enum option_id key) {
    struct where where;
    struct problem_mark mark = graph_mark(checker->graph, id, key);
    if (!check_is_written(checker, id, key)) snprintf(where.text, sizeof where.text, " (default)");
    else if (mark.line) snprintf(where.text, sizeof where.text, " (line %u)", mark.line);
    else snprintf(where.text, sizeof where.text, " (command line)");
    return where;
}

/* The components of this graph that the file may set apart. */
static bool takes_part(const struct checker *checker, enum graph_section_id id) {
    const struct graph_section *section = &checker->graph->sections[id];
    bool is_worker = id == GRAPH_VLLM_WORKER || id == GRAPH_PREFILL_WORKER;
    if (!section->is_used || section->is_broken) return false;
    /* A worker that lacks, or names no model at all, is told so: nothing else is to compare. */
    if (is_worker && !options_text(section->options, OPT_MODEL)) return false;
    return section->is_present || (is_worker && !checker->graph->has_file);
}

/* --- one model, one block size, one KV format ---------------------------------------------- */

static bool paths_equal(const char *a, const char *b) {
    size_t a_bytes = strlen(a), b_bytes = strlen(b);
    while (a_bytes > 1 && a[a_bytes - 1] == '/') a_bytes--;
    while (b_bytes > 1 && b[b_bytes - 1] == '/') b_bytes--;
    if (a_bytes == b_bytes && memcmp(a, b, a_bytes) == 0) return true;
    struct stat a_stat, b_stat; /* two ways to one place */
    return stat(a, &a_stat) == 0 && stat(b, &b_stat) == 0 && a_stat.st_dev == b_stat.st_dev &&
           a_stat.st_ino == b_stat.st_ino;
}

/* org/NAME and /path/NAME: one tokenizer, which is all that Processor and Router take of it. */
static bool names_equal(const char *a, const char *b) {
    const char *a_last = strrchr(a, '/'), *b_last = strrchr(b, '/');
    return (a_last || b_last) && strcmp(a_last ? a_last + 1 : a, b_last ? b_last + 1 : b) == 0;
}

static const enum graph_section_id peers[] = {GRAPH_PROCESSOR, GRAPH_ROUTER, GRAPH_VLLM_WORKER,
                                              GRAPH_PREFILL_WORKER};

/* Everyone but `alone` agrees. */
static bool is_alone(const struct checker *checker, enum graph_section_id alone) {
    const char *common = NULL;
    uint32_t count = 0;
    for (size_t i = 0; i < ARRAY_COUNT(peers); i++) {
        if (peers[i] == alone || !takes_part(checker, peers[i])) continue;
        if (!check_is_written(checker, peers[i], OPT_MODEL)) continue;
        const char *model = options_text(options_of(checker, peers[i]), OPT_MODEL);
        if (common && !paths_equal(common, model)) return false;
        common = model;
        count++;
    }
    return count >= 2;
}

static void compare_models(struct checker *checker) {
    const char *decode = options_text(options_of(checker, GRAPH_VLLM_WORKER), OPT_MODEL);
    if (!decode || !takes_part(checker, GRAPH_VLLM_WORKER)) return;
    bool is_decode_alone = false;
    for (size_t i = 0; i < ARRAY_COUNT(peers); i++) {
        enum graph_section_id id = peers[i];
        if (id == GRAPH_VLLM_WORKER || !takes_part(checker, id) ||
            !check_is_written(checker, id, OPT_MODEL))
            continue;
        const char *other = options_text(options_of(checker, id), OPT_MODEL);
        if (paths_equal(decode, other)) continue;
        if (id != GRAPH_PREFILL_WORKER && names_equal(decode, other)) continue;
        bool is_told = is_decode_alone;
        is_decode_alone |= is_alone(checker, GRAPH_VLLM_WORKER);
        if (is_told) continue; /* the same cause */
        enum graph_section_id wrong = is_decode_alone ? GRAPH_VLLM_WORKER : id;
        enum graph_section_id right = is_decode_alone ? id : GRAPH_VLLM_WORKER;
        const char *wanted = is_decode_alone ? other : decode;
        char fix[400];
        snprintf(fix, sizeof fix, "write model: %.300s", wanted);
        struct problem *problem = problem_add(
            checker->problems, PROBLEM_ERROR, "model-differs", graph_section_name(wrong), "model",
            check_mark(checker, wrong, OPT_MODEL), fix, "'%.200s' differs from %s: '%.200s'%s",
            is_decode_alone ? decode : other, graph_section_name(right), wanted,
            where(checker, right, OPT_MODEL).text);
        /* Two that differ need a decision; one against two others does not. */
        if (is_alone(checker, wrong)) check_mend(checker, problem, wrong, OPT_MODEL, wanted);
    }
}

static void refuse_difference(struct checker *checker, enum graph_section_id id, enum option_id key,
                              const char *code, const char *mine, const char *theirs) {
    struct problem_mark mark = check_mark(checker, id, key);
    const char *name = option_get(key)->name;
    char fix[120];
    snprintf(fix, sizeof fix, "write %s: %s", name, theirs);
    struct problem *problem = problem_add(
        checker->problems, PROBLEM_ERROR, code, graph_section_name(id), name, mark, fix,
        "%s differs: %s %s%s, VllmWorker %s%s", name, graph_section_name(id), mine,
        where(checker, id, key).text, theirs, where(checker, GRAPH_VLLM_WORKER, key).text);
    check_mend(checker, problem, id, key, theirs);
}

static void compare_blocks(struct checker *checker) {
    uint64_t decode = options_count(options_of(checker, GRAPH_VLLM_WORKER), OPT_BLOCK_SIZE);
    if (!takes_part(checker, GRAPH_VLLM_WORKER) ||
        check_is_refused(checker, GRAPH_VLLM_WORKER, OPT_BLOCK_SIZE))
        return;
    for (size_t i = 0; i < ARRAY_COUNT(peers); i++) {
        enum graph_section_id id = peers[i];
        if (id == GRAPH_VLLM_WORKER || !takes_part(checker, id) ||
            check_is_refused(checker, id, OPT_BLOCK_SIZE))
            continue;
        /* Processor and Router have no blocks of their own: unwritten, they take the worker's. */
        if (id != GRAPH_PREFILL_WORKER && !check_is_written(checker, id, OPT_BLOCK_SIZE)) continue;
        uint64_t other = options_count(options_of(checker, id), OPT_BLOCK_SIZE);
        if (other == decode) continue;
        char mine[24], theirs[24];
        snprintf(mine, sizeof mine, "%llu", (unsigned long long) other);
        snprintf(theirs, sizeof theirs, "%llu", (unsigned long long) decode);
        refuse_difference(checker, id, OPT_BLOCK_SIZE, "block-size-differs", mine, theirs);
    }
}

static void compare_words(struct checker *checker) {
    static const struct {
        enum option_id id;
        const char *code;
    } words[] = {{OPT_KV_CACHE_DTYPE, "kv-dtype-differs"}, {OPT_DTYPE, "dtype-differs"}};
    if (!takes_part(checker, GRAPH_PREFILL_WORKER) || !takes_part(checker, GRAPH_VLLM_WORKER))
        return;
    for (size_t i = 0; i < ARRAY_COUNT(words); i++) {
        const char *decode = options_text(options_of(checker, GRAPH_VLLM_WORKER), words[i].id);
        const char *prefill = options_text(options_of(checker, GRAPH_PREFILL_WORKER), words[i].id);
        if (strcmp(decode, prefill) == 0 ||
            check_is_refused(checker, GRAPH_VLLM_WORKER, words[i].id) ||
            check_is_refused(checker, GRAPH_PREFILL_WORKER, words[i].id))
            continue;
        /* `auto` is what the checkpoint holds, most often the other's very word. */
        bool is_auto = strcmp(decode, "auto") == 0 || strcmp(prefill, "auto") == 0;
        bool is_wide = strcmp(decode, "float32") == 0 || strcmp(prefill, "float32") == 0;
        if (words[i].id == OPT_DTYPE && is_auto && !is_wide) continue;
        refuse_difference(checker, GRAPH_PREFILL_WORKER, words[i].id, words[i].code, prefill,
                          decode);
    }
}

static bool shares_name(const struct options *a, const struct options *b) {
    for (uint32_t i = 0; i < options_list_count(a, OPT_SERVED_MODEL_NAME); i++)
        for (uint32_t k = 0; k < options_list_count(b, OPT_SERVED_MODEL_NAME); k++)
            if (strcmp(options_list_item(a, OPT_SERVED_MODEL_NAME, i),
                       options_list_item(b, OPT_SERVED_MODEL_NAME, k)) == 0)
                return true;
    return false;
}

static void compare_served_names(struct checker *checker) {
    const struct options *frontend = options_of(checker, GRAPH_FRONTEND);
    if (!options_is_set(frontend, OPT_SERVED_MODEL_NAME)) return;
    for (size_t i = 0; i < ARRAY_COUNT(peers); i++) {
        const struct options *other = options_of(checker, peers[i]);
        if (!takes_part(checker, peers[i]) || !options_is_set(other, OPT_SERVED_MODEL_NAME) ||
            shares_name(frontend, other))
            continue;
        char fix[320];
        snprintf(fix, sizeof fix, "write served-model-name: %.250s, or remove it here",
                 options_list_item(frontend, OPT_SERVED_MODEL_NAME, 0));
        struct problem *problem = problem_add(
            checker->problems, PROBLEM_ERROR, "served-name-differs", graph_section_name(peers[i]),
            "served-model-name", check_mark(checker, peers[i], OPT_SERVED_MODEL_NAME), fix,
            "'%.100s' differs from Frontend's '%.100s'",
            options_list_item(other, OPT_SERVED_MODEL_NAME, 0),
            options_list_item(frontend, OPT_SERVED_MODEL_NAME, 0));
        check_mend(checker, problem, peers[i], OPT_SERVED_MODEL_NAME,
                   options_list_item(frontend, OPT_SERVED_MODEL_NAME, 0));
    }
}

/* --- prefill, here or there ----------------------------------------------------------------- */

static void check_remote_prefill(struct checker *checker) {
    const struct options *decode = options_of(checker, GRAPH_VLLM_WORKER);
    bool is_remote = options_bool(decode, OPT_REMOTE_PREFILL);
    struct problem_mark mark = check_mark(checker, GRAPH_VLLM_WORKER, OPT_REMOTE_PREFILL);
    const struct graph_section *section = &checker->graph->sections[GRAPH_VLLM_WORKER];
    if (check_is_refused(checker, GRAPH_VLLM_WORKER, OPT_REMOTE_PREFILL) || section->is_broken ||
        (checker->graph->has_file && !section->is_present))
        return;
    bool has_prefill =
        !checker->graph->has_file || checker->graph->sections[GRAPH_PREFILL_WORKER].is_present;
    if (graph_is_disagg(checker->graph->kind) && !is_remote && has_prefill) {
        bool is_conditional = options_bool(decode, OPT_CONDITIONAL_DISAGG);
        struct problem *problem =
            problem_add(checker->problems, PROBLEM_ERROR, "remote-prefill-off", "VllmWorker",
                        "remote-prefill", mark, "write remote-prefill: true",
                        "the prefill workers would never get work: remote-prefill is the switch%s",
                        is_conditional ? ", conditional-disagg alone does nothing" : "");
        check_mend(checker, problem, GRAPH_VLLM_WORKER, OPT_REMOTE_PREFILL, "true");
    }
    if (!graph_is_disagg(checker->graph->kind) && is_remote) {
        struct problem *problem = problem_add(
            checker->problems, PROBLEM_ERROR, "remote-prefill-agg", "VllmWorker", "remote-prefill",
            mark, "remove remote-prefill, or serve disagg", "the graph %s has no prefill workers",
            graph_kind_name(checker->graph->kind));
        if (!mark.is_common) problem_set_edit(problem, PROBLEM_EDIT_REMOVE, 0, "-");
    }
}

/* --- the length of a request --------------------------------------------------------------- */

static const struct graph_plan_component *component_of(const struct checker *checker,
                                                       enum graph_section_id id) {
    for (uint32_t i = 0; i < checker->plan.component_count; i++)
        if (checker->plan.components[i].section == id) return &checker->plan.components[i];
    return NULL;
}

/* As written, else what its plan holds; 0: nobody knows. */
static uint64_t len_of(const struct checker *checker, enum graph_section_id id) {
    const struct options *options = options_of(checker, id);
    const struct graph_plan_component *component = component_of(checker, id);
    if (options_is_set(options, OPT_MAX_MODEL_LEN))
        return options_count(options, OPT_MAX_MODEL_LEN);
    return component && component->plan ? component->plan->model_len_max : 0;
}

/* It runs: what the prefill workers refuse, the decode worker computes itself, which is the load
 * that they were to take.  The other way round nothing is lost but the number in the file. */
static void compare_lengths(struct checker *checker) {
    enum graph_section_id prefill = GRAPH_PREFILL_WORKER, decode = GRAPH_VLLM_WORKER;
    if (!takes_part(checker, prefill) || !takes_part(checker, decode) ||
        check_is_refused(checker, prefill, OPT_MAX_MODEL_LEN) ||
        check_is_refused(checker, decode, OPT_MAX_MODEL_LEN))
        return;
    uint64_t mine = len_of(checker, prefill), theirs = len_of(checker, decode);
    const struct graph_plan_component *component = component_of(checker, prefill);
    if (!mine || !theirs || mine == theirs || (component->plan && !component->plan->fits)) return;
    struct problem_mark mark = check_mark(checker, prefill, OPT_MAX_MODEL_LEN);
    if (mine > theirs) {
        if (check_is_written(checker, prefill, OPT_MAX_MODEL_LEN))
            problem_add(checker->problems, PROBLEM_NOTE, "len-differs", "PrefillWorker",
                        "max-model-len", mark, NULL,
                        "%llu, and no request is longer than VllmWorker's %llu%s",
                        (unsigned long long) mine, (unsigned long long) theirs,
                        where(checker, decode, OPT_MAX_MODEL_LEN).text);
        return;
    }
    char fix[120];
    bool is_own_cpu = !(component->budget.utilization > 0); /* nothing to take a share of */
    bool holds = is_own_cpu || graph_plan_try(component, 0, 0, (uint32_t) theirs, NULL);
    uint64_t right = holds ? theirs : mine;
    snprintf(fix, sizeof fix, "write %smax-model-len: %llu", holds ? "" : "VllmWorker.",
             (unsigned long long) right);
    /* Where nobody wrote one it is what the cards hold: worth knowing, and no mistake. */
    bool is_written = check_is_written(checker, prefill, OPT_MAX_MODEL_LEN) ||
                      check_is_written(checker, decode, OPT_MAX_MODEL_LEN);
    problem_add(checker->problems, is_written ? PROBLEM_WARNING : PROBLEM_NOTE, "len-differs",
                "PrefillWorker", "max-model-len", mark, fix,
                "%llu%s is less than VllmWorker's %llu%s: longer prompts are prefilled by "
                "VllmWorker",
                (unsigned long long) mine,
                component->plan && component->plan->is_len_shrunk ? ", all that fits," : "",
                (unsigned long long) theirs,
                is_written ? where(checker, decode, OPT_MAX_MODEL_LEN).text : "");
}

/* --- the step ------------------------------------------------------------------------------ */

static void check_step(struct checker *checker, enum graph_section_id id) {
    const struct options *options = options_of(checker, id);
    uint64_t step = options_count(options, OPT_MAX_NUM_BATCHED_TOKENS);
    uint64_t seats = options_count(options, OPT_MAX_NUM_SEQS);
    bool has_len = options_is_set(options, OPT_MAX_MODEL_LEN);
    uint64_t len = has_len ? options_count(options, OPT_MAX_MODEL_LEN) : 0;
    const struct graph_plan_component *component = component_of(checker, id);
    if (!has_len && component && component->plan) len = component->plan->model_len_max;
    struct problem_mark mark = check_mark(checker, id, OPT_MAX_NUM_BATCHED_TOKENS);
    const char *name = graph_section_name(id), *key = "max-num-batched-tokens";
    bool is_chunked = options_bool(options, OPT_ENABLE_CHUNKED_PREFILL);
    char fix[120], value[24];
    snprintf(fix, sizeof fix, "write max-num-batched-tokens: %llu, or enable-chunked-prefill: true",
             (unsigned long long) len);
    if (check_is_refused(checker, id, OPT_MAX_NUM_BATCHED_TOKENS) ||
        check_is_refused(checker, id, OPT_ENABLE_CHUNKED_PREFILL))
        return;
    bool is_len_told = check_is_refused(checker, id, OPT_MAX_MODEL_LEN);
    if (!is_chunked && step < len && !is_len_told) {
        struct problem *problem = problem_add(
            checker->problems, PROBLEM_ERROR, "step-too-small", name, key, mark, fix,
            "%llu is smaller than max-model-len %llu and chunked prefill is off: longer "
            "prompts could not be computed",
            (unsigned long long) step, (unsigned long long) len);
        snprintf(value, sizeof value, "%llu", (unsigned long long) len);
        check_mend(checker, problem, id, OPT_MAX_NUM_BATCHED_TOKENS, value);
    } else if (step < len && step < SMALL_STEP_TOKENS &&
               options_is_set(options, OPT_MAX_NUM_BATCHED_TOKENS) &&
               !options_is_set(options, OPT_ENABLE_CHUNKED_PREFILL) && step >= seats) {
        problem_add(checker->problems, PROBLEM_WARNING, "step-small", name, key, mark, fix,
                    "prompts of up to %llu tokens are computed in chunks of %llu: that is slow, "
                    "and the classic system answered them with nothing",
                    (unsigned long long) len, (unsigned long long) step);
    }
    if (step >= seats || check_is_refused(checker, id, OPT_MAX_NUM_SEQS)) return;
    snprintf(fix, sizeof fix, "write max-num-batched-tokens: %llu, or max-num-seqs: %llu",
             (unsigned long long) (seats > 2048 ? seats : 2048), (unsigned long long) step);
    struct problem *problem = problem_add(
        checker->problems, PROBLEM_ERROR, "step-below-seqs", name, key, mark, fix,
        "%llu is smaller than max-num-seqs %llu%s: a step holds a token of each sequence",
        (unsigned long long) step, (unsigned long long) seats,
        check_is_written(checker, id, OPT_MAX_NUM_SEQS) ? "" : " (default)");
    snprintf(value, sizeof value, "%llu", (unsigned long long) (seats > 2048 ? seats : 2048));
    check_mend(checker, problem, id, OPT_MAX_NUM_BATCHED_TOKENS, value);
}

static void check_block(struct checker *checker, enum graph_section_id id) {
    uint64_t block = options_count(options_of(checker, id), OPT_BLOCK_SIZE);
    if ((block & (block - 1)) == 0) return;
    problem_add(checker->problems, PROBLEM_ERROR, "bad-value", graph_section_name(id), "block-size",
                check_mark(checker, id, OPT_BLOCK_SIZE), "write 16, 32, 64 or 128",
                "%llu is none of 8, 16, 32, 64, 128", (unsigned long long) block);
}

void check_peers(struct checker *checker) {
    compare_models(checker);
    compare_blocks(checker);
    compare_words(checker);
    compare_served_names(checker);
    check_remote_prefill(checker);
    compare_lengths(checker);
    for (int i = GRAPH_VLLM_WORKER; i <= GRAPH_PREFILL_WORKER; i++) {
        if (!takes_part(checker, (enum graph_section_id) i)) continue;
        check_step(checker, (enum graph_section_id) i);
        check_block(checker, (enum graph_section_id) i);
    }
}
