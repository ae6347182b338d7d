/* plan_predict - see plan_predict.h.
 *
 * The constants are those of an engine that exists, vLLM 0.26 on one H200 (measured 2026-11-23,
 * Llama-3.1-8B and Qwen2.5-32B in bf16, 13 points of decode from 1 to 512 sequences and 9 of
 * prefill from 128 to 32,000 tokens): with them every one of the points comes out within 13 %
 * (tests/unit/plan/plan_predict_test.c holds the table), its server's throughput within 5 % at six
 * loads (plan_suggest_test.c), vLLM 0.19 on an H100 within 2 %, and older
 * engines on A100 and at TP 4 and 8, which were slower, within 22 %.  Origin of each:
 *   READ          reads at 4.13 of 4.80 TB/s: the slope between 8B and 32B, and of KV with context
 *   STEP          789 of 989 TFLOP/s: the best product measured; a sequence's own products add up
 *   PREFILL       605 to 629 of 989 TFLOP/s, the card at its power limit
 *   LAYER         1.3 ms of 4.99 for 32 layers that are neither weights nor KV
 *   REQUEST       what a prompt of 128 tokens takes beyond its products
 *   REDUCE        between a one-shot all-reduce (8 us) and a ring's (25 us); not measured here
 *   PREFILL_8BIT  8-bit products reach a smaller share of their doubled rate; assumed
 *   PEER, NODE    share of the link's nominal rate; a 200 Gb/s port for two devices; assumed
 * A CPU: READ_CPU and PREFILL_CPU are shares of what was measured or given (bench engine).  Where
 * the machine at hand is measured, a step of decode is its own products, done on weights of the
 * model's shape and type (cmd_rates): kernels, caches and barriers are in it, no constant of a
 * machine is.  PRODUCT_CPU is what norms, rotation, attention's start and the draw leave of it. */
#include "plan/plan_predict.h"

#include <math.h>

#include "base/check.h"

#define READ 0.86
#define STEP 0.80
#define PREFILL 0.62
#define PREFILL_8BIT 0.50
#define LAYER_S 41e-6
#define REQUEST_S 5e-3
#define REDUCE_S 12e-6
#define PEER 0.7
#define NODE_BYTES_PER_S 25e9
#define HANDOFF_CHUNK_TOKENS 256.0

#define READ_CPU 0.85
#define PRODUCT_CPU 0.93
#define PREFILL_CPU 0.75
#define LAYER_CPU_S 15e-6
#define REDUCE_CPU_S 5e-6
#define REQUEST_CPU_S 1e-3
#define COPY_CPU_SHARE 0.3 /* of reading: a handoff reads, writes and checks */
/* A core of a server of these years reads about 12 GB/s while its neighbours do too; with AVX2 it
 * computes some 50 GFLOP/s of float products, and of small formats (int8 inside) 150: cmd_rates
 * saw 190 a core on a Zen 3. */
#define CORE_READ_GB_PER_S 12
#define CORE_TFLOPS 0.05
#define CORE_TFLOPS_SMALL 0.15
#define SOCKET_READ_GB_PER_S 200

const char *const plan_predict_assumptions[] = {
    "weights and KV are read at 0.86 of nominal bandwidth; 41 us a layer and step",
    "prompts compute at 0.62 of the nominal rate (8 bits: 0.50), answers at 0.80",
    "all-reduce 12 us + bytes, peers at 0.7 of nominal, 25 GB/s between nodes",
    "fitted to vLLM 0.26 on an H200 (within 13 %); H100, A100, TP 4, 8: within 22 %",
};
const uint32_t plan_predict_assumption_count = ARRAY_COUNT(plan_predict_assumptions);

void plan_predict_card(const struct device_card *card, const struct cuda_estimate_format *format,
                       struct plan_predict_rates *out) {
    /* 4-bit weights, and 8-bit ones on a card without such products, are computed in 16 bits. */
    double nominal = card->bf16_tflops, share = PREFILL;
    bool is_8bit = format->weight_bits >= 8 && format->weight_bits < 8.1; /* scales of blocks */
    double bits8 = format->is_fp8 ? card->fp8_tflops : card->int8_tops;
    if (is_8bit && bits8 > 0) {
        nominal = bits8;
        share = PREFILL_8BIT;
    }
    *out = (struct plan_predict_rates){
        .read_bytes_per_s = READ * card->read_gb_per_s * 1e9,
        .weight_bytes_per_s = READ * card->read_gb_per_s * 1e9,
        .step_flop_per_s = STEP * nominal * 1e12,
        .prefill_flop_per_s = share * nominal * 1e12,
        .peer_bytes_per_s = PEER * card->peer_gb_per_s * 1e9,
        .node_bytes_per_s = NODE_BYTES_PER_S,
        .layer_s = LAYER_S,
        .reduce_s = REDUCE_S,
        .request_s = REQUEST_S,
    };
}

