/* cmd_bench - gramme bench engine|load|router|serve|xfer: finds the benchmark. */
#include <stdio.h>
#include <string.h>

#include "cmd/bench_engine.h"
#include "cmd/bench_load.h"
#include "cmd/bench_router.h"
#include "cmd/bench_serve.h"
#include "cmd/bench_xfer.h"
#include "cmd/cmd.h"

int cmd_bench(int argc, char **argv) {
    if (argc >= 1 && strcmp(argv[0], "engine") == 0) return bench_engine_run(argc - 1, argv + 1);
    if (argc >= 1 && strcmp(argv[0], "load") == 0) return bench_load_run(argc - 1, argv + 1);
    if (argc >= 1 && strcmp(argv[0], "serve") == 0) return bench_serve_run(argc - 1, argv + 1);
    if (argc >= 1 && strcmp(argv[0], "router") == 0)
        return bench_router_run(argc - 1, argv + 1) ? CMD_FAILED : CMD_DONE;
    if (argc >= 1 && strcmp(argv[0], "xfer") == 0)
        return bench_xfer_run(argc - 1, argv + 1) ? CMD_FAILED : CMD_DONE;
    fputs(
        "gramme: bench what? gramme bench engine|load -m MODEL, gramme bench router, gramme bench "
        "xfer, or gramme bench serve --url URL\n",
        stderr);
    return CMD_USAGE;
}
