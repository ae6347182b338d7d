/* device_watch - see device_watch.h. */
#include "device/device_watch.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"

#define INTERVAL_MS 2000u      /* slow enough to cost nothing, fast enough to be ahead of a load */
#define STACK_BYTES (1u << 20) /* address space: few pages of it are touched */
#define MIB (1ull << 20)
#define LOW_BYTES (256 * MIB)  /* beneath, or beneath 2 % of the machine, anything may be killed */
#define SLACK_BYTES (64 * MIB) /* between where a warning begins and where it ends, at least */
#define COST_SHARE 200u        /* a measurement may take so small a part of the time: 0.5 % */

static double gib(uint64_t bytes) { return (double) bytes / (1u << 30); }

/* --- when to warn -------------------------------------------------------------------------- */

/* Of the plan, to be used from now on. */
static uint64_t yet_bytes(const struct device_watch_host *host) {
    uint64_t here = host->used_bytes + host->lent_bytes;
    return host->planned_bytes > here ? host->planned_bytes - here : 0;
}

/* What is there, and what there has to be; false: the question does not arise. */
static bool weigh(enum device_watch_kind kind, const struct device_watch_sample *sample,
                  uint64_t *have, uint64_t *need) {
    const struct device_watch_host *host = &sample->host;
    switch (kind) {
    case DEVICE_WATCH_PLAN:
        *have = host->available_bytes;
        *need = yet_bytes(host);
        return *need > 0;
    case DEVICE_WATCH_LOW:
        *have = host->available_bytes;
        *need = host->total_bytes / 50 < LOW_BYTES ? host->total_bytes / 50 : LOW_BYTES;
        return *need > 0;
    case DEVICE_WATCH_DRIFT: /* a hundredth and a little is how far a plan may be off */
        *have = host->planned_bytes + host->planned_bytes / 100 + SLACK_BYTES;
        *need = host->used_bytes + host->lent_bytes;
        return host->planned_bytes > 0;
    default: break;
    }
    uint32_t index = (uint32_t) kind - DEVICE_WATCH_CARD;
    if (index >= sample->card_count) return false;
    const struct device_watch_card *card = &sample->cards[index];
    *have = card->total_bytes > card->other_bytes ? card->total_bytes - card->other_bytes : 0;
    *need = card->planned_bytes;
    return card->planned_bytes > 0;
}

bool device_watch_judge(struct device_watch_state *state, enum device_watch_kind kind,
                        const struct device_watch_sample *sample) {
    uint64_t have, need;
    bool *is_warned = &state->is_warned[kind];
    if (!weigh(kind, sample, &have, &need)) {
        *is_warned = false;
        return false;
    }
    if (have < need) {
        bool begins = !*is_warned;
        *is_warned = true;
        return begins;
    }
    uint64_t slack = need / 10 < SLACK_BYTES ? SLACK_BYTES : need / 10;
    if (kind == DEVICE_WATCH_LOW) slack = need;
    if (have - need > slack) *is_warned = false;
    return false;
}

void device_watch_describe(enum device_watch_kind kind, const struct device_watch_sample *sample,
                           const struct device_watch_holder *largest, char *out, size_t room) {
    const struct device_watch_host *host = &sample->host;
    char who[96] = "";
    if (largest && largest->pid)
        snprintf(who, sizeof who, "; the largest process beside is %s (pid %u) with %.2f GiB",
                 largest->name, largest->pid, gib(largest->bytes));
    switch (kind) {
    case DEVICE_WATCH_PLAN:
        snprintf(
            out, room,
            "the plan counts on memory that is not there: %.2f GiB of the planned %.2f are yet "
            "to be used and %.2f GiB are left (%s)%s; free some, or start again with less "
            "(--max-model-len, --kv-cache-memory-bytes)",
            gib(yet_bytes(host)), gib(host->planned_bytes), gib(host->available_bytes), host->bound,
            who);
        return;
    case DEVICE_WATCH_LOW:
        snprintf(out, room,
                 "memory is nearly out: %.2f of %.2f GiB are left (%s), and what asks for more may "
                 "be killed%s",
                 gib(host->available_bytes), gib(host->total_bytes), host->bound, who);
        return;
    case DEVICE_WATCH_DRIFT:
        snprintf(out, room,
                 "this process uses %.2f GiB and %.2f were planned: %.2f GiB too much; please tell "
                 "the makers, with the output of gramme plan --explain",
                 gib(host->used_bytes + host->lent_bytes), gib(host->planned_bytes),
                 gib(host->drift_bytes));
        return;
    default: break;
    }
    uint32_t index = (uint32_t) kind - DEVICE_WATCH_CARD;
    const struct device_watch_card *card = &sample->cards[index];
    who[0] = '\0';
    if (card->largest.pid)
        snprintf(who, sizeof who, ", most by %s%spid %u with %.2f GiB", card->largest.name,
                 card->largest.name[0] ? " " : "", card->largest.pid, gib(card->largest.bytes));
    snprintf(
        out, room,
        "card %u: others hold %.2f of its %.2f GiB%s, and %.2f are planned there: end them, or "
        "leave the card out with CUDA_VISIBLE_DEVICES",
        index, gib(card->other_bytes), gib(card->total_bytes), who, gib(card->planned_bytes));
}

