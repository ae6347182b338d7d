/* xfer_wire - see xfer_wire.h. */
#include "xfer/xfer_wire.h"

#include <string.h>

#include <xxhash.h>

#define PREFIX "ucx:"
#define ADDRESS_FIXED_BYTES (1 + 8 + 8 + 2 * XFER_WIRE_LANES + 8)

static uint8_t *put(uint8_t *at, uint64_t value, uint32_t bytes) {
    for (uint32_t i = 0; i < bytes; i++) at[i] = (uint8_t) (value >> 8 * i);
    return at + bytes;
}

static uint64_t get(const uint8_t **at, uint32_t bytes) {
    uint64_t value = 0;
    for (uint32_t i = 0; i < bytes; i++) value |= (uint64_t) (*at)[i] << 8 * i;
    *at += bytes;
    return value;
}

/* --- base64 ----------------------------------------------------------------------------------- */

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void write_base64(const uint8_t *data, size_t bytes, char *out) {
    for (size_t i = 0; i < bytes; i += 3) {
        size_t have = bytes - i < 3 ? bytes - i : 3;
        uint32_t group = 0;
        for (size_t k = 0; k < 3; k++) group = group << 8 | (k < have ? data[i + k] : 0u);
        for (size_t k = 0; k <= have; k++) *out++ = digits[group >> (18 - 6 * k) & 63];
    }
    *out = '\0';
}

/* Without padding, as written above; SIZE_MAX: not that. */
static size_t read_base64(const char *text, size_t length, uint8_t *out) {
    if (length % 4 == 1) return SIZE_MAX;
    size_t bytes = 0;
    uint32_t group = 0, bits = 0;
    for (size_t i = 0; i < length; i++) {
        const char *digit = text[i] ? strchr(digits, text[i]) : NULL;
        if (!digit) return SIZE_MAX;
        group = group << 6 | (uint32_t) (digit - digits);
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        out[bytes++] = (uint8_t) (group >> bits);
    }
    return group & ((1u << bits) - 1) ? SIZE_MAX : bytes; /* one text for one address */
}

/* --- the address ------------------------------------------------------------------------------ */

enum err xfer_wire_write_address(const struct xfer_wire_address *address,
                                 char out[XFER_ADDRESS_BYTES]) {
    uint8_t raw[XFER_WIRE_ADDRESS_BYTES], *at = raw;
    size_t bytes = ADDRESS_FIXED_BYTES;
    for (uint32_t i = 0; i < XFER_WIRE_LANES; i++) {
        if (address->lane_bytes[i] > sizeof raw) return ERR_LIMIT;
        bytes += address->lane_bytes[i];
    }
    if (bytes > sizeof raw) return ERR_LIMIT;
    at = put(at, XFER_WIRE_VERSION, 1);
    at = put(at, address->host, 8);
    at = put(at, address->network, 8);
    for (uint32_t i = 0; i < XFER_WIRE_LANES; i++) at = put(at, address->lane_bytes[i], 2);
    for (uint32_t i = 0; i < XFER_WIRE_LANES; i++) {
        memcpy(at, address->lanes[i], address->lane_bytes[i]);
        at += address->lane_bytes[i];
    }
    put(at, XXH3_64bits(raw, bytes - 8), 8);
    memcpy(out, PREFIX, strlen(PREFIX));
    write_base64(raw, bytes, out + strlen(PREFIX));
    return ERR_OK;
}

enum err xfer_wire_read_address(const char *text, struct xfer_wire_address *out) {
    size_t length = strnlen(text, XFER_ADDRESS_BYTES);
    if (length >= XFER_ADDRESS_BYTES || strncmp(text, PREFIX, strlen(PREFIX)) != 0)
        return ERR_FORMAT;
    uint8_t raw[XFER_ADDRESS_BYTES];
    size_t bytes = read_base64(text + strlen(PREFIX), length - strlen(PREFIX), raw);
    if (bytes == SIZE_MAX || bytes < ADDRESS_FIXED_BYTES || bytes > XFER_WIRE_ADDRESS_BYTES)
        return ERR_FORMAT;
    const uint8_t *at = raw, *sum = raw + bytes - 8;
    if (get(&sum, 8) != XXH3_64bits(raw, bytes - 8)) return ERR_FORMAT;
    if (get(&at, 1) != XFER_WIRE_VERSION) return ERR_UNSUPPORTED;
    struct xfer_wire_address address;
    memset(&address, 0, sizeof address);
    address.host = get(&at, 8);
    address.network = get(&at, 8);
    size_t needed = ADDRESS_FIXED_BYTES;
    for (uint32_t i = 0; i < XFER_WIRE_LANES; i++) {
        address.lane_bytes[i] = (uint32_t) get(&at, 2);
        needed += address.lane_bytes[i];
    }
    if (needed != bytes) return ERR_FORMAT;
    for (uint32_t i = 0; i < XFER_WIRE_LANES; i++) {
        memcpy(address.lanes[i], at, address.lane_bytes[i]);
        at += address.lane_bytes[i];
    }
    *out = address;
    return ERR_OK;
}

