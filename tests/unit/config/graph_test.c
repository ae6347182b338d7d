/* Goal: every classic file is read as its user meant it, every legal one without an error, and
 * each thing wrong is named with section, key and place. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "config/graph.h"

static struct graph_source source_of(const char *yaml) {
    return (struct graph_source){
        .name = "test.yaml", .yaml = (const uint8_t *) yaml, .bytes = strlen(yaml)};
}

static void dump(const struct problem_list *problems) {
    struct buf out;
    buf_init(&out, 0);
    problem_print(problems, "file", false, &out);
    print_message("%s", buf_string(&out));
    buf_release(&out);
}

/* --- files that are legal ----------------------------------------------------------------- */

static void read_file(const char *folder, const char *name) {
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    static char text[65536];
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    text[bytes] = '\0';
    fclose(file);
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int) strcspn(name, ".-"), name); /* disagg.shipped.yaml */
    enum graph_kind kind;
    assert_true(graph_kind_of(word, &kind));
    struct problem_list problems = {0};
    struct graph graph;
    struct graph_source source = source_of(text);
    enum err e = graph_read(kind, &source, &problems, &graph);
    if (e || problem_count(&problems, PROBLEM_WARNING)) {
        print_message("%s:\n", name);
        dump(&problems);
    }
    assert_int_equal(e, ERR_OK);
    assert_int_equal(problem_count(&problems, PROBLEM_WARNING), 0);
    graph_release(&graph);
    problem_release(&problems);
}

/* Every YAML of a folder beside the tests. */
static int read_folder(const char *place) {
    const char *files = getenv("GRAMME_TEST_FILES");
    if (!files) skip();
    char folder[4096];
    snprintf(folder, sizeof folder, "%s/%s", files, place);
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (!strstr(entry->d_name, ".yaml")) continue;
        read_file(folder, entry->d_name);
        count++;
    }
    closedir(entries);
    return count;
}

static void test_legal_files(void **state) {
    (void) state;
    assert_true(read_folder("graph") >= 14);
    assert_int_equal(read_folder("../../../examples"), 8);
}

/* --- what is read ------------------------------------------------------------------------- */

static const char disagg_file[] = /* line numbers matter below */
    "Common:\n"
    "  model: /m\n"
    "  block-size: 64\n"
    "  router: kv\n"
    "Frontend:\n"
    "  served_model_name: [one, two]\n"
    "  endpoint: space.Processor.chat/completions\n"
    "Processor:\n"
    "  common-configs: [model, router]\n"
    "VllmWorker:\n"
    "  common-configs: [model, block-size]\n"
    "  block_size: 32\n"
    "  remote-prefill: true\n"
    "  enable-prefix-caching: false\n"
    "  gpu-memory-utilization: 0.8\n"
    "  ServiceArgs:\n"
    "    workers: 3\n"
    "    resources: {gpu: '4'}\n"
    "    envs:\n"
    "      - {name: A, value: b}\n"
    "PrefillWorker:\n"
    "  model-name: /m\n";

static void test_values_and_marks(void **state) {
    (void) state;
    struct problem_list problems = {0};
    struct graph graph;
    struct graph_source source = source_of(disagg_file);
    enum err e = graph_read(GRAPH_DISAGG_ROUTER, &source, &problems, &graph);
    if (e) dump(&problems);
    assert_int_equal(e, ERR_OK);
    const struct graph_section *worker = &graph.sections[GRAPH_VLLM_WORKER];
    assert_true(worker->is_present && worker->is_used);
    assert_int_equal(worker->replica_count, 3);
    assert_int_equal(worker->gpu_count, 4);
    assert_int_equal(worker->gpu_mark.line, 18);
    assert_int_equal(worker->env_count, 1);
    assert_string_equal(worker->envs[0].value, "b");
    assert_int_equal(options_count(worker->options, OPT_BLOCK_SIZE), 32);
    assert_int_equal(options_source(worker->options, OPT_BLOCK_SIZE), SOURCE_FILE);
    assert_false(options_bool(worker->options, OPT_ENABLE_PREFIX_CACHING));
    assert_true(options_bool(worker->options, OPT_REMOTE_PREFILL));
    struct problem_mark mark = graph_mark(&graph, GRAPH_VLLM_WORKER, OPT_MODEL);
    assert_true(mark.line == 2 && mark.column == 10 && mark.is_common);
    mark = graph_mark(&graph, GRAPH_VLLM_WORKER, OPT_BLOCK_SIZE);
    assert_true(mark.line == 12 && mark.column == 15 && !mark.is_common);
    const struct options *frontend = graph.sections[GRAPH_FRONTEND].options;
    assert_int_equal(options_list_count(frontend, OPT_SERVED_MODEL_NAME), 2);
    assert_string_equal(options_text(frontend, OPT_ROUTER), "kv");
    assert_string_equal(options_text(frontend, OPT_MODEL), "/m");
    assert_string_equal(options_text(graph.sections[GRAPH_PREFILL_WORKER].options, OPT_MODEL),
                        "/m");
    assert_string_equal(graph.name_space, "space");
    graph_release(&graph);
    problem_release(&problems);
}

