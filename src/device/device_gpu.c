/* device_gpu - see device_gpu.h. */
#include "device/device_gpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/num.h"

/* Its pages, its heap, its mapping of the driver: twice what nvidia-smi -L holds beside its own. */
#define LIBRARY_BYTES ((uint64_t) 16 << 20)

/* NVML's API, as published: every function gives 0 when it did what it says. */
typedef void *nvml_device;
struct nvml_memory {
    unsigned long long total, free, used;
};
struct nvml_memory_v2 {
    unsigned version; /* NVML_MEMORY_V2, set by the caller */
    unsigned long long total, reserved, free, used;
};
#define NVML_MEMORY_V2 ((unsigned) sizeof(struct nvml_memory_v2) | 2u << 24)
struct nvml_process {
    unsigned pid;
    unsigned long long used_bytes; /* all ones: not told */
    unsigned gpu_instance, compute_instance;
};
#define NVML_P2P_READ 0
#define NVML_P2P_WRITE 1
#define NVML_P2P_NVLINK 2

struct nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    const char *(*error_string)(int);
    int (*driver_version)(char *, unsigned);
    int (*cuda_version)(int *);
    int (*count)(unsigned *);
    int (*by_index)(unsigned, nvml_device *);
    int (*name)(nvml_device, char *, unsigned);
    int (*uuid)(nvml_device, char *, unsigned);
    int (*memory)(nvml_device, struct nvml_memory *);
    int (*capability)(nvml_device, int *, int *);
    /* May be absent in an old driver. */
    int (*memory_v2)(nvml_device, struct nvml_memory_v2 *);
    int (*mig_mode)(nvml_device, unsigned *, unsigned *);
    int (*processes)(nvml_device, unsigned *, struct nvml_process *);
    int (*p2p_status)(nvml_device, nvml_device, int, int *);
};

static bool find(struct nvml *nvml, void *place, const char *name) {
    void *symbol = dlsym(nvml->library, name);
    memcpy(place, &symbol, sizeof symbol);
    return symbol != NULL;
}

