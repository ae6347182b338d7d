/* check_machine - what a graph asks of this machine, where it is meant for it: its port and
 * addresses, and cards that others hold.  Looks only; a port is bound and given back. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "plan/check_impl.h"

static double gib(uint64_t bytes) { return (double) bytes / (1u << 30); }

/* 0, or errno of the bind; names that are no addresses are not asked for. */
static int try_bind(const char *host, uint32_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t) port)};
    if (strcmp(host, "localhost") == 0) host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) return 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return 0;
    int one = 1, error = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (const struct sockaddr *) &address, sizeof address)) error = errno;
    close(fd);
    return error;
}

static void check_port(struct checker *checker) {
    const struct options *options = checker->graph->sections[GRAPH_FRONTEND].options;
    uint32_t port = (uint32_t) options_count(options, OPT_PORT);
    const char *host = options_text(options, OPT_HOST);
    int error = try_bind(host, port);
    if (error == EADDRNOTAVAIL)
        problem_add(checker->problems, PROBLEM_ERROR, "no-such-address", "Frontend", "host",
                    check_mark(checker, GRAPH_FRONTEND, OPT_HOST),
                    "write 0.0.0.0 for all addresses", "%.100s is no address of this machine",
                    host);
    else if (error == EADDRINUSE)
        problem_add(checker->problems, PROBLEM_WARNING, "port-taken", "Frontend", "port",
                    check_mark(checker, GRAPH_FRONTEND, OPT_PORT),
                    "write another, or port: 0 for any", "port %u of %.100s is taken now", port,
                    host);
    else if (error == EACCES)
        problem_add(checker->problems, PROBLEM_WARNING, "port-taken", "Frontend", "port",
                    check_mark(checker, GRAPH_FRONTEND, OPT_PORT), "write one above 1023",
                    "port %u needs a right that this user has not", port);
}

/* Who holds memory of the cards that the graph is placed on. */
static void check_holders(struct checker *checker) {
    const struct device_list *devices = checker->target->plan->devices;
    const struct device_gpus *gpus = checker->target->gpus;
    for (uint32_t i = 0; gpus && devices && i < devices->count; i++) {
        const struct device *device = &devices->items[i];
        if (device->kind != DEVICE_CUDA || device->is_elsewhere ||
            device->ordinal >= gpus->card_count)
            continue;
        const struct device_gpu *card = &gpus->cards[device->ordinal];
        uint64_t taken = card->total_bytes - card->free_bytes;
        if (taken < card->total_bytes / 20) continue; /* what the driver itself keeps */
        char holders[200] = "";
        size_t bytes = 0;
        for (uint32_t k = 0; k < card->holder_count && bytes < sizeof holders; k++)
            bytes += (size_t) snprintf(holders + bytes, sizeof holders - bytes,
                                       "%s%s%spid %u with %.1f GiB", k ? ", " : " by ",
                                       card->holders[k].name, card->holders[k].name[0] ? " " : "",
                                       card->holders[k].pid, gib(card->holders[k].bytes));
        problem_add(checker->problems, PROBLEM_WARNING, "device-taken", "", "",
                    checker->graph->sections[GRAPH_VLLM_WORKER].mark,
                    "end what holds it, or leave the card out with CUDA_VISIBLE_DEVICES",
                    "%s: %.1f of %.1f GiB are taken%s", device->name, gib(taken),
                    gib(card->total_bytes), holders);
    }
}

void check_machine(struct checker *checker) {
    if (checker->target->is_elsewhere) return;
    if (!checker->target->is_serve) check_port(checker); /* serve binds it at once */
    check_holders(checker);
}
