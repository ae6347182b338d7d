/* model_file - one file of a model, mapped read-only.
 *
 * Nothing is read before it is asked for.  The mapping lives until model_file_close; any thread
 * reads.  A file that another program shortens while it is mapped would raise SIGBUS: model files
 * are taken to stand still. */
#ifndef GRAMME_MODEL_MODEL_FILE_H
#define GRAMME_MODEL_MODEL_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct model_file {
    const uint8_t *bytes; /* NULL for an empty file */
    uint64_t size;
    char *path; /* owned */
};

/* ERR_NOT_FOUND or ERR_IO with the path and the system's reason. */
MUST_USE enum err model_file_open(const char *path, struct err_text *text, struct model_file *out);
void model_file_close(struct model_file *file);
/* The whole of a small text file, NUL-terminated, freed by the caller with alloc_free.
 * ERR_NOT_FOUND (text untouched) when it is not there; ERR_LIMIT above bytes_max. */
MUST_USE enum err model_file_read(const char *path, size_t bytes_max, struct err_text *text,
                                  char **out, size_t *bytes);

#endif
