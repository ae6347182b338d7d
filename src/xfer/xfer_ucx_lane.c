/* xfer_ucx_lane - see xfer_ucx.h: which lanes this worker has, and UCX's context for TCP.
 *
 * The settings are facts of UCX 1.13: a dead process is noticed by keepalive, whose default is
 * 20 s; 64 KiB segments double the speed of TCP. */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/log.h"
#include "xfer/xfer_ucx.h"

#define DATA_ID 1u
#define CONTROL_ID 0u
#define TRANSPORTS "shm,tcp"

const char *xfer_ucx_lane_name(enum xfer_lane_kind kind) {
    return kind == XFER_LANE_SHM ? "shm" : "tcp";
}

static bool has_word(const char *list, const char *word) {
    size_t length = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    return false;
}

/* --- this node -------------------------------------------------------------------------------- */

static uint64_t hash_of_boot(void) {
    char id[64] = "";
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    size_t bytes = file ? fread(id, 1, sizeof id, file) : 0;
    if (file) fclose(file);
    if (!bytes) bytes = gethostname(id, sizeof id) == 0 ? strnlen(id, sizeof id) : 0;
    return XXH3_64bits(id, bytes);
}

static uint64_t network_namespace(void) {
    struct stat status;
    return stat("/proc/self/ns/net", &status) == 0 ? status.st_ino : 0;
}

static bool is_address_of(const struct ifaddrs *entry, const char *text) {
    char own[INET6_ADDRSTRLEN] = "";
    if (!entry->ifa_addr) return false;
    if (entry->ifa_addr->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *) (const void *) entry->ifa_addr)->sin_addr,
                  own, sizeof own);
    else if (entry->ifa_addr->sa_family == AF_INET6)
        inet_ntop(AF_INET6,
                  &((const struct sockaddr_in6 *) (const void *) entry->ifa_addr)->sin6_addr, own,
                  sizeof own);
    return own[0] && strcmp(own, text) == 0;
}

/* The interface that `listen` names or owns the address of. */
static enum err find_interface(const char *listen, char *out, size_t room, struct err_text *text) {
    if (!listen) listen = "127.0.0.1";
    struct ifaddrs *all = NULL;
    if (getifaddrs(&all) != 0)
        return err_set(text, ERR_IO, "cannot list the network interfaces: %s", strerror(errno));
    const struct ifaddrs *found = NULL;
    for (const struct ifaddrs *entry = all; entry && !found; entry = entry->ifa_next)
        if (strcmp(entry->ifa_name, listen) == 0 || is_address_of(entry, listen)) found = entry;
    if (found) snprintf(out, room, "%s", found->ifa_name);
    freeifaddrs(all);
    if (found) return ERR_OK;
    return err_set(
        text, ERR_USAGE,
        "--transfer-listen %s is neither an interface of this machine nor the address of "
        "one",
        listen);
}

/* --- one lane --------------------------------------------------------------------------------- */

static ucs_status_t configure(const struct xfer_ucx *ucx, const char *interface,
                              ucp_config_t **out) {
    const struct xfer_ucp *ucp = ucx->ucp;
    ucp_config_t *config = NULL;
    ucs_status_t status = ucp->config_read(NULL, NULL, &config);
    if (status != UCS_OK) return status;
    const struct xfer_options *options = &ucx->base.options;
    char ports[32];
    snprintf(ports, sizeof ports, "%u-%u", options->port_first, options->port_last);
    const struct {
        const char *key, *value;
        bool is_set;
    } settings[] = {
        {"TLS", "tcp,self", true},
        {"KEEPALIVE_INTERVAL", "500ms", true},
        {"NET_DEVICES", interface, true},
        /* A transport's own keys: as 1.13 wants them, then as in the environment, which later
         * versions want; a version passes over those that it does not know. */
        /* One event a turn: UCX 1.13 aborts over the second of two when the first one's end closes
         * the second's connection. */
        {"MAX_POLL", "1", true},
        {"TCP_MAX_POLL", "1", true},
        /* What is sent at once must fit into what the peer takes at once, 64 KiB by default; taking
         * more saves a tenth of the CPU time. */
        {"TX_SEG_SIZE", "64K", true},
        {"TCP_TX_SEG_SIZE", "64K", true},
        {"RX_SEG_SIZE", "256K", true},
        {"TCP_RX_SEG_SIZE", "256K", true},
        {"PORT_RANGE", ports, options->port_first},
        {"TCP_PORT_RANGE", ports, options->port_first},
    };
    for (size_t i = 0; i < ARRAY_COUNT(settings) && status == UCS_OK; i++)
        if (settings[i].is_set)
            status = ucp->config_modify(config, settings[i].key, settings[i].value);
    if (status != UCS_OK) ucp->config_release(config);
    else *out = config;
    return status;
}

