/* What another worker's transfer thread sends, and its address text: each reader either refuses,
 * or gives a struct whose writing is the very bytes it came from. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "xfer/xfer_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void try_address(const uint8_t *data, size_t bytes) {
    char text[2 * XFER_ADDRESS_BYTES], again[XFER_ADDRESS_BYTES];
    if (bytes >= sizeof text) return;
    memcpy(text, data, bytes);
    text[bytes] = '\0';
    static struct xfer_wire_address address;
    if (xfer_wire_read_address(text, &address)) return;
    if (xfer_wire_write_address(&address, again)) abort();
    if (strcmp(text, again) != 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static struct xfer_hello hello;
    static struct xfer_header header;
    uint8_t hello_again[XFER_HELLO_BYTES], header_again[XFER_HEADER_BYTES];
    try_address(data, bytes);
    if (!xfer_wire_read_hello(data, bytes, &hello)) {
        size_t size = xfer_wire_write_hello(&hello, hello_again);
        if (size != bytes || memcmp(hello_again, data, bytes) != 0) abort();
    }
    if (!xfer_wire_read_header(data, bytes, &header)) {
        size_t size = xfer_wire_write_header(&header, header_again);
        if (size != bytes || memcmp(header_again, data, bytes) != 0) abort();
    }
    return 0;
}
