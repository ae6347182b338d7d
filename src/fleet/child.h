/* child - starts one process of the fleet so that it cannot outlive its supervisor.
 *
 * A process group of its own (Ctrl-C reaches the supervisor alone), SIGKILL when the supervisor
 * dies, standard input from /dev/null, output and errors into a pipe.  Call from the main thread
 * only: the death signal follows the thread that forked. */
#ifndef GRAMME_FLEET_CHILD_H
#define GRAMME_FLEET_CHILD_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define CHILD_FDS_MAX 4
#define CHILD_FD_FIRST 3

struct child_spec {
    const char *path;
    char *const *arguments;   /* NULL-ended, [0] is the name */
    char *const *environment; /* NULL-ended */
    int fds[CHILD_FDS_MAX];   /* become 3, 4, ... in the child */
    uint32_t fd_count;
};

/* *log_fd: the reading end of its output, non-blocking; the caller closes it.  A path that cannot
 * be executed shows as exit status 127 with a line in the log. */
MUST_USE enum err child_start(const struct child_spec *spec, struct err_text *text, pid_t *pid,
                              int *log_fd);

#endif