/* --- one look --------------------------------------------------------------------------------- */

static const char *proc_of(const struct device_roots *roots) {
    return roots && roots->proc ? roots->proc : "/proc";
}

/* Resident bytes of a process (`who`: a number or "self"), and those of them that are its own. */
static bool read_resident(const struct device_roots *roots, const char *who, uint64_t *all,
                          uint64_t *own) {
    char path[512];
    unsigned long long size, resident, shared;
    snprintf(path, sizeof path, "%s/%s/statm", proc_of(roots), who);
    FILE *file = fopen(path, "re");
    bool is_read = file && fscanf(file, "%llu %llu %llu", &size, &resident, &shared) == 3;
    if (file) fclose(file);
    if (!is_read) return false;
    uint64_t page = (uint64_t) sysconf(_SC_PAGESIZE);
    *all = resident * page;
    *own = resident > shared ? (resident - shared) * page : 0;
    return true;
}

/* The last measurement of this process; between two, what is used follows the resident pages. */
struct measurement {
    uint64_t next_ns; /* 0: none yet */
    uint64_t resident_bytes;
    struct device_process process;
};

static void measure(const struct device_watch_options *options, struct measurement *last,
                    struct device_watch_host *out) {
    uint64_t begin_ns = clock_now_ns();
    if (begin_ns >= last->next_ns) {
        last->resident_bytes = out->used_bytes;
        if (device_process_look(options->roots, options->weights, options->weights_count,
                                &last->process))
            last->process = (struct device_process){.used_bytes = out->used_bytes};
        uint64_t end_ns = clock_now_ns();
        last->next_ns = end_ns + (end_ns - begin_ns) * COST_SHARE;
    }
    uint64_t used = last->process.used_bytes + out->used_bytes;
    out->used_bytes = used > last->resident_bytes ? used - last->resident_bytes : 0;
    out->lent_bytes = last->process.lent_bytes;
}

static void look_at_host(const struct device_watch_options *options, struct measurement *last,
                         struct device_watch_host *out) {
    struct device_cpu cpu;
    uint64_t own = 0;
    device_cpu_look(options->roots, &cpu);
    *out = (struct device_watch_host){.total_bytes = cpu.memory_bytes,
                                      .available_bytes = cpu.memory_available_bytes,
                                      .bound = cpu.memory_bound,
                                      .planned_bytes = options->planned_bytes};
    if (!read_resident(options->roots, "self", &out->used_bytes, &own)) out->used_bytes = 0;
    uint64_t free_or_own = out->available_bytes + own;
    if (out->total_bytes > free_or_own) out->other_bytes = out->total_bytes - free_or_own;
    if (out->planned_bytes) measure(options, last, out);
    uint64_t here = out->used_bytes + out->lent_bytes;
    if (out->planned_bytes && here > out->planned_bytes)
        out->drift_bytes = here - out->planned_bytes;
}

