/* cmd_graph - see cmd_graph.h. */
#include "cmd/cmd_graph.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "cmd/cmd.h"
#include "plan/plan_auto.h"

#define FILE_BYTES_MAX (4u << 20)

/* Without '=' it is a switch: a word behind it is its value, but for a graph's name or a file. */
static enum err check_value(int argc, char **argv, struct err_text *text) {
    if (strchr(argv[0], '=') || argc < 2 || argv[1][0] == '-') return ERR_OK;
    enum graph_kind kind;
    if (graph_kind_of(argv[1], &kind) || access(argv[1], F_OK) == 0) return ERR_OK;
    return err_set(text, ERR_USAGE, "write %.100s=%.100s: --Section.key takes its value behind '='",
                   argv[0], argv[1]);
}

int cmd_graph_read_line(unsigned command, int argc, char **argv, struct cmd_graph_line *out) {
    *out = (struct cmd_graph_line){0};
    char **plain = alloc_zero((size_t) argc + 1, sizeof *plain);
    if (!plain) return cmd_fail(ERR_MEMORY, NULL);
    int plain_count = 0;
    struct err_text text = {0};
    enum err e = ERR_OK;
    bool is_over = false; /* past "--" */
    for (int i = 0; !e && i < argc; i++) {
        is_over |= strcmp(argv[i], "--") == 0;
        if (!is_over && graph_is_override(argv[i])) e = check_value(argc - i, argv + i, &text);
        if (e) break;
        if (is_over || !graph_is_override(argv[i])) plain[plain_count++] = argv[i];
        else if (out->override_count == CMD_OVERRIDES_MAX)
            e = err_set(&text, ERR_LIMIT, "more than %d --Section.key options", CMD_OVERRIDES_MAX);
        else out->overrides[out->override_count++] = argv[i];
    }
    int status = e ? cmd_fail(e, &text)
                   : cmd_options(command, plain_count, plain, &out->flags, out->positional,
                                 &out->positional_count);
    alloc_free(plain);
    if (status) cmd_graph_release_line(out);
    return status;
}

void cmd_graph_release_line(struct cmd_graph_line *line) {
    options_destroy(line->flags);
    *line = (struct cmd_graph_line){0};
}

static void print_problems(struct problem_list *problems, const char *name) {
    if (!problems->count) return;
    struct buf shown;
    buf_init(&shown, 0);
    problem_sort(problems);
    problem_print(problems, name, false, &shown);
    if (shown.data) fwrite(shown.data, 1, shown.bytes, stderr);
    buf_release(&shown);
}

int cmd_graph_read(const struct cmd_graph_line *line, enum graph_kind kind,
                   const struct check_target *target, struct graph *out) {
    const char *path = options_text(line->flags, OPT_FILE);
    struct buf file;
    buf_init(&file, 0);
    struct err_text text = {0};
    enum err e = path ? cmd_read_all(path, FILE_BYTES_MAX, &text, &file) : ERR_OK;
    if (e) {
        buf_release(&file);
        return cmd_fail(e, &text);
    }
    const char *name = !path ? "command line" : strcmp(path, "-") == 0 ? "stdin" : path;
    struct graph_source source = {.name = name,
                                  .yaml = file.data,
                                  .bytes = file.bytes,
                                  .overrides = line->overrides,
                                  .override_count = line->override_count,
                                  .flags = line->flags};
    struct problem_list problems = {0};
    e = graph_read(kind, &source, &problems, out);
    bool is_read = !e;
    struct plan_auto chosen = {0};
    if (is_read && target) e = plan_auto_choose(out, target->plan, &text, &chosen);
    plan_auto_add_problems(&chosen, out, &problems);
    if (is_read && !e && target) e = check_graph(out, target, &problems);
    print_problems(&problems, name);
    uint32_t errors = problem_count(&problems, PROBLEM_ERROR);
    bool is_forced = is_read && options_bool(line->flags, OPT_FORCE);
    problem_release(&problems);
    buf_release(&file);
    if (!e && (!errors || is_forced)) return CMD_DONE;
    if (is_read || e != ERR_MEMORY) graph_release(out);
    if (errors) return is_read ? CMD_FAILED : CMD_USAGE;
    return cmd_fail(e, NULL);
}

enum err cmd_graph_choose(struct graph *graph, const struct graph_plan_target *target,
                          struct err_text *text) {
    struct plan_auto chosen;
    enum err e = plan_auto_choose(graph, target, text, &chosen);
    for (uint32_t i = 0; i < chosen.count; i++) {
        struct buf line;
        buf_init(&line, 0);
        plan_auto_print(&chosen.choices[i], &line);
        const char *said = buf_string(&line);
        log_info("%s", said ? said : "");
        buf_release(&line);
    }
    return e;
}

void cmd_graph_print(const struct graph *graph) {
    for (int i = 0; i < GRAPH_SECTION_COUNT; i++) {
        const struct graph_section *section = &graph->sections[i];
        /* Processor and Router are in the Frontend. */
        if (!section->is_used || i == GRAPH_PROCESSOR || i == GRAPH_ROUTER) continue;
        printf("%s: %u of it\n", graph_section_name((enum graph_section_id) i),
               section->replica_count);
        fflush(stdout);
        cmd_print_config(section->options);
    }
}
