/* cmd_check - gramme check [GRAPH] -f FILE|-: what is wrong with a graph file, before it is served.
 *
 * Exit 0 no errors (with --strict: no warnings either), 1 errors, 2 usage. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cmd.h"
#include "cmd/cmd_target.h"
#include "plan/check.h"

static bool has_colour(void) {
    const char *term = getenv("TERM"), *none = getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && !(none && *none) && !(term && strcmp(term, "dumb") == 0);
}

static void print(const struct problem_list *problems, const char *name, bool is_json) {
    struct buf out;
    buf_init(&out, 0);
    if (is_json) problem_print_json(problems, &out);
    else problem_print(problems, name, has_colour(), &out);
    if (out.data) fwrite(out.data, 1, out.bytes, stdout);
    buf_release(&out);
}

/* The problems of a text as this command line has it. */
static enum err find_problems(const struct cmd_graph_line *line, enum graph_kind kind,
                              const struct cmd_target *target, const char *name,
                              const struct buf *file, struct problem_list *problems) {
    struct graph graph;
    struct graph_source source = {.name = name,
                                  .yaml = file->data,
                                  .bytes = file->bytes,
                                  .overrides = line->overrides,
                                  .override_count = line->override_count,
                                  .flags = line->flags};
    enum err e = graph_read(kind, &source, problems, &graph);
    if (e == ERR_MEMORY) return e;
    /* What cannot be read cannot be compared either. */
    bool is_read = !graph.has_file || graph.sections[GRAPH_VLLM_WORKER].is_present;
    struct check_target check = {.plan = &target->plan, .is_elsewhere = target->is_elsewhere};
    if (is_read) e = check_graph(&graph, &check, problems);
    graph_release(&graph);
    problem_sort(problems);
    return e == ERR_MEMORY ? e : ERR_OK;
}

static enum err run(const struct cmd_graph_line *line, struct err_text *text, int *status) {
    struct cmd_target target = {0};
    struct problem_list problems = {0};
    struct buf file;
    enum graph_kind kind;
    const char *name = "";
    buf_init(&file, 0);
    enum err e = ERR_OK;
    if (!options_text(line->flags, OPT_FILE))
        e = err_set(text, ERR_USAGE, "no file: gramme check GRAPH -f FILE");
    if (!e) e = cmd_target_kind(line, text, &kind);
    if (!e) e = cmd_target_file(line->flags, text, &file, &name);
    if (!e) e = cmd_target_find(line->flags, text, &target);
    if (!e && !file.bytes) buf_add_byte(&file, '\n'); /* an empty file is no absent one */
    if (!e) e = find_problems(line, kind, &target, name, &file, &problems);
    if (!e) {
        print(&problems, name, options_bool(line->flags, OPT_JSON));
        uint32_t count = problem_count(&problems, PROBLEM_ERROR);
        if (options_bool(line->flags, OPT_STRICT))
            count += problem_count(&problems, PROBLEM_WARNING);
        *status = count ? CMD_FAILED : CMD_DONE;
    }
    problem_release(&problems);
    cmd_target_release(&target);
    buf_release(&file);
    return e;
}

int cmd_check(int argc, char **argv) {
    struct cmd_graph_line line;
    int status = cmd_graph_read_line(OPTION_CHECK, argc, argv, &line);
    if (status) return status;
    struct err_text text = {0};
    enum err e = run(&line, &text, &status);
    cmd_graph_release_line(&line);
    return e ? cmd_fail(e == ERR_NOT_FOUND ? ERR_USAGE : e, &text) : status;
}
