/* fake_nvml - a management library with three cards, the last of which has fallen off its bus. */
#include <stdio.h>
#include <string.h>

struct memory {
    unsigned long long total, free, used;
};
struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};
struct process {
    unsigned pid;
    unsigned long long used_bytes;
    unsigned gpu_instance, compute_instance;
};

static char cards[3];

int nvmlInit_v2(void);
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void);
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int status);
const char *nvmlErrorString(int status) { return status ? "trouble" : "fine"; }
int nvmlSystemGetDriverVersion(char *out, unsigned room);
int nvmlSystemGetDriverVersion(char *out, unsigned room) {
    snprintf(out, room, "1.2.3");
    return 0;
}
int nvmlSystemGetCudaDriverVersion(int *out);
int nvmlSystemGetCudaDriverVersion(int *out) {
    *out = 12040;
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *out);
int nvmlDeviceGetCount_v2(unsigned *out) {
    *out = 3;
    return 0;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) {
    *out = &cards[index];
    return index == 2 ? 15 : 0; /* lost */
}
int nvmlDeviceGetName(void *card, char *out, unsigned room);
int nvmlDeviceGetName(void *card, char *out, unsigned room) {
    snprintf(out, room, "Card %d", (int) ((char *) card - cards));
    return 0;
}
int nvmlDeviceGetUUID(void *card, char *out, unsigned room);
int nvmlDeviceGetUUID(void *card, char *out, unsigned room) {
    snprintf(out, room, "GPU-%d", (int) ((char *) card - cards));
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *card, struct memory *out);
int nvmlDeviceGetMemoryInfo(void *card, struct memory *out) {
    *out = (struct memory){.total = card == &cards[0] ? 1024 : 1000,
                           .free = card == &cards[0] ? 100 : 1000};
    return 0;
}
/* The first card's driver knows it and keeps 24 bytes for itself; the second's does not. */
int nvmlDeviceGetMemoryInfo_v2(void *card, struct memory_v2 *out);
int nvmlDeviceGetMemoryInfo_v2(void *card, struct memory_v2 *out) {
    if (card != &cards[0] || out->version != (sizeof *out | 2u << 24)) return 2;
    *out =
        (struct memory_v2){out->version, .total = 1024, .reserved = 24, .free = 100, .used = 900};
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *card, int *major, int *minor);
int nvmlDeviceGetCudaComputeCapability(void *card, int *major, int *minor) {
    (void) card;
    *major = 9;
    *minor = 0;
    return 0;
}
int nvmlDeviceGetMigMode(void *card, unsigned *now, unsigned *next);
int nvmlDeviceGetMigMode(void *card, unsigned *now, unsigned *next) {
    *now = *next = card == &cards[1];
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v2(void *card, unsigned *count, struct process *out);
int nvmlDeviceGetComputeRunningProcesses_v2(void *card, unsigned *count, struct process *out) {
    if (card == &cards[1]) {
        *count = 0;
        return 0;
    }
    *count = 2;
    out[0] = (struct process){.pid = 77, .used_bytes = 900};
    out[1] = (struct process){.pid = 78, .used_bytes = ~0ull};
    return 0;
}
int nvmlDeviceGetP2PStatus(void *a, void *b, int capability, int *out);
int nvmlDeviceGetP2PStatus(void *a, void *b, int capability, int *out) {
    (void) b;
    *out = a == &cards[0] ? 0 : capability == 2 ? 1 : 0; /* 0 -> 1: NVLink; 1 -> 0: PCIe */
    return 0;
}
