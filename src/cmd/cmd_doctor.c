/* cmd_doctor - gramme doctor: what this machine has for serving, and what to mend.
 *
 * Looks and changes nothing.  Each finding has a severity, what was found, and, where something can
 * be done, what to do.  Exit 0: nothing stands in the way; 1: something must be mended. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <jansson.h>

#include "base/log.h"
#include "cmd/cmd.h"
#include "device/device_cpu.h"
#include "device/device_gpu.h"
#include "device/device_watch.h"
#include "fleet/nats_server.h"
#include "xfer/xfer_look.h"

#define GIB ((double) (1u << 30))
#define FILES_WANTED 8192u /* 4,096 connections with room for the rest */
#define FILES_LEAST 256u   /* a server with a worker or two and a few connections */
#define MEMORY_WANTED (1ull << 30)
#define MEMORY_LEAST (256ull << 20) /* no model that answers fits */
#define DEFAULT_PORT 8000

enum severity { GOOD, NOTE, WARNING, BAD };

struct doctor {
    bool is_json, has_colour;
    json_t *findings; /* owned when is_json */
    uint32_t counts[4];
};

static void find(struct doctor *doctor, enum severity severity, const char *what, const char *fix,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));

static void find(struct doctor *doctor, enum severity severity, const char *what, const char *fix,
                 const char *format, ...) {
    static const char *const names[] = {"ok", "note", "warning", "error"};
    static const char *const colours[] = {"\033[32m", "\033[36m", "\033[33m", "\033[31m"};
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    doctor->counts[severity]++;
    if (doctor->is_json) {
        json_t *finding = json_pack("{s:s, s:s, s:s, s:s*}", "severity", names[severity], "what",
                                    what, "found", text, "fix", fix);
        json_array_append_new(doctor->findings, finding);
        return;
    }
    printf("%s%-8s%s%-11s %s\n", doctor->has_colour ? colours[severity] : "", names[severity],
           doctor->has_colour ? "\033[0m" : "", what, text);
    if (fix) printf("%-19s -> %s\n", "", fix);
}

/* The first line of a small file, without its end; false: not there. */
static bool read_line(const char *path, char *line, size_t room) {
    FILE *file = fopen(path, "re");
    if (!file) return false;
    bool is_read = fgets(line, (int) room, file) != NULL;
    fclose(file);
    if (is_read) line[strcspn(line, "\n")] = '\0';
    return is_read;
}

/* --- this machine ------------------------------------------------------------------------ */

/* Free memory, and who has the most of what is taken, where that is much. */
static void look_at_memory(struct doctor *doctor, const struct device_cpu *cpu) {
    struct device_watch_holder largest = {0};
    char holder[96] = "";
    if (cpu->memory_available_bytes < cpu->memory_bytes / 2)
        device_watch_find_largest(NULL, &largest);
    if (largest.pid)
        snprintf(holder, sizeof holder, "; %s (pid %u) has the most: %.1f GiB", largest.name,
                 largest.pid, (double) largest.bytes / GIB);
    bool is_out = cpu->memory_available_bytes < MEMORY_LEAST;
    bool is_low = cpu->memory_available_bytes < MEMORY_WANTED;
    find(doctor,
         is_out   ? BAD
         : is_low ? WARNING
                  : GOOD,
         "memory", is_low ? "free some, or raise the container's limit" : NULL,
         "%.1f of %.1f GiB free (bound by %s)%s", (double) cpu->memory_available_bytes / GIB,
         (double) cpu->memory_bytes / GIB, cpu->memory_bound, holder);
}

