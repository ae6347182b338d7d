/* Goal: over a real nats-server the bus delivers inbox and common messages with their sender's
 * name and in its order, long ones in parts; it outlives the server's death and tells of it; it
 * waits for a server that is not there or refuses it; full rings lose and count; name spaces do
 * not hear each other.
 *
 * Needs nats-server; without one the tests that talk to it are skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "bus/bus.h"

#define DEADLINE_US 30000000u /* generous: only a hang meets it */

static const char *server_path;
static char directory[] = "/tmp/gramme_bus_XXXXXX";

static void rest(void) { usleep(2000); }

/* --- a server --------------------------------------------------------------------------------- */

struct server {
    pid_t pid;
    int port;
    char config[256];
    char url[64];
};

static int free_port(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof address), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *) &address, &bytes), 0);
    close(fd);
    return ntohs(address.sin_port);
}

static void server_start(struct server *server) {
    pid_t parent = getpid();
    server->pid = fork();
    assert_true(server->pid >= 0);
    if (server->pid > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(null, 1);
    dup2(null, 2);
    execl(server_path, server_path, "-c", server->config, (char *) NULL);
    _exit(127);
}

/* `more`: lines of its configuration. */
static void server_init(struct server *server, const char *more) {
    static int number;
    server->port = free_port();
    snprintf(server->url, sizeof server->url, "nats://127.0.0.1:%d", server->port);
    snprintf(server->config, sizeof server->config, "%s/%d.conf", directory, number++);
    FILE *file = fopen(server->config, "w");
    assert_non_null(file);
    fprintf(file, "listen: 127.0.0.1:%d\n%s\n", server->port, more);
    fclose(file);
    server_start(server);
}

static void server_kill(struct server *server) {
    if (server->pid <= 0) return;
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
    server->pid = 0;
}

static void server_release(struct server *server) {
    server_kill(server);
    unlink(server->config);
}

/* --- a bus ------------------------------------------------------------------------------------ */

static struct bus_nats_options options_of(const struct server *server) {
    return (struct bus_nats_options){.url = server->url,
                                     .name_space = "test",
                                     .ring_messages_max = 1024,
                                     .ring_bytes_max = 8 << 20};
}

static struct bus *open_bus(const struct bus_nats_options *options) {
    struct bus *bus;
    struct err_text text = {""};
    if (bus_nats_create(options, &text, &bus)) fail_msg("%s", text.text);
    return bus;
}

static struct bus_port *open_port(struct bus *bus, uint64_t instance, unsigned subjects) {
    struct bus_port *port;
    assert_int_equal(bus_port_open(bus, instance, subjects, NULL, NULL, &port), ERR_OK);
    return port;
}

static void wait_connected(const struct bus *bus, bool is_up) {
    uint64_t end_us = clock_now_us() + DEADLINE_US;
    while (bus_is_connected(bus) != is_up) {
        if (clock_now_us() > end_us) fail_msg("connected is %d for ever", !is_up);
        rest();
    }
}

static void wait_take(struct bus_port *port, struct bus_message *message) {
    uint64_t end_us = clock_now_us() + DEADLINE_US;
    while (!bus_take(port, message)) {
        if (clock_now_us() > end_us) fail_msg("no message came");
        rest();
    }
}

/* Other connections' subscriptions need not be there when ours is: tries until it is heard. */
static void send_until_heard(struct bus_port *from, enum bus_subject subject, struct bus_port *to,
                             const char *text) {
    uint64_t end_us = clock_now_us() + DEADLINE_US;
    struct bus_message m;
    for (;;) {
        (void) bus_send(from, subject, bus_port_instance(to), text, strlen(text));
        for (int i = 0; i < 50; i++) {
            while (bus_take(to, &m))
                if (m.bytes == strlen(text) && memcmp(m.data, text, m.bytes) == 0) {
                    assert_int_equal(m.subject, subject);
                    assert_true(m.from == bus_port_instance(from));
                    return;
                }
            rest();
        }
        if (clock_now_us() > end_us) fail_msg("'%s' was never heard", text);
    }
}

static void drain(struct bus_port *port) {
    struct bus_message m;
    for (int i = 0; i < 20; i++) {
        while (bus_take(port, &m)) i = 0;
        rest();
    }
}

#define NEEDS_SERVER                                                                               \
    do {                                                                                           \
        if (!server_path) {                                                                        \
            print_message("skipped: no nats-server here\n");                                       \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

/* --- tests ------------------------------------------------------------------------------------ */

static void test_options(void **state) {
    struct bus_nats_options good = {.url = "nats://127.0.0.1:1",
                                    .name_space = "a-B_9",
                                    .ring_messages_max = 8,
                                    .ring_bytes_max = 65536};
    struct bus_nats_options wrong[10];
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) wrong[i] = good;
    wrong[0].url = "nats://secret@127.0.0.1:1";
    wrong[1].url = "";
    wrong[2].name_space = "a.b";
    wrong[3].name_space = "";
    wrong[4].name_space = "a*";
    wrong[5].user = "u";
    wrong[6].user = "u", wrong[6].password = "p", wrong[6].token = "t";
    wrong[7].tls_cert_file = "cert";
    wrong[8].ring_bytes_max = 16;
    wrong[9].tls_ca_file = "/nowhere/ca.pem";
    for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
        struct err_text text = {""};
        struct bus *bus = NULL;
        enum err e = bus_nats_create(&wrong[i], &text, &bus);
        if (e != ERR_USAGE || bus) fail_msg("options %zu: %s", i, err_name(e));
        assert_true(text.text[0]);
        assert_null(strstr(text.text, "secret"));
    }
    for (uint64_t n = 1;; n++) {
        struct err_text text = {""};
        struct bus *bus = NULL;
        alloc_fail_at(n, 0);
        enum err e = bus_nats_create(&good, &text, &bus);
        alloc_fail_at(0, 0);
        bus_destroy(bus);
        if (!e) { /* the bus, its URL, ring and table each failed once */
            assert_true(n > 4);
            break;
        }
        assert_int_equal(e, ERR_MEMORY);
    }
}

/* A server that is not there is no error; nothing can be sent and nobody waits. */
static void test_no_server(void **state) {
    char url[64];
    snprintf(url, sizeof url, "nats://127.0.0.1:%d", free_port());
    struct bus_nats_options options = {
        .url = url, .name_space = "test", .ring_messages_max = 8, .ring_bytes_max = 65536};
    struct bus *bus = open_bus(&options);
    struct bus_port *port = open_port(bus, 1, 1u << BUS_HELLO);
    struct bus_message m;
    assert_false(bus_is_connected(bus));
    assert_int_equal(bus_send(port, BUS_INBOX, 1, "x", 1), ERR_BUSY);
    assert_int_equal(bus_port_lost(port), 1);
    assert_int_equal(bus_port_lossy_count(port), 0);
    assert_false(bus_take(port, &m));
    for (uint64_t n = 1; n <= 2; n++) {
        struct bus_port *other;
        alloc_fail_at(n, 0);
        assert_int_equal(bus_port_open(bus, 2, 0, NULL, NULL, &other), ERR_MEMORY);
        alloc_fail_at(0, 0);
    }
    bus_port_close(port);
    bus_destroy(bus);
}

static void count_wake(void *ctx) { atomic_fetch_add((_Atomic int *) ctx, 1); }

static void test_inbox_and_subjects(void **state) {
    NEEDS_SERVER;
    struct server server;
    server_init(&server, "");
    struct bus_nats_options options = options_of(&server);
    /* a and b on one connection, c on another. */
    struct bus *ab = open_bus(&options), *cc = open_bus(&options);
    _Atomic int wakes = 0;
    struct bus_port *a = open_port(ab, 0xa, 1u << BUS_HELLO | 1u << BUS_KV);
    struct bus_port *b = open_port(ab, 0xb00000000000000b, 1u << BUS_HELLO | 1u << BUS_LOAD);
    struct bus_port *c;
    assert_int_equal(bus_port_open(cc, 0xc, 1u << BUS_HELLO | 1u << BUS_KV | 1u << BUS_ROSTER,
                                   count_wake, &wakes, &c),
                     ERR_OK);
    wait_connected(ab, true);
    wait_connected(cc, true);
    send_until_heard(a, BUS_INBOX, b, "to b");
    send_until_heard(b, BUS_INBOX, a, "to a");
    send_until_heard(a, BUS_INBOX, c, "to c");
    send_until_heard(c, BUS_INBOX, a, "from c");
    assert_true(wakes > 0);
    send_until_heard(c, BUS_KV, a, "kv of c");
    send_until_heard(a, BUS_KV, c, "kv of a");
    send_until_heard(b, BUS_ROSTER, c, "roster");
    send_until_heard(c, BUS_LOAD, b, "load");
    drain(a), drain(b), drain(c);
    /* What all hear: each once, the sender not, and not who does not listen. */
    struct bus_message m;
    assert_int_equal(bus_send(c, BUS_HELLO, 0, "hello", 5), ERR_OK);
    wait_take(a, &m);
    assert_int_equal(m.subject, BUS_HELLO);
    assert_true(m.from == 0xc);
    assert_memory_equal(m.data, "hello", 5);
    wait_take(b, &m);
    assert_memory_equal(m.data, "hello", 5);
    assert_int_equal(bus_send(a, BUS_HELLO, 0, "again", 5), ERR_OK);
    wait_take(b, &m);
    wait_take(c, &m);
    assert_int_equal(bus_send(a, BUS_LOAD, 0, "", 0), ERR_OK);
    wait_take(b, &m);
    assert_int_equal(m.bytes, 0);
    assert_false(bus_take(a, &m));
    assert_false(bus_take(c, &m));
    /* Nobody has that inbox: it does not show. */
    assert_int_equal(bus_send(a, BUS_INBOX, 999, "x", 1), ERR_OK);
    /* In order, many. */
    for (uint32_t i = 0; i < 500; i++)
        assert_int_equal(bus_send(a, BUS_INBOX, 0xc, &i, sizeof i), ERR_OK);
    for (uint32_t i = 0; i < 500; i++) {
        wait_take(c, &m);
        uint32_t got;
        assert_int_equal(m.bytes, sizeof got);
        memcpy(&got, m.data, sizeof got);
        assert_int_equal(got, i);
    }
    assert_int_equal(bus_port_lost(a) + bus_port_lost(b) + bus_port_lost(c), 0);
    /* A port closed with messages in it, another opened in its place. */
    assert_int_equal(bus_send(c, BUS_INBOX, 0xa, "left", 4), ERR_OK);
    assert_int_equal(bus_send(c, BUS_HELLO, 0, "left", 4), ERR_OK);
    wait_take(b, &m);
    bus_port_close(a);
    a = open_port(ab, 0xaa, 0);
    send_until_heard(c, BUS_INBOX, a, "new");
    bus_port_close(a);
    bus_port_close(b);
    bus_port_close(c);
    bus_destroy(ab);
    bus_destroy(cc);
    server_release(&server);
}

/* What was sent last before the end still goes out. */
static void test_last_words(void **state) {
    NEEDS_SERVER;
    struct server server;
    server_init(&server, "");
    struct bus_nats_options options = options_of(&server);
    struct bus *hearing = open_bus(&options), *dying = open_bus(&options);
    struct bus_port *to = open_port(hearing, 1, 1u << BUS_HELLO), *from = open_port(dying, 2, 0);
    struct bus_message m;
    wait_connected(hearing, true);
    wait_connected(dying, true);
    send_until_heard(from, BUS_INBOX, to, "ready");
    drain(to);
    for (int i = 0; i < 100; i++) assert_int_equal(bus_send(from, BUS_HELLO, 0, "n", 1), ERR_OK);
    assert_int_equal(bus_send(from, BUS_HELLO, 0, "bye", 3), ERR_OK);
    bus_port_close(from);
    bus_destroy(dying);
    do wait_take(to, &m);
    while (m.bytes == 1);
    assert_memory_equal(m.data, "bye", 3);
    bus_port_close(to);
    bus_destroy(hearing);
    server_release(&server);
}

static void fill(uint8_t *data, size_t bytes, uint32_t seed) {
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t) (i * 31 + (i >> 8) * 17 + seed);
}

