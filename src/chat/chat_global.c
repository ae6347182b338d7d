/* chat_global - see chat_global.h. */
#include "chat/chat_global.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "chat/chat_iter.h"
#include "chat/chat_text.h"

#define RANGE_ITEMS_MAX 100000 /* the reference's sandbox refuses longer ones */

static enum err call_range(struct chat_run *run, const struct chat_args *args,
                           struct chat_value *out) {
    int64_t part[3] = {0, 0, 1};
    if (args->count < 1 || args->count > 3 || args->named_count)
        return chat_run_fail(run, ERR_FORMAT, "range expects 1 to 3 arguments");
    for (uint32_t i = 0; i < args->count; i++) {
        if (chat_eval_index(&args->values[i], &part[args->count == 1 ? 1 : i])) continue;
        if (args->values[i].kind == CHAT_UNDEFINED)
            return chat_value_refuse_undefined(run, &args->values[i]);
        return chat_run_fail(run, ERR_FORMAT, "range needs integers, not '%s'",
                             chat_value_kind_name(&args->values[i]));
    }
    if (part[2] == 0) return chat_run_fail(run, ERR_FORMAT, "the step of range is zero");
    __int128 distance = part[2] > 0 ? (__int128) part[1] - part[0] : (__int128) part[0] - part[1];
    __int128 step = part[2] > 0 ? part[2] : -(__int128) part[2];
    __int128 count = distance > 0 ? (distance - 1) / step + 1 : 0;
    if (count > RANGE_ITEMS_MAX)
        return chat_run_fail(run, ERR_FORMAT, "range is longer than %d", RANGE_ITEMS_MAX);
    struct chat_range_object *range = chat_run_take(run, 1, sizeof *range);
    if (!range) return run->failed;
    *range = (struct chat_range_object){part[0], part[2], (int64_t) count};
    *out = (struct chat_value){.kind = CHAT_RANGE, .range = range};
    return ERR_OK;
}

/* dict(mapping or pairs, name=value ...) */
static enum err fill_dict(struct chat_run *run, const struct chat_args *args,
                          struct chat_dict *dict) {
    *dict = (struct chat_dict){0};
    enum err e = ERR_OK;
    if (args->count > 1) return chat_run_fail(run, ERR_FORMAT, "expected at most 1 argument");
    if (args->count == 1 && args->values[0].kind == CHAT_DICT) {
        const struct chat_dict *from = args->values[0].dict;
        for (uint32_t i = 0; !e && i < from->count; i++)
            e = chat_value_dict_set(run, dict, &from->entries[i].key, &from->entries[i].value);
    } else if (args->count == 1) {
        struct chat_value pairs, pair;
        e = chat_iter_list(run, &args->values[0], CHAT_LIST, &pairs);
        for (uint32_t i = 0; !e && i < pairs.count; i++) {
            e = chat_iter_list(run, &pairs.items[i], CHAT_LIST, &pair);
            if (!e && pair.count != 2)
                e = chat_run_fail(run, ERR_FORMAT, "a dict is made of pairs");
            if (!e) e = chat_value_dict_set(run, dict, &pair.items[0], &pair.items[1]);
        }
    }
    for (uint32_t i = 0; !e && i < args->named_count; i++)
        e = chat_value_dict_set(run, dict, &args->named[i].name, &args->named[i].value);
    return e;
}

static enum err call_dict(struct chat_run *run, const struct chat_args *args,
                          struct chat_value *out) {
    struct chat_dict *dict = chat_run_take(run, 1, sizeof *dict);
    if (!dict) return run->failed;
    *out = (struct chat_value){.kind = CHAT_DICT, .dict = dict};
    return fill_dict(run, args, dict);
}

static enum err call_namespace(struct chat_run *run, const struct chat_args *args,
                               struct chat_value *out) {
    struct chat_space *space = chat_run_take(run, 1, sizeof *space);
    if (!space) return run->failed;
    *out = (struct chat_value){.kind = CHAT_SPACE, .space = space};
    return fill_dict(run, args, &space->dict);
}

static enum err call_cycler(struct chat_run *run, const struct chat_args *args,
                            struct chat_value *out) {
    if (args->count == 0 || args->named_count)
        return chat_run_fail(run, ERR_FORMAT, "cycler needs at least one item");
    struct chat_cycler *cycler = chat_run_take(run, 1, sizeof *cycler);
    struct chat_value *items = chat_run_take(run, args->count, sizeof *items);
    if (!cycler || !items) return run->failed;
    memcpy(items, args->values, args->count * sizeof *items);
    *cycler = (struct chat_cycler){.items = items, .count = args->count};
    *out = (struct chat_value){.kind = CHAT_CYCLER, .cycler = cycler};
    return ERR_OK;
}

