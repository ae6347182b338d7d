/* cpu_scan - see cpu_scan.h.  Compiled once for each body: CPU_VEC and CPU_SCAN_NAME come from
 * meson.build.  Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"
 * (SC 2011), whose constants and known answers are used. */
#include "backend/cpu/cpu_scan.h"

#include <math.h>

#include "backend/cpu/cpu_vec.h"
#include "base/check.h"

#ifndef CPU_SCAN_NAME
#define CPU_SCAN_NAME cpu_scan_scalar
#endif

/* Lanes past the end get -INFINITY, which never wins. */
VEC_INLINE struct v16 load_row(const float *x, uint32_t i, uint32_t end) {
    if (i + 16 <= end) return v16_load(x + i);
    float padded[16];
    for (uint32_t l = 0; l < 16; l++) padded[l] = i + l < end ? x[i + l] : -INFINITY;
    return v16_load(padded);
}

static struct cpu_scan_top top(const float *x, uint32_t first, uint32_t end) {
    struct cpu_scan_top found = {.value = -INFINITY, .id = first, .is_finite = true};
    struct v16 highest = v16_set1(-INFINITY), zero = v16_zero(), odd = v16_zero();
    uint32_t i = first;
    for (; i + 16 <= end; i += 16) {
        struct v16 v = v16_load(x + i);
        highest = v16_max(v, highest);
        odd = v16_fma(v, zero, odd); /* stays 0 while all are finite */
    }
    float max = v16_top(highest);
    found.is_finite = v16_sum(odd) == 0.0f;
    for (; i < end; i++) {
        if (!(x[i] - x[i] == 0.0f)) found.is_finite = false;
        if (x[i] > max) max = x[i];
    }
    found.value = max;
    for (i = first; i < end; i += 16) {
        uint32_t hits = m16_bits(v16_ge(load_row(x, i, end), v16_set1(max)));
        if (!hits) continue;
        found.id = i + (uint32_t) __builtin_ctz(hits);
        if (found.id >= end) found.id = first;
        break;
    }
    return found;
}

static float exp_sum(const float *x, uint32_t first, uint32_t end, float max) {
    struct v16 sum = v16_zero(), max16 = v16_set1(max);
    for (uint32_t i = first; i < end; i += 16)
        sum = v16_add(sum, v16_exp(v16_sub(load_row(x, i, end), max16)));
    return v16_sum(sum);
}

/* Bit l: lane l is within the cut. */
VEC_INLINE uint32_t within(struct v16 v, uint32_t i, struct cpu_scan_cut cut) {
    uint32_t bits = m16_bits(v16_ge(v, v16_set1(cut.value)));
    if (!bits || i + 15 <= cut.id) return bits;
    /* Some lanes lie past the cut's id: there only larger values stay. */
    uint32_t larger = m16_bits(v16_lt(v16_set1(cut.value), v));
    uint32_t early = i > cut.id ? 0 : 0xffffu >> (15 - (cut.id - i));
    return larger | (bits & early);
}

static uint32_t before(const float *x, uint32_t count, float value, uint32_t id) {
    uint32_t found = 0;
    struct cpu_scan_cut cut = {value, id};
    for (uint32_t i = 0; i < count; i += 16) {
        uint32_t bits = within(load_row(x, i, count), i, cut);
        if (count - i < 16) bits &= 0xffffu >> (16 - (count - i));
        found += (uint32_t) __builtin_popcount(bits);
    }
    return found - 1; /* itself */
}

static void divide(const float *x, uint32_t count, float divisor, float *out) {
    struct v16 d = v16_set1(divisor);
    for (uint32_t i = 0; i < count; i += 16)
        v16_store_part(out + i, v16_div(v16_load_part(x + i, count - i), d), count - i);
}

