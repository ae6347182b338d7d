/* bus_nats_subject - how NATS names our subjects: gramme.<name space>.{hello,load,roster},
 * .to.<instance> an inbox, .kv.<instance> a worker's KV events. */
#include <string.h>

#include "bus/bus_nats_impl.h"

#define INSTANCE_DIGITS 16u

static const char *const common_names[] = {
    [BUS_HELLO] = "hello", [BUS_LOAD] = "load", [BUS_ROSTER] = "roster"};

static char *put_instance(char *at, uint64_t instance) {
    static const char digits[] = "0123456789abcdef";
    for (int shift = 60; shift >= 0; shift -= 4) *at++ = digits[instance >> shift & 15];
    *at = '\0';
    return at;
}

void bus_nats_subject_write(const struct bus_nats *bus, enum bus_subject subject, uint64_t instance,
                            char out[BUS_NATS_SUBJECT_BYTES]) {
    char *at = out + bus->prefix_bytes;
    memcpy(out, bus->prefix, bus->prefix_bytes);
    if (subject == BUS_INBOX || subject == BUS_KV) {
        memcpy(at, subject == BUS_KV ? "kv." : "to.", 3);
        put_instance(at + 3, instance);
        return;
    }
    size_t bytes = strlen(common_names[subject]);
    memcpy(at, common_names[subject], bytes + 1);
}

bool bus_nats_subject_read(const struct bus_nats *bus, const char *text, enum bus_subject *subject,
                           uint64_t *instance) {
    *instance = 0;
    if (strncmp(text, bus->prefix, bus->prefix_bytes) != 0) return false;
    text += bus->prefix_bytes;
    if (strncmp(text, "to.", 3) == 0 || strncmp(text, "kv.", 3) == 0) {
        *subject = text[0] == 't' ? BUS_INBOX : BUS_KV;
        text += 3;
        for (uint32_t i = 0; i < INSTANCE_DIGITS; i++, text++) {
            uint32_t digit = *text >= '0' && *text <= '9'   ? (uint32_t) (*text - '0')
                             : *text >= 'a' && *text <= 'f' ? (uint32_t) (*text - 'a') + 10
                                                            : 16;
            if (digit > 15) return false;
            *instance = *instance << 4 | digit;
        }
        return *text == '\0';
    }
    for (enum bus_subject s = BUS_HELLO; s <= BUS_ROSTER; s++)
        if (common_names[s] && strcmp(text, common_names[s]) == 0) {
            *subject = s;
            return true;
        }
    return false;
}