/* box[0]: the separator, box[1]: whether it was used. */
static enum err call_joiner(struct chat_run *run, const struct chat_args *args,
                            struct chat_value *out) {
    static const char *const names[] = {"sep", NULL};
    struct chat_value *box = chat_run_take(run, 2, sizeof *box);
    if (!box) return run->failed;
    enum err e = chat_eval_bind(run, "joiner", names, 0, args, box);
    if (box[0].kind == CHAT_MISSING) box[0] = CHAT_LITERAL(", ");
    box[1] = chat_value_bool(false);
    *out = (struct chat_value){.kind = CHAT_JOINER, .box = box};
    return e;
}

enum err chat_global_join(struct chat_run *run, const struct chat_value *joiner,
                          const struct chat_args *args, struct chat_value *out) {
    if (args->count || args->named_count)
        return chat_run_fail(run, ERR_FORMAT, "a joiner takes no arguments");
    *out = joiner->box[1].integer ? joiner->box[0] : CHAT_LITERAL("");
    joiner->box[1].integer = 1;
    return ERR_OK;
}

/* The template's own refusal: its message and nothing else. */
static enum err call_raise(struct chat_run *run, const struct chat_args *args,
                           struct chat_value *out) {
    static const char *const names[] = {"message", NULL};
    struct chat_value message, text;
    enum err e = chat_eval_bind(run, "raise_exception", names, 1, args, &message);
    if (!e) e = chat_text_out_copy(run, &message, &text);
    if (e) return e;
    run->failed = ERR_USAGE;
    return err_set(run->text, ERR_USAGE, "%.*s", (int) (text.count > 1000 ? 1000 : text.count),
                   text.text);
}

/* One conversion of strftime.  The template chooses it, so no compiler can check it. */
static size_t print_time(char *text, size_t room, const char *spec, const struct tm *parts) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    return strftime(text, room, spec, parts);
#pragma GCC diagnostic pop
}

static enum err call_strftime(struct chat_run *run, const struct chat_args *args,
                              struct chat_value *out) {
    static const char *const names[] = {"format", NULL};
    struct chat_value format;
    enum err e = chat_eval_bind(run, "strftime_now", names, 1, args, &format);
    if (e) return e;
    if (format.kind != CHAT_TEXT)
        return chat_run_fail(run, ERR_FORMAT, "strftime_now needs a string");
    time_t now = (time_t) run->now_s;
    struct tm parts;
    if (!localtime_r(&now, &parts)) return chat_run_fail(run, ERR_FORMAT, "no such time");
    struct chat_capture capture = chat_run_capture(run);
    for (uint32_t i = 0; !e && i < format.count; i++) {
        char spec[3] = {'%', 0, 0}, text[128];
        if (format.text[i] != '%' || i + 1 == format.count) {
            e = chat_run_out_slice(run, &format, i, i + 1);
            continue;
        }
        spec[1] = format.text[++i];
        if (spec[1] == 'z' || spec[1] == 'Z') continue; /* the reference's time has no zone */
        size_t length = print_time(text, sizeof text, spec, &parts);
        if (spec[1] == 'f') length = (size_t) snprintf(text, sizeof text, "000000");
        e = chat_run_out(run, text, length, format.marks != NULL);
    }
    return e ? e : chat_run_capture_end(run, capture, out);
}

static const struct {
    const char *name;
    enum err (*call)(struct chat_run *, const struct chat_args *, struct chat_value *);
} globals[] = {
    {"range", call_range},           {"dict", call_dict},     {"namespace", call_namespace},
    {"cycler", call_cycler},         {"joiner", call_joiner}, {"raise_exception", call_raise},
    {"strftime_now", call_strftime},
};

struct chat_value chat_global_find(const char *name, uint32_t bytes) {
    struct chat_value value = {0};
    for (uint8_t i = 0; i < ARRAY_COUNT(globals); i++) {
        if (strlen(globals[i].name) != bytes || memcmp(globals[i].name, name, bytes) != 0) continue;
        value.kind = CHAT_FUNCTION;
        value.sub = i;
    }
    return value;
}

enum err chat_global_call(struct chat_run *run, uint8_t function, const struct chat_args *args,
                          struct chat_value *out) {
    return globals[function].call(run, args, out);
}
