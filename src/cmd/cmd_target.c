/* cmd_target - see cmd_target.h. */
#include "cmd/cmd_target.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "cmd/cmd.h"
#include "device/device_cpu.h"
#include "device/device_gpu.h"

static bool needs_machine(const char *devices) { return !devices || strstr(devices, "cuda"); }

enum err cmd_target_find(const struct options *flags, struct err_text *text,
                         struct cmd_target *out) {
    memset(out, 0, sizeof *out);
    const char *devices = options_text(flags, OPT_DEVICES);
    struct device_gpus *gpus = NULL;
    if (needs_machine(devices)) {
        gpus = alloc_zero(1, sizeof *gpus);
        if (!gpus) return err_set(text, ERR_MEMORY, "out of memory");
        device_gpu_look(NULL, gpus);
    }
    enum err e =
        devices ? device_list_parse(devices, gpus, text, &out->devices)
                : device_list_of_machine(gpus, getenv("CUDA_VISIBLE_DEVICES"), text, &out->devices);
    out->gpus = gpus;
    if (e) {
        cmd_target_release(out);
        return e;
    }
    for (uint32_t i = 0; i < out->devices.count; i++)
        out->is_elsewhere |= out->devices.items[i].is_elsewhere;
    out->is_elsewhere |= options_list_count(flags, OPT_SHAPE) > 0;
    struct device_cpu cpu;
    device_cpu_look(NULL, &cpu);
    out->plan = (struct graph_plan_target){.devices = &out->devices,
                                           .cpu_total_bytes = cpu.memory_bytes,
                                           .cpu_available_bytes = cpu.memory_available_bytes,
                                           .thread_count = cpu.thread_count,
                                           .flags = flags};
    return ERR_OK;
}

void cmd_target_release(struct cmd_target *target) {
    device_list_release(&target->devices);
    alloc_free(target->gpus);
    target->gpus = NULL;
}

enum err cmd_target_file(const struct options *flags, struct err_text *text, struct buf *out,
                         const char **name) {
    const char *path = options_text(flags, OPT_FILE);
    *name = !path ? "command line" : strcmp(path, "-") == 0 ? "stdin" : path;
    return path ? cmd_read_all(path, CMD_TARGET_FILE_BYTES_MAX, text, out) : ERR_OK;
}

bool cmd_target_is_graph(const struct cmd_graph_line *line) {
    enum graph_kind kind;
    return options_text(line->flags, OPT_FILE) || options_text(line->flags, OPT_DEVICES) ||
           line->override_count ||
           (line->positional_count && graph_kind_of(line->positional[0], &kind));
}

enum err cmd_target_kind(const struct cmd_graph_line *line, struct err_text *text,
                         enum graph_kind *out) {
    *out = GRAPH_AGG;
    if (line->positional_count > 1)
        return err_set(text, ERR_USAGE, "one argument too many: '%s'", line->positional[1]);
    if (!line->positional_count || graph_kind_of(line->positional[0], out)) return ERR_OK;
    return err_set(text, ERR_USAGE,
                   "'%s' is no graph: agg, agg_router, disagg or disagg_router (a file: -f FILE)",
                   line->positional[0]);
}
