/* The forward pass: against a plain double-precision model for every family, and the same bits
 * whatever batch, chunk, block size, thread count, row tile or body (design.md 8). */
#include "backend/cpu_rig.h"

/* --- a model as the textbook has it ------------------------------------------------------- */

#define NAIVE_LEN_MAX 320

struct naive {
    const struct model_spec *spec;
    struct model *model;
    double *keys, *values; /* (layer, position, kv_columns) */
    double *logits;
};

static double *naive_matrix(const struct naive *naive, enum tensor_role role, uint32_t layer,
                            const double *x, uint32_t *rows_out) {
    struct model_tensor tensor;
    assert_true(model_tensor_get(naive->model, role, layer, &tensor));
    double *out = calloc(tensor.rows, sizeof *out);
    float *weights = malloc(tensor.columns * sizeof *weights);
    void *scratch = aligned_alloc(64, (tensor.row_bytes + 63) / 64 * 64);
    for (uint32_t n = 0; n < tensor.rows; n++) {
        tensor_type_row_to_f32(tensor.type, model_tensor_row(naive->model, role, layer, n, scratch),
                               tensor.columns, weights);
        for (uint32_t k = 0; k < tensor.columns; k++) out[n] += (double) weights[k] * x[k];
    }
    free(weights);
    free(scratch);
    if (rows_out) *rows_out = tensor.rows;
    return out;
}

static void naive_vector(const struct naive *naive, enum tensor_role role, uint32_t layer,
                         uint32_t row, float *out) {
    struct model_tensor tensor;
    assert_true(model_tensor_get(naive->model, role, layer, &tensor));
    void *scratch = aligned_alloc(64, (tensor.row_bytes + 63) / 64 * 64);
    tensor_type_row_to_f32(tensor.type, model_tensor_row(naive->model, role, layer, row, scratch),
                           tensor.columns, out);
    free(scratch);
}

static void naive_bias(const struct naive *naive, enum tensor_role role, uint32_t layer, double *x,
                       uint32_t count) {
    float bias[1024];
    naive_vector(naive, role, layer, 0, bias);
    for (uint32_t i = 0; i < count; i++) x[i] += (double) bias[i];
}

static void naive_norm(const struct naive *naive, enum tensor_role role, uint32_t layer,
                       const double *x, uint32_t count, double *out) {
    float weight[1024];
    naive_vector(naive, role, layer, 0, weight);
    double squares = 0;
    for (uint32_t i = 0; i < count; i++) squares += x[i] * x[i];
    double factor = 1 / sqrt(squares / count + (double) naive->spec->norm_epsilon);
    for (uint32_t i = 0; i < count; i++) out[i] = x[i] * factor * (double) weight[i];
}

static void naive_rope(const struct naive *naive, double *head, uint32_t position) {
    uint32_t half = naive->spec->head_dim / 2;
    float inv_freq[128], scale;
    model_spec_rope(naive->spec, inv_freq, &scale);
    for (uint32_t i = 0; i < half; i++) {
        double angle = (double) ((float) position * inv_freq[i]);
        double c = cos(angle) * (double) scale, s = sin(angle) * (double) scale;
        double a = head[i], b = head[half + i];
        head[i] = a * c - b * s;
        head[half + i] = b * c + a * s;
    }
}

static void naive_attention(const struct naive *naive, uint32_t layer, uint32_t position,
                            const double *q, double *out) {
    const struct model_spec *spec = naive->spec;
    uint32_t head_dim = spec->head_dim, group = spec->head_count / spec->kv_head_count;
    uint32_t kv_columns = spec->kv_head_count * head_dim;
    uint32_t first = spec->sliding_window && position >= spec->sliding_window
                         ? position - spec->sliding_window + 1
                         : 0;
    for (uint32_t h = 0; h < spec->head_count; h++) {
        double weights[NAIVE_LEN_MAX], sum = 0;
        for (uint32_t t = first; t <= position; t++) {
            const double *k = naive->keys + ((size_t) layer * NAIVE_LEN_MAX + t) * kv_columns +
                              h / group * head_dim;
            double score = 0;
            for (uint32_t d = 0; d < head_dim; d++) score += q[h * head_dim + d] * k[d];
            weights[t] = exp(score / sqrt((double) head_dim));
            sum += weights[t];
        }
        for (uint32_t d = 0; d < head_dim; d++) {
            out[h * head_dim + d] = 0;
            for (uint32_t t = first; t <= position; t++)
                out[h * head_dim + d] +=
                    weights[t] / sum *
                    naive->values[((size_t) layer * NAIVE_LEN_MAX + t) * kv_columns +
                                  h / group * head_dim + d];
        }
    }
}