static uint32_t best(const float *x, uint32_t count, uint32_t n, uint32_t *ids, float *values) {
    uint32_t held = 0;
    for (uint32_t i = 0; i < count; i += 16) {
        struct v16 v = load_row(x, i, count);
        /* A later id must be larger than the last one held to come in. */
        uint32_t bits = held < n ? 0xffffu : m16_bits(v16_lt(v16_set1(values[n - 1]), v));
        if (count - i < 16) bits &= 0xffffu >> (16 - (count - i));
        for (; bits; bits &= bits - 1) {
            uint32_t id = i + (uint32_t) __builtin_ctz(bits), at = held < n ? held : n - 1;
            if (held == n && !(x[id] > values[n - 1])) continue;
            for (; at > 0 && x[id] > values[at - 1]; at--) {
                values[at] = values[at - 1];
                ids[at] = ids[at - 1];
            }
            values[at] = x[id];
            ids[at] = id;
            if (held < n) held++;
        }
    }
    return held;
}

/* The bins of 16 tokens: monotone in x, as subtraction and product by 64 round monotonically. */
VEC_INLINE void bin_of(struct v16 v, struct v16 max16, int32_t *bins16) {
    struct v16 depth = v16_mul(v16_sub(max16, v), v16_set1(64.0f));
    v16_store_int(bins16, v16_min(depth, v16_set1((float) (CPU_SCAN_BINS - 1))));
}

static void bins(const float *x, uint32_t count, float max, struct cpu_scan_cut cut,
                 uint32_t *counts, uint64_t *weights) {
    struct v16 max16 = v16_set1(max);
    for (uint32_t i = 0; i < count; i += 16) {
        struct v16 v = load_row(x, i, count);
        uint32_t bits = within(v, i, cut);
        if (count - i < 16) bits &= 0xffffu >> (16 - (count - i));
        if (!bits) continue;
        int32_t bin[16];
        bin_of(v, max16, bin);
        float e[16];
        if (weights) v16_store(e, v16_exp(v16_sub(v, max16)));
        for (; bits; bits &= bits - 1) {
            uint32_t l = (uint32_t) __builtin_ctz(bits);
            counts[bin[l]]++;
            if (weights) weights[bin[l]] += (uint64_t) (int64_t) (e[l] * 0x1p40f);
        }
    }
}

static uint32_t gather(const float *x, uint32_t count, float max, struct cpu_scan_cut cut,
                       uint32_t wanted, uint64_t *keys) {
    struct v16 max16 = v16_set1(max);
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i += 16) {
        struct v16 v = load_row(x, i, count);
        uint32_t bits = within(v, i, cut);
        if (count - i < 16) bits &= 0xffffu >> (16 - (count - i));
        if (!bits) continue;
        int32_t bin[16];
        bin_of(v, max16, bin);
        for (; bits; bits &= bits - 1) {
            uint32_t l = (uint32_t) __builtin_ctz(bits);
            if ((uint32_t) bin[l] == wanted) keys[found++] = cpu_scan_key(x[i + l], i + l);
        }
    }
    return found;
}

/* --- randomness --------------------------------------------------------------------------- */

#define PHILOX_M0 0xd2511f53u
#define PHILOX_M1 0xcd9e8d57u
#define PHILOX_W0 0x9e3779b9u
#define PHILOX_W1 0xbb67ae85u

/* The first output word of the counters (choice, output, id + l, 0), l < 16.  The wide bodies
 * keep each word in the low half of a 64-bit lane, where the widening product reads it. */
