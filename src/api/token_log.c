/* token_log - see token_log.h. */
#include "api/token_log.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"

void token_log_init(struct token_log *log, bool has_logprobs) {
    *log = (struct token_log){.has_logprobs = has_logprobs};
}

void token_log_release(struct token_log *log) {
    alloc_free(log->ids);
    alloc_free(log->entries);
    alloc_free(log->top_ids);
    alloc_free(log->top_logprobs);
    *log = (struct token_log){.has_logprobs = log->has_logprobs};
}

enum err token_log_reserve(struct token_log *log, uint32_t count) {
    if (count <= log->room) return ERR_OK;
    uint64_t room = log->room ? log->room : 32;
    while (room < count) room *= 2;
    uint32_t *ids = alloc_resize(log->ids, room * sizeof *ids);
    if (!ids) return ERR_MEMORY;
    log->ids = ids;
    if (log->has_logprobs) {
        struct token_log_entry *entries = alloc_resize(log->entries, room * sizeof *entries);
        if (!entries) return ERR_MEMORY;
        log->entries = entries;
    }
    log->room = (uint32_t) room;
    return ERR_OK;
}

static enum err reserve_tops(struct token_log *log, uint64_t count) {
    if (count <= log->top_room) return ERR_OK;
    if (count > UINT32_MAX / 2) return ERR_MEMORY;
    uint64_t room = log->top_room ? log->top_room : 64;
    while (room < count) room *= 2;
    uint32_t *ids = alloc_resize(log->top_ids, room * sizeof *ids);
    if (!ids) return ERR_MEMORY;
    log->top_ids = ids;
    float *logprobs = alloc_resize(log->top_logprobs, room * sizeof *logprobs);
    if (!logprobs) return ERR_MEMORY;
    log->top_logprobs = logprobs;
    log->top_room = (uint32_t) room;
    return ERR_OK;
}

static void add_entry(struct token_log *log, uint32_t index, const struct msg_logprob *logprob) {
    struct token_log_entry *entry = &log->entries[index];
    *entry = (struct token_log_entry){.logprob = -INFINITY, .top_first = log->top_count};
    if (!logprob) return;
    entry->logprob = logprob->logprob;
    entry->rank = logprob->rank;
    entry->top_count = logprob->top_count;
    for (uint32_t i = 0; i < logprob->top_count; i++) {
        log->top_ids[log->top_count] = logprob->top_ids[i];
        log->top_logprobs[log->top_count++] = logprob->top_logprobs[i];
    }
}

enum token_log_result token_log_add(struct token_log *log, uint32_t first, const uint32_t *ids,
                                    uint32_t count, const struct msg_logprob *logprobs,
                                    uint8_t finish, uint32_t stop_id) {
    if (log->finish || log->is_closed) return TOKEN_LOG_OLD;
    if (first > log->count) return TOKEN_LOG_GAP;
    uint32_t old = log->count - first;
    if (count < old || (count == old && !finish)) return TOKEN_LOG_OLD;
    uint32_t fresh = count - old;
    if (fresh > UINT32_MAX / 2 - log->count) return TOKEN_LOG_MEMORY;
    if (token_log_reserve(log, log->count + fresh)) return TOKEN_LOG_MEMORY;
    if (log->has_logprobs) {
        uint64_t tops = log->top_count;
        for (uint32_t i = old; logprobs && i < count; i++) tops += logprobs[i].top_count;
        if (reserve_tops(log, tops)) return TOKEN_LOG_MEMORY;
        for (uint32_t i = old; i < count; i++)
            add_entry(log, first + i, logprobs ? &logprobs[i] : NULL);
    }
    if (fresh) memcpy(log->ids + log->count, ids + old, fresh * sizeof *ids);
    log->count += fresh;
    if (finish) {
        log->finish = finish;
        log->stop_id = stop_id;
    }
    return TOKEN_LOG_NEWS;
}
