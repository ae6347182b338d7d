/* err - what a function that can fail returns, and the sentence a user reads.
 *
 * `if (e)` is the only test.  The first function that knows the reason logs it or fills the
 * struct err_text it was given; the others hand e on.  Outputs are set only on ERR_OK. */
#ifndef GRAMME_BASE_ERR_H
#define GRAMME_BASE_ERR_H

#include "base/check.h"

enum err {
    ERR_OK = 0,
    ERR_MEMORY,      /* the host has no memory for this */
    ERR_USAGE,       /* the user asked for something that has no meaning */
    ERR_FORMAT,      /* foreign bytes break their format */
    ERR_UNSUPPORTED, /* known, legal, and not built here */
    ERR_NOT_FOUND,   /* a file, a name, an id that is not there */
    ERR_IO,          /* the system refused a read, write, map or bind */
    ERR_LIMIT,       /* past a bound named in the option table */
    ERR_NO_ROOM,     /* it does not fit this device or pool, now or ever */
    ERR_BUSY,        /* later, same place */
    ERR_PEER_GONE,   /* now, elsewhere */
    ERR_CANCELLED,   /* the caller itself said stop */
    ERR_TIMEOUT,     /* its deadline has passed */
};

/* One sentence without a full stop, for the user: what, where, why, what instead. */
struct err_text {
    char text[1024];
};

/* A word for the error ("out of memory"), never NULL. */
const char *err_name(enum err e);

/* Fills text (which may be NULL) by format and returns e, so that
 * `return err_set(text, ERR_FORMAT, "...")` is one line.  An over-long sentence is cut. */
enum err err_set(struct err_text *text, enum err e, const char *format, ...) PRINTF_LIKE(3, 4);

/* Puts "prefix: " before what text holds. */
void err_prefix(struct err_text *text, const char *format, ...) PRINTF_LIKE(2, 3);

#endif
