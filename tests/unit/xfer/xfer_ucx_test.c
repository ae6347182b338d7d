/* Goal: the rules of xfer.h between processes: content is right at equal and unlike TP over shared
 * memory and over TCP; a killed or stopped peer is noticed and hurts nobody's blocks; what was
 * forgotten is released in time and never written again; the lane is the one asked for, and TCP
 * where shared memory cannot be; who breaks the protocol of shared memory hurts nobody; nothing
 * stays behind in /dev/shm.
 *
 * Each test forks two processes, a sender P and a receiver D, before either touches UCX; they talk
 * over a socket pair and check themselves: exit status 0 is success.  Skipped without libucp. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "xfer/xfer.h"
#include "xfer/xfer_look.h"
#include "xfer/xfer_plan.h"
#include "xfer/xfer_ring.h"
#include "xfer/xfer_ucp.h"
#include "xfer/xfer_wire.h"
#include "xfer_rig.h"

#define DEADLINE_US 20000000u
#define TIMEOUT_MS 1000u

static uint32_t timeout_ms = TIMEOUT_MS;

static uint64_t seed;

/* --- a process and its partner ---------------------------------------------------------------- */

struct side {
    int link;
    const char *transports;
    struct rig rig;
    struct xfer *xfer;
    char peer[XFER_ADDRESS_BYTES];
    pid_t peer_pid;
};

static void say(const struct side *side, const void *data, size_t bytes) {
    CHECK(write(side->link, data, bytes) == (ssize_t) bytes);
}
static void hear(const struct side *side, void *data, size_t bytes) {
    for (size_t got = 0; got < bytes;) {
        ssize_t n = read(side->link, (char *) data + got, bytes - got);
        CHECK(n > 0);
        got += (size_t) n;
    }
}
static void mark(const struct side *side) { say(side, "x", 1); }
static void wait_mark(const struct side *side) {
    char byte;
    hear(side, &byte, 1);
}

/* The next event, or false when none comes in time. */
static bool take_in(struct side *side, uint64_t limit_us, struct xfer_event *out) {
    uint64_t until_us = clock_now_us() + limit_us;
    while (!xfer_take(side->xfer, out)) {
        if (clock_now_us() > until_us) return false;
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
    return true;
}
static struct xfer_event take(struct side *side) {
    struct xfer_event event;
    bool is_there = take_in(side, DEADLINE_US, &event);
    struct xfer_counts counts;
    xfer_get_counts(side->xfer, &counts);
    if (!is_there)
        fprintf(stderr, "sent %llu failed %llu received %llu lost %llu\n",
                (unsigned long long) counts.sent_pieces, (unsigned long long) counts.failed_pieces,
                (unsigned long long) counts.received_pieces,
                (unsigned long long) counts.peers_lost);
    CHECK(is_there);
    return event;
}

static void open_side(struct side *side, uint64_t instance) {
    struct xfer_options options = {.instance = instance,
                                   .layouts = side->rig.layouts,
                                   .rank_count = side->rig.tp,
                                   .block_size = 16,
                                   .is_verifying = true,
                                   .transfer_timeout_ms = timeout_ms,
                                   .transports = side->transports};
    struct err_text text;
    enum err e = xfer_ucx_create(&options, &text, &side->xfer);
    if (e) fprintf(stderr, "%s\n", text.text);
    CHECK(!e);
    char address[XFER_ADDRESS_BYTES] = {0};
    snprintf(address, sizeof address, "%s", xfer_address(side->xfer));
    pid_t pid = getpid();
    say(side, address, sizeof address);
    say(side, &pid, sizeof pid);
    hear(side, side->peer, sizeof side->peer);
    hear(side, &side->peer_pid, sizeof side->peer_pid);
}

static void close_side(struct side *side) {
    mark(side); /* neither leaves while the other works */
    wait_mark(side);
    xfer_destroy(side->xfer);
    rig_release(&side->rig);
}

typedef void (*side_fn)(struct side *side);

static pid_t start(side_fn fn, int link, int other_link, const char *transports) {
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid > 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGSEGV, SIG_DFL); /* cmocka's */
    close(other_link);
    struct side side = {.link = link, .transports = transports};
    fn(&side);
    fflush(NULL);
    _exit(0);
}

/* Statuses as waitpid gives them; p_status NULL: must be 0. */
static void run_pair(side_fn p, side_fn d, const char *transports, int *p_status, int *d_status) {
    int links[2], status_p = -1, status_d = -1;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, links) == 0);
    fflush(NULL);
    pid_t pid_p = start(p, links[0], links[1], transports);
    pid_t pid_d = start(d, links[1], links[0], transports);
    close(links[0]);
    close(links[1]);
    /* Whichever dies first is reaped at once: UCX takes one that is not for alive. */
    for (uint32_t left = 2; left > 0;) {
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        CHECK(pid > 0 || errno == EINTR);
        if (pid == pid_p) status_p = status;
        if (pid == pid_d) status_d = status;
        left -= pid == pid_p || pid == pid_d;
    }
    if (p_status) *p_status = status_p;
    else assert_int_equal(status_p, 0);
    if (d_status) *d_status = status_d;
    else assert_int_equal(status_d, 0);
}

