/* cmd_fault - see cmd_fault.h. */
#include "cmd/cmd_fault.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/num.h"

#define MAPPINGS_MAX 1024u

/* Written before the count that tells of them: the handler may run on any thread at any time. */
static struct model_mapping known[MAPPINGS_MAX];
static char name[512]; /* of the first file */
static _Atomic uint32_t known_count;

static void say(const char *text) {
    /* Nothing can be done about a line that does not get out. */
    if (write(STDERR_FILENO, text, strlen(text)) < 0) return;
}

/* Async-signal-safe; SA_RESETHAND: the fault comes again on return, and ends the process. */
static void on_bus_error(int number, siginfo_t *info, void *ctx) {
    (void) number;
    (void) ctx;
    uintptr_t at = (uintptr_t) info->si_addr;
    uint32_t count = atomic_load(&known_count);
    for (uint32_t i = 0; i < count; i++) {
        if (at - (uintptr_t) known[i].base >= known[i].bytes) continue;
        say("gramme: bus error: the weights of ");
        say(name);
        say(" were cut short or replaced while they were in use: put the whole file back and start "
            "again\n");
        return;
    }
    say("gramme: bus error: memory that was there is gone (is /dev/shm full?)\n");
}

void cmd_fault_install(void) {
    struct sigaction action = {.sa_sigaction = on_bus_error,
                               .sa_flags = SA_SIGINFO | (int) SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

void cmd_fault_know(const struct model *model) {
    const char *path = model_weights_path(model, 0);
    atomic_store(&known_count, 0);
    if (!path) return;
    snprintf(name, sizeof name, "%s", path);
    atomic_store(&known_count, model_mappings(model, MAPPINGS_MAX, known));
}
