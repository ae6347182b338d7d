/* json_field - typed fields of a foreign JSON object, with the rules of behaviour.md 5.
 *
 * null means absent; 64.0 is an integer; a wrong type or range names the field.  The error is
 * sticky: after the first one the readers do nothing, so that a caller lists its fields line by
 * line and tests once.  Pure, any thread. */
#ifndef GRAMME_API_JSON_FIELD_H
#define GRAMME_API_JSON_FIELD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/api_error.h"

struct json_scope {
    const json_t *object;
    const char *prefix; /* "" at the top; else "stream_options." */
    struct api_error *error;
    enum err failed;
};

/* Parses a whole body: strict, duplicate keys and NaN refused, "\u0000" allowed.  The error tells
 * the position, and names the field when the fault lies inside one.  *out is the caller's. */
MUST_USE enum err json_field_parse(const void *body, size_t bytes, struct api_error *error,
                                   json_t **out);

/* NULL when absent or null. */
const json_t *json_field_get(struct json_scope *scope, const char *name);
/* Each leaves *out alone (and is false) when the field is absent. */
bool json_field_bool(struct json_scope *scope, const char *name, bool *out);
bool json_field_int(struct json_scope *scope, const char *name, int64_t min, int64_t max,
                    int64_t *out);
/* is_open: min itself is not allowed. */
bool json_field_number(struct json_scope *scope, const char *name, double min, double max,
                       bool is_open, double *out);
/* Borrowed from the object; bytes may be NULL when a NUL inside is of no matter. */
bool json_field_string(struct json_scope *scope, const char *name, const char **out, size_t *bytes);
/* Of the wanted type, or NULL when absent. */
const json_t *json_field_array(struct json_scope *scope, const char *name);
const json_t *json_field_object(struct json_scope *scope, const char *name);
/* Fails the scope with 400; the field's name is put before by the caller in the sentence. */
void json_field_fail(struct json_scope *scope, const char *name, const char *format, ...)
    PRINTF_LIKE(3, 4);

/* An integer value (64 and 64.0 alike) of int64 range. */
bool json_field_as_int(const json_t *value, int64_t *out);
/* "a string", "an integer" ... for messages. */
const char *json_field_type_name(const json_t *value);
/* The path ("messages[0].content") of the value that byte `offset` of a JSON text lies in; the
 * text may be broken at or after it.  "" at the top. */
void json_field_path_at(const char *text, size_t bytes, size_t offset, char *out, size_t room);

#endif
