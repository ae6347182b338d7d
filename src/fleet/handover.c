/* handover - see handover.h.  The file is pairs of NUL-ended strings; an option's key is
 * "option:SOURCE:NAME". */
#include "fleet/handover.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"

#define FILE_BYTES_MAX (1u << 20)

static const struct {
    const char *key;
    size_t offset, room;
} texts[] = {
#define TEXT(field)                                                                                \
    { #field, offsetof(struct handover, field), sizeof((struct handover *) 0)->field }
    TEXT(name),     TEXT(url),     TEXT(name_space), TEXT(token),    TEXT(user),
    TEXT(password), TEXT(ca_file), TEXT(cert_file),  TEXT(key_file),
#undef TEXT
};

static void add_pair(struct buf *out, const char *key, const char *value) {
    buf_add(out, key, strlen(key) + 1);
    buf_add(out, value, strlen(value) + 1);
}

static void add_number(struct buf *out, const char *key, uint64_t number) {
    char value[32];
    snprintf(value, sizeof value, "%llu", (unsigned long long) number);
    add_pair(out, key, value);
}

static void encode(const struct handover *handover, const struct options *options,
                   struct buf *out) {
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++)
        add_pair(out, texts[i].key, (const char *) handover + texts[i].offset);
    add_number(out, "instance", handover->instance);
    add_number(out, "has_tls", handover->has_tls);
    add_number(out, "core_count", handover->core_count);
    add_number(out, "core_slot", handover->core_slot);
    add_number(out, "memory_sharers", handover->memory_sharers);
    add_number(out, "device_bytes", handover->device_bytes);
    add_number(out, "system_port", handover->system_port);
    add_number(out, "tells_workers", handover->tells_workers);
    for (int id = 0; id < OPT_COUNT; id++) {
        char key[128];
        snprintf(key, sizeof key, "option:%d:%s",
                 (int) options_source(options, (enum option_id) id),
                 option_get((enum option_id) id)->name);
        const char *value;
        for (uint32_t k = 0; (value = options_value(options, (enum option_id) id, k)); k++)
            add_pair(out, key, value);
    }
}

enum err handover_write(const struct handover *handover, const struct options *options,
                        struct err_text *text, int *fd) {
    struct buf out;
    buf_init(&out, FILE_BYTES_MAX);
    encode(handover, options, &out);
    enum err e = buf_error(&out);
    int file = -1;
    if (e) err_set(text, e, "the options of %s: %s", handover->name, err_name(e));
    else if ((file = memfd_create("gramme-handover", MFD_CLOEXEC)) < 0)
        e = err_set(text, ERR_IO, "a memory file: %s", strerror(errno));
    for (size_t at = 0; !e && at < out.bytes;) {
        ssize_t wrote = write(file, out.data + at, out.bytes - at);
        if (wrote < 0) e = err_set(text, ERR_IO, "a memory file: %s", strerror(errno));
        else at += (size_t) wrote;
    }
    buf_release(&out);
    if (e) {
        if (file >= 0) close(file);
        return e;
    }
    *fd = file;
    return ERR_OK;
}

static enum err read_option(const char *key, const char *value, struct options *options,
                            struct err_text *text) {
    char *end;
    long source = strtol(key, &end, 10);
    if (*end != ':' || source < SOURCE_DEFAULT || source > SOURCE_FLAG)
        return err_set(text, ERR_FORMAT, "handover: a strange key");
    int id = option_find(end + 1, strlen(end + 1));
    if (id < 0) return err_set(text, ERR_FORMAT, "handover: no option %.60s", end + 1);
    if (!(option_get((enum option_id) id)->commands & options_command(options))) return ERR_OK;
    char where[96];
    snprintf(where, sizeof where, "--%.80s", end + 1);
    return options_set(options, (enum option_id) id, value, (enum option_source) source, where,
                       text);
}

static enum err read_pair(const char *key, const char *value, struct handover *handover,
                          struct options *options, struct err_text *text) {
    if (strncmp(key, "option:", 7) == 0) return read_option(key + 7, value, options, text);
    for (size_t i = 0; i < ARRAY_COUNT(texts); i++) {
        if (strcmp(key, texts[i].key) != 0) continue;
        if (strlen(value) >= texts[i].room)
            return err_set(text, ERR_LIMIT, "handover: %s is too long", key);
        memcpy((char *) handover + texts[i].offset, value, strlen(value) + 1);
        return ERR_OK;
    }
    unsigned long long number = strtoull(value, NULL, 10);
    if (strcmp(key, "instance") == 0) handover->instance = number;
    else if (strcmp(key, "has_tls") == 0) handover->has_tls = number != 0;
    else if (strcmp(key, "core_count") == 0) handover->core_count = (uint32_t) number;
    else if (strcmp(key, "core_slot") == 0) handover->core_slot = (uint32_t) number;
    else if (strcmp(key, "memory_sharers") == 0) handover->memory_sharers = (uint32_t) number;
    else if (strcmp(key, "device_bytes") == 0) handover->device_bytes = number;
    else if (strcmp(key, "system_port") == 0) handover->system_port = (uint32_t) number;
    else if (strcmp(key, "tells_workers") == 0) handover->tells_workers = number != 0;
    else return err_set(text, ERR_FORMAT, "handover: a strange key");
    return ERR_OK;
}

static enum err read_all(int fd, struct err_text *text, struct buf *out) {
    for (;;) {
        uint8_t *at = buf_reserve(out, 4096);
        if (!at) return err_set(text, ERR_MEMORY, "handover: out of memory");
        ssize_t got = pread(fd, at, 4096, (off_t) out->bytes);
        if (got < 0) return err_set(text, ERR_IO, "handover: %s", strerror(errno));
        if (got == 0) return ERR_OK;
        out->bytes += (size_t) got;
    }
}

enum err handover_read(int fd, struct handover *handover, struct options *options,
                       struct err_text *text) {
    struct buf file;
    buf_init(&file, FILE_BYTES_MAX);
    enum err e = read_all(fd, text, &file);
    if (!e && (!file.bytes || file.data[file.bytes - 1]))
        e = err_set(text, ERR_FORMAT, "handover: cut off");
    *handover = (struct handover){0};
    const char *at = file.data ? (const char *) file.data : "", *end = at + file.bytes;
    while (!e && at < end) {
        const char *value = at + strlen(at) + 1;
        if (value >= end) e = err_set(text, ERR_FORMAT, "handover: a key without value");
        else {
            e = read_pair(at, value, handover, options, text);
            at = value + strlen(value) + 1;
        }
    }
    buf_release(&file);
    return e;
}