static void naive_step(struct naive *naive, uint32_t token, uint32_t position) {
    const struct model_spec *spec = naive->spec;
    uint32_t hidden = spec->hidden_size, head_dim = spec->head_dim;
    uint32_t kv_columns = spec->kv_head_count * head_dim;
    float row[1024];
    double x[1024], normed[1024], heads[1024];
    naive_vector(naive, ROLE_EMBEDDING, 0, token, row);
    for (uint32_t i = 0; i < hidden; i++) x[i] = (double) row[i];
    for (uint32_t layer = 0; layer < spec->layer_count; layer++) {
        naive_norm(naive, ROLE_ATTN_NORM, layer, x, hidden, normed);
        double *q = naive_matrix(naive, ROLE_Q, layer, normed, NULL);
        double *k = naive_matrix(naive, ROLE_K, layer, normed, NULL);
        double *v = naive_matrix(naive, ROLE_V, layer, normed, NULL);
        if (spec->has_qkv_bias) {
            naive_bias(naive, ROLE_Q_BIAS, layer, q, spec->head_count * head_dim);
            naive_bias(naive, ROLE_K_BIAS, layer, k, kv_columns);
            naive_bias(naive, ROLE_V_BIAS, layer, v, kv_columns);
        }
        for (uint32_t h = 0; h < spec->head_count; h++) {
            double *head = q + h * head_dim;
            if (spec->has_qk_norm) naive_norm(naive, ROLE_Q_NORM, layer, head, head_dim, head);
            naive_rope(naive, head, position);
        }
        for (uint32_t h = 0; h < spec->kv_head_count; h++) {
            double *head = k + h * head_dim;
            if (spec->has_qk_norm) naive_norm(naive, ROLE_K_NORM, layer, head, head_dim, head);
            naive_rope(naive, head, position);
        }
        size_t at = ((size_t) layer * NAIVE_LEN_MAX + position) * kv_columns;
        memcpy(naive->keys + at, k, kv_columns * sizeof *k);
        memcpy(naive->values + at, v, kv_columns * sizeof *v);
        naive_attention(naive, layer, position, q, heads);
        double *o = naive_matrix(naive, ROLE_O, layer, heads, NULL);
        for (uint32_t i = 0; i < hidden; i++) x[i] += o[i];
        naive_norm(naive, ROLE_FFN_NORM, layer, x, hidden, normed);
        double *gate = naive_matrix(naive, ROLE_GATE, layer, normed, NULL);
        double *up = naive_matrix(naive, ROLE_UP, layer, normed, NULL);
        for (uint32_t i = 0; i < spec->ffn_size; i++)
            gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
        double *down = naive_matrix(naive, ROLE_DOWN, layer, gate, NULL);
        for (uint32_t i = 0; i < hidden; i++) x[i] += down[i];
        double *owned[] = {q, k, v, o, gate, up, down};
        for (size_t i = 0; i < ARRAY_COUNT(owned); i++) free(owned[i]);
    }
    naive_norm(naive, ROLE_FINAL_NORM, 0, x, hidden, normed);
    free(naive->logits);
    naive->logits = naive_matrix(naive, ROLE_HEAD, 0, normed, NULL);
}

static void naive_open(struct naive *naive, struct model *model, const struct model_spec *spec) {
    size_t count =
        (size_t) spec->layer_count * NAIVE_LEN_MAX * spec->kv_head_count * spec->head_dim;
    *naive = (struct naive){.spec = spec, .model = model};
    naive->keys = calloc(count, sizeof(double));
    naive->values = calloc(count, sizeof(double));
}

static void naive_close(struct naive *naive) {
    free(naive->keys);
    free(naive->values);
    free(naive->logits);
}

/* --- against it --------------------------------------------------------------------------- */

static void test_ids(uint32_t *ids, uint32_t count, uint32_t vocab, uint32_t salt) {
    for (uint32_t i = 0; i < count; i++) ids[i] = (i * 2654435761u + salt * 40503u) % 65521 % vocab;
}

