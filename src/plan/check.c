/* check - see check.h. */
#include "plan/check.h"

#include <stdio.h>
#include <string.h>

#include "plan/check_impl.h"

struct problem_mark check_mark(const struct checker *checker, enum graph_section_id section,
                               enum option_id id) {
    struct problem_mark mark = graph_mark(checker->graph, section, id);
    return mark.line || mark.is_flag ? mark : checker->graph->sections[section].mark;
}

bool check_is_written(const struct checker *checker, enum graph_section_id section,
                      enum option_id id) {
    return options_is_set(checker->graph->sections[section].options, id);
}

bool check_is_refused(const struct checker *checker, enum graph_section_id section,
                      enum option_id id) {
    struct problem_mark mark = graph_mark(checker->graph, section, id);
    return (mark.line || mark.is_flag) && !mark.is_empty && !check_is_written(checker, section, id);
}

/* As it may stand in YAML behind a ':'. */
static bool is_plain(const char *value) {
    for (const char *at = value; *at; at++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+", *at))
            return false;
    return *value && !strchr("-+.", *value);
}

void check_mend(const struct checker *checker, struct problem *problem,
                enum graph_section_id section, enum option_id id, const char *value) {
    struct problem_mark mark = graph_mark(checker->graph, section, id);
    char text[512];
    if (mark.is_negated) value = strcmp(value, "true") == 0 ? "false" : "true";
    if (strchr(value, '\'') || strlen(value) > 400) return;
    snprintf(text, sizeof text, is_plain(value) ? "%s" : "'%s'", value);
    if (mark.line && !mark.is_common) problem_set_edit(problem, PROBLEM_EDIT_VALUE, 0, "%s", text);
    else
        problem_set_edit(problem, PROBLEM_EDIT_INSERT, checker->graph->sections[section].mark.line,
                         "%s: %s", option_get(id)->name, text);
}

enum err check_graph(const struct graph *graph, const struct check_target *target,
                     struct problem_list *problems) {
    struct checker checker = {.graph = graph, .target = target, .problems = problems};
    struct graph_plan_target plan = *target->plan;
    plan.is_mended = true;
    struct err_text text;
    enum err e = graph_plan_make(graph, &plan, &text, &checker.plan);
    if (e) return e;
    check_peers(&checker);
    check_formats(&checker);
    check_devices(&checker);
    check_files(&checker);
    check_machine(&checker);
    graph_plan_release(&checker.plan);
    return problems->is_cut && problems->count < PROBLEMS_MAX ? ERR_MEMORY : ERR_OK;
}
