/* device_cpu - see device_cpu.h.
 *
 * Memory in use by a cgroup is counted without its inactive file pages, as Kubernetes counts a
 * working set: the kernel gives those back before it refuses anybody. */
#include "device/device_cpu.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define FILE_BYTES 16384 /* /proc/self/status and memory.stat have a few KB */
#define PATH_BYTES 1024
#define CPUS_MAX 4096
#define LEVELS_MAX 64 /* of nested cgroups */

static bool read_file(const char *path, char out[FILE_BYTES]) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t bytes = 0;
    while (bytes < FILE_BYTES - 1) {
        ssize_t got = read(fd, out + bytes, FILE_BYTES - 1 - bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        bytes += (size_t) got;
    }
    close(fd);
    out[bytes] = '\0';
    return bytes > 0;
}

static bool join(char out[PATH_BYTES], const char *folder, const char *name) {
    int written = snprintf(out, PATH_BYTES, "%s/%s", folder, name);
    return written > 0 && written < PATH_BYTES;
}

/* A whole number that nothing but space follows. */
static bool parse_number(const char *text, uint64_t *out) {
    if (*text < '0' || *text > '9') return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || (*end && *end != '\n' && *end != ' ')) return false;
    *out = value;
    return true;
}

static bool read_number(const char *folder, const char *name, uint64_t *out) {
    char path[PATH_BYTES], text[FILE_BYTES];
    return join(path, folder, name) && read_file(path, text) && parse_number(text, out);
}

/* The number behind "key" at the start of a line, spaces and a colon between. */
static bool find_number(const char *text, const char *key, uint64_t *out) {
    size_t bytes = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, bytes) != 0) continue;
        const char *at = line + bytes;
        if (*at != ':' && *at != ' ') continue;
        at += strspn(at, ": \t");
        return parse_number(at, out);
    }
    return false;
}

/* --- cores -------------------------------------------------------------------------------- */

/* The next CPU of a list like "0-3,8,10-11"; false at its end or at anything strange. */
static bool next_cpu(const char **at, uint32_t *next, uint32_t *last) {
    if (*next <= *last) return true;
    if (**at == ',') ++*at;
    if (**at < '0' || **at > '9') return false;
    char *end;
    unsigned long first = strtoul(*at, &end, 10), final = first;
    if (*end == '-' && end[1] >= '0' && end[1] <= '9') final = strtoul(end + 1, &end, 10);
    if (final < first || final >= CPUS_MAX) return false;
    *at = end;
    *next = (uint32_t) first;
    *last = (uint32_t) final;
    return true;
}

static void count_cores(const struct device_roots *roots, struct device_cpu *cpu) {
    char path[PATH_BYTES], text[FILE_BYTES];
    uint32_t keys_count = 0;
    static const char list_key[] = "Cpus_allowed_list:";
    const char *list = NULL;
    if (join(path, roots->proc, "self/status") && read_file(path, text))
        list = strstr(text, list_key);
    if (!list) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        cpu->logical_count = cpu->core_count = online > 0 ? (uint32_t) online : 1;
        return;
    }
    list += strlen(list_key);
    list += strspn(list, " \t");
    /* A core is its (package, core id) pair; a machine that does not tell has one per CPU. */
    uint64_t keys[CPUS_MAX];
    uint32_t next = 1, last = 0;
    while (next_cpu(&list, &next, &last)) {
        char folder[PATH_BYTES];
        uint64_t package = 0, core = 0;
        snprintf(folder, sizeof folder, "%s/cpu%u/topology", roots->cpu, next);
        uint64_t key = UINT64_MAX - next;
        if (read_number(folder, "physical_package_id", &package) &&
            read_number(folder, "core_id", &core))
            key = package << 32 | (core & UINT32_MAX);
        uint32_t i = 0;
        while (i < keys_count && keys[i] != key) i++;
        if (i == keys_count) keys[keys_count++] = key;
        cpu->logical_count++;
        next++;
        if (cpu->logical_count >= CPUS_MAX) break;
    }
    if (!cpu->logical_count) cpu->logical_count = 1;
    cpu->core_count = keys_count ? keys_count : 1;
}

/* --- cgroups ------------------------------------------------------------------------------ */

/* The path of this process in the hierarchy of `controller` ("" for version 2) as
 * /proc/self/cgroup has it: "4:cpu,cpuacct:/a/b".  *names gets "cpu,cpuacct". */
