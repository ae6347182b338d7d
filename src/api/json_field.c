/* json_field - see json_field.h. */
#include "api/json_field.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "api/json_read.h"

#define PATH_DEPTH_MAX 16 /* levels that a path names; what lies deeper is told by its ancestor */

struct path_level {
    bool is_array;
    uint32_t index;
    const char *key;
    size_t key_bytes;
};

static void path_print(const struct path_level *levels, uint32_t depth, char *out, size_t room) {
    size_t used = 0;
    out[0] = '\0';
    for (uint32_t i = 0; i < depth && i < PATH_DEPTH_MAX; i++) {
        const struct path_level *level = &levels[i];
        int wrote = 0;
        if (level->is_array) {
            wrote = snprintf(out + used, room - used, "[%u]", level->index);
        } else if (level->key) {
            size_t bytes = level->key_bytes < 48 ? level->key_bytes : 48;
            wrote = snprintf(out + used, room - used, "%s%.*s", used ? "." : "", (int) bytes,
                             level->key);
        }
        if (wrote < 0 || (size_t) wrote >= room - used) break;
        used += (size_t) wrote;
    }
    for (char *at = out; *at; at++)
        if ((unsigned char) *at < 0x20 || (unsigned char) *at > 0x7e) *at = '?';
}

void json_field_path_at(const char *text, size_t bytes, size_t offset, char *out, size_t room) {
    struct path_level levels[PATH_DEPTH_MAX];
    uint32_t depth = 0;
    bool wants_key = false;
    size_t end = offset < bytes ? offset : bytes;
    for (size_t i = 0; i < end; i++) {
        struct path_level *top = depth && depth <= PATH_DEPTH_MAX ? &levels[depth - 1] : NULL;
        switch (text[i]) {
        case '"': {
            size_t from = ++i;
            while (i < end && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
            if (top && !top->is_array && wants_key) {
                top->key = text + from;
                top->key_bytes = (i < end ? i : end) - from;
                wants_key = false;
            }
            break;
        }
        case '{':
        case '[':
            if (depth < PATH_DEPTH_MAX)
                levels[depth] = (struct path_level){.is_array = text[i] == '['};
            depth++;
            wants_key = text[i] == '{';
            break;
        case '}':
        case ']':
            if (depth) depth--;
            wants_key = false;
            break;
        case ',':
            if (!top) break;
            if (top->is_array) top->index++;
            wants_key = !top->is_array;
            break;
        default: break;
        }
    }
    path_print(levels, depth, out, room);
}

/* Where a byte stands, for people: lines and columns (in bytes) from 1. */
static void position_of(const char *text, size_t offset, unsigned *line, unsigned *column) {
    *line = *column = 1;
    for (size_t i = 0; i < offset; i++) {
        (*column)++;
        if (text[i] != '\n') continue;
        (*line)++;
        *column = 1;
    }
}

enum err json_field_parse(const void *body, size_t bytes, struct api_error *error, json_t **out) {
    if (!bytes)
        return api_error_set(error, 400, NULL, "the body is empty; a JSON object is wanted");
    json_t *root = NULL;
    struct json_read_fault fault;
    enum err e = json_read(body, bytes, &fault, &root);
    if (e == ERR_MEMORY) return api_error_memory(error);
    if (e) {
        char path[128];
        unsigned line, column;
        json_field_path_at(body, bytes, fault.offset, path, sizeof path);
        position_of(body, fault.offset, &line, &column);
        return api_error_set(error, 400, path,
                             "the body is not valid JSON: line %u column %u%s%s: %s", line, column,
                             path[0] ? ", in " : "", path, fault.why);
    }
    if (!json_is_object(root)) {
        api_error_set(error, 400, NULL, "the body must be a JSON object, not %s",
                      json_field_type_name(root));
        json_decref(root);
        return ERR_USAGE;
    }
    *out = root;
    return ERR_OK;
}

const char *json_field_type_name(const json_t *value) {
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}

bool json_field_as_int(const json_t *value, int64_t *out) {
    if (json_is_integer(value)) {
        *out = (int64_t) json_integer_value(value);
        return true;
    }
    if (!json_is_real(value)) return false;
    double real = json_real_value(value);
    /* 2^63 as a double is exact; the comparison keeps the conversion defined. */
    if (!(real >= -0x1p63 && real < 0x1p63) || real != trunc(real)) return false;
    *out = (int64_t) real;
    return true;
}

void json_field_fail(struct json_scope *scope, const char *name, const char *format, ...) {
    if (scope->failed) return;
    char path[128];
    snprintf(path, sizeof path, "%s%s", scope->prefix, name);
    struct err_text text;
    va_list args;
    va_start(args, format);
    vsnprintf(text.text, sizeof text.text, format, args);
    va_end(args);
    scope->failed = api_error_set(scope->error, 400, path, "%s %s", path, text.text);
}

const json_t *json_field_get(struct json_scope *scope, const char *name) {
    if (scope->failed) return NULL;
    const json_t *value = json_object_get(scope->object, name);
    return json_is_null(value) ? NULL : value;
}

bool json_field_bool(struct json_scope *scope, const char *name, bool *out) {
    const json_t *value = json_field_get(scope, name);
    if (!value) return false;
    if (!json_is_boolean(value)) {
        json_field_fail(scope, name, "must be a boolean, not %s", json_field_type_name(value));
        return false;
    }
    *out = json_is_true(value);
    return true;
}

bool json_field_int(struct json_scope *scope, const char *name, int64_t min, int64_t max,
                    int64_t *out) {
    const json_t *value = json_field_get(scope, name);
    if (!value) return false;
    int64_t number;
    if (!json_field_as_int(value, &number)) {
        json_field_fail(scope, name, "must be an integer, not %s",
                        json_is_real(value) ? "a fraction" : json_field_type_name(value));
        return false;
    }
    if (number < min || number > max) {
        if (max == INT64_MAX || max == UINT32_MAX)
            json_field_fail(scope, name, "must be at least %lld, got %lld", (long long) min,
                            (long long) number);
        else
            json_field_fail(scope, name, "must be in [%lld, %lld], got %lld", (long long) min,
                            (long long) max, (long long) number);
        return false;
    }
    *out = number;
    return true;
}

bool json_field_number(struct json_scope *scope, const char *name, double min, double max,
                       bool is_open, double *out) {
    const json_t *value = json_field_get(scope, name);
    if (!value) return false;
    if (!json_is_number(value)) {
        json_field_fail(scope, name, "must be a number, not %s", json_field_type_name(value));
        return false;
    }
    double number = json_number_value(value);
    if (!(number >= min && number <= max) || (is_open && number == min)) {
        if (isinf(max))
            json_field_fail(scope, name, "must be %s %g, got %g", is_open ? "above" : "at least",
                            min, number);
        else
            json_field_fail(scope, name, "must be in %c%g, %g], got %g", is_open ? '(' : '[', min,
                            max, number);
        return false;
    }
    *out = number;
    return true;
}

bool json_field_string(struct json_scope *scope, const char *name, const char **out,
                       size_t *bytes) {
    const json_t *value = json_field_get(scope, name);
    if (!value) return false;
    if (!json_is_string(value)) {
        json_field_fail(scope, name, "must be a string, not %s", json_field_type_name(value));
        return false;
    }
    *out = json_string_value(value);
    if (bytes) *bytes = json_string_length(value);
    return true;
}

const json_t *json_field_array(struct json_scope *scope, const char *name) {
    const json_t *value = json_field_get(scope, name);
    if (!value || json_is_array(value)) return value;
    json_field_fail(scope, name, "must be an array, not %s", json_field_type_name(value));
    return NULL;
}

const json_t *json_field_object(struct json_scope *scope, const char *name) {
    const json_t *value = json_field_get(scope, name);
    if (!value || json_is_object(value)) return value;
    json_field_fail(scope, name, "must be an object, not %s", json_field_type_name(value));
    return NULL;
}
