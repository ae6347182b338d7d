/* cmd_sampling - the sampling flags that hold lists: --stop-token-ids, --logit-bias,
 * --allowed-token-ids, --bad-words. */
#ifndef GRAMME_CMD_CMD_SAMPLING_H
#define GRAMME_CMD_CMD_SAMPLING_H

#include "base/arena.h"
#include "cmd/cmd_answer.h"

/* Adds them to *sampling; the arrays live in the arena.  ERR_USAGE names the flag. */
MUST_USE enum err cmd_sampling_read_lists(const struct options *options,
                                          const struct cmd_session *session, struct arena *arena,
                                          struct err_text *text, struct sampling *sampling);

#endif
