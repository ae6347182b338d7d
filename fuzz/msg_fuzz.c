/* Bus messages from anywhere: every decoder either refuses, or gives a message whose encoding is
 * the very bytes it came from. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "bus/msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* What decode takes from the arena is bounded by the message's own bytes: the largest struct
 * for the smallest piece of wire. */
#define ARENA_FACTOR 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct arena arena;
    struct buf out;
    arena_init(&arena, ARENA_FACTOR * bytes + 4096);
    buf_init(&out, 0);
    union {
        struct msg_hello hello;
        struct msg_load load;
        struct msg_generate generate;
        struct msg_tokens tokens;
        struct msg_sync sync;
        struct msg_attempt attempt;
        struct msg_refuse refuse;
        struct msg_roster roster;
        struct msg_kv_event kv_event;
        struct msg_kv_dump_ask kv_dump_ask;
        struct msg_kv_dump kv_dump;
        struct msg_prefill prefill;
        struct msg_prefill_done prefill_done;
    } m;
    enum err e = ERR_FORMAT;
    uint32_t kind = msg_peek_kind(data, bytes);
    if (kind == MSG_HELLO) {
        if (!(e = msg_decode_hello(data, bytes, &m.hello))) msg_encode_hello(&m.hello, &out);
    } else if (kind == MSG_LOAD) {
        if (!(e = msg_decode_load(data, bytes, &arena, &m.load))) msg_encode_load(&m.load, &out);
    } else if (kind == MSG_GENERATE) {
        if (!(e = msg_decode_generate(data, bytes, &arena, &m.generate)))
            msg_encode_generate(&m.generate, &out);
    } else if (kind == MSG_TOKENS) {
        if (!(e = msg_decode_tokens(data, bytes, &arena, &m.tokens)))
            msg_encode_tokens(&m.tokens, &out);
    } else if (kind == MSG_SYNC) {
        if (!(e = msg_decode_sync(data, bytes, &arena, &m.sync))) msg_encode_sync(&m.sync, &out);
    } else if (kind == MSG_GONE) {
        if (!(e = msg_decode_attempt(data, bytes, &m.attempt))) msg_encode_gone(&m.attempt, &out);
    } else if (kind == MSG_CANCEL) {
        if (!(e = msg_decode_attempt(data, bytes, &m.attempt))) msg_encode_cancel(&m.attempt, &out);
    } else if (kind == MSG_REFUSE) {
        if (!(e = msg_decode_refuse(data, bytes, &arena, &m.refuse)))
            msg_encode_refuse(&m.refuse, &out);
    } else if (kind == MSG_ROSTER) {
        if (!(e = msg_decode_roster(data, bytes, &arena, &m.roster)))
            msg_encode_roster(&m.roster, &out);
    } else if (kind == MSG_KV_EVENT) {
        if (!(e = msg_decode_kv_event(data, bytes, &arena, &m.kv_event)))
            msg_encode_kv_event(&m.kv_event, &out);
    } else if (kind == MSG_KV_DUMP_ASK) {
        if (!(e = msg_decode_kv_dump_ask(data, bytes, &m.kv_dump_ask)))
            msg_encode_kv_dump_ask(&m.kv_dump_ask, &out);
    } else if (kind == MSG_KV_DUMP) {
        if (!(e = msg_decode_kv_dump(data, bytes, &arena, &m.kv_dump)))
            msg_encode_kv_dump(&m.kv_dump, &out);
    } else if (kind == MSG_PREFILL) {
        if (!(e = msg_decode_prefill(data, bytes, &arena, &m.prefill)))
            msg_encode_prefill(&m.prefill, &out);
    } else if (kind == MSG_PREFILL_DONE) {
        if (!(e = msg_decode_prefill_done(data, bytes, &m.prefill_done)))
            msg_encode_prefill_done(&m.prefill_done, &out);
    }
    if (e == ERR_MEMORY) abort(); /* the arena's limit: an allocation by a foreign length */
    if (!e && (out.bytes != bytes || memcmp(out.data, data, bytes) != 0)) abort();
    buf_release(&out);
    arena_release(&arena);
    return 0;
}
