/* gguf - see gguf.h.  The format: facts of the public GGUF specification, version 3. */
#include "model/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/num.h"

#define GGUF_VERSION 3
#define GGUF_ALIGNMENT_DEFAULT 32 /* specified: general.alignment is absent */
#define KEY_BYTES_MIN 13          /* name length, type, one byte of value */
#define TENSOR_BYTES_MIN 32       /* name length, dimension count, one dimension, type, offset */

struct reader {
    const uint8_t *bytes;
    uint64_t size;
    uint64_t at;
    const char *file;
    struct err_text *text;
};

static uint16_t load_u16(const uint8_t *at) { return (uint16_t) (at[0] | at[1] << 8); }
static uint32_t load_u32(const uint8_t *at) {
    return (uint32_t) load_u16(at) | (uint32_t) load_u16(at + 2) << 16;
}
static uint64_t load_u64(const uint8_t *at) {
    return (uint64_t) load_u32(at) | (uint64_t) load_u32(at + 4) << 32;
}

static bool has(const struct reader *reader, uint64_t bytes) {
    return bytes <= reader->size - reader->at;
}

static enum err cut_short(const struct reader *reader, const char *what) {
    return err_set(reader->text, ERR_FORMAT,
                   "%s: the file ends inside %s: expected more than its %llu bytes (is the "
                   "download complete?)",
                   reader->file, what, (unsigned long long) reader->size);
}

static enum err read_u32(struct reader *reader, const char *what, uint32_t *out) {
    if (!has(reader, 4)) return cut_short(reader, what);
    *out = load_u32(reader->bytes + reader->at);
    reader->at += 4;
    return ERR_OK;
}

static enum err read_u64(struct reader *reader, const char *what, uint64_t *out) {
    if (!has(reader, 8)) return cut_short(reader, what);
    *out = load_u64(reader->bytes + reader->at);
    reader->at += 8;
    return ERR_OK;
}

static enum err read_name(struct reader *reader, const char *what, const char **name,
                          uint32_t *name_bytes) {
    uint64_t bytes = 0;
    enum err e = read_u64(reader, what, &bytes);
    if (e) return e;
    if (bytes == 0 || bytes > GGUF_NAME_BYTES_MAX)
        return err_set(reader->text, ERR_FORMAT, "%s: a name of %llu bytes in %s: expected 1 to %d",
                       reader->file, (unsigned long long) bytes, what, GGUF_NAME_BYTES_MAX);
    if (!has(reader, bytes)) return cut_short(reader, what);
    const char *start = (const char *) reader->bytes + reader->at;
    for (uint64_t i = 0; i < bytes; i++)
        if ((unsigned char) start[i] < 0x20 || start[i] == 0x7f)
            return err_set(reader->text, ERR_FORMAT,
                           "%s: a name in %s holds byte 0x%02x: expected printable text",
                           reader->file, what, (unsigned char) start[i]);
    *name = start;
    *name_bytes = (uint32_t) bytes;
    reader->at += bytes;
    return ERR_OK;
}

