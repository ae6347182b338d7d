/* safetensors - see safetensors.h.  The format: facts of the public safetensors specification. */
#include "model/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

#define HEADER_BYTES_MAX 100000000u /* specified */

struct reader {
    const uint8_t *buffer; /* behind the header */
    uint64_t buffer_bytes;
    const char *file;
    struct err_text *text;
};

static const struct {
    const char *name;
    uint32_t bits;
    int type; /* ours, or -1 */
} dtypes[] = {
    {"F32", 32, TENSOR_F32}, {"F16", 16, TENSOR_F16}, {"BF16", 16, TENSOR_BF16}, {"BOOL", 8, -1},
    {"U8", 8, -1},           {"I8", 8, -1},           {"F8_E5M2", 8, -1},        {"F8_E4M3", 8, -1},
    {"F8_E8M0", 8, -1},      {"F8_E4M3FNUZ", 8, -1},  {"F8_E5M2FNUZ", 8, -1},    {"F4", 4, -1},
    {"F6_E2M3", 6, -1},      {"F6_E3M2", 6, -1},      {"I16", 16, -1},           {"U16", 16, -1},
    {"I32", 32, -1},         {"U32", 32, -1},         {"I64", 64, -1},           {"U64", 64, -1},
    {"F64", 64, -1},         {"C64", 64, -1},
};

static enum err bad(const struct reader *reader, const char *name, const char *expected) {
    return err_set(reader->text, ERR_FORMAT, "%s: tensor %.200s: expected %s", reader->file, name,
                   expected);
}

static enum err read_dtype(const struct reader *reader, const json_t *entry,
                           struct safetensors_tensor *tensor, uint32_t *bits) {
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype) return bad(reader, tensor->name, "a string as dtype");
    for (uint32_t i = 0; i < ARRAY_COUNT(dtypes); i++) {
        if (strcmp(dtypes[i].name, dtype) != 0) continue;
        tensor->dtype = dtypes[i].name;
        tensor->has_type = dtypes[i].type >= 0;
        if (tensor->has_type) tensor->type = (enum tensor_type) dtypes[i].type;
        *bits = dtypes[i].bits;
        return ERR_OK;
    }
    return err_set(reader->text, ERR_UNSUPPORTED,
                   "%s: tensor %.200s has unknown dtype %.40s: supported are F32, F16 and BF16",
                   reader->file, tensor->name, dtype);
}

static enum err read_shape(const struct reader *reader, const json_t *entry,
                           struct safetensors_tensor *tensor, uint64_t *weights) {
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > SAFETENSORS_DIMENSIONS_MAX)
        return bad(reader, tensor->name, "a list of at most 8 sizes as shape");
    tensor->dimension_count = (uint32_t) json_array_size(shape);
    *weights = 1;
    for (uint32_t i = 0; i < tensor->dimension_count; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0 ||
            !num_mul(*weights, (uint64_t) json_integer_value(size), weights))
            return bad(reader, tensor->name, "sizes of 0 or more in shape, below 2^64 in all");
        tensor->dimensions[i] = (uint64_t) json_integer_value(size);
    }
    return ERR_OK;
}

static enum err read_entry(const struct reader *reader, const json_t *entry,
                           struct safetensors_tensor *tensor) {
    if (!json_is_object(entry)) return bad(reader, tensor->name, "an object");
    uint32_t bits = 0;
    uint64_t weights = 0, all_bits = 0;
    enum err e = read_dtype(reader, entry, tensor, &bits);
    if (!e) e = read_shape(reader, entry, tensor, &weights);
    if (e) return e;
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last) ||
        json_integer_value(first) < 0 || json_integer_value(last) < json_integer_value(first))
        return bad(reader, tensor->name, "data_offsets of [begin, end], begin <= end");
    uint64_t begin = (uint64_t) json_integer_value(first);
    uint64_t end = (uint64_t) json_integer_value(last);
    if (end > reader->buffer_bytes)
        return err_set(
            reader->text, ERR_FORMAT,
            "%s: tensor %.200s is outside the file: it ends at byte %llu, the file holds "
            "%llu (is the download complete?)",
            reader->file, tensor->name, (unsigned long long) end,
            (unsigned long long) reader->buffer_bytes);
    if (!num_mul(weights, bits, &all_bits) || all_bits % 8 || all_bits / 8 != end - begin)
        return err_set(reader->text, ERR_FORMAT,
                       "%s: tensor %.200s has %llu bytes: expected %llu weights of %s",
                       reader->file, tensor->name, (unsigned long long) (end - begin),
                       (unsigned long long) weights, tensor->dtype);
    tensor->data = reader->buffer + begin;
    tensor->bytes = end - begin;
    return ERR_OK;
}