#if CPU_VEC == 512
#define PHILOX_LANES 8
struct words {
    __m512i w;
};
VEC_INLINE struct words words_set1(uint32_t x) {
    return (struct words){_mm512_set1_epi64((long long) x)};
}
VEC_INLINE struct words words_count(uint32_t id) {
    __m512i step = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    return (struct words){_mm512_add_epi64(_mm512_set1_epi64((long long) id), step)};
}
VEC_INLINE struct words words_product(struct words a, struct words b) {
    return (struct words){_mm512_mul_epu32(a.w, b.w)};
}
VEC_INLINE struct words words_high(struct words a) {
    return (struct words){_mm512_srli_epi64(a.w, 32)};
}
VEC_INLINE struct words words_xor(struct words a, struct words b) {
    return (struct words){_mm512_xor_si512(a.w, b.w)};
}
VEC_INLINE void words_store(uint32_t *out, struct words a) {
    _mm256_storeu_si256((__m256i *) (void *) out, _mm512_cvtepi64_epi32(a.w));
}
#elif CPU_VEC == 256
#define PHILOX_LANES 4
struct words {
    __m256i w;
};
VEC_INLINE struct words words_set1(uint32_t x) {
    return (struct words){_mm256_set1_epi64x((long long) x)};
}
VEC_INLINE struct words words_count(uint32_t id) {
    __m256i step = _mm256_setr_epi64x(0, 1, 2, 3);
    return (struct words){_mm256_add_epi64(_mm256_set1_epi64x((long long) id), step)};
}
VEC_INLINE struct words words_product(struct words a, struct words b) {
    return (struct words){_mm256_mul_epu32(a.w, b.w)};
}
VEC_INLINE struct words words_high(struct words a) {
    return (struct words){_mm256_srli_epi64(a.w, 32)};
}
VEC_INLINE struct words words_xor(struct words a, struct words b) {
    return (struct words){_mm256_xor_si256(a.w, b.w)};
}
VEC_INLINE void words_store(uint32_t *out, struct words a) {
    __m256i packed = _mm256_permutevar8x32_epi32(a.w, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_si128((__m128i *) (void *) out, _mm256_castsi256_si128(packed));
}
#else
#define PHILOX_LANES 1
struct words {
    uint64_t w;
};
VEC_INLINE struct words words_set1(uint32_t x) { return (struct words){x}; }
VEC_INLINE struct words words_count(uint32_t id) { return (struct words){id}; }
VEC_INLINE struct words words_product(struct words a, struct words b) {
    return (struct words){(a.w & 0xffffffffu) * (b.w & 0xffffffffu)};
}
VEC_INLINE struct words words_high(struct words a) { return (struct words){a.w >> 32}; }
VEC_INLINE struct words words_xor(struct words a, struct words b) {
    return (struct words){a.w ^ b.w};
}
VEC_INLINE void words_store(uint32_t *out, struct words a) { *out = (uint32_t) a.w; }
#endif

#define PHILOX_ROUNDS 10
struct philox_keys {
    struct words k0[PHILOX_ROUNDS], k1[PHILOX_ROUNDS];
};

VEC_INLINE void philox_keys_init(struct philox_keys *keys, uint64_t seed) {
    uint32_t k0 = (uint32_t) seed, k1 = (uint32_t) (seed >> 32);
    for (uint32_t round = 0; round < PHILOX_ROUNDS; round++, k0 += PHILOX_W0, k1 += PHILOX_W1) {
        keys->k0[round] = words_set1(k0);
        keys->k1[round] = words_set1(k1);
    }
}

VEC_INLINE void philox16(const struct philox_keys *keys, struct cpu_scan_draw how, uint32_t id,
                         uint32_t *out) {
    const struct words m0 = words_set1(PHILOX_M0), m1 = words_set1(PHILOX_M1);
    /* Two counters at a time hide the latency of the products. */
    for (uint32_t at = 0; at < 16; at += 2 * PHILOX_LANES) {
        struct words c0[2], c1[2], c2[2], c3[2];
        VEC_UNROLL for (uint32_t i = 0; i < 2; i++) {
            c0[i] = words_set1(how.choice_index);
            c1[i] = words_set1(how.output_index);
            c2[i] = words_count(id + at + i * PHILOX_LANES);
            c3[i] = words_set1(0);
        }
        VEC_UNROLL for (uint32_t round = 0; round < PHILOX_ROUNDS; round++)
            VEC_UNROLL for (uint32_t i = 0; i < 2; i++) {
            struct words p0 = words_product(c0[i], m0), p1 = words_product(c2[i], m1);
            c0[i] = words_xor(words_xor(words_high(p1), c1[i]), keys->k0[round]);
            c2[i] = words_xor(words_xor(words_high(p0), c3[i]), keys->k1[round]);
            c1[i] = p1;
            c3[i] = p0;
        }
        VEC_UNROLL for (uint32_t i = 0; i < 2; i++) words_store(out + at + i * PHILOX_LANES, c0[i]);
    }
}

/* -ln(-ln u), u uniform in (0, 1) with 32 bits.  With v = 1 - u near (w + 1/2) / 2^32, small v
 * (large gumbels) keep their relative precision: 1 - v is split into the f32 m and the rest d. */
VEC_INLINE struct v16 chance16(const uint32_t *words) {
    float high[16], low[16];
    for (uint32_t l = 0; l < 16; l++) {
        high[l] = (float) (int32_t) (words[l] >> 16);
        low[l] = (float) (int32_t) (words[l] & 0xffffu);
    }
    struct v16 w = v16_fma(v16_load(high), v16_set1(65536.0f), v16_load(low));
    struct v16 v = v16_fma(w, v16_set1(0x1p-32f), v16_set1(0x1p-33f));
    return v16_min(v, v16_set1(1.0f - 0x1p-24f));
}

VEC_INLINE struct v16 gumbel16(struct v16 v) {
    struct v16 one = v16_set1(1.0f);
    struct v16 m = v16_sub(one, v);
    struct v16 d = v16_sub(v16_sub(one, m), v);
    struct v16 e = v16_add(v16_log(m), v16_div(d, m));
    return v16_sub(v16_zero(), v16_log(v16_sub(v16_zero(), e)));
}

#define GUMBEL_MAX 22.9f /* -ln 2^-33 = 22.874, the smallest v above */

static struct cpu_scan_top draw(const float *x, uint32_t first, uint32_t end,
                                struct cpu_scan_cut cut, struct cpu_scan_draw how,
                                struct cpu_scan_top best_so_far) {
    struct cpu_scan_top found = best_so_far;
    struct philox_keys keys;
    philox_keys_init(&keys, how.seed);
    for (uint32_t i = first; i < end; i += 16) {
        struct v16 v = load_row(x, i, end);
        uint32_t bits = within(v, i, cut);
        if (end - i < 16) bits &= 0xffffu >> (16 - (end - i));
        if (!bits) continue;
        /* What cannot reach the best with the largest gumbel needs none. */
        struct v16 bound = v16_add(v, v16_set1(GUMBEL_MAX));
        bits &= m16_bits(v16_ge(bound, v16_set1(found.value)));
        if (!bits) continue;
        uint32_t words[16];
        philox16(&keys, how, i, words);
        struct v16 chance = chance16(words);
        /* x + gumbel >= best needs -ln(1 - v) <= e^(x - best), hence v <= e^(x - best); slack
         * covers what rounding adds on both sides.  Few pass, and only they need logarithms. */
        struct v16 slack = v16_set1(0.01f + __builtin_fabsf(found.value) * 0x1p-22f);
        struct v16 limit = v16_exp(v16_add(v16_sub(v, v16_set1(found.value)), slack));
        bits &= m16_bits(v16_ge(limit, chance));
        if (!bits) continue;
        struct v16 value = v16_add(v, gumbel16(chance));
        bits &= m16_bits(v16_ge(value, v16_set1(found.value)));
        if (!bits) continue;
        float values[16];
        v16_store(values, value);
        for (; bits; bits &= bits - 1) {
            uint32_t l = (uint32_t) __builtin_ctz(bits);
            bool is_better =
                values[l] > found.value || (values[l] == found.value && i + l < found.id);
            if (!is_better) continue;
            found.value = values[l];
            found.id = i + l;
        }
    }
    return found;
}

static float log_one(float x) {
    float out[16];
    v16_store(out, v16_log(v16_set1(x > 0x1p-126f ? x : 0x1p-126f)));
    return out[0];
}

static void noise(struct cpu_scan_draw how, uint32_t id, uint32_t *words, float *gumbels) {
    struct philox_keys keys;
    philox_keys_init(&keys, how.seed);
    philox16(&keys, how, id, words);
    v16_store(gumbels, gumbel16(chance16(words)));
}

const struct cpu_scan_ops CPU_SCAN_NAME = {
    .top = top,
    .exp_sum = exp_sum,
    .before = before,
    .divide = divide,
    .best = best,
    .bins = bins,
    .gather = gather,
    .draw = draw,
    .log = log_one,
    .noise = noise,
};
