/* bench_xfer - see bench_xfer.h.
 *
 * Columns: memcpy in one process; a copy between two processes through shared memory (one writes a
 * ring of slots, the other reads it: what any transfer without mapping the other's memory must do);
 * then the transfer bodies.  Each walks through WINDOW_BYTES of source and target, so that memory
 * is moved and not a cache.  A transfer's time is from the first xfer_send to the receiver's last
 * RECEIVED, told back over a socket. */
#include "cmd/bench_xfer.h"

#include <argp.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/num.h"
#include "cmd/bench_stamp.h"
#include "xfer/xfer.h"

#define WINDOW_BYTES (128u << 20)
#define BYTES_MIN (64u << 10)
#define BYTES_MAX (64u << 20)
#define SIZES_MAX 16u
#define ROUNDS_MAX 64u
#define SLOT_BYTES (64u << 10)
#define SLOTS 16u
#define SPINS 2000u
#define WAIT_MS 10000

enum column { COPY, TWO_PROCESSES, LOCAL, SHM, TCP, COLUMNS };
static const char *const column_keys[COLUMNS] = {"memcpy", "copy", "local", "shm", "tcp"};
static const char *const column_names[COLUMNS] = {"memcpy", "2-process copy", "in-process", "shm",
                                                  "ucx tcp"};

struct bench {
    uint64_t block_bytes;
    uint32_t rounds;
    bool is_json;
    unsigned columns; /* bits: to be measured */
    uint32_t size_count;
    uint64_t sizes[SIZES_MAX];
    double us[COLUMNS][SIZES_MAX][ROUNDS_MAX]; /* 0: not measured */
};

/* --- a pair of processes ---------------------------------------------------------------------- */

/* In one column: the sender of bytes, and its partner in another process (or in this one). */
struct pair {
    enum column column;
    const struct bench *bench;
    uint8_t *source, *target;
    struct ring *ring; /* TWO_PROCESSES */
    int link;          /* to the partner */
    bool is_source;
    struct xfer *xfer[2]; /* ours; LOCAL: also the partner's */
    int events[2];        /* eventfds that xfer wakes */
    char peer[XFER_ADDRESS_BYTES];
    struct kv_layout layout[2];
    uint64_t attempt, offset;
};

struct slot {
    _Alignas(64) atomic_uint is_full;
    uint8_t data[SLOT_BYTES];
};
struct ring {
    struct slot slots[SLOTS];
};

