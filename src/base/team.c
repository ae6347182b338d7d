/* team - see team.h.
 *
 * Two words carry everything.  `start` counts runs and holds how many threads are active: a worker
 * waits until it moves, works if it is one of them, and counts itself out of `busy`; thread 0 works
 * without waiting for late starters and then waits for `busy` to reach 0.  `phase` counts barriers:
 * the last one to arrive moves it.
 *
 * Sleeping: a waiter adds itself to `sleepers`, looks at the word once more, and sleeps on it; a
 * mover moves the word and then looks at `sleepers`.  Both are sequentially consistent, so one of
 * the two sees the other and no wake-up is lost. */
#include "base/team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"

#define LINE_BYTES 64

/* `start`: the run's number above the active threads' count less one.  In one word, because a
 * thread that is not active may look at any time, also when the next run is being prepared. */
#define ACTIVE_MASK 255u
#define RUN_STEP 256u
_Static_assert(TEAM_THREADS_MAX <= ACTIVE_MASK + 1, "the count fits its bits");

/* A word that is waited for, alone on its cache line. */
struct word {
    _Alignas(LINE_BYTES) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
};

struct member {
    struct team *team;
    pthread_t handle;
    uint32_t thread;
};

struct team {
    struct word start;
    struct word phase;
    struct word busy;
    _Alignas(LINE_BYTES) _Atomic uint32_t arrived;
    _Alignas(LINE_BYTES) _Atomic uint32_t deal;
    _Alignas(LINE_BYTES) uint32_t thread_count;
    uint32_t started_count; /* workers that exist: members[1 .. started_count] */
    uint32_t active_count;  /* thread 0's, and within a run every active one's */
    bool may_spin;          /* likewise */
    _Atomic bool is_ending;
    team_fn fn;
    void *ctx;
    struct member members[];
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* Returns the word's value once it is not `old`. */
static uint32_t word_wait(struct word *word, uint32_t old, bool may_spin) {
    uint32_t value = atomic_load_explicit(&word->value, memory_order_acquire);
    if (value != old) return value;
    if (may_spin) {
        uint64_t deadline_ns = clock_now_ns() + TEAM_SPIN_US * 1000u;
        do {
            for (unsigned i = 0; i < 32; i++) {
                relax();
                value = atomic_load_explicit(&word->value, memory_order_acquire);
                if (value != old) return value;
            }
        } while (clock_now_ns() < deadline_ns);
    }
    atomic_fetch_add(&word->sleepers, 1);
    while ((value = atomic_load(&word->value)) == old) futex_wait(&word->value, old);
    atomic_fetch_sub(&word->sleepers, 1);
    return value;
}

static void word_wake(struct word *word) {
    if (atomic_load(&word->sleepers) != 0) futex_wake_all(&word->value);
}

static void *worker_main(void *arg) {
    struct member *member = arg;
    struct team *team = member->team;
    uint32_t seen = 0;
    bool may_spin = false;
    for (;;) {
        seen = word_wait(&team->start, seen, may_spin);
        if (atomic_load(&team->is_ending)) return NULL;
        uint32_t active_count = (seen & ACTIVE_MASK) + 1;
        may_spin = false;
        if (member->thread >= active_count) continue;
        may_spin = team->may_spin;
        team->fn(team->ctx, member->thread, active_count);
        if (atomic_fetch_sub(&team->busy.value, 1) == 1) word_wake(&team->busy);
    }
}

/* Compute threads take no signals: those are for the thread that asked for them. */
static int start_worker(struct team *team, uint32_t thread) {
    struct member *member = &team->members[thread];
    member->team = team;
    member->thread = thread;
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0) return -1;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_attr_setstacksize(&attr, TEAM_STACK_BYTES);
    if (rc == 0) rc = pthread_create(&member->handle, &attr, worker_main, member);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    if (rc != 0) return rc;
    char name[16];
    snprintf(name, sizeof(name), "compute-%u", thread);
    pthread_setname_np(member->handle, name);
    return 0;
}