/* The ring may still hold the message before, which its receiver has already. */
static void send_when_room(struct bus_port *port, enum bus_subject subject, uint64_t to,
                           const void *data, size_t bytes) {
    uint64_t end_us = clock_now_us() + DEADLINE_US;
    enum err e;
    while ((e = bus_send(port, subject, to, data, bytes)) == ERR_BUSY && clock_now_us() < end_us)
        rest();
    assert_int_equal(e, ERR_OK);
}

static void test_parts(void **state) {
    NEEDS_SERVER;
    struct server server;
    server_init(&server, "max_payload: 4096");
    struct bus_nats_options options = options_of(&server);
    options.ring_bytes_max = 1 << 20;
    struct bus *one = open_bus(&options), *two = open_bus(&options);
    struct bus_port *a = open_port(one, 1, 0), *b = open_port(two, 2, 1u << BUS_KV);
    struct bus_port *b2 = open_port(two, 3, 1u << BUS_KV);
    wait_connected(one, true);
    wait_connected(two, true);
    send_until_heard(a, BUS_INBOX, b, "ready");
    send_until_heard(a, BUS_KV, b2, "ready too");
    drain(b), drain(b2);
    size_t most = bus_message_bytes_max(one);
    assert_true(most < options.ring_bytes_max && most > options.ring_bytes_max - 200);
    uint8_t *data = malloc(most + 1), *want = malloc(most + 1);
    assert_true(data && want);
    assert_int_equal(bus_send(a, BUS_INBOX, 2, data, most + 1), ERR_LIMIT);
    const size_t sizes[] = {0, 1, 4063, 4064, 4065, 4096, 8127, 8128, 8129, 9000, 300000, most};
    struct bus_message m;
    for (uint32_t i = 0; i < ARRAY_COUNT(sizes); i++) {
        fill(data, sizes[i], i);
        send_when_room(a, BUS_INBOX, 2, data, sizes[i]);
        wait_take(b, &m);
        assert_int_equal(m.subject, BUS_INBOX);
        assert_true(m.from == 1);
        assert_int_equal(m.bytes, sizes[i]);
        assert_memory_equal(m.data, data, sizes[i]);
        assert_false(bus_take(b, &m)); /* gives the room back */
    }
    /* Two ports hear one long message; both senders' long messages at once. */
    fill(data, 50000, 77);
    fill(want, 60000, 78);
    send_when_room(a, BUS_KV, 0, data, 50000);
    send_when_room(b2, BUS_INBOX, 2, want, 60000);
    wait_take(b2, &m);
    assert_int_equal(m.bytes, 50000);
    assert_memory_equal(m.data, data, 50000);
    for (int i = 0; i < 2; i++) {
        wait_take(b, &m);
        assert_int_equal(m.bytes, m.from == 1 ? 50000 : 60000);
        assert_memory_equal(m.data, m.from == 1 ? data : want, m.bytes);
    }
    free(data);
    free(want);
    bus_port_close(a);
    bus_port_close(b);
    bus_port_close(b2);
    bus_destroy(one);
    bus_destroy(two);
    server_release(&server);
}