static void look_at_cpu(struct doctor *doctor) {
    struct device_cpu cpu;
    device_cpu_look(NULL, &cpu);
    const char *body = cpu.has_avx512 ? "avx512" : cpu.has_avx2 ? "avx2" : "scalar";
    find(doctor, cpu.has_avx2 ? GOOD : WARNING, "processor",
         cpu.has_avx2 ? NULL : "without AVX2 the scalar kernels run: expect a tenth of the speed",
         "%s kernels%s%s", body, cpu.has_avx512_vnni ? ", int8 dot products" : "",
         cpu.has_avx512_bf16 ? ", bf16 dot products" : "");
    find(doctor, GOOD, "threads", NULL, "%u (bound by %s; %u cores, %u cpus allowed)",
         cpu.thread_count, cpu.thread_bound, cpu.core_count, cpu.logical_count);
    look_at_memory(doctor, &cpu);
    char line[256];
    if (read_line("/proc/sys/vm/overcommit_memory", line, sizeof line) && line[0] == '2')
        find(doctor, WARNING, "overcommit", "sysctl vm.overcommit_memory=0",
             "strict accounting: planned memory is refused before it is touched");
    if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line)) {
        bool is_never = strstr(line, "[never]") != NULL;
        find(doctor, is_never ? NOTE : GOOD, "huge pages",
             is_never ? "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled" : NULL,
             "transparent huge pages: %s", line);
    }
    if (read_line("/proc/sys/vm/nr_hugepages", line, sizeof line) && strcmp(line, "0") != 0)
        find(doctor, NOTE, "huge pages",
             "sysctl vm.nr_hugepages=0, unless another program wants them",
             "%s pages are set apart: memory that gramme cannot use", line);
    uint32_t nodes = 0;
    char path[64];
    for (uint32_t i = 0; i < 64; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/node/node%u", i);
        nodes += access(path, F_OK) == 0;
    }
    if (nodes == 1) find(doctor, GOOD, "numa", NULL, "one memory node");
    else if (nodes > 1)
        find(doctor, NOTE, "numa",
             "one worker a node: numactl --cpunodebind=N --membind=N gramme ...", "%u memory nodes",
             nodes);
}

static void look_at_limits(struct doctor *doctor) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        find(doctor,
             limit.rlim_max < FILES_LEAST    ? BAD
             : limit.rlim_max < FILES_WANTED ? WARNING
                                             : GOOD,
             "open files",
             limit.rlim_max < FILES_WANTED
                 ? "raise the hard limit (ulimit -Hn, LimitNOFILE=, --ulimit nofile=)"
                 : NULL,
             "%llu, may be raised to %llu", (unsigned long long) limit.rlim_cur,
             (unsigned long long) limit.rlim_max);
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        find(doctor, WARNING, "ulimit -v",
             "ulimit -v unlimited (LimitAS=infinity): what is planned is bounded by memory itself",
             "%.1f GiB of address space: files are mapped and buffers set apart before they are "
             "used, so this ends a server that has the memory",
             (double) limit.rlim_cur / GIB);
}

struct listener {
    uint32_t pid; /* 0: not found */
    char name[32];
};

/* Inode of the socket that listens on a port, from the kernel's table; 0: none. */
static unsigned long listening_inode(const char *table, unsigned port) {
    FILE *file = fopen(table, "re");
    char line[256];
    unsigned long found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        unsigned local, state;
        unsigned long inode;
        /* sl local:port remote:port state queues timer retransmits uid timeout inode */
        if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*s %x %*s %*s %*s %*s %*s %lu", &local, &state,
                   &inode) == 3 &&
            local == port && state == 0x0a)
            found = inode;
    }
    if (file) fclose(file);
    return found;
}

static bool has_socket(const char *pid, unsigned long inode) {
    char path[300], wanted[48], target[64];
    snprintf(path, sizeof path, "/proc/%s/fd", pid);
    snprintf(wanted, sizeof wanted, "socket:[%lu]", inode);
    DIR *folder = opendir(path);
    bool is_found = false;
    for (const struct dirent *entry; folder && !is_found && (entry = readdir(folder));) {
        ssize_t bytes = readlinkat(dirfd(folder), entry->d_name, target, sizeof target - 1);
        if (bytes <= 0) continue;
        target[bytes] = '\0';
        is_found = strcmp(target, wanted) == 0;
    }
    if (folder) closedir(folder);
    return is_found;
}

static void find_listener(unsigned port, struct listener *out) {
    unsigned long inode = listening_inode("/proc/net/tcp", port);
    if (!inode) inode = listening_inode("/proc/net/tcp6", port);
    DIR *folder = inode ? opendir("/proc") : NULL;
    for (const struct dirent *entry; folder && !out->pid && (entry = readdir(folder));) {
        char *end, path[300];
        unsigned long pid = strtoul(entry->d_name, &end, 10);
        if (*end || end == entry->d_name || !has_socket(entry->d_name, inode)) continue;
        out->pid = (uint32_t) pid;
        snprintf(path, sizeof path, "/proc/%lu/comm", pid);
        if (!read_line(path, out->name, sizeof out->name)) snprintf(out->name, 32, "a process");
    }
    if (folder) closedir(folder);
}

static void look_at_port(struct doctor *doctor) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(DEFAULT_PORT),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bool is_free = bind(fd, (struct sockaddr *) &address, sizeof address) == 0;
    close(fd);
    struct listener listener = {0};
    if (!is_free) find_listener(DEFAULT_PORT, &listener);
    if (listener.pid)
        find(doctor, NOTE, "port", "gramme serve --port N, or --port 0 for any",
             "%d is taken by %s (pid %u)", DEFAULT_PORT, listener.name, listener.pid);
    else
        find(doctor, is_free ? GOOD : NOTE, "port",
             is_free ? NULL : "gramme serve --port N, or --port 0 for any", "%d is %s",
             DEFAULT_PORT, is_free ? "free" : "taken, by a process that this user may not see");
}

