/* file_maker - small GGUF and safetensors files for the tests of this room, made byte by byte so
 * that each can be wrong in one place. */
#ifndef TESTS_UNIT_MODEL_FILE_MAKER_H
#define TESTS_UNIT_MODEL_FILE_MAKER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "model/gguf.h"

static inline void put_u32(struct buf *out, uint32_t value) { buf_add(out, &value, 4); }
static inline void put_u64(struct buf *out, uint64_t value) { buf_add(out, &value, 8); }
static inline void put_text(struct buf *out, const char *text) {
    put_u64(out, strlen(text));
    buf_add_string(out, text);
}
static inline void put_key_u32(struct buf *out, const char *name, uint32_t value) {
    put_text(out, name);
    put_u32(out, GGUF_U32);
    put_u32(out, value);
}
static inline void put_key_f32(struct buf *out, const char *name, float value) {
    put_text(out, name);
    put_u32(out, GGUF_F32);
    buf_add(out, &value, 4);
}
static inline void put_key_text(struct buf *out, const char *name, const char *value) {
    put_text(out, name);
    put_u32(out, GGUF_STRING);
    put_text(out, value);
}
static inline void put_head(struct buf *out, uint32_t version, uint64_t tensors, uint64_t keys) {
    buf_add_string(out, "GGUF");
    put_u32(out, version);
    put_u64(out, tensors);
    put_u64(out, keys);
}
static inline void put_tensor(struct buf *out, const char *name, uint32_t dimensions,
                              uint64_t first, uint64_t second, uint32_t type, uint64_t offset) {
    put_text(out, name);
    put_u32(out, dimensions);
    put_u64(out, first);
    if (dimensions > 1) put_u64(out, second);
    put_u32(out, type);
    put_u64(out, offset);
}
static inline void put_padding(struct buf *out, size_t alignment) {
    while (out->bytes % alignment) buf_add_byte(out, 0);
}

/* A whole llama model of one layer: hidden 32, ffn 32, 2 heads of 16, 1 KV head, vocabulary 8; all
 * F32.  `skip` leaves a tensor out, `extra` adds one, `key` adds a text key (NULL: none). */
struct tiny {
    const char *skip, *extra;
    const char *key, *value;
    uint32_t ffn_rows;    /* of ffn_gate; 0: 32 */
    uint32_t gate_type;   /* 0: F32 */
    uint32_t split_count; /* 0: not split */
    bool has_head;        /* of its own: not the embedding */
};

static inline void put_tiny_llama(struct buf *out, struct tiny tiny) {
    static const struct {
        const char *name;
        uint32_t dimensions, columns, rows;
    } tensors[] = {
        {"token_embd.weight", 2, 32, 8},         {"output_norm.weight", 1, 32, 1},
        {"blk.0.attn_norm.weight", 1, 32, 1},    {"blk.0.attn_q.weight", 2, 32, 32},
        {"blk.0.attn_k.weight", 2, 32, 16},      {"blk.0.attn_v.weight", 2, 32, 16},
        {"blk.0.attn_output.weight", 2, 32, 32}, {"blk.0.ffn_norm.weight", 1, 32, 1},
        {"blk.0.ffn_gate.weight", 2, 32, 32},    {"blk.0.ffn_up.weight", 2, 32, 32},
        {"blk.0.ffn_down.weight", 2, 32, 32},    {"output.weight", 2, 32, 8},
    };
    uint64_t count = sizeof tensors / sizeof *tensors - !tiny.has_head, at = 0;
    put_head(out, 3, count - (tiny.skip != NULL) + (tiny.extra != NULL),
             10 + (tiny.key != NULL) + (tiny.split_count ? 3 : 0));
    put_key_text(out, "general.architecture", "llama");
    put_key_u32(out, "llama.block_count", 1);
    put_key_u32(out, "llama.context_length", 64);
    put_key_u32(out, "llama.embedding_length", 32);
    put_key_u32(out, "llama.feed_forward_length", 32);
    put_key_u32(out, "llama.attention.head_count", 2);
    put_key_u32(out, "llama.attention.head_count_kv", 1);
    put_key_f32(out, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    put_key_f32(out, "llama.rope.freq_base", 1e4f);
    put_key_text(out, "tokenizer.chat_template", "{{ messages }}");
    if (tiny.key) put_key_text(out, tiny.key, tiny.value);
    if (tiny.split_count) {
        put_key_u32(out, "split.no", 0);
        put_key_u32(out, "split.count", tiny.split_count);
        put_key_u32(out, "split.tensors.count", 11);
    }
    for (uint64_t i = 0; i < count; i++) {
        if (tiny.skip && strcmp(tiny.skip, tensors[i].name) == 0) continue;
        bool is_gate = i == 8;
        uint32_t rows = is_gate && tiny.ffn_rows ? tiny.ffn_rows : tensors[i].rows;
        put_tensor(out, tensors[i].name, tensors[i].dimensions, tensors[i].columns, rows,
                   is_gate ? tiny.gate_type : 0, at);
        at += (uint64_t) tensors[i].columns * rows * 4;
    }
    if (tiny.extra) {
        put_tensor(out, tiny.extra, 1, 32, 1, 0, at);
        at += 128;
    }
    put_padding(out, 32);
    for (uint64_t i = 0; i < at / 4; i++) {
        float value = (float) i / 4096;
        buf_add(out, &value, 4);
    }
}

/* A safetensors file with this header and `data_bytes` zeros behind it. */
static inline void put_safetensors(struct buf *out, const char *header, size_t data_bytes) {
    put_text(out, header);
    for (size_t i = 0; i < data_bytes; i++) buf_add_byte(out, 0);
}

/* --- a folder of files -------------------------------------------------------------------- */

static char folder[64]; /* of the test that runs */

static inline int folder_make(void **state) {
    (void) state;
    snprintf(folder, sizeof folder, "/tmp/gramme_model_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}
static inline int folder_remove(void **state) {
    (void) state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}
/* The path of a name in the folder; two at a time. */
static inline const char *in_folder(const char *name) {
    static char paths[2][512];
    static int turn;
    turn ^= 1;
    snprintf(paths[turn], sizeof paths[turn], "%s/%s", folder, name);
    return paths[turn];
}
static inline void put_file(const char *name, const void *data, size_t bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (char *at = path + strlen(folder) + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        mkdir(path, 0700);
        *at = '/';
    }
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes) abort();
    fclose(file);
}
static inline void put_text_file(const char *name, const char *text) {
    put_file(name, text, strlen(text));
}

#endif