/* One sender's messages keep their order whatever their subjects, also when one read brings many. */
static void test_order(void **state) {
    NEEDS_SERVER;
    struct server server;
    server_init(&server, "");
    struct bus_nats_options options = options_of(&server);
    struct bus *one = open_bus(&options), *two = open_bus(&options);
    unsigned subjects = 1u << BUS_HELLO | 1u << BUS_LOAD | 1u << BUS_KV | 1u << BUS_ROSTER;
    struct bus_port *a = open_port(one, 1, 0), *b = open_port(two, 2, subjects);
    wait_connected(one, true);
    wait_connected(two, true);
    for (enum bus_subject subject = BUS_INBOX; subject <= BUS_ROSTER; subject++)
        send_until_heard(a, subject, b, "ready");
    usleep(10000);
    drain(b);
    struct bus_message m;
    for (uint32_t round = 0; round < 20; round++) {
        for (uint32_t i = 0; i < 100; i++)
            assert_int_equal(bus_send(a, (enum bus_subject)((i * 7 + round) % 5), 2, &i, sizeof i),
                             ERR_OK);
        for (uint32_t i = 0; i < 100; i++) {
            wait_take(b, &m);
            assert_int_equal(m.bytes, sizeof i);
            assert_memory_equal(m.data, &i, sizeof i);
            assert_int_equal(m.subject, (i * 7 + round) % 5);
        }
    }
    bus_port_close(a);
    bus_port_close(b);
    bus_destroy(one);
    bus_destroy(two);
    server_release(&server);
}