static void test_precedence(void **state) {
    (void) state;
    static const char *const overrides[] = {"--VllmWorker.max-num-seqs=7",
                                            "--PrefillWorker.ServiceArgs.workers=2",
                                            "--Common.block_size=128",
                                            "--VllmWorker.ServiceArgs.resources.gpu=1",
                                            "--VllmWorker.enable-prefix-caching",
                                            "--Frontend.served_model_name=three"};
    static char variable0[] = "GRAMME_GPU_MEMORY_UTILIZATION=0.5", variable1[] = "GRAMME_THREADS=1";
    static char argument0[] = "--threads=2", argument1[] = "--max-num-seqs=9";
    char *const variables[] = {variable0, variable1, NULL};
    char *const arguments[] = {argument0, argument1};
    struct options *flags;
    struct err_text text;
    const char *positional[1];
    uint32_t count;
    assert_int_equal(options_create(OPTION_SERVE, &flags), ERR_OK);
    assert_int_equal(options_read_environment(flags, variables, &text), ERR_OK);
    assert_int_equal(options_read_arguments(flags, 2, arguments, positional, 1, &count, &text),
                     ERR_OK);
    struct problem_list problems = {0};
    struct graph graph;
    struct graph_source source = source_of(disagg_file);
    source.overrides = overrides;
    source.override_count = ARRAY_COUNT(overrides);
    source.flags = flags;
    enum err e = graph_read(GRAPH_DISAGG_ROUTER, &source, &problems, &graph);
    if (e) dump(&problems);
    assert_int_equal(e, ERR_OK);
    const struct graph_section *worker = &graph.sections[GRAPH_VLLM_WORKER];
    const struct graph_section *prefill = &graph.sections[GRAPH_PREFILL_WORKER];
    assert_int_equal(options_count(worker->options, OPT_MAX_NUM_SEQS), 7);
    assert_int_equal(options_count(prefill->options, OPT_MAX_NUM_SEQS), 9);
    assert_int_equal(options_count(worker->options, OPT_THREADS), 2);
    assert_int_equal(options_count(worker->options, OPT_BLOCK_SIZE), 32);
    assert_true(options_number(worker->options, OPT_GPU_MEMORY_UTILIZATION) == 0.5);
    assert_int_equal(options_source(worker->options, OPT_GPU_MEMORY_UTILIZATION),
                     SOURCE_ENVIRONMENT);
    assert_true(graph_mark(&graph, GRAPH_VLLM_WORKER, OPT_GPU_MEMORY_UTILIZATION).is_flag);
    assert_true(options_bool(worker->options, OPT_ENABLE_PREFIX_CACHING));
    assert_int_equal(prefill->replica_count, 2);
    assert_int_equal(worker->gpu_count, 1);
    const struct options *frontend = graph.sections[GRAPH_FRONTEND].options;
    assert_int_equal(options_list_count(frontend, OPT_SERVED_MODEL_NAME), 1);
    assert_string_equal(options_list_item(frontend, OPT_SERVED_MODEL_NAME, 0), "three");
    graph_release(&graph);
    problem_release(&problems);
    options_destroy(flags);
}

static void test_without_a_file(void **state) {
    (void) state;
    for (int kind = 0; kind < GRAPH_KIND_COUNT; kind++) {
        struct options *flags;
        struct err_text text;
        assert_int_equal(options_create(OPTION_SERVE, &flags), ERR_OK);
        assert_int_equal(options_set(flags, OPT_MODEL, "/m", SOURCE_FLAG, "-m", &text), ERR_OK);
        struct graph_source source = {.name = "command line", .flags = flags};
        struct problem_list problems = {0};
        struct graph graph;
        assert_int_equal(graph_read((enum graph_kind) kind, &source, &problems, &graph), ERR_OK);
        assert_int_equal(problems.count, 0);
        const struct options *worker = graph.sections[GRAPH_VLLM_WORKER].options;
        assert_string_equal(options_text(worker, OPT_MODEL), "/m");
        bool is_disagg = graph_is_disagg((enum graph_kind) kind);
        assert_int_equal(options_bool(worker, OPT_REMOTE_PREFILL), is_disagg);
        assert_int_equal(graph.sections[GRAPH_PREFILL_WORKER].is_used, is_disagg);
        assert_string_equal(options_text(graph.sections[GRAPH_FRONTEND].options, OPT_ROUTER),
                            graph_has_router((enum graph_kind) kind) ? "kv" : "least-loaded");
        graph_release(&graph);
        problem_release(&problems);
        options_destroy(flags);
    }
}

