/* cmd_bus - see cmd_bus.h. */
#include "cmd/cmd_bus.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET_BYTES_MAX 1024

static enum err take_text(const char *from, size_t bytes, char *to, size_t room, const char *what,
                          struct err_text *text) {
    if (bytes >= room) return err_set(text, ERR_LIMIT, "%s: longer than %zu bytes", what, room - 1);
    memcpy(to, from, bytes);
    to[bytes] = '\0';
    return ERR_OK;
}

/* A token, or "user NAME:PASSWORD". */
static enum err take_secret(const char *secret, const char *where, struct err_text *text,
                            struct handover *out) {
    size_t bytes = strlen(secret);
    while (bytes && isspace((unsigned char) secret[bytes - 1])) bytes--;
    if (!bytes) return err_set(text, ERR_USAGE, "%s: holds no token", where);
    for (size_t i = 0; i < bytes; i++) /* nats.c puts it between quotes as it is */
        if (secret[i] == '"' || secret[i] == '\\' || (unsigned char) secret[i] < ' ')
            return err_set(text, ERR_USAGE,
                           "%s: a token cannot hold quotation marks, backslashes or control "
                           "characters",
                           where);
    if (strncmp(secret, "user ", 5) != 0)
        return take_text(secret, bytes, out->token, sizeof out->token, where, text);
    const char *user = secret + 5, *colon = memchr(user, ':', bytes - 5);
    if (!colon) return err_set(text, ERR_USAGE, "%s: 'user ' wants NAME:PASSWORD behind it", where);
    enum err e = take_text(user, (size_t) (colon - user), out->user, sizeof out->user, where, text);
    if (!e)
        e = take_text(colon + 1, bytes - (size_t) (colon + 1 - secret), out->password,
                      sizeof out->password, where, text);
    return e;
}

static enum err read_secret_file(const char *path, struct err_text *text, struct handover *out) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0 || fstat(fd, &status)) {
        enum err e =
            err_set(text, ERR_NOT_FOUND, "--bus-token-file: %s: %s", path, strerror(errno));
        if (fd >= 0) close(fd);
        return e;
    }
    if (status.st_mode & (S_IRWXG | S_IRWXO)) {
        close(fd);
        return err_set(text, ERR_USAGE,
                       "--bus-token-file: %s can be read by others (mode %03o): chmod 600 %s", path,
                       (unsigned) status.st_mode & 0777u, path);
    }
    char secret[SECRET_BYTES_MAX + 1];
    ssize_t got = read(fd, secret, SECRET_BYTES_MAX);
    close(fd);
    if (got < 0) return err_set(text, ERR_IO, "--bus-token-file: %s: %s", path, strerror(errno));
    secret[got] = '\0';
    return take_secret(secret, path, text, out);
}

enum err cmd_bus_read_secrets(const struct options *options, const char *variable,
                              struct err_text *text, struct handover *out) {
    static const struct {
        enum option_id id;
        size_t offset;
    } files[] = {{OPT_BUS_CA_FILE, offsetof(struct handover, ca_file)},
                 {OPT_BUS_CERT_FILE, offsetof(struct handover, cert_file)},
                 {OPT_BUS_KEY_FILE, offsetof(struct handover, key_file)}};
    const char *path = options_text(options, OPT_BUS_TOKEN_FILE);
    enum err e = ERR_OK;
    if (path) e = read_secret_file(path, text, out);
    else if (variable && variable[0]) e = take_secret(variable, "GRAMME_BUS_TOKEN", text, out);
    for (size_t i = 0; !e && i < ARRAY_COUNT(files); i++) {
        const char *file = options_text(options, files[i].id);
        if (!file) continue;
        if (access(file, R_OK))
            return err_set(text, ERR_NOT_FOUND, "--%s: %s: %s", option_get(files[i].id)->name, file,
                           strerror(errno));
        e = take_text(file, strlen(file), (char *) out + files[i].offset, sizeof out->ca_file,
                      option_get(files[i].id)->name, text);
        out->has_tls = true;
    }
    if (!e && (out->cert_file[0] != '\0') != (out->key_file[0] != '\0'))
        return err_set(text, ERR_USAGE, "--bus-cert-file and --bus-key-file go together");
    return e;
}

