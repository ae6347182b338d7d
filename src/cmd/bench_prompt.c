/* bench_prompt - see bench_prompt.h. */
#include "cmd/bench_prompt.h"

#include <string.h>

#include "base/check.h"

static const char *const words[] = {
    "time",    "year",      "people",   "way",       "day",    "man",     "thing",   "woman",
    "life",    "child",     "world",    "school",    "state",  "family",  "student", "group",
    "country", "problem",   "hand",     "part",      "place",  "case",    "week",    "company",
    "system",  "program",   "question", "work",      "number", "night",   "point",   "home",
    "water",   "room",      "mother",   "area",      "money",  "story",   "fact",    "month",
    "lot",     "right",     "study",    "book",      "eye",    "job",     "word",    "business",
    "issue",   "side",      "kind",     "head",      "house",  "service", "friend",  "father",
    "power",   "hour",      "game",     "line",      "end",    "member",  "law",     "car",
    "city",    "community", "name",     "president", "team",   "minute",  "idea",    "body",
    "back",    "parent",    "face",     "others",    "level",  "office",  "door",    "health",
    "person",  "art",       "war",      "history",   "party",  "result",  "change",  "morning",
    "reason",  "research",  "girl",     "guy",       "moment", "air",     "teacher", "force",
    "order",   "education", "food",     "land",      "one",    "two",     "three",   "good",
    "new",     "first",     "last",     "long",      "great",  "little",  "own",     "old",
    "big",     "high",      "small",    "large",     "next",   "early",   "young",   "few",
    "public",  "bad",       "same",     "able",      "the",    "of",      "and",     "to",
    "in",      "is",        "that",     "it",        "was",    "for",     "on",      "are",
    "with",    "as",        "be",       "at",
};

/* splitmix64: one number after another from any seed. */
static uint64_t draw(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

void bench_prompt_add(struct buf *out, uint64_t seed, uint64_t index, uint32_t word_count) {
    uint64_t state = seed * 0x100000001b3u + index;
    for (uint32_t i = 0; i < word_count; i++) {
        const char *word = words[draw(&state) % ARRAY_COUNT(words)];
        if (i) buf_add_byte(out, ' ');
        buf_add_string(out, word);
    }
}
