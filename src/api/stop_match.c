/* stop_match - see stop_match.h. */
#include "api/stop_match.h"

#include <string.h>

enum err stop_match_set_add(struct stop_set *set, struct arena *arena, const char *text,
                            size_t bytes) {
    if (set->count == STOP_MATCH_STRINGS_MAX || bytes > (1u << 30)) return ERR_LIMIT;
    CHECK(bytes > 0);
    const uint8_t *copy = (const uint8_t *) arena_copy(arena, text, bytes);
    uint32_t *fail = arena_take(arena, bytes * sizeof *fail);
    if (!copy || !fail) return ERR_MEMORY;
    fail[0] = 0;
    for (uint32_t i = 1, border = 0; i < bytes; i++) {
        while (border && copy[i] != copy[border]) border = fail[border - 1];
        if (copy[i] == copy[border]) border++;
        fail[i] = border;
    }
    set->strings[set->count++] =
        (struct stop_string){.text = copy, .bytes = (uint32_t) bytes, .fail = fail};
    return ERR_OK;
}

enum err stop_match_init(struct stop_match *match, const struct stop_set *set,
                         struct arena *arena) {
    *match = (struct stop_match){.set = set, .hit = STOP_MATCH_NONE};
    if (!set->count) return ERR_OK;
    match->states = arena_take_zero(arena, set->count, sizeof *match->states);
    return match->states ? ERR_OK : ERR_MEMORY;
}

/* The bytes [0, end) of (held ++ text). */
static void give_out(const struct stop_match *match, const uint8_t *text, size_t end,
                     struct buf *out) {
    size_t held = match->held_bytes;
    size_t from_held = end < held ? end : held;
    if (from_held) buf_add(out, match->set->strings[match->held_string].text, from_held);
    if (end > held) buf_add(out, text, end - held);
}

/* One byte through every automaton; the first string that it completes, or STOP_MATCH_NONE. */
static uint32_t advance(struct stop_match *match, uint8_t byte, bool may_stop) {
    uint32_t found = STOP_MATCH_NONE;
    for (uint32_t s = 0; s < match->set->count; s++) {
        const struct stop_string *string = &match->set->strings[s];
        uint32_t state = match->states[s];
        while (state && string->text[state] != byte) state = string->fail[state - 1];
        if (string->text[state] == byte) state++;
        if (state == string->bytes) {
            if (may_stop && found == STOP_MATCH_NONE) found = s;
            state = string->fail[state - 1];
        }
        match->states[s] = state;
    }
    return found;
}

bool stop_match_feed(struct stop_match *match, const uint8_t *text, size_t bytes, bool may_stop,
                     bool is_included, struct buf *out) {
    DCHECK(match->hit == STOP_MATCH_NONE);
    if (!match->set->count) {
        buf_add(out, text, bytes);
        return false;
    }
    for (size_t i = 0; i < bytes; i++) {
        uint32_t found = advance(match, text[i], may_stop);
        if (found == STOP_MATCH_NONE) continue;
        size_t end = match->held_bytes + i + 1;
        if (!is_included) end -= match->set->strings[found].bytes;
        give_out(match, text, end, out);
        match->hit = found;
        match->held_bytes = 0;
        return true;
    }
    uint32_t held = 0, held_string = 0;
    for (uint32_t s = 0; s < match->set->count; s++)
        if (match->states[s] > held) {
            held = match->states[s];
            held_string = s;
        }
    give_out(match, text, match->held_bytes + bytes - held, out);
    match->held_bytes = held;
    match->held_string = held_string;
    return false;
}

void stop_match_finish(struct stop_match *match, struct buf *out) {
    if (!match->held_bytes) return;
    give_out(match, NULL, match->held_bytes, out);
    match->held_bytes = 0;
}