static bool find_group(const char *cgroups, const char *controller, char names[PATH_BYTES],
                       char group[PATH_BYTES]) {
    for (const char *line = cgroups; line && *line;) {
        const char *end = strchr(line, '\n');
        size_t bytes = end ? (size_t) (end - line) : strlen(line);
        const char *first = memchr(line, ':', bytes);
        const char *second =
            first ? memchr(first + 1, ':', bytes - (size_t) (first + 1 - line)) : NULL;
        if (second) {
            size_t names_bytes = (size_t) (second - first - 1);
            size_t group_bytes = bytes - (size_t) (second + 1 - line);
            bool is_it = !*controller && !names_bytes;
            size_t wanted = strlen(controller);
            for (size_t i = 0; wanted && i + wanted <= names_bytes; i++) {
                const char *at = first + 1 + i;
                bool starts = i == 0 || at[-1] == ',';
                bool stops = i + wanted == names_bytes || at[wanted] == ',';
                if (starts && stops && memcmp(at, controller, wanted) == 0) is_it = true;
            }
            if (is_it && names_bytes < PATH_BYTES && group_bytes < PATH_BYTES) {
                snprintf(names, PATH_BYTES, "%.*s", (int) names_bytes, first + 1);
                snprintf(group, PATH_BYTES, "%.*s", (int) group_bytes, second + 1);
                return true;
            }
        }
        line = end ? end + 1 : NULL;
    }
    return false;
}

/* What one level of a hierarchy says; UINT64_MAX or INFINITY: nothing. */
struct level {
    double cores;
    uint64_t limit_bytes;
    uint64_t room_bytes;
};

static void look_at_v2(const char *folder, struct level *level) {
    char path[PATH_BYTES], text[FILE_BYTES];
    uint64_t quota, period = 100000, limit, use, inactive = 0;
    if (join(path, folder, "cpu.max") && read_file(path, text) && parse_number(text, &quota)) {
        const char *space = strchr(text, ' ');
        if (space) (void) !parse_number(space + 1, &period);
        if (period) level->cores = (double) quota / (double) period;
    }
    if (!read_number(folder, "memory.max", &limit)) return;
    level->limit_bytes = limit;
    if (!read_number(folder, "memory.current", &use)) return;
    if (join(path, folder, "memory.stat") && read_file(path, text))
        (void) !find_number(text, "inactive_file", &inactive);
    use -= inactive < use ? inactive : use;
    level->room_bytes = use < limit ? limit - use : 0;
}

static void look_at_v1_cpu(const char *folder, struct level *level) {
    uint64_t quota, period;
    /* -1, "no quota", is no number here. */
    if (read_number(folder, "cpu.cfs_quota_us", &quota) &&
        read_number(folder, "cpu.cfs_period_us", &period) && period)
        level->cores = (double) quota / (double) period;
}

static void look_at_v1_memory(const char *folder, struct level *level) {
    char path[PATH_BYTES], text[FILE_BYTES];
    uint64_t limit, use, inactive = 0;
    if (!read_number(folder, "memory.limit_in_bytes", &limit) || limit >= UINT64_MAX / 4) return;
    level->limit_bytes = limit;
    if (!read_number(folder, "memory.usage_in_bytes", &use)) return;
    if (join(path, folder, "memory.stat") && read_file(path, text))
        (void) !find_number(text, "total_inactive_file", &inactive);
    use -= inactive < use ? inactive : use;
    level->room_bytes = use < limit ? limit - use : 0;
}

/* Every level from the group up to the hierarchy's root binds.  Inside a container the group's
 * path may be the host's, and the files stand at the root: the walk ends there anyway. */
static void walk(const char *root, const char *group, void (*look)(const char *, struct level *),
                 struct level *tightest) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s", group);
    for (int i = 0; i < LEVELS_MAX; i++) {
        char folder[4 * PATH_BYTES];
        snprintf(folder, sizeof folder, "%s%s", root, path);
        struct level level = {INFINITY, UINT64_MAX, UINT64_MAX};
        look(folder, &level);
        if (level.cores < tightest->cores) tightest->cores = level.cores;
        if (level.limit_bytes < tightest->limit_bytes) tightest->limit_bytes = level.limit_bytes;
        if (level.room_bytes < tightest->room_bytes) tightest->room_bytes = level.room_bytes;
        char *slash = strrchr(path, '/');
        if (!slash) break;
        *slash = '\0';
    }
}

static void walk_cgroups(const struct device_roots *roots, struct level *tightest) {
    char path[PATH_BYTES], cgroups[FILE_BYTES], names[PATH_BYTES], group[PATH_BYTES];
    char root[3 * PATH_BYTES];
    if (!join(path, roots->proc, "self/cgroup") || !read_file(path, cgroups)) return;
    if (find_group(cgroups, "", names, group)) {
        walk(roots->cgroup, group, look_at_v2, tightest);
        snprintf(root, sizeof root, "%s/unified", roots->cgroup);
        walk(root, group, look_at_v2, tightest);
    }
    static const struct {
        const char *controller;
        void (*look)(const char *, struct level *);
    } old[] = {{"cpu", look_at_v1_cpu}, {"memory", look_at_v1_memory}};
    for (uint32_t i = 0; i < ARRAY_COUNT(old); i++) {
        if (!find_group(cgroups, old[i].controller, names, group)) continue;
        /* Mounted under all its controllers' names, or under one of them. */
        snprintf(root, sizeof root, "%s/%s", roots->cgroup, names);
        walk(root, group, old[i].look, tightest);
        snprintf(root, sizeof root, "%s/%s", roots->cgroup, old[i].controller);
        walk(root, group, old[i].look, tightest);
    }
}

