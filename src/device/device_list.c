/* device_list - see device_list.h. */
#include "device/device_list.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"

#define NAME_BYTES 48
#define DEPTH_MAX 2 /* a list of nodes; nodes do not nest */

struct parser {
    const char *text, *at;
    const struct device_gpus *gpus;
    struct err_text *error;
    struct device_list *list;
    uint32_t node, in_node; /* where the next device goes */
    bool has_nodes, has_plain;
};

static enum err refuse(const struct parser *parser, const char *what) {
    return err_set(parser->error, ERR_USAGE, "devices '%.80s': %s at column %d", parser->text, what,
                   (int) (parser->at - parser->text) + 1);
}

static void skip_spaces(struct parser *parser) {
    while (*parser->at == ' ') parser->at++;
}

static enum err device_add(struct parser *parser, const struct device *device) {
    struct device_list *list = parser->list;
    if (list->count == DEVICE_LIST_MAX)
        return err_set(parser->error, ERR_LIMIT, "more than %u devices", DEVICE_LIST_MAX);
    if ((list->count & (list->count - 1)) == 0) { /* the room is the next power of two */
        struct device *items =
            alloc_resize(list->items, (list->count ? list->count * 2 : 1) * sizeof *items);
        if (!items) return err_set(parser->error, ERR_MEMORY, "out of memory");
        list->items = items;
    }
    struct device *item = &list->items[list->count++];
    *item = *device;
    item->node = parser->node;
    if (!item->is_slice || item->kind == DEVICE_CPU) item->ordinal = parser->in_node;
    parser->in_node++;
    list->node_count = parser->node + 1;
    return ERR_OK;
}

/* "39.39GiB", "2G", bytes. */
static bool read_bytes(struct parser *parser, uint64_t *out) {
    static const struct {
        const char *suffix;
        double factor;
    } units[] = {{"GiB", 1073741824.0}, {"MiB", 1048576.0}, {"TiB", 1099511627776.0},
                 {"KiB", 1024.0},       {"GB", 1e9},        {"MB", 1e6},
                 {"G", 1073741824.0},   {"M", 1048576.0},   {"T", 1099511627776.0}};
    char *end;
    errno = 0;
    double number = strtod(parser->at, &end);
    if (end == parser->at || errno || !(number > 0) || number > 1e18) return false;
    double factor = 1;
    for (size_t i = 0; i < ARRAY_COUNT(units); i++) {
        size_t bytes = strlen(units[i].suffix);
        if (strncasecmp(end, units[i].suffix, bytes) != 0) continue;
        factor = units[i].factor;
        end += bytes;
        break;
    }
    if (number * factor < 1 || number * factor > 1e18) return false;
    *out = (uint64_t) (number * factor);
    parser->at = end;
    return true;
}

/* Fills the device that a name (and its bytes, 0: none given) stands for. */
static enum err describe(struct parser *parser, const char *name, uint64_t bytes,
                         struct device *out) {
    *out = (struct device){.kind = DEVICE_CUDA, .total_bytes = bytes, .free_bytes = bytes};
    snprintf(out->name, sizeof out->name, "%s", name);
    if (strcasecmp(name, "cpu") == 0) {
        if (!bytes) return refuse(parser, "cpu needs bytes: cpu:2GiB");
        out->kind = DEVICE_CPU;
        out->is_slice = true;
        snprintf(out->name, sizeof out->name, "cpu");
        return ERR_OK;
    }
    if (strncasecmp(name, "cuda", 4) == 0 && isdigit((unsigned char) name[4])) {
        char *end;
        unsigned long index = strtoul(name + 4, &end, 10);
        if (*end || index >= DEVICE_GPUS_MAX) return refuse(parser, "no such card");
        out->ordinal = (uint32_t) index;
        out->is_slice = true;
        if (parser->gpus && index < parser->gpus->card_count) {
            const struct device_gpu *gpu = &parser->gpus->cards[index];
            if (!bytes) out->total_bytes = gpu->total_bytes;
            out->free_bytes = bytes ? bytes : gpu->free_bytes;
        } else if (!bytes) {
            return refuse(parser, "this card is not here: give its bytes, cuda0:39.39GiB");
        }
        return ERR_OK;
    }
    out->card = device_card_find(name);
    out->is_elsewhere = true;
    if (!out->card) {
        char what[160];
        const char *near = device_card_suggest(name);
        snprintf(what, sizeof what, "unknown device '%.40s'%s%s%s", name,
                 near ? ", did you mean " : "", near ? near : "", near ? "?" : "");
        return refuse(parser, what);
    }
    snprintf(out->name, sizeof out->name, "%s", out->card->name);
    if (!bytes) out->total_bytes = out->free_bytes = out->card->total_bytes;
    return ERR_OK;
}

