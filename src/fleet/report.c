/* report - see report.h.  "L DONE TOTAL STAGE", "R TEXT", "F PERMANENT TEXT". */
#include "fleet/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool report_is_permanent(enum err e) {
    switch (e) {
    case ERR_USAGE:
    case ERR_FORMAT:
    case ERR_UNSUPPORTED:
    case ERR_NOT_FOUND:
    case ERR_LIMIT:
    case ERR_NO_ROOM: return true;
    default: return false;
    }
}

void report_send(int fd, const struct report *report) {
    if (fd < 0) return;
    char line[REPORT_LINE_MAX];
    int bytes = 0;
    if (report->kind == REPORT_LOADING)
        bytes =
            snprintf(line, sizeof line, "L %llu %llu %s", (unsigned long long) report->done_bytes,
                     (unsigned long long) report->total_bytes, report->text);
    else if (report->kind == REPORT_READY)
        bytes = snprintf(line, sizeof line, "R %s", report->text);
    else if (report->kind == REPORT_FAILED)
        bytes = snprintf(line, sizeof line, "F %d %s", report->is_permanent, report->text);
    if (bytes <= 0) return;
    for (int i = 0; i < bytes; i++)
        if (line[i] == '\n') line[i] = ' ';
    line[bytes] = '\n';
    /* The pipe is non-blocking; a line that does not fit is a progress nobody misses. */
    ssize_t wrote = write(fd, line, (size_t) bytes + 1);
    (void) wrote;
}

bool report_parse(const char *line, struct report *out) {
    struct report report = {0};
    if (!line[0] || line[1] != ' ') return false;
    const char *rest = line + 2;
    char *end;
    if (line[0] == 'L') {
        report.kind = REPORT_LOADING;
        report.done_bytes = strtoull(rest, &end, 10);
        if (*end != ' ') return false;
        report.total_bytes = strtoull(end + 1, &end, 10);
        if (*end != ' ') return false;
        rest = end + 1;
    } else if (line[0] == 'R') {
        report.kind = REPORT_READY;
    } else if (line[0] == 'F') {
        report.kind = REPORT_FAILED;
        report.is_permanent = *rest == '1';
        if (!*rest || rest[1] != ' ') return false;
        rest += 2;
    } else {
        return false;
    }
    snprintf(report.text, sizeof report.text, "%s", rest);
    *out = report;
    return true;
}