/* --- all together ------------------------------------------------------------------------- */

static void look_at_memory(const struct device_roots *roots, const struct level *tightest,
                           struct device_cpu *cpu) {
    char path[PATH_BYTES], text[FILE_BYTES];
    uint64_t total_kib = 0, available_kib = 0, cached_kib = 0;
    if (join(path, roots->proc, "meminfo") && read_file(path, text)) {
        (void) !find_number(text, "MemTotal", &total_kib);
        if (!find_number(text, "MemAvailable", &available_kib) && /* before Linux 3.14 */
            find_number(text, "MemFree", &available_kib) &&
            find_number(text, "Cached", &cached_kib))
            available_kib += cached_kib;
    }
    if (!total_kib) { /* no /proc (a bare chroot): the kernel tells, cached files not counted */
        uint64_t page_kib = (uint64_t) sysconf(_SC_PAGESIZE) / 1024;
        total_kib = (uint64_t) sysconf(_SC_PHYS_PAGES) * page_kib;
        available_kib = (uint64_t) sysconf(_SC_AVPHYS_PAGES) * page_kib;
    }
    if (total_kib > UINT64_MAX / 1024) total_kib = UINT64_MAX / 1024;
    if (available_kib > total_kib) available_kib = total_kib;
    cpu->memory_bytes = total_kib * 1024;
    cpu->memory_available_bytes = available_kib * 1024;
    cpu->memory_bound = "free memory";
    if (tightest->limit_bytes < cpu->memory_bytes) cpu->memory_bytes = tightest->limit_bytes;
    uint64_t room_bytes = tightest->room_bytes;
    if (room_bytes > cpu->memory_bytes) room_bytes = cpu->memory_bytes; /* use is not told */
    if (room_bytes < cpu->memory_available_bytes) {
        cpu->memory_available_bytes = room_bytes;
        cpu->memory_bound = "cgroup memory limit";
    }
}

#if defined(__x86_64__)
/* Bits of CPUID (Intel's manual, volume 2) that clang 14 has no names for. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}
static bool has_bf16(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}
#endif

static void look_at_features(struct device_cpu *cpu) {
#if defined(__x86_64__)
    cpu->has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    cpu->has_avx512 = cpu->has_avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
    cpu->has_avx512_vnni = cpu->has_avx512 && __builtin_cpu_supports("avx512vnni");
    cpu->has_avx512_bf16 = cpu->has_avx512 && has_bf16();
#else
    (void) cpu;
#endif
}

void device_cpu_look(const struct device_roots *roots, struct device_cpu *out) {
    struct device_roots real = {"/proc", "/sys/fs/cgroup", "/sys/devices/system/cpu"};
    if (roots && roots->proc) real.proc = roots->proc;
    if (roots && roots->cgroup) real.cgroup = roots->cgroup;
    if (roots && roots->cpu) real.cpu = roots->cpu;
    struct device_cpu cpu = {0};
    struct level tightest = {INFINITY, UINT64_MAX, UINT64_MAX};
    count_cores(&real, &cpu);
    walk_cgroups(&real, &tightest);
    cpu.thread_count = cpu.core_count;
    cpu.thread_bound = "physical cores";
    if (isfinite(tightest.cores)) {
        cpu.quota_cores = tightest.cores;
        if (tightest.cores < (double) cpu.core_count) {
            cpu.thread_count = tightest.cores < 1 ? 1 : (uint32_t) tightest.cores;
            cpu.thread_bound = "cgroup cpu quota";
        }
    }
    look_at_memory(&real, &tightest, &cpu);
    look_at_features(&cpu);
    *out = cpu;
}

struct device_cpu_line device_cpu_describe(const struct device_cpu *cpu) {
    struct device_cpu_line line;
    char quota[48] = "";
    if (cpu->quota_cores > 0) snprintf(quota, sizeof quota, ", quota %.2f", cpu->quota_cores);
    snprintf(line.text, sizeof line.text,
             "%u threads (bound by %s; %u cores, %u cpus%s), %.1f of %.1f GiB available (bound by "
             "%s)",
             cpu->thread_count, cpu->thread_bound, cpu->core_count, cpu->logical_count, quota,
             (double) cpu->memory_available_bytes / (1u << 30),
             (double) cpu->memory_bytes / (1u << 30), cpu->memory_bound);
    return line;
}
