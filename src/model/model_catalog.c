/* model_catalog - see model_catalog.h.  A table: its lines are not reflowed. */
#include "model/model_catalog.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* Bits of a shape's flags. */
enum {
    TIED = 1,
    QKV_BIAS = 2,
    QK_NORM = 4,
};

struct shape {
    const char *name; /* lower case, without suffixes */
    enum model_family family;
    uint32_t layers, hidden, ffn, heads, kv_heads, head_dim, vocab, context;
    float theta, epsilon;
    uint32_t flags;
    float llama3_factor; /* 0: no scaling; low 1, high 4, original 8192 */
    uint32_t sliding_window;
};

/* clang-format off */
static const struct shape shapes[] = {
    /* Shapes for tests: small, of every family, K a multiple of 32 or (-k-) of 256. */
    {"tiny-llama-test", MODEL_LLAMA, 2, 64, 192, 4, 2, 16, 256, 512, 1e4f, 1e-5f, TIED, 0, 0},
    {"tiny-llama-k-test", MODEL_LLAMA, 2, 256, 768, 8, 2, 32, 512, 1024, 5e5f, 1e-5f, 0, 8, 0},
    {"tiny-mistral-test", MODEL_MISTRAL, 2, 96, 160, 6, 2, 32, 320, 512, 1e4f, 1e-5f, 0, 0, 0},
    {"tiny-qwen2-test", MODEL_QWEN2, 2, 64, 192, 4, 1, 16, 256, 512, 1e6f, 1e-6f,
     TIED | QKV_BIAS, 0, 0},
    {"tiny-qwen3-test", MODEL_QWEN3, 3, 128, 256, 8, 4, 32, 320, 512, 1e6f, 1e-6f, QK_NORM, 0, 0},

    {"smollm2-135m", MODEL_LLAMA, 30, 576, 1536, 9, 3, 64, 49152, 8192, 1e5f, 1e-5f, TIED, 0, 0},
    {"smollm2-360m", MODEL_LLAMA, 32, 960, 2560, 15, 5, 64, 49152, 8192, 1e5f, 1e-5f, TIED, 0, 0},
    {"smollm2-1.7b", MODEL_LLAMA, 24, 2048, 8192, 32, 32, 64, 49152, 8192, 1.3e5f, 1e-5f, TIED,
     0, 0},
    {"tinyllama-1.1b", MODEL_LLAMA, 22, 2048, 5632, 32, 4, 64, 32000, 2048, 1e4f, 1e-5f, 0, 0, 0},
    {"llama-2-7b", MODEL_LLAMA, 32, 4096, 11008, 32, 32, 128, 32000, 4096, 1e4f, 1e-5f, 0, 0, 0},
    {"llama-2-13b", MODEL_LLAMA, 40, 5120, 13824, 40, 40, 128, 32000, 4096, 1e4f, 1e-5f, 0, 0, 0},
    {"llama-2-70b", MODEL_LLAMA, 80, 8192, 28672, 64, 8, 128, 32000, 4096, 1e4f, 1e-5f, 0, 0, 0},
    {"llama-3-8b", MODEL_LLAMA, 32, 4096, 14336, 32, 8, 128, 128256, 8192, 5e5f, 1e-5f, 0, 0, 0},
    {"llama-3-70b", MODEL_LLAMA, 80, 8192, 28672, 64, 8, 128, 128256, 8192, 5e5f, 1e-5f, 0, 0, 0},
    {"llama-3.1-8b", MODEL_LLAMA, 32, 4096, 14336, 32, 8, 128, 128256, 131072, 5e5f, 1e-5f, 0, 8,
     0},
    {"llama-3.1-70b", MODEL_LLAMA, 80, 8192, 28672, 64, 8, 128, 128256, 131072, 5e5f, 1e-5f, 0,
     8, 0},
    {"llama-3.1-405b", MODEL_LLAMA, 126, 16384, 53248, 128, 8, 128, 128256, 131072, 5e5f, 1e-5f,
     0, 8, 0},
    {"llama-3.2-1b", MODEL_LLAMA, 16, 2048, 8192, 32, 8, 64, 128256, 131072, 5e5f, 1e-5f, TIED,
     32, 0},
    {"llama-3.2-3b", MODEL_LLAMA, 28, 3072, 8192, 24, 8, 128, 128256, 131072, 5e5f, 1e-5f, TIED,
     32, 0},
    {"llama-3.3-70b", MODEL_LLAMA, 80, 8192, 28672, 64, 8, 128, 128256, 131072, 5e5f, 1e-5f, 0,
     8, 0},
    {"deepseek-r1-distill-llama-8b", MODEL_LLAMA, 32, 4096, 14336, 32, 8, 128, 128256, 131072,
     5e5f, 1e-5f, 0, 8, 0},
    {"deepseek-r1-distill-llama-70b", MODEL_LLAMA, 80, 8192, 28672, 64, 8, 128, 128256, 131072,
     5e5f, 1e-5f, 0, 8, 0},

    {"mistral-7b-v0.1", MODEL_MISTRAL, 32, 4096, 14336, 32, 8, 128, 32000, 32768, 1e4f, 1e-5f, 0,
     0, 4096},
    {"mistral-7b-v0.2", MODEL_MISTRAL, 32, 4096, 14336, 32, 8, 128, 32000, 32768, 1e6f, 1e-5f, 0,
     0, 0},
    {"mistral-7b-v0.3", MODEL_MISTRAL, 32, 4096, 14336, 32, 8, 128, 32768, 32768, 1e6f, 1e-5f, 0,
     0, 0},
    {"mistral-7b", MODEL_MISTRAL, 32, 4096, 14336, 32, 8, 128, 32768, 32768, 1e6f, 1e-5f, 0, 0, 0},
    {"mistral-nemo", MODEL_MISTRAL, 40, 5120, 14336, 32, 8, 128, 131072, 131072, 1e6f, 1e-5f, 0, 0,
     0},
    {"mistral-nemo-2407", MODEL_MISTRAL, 40, 5120, 14336, 32, 8, 128, 131072, 131072, 1e6f,
     1e-5f, 0, 0, 0},
    {"mistral-small-2409", MODEL_MISTRAL, 56, 6144, 16384, 48, 8, 128, 32768, 32768, 1e6f, 1e-5f, 0,
     0, 0},
    {"mistral-small", MODEL_MISTRAL, 40, 5120, 32768, 32, 8, 128, 131072, 32768, 1e8f, 1e-5f, 0, 0,
     0},
    {"mistral-small-24b-2501", MODEL_MISTRAL, 40, 5120, 32768, 32, 8, 128, 131072, 32768, 1e8f,
     1e-5f, 0, 0, 0},
    /* The text half of both; the later ones see pictures too. */
    {"mistral-small-3.1-24b-2503", MODEL_MISTRAL, 40, 5120, 32768, 32, 8, 128, 131072, 131072, 1e9f,
     1e-5f, 0, 0, 0},
    {"mistral-small-3.2-24b-2506", MODEL_MISTRAL, 40, 5120, 32768, 32, 8, 128, 131072, 131072, 1e9f,
     1e-5f, 0, 0, 0},

    {"qwen2-0.5b", MODEL_QWEN2, 24, 896, 4864, 14, 2, 64, 151936, 32768, 1e6f, 1e-6f,
     TIED | QKV_BIAS, 0, 0},
    {"qwen2-1.5b", MODEL_QWEN2, 28, 1536, 8960, 12, 2, 128, 151936, 32768, 1e6f, 1e-6f,
     TIED | QKV_BIAS, 0, 0},
    {"qwen2-72b", MODEL_QWEN2, 80, 8192, 29568, 64, 8, 128, 152064, 32768, 1e6f, 1e-6f, QKV_BIAS, 0,
     0},
    {"qwen2-7b", MODEL_QWEN2, 28, 3584, 18944, 28, 4, 128, 152064, 32768, 1e6f, 1e-6f, QKV_BIAS,
     0, 0},
    {"qwen2.5-0.5b", MODEL_QWEN2, 24, 896, 4864, 14, 2, 64, 151936, 32768, 1e6f, 1e-6f,
     TIED | QKV_BIAS, 0, 0},
    {"qwen2.5-1.5b", MODEL_QWEN2, 28, 1536, 8960, 12, 2, 128, 151936, 32768, 1e6f, 1e-6f,
     TIED | QKV_BIAS, 0, 0},
    {"qwen2.5-3b", MODEL_QWEN2, 36, 2048, 11008, 16, 2, 128, 151936, 32768, 1e6f, 1e-6f,
     TIED | QKV_BIAS, 0, 0},
    {"qwen2.5-7b", MODEL_QWEN2, 28, 3584, 18944, 28, 4, 128, 152064, 32768, 1e6f, 1e-6f,
     QKV_BIAS, 0, 0},
    {"qwen2.5-14b", MODEL_QWEN2, 48, 5120, 13824, 40, 8, 128, 152064, 32768, 1e6f, 1e-6f,
     QKV_BIAS, 0, 0},
    {"qwen2.5-32b", MODEL_QWEN2, 64, 5120, 27648, 40, 8, 128, 152064, 32768, 1e6f, 1e-6f,
     QKV_BIAS, 0, 0},
    {"qwen2.5-72b", MODEL_QWEN2, 80, 8192, 29568, 64, 8, 128, 152064, 32768, 1e6f, 1e-6f,
     QKV_BIAS, 0, 0},
    {"qwq-32b", MODEL_QWEN2, 64, 5120, 27648, 40, 8, 128, 152064, 40960, 1e6f, 1e-5f, QKV_BIAS,
     0, 0},
    {"qwq-32b-preview", MODEL_QWEN2, 64, 5120, 27648, 40, 8, 128, 152064, 32768, 1e6f, 1e-5f,
     QKV_BIAS, 0, 0},
    {"deepseek-r1-distill-qwen-1.5b", MODEL_QWEN2, 28, 1536, 8960, 12, 2, 128, 151936, 131072,
     1e4f, 1e-6f, QKV_BIAS, 0, 0},
    {"deepseek-r1-distill-qwen-7b", MODEL_QWEN2, 28, 3584, 18944, 28, 4, 128, 152064, 131072,
     1e4f, 1e-6f, QKV_BIAS, 0, 0},
    {"deepseek-r1-distill-qwen-14b", MODEL_QWEN2, 48, 5120, 13824, 40, 8, 128, 152064, 131072,
     1e6f, 1e-5f, QKV_BIAS, 0, 0},
    {"deepseek-r1-distill-qwen-32b", MODEL_QWEN2, 64, 5120, 27648, 40, 8, 128, 152064, 131072,
     1e6f, 1e-5f, QKV_BIAS, 0, 0},

    {"qwen3-0.6b", MODEL_QWEN3, 28, 1024, 3072, 16, 8, 128, 151936, 40960, 1e6f, 1e-6f,
     TIED | QK_NORM, 0, 0},
    {"qwen3-1.7b", MODEL_QWEN3, 28, 2048, 6144, 16, 8, 128, 151936, 40960, 1e6f, 1e-6f,
     TIED | QK_NORM, 0, 0},
    {"qwen3-4b", MODEL_QWEN3, 36, 2560, 9728, 32, 8, 128, 151936, 40960, 1e6f, 1e-6f,
     TIED | QK_NORM, 0, 0},
    {"qwen3-4b-2507", MODEL_QWEN3, 36, 2560, 9728, 32, 8, 128, 151936, 262144, 5e6f, 1e-6f,
     TIED | QK_NORM, 0, 0},
    {"qwen3-8b", MODEL_QWEN3, 36, 4096, 12288, 32, 8, 128, 151936, 40960, 1e6f, 1e-6f, QK_NORM,
     0, 0},
    {"qwen3-14b", MODEL_QWEN3, 40, 5120, 17408, 40, 8, 128, 151936, 40960, 1e6f, 1e-6f, QK_NORM,
     0, 0},
    {"qwen3-32b", MODEL_QWEN3, 64, 5120, 25600, 64, 8, 128, 151936, 40960, 1e6f, 1e-6f, QK_NORM,
     0, 0},
};
/* clang-format on */