void plan_predict_cpu(double read_gb_per_s, double tflops, double product_gb_per_s,
                      struct plan_predict_rates *out) {
    bool is_measured = product_gb_per_s > 0;
    *out = (struct plan_predict_rates){
        .read_bytes_per_s = READ_CPU * read_gb_per_s * 1e9,
        .weight_bytes_per_s =
            (is_measured ? PRODUCT_CPU * product_gb_per_s : READ_CPU * read_gb_per_s) * 1e9,
        .weights_hold_a_row = is_measured,
        .step_flop_per_s = PREFILL_CPU * tflops * 1e12,
        .prefill_flop_per_s = PREFILL_CPU * tflops * 1e12,
        .peer_bytes_per_s = COPY_CPU_SHARE * read_gb_per_s * 1e9,
        .node_bytes_per_s = COPY_CPU_SHARE * read_gb_per_s * 1e9,
        .layer_s = LAYER_CPU_S,
        .reduce_s = REDUCE_CPU_S,
        .request_s = REQUEST_CPU_S,
    };
}

void plan_predict_cpu_assumed(uint32_t thread_count, const struct cuda_estimate_format *format,
                              double *read_gb_per_s, double *tflops) {
    bool is_small = format->weight_bits < 16;
    *read_gb_per_s = fmin(CORE_READ_GB_PER_S * (double) thread_count, SOCKET_READ_GB_PER_S);
    *tflops = (is_small ? CORE_TFLOPS_SMALL : CORE_TFLOPS) * (double) thread_count;
}

void plan_predict_model(const struct model_spec *spec, const struct cuda_estimate_format *format,
                        double kv_token_bytes, uint32_t ranks, uint32_t step_tokens,
                        struct plan_predict_model *out) {
    double hidden = spec->hidden_size, dim = spec->head_dim;
    double q = spec->head_count * dim, kv = spec->kv_head_count * dim;
    double layer = hidden * (2 * q + 2 * kv) + 3 * hidden * spec->ffn_size;
    CHECK(ranks > 0 && step_tokens > 0);
    *out = (struct plan_predict_model){
        .layer_parameters = layer * spec->layer_count,
        .head_parameters = (double) spec->vocab_size * hidden,
        .kv_token_bytes = kv_token_bytes,
        .attention_flop = 4 * q * spec->layer_count,
        .hidden_size = hidden,
        .layer_count = spec->layer_count,
        .ranks = ranks,
        .step_tokens = step_tokens,
    };
    double head_bits = format->is_fp32 ? 32 : format->head_bits > 0 ? format->head_bits : 16;
    out->weight_bytes =
        out->layer_parameters * format->weight_bits / 8 + out->head_parameters * head_bits / 8;
}

/* Two all-reduces a layer of `rows` rows in 16 bits. */
static double reduce_s(const struct plan_predict_model *model,
                       const struct plan_predict_rates *rates, double rows) {
    if (model->ranks == 1) return 0;
    double share = 2 * (double) (model->ranks - 1) / model->ranks;
    double bytes = rows * model->hidden_size * 2 * share;
    return 2 * model->layer_count * bytes / rates->peer_bytes_per_s;
}

static double step_constant_s(const struct plan_predict_model *model,
                              const struct plan_predict_rates *rates) {
    double constant = model->layer_count * rates->layer_s;
    return model->ranks == 1 ? constant : constant + 2 * model->layer_count * rates->reduce_s;
}

struct plan_predict_prompt plan_predict_prompt(const struct plan_predict_model *model,
                                               const struct plan_predict_rates *rates,
                                               double tokens) {
    double steps = fmax(1, ceil(tokens / model->step_tokens));
    double flop =
        2 * model->layer_parameters * tokens + model->attention_flop * tokens * tokens / 2;
    double compute = flop / model->ranks / rates->prefill_flop_per_s;
    double read = steps * model->weight_bytes / model->ranks / rates->read_bytes_per_s;
    double reduce = reduce_s(model, rates, tokens);
    double alone = steps * step_constant_s(model, rates) + fmax(compute, read) + reduce;
    return (struct plan_predict_prompt){
        .latency_s = rates->request_s + alone, .alone_s = alone, .shared_s = compute + reduce};
}

struct plan_predict_step plan_predict_step(const struct plan_predict_model *model,
                                           const struct plan_predict_rates *rates, double context) {
    double products = 2 * (model->layer_parameters + model->head_parameters);
    double ranks = model->ranks;
    double row_s = products / ranks / rates->step_flop_per_s;
    double weights_s = model->weight_bytes / ranks / rates->weight_bytes_per_s;
    if (rates->weights_hold_a_row) weights_s = fmax(0, weights_s - row_s);
    return (struct plan_predict_step){
        .base_s = weights_s + step_constant_s(model, rates),
        .each_s = context * model->kv_token_bytes / ranks / rates->read_bytes_per_s + row_s +
                  context * model->attention_flop / ranks / rates->step_flop_per_s +
                  reduce_s(model, rates, 1),
    };
}

double plan_predict_handoff_s(const struct plan_predict_model *model,
                              const struct plan_predict_rates *rates, uint32_t lanes, double tokens,
                              double prefill_s, bool crosses_nodes) {
    double rate = crosses_nodes ? rates->node_bytes_per_s : rates->peer_bytes_per_s;
    double all = tokens * model->kv_token_bytes / (rate * lanes);
    double last = all * fmin(1, HANDOFF_CHUNK_TOKENS / fmax(tokens, 1));
    return last + fmax(0, all - prefill_s);
}