static void test_names(void **state) {
    (void) state;
    enum graph_kind kind;
    assert_true(graph_kind_of("graphs.disagg_router:Frontend", &kind));
    assert_int_equal(kind, GRAPH_DISAGG_ROUTER);
    assert_true(graph_kind_of("agg-router", &kind));
    assert_int_equal(kind, GRAPH_AGG_ROUTER);
    assert_false(graph_kind_of("graphs.agg:Backend", &kind));
    assert_false(graph_kind_of("aggregate", &kind));
    assert_true(graph_is_override("--VllmWorker.model=/m"));
    assert_true(graph_is_override("--VllmWorker.remote-prefill"));
    assert_false(graph_is_override("--model=a.B"));
    assert_false(graph_is_override("--Model=a.B"));
    assert_false(graph_is_override("-V.x"));
}

/* --- what is wrong ------------------------------------------------------------------------ */

struct wrong {
    enum graph_kind kind;
    const char *yaml;
    enum problem_severity severity;
    const char *code, *component, *key;
    uint32_t line, column;
    const char *part; /* of message or fix */
};

#define W "VllmWorker:\n  model: /m\n"

static const struct wrong wrongs[] = {
    {GRAPH_AGG, "VllmWorkr:\n  model: /m\n" W, PROBLEM_ERROR, "unknown-section", "VllmWorkr", "", 1,
     1, "did you mean VllmWorker?"},
    {GRAPH_AGG, W "  tensor-paralel-size: 4\n", PROBLEM_ERROR, "unknown-key", "VllmWorker",
     "tensor-paralel-size", 3, 3, "did you mean tensor-parallel-size?"},
    {GRAPH_AGG, W "  devices: cuda0\n", PROBLEM_ERROR, "unknown-key", "VllmWorker", "devices", 3, 3,
     "--devices is for the whole command line"},
    {GRAPH_AGG, W "  ServiceArgs:\n    env:\n      A: b\n", PROBLEM_ERROR, "unknown-key",
     "VllmWorker", "ServiceArgs.env", 4, 5, "did you mean envs?"},
    {GRAPH_AGG, W "  ServiceArgs:\n    envs:\n      A: b\n", PROBLEM_ERROR, "wrong-type",
     "VllmWorker", "ServiceArgs.envs", 4, 5, "a list of {name, value}"},
    {GRAPH_AGG, W "  ServiceArgs:\n    resources: {gpus: 1}\n", PROBLEM_ERROR, "unknown-key",
     "VllmWorker", "ServiceArgs.resources.gpus", 4, 17, "did you mean gpu?"},
    {GRAPH_AGG, W "  ServiceArgs:\n    resources: {gpu: two}\n", PROBLEM_ERROR, "wrong-type",
     "VllmWorker", "ServiceArgs.resources.gpu", 4, 22, "'two'"},
    {GRAPH_AGG, W "  ServiceArgs: {workers: -1}\n", PROBLEM_ERROR, "wrong-type", "VllmWorker",
     "ServiceArgs.workers", 3, 26, "'-1'"},
    {GRAPH_AGG, W "  gpu-memory-utilization: 80\n", PROBLEM_ERROR, "bad-value", "VllmWorker",
     "gpu-memory-utilization", 3, 27, "0.8"},
    {GRAPH_AGG, W "  max-num-seqs: yes\n", PROBLEM_ERROR, "bad-value", "VllmWorker", "max-num-seqs",
     3, 17, "'yes' is not a whole number"},
    {GRAPH_AGG, W "  max-model-len: -5\n", PROBLEM_ERROR, "bad-value", "VllmWorker",
     "max-model-len", 3, 18, "out of range"},
    {GRAPH_AGG, W "  max-model-len: [1]\n", PROBLEM_ERROR, "wrong-type", "VllmWorker",
     "max-model-len", 3, 18, "this is a list"},
    {GRAPH_AGG, W "  max-model-len:\n", PROBLEM_WARNING, "no-value", "VllmWorker", "max-model-len",
     3, 17, "default"},
    {GRAPH_AGG, W "  dtype: fp8\n", PROBLEM_ERROR, "bad-value", "VllmWorker", "dtype", 3, 10,
     "auto|float16"},
    {GRAPH_AGG, W "  enable-lora: true\n", PROBLEM_ERROR, "not-supported", "VllmWorker",
     "enable-lora", 3, 16, "serve the merged model"},
    {GRAPH_AGG, W "  swap-space: 2\n  enforce_eager: true\n", PROBLEM_NOTE, "no-effect", "", "", 3,
     15, "without effect here: "},
    {GRAPH_AGG, W "  kv-transfer-config: '{kv_connector: x}'\n", PROBLEM_ERROR,
     "kv-transfer-config", "VllmWorker", "kv-transfer-config", 3, 23, "not JSON"},
    {GRAPH_AGG, W "  kv-transfer-config: '{\"kv_connector\":\"DynamoNixlConector\"}'\n",
     PROBLEM_ERROR, "kv-transfer-config", "VllmWorker", "kv-transfer-config", 3, 23,
     "did you mean DynamoNixlConnector?"},
    {GRAPH_AGG, "Common: {modl: /m}\n" W, PROBLEM_ERROR, "unknown-key", "Common", "modl", 1, 10,
     "did you mean model?"},
    {GRAPH_AGG, "Common: {model: /m}\nVllmWorker:\n  model: /m\n  common-configs: [modell]\n",
     PROBLEM_ERROR, "common-missing", "VllmWorker", "common-configs", 4, 20, "did you mean model?"},
    {GRAPH_AGG, W "  common-configs: model\n", PROBLEM_ERROR, "wrong-type", "VllmWorker",
     "common-configs", 3, 19, "a list is wanted"},
    {GRAPH_AGG, W "  max-num-seqs: 1\n  max_num_seqs: 2\n", PROBLEM_ERROR, "duplicate-key",
     "VllmWorker", "max_num_seqs", 4, 3, "in line 3"},
    {GRAPH_AGG, W "  max-num-seqs: 1\n  max-num-seqs: 2\n", PROBLEM_ERROR, "duplicate-key",
     "VllmWorker", "max-num-seqs", 4, 3, "first in line 3"},
    {GRAPH_AGG, "Frontend: {port: 1}\n", PROBLEM_ERROR, "missing-section", "VllmWorker", "", 1, 1,
     "needs this section"},
    {GRAPH_DISAGG, W, PROBLEM_ERROR, "missing-section", "PrefillWorker", "", 1, 1, "serve agg"},
    {GRAPH_AGG, "VllmWorker:\n  max-num-seqs: 3\n", PROBLEM_ERROR, "model-missing", "VllmWorker",
     "model", 1, 1, "no model"},
    {GRAPH_AGG, W "PrefillWorker: {x: 1}\n", PROBLEM_NOTE, "unused-section", "PrefillWorker", "", 3,
     1, "does not use"},
    {GRAPH_AGG, "VllmWorker: 3\n", PROBLEM_ERROR, "wrong-type", "VllmWorker", "", 1, 13,
     "a single value"},
    {GRAPH_AGG, "Frontend:port\n", PROBLEM_ERROR, "wrong-type", "", "", 1, 1, "space behind"},
    {GRAPH_AGG, "- a\n", PROBLEM_ERROR, "wrong-type", "", "", 1, 1, "this is a list"},
    {GRAPH_AGG, W "Router: {tensor-parallel-size: 2}\n", PROBLEM_NOTE, "unused-section", "Router",
     "", 3, 1, ""},
    {GRAPH_AGG, W "Frontend: {tensor-parallel-size: 2}\n", PROBLEM_NOTE, "misplaced-key",
     "Frontend", "tensor-parallel-size", 3, 12, "no effect"},
};

