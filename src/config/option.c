/* option - see option.h.
 *
 * This file knows the table and how a value is read; options.c holds the values of a run. */
#include "config/option.h"

#include <limits.h>
#include <string.h>

static const struct option table[OPT_COUNT] = {
#define OPTION(id, name, type, commands, group, unit, fallback, min, max, words, help)             \
    [OPT_##id] = {name, type, OPTION_HONOURED, commands, group, unit, fallback,                    \
                  min,  max,  words,           help},
#define CLASSIC(id, name, type, standing, harmless, help)                                          \
    [OPT_##                                                                                        \
        id] = {name, type, standing, CLASSIC_COMMANDS, "classic", "", harmless, 0, 0, NULL, help},
#include "config/option_table.h"
#undef OPTION
#undef CLASSIC
};

const struct option *option_get(enum option_id id) { return &table[id]; }

bool option_takes_auto(enum option_id id) {
    return id == OPT_TENSOR_PARALLEL_SIZE || id == OPT_MAX_MODEL_LEN ||
           id == OPT_GPU_MEMORY_UTILIZATION;
}

static char fold(char c) {
    if (c == '_') return '-';
    return c >= 'A' && c <= 'Z' ? (char) (c - 'A' + 'a') : c;
}

static bool names_equal(const char *name, size_t bytes, const char *other) {
    for (size_t i = 0; i < bytes; i++)
        if (!other[i] || fold(name[i]) != other[i]) return false;
    return other[bytes] == '\0';
}

int option_find(const char *name, size_t bytes) {
    for (int i = 0; i < OPT_COUNT; i++)
        if (names_equal(name, bytes, table[i].name)) return i;
    return -1;
}

#define SUGGEST_BYTES_MAX 48 /* no option's name is longer */

/* Levenshtein's distance over two short names. */
static unsigned distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    unsigned row[SUGGEST_BYTES_MAX + 1];
    if (b_bytes > SUGGEST_BYTES_MAX) return UINT_MAX;
    for (unsigned j = 0; j <= b_bytes; j++) row[j] = j;
    for (size_t i = 0; i < a_bytes; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned) i + 1;
        for (size_t j = 0; j < b_bytes; j++) {
            unsigned best = diagonal + (fold(a[i]) != fold(b[j]));
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j + 1] + 1 < best) best = row[j + 1] + 1;
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    return row[b_bytes];
}

/* The nearer of two names to `name`; *best_distance is that of `best`. */
static const char *nearer(const char *name, size_t bytes, const char *best, const char *other,
                          unsigned *best_distance) {
    unsigned d = distance(name, bytes, other, strlen(other));
    if (d >= *best_distance) return best;
    *best_distance = d;
    return other;
}

const char *option_suggest(const char *name, unsigned command) {
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes > SUGGEST_BYTES_MAX) return NULL;
    const char *best = NULL;
    unsigned best_distance = (unsigned) (bytes + 2) / 3 + 1;
    for (int i = 0; i < OPT_COUNT; i++) {
        if (command && !(table[i].commands & command)) continue;
        best = nearer(name, bytes, best, table[i].name, &best_distance);
    }
    return best;
}

const char *option_suggest_among(const char *name, const char *const *names, uint32_t count) {
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes > SUGGEST_BYTES_MAX) return NULL;
    const char *best = NULL;
    unsigned best_distance = (unsigned) (bytes + 2) / 3 + 1;
    for (uint32_t i = 0; i < count; i++) best = nearer(name, bytes, best, names[i], &best_distance);
    return best;
}
