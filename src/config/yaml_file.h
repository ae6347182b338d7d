/* yaml_file - a YAML document as a tree of nodes with the line and column of each.
 *
 * libyaml's document API inside, bounded: bytes, depth and nodes have limits, a broken text costs
 * one problem with its place and a hint (a tab, a missing space after ':').  Duplicate keys are
 * problems.  Aliases name the anchored node; `<<` is merged, a mapping's own keys win.  The tree
 * may hold cycles (an alias inside its own anchor): walk it only to a known depth.  Immutable
 * after reading; one owner. */
#ifndef GRAMME_CONFIG_YAML_FILE_H
#define GRAMME_CONFIG_YAML_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "config/problem.h"

#define YAML_FILE_BYTES_MAX ((size_t) 1 << 20)
#define YAML_FILE_DEPTH_MAX 32u
#define YAML_FILE_NODES_MAX 65536u /* also of all mappings' pairs, merges expanded */

enum yaml_file_kind { YAML_FILE_SCALAR, YAML_FILE_LIST, YAML_FILE_MAP };

struct yaml_file;

/* ERR_USAGE: the list tells why (one problem of code "yaml-..." in most cases); also with
 * duplicate keys, but then *out is set as well, and the first of equal keys counts.
 * ERR_MEMORY. */
MUST_USE enum err yaml_file_read(const uint8_t *yaml, size_t bytes, struct problem_list *problems,
                                 struct yaml_file **out);
/* `yaml` was read in place of `original`, of which some lines got spaces more (yaml_fix.h): marks
 * are those of the original from now on.  Both are borrowed until the file is destroyed. */
MUST_USE enum err yaml_file_set_original(struct yaml_file *file, const uint8_t *yaml, size_t bytes,
                                         const uint8_t *original, size_t original_bytes);
void yaml_file_destroy(struct yaml_file *file);

/* Nodes are numbered from 1, the root; 0 is none. */
enum yaml_file_kind yaml_file_kind(const struct yaml_file *file, uint32_t node);
/* A scalar's value, NUL-terminated; lives as long as the file. */
const char *yaml_file_text(const struct yaml_file *file, uint32_t node);
/* An unquoted scalar: only then do ~, null and true mean more than text. */
bool yaml_file_is_plain(const struct yaml_file *file, uint32_t node);
/* Absent in all but name: an unquoted empty text, ~ or null. */
bool yaml_file_is_null(const struct yaml_file *file, uint32_t node);
struct problem_mark yaml_file_mark(const struct yaml_file *file, uint32_t node);

uint32_t yaml_file_list_count(const struct yaml_file *file, uint32_t node);
uint32_t yaml_file_list_item(const struct yaml_file *file, uint32_t node, uint32_t index);

struct yaml_file_pair {
    uint32_t key, value; /* key: a scalar */
};
uint32_t yaml_file_map_count(const struct yaml_file *file, uint32_t node);
struct yaml_file_pair yaml_file_map_pair(const struct yaml_file *file, uint32_t node,
                                         uint32_t index);
/* The node as JSON text (true, null and numbers as such): what the classic system made of a
 * mapping.  false past the depth or out's limit. */
MUST_USE bool yaml_file_to_json(const struct yaml_file *file, uint32_t node, struct buf *out);

#endif
