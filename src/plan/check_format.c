/* check_format - what a graph says of the weights' format against what the checkpoint holds.
 *
 * The files are read where they are on this machine (config.json, the GGUF's tensors); else the
 * model's name is all there is. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "model/json_file.h"
#include "model/model_resolve.h"
#include "model/tensor_type.h"
#include "plan/check_impl.h"
#include "plan/plan_model.h"

/* Formats of the vLLM of that time, by what makes their weights alike.  is_online: made of plain
 * weights while they are loaded. */
static const struct {
    const char *word, *format;
    bool is_online;
} formats[] = {
    {"fp8", "fp8", true},
    {"fbgemm_fp8", "fp8", false},
    {"ptpc_fp8", "fp8", true},
    {"modelopt", "fp8", false},
    {"modelopt_fp4", "fp4", false},
    {"nvfp4", "fp4", false},
    {"mxfp4", "fp4", false},
    {"awq", "awq", false},
    {"awq_marlin", "awq", false},
    {"gptq", "gptq", false},
    {"gptq_marlin", "gptq", false},
    {"gptq_marlin_24", "gptq", false},
    {"gptq_bitblas", "gptq", false},
    {"marlin", "gptq", false},
    {"compressed-tensors", "", false}, /* a container of any format */
    {"moe_wna16", "", false},          /* gptq or awq */
    {"quark", "", false},
    {"auto-round", "", false},
    {"inc", "", false},
    {"torchao", "", true},
    {"bitsandbytes", "bitsandbytes", true},
    {"gguf", "gguf", false},
    {"int8", "int8", false},
    {"experts_int8", "int8", true},
    {"tpu_int8", "int8", true},
    {"deepspeedfp", "deepspeedfp", true},
    {"aqlm", "aqlm", false},
    {"hqq", "hqq", false},
    {"qqq", "qqq", false},
    {"bitblas", "bitblas", false},
    {"ipex", "", false},
    {"neuron_quant", "", true},
    {"rtn", "int8", true},
};

static const char *const names_to_write = "fp8, modelopt, awq, gptq, gguf, bitsandbytes";

/* Index in formats; -1: none. */
static int find_format(const char *word) {
    for (size_t i = 0; i < ARRAY_COUNT(formats); i++) {
        const char *a = word, *b = formats[i].word;
        while (*a && *b && ((*a == '-' ? '_' : *a | 32) == (*b == '-' ? '_' : *b | 32))) a++, b++;
        if (!*a && !*b) return (int) i;
    }
    return -1;
}

/* What the checkpoint is known to hold. */
struct held {
    const char *format; /* "fp8"; "" some container; NULL: nothing is known */
    bool is_plain;      /* not quantized at all */
    char where[64];     /* "its config.json says", "its name says" */
    char word[48];
};

static void read_config(const char *folder, struct held *out) {
    char path[MODEL_PATH_BYTES];
    struct err_text text;
    json_t *config = NULL, *other = NULL;
    if (!model_resolve_join(path, folder, "config.json") || json_file_load(path, &text, &config))
        return;
    const json_t *quantization = json_file_get(config, "quantization_config");
    if (!quantization) quantization = json_file_get(config, "compression_config");
    const char *method = json_string_value(json_object_get(quantization, "quant_method"));
    snprintf(out->where, sizeof out->where, "its config.json says");
    if (!quantization && model_resolve_join(path, folder, "hf_quant_config.json") &&
        json_file_load(path, &text, &other) == ERR_OK) {
        const char *algorithm = json_string_value(
            json_object_get(json_object_get(other, "quantization"), "quant_algo"));
        method = algorithm && strcasestr(algorithm, "fp4") ? "modelopt_fp4" : "modelopt";
        snprintf(out->where, sizeof out->where, "its hf_quant_config.json says");
    }
    if (method) {
        int index = find_format(method);
        out->format = index < 0 ? "" : formats[index].format;
        snprintf(out->word, sizeof out->word, "%.40s", method);
    } else if (!quantization) {
        out->is_plain = true;
    }
    json_decref(config);
    json_decref(other);
}

