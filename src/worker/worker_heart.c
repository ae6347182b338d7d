/* worker_heart - see worker_heart.h. */
#include "worker/worker_heart.h"

#include <pthread.h>
#include <time.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/clock.h"

#define STACK_BYTES (256u << 10)

struct worker_heart {
    struct bus_port *port; /* borrowed */
    uint64_t tick_us;
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below, and the order of sends */
    pthread_cond_t wake;
    bool is_stepping, must_stop;
    bool has_stepped; /* since the thread last looked */
    bool is_asleep;   /* the thread waits for a step, without a timer */
    struct buf load;  /* the last LOAD sent; empty: none yet */
    uint64_t load_us;
};

static void wait_until(struct worker_heart *heart, uint64_t until_us) {
    struct timespec until = {.tv_sec = (time_t) (until_us / 1000000),
                             .tv_nsec = (long) (until_us % 1000000 * 1000)};
    pthread_cond_timedwait(&heart->wake, &heart->lock, &until);
}

/* Looks once a tick while steps follow one another; without any it sleeps until the next, so that
 * steps cost no wake-up and an idle worker stays idle. */
static void *beat(void *ctx) {
    struct worker_heart *heart = ctx;
    pthread_mutex_lock(&heart->lock);
    while (!heart->must_stop) {
        if (!heart->is_stepping && !heart->has_stepped) {
            heart->is_asleep = true;
            pthread_cond_wait(&heart->wake, &heart->lock);
            heart->is_asleep = false;
            continue;
        }
        heart->has_stepped = false;
        uint64_t now_us = clock_now_us();
        if (heart->is_stepping && heart->load.bytes && now_us >= heart->load_us + heart->tick_us) {
            heart->load_us = now_us;
            /* Lost: the next one comes. */
            (void) bus_send(heart->port, BUS_LOAD, 0, heart->load.data, heart->load.bytes);
        }
        uint64_t due_us = heart->load_us + heart->tick_us;
        wait_until(heart, due_us > now_us ? due_us : now_us + heart->tick_us);
    }
    pthread_mutex_unlock(&heart->lock);
    return NULL;
}

enum err worker_heart_create(struct bus_port *port, uint64_t tick_us, struct worker_heart **out) {
    struct worker_heart *heart = alloc_zero(1, sizeof *heart);
    if (!heart) return ERR_MEMORY;
    heart->port = port;
    heart->tick_us = tick_us;
    buf_init(&heart->load, 0);
    pthread_mutex_init(&heart->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC); /* clock_now_us is monotonic too */
    pthread_cond_init(&heart->wake, &clock);
    pthread_condattr_destroy(&clock);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = pthread_create(&heart->thread, &attributes, beat, heart);
    pthread_attr_destroy(&attributes);
    if (failed) {
        pthread_cond_destroy(&heart->wake);
        pthread_mutex_destroy(&heart->lock);
        alloc_free(heart);
        return ERR_IO;
    }
    *out = heart;
    return ERR_OK;
}

void worker_heart_destroy(struct worker_heart *heart) {
    if (!heart) return;
    pthread_mutex_lock(&heart->lock);
    heart->must_stop = true;
    pthread_cond_signal(&heart->wake);
    pthread_mutex_unlock(&heart->lock);
    pthread_join(heart->thread, NULL);
    pthread_cond_destroy(&heart->wake);
    pthread_mutex_destroy(&heart->lock);
    buf_release(&heart->load);
    alloc_free(heart);
}

enum err worker_heart_send(struct worker_heart *heart, enum bus_subject subject, uint64_t to,
                           const void *data, size_t bytes) {
    pthread_mutex_lock(&heart->lock);
    if (subject == BUS_LOAD) {
        buf_clear(&heart->load);
        buf_add(&heart->load, data, bytes);
        if (buf_error(&heart->load)) buf_clear(&heart->load);
        heart->load_us = clock_now_us();
    }
    enum err e = bus_send(heart->port, subject, to, data, bytes);
    pthread_mutex_unlock(&heart->lock);
    return e;
}

void worker_heart_set_stepping(struct worker_heart *heart, bool is_stepping) {
    pthread_mutex_lock(&heart->lock);
    heart->is_stepping = is_stepping;
    heart->has_stepped |= is_stepping;
    if (is_stepping && heart->is_asleep) pthread_cond_signal(&heart->wake);
    pthread_mutex_unlock(&heart->lock);
}
