/* cmd_ids - a list of token ids as a user writes it: "1,2,3". */
#ifndef GRAMME_CMD_CMD_IDS_H
#define GRAMME_CMD_CMD_IDS_H

#include <stdint.h>

#include "base/err.h"

/* One comma or spaces between ids, brackets around them or not; *ids is freed with alloc_free.
 * ERR_USAGE names the flag and the first thing that is no id below vocab_size. */
MUST_USE enum err cmd_ids_parse(const char *flag, const char *list, uint32_t vocab_size,
                                struct err_text *text, uint32_t **ids, uint32_t *count);

#endif
