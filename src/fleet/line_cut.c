/* line_cut - see line_cut.h. */
#include "fleet/line_cut.h"

static void give(struct line_cut *cut, bool is_cut, line_cut_fn fn, void *ctx) {
    cut->line[cut->bytes] = '\0';
    fn(ctx, cut->line, cut->bytes, is_cut);
    cut->bytes = 0;
}

void line_cut_feed(struct line_cut *cut, const char *data, size_t bytes, line_cut_fn fn,
                   void *ctx) {
    for (size_t i = 0; i < bytes; i++) {
        if (data[i] == '\n') {
            if (!cut->is_skipping) give(cut, false, fn, ctx);
            cut->is_skipping = false;
        } else if (!cut->is_skipping) {
            /* A NUL would end the line for whoever reads it as a string. */
            cut->line[cut->bytes++] = data[i] ? data[i] : ' ';
            if (cut->bytes == LINE_CUT_MAX) {
                give(cut, true, fn, ctx);
                cut->is_skipping = true;
            }
        }
    }
}

void line_cut_end(struct line_cut *cut, line_cut_fn fn, void *ctx) {
    if (cut->bytes) give(cut, false, fn, ctx);
    cut->is_skipping = false;
}