static uint8_t *map_window(void) {
    void *memory =
        mmap(NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    madvise(memory, WINDOW_BYTES, MADV_HUGEPAGE);
    memset(memory, 1, WINDOW_BYTES);
    return memory;
}

static bool send_mark(int fd, char mark) { return write(fd, &mark, 1) == 1; }
static bool wait_mark(int fd) {
    char mark;
    struct pollfd item = {.fd = fd, .events = POLLIN};
    return poll(&item, 1, WAIT_MS) == 1 && read(fd, &mark, 1) == 1;
}

static bool wait_slot(struct slot *slot, unsigned wanted) {
    uint64_t until_us = clock_now_us() + WAIT_MS * 1000ull;
    for (uint32_t spins = 0; atomic_load_explicit(&slot->is_full, memory_order_acquire) != wanted;
         spins++) {
        if (spins < SPINS) continue;
        sched_yield();
        if (clock_now_us() > until_us) return false;
    }
    return true;
}

/* Where the next transfer of these bytes lies in both windows. */
static uint64_t next_offset(struct pair *pair, uint64_t bytes) {
    if (pair->offset + bytes > WINDOW_BYTES) pair->offset = 0;
    uint64_t offset = pair->offset;
    pair->offset += bytes;
    return offset;
}

static bool move_through_ring(struct pair *pair, uint64_t bytes) {
    uint64_t offset = next_offset(pair, bytes);
    for (uint64_t at = 0, i = 0; at < bytes; at += SLOT_BYTES, i++) {
        struct slot *slot = &pair->ring->slots[i % SLOTS];
        uint64_t share = num_min(SLOT_BYTES, bytes - at);
        if (!wait_slot(slot, !pair->is_source)) return false;
        if (pair->is_source) memcpy(slot->data, pair->source + offset + at, share);
        else memcpy(pair->target + offset + at, slot->data, share);
        atomic_store_explicit(&slot->is_full, pair->is_source, memory_order_release);
    }
    return true;
}

/* --- the transfer bodies ---------------------------------------------------------------------- */

static void wake(void *ctx) {
    uint64_t one = 1;
    if (write(*(int *) ctx, &one, sizeof one) < 0) return; /* full: it is awake */
}

/* `count` events of this kind; false: another came, or none.  Of many it takes several at a time,
 * as a step thread does between its steps. */
static bool take_events(struct pair *pair, uint32_t side, enum xfer_event_kind kind,
                        uint32_t count) {
    struct xfer_event event;
    while (count > 0) {
        if (xfer_take(pair->xfer[side], &event)) {
            if (event.kind != kind) return false;
            count--;
            continue;
        }
        struct pollfd item = {.fd = pair->events[side], .events = POLLIN};
        uint64_t wakes;
        if (poll(&item, 1, WAIT_MS) != 1) return false;
        if (read(pair->events[side], &wakes, sizeof wakes) < 0 && errno != EAGAIN) return false;
        if (count > 8) nanosleep(&(struct timespec){0, 100000}, NULL);
    }
    return true;
}

static bool open_xfer(struct pair *pair, uint32_t side, uint8_t *memory, uint64_t block_bytes) {
    pair->layout[side] = (struct kv_layout){
        .base = memory - block_bytes, /* block 0 is never touched */
        .block_count = (uint32_t) (WINDOW_BYTES / block_bytes) + 1,
        .layer_count = 1,
        .head_count = 1,
        .head_total = 1,
        .block_stride = block_bytes,
        .layer_stride = block_bytes,
        .value_stride = block_bytes / 2,
        .head_stride = block_bytes / 2,
        .head_bytes = block_bytes / 2,
        .block_bytes = block_bytes,
    };
    pair->events[side] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct xfer_options options = {.instance = (uint64_t) getpid() * 2 + side,
                                   .layouts = &pair->layout[side],
                                   .rank_count = 1,
                                   .block_size = 16,
                                   .transports = pair->column == TCP ? "tcp" : "shm",
                                   .transfer_timeout_ms = WAIT_MS,
                                   .wake = wake,
                                   .wake_ctx = &pair->events[side]};
    struct err_text text = {""};
    enum err e = pair->column == LOCAL ? xfer_local_create(&options, &text, &pair->xfer[side])
                                       : xfer_ucx_create(&options, &text, &pair->xfer[side]);
    if (e && pair->is_source)
        fprintf(stderr, "gramme: %s: %s\n", column_names[pair->column], text.text);
    return !e;
}

static void close_xfers(struct pair *pair) {
    for (uint32_t side = 0; side < 2; side++) {
        if (!pair->xfer[side]) continue;
        xfer_destroy(pair->xfer[side]);
        close(pair->events[side]);
        pair->xfer[side] = NULL;
    }
}

static bool swap_addresses(struct pair *pair, uint32_t side) {
    char own[XFER_ADDRESS_BYTES] = {0};
    snprintf(own, sizeof own, "%s", xfer_address(pair->xfer[side]));
    if (write(pair->link, own, sizeof own) != (ssize_t) sizeof own) return false;
    for (size_t got = 0; got < sizeof pair->peer;) {
        ssize_t n = read(pair->link, pair->peer + got, sizeof pair->peer - got);
        if (n <= 0) return false;
        got += (size_t) n;
    }
    return true;
}

/* Sides: 0 sends, 1 receives. */
static bool open_side(struct pair *pair, uint64_t block_bytes) {
    pair->offset = 0;
    if (pair->column == LOCAL) {
        if (!open_xfer(pair, 0, pair->source, block_bytes)) return false;
        if (!open_xfer(pair, 1, pair->target, block_bytes)) return false;
        snprintf(pair->peer, sizeof pair->peer, "%s", xfer_address(pair->xfer[1]));
        return true;
    }
    uint32_t side = pair->is_source ? 0 : 1;
    return open_xfer(pair, side, pair->is_source ? pair->source : pair->target, block_bytes) &&
           swap_addresses(pair, side);
}

static bool expect(struct pair *pair, const struct xfer_id *id, uint32_t first, uint32_t count) {
    uint32_t *blocks = alloc_array(count, sizeof *blocks);
    if (!blocks) return false;
    for (uint32_t i = 0; i < count; i++) blocks[i] = first + i;
    enum err e = xfer_expect(pair->xfer[1], id, 1, 0, blocks, count);
    alloc_free(blocks);
    return !e;
}

static bool send_all(struct pair *pair, const struct xfer_id *id, uint32_t first, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (xfer_send(pair->xfer[0], pair->peer, id, 1, i, first + i)) return false;
    return true;
}

/* One transfer; *us is set by the source. */
static bool move_blocks(struct pair *pair, uint64_t bytes, uint64_t block_bytes, double *us) {
    uint32_t count = (uint32_t) (bytes / block_bytes);
    uint32_t first = 1 + (uint32_t) (next_offset(pair, bytes) / block_bytes);
    struct xfer_id id = {.instance = 2, .attempt = ++pair->attempt, .key = {1, 2}};
    bool is_local = pair->column == LOCAL, is_good = true;
    if (is_local || !pair->is_source) {
        is_good = expect(pair, &id, first, count);
        if (!is_local) is_good = is_good && send_mark(pair->link, 'r');
    }
    if (is_local || pair->is_source) {
        if (!is_local) is_good = is_good && wait_mark(pair->link);
        uint64_t started_ns = clock_now_ns();
        is_good = is_good && send_all(pair, &id, first, count);
        is_good = is_good &&
                  (is_local ? take_events(pair, 1, XFER_RECEIVED, count) : wait_mark(pair->link));
        *us = (double) (clock_now_ns() - started_ns) / 1e3;
        is_good = is_good && take_events(pair, 0, XFER_SENT, count);
    } else {
        is_good = is_good && take_events(pair, 1, XFER_RECEIVED, count);
        is_good = is_good && send_mark(pair->link, 'd');
    }
    if (!is_good || !pair->xfer[1]) return is_good;
    xfer_forget(pair->xfer[1], &id);
    return take_events(pair, 1, XFER_RELEASED, 1);
}

static bool move_once(struct pair *pair, uint64_t bytes, uint64_t block_bytes, double *us) {
    if (pair->column == COPY) {
        uint64_t offset = next_offset(pair, bytes), started_ns = clock_now_ns();
        memcpy(pair->target + offset, pair->source + offset, bytes);
        *us = (double) (clock_now_ns() - started_ns) / 1e3;
        return true;
    }
    if (pair->column != TWO_PROCESSES) return move_blocks(pair, bytes, block_bytes, us);
    if (!pair->is_source)
        return send_mark(pair->link, 'r') && move_through_ring(pair, bytes) &&
               send_mark(pair->link, 'd');
    if (!wait_mark(pair->link)) return false;
    uint64_t started_ns = clock_now_ns();
    bool is_good = move_through_ring(pair, bytes) && wait_mark(pair->link);
    *us = (double) (clock_now_ns() - started_ns) / 1e3;
    return is_good;
}

/* --- columns and rounds ----------------------------------------------------------------------- */

static uint64_t block_of(const struct bench *bench, uint32_t size) {
    return num_min(bench->block_bytes, bench->sizes[size]);
}

/* All sizes of one column; each size once to warm up, then `rounds` times. */
static bool run_sizes(struct pair *pair, double us[SIZES_MAX][ROUNDS_MAX]) {
    const struct bench *bench = pair->bench;
    uint64_t open_bytes = 0;
    bool has_xfer = pair->column >= LOCAL, is_good = true;
    for (uint32_t i = 0; i < bench->size_count && is_good; i++) {
        if (has_xfer && block_of(bench, i) != open_bytes) {
            if (open_bytes && pair->link >= 0) { /* neither leaves while the other works */
                is_good = send_mark(pair->link, 'c') && wait_mark(pair->link);
            }
            close_xfers(pair);
            open_bytes = block_of(bench, i);
            is_good = is_good && open_side(pair, open_bytes);
        }
        double warm;
        for (uint32_t k = 0; k < 2 && is_good; k++)
            is_good = move_once(pair, bench->sizes[i], open_bytes, &warm);
        for (uint32_t k = 0; k < bench->rounds && is_good; k++)
            is_good = move_once(pair, bench->sizes[i], open_bytes, &us[i][k]);
    }
    if (pair->link >= 0) is_good = send_mark(pair->link, 'c') && wait_mark(pair->link) && is_good;
    close_xfers(pair);
    return is_good;
}

/* A process of its own: the parent stays without threads and without UCX. */
static pid_t fork_side(const struct bench *bench, enum column column, bool is_source, int link,
                       int other, struct ring *ring, double us[SIZES_MAX][ROUNDS_MAX]) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (other >= 0) close(other);
    struct pair pair = {
        .column = column, .bench = bench, .link = link, .ring = ring, .is_source = is_source};
    bool needs_target = !is_source || column == COPY || column == LOCAL;
    if (is_source) pair.source = map_window();
    if (needs_target) pair.target = map_window();
    bool has_memory = (!is_source || pair.source) && (!needs_target || pair.target);
    _exit(has_memory && run_sizes(&pair, us) ? 0 : 1);
}