static void look(const char *model, struct held *out) {
    struct model_source source;
    struct err_text text;
    memset(out, 0, sizeof *out);
    if (model_resolve(model, &text, &source) == ERR_OK) {
        if (source.kind == MODEL_SOURCE_FOLDER) {
            read_config(source.path, out);
            return;
        }
        out->format = "gguf";
        snprintf(out->where, sizeof out->where, "the file is a");
        snprintf(out->word, sizeof out->word, "GGUF");
        return;
    }
    double bits;
    const char *last = strrchr(model, '/'), *named;
    last = last && last[1] ? last + 1 : model;
    if (strcasestr(last, "gguf")) named = "gguf";
    else if (!plan_model_format_of(last, &bits, &named)) return;
    /* int4 and int8 in a name may be any of several ways to store them. */
    bool is_width = strcmp(named, "int4") == 0 || strcmp(named, "int8") == 0;
    out->format = is_width ? "" : named;
    snprintf(out->where, sizeof out->where, "the checkpoint's name says");
    snprintf(out->word, sizeof out->word, "%s", named);
}

static void refuse(struct checker *checker, enum graph_section_id id, const char *written,
                   const struct held *held) {
    struct problem_mark mark = check_mark(checker, id, OPT_QUANTIZATION);
    struct problem *problem;
    if (held->is_plain)
        problem = problem_add(checker->problems, PROBLEM_ERROR, "format-differs",
                              graph_section_name(id), "quantization", mark,
                              "remove quantization: the checkpoint is not quantized",
                              "'%.60s', and %s nothing of a quantization", written, held->where);
    else
        problem = problem_add(checker->problems, PROBLEM_ERROR, "format-differs",
                              graph_section_name(id), "quantization", mark,
                              "remove quantization: the checkpoint tells its own format",
                              "'%.60s', and %s %s", written, held->where, held->word);
    if (!mark.is_common) problem_set_edit(problem, PROBLEM_EDIT_REMOVE, 0, "-");
}

static void check_quantization(struct checker *checker, enum graph_section_id id) {
    const struct options *options = checker->graph->sections[id].options;
    const char *written = options_text(options, OPT_QUANTIZATION);
    const char *model = options_text(options, OPT_MODEL);
    if (!written || !*written || strcasecmp(written, "none") == 0 ||
        strcasecmp(written, "auto") == 0)
        return;
    int index = find_format(written);
    if (index < 0) {
        const char *words[ARRAY_COUNT(formats)], *near;
        for (size_t i = 0; i < ARRAY_COUNT(formats); i++) words[i] = formats[i].word;
        near = option_suggest_among(written, words, ARRAY_COUNT(words));
        char fix[160];
        if (near) snprintf(fix, sizeof fix, "write %s", near);
        else snprintf(fix, sizeof fix, "write %s, or remove it", names_to_write);
        struct problem *problem =
            problem_add(checker->problems, PROBLEM_ERROR, "bad-value", graph_section_name(id),
                        "quantization", check_mark(checker, id, OPT_QUANTIZATION), fix,
                        "'%.60s' is no weight format that is known", written);
        if (near) problem_set_edit(problem, PROBLEM_EDIT_VALUE, 0, "%s", near);
        return;
    }
    if (!model) return;
    struct held held;
    look(model, &held);
    bool is_open = !*formats[index].format && held.format && strcmp(held.format, "gguf") != 0;
    if (is_open || (!held.format && !held.is_plain)) return;
    if (held.is_plain && formats[index].is_online) return;
    if (held.format && (!*held.format || strcmp(held.format, formats[index].format) == 0)) return;
    refuse(checker, id, written, &held);
}

void check_formats(struct checker *checker) {
    for (int i = GRAPH_VLLM_WORKER; i <= GRAPH_PREFILL_WORKER; i++)
        if (checker->graph->sections[i].is_used)
            check_quantization(checker, (enum graph_section_id) i);
}
