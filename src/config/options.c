/* options - the values of one run of the program: what option.h calls struct options. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "config/option.h"

#define LIST_MAX 64 /* items of one repeatable option */

struct value {
    enum option_source source;
    char *text; /* owned; NULL: not set */
    double number;
    bool is_auto;   /* "auto" was written */
    bool is_chosen; /* and text and number are what was chosen for it (options_choose) */
    char **items;   /* OPTION_LIST: owned */
    uint32_t item_count;
};

struct options {
    unsigned command;
    struct value values[OPT_COUNT];
};

static void value_release(struct value *value) {
    alloc_free(value->text);
    for (uint32_t i = 0; i < value->item_count; i++) alloc_free(value->items[i]);
    alloc_free(value->items);
    *value = (struct value){.source = SOURCE_DEFAULT};
}

void options_destroy(struct options *options) {
    if (!options) return;
    for (int i = 0; i < OPT_COUNT; i++) value_release(&options->values[i]);
    alloc_free(options);
}

/* --- reading one value ------------------------------------------------------------------- */

static const struct {
    const char *suffix;
    double factor;
} byte_units[] = {{"b", 1},
                  {"kib", 1024},
                  {"mib", 1048576},
                  {"gib", 1073741824},
                  {"tib", 1099511627776.0},
                  {"kb", 1e3},
                  {"mb", 1e6},
                  {"gb", 1e9},
                  {"tb", 1e12},
                  {"k", 1024},
                  {"m", 1048576},
                  {"g", 1073741824}},
  time_units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"min", 60000}},
  count_units[] = {{"k", 1024}, {"m", 1048576}};

static bool find_unit(enum option_type type, const char *suffix, double *factor) {
    for (size_t i = 0; type == OPTION_BYTES && i < ARRAY_COUNT(byte_units); i++)
        if (strcasecmp(suffix, byte_units[i].suffix) == 0) {
            *factor = byte_units[i].factor;
            return true;
        }
    for (size_t i = 0; type == OPTION_DURATION && i < ARRAY_COUNT(time_units); i++)
        if (strcasecmp(suffix, time_units[i].suffix) == 0) {
            *factor = time_units[i].factor;
            return true;
        }
    for (size_t i = 0; type == OPTION_COUNT && i < ARRAY_COUNT(count_units); i++)
        if (strcasecmp(suffix, count_units[i].suffix) == 0) {
            *factor = count_units[i].factor;
            return true;
        }
    return false;
}

static bool parse_bool(const char *text, double *out) {
    static const char *const words[] = {"false", "no", "off", "0", "true",
                                        "yes",   "on", "1",   "n", "y"};
    static const double values[] = {0, 0, 0, 0, 1, 1, 1, 1, 0, 1};
    for (size_t i = 0; i < ARRAY_COUNT(words); i++)
        if (strcasecmp(text, words[i]) == 0) {
            *out = values[i];
            return true;
        }
    return false;
}

bool options_parse_bool(const char *text, bool *out) {
    double value;
    if (!parse_bool(text, &value)) return false;
    *out = value != 0;
    return true;
}

/* A number with a unit; the value comes out in the option's own unit (durations: ms). */
static bool parse_number(const struct option *option, const char *text, double *out) {
    char *end = NULL;
    errno = 0;
    double number = strtod(text, &end);
    if (end == text || errno == ERANGE || !isfinite(number)) return false;
    if (strpbrk(text, "xXpP") && option->type != OPTION_DURATION) return false;
    double factor = 1;
    while (*end == ' ') end++;
    if (*end) {
        if (!find_unit(option->type, end, &factor)) return false;
    } else if (option->type == OPTION_DURATION) {
        CHECK(find_unit(OPTION_DURATION, option->unit, &factor));
    }
    number *= factor;
    if ((option->type == OPTION_COUNT || option->type == OPTION_BYTES) && number != floor(number)) {
        if (option->type == OPTION_COUNT) return false;
        number = floor(number);
    }
    *out = number;
    return true;
}

