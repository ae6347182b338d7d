/* gguf_set - the parts of one GGUF model: one file, or the -0000k-of-0000n files of a split one.
 *
 * The first part holds the keys.  Owned by the model; immutable after gguf_set_open. */
#ifndef GRAMME_MODEL_GGUF_SET_H
#define GRAMME_MODEL_GGUF_SET_H

#include "model/gguf.h"
#include "model/model_file.h"

#define GGUF_PARTS_MAX 1024

struct gguf_part {
    struct model_file file;
    struct gguf gguf;
};

struct gguf_set {
    struct gguf_part *parts; /* owned */
    uint32_t part_count;
};

/* path names the first part.  Every part must be there, and together they must hold the tensors
 * that the first one promises, each once. */
MUST_USE enum err gguf_set_open(const char *path, struct err_text *text, struct gguf_set *out);
void gguf_set_close(struct gguf_set *set);
/* The keys, for lookups. */
const struct gguf *gguf_set_keys(const struct gguf_set *set);
/* NULL when no part has it; *part tells which has. */
const struct gguf_tensor *gguf_set_find_tensor(const struct gguf_set *set, const char *name,
                                               uint32_t *part);

#endif