static bool nvml_open(struct nvml *nvml, const char *library, char *trouble, size_t room) {
    nvml->library = dlopen(library ? library : "libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!nvml->library) {
        snprintf(trouble, room, "no NVIDIA driver library (libnvidia-ml.so.1)");
        return false;
    }
    const struct {
        void *place;
        const char *name;
    } needed[] = {
        {&nvml->init, "nvmlInit_v2"},
        {&nvml->shutdown, "nvmlShutdown"},
        {&nvml->error_string, "nvmlErrorString"},
        {&nvml->driver_version, "nvmlSystemGetDriverVersion"},
        {&nvml->cuda_version, "nvmlSystemGetCudaDriverVersion"},
        {&nvml->count, "nvmlDeviceGetCount_v2"},
        {&nvml->by_index, "nvmlDeviceGetHandleByIndex_v2"},
        {&nvml->name, "nvmlDeviceGetName"},
        {&nvml->uuid, "nvmlDeviceGetUUID"},
        {&nvml->memory, "nvmlDeviceGetMemoryInfo"},
        {&nvml->capability, "nvmlDeviceGetCudaComputeCapability"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(needed); i++) {
        if (find(nvml, needed[i].place, needed[i].name)) continue;
        snprintf(trouble, room, "the NVIDIA driver library lacks %s: the driver is too old",
                 needed[i].name);
        dlclose(nvml->library);
        return false;
    }
    find(nvml, &nvml->memory_v2, "nvmlDeviceGetMemoryInfo_v2");
    find(nvml, &nvml->mig_mode, "nvmlDeviceGetMigMode");
    if (!find(nvml, &nvml->processes, "nvmlDeviceGetComputeRunningProcesses_v3"))
        find(nvml, &nvml->processes, "nvmlDeviceGetComputeRunningProcesses_v2");
    find(nvml, &nvml->p2p_status, "nvmlDeviceGetP2PStatus");
    int status = nvml->init();
    if (status == 0) return true;
    snprintf(trouble, room, "the NVIDIA driver does not answer: %s", nvml->error_string(status));
    dlclose(nvml->library);
    return false;
}

static void read_name(uint32_t pid, char *out, size_t room) {
    char path[32];
    snprintf(path, sizeof path, "/proc/%u/comm", pid);
    FILE *file = fopen(path, "re");
    *out = '\0';
    if (!file) return;
    if (!fgets(out, (int) room, file)) *out = '\0';
    fclose(file);
    for (char *at = out; *at; at++) /* a process names itself: no control characters of its */
        if ((unsigned char) *at < ' ' || *at == 127) *at = at[1] ? '?' : '\0';
}

static void look_at_holders(const struct nvml *nvml, nvml_device device, struct device_gpu *card) {
    struct nvml_process processes[DEVICE_GPU_HOLDERS_MAX * 4];
    unsigned count = ARRAY_COUNT(processes);
    if (!nvml->processes || nvml->processes(device, &count, processes) != 0) return;
    for (unsigned i = 0; i < count && card->holder_count < DEVICE_GPU_HOLDERS_MAX; i++) {
        uint64_t bytes = processes[i].used_bytes;
        struct device_gpu_holder *holder = &card->holders[card->holder_count++];
        *holder = (struct device_gpu_holder){.pid = processes[i].pid,
                                             .bytes = bytes == UINT64_MAX ? 0 : bytes};
        read_name(holder->pid, holder->name, sizeof holder->name);
    }
}

/* What programs can have: the driver's own reserve (480 MiB of an H100) is neither in the total, as
 * cudaMemGetInfo has it, nor used by anybody.  An old driver counts it as used. */
static bool look_at_memory(const struct nvml *nvml, nvml_device device, struct device_gpu *card) {
    struct nvml_memory_v2 whole = {.version = NVML_MEMORY_V2};
    if (nvml->memory_v2 && nvml->memory_v2(device, &whole) == 0 && whole.reserved <= whole.total) {
        card->total_bytes = whole.total - whole.reserved;
        card->free_bytes = whole.free;
        return true;
    }
    struct nvml_memory memory;
    if (nvml->memory(device, &memory) != 0) return false;
    card->total_bytes = memory.total;
    card->free_bytes = memory.free;
    return true;
}

static bool look_at_card(const struct nvml *nvml, nvml_device device, struct device_gpu *card) {
    int major = 0, minor = 0;
    unsigned mig = 0, mig_next = 0;
    if (!look_at_memory(nvml, device, card)) return false;
    if (nvml->name(device, card->name, sizeof card->name) != 0) card->name[0] = '\0';
    if (nvml->uuid(device, card->uuid, sizeof card->uuid) != 0) card->uuid[0] = '\0';
    if (nvml->capability(device, &major, &minor) == 0) {
        card->capability_major = (uint32_t) major;
        card->capability_minor = (uint32_t) minor;
    }
    if (nvml->mig_mode && nvml->mig_mode(device, &mig, &mig_next) == 0) card->is_mig = mig != 0;
    look_at_holders(nvml, device, card);
    return true;
}

static bool has_p2p(const struct nvml *nvml, nvml_device a, nvml_device b, int capability) {
    int status = 1;
    return nvml->p2p_status && nvml->p2p_status(a, b, capability, &status) == 0 && status == 0;
}

struct device_gpu_session {
    struct nvml nvml;
    nvml_device devices[DEVICE_GPUS_MAX];
};

static void look_at_paths(const struct device_gpu_session *session, struct device_gpus *out) {
    for (uint32_t a = 0; a < out->card_count; a++)
        for (uint32_t b = 0; b < out->card_count; b++) {
            if (a == b) continue;
            const struct nvml *nvml = &session->nvml;
            nvml_device from = session->devices[a], to = session->devices[b];
            bool is_peer =
                has_p2p(nvml, from, to, NVML_P2P_READ) && has_p2p(nvml, from, to, NVML_P2P_WRITE);
            out->paths[a][b] = !is_peer                                   ? DEVICE_GPU_PATH_NONE
                               : has_p2p(nvml, from, to, NVML_P2P_NVLINK) ? DEVICE_GPU_PATH_NVLINK
                                                                          : DEVICE_GPU_PATH_PCIE;
        }
}

struct device_gpu_session *device_gpu_session_open(const char *library, struct device_gpus *out) {
    *out = (struct device_gpus){0};
    struct device_gpu_session *session = alloc_zero(1, sizeof *session);
    if (!session) {
        snprintf(out->trouble, sizeof out->trouble, "out of memory");
        return NULL;
    }
    struct nvml *nvml = &session->nvml;
    if (!nvml_open(nvml, library, out->trouble, sizeof out->trouble)) {
        alloc_free(session);
        return NULL;
    }
    if (nvml->driver_version(out->driver, sizeof out->driver) != 0) out->driver[0] = '\0';
    int cuda = 0;
    if (nvml->cuda_version(&cuda) == 0) out->cuda_version = (uint32_t) cuda;
    unsigned count = 0;
    int status = nvml->count(&count);
    if (status != 0)
        snprintf(out->trouble, sizeof out->trouble, "the NVIDIA driver names no cards: %s",
                 nvml->error_string(status));
    for (unsigned i = 0; i < count && out->card_count < DEVICE_GPUS_MAX; i++) {
        nvml_device device;
        if (nvml->by_index(i, &device) != 0) continue; /* lost from the bus, or not ours to see */
        if (!look_at_card(nvml, device, &out->cards[out->card_count])) continue;
        session->devices[out->card_count++] = device;
    }
    look_at_paths(session, out);
    return session;
}

void device_gpu_session_look(struct device_gpu_session *session, struct device_gpus *out) {
    for (uint32_t i = 0; i < out->card_count; i++) {
        struct device_gpu *card = &out->cards[i];
        if (!look_at_memory(&session->nvml, session->devices[i], card)) continue;
        card->holder_count = 0;
        look_at_holders(&session->nvml, session->devices[i], card);
    }
}

void device_gpu_session_close(struct device_gpu_session *session) {
    if (!session) return;
    session->nvml.shutdown();
    dlclose(session->nvml.library);
    alloc_free(session);
}

uint64_t device_gpu_library_bytes(const char *proc) {
    char path[256];
    snprintf(path, sizeof path, "%s/driver/nvidia/version", proc ? proc : "/proc");
    return access(path, R_OK) == 0 ? LIBRARY_BYTES : 0;
}

void device_gpu_look(const char *library, struct device_gpus *out) {
    device_gpu_session_close(device_gpu_session_open(library, out));
}
