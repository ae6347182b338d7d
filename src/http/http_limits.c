/* http_limits - the bounds of http_server.h, as the option table gives them. */
#include "http/http_server.h"

void http_limits_default(struct http_limits *limits) {
    *limits = (struct http_limits){
        .connections_max = 4096,
        .header_bytes_max = 64u << 10,
        .body_bytes_max = 64u << 20,
        .header_timeout_ms = 10000,
        .body_timeout_ms = 30000,
        .keep_alive_ms = 75000,
        .write_timeout_ms = 60000,
        .pending_bytes_high = 64u << 10,
    };
}
