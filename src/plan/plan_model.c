/* plan_model - see plan_model.h. */
#include "plan/plan_model.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "model/hf_config.h"
#include "model/json_file.h"
#include "model/model_catalog.h"
#include "model/model_resolve.h"
#include "plan/plan_format.h"

/* Bits a weight: groups of 128 with a 16-bit scale and a packed zero for 4 bits; channel scales
 * (fp8, int8) weigh nothing beside it. */
static const struct {
    const char *word, *format;
    double bits;
} formats[] = {
    {"gptq-int4", "gptq", 4.25},
    {"gptq-int8", "gptq", 8.25},
    {"gptq_marlin", "gptq", 4.25},
    {"gptq", "gptq", 4.25},
    {"awq_marlin", "awq", 4.25},
    {"awq", "awq", 4.25},
    {"w4a16", "int4", 4.25},
    {"int4", "int4", 4.25},
    {"4bit", "int4", 4.5},
    {"bitsandbytes", "int4", 4.5},
    {"bnb", "int4", 4.5},
    {"w8a8", "int8", 8},
    {"int8", "int8", 8},
    {"modelopt_fp4", "fp4", 4.5},
    {"nvfp4", "fp4", 4.5},
    {"-fp4", "fp4", 4.5},
    {"modelopt", "fp8", 8},
    {"fp8", "fp8", 8},
    {"compressed-tensors", "fp8", 8},
    /* GGUF's blocks, scales included; the mixtures of K formats keep some matrices wider. */
    {"q8_0", "gguf", 8.5},
    {"q6_k", "gguf", 6.5625},
    {"q5_k", "gguf", 5.7},
    {"q5_1", "gguf", 6},
    {"q5_0", "gguf", 5.5},
    {"q4_k", "gguf", 4.85},
    {"q4_1", "gguf", 5},
    {"q4_0", "gguf", 4.5},
    {"q3_k", "gguf", 3.95},
    {"q2_k", "gguf", 3.2},
    {"-f16", "f16", 16},
    {"-bf16", "bf16", 16},
    {"gguf", "gguf", 4.85}, /* nothing more said: the usual Q4_K_M */
};

static bool contains(const char *text, const char *word) {
    size_t bytes = strlen(word);
    for (; *text; text++)
        if (strncasecmp(text, word, bytes) == 0) return true;
    return false;
}

bool plan_model_format_of(const char *word, double *weight_bits, const char **format) {
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        if (!contains(word, formats[i].word)) continue;
        *weight_bits = formats[i].bits;
        *format = formats[i].format;
        return true;
    }
    return false;
}

static const char *last_part(const char *path) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start && path[start - 1] != '/') start--;
    return path + start;
}

static void find_format(const struct options *options, struct plan_model *out) {
    const char *path = options_text(options, OPT_MODEL), *quantization, *format = "";
    double bits = 0;
    const char *dtype = options_text(options, OPT_DTYPE);
    out->format.is_fp32 = dtype && strcmp(dtype, "float32") == 0;
    out->format.weight_bits = out->format.is_fp32 ? 32 : 16;
    if (out->source == PLAN_MODEL_FILES && tensor_type_is_quantized(out->spec.weight_type))
        out->format.weight_bits =
            8.0 * (double) tensor_type_bytes(out->spec.weight_type, 256) / 256;
    /* The makers of small formats leave the head at 8 bits or so. */
    if (out->format.weight_bits < 16)
        out->format.head_bits = out->format.weight_bits < 8.5 ? 8.5 : out->format.weight_bits;
    quantization = options_text(options, OPT_QUANTIZATION);
    if (out->source != PLAN_MODEL_FILES && plan_model_format_of(last_part(path), &bits, &format))
        out->format.weight_bits = bits;
    else if (quantization && plan_model_format_of(quantization, &bits, &format))
        out->format.weight_bits = bits;
    out->format.is_fp8 = strcmp(format, "fp8") == 0;
    plan_format_add_scales(format, &out->format);
}

/* A checkpoint of a format that is not built: all else of its config.json tells the shape, and
 * quantization_config the bytes.  Leaves `why`. */
static bool read_unbuilt(const char *folder, struct plan_model *out) {
    char path[MODEL_PATH_BYTES];
    json_t *config = NULL;
    struct err_text text;
    size_t bytes = strlen(folder);
    bool is_file = bytes > 5 && strcmp(folder + bytes - 5, ".json") == 0;
    if (is_file) snprintf(path, sizeof path, "%s", folder);
    else if (!model_resolve_join(path, folder, "config.json")) return false;
    if (json_file_load(path, &text, &config)) return false;
    const json_t *quantization = json_file_get(config, "quantization_config");
    struct cuda_estimate_format format;
    bool is_known = quantization && plan_format_of_config(quantization, &format);
    json_object_del(config, "quantization_config");
    is_known = is_known && hf_config_read(config, path, &text, &out->spec) == ERR_OK;
    json_decref(config);
    if (!is_known) return false;
    out->format = format;
    out->source = PLAN_MODEL_UNBUILT;
    return true;
}

/* The NAME of --shape PATH=NAME for this model; NULL: none. */
static const char *shape_of(const struct options *flags, const char *path) {
    for (uint32_t i = 0; flags && i < options_list_count(flags, OPT_SHAPE); i++) {
        const char *item = options_list_item(flags, OPT_SHAPE, i);
        const char *equals = strrchr(item, '=');
        if (equals && (size_t) (equals - item) == strlen(path) &&
            strncmp(item, path, strlen(path)) == 0)
            return equals + 1;
    }
    return NULL;
}

void plan_model_find(const struct options *options, const struct options *flags,
                     struct plan_model *out) {
    memset(out, 0, sizeof *out);
    out->source = PLAN_MODEL_UNKNOWN;
    const char *path = options_text(options, OPT_MODEL);
    out->name = path;
    if (!path) return;
    const char *shape = shape_of(flags, path);
    bool is_dummy = strcmp(options_text(options, OPT_LOAD_FORMAT), "dummy") == 0;
    struct model_open_options open = {.is_dummy = shape || is_dummy, .shape = shape};
    CHECK(tensor_type_parse(options_text(options, OPT_DUMMY_TYPE), &open.dummy_type));
    struct model_source source;
    enum err e = open.is_dummy ? ERR_OK : model_resolve(path, &out->why, &source);
    if (e == ERR_NOT_FOUND || (e && !shape)) {
        out->source =
            model_catalog_find(path, &out->spec) ? PLAN_MODEL_CATALOG : PLAN_MODEL_UNKNOWN;
        if (e != ERR_NOT_FOUND) out->source = PLAN_MODEL_BROKEN;
    } else {
        e = model_open(path, &open, &out->why, &out->model);
        out->is_unbuilt = e == ERR_UNSUPPORTED;
        out->is_told = shape != NULL;
        out->source = e ? PLAN_MODEL_BROKEN : open.is_dummy ? PLAN_MODEL_SHAPE : PLAN_MODEL_FILES;
        if (e && open.is_dummy && !shape) out->source = PLAN_MODEL_UNKNOWN;
        if (e == ERR_UNSUPPORTED && read_unbuilt(shape           ? shape
                                                 : open.is_dummy ? path
                                                                 : source.path,
                                                 out)) {
            snprintf(out->spec.name, sizeof out->spec.name, "%.80s", last_part(path));
            return;
        }
        if (!e) {
            out->spec = *model_get_spec(out->model);
            out->why.text[0] = '\0';
        }
    }
    find_format(options, out);
}

void plan_model_release(struct plan_model *model) {
    model_close(model->model);
    model->model = NULL;
}
