/* bus_nats_options - what the user gave for the NATS body, checked and told to nats.c. */
#include <ctype.h>
#include <string.h>

#include "bus/bus_nats_impl.h"

/* Specified: protocol.md 5. */
#define PING_INTERVAL_MS 500
#define PINGS_OUT_MAX 2
#define RECONNECT_JITTER_MS 25 /* nats.c's own is 100, longer than the wait */
#define WRITE_DEADLINE_MS 1000
#define CONNECT_TIMEOUT_MS 1000

#define READ_BYTES 32768

enum err bus_nats_options_check(const struct bus_nats_options *o, struct err_text *text) {
    if (!o->url || !o->url[0]) return err_set(text, ERR_USAGE, "the bus has no URL");
    if (strchr(o->url, '@'))
        return err_set(text, ERR_USAGE,
                       "the bus URL holds a user, password or token; give a token by "
                       "GRAMME_BUS_TOKEN or a file instead, where it shows in no process list");
    size_t bytes = o->name_space ? strlen(o->name_space) : 0;
    if (bytes == 0 || bytes > BUS_NATS_NAME_SPACE_BYTES_MAX)
        return err_set(text, ERR_USAGE, "a bus namespace has 1 to %u characters",
                       BUS_NATS_NAME_SPACE_BYTES_MAX);
    for (size_t i = 0; i < bytes; i++)
        if (!isalnum((unsigned char) o->name_space[i]) && !strchr("-_", o->name_space[i]))
            return err_set(text, ERR_USAGE,
                           "bus namespace '%s': only letters, digits, - and _ may stand in it",
                           o->name_space);
    if (!o->user != !o->password)
        return err_set(text, ERR_USAGE, "a user of the bus needs a password and the reverse");
    if (o->token && o->user)
        return err_set(text, ERR_USAGE, "the bus takes a token or a user, not both");
    if (!o->tls_cert_file != !o->tls_key_file)
        return err_set(text, ERR_USAGE,
                       "a TLS certificate of the bus needs its key and the "
                       "reverse");
    if (o->ring_messages_max == 0 || o->ring_bytes_max < 4096 || o->ring_bytes_max > INT32_MAX)
        return err_set(text, ERR_USAGE, "the bus ring holds 4 KiB to 2 GiB");
    return ERR_OK;
}

static natsStatus set_tls(natsOptions *n, const struct bus_nats_options *o) {
    natsStatus s = natsOptions_SetSecure(n, true);
    if (s == NATS_OK && o->tls_ca_file)
        s = natsOptions_LoadCATrustedCertificates(n, o->tls_ca_file);
    if (s == NATS_OK && o->tls_cert_file)
        s = natsOptions_LoadCertificatesChain(n, o->tls_cert_file, o->tls_key_file);
    return s;
}

natsStatus bus_nats_options_set(struct bus_nats *bus, const struct bus_nats_options *o) {
    natsOptions *n = bus->options;
    natsStatus s = natsOptions_SetURL(n, o->url);
    if (s == NATS_OK) s = natsOptions_SetName(n, "gramme");
    if (s == NATS_OK) s = natsOptions_SetNoRandomize(n, true);
    if (s == NATS_OK) s = natsOptions_SetTimeout(n, CONNECT_TIMEOUT_MS);
    if (s == NATS_OK) s = natsOptions_SetIOBufSize(n, READ_BYTES);
    if (s == NATS_OK) s = natsOptions_SetSendAsap(n, true);
    if (s == NATS_OK) s = natsOptions_SetPingInterval(n, PING_INTERVAL_MS);
    if (s == NATS_OK) s = natsOptions_SetMaxPingsOut(n, PINGS_OUT_MAX);
    if (s == NATS_OK) s = natsOptions_SetAllowReconnect(n, true);
    if (s == NATS_OK) s = natsOptions_SetMaxReconnect(n, -1);
    if (s == NATS_OK) s = natsOptions_SetReconnectWait(n, BUS_NATS_RECONNECT_WAIT_MS);
    if (s == NATS_OK)
        s = natsOptions_SetReconnectJitter(n, RECONNECT_JITTER_MS, RECONNECT_JITTER_MS);
    /* 1, as 0 means 8 MB: a publish without a connection fails at once, nothing stale is sent. */
    if (s == NATS_OK) s = natsOptions_SetReconnectBufSize(n, 1);
    if (s == NATS_OK) s = natsOptions_SetWriteDeadline(n, WRITE_DEADLINE_MS);
    if (s == NATS_OK) s = bus_nats_thread_set_events(bus, n);
    if (s == NATS_OK) s = bus_nats_link_set_callbacks(bus, n);
    if (s == NATS_OK && o->token) s = natsOptions_SetToken(n, o->token);
    if (s == NATS_OK && o->user) s = natsOptions_SetUserInfo(n, o->user, o->password);
    if (s == NATS_OK && (o->has_tls || o->tls_ca_file || o->tls_cert_file)) s = set_tls(n, o);
    return s;
}
