/* top_view - see top_view.h. */
#include "cmd/top_view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define WORKERS_MAX 65536u
#define WIDE_COLUMNS 111u
#define HEAD_WIDE                                                                                  \
    "COMPONENT        NODE     STATE    TP BUDGET PLANNED   USED  OTHER  RUN WAIT   KV  HIT    "   \
    "IN/S   OUT/S  XFER/S\n"
#define HEAD_NARROW "COMPONENT        STATE    PLANNED   USED  OTHER  RUN WAIT   KV   IN/S  OUT/S\n"
#define DRIFT_BYTES (64u << 20) /* as device_watch.h warns */

static void take_text(const json_t *object, const char *key, char *out, size_t room) {
    const char *text = json_string_value(json_object_get(object, key));
    snprintf(out, room, "%s", text ? text : "");
    for (char *at = out; *at; at++) /* a server's words must not move our cursor */
        if ((unsigned char) *at < 0x20 || (unsigned char) *at == 0x7f) *at = '?';
}

static uint64_t take_number(const json_t *object, const char *key) {
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t) value : 0;
}

static void read_worker(const json_t *object, struct top_worker *out) {
#define TEXT(field) take_text(object, #field, out->field, sizeof out->field)
#define NUMBER(field) out->field = take_number(object, #field)
    TEXT(instance);
    TEXT(name);
    TEXT(host);
    TEXT(state);
    TEXT(component);
    out->tensor_parallel = (uint32_t) take_number(object, "tensor_parallel");
    NUMBER(device_bytes);
    NUMBER(budget_bytes);
    NUMBER(planned_bytes);
    NUMBER(block_bytes);
    NUMBER(blocks_total);
    NUMBER(blocks_free);
    NUMBER(blocks_cached);
    NUMBER(running);
    NUMBER(waiting);
    NUMBER(queued_prefills);
    NUMBER(step_us);
    NUMBER(prompt_tokens);
    NUMBER(generation_tokens);
    NUMBER(prefix_query_tokens);
    NUMBER(prefix_hit_tokens);
    NUMBER(sent_bytes);
    NUMBER(received_bytes);
    NUMBER(device_used_bytes);
    NUMBER(device_other_bytes);
    NUMBER(device_drift_bytes);
}

static void read_card(const json_t *object, struct top_card *out) {
    TEXT(node);
    TEXT(name);
    TEXT(largest_name);
    NUMBER(index);
    NUMBER(total_bytes);
    NUMBER(used_bytes);
    NUMBER(other_bytes);
    NUMBER(largest_pid);
    NUMBER(largest_bytes);
#undef TEXT
#undef NUMBER
}

static int by_name(const void *a, const void *b) {
    const struct top_worker *left = a, *right = b;
    int order = strcmp(left->component, right->component); /* prefill before worker: turned */
    if (order) return -order;
    order = strcmp(left->name, right->name);
    return order ? order : strcmp(left->instance, right->instance);
}

enum err top_view_read(const json_t *root, struct top_view *out) {
    const json_t *workers = json_object_get(root, "workers");
    size_t count = json_array_size(workers);
    if (!json_is_array(workers) || count > WORKERS_MAX) return ERR_FORMAT;
    struct top_view view = {.now_us = take_number(root, "now_us"),
                            .started_s = take_number(root, "started_s"),
                            .connections = take_number(root, "connections"),
                            .requests = take_number(root, "requests"),
                            .requests_waiting = take_number(root, "requests_waiting"),
                            .prompt_tokens = take_number(root, "prompt_tokens"),
                            .generation_tokens = take_number(root, "generation_tokens"),
                            .migrations = take_number(root, "migrations"),
                            .worker_count = (uint32_t) count};
    take_text(root, "version", view.version, sizeof view.version);
    take_text(root, "model", view.model, sizeof view.model);
    take_text(root, "state", view.state, sizeof view.state);
    const json_t *cards = json_object_get(root, "cards");
    for (size_t i = 0; i < json_array_size(cards) && i < DEVICE_GPUS_MAX; i++)
        read_card(json_array_get(cards, i), &view.cards[view.card_count++]);
    view.workers = alloc_zero(count + 1, sizeof *view.workers);
    if (!view.workers) return ERR_MEMORY;
    for (size_t i = 0; i < count; i++) read_worker(json_array_get(workers, i), &view.workers[i]);
    qsort(view.workers, count, sizeof *view.workers, by_name);
    *out = view;
    return ERR_OK;
}

