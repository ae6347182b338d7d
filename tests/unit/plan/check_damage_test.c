/* Goal: random legal graph files have no error and no warning; damaged in several of the known ways
 * at once, each damage is named with its section, key and line, and nothing else is; mended, a
 * second check is clean and the plan fits; no line changes but those that were damaged.
 *
 * Random with a printed seed (GRAMME_TEST_SEED repeats one). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/num.h"
#include "config/yaml_fix.h"
#include "plan/check.h"

#define FILES 60
#define LINES_MAX 96
#define LINE_BYTES 160
#define DAMAGES_MAX 5
#define DEVICES "32xA100-40GB"

static uint64_t random_state, current_seed;

static uint32_t draw(uint32_t below) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t) (random_state >> 33) % below;
}
static bool toss(void) { return draw(2) == 1; }

/* --- a document by lines --------------------------------------------------------------------- */

struct line {
    char text[LINE_BYTES];
    bool is_touched; /* by a damage: its mend may change it */
};

struct doc {
    enum graph_kind kind;
    struct line lines[LINES_MAX];
    uint32_t count;
    uint32_t parallel[2], gpus[2]; /* decode, prefill */
};

static void put(struct doc *doc, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct doc *doc, const char *format, ...) {
    va_list arguments;
    assert_true(doc->count < LINES_MAX);
    va_start(arguments, format);
    vsnprintf(doc->lines[doc->count++].text, LINE_BYTES, format, arguments);
    va_end(arguments);
}

/* Comments as people strew them. */
static void put_noise(struct doc *doc) {
    if (draw(4) == 0) put(doc, "%*s# note %u: leave this", (int) (draw(2) * 2), "", draw(1000));
    if (draw(8) == 0) put(doc, "%s", "");
}

static const char *key(const char *name) {
    static char turned[4][64];
    static uint32_t at;
    char *out = turned[at++ % 4];
    bool is_turned = draw(4) == 0; /* underscores are as good */
    snprintf(out, 64, "%s", name);
    for (char *c = out; *c; c++)
        if (*c == '-' && is_turned) *c = '_';
    return out;
}

static void put_worker(struct doc *doc, const char *name, uint32_t index) {
    bool is_decode = index == 0;
    uint32_t parallel = doc->parallel[index], replicas = 1 + draw(2);
    put(doc, "%s:%s", name, toss() ? " # loads the model" : "");
    put_noise(doc);
    if (is_decode && graph_is_disagg(doc->kind)) {
        put(doc, "  %s: true", key("remote-prefill"));
        if (toss()) put(doc, "  %s: true", key("conditional-disagg"));
        if (toss()) put(doc, "  %s: %u", key("max-local-prefill-length"), 10 + draw(2000));
    }
    put(doc, "  %s: %u%s", key("tensor-parallel-size"), parallel, toss() ? "   # of a node" : "");
    put(doc, "  %s: 0.%u", key("gpu-memory-utilization"), 8 + draw(2));
    put(doc, "  %s: 8192", key("max-num-batched-tokens"));
    put_noise(doc);
    put(doc, "  %s: [model, block-size, max-model-len, kv-transfer-config]", key("common-configs"));
    put(doc, "  ServiceArgs:");
    put(doc, "    workers: %u", replicas);
    if (toss()) put(doc, "    envs: [{name: NCCL_DEBUG, value: INFO}]");
    put(doc, "    resources:");
    put(doc, toss() ? "      gpu: %u" : "      gpu: '%u'", parallel);
}