static void family_matches(const char *shape, const struct model_spec *changed, uint32_t length) {
    struct model *model = rig_dummy(shape, TENSOR_F32);
    struct model_spec spec = changed ? *changed : *model_get_spec(model);
    struct backend_options options = rig_options();
    options.kv_dtype = KV_DTYPE_F32;
    options.thread_count = 2;
    struct rig rig;
    rig_open(&rig, model, &spec, &options, 200);
    struct naive naive;
    naive_open(&naive, model, &spec);
    uint32_t ids[NAIVE_LEN_MAX];
    test_ids(ids, length, spec.vocab_size, 1);
    for (uint32_t i = 0; i < length; i++) naive_step(&naive, ids[i], i);
    static struct rig_sequence sequence;
    struct rig_sequence *sequences[] = {&sequence};
    sampling_init(&sequence.sampling);
    rig_sequence(&rig, &sequence, 0, ids, length, 1, 1);
    while (sequence.computed < length) {
        struct batch_row row = rig_row(&rig, &sequence, 100);
        rig_step(&rig, &row, sequences, 1);
    }
    for (uint32_t i = 0; i < spec.vocab_size; i++) {
        double got = (double) rig_cpu(&rig)->logits[i], want = naive.logits[i];
        if (!(fabs(got - want) < 2e-4))
            fail_msg("%s, length %u: logit %u is %.6f, not %.6f", shape, length, i, got, want);
    }
    /* One more token by the way of decoding. */
    naive_step(&naive, sequence.ids[length], length);
    struct batch_row row = rig_row(&rig, &sequence, 100);
    rig_step(&rig, &row, sequences, 1);
    for (uint32_t i = 0; i < spec.vocab_size; i++)
        if (!(fabs((double) rig_cpu(&rig)->logits[i] - naive.logits[i]) < 2e-4))
            fail_msg("%s: logit %u after decoding is %.6f, not %.6f", shape, i,
                     (double) rig_cpu(&rig)->logits[i], naive.logits[i]);
    naive_close(&naive);
    rig_close(&rig);
    model_close(model);
}

static void families(void **state) {
    const char *shapes[] = {"tiny-llama-test", "tiny-llama-k-test", "tiny-mistral-test",
                            "tiny-qwen2-test", "tiny-qwen3-test"};
    for (size_t i = 0; i < ARRAY_COUNT(shapes); i++) {
        family_matches(shapes[i], NULL, 1);
        family_matches(shapes[i], NULL, 140);
    }
}

static void sliding_window(void **state) {
    struct model *model = rig_dummy("tiny-mistral-test", TENSOR_F32);
    struct model_spec spec = *model_get_spec(model);
    const uint32_t windows[] = {1, 7, 40, 130};
    for (size_t i = 0; i < ARRAY_COUNT(windows); i++) {
        spec.sliding_window = windows[i];
        family_matches("tiny-mistral-test", &spec, 290);
    }
    model_close(model);
}

static void rope_scalings(void **state) {
    struct model *model = rig_dummy("tiny-llama-test", TENSOR_F32);
    struct model_spec spec = *model_get_spec(model);
    spec.rope.type = ROPE_LINEAR;
    spec.rope.factor = 4;
    family_matches("tiny-llama-test", &spec, 60);
    spec.rope.type = ROPE_YARN;
    spec.rope.beta_fast = 32;
    spec.rope.beta_slow = 1;
    spec.rope.attention_factor = 1.2f;
    spec.rope.original_context_tokens = 64;
    family_matches("tiny-llama-test", &spec, 60);
    model_close(model);
}

/* --- the same bits ------------------------------------------------------------------------ */

#define STREAMS 16
#define OUTPUTS 6

struct way {
    uint32_t streams; /* in one batch */
    uint32_t chunk;
    uint32_t block_size;
    uint32_t threads;
    uint32_t row_tile;
    const char *body;
};

/* What stream 3 (of at most 16 of different lengths) gives: tokens and the last logits' bits. */
struct outcome {
    uint32_t ids[OUTPUTS];
    uint32_t vocab;
    float logits[512];
};