/* Other names that vLLM and the classic system have for a word. */
static const struct {
    enum option_id id;
    const char *other, *word;
} word_aliases[] = {
    {OPT_LOAD_FORMAT, "safetensors", "auto"}, {OPT_LOAD_FORMAT, "gguf", "auto"},
    {OPT_LOAD_FORMAT, "hf", "auto"},          {OPT_KV_CACHE_DTYPE, "fp8_e4m3", "fp8"},
    {OPT_KV_CACHE_DTYPE, "bfloat16", "bf16"}, {OPT_KV_CACHE_DTYPE, "float16", "f16"},
    {OPT_KV_CACHE_DTYPE, "half", "f16"},      {OPT_KV_CACHE_DTYPE, "float32", "f32"},
    {OPT_ROUTER, "kv-load", "least-loaded"},  {OPT_ROUTER, "round_robin", "round-robin"},
    {OPT_ROUTER, "kv_load", "least-loaded"},  {OPT_ROUTER, "least_loaded", "least-loaded"},
    {OPT_DTYPE, "half", "float16"},           {OPT_DTYPE, "float", "float32"},
    {OPT_DTYPE, "bf16", "bfloat16"},          {OPT_DTYPE, "fp16", "float16"},
    {OPT_DTYPE, "fp32", "float32"},
};

/* The listed word that `text` names in any case, and its length; NULL when there is none. */
static const char *word_find(enum option_id id, const char *text, size_t *word_bytes) {
    for (size_t i = 0; i < ARRAY_COUNT(word_aliases); i++)
        if (word_aliases[i].id == id && strcasecmp(word_aliases[i].other, text) == 0)
            text = word_aliases[i].word;
    size_t bytes = strlen(text);
    for (const char *at = option_get(id)->words; bytes && at; at = strchr(at, '|')) {
        if (*at == '|') at++;
        if (strncasecmp(at, text, bytes) != 0 || (at[bytes] != '|' && at[bytes] != '\0')) continue;
        *word_bytes = bytes;
        return at;
    }
    return NULL;
}

static bool is_auto_word(enum option_id id, const char *text) {
    return option_takes_auto(id) && strcasecmp(text, "auto") == 0;
}

static const char *type_wants(enum option_type type) {
    switch (type) {
    case OPTION_BOOL: return "true or false";
    case OPTION_COUNT: return "a whole number";
    case OPTION_BYTES: return "a size such as 512MiB";
    case OPTION_DURATION: return "a time such as 30s or 250ms";
    case OPTION_NUMBER: return "a number";
    default: return "text";
    }
}

/* Not built: only the value that changes nothing is accepted. */
static enum err value_refuse(const struct option *option, const char *text, double number,
                             const char *where, struct err_text *error) {
    if (option->type == OPTION_BOOL ? number == 0
                                    : option->fallback && strcasecmp(text, option->fallback) == 0)
        return ERR_OK;
    return err_set(error, ERR_UNSUPPORTED, "%s: '%.100s' is not supported: %s", where, text,
                   option->help);
}

/* Checks `text` as a value of the option; *number is set for the numeric types. */
static enum err value_parse(enum option_id id, const char *text, const char *where, double *number,
                            struct err_text *error) {
    const struct option *option = option_get(id);
    size_t word_bytes;
    *number = 0;
    if (is_auto_word(id, text)) { /* the default stands until a value is chosen */
        if (option->fallback) CHECK(parse_number(option, option->fallback, number));
        return ERR_OK;
    }
    switch (option->type) {
    case OPTION_TEXT:
    case OPTION_LIST: return ERR_OK;
    case OPTION_WORD:
        if (word_find(id, text, &word_bytes)) return ERR_OK;
        return err_set(error, ERR_USAGE, "%s: '%s' is none of %s", where, text, option->words);
    case OPTION_BOOL:
        if (parse_bool(text, number)) return ERR_OK;
        break;
    default:
        if (!parse_number(option, text, number)) break;
        double scale = option->type == OPTION_DURATION && strcmp(option->unit, "s") == 0 ? 1000 : 1;
        if (*number >= option->min * scale && *number <= option->max * scale) return ERR_OK;
        return err_set(error, ERR_USAGE, "%s: %s is out of range, %.15g to %.15g%s%s", where, text,
                       option->min, option->max, *option->unit ? " " : "", option->unit);
    }
    return err_set(error, ERR_USAGE, "%s: '%s' is not %s", where, text, type_wants(option->type));
}

/* --- setting ----------------------------------------------------------------------------- */

static enum err list_add(struct value *value, const char *text, const char *where,
                         struct err_text *error) {
    if (value->item_count == LIST_MAX)
        return err_set(error, ERR_LIMIT, "%s: more than %d values", where, LIST_MAX);
    if (!value->items) value->items = alloc_zero(LIST_MAX, sizeof *value->items);
    char *copy = value->items ? alloc_string(text, strlen(text)) : NULL;
    if (!copy) return err_set(error, ERR_MEMORY, "%s: out of memory", where);
    value->items[value->item_count++] = copy;
    return ERR_OK;
}

