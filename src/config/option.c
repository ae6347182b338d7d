/* option - see option.h.
 *
 * This file knows the table and how a value is read; options.c holds the values of a run. */
#include "config/option.h"

#include <string.h>

static const struct option table[OPT_COUNT] = {
#define OPTION(id, name, type, commands, group, unit, fallback, min, max, words, help)             \
    [OPT_##id] = {name, type, commands, group, unit, fallback, min, max, words, help},
#include "config/option_table.h"
#undef OPTION
};

const struct option *option_get(enum option_id id) { return &table[id]; }

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

#define SUGGEST_BYTES_MAX 40 /* the longest option name has 22 letters */

/* Levenshtein's distance over two short names. */
static unsigned distance(const char *a, size_t a_bytes, const char *b, size_t b_bytes) {
    unsigned row[SUGGEST_BYTES_MAX + 1];
    for (unsigned j = 0; j <= b_bytes; j++) row[j] = j;
    for (size_t i = 0; i < a_bytes; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned) i + 1;
        for (size_t j = 0; j < b_bytes; j++) {
            unsigned best = diagonal + (fold(a[i]) != b[j]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j + 1] + 1 < best) best = row[j + 1] + 1;
            diagonal = row[j + 1];
            row[j + 1] = best;
        }
    }
    return row[b_bytes];
}

const char *option_suggest(const char *name, unsigned command) {
    size_t bytes = strlen(name);
    if (bytes == 0 || bytes > SUGGEST_BYTES_MAX) return NULL;
    const char *best = NULL;
    unsigned best_distance = (unsigned) (bytes + 2) / 3 + 1;
    for (int i = 0; i < OPT_COUNT; i++) {
        if (command && !(table[i].commands & command)) continue;
        unsigned d = distance(name, bytes, table[i].name, strlen(table[i].name));
        if (d >= best_distance) continue;
        best_distance = d;
        best = table[i].name;
    }
    return best;
}
