/* json_file - see json_file.h. */
#include "model/json_file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "model/model_file.h"

#define JSON_BYTES_MAX ((size_t) 64 << 20) /* an index of 100,000 tensors has 10 MB */

enum err json_file_parse(const char *json, size_t bytes, const char *file, struct err_text *text,
                         json_t **out) {
    json_error_t reason;
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &reason);
    /* transformers writes "no limit" as 1e30 in digits (model_max_length): past 64 bits. */
    if (!root && reason.text[0] && json_error_code(&reason) == json_error_numeric_overflow)
        root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &reason);
    if (!root && !reason.text[0]) /* jansson says nothing when memory runs out */
        return err_set(text, ERR_MEMORY, "%s: no memory", file);
    if (!root)
        return err_set(text, ERR_FORMAT, "%s:%d:%d: %s", file, reason.line, reason.column,
                       reason.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(text, ERR_FORMAT, "%s: expected a JSON object", file);
    }
    *out = root;
    return ERR_OK;
}

enum err json_file_load(const char *path, struct err_text *text, json_t **out) {
    char *json = NULL;
    size_t bytes = 0;
    enum err e = model_file_read(path, JSON_BYTES_MAX, text, &json, &bytes);
    if (e) return e;
    e = json_file_parse(json, bytes, path, text, out);
    alloc_free(json);
    return e;
}

const json_t *json_file_get(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

void json_file_describe(const json_t *value, char *out, size_t bytes) {
    size_t written = json_dumpb(value, out, bytes - 1, JSON_ENCODE_ANY | JSON_COMPACT);
    if (written > bytes - 1) { /* it did not fit: the buffer holds its beginning */
        written = bytes - 1;
        if (written > 3) memcpy(out + written - 3, "...", 3);
    }
    out[written] = '\0';
    if (!written) snprintf(out, bytes, "unprintable");
}

static enum err wrong(const json_t *value, const char *key, const char *file, const char *expected,
                      struct err_text *text) {
    char found[96];
    json_file_describe(value, found, sizeof found);
    return err_set(text, ERR_FORMAT, "%s: key %s is %s: expected %s", file, key, found, expected);
}

enum err json_file_u32(const json_t *object, const char *key, const char *file,
                       struct err_text *text, uint32_t *out) {
    const json_t *value = json_file_get(object, key);
    if (!value) return ERR_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= 0) || number > UINT32_MAX || number != floor(number))
        return wrong(value, key, file, "a whole number from 0 to 4294967295", text);
    *out = (uint32_t) number;
    return ERR_OK;
}

enum err json_file_f32(const json_t *object, const char *key, const char *file,
                       struct err_text *text, float *out) {
    const json_t *value = json_file_get(object, key);
    if (!value) return ERR_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(fabs(number) < 3e38))
        return wrong(value, key, file, "a finite number", text);
    *out = (float) number;
    return ERR_OK;
}

enum err json_file_bool(const json_t *object, const char *key, const char *file,
                        struct err_text *text, bool *out) {
    const json_t *value = json_file_get(object, key);
    if (!value) return ERR_OK;
    if (!json_is_boolean(value)) return wrong(value, key, file, "true or false", text);
    *out = json_is_true(value);
    return ERR_OK;
}