enum err options_set(struct options *options, enum option_id id, const char *text,
                     enum option_source source, const char *where, struct err_text *error) {
    const struct option *option = option_get(id);
    struct value *value = &options->values[id];
    double number;
    enum err e = value_parse(id, text, where, &number, error);
    if (!e && option->standing == OPTION_REFUSED)
        e = value_refuse(option, text, number, where, error);
    if (e) return e;
    bool is_held = value->text || value->item_count;
    if (is_held && value->source > source) return ERR_OK;
    if (option->type == OPTION_LIST) {
        if (value->source != source) value_release(value);
        value->source = source;
        return list_add(value, text, where, error);
    }
    size_t bytes = strlen(text);
    if (option->type == OPTION_WORD) text = word_find(id, text, &bytes);
    char *copy = alloc_string(text, bytes);
    if (!copy) return err_set(error, ERR_MEMORY, "%s: out of memory", where);
    value_release(value);
    *value = (struct value){
        .source = source, .text = copy, .number = number, .is_auto = is_auto_word(id, text)};
    return ERR_OK;
}

enum err options_choose(struct options *options, enum option_id id, const char *text,
                        struct err_text *error) {
    struct value *value = &options->values[id];
    double number;
    CHECK(value->is_auto && !is_auto_word(id, text));
    enum err e = value_parse(id, text, option_get(id)->name, &number, error);
    if (e) return e;
    char *copy = alloc_string(text, strlen(text));
    if (!copy) return err_set(error, ERR_MEMORY, "%s: out of memory", option_get(id)->name);
    alloc_free(value->text);
    value->text = copy;
    value->number = number;
    value->is_chosen = true;
    return ERR_OK;
}

static enum err set_default(struct options *options, enum option_id id) {
    const struct option *option = option_get(id);
    if (!option->fallback || option->standing == OPTION_REFUSED) return ERR_OK;
    struct err_text text;
    enum err e = options_set(options, id, option->fallback, SOURCE_DEFAULT, option->name, &text);
    CHECK(e == ERR_OK || e == ERR_MEMORY); /* the table's own defaults are in range */
    return e;
}

enum err options_clear(struct options *options, enum option_id id) {
    value_release(&options->values[id]);
    return set_default(options, id);
}

/* By anything but the table's default; "auto" too. */
static bool is_given(const struct value *value) {
    return (value->text || value->item_count) && value->source != SOURCE_DEFAULT;
}

enum err options_copy(struct options *options, const struct options *from, enum option_id id) {
    const struct value *value = &from->values[id];
    if (!is_given(value)) return ERR_OK;
    struct value *to = &options->values[id];
    if ((to->text || to->item_count) && to->source > value->source) return ERR_OK;
    value_release(to);
    struct err_text text;
    if (value->text)
        return options_set(options, id, value->text, value->source, option_get(id)->name, &text);
    enum err e = ERR_OK;
    for (uint32_t i = 0; i < value->item_count && !e; i++)
        e = options_set(options, id, value->items[i], value->source, option_get(id)->name, &text);
    return e;
}

enum err options_create(unsigned command, struct options **out) {
    struct options *options = alloc_zero(1, sizeof *options);
    if (!options) return ERR_MEMORY;
    options->command = command;
    for (int i = 0; i < OPT_COUNT; i++) {
        enum err e = set_default(options, (enum option_id) i);
        if (e) {
            options_destroy(options);
            return e;
        }
    }
    *out = options;
    return ERR_OK;
}

enum err options_read_environment(struct options *options, char *const *environment,
                                  struct err_text *error) {
    /* Read by others: the demo's and the tests' own, and the bus token. */
    static const char *const others[] = {"BUS_TOKEN", "FLEET", "BIN", "PYTHON", "FULL", "TEST"};
    for (; *environment; environment++) {
        const char *entry = *environment;
        if (strncmp(entry, "GRAMME_", 7) != 0) continue;
        const char *name = entry + 7, *equals = strchr(name, '=');
        if (!equals) continue;
        size_t bytes = (size_t) (equals - name);
        bool is_other = false;
        for (size_t i = 0; i < ARRAY_COUNT(others); i++)
            is_other |= strlen(others[i]) == bytes && memcmp(name, others[i], bytes) == 0;
        if (is_other || strncmp(name, "TEST_", 5) == 0) continue;
        char where[80];
        snprintf(where, sizeof where, "%.*s", (int) (bytes + 7), entry);
        int id = option_find(name, bytes);
        if (id < 0) {
            char folded[80];
            snprintf(folded, sizeof folded, "%.*s", (int) bytes, name);
            const char *near = option_suggest(folded, 0);
            if (!near) return err_set(error, ERR_USAGE, "unknown variable %s", where);
            snprintf(folded, sizeof folded, "%s", near);
            for (char *at = folded; *at; at++)
                *at = *at == '-' ? '_' : (char) toupper((unsigned char) *at);
            return err_set(error, ERR_USAGE, "unknown variable %s; did you mean GRAMME_%s?", where,
                           folded);
        }
        if (!(option_get((enum option_id) id)->commands & options->command)) continue;
        enum err e =
            options_set(options, (enum option_id) id, equals + 1, SOURCE_ENVIRONMENT, where, error);
        if (e) return e;
    }
    return ERR_OK;
}

