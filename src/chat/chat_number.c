/* chat_number - see chat_number.h. */
#include "chat/chat_number.h"

#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chat/chat_unicode.h"

static enum err too_big(struct chat_run *run) {
    return chat_run_fail(run, ERR_UNSUPPORTED, "the integer does not fit 64 bits");
}

static enum err division_by_zero(struct chat_run *run) {
    return chat_run_fail(run, ERR_FORMAT, "division by zero");
}

static enum err int_power(struct chat_run *run, int64_t base, int64_t exponent,
                          struct chat_value *out) {
    int64_t result = 1;
    if (exponent < 0) {
        if (base == 0) return division_by_zero(run);
        *out = chat_value_real(pow((double) base, (double) exponent));
        return ERR_OK;
    }
    for (int64_t left = exponent; left; left >>= 1) {
        if ((left & 1) && __builtin_mul_overflow(result, base, &result)) return too_big(run);
        if (left > 1 && __builtin_mul_overflow(base, base, &base)) return too_big(run);
    }
    *out = chat_value_int(result);
    return ERR_OK;
}

static enum err apply_int(struct chat_run *run, enum chat_arith op, int64_t a, int64_t b,
                          struct chat_value *out) {
    int64_t result = 0;
    bool overflow = false;
    switch (op) {
    case CHAT_ADD: overflow = __builtin_add_overflow(a, b, &result); break;
    case CHAT_SUB: overflow = __builtin_sub_overflow(a, b, &result); break;
    case CHAT_MUL: overflow = __builtin_mul_overflow(a, b, &result); break;
    case CHAT_DIV:
        if (b == 0) return division_by_zero(run);
        *out = chat_value_real((double) a / (double) b);
        return ERR_OK;
    case CHAT_FLOORDIV:
    case CHAT_MOD:
        if (b == 0) return division_by_zero(run);
        if (b == -1) {
            overflow = op == CHAT_FLOORDIV && __builtin_sub_overflow(0, a, &result);
            break;
        }
        result = op == CHAT_MOD ? a % b : a / b;
        if (a % b != 0 && ((a % b < 0) != (b < 0))) result += op == CHAT_MOD ? b : -1;
        break;
    case CHAT_POW: return int_power(run, a, b, out);
    }
    if (overflow) return too_big(run);
    *out = chat_value_int(result);
    return ERR_OK;
}

/* Python's divmod of floats: the remainder has the sign of b, the quotient is exact. */
static void real_divmod(double a, double b, double *quotient, double *remainder) {
    double mod = fmod(a, b), div = (a - mod) / b;
    if (mod != 0) {
        if ((b < 0) != (mod < 0)) {
            mod += b;
            div -= 1.0;
        }
    } else {
        mod = copysign(0.0, b);
    }
    if (div != 0) {
        double floored = floor(div);
        *quotient = div - floored > 0.5 ? floored + 1.0 : floored;
    } else {
        *quotient = copysign(0.0, a / b);
    }
    *remainder = mod;
}

static enum err real_power(struct chat_run *run, double a, double b, struct chat_value *out) {
    if (a == 0 && b < 0) return division_by_zero(run);
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        return chat_run_fail(run, ERR_UNSUPPORTED, "a complex number");
    double result = pow(a, b);
    if (isinf(result) && isfinite(a) && isfinite(b))
        return chat_run_fail(run, ERR_FORMAT, "the result of ** is too large");
    *out = chat_value_real(result);
    return ERR_OK;
}

