/* json_file - a model's JSON files, and numbers out of them with the key in the error. */
#ifndef GRAMME_MODEL_JSON_FILE_H
#define GRAMME_MODEL_JSON_FILE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* An object, or an error naming file and line.  ERR_NOT_FOUND (text untouched) when the file is
 * not there.  The caller has one reference. */
MUST_USE enum err json_file_load(const char *path, struct err_text *text, json_t **out);
MUST_USE enum err json_file_parse(const char *json, size_t bytes, const char *file,
                                  struct err_text *text, json_t **out);

/* The value of a key; NULL when absent or null. */
const json_t *json_file_get(const json_t *object, const char *key);
/* The value as it stands in a message; cut to fit. */
void json_file_describe(const json_t *value, char *out, size_t bytes);

/* *out keeps its value when the key is absent or null; ERR_FORMAT names file, key, value. */
MUST_USE enum err json_file_u32(const json_t *object, const char *key, const char *file,
                                struct err_text *text, uint32_t *out);
MUST_USE enum err json_file_f32(const json_t *object, const char *key, const char *file,
                                struct err_text *text, float *out);
MUST_USE enum err json_file_bool(const json_t *object, const char *key, const char *file,
                                 struct err_text *text, bool *out);

#endif