static bool run_column(struct bench *bench, enum column column) {
    size_t us_bytes = sizeof bench->us[column];
    struct shared {
        struct ring ring;
        double us[SIZES_MAX][ROUNDS_MAX];
    } *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int links[2] = {-1, -1};
    if (shared == MAP_FAILED) return false;
    bool is_alone = column == COPY || column == LOCAL;
    if (!is_alone && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, links) != 0) {
        munmap(shared, sizeof *shared);
        return false;
    }
    pid_t target = -1;
    pid_t source = fork_side(bench, column, true, links[0], links[1], &shared->ring, shared->us);
    if (!is_alone) {
        target = fork_side(bench, column, false, links[1], links[0], &shared->ring, shared->us);
        close(links[0]);
        close(links[1]);
    }
    int status = 1, other = 0;
    if (source > 0) waitpid(source, &status, 0);
    if (target > 0) waitpid(target, &other, 0);
    bool is_good = source > 0 && status == 0 && other == 0;
    if (is_good) memcpy(bench->us[column], shared->us, us_bytes);
    munmap(shared, sizeof *shared);
    return is_good;
}

/* --- output ----------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b) {
    double x = *(const double *) a, y = *(const double *) b;
    return (x > y) - (x < y);
}

static double median_us(const struct bench *bench, enum column column, uint32_t size) {
    double sorted[ROUNDS_MAX];
    memcpy(sorted, bench->us[column][size], sizeof sorted);
    qsort(sorted, bench->rounds, sizeof *sorted, compare);
    return sorted[bench->rounds / 2];
}

static double rate(const struct bench *bench, enum column column, uint32_t size) {
    double us = median_us(bench, column, size);
    return us > 0 ? (double) bench->sizes[size] / us / 1e3 : 0;
}

static void print_json(const struct bench *bench) {
    for (uint32_t i = 0; i < bench->size_count; i++)
        for (enum column column = 0; column < COLUMNS; column++)
            if (rate(bench, column, i) > 0) {
                printf("{\"bench\":\"xfer\",\"body\":\"%s\",\"bytes\":%llu,\"block_bytes\":%llu,"
                       "\"us\":%.2f,\"gb_per_s\":%.3f",
                       column_names[column], (unsigned long long) bench->sizes[i],
                       (unsigned long long) block_of(bench, i), median_us(bench, column, i),
                       rate(bench, column, i));
                bench_stamp_end_line();
            }
}

static void print_table(const struct bench *bench) {
    printf("GB/s, median of %u, blocks of %llu KiB\n%9s", bench->rounds,
           (unsigned long long) bench->block_bytes >> 10, "");
    for (enum column column = 0; column < COLUMNS; column++) printf(" %15s", column_names[column]);
    printf("  shm share\n");
    for (uint32_t i = 0; i < bench->size_count; i++) {
        uint64_t kib = bench->sizes[i] >> 10;
        printf("%5llu %s", (unsigned long long) (kib < 1024 ? kib : kib >> 10),
               kib < 1024 ? "KiB" : "MiB");
        for (enum column column = 0; column < COLUMNS; column++) {
            double value = rate(bench, column, i);
            if (value > 0) printf(" %15.2f", value);
            else printf(" %15s", "-");
        }
        double base = rate(bench, TWO_PROCESSES, i), share = rate(bench, SHM, i);
        if (base > 0 && share > 0) printf(" %11.0f %%", 100 * share / base);
        printf("\n");
    }
    printf("share: shm of the copy between two processes\n");
}

/* --- the command line ------------------------------------------------------------------------- */