/* "host", "port" of the first server; false: there is none. */
static bool split_url(const char *url, char host[256], char port[8]) {
    const char *at = strstr(url, "://");
    at = at && at < url + strcspn(url, ",") ? at + 3 : url; /* not that of the next one */
    size_t bytes = strcspn(at, ",/"), host_bytes;
    const char *colon;
    if (at[0] == '[') {
        at++;
        host_bytes = strcspn(at, "]");
        colon = at[host_bytes] == ']' && at[host_bytes + 1] == ':' ? at + host_bytes + 1 : NULL;
    } else {
        colon = memchr(at, ':', bytes);
        host_bytes = colon ? (size_t) (colon - at) : bytes;
    }
    size_t port_bytes = colon ? strspn(colon + 1, "0123456789") : 0;
    if (!host_bytes || host_bytes > 255 || port_bytes > 7) return false;
    if (colon && (!port_bytes || (colon[1 + port_bytes] && !strchr(",/", colon[1 + port_bytes]))))
        return false;
    memcpy(host, at, host_bytes);
    host[host_bytes] = '\0';
    memcpy(port, port_bytes ? colon + 1 : "4222", port_bytes ? port_bytes : 4);
    port[port_bytes ? port_bytes : 4] = '\0';
    return true;
}

enum err cmd_bus_read_url(const char *url, const char *where, struct err_text *text,
                          struct handover *out) {
    if (strchr(url, '@'))
        return err_set(text, ERR_USAGE,
                       "%s: the URL holds a user or token, which others can read there: put it "
                       "into GRAMME_BUS_TOKEN or --bus-token-file",
                       where);
    if (strncmp(url, "tls://", 6) == 0) out->has_tls = true;
    else if (strncmp(url, "nats://", 7) != 0 && strstr(url, "://"))
        return err_set(text, ERR_USAGE, "%s: '%s' is no nats://HOST:PORT", where, url);
    if (!url[0]) return err_set(text, ERR_USAGE, "%s: no URL", where);
    for (const char *at = url; at; at = strchr(at, ',')) { /* each server of a list */
        char host[256], port[8];
        at += *at == ',';
        if (!split_url(at, host, port) || strtoul(port, NULL, 10) - 1 >= 65535)
            return err_set(text, ERR_USAGE, "%s: '%s' is no nats://HOST:PORT", where, url);
    }
    return take_text(url, strlen(url), out->url, sizeof out->url, where, text);
}

/* A datagram socket is only routed: nothing is sent. */
void cmd_bus_find_side(const char *url, char out[CMD_BUS_SIDE_BYTES]) {
    char host[256], port[8], address[CMD_BUS_SIDE_BYTES];
    struct addrinfo hints = {.ai_socktype = SOCK_DGRAM}, *found = NULL;
    struct sockaddr_storage own;
    socklen_t bytes = sizeof own;
    out[0] = '\0';
    if (!split_url(url, host, port) || getaddrinfo(host, port, &hints, &found)) return;
    int fd = socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool is_known = fd >= 0 && !connect(fd, found->ai_addr, found->ai_addrlen) &&
                    !getsockname(fd, (struct sockaddr *) &own, &bytes) &&
                    !getnameinfo((struct sockaddr *) &own, bytes, address, sizeof address, NULL, 0,
                                 NI_NUMERICHOST);
    if (is_known && strncmp(address, "127.", 4) != 0 && strcmp(address, "::1") != 0)
        memcpy(out, address, sizeof address);
    if (fd >= 0) close(fd);
    freeaddrinfo(found);
}

enum err cmd_bus_read_namespace(const char *name_space, const char *where, struct err_text *text,
                                struct handover *out) {
    for (const char *at = name_space; *at; at++)
        if (!isalnum((unsigned char) *at) && *at != '-' && *at != '_')
            return err_set(text, ERR_USAGE, "%s: '%s' may hold letters, digits, '-' and '_' only",
                           where, name_space);
    if (!name_space[0]) return err_set(text, ERR_USAGE, "%s: is empty", where);
    return take_text(name_space, strlen(name_space), out->name_space, sizeof out->name_space, where,
                     text);
}