/* This process, or a child of the family's. */
static bool is_ours(const struct device_watch_options *options, uint32_t pid) {
    const struct device_roots *roots = options->roots;
    char path[512], line[512];
    uint32_t self = (uint32_t) getpid(), head = options->family_pid ? options->family_pid : self;
    if (pid == self || pid == head) return true;
    snprintf(path, sizeof path, "%s/%u/stat", proc_of(roots), pid);
    FILE *file = fopen(path, "re");
    bool is_read = file && fgets(line, sizeof line, file);
    if (file) fclose(file);
    /* pid (name) state ppid: the name may hold anything, its ')' is the last. */
    const char *end = is_read ? strrchr(line, ')') : NULL;
    unsigned parent = 0;
    char state;
    return end && sscanf(end + 1, " %c %u", &state, &parent) == 2 && parent == head;
}

static void look_at_cards(const struct device_watch_options *options, struct device_gpus *gpus,
                          struct device_watch_sample *out) {
    out->card_count =
        gpus->card_count < options->card_count ? gpus->card_count : options->card_count;
    for (uint32_t i = 0; i < out->card_count; i++) {
        const struct device_gpu *gpu = &gpus->cards[i];
        struct device_watch_card *card = &out->cards[i];
        *card = (struct device_watch_card){.total_bytes = gpu->total_bytes,
                                           .used_bytes = gpu->total_bytes - gpu->free_bytes,
                                           .planned_bytes = options->card_planned_bytes[i]};
        snprintf(card->name, sizeof card->name, "%s", gpu->name);
        uint64_t others = 0;
        for (uint32_t k = 0; k < gpu->holder_count; k++) {
            const struct device_gpu_holder *holder = &gpu->holders[k];
            if (is_ours(options, holder->pid)) {
                card->own_bytes += holder->bytes;
                continue;
            }
            others += holder->bytes;
            if (card->largest.pid && holder->bytes <= card->largest.bytes) continue;
            card->largest.pid = holder->pid;
            card->largest.bytes = holder->bytes;
            snprintf(card->largest.name, sizeof card->largest.name, "%s", holder->name);
        }
        /* What nobody is named for is another's too: not every driver tells who. */
        uint64_t unnamed =
            card->used_bytes > card->own_bytes ? card->used_bytes - card->own_bytes : 0;
        card->other_bytes = num_max(others, unnamed);
    }
}

void device_watch_look(const struct device_watch_options *options,
                       struct device_watch_sample *out) {
    memset(out, 0, sizeof *out);
    struct measurement none = {0};
    out->number = 1;
    look_at_host(options, &none, &out->host);
    struct device_gpus *gpus = options->card_count ? alloc_zero(1, sizeof *gpus) : NULL;
    if (!gpus) return;
    device_gpu_look(options->library, gpus);
    look_at_cards(options, gpus, out);
    alloc_free(gpus);
}

void device_watch_find_largest(const struct device_roots *roots, struct device_watch_holder *out) {
    *out = (struct device_watch_holder){0};
    DIR *folder = opendir(proc_of(roots));
    if (!folder) return;
    for (const struct dirent *entry; (entry = readdir(folder));) {
        char *end;
        unsigned long pid = strtoul(entry->d_name, &end, 10);
        uint64_t all, own;
        if (*end || end == entry->d_name || pid == (unsigned long) getpid()) continue;
        if (!read_resident(roots, entry->d_name, &all, &own) || own <= out->bytes) continue;
        out->pid = (uint32_t) pid;
        out->bytes = own;
    }
    closedir(folder);
    if (!out->pid) return;
    char path[512];
    snprintf(path, sizeof path, "%s/%u/comm", proc_of(roots), out->pid);
    FILE *file = fopen(path, "re");
    if (file && fgets(out->name, sizeof out->name, file))
        out->name[strcspn(out->name, "\n")] = '\0';
    if (file) fclose(file);
    for (char *at = out->name; *at; at++)
        if ((unsigned char) *at < ' ' || *at == 127) *at = '?';
}

/* --- the thread ------------------------------------------------------------------------------- */

struct device_watch {
    struct device_watch_options options;
    pthread_t thread;
    pthread_mutex_t lock; /* sample, must_stop */
    pthread_cond_t wake;
    bool must_stop;
    struct device_watch_sample sample;
    struct device_watch_state state;  /* the thread's, */
    struct measurement measurement;   /* and this, */
    struct device_gpu_session *cards; /* and this; NULL: none are wanted, or there */
    struct device_gpus gpus;
};

