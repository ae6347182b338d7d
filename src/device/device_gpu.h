/* device_gpu - the NVIDIA cards of this machine, as the driver's management library tells.
 *
 * NVML (libnvidia-ml.so.1) is opened at run time; a machine without it has no cards here and
 * nothing fails.  Functions and constants are those of NVIDIA's published NVML API.  Looks only:
 * no context is made on a card, no setting changed.  One owner; opening may take a second on a
 * machine whose driver sleeps. */
#ifndef GRAMME_DEVICE_DEVICE_GPU_H
#define GRAMME_DEVICE_DEVICE_GPU_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define DEVICE_GPUS_MAX 32
#define DEVICE_GPU_HOLDERS_MAX 16

/* A process that holds memory of a card. */
struct device_gpu_holder {
    uint32_t pid;
    char name[32];  /* of its command; "" when it is not to be seen (another PID namespace) */
    uint64_t bytes; /* 0: the driver does not tell */
};

struct device_gpu {
    char name[96];                    /* "NVIDIA H100 80GB HBM3" */
    char uuid[96];                    /* "GPU-..." */
    uint64_t total_bytes, free_bytes; /* as cudaMemGetInfo has them */
    uint32_t capability_major, capability_minor;
    bool is_mig; /* cut into instances: not used as a whole card */
    struct device_gpu_holder holders[DEVICE_GPU_HOLDERS_MAX];
    uint32_t holder_count; /* at most DEVICE_GPU_HOLDERS_MAX are told */
};

enum device_gpu_path {
    DEVICE_GPU_PATH_NONE, /* through the host's memory */
    DEVICE_GPU_PATH_PCIE, /* peer reads and writes over PCIe */
    DEVICE_GPU_PATH_NVLINK,
};

struct device_gpus {
    char driver[32];       /* "" when there is no driver */
    uint32_t cuda_version; /* 12040: 12.4 */
    struct device_gpu cards[DEVICE_GPUS_MAX];
    uint32_t card_count;
    uint8_t paths[DEVICE_GPUS_MAX][DEVICE_GPUS_MAX]; /* enum device_gpu_path */
    char trouble[160]; /* why there is nothing to see; "" when the library answered */
};

/* A driver's library that stays open, for looks that come again: device_watch.h. */
struct device_gpu_session;
/* NULL when there is nothing to see: out->trouble says why.  Else *out is filled. */
struct device_gpu_session *device_gpu_session_open(const char *library, struct device_gpus *out);
/* Memory and holders of the same cards again. */
void device_gpu_session_look(struct device_gpu_session *session, struct device_gpus *out);
void device_gpu_session_close(struct device_gpu_session *session); /* NULL is allowed */

/* What the driver's library takes of a process that opens it, at most (an estimate); 0 where there
 * is no driver.  `proc` NULL: /proc. */
uint64_t device_gpu_library_bytes(const char *proc);

/* Cannot fail: what cannot be asked is told in out->trouble.  library: NULL for the system's. */
void device_gpu_look(const char *library, struct device_gpus *out);

#endif