static enum err read_list(struct parser *parser, int depth);

static void next_node(struct parser *parser) {
    if (!parser->list->count) return;
    parser->node = parser->list->node_count;
    parser->in_node = 0;
}

static enum err read_group(struct parser *parser, uint32_t times, int depth) {
    if (depth >= DEPTH_MAX) return refuse(parser, "a node within a node");
    const char *start = ++parser->at;
    for (uint32_t i = 0; i < times; i++) {
        parser->at = start;
        next_node(parser);
        if (parser->node >= DEVICE_LIST_NODES_MAX) return refuse(parser, "more than 1024 nodes");
        enum err e = read_list(parser, depth + 1);
        if (e) return e;
        if (*parser->at != ')') return refuse(parser, "')' is missing");
        parser->at++;
    }
    return ERR_OK;
}

static enum err read_item(struct parser *parser, int depth) {
    uint32_t times = 1;
    skip_spaces(parser);
    char *end;
    unsigned long number = strtoul(parser->at, &end, 10);
    if (isdigit((unsigned char) *parser->at) && (*end == 'x' || *end == 'X')) {
        if (number < 1 || number > DEVICE_LIST_MAX) return refuse(parser, "a count of 1 to 4096");
        times = (uint32_t) number;
        parser->at = end + 1;
    }
    if (*parser->at == '(') {
        parser->has_nodes |= depth == 1;
        if (parser->has_plain && depth == 1)
            return refuse(parser, "nodes '(...)' beside devices outside of one");
        return read_group(parser, times, depth);
    }
    char name[NAME_BYTES];
    size_t bytes = 0;
    while (isalnum((unsigned char) parser->at[bytes]) || parser->at[bytes] == '-' ||
           parser->at[bytes] == '_' || parser->at[bytes] == '.')
        bytes++;
    if (!bytes || bytes >= sizeof name) return refuse(parser, "the name of a device is wanted");
    if (depth == 1) parser->has_plain = true;
    if (parser->has_nodes && depth == 1)
        return refuse(parser, "nodes '(...)' beside devices outside of one");
    for (size_t i = 0; i < bytes; i++) name[i] = parser->at[i] == '_' ? '-' : parser->at[i];
    name[bytes] = '\0';
    const char *start = parser->at;
    parser->at += bytes;
    uint64_t size = 0;
    if (*parser->at == ':') {
        parser->at++;
        if (!read_bytes(parser, &size)) return refuse(parser, "a size is wanted, 39.39GiB");
    }
    struct device device;
    const char *after = parser->at;
    parser->at = start;
    enum err e = describe(parser, name, size, &device);
    parser->at = after;
    for (uint32_t i = 0; !e && i < times; i++) e = device_add(parser, &device);
    return e;
}

/* Recursion is bounded by DEPTH_MAX. */
static enum err read_list(struct parser *parser, int depth) {
    for (;;) {
        enum err e = read_item(parser, depth);
        if (e) return e;
        skip_spaces(parser);
        if (*parser->at != ',') return ERR_OK;
        parser->at++;
    }
}

enum err device_list_parse(const char *text, const struct device_gpus *gpus, struct err_text *error,
                           struct device_list *out) {
    struct device_list list = {0};
    struct parser parser = {.text = text, .at = text, .gpus = gpus, .error = error, .list = &list};
    enum err e = read_list(&parser, 1);
    if (!e && *parser.at) e = refuse(&parser, "',' or the end is wanted");
    if (e) {
        device_list_release(&list);
        return e;
    }
    *out = list;
    return ERR_OK;
}