static error_t parse(int key, char *text, struct argp_state *state) {
    struct bench *bench = state->input;
    char *end = NULL;
    unsigned long value = text && key != 'o' ? strtoul(text, &end, 10) : 0;
    if (text && key != 'o' && (end == text || *end)) argp_error(state, "'%s' is no number", text);
    switch (key) {
    case 'o':
        for (enum column column = 0; column < COLUMNS; column++)
            if (strcmp(text, column_keys[column]) == 0) bench->columns |= 1u << column;
        if (!bench->columns) argp_error(state, "--only memcpy, copy, local, shm or tcp");
        return 0;
    case 'b':
        if (value < 64 || value > 65536 || (value & (value - 1)))
            argp_error(state, "--block-kib is a power of two from 64 to 65536");
        bench->block_bytes = (uint64_t) value << 10;
        return 0;
    case 'r':
        if (value < 1 || value > ROUNDS_MAX) argp_error(state, "--rounds is 1 to %u", ROUNDS_MAX);
        bench->rounds = (uint32_t) value;
        return 0;
    case 'j': bench->is_json = true; return 0;
    default: return ARGP_ERR_UNKNOWN;
    }
}

enum err bench_xfer_run(int argc, char **argv) {
    static const struct argp_option options[] = {
        {"block-kib", 'b', "N", 0, "bytes of a block in KiB (256)", 0},
        {"rounds", 'r', "N", 0, "transfers of each size (15)", 0},
        {"only", 'o', "NAME", 0, "memcpy, copy, local, shm or tcp; may be repeated (all)", 0},
        {"json", 'j', NULL, 0, "a JSON line for each figure", 0},
        {0},
    };
    static const struct argp argp = {options,
                                     parse,
                                     NULL,
                                     "How fast KV blocks move between workers: in one process, "
                                     "over shared memory, over TCP; beside plain copies.",
                                     NULL,
                                     NULL,
                                     NULL};
    struct bench *bench = alloc_zero(1, sizeof *bench);
    if (!bench) return ERR_MEMORY;
    bench->block_bytes = 256u << 10;
    bench->rounds = 15;
    static char name[] = "gramme bench xfer";
    char *arguments[32] = {name};
    int count = 1;
    for (int i = 0; i < argc && count < 32; i++) arguments[count++] = argv[i];
    argp_parse(&argp, count, arguments, 0, NULL, bench);
    for (uint64_t bytes = BYTES_MIN; bytes <= BYTES_MAX; bytes *= 2)
        bench->sizes[bench->size_count++] = bytes;
    enum err e = ERR_OK;
    for (enum column column = 0; column < COLUMNS; column++)
        if ((!bench->columns || bench->columns >> column & 1) && !run_column(bench, column)) {
            fprintf(stderr, "gramme: %s: not measured\n", column_names[column]);
            if (column < SHM) e = ERR_IO; /* UCX may be absent */
        }
    if (bench->is_json) print_json(bench);
    else print_table(bench);
    alloc_free(bench);
    return e;
}
