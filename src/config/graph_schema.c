/* graph_schema - the names of the classic schema: sections, keys, their old names, connectors. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "config/graph_impl.h"

static char fold(char c) { return c == '_' ? '-' : c; }

bool graph_schema_equal(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if (fold(*a) != fold(*b)) return false;
    return *a == *b;
}

/* --- sections ----------------------------------------------------------------------------- */

static const char *const section_names[] = {"Frontend",   "Processor",     "Router",
                                            "VllmWorker", "PrefillWorker", "Planner"};

const char *graph_section_name(enum graph_section_id id) {
    return (unsigned) id < ARRAY_COUNT(section_names) ? section_names[id] : "Common";
}

enum graph_schema_top graph_schema_top(const char *name, enum graph_section_id *section) {
    for (unsigned i = 0; i < ARRAY_COUNT(section_names); i++)
        if (strcmp(name, section_names[i]) == 0) {
            *section = (enum graph_section_id) i;
            return GRAPH_TOP_SECTION;
        }
    if (strcmp(name, "Common") == 0) return GRAPH_TOP_COMMON;
    if (strncmp(name, "Planner", 7) == 0 || strncmp(name, "Mock", 4) == 0 ||
        strncmp(name, "Sample", 6) == 0 || strcmp(name, "Metrics") == 0 ||
        strncmp(name, "x-", 2) == 0 || *name == '.' || *name == '_') /* holders of anchors */
        return GRAPH_TOP_ACCEPTED;
    return GRAPH_TOP_UNKNOWN;
}

const char *graph_schema_suggest_top(const char *name) {
    static const char *const names[] = {"Frontend",   "Processor",     "Router", "Common",
                                        "VllmWorker", "PrefillWorker", "Planner"};
    if (graph_schema_equal(name, "DecodeWorker") || graph_schema_equal(name, "Worker"))
        return "VllmWorker";
    return option_suggest_among(name, names, ARRAY_COUNT(names));
}

/* --- keys --------------------------------------------------------------------------------- */

/* What a section may set. */
static unsigned commands_of(enum graph_section_id section) {
    switch (section) {
    case GRAPH_FRONTEND:
    case GRAPH_ROUTER: return OPTION_FRONTEND;
    case GRAPH_VLLM_WORKER:
    case GRAPH_PREFILL_WORKER: return OPTION_WORKER;
    default: return OPTION_FRONTEND | OPTION_WORKER; /* the Processor took every engine flag */
    }
}

/* Options of the command line that mean nothing in a file. */
static bool is_flag_only(enum option_id id) {
    return id == OPT_FILE || id == OPT_PRINT_CONFIG || id == OPT_DEVICES || id == OPT_SHAPE ||
           id == OPT_FORCE || id == OPT_API_KEY;
}

bool graph_schema_is_flag(const char *key) {
    int id = option_find(key, strlen(key));
    return id >= 0 && is_flag_only((enum option_id) id);
}

static int find_option(const char *key) {
    if (graph_schema_equal(key, "model-name")) return OPT_MODEL;
    if (graph_schema_equal(key, "endpoint-chat")) return OPT_ENDPOINT;
    int id = option_find(key, strlen(key));
    return id >= 0 && is_flag_only((enum option_id) id) ? -1 : id;
}

struct graph_schema_key graph_schema_key(enum graph_section_id section, const char *key) {
    struct graph_schema_key found = {.kind = GRAPH_KEY_OPTION};
    if (graph_schema_equal(key, "ServiceArgs")) found.kind = GRAPH_KEY_SERVICE_ARGS;
    else if (graph_schema_equal(key, "common-configs")) found.kind = GRAPH_KEY_COMMON_CONFIGS;
    else if (graph_schema_equal(key, "seed")) found.kind = GRAPH_KEY_SILENT;
    if (found.kind != GRAPH_KEY_OPTION) {
        if (section == GRAPH_SECTION_COUNT && found.kind != GRAPH_KEY_SILENT)
            found.kind = GRAPH_KEY_UNKNOWN; /* neither stands in Common */
        return found;
    }
    int id = find_option(key);
    if (id < 0 && strncmp(key, "no", 2) == 0 && fold(key[2]) == '-') {
        id = find_option(key + 3);
        if (id >= 0 && option_get((enum option_id) id)->type != OPTION_BOOL) id = -1;
        found.is_negated = id >= 0;
    }
    /* The Frontend of 0.1.0 called the served name so. */
    if (section == GRAPH_FRONTEND && id == OPT_MODEL) id = OPT_SERVED_MODEL_NAME;
    if (id < 0 ||
        !(option_get((enum option_id) id)->commands & (OPTION_FRONTEND | OPTION_WORKER))) {
        found.kind = GRAPH_KEY_UNKNOWN;
        return found;
    }
    found.id = (enum option_id) id;
    if (!(option_get(found.id)->commands & commands_of(section))) found.kind = GRAPH_KEY_MISPLACED;
    return found;
}

