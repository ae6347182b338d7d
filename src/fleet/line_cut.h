/* line_cut - bytes of a child's output, cut into lines of bounded length.
 *
 * Pure.  A line longer than LINE_CUT_MAX is given in one piece of that length, marked as cut, and
 * its rest is skipped: a child can neither grow our memory nor hide another's lines. */
#ifndef GRAMME_FLEET_LINE_CUT_H
#define GRAMME_FLEET_LINE_CUT_H

#include <stdbool.h>
#include <stddef.h>

#define LINE_CUT_MAX 4096

/* `line` is NUL-ended, without its newline. */
typedef void (*line_cut_fn)(void *ctx, const char *line, size_t bytes, bool is_cut);

struct line_cut {
    char line[LINE_CUT_MAX + 1];
    size_t bytes;
    bool is_skipping; /* the rest of an over-long line */
};

void line_cut_feed(struct line_cut *cut, const char *data, size_t bytes, line_cut_fn fn, void *ctx);
/* The stream has ended: what is left is a line too. */
void line_cut_end(struct line_cut *cut, line_cut_fn fn, void *ctx);

#endif
