/* bench_engine - gramme bench engine: prefill and decode rates of the engine in this process. */
#ifndef GRAMME_CMD_BENCH_ENGINE_H
#define GRAMME_CMD_BENCH_ENGINE_H

/* The arguments after "bench engine".  One case: --prompt-tokens, --gen-tokens, --batch; the median
 * of --repeat runs, beside the machine's read bandwidth measured in the same run. */
int bench_engine_run(int argc, char **argv);

#endif
