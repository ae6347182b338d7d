/* model_resolve - from what a user types to a file or a folder (behaviour.md 2).
 *
 * In this order: a path (a folder; a GGUF by its magic; a folder with one GGUF), then
 * org/name[@revision] in the Hugging Face cache, else one line with the places looked at and the
 * command that fetches it.  No network is touched. */
#ifndef GRAMME_MODEL_MODEL_RESOLVE_H
#define GRAMME_MODEL_MODEL_RESOLVE_H

#include <stdbool.h>

#include "base/err.h"
#include "model/model_spec.h"

#define MODEL_PATH_BYTES 4096

enum model_source_kind { MODEL_SOURCE_FOLDER, MODEL_SOURCE_GGUF };

struct model_source {
    enum model_source_kind kind;
    char path[MODEL_PATH_BYTES];
    char name[MODEL_NAME_BYTES]; /* the served name's default */
    bool is_cached;              /* from the Hugging Face cache */
};

/* Where the cache is, from the environment of cmd/ (any may be NULL): HF_HUB_CACHE, else
 * HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else HOME/.cache/huggingface/hub.  Called
 * once, before any thread; without it only paths resolve. */
void model_resolve_configure(const char *hf_hub_cache, const char *hf_home,
                             const char *xdg_cache_home, const char *home);

MUST_USE enum err model_resolve(const char *path_or_name, struct err_text *text,
                                struct model_source *out);

/* "folder/name" into out; false when it does not fit. */
MUST_USE bool model_resolve_join(char out[MODEL_PATH_BYTES], const char *folder, const char *name);

#endif
