/* cmd - the subcommands of gramme, one file each, and what they share.
 *
 * Only this room reads argv and the environment, exits, and installs signal handlers.  Each
 * subcommand returns the program's exit status. */
#ifndef GRAMME_CMD_CMD_H
#define GRAMME_CMD_CMD_H

#include "config/option.h"

/* Exit statuses (behaviour.md 3). */
#define CMD_DONE 0
#define CMD_FAILED 1
#define CMD_USAGE 2
#define CMD_MISSING 3
#define CMD_INTERRUPTED 130

#define CMD_POSITIONAL_MAX 8

int cmd_run(int argc, char **argv);
int cmd_chat(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_frontend(int argc, char **argv);
int cmd_worker(int argc, char **argv);
int cmd_prefill(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_render(int argc, char **argv);
int cmd_help(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_completion(int argc, char **argv);

/* Prints "gramme: sentence" to standard error and returns the status that fits the error. */
int cmd_fail(enum err e, const struct err_text *text);
/* Reads environment and arguments of a subcommand, sets up the log.  CMD_DONE, or the status to
 * exit with (the reason is printed). */
int cmd_options(unsigned command, int argc, char **argv, struct options **out,
                const char **positional, uint32_t *positional_count);
/* By --log-level and --log-format; who (borrowed) stands in JSON lines only: a supervisor puts it
 * before the others. */
void cmd_configure_log(const struct options *options, const char *who);
/* --print-config: each option's value and source, with what the model's files say where nothing
 * else does. */
void cmd_print_config(struct options *options);
/* All of a file, or of standard input for "-", up to limit bytes. */
MUST_USE enum err cmd_read_all(const char *path, size_t limit, struct err_text *text,
                               struct buf *out);

#endif