static void test_server_dies(void **state) {
    NEEDS_SERVER;
    struct server server;
    server_init(&server, "");
    struct bus_nats_options options = options_of(&server);
    struct bus *one = open_bus(&options), *two = open_bus(&options);
    _Atomic int wakes = 0;
    struct bus_port *a, *b = open_port(two, 2, 1u << BUS_LOAD);
    assert_int_equal(bus_port_open(one, 1, 0, count_wake, &wakes, &a), ERR_OK);
    for (int round = 0; round < 3; round++) {
        wait_connected(one, true);
        wait_connected(two, true);
        send_until_heard(a, BUS_INBOX, b, "there");
        send_until_heard(b, BUS_INBOX, a, "back");
        send_until_heard(a, BUS_LOAD, b, "all");
        uint64_t before_a = bus_port_lossy_count(a), before_b = bus_port_lossy_count(b);
        int wakes_before = wakes;
        server_kill(&server);
        wait_connected(one, false);
        wait_connected(two, false);
        assert_int_equal(bus_send(a, BUS_INBOX, 2, "x", 1), ERR_BUSY);
        /* A port opened and one closed meanwhile. */
        struct bus_port *later = open_port(one, 100 + (uint64_t) round, 1u << BUS_HELLO);
        server_start(&server);
        wait_connected(one, true);
        wait_connected(two, true);
        send_until_heard(b, BUS_HELLO, later, "late");
        bus_port_close(later);
        /* Lost, and there again: both were told. */
        uint64_t end_us = clock_now_us() + DEADLINE_US;
        while (bus_port_lossy_count(a) < before_a + 2 || bus_port_lossy_count(b) < before_b + 2) {
            if (clock_now_us() > end_us) fail_msg("lossy_count did not rise");
            rest();
        }
        assert_true(wakes > wakes_before);
    }
    bus_port_close(a);
    bus_port_close(b);
    server_kill(&server);
    bus_destroy(one); /* with no server */
    bus_destroy(two);
    server_release(&server);
}