#define NAME_BYTES 128

/* Cuts every `part` out of name. */
static void cut_out(char *name, const char *part) {
    size_t bytes = strlen(part);
    for (char *at; (at = strstr(name, part));) memmove(at, at + bytes, strlen(at + bytes) + 1);
}

/* "qwen3-14b-q4-k-m.gguf" -> "qwen3-14b": a file's name says its quantization last. */
static void cut_file_suffix(char *name) {
    size_t bytes = strlen(name);
    if (bytes < 5 || strcmp(name + bytes - 5, ".gguf") != 0) return;
    name[bytes - 5] = '\0';
    char *last = NULL;
    for (char *at = name; *at; at++) {
        bool is_quantization = (*at == '-' || *at == '.') &&
                               (at[1] == 'q' || (at[1] == 'i' && at[2] == 'q')) &&
                               isdigit((unsigned char) at[at[1] == 'i' ? 3 : 2]);
        if (is_quantization) last = at;
    }
    if (last) *last = '\0';
}

/* "meta-llama/Meta-Llama-3.1-8B-Instruct-FP8/" -> "llama-3.1-8b" */
static bool canonical(const char *name, char out[NAME_BYTES]) {
    size_t end = strlen(name);
    while (end && name[end - 1] == '/') end--;
    size_t start = end;
    while (start && name[start - 1] != '/') start--;
    if (end - start >= NAME_BYTES || end == start) return false;
    for (size_t i = start; i < end; i++) {
        char letter = (char) tolower((unsigned char) name[i]);
        out[i - start] = letter == '_' ? '-' : letter;
    }
    out[end - start] = '\0';
    cut_file_suffix(out);
    /* The longer before what it contains. */
    static const char *const noise[] = {
        "-fp8-dynamic", "-fp8-kv", "-gptq-int4", "-gptq-int8", "-gptq",     "-awq",
        "-quantized",   ".w4a16",  ".w8a8",      "-w4a16",     "-w8a8",     "-bnb-4bit",
        "-nvfp4",       "-fp4",    "-int4",      "-int8",      "-4bit",     "-fp8",
        "-gguf",        "-bf16",   "-f16",       "-instruct",  "-thinking", "-chat",
        "-coder",       "-base",   "-hf"};
    for (uint32_t i = 0; i < ARRAY_COUNT(noise); i++) cut_out(out, noise[i]);
    if (strncmp(out, "meta-", 5) == 0) memmove(out, out + 5, strlen(out + 5) + 1);
    return true;
}