/* D's expectation of `count` pieces in blocks 1, 2 ... under attempt `attempt`. */
static struct xfer_id expect(struct side *side, uint32_t p_tp, uint64_t attempt, uint32_t count) {
    struct xfer_id id = {.instance = 2, .attempt = attempt, .key = {seed, attempt}};
    uint32_t blocks[64];
    CHECK(count <= 64);
    for (uint32_t i = 0; i < count; i++) blocks[i] = 1 + i;
    CHECK(!xfer_expect(side->xfer, &id, p_tp, 0, blocks, count));
    return id;
}
static void send_pieces(struct side *side, uint32_t d_tp, uint64_t attempt, uint32_t count) {
    struct xfer_id id = {.instance = 2, .attempt = attempt, .key = {seed, attempt}};
    for (uint32_t i = 0; i < count; i++)
        CHECK(!xfer_send(side->xfer, side->peer, &id, d_tp, i, 1 + i));
}
static void receive_all(struct side *side, uint64_t attempt, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        struct xfer_event event = take(side);
        if (event.reason) fprintf(stderr, "%s\n", event.reason);
        CHECK(event.kind == XFER_RECEIVED && event.attempt == attempt && event.piece < count);
        CHECK(rig_wrong(&side->rig, 1 + event.piece, seed + event.piece) == 0);
    }
}
static void release_work(struct side *side, const struct xfer_id *id) {
    xfer_forget(side->xfer, id);
    struct xfer_event event = take(side);
    CHECK(event.kind == XFER_RELEASED && event.attempt == id->attempt);
}
static void fill_source(struct side *side, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) rig_write(&side->rig, 1 + i, seed + i);
}

/* Content that nobody but the owner may change. */
#define OWN_SEED 4711u
static void own_blocks(struct side *side, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) rig_write(&side->rig, 1 + i, OWN_SEED + i);
}
static void check_own(struct side *side, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) CHECK(rig_wrong(&side->rig, 1 + i, OWN_SEED + i) == 0);
}

/* Neither UCX nor we have files in /dev/shm; what a ring takes is bounded. */
static void check_shm(const struct side *side) {
    char line[512];
    uint64_t bytes = 0;
    FILE *file = fopen("/proc/self/maps", "re");
    CHECK(file);
    while (fgets(line, sizeof line, file)) {
        unsigned long first, end;
        CHECK(!strstr(line, "/dev/shm/") && !strstr(line, "ucx_shm"));
        if (strstr(line, "gramme-transfer") && sscanf(line, "%lx-%lx", &first, &end) == 2)
            bytes += end - first;
    }
    fclose(file);
    bool is_shm = !side->transports || strcmp(side->transports, "shm") == 0;
    CHECK(bytes <= 2 * (XFER_RING_BYTES + 4096) && (bytes > 0) == is_shm);
}

/* --- content ---------------------------------------------------------------------------------- */

static uint32_t p_tp, d_tp, head_bytes, layer_count, piece_count;
static enum rig_order p_order, d_order;

static void moves_p(struct side *side) {
    rig_init(&side->rig, p_tp, piece_count + 1, layer_count, 4, head_bytes, p_order);
    fill_source(side, piece_count);
    open_side(side, 1);
    for (uint64_t attempt = 1; attempt <= 3; attempt++) {
        wait_mark(side);
        send_pieces(side, d_tp, attempt, piece_count);
        for (uint32_t i = 0; i < piece_count; i++) CHECK(take(side).kind == XFER_SENT);
        mark(side);
    }
    struct xfer_counts counts;
    xfer_get_counts(side->xfer, &counts);
    CHECK(counts.sent_pieces == 3 * piece_count && counts.failed_pieces == 0);
    CHECK(counts.busy_us > 0 || counts.sent_bytes < (1u << 20)); /* small ones: no microsecond */
    check_shm(side);
    close_side(side);
}

static void moves_d(struct side *side) {
    rig_init(&side->rig, d_tp, piece_count + 1, layer_count, 4, head_bytes, d_order);
    open_side(side, 2);
    for (uint64_t attempt = 1; attempt <= 3; attempt++) {
        own_blocks(side, piece_count);
        struct xfer_id id = expect(side, p_tp, attempt, piece_count);
        mark(side);
        receive_all(side, attempt, piece_count);
        release_work(side, &id);
        wait_mark(side);
    }
    struct xfer_counts counts;
    xfer_get_counts(side->xfer, &counts);
    CHECK(counts.received_pieces == 3 * piece_count && counts.checksum_errors == 0);
    CHECK(counts.discarded_pieces == 0);
    check_shm(side);
    close_side(side);
}

