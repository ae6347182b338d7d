/* xfer_ucx - the body for workers of several processes, on UCX (shared memory, TCP). */
#include "xfer/xfer_body.h"

enum err xfer_ucx_create(const struct xfer_options *options, struct err_text *text,
                         struct xfer **out) {
    return err_set(text, ERR_UNSUPPORTED, "transfer between processes is not built here");
}