static ucs_status_t set_handlers(struct xfer_ucx *ucx) {
    ucp_am_handler_param_t handler = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = CONTROL_ID,
        .cb = xfer_ucx_on_control,
        .arg = ucx,
    };
    ucs_status_t status = ucx->ucp->worker_set_am_recv_handler(ucx->tcp.worker, &handler);
    handler.id = DATA_ID;
    handler.cb = xfer_ucx_on_data;
    return status == UCS_OK ? ucx->ucp->worker_set_am_recv_handler(ucx->tcp.worker, &handler)
                            : status;
}

static ucs_status_t copy_address(struct xfer_ucx *ucx) {
    ucp_address_t *address;
    size_t bytes;
    ucs_status_t status = ucx->ucp->worker_get_address(ucx->tcp.worker, &address, &bytes);
    if (status != UCS_OK) return status;
    if (bytes <= XFER_WIRE_ADDRESS_BYTES) {
        memcpy(ucx->own.lanes[XFER_LANE_TCP], address, bytes);
        ucx->own.lane_bytes[XFER_LANE_TCP] = (uint32_t) bytes;
    } else {
        status = UCS_ERR_EXCEEDS_LIMIT;
    }
    ucx->ucp->worker_release_address(ucx->tcp.worker, address);
    return status;
}

static void close_tcp(struct xfer_ucx *ucx) {
    if (ucx->tcp.worker) ucx->ucp->worker_destroy(ucx->tcp.worker);
    if (ucx->tcp.context) ucx->ucp->cleanup(ucx->tcp.context);
    ucx->tcp.worker = NULL;
    ucx->tcp.context = NULL;
    ucx->own.lane_bytes[XFER_LANE_TCP] = 0;
}

static ucs_status_t open_context(struct xfer_ucx *ucx, const char *interface) {
    struct xfer_ucx_lane *lane = &ucx->tcp;
    ucp_config_t *config;
    ucs_status_t status = configure(ucx, interface, &config);
    if (status != UCS_OK) return status;
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                           .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP};
    status = ucx->ucp->init_version(UCP_API_MAJOR, UCP_API_MINOR, &params, config, &lane->context);
    ucx->ucp->config_release(config);
    if (status != UCS_OK) return status;
    ucp_worker_params_t worker_params = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                         .thread_mode = UCS_THREAD_MODE_SERIALIZED};
    status = ucx->ucp->worker_create(lane->context, &worker_params, &lane->worker);
    if (status == UCS_OK) status = ucx->ucp->worker_get_efd(lane->worker, &lane->efd);
    if (status == UCS_OK) status = set_handlers(ucx);
    if (status == UCS_OK) status = copy_address(ucx);
    if (status != UCS_OK) close_tcp(ucx);
    return status;
}

/* ERR_USAGE is for the user to mend; another error leaves shared memory. */
static enum err open_tcp(struct xfer_ucx *ucx, struct err_text *text) {
    char interface[64];
    enum err e = find_interface(ucx->base.options.listen, interface, sizeof interface, text);
    if (!e) e = xfer_ucp_load(text, &ucx->ucp);
    if (e) return e;
    ucs_status_t status = open_context(ucx, interface);
    if (status == UCS_OK) return ERR_OK;
    return err_set(text, ERR_IO, "no TCP on %s: %s", interface, ucx->ucp->status_string(status));
}

enum err xfer_ucx_open_lanes(struct xfer_ucx *ucx, struct err_text *text) {
    const struct xfer_options *options = &ucx->base.options;
    const char *transports = options->transports ? options->transports : TRANSPORTS;
    bool has_shm = has_word(transports, "shm") || has_word(transports, "posix");
    bool has_tcp = has_word(transports, "tcp");
    ucx->own.host = hash_of_boot();
    ucx->own.network = network_namespace();
    if (!has_shm && !has_tcp)
        return err_set(text, ERR_USAGE, "--transfer-transports %s: it takes shm, tcp or both",
                       transports);
    enum err shm = has_shm ? xfer_ucx_open_shm(ucx) : ERR_UNSUPPORTED;
    if (shm && has_shm && has_tcp)
        log_warn("transfer: no shared memory here (%s): blocks go over TCP, several times slower",
                 strerror(errno));
    enum err tcp = has_tcp ? open_tcp(ucx, text) : ERR_UNSUPPORTED;
    if (tcp == ERR_USAGE || (tcp && shm)) return tcp;
    if (tcp && has_tcp)
        log_warn("transfer: only workers of this node can be reached: %s", text->text);
    if (shm && !has_tcp) return err_set(text, ERR_IO, "no shared memory here: %s", strerror(errno));
    if (xfer_wire_write_address(&ucx->own, ucx->base.address))
        return err_set(text, ERR_LIMIT,
                       "the transfer address is longer than %u characters: this machine has many "
                       "network addresses; name one with --transfer-listen",
                       XFER_ADDRESS_BYTES - 1);
    return ERR_OK;
}

void xfer_ucx_close_lanes(struct xfer_ucx *ucx) {
    xfer_ucx_close_shm(ucx);
    if (ucx->ucp) close_tcp(ucx);
}
