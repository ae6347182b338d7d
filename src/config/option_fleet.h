/* option_fleet - rows of option.h's table: the processes of a graph, their bus, their lives; no
 * include guard, it is read several times.  Defaults: protocol.md 3, behaviour.md 6 and 7. */
OPTION(JOIN, "join", OPTION_TEXT, OPTION_FRONTEND | OPTION_WORKER, "bus", "", NULL, 0, 0, NULL,
       "nats://HOST:PORT of the graph to join (default: the variable NATS_SERVER)")
OPTION(NATS, "nats", OPTION_TEXT, OPTION_SERVE, "bus", "", NULL, 0, 0, NULL,
       "use this nats-server, nats://HOST:PORT, instead of a private one")
OPTION(BUS_LISTEN, "bus-listen", OPTION_TEXT, OPTION_SERVE, "bus", "", NULL, 0, 0, NULL,
       "ADDRESS:PORT of the private nats-server, so that other nodes may join")
OPTION(NAMESPACE, "namespace", OPTION_TEXT, PROCESS_COMMANDS, "bus", "", NULL, 0, 0, NULL,
       "graphs of different namespaces never see each other")
OPTION(BUS_TOKEN_FILE, "bus-token-file", OPTION_TEXT, PROCESS_COMMANDS, "bus", "", NULL, 0, 0, NULL,
       "file of mode 0600 with the bus token, or USER:PASSWORD behind 'user ' (default: the "
       "variable GRAMME_BUS_TOKEN)")
OPTION(BUS_CA_FILE, "bus-ca-file", OPTION_TEXT, PROCESS_COMMANDS, "bus", "", NULL, 0, 0, NULL,
       "TLS: the authority that signed the nats-server's certificate")
OPTION(BUS_CERT_FILE, "bus-cert-file", OPTION_TEXT, PROCESS_COMMANDS, "bus", "", NULL, 0, 0, NULL,
       "TLS: our certificate; with --bus-listen the private nats-server's")
OPTION(BUS_KEY_FILE, "bus-key-file", OPTION_TEXT, PROCESS_COMMANDS, "bus", "", NULL, 0, 0, NULL,
       "TLS: its key")
OPTION(SYSTEM_PORT, "system-port", OPTION_COUNT, OPTION_WORKER, "server", "", NULL, 0, 65535, NULL,
       "port of a worker's own /live, /health and /metrics; 0 picks a free one; "
       "replicas count on from it (default: none)")
OPTION(SYSTEM_HOST, "system-host", OPTION_TEXT, OPTION_WORKER, "server", "", "127.0.0.1", 0, 0,
       NULL, "address of the system port")
OPTION(GONE_TIMEOUT, "gone-timeout", OPTION_DURATION, PROCESS_COMMANDS, "graph", "s", "10", 0.1,
       1e6, NULL, "a process of another node that is silent for this long is gone")
OPTION(MIGRATION_TIMEOUT, "migration-timeout", OPTION_DURATION, SERVER_COMMANDS, "graph", "s", "30",
       0.001, 1e6, NULL, "accepted requests wait this long for a worker when none is left")
OPTION(MIGRATION_LIMIT, "migration-limit", OPTION_COUNT, SERVER_COMMANDS, "graph", "deaths", "2", 1,
       1000, NULL, "a request whose workers died that often ends with an error")
OPTION(RESTART_LIMIT, "restart-limit", OPTION_COUNT, OPTION_SERVE, "graph", "times", "10", 0, 1e6,
       NULL, "a component that fails more often in a row is given up")