void device_list_release(struct device_list *list) {
    alloc_free(list->items);
    *list = (struct device_list){0};
}

/* --- this machine ------------------------------------------------------------------------- */

static enum err find_visible(const char *word, const struct device_gpus *gpus,
                             struct err_text *error, uint32_t *out) {
    char *end;
    unsigned long index = strtoul(word, &end, 10);
    if (isdigit((unsigned char) *word) && !*end) {
        if (index >= DEVICE_GPUS_MAX || (gpus && index >= gpus->card_count))
            return err_set(error, ERR_USAGE, "CUDA_VISIBLE_DEVICES names card %s, and there are %u",
                           word, gpus ? gpus->card_count : DEVICE_GPUS_MAX);
        *out = (uint32_t) index;
        return ERR_OK;
    }
    uint32_t found = 0;
    for (uint32_t i = 0; gpus && *word && i < gpus->card_count; i++)
        if (strncasecmp(gpus->cards[i].uuid, word, strlen(word)) == 0) {
            *out = i;
            found++;
        }
    if (found == 1) return ERR_OK;
    return err_set(error, ERR_USAGE, "CUDA_VISIBLE_DEVICES: '%.60s' is %s", word,
                   found ? "the beginning of several cards' UUIDs" : "no card of this machine");
}

enum err device_list_visible(const char *value, const struct device_gpus *gpus,
                             struct err_text *error, uint32_t *indexes, uint32_t *count) {
    uint32_t found = 0;
    if (strcasecmp(value, "all") == 0 && gpus) {
        for (uint32_t i = 0; i < gpus->card_count; i++) indexes[found++] = i;
        *count = found;
        return ERR_OK;
    }
    while (*value) {
        char word[96];
        while (*value == ' ' || *value == ',') value++;
        size_t bytes = strcspn(value, ",");
        snprintf(word, sizeof word, "%.*s", (int) (bytes < 95 ? bytes : 95), value);
        for (size_t end = strlen(word); end && word[end - 1] == ' ';) word[--end] = '\0';
        value += bytes;
        if (!*word) continue;
        /* As CUDA reads it: -1 (and what containers write for none) ends the list. */
        if (*word == '-' || strcasecmp(word, "none") == 0 || strcasecmp(word, "void") == 0 ||
            strcasecmp(word, "NoDevFiles") == 0)
            break;
        uint32_t index = 0;
        enum err e = find_visible(word, gpus, error, &index);
        if (e) return e;
        for (uint32_t i = 0; i < found; i++)
            if (indexes[i] == index)
                return err_set(error, ERR_USAGE, "CUDA_VISIBLE_DEVICES names card %u twice", index);
        indexes[found++] = index;
    }
    *count = found;
    return ERR_OK;
}

enum err device_list_of_machine(const struct device_gpus *gpus, const char *visible,
                                struct err_text *error, struct device_list *out) {
    uint32_t indexes[DEVICE_GPUS_MAX], count = 0;
    struct device_list list = {0};
    enum err e = device_list_visible(visible ? visible : "all", gpus, error, indexes, &count);
    if (e) return e;
    list.items = count ? alloc_zero(count, sizeof *list.items) : NULL;
    if (count && !list.items) return err_set(error, ERR_MEMORY, "out of memory");
    for (uint32_t i = 0; i < count; i++) {
        const struct device_gpu *gpu = &gpus->cards[indexes[i]];
        struct device *device = &list.items[list.count++];
        *device = (struct device){.kind = DEVICE_CUDA,
                                  .ordinal = indexes[i],
                                  .total_bytes = gpu->total_bytes,
                                  .free_bytes = gpu->free_bytes};
        snprintf(device->name, sizeof device->name, "cuda%u", indexes[i]);
    }
    list.node_count = count ? 1 : 0;
    *out = list;
    return ERR_OK;
}