static void test_moves(void **state) {
    static const struct {
        uint32_t p, d, head_bytes, layers, pieces;
        enum rig_order p_order, d_order;
    } cases[] = {
        {1, 1, 64, 2, 20, RIG_IMAGE, RIG_IMAGE},    /* small: packed */
        {1, 1, 65536, 4, 12, RIG_IMAGE, RIG_IMAGE}, /* 2 MiB: straight, in parts */
        {2, 2, 16384, 3, 20, RIG_IMAGE, RIG_GAPS},  /* straight out, slots in */
        {1, 2, 8192, 6, 30, RIG_IMAGE, RIG_IMAGE},  /* unlike: packed */
        {4, 1, 8192, 6, 30, RIG_LAYER_MAJOR, RIG_IMAGE},
        {8, 2, 4096, 5, 40, RIG_HEADS_SWAPPED, RIG_GAPS}, /* heads held twice */
        {2, 8, 131072, 2, 10, RIG_GAPS, RIG_LAYER_MAJOR},
        {1, 1, 200000, 3, 9, RIG_GAPS, RIG_HEADS_SWAPPED}, /* parts end inside runs */
    };
    const char *transports[] = {"shm", "tcp,self", NULL};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t k = 0; k < 3; k++) {
            p_tp = cases[i].p;
            d_tp = cases[i].d;
            head_bytes = cases[i].head_bytes;
            layer_count = cases[i].layers;
            piece_count = cases[i].pieces;
            p_order = cases[i].p_order;
            d_order = cases[i].d_order;
            run_pair(moves_p, moves_d, transports[k], NULL, NULL);
        }
}

/* --- the lane --------------------------------------------------------------------------------- */

static const char *lane_wanted;

static void probe(struct side *side) {
    char lane[32];
    struct err_text text;
    enum err e;
    CHECK(!xfer_probe(side->xfer, side->peer));
    uint64_t until_us = clock_now_us() + DEADLINE_US;
    while ((e = xfer_probe_result(side->xfer, side->peer, &text, lane)) == ERR_BUSY)
        CHECK(clock_now_us() < until_us);
    if (e) fprintf(stderr, "%s\n", text.text);
    CHECK(!e);
    if (strcmp(lane, lane_wanted) != 0) fprintf(stderr, "lane %s\n", lane);
    CHECK(strcmp(lane, lane_wanted) == 0);
}

/* Both dial at once. */
static void lane_side(struct side *side) {
    rig_init(&side->rig, 1, 2, 1, 1, 64, RIG_IMAGE);
    open_side(side, 1 + (uint64_t) getpid());
    probe(side);
    probe(side);
    close_side(side);
}

static void test_lanes(void **state) {
    lane_wanted = "shm";
    for (uint32_t i = 0; i < 5; i++) run_pair(lane_side, lane_side, NULL, NULL, NULL);
    lane_wanted = "tcp";
    for (uint32_t i = 0; i < 5; i++) run_pair(lane_side, lane_side, "tcp,self", NULL, NULL);
}

/* --- death ------------------------------------------------------------------------------------ */

#define BIG_PIECES 40u
static void big_rig(struct side *side) {
    rig_init(&side->rig, 1, BIG_PIECES + 1, 4, 4, 65536, RIG_IMAGE);
}

static void killed_p(struct side *side) {
    big_rig(side);
    fill_source(side, BIG_PIECES);
    open_side(side, 1);
    wait_mark(side);
    send_pieces(side, 1, 1, BIG_PIECES);
    take(side);
    kill(getpid(), SIGKILL);
}

static void killed_p_d(struct side *side) {
    big_rig(side);
    open_side(side, 2);
    struct xfer_id id = expect(side, 1, 1, BIG_PIECES);
    mark(side);
    struct xfer_event event = take(side);
    uint32_t received = 0;
    for (; event.kind == XFER_RECEIVED; event = take(side)) received++;
    CHECK(event.kind == XFER_BROKEN && event.reason && received < BIG_PIECES);
    uint64_t started_us = clock_now_us();
    release_work(side, &id);
    CHECK(clock_now_us() - started_us < 5000000);
    own_blocks(side, BIG_PIECES);
    nanosleep(&(struct timespec){0, 300000000}, NULL);
    check_own(side, BIG_PIECES);
    struct xfer_counts counts;
    xfer_get_counts(side->xfer, &counts);
    CHECK(counts.peers_lost >= 1);
    xfer_destroy(side->xfer);
    rig_release(&side->rig);
}

static void killed_d(struct side *side) {
    big_rig(side);
    open_side(side, 2);
    expect(side, 1, 1, BIG_PIECES);
    mark(side);
    take(side);
    kill(getpid(), SIGKILL);
}

static void killed_d_p(struct side *side) {
    big_rig(side);
    fill_source(side, BIG_PIECES);
    open_side(side, 1);
    wait_mark(side);
    send_pieces(side, 1, 1, BIG_PIECES);
    uint32_t failed = 0;
    for (uint32_t i = 0; i < BIG_PIECES; i++) failed += take(side).kind == XFER_FAILED;
    CHECK(failed > 0);
    /* Its address leads nowhere any more: told, not waited for. */
    send_pieces(side, 1, 2, 2);
    for (uint32_t i = 0; i < 2; i++) CHECK(take(side).kind == XFER_FAILED);
    xfer_destroy(side->xfer);
    rig_release(&side->rig);
}