/* The log goes to standard error: how many lines hold `what`. */
static int count_lines(const char *path, const char *what) {
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    char line[1024];
    int count = 0;
    while (fgets(line, sizeof line, file)) count += strstr(line, what) != NULL;
    fclose(file);
    return count;
}

static void test_wrong_token(void **state) {
    NEEDS_SERVER;
    struct server server;
    server_init(&server, "authorization { token: \"the-right-one\" }");
    char log_path[300];
    snprintf(log_path, sizeof log_path, "%s/log", directory);
    fflush(stderr);
    int saved = dup(2), file = open(log_path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    dup2(file, 2);
    struct bus_nats_options options = options_of(&server);
    options.token = "the-right-one";
    struct bus *right = open_bus(&options);
    options.token = "the-wrong-one";
    struct bus *wrong = open_bus(&options);
    struct bus_port *a = open_port(right, 1, 0), *b = open_port(wrong, 2, 0);
    wait_connected(right, true);
    for (int i = 0; i < 50; i++) { /* longer than two tries */
        assert_false(bus_is_connected(wrong));
        usleep(50000);
    }
    assert_int_equal(bus_send(b, BUS_INBOX, 1, "x", 1), ERR_BUSY);
    /* The server comes back with the other token: each finds its fate without help. */
    server_kill(&server);
    FILE *config = fopen(server.config, "w");
    assert_non_null(config);
    fprintf(config, "listen: 127.0.0.1:%d\nauthorization { token: \"the-wrong-one\" }\n",
            server.port);
    fclose(config);
    server_start(&server);
    wait_connected(wrong, true);
    wait_connected(right, false);
    struct bus_port *c = open_port(wrong, 3, 0);
    send_until_heard(b, BUS_INBOX, c, "in");
    bus_port_close(a);
    bus_port_close(b);
    bus_port_close(c);
    bus_destroy(right);
    bus_destroy(wrong);
    dup2(saved, 2);
    close(saved);
    close(file);
    server_release(&server);
    assert_int_equal(count_lines(log_path, "the-wrong-one"), 0);
    assert_int_equal(count_lines(log_path, "the-right-one"), 0);
    assert_true(count_lines(log_path, "Authorization") >= 1);
    assert_true(count_lines(log_path, "Authorization") <= 4); /* told, not repeated */
    unlink(log_path);
}

static void test_user(void **state) {
    NEEDS_SERVER;
    struct server server;
    server_init(&server, "authorization { user: u, password: p }");
    struct bus_nats_options options = options_of(&server);
    options.user = "u";
    options.password = "p";
    struct bus *bus = open_bus(&options);
    wait_connected(bus, true);
    bus_destroy(bus);
    server_release(&server);
}

/* A certificate of its own for 127.0.0.1; false: no openssl here. */
static bool make_certificate(const char *name) {
    char command[1024];
    snprintf(command, sizeof command,
             "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
             "-addext subjectAltName=IP:127.0.0.1 -keyout %s/%s.key -out %s/%s.crt 2>/dev/null",
             directory, name, directory, name);
    return system(command) == 0;
}

static void test_tls(void **state) {
    NEEDS_SERVER;
    if (!make_certificate("good") || !make_certificate("other")) {
        print_message("skipped: no openssl here\n");
        skip();
    }
    struct server server;
    char more[512], paths[4][128];
    const char *const names[4] = {"good.crt", "other.crt", "good.key", "other.key"};
    for (int i = 0; i < 4; i++) snprintf(paths[i], sizeof paths[i], "%s/%s", directory, names[i]);
    snprintf(more, sizeof more, "tls { cert_file: \"%s\", key_file: \"%s\" }", paths[0], paths[2]);
    server_init(&server, more);
    struct bus_nats_options options = options_of(&server);
    options.tls_ca_file = paths[0];
    struct bus *good = open_bus(&options);
    options.tls_ca_file = paths[1]; /* signed by somebody whom we do not know */
    struct bus *other = open_bus(&options);
    struct bus_port *a = open_port(good, 1, 0), *b = open_port(good, 2, 0);
    wait_connected(good, true);
    send_until_heard(a, BUS_INBOX, b, "sealed");
    for (int i = 0; i < 40; i++) {
        assert_false(bus_is_connected(other));
        usleep(50000);
    }
    bus_port_close(a);
    bus_port_close(b);
    bus_destroy(good);
    bus_destroy(other);
    server_release(&server);
    for (int i = 0; i < 4; i++) unlink(paths[i]);
}

static void test_full(void **state) {
    NEEDS_SERVER;
    struct server server;
    server_init(&server, "");
    struct bus_nats_options options = options_of(&server);
    struct bus *one = open_bus(&options);
    options.ring_messages_max = 4;
    options.ring_bytes_max = 10000;
    struct bus *two = open_bus(&options);
    struct bus_port *a = open_port(one, 1, 0), *b = open_port(two, 2, 0);
    wait_connected(one, true);
    wait_connected(two, true);
    send_until_heard(a, BUS_INBOX, b, "ready");
    drain(b);
    uint64_t lossy_before = bus_port_lossy_count(b), end_us = clock_now_us() + DEADLINE_US;
    for (int i = 0; i < 10; i++) assert_int_equal(bus_send(a, BUS_INBOX, 2, &i, sizeof i), ERR_OK);
    while (bus_port_lost(b) < 6) { /* by messages: four are kept, the oldest */
        if (clock_now_us() > end_us) fail_msg("nothing was lost");
        rest();
    }
    assert_true(bus_port_lossy_count(b) >= lossy_before + 6);
    struct bus_message m;
    for (int i = 0; i < 4; i++) {
        wait_take(b, &m);
        assert_memory_equal(m.data, &i, sizeof i);
    }
    assert_false(bus_take(b, &m));
    char big[6000] = {0};
    for (int i = 0; i < 2; i++)
        assert_int_equal(bus_send(a, BUS_INBOX, 2, big, sizeof big), ERR_OK);
    while (bus_port_lost(b) < 7) { /* by bytes */
        if (clock_now_us() > end_us) fail_msg("nothing was lost");
        rest();
    }
    wait_take(b, &m);
    assert_int_equal(m.bytes, sizeof big);
    assert_false(bus_take(b, &m));
    send_until_heard(a, BUS_INBOX, b, "again"); /* room again */
    /* The send ring: its owner is told at once. */
    bool was_full = false;
    for (int i = 0; i < 100000 && !was_full; i++)
        was_full = bus_send(b, BUS_INBOX, 999, "x", 1) == ERR_BUSY;
    assert_true(was_full);
    bus_port_close(a);
    bus_port_close(b);
    bus_destroy(one);
    bus_destroy(two);
    server_release(&server);
}

static void test_name_spaces(void **state) {
    NEEDS_SERVER;
    struct server server;
    server_init(&server, "");
    struct bus_nats_options options = options_of(&server);
    options.name_space = "red";
    struct bus *red = open_bus(&options);
    options.name_space = "red-2";
    struct bus *blue = open_bus(&options);
    unsigned all = 1u << BUS_HELLO | 1u << BUS_LOAD | 1u << BUS_KV | 1u << BUS_ROSTER;
    struct bus_port *r1 = open_port(red, 1, all), *r2 = open_port(red, 2, all);
    struct bus_port *b1 = open_port(blue, 1, all), *b2 = open_port(blue, 3, all);
    wait_connected(red, true);
    wait_connected(blue, true);
    for (enum bus_subject s = BUS_INBOX; s <= BUS_ROSTER; s++) {
        send_until_heard(r1, s, r2, "red");
        send_until_heard(b2, s, b1, "blue");
    }
    struct bus_message m;
    for (int i = 0; i < 30; i++) {
        while (bus_take(b1, &m) || bus_take(b2, &m)) assert_memory_equal(m.data, "blue", 4);
        while (bus_take(r1, &m) || bus_take(r2, &m)) assert_memory_equal(m.data, "red", 3);
        rest();
    }
    bus_port_close(r1);
    bus_port_close(r2);
    bus_port_close(b1);
    bus_port_close(b2);
    bus_destroy(red);
    bus_destroy(blue);
    server_release(&server);
}

/* Several owners send at once through one bus. */
static void *send_many(void *ctx) {
    struct bus_port *port = ctx;
    for (uint32_t i = 0; i < 2000;) {
        if (bus_send(port, BUS_INBOX, 50, &i, sizeof i) == ERR_OK) i++;
        else rest();
    }
    return NULL;
}

static void test_many_senders(void **state) {
    NEEDS_SERVER;
    struct server server;
    server_init(&server, "");
    struct bus_nats_options options = options_of(&server);
    options.ring_messages_max = 16384;
    struct bus *one = open_bus(&options), *two = open_bus(&options);
    struct bus_port *senders[3], *to = open_port(two, 50, 0);
    pthread_t threads[3];
    uint32_t next[3] = {0};
    for (uint32_t i = 0; i < 3; i++) senders[i] = open_port(one, 1 + i, 0);
    wait_connected(one, true);
    wait_connected(two, true);
    send_until_heard(senders[0], BUS_INBOX, to, "ready");
    drain(to);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, send_many, senders[i]), 0);
    struct bus_message m;
    for (uint32_t i = 0; i < 6000; i++) {
        uint32_t got;
        wait_take(to, &m);
        assert_true(m.from >= 1 && m.from <= 3 && m.bytes == sizeof got);
        memcpy(&got, m.data, sizeof got);
        assert_int_equal(got, next[m.from - 1]++);
    }
    for (uint32_t i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < 3; i++) bus_port_close(senders[i]);
    bus_port_close(to);
    bus_destroy(one);
    bus_destroy(two);
    server_release(&server);
}

int main(void) {
    const char *const paths[] = {"/usr/sbin/nats-server", "/usr/bin/nats-server",
                                 "/usr/local/bin/nats-server"};
    for (size_t i = 0; i < ARRAY_COUNT(paths) && !server_path; i++)
        if (access(paths[i], X_OK) == 0) server_path = paths[i];
    if (!mkdtemp(directory)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_no_server),
        cmocka_unit_test(test_inbox_and_subjects),
        cmocka_unit_test(test_last_words),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_server_dies),
        cmocka_unit_test(test_wrong_token),
        cmocka_unit_test(test_user),
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_name_spaces),
        cmocka_unit_test(test_many_senders),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(directory);
    return failed;
}