/* --- the command line -------------------------------------------------------------------- */

struct flag {
    int id; /* -1: unknown */
    bool is_negated;
    const char *value; /* after '='; NULL: none */
    char name[64];     /* as written, for messages */
};

static struct flag flag_split(const char *argument) {
    struct flag flag = {.id = -1};
    const char *name = argument[1] == '-' ? argument + 2 : argument + 1;
    const char *equals = strchr(name, '=');
    size_t bytes = equals ? (size_t) (equals - name) : strlen(name);
    flag.value = equals ? equals + 1 : NULL;
    snprintf(flag.name, sizeof flag.name, "%.*s", (int) (bytes < 63 ? bytes : 63), name);
    if (argument[1] != '-') {
        static const char letters[] = "mptfo";
        static const int ids[] = {OPT_MODEL, OPT_PORT, OPT_THREADS, OPT_FILE, OPT_OUTPUT};
        const char *at = bytes == 1 ? strchr(letters, name[0]) : NULL;
        if (at && *at) flag.id = ids[at - letters];
        return flag;
    }
    flag.id = option_find(name, bytes);
    if (flag.id < 0 && bytes > 3 &&
        (strncmp(name, "no-", 3) == 0 || strncmp(name, "no_", 3) == 0)) {
        int id = option_find(name + 3, bytes - 3);
        if (id >= 0 && option_get((enum option_id) id)->type == OPTION_BOOL) {
            flag.id = id;
            flag.is_negated = true;
        }
    }
    return flag;
}

static enum err flag_unknown(const struct options *options, const char *argument,
                             const struct flag *flag, struct err_text *error) {
    if (flag->id >= 0)
        return err_set(error, ERR_USAGE, "%s is not an option of this command", argument);
    const char *near = option_suggest(flag->name, options->command);
    if (near)
        return err_set(error, ERR_USAGE, "unknown option %s; did you mean --%s?", argument, near);
    return err_set(error, ERR_USAGE, "unknown option %s; see 'gramme help COMMAND'", argument);
}

enum err options_read_arguments(struct options *options, int count, char *const *arguments,
                                const char **positional, uint32_t positional_max,
                                uint32_t *positional_count, struct err_text *error) {
    uint32_t found = 0;
    bool is_flags_over = false;
    for (int i = 0; i < count; i++) {
        const char *argument = arguments[i];
        if (is_flags_over || argument[0] != '-' || argument[1] == '\0') {
            if (found == positional_max)
                return err_set(error, ERR_USAGE, "one argument too many: '%s'", argument);
            positional[found++] = argument;
            continue;
        }
        if (strcmp(argument, "--") == 0) {
            is_flags_over = true;
            continue;
        }
        struct flag flag = flag_split(argument);
        if (flag.id < 0 || !(option_get((enum option_id) flag.id)->commands & options->command))
            return flag_unknown(options, argument, &flag, error);
        const struct option *option = option_get((enum option_id) flag.id);
        const char *value = flag.value;
        if (option->type == OPTION_BOOL) {
            double ignored;
            if (flag.is_negated && value)
                return err_set(error, ERR_USAGE, "%s takes no value", argument);
            /* `--json false` is read as a value, as YAML users write it; anything else stays. */
            if (!value && !flag.is_negated && i + 1 < count && strlen(arguments[i + 1]) > 1 &&
                parse_bool(arguments[i + 1], &ignored))
                value = arguments[++i];
            if (!value) value = flag.is_negated ? "false" : "true";
        } else if (!value) {
            if (i + 1 == count)
                return err_set(error, ERR_USAGE, "--%s needs a value (%s)", option->name,
                               type_wants(option->type));
            value = arguments[++i];
        }
        char where[80];
        snprintf(where, sizeof where, "--%s", option->name);
        enum err e =
            options_set(options, (enum option_id) flag.id, value, SOURCE_FLAG, where, error);
        if (e) return e;
    }
    *positional_count = found;
    return ERR_OK;
}

/* --- reading what was set ---------------------------------------------------------------- */

unsigned options_command(const struct options *options) { return options->command; }

