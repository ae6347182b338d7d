/* http_exchange - what belongs to an exchange as a whole: memory, the user's pointer, its cut. */
#include "http/http_conn.h"

struct arena *http_exchange_arena(struct http_exchange *exchange) {
    return &exchange->request.arena;
}

void http_exchange_set_user(struct http_exchange *exchange, void *user) { exchange->user = user; }

void *http_exchange_user(const struct http_exchange *exchange) { return exchange->user; }

/* The connection is cut off at the next flush, not here: the caller may still be using it. */
void http_exchange_abort(struct http_exchange *exchange) {
    if (exchange->is_dead || exchange->is_ended) return;
    exchange->is_dead = true;
    exchange->conn->is_aborted = true;
    http_conn_mark_dirty(exchange->conn);
}