enum err chat_number_apply(struct chat_run *run, enum chat_arith op, const struct chat_value *a,
                           const struct chat_value *b, struct chat_value *out) {
    if (a->kind != CHAT_REAL && b->kind != CHAT_REAL)
        return apply_int(run, op, a->integer, b->integer, out);
    double x = chat_value_as_real(a), y = chat_value_as_real(b), quotient, remainder;
    switch (op) {
    case CHAT_ADD: *out = chat_value_real(x + y); return ERR_OK;
    case CHAT_SUB: *out = chat_value_real(x - y); return ERR_OK;
    case CHAT_MUL: *out = chat_value_real(x * y); return ERR_OK;
    case CHAT_POW: return real_power(run, x, y, out);
    default: break;
    }
    if (y == 0) return division_by_zero(run);
    if (op == CHAT_DIV) {
        *out = chat_value_real(x / y);
        return ERR_OK;
    }
    real_divmod(x, y, &quotient, &remainder);
    *out = chat_value_real(op == CHAT_MOD ? remainder : quotient);
    return ERR_OK;
}

uint32_t chat_number_print_int(int64_t integer, char out[CHAT_NUMBER_TEXT_BYTES]) {
    return (uint32_t) snprintf(out, CHAT_NUMBER_TEXT_BYTES, "%lld", (long long) integer);
}

/* printf writes the locale's decimal sign; the only bytes we want are these. */
static void mend_point(char *text) {
    for (; *text; text++)
        if (!strchr("+-0123456789eEinfaINFA", *text)) *text = '.';
}

int chat_number_format(char *out, size_t room, char type, bool alternate, int precision,
                       double real) {
    int length;
    switch (type) {
    case 'e': length = snprintf(out, room, alternate ? "%#.*e" : "%.*e", precision, real); break;
    case 'E': length = snprintf(out, room, alternate ? "%#.*E" : "%.*E", precision, real); break;
    case 'f': length = snprintf(out, room, alternate ? "%#.*f" : "%.*f", precision, real); break;
    case 'F': length = snprintf(out, room, alternate ? "%#.*F" : "%.*F", precision, real); break;
    case 'G': length = snprintf(out, room, alternate ? "%#.*G" : "%.*G", precision, real); break;
    default: length = snprintf(out, room, alternate ? "%#.*g" : "%.*g", precision, real); break;
    }
    if (length > 0 && (size_t) length < room) mend_point(out);
    return length;
}

uint32_t chat_number_print_real(double real, char out[CHAT_NUMBER_TEXT_BYTES]) {
    if (isnan(real)) return (uint32_t) snprintf(out, CHAT_NUMBER_TEXT_BYTES, "nan");
    if (isinf(real))
        return (uint32_t) snprintf(out, CHAT_NUMBER_TEXT_BYTES, real < 0 ? "-inf" : "inf");
    char text[CHAT_NUMBER_TEXT_BYTES];
    /* With 15 digits every shorter form is found too, its zeros dropped; not so below DBL_MIN. */
    int precision = fabs(real) < DBL_MIN ? 1 : 15;
    for (; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision - 1, real);
        if (precision == 17 || strtod(text, NULL) == real) break;
    }
    char digits[24];
    uint32_t count = 0, at = 0;
    const char *p = text;
    if (*p == '-') {
        out[at++] = '-';
        p++;
    }
    for (; *p != 'e'; p++)
        if (isdigit((unsigned char) *p)) digits[count++] = *p;
    long exponent = strtol(p + 1, NULL, 10);
    while (count > 1 && digits[count - 1] == '0') count--;
    if (exponent < -4 || exponent >= 16) {
        out[at++] = digits[0];
        if (count > 1) out[at++] = '.';
        for (uint32_t i = 1; i < count; i++) out[at++] = digits[i];
        return at + (uint32_t) snprintf(out + at, CHAT_NUMBER_TEXT_BYTES - at, "e%c%02ld",
                                        exponent < 0 ? '-' : '+', labs(exponent));
    }
    if (exponent < 0) {
        out[at++] = '0';
        out[at++] = '.';
        for (long i = -1; i > exponent; i--) out[at++] = '0';
        for (uint32_t i = 0; i < count; i++) out[at++] = digits[i];
        return at;
    }
    for (long i = 0; i <= exponent || i < (long) count; i++) {
        if (i == exponent + 1) out[at++] = '.';
        out[at++] = i < (long) count ? digits[i] : '0';
    }
    if ((long) count <= exponent + 1) {
        out[at++] = '.';
        out[at++] = '0';
    }
    return at;
}