bool options_is_set(const struct options *options, enum option_id id) {
    const struct value *value = &options->values[id];
    return is_given(value) && (!value->is_auto || value->is_chosen);
}

bool options_is_auto(const struct options *options, enum option_id id) {
    const struct value *value = &options->values[id];
    return value->is_auto && !value->is_chosen;
}

enum option_source options_source(const struct options *options, enum option_id id) {
    return options->values[id].source;
}

bool options_bool(const struct options *options, enum option_id id) {
    CHECK(option_get(id)->type == OPTION_BOOL);
    return options->values[id].number != 0;
}

uint64_t options_count(const struct options *options, enum option_id id) {
    CHECK(option_get(id)->type == OPTION_COUNT || option_get(id)->type == OPTION_BYTES);
    return (uint64_t) options->values[id].number;
}

uint32_t options_ms(const struct options *options, enum option_id id) {
    CHECK(option_get(id)->type == OPTION_DURATION);
    return (uint32_t) fmin(options->values[id].number, 4e9);
}

double options_number(const struct options *options, enum option_id id) {
    return options->values[id].number;
}

const char *options_text(const struct options *options, enum option_id id) {
    return options->values[id].text;
}

uint32_t options_list_count(const struct options *options, enum option_id id) {
    return options->values[id].item_count;
}

const char *options_list_item(const struct options *options, enum option_id id, uint32_t index) {
    CHECK(index < options->values[id].item_count);
    return options->values[id].items[index];
}

const char *options_value(const struct options *options, enum option_id id, uint32_t index) {
    const struct value *value = &options->values[id];
    if (option_get(id)->type == OPTION_LIST)
        return index < value->item_count ? value->items[index] : NULL;
    return index == 0 ? value->text : NULL;
}

uint32_t options_print_ignored(const struct options *options, struct buf *out) {
    uint32_t count = 0;
    for (int i = 0; i < OPT_COUNT; i++) {
        const struct option *option = option_get((enum option_id) i);
        if (option->standing != OPTION_IGNORED || !options_is_set(options, (enum option_id) i))
            continue;
        buf_add_format(out, "%s%s", count++ ? ", " : "", option->name);
    }
    return count;
}

void options_print(const struct options *options, struct buf *out) {
    static const char *const sources[] = {"default", "model", "file", "environment", "flag"};
    for (int i = 0; i < OPT_COUNT; i++) {
        const struct option *option = option_get((enum option_id) i);
        const struct value *value = &options->values[i];
        if (!(option->commands & options->command)) continue;
        if (option->standing != OPTION_HONOURED && !options_is_set(options, (enum option_id) i))
            continue;
        char shown[256] = "-";
        /* Keys are secrets: a printed configuration ends up in tickets. */
        if (i == OPT_API_KEY) snprintf(shown, sizeof shown, "%u keys", value->item_count);
        else if (value->text) snprintf(shown, sizeof shown, "%s", value->text);
        else if (value->item_count)
            snprintf(shown, sizeof shown, "%s%s", value->items[0],
                     value->item_count > 1 ? " ..." : "");
        buf_add_format(out, "%-26s %-24s %s%s\n", option->name, shown, sources[value->source],
                       value->is_chosen ? " (auto)" : "");
    }
}

void options_print_help(unsigned command, struct buf *out) {
    const char *group = "";
    for (int i = 0; i < OPT_COUNT; i++) {
        const struct option *option = option_get((enum option_id) i);
        if (!(option->commands & command) || option->standing != OPTION_HONOURED) continue;
        if (strcmp(group, option->group) != 0) {
            group = option->group;
            buf_add_format(out, "\n%s\n", group);
        }
        char head[96];
        snprintf(head, sizeof head, "--%s%s%s", option->name,
                 option->type == OPTION_BOOL ? "" : " ",
                 option->type == OPTION_BOOL                                  ? ""
                 : option->type == OPTION_WORD                                ? "WORD"
                 : option->type == OPTION_BYTES                               ? "SIZE"
                 : option->type == OPTION_TEXT || option->type == OPTION_LIST ? "TEXT"
                                                                              : "N");
        buf_add_format(out, "  %-30s %s", head, option->help);
        if (option->words) buf_add_format(out, "%s%s", *option->help ? ": " : "", option->words);
        if (option->fallback && option->type != OPTION_BOOL)
            buf_add_format(out, " [%s%s%s]", option->fallback, *option->unit ? " " : "",
                           option->unit);
        else if (option->fallback)
            buf_add_format(out, " [%s]", strcmp(option->fallback, "true") == 0 ? "on" : "off");
        buf_add_byte(out, '\n');
    }
}