static void make_doc(struct doc *doc) {
    memset(doc, 0, sizeof *doc);
    doc->kind = (enum graph_kind) draw(GRAPH_KIND_COUNT);
    for (int i = 0; i < 2; i++) doc->parallel[i] = 1u << (1 + draw(2)); /* 2 or 4 */
    put(doc, "# a graph");
    put(doc, "Common:");
    put(doc, "  model: /models/DeepSeek-R1-Distill-Llama-8B");
    put(doc, "  %s: %u", key("block-size"), 16u << draw(3));
    put(doc, "  %s: %s", key("max-model-len"), toss() ? "16384" : "16k");
    put(doc, "  %s: '{\"kv_connector\":\"DynamoNixlConnector\"}'", key("kv-transfer-config"));
    put_noise(doc);
    put(doc, "Frontend:");
    put(doc, "  served_model_name: ours");
    put(doc, "  endpoint: dynamo.Processor.chat/completions");
    put(doc, "  port: %u", 8000 + draw(1000));
    put_noise(doc);
    put(doc, "Processor:");
    put(doc, "  router: %s", graph_has_router(doc->kind) ? "kv" : "round-robin");
    put(doc, "  common-configs: [model, block-size]");
    if (graph_has_router(doc->kind)) {
        put(doc, "Router:");
        put(doc, "  %s: 1", key("min-workers"));
        put(doc, "  common-configs: [model, block-size]");
    }
    put_worker(doc, "VllmWorker", 0);
    if (graph_is_disagg(doc->kind)) put_worker(doc, "PrefillWorker", 1);
}

static void join(const struct doc *doc, char *text, size_t room) {
    size_t at = 0;
    for (uint32_t i = 0; i < doc->count; i++)
        at += (size_t) snprintf(text + at, room - at, "%s\n", doc->lines[i].text);
    assert_true(at < room);
}

static bool is_named(const char *text, const char *name) {
    for (; *name; text++, name++)
        if (*text != *name && !(*text == '_' && *name == '-')) return false;
    return *text == ':';
}

/* The line of a section, from 0. */
static uint32_t section_line(const struct doc *doc, const char *section) {
    for (uint32_t i = 0; i < doc->count; i++)
        if (is_named(doc->lines[i].text, section)) return i;
    return UINT32_MAX;
}

/* The line of a key of a section. */
static uint32_t find_line(const struct doc *doc, const char *section, const char *name) {
    uint32_t i = section_line(doc, section);
    if (i == UINT32_MAX) return i;
    for (i++; i < doc->count; i++) {
        const char *text = doc->lines[i].text;
        if (*text && *text != ' ' && *text != '#') break;
        if (is_named(text + strspn(text, " "), name)) return i;
    }
    return UINT32_MAX;
}

static void insert_line(struct doc *doc, uint32_t at, const char *text) {
    assert_true(doc->count < LINES_MAX);
    memmove(&doc->lines[at + 1], &doc->lines[at], (doc->count - at) * sizeof *doc->lines);
    doc->count++;
    snprintf(doc->lines[at].text, LINE_BYTES, "%s", text);
    doc->lines[at].is_touched = true;
}

static void drop_line(struct doc *doc, uint32_t at) {
    doc->count--;
    memmove(&doc->lines[at], &doc->lines[at + 1], (doc->count - at) * sizeof *doc->lines);
}

/* The value behind the ':' of a line, comments too, is `value` from now on. */
static void set_value(struct doc *doc, uint32_t at, const char *value) {
    char *colon = strchr(doc->lines[at].text, ':');
    assert_non_null(colon);
    snprintf(colon + 1, LINE_BYTES - (size_t) (colon + 1 - doc->lines[at].text), " %s", value);
    doc->lines[at].is_touched = true;
}

/* --- damages ----------------------------------------------------------------------------------- */

/* What check has to say, and where: the line that holds `section` and `line_key` ("" the section
 * itself). */
struct expect {
    const char *code, *section, *key;
    char key_text[64];
    const char *line_section, *line_key;
    bool is_section_line;
    bool is_decision; /* nothing that --fix could decide: asked for, and still there afterwards */
};

static const char *worker_of(const struct doc *doc) {
    return graph_is_disagg(doc->kind) && toss() ? "PrefillWorker" : "VllmWorker";
}

/* Each gives false when the document has no place for it. */
typedef bool (*damage_fn)(struct doc *doc, struct expect *out);

static bool drop_parallel(struct doc *doc, struct expect *out) {
    const char *worker = worker_of(doc);
    drop_line(doc, find_line(doc, worker, "tensor-parallel-size"));
    *out = (struct expect){"tp-missing", worker, "tensor-parallel-size", "", worker, "", true};
    return true;
}

