/* chat_node - see chat_node.h. */
#include "chat/chat_node.h"

#include <string.h>

#include "base/alloc.h"

static uint32_t hash(const char *text, uint32_t bytes) {
    uint32_t sum = 2166136261u; /* FNV-1a */
    for (uint32_t i = 0; i < bytes; i++) sum = (sum ^ (unsigned char) text[i]) * 16777619u;
    return sum ^ sum >> 15;
}

/* Twice the room for names; the index has at most half its places taken. */
static enum err grow(struct chat_template *chat_template) {
    uint32_t room = chat_template->name_room ? chat_template->name_room * 2 : 32;
    struct chat_name *names = alloc_resize(chat_template->names, room * sizeof *names);
    if (!names) return ERR_MEMORY;
    chat_template->names = names;
    uint32_t *index = alloc_zero((size_t) room * 2, sizeof *index);
    if (!index) return ERR_MEMORY;
    alloc_free(chat_template->name_index);
    chat_template->name_index = index;
    chat_template->name_index_mask = room * 2 - 1;
    chat_template->name_room = room;
    for (uint32_t i = 0; i < chat_template->name_count; i++) {
        uint32_t at = hash(names[i].text, names[i].bytes) & chat_template->name_index_mask;
        while (index[at]) at = (at + 1) & chat_template->name_index_mask;
        index[at] = i + 1;
    }
    return ERR_OK;
}

enum err chat_node_name(struct chat_template *chat_template, const char *text, uint32_t bytes,
                        uint32_t *out) {
    if (chat_template->name_count == chat_template->name_room) {
        enum err e = grow(chat_template);
        if (e) return e;
    }
    uint32_t at = hash(text, bytes) & chat_template->name_index_mask;
    for (; chat_template->name_index[at]; at = (at + 1) & chat_template->name_index_mask) {
        const struct chat_name *name = &chat_template->names[chat_template->name_index[at] - 1];
        if (name->bytes != bytes || memcmp(name->text, text, bytes) != 0) continue;
        *out = chat_template->name_index[at] - 1;
        return ERR_OK;
    }
    if (chat_template->name_count == CHAT_NODE_NAMES_MAX) return ERR_LIMIT;
    *out = chat_template->name_count;
    chat_template->names[chat_template->name_count++] = (struct chat_name){text, bytes, false};
    chat_template->name_index[at] = chat_template->name_count;
    return ERR_OK;
}