static void test_wrong_files(void **state) {
    (void) state;
    for (size_t i = 0; i < ARRAY_COUNT(wrongs); i++) {
        const struct wrong *wrong = &wrongs[i];
        struct problem_list problems = {0};
        struct graph graph;
        struct graph_source source = source_of(wrong->yaml);
        enum err e = graph_read(wrong->kind, &source, &problems, &graph);
        bool is_found = false;
        for (uint32_t k = 0; k < problems.count; k++) {
            const struct problem *problem = &problems.items[k];
            is_found |=
                problem->severity == wrong->severity && strcmp(problem->code, wrong->code) == 0 &&
                strcmp(problem->component, wrong->component) == 0 &&
                strcmp(problem->key, wrong->key) == 0 && problem->mark.line == wrong->line &&
                problem->mark.column == wrong->column &&
                (strstr(problem->message, wrong->part) ||
                 (problem->fix && strstr(problem->fix, wrong->part)));
        }
        if (!is_found) {
            print_message("case %zu:\n%s", i, wrong->yaml);
            dump(&problems);
        }
        assert_true(is_found);
        assert_int_equal(e, wrong->severity == PROBLEM_ERROR ? ERR_USAGE : ERR_OK);
        /* One cause, one line. */
        uint32_t errors = problem_count(&problems, PROBLEM_ERROR);
        if (errors > (wrong->severity == PROBLEM_ERROR)) {
            print_message("case %zu:\n%s", i, wrong->yaml);
            dump(&problems);
            fail();
        }
        graph_release(&graph);
        problem_release(&problems);
    }
}