static bool empty_parallel(struct doc *doc, struct expect *out) {
    const char *worker = worker_of(doc);
    set_value(doc, find_line(doc, worker, "tensor-parallel-size"), "");
    *out = (struct expect){"tp-missing",           worker, "tensor-parallel-size", "", worker,
                           "tensor-parallel-size", false};
    return true;
}

static bool multiply_gpus(struct doc *doc, struct expect *out) {
    const char *worker = worker_of(doc);
    set_value(doc, find_line(doc, worker, "gpu"), toss() ? "8" : "1");
    *out = (struct expect){"gpu-differs", worker, "ServiceArgs.resources.gpu", "", worker,
                           "gpu",         false};
    return true;
}

static bool misspell_key(struct doc *doc, struct expect *out) {
    static const char *const keys[] = {"tensor-parallel-size", "gpu-memory-utilization",
                                       "max-num-batched-tokens", "common-configs"};
    const char *worker = worker_of(doc);
    uint32_t at = find_line(doc, worker, keys[draw(ARRAY_COUNT(keys))]);
    char *text = doc->lines[at].text, *colon = strchr(text, ':');
    char *gone = text + 4 + draw((uint32_t) (colon - text) - 6);
    if (*gone == gone[1] || *gone == '-' || *gone == '_') gone = text + 5;
    memmove(gone, gone + 1, strlen(gone));
    doc->lines[at].is_touched = true;
    *out = (struct expect){"unknown-key", worker, NULL, "", worker, NULL, false};
    snprintf(out->key_text, sizeof out->key_text, "%.*s", (int) strcspn(text + 2, ":"), text + 2);
    return true;
}

static bool misspell_section(struct doc *doc, struct expect *out) {
    uint32_t at = section_line(doc, "Processor");
    snprintf(doc->lines[at].text, LINE_BYTES, "Procesor:");
    doc->lines[at].is_touched = true;
    *out = (struct expect){"unknown-section", "Procesor", "", "", "Procesor", "", true};
    return true;
}

static bool differ_blocks(struct doc *doc, struct expect *out) {
    if (!graph_has_router(doc->kind)) return false;
    insert_line(doc, section_line(doc, "Router") + 1, "  block-size: 128");
    *out = (struct expect){"block-size-differs", "Router", "block-size", "", "Router",
                           "block-size",         false};
    return true;
}

static bool switch_off(struct doc *doc, struct expect *out) {
    if (!graph_is_disagg(doc->kind)) return false;
    uint32_t at = find_line(doc, "VllmWorker", "remote-prefill");
    bool is_dropped = toss();
    if (is_dropped) drop_line(doc, at);
    else set_value(doc, at, toss() ? "false" : "");
    *out = (struct expect){"remote-prefill-off",
                           "VllmWorker",
                           "remote-prefill",
                           "",
                           "VllmWorker",
                           is_dropped ? "" : "remote-prefill",
                           is_dropped};
    return true;
}

static bool map_envs(struct doc *doc, struct expect *out) {
    const char *worker = worker_of(doc);
    uint32_t at = find_line(doc, worker, "workers") + 1;
    if (find_line(doc, worker, "envs") != UINT32_MAX) return false;
    insert_line(doc, at, "    env:");
    insert_line(doc, at + 1, "      LOG: 'debug' # loud");
    insert_line(doc, at + 2, "      OTHER: 3");
    *out = (struct expect){"unknown-key", worker, "ServiceArgs.env", "", worker, "env", false};
    return true;
}

static bool misjudge_share(struct doc *doc, struct expect *out) {
    static const char *const shares[] = {"80", "8", "85%", "0,9"};
    const char *worker = worker_of(doc);
    set_value(doc, find_line(doc, worker, "gpu-memory-utilization"), shares[draw(4)]);
    *out = (struct expect){"bad-value", worker, NULL, "", worker, "gpu-memory-utilization", false};
    const char *text = doc->lines[find_line(doc, worker, "gpu-memory-utilization")].text + 2;
    snprintf(out->key_text, sizeof out->key_text, "%.*s", (int) strcspn(text, ":"), text);
    return true;
}

