/* request_parse - the JSON of a request becomes one struct, or a 400 that names the field.
 *
 * Chat completions, completions and both forms of /tokenize share it.  Every field of
 * behaviour.md 5 is read here: ranges, null, defaults, and fields whose meaning is known but not
 * built (never ignored).  Nothing is rendered or tokenized (request_prompt does that).
 *
 * Pure: one thread at a time per spec, any thread.  The spec's memory is its arena, the JSON tree
 * it keeps (borrowed strings point into it) and the prompts' ids; request_parse_release frees all
 * but the arena. */
#ifndef GRAMME_API_REQUEST_PARSE_H
#define GRAMME_API_REQUEST_PARSE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/api.h"
#include "api/api_error.h"
#include "api/dispatch.h"
#include "api/json_field.h"
#include "api/stop_match.h"
#include "base/arena.h"
#include "config/sampling.h"
#include "token/tokenizer.h"

#define REQUEST_PROMPTS_MAX 1024u
#define REQUEST_CHOICES_MAX 4096u /* prompts x n */
#define REQUEST_ID_BYTES 129      /* 128 printable characters and a NUL */

enum request_kind { REQUEST_CHAT, REQUEST_COMPLETION, REQUEST_TOKENIZE, REQUEST_DETOKENIZE };

struct request_prompt {
    const char *text; /* NULL: given as ids; into the JSON tree, or the rendered template's */
    size_t bytes;
    struct tokenizer_ids ids;
};

struct request_spec {
    enum request_kind kind;
    struct arena *arena;               /* borrowed */
    json_t *root;                      /* owned */
    uint32_t name_index;               /* of api_options.served_names */
    char request_id[REQUEST_ID_BYTES]; /* vLLM's field; "" when absent */

    /* prompt */
    bool has_messages;
    const json_t *messages;
    const json_t *tools;           /* NULL: none */
    const json_t *documents;       /* NULL: none */
    const json_t *template_kwargs; /* NULL: none */
    const char *reasoning_effort;  /* NULL: none */
    bool add_generation_prompt;
    bool continue_final_message;
    bool add_special_tokens;
    bool return_token_strs; /* tokenize */
    struct request_prompt *prompts;
    uint32_t prompt_count;

    /* sampling */
    uint32_t n;
    bool has_max_tokens;
    bool has_seed;
    struct sampling sampling;
    const json_t *bad_words; /* NULL: none */
    struct stop_set stops;
    bool include_stop_string;
    bool skip_special_tokens;

    struct dispatch_route route; /* nvext.router_config_override; < 0: the router's own */

    /* answer */
    bool is_stream;
    bool include_usage;
    bool continuous_usage;
    bool wants_timings;
    bool echo;
    int32_t logprobs; /* -1: none; else how many alternatives are shown */
};

/* The defaults of every field that is absent; spec->arena is set. */
void request_parse_init(struct request_spec *spec, enum request_kind kind, struct arena *arena);
void request_parse_release(struct request_spec *spec);

/* Fills spec (made by request_parse_init).  On an error the spec may still be released. */
MUST_USE enum err request_parse(struct request_spec *spec, const struct api_options *options,
                                const void *body, size_t bytes, struct api_error *error);
/* Whether a request id may be taken over from a client: 1..128 printable ASCII bytes. */
bool request_parse_id_is_good(const char *id, size_t bytes);
/* The model of a scope: its served index; 404 when it is another.  Absent is the first. */
uint32_t request_parse_model(struct json_scope *scope, const struct api_options *options);

#endif
