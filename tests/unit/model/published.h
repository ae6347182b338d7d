/* published - what the makers of the catalogue's models publish: the number of parameters.
 *
 * Sources: "safetensors.total" of the model's page on the Hugging Face Hub, read from public
 * repositories that quote it (2026-11-24); ours for the rest (no source marked "-": the page quotes
 * a rounded figure only, which the shape gives too).  Two pages count what no engine loads:
 * Llama-2's rotary tables (64 a layer) and the copy of a tied table as head (Qwen3-0.6B 751,632,384,
 * 1.7B 2,031,739,904); both are left out here.  Of Mistral-Small 3.1 and 3.2 (24,011,361,280) the
 * text half counts, which is that of 2501. */
#ifndef GRAMME_TESTS_PUBLISHED_H
#define GRAMME_TESTS_PUBLISHED_H

#include <stdint.h>

static const struct {
    const char *name;
    uint64_t parameters;
} published[] = {
    {"smollm2-135m", 134515008},
    {"smollm2-360m", 361821120},
    {"smollm2-1.7b", 1711376384},
    {"tinyllama-1.1b", 1100048384},
    {"llama-2-7b", 6738417664 - 32 * 64},
    {"llama-2-13b", 13015866880 - 40 * 64},
    {"llama-2-70b", 68976653312 - 80 * 64},
    {"llama-3-8b", 8030261248},
    {"llama-3-70b", 70553706496},
    {"llama-3.1-8b", 8030261248},
    {"llama-3.1-70b", 70553706496},
    {"llama-3.1-405b", 405853388800},
    {"llama-3.2-1b", 1235814400},
    {"llama-3.2-3b", 3212749824},
    {"llama-3.3-70b", 70553706496},
    {"deepseek-r1-distill-llama-8b", 8030261248},
    {"deepseek-r1-distill-llama-70b", 70553706496},
    {"deepseek-r1-distill-qwen-1.5b", 1777088000},
    {"deepseek-r1-distill-qwen-7b", 7615616512},
    {"deepseek-r1-distill-qwen-14b", 14770033664},
    {"deepseek-r1-distill-qwen-32b", 32763876352},
    {"mistral-7b-v0.1", 7241732096},
    {"mistral-7b-v0.2", 7241732096},
    {"mistral-7b-v0.3", 7248023552},
    {"mistral-7b", 7248023552},
    {"mistral-nemo-2407", 12247782400},
    {"mistral-nemo", 12247782400},
    {"mistral-small-2409", 22247282688}, /* - */
    {"mistral-small-24b-2501", 23572403200},
    {"mistral-small-3.1-24b-2503", 23572403200},
    {"mistral-small-3.2-24b-2506", 23572403200},
    {"mistral-small", 23572403200},
    {"qwen2-0.5b", 494032768},
    {"qwen2-1.5b", 1543714304},
    {"qwen2-7b", 7615616512},
    {"qwen2-72b", 72706203648},
    {"qwen2.5-0.5b", 494032768},
    {"qwen2.5-1.5b", 1543714304},
    {"qwen2.5-3b", 3085938688},
    {"qwen2.5-7b", 7615616512},
    {"qwen2.5-14b", 14770033664},
    {"qwen2.5-32b", 32763876352},
    {"qwen2.5-72b", 72706203648},
    {"qwq-32b", 32763876352},
    {"qwq-32b-preview", 32763876352},
    {"qwen3-0.6b", 596049920},
    {"qwen3-1.7b", 1720574976},
    {"qwen3-4b", 4022468096},
    {"qwen3-4b-2507", 4022468096},
    {"qwen3-8b", 8190735360},
    {"qwen3-14b", 14768307200},
    {"qwen3-32b", 32762123264},
};

#endif