static bool differ_models(struct doc *doc, struct expect *out) {
    if (!graph_is_disagg(doc->kind)) return false;
    insert_line(doc, section_line(doc, "PrefillWorker") + 1, "  model: my_model");
    *out = (struct expect){"model-differs", "PrefillWorker", "model", "",
                           "PrefillWorker", "model",         false};
    return true;
}

static bool repeat_key(struct doc *doc, struct expect *out) {
    insert_line(doc, find_line(doc, "Frontend", "port") + 1,
                "  endpoint: dynamo.Processor.chat/completions");
    *out = (struct expect){"duplicate-key", "Frontend", "endpoint", "", "Frontend", NULL, false};
    return true;
}

static bool miss_space(struct doc *doc, struct expect *out) {
    uint32_t at = find_line(doc, "Common", "block-size");
    char *colon = strchr(doc->lines[at].text, ':');
    memmove(colon + 1, colon + 2, strlen(colon + 1));
    doc->lines[at].is_touched = true;
    *out = (struct expect){"yaml-syntax", "", "", "", "Common", "block-size", false};
    return true;
}

static bool indent_with_tab(struct doc *doc, struct expect *out) {
    uint32_t at = find_line(doc, "Processor", "router");
    if (at == UINT32_MAX) return false;
    char *text = doc->lines[at].text;
    text[0] = '\t';
    memmove(text + 1, text + 2, strlen(text + 1));
    doc->lines[at].is_touched = true;
    *out = (struct expect){"yaml-tab", "", "", "", "Processor", "\trouter", false};
    return true;
}

static bool break_connector(struct doc *doc, struct expect *out) {
    uint32_t at = find_line(doc, "Common", "kv-transfer-config");
    set_value(doc, at, toss() ? "DynamoNixlConnector" : "{kv_connector: DynamoNixConnector}");
    *out = (struct expect){"kv-transfer-config", "VllmWorker", NULL, "", "Common",
                           "kv-transfer-config", false};
    const char *text = doc->lines[at].text + 2;
    snprintf(out->key_text, sizeof out->key_text, "%.*s", (int) strcspn(text, ":"), text);
    return true;
}

static bool misspell_common(struct doc *doc, struct expect *out) {
    uint32_t at = find_line(doc, "Processor", "common-configs");
    if (at == UINT32_MAX) return false;
    set_value(doc, at, "[modle, block-size]");
    *out = (struct expect){"common-missing", "Processor", "common-configs", "", "Processor",
                           "common-configs", false};
    return true;
}

static bool type_as_format(struct doc *doc, struct expect *out) {
    const char *worker = worker_of(doc);
    insert_line(doc, section_line(doc, worker) + 1, "  dtype: fp8");
    *out = (struct expect){"bad-value", worker, "dtype", "", worker, "dtype", false};
    return true;
}

static bool outgrow_model(struct doc *doc, struct expect *out) {
    uint32_t at = find_line(doc, "Common", "max-model-len");
    set_value(doc, at, "200000");
    *out = (struct expect){"len-beyond-model", "VllmWorker", "max-model-len", "", "Common",
                           "max-model-len",    false};
    return true;
}

static bool cut_heads(struct doc *doc, struct expect *out) {
    const char *worker = worker_of(doc);
    set_value(doc, find_line(doc, worker, "tensor-parallel-size"), "3");
    set_value(doc, find_line(doc, worker, "gpu"), "3");
    *out = (struct expect){.code = "tp-heads",
                           .section = worker,
                           .key = "tensor-parallel-size",
                           .line_section = worker,
                           .line_key = "tensor-parallel-size",
                           .is_decision = true};
    return true;
}

static bool add_stranger(struct doc *doc, struct expect *out) {
    insert_line(doc, find_line(doc, "Frontend", "endpoint"), "  zzzzzz: 1");
    *out = (struct expect){.code = "unknown-key",
                           .section = "Frontend",
                           .key = "zzzzzz",
                           .line_section = "Frontend",
                           .line_key = "zzzzzz",
                           .is_decision = true};
    return true;
}

