/* worker_turn - see worker_turn.h. */
#include "worker/worker_turn.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/num.h"

#define MAPPINGS_MAX 64u
#define LOOKS 64u /* pages of each file that are looked for in the page cache */

/* Of the disk itself: a partition's queue is its disk's. */
static bool is_spinning(const char *path) {
    static const char *const places[] = {"queue", "../queue"};
    struct stat status;
    if (stat(path, &status)) return false;
    for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
        char name[96], digit = '0';
        snprintf(name, sizeof name, "/sys/dev/block/%u:%u/%s/rotational", major(status.st_dev),
                 minor(status.st_dev), places[i]);
        int fd = open(name, O_RDONLY | O_CLOEXEC);
        if (fd < 0) continue;
        bool is_read = read(fd, &digit, 1) == 1;
        close(fd);
        if (is_read) return digit == '1';
    }
    return false;
}

static bool is_cached(const struct model *model) {
    struct model_mapping mappings[MAPPINGS_MAX];
    uint32_t count = model_mappings(model, MAPPINGS_MAX, mappings), looked = 0, found = 0;
    uint64_t page = (uint64_t) sysconf(_SC_PAGESIZE);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t pages = num_div_up(mappings[i].bytes, page);
        for (uint64_t k = 0; k < LOOKS && k < pages; k++) {
            unsigned char state = 0;
            uint64_t at = pages <= LOOKS ? k : pages / LOOKS * k;
            if (mincore((char *) (uintptr_t) mappings[i].base + at * page, page, &state)) continue;
            looked++;
            found += state & 1;
        }
    }
    return found * 10 >= looked * 9;
}

uint32_t worker_turn_choose(const struct model *model) {
    const char *path = model_weights_path(model, 0);
    return path && is_spinning(path) && !is_cached(model) ? 1 : 0;
}

bool worker_turn_try(const char *path, uint32_t concurrency, struct worker_turn *out) {
    struct stat status;
    out->fd = -1;
    if (!concurrency || stat(path, &status)) return true;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return true;
    for (uint32_t slot = 0; slot < concurrency; slot++) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        int bytes = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "gramme-load-%u-%llx-%u",
                             (unsigned) getuid(), (unsigned long long) status.st_dev, slot);
        socklen_t room = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + 1 + (size_t) bytes);
        if (bind(fd, (const struct sockaddr *) &name, room) == 0) {
            out->fd = fd;
            return true;
        }
        if (errno != EADDRINUSE) { /* no such names here: nobody can take turns */
            close(fd);
            return true;
        }
    }
    close(fd);
    return false;
}

void worker_turn_give(struct worker_turn *turn) {
    if (turn->fd >= 0) close(turn->fd);
    turn->fd = -1;
}