void top_view_release(struct top_view *view) {
    alloc_free(view->workers);
    *view = (struct top_view){0};
}

/* --- printing ----------------------------------------------------------------------------- */

struct cell {
    char text[32];
};

static struct cell bytes_cell(uint64_t bytes) {
    struct cell cell;
    static const char units[] = "BKMGT";
    double value = (double) bytes;
    size_t unit = 0;
    while (value >= 1000 && unit + 2 < sizeof units) value /= 1024, unit++;
    snprintf(cell.text, sizeof cell.text, value < 10 && unit ? "%.1f%c" : "%.0f%c", value,
             units[unit]);
    return cell;
}

static struct cell rate_cell(uint64_t before, uint64_t now, double seconds) {
    struct cell cell = {"-"};
    if (seconds > 0 && now >= before)
        snprintf(cell.text, sizeof cell.text, "%.0f", (double) (now - before) / seconds);
    return cell;
}

static struct cell bytes_rate_cell(uint64_t before, uint64_t now, double seconds) {
    struct cell cell = {"-"};
    if (seconds > 0 && now >= before)
        cell = bytes_cell((uint64_t) ((double) (now - before) / seconds));
    return cell;
}

static struct cell percent_cell(uint64_t part, uint64_t whole) {
    struct cell cell = {"-"};
    if (whole)
        snprintf(cell.text, sizeof cell.text, "%.0f%%", 100.0 * (double) part / (double) whole);
    return cell;
}

static const struct top_worker *find_before(const struct top_view *before,
                                            const struct top_worker *worker) {
    for (uint32_t i = 0; before && i < before->worker_count; i++)
        if (strcmp(before->workers[i].instance, worker->instance) == 0) return &before->workers[i];
    return NULL;
}

/* Memory as the worker's watch saw it. */
static struct cell seen_cell(const struct top_worker *worker, uint64_t bytes) {
    struct cell cell = {"-"};
    return worker->device_used_bytes ? bytes_cell(bytes) : cell;
}

/* A plan that does not hold: what the watch warns of, for those who look here. */
static void print_drift(const struct top_worker *worker, struct buf *out) {
    uint64_t drift = worker->device_drift_bytes;
    if (drift <= worker->planned_bytes / 100 + DRIFT_BYTES) return;
    buf_add_format(out, "%s uses %s beyond its plan\n",
                   worker->name[0] ? worker->name : worker->instance, bytes_cell(drift).text);
}

static void print_worker(const struct top_worker *was, const struct top_worker *worker,
                         double seconds, bool is_narrow, struct buf *out) {
    static const struct top_worker none;
    double span = was ? seconds : 0;
    if (!was) was = &none;
    uint64_t free_blocks = worker->blocks_free + worker->blocks_cached;
    uint64_t used = worker->blocks_total > free_blocks ? worker->blocks_total - free_blocks : 0;
    uint64_t moved = worker->sent_bytes + worker->received_bytes;
    uint64_t moved_before = was->sent_bytes + was->received_bytes;
    const char *name = worker->name[0] ? worker->name : worker->instance;
    buf_add_format(out, "%-16.16s ", name);
    if (!is_narrow) buf_add_format(out, "%-8.8s ", worker->host);
    buf_add_format(out, "%-8.8s ", worker->state);
    if (!is_narrow)
        buf_add_format(out, "%2u %6s ", worker->tensor_parallel,
                       bytes_cell(worker->budget_bytes).text);
    buf_add_format(out, "%7s %6s %6s %4llu %4llu %4s ", bytes_cell(worker->planned_bytes).text,
                   seen_cell(worker, worker->device_used_bytes).text,
                   seen_cell(worker, worker->device_other_bytes).text,
                   (unsigned long long) worker->running,
                   (unsigned long long) (worker->waiting + worker->queued_prefills),
                   percent_cell(used, worker->blocks_total).text);
    if (!is_narrow)
        buf_add_format(out, "%4s ",
                       percent_cell(worker->prefix_hit_tokens, worker->prefix_query_tokens).text);
    buf_add_format(out, is_narrow ? "%6s %6s" : "%7s %7s",
                   rate_cell(was->prompt_tokens, worker->prompt_tokens, span).text,
                   rate_cell(was->generation_tokens, worker->generation_tokens, span).text);
    if (!is_narrow) buf_add_format(out, " %7s", bytes_rate_cell(moved_before, moved, span).text);
    buf_add_byte(out, '\n');
}