static void run_way(struct model *model, enum kv_dtype dtype, const struct way *way,
                    struct outcome *out) {
    struct backend_options options = rig_options();
    options.kv_dtype = dtype;
    options.block_size = way->block_size;
    options.thread_count = way->threads;
    options.row_tile = way->row_tile;
    options.cpu_body = way->body;
    options.may_spin = way->threads <= 2;
    const struct model_spec *spec = model_get_spec(model);
    uint32_t blocks_each = 300 / way->block_size + 2;
    struct rig rig;
    rig_open(&rig, model, NULL, &options, blocks_each * STREAMS + 1);
    /* Memory that was never written may hold anything: NaN in every format. */
    struct cpu_kv *kv = &rig_cpu(&rig)->ranks[0].kv;
    memset(kv->base, 0xff, kv->block_count * kv->block_bytes);
    static struct rig_sequence all[STREAMS];
    struct rig_sequence *sequences[STREAMS];
    struct batch_row rows[STREAMS];
    uint32_t order[STREAMS]; /* the watched one first: its logits are row 0 */
    for (uint32_t i = 0; i < STREAMS; i++) order[i] = (3 + i) % STREAMS;
    for (uint32_t at = 0, seat = 0; at < way->streams; at++) {
        uint32_t i = order[at];
        uint32_t ids[300], length = i == 3 ? 263 : 5 + i * 17 % 200;
        test_ids(ids, length, spec->vocab_size, i);
        sampling_init(&all[i].sampling);
        if (i % 2) {
            all[i].sampling.temperature = 0.9f;
            all[i].sampling.seed = 77 + i;
        }
        rig_sequence(&rig, &all[i], seat, ids, length, 1 + seat, way->streams);
        seat++;
    }
    struct rig_sequence *watched = &all[3];
    while (watched->count < watched->prompt_count + OUTPUTS) {
        uint32_t count = 0;
        uint32_t room = options.batched_tokens_max;
        for (uint32_t at = 0; at < way->streams; at++) {
            uint32_t i = order[at];
            if (all[i].count >= all[i].prompt_count + OUTPUTS + 40) continue;
            uint32_t chunk = way->chunk < room ? way->chunk : room;
            if (!chunk) break;
            rows[count] = rig_row(&rig, &all[i], chunk);
            /* The tokens of decoding rows come from the seat. */
            if (all[i].computed >= all[i].prompt_count) rows[count].tokens = NULL;
            room -= rows[count].token_count;
            sequences[count++] = &all[i];
        }
        rig_step(&rig, rows, sequences, count);
    }
    memcpy(out->ids, watched->ids + watched->prompt_count, sizeof out->ids);
    out->vocab = spec->vocab_size;
    memcpy(out->logits, rig_cpu(&rig)->logits, spec->vocab_size * sizeof(float));
    rig_close(&rig);
}

static void ways_agree(const char *shape, enum tensor_type type, enum kv_dtype dtype) {
    static const struct way ways[] = {
        {1, 512, 16, 1, 4096, NULL},     {2, 512, 16, 1, 4096, NULL},
        {7, 64, 16, 2, 4096, NULL},      {16, 17, 16, 2, 4096, NULL},
        {1, 1, 16, 1, 4096, NULL},       {1, 16, 8, 2, 4096, NULL},
        {1, 17, 32, 3, 4096, NULL},      {1, 512, 64, 2, 100, NULL},
        {1, 512, 128, 3, 7, NULL},       {16, 100, 8, 3, 33, NULL},
        {1, 40, 16, 2, 4096, "scalar"}, /* once: the slow twin is most of the time */
        {1, 512, 16, 3, 4096, "avx2"},   {7, 40, 16, 2, 4096, "avx2"},
        {1, 512, 16, 1, 4096, "avx512"}, {7, 40, 16, 2, 4096, "avx512"},
    };
    struct model *model = rig_dummy(shape, type);
    static struct outcome first, other;
    for (size_t i = 0; i < ARRAY_COUNT(ways); i++) {
        if (!rig_has_body(ways[i].body)) continue;
        run_way(model, dtype, &ways[i], i ? &other : &first);
        if (!i) continue;
        for (uint32_t k = 0; k < OUTPUTS; k++)
            if (first.ids[k] != other.ids[k])
                fail_msg("%s %s kv %s, way %zu: token %u is %u, not %u", shape,
                         tensor_type_name(type), kv_dtype_name(dtype), i, k, other.ids[k],
                         first.ids[k]);
        if (memcmp(first.logits, other.logits, first.vocab * sizeof(float)) != 0)
            fail_msg("%s %s kv %s, way %zu: other logits", shape, tensor_type_name(type),
                     kv_dtype_name(dtype), i);
    }
    model_close(model);
}

static void same_bits_f32a(void **state) {
    ways_agree("tiny-llama-test", TENSOR_F32, KV_DTYPE_F32);
    ways_agree("tiny-qwen3-test", TENSOR_BF16, KV_DTYPE_BF16);
    ways_agree("tiny-qwen2-test", TENSOR_F16, KV_DTYPE_F16);
}

static void same_bits_q8a32(void **state) {
    ways_agree("tiny-llama-k-test", TENSOR_Q4_1, KV_DTYPE_F16);
    ways_agree("tiny-mistral-test", TENSOR_Q8_0, KV_DTYPE_INT8);
    ways_agree("tiny-llama-k-test", TENSOR_Q6_K, KV_DTYPE_FP8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families),        cmocka_unit_test(sliding_window),
        cmocka_unit_test(rope_scalings),   cmocka_unit_test(same_bits_f32a),
        cmocka_unit_test(same_bits_q8a32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