/* Bytes of a scalar; 0 for strings and arrays. */
static uint32_t scalar_bytes(enum gguf_type type) {
    static const uint8_t bytes[GGUF_TYPE_COUNT] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
        [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    return bytes[type];
}

static enum err read_type(struct reader *reader, const struct gguf_key *key, enum gguf_type *out) {
    uint32_t type = 0;
    enum err e = read_u32(reader, "a key", &type);
    if (e) return e;
    if (type >= GGUF_TYPE_COUNT)
        return err_set(reader->text, ERR_FORMAT, "%s: key %.*s has value type %u: expected 0 to %d",
                       reader->file, (int) key->name_bytes, key->name, type, GGUF_TYPE_COUNT - 1);
    *out = (enum gguf_type) type;
    return ERR_OK;
}

static enum err read_array(struct reader *reader, struct gguf_key *key) {
    enum err e = read_type(reader, key, &key->element_type);
    if (!e) e = read_u64(reader, "a key", &key->count);
    if (e) return e;
    if (key->element_type == GGUF_ARRAY)
        return err_set(reader->text, ERR_UNSUPPORTED,
                       "%s: key %.*s is an array of arrays: expected numbers or strings",
                       reader->file, (int) key->name_bytes, key->name);
    key->data = reader->bytes + reader->at;
    uint64_t start = reader->at;
    if (key->element_type != GGUF_STRING) {
        uint64_t bytes = 0;
        if (!num_mul(key->count, scalar_bytes(key->element_type), &bytes) || !has(reader, bytes))
            return cut_short(reader, "an array");
        reader->at += bytes;
    } else {
        /* Each string takes its 8 bytes of length, so the loop ends with the file. */
        for (uint64_t i = 0; i < key->count; i++) {
            uint64_t bytes = 0;
            e = read_u64(reader, "an array of strings", &bytes);
            if (e) return e;
            if (!has(reader, bytes)) return cut_short(reader, "an array of strings");
            reader->at += bytes;
        }
    }
    key->bytes = reader->at - start;
    return ERR_OK;
}

static enum err read_key(struct reader *reader, struct gguf_key *key) {
    enum err e = read_name(reader, "a key", &key->name, &key->name_bytes);
    if (!e) e = read_type(reader, key, &key->type);
    if (e) return e;
    if (key->type == GGUF_ARRAY) return read_array(reader, key);
    key->count = 1;
    if (key->type == GGUF_STRING) {
        e = read_u64(reader, "a string", &key->bytes);
        if (e) return e;
    } else {
        key->bytes = scalar_bytes(key->type);
    }
    if (!has(reader, key->bytes)) return cut_short(reader, "a value");
    key->data = reader->bytes + reader->at;
    if (key->type == GGUF_BOOL && *key->data > 1)
        return err_set(reader->text, ERR_FORMAT, "%s: key %.*s is %u: expected a bool, 0 or 1",
                       reader->file, (int) key->name_bytes, key->name, *key->data);
    reader->at += key->bytes;
    return ERR_OK;
}

/* --- tensors ------------------------------------------------------------------------------ */

static const struct {
    uint32_t id; /* in the file */
    const char *name;
    int type;            /* ours, or -1 */
    const char *nearest; /* what to use instead */
} file_types[] = {
    {0, "F32", TENSOR_F32, NULL},    {1, "F16", TENSOR_F16, NULL},
    {2, "Q4_0", TENSOR_Q4_0, NULL},  {3, "Q4_1", TENSOR_Q4_1, NULL},
    {6, "Q5_0", TENSOR_Q5_0, NULL},  {7, "Q5_1", TENSOR_Q5_1, NULL},
    {8, "Q8_0", TENSOR_Q8_0, NULL},  {9, "Q8_1", -1, "Q8_0"},
    {10, "Q2_K", -1, "Q4_K"},        {11, "Q3_K", -1, "Q4_K"},
    {12, "Q4_K", TENSOR_Q4_K, NULL}, {13, "Q5_K", TENSOR_Q5_K, NULL},
    {14, "Q6_K", TENSOR_Q6_K, NULL}, {15, "Q8_K", -1, "Q8_0"},
    {16, "IQ2_XXS", -1, "Q4_K"},     {17, "IQ2_XS", -1, "Q4_K"},
    {18, "IQ3_XXS", -1, "Q4_K"},     {19, "IQ1_S", -1, "Q4_K"},
    {20, "IQ4_NL", -1, "Q4_0"},      {21, "IQ3_S", -1, "Q4_K"},
    {22, "IQ2_S", -1, "Q4_K"},       {23, "IQ4_XS", -1, "Q4_K"},
    {24, "I8", -1, "Q8_0"},          {25, "I16", -1, "F16"},
    {26, "I32", -1, "F32"},          {27, "I64", -1, "F32"},
    {28, "F64", -1, "F32"},          {29, "IQ1_M", -1, "Q4_K"},
    {30, "BF16", TENSOR_BF16, NULL}, {34, "TQ1_0", -1, "Q4_0"},
    {35, "TQ2_0", -1, "Q4_0"},       {39, "MXFP4", -1, "Q4_0"},
};

static enum err type_from_id(const struct reader *reader, const struct gguf_tensor *tensor,
                             uint32_t id, enum tensor_type *out) {
    for (uint32_t i = 0; i < ARRAY_COUNT(file_types); i++) {
        if (file_types[i].id != id) continue;
        if (file_types[i].type < 0)
            return err_set(reader->text, ERR_UNSUPPORTED,
                           "%s: tensor %.*s has type %s, which is not supported; the nearest "
                           "supported one is %s",
                           reader->file, (int) tensor->name_bytes, tensor->name, file_types[i].name,
                           file_types[i].nearest);
        *out = (enum tensor_type) file_types[i].type;
        return ERR_OK;
    }
    return err_set(reader->text, ERR_UNSUPPORTED,
                   "%s: tensor %.*s has unknown type %u; supported are F32, F16, BF16, Q8_0, Q4_0, "
                   "Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K",
                   reader->file, (int) tensor->name_bytes, tensor->name, id);
}

static enum err read_shape(struct reader *reader, struct gguf_tensor *tensor, uint64_t *weights) {
    enum err e = read_u32(reader, "the tensor list", &tensor->dimension_count);
    if (e) return e;
    if (tensor->dimension_count < 1 || tensor->dimension_count > GGUF_DIMENSIONS_MAX)
        return err_set(reader->text, ERR_FORMAT,
                       "%s: tensor %.*s has %u dimensions: expected 1 to %d", reader->file,
                       (int) tensor->name_bytes, tensor->name, tensor->dimension_count,
                       GGUF_DIMENSIONS_MAX);
    *weights = 1;
    for (uint32_t i = 0; i < GGUF_DIMENSIONS_MAX; i++) {
        tensor->dimensions[i] = 1;
        if (i >= tensor->dimension_count) continue;
        e = read_u64(reader, "the tensor list", &tensor->dimensions[i]);
        if (e) return e;
        if (!tensor->dimensions[i] || !num_mul(*weights, tensor->dimensions[i], weights) ||
            *weights > UINT64_MAX / 8)
            return err_set(reader->text, ERR_FORMAT,
                           "%s: tensor %.*s has a dimension of %llu: expected 1 or more, and fewer "
                           "than 2^61 weights in all",
                           reader->file, (int) tensor->name_bytes, tensor->name,
                           (unsigned long long) tensor->dimensions[i]);
    }
    return ERR_OK;
}

/* Reads one tensor's entry; data holds the offset until data_start is known. */
static enum err read_tensor(struct reader *reader, struct gguf_tensor *tensor, uint64_t *offset) {
    enum err e = read_name(reader, "the tensor list", &tensor->name, &tensor->name_bytes);
    if (e) return e;
    uint64_t weights = 0;
    uint32_t id = 0;
    e = read_shape(reader, tensor, &weights);
    if (!e) e = read_u32(reader, "the tensor list", &id);
    if (!e) e = read_u64(reader, "the tensor list", offset);
    if (!e) e = type_from_id(reader, tensor, id, &tensor->type);
    if (e) return e;
    if (tensor->dimensions[0] % tensor_type_block(tensor->type))
        return err_set(reader->text, ERR_FORMAT,
                       "%s: tensor %.*s has rows of %llu weights: expected a multiple of %u for %s",
                       reader->file, (int) tensor->name_bytes, tensor->name,
                       (unsigned long long) tensor->dimensions[0], tensor_type_block(tensor->type),
                       tensor_type_name(tensor->type));
    tensor->bytes = tensor_type_bytes(tensor->type, weights);
    return ERR_OK;
}

static int compare_names(const char *a, uint32_t a_bytes, const char *b, uint32_t b_bytes) {
    int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int compare_keys(const void *a, const void *b) {
    const struct gguf_key *x = a, *y = b;
    return compare_names(x->name, x->name_bytes, y->name, y->name_bytes);
}

static int compare_tensors(const void *a, const void *b) {
    const struct gguf_tensor *x = a, *y = b;
    return compare_names(x->name, x->name_bytes, y->name, y->name_bytes);
}

static int compare_places(const void *a, const void *b) {
    const struct gguf_tensor *x = a, *y = b;
    return (x->data > y->data) - (x->data < y->data);
}

static enum err check_overlaps(const struct reader *reader, struct gguf *gguf) {
    qsort(gguf->tensors, gguf->tensor_count, sizeof *gguf->tensors, compare_places);
    for (uint32_t i = 1; i < gguf->tensor_count; i++) {
        const struct gguf_tensor *before = &gguf->tensors[i - 1], *tensor = &gguf->tensors[i];
        if (tensor->data >= before->data + before->bytes) continue;
        return err_set(reader->text, ERR_FORMAT,
                       "%s: tensor %.*s begins at byte %llu inside tensor %.*s: expected byte %llu "
                       "or later",
                       reader->file, (int) tensor->name_bytes, tensor->name,
                       (unsigned long long) (tensor->data - reader->bytes),
                       (int) before->name_bytes, before->name,
                       (unsigned long long) (before->data + before->bytes - reader->bytes));
    }
    return ERR_OK;
}

static enum err read_tensors(struct reader *reader, struct gguf *gguf, uint64_t *offsets) {
    for (uint32_t i = 0; i < gguf->tensor_count; i++) {
        enum err e = read_tensor(reader, &gguf->tensors[i], &offsets[i]);
        if (e) return e;
    }
    uint32_t alignment = GGUF_ALIGNMENT_DEFAULT;
    if (gguf_find(gguf, "general.alignment") &&
        (!gguf_get_u32(gguf, "general.alignment", &alignment) || alignment < 8 ||
         alignment > 1u << 20 || (alignment & (alignment - 1))))
        return err_set(reader->text, ERR_FORMAT,
                       "%s: general.alignment is wrong: expected a power of two from 8 to 1048576",
                       reader->file);
    uint64_t start = num_round_up(reader->at, alignment);
    if (start > reader->size) {
        if (gguf->tensor_count) return cut_short(reader, "the padding before the tensors");
        start = reader->size;
    }
    for (uint32_t i = 0; i < gguf->tensor_count; i++) {
        struct gguf_tensor *tensor = &gguf->tensors[i];
        uint64_t room = reader->size - start;
        if (offsets[i] % alignment)
            return err_set(reader->text, ERR_FORMAT,
                           "%s: tensor %.*s has offset %llu: expected a multiple of %u",
                           reader->file, (int) tensor->name_bytes, tensor->name,
                           (unsigned long long) offsets[i], alignment);
        if (offsets[i] > room || tensor->bytes > room - offsets[i])
            return err_set(reader->text, ERR_FORMAT,
                           "%s: tensor %.*s is outside the file: expected %llu bytes at offset "
                           "%llu, the file holds %llu (is the download complete?)",
                           reader->file, (int) tensor->name_bytes, tensor->name,
                           (unsigned long long) tensor->bytes, (unsigned long long) offsets[i],
                           (unsigned long long) room);
        tensor->data = reader->bytes + start + offsets[i];
    }
    return check_overlaps(reader, gguf);
}

static enum err read_keys(struct reader *reader, struct gguf *gguf) {
    for (uint32_t i = 0; i < gguf->key_count; i++) {
        enum err e = read_key(reader, &gguf->keys[i]);
        if (e) return e;
    }
    qsort(gguf->keys, gguf->key_count, sizeof *gguf->keys, compare_keys);
    for (uint32_t i = 1; i < gguf->key_count; i++)
        if (compare_keys(&gguf->keys[i - 1], &gguf->keys[i]) == 0)
            return err_set(reader->text, ERR_FORMAT, "%s: key %.*s stands twice: expected once",
                           reader->file, (int) gguf->keys[i].name_bytes, gguf->keys[i].name);
    return ERR_OK;
}

static enum err sort_tensors(const struct reader *reader, struct gguf *gguf) {
    qsort(gguf->tensors, gguf->tensor_count, sizeof *gguf->tensors, compare_tensors);
    for (uint32_t i = 1; i < gguf->tensor_count; i++)
        if (compare_tensors(&gguf->tensors[i - 1], &gguf->tensors[i]) == 0)
            return err_set(reader->text, ERR_FORMAT, "%s: tensor %.*s stands twice: expected once",
                           reader->file, (int) gguf->tensors[i].name_bytes, gguf->tensors[i].name);
    return ERR_OK;
}

static enum err read_head(struct reader *reader, uint64_t *key_count, uint64_t *tensor_count) {
    if (!gguf_is_magic(reader->bytes, reader->size))
        return err_set(reader->text, ERR_FORMAT,
                       "%s: not a GGUF file: expected the bytes GGUF first", reader->file);
    reader->at = 4;
    uint32_t version = 0;
    enum err e = read_u32(reader, "the head", &version);
    if (e) return e;
    if (version == __builtin_bswap32(GGUF_VERSION))
        return err_set(reader->text, ERR_UNSUPPORTED,
                       "%s: a big-endian GGUF file: expected little-endian", reader->file);
    if (version != GGUF_VERSION)
        return err_set(reader->text, ERR_UNSUPPORTED, "%s: GGUF version %u: expected %d",
                       reader->file, version, GGUF_VERSION);
    e = read_u64(reader, "the head", tensor_count);
    if (!e) e = read_u64(reader, "the head", key_count);
    if (e) return e;
    uint64_t rest = reader->size - reader->at;
    if (*key_count > rest / KEY_BYTES_MIN || *tensor_count > rest / TENSOR_BYTES_MIN ||
        *key_count > UINT32_MAX || *tensor_count > UINT32_MAX)
        return err_set(reader->text, ERR_FORMAT,
                       "%s: %llu keys and %llu tensors do not fit its %llu bytes (is the download "
                       "complete?)",
                       reader->file, (unsigned long long) *key_count,
                       (unsigned long long) *tensor_count, (unsigned long long) reader->size);
    return ERR_OK;
}

bool gguf_is_magic(const uint8_t *bytes, uint64_t size) {
    return size >= 4 && memcmp(bytes, "GGUF", 4) == 0;
}

enum err gguf_parse(const uint8_t *bytes, uint64_t size, const char *file, struct err_text *text,
                    struct gguf *out) {
    struct reader reader = {bytes, size, 0, file, text};
    struct gguf gguf = {0};
    uint64_t *offsets = NULL;
    uint64_t key_count = 0, tensor_count = 0;
    enum err e = read_head(&reader, &key_count, &tensor_count);
    if (e) return e;
    gguf.keys = alloc_zero(key_count, sizeof *gguf.keys);
    gguf.tensors = alloc_zero(tensor_count, sizeof *gguf.tensors);
    offsets = alloc_zero(tensor_count, sizeof *offsets);
    if (!gguf.keys || !gguf.tensors || !offsets) {
        e = err_set(text, ERR_MEMORY, "%s: no memory for its %llu keys and %llu tensors", file,
                    (unsigned long long) key_count, (unsigned long long) tensor_count);
        goto out;
    }
    gguf.key_count = (uint32_t) key_count;
    gguf.tensor_count = (uint32_t) tensor_count;
    e = read_keys(&reader, &gguf);
    if (!e) e = read_tensors(&reader, &gguf, offsets);
    if (!e) e = sort_tensors(&reader, &gguf);
out:
    alloc_free(offsets);
    if (e) gguf_release(&gguf);
    else *out = gguf;
    return e;
}

void gguf_release(struct gguf *gguf) {
    alloc_free(gguf->keys);
    alloc_free(gguf->tensors);
    *gguf = (struct gguf){0};
}

/* --- looking things up -------------------------------------------------------------------- */

const struct gguf_key *gguf_find(const struct gguf *gguf, const char *name) {
    struct gguf_key wanted = {.name = name, .name_bytes = (uint32_t) strlen(name)};
    if (!gguf->key_count) return NULL;
    return bsearch(&wanted, gguf->keys, gguf->key_count, sizeof *gguf->keys, compare_keys);
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *gguf, const char *name) {
    struct gguf_tensor wanted = {.name = name, .name_bytes = (uint32_t) strlen(name)};
    if (!gguf->tensor_count) return NULL;
    return bsearch(&wanted, gguf->tensors, gguf->tensor_count, sizeof *gguf->tensors,
                   compare_tensors);
}

static double number_at(enum gguf_type type, const uint8_t *at) {
    switch (type) {
    case GGUF_U8:
    case GGUF_BOOL: return *at;
    case GGUF_I8: return (int8_t) *at;
    case GGUF_U16: return load_u16(at);
    case GGUF_I16: return (int16_t) load_u16(at);
    case GGUF_U32: return load_u32(at);
    case GGUF_I32: return (int32_t) load_u32(at);
    case GGUF_U64: return (double) load_u64(at);
    case GGUF_I64: return (double) (int64_t) load_u64(at);
    case GGUF_F32: {
        uint32_t bits = load_u32(at);
        float value;
        memcpy(&value, &bits, sizeof value);
        return (double) value;
    }
    case GGUF_F64: {
        uint64_t bits = load_u64(at);
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    case GGUF_STRING:
    case GGUF_ARRAY:
    case GGUF_TYPE_COUNT: break;
    }
    return NAN;
}

double gguf_array_number(const struct gguf_key *key, uint64_t index) {
    CHECK(key->type == GGUF_ARRAY && index < key->count);
    return number_at(key->element_type, key->data + index * scalar_bytes(key->element_type));
}

void gguf_array_string(const struct gguf_key *key, uint64_t *at, const char **out, size_t *bytes) {
    CHECK(key->type == GGUF_ARRAY && key->element_type == GGUF_STRING && *at < key->bytes);
    *bytes = load_u64(key->data + *at);
    *out = (const char *) key->data + *at + 8;
    *at += 8 + *bytes;
}

/* NAN when the value is no number. */
static double key_number(const struct gguf_key *key) {
    if (!key || key->type == GGUF_STRING) return NAN;
    if (key->type != GGUF_ARRAY) return number_at(key->type, key->data);
    if (!key->count || key->element_type == GGUF_STRING) return NAN;
    double first = gguf_array_number(key, 0);
    for (uint64_t i = 1; i < key->count; i++)
        if (gguf_array_number(key, i) != first) return NAN;
    return first;
}

bool gguf_get_u32(const struct gguf *gguf, const char *name, uint32_t *out) {
    double number = key_number(gguf_find(gguf, name));
    if (!(number >= 0) || number > UINT32_MAX || number != floor(number)) return false;
    *out = (uint32_t) number;
    return true;
}

bool gguf_get_f32(const struct gguf *gguf, const char *name, float *out) {
    double number = key_number(gguf_find(gguf, name));
    if (!isfinite(number) || fabs(number) > 3e38) return false;
    *out = (float) number;
    return true;
}

bool gguf_get_bool(const struct gguf *gguf, const char *name, bool *out) {
    const struct gguf_key *key = gguf_find(gguf, name);
    if (!key || key->type != GGUF_BOOL) return false;
    *out = *key->data != 0;
    return true;
}

bool gguf_get_string(const struct gguf *gguf, const char *name, const char **out, size_t *bytes) {
    const struct gguf_key *key = gguf_find(gguf, name);
    if (!key || key->type != GGUF_STRING) return false;
    *out = (const char *) key->data;
    *bytes = key->bytes;
    return true;
}

void gguf_describe(const struct gguf_key *key, char *out, size_t bytes) {
    if (key->type == GGUF_STRING) {
        int shown = key->bytes > 80 ? 80 : (int) key->bytes;
        snprintf(out, bytes, "\"%.*s\"", shown, (const char *) key->data);
    } else if (key->type == GGUF_ARRAY) {
        snprintf(out, bytes, "an array of %llu", (unsigned long long) key->count);
    } else if (key->type == GGUF_BOOL) {
        snprintf(out, bytes, "%s", *key->data ? "true" : "false");
    } else {
        snprintf(out, bytes, "%.9g", number_at(key->type, key->data));
    }
}