static void test_death(void **state) {
    const char *transports[] = {"shm", "tcp,self", NULL};
    for (uint32_t i = 0; i < 3; i++) {
        int status;
        run_pair(killed_p, killed_p_d, transports[i], &status, NULL);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        run_pair(killed_d_p, killed_d, transports[i], NULL, &status);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
}

/* --- stopped peers ---------------------------------------------------------------------------- */

static void stopped_p(struct side *side) {
    big_rig(side);
    fill_source(side, BIG_PIECES);
    open_side(side, 1);
    wait_mark(side);
    send_pieces(side, 1, 1, BIG_PIECES);
    take(side);
    kill(getpid(), SIGSTOP);
    for (uint32_t i = 1; i < BIG_PIECES; i++) {
        enum xfer_event_kind kind = take(side).kind;
        CHECK(kind == XFER_SENT || kind == XFER_FAILED);
    }
    mark(side);
    wait_mark(side);
    send_pieces(side, 1, 2, BIG_PIECES);
    for (uint32_t i = 0; i < BIG_PIECES; i++) CHECK(take(side).kind == XFER_SENT);
    close_side(side);
}

static void wait_stopped(pid_t pid) {
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%d/stat", (int) pid);
    for (uint64_t until_us = clock_now_us() + DEADLINE_US; clock_now_us() < until_us;) {
        FILE *file = fopen(path, "re");
        CHECK(file && fgets(line, sizeof line, file));
        fclose(file);
        if (strstr(line, ") T ")) return;
    }
    CHECK(false);
}

static void stopped_p_d(struct side *side) {
    big_rig(side);
    open_side(side, 2);
    struct xfer_id id = expect(side, 1, 1, BIG_PIECES);
    mark(side);
    wait_stopped(side->peer_pid);
    nanosleep(&(struct timespec){0, 100000000}, NULL);
    xfer_forget(side->xfer, &id);
    struct xfer_event event;
    CHECK(take_in(side, 1000 * (TIMEOUT_MS + 5000), &event) && event.kind == XFER_RELEASED);
    own_blocks(side, BIG_PIECES);
    kill(side->peer_pid, SIGCONT);
    wait_mark(side);
    nanosleep(&(struct timespec){0, 300000000}, NULL);
    check_own(side, BIG_PIECES);
    id = expect(side, 1, 2, BIG_PIECES); /* and it works again */
    mark(side);
    receive_all(side, 2, BIG_PIECES);
    release_work(side, &id);
    close_side(side);
}

static void stopped_d(struct side *side) {
    big_rig(side);
    open_side(side, 2);
    struct xfer_id id = expect(side, 1, 1, BIG_PIECES);
    mark(side);
    take(side);
    kill(getpid(), SIGSTOP);
    struct xfer_event event;
    while (take_in(side, 500000, &event)) CHECK(event.kind == XFER_RECEIVED || event.reason);
    release_work(side, &id); /* as after its deadline: P has given up */
    own_blocks(side, BIG_PIECES);
    id = expect(side, 1, 2, 1);
    mark(side);
    receive_all(side, 2, 1);
    release_work(side, &id);
    for (uint32_t i = 1; i < BIG_PIECES; i++)
        CHECK(rig_wrong(&side->rig, 1 + i, OWN_SEED + i) == 0);
    close_side(side);
}

static void stopped_d_p(struct side *side) {
    big_rig(side);
    fill_source(side, BIG_PIECES);
    open_side(side, 1);
    wait_mark(side);
    send_pieces(side, 1, 1, BIG_PIECES);
    uint32_t failed = 0;
    for (uint32_t i = 0; i < BIG_PIECES; i++) failed += take(side).kind == XFER_FAILED;
    CHECK(failed > 0);
    send_pieces(side, 1, 2, 1); /* still stopped: an answer in time */
    CHECK(take(side).kind == XFER_FAILED);
    kill(side->peer_pid, SIGCONT);
    wait_mark(side);
    send_pieces(side, 1, 2, 1);
    CHECK(take(side).kind == XFER_SENT);
    close_side(side);
}

/* D is stopped before P says the first word. */
static void asleep_d(struct side *side) {
    rig_init(&side->rig, 1, 2, 1, 1, 64, RIG_IMAGE);
    open_side(side, 2);
    struct xfer_id id = expect(side, 1, 1, 1);
    kill(getpid(), SIGSTOP);
    mark(side);
    receive_all(side, 1, 1);
    release_work(side, &id);
    close_side(side);
}

static void asleep_d_p(struct side *side) {
    rig_init(&side->rig, 1, 2, 1, 1, 64, RIG_IMAGE);
    fill_source(side, 1);
    open_side(side, 1);
    wait_stopped(side->peer_pid);
    send_pieces(side, 1, 1, 1);
    CHECK(take(side).kind == XFER_FAILED);
    kill(side->peer_pid, SIGCONT);
    wait_mark(side);
    enum xfer_event_kind kind = XFER_FAILED;
    for (uint32_t tries = 0; kind == XFER_FAILED && tries < 100; tries++) {
        nanosleep(&(struct timespec){0, 20000000}, NULL);
        send_pieces(side, 1, 1, 1);
        kind = take(side).kind;
    }
    CHECK(kind == XFER_SENT);
    close_side(side);
}

static void test_stops(void **state) {
    const char *transports[] = {"shm", "tcp,self", NULL};
    for (uint32_t i = 0; i < 3; i++) {
        run_pair(asleep_d_p, asleep_d, transports[i], NULL, NULL);
        run_pair(stopped_p, stopped_p_d, transports[i], NULL, NULL);
        run_pair(stopped_d_p, stopped_d, transports[i], NULL, NULL);
    }
}

/* --- forgetting, stale senders ---------------------------------------------------------------- */

#define ROUNDS 60u

static void forget_p(struct side *side) {
    rig_init(&side->rig, 2, 9, 4, 4, 16384, RIG_IMAGE);
    fill_source(side, 8);
    open_side(side, 1);
    for (uint64_t attempt = 1; attempt <= ROUNDS; attempt++) {
        wait_mark(side);
        send_pieces(side, 1, attempt, 8);
        struct xfer_id id = {.instance = 2, .attempt = attempt, .key = {seed, attempt}};
        if (attempt % 4 == 0) xfer_abandon(side->xfer, &id);
        for (uint32_t i = 0; i < 8; i++) {
            struct xfer_event event = take(side);
            CHECK(event.kind == XFER_SENT || (event.kind == XFER_FAILED && attempt % 4 == 0));
        }
        mark(side);
    }
    close_side(side);
}

static void forget_d(struct side *side) {
    uint64_t random = seed;
    rig_init(&side->rig, 1, 9, 4, 4, 16384, RIG_GAPS);
    open_side(side, 2);
    for (uint64_t attempt = 1; attempt <= ROUNDS; attempt++) {
        struct xfer_id id = expect(side, 2, attempt, 8);
        mark(side);
        nanosleep(&(struct timespec){0, rig_draw(&random, 3000000)}, NULL);
        xfer_forget(side->xfer, &id);
        struct xfer_event event = take(side);
        CHECK(event.kind == XFER_RELEASED && event.attempt == attempt);
        own_blocks(side, 8);
        wait_mark(side);
        check_own(side, 8);
    }
    close_side(side);
}

static void stale_p(struct side *side) {
    rig_init(&side->rig, 1, 9, 2, 2, 65536, RIG_IMAGE);
    fill_source(side, 8);
    open_side(side, 1);
    wait_mark(side);
    struct xfer_id id = {.instance = 2, .attempt = 1, .key = {seed, 999}};
    for (uint32_t i = 0; i < 8; i++) CHECK(!xfer_send(side->xfer, side->peer, &id, 1, i, 1 + i));
    for (uint32_t i = 0; i < 8; i++) CHECK(take(side).kind == XFER_SENT);
    mark(side);
    close_side(side);
}

static void stale_d(struct side *side) {
    rig_init(&side->rig, 1, 9, 2, 2, 65536, RIG_IMAGE);
    own_blocks(side, 8);
    open_side(side, 2);
    struct xfer_id id = expect(side, 1, 1, 8);
    mark(side);
    wait_mark(side);
    struct xfer_event event;
    CHECK(!xfer_take(side->xfer, &event));
    check_own(side, 8);
    struct xfer_counts counts;
    xfer_get_counts(side->xfer, &counts);
    CHECK(counts.discarded_pieces == 8 && counts.received_bytes == 0);
    release_work(side, &id);
    close_side(side);
}

static void test_forget(void **state) {
    run_pair(forget_p, forget_d, "shm", NULL, NULL);
    run_pair(forget_p, forget_d, "tcp,self", NULL, NULL);
    run_pair(stale_p, stale_d, "shm", NULL, NULL);
    run_pair(stale_p, stale_d, "tcp,self", NULL, NULL);
}

/* --- where shared memory does not lead --------------------------------------------------------- */

/* A PID namespace of its own does not matter: nothing is looked up in /proc. */
static void apart_side(struct side *side) {
    if (unshare(CLONE_NEWPID) != 0) {
        lane_side(side);
        return;
    }
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        lane_side(side);
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

static void other_user(struct side *side) {
    CHECK(setresuid(65534, 65534, 65534) == 0);
    lane_side(side);
}

/* P is told that D is in another network namespace, on another node, or listens where nobody does
 * (as where the namespaces say too little). */
enum elsewhere { OTHER_NETWORK, OTHER_NODE, NO_LISTENER, ELSEWHERES };
static enum elsewhere elsewhere;

static void elsewhere_p(struct side *side) {
    struct xfer_wire_address address;
    rig_init(&side->rig, 1, 2, 1, 1, 64, RIG_IMAGE);
    open_side(side, 1);
    CHECK(!xfer_wire_read_address(side->peer, &address));
    if (elsewhere == OTHER_NETWORK) address.network++;
    else if (elsewhere == OTHER_NODE) address.host++;
    else address.lanes[XFER_LANE_SHM][0] ^= 1;
    CHECK(!xfer_wire_write_address(&address, side->peer));
    probe(side);
    close_side(side);
}

static void elsewhere_d(struct side *side) {
    rig_init(&side->rig, 1, 2, 1, 1, 64, RIG_IMAGE);
    open_side(side, 2);
    close_side(side);
}

static void test_fallback(void **state) {
    lane_wanted = "tcp";
    for (elsewhere = 0; elsewhere < ELSEWHERES; elsewhere++)
        run_pair(elsewhere_p, elsewhere_d, NULL, NULL, NULL);
    if (geteuid() != 0) {
        skip(); /* the rest needs root */
        return;
    }
    run_pair(other_user, lane_side, NULL, NULL, NULL);
    lane_wanted = "shm";
    run_pair(apart_side, lane_side, NULL, NULL, NULL);
}

/* /dev/shm is not needed at all. */
static void closed_shm(void) {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
    CHECK(mount("tmpfs", "/dev/shm", "tmpfs", MS_RDONLY, "size=64k") == 0);
}
static void closed_shm_side(struct side *side) {
    closed_shm();
    lane_side(side);
}

static void test_closed_shm(void **state) {
    if (geteuid() != 0) {
        skip(); /* mounting needs root */
        return;
    }
    lane_wanted = "shm";
    run_pair(closed_shm_side, closed_shm_side, NULL, NULL, NULL);
}

/* --- who breaks the protocol of shared memory --------------------------------------------------- */

static uint32_t count_descriptors(void) {
    uint32_t count = 0;
    for (int fd = 0; fd < 1024; fd++) count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* A dialler's socket. */
static int dial_raw(const struct side *side) {
    struct xfer_wire_address address;
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    CHECK(!xfer_wire_read_address(side->peer, &address));
    int length = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "gramme-transfer-");
    for (uint32_t i = 0; i < address.lane_bytes[XFER_LANE_SHM]; i++)
        length += snprintf(name.sun_path + 1 + length, sizeof name.sun_path - 1 - (size_t) length,
                           "%02x", address.lanes[XFER_LANE_SHM][i]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    CHECK(connect(fd, (const struct sockaddr *) (const void *) &name,
                  (socklen_t) (offsetof(struct sockaddr_un, sun_path) + 1 + (size_t) length)) == 0);
    return fd;
}

static void pass_raw(int socket, char byte, int fd) {
    struct iovec part = {&byte, 1};
    char control[CMSG_SPACE(sizeof fd)] = {0};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    CHECK(sendmsg(socket, &message, MSG_NOSIGNAL) == 1);
}

/* The other side hangs up, after a welcome or not. */
static void await_hangup(int fd) {
    char byte;
    ssize_t got;
    while ((got = read(fd, &byte, 1)) > 0) continue;
    CHECK(got == 0 || errno == ECONNRESET);
    close(fd);
}

/* Frames of noise behind a good header, and counters that cannot be. */
static void write_noise(struct xfer_ring *ring, uint64_t *random, uint32_t kind) {
    uint8_t *at, bytes[XFER_HEADER_BYTES];
    struct xfer_header header = {.entry_count = 1, .id = {2, 1, {seed, 1}}};
    /* Too long for any part; another length than this part's. */
    header.entries[0] = (struct xfer_entry){.bytes = kind == 0 ? XFER_PART_BYTES + 1 : 4096};
    size_t size = xfer_wire_write_header(&header, bytes);
    CHECK(xfer_ring_look(ring, &at) >= 128 + 4096 && size <= 128);
    memcpy(at, bytes, size);
    if (kind == 2)
        for (uint32_t i = 0; i < 64; i++) at[i] = (uint8_t) rig_random(random);
    (void) !xfer_ring_pass(ring, kind == 3 ? 7 * (uint64_t) XFER_RING_BYTES : 128 + 4096);
}

static void noise_p(struct side *side) {
    uint64_t random = seed;
    rig_init(&side->rig, 1, 9, 2, 2, 65536, RIG_IMAGE);
    fill_source(side, 8);
    open_side(side, 1);
    wait_mark(side);
    int fd = dial_raw(side);
    pass_raw(fd, 'x', -1);
    await_hangup(fd);
    fd = dial_raw(side);
    pass_raw(fd, 'r', -1); /* no descriptor */
    await_hangup(fd);
    int file = memfd_create("gramme-transfer", MFD_CLOEXEC); /* neither size nor seals */
    fd = dial_raw(side);
    pass_raw(fd, 'r', file);
    await_hangup(fd);
    CHECK(ftruncate(file, XFER_RING_BYTES + 4096) == 0); /* no seals */
    fd = dial_raw(side);
    pass_raw(fd, 'r', file);
    await_hangup(fd);
    close(file);
    for (uint32_t kind = 0; kind < 4; kind++) {
        struct xfer_ring ring;
        CHECK(!xfer_ring_create(&ring, &file));
        fd = dial_raw(side);
        pass_raw(fd, 'r', file);
        close(file);
        write_noise(&ring, &random, kind);
        pass_raw(fd, '.', -1);
        char byte;
        if (kind != 1) await_hangup(fd);
        else CHECK(read(fd, &byte, 1) == 1 && close(fd) == 0); /* what nobody wants is skipped */
        xfer_ring_close(&ring);
    }
    int many[40]; /* more than there may be */
    for (uint32_t i = 0; i < 40; i++) many[i] = dial_raw(side);
    for (uint32_t i = 0; i < 40; i++) close(many[i]);
    for (uint32_t sent = 0; sent < 8;) { /* once those are gone again */
        send_pieces(side, 1, 1, 8);
        sent = 0;
        for (uint32_t i = 0; i < 8; i++) sent += take(side).kind == XFER_SENT;
    }
    close_side(side);
}

static void noise_d(struct side *side) {
    rig_init(&side->rig, 1, 9, 2, 2, 65536, RIG_IMAGE);
    own_blocks(side, 8);
    uint32_t descriptors = count_descriptors();
    open_side(side, 2);
    struct xfer_id id = expect(side, 1, 1, 8);
    mark(side);
    receive_all(side, 1, 8);
    release_work(side, &id);
    close_side(side);
    CHECK(count_descriptors() == descriptors);
}

static void test_noise(void **state) { run_pair(noise_p, noise_d, "shm", NULL, NULL); }

/* --- a part of which half is here ---------------------------------------------------------------- */

static void write_frame(struct xfer_ring *ring, uint32_t piece, uint32_t bytes, uint32_t now) {
    uint8_t *at, text[XFER_HEADER_BYTES];
    struct xfer_header header = {.entry_count = 1, .id = {2, 1, {seed, 1}}};
    header.entries[0] = (struct xfer_entry){.piece = piece, .bytes = bytes};
    size_t size = xfer_wire_write_header(&header, text);
    CHECK(xfer_ring_look(ring, &at) >= 128 + now && size <= 128);
    memcpy(at, text, size);
    memset(at + 128, 0xee, now);
    (void) !xfer_ring_pass(ring, 128 + now);
}

/* Until D has taken all; we stand at the ring's end, where the room shows it. */
static void await_taken(struct xfer_ring *ring, int fd) {
    uint8_t *at;
    uint64_t until_us = clock_now_us() + DEADLINE_US;
    CHECK(ring->at % XFER_RING_BYTES == 0);
    pass_raw(fd, '.', -1);
    while (xfer_ring_look(ring, &at) < XFER_RING_BYTES) CHECK(clock_now_us() < until_us);
}

/* A sender that stands still in the middle of a part, and wakes after D has forgotten it. */
static void half_p(struct side *side) {
    struct xfer_ring ring;
    uint8_t *at;
    int file;
    rig_init(&side->rig, 1, 2, 1, 1, 65536, RIG_IMAGE);
    open_side(side, 1);
    wait_mark(side);
    CHECK(!xfer_ring_create(&ring, &file));
    int fd = dial_raw(side);
    pass_raw(fd, 'r', file);
    close(file);
    uint32_t most = XFER_PART_BYTES; /* of a piece that nobody wants: it is skipped */
    write_frame(&ring, 7, most, most);
    uint32_t rest = (uint32_t) (XFER_RING_BYTES - ring.at) - 256 - 65536;
    write_frame(&ring, 7, rest, rest);
    write_frame(&ring, 0, 131072, 65536);
    await_taken(&ring, fd);
    mark(side);
    wait_mark(side);
    CHECK(xfer_ring_look(&ring, &at) == XFER_RING_BYTES);
    memset(at, 0xee, 65536);
    (void) !xfer_ring_pass(&ring, 65536);
    write_frame(&ring, 7, most, most);
    rest = (uint32_t) (2 * XFER_RING_BYTES - ring.at) - 128;
    write_frame(&ring, 7, rest, rest);
    await_taken(&ring, fd);
    mark(side);
    xfer_ring_close(&ring);
    close(fd);
    close_side(side);
}

static void half_d(struct side *side) {
    rig_init(&side->rig, 1, 2, 1, 1, 65536, RIG_IMAGE);
    open_side(side, 2);
    struct xfer_id id = expect(side, 1, 1, 1);
    mark(side);
    wait_mark(side);
    release_work(side, &id); /* long before the transfer timeout: D itself copies, or does not */
    own_blocks(side, 1);
    mark(side);
    wait_mark(side);
    check_own(side, 1);
    struct xfer_counts counts;
    xfer_get_counts(side->xfer, &counts);
    CHECK(counts.received_bytes == 0 && counts.received_pieces == 0);
    close_side(side);
}

static void test_half(void **state) {
    timeout_ms = 60000;
    run_pair(half_p, half_d, "shm", NULL, NULL);
    timeout_ms = TIMEOUT_MS;
}

/* --- leaving ------------------------------------------------------------------------------------ */

/* What P was told to be sent arrives, though P is gone before D takes it. */
static void leaving_p(struct side *side) {
    rig_init(&side->rig, 1, 3, 1, 1, 65536, RIG_IMAGE);
    fill_source(side, 2);
    open_side(side, 1);
    probe(side);
    wait_mark(side);
    kill(side->peer_pid, SIGSTOP);
    wait_stopped(side->peer_pid);
    send_pieces(side, 1, 1, 2);
    for (uint32_t i = 0; i < 2; i++) CHECK(take(side).kind == XFER_SENT);
    xfer_destroy(side->xfer);
    kill(side->peer_pid, SIGCONT);
    rig_release(&side->rig);
}

static void leaving_d(struct side *side) {
    rig_init(&side->rig, 1, 3, 1, 1, 65536, RIG_IMAGE);
    open_side(side, 2);
    struct xfer_id id = expect(side, 1, 1, 2);
    mark(side);
    receive_all(side, 1, 2);
    release_work(side, &id);
    xfer_destroy(side->xfer);
    rig_release(&side->rig);
}

static void test_leaving(void **state) {
    lane_wanted = "shm";
    run_pair(leaving_p, leaving_d, "shm", NULL, NULL);
}

/* --- what create refuses ---------------------------------------------------------------------- */

static void refuse_side(struct side *side) {
    rig_init(&side->rig, 1, 2, 1, 1, 64, RIG_IMAGE);
    struct xfer_options options = {.instance = 1,
                                   .layouts = side->rig.layouts,
                                   .rank_count = 1,
                                   .block_size = 16,
                                   .listen = "no-such-interface"};
    struct err_text text;
    struct xfer *xfer;
    CHECK(xfer_ucx_create(&options, &text, &xfer) == ERR_USAGE);
    CHECK(strstr(text.text, "no-such-interface"));
    options.listen = "127.0.0.1";
    options.transports = "carrier-pigeon";
    CHECK(xfer_ucx_create(&options, &text, &xfer) == ERR_USAGE);
    CHECK(strstr(text.text, "carrier-pigeon"));
    options.transports = NULL;
    for (uint64_t n = 1;; n++) {
        alloc_fail_at(n, 0);
        enum err e = xfer_ucx_create(&options, &text, &xfer);
        uint64_t asked = alloc_count();
        alloc_fail_at(0, 0);
        if (!e) {
            xfer_destroy(xfer);
            if (n > asked) break; /* a thread's own allocation may have failed since */
        } else {
            CHECK(e == ERR_MEMORY && n <= asked);
        }
    }
    options.transports = "tcp,self";
    CHECK(!xfer_ucx_create(&options, &text, &xfer));
    struct xfer_id id = {.instance = 3, .attempt = 1};
    CHECK(!xfer_send(xfer, "ucx:AAAA", &id, 1, 0, 1));
    side->xfer = xfer;
    struct xfer_event event = take(side);
    CHECK(event.kind == XFER_FAILED && event.reason);
    xfer_destroy(xfer);
    rig_release(&side->rig);
}

static void look_side(struct side *side) {
    struct xfer_look looks[XFER_LOOK_LANES];
    xfer_look(NULL, looks);
    for (uint32_t i = 0; i < XFER_LOOK_LANES; i++) {
        if (looks[i].error) fprintf(stderr, "%s: %s\n", looks[i].name, looks[i].text.text);
        CHECK(!looks[i].error);
    }
}

static void test_look(void **state) { run_pair(look_side, look_side, NULL, NULL, NULL); }

static void test_refusals(void **state) { run_pair(refuse_side, refuse_side, NULL, NULL, NULL); }

int main(int argc, char **argv) {
    const struct xfer_ucp *ucp;
    struct err_text text;
    pid_t pid = fork(); /* looks without loading it here */
    if (pid == 0) _exit(xfer_ucp_load(&text, &ucp) ? 77 : 0);
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    if (WEXITSTATUS(status) == 77) {
        printf("skipped: no libucp on this machine\n");
        return 77;
    }
    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t) time(NULL);
    printf("seed %llu\n", (unsigned long long) seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moves),      cmocka_unit_test(test_lanes),
        cmocka_unit_test(test_death),      cmocka_unit_test(test_stops),
        cmocka_unit_test(test_forget),     cmocka_unit_test(test_fallback),
        cmocka_unit_test(test_refusals),   cmocka_unit_test(test_look),
        cmocka_unit_test(test_closed_shm), cmocka_unit_test(test_noise),
        cmocka_unit_test(test_half),       cmocka_unit_test(test_leaving),
    };
    if (argc > 2) cmocka_set_test_filter(argv[2]);
    if (argc > 3) log_configure(LOG_DEBUG, LOG_HUMAN, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