static bool is_told_here(const struct device_watch *watch, enum device_watch_kind kind) {
    return kind != DEVICE_WATCH_LOW || watch->options.is_node;
}

static void warn(struct device_watch *watch, enum device_watch_kind kind,
                 const struct device_watch_sample *sample) {
    struct device_watch_holder largest = {0};
    char line[400];
    if (kind == DEVICE_WATCH_PLAN || kind == DEVICE_WATCH_LOW)
        device_watch_find_largest(watch->options.roots, &largest);
    device_watch_describe(kind, sample, &largest, line, sizeof line);
    if (watch->options.warn) watch->options.warn(watch->options.warn_ctx, line);
    else log_warn("%s", line);
}

static void look(struct device_watch *watch, struct device_watch_sample *sample) {
    sample->number++;
    look_at_host(&watch->options, &watch->measurement, &sample->host);
    if (watch->cards) {
        device_gpu_session_look(watch->cards, &watch->gpus);
        look_at_cards(&watch->options, &watch->gpus, sample);
    }
    for (uint32_t kind = 0; kind < DEVICE_WATCH_CARD + sample->card_count; kind++)
        if (is_told_here(watch, (enum device_watch_kind) kind) &&
            device_watch_judge(&watch->state, (enum device_watch_kind) kind, sample))
            warn(watch, (enum device_watch_kind) kind, sample);
}

static void *run(void *ctx) {
    struct device_watch *watch = ctx;
    struct device_watch_sample *sample = alloc_zero(1, sizeof *sample);
    uint32_t interval_ms = watch->options.interval_ms ? watch->options.interval_ms : INTERVAL_MS;
    if (watch->options.card_count)
        watch->cards = device_gpu_session_open(watch->options.library, &watch->gpus);
    bool is_needed = watch->cards || watch->options.is_node || watch->options.planned_bytes ||
                     !watch->options.card_count;
    pthread_mutex_lock(&watch->lock);
    while (sample && is_needed && !watch->must_stop) {
        pthread_mutex_unlock(&watch->lock);
        look(watch, sample);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        uint64_t nanoseconds = (uint64_t) until.tv_nsec + interval_ms % 1000 * 1000000ull;
        until.tv_sec += (time_t) (interval_ms / 1000 + nanoseconds / 1000000000u);
        until.tv_nsec = (long) (nanoseconds % 1000000000u);
        pthread_mutex_lock(&watch->lock);
        watch->sample = *sample;
        int error = 0;
        while (!watch->must_stop && error != ETIMEDOUT)
            error = pthread_cond_timedwait(&watch->wake, &watch->lock, &until);
    }
    pthread_mutex_unlock(&watch->lock);
    device_gpu_session_close(watch->cards);
    alloc_free(sample);
    return NULL;
}

enum err device_watch_start(const struct device_watch_options *options, struct device_watch **out) {
    struct device_watch *watch = alloc_zero(1, sizeof *watch);
    if (!watch) return ERR_MEMORY;
    watch->options = *options;
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&watch->wake, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_init(&watch->lock, NULL);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    /* NVML's own needs are not known: with cards the system's default stands. */
    if (!options->card_count) pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = pthread_create(&watch->thread, &attributes, run, watch);
    pthread_attr_destroy(&attributes);
    if (!failed) {
        *out = watch;
        return ERR_OK;
    }
    pthread_cond_destroy(&watch->wake);
    pthread_mutex_destroy(&watch->lock);
    alloc_free(watch);
    return ERR_MEMORY;
}

void device_watch_stop(struct device_watch *watch) {
    if (!watch) return;
    pthread_mutex_lock(&watch->lock);
    watch->must_stop = true;
    pthread_cond_signal(&watch->wake);
    pthread_mutex_unlock(&watch->lock);
    pthread_join(watch->thread, NULL);
    pthread_cond_destroy(&watch->wake);
    pthread_mutex_destroy(&watch->lock);
    alloc_free(watch);
}

void device_watch_get(struct device_watch *watch, struct device_watch_sample *out) {
    pthread_mutex_lock(&watch->lock);
    *out = watch->sample;
    pthread_mutex_unlock(&watch->lock);
}