static bool repeat_otherwise(struct doc *doc, struct expect *out) {
    insert_line(doc, find_line(doc, "Frontend", "port") + 1, "  port: 7");
    *out = (struct expect){.code = "duplicate-key",
                           .section = "Frontend",
                           .key = "port",
                           .line_section = "Frontend",
                           .is_decision = true};
    return true;
}

static bool hire_too_many(struct doc *doc, struct expect *out) {
    const char *worker = worker_of(doc);
    set_value(doc, find_line(doc, worker, "workers"), "40");
    *out = (struct expect){.code = "too-few-devices",
                           .section = worker,
                           .key = "ServiceArgs.workers",
                           .line_section = worker,
                           .line_key = "workers",
                           .is_decision = true};
    return true;
}

/* Of one set at most one: they speak of the same line. */
static const struct {
    damage_fn fn;
    uint32_t sets;
} damages[] = {
    {drop_parallel, 1},
    {empty_parallel, 1},
    {multiply_gpus, 1},
    {misspell_key, 1 | 2},
    {misspell_section, 4},
    {differ_blocks, 8},
    {switch_off, 16},
    {map_envs, 32},
    {misjudge_share, 2},
    {differ_models, 64},
    {repeat_key, 128},
    {miss_space, 256},
    {indent_with_tab, 4},
    {break_connector, 512},
    {misspell_common, 4},
    {type_as_format, 1024},
    {outgrow_model, 2048 | 2},
    {cut_heads, 1 | 2 | 2048 | 4096},
    {add_stranger, 8192},
    {repeat_otherwise, 128},
    {hire_too_many, 1 | 4096 | 16384},
};

/* --- trials ------------------------------------------------------------------------------------ */

static bool check_text(const struct doc *doc, const char *text, struct problem_list *problems) {
    struct device_list list;
    struct err_text why;
    struct graph graph;
    struct graph_source source = {
        .name = "file", .yaml = (const uint8_t *) text, .bytes = strlen(text)};
    assert_int_equal(device_list_parse(DEVICES, NULL, &why, &list), ERR_OK);
    assert_int_not_equal(graph_read(doc->kind, &source, problems, &graph), ERR_MEMORY);
    const struct graph_plan_target target = {.devices = &list, .thread_count = 1};
    const struct check_target check = {.plan = &target, .is_elsewhere = true};
    assert_int_equal(check_graph(&graph, &check, problems), ERR_OK);
    struct graph_plan plan;
    assert_int_equal(graph_plan_make(&graph, &target, &why, &plan), ERR_OK);
    bool fits = plan.fits;
    graph_plan_release(&plan);
    graph_release(&graph);
    device_list_release(&list);
    problem_sort(problems);
    return fits;
}

static void complain(const char *what, const char *text, const struct problem_list *problems) {
    struct buf out;
    buf_init(&out, 0);
    problem_print(problems, "file", false, &out);
    const char *lines = buf_string(&out);
    print_message("%s\n%s", text, lines ? lines : "");
    buf_release(&out);
    fail_msg("%s (GRAMME_TEST_SEED=%llu)", what, (unsigned long long) current_seed);
}

static uint32_t wrong_count(const struct problem_list *problems) {
    return problem_count(problems, PROBLEM_ERROR) + problem_count(problems, PROBLEM_WARNING);
}

static void find_damage(const struct doc *doc, const struct expect *expect, const char *text,
                        const struct problem_list *problems) {
    const char *name = expect->key ? expect->key : expect->key_text;
    uint32_t line = 0;
    if (expect->is_section_line) line = section_line(doc, expect->line_section) + 1;
    else if (expect->line_key && *expect->line_key != '\t')
        line = find_line(doc, expect->line_section, expect->line_key) + 1;
    for (uint32_t i = 0; i < problems->count; i++) {
        const struct problem *problem = &problems->items[i];
        if (strcmp(problem->code, expect->code) == 0 &&
            (strcmp(problem->component, expect->section) == 0 || problem->mark.is_common) &&
            strcmp(problem->key, name) == 0 && (!line || problem->mark.line == line))
            return;
    }
    char what[160];
    snprintf(what, sizeof what, "not told: %s %s.%s line %u", expect->code, expect->section, name,
             line);
    complain(what, text, problems);
}

