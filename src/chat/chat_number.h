/* chat_number - Python's int and float arithmetic, as far as 64 bits go, and their printing. */
#ifndef GRAMME_CHAT_CHAT_NUMBER_H
#define GRAMME_CHAT_CHAT_NUMBER_H

#include "chat/chat_run.h"

#define CHAT_NUMBER_TEXT_BYTES 40u

enum chat_arith {
    CHAT_ADD,
    CHAT_SUB,
    CHAT_MUL,
    CHAT_DIV,
    CHAT_FLOORDIV,
    CHAT_MOD,
    CHAT_POW,
};

/* Both are bool, int or real.  ERR_FORMAT: division by zero; ERR_UNSUPPORTED: past 64 bits. */
MUST_USE enum err chat_number_apply(struct chat_run *run, enum chat_arith op,
                                    const struct chat_value *a, const struct chat_value *b,
                                    struct chat_value *out);
/* repr(float): the shortest digits that read back as the same number. */
uint32_t chat_number_print_real(double real, char out[CHAT_NUMBER_TEXT_BYTES]);
uint32_t chat_number_print_int(int64_t integer, char out[CHAT_NUMBER_TEXT_BYTES]);
/* %.*f and friends with a point as the decimal sign, whatever the locale; NULL-safe sizes. */
int chat_number_format(char *out, size_t room, char type, bool alternate, int precision,
                       double real);
/* int(text, base), float(text): false when Python raises ValueError (*overflow: past 64 bits). */
MUST_USE bool chat_number_parse_int(const char *text, uint32_t bytes, int base, int64_t *out,
                                    bool *overflow);
MUST_USE bool chat_number_parse_real(const char *text, uint32_t bytes, double *out);
/* round(real, digits) */
double chat_number_round(double real, int64_t digits);

#endif
