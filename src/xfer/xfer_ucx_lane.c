/* xfer_ucx_lane - see xfer_ucx.h.  Two UCX contexts: shared memory alone, and TCP alone.
 *
 * The settings are facts of UCX 1.13: with error handling by peer the shared memory transport has
 * to be told so, or it is silently left out; a dead process is noticed by keepalive, whose default
 * is 20 s; 64 KiB segments double the speed of TCP. */
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
#define TRANSPORTS "posix,tcp,self"

const char *xfer_ucx_lane_name(enum xfer_lane_kind kind) {
    return kind == XFER_LANE_SHM ? "posix" : "tcp";
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

static uint64_t pid_namespace(void) {
    struct stat status;
    return stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0;
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

static ucs_status_t configure(const struct xfer_ucx *ucx, enum xfer_lane_kind kind,
                              const char *interface, ucp_config_t **out) {
    const struct xfer_ucp *ucp = ucx->ucp;
    ucp_config_t *config = NULL;
    ucs_status_t status = ucp->config_read(NULL, NULL, &config);
    if (status != UCS_OK) return status;
    const struct xfer_options *options = &ucx->base.options;
    bool is_shm = kind == XFER_LANE_SHM;
    char ports[32];
    snprintf(ports, sizeof ports, "%u-%u", options->port_first, options->port_last);
    const struct {
        const char *key, *value;
        bool is_set;
    } settings[] = {
        {"TLS", is_shm ? "posix,self" : "tcp,self", true},
        {"KEEPALIVE_INTERVAL", "500ms", true},
        {"NET_DEVICES", interface, !is_shm},
        /* A transport's own keys: as 1.13 wants them, then as in the environment, which later
         * versions want; a version passes over those that it does not know. */
        {"MM_ERROR_HANDLING", "y", is_shm},
        {"POSIX_ERROR_HANDLING", "y", is_shm},
        {"USE_PROC_LINK", "y", is_shm}, /* no name stays in /dev/shm */
        {"POSIX_USE_PROC_LINK", "y", is_shm},
        /* Fragments of 32 KiB and a header (their length has 16 bits) in a ring for all that is
         * under way to a peer: 16 MiB take 1.4 times as long in the default 8 KiB.  UCX 1.13 aborts
         * the process when it has an answer of its own waiting for room at a peer that we close, so
         * a stopped peer's ring should not fill.  Buffers are made for the ring and the messages
         * held, or UCX takes 16 MiB of /dev/shm at a time. */
        {"MM_SEG_SIZE", "33024", is_shm},
        {"POSIX_SEG_SIZE", "33024", is_shm},
        {"MM_FIFO_SIZE", "128", is_shm},
        {"POSIX_FIFO_SIZE", "128", is_shm},
        {"MM_RX_BUFS_GROW", "160", is_shm},
        {"POSIX_RX_BUFS_GROW", "160", is_shm},
        /* One event a turn: UCX 1.13 aborts over the second of two when the first one's end closes
         * the second's connection. */
        {"MAX_POLL", "1", !is_shm},
        {"TCP_MAX_POLL", "1", !is_shm},
        /* What is sent at once must fit into what the peer takes at once, 64 KiB by default; taking
         * more saves a tenth of the CPU time. */
        {"TX_SEG_SIZE", "64K", !is_shm},
        {"TCP_TX_SEG_SIZE", "64K", !is_shm},
        {"RX_SEG_SIZE", "256K", !is_shm},
        {"TCP_RX_SEG_SIZE", "256K", !is_shm},
        {"PORT_RANGE", ports, !is_shm && options->port_first},
        {"TCP_PORT_RANGE", ports, !is_shm && options->port_first},
    };
    for (size_t i = 0; i < ARRAY_COUNT(settings) && status == UCS_OK; i++)
        if (settings[i].is_set)
            status = ucp->config_modify(config, settings[i].key, settings[i].value);
    if (status != UCS_OK) ucp->config_release(config);
    else *out = config;
    return status;
}

static ucs_status_t set_handlers(struct xfer_ucx *ucx, struct xfer_ucx_lane *lane) {
    ucp_am_handler_param_t handler = {
        .field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                      UCP_AM_HANDLER_PARAM_FIELD_ARG,
        .id = CONTROL_ID,
        .cb = xfer_ucx_on_control,
        .arg = lane,
    };
    ucs_status_t status = ucx->ucp->worker_set_am_recv_handler(lane->worker, &handler);
    handler.id = DATA_ID;
    handler.cb = xfer_ucx_on_data;
    return status == UCS_OK ? ucx->ucp->worker_set_am_recv_handler(lane->worker, &handler) : status;
}

static ucs_status_t copy_address(struct xfer_ucx *ucx, struct xfer_ucx_lane *lane) {
    ucp_address_t *address;
    size_t bytes;
    ucs_status_t status = ucx->ucp->worker_get_address(lane->worker, &address, &bytes);
    if (status != UCS_OK) return status;
    if (bytes <= XFER_WIRE_ADDRESS_BYTES) {
        memcpy(ucx->own.lanes[lane->kind], address, bytes);
        ucx->own.lane_bytes[lane->kind] = (uint32_t) bytes;
    } else {
        status = UCS_ERR_EXCEEDS_LIMIT;
    }
    ucx->ucp->worker_release_address(lane->worker, address);
    return status;
}

static void close_lane(struct xfer_ucx *ucx, struct xfer_ucx_lane *lane) {
    if (lane->worker) ucx->ucp->worker_destroy(lane->worker);
    if (lane->context) ucx->ucp->cleanup(lane->context);
    lane->worker = NULL;
    lane->context = NULL;
    ucx->own.lane_bytes[lane->kind] = 0;
}

static ucs_status_t open_lane(struct xfer_ucx *ucx, enum xfer_lane_kind kind,
                              const char *interface) {
    struct xfer_ucx_lane *lane = &ucx->lanes[kind];
    *lane = (struct xfer_ucx_lane){.ucx = ucx, .kind = kind, .efd = -1};
    ucp_config_t *config;
    ucs_status_t status = configure(ucx, kind, interface, &config);
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
    if (status == UCS_OK) status = set_handlers(ucx, lane);
    if (status == UCS_OK) status = copy_address(ucx, lane);
    if (status != UCS_OK) close_lane(ucx, lane);
    return status;
}

enum err xfer_ucx_open_lanes(struct xfer_ucx *ucx, struct err_text *text) {
    const struct xfer_options *options = &ucx->base.options;
    const char *transports = options->transports ? options->transports : TRANSPORTS;
    ucs_status_t shm = UCS_ERR_UNSUPPORTED, tcp = UCS_ERR_UNSUPPORTED;
    ucx->own.host = hash_of_boot();
    ucx->own.processes = pid_namespace();
    if (has_word(transports, "posix")) {
        shm = open_lane(ucx, XFER_LANE_SHM, NULL);
        if (shm != UCS_OK && has_word(transports, "tcp"))
            log_warn("transfer: no shared memory here (%s): blocks go over TCP, several times "
                     "slower; /dev/shm must be writable with 64 MiB free",
                     ucx->ucp->status_string(shm));
    }
    if (has_word(transports, "tcp")) {
        char interface[64];
        enum err e = find_interface(options->listen, interface, sizeof interface, text);
        if (e) return e;
        tcp = open_lane(ucx, XFER_LANE_TCP, interface);
        if (tcp != UCS_OK && shm == UCS_OK)
            log_warn("transfer: no TCP on %s (%s): only workers of this node can be reached",
                     interface, ucx->ucp->status_string(tcp));
    }
    if (shm != UCS_OK && tcp != UCS_OK)
        return err_set(text, ERR_IO, "no transport of %s works here: %s", transports,
                       ucx->ucp->status_string(tcp != UCS_ERR_UNSUPPORTED ? tcp : shm));
    if (xfer_wire_write_address(&ucx->own, ucx->base.address))
        return err_set(text, ERR_LIMIT,
                       "the transfer address is longer than %u characters: this machine has many "
                       "network addresses; name one with --transfer-listen",
                       XFER_ADDRESS_BYTES - 1);
    return ERR_OK;
}

void xfer_ucx_close_lanes(struct xfer_ucx *ucx) {
    for (uint32_t i = 0; i < XFER_WIRE_LANES; i++) close_lane(ucx, &ucx->lanes[i]);
}
