/* http_conn - one connection of a server and the exchange on it.  Inside the room only.
 *
 * Owned by its server, which lists it; freed in the close callback of its handle, so a pointer
 * held across callbacks of one loop turn stays valid.
 *
 *   IDLE --first byte--> RECEIVING --whole request--> ANSWERING --all handed to the kernel--> IDLE
 *                           +--refused--> ANSWERING (by this layer)           |
 *                                                     LINGERING <--must close-+
 *   any --conn_close--> CLOSING
 *
 * Nothing is written at once: an answer grows in `out`, and http_conn_flush, called by the server
 * once a loop turn, hands it to the kernel with one write (a stream's handler may ask for it
 * earlier).  What the kernel does not take moves to `flight` and goes by uv_write.
 *
 * LINGERING: our side is shut down, the rest of the client's bytes is read and dropped for a
 * while, so that no reset overtakes the answer. */
#ifndef GRAMME_HTTP_HTTP_CONN_H
#define GRAMME_HTTP_HTTP_CONN_H

#include <stdbool.h>
#include <uv.h>

#include "http/http_parse.h"
#include "http/http_server.h"

#define HTTP_STASH_BYTES 65536u /* pipelined bytes beyond which reading pauses */
#define HTTP_READ_BYTES 65536u  /* the server's one read buffer */
#define HTTP_KEEP_BYTES 1024u   /* a buffer of at most this size stays with an idle connection */
#define HTTP_LINGER_MS 2000u    /* how long a closing connection's input is dropped */
/* A stream is written at most once in this time: tokens that come faster share a write (a write to
 * a loopback socket costs about 4 us of the kernel's time, a token's event 0.3 us of ours; Zen 3,
 * 2026-11).  The first token, the end of an answer, and whatever passes HTTP_PACE_BYTES go at
 * once. */
#define HTTP_PACE_MS 1u
#define HTTP_PACE_BYTES 16384u
#define HTTP_REFUSED_MAX 256u /* connections over the limit that are being told so */

struct http_exchange {
    struct http_conn *conn;
    void *user;
    uint64_t received_us;
    int status;
    bool is_received; /* the handler knows it */
    bool is_started;
    bool is_ended;
    bool is_chunked;
    bool has_no_body;            /* HEAD, 204, 304: what follows the head is dropped */
    bool has_news;               /* body bytes that were not written yet */
    bool is_dead;                /* the handler has let go of it: answer calls do nothing */
    struct http_request request; /* last: its fields are not cleared */
};

enum http_conn_state { CONN_IDLE, CONN_RECEIVING, CONN_ANSWERING, CONN_LINGERING, CONN_CLOSING };

struct http_conn {
    uv_tcp_t tcp;
    uv_write_t write;
    int fd; /* of tcp; borrowed */
    struct http_server *server;
    struct http_conn *next, *previous; /* the server's list */
    struct http_conn_queue *queue;     /* dirty, held, or NULL */
    struct http_conn *queue_next, *queue_previous;
    struct http_exchange *exchange; /* NULL while IDLE, LINGERING */
    struct http_parse parse;
    struct buf out;
    struct buf flight; /* being written by uv_write */
    struct buf stash;  /* read behind the request that is being answered */
    size_t stash_at;
    uint64_t given_bytes; /* to the kernel, and to libuv for it */
    uint64_t taken_bytes; /* of them by the reader's machine, as last seen by the sweep, */
    uint64_t taken_ms;    /* and when there were more or none waited */
    uint64_t deadline_ms; /* of header, body, idle or linger; 0: none (uv_now) */
    uint64_t paced_ms;    /* when body bytes were written last */
    enum http_conn_state state;
    bool is_in_flight;
    bool is_reading;
    bool is_eof;     /* the client will send nothing more */
    bool must_close; /* after this answer */
    bool is_aborted; /* to be cut off at the next flush */
    bool is_over_limit;
    bool wants_drain;
    char peer[56];
};

/* First come, first flushed. */
struct http_conn_queue {
    struct http_conn *first, *last;
    uint32_t count;
};

/* Takes one waiting connection from the listener; an error leaves it there. */
MUST_USE enum err http_conn_accept(struct http_server *server, uv_stream_t *listener);
/* Hands what is pending to the kernel; finishes the exchange; goes on with pipelined bytes. */
void http_conn_flush(struct http_conn *conn);
/* The middle of a stream that waits for this turn's flush, now; trouble is left to the flush. */
void http_conn_send(struct http_conn *conn);
/* Timeouts and clients that left while reading was paused. */
void http_conn_sweep(struct http_conn *conn, uint64_t now_ms);
/* Ends it now; a live exchange is told.  is_reset drops what the kernel still holds. */
void http_conn_close(struct http_conn *conn, bool is_reset);
/* After this answer, or at once when nothing is under way. */
void http_conn_drain(struct http_conn *conn);
/* In the queue for the next flush, and off any queue. */
void http_conn_mark_dirty(struct http_conn *conn);
void http_conn_mark_clean(struct http_conn *conn);
size_t http_conn_pending_bytes(const struct http_conn *conn);

#endif
