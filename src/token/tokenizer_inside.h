/* tokenizer_inside - what a struct tokenizer holds; for the files of this room only.
 *
 * A text goes through: added tokens matched as it came -> normalizer -> added tokens matched
 * after it -> pre-tokenizer steps -> words -> BPE.  Filled by tokenizer_open_json.c or
 * tokenizer_open_vocab.c, finished by tokenizer_finish, then read-only. */
#ifndef GRAMME_TOKEN_TOKENIZER_INSIDE_H
#define GRAMME_TOKEN_TOKENIZER_INSIDE_H

#include "token/token_added.h"
#include "token/token_regex.h"
#include "token/token_split.h"
#include "token/token_vocab.h"
#include "token/tokenizer.h"

#define TOKENIZER_STEPS_MAX 16 /* chosen: the most seen is 4 */
#define TOKENIZER_AFFIX_MAX 16 /* ids that the post-processor puts before or behind a text */
#define TOKENIZER_CHARS                                                                            \
    0x3100u /* characters whose ids stand in a table: Latin to kana, and U+2581 */

enum tokenizer_normal_kind { TOKENIZER_NFC, TOKENIZER_PREPEND, TOKENIZER_REPLACE };
struct tokenizer_normal {
    enum tokenizer_normal_kind kind;
    char *from; /* REPLACE; owned */
    char *to;   /* PREPEND, REPLACE; owned */
    size_t from_bytes, to_bytes;
};

enum tokenizer_step_kind {
    TOKENIZER_SPLIT,        /* token_split; all pieces kept (Isolated) */
    TOKENIZER_MATCH,        /* a regex or a string, with a behaviour */
    TOKENIZER_PREFIX_SPACE, /* ByteLevel's add_prefix_space */
    TOKENIZER_METASPACE,
};
enum tokenizer_behavior {
    TOKENIZER_ISOLATED,
    TOKENIZER_REMOVED,
    TOKENIZER_CONTIGUOUS,
    TOKENIZER_MERGED_WITH_PREVIOUS,
    TOKENIZER_MERGED_WITH_NEXT,
};
enum tokenizer_prepend { TOKENIZER_NEVER, TOKENIZER_FIRST, TOKENIZER_ALWAYS };
struct tokenizer_step {
    enum tokenizer_step_kind kind;
    enum token_split_kind split;
    struct token_regex *regex; /* MATCH; owned */
    enum tokenizer_behavior behavior;
    bool is_inverted;
    enum tokenizer_prepend prepend; /* METASPACE */
    bool is_split;                  /* METASPACE */
    char replacement[5];            /* METASPACE: the character that stands for a space */
    uint32_t replacement_bytes;
    uint32_t buffer; /* PREFIX_SPACE, METASPACE: which of the scratch's step buffers is its own */
};

enum tokenizer_decoder_kind {
    TOKENIZER_DECODE_JOIN,      /* none: tokens with a space between them */
    TOKENIZER_DECODE_BYTES,     /* ByteLevel */
    TOKENIZER_DECODE_SEQUENCE,  /* Replace, ByteFallback, Fuse, Strip */
    TOKENIZER_DECODE_METASPACE, /* the first token loses its leading marks */
};

struct tokenizer {
    struct token_vocab vocab;
    struct token_added added;
    bool is_byte_level; /* words are bytes, else characters */
    bool ignore_merges;
    bool is_byte_fallback; /* and all 256 byte tokens are there */
    bool is_unk_fused;
    /* No token holds the word mark behind another character, so a long unsplit text may be cut
     * before each mark without changing an id. */
    bool is_cut_at_mark;
    uint32_t unk_symbol;    /* what stands for an unknown character; TOKENIZER_NONE: it vanishes */
    uint32_t byte_ids[256]; /* of single bytes: byte-level symbols, or the byte tokens */
    uint32_t *char_ids;     /* (TOKENIZER_CHARS) when not byte-level; owned */

    struct tokenizer_normal normals[TOKENIZER_STEPS_MAX];
    uint32_t normal_count;
    struct tokenizer_step steps[TOKENIZER_STEPS_MAX];
    uint32_t step_count;
    uint32_t prefix[TOKENIZER_AFFIX_MAX], suffix[TOKENIZER_AFFIX_MAX];
    uint32_t prefix_count, suffix_count;

    enum tokenizer_decoder_kind decoder;
    bool is_fallback_decoded; /* SEQUENCE: <0xNN> tokens are bytes */
    char decode_mark[5];      /* SEQUENCE, METASPACE: what prints as a space */
    uint32_t decode_mark_bytes;
    bool is_first_bare;  /* METASPACE: the first token's marks print as nothing */
    uint32_t strip_left; /* SEQUENCE: spaces taken from the front of the text */
    /* What each token prints as, when that is not the vocabulary's bytes; owned. */
    uint8_t *prints;
    uint32_t *print_firsts; /* (id_count + 1); NULL: the vocabulary's bytes */

    uint32_t bos_id, eos_id, unk_id, pad_id;
    uint32_t token_bytes_max; /* of the text that one id can stand for; UINT32_MAX: no bound */
    uint64_t digest;
};

#define TOKENIZER_MARK "\xe2\x96\x81" /* U+2581, the word mark of SentencePiece */

/* Sets what follows from the rest: symbol tables, the longest token, the digest. */
MUST_USE enum err tokenizer_finish(struct tokenizer *tokenizer, struct err_text *text);
MUST_USE enum err tokenizer_add_normal(struct tokenizer *tokenizer, enum tokenizer_normal_kind kind,
                                       const char *from, size_t from_bytes, const char *to,
                                       size_t to_bytes);

#endif
