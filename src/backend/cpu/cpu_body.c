/* cpu_body - which bodies this processor runs. */
#include <stdatomic.h>
#include <string.h>

#include "backend/cpu/cpu_matmul.h"
#include "backend/cpu/cpu_matmul_body.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const char *const names[] = {"scalar", "avx2", "avx512"};
static _Atomic bool vnni_is_refused, bf16_is_refused;

/* What the named body needs and this processor (or its system) lacks; NULL: nothing. */
#if defined(__x86_64__)
struct features {
    bool has_avx_state, has_avx512_state;
    uint32_t ecx1, ebx7, ecx7, eax71;
};

static struct features read_features(void) {
    struct features found = {0};
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return found;
    found.ecx1 = ecx;
    if (ecx & bit_OSXSAVE) {
        uint32_t low, high;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        found.has_avx_state = (low & 0x06u) == 0x06u;
        found.has_avx512_state = (low & 0xe6u) == 0xe6u;
    }
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return found;
    found.ebx7 = ebx;
    found.ecx7 = ecx;
    if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) found.eax71 = eax;
    return found;
}

static const char *lacking(enum cpu_body body) {
    struct features found = read_features();
    if (body == CPU_BODY_SCALAR) return NULL;
    if (!found.has_avx_state || !(found.ecx1 & bit_AVX)) return "AVX";
    if (!(found.ebx7 & bit_AVX2)) return "AVX2";
    if (!(found.ecx1 & bit_FMA)) return "FMA";
    if (!(found.ecx1 & bit_F16C)) return "F16C";
    if (body == CPU_BODY_AVX2) return NULL;
    if (!found.has_avx512_state || !(found.ebx7 & bit_AVX512F)) return "AVX-512 F";
    if (!(found.ebx7 & bit_AVX512BW)) return "AVX-512 BW";
    if (!(found.ebx7 & bit_AVX512DQ)) return "AVX-512 DQ";
    if (!(found.ebx7 & bit_AVX512VL)) return "AVX-512 VL";
    return NULL;
}

/* Asked once, as CPUID traps in a virtual machine: 0 unknown, 1 no, 2 yes. */
static bool is_known(_Atomic int *known, bool (*ask)(void)) {
    int value = atomic_load_explicit(known, memory_order_relaxed);
    if (value == 0) {
        value = lacking(CPU_BODY_AVX512) == NULL && ask() ? 2 : 1;
        atomic_store_explicit(known, value, memory_order_relaxed);
    }
    return value == 2;
}

static bool ask_vnni(void) { return (read_features().ecx7 & (1u << 11)) != 0; }
static bool ask_bf16(void) { return (read_features().eax71 & (1u << 5)) != 0; }

bool cpu_body_has_vnni(void) {
    static _Atomic int known;
    return is_known(&known, ask_vnni) &&
           !atomic_load_explicit(&vnni_is_refused, memory_order_relaxed);
}

bool cpu_body_has_bf16(void) {
    static _Atomic int known;
    return is_known(&known, ask_bf16) &&
           !atomic_load_explicit(&bf16_is_refused, memory_order_relaxed);
}
#else
static const char *lacking(enum cpu_body body) { return body == CPU_BODY_SCALAR ? NULL : "x86-64"; }

bool cpu_body_has_vnni(void) { return false; }

bool cpu_body_has_bf16(void) { return false; }
#endif

void cpu_body_allow_vnni(bool is_allowed) { atomic_store(&vnni_is_refused, !is_allowed); }

void cpu_body_allow_bf16(bool is_allowed) { atomic_store(&bf16_is_refused, !is_allowed); }

enum err cpu_body_choose(const char *name, struct err_text *text, enum cpu_body *out) {
    if (name == NULL) {
        enum cpu_body best = CPU_BODY_SCALAR;
        if (lacking(CPU_BODY_AVX2) == NULL) best = CPU_BODY_AVX2;
        if (lacking(CPU_BODY_AVX512) == NULL) best = CPU_BODY_AVX512;
        *out = best;
        return ERR_OK;
    }
    for (unsigned i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(name, names[i]) != 0) continue;
        const char *missing = lacking((enum cpu_body) i);
        if (missing != NULL)
            return err_set(text, ERR_UNSUPPORTED,
                           "the %s body needs %s, which this processor lacks", name, missing);
        *out = (enum cpu_body) i;
        return ERR_OK;
    }
    return err_set(text, ERR_USAGE, "no body named \"%s\": scalar, avx2 or avx512", name);
}

const char *cpu_body_name(enum cpu_body body) {
    return (unsigned) body < ARRAY_COUNT(names) ? names[body] : "?";
}
