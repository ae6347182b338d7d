/* bench_serve - `gramme bench serve`: an OpenAI load client for any server.
 *
 * One thread, one libuv loop, plain HTTP.  Closed loop of --concurrency streams, or open loop with
 * Poisson arrivals (--request-rate).  Prompts are made of common words, seeded, so that a run can
 * be repeated; tokens are those that the server's own usage reports. */
#ifndef GRAMME_CMD_BENCH_SERVE_H
#define GRAMME_CMD_BENCH_SERVE_H

/* argv[0] is the first argument behind "bench serve".  Returns the exit status. */
int bench_serve_run(int argc, char **argv);

#endif
