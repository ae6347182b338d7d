/* cmd_plan - gramme plan [GRAPH] (-f FILE | -m MODEL) [--devices ...]: the bytes its workers
 * will use, before one is loaded.
 *
 * Exit 0 fits, 1 does not, 2 usage. */
#include <stdio.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/cmd_model.h"
#include "cmd/cmd_target.h"

static void print_plan(const struct options *options, const struct worker_boot *boot,
                       const struct model_spec *spec) {
    struct buf out;
    buf_init(&out, 0);
    if (options_bool(options, OPT_JSON)) plan_print_json(&boot->plan, spec, &out);
    else plan_print(&boot->plan, spec, options_bool(options, OPT_EXPLAIN), &out);
    if (out.data) fwrite(out.data, 1, out.bytes, stdout);
    buf_release(&out);
}

/* A graph, or a model on named devices. */
static enum err plan_graph(const struct cmd_graph_line *line, struct err_text *text, bool *fits) {
    struct cmd_target target = {0};
    struct graph_plan plan = {0};
    struct problem_list problems = {0};
    struct graph graph = {0};
    struct buf file, out;
    enum graph_kind kind;
    buf_init(&file, 0);
    buf_init(&out, 0);
    struct graph_source source = {
        .overrides = line->overrides, .override_count = line->override_count, .flags = line->flags};
    bool is_read = false;
    enum err e = cmd_target_kind(line, text, &kind);
    if (!e) e = cmd_target_file(line->flags, text, &file, &source.name);
    if (!e) e = cmd_target_find(line->flags, text, &target);
    if (e) goto out;
    source.yaml = file.data;
    source.bytes = file.bytes;
    e = graph_read(kind, &source, &problems, &graph);
    is_read = e != ERR_MEMORY;
    problem_sort(&problems);
    if (problem_count(&problems, PROBLEM_ERROR)) {
        problem_print(&problems, source.name, isatty(STDERR_FILENO), &out);
        if (out.data) fwrite(out.data, 1, out.bytes, stderr);
        (void) err_set(text, ERR_USAGE, "%s cannot be planned as it is", source.name);
        goto out;
    }
    if (!e) e = graph_plan_make(&graph, &target.plan, text, &plan);
    if (e) goto out;
    graph_plan_add_problems(&plan, &graph, &problems);
    problem_sort(&problems);
    if (options_bool(line->flags, OPT_JSON)) graph_plan_print_json(&plan, &problems, &out);
    else graph_plan_print(&plan, options_bool(line->flags, OPT_EXPLAIN), &out);
    if (out.data) fwrite(out.data, 1, out.bytes, stdout);
    *fits = plan.fits;
out:
    graph_plan_release(&plan);
    if (is_read) graph_release(&graph);
    problem_release(&problems);
    cmd_target_release(&target);
    buf_release(&file);
    buf_release(&out);
    return e;
}

/* One worker of a model on this machine, from its files. */
static enum err plan_model(const struct cmd_graph_line *line, struct err_text *text, bool *fits) {
    const struct options *options = line->flags;
    struct model *model = NULL;
    struct worker_boot_options boot_options;
    struct worker_boot boot = {0};
    enum err e =
        cmd_model_open(options, line->positional_count ? line->positional[0] : NULL, text, &model);
    if (!e) e = cmd_model_boot_options(options, model_get_spec(model), text, &boot_options);
    if (!e) boot_options.backend.model = model;
    if (!e) e = worker_boot_plan(&boot_options, model_get_spec(model), text, &boot);
    if (!e) {
        print_plan(options, &boot, model_get_spec(model));
        *fits = boot.plan.fits;
        worker_boot_close(&boot);
    }
    model_close(model);
    return e;
}

int cmd_plan(int argc, char **argv) {
    struct cmd_graph_line line;
    int status = cmd_graph_read_line(OPTION_PLAN, argc, argv, &line);
    if (status) return status;
    struct err_text text = {0};
    bool fits = false;
    enum err e = ERR_OK;
    if (options_bool(line.flags, OPT_PRINT_CONFIG)) {
        cmd_print_config(line.flags);
        fits = true;
    } else if (cmd_target_is_graph(&line)) {
        e = plan_graph(&line, &text, &fits);
    } else {
        e = plan_model(&line, &text, &fits);
    }
    cmd_graph_release_line(&line);
    if (e) return cmd_fail(e, &text);
    return fits ? CMD_DONE : CMD_FAILED;
}
