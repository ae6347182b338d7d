/* cmd_process - what one process of a graph knows at its start, from its supervisor or from its own
 * command line: its options, its name and instance, where its bus is.
 *
 * `gramme frontend --join` and the frontend that `gramme serve` starts are the same code; this is
 * where they come together. */
#ifndef GRAMME_CMD_CMD_PROCESS_H
#define GRAMME_CMD_CMD_PROCESS_H

#include "bus/bus.h"
#include "config/graph.h"
#include "config/option.h"
#include "fleet/handover.h"
#include "fleet/report.h"

struct cmd_process {
    struct options *options;  /* owned */
    struct handover handover; /* also without a supervisor: filled from the options */
    bool is_supervised;
    int report_fd; /* -1: nobody supervises us */
};

/* The section whose options this process takes; reads arguments, environment, file, or the
 * supervisor's handover; sets up the log.  CMD_DONE, or the status to exit with (the reason is
 * printed and reported). */
int cmd_process_open(unsigned command, enum graph_section_id section, int argc, char **argv,
                     struct cmd_process *out);
void cmd_process_close(struct cmd_process *process);
/* Tells the supervisor and prints "gramme: sentence"; the exit status. */
int cmd_process_fail(const struct cmd_process *process, enum err e, bool is_permanent,
                     const struct err_text *text);
MUST_USE enum err cmd_process_open_bus(const struct cmd_process *process, struct err_text *text,
                                       struct bus **out);

uint64_t cmd_process_draw_instance(void);
/* Soft to hard.  ERR_LIMIT where even that is too few to serve with. */
MUST_USE enum err cmd_process_raise_file_limit(struct err_text *text);

#endif
