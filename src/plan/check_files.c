/* check_files - what a model's folder lacks beside its weights, and the tokenizer of a Processor
 * that names a folder of its own. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "model/model_resolve.h"
#include "plan/check_impl.h"

bool check_files_has_words(const char *model) {
    struct model_source source;
    struct err_text text;
    char path[MODEL_PATH_BYTES];
    if (model_resolve(model, &text, &source) || source.kind != MODEL_SOURCE_FOLDER) return true;
    return !model_resolve_join(path, source.path, "tokenizer.json") || access(path, R_OK) == 0;
}

static void refuse(struct checker *checker, enum graph_section_id id, const char *code,
                   const char *fix, const char *what) {
    problem_add(checker->problems, PROBLEM_ERROR, code, graph_section_name(id), "model",
                check_mark(checker, id, OPT_MODEL), fix, "%s", what);
}

static bool is_dummy(const struct options *options) {
    return strcmp(options_text(options, OPT_LOAD_FORMAT), "dummy") == 0;
}

/* Weights that can be read are no model without a tokenizer. */
static void check_worker(struct checker *checker, const struct graph_plan_component *component) {
    const struct options *options = checker->graph->sections[component->section].options;
    const char *path = options_text(options, OPT_MODEL);
    char what[400];
    if (component->model.source != PLAN_MODEL_FILES || !path || is_dummy(options) ||
        check_files_has_words(path))
        return;
    if (component != &checker->plan.components[0]) {
        const char *first = options_text(
            checker->graph->sections[checker->plan.components[0].section].options, OPT_MODEL);
        if (first && strcmp(first, path) == 0) return; /* told */
    }
    snprintf(what, sizeof what, "%.300s: tokenizer.json is missing", path);
    refuse(checker, component->section, "model-unreadable",
           "complete the download, or write another path", what);
}

static void check_processor(struct checker *checker) {
    const struct options *options = checker->graph->sections[GRAPH_PROCESSOR].options;
    const char *path = options_text(options, OPT_MODEL), *worker;
    worker = options_text(checker->graph->sections[GRAPH_VLLM_WORKER].options, OPT_MODEL);
    bool must_be_here = checker->target->is_serve || !checker->target->is_elsewhere;
    if (!path || !worker || strcmp(path, worker) == 0 || !must_be_here || is_dummy(options) ||
        problem_find(checker->problems, "model-differs", "Processor"))
        return;
    struct model_source source;
    struct err_text text;
    if (model_resolve(path, &text, &source))
        refuse(checker, GRAPH_PROCESSOR, "model-not-found", "write the path of the workers' model",
               text.text);
    else if (!check_files_has_words(path))
        refuse(checker, GRAPH_PROCESSOR, "model-unreadable", "write the path of the workers' model",
               "the Processor needs tokenizer.json, and it is missing");
}

void check_files(struct checker *checker) {
    for (uint32_t i = 0; i < checker->plan.component_count; i++)
        check_worker(checker, &checker->plan.components[i]);
    check_processor(checker);
}
