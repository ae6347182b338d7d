/* bench_load - gramme bench load: how long until a model can answer, beside what its disk gives. */
#ifndef GRAMME_CMD_BENCH_LOAD_H
#define GRAMME_CMD_BENCH_LOAD_H

/* The arguments after "bench load": the model, --cold. */
int bench_load_run(int argc, char **argv);

#endif