static int compare_places(const void *a, const void *b) {
    const struct safetensors_tensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty ones first */
}

static int compare_names(const void *a, const void *b) {
    const struct safetensors_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static enum err check_places(const struct reader *reader, struct safetensors *table) {
    qsort(table->tensors, table->tensor_count, sizeof *table->tensors, compare_places);
    const uint8_t *expected = reader->buffer;
    for (uint32_t i = 0; i < table->tensor_count; i++) {
        const struct safetensors_tensor *tensor = &table->tensors[i];
        if (tensor->data != expected)
            return err_set(reader->text, ERR_FORMAT,
                           "%s: tensor %.200s begins at byte %llu, %s: expected byte %llu",
                           reader->file, tensor->name,
                           (unsigned long long) (tensor->data - reader->buffer),
                           tensor->data < expected ? "overlapping the one before" : "behind a hole",
                           (unsigned long long) (expected - reader->buffer));
        expected += tensor->bytes;
    }
    uint64_t used = (uint64_t) (expected - reader->buffer);
    if (used != reader->buffer_bytes)
        return err_set(reader->text, ERR_FORMAT,
                       "%s: %llu bytes behind the last tensor: expected none", reader->file,
                       (unsigned long long) (reader->buffer_bytes - used));
    return ERR_OK;
}

static enum err read_table(const struct reader *reader, json_t *root, struct safetensors *table) {
    table->tensors = alloc_zero(json_object_size(root), sizeof *table->tensors);
    if (!table->tensors) return err_set(reader->text, ERR_MEMORY, "%s: no memory", reader->file);
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry) {
        if (strcmp(name, "__metadata__") == 0) {
            if (!json_is_object(entry))
                return err_set(reader->text, ERR_FORMAT, "%s: __metadata__: expected an object",
                               reader->file);
            continue;
        }
        struct safetensors_tensor *tensor = &table->tensors[table->tensor_count++];
        tensor->name = arena_copy(&table->names, name, strlen(name));
        if (!tensor->name)
            return err_set(reader->text, ERR_MEMORY, "%s: no memory for its names", reader->file);
        enum err e = read_entry(reader, entry, tensor);
        if (e) return e;
    }
    enum err e = check_places(reader, table);
    if (!e) qsort(table->tensors, table->tensor_count, sizeof *table->tensors, compare_names);
    return e;
}

enum err safetensors_parse(const uint8_t *bytes, uint64_t size, const char *file,
                           struct err_text *text, struct safetensors *out) {
    uint64_t header_bytes = 0;
    if (size >= 8)
        for (int i = 7; i >= 0; i--) header_bytes = header_bytes << 8 | bytes[i];
    if (size < 10 || header_bytes < 2 || header_bytes > HEADER_BYTES_MAX ||
        header_bytes > size - 8 || bytes[8] != '{')
        return err_set(text, ERR_FORMAT,
                       "%s: not a safetensors file, or cut short: expected a header of at most "
                       "%u bytes, found %llu in a file of %llu",
                       file, HEADER_BYTES_MAX, (unsigned long long) header_bytes,
                       (unsigned long long) size);
    struct reader reader = {bytes + 8 + header_bytes, size - 8 - header_bytes, file, text};
    struct safetensors table = {0};
    arena_init(&table.names, 0);
    json_error_t reason;
    json_t *root = json_loadb((const char *) bytes + 8, (size_t) header_bytes,
                              JSON_REJECT_DUPLICATES, &reason);
    enum err e;
    if (root) e = read_table(&reader, root, &table);
    else if (!reason.text[0]) /* jansson says nothing when memory runs out */
        e = err_set(text, ERR_MEMORY, "%s: no memory for its header", file);
    else
        e = err_set(text, ERR_FORMAT, "%s: the header is no JSON object: %s at byte %d", file,
                    reason.text, reason.position);
    json_decref(root);
    if (e) safetensors_release(&table);
    else *out = table;
    return e;
}

void safetensors_release(struct safetensors *safetensors) {
    alloc_free(safetensors->tensors);
    arena_release(&safetensors->names);
    *safetensors = (struct safetensors){0};
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *safetensors,
                                                  const char *name) {
    struct safetensors_tensor wanted = {.name = name};
    if (!safetensors->tensor_count) return NULL;
    return bsearch(&wanted, safetensors->tensors, safetensors->tensor_count,
                   sizeof *safetensors->tensors, compare_names);
}
