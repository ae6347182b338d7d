/* child - see child.h. */
#include "fleet/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/check.h"

#define FD_SAFE 16 /* above every number that the child's files get */

static void say(const char *words) {
    ssize_t wrote = write(STDERR_FILENO, words, strlen(words));
    (void) wrote;
}

/* After fork: only calls that are safe in a process of which other threads are gone. */
__attribute__((noreturn)) static void become(const struct child_spec *spec, const int *fds,
                                             int log_fd, int null_fd, pid_t parent) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127); /* it died before prctl */
    for (int number = 1; number < NSIG; number++)
        if (number != SIGKILL && number != SIGSTOP) signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(null_fd, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    for (uint32_t i = 0; i < spec->fd_count; i++) dup2(fds[i], CHILD_FD_FIRST + (int) i);
    execve(spec->path, spec->arguments, spec->environment);
    say("cannot execute ");
    say(spec->path);
    say(": ");
    say(strerror(errno));
    say("\n");
    _exit(127);
}

enum err child_start(const struct child_spec *spec, struct err_text *text, pid_t *pid,
                     int *log_fd) {
    CHECK(spec->fd_count <= CHILD_FDS_MAX);
    int ends[2] = {-1, -1}, null_fd = -1, out_fd = -1, fds[CHILD_FDS_MAX];
    for (uint32_t i = 0; i < CHILD_FDS_MAX; i++) fds[i] = -1;
    bool is_good = pipe2(ends, O_CLOEXEC) == 0;
    /* Out of the way of the numbers that dup2 will give out. */
    is_good = is_good && (null_fd = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0;
    is_good = is_good && (out_fd = fcntl(ends[1], F_DUPFD_CLOEXEC, FD_SAFE)) >= 0;
    for (uint32_t i = 0; is_good && i < spec->fd_count; i++)
        is_good = (fds[i] = fcntl(spec->fds[i], F_DUPFD_CLOEXEC, FD_SAFE)) >= 0;
    pid_t parent = getpid(), child = -1;
    if (is_good) {
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        child = fork();
        if (child == 0) become(spec, fds, out_fd, null_fd, parent);
        is_good = child > 0;
    }
    enum err e = is_good ? ERR_OK
                         : err_set(text, ERR_IO, "%s cannot be started: %s", spec->arguments[0],
                                   strerror(errno));
    if (is_good) setpgid(child, child); /* both sides do it: whoever is first */
    for (uint32_t i = 0; i < CHILD_FDS_MAX; i++)
        if (fds[i] >= 0) close(fds[i]);
    if (out_fd >= 0) close(out_fd);
    if (null_fd >= 0) close(null_fd);
    if (ends[1] >= 0) close(ends[1]);
    if (e) {
        if (ends[0] >= 0) close(ends[0]);
        return e;
    }
    *pid = child;
    *log_fd = ends[0];
    return ERR_OK;
}