/* --- headers ---------------------------------------------------------------------------------- */

size_t xfer_wire_write_hello(const struct xfer_hello *hello, uint8_t out[XFER_HELLO_BYTES]) {
    size_t length = strnlen(hello->address, XFER_ADDRESS_BYTES - 1);
    uint8_t *at = put(out, XFER_WIRE_VERSION, 1);
    at = put(at, hello->kind, 1);
    at = put(at, hello->lane, 1);
    at = put(at, 0, 3);
    at = put(at, length, 2);
    at = put(at, hello->dial, 8);
    at = put(at, hello->echo, 8);
    memcpy(at, hello->address, length);
    return (size_t) (at - out) + length;
}

enum err xfer_wire_read_hello(const uint8_t *data, size_t bytes, struct xfer_hello *out) {
    if (bytes < 24) return ERR_FORMAT;
    const uint8_t *at = data;
    if (get(&at, 1) != XFER_WIRE_VERSION) return ERR_UNSUPPORTED;
    struct xfer_hello hello;
    memset(&hello, 0, sizeof hello);
    hello.kind = (uint8_t) get(&at, 1);
    hello.lane = (uint8_t) get(&at, 1);
    if (get(&at, 3) != 0) return ERR_FORMAT;
    size_t length = get(&at, 2);
    hello.dial = get(&at, 8);
    hello.echo = get(&at, 8);
    if (hello.kind < XFER_HELLO || hello.kind > XFER_WELCOME || hello.lane >= XFER_WIRE_LANES)
        return ERR_FORMAT;
    if (length != bytes - 24 || length >= XFER_ADDRESS_BYTES) return ERR_FORMAT;
    if (length && memchr(at, 0, length)) return ERR_FORMAT;
    if (length) memcpy(hello.address, at, length);
    *out = hello;
    return ERR_OK;
}

size_t xfer_wire_write_header(const struct xfer_header *header, uint8_t out[XFER_HEADER_BYTES]) {
    CHECK(header->entry_count > 0 && header->entry_count <= XFER_ENTRIES_MAX);
    uint8_t *at = put(out, XFER_WIRE_VERSION, 1);
    at = put(at, header->has_checksum, 1);
    at = put(at, header->entry_count, 2);
    at = put(at, 0, 4);
    at = put(at, header->dial, 8);
    at = put(at, header->id.instance, 8);
    at = put(at, header->id.attempt, 8);
    at = put(at, header->id.key[0], 8);
    at = put(at, header->id.key[1], 8);
    at = put(at, header->has_checksum ? header->checksum : 0, 8);
    for (uint32_t i = 0; i < header->entry_count; i++) {
        const struct xfer_entry *entry = &header->entries[i];
        at = put(at, entry->piece, 4);
        at = put(at, entry->part, 4);
        at = put(at, entry->source_rank, 2);
        at = put(at, entry->target_rank, 2);
        at = put(at, entry->at, 8);
        at = put(at, entry->bytes, 4);
    }
    return (size_t) (at - out);
}

enum err xfer_wire_read_header(const uint8_t *data, size_t bytes, struct xfer_header *out) {
    if (bytes < 56) return ERR_FORMAT;
    const uint8_t *at = data;
    if (get(&at, 1) != XFER_WIRE_VERSION) return ERR_UNSUPPORTED;
    uint64_t has_checksum = get(&at, 1), count = get(&at, 2);
    if (has_checksum > 1 || count == 0 || count > XFER_ENTRIES_MAX) return ERR_FORMAT;
    if (get(&at, 4) != 0 || bytes != 56 + count * XFER_ENTRY_WIRE_BYTES) return ERR_FORMAT;
    out->has_checksum = has_checksum;
    out->entry_count = (uint32_t) count;
    out->dial = get(&at, 8);
    out->id.instance = get(&at, 8);
    out->id.attempt = get(&at, 8);
    out->id.key[0] = get(&at, 8);
    out->id.key[1] = get(&at, 8);
    out->checksum = get(&at, 8);
    if (!has_checksum && out->checksum) return ERR_FORMAT;
    for (uint32_t i = 0; i < count; i++) {
        struct xfer_entry *entry = &out->entries[i];
        entry->piece = (uint32_t) get(&at, 4);
        entry->part = (uint32_t) get(&at, 4);
        entry->source_rank = (uint16_t) get(&at, 2);
        entry->target_rank = (uint16_t) get(&at, 2);
        entry->at = get(&at, 8);
        entry->bytes = (uint32_t) get(&at, 4);
    }
    return ERR_OK;
}
