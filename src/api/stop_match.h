/* stop_match - finds stop strings in a text that arrives in pieces.
 *
 * One Knuth-Morris-Pratt automaton a stop string, so the time is linear in the text whatever the
 * strings are.  Text that may still become a stop string is held back; what is held is always a
 * prefix of one of the strings, so nothing is stored.  The result does not depend on how the text
 * was cut into pieces.
 *
 * A set is made once a request; a match is the state of one choice.  A match ends at the first
 * byte that completes a string; of strings that end there together the first in the list wins. */
#ifndef GRAMME_API_STOP_MATCH_H
#define GRAMME_API_STOP_MATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

#define STOP_MATCH_NONE UINT32_MAX
#define STOP_MATCH_STRINGS_MAX 64

struct stop_string {
    const uint8_t *text;
    uint32_t bytes;       /* >= 1 */
    const uint32_t *fail; /* fail[i]: longest proper border of text[0..i] */
};

struct stop_set {
    struct stop_string strings[STOP_MATCH_STRINGS_MAX];
    uint32_t count;
};

struct stop_match {
    const struct stop_set *set;
    uint32_t *states;     /* matched bytes, one a string */
    uint32_t held_bytes;  /* of the text seen, not yet given out */
    uint32_t held_string; /* whose prefix they are */
    uint32_t hit;         /* STOP_MATCH_NONE, or the string found */
};

/* Adds a copy of the text (1 .. 2^30 bytes) to the set; ERR_LIMIT past STOP_MATCH_STRINGS_MAX. */
MUST_USE enum err stop_match_set_add(struct stop_set *set, struct arena *arena, const char *text,
                                     size_t bytes);
MUST_USE enum err stop_match_init(struct stop_match *match, const struct stop_set *set,
                                  struct arena *arena);
/* Appends what became certain to *out.  may_stop false: strings that end here do not count.  true
 * when a string was found: then *out ends before it (is_included: after it), and the match must
 * not be fed again. */
bool stop_match_feed(struct stop_match *match, const uint8_t *text, size_t bytes, bool may_stop,
                     bool is_included, struct buf *out);
/* The text ends here without a match: what was held comes out. */
void stop_match_finish(struct stop_match *match, struct buf *out);

#endif
