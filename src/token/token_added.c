/* token_added - see the header. */
#include "token/token_added.h"

#include <string.h>

#include "base/alloc.h"

static void trie_release(struct token_added_trie *trie) {
    alloc_free(trie->nodes);
    *trie = (struct token_added_trie){0};
}

void token_added_release(struct token_added *added) {
    for (uint32_t i = 0; i < added->entry_count; i++) {
        alloc_free(added->entries[i].content);
        alloc_free(added->entries[i].pattern);
    }
    alloc_free(added->entries);
    trie_release(&added->plain);
    trie_release(&added->normalized);
    *added = (struct token_added){0};
}

/* A new node; 0 without memory. */
static uint32_t new_node(struct token_added_trie *trie, uint8_t byte, uint32_t sibling) {
    if (trie->node_count == trie->node_room) {
        uint32_t room = trie->node_room * 2 + 64;
        struct token_added_node *nodes = alloc_resize(trie->nodes, room * sizeof *nodes);
        if (!nodes) return 0;
        trie->nodes = nodes;
        trie->node_room = room;
        if (trie->node_count == 0) trie->node_count = 1; /* 0 is "none" */
    }
    trie->nodes[trie->node_count] = (struct token_added_node){.byte = byte, .sibling = sibling};
    return trie->node_count++;
}

static uint32_t child_of(const struct token_added_trie *trie, uint32_t node, uint8_t byte) {
    uint32_t child = trie->nodes[node].child;
    while (child && trie->nodes[child].byte != byte) child = trie->nodes[child].sibling;
    return child;
}

static enum err trie_add(struct token_added_trie *trie, const uint8_t *pattern, size_t bytes,
                         uint32_t entry) {
    uint32_t node = trie->roots[pattern[0]];
    if (!node) {
        node = new_node(trie, pattern[0], 0);
        if (!node) return ERR_MEMORY;
        trie->roots[pattern[0]] = node;
        trie->root_count++;
        trie->only_root = pattern[0];
    }
    for (size_t i = 1; i < bytes; i++) {
        uint32_t child = child_of(trie, node, pattern[i]);
        if (!child) {
            child = new_node(trie, pattern[i], trie->nodes[node].child);
            if (!child) return ERR_MEMORY;
            trie->nodes[node].child = child;
        }
        node = child;
    }
    trie->nodes[node].entry = entry + 1;
    return ERR_OK;
}

static bool is_markup(const char *content, size_t bytes) {
    return bytes > 2 && ((content[0] == '<' && content[bytes - 1] == '>') ||
                         (content[0] == '[' && content[bytes - 1] == ']'));
}

enum err token_added_add(struct token_added *added, uint32_t id, const char *content, size_t bytes,
                         const char *pattern, size_t pattern_bytes, uint8_t flags) {
    if (bytes == 0 || pattern_bytes == 0) return ERR_OK;
    if (bytes > TOKEN_ADDED_BYTES_MAX || pattern_bytes > TOKEN_ADDED_BYTES_MAX ||
        added->entry_count == TOKEN_ADDED_MAX) {
        return ERR_LIMIT;
    }
    if (added->entry_count == added->entry_room) {
        uint32_t room = added->entry_room * 2 + 32;
        struct token_added_entry *entries = alloc_resize(added->entries, room * sizeof *entries);
        if (!entries) return ERR_MEMORY;
        added->entries = entries;
        added->entry_room = room;
    }
    if (flags & TOKEN_ADDED_SPECIAL || is_markup(content, bytes)) flags |= TOKEN_ADDED_CONTROL;
    struct token_added_entry entry = {.bytes = (uint32_t) bytes,
                                      .pattern_bytes = (uint32_t) pattern_bytes,
                                      .id = id,
                                      .flags = flags};
    struct token_added_trie *trie =
        flags & TOKEN_ADDED_NORMALIZED ? &added->normalized : &added->plain;
    enum err e = ERR_MEMORY;
    entry.content = alloc_string(content, bytes);
    entry.pattern = alloc_string(pattern, pattern_bytes);
    if (entry.content && entry.pattern) {
        e = trie_add(trie, (const uint8_t *) pattern, pattern_bytes, added->entry_count);
    }
    if (e) {
        alloc_free(entry.content);
        alloc_free(entry.pattern);
        return e;
    }
    added->entries[added->entry_count++] = entry;
    return ERR_OK;
}

bool token_added_touches_user(struct token_added_user *user, size_t first, size_t end) {
    if (user->is_all) return true;
    while (user->next < user->range_count && user->ranges[user->next].end <= first) user->next++;
    return user->next < user->range_count && user->ranges[user->next].first < end;
}

struct token_added_match token_added_find(const struct token_added *added,
                                          const struct token_added_trie *trie, const uint8_t *text,
                                          size_t from, size_t end, struct token_added_user *user) {
    struct token_added_match match = {.end = end};
    if (!trie->node_count) return match;
    for (size_t at = from; at < end; at++) {
        if (trie->root_count == 1) { /* most vocabularies: all begin with '<' */
            const uint8_t *next = memchr(text + at, trie->only_root, end - at);
            if (!next) break;
            at = (size_t) (next - text);
        }
        uint32_t node = trie->roots[text[at]];
        if (!node) continue;
        for (size_t next = at + 1;; next++) {
            uint32_t entry = trie->nodes[node].entry;
            if (entry) {
                const struct token_added_entry *found = &added->entries[entry - 1];
                if (!(found->flags & TOKEN_ADDED_CONTROL) ||
                    !token_added_touches_user(user, at, next)) {
                    match = (struct token_added_match){.entry = found, .first = at, .end = next};
                }
            }
            node = next < end ? child_of(trie, node, text[next]) : 0;
            if (!node) break;
        }
        if (match.entry) return match;
    }
    return match;
}

const struct token_added_entry *token_added_content(const struct token_added *added,
                                                    const char *content, size_t bytes) {
    for (uint32_t i = 0; i < added->entry_count; i++) {
        const struct token_added_entry *entry = &added->entries[i];
        if (entry->bytes == bytes && !memcmp(entry->content, content, bytes)) return entry;
    }
    return NULL;
}