static void mend(const struct doc *doc, char *text, size_t room, struct problem_list *problems) {
    for (int pass = 0; pass < 8; pass++) {
        struct buf out;
        buf_init(&out, room - 1);
        uint32_t count = yaml_fix_apply((const uint8_t *) text, strlen(text), problems, &out);
        assert_int_equal(out.failed, ERR_OK);
        memcpy(text, out.data, out.bytes);
        text[out.bytes] = '\0';
        buf_release(&out);
        if (!count) break;
        problem_release(problems);
        check_text(doc, text, problems);
    }
}

/* Each line that no damage touched stands in the mended text, in its order. */
static void check_kept(const struct doc *doc, const char *text,
                       const struct problem_list *problems) {
    const char *at = text;
    for (uint32_t i = 0; i < doc->count; i++) {
        char line[LINE_BYTES + 2];
        if (doc->lines[i].is_touched) continue;
        size_t bytes = (size_t) snprintf(line, sizeof line, "%s\n", doc->lines[i].text);
        while (*at && strncmp(at, line, bytes) != 0) {
            at += strcspn(at, "\n");
            at += *at == '\n';
        }
        if (!*at) complain(line, text, problems);
        at += bytes;
    }
}

static void try_one(void) {
    static struct doc doc;
    static char text[LINES_MAX * LINE_BYTES], damaged[LINES_MAX * LINE_BYTES];
    struct problem_list problems = {0};
    make_doc(&doc);
    join(&doc, text, sizeof text);
    if (!check_text(&doc, text, &problems) || wrong_count(&problems))
        complain("a legal file", text, &problems);
    problem_release(&problems);

    struct expect expects[DAMAGES_MAX];
    uint32_t count = 0, sets = 0, wanted = 1 + draw(DAMAGES_MAX);
    for (int tries = 0; tries < 40 && count < wanted; tries++) {
        uint32_t i = draw(ARRAY_COUNT(damages));
        if (sets & damages[i].sets || !damages[i].fn(&doc, &expects[count])) continue;
        sets |= damages[i].sets;
        count++;
    }
    join(&doc, text, sizeof text);
    snprintf(damaged, sizeof damaged, "%s", text);
    check_text(&doc, text, &problems);
    for (uint32_t i = 0; i < count; i++) find_damage(&doc, &expects[i], text, &problems);
    if (wrong_count(&problems) != count) complain("told more than was damaged", text, &problems);

    mend(&doc, text, sizeof text, &problems);
    problem_release(&problems);
    bool fits = check_text(&doc, text, &problems);
    uint32_t decisions = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!expects[i].is_decision) continue;
        decisions++;
        expects[i].line_key = NULL; /* lines may have moved */
        find_damage(&doc, &expects[i], text, &problems);
    }
    for (uint32_t i = 0; i < problems.count; i++)
        if (problems.items[i].severity != PROBLEM_NOTE && !problems.items[i].fix)
            complain("left without a word of what to do", text, &problems);
    if ((!decisions && !fits) || wrong_count(&problems) != decisions) {
        print_message("%s\n--- mended:\n", damaged);
        complain("not mended", text, &problems);
    }
    check_kept(&doc, text, &problems);
    problem_release(&problems);
}

static void test_damages(void **state) {
    (void) state;
    const char *seed = getenv("GRAMME_TEST_SEED");
    uint64_t first = seed ? strtoull(seed, NULL, 10) : (uint64_t) time(NULL);
    print_message("seeds from %llu\n", (unsigned long long) first);
    for (uint64_t i = 0; i < FILES; i++) {
        random_state = (first + i) * 0x9e3779b97f4a7c15u;
        current_seed = first + i;
        try_one();
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_damages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