static void test_wrong_overrides(void **state) {
    (void) state;
    static const char *const overrides[] = {"--VllmWorkr.model=/m", "--VllmWorker.modl=/m",
                                            "--VllmWorker.max-num-seqs=none", "--Common."};
    struct problem_list problems = {0};
    struct graph graph;
    struct graph_source source = source_of(W);
    source.overrides = overrides;
    source.override_count = ARRAY_COUNT(overrides);
    assert_int_equal(graph_read(GRAPH_AGG, &source, &problems, &graph), ERR_USAGE);
    assert_int_equal(problem_count(&problems, PROBLEM_ERROR), 4);
    for (uint32_t i = 0; i < problems.count; i++) assert_true(problems.items[i].mark.is_flag);
    graph_release(&graph);
    problem_release(&problems);
}

/* A wrong value of Common that two sections take is told once. */
static void test_one_cause_once(void **state) {
    (void) state;
    struct problem_list problems = {0};
    struct graph graph;
    struct graph_source source = source_of("Common:\n  model: /m\n  gpu-memory-utilization: 8\n"
                                           "VllmWorker:\n  remote-prefill: true\n"
                                           "  common-configs: [model, gpu-memory-utilization]\n"
                                           "PrefillWorker:\n"
                                           "  common-configs: [model, gpu-memory-utilization]\n");
    assert_int_equal(graph_read(GRAPH_DISAGG, &source, &problems, &graph), ERR_USAGE);
    assert_int_equal(problems.count, 1);
    struct buf out;
    buf_init(&out, 0);
    problem_print(&problems, "f.yaml", false, &out);
    assert_string_equal(
        buf_string(&out),
        "f.yaml:3:27: error: VllmWorker.gpu-memory-utilization (from Common): 8 is out of range, "
        "0.01 to 1\n"
        "    fix: write a share: gpu-memory-utilization: 0.8\n"
        "1 error, 0 warnings\n");
    buf_clear(&out);
    problem_print_json(&problems, &out);
    assert_string_equal(
        buf_string(&out),
        "{\"ok\":false,\"problems\":[{\"severity\":\"error\",\"code\":\"bad-value\","
        "\"component\":\"VllmWorker\",\"key\":\"gpu-memory-utilization\",\"line\":3,\"column\":27,"
        "\"message\":\"8 is out of range, 0.01 to 1\","
        "\"fix\":\"write a share: gpu-memory-utilization: 0.8\"}]}\n");
    buf_release(&out);
    graph_release(&graph);
    problem_release(&problems);
}

static void test_no_memory(void **state) {
    (void) state;
    static const char *const overrides[] = {"--VllmWorker.max-num-seqs=7"};
    for (uint64_t n = 1;; n++) {
        struct problem_list problems = {0};
        struct graph graph;
        struct graph_source source = source_of(disagg_file);
        source.overrides = overrides;
        source.override_count = 1;
        alloc_fail_at(n, 0);
        enum err e = graph_read(GRAPH_DISAGG_ROUTER, &source, &problems, &graph);
        bool is_over = alloc_count() < n;
        alloc_fail_at(0, 0);
        assert_true(e == ERR_OK || e == ERR_MEMORY);
        if (!e) graph_release(&graph);
        problem_release(&problems);
        if (is_over) break;
        assert_int_equal(e, ERR_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_legal_files),     cmocka_unit_test(test_values_and_marks),
        cmocka_unit_test(test_precedence),      cmocka_unit_test(test_without_a_file),
        cmocka_unit_test(test_names),           cmocka_unit_test(test_wrong_files),
        cmocka_unit_test(test_wrong_overrides), cmocka_unit_test(test_one_cause_once),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