enum graph_schema_place graph_schema_place(const char *key) {
    static const struct {
        const char *key;
        enum graph_schema_place place;
    } places[] = {
        {"workers", GRAPH_PLACE_WORKERS},
        {"replicas", GRAPH_PLACE_WORKERS},
        {"num-workers", GRAPH_PLACE_WORKERS},
        {"resources", GRAPH_PLACE_RESOURCES},
        {"gpu", GRAPH_PLACE_GPU},
        {"gpus", GRAPH_PLACE_GPU},
        {"num-gpus", GRAPH_PLACE_GPU},
        {"nvidia.com/gpu", GRAPH_PLACE_GPU},
        {"envs", GRAPH_PLACE_ENVS},
        {"env", GRAPH_PLACE_ENVS},
    };
    for (size_t i = 0; i < ARRAY_COUNT(places); i++)
        if (graph_schema_equal(key, places[i].key)) return places[i].place;
    return GRAPH_PLACE_NONE;
}

/* What other programs and people call an option, too far from its name to be near. */
static const char *other_name(const char *key) {
    static const struct {
        const char *key, *name;
    } names[] = {
        {"tp", "tensor-parallel-size"},
        {"tp-size", "tensor-parallel-size"},
        {"tensor-parallel", "tensor-parallel-size"},
        {"tensor-parallelism", "tensor-parallel-size"},
        {"pp", "pipeline-parallel-size"},
        {"pp-size", "pipeline-parallel-size"},
        {"context-length", "max-model-len"},
        {"max-context-length", "max-model-len"},
        {"max-seq-len", "max-model-len"},
        {"max-sequence-length", "max-model-len"},
        {"mem-fraction-static", "gpu-memory-utilization"},
        {"memory-utilization", "gpu-memory-utilization"},
        {"gpu-utilization", "gpu-memory-utilization"},
        {"gpu-mem-utilization", "gpu-memory-utilization"},
        {"max-batch-size", "max-num-seqs"},
        {"max-batched-tokens", "max-num-batched-tokens"},
        {"max-num-tokens", "max-num-batched-tokens"},
        {"kv-dtype", "kv-cache-dtype"},
        {"kv-block-size", "block-size"},
        {"page-size", "block-size"},
        {"model-path", "model"},
        {"model-id", "model"},
        {"served-name", "served-model-name"},
        {"served-model", "served-model-name"},
        {"prefix-caching", "enable-prefix-caching"},
        {"chunked-prefill", "enable-chunked-prefill"},
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++)
        if (graph_schema_equal(key, names[i].key)) return names[i].name;
    return NULL;
}

const char *graph_schema_suggest_key(enum graph_section_id section, const char *key) {
    static const char *const special[] = {"ServiceArgs", "common-configs"};
    if (graph_schema_place(key) != GRAPH_PLACE_NONE) return NULL; /* it belongs elsewhere */
    const char *near = other_name(key);
    if (!near) near = option_suggest_among(key, special, ARRAY_COUNT(special));
    if (!near) near = option_suggest(key, commands_of(section));
    return near && graph_schema_is_flag(near) ? NULL : near;
}

/* --- connectors --------------------------------------------------------------------------- */

/* vLLM's and the classic patch's; all mean "move KV between workers", which ours does. */
static const char *const connectors[] = {
    "DynamoNixlConnector", "NixlConnector",      "NixlPushConnector",      "PyNcclConnector",
    "P2pNcclConnector",    "MooncakeConnector",  "LMCacheConnector",       "MooncakeStoreConnector",
    "LMCacheConnectorV1",  "LMCacheMPConnector", "SharedStorageConnector", "MultiConnector",
    "OffloadingConnector", "DynamoConnector",    "MoRIIOConnector",        "ExampleConnector",
    "HF3FSConnector",      "FlexKVConnectorV1",
};

enum err graph_schema_check_connector(const char *json, struct err_text *text,
                                      struct err_text *fix) {
    static const char example[] = "'{\"kv_connector\":\"DynamoNixlConnector\"}'";
    (void) err_set(fix, ERR_OK, "write %s", example);
    json_error_t error;
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return err_set(text, ERR_USAGE, "this is not JSON: %s (column %d of the value)", error.text,
                       error.column);
    enum err e = ERR_OK;
    const char *name = json_string_value(json_object_get(root, "kv_connector"));
    if (!json_is_object(root)) e = err_set(text, ERR_USAGE, "a JSON object is wanted");
    else if (!name) e = err_set(text, ERR_USAGE, "kv_connector is missing");
    bool is_known = false;
    for (size_t i = 0; !e && i < ARRAY_COUNT(connectors); i++)
        is_known |= strcmp(connectors[i], name) == 0;
    if (!e && !is_known) {
        const char *near = option_suggest_among(name, connectors, ARRAY_COUNT(connectors));
        if (near) (void) err_set(fix, ERR_OK, "write \"kv_connector\":\"%s\"", near);
        e = err_set(text, ERR_USAGE, "unknown connector '%.60s'%s%s%s", name,
                    near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
    }
    json_decref(root);
    return e;
}
