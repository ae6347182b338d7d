/* cmd_model - from options to an open model and to what its worker needs to boot. */
#ifndef GRAMME_CMD_CMD_MODEL_H
#define GRAMME_CMD_CMD_MODEL_H

#include "config/option.h"
#include "model/model.h"
#include "worker/worker_boot.h"

/* name NULL: the --model option.  ERR_USAGE when neither is there. */
MUST_USE enum err cmd_model_open(const struct options *options, const char *name,
                                 struct err_text *text, struct model **out);
/* The options that the model's files speak to, as SOURCE_MODEL: shown, not read, by the commands
 * (they ask the model itself). */
MUST_USE enum err cmd_model_fill_options(struct options *options, struct err_text *text);
/* Everything but what the plan decides.  Logs what bound threads and memory. */
MUST_USE enum err cmd_model_boot_options(const struct options *options,
                                         const struct model_spec *spec, struct err_text *text,
                                         struct worker_boot_options *out);
/* Sampling from the flags, over the model's generation_config.json, over `temperature_default`.
 * stop ids are borrowed from the spec. */
MUST_USE enum err cmd_model_sampling(const struct options *options, const struct model *model,
                                     float temperature_default, struct err_text *text,
                                     struct sampling *out);
/* Whether standard error is a terminal that can draw one. */
bool cmd_model_has_bar(void);
/* A bar on a terminal, a line every three seconds otherwise; a backend_progress_fn.  ctx: NULL, or
 * a bool: one of many workers, a line every ten. */
bool cmd_model_progress(void *ctx, const char *stage, uint64_t done_bytes, uint64_t total_bytes);

#endif
