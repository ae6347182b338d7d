/* tokenizer_bench - how fast text becomes ids, as one JSON line.
 *
 *   tokenizer_bench MODEL TEXT [SECONDS]
 *
 * MODEL as everywhere (a directory, a GGUF file, a name), TEXT a file of UTF-8.  Each figure is
 * the best pass of one thread within SECONDS (1): with no word cache at all, with one that is
 * empty when the pass begins (cold), with one that a pass before has filled (warm); then 1 MiB of
 * one letter, and the way back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "model/model.h"
#include "token/tokenizer.h"

#define CACHE_BYTES (1u << 20)

static double limit_seconds = 1;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "tokenizer_bench: %s: %s\n", what, why);
    exit(1);
}

static char *read_text(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path, "cannot open");
    struct buf buf = {0};
    char part[65536];
    for (size_t count; (count = fread(part, 1, sizeof part, file)) > 0;) buf_add(&buf, part, count);
    fclose(file);
    if (buf.failed || buf.bytes == 0) fail(path, "empty or too large");
    *bytes = buf.bytes;
    return (char *) buf.data;
}

static void encode(const struct tokenizer *tokenizer, struct token_scratch *scratch,
                   const char *text, size_t bytes, struct tokenizer_ids *ids) {
    struct err_text why;
    ids->count = 0;
    if (tokenizer_encode(tokenizer, scratch, text, bytes, NULL, 0, TOKENIZER_PARSE_SPECIAL, 0, &why,
                         ids)) {
        fail("encode", why.text);
    }
}

static struct token_scratch *new_scratch(const struct tokenizer *tokenizer, size_t cache_bytes) {
    struct token_scratch *scratch = NULL;
    if (token_scratch_create(tokenizer, cache_bytes, &scratch)) fail("scratch", "no memory");
    return scratch;
}

/* MB/s of the best pass. */
static double measure(const struct tokenizer *tokenizer, const char *text, size_t bytes,
                      size_t cache_bytes, bool is_warm, struct tokenizer_ids *ids) {
    struct token_scratch *scratch = new_scratch(tokenizer, cache_bytes);
    if (is_warm) encode(tokenizer, scratch, text, bytes, ids);
    uint64_t best = UINT64_MAX, began = clock_now_ns();
    do {
        if (!is_warm) {
            token_scratch_destroy(scratch);
            scratch = new_scratch(tokenizer, cache_bytes);
        }
        uint64_t start = clock_now_ns();
        encode(tokenizer, scratch, text, bytes, ids);
        uint64_t took = clock_now_ns() - start;
        if (took < best) best = took;
    } while ((double) (clock_now_ns() - began) < limit_seconds * 1e9);
    token_scratch_destroy(scratch);
    return (double) bytes * 1e3 / (double) best;
}

/* Million ids a second of the best pass. */
static double measure_decode(const struct tokenizer *tokenizer, const struct tokenizer_ids *ids) {
    struct buf buf = {0};
    uint64_t best = UINT64_MAX, began = clock_now_ns();
    do {
        uint64_t start = clock_now_ns();
        struct token_decoder decoder;
        token_decoder_init(&decoder, tokenizer, true);
        buf_clear(&buf);
        for (uint32_t i = 0; i < ids->count; i++) token_decoder_add(&decoder, ids->ids[i], &buf);
        token_decoder_finish(&decoder, &buf);
        uint64_t took = clock_now_ns() - start;
        if (took < best) best = took;
    } while ((double) (clock_now_ns() - began) < limit_seconds * 1e9);
    buf_release(&buf);
    return (double) ids->count * 1e3 / (double) best;
}

static void print_machine(void) {
    char line[256] = "";
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file) && strncmp(line, "model name", 10)) {
    }
    if (file) fclose(file);
    char *name = strchr(line, ':');
    if (name) name[strcspn(name, "\n")] = 0;
    time_t now = time(NULL);
    char date[32];
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    printf("\"version\":\"%s\",\"machine\":\"%s\",\"date\":\"%s\"}\n", GRAMME_VERSION,
           name ? name + 2 : "unknown", date);
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4) fail("usage", "tokenizer_bench MODEL TEXT [SECONDS]");
    if (argc == 4) limit_seconds = strtod(argv[3], NULL);
    size_t bytes;
    char *text = read_text(argv[2], &bytes);
    struct err_text why;
    struct tokenizer *tokenizer = NULL;
    uint64_t start = clock_now_ns();
    if (model_open_tokenizer_only(argv[1], &why, &tokenizer, NULL)) fail(argv[1], why.text);
    double open_ms = (double) (clock_now_ns() - start) / 1e6;
    struct tokenizer_ids ids = {0};
    size_t letters = (size_t) 1 << 20;
    char *letter = malloc(letters);
    if (!letter) fail("text", "no memory");
    memset(letter, 'a', letters);
    double one_letter = measure(tokenizer, letter, letters, CACHE_BYTES, false, &ids);
    double uncached = measure(tokenizer, text, bytes, 0, false, &ids);
    double cold = measure(tokenizer, text, bytes, CACHE_BYTES, false, &ids);
    double warm = measure(tokenizer, text, bytes, CACHE_BYTES, true, &ids);
    double decode = measure_decode(tokenizer, &ids);
    printf("{\"bench\":\"tokenizer\",\"model\":\"%s\",\"text_bytes\":%zu,\"ids\":%u,"
           "\"open_ms\":%.1f,\"uncached_mb_per_s\":%.1f,\"cold_mb_per_s\":%.1f,"
           "\"warm_mb_per_s\":%.1f,\"one_letter_mb_per_s\":%.1f,\"decode_mids_per_s\":%.1f,",
           strrchr(argv[1], '/') ? strrchr(argv[1], '/') + 1 : argv[1], bytes, ids.count, open_ms,
           uncached, cold, warm, one_letter, decode);
    print_machine();
    tokenizer_ids_release(&ids);
    tokenizer_close(tokenizer);
    free(letter);
    free(text);
    return 0;
}
