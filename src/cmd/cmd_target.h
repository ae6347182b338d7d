/* cmd_target - what plan and check look at: the graph's file as bytes, and the devices it is meant
 * for. */
#ifndef GRAMME_CMD_CMD_TARGET_H
#define GRAMME_CMD_CMD_TARGET_H

#include "cmd/cmd_graph.h"
#include "device/device_list.h"
#include "plan/graph_plan.h"

#define CMD_TARGET_FILE_BYTES_MAX (4u << 20)

struct cmd_target {
    struct device_list devices; /* owned; empty: this machine's CPU */
    struct graph_plan_target plan;
    struct device_gpus *gpus; /* owned: this machine's; NULL: not looked at */
    bool is_elsewhere;        /* catalogue devices or --shape: paths need not be here */
};

/* --devices, else the cards of this machine that CUDA_VISIBLE_DEVICES leaves, else its CPU. */
MUST_USE enum err cmd_target_find(const struct options *flags, struct err_text *text,
                                  struct cmd_target *out);
void cmd_target_release(struct cmd_target *target);
/* The bytes of -f FILE ('-': stdin); empty without it.  *name: for messages. */
MUST_USE enum err cmd_target_file(const struct options *flags, struct err_text *text,
                                  struct buf *out, const char **name);
/* Whether the line is about a graph: a graph's name, -f, --devices or an override. */
bool cmd_target_is_graph(const struct cmd_graph_line *line);
/* The kind named first on the line; agg when none is.  ERR_USAGE for another word. */
MUST_USE enum err cmd_target_kind(const struct cmd_graph_line *line, struct err_text *text,
                                  enum graph_kind *out);

#endif