bool model_catalog_find(const char *name, struct model_spec *out) {
    char wanted[NAME_BYTES];
    if (!canonical(name, wanted)) return false;
    for (uint32_t i = 0; i < ARRAY_COUNT(shapes); i++) {
        const struct shape *shape = &shapes[i];
        if (strcmp(shape->name, wanted) != 0) continue;
        *out = (struct model_spec){
            .family = shape->family,
            .layer_count = shape->layers,
            .hidden_size = shape->hidden,
            .ffn_size = shape->ffn,
            .head_count = shape->heads,
            .kv_head_count = shape->kv_heads,
            .head_dim = shape->head_dim,
            .vocab_size = shape->vocab,
            .context_tokens = shape->context,
            .sliding_window = shape->sliding_window,
            .norm_epsilon = shape->epsilon,
            .is_tied = (shape->flags & TIED) != 0,
            .has_qkv_bias = (shape->flags & QKV_BIAS) != 0,
            .has_qk_norm = (shape->flags & QK_NORM) != 0,
            .weight_type = TENSOR_BF16,
            .segment_count = model_spec_segments(shape->heads, shape->kv_heads),
        };
        out->rope.theta = shape->theta;
        if (shape->llama3_factor > 0) {
            out->rope.type = ROPE_LLAMA3;
            out->rope.factor = shape->llama3_factor;
            out->rope.low_freq_factor = 1;
            out->rope.high_freq_factor = 4;
            out->rope.original_context_tokens = 8192;
        }
        snprintf(out->name, sizeof out->name, "%s", shape->name);
        return true;
    }
    return false;
}

const char *model_catalog_name(uint32_t index) {
    return index < ARRAY_COUNT(shapes) ? shapes[index].name : NULL;
}
