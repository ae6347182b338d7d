/* bench_stamp - see bench_stamp.h. */
#include "cmd/bench_stamp.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "cmd/bench_commit.h" /* made by the build */

void bench_stamp_read(struct bench_stamp *stamp) {
    char line[256], model[128] = "";
    FILE *in = fopen("/proc/cpuinfo", "r");
    while (in && fgets(line, sizeof line, in)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon || !colon[1]) continue;
        /* It stands in JSON lines as it is. */
        snprintf(model, sizeof model, "%.*s", (int) strcspn(colon + 2, "\n\"\\"), colon + 2);
        break;
    }
    if (in) fclose(in);
    struct utsname name = {0};
    uname(&name);
    snprintf(stamp->machine, sizeof stamp->machine, "%s, %ld cores, %s %s",
             model[0] ? model : name.machine, sysconf(_SC_NPROCESSORS_ONLN), name.sysname,
             name.release);
    snprintf(stamp->commit, sizeof stamp->commit, "%s", BENCH_COMMIT);
    time_t now = time(NULL);
    struct tm utc;
    strftime(stamp->date, sizeof stamp->date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
}

void bench_stamp_end_line(void) {
    static struct bench_stamp stamp; /* one for all lines of a run */
    if (!stamp.date[0]) bench_stamp_read(&stamp);
    printf(",\"commit\":\"%s\",\"machine\":\"%s\",\"date\":\"%s\"}\n", stamp.commit, stamp.machine,
           stamp.date);
}
