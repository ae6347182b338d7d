/* bench_stamp - what every figure of bench carries: commit, machine, date. */
#ifndef GRAMME_CMD_BENCH_STAMP_H
#define GRAMME_CMD_BENCH_STAMP_H

struct bench_stamp {
    char commit[48]; /* of the build; "unknown" where it was built without git */
    char machine[256];
    char date[32];
};

void bench_stamp_read(struct bench_stamp *stamp);
/* The end of a JSON line on standard output: its three fields and '}'. */
void bench_stamp_end_line(void);

#endif