enum err team_create(uint32_t thread_count, bool may_spin, struct team **out) {
    if (thread_count == 0 || thread_count > TEAM_THREADS_MAX) return ERR_USAGE;
    size_t bytes = sizeof(struct team) + thread_count * sizeof(struct member);
    /* alloc_zero aligns for any scalar only; the words want lines of their own. */
    struct team *team = NULL;
    void *block = alloc_zero(1, bytes + LINE_BYTES + sizeof(void *));
    if (block == NULL) return ERR_MEMORY;
    uintptr_t at = (uintptr_t) block + sizeof(void *);
    at = (at + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
    team = (struct team *) at;
    ((void **) at)[-1] = block;
    team->thread_count = team->active_count = thread_count;
    team->may_spin = may_spin;
    for (uint32_t thread = 1; thread < thread_count; thread++) {
        if (start_worker(team, thread) != 0) {
            team_destroy(team);
            return ERR_MEMORY;
        }
        team->started_count = thread;
    }
    *out = team;
    return ERR_OK;
}

void team_destroy(struct team *team) {
    if (team == NULL) return;
    atomic_store(&team->is_ending, true);
    atomic_fetch_add(&team->start.value, RUN_STEP);
    word_wake(&team->start);
    for (uint32_t thread = 1; thread <= team->started_count; thread++)
        pthread_join(team->members[thread].handle, NULL);
    alloc_free(((void **) team)[-1]);
}

void team_prefault_stack(void) {
    pthread_attr_t attr;
    void *base;
    size_t bytes, guard;
    if (pthread_getattr_np(pthread_self(), &attr)) return;
    if (!pthread_attr_getstack(&attr, &base, &bytes) && !pthread_attr_getguardsize(&attr, &guard))
        if (bytes > guard) mem_prefault_range((char *) base + guard, bytes - guard);
    pthread_attr_destroy(&attr);
}

uint32_t team_thread_count(const struct team *team) { return team->thread_count; }

void team_set_active(struct team *team, uint32_t active_count, bool may_spin) {
    CHECK(active_count >= 1 && active_count <= team->thread_count);
    team->active_count = active_count;
    team->may_spin = may_spin;
}

void team_run(struct team *team, team_fn fn, void *ctx) {
    atomic_store_explicit(&team->deal, 0, memory_order_relaxed);
    uint32_t active_count = team->active_count;
    if (active_count > 1) {
        team->fn = fn;
        team->ctx = ctx;
        atomic_store_explicit(&team->busy.value, active_count - 1, memory_order_relaxed);
        uint32_t start = atomic_load_explicit(&team->start.value, memory_order_relaxed);
        atomic_store(&team->start.value, ((start & ~ACTIVE_MASK) + RUN_STEP) | (active_count - 1));
        word_wake(&team->start);
    }
    fn(ctx, 0, active_count);
    uint32_t busy = atomic_load_explicit(&team->busy.value, memory_order_acquire);
    while (busy != 0) busy = word_wait(&team->busy, busy, team->may_spin);
}

void team_barrier(struct team *team) {
    if (team->active_count == 1) return;
    /* Read before arriving: the phase cannot move until this thread has arrived. */
    uint32_t phase = atomic_load_explicit(&team->phase.value, memory_order_relaxed);
    uint32_t before = atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel);
    if (before + 1 < team->active_count) {
        word_wait(&team->phase, phase, team->may_spin);
        return;
    }
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    atomic_fetch_add(&team->phase.value, 1);
    word_wake(&team->phase);
}

void team_deal_reset(struct team *team) {
    atomic_store_explicit(&team->deal, 0, memory_order_relaxed);
}

uint32_t team_deal(struct team *team) {
    return atomic_fetch_add_explicit(&team->deal, 1, memory_order_relaxed);
}
