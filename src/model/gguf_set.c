/* gguf_set - see gguf_set.h. */
#include "model/gguf_set.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

#define SPLIT_TAIL_BYTES 20 /* "-00001-of-00003.gguf" */

static enum err open_part(const char *path, struct err_text *text, struct gguf_part *out) {
    struct gguf_part part = {0};
    enum err e = model_file_open(path, text, &part.file);
    if (e) return e;
    e = gguf_parse(part.file.bytes, part.file.size, path, text, &part.gguf);
    if (e) model_file_close(&part.file);
    else *out = part;
    return e;
}

static enum err path_of_part(const char *first, uint32_t index, uint32_t count,
                             struct err_text *text, char *out, size_t room) {
    size_t bytes = strlen(first);
    char tail[32];
    snprintf(tail, sizeof tail, "-00001-of-%05u.gguf", count);
    if (bytes < SPLIT_TAIL_BYTES || strcmp(first + bytes - SPLIT_TAIL_BYTES, tail) != 0)
        return err_set(text, ERR_FORMAT,
                       "%s: the first of %u parts (split.count): expected a name that ends in %s",
                       first, count, tail);
    int written = snprintf(out, room, "%.*s-%05u-of-%05u.gguf", (int) (bytes - SPLIT_TAIL_BYTES),
                           first, index + 1, count);
    if (written < 0 || (size_t) written >= room)
        return err_set(text, ERR_LIMIT, "%s: the path is too long", first);
    return ERR_OK;
}

static enum err check_part(const struct gguf_set *set, uint32_t index, uint32_t count,
                           struct err_text *text) {
    const struct gguf_part *part = &set->parts[index];
    uint32_t number = UINT32_MAX, of = 0;
    bool has_both = gguf_get_u32(&part->gguf, "split.count", &of);
    has_both = gguf_get_u32(&part->gguf, "split.no", &number) && has_both;
    if (!has_both || number != index || of != count)
        return err_set(text, ERR_FORMAT,
                       "%s: says it is part %u of %u (split.no, split.count): expected part %u of "
                       "%u",
                       part->file.path, number + 1, of, index + 1, count);
    for (uint32_t i = 0; i < part->gguf.tensor_count; i++) {
        const struct gguf_tensor *tensor = &part->gguf.tensors[i];
        char name[512];
        snprintf(name, sizeof name, "%.*s", (int) tensor->name_bytes, tensor->name);
        for (uint32_t other = 0; other < index; other++)
            if (gguf_find_tensor(&set->parts[other].gguf, name))
                return err_set(text, ERR_FORMAT, "%s: tensor %s stands in %s too: expected once",
                               part->file.path, name, set->parts[other].file.path);
    }
    return ERR_OK;
}

static enum err open_rest(struct gguf_set *set, uint32_t count, struct err_text *text) {
    const char *first = set->parts[0].file.path;
    uint64_t tensors = set->parts[0].gguf.tensor_count;
    enum err e = check_part(set, 0, count, text);
    for (uint32_t i = 1; !e && i < count; i++) {
        char path[4096];
        e = path_of_part(first, i, count, text, path, sizeof path);
        if (!e) e = open_part(path, text, &set->parts[i]);
        if (e == ERR_NOT_FOUND)
            err_set(text, e, "%s: part %u of %u is missing: expected %s", first, i + 1, count,
                    path);
        if (e) return e;
        set->part_count = i + 1;
        e = check_part(set, i, count, text);
        tensors += set->parts[i].gguf.tensor_count;
    }
    uint32_t promised;
    if (!e && gguf_get_u32(&set->parts[0].gguf, "split.tensors.count", &promised) &&
        promised != tensors)
        e = err_set(text, ERR_FORMAT,
                    "%s: split.tensors.count is %u: found %llu tensors in its %u parts", first,
                    promised, (unsigned long long) tensors, count);
    return e;
}

enum err gguf_set_open(const char *path, struct err_text *text, struct gguf_set *out) {
    struct gguf_set set = {0};
    struct gguf_part first = {0};
    enum err e = open_part(path, text, &first);
    if (e) return e;
    uint32_t count = 1, number;
    if (gguf_find(&first.gguf, "split.count") &&
        (!gguf_get_u32(&first.gguf, "split.count", &count) || count < 1 || count > GGUF_PARTS_MAX))
        e = err_set(text, ERR_FORMAT, "%s: split.count is wrong: expected 1 to %d", path,
                    GGUF_PARTS_MAX);
    if (!e && count > 1 && gguf_get_u32(&first.gguf, "split.no", &number) && number)
        e = err_set(text, ERR_USAGE,
                    "%s: part %u of %u of a split model: name the first part, "
                    "-00001-of-%05u.gguf",
                    path, number + 1, count, count);
    if (!e) {
        set.parts = alloc_zero(count, sizeof *set.parts);
        if (!set.parts) e = err_set(text, ERR_MEMORY, "%s: no memory for its parts", path);
    }
    if (e) {
        gguf_release(&first.gguf);
        model_file_close(&first.file);
        return e;
    }
    set.parts[0] = first;
    set.part_count = 1;
    if (count > 1) e = open_rest(&set, count, text);
    if (e) gguf_set_close(&set);
    else *out = set;
    return e;
}

void gguf_set_close(struct gguf_set *set) {
    for (uint32_t i = 0; i < set->part_count; i++) {
        gguf_release(&set->parts[i].gguf);
        model_file_close(&set->parts[i].file);
    }
    alloc_free(set->parts);
    *set = (struct gguf_set){0};
}

const struct gguf *gguf_set_keys(const struct gguf_set *set) { return &set->parts[0].gguf; }

const struct gguf_tensor *gguf_set_find_tensor(const struct gguf_set *set, const char *name,
                                               uint32_t *part) {
    for (uint32_t i = 0; i < set->part_count; i++) {
        const struct gguf_tensor *tensor = gguf_find_tensor(&set->parts[i].gguf, name);
        if (!tensor) continue;
        *part = i;
        return tensor;
    }
    return NULL;
}
