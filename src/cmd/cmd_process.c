/* cmd_process - see cmd_process.h. */
#include "cmd/cmd_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "cmd/cmd.h"
#include "cmd/cmd_bus.h"
#include "cmd/cmd_graph.h"
#include "cmd/cmd_target.h"
#include "plan/plan_auto.h"

#define RING_MESSAGES 65536u
#define RING_BYTES (512u << 20)
#define FILES_LEAST 64u /* model, loop, listener, pipes: about 20, and some connections */

uint64_t cmd_process_draw_instance(void) {
    uint64_t instance = 0;
    while (!instance)
        if (getrandom(&instance, sizeof instance, 0) != sizeof instance) instance = clock_wall_ns();
    return instance;
}

enum err cmd_process_raise_file_limit(struct err_text *text) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) return ERR_OK;
    if (limit.rlim_max < FILES_LEAST)
        return err_set(text, ERR_LIMIT,
                       "at most %llu files may be open (ulimit -Hn); serving needs %u",
                       (unsigned long long) limit.rlim_max, FILES_LEAST);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    return ERR_OK;
}

int cmd_process_fail(const struct cmd_process *process, enum err e, bool is_permanent,
                     const struct err_text *text) {
    struct report report = {.kind = REPORT_FAILED,
                            .is_permanent = is_permanent || report_is_permanent(e)};
    snprintf(report.text, sizeof report.text, "%s",
             text && text->text[0] ? text->text : err_name(e));
    report_send(process->report_fd, &report);
    return cmd_fail(e, text);
}

/* --- from a supervisor ------------------------------------------------------------------------ */

static enum err take_handover(unsigned command, struct cmd_process *out, struct err_text *text) {
    fcntl(HANDOVER_FD, F_SETFD, FD_CLOEXEC);
    fcntl(REPORT_FD, F_SETFD, FD_CLOEXEC);
    out->is_supervised = true;
    out->report_fd = REPORT_FD;
    enum err e = options_create(command, &out->options);
    if (!e) e = handover_read(HANDOVER_FD, &out->handover, out->options, text);
    if (!e && out->handover.core_count) fcntl(CORES_FD, F_SETFD, FD_CLOEXEC);
    close(HANDOVER_FD);
    if (e) return e;
    cmd_configure_log(out->options, out->handover.name);
    return ERR_OK;
}

/* --- from the command line -------------------------------------------------------------------- */

static void name_process(const char *word, struct handover *handover) {
    char host[64] = "node";
    gethostname(host, sizeof host - 1);
    snprintf(handover->name, sizeof handover->name, "%s.%.40s.%ld", word, host, (long) getpid());
    handover->instance = cmd_process_draw_instance();
}

static enum err find_bus(const struct options *options, const struct graph *graph,
                         struct err_text *text, struct handover *out) {
    const char *url = options_text(options, OPT_JOIN), *where = "--join";
    if (!url) {
        url = getenv("NATS_SERVER");
        where = "NATS_SERVER";
    }
    if (!url || !url[0])
        return err_set(text, ERR_USAGE,
                       "which graph? give --join nats://HOST:PORT (or the variable NATS_SERVER)");
    enum err e = cmd_bus_read_url(url, where, text, out);
    const char *name_space = options_text(options, OPT_NAMESPACE);
    where = "--namespace";
    if (!name_space && graph->name_space[0]) {
        name_space = graph->name_space;
        where = "endpoint";
    }
    if (!e && !name_space)
        e = err_set(text, ERR_USAGE,
                    "which namespace? give the --namespace that 'gramme serve' printed");
    if (!e) e = cmd_bus_read_namespace(name_space, where, text, out);
    if (!e) e = cmd_bus_read_secrets(options, getenv("GRAMME_BUS_TOKEN"), text, out);
    return e;
}

/* What is "auto": one worker of the graph runs here, on what this node has. */
static enum err choose(const struct cmd_graph_line *line, enum graph_section_id section,
                       struct graph *graph, struct err_text *text) {
    struct cmd_target target = {0};
    graph->sections[section].replica_count = 1;
    for (int i = GRAPH_VLLM_WORKER; i <= GRAPH_PREFILL_WORKER; i++)
        graph->sections[i].is_used = i == (int) section;
    if (!plan_auto_is_wanted(graph)) return ERR_OK;
    enum err e = cmd_target_find(line->flags, text, &target);
    if (!e) e = cmd_graph_choose(graph, &target.plan, text);
    cmd_target_release(&target);
    return e;
}

static int read_command_line(unsigned command, enum graph_section_id section, int argc, char **argv,
                             struct cmd_process *out) {
    struct cmd_graph_line line;
    int status = cmd_graph_read_line(command, argc, argv, &line);
    if (status) return status;
    struct err_text text = {0};
    struct graph graph = {0};
    enum graph_kind kind = section == GRAPH_PREFILL_WORKER ? GRAPH_DISAGG : GRAPH_AGG;
    enum err e = ERR_OK;
    if (line.positional_count > 1 ||
        (line.positional_count == 1 && !graph_kind_of(line.positional[0], &kind)))
        e = err_set(&text, ERR_USAGE, "'%s' is no graph",
                    line.positional[line.positional_count - 1]);
    status = e ? cmd_fail(e, &text) : cmd_graph_read(&line, kind, NULL, &graph);
    if (!status) {
        e = choose(&line, section, &graph, &text);
        out->options = graph.sections[section].options;
        graph.sections[section].options = NULL; /* ours now */
        name_process(graph_section_name(section), &out->handover);
        if (!e) e = find_bus(line.flags, &graph, &text, &out->handover);
        if (e) status = cmd_fail(e, &text);
        graph_release(&graph);
    }
    cmd_graph_release_line(&line);
    return status;
}

int cmd_process_open(unsigned command, enum graph_section_id section, int argc, char **argv,
                     struct cmd_process *out) {
    *out = (struct cmd_process){.report_fd = -1};
    const char *supervisor = getenv(HANDOVER_VARIABLE);
    int status;
    if (supervisor && strtol(supervisor, NULL, 10) == (long) getppid()) {
        struct err_text text = {0};
        enum err e = take_handover(command, out, &text);
        status = e ? cmd_process_fail(out, e, true, &text) : CMD_DONE;
    } else {
        status = read_command_line(command, section, argc, argv, out);
    }
    if (status) cmd_process_close(out);
    return status;
}

void cmd_process_close(struct cmd_process *process) {
    options_destroy(process->options);
    process->options = NULL;
}

enum err cmd_process_open_bus(const struct cmd_process *process, struct err_text *text,
                              struct bus **out) {
    const struct handover *handover = &process->handover;
#define GIVEN(field) (handover->field[0] ? handover->field : NULL)
    struct bus_nats_options options = {.url = handover->url,
                                       .name_space = handover->name_space,
                                       .token = GIVEN(token),
                                       .user = GIVEN(user),
                                       .password = GIVEN(password),
                                       .tls_ca_file = GIVEN(ca_file),
                                       .tls_cert_file = GIVEN(cert_file),
                                       .tls_key_file = GIVEN(key_file),
                                       .has_tls = handover->has_tls,
                                       .ring_messages_max = RING_MESSAGES,
                                       .ring_bytes_max = RING_BYTES};
#undef GIVEN
    return bus_nats_create(&options, text, out);
}