/* --- what graphs need ------------------------------------------------------------------------ */

/* A test block over each transport that KV blocks may take between processes. */
static void look_at_lanes(struct doctor *doctor, bool has_ucx) {
    struct xfer_look looks[XFER_LOOK_LANES];
    xfer_look(NULL, looks);
    for (uint32_t i = XFER_LOOK_SHM; i < XFER_LOOK_LANES; i++) {
        bool is_shm = i == XFER_LOOK_SHM;
        const char *what = is_shm ? "kv by shm" : "kv by tcp";
        const char *fix = is_shm ? "blocks go over TCP, several times slower: are memfd_create and "
                                   "unix sockets forbidden here (seccomp)?"
                                 : "the loopback interface must be up";
        if (!is_shm && !has_ucx) continue;
        if (looks[i].error) find(doctor, WARNING, what, fix, "%s", looks[i].text.text);
        else find(doctor, GOOD, what, NULL, "a block of KV went from one worker to another");
    }
}

/* UCX's own list: the parts that have something to work with here (uct.h: query, name and number
 * of resources are the first fields, as published). */
struct uct_attributes {
    uint64_t fields; /* 1: name, 2: resource_count */
    char name[16];
    unsigned resource_count;
    uint64_t more[8]; /* not asked for */
};

static void look_at_transports(struct doctor *doctor) {
    int (*list)(void ***, unsigned *) = NULL, (*query)(void *, struct uct_attributes *) = NULL;
    void (*release)(void **) = NULL;
    void **parts = NULL;
    unsigned count = 0;
    char line[256] = "";
    size_t bytes = 0;
    bool has_network = false;
    void *uct = dlopen("libuct.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!uct) return;
    void *symbols[] = {dlsym(uct, "uct_query_components"), dlsym(uct, "uct_component_query"),
                       dlsym(uct, "uct_release_component_list")};
    memcpy(&list, &symbols[0], sizeof list);
    memcpy(&query, &symbols[1], sizeof query);
    memcpy(&release, &symbols[2], sizeof release);
    if (list && query && release && list(&parts, &count) == 0) {
        for (unsigned i = 0; i < count && bytes < sizeof line; i++) {
            struct uct_attributes attributes = {.fields = 1 | 2};
            if (query(parts[i], &attributes) != 0 || !attributes.resource_count) continue;
            bytes += (size_t) snprintf(line + bytes, sizeof line - bytes, "%s%.16s",
                                       bytes ? " " : "", attributes.name);
            has_network |= strcmp(attributes.name, "ib") == 0;
        }
        release(parts);
    }
    dlclose(uct);
    find(doctor, GOOD, "transports", NULL, "%s%s", line[0] ? line : "none told",
         has_network ? "" : " (no InfiniBand or RoCE: nodes are joined over TCP)");
}

static void look_at_libraries(struct doctor *doctor) {
    char path[512];
    struct err_text text;
    if (nats_server_find(getenv("PATH"), &text, path) == ERR_OK)
        find(doctor, GOOD, "nats-server", NULL, "%s", path);
    else
        find(doctor, NOTE, "nats-server",
             "apt-get install nats-server (graphs of several workers need it; run and serve agg do "
             "not)",
             "not found");
    void *ucp = dlopen("libucp.so.0", RTLD_NOW | RTLD_LOCAL);
    const char *(*version)(void) = NULL;
    if (ucp) {
        void *symbol = dlsym(ucp, "ucp_get_version_string");
        memcpy(&version, &symbol, sizeof version);
        find(doctor, GOOD, "ucx", NULL, "%s", version ? version() : "libucp.so.0");
        dlclose(ucp);
        look_at_transports(doctor);
    } else {
        find(
            doctor, NOTE, "ucx",
            "apt-get install libucx0 (handoffs between machines and containers need it; workers of "
            "one machine share memory)",
            "not found");
    }
    look_at_lanes(doctor, ucp != NULL);
}

static void look_at_gpus(struct doctor *doctor) {
    struct device_gpus *gpus = calloc(1, sizeof *gpus);
    if (!gpus) return;
    device_gpu_look(NULL, gpus);
    bool is_broken = strstr(gpus->trouble, "does not answer") || strstr(gpus->trouble, "too old");
    if (is_broken)
        find(doctor, BAD, "gpus", "reload the NVIDIA driver, or boot again (nvidia-smi says more)",
             "%s", gpus->trouble);
    else if (gpus->trouble[0]) find(doctor, NOTE, "gpus", NULL, "none: %s", gpus->trouble);
    else
        find(doctor, GOOD, "gpus", NULL, "%u, driver %s, CUDA %u.%u", gpus->card_count,
             gpus->driver, gpus->cuda_version / 1000, gpus->cuda_version % 1000 / 10);
    for (uint32_t i = 0; i < gpus->card_count; i++) {
        const struct device_gpu *card = &gpus->cards[i];
        char what[16], holders[160] = "";
        size_t bytes = 0;
        for (uint32_t k = 0; k < card->holder_count && bytes < sizeof holders; k++)
            bytes += (size_t) snprintf(holders + bytes, sizeof holders - bytes,
                                       "%s%s%spid %u holds %.1f GiB", k ? ", " : "; ",
                                       card->holders[k].name, card->holders[k].name[0] ? " " : "",
                                       card->holders[k].pid, (double) card->holders[k].bytes / GIB);
        snprintf(what, sizeof what, "gpu %u", i);
        bool is_taken = card->free_bytes < card->total_bytes / 20 * 19;
        find(doctor, is_taken || card->is_mig ? WARNING : GOOD, what,
             card->is_mig ? "cut into MIG instances: name one in CUDA_VISIBLE_DEVICES"
             : is_taken   ? "end what holds its memory, or leave the card out: "
                            "CUDA_VISIBLE_DEVICES"
                          : NULL,
             "%s, compute %u.%u, %.2f of %.2f GiB free%s", card->name, card->capability_major,
             card->capability_minor, (double) card->free_bytes / GIB,
             (double) card->total_bytes / GIB, holders);
    }
    static const char *const paths[] = {"host", "pcie", "nvlink"};
    for (uint32_t a = 0; a < gpus->card_count && gpus->card_count > 1; a++) {
        char row[DEVICE_GPUS_MAX * 8] = "", what[16];
        size_t bytes = 0;
        bool is_slow = false;
        for (uint32_t b = 0; b < gpus->card_count; b++) {
            is_slow |= a != b && gpus->paths[a][b] == DEVICE_GPU_PATH_NONE;
            bytes += (size_t) snprintf(row + bytes, sizeof row - bytes, "%-7s",
                                       a == b ? "-" : paths[gpus->paths[a][b]]);
        }
        snprintf(what, sizeof what, "p2p %u", a);
        find(doctor, is_slow ? NOTE : GOOD, what,
             is_slow ? "no peer access to some cards: their traffic goes through host memory"
                     : NULL,
             "%s", row);
    }
    free(gpus);
}

static void drop_line(void *ctx, const char *line, size_t bytes) {
    (void) ctx;
    (void) line;
    (void) bytes;
}

int cmd_doctor(int argc, char **argv) {
    struct options *options = NULL;
    const char *positional[CMD_POSITIONAL_MAX];
    uint32_t positional_count = 0;
    int status = cmd_options(OPTION_DOCTOR, argc, argv, &options, positional, &positional_count);
    if (status) return status;
    if (positional_count) {
        options_destroy(options);
        fprintf(stderr, "gramme: doctor takes no '%s'; see 'gramme help doctor'\n", positional[0]);
        return CMD_USAGE;
    }
    struct doctor doctor = {.is_json = options_bool(options, OPT_JSON),
                            .has_colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR")};
    options_destroy(options);
    if (doctor.is_json) doctor.findings = json_array();
    look_at_cpu(&doctor);
    look_at_limits(&doctor);
    look_at_port(&doctor);
    log_divert(drop_line, NULL); /* what the rooms looked at say of themselves is no finding */
    look_at_libraries(&doctor);
    log_divert(NULL, NULL);
    look_at_gpus(&doctor);
    if (doctor.is_json) {
        json_t *all =
            json_pack("{s:b, s:o}", "ok", doctor.counts[BAD] == 0, "findings", doctor.findings);
        char *text = all ? json_dumps(all, JSON_COMPACT) : NULL;
        if (text) puts(text);
        free(text);
        json_decref(all);
    } else {
        printf("%u to mend, %u warning%s, %u note%s\n", doctor.counts[BAD], doctor.counts[WARNING],
               doctor.counts[WARNING] == 1 ? "" : "s", doctor.counts[NOTE],
               doctor.counts[NOTE] == 1 ? "" : "s");
    }
    return doctor.counts[BAD] ? CMD_FAILED : CMD_DONE;
}