/* Copies the text without spaces around it and without underscores between digits; false when an
 * underscore stands elsewhere or the text is too long to be a number of ours. */
static bool clean(const char *text, uint32_t bytes, char *out, size_t room, bool *is_long) {
    const char *end = text + bytes;
    while (text < end) {
        const char *next = text;
        if (!chat_unicode_is_space(chat_unicode_read(&next, end))) break;
        text = next;
    }
    while (end > text) {
        const char *last = end - 1;
        while (last > text && ((unsigned char) *last & 0xc0) == 0x80) last--;
        const char *p = last;
        if (!chat_unicode_is_space(chat_unicode_read(&p, end))) break;
        end = last;
    }
    size_t at = 0;
    *is_long = (size_t) (end - text) >= room;
    if (*is_long) return false;
    for (const char *p = text; p < end; p++) {
        if (*p == '\0') return false;
        if (*p != '_') {
            out[at++] = *p;
        } else if (p == text || p + 1 == end || !isalnum((unsigned char) p[-1]) ||
                   !isalnum((unsigned char) p[1])) {
            return false;
        }
    }
    out[at] = '\0';
    return at > 0;
}

bool chat_number_parse_int(const char *text, uint32_t bytes, int base, int64_t *out,
                           bool *overflow) {
    char cleaned[256];
    *overflow = false;
    if (base != 0 && (base < 2 || base > 36)) return false;
    if (!clean(text, bytes, cleaned, sizeof cleaned, overflow)) return false;
    const char *p = cleaned;
    bool is_negative = *p == '-';
    if (*p == '-' || *p == '+') p++;
    if (*p == '0' && p[1]) {
        char c = (char) tolower((unsigned char) p[1]);
        int prefix = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
        if (prefix && (base == prefix || base == 0)) {
            base = prefix;
            p += 2;
        } else if (base == 0) {
            if (strspn(p, "0") != strlen(p)) return false;
            base = 10;
        }
    }
    if (base == 0) base = 10;
    if (!*p) return false;
    int64_t value = 0;
    for (; *p; p++) {
        int c = tolower((unsigned char) *p);
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
        if (digit >= base) return false;
        if (*overflow) continue;
        *overflow = __builtin_mul_overflow(value, base, &value) ||
                    __builtin_sub_overflow(value, digit, &value);
    }
    if (!*overflow && !is_negative) *overflow = __builtin_sub_overflow(0, value, &value);
    *out = value;
    return !*overflow;
}

bool chat_number_parse_real(const char *text, uint32_t bytes, double *out) {
    char cleaned[512];
    bool is_long;
    if (!clean(text, bytes, cleaned, sizeof cleaned, &is_long)) return false;
    const char *p = cleaned;
    if (*p == '-' || *p == '+') p++;
    if (isdigit((unsigned char) *p) || (*p == '.' && isdigit((unsigned char) p[1]))) {
        if (*p == '0' && (p[1] == 'x' || p[1] == 'X')) return false;
    } else if (strcasecmp(p, "inf") != 0 && strcasecmp(p, "infinity") != 0 &&
               strcasecmp(p, "nan") != 0) {
        return false;
    }
    char probe[8];
    snprintf(probe, sizeof probe, "%.1f", 0.5);
    for (char *at = cleaned; *at; at++) {
        if (*at == probe[1] && probe[1] != '.') return false;
        if (*at == '.') *at = probe[1];
    }
    char *rest;
    *out = strtod(cleaned, &rest);
    return *rest == '\0';
}

double chat_number_round(double real, int64_t digits) {
    if (!isfinite(real) || digits > 323) return real;
    if (digits < -308) return copysign(0.0, real);
    if (digits >= 0) {
        char text[700];
        snprintf(text, sizeof text, "%.*f", (int) digits, real);
        return strtod(text, NULL);
    }
    double scale = pow(10.0, (double) -digits), scaled = real / scale;
    double rounded = nearbyint(scaled);
    return rounded * scale;
}
