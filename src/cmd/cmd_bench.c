/* cmd_bench - gramme bench engine|serve: finds the benchmark. */
#include <stdio.h>
#include <string.h>

#include "cmd/bench_engine.h"
#include "cmd/bench_serve.h"
#include "cmd/cmd.h"

int cmd_bench(int argc, char **argv) {
    if (argc >= 1 && strcmp(argv[0], "engine") == 0) return bench_engine_run(argc - 1, argv + 1);
    if (argc >= 1 && strcmp(argv[0], "serve") == 0) return bench_serve_run(argc - 1, argv + 1);
    fputs("gramme: bench what? gramme bench engine -m MODEL, or gramme bench serve --url URL\n",
          stderr);
    return CMD_USAGE;
}
