/* terminal - see terminal.h. */
#include "fleet/terminal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"

#define STATUS_BYTES 512
#define STACK_BYTES (128u << 10)

struct terminal {
    int fd; /* borrowed */
    bool is_tty;
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t wake, ended;
    struct buf waiting; /* whole lines */
    uint64_t dropped, dropped_told;
    char status[STATUS_BYTES];
    bool is_status_new, is_closing, is_over;
};

static bool write_all(int fd, const uint8_t *data, size_t bytes) {
    while (bytes) {
        ssize_t wrote = write(fd, data, bytes);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0 && errno == EAGAIN) { /* somebody made our terminal non-blocking */
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
            continue;
        }
        if (wrote <= 0) return false;
        data += wrote;
        bytes -= (size_t) wrote;
    }
    return true;
}

/* The writer: takes all that waits, writes it unlocked. */
static void *run(void *ctx) {
    struct terminal *terminal = ctx;
    struct buf out, lines;
    buf_init(&out, 0);
    buf_init(&lines, 2u * TERMINAL_BYTES_MAX);
    bool is_drawn = false;
    char status[STATUS_BYTES] = "";
    pthread_mutex_lock(&terminal->lock);
    while (!terminal->is_closing || terminal->waiting.bytes) {
        if (!terminal->waiting.bytes && !terminal->is_status_new) {
            pthread_cond_wait(&terminal->wake, &terminal->lock);
            continue;
        }
        struct buf swap = lines;
        lines = terminal->waiting;
        terminal->waiting = swap;
        uint64_t dropped = terminal->dropped - terminal->dropped_told;
        terminal->dropped_told = terminal->dropped;
        memcpy(status, terminal->status, sizeof status);
        terminal->is_status_new = false;
        pthread_mutex_unlock(&terminal->lock);

        buf_clear(&out);
        if (is_drawn) buf_add_string(&out, "\r\033[K");
        buf_add(&out, lines.data, lines.bytes);
        if (dropped)
            buf_add_format(&out, "(%llu lines were dropped: the terminal did not take them)\n",
                           (unsigned long long) dropped);
        is_drawn = terminal->is_tty && status[0];
        if (is_drawn) buf_add_string(&out, status);
        if (!buf_error(&out)) (void) write_all(terminal->fd, out.data, out.bytes);
        buf_clear(&lines);
        pthread_mutex_lock(&terminal->lock);
    }
    if (is_drawn) (void) write_all(terminal->fd, (const uint8_t *) "\r\033[K", 4);
    terminal->is_over = true;
    pthread_cond_signal(&terminal->ended);
    pthread_mutex_unlock(&terminal->lock);
    buf_release(&out);
    buf_release(&lines);
    return NULL;
}

enum err terminal_create(int fd, struct terminal **out) {
    struct terminal *terminal = alloc_zero(1, sizeof *terminal);
    if (!terminal) return ERR_MEMORY;
    terminal->fd = fd;
    terminal->is_tty = isatty(fd);
    buf_init(&terminal->waiting, 2u * TERMINAL_BYTES_MAX);
    pthread_mutex_init(&terminal->lock, NULL);
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&terminal->wake, &clock);
    pthread_cond_init(&terminal->ended, &clock);
    pthread_condattr_destroy(&clock);
    /* Signals are the loop's: the writer takes none. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = pthread_create(&terminal->thread, &attributes, run, terminal);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        pthread_cond_destroy(&terminal->wake);
        pthread_cond_destroy(&terminal->ended);
        pthread_mutex_destroy(&terminal->lock);
        alloc_free(terminal);
        return ERR_MEMORY;
    }
    *out = terminal;
    return ERR_OK;
}

void terminal_line(struct terminal *terminal, const char *line, size_t bytes) {
    pthread_mutex_lock(&terminal->lock);
    struct buf *waiting = &terminal->waiting;
    if (waiting->bytes + bytes + 1 > TERMINAL_BYTES_MAX) {
        terminal->dropped++;
    } else {
        buf_add(waiting, line, bytes);
        if (!bytes || line[bytes - 1] != '\n') buf_add_byte(waiting, '\n');
        pthread_cond_signal(&terminal->wake);
    }
    pthread_mutex_unlock(&terminal->lock);
}

void terminal_status(struct terminal *terminal, const char *status) {
    if (!terminal->is_tty) return;
    pthread_mutex_lock(&terminal->lock);
    if (strncmp(terminal->status, status, sizeof terminal->status - 1) != 0) {
        snprintf(terminal->status, sizeof terminal->status, "%s", status);
        terminal->is_status_new = true;
        pthread_cond_signal(&terminal->wake);
    }
    pthread_mutex_unlock(&terminal->lock);
}

uint64_t terminal_dropped(struct terminal *terminal) {
    pthread_mutex_lock(&terminal->lock);
    uint64_t dropped = terminal->dropped;
    pthread_mutex_unlock(&terminal->lock);
    return dropped;
}

void terminal_destroy(struct terminal *terminal, uint32_t wait_ms) {
    if (!terminal) return;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += (long) (wait_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&terminal->lock);
    terminal->is_closing = true;
    terminal->is_status_new = true;
    terminal->status[0] = '\0';
    pthread_cond_signal(&terminal->wake);
    int error = 0;
    while (!terminal->is_over && error != ETIMEDOUT)
        error = pthread_cond_timedwait(&terminal->ended, &terminal->lock, &until);
    bool is_over = terminal->is_over;
    pthread_mutex_unlock(&terminal->lock);
    if (!is_over) { /* stuck in write(): its memory must outlive us */
        pthread_detach(terminal->thread);
        return;
    }
    pthread_join(terminal->thread, NULL);
    buf_release(&terminal->waiting);
    pthread_cond_destroy(&terminal->wake);
    pthread_cond_destroy(&terminal->ended);
    pthread_mutex_destroy(&terminal->lock);
    alloc_free(terminal);
}
