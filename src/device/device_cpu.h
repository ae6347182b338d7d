/* device_cpu - what this machine's CPU and memory give to one process.
 *
 * Looks at the affinity mask, the cores behind it, the cgroup limits (v1, v2 and hybrid, every
 * level up to the root) and the memory there is.  Reads a few small files once and keeps nothing
 * open; a file that is absent or strange means "no such limit".  Any thread. */
#ifndef GRAMME_DEVICE_DEVICE_CPU_H
#define GRAMME_DEVICE_DEVICE_CPU_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Where to look; NULL means the system's own. */
struct device_roots {
    const char *proc;   /* /proc */
    const char *cgroup; /* /sys/fs/cgroup */
    const char *cpu;    /* /sys/devices/system/cpu */
};

struct device_cpu {
    uint32_t logical_count;   /* CPUs in the affinity mask */
    uint32_t core_count;      /* physical cores behind them */
    double quota_cores;       /* the tightest CPU quota; 0: none */
    uint32_t thread_count;    /* compute threads by default: cores, at most the quota rounded down,
                               at least 1 */
    const char *thread_bound; /* which of them it was: "physical cores", "cgroup cpu quota" */

    uint64_t memory_bytes;           /* the smaller of RAM and the tightest cgroup limit */
    uint64_t memory_available_bytes; /* min(MemAvailable, cgroup limit minus use) */
    const char *memory_bound;        /* of the available: "free memory", "cgroup memory limit" */

    bool has_avx2;   /* with FMA and F16C */
    bool has_avx512; /* F, BW, DQ, VL */
    bool has_avx512_vnni;
    bool has_avx512_bf16;
};

/* Cannot fail: what cannot be read does not bound. */
void device_cpu_look(const struct device_roots *roots, struct device_cpu *out);
/* "2 threads (bound by cgroup cpu quota 2.5; 8 cores, 16 cpus), 3.9 of 4.0 GiB free (bound by
 * ...)" for the log. */
struct device_cpu_line {
    char text[256];
};
struct device_cpu_line device_cpu_describe(const struct device_cpu *cpu);

#endif
