/* cmd_graph - from a command line to a graph: its kind, its file, --Section.key=value, flags. */
#ifndef GRAMME_CMD_CMD_GRAPH_H
#define GRAMME_CMD_CMD_GRAPH_H

#include "config/graph.h"
#include "config/option.h"
#include "plan/check.h"

#define CMD_OVERRIDES_MAX 256

/* A command line taken apart. */
struct cmd_graph_line {
    struct options *flags;                    /* owned */
    const char *overrides[CMD_OVERRIDES_MAX]; /* "--Section.key=value"; borrowed from argv */
    uint32_t override_count;
    const char *positional[8];
    uint32_t positional_count;
};

/* CMD_DONE, or the status to exit with (the reason is printed).  Sets up the log. */
int cmd_graph_read_line(unsigned command, int argc, char **argv, struct cmd_graph_line *out);
void cmd_graph_release_line(struct cmd_graph_line *line);
/* Reads -f FILE (or none) as a graph of that kind, with the line's flags and overrides; with a
 * target it is checked too (plan/check.h).  Prints the problems.  CMD_DONE or the status; with
 * --force errors of the check are told and passed over. */
int cmd_graph_read(const struct cmd_graph_line *line, enum graph_kind kind,
                   const struct check_target *target, struct graph *out);
/* What is "auto" and not chosen yet (plan/plan_auto.h), chosen and logged, a line each. */
MUST_USE enum err cmd_graph_choose(struct graph *graph, const struct graph_plan_target *target,
                                   struct err_text *text);
/* --print-config: each section in use, its replicas, its options with their sources. */
void cmd_graph_print(const struct graph *graph);

#endif
