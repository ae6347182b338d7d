/* plan_predict - how fast a worker will be, from shapes and rates alone: a roofline.
 *
 * A prediction, not a promise.  One step of decode reads the weights of a rank once and the KV of
 * each sequence, computes each sequence's products, and pays a constant a layer and an all-reduce
 * where there are several ranks; the terms add up (they were measured to: no engine overlaps them
 * fully).  Prefill is its products at the rate for many rows, or the weights' reading where that
 * takes longer.  Pure arithmetic; the constants and their origin stand in plan_predict.c. */
#ifndef GRAMME_PLAN_PLAN_PREDICT_H
#define GRAMME_PLAN_PLAN_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "device/device_card.h"
#include "model/model_spec.h"
#include "plan/cuda_estimate.h"

/* What one device reaches, efficiency included. */
struct plan_predict_rates {
    double read_bytes_per_s;
    double weight_bytes_per_s; /* through a step's products */
    bool weights_hold_a_row;   /* that was measured with products of one row: they are in it */
    double step_flop_per_s;    /* products of few rows, beside the reading */
    double prefill_flop_per_s; /* products of many rows */
    double peer_bytes_per_s;   /* to another device of its node */
    double node_bytes_per_s;   /* to one of another node */
    double layer_s;            /* of each layer of each step: small kernels, gaps, barriers */
    double reduce_s;           /* of each all-reduce, beside its bytes */
    double request_s;          /* of each prompt: the server's own */
};

/* One worker. */
struct plan_predict_model {
    double layer_parameters; /* of all layers */
    double head_parameters;
    double weight_bytes;   /* read each step, all ranks */
    double kv_token_bytes; /* all ranks */
    double attention_flop; /* a token and a token before it: q k and the sum over v */
    double hidden_size;
    uint32_t layer_count, ranks;
    uint32_t step_tokens; /* prompt tokens of one step */
};

/* A card of the catalogue with weights of this format. */
void plan_predict_card(const struct device_card *card, const struct cuda_estimate_format *format,
                       struct plan_predict_rates *out);
/* A device of which only nominal or measured rates are known: a CPU, a share of one.
 * product_gb_per_s: weights through the products of one row, as measured; 0: nobody did. */
void plan_predict_cpu(double read_gb_per_s, double tflops, double product_gb_per_s,
                      struct plan_predict_rates *out);
/* What a CPU of so many threads gives where nobody measured it. */
void plan_predict_cpu_assumed(uint32_t thread_count, const struct cuda_estimate_format *format,
                              double *read_gb_per_s, double *tflops);

/* kv_token_bytes: of all ranks together. */
void plan_predict_model(const struct model_spec *spec, const struct cuda_estimate_format *format,
                        double kv_token_bytes, uint32_t ranks, uint32_t step_tokens,
                        struct plan_predict_model *out);

/* Seconds of one prompt. */
struct plan_predict_prompt {
    double latency_s; /* until its first token, alone on the worker, the server's part included */
    double alone_s;   /* of the device, in steps of its own */
    double shared_s;  /* of the device, in steps that go on anyway for other sequences */
};
struct plan_predict_prompt plan_predict_prompt(const struct plan_predict_model *model,
                                               const struct plan_predict_rates *rates,
                                               double tokens);
/* A step with `sequences` of them, each `context` tokens deep, is base + sequences x each. */
struct plan_predict_step {
    double base_s, each_s;
};
struct plan_predict_step plan_predict_step(const struct plan_predict_model *model,
                                           const struct plan_predict_rates *rates, double context);
/* What the handoff of a prompt's KV adds, sent chunk by chunk behind the prefill of prefill_s. */
double plan_predict_handoff_s(const struct plan_predict_model *model,
                              const struct plan_predict_rates *rates, uint32_t lanes, double tokens,
                              double prefill_s, bool crosses_nodes);

/* "weights and KV at 0.86 of the nominal bandwidth, ...": the assumptions, a line each. */
extern const char *const plan_predict_assumptions[];
extern const uint32_t plan_predict_assumption_count;

#endif