static void print_cards(const struct top_view *view, struct buf *out) {
    if (!view->card_count) return;
    buf_add_format(out, "%-5s%-8s %-24s %6s %6s %6s  %s\n", "CARD", "NODE", "NAME", "TOTAL", "USED",
                   "OTHER", "LARGEST OTHER");
    for (uint32_t i = 0; i < view->card_count; i++) {
        const struct top_card *card = &view->cards[i];
        buf_add_format(out, "%-5llu%-8.8s %-24.24s %6s %6s %6s", (unsigned long long) card->index,
                       card->node, card->name, bytes_cell(card->total_bytes).text,
                       bytes_cell(card->used_bytes).text, bytes_cell(card->other_bytes).text);
        if (card->largest_pid)
            buf_add_format(out, "  %s%spid %llu %s", card->largest_name,
                           card->largest_name[0] ? " " : "", (unsigned long long) card->largest_pid,
                           bytes_cell(card->largest_bytes).text);
        buf_add_byte(out, '\n');
    }
}

void top_view_print(const struct top_view *before, const struct top_view *now, const char *url,
                    uint64_t now_s, uint32_t columns, struct buf *out) {
    bool is_narrow = columns && columns < WIDE_COLUMNS;
    double seconds =
        before && now->now_us > before->now_us ? (double) (now->now_us - before->now_us) / 1e6 : 0;
    uint64_t up_s = now_s > now->started_s ? now_s - now->started_s : 0;
    buf_add_format(out, "gramme %s  %s  %s  %s  up %llu:%02u:%02u\n", now->version, url, now->model,
                   now->state, (unsigned long long) (up_s / 3600), (unsigned) (up_s / 60 % 60),
                   (unsigned) (up_s % 60));
    uint64_t hits = 0, queries = 0;
    struct top_worker was = {0}, sum = {0}; /* of the workers seen twice */
    for (uint32_t i = 0; i < now->worker_count; i++) {
        const struct top_worker *worker = &now->workers[i];
        const struct top_worker *earlier = find_before(before, worker);
        hits += worker->prefix_hit_tokens;
        queries += worker->prefix_query_tokens;
        if (!earlier) continue;
        was.prompt_tokens += earlier->prompt_tokens;
        was.generation_tokens += earlier->generation_tokens;
        sum.prompt_tokens += worker->prompt_tokens;
        sum.generation_tokens += worker->generation_tokens;
    }
    buf_add_format(
        out,
        "requests %llu (%llu waiting)  tokens/s in %s out %s  prefix hits %s  migrations %llu  "
        "connections %llu\n\n",
        (unsigned long long) now->requests, (unsigned long long) now->requests_waiting,
        rate_cell(was.prompt_tokens, sum.prompt_tokens, seconds).text,
        rate_cell(was.generation_tokens, sum.generation_tokens, seconds).text,
        percent_cell(hits, queries).text, (unsigned long long) now->migrations,
        (unsigned long long) now->connections);
    buf_add_string(out, is_narrow ? HEAD_NARROW : HEAD_WIDE);
    for (uint32_t i = 0; i < now->worker_count; i++)
        print_worker(find_before(before, &now->workers[i]), &now->workers[i], seconds, is_narrow,
                     out);
    for (uint32_t i = 0; i < now->worker_count; i++) print_drift(&now->workers[i], out);
    if (!now->worker_count) buf_add_string(out, "no worker is there\n");
    print_cards(now, out);
}
