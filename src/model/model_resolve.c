/* model_resolve - see model_resolve.h. */
#include "model/model_resolve.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "model/gguf.h"
#include "model/model_file.h"

static char hub[MODEL_PATH_BYTES]; /* "" while not configured */

bool model_resolve_join(char out[MODEL_PATH_BYTES], const char *folder, const char *name) {
    size_t bytes = strlen(folder);
    const char *slash = bytes && folder[bytes - 1] == '/' ? "" : "/";
    int written = snprintf(out, MODEL_PATH_BYTES, "%s%s%s", folder, slash, name);
    return written > 0 && written < MODEL_PATH_BYTES;
}

void model_resolve_configure(const char *hf_hub_cache, const char *hf_home,
                             const char *xdg_cache_home, const char *home) {
    const struct {
        const char *folder, *below;
    } places[] = {{hf_hub_cache, ""},
                  {hf_home, "hub"},
                  {xdg_cache_home, "huggingface/hub"},
                  {home, ".cache/huggingface/hub"}};
    hub[0] = '\0';
    for (uint32_t i = 0; i < ARRAY_COUNT(places); i++) {
        if (!places[i].folder || !*places[i].folder) continue;
        if (!model_resolve_join(hub, places[i].folder, places[i].below)) hub[0] = '\0';
        size_t bytes = strlen(hub);
        if (bytes > 1 && hub[bytes - 1] == '/') hub[bytes - 1] = '\0';
        return;
    }
}

static bool is_folder(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static bool has_file(const char *folder, const char *name) {
    char path[MODEL_PATH_BYTES];
    return model_resolve_join(path, folder, name) && access(path, F_OK) == 0;
}

static bool ends_with(const char *text, const char *end) {
    size_t bytes = strlen(text), end_bytes = strlen(end);
    return bytes >= end_bytes && strcmp(text + bytes - end_bytes, end) == 0;
}

/* True for "...-00002-of-00003.gguf"; *part is 2. */
static bool is_split_part(const char *name, unsigned *part) {
    size_t bytes = strlen(name);
    unsigned count;
    int end = 0;
    return bytes > 20 && sscanf(name + bytes - 20, "-%5u-of-%5u.gguf%n", part, &count, &end) == 2 &&
           end == 20;
}

/* --- names -------------------------------------------------------------------------------- */

static void name_of_file(const char *path, char out[MODEL_NAME_BYTES]) {
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    size_t bytes = strlen(base);
    unsigned part;
    if (is_split_part(base, &part)) bytes -= 20;
    else if (ends_with(base, ".gguf")) bytes -= 5;
    snprintf(out, MODEL_NAME_BYTES, "%.*s", (int) bytes, base);
}

/* The folder's own name; org/name for a snapshot of the cache. */
static void name_of_folder(const char *path, char out[MODEL_NAME_BYTES]) {
    char *full = realpath(path, NULL); /* "." and links have names too */
    char *end = full ? full + strlen(full) : NULL;
    char *snapshots = full ? strstr(full, "/snapshots/") : NULL;
    char *models = NULL;
    if (snapshots) {
        *snapshots = '\0';
        models = strrchr(full, '/');
        if (models && strncmp(models, "/models--", 9) != 0) models = NULL;
        if (!models) *snapshots = '/';
    }
    if (models) {
        char *name = models + 9, *dashes = strstr(name, "--");
        if (dashes) {
            *dashes = '/';
            memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
        }
        snprintf(out, MODEL_NAME_BYTES, "%s", name);
    } else {
        while (end && end > full && *end != '/') end--;
        const char *name = end && *end == '/' ? end + 1 : path;
        snprintf(out, MODEL_NAME_BYTES, "%s", *name ? name : "model");
    }
    free(full);
}

/* --- paths -------------------------------------------------------------------------------- */

static enum err read_magic(const char *path, struct err_text *text, bool *is_gguf) {
    FILE *file = fopen(path, "rb");
    if (!file) return err_set(text, ERR_IO, "%s: cannot open: %m", path);
    uint8_t magic[4];
    *is_gguf =
        fread(magic, 1, sizeof magic, file) == sizeof magic && gguf_is_magic(magic, sizeof magic);
    fclose(file);
    return ERR_OK;
}

static enum err resolve_file(const char *path, struct err_text *text, struct model_source *out) {
    bool is_gguf = false;
    enum err e = read_magic(path, text, &is_gguf);
    if (e) return e;
    if (is_gguf) {
        out->kind = MODEL_SOURCE_GGUF;
        if (snprintf(out->path, sizeof out->path, "%s", path) >= (int) sizeof out->path)
            return err_set(text, ERR_LIMIT, "%.200s...: the path is too long", path);
        name_of_file(path, out->name);
        return ERR_OK;
    }
    if (ends_with(path, ".safetensors") || ends_with(path, ".json"))
        return err_set(text, ERR_USAGE, "%s: one file of a Hugging Face model: name its folder",
                       path);
    if (ends_with(path, ".bin") || ends_with(path, ".pt") || ends_with(path, ".pth"))
        return err_set(text, ERR_UNSUPPORTED,
                       "%s: PyTorch files are not read: supported are safetensors and GGUF; the "
                       "nearest is the same model as safetensors",
                       path);
    return err_set(text, ERR_FORMAT, "%s: not a GGUF file: expected the bytes GGUF first", path);
}

/* The GGUF models of a folder, parts of a split one counted once; the first one's name. */
static enum err list_ggufs(const char *path, struct err_text *text, uint32_t *count,
                           char first[256], char list[400]) {
    DIR *folder = opendir(path);
    if (!folder) return err_set(text, ERR_IO, "%s: cannot list it: %m", path);
    *count = 0;
    list[0] = '\0';
    for (struct dirent *entry; (entry = readdir(folder));) {
        unsigned part = 1;
        const char *name = entry->d_name;
        if (name[0] == '.' || !ends_with(name, ".gguf")) continue;
        if (is_split_part(name, &part) && part != 1) continue;
        if (strncmp(name, "mmproj", 6) == 0) continue; /* a vision tower beside the model */
        if (!*count || strcmp(name, first) < 0) snprintf(first, 256, "%s", name);
        size_t used = strlen(list);
        snprintf(list + used, 400 - used, "%s%s", *count ? ", " : "", name);
        ++*count;
    }
    closedir(folder);
    return ERR_OK;
}

static enum err resolve_folder(const char *path, struct err_text *text, struct model_source *out) {
    uint32_t count = 0;
    char first[256] = "", list[400] = "", full[MODEL_PATH_BYTES];
    enum err e = list_ggufs(path, text, &count, first, list);
    if (e) return e;
    bool has_config = has_file(path, "config.json");
    bool has_weights =
        has_file(path, "model.safetensors") || has_file(path, "model.safetensors.index.json");
    if (count && !(has_config && has_weights)) {
        if (count > 1)
            return err_set(text, ERR_USAGE, "%s: holds %u GGUF models: name one of them: %s", path,
                           count, list);
        if (!model_resolve_join(full, path, first))
            return err_set(text, ERR_LIMIT, "%.200s...: the path is too long", path);
        return resolve_file(full, text, out);
    }
    out->kind = MODEL_SOURCE_FOLDER;
    if (snprintf(out->path, sizeof out->path, "%s", path) >= (int) sizeof out->path)
        return err_set(text, ERR_LIMIT, "%.200s...: the path is too long", path);
    name_of_folder(path, out->name);
    return ERR_OK;
}

/* --- the cache ---------------------------------------------------------------------------- */

struct repo {
    char id[MODEL_NAME_BYTES];     /* org/name */
    char folder[MODEL_NAME_BYTES]; /* models--org--name */
    char revision[128];
};

/* Letters, digits, '.', '_', '-', at most one '/' inside, and no "..". */
static bool parse_repo(const char *text, struct repo *repo) {
    const char *at = strchr(text, '@');
    size_t bytes = at ? (size_t) (at - text) : strlen(text), used = 0;
    int slashes = 0;
    if (!bytes || bytes > 96 || strstr(text, "..") || text[0] == '/' || text[bytes - 1] == '/')
        return false;
    used = (size_t) snprintf(repo->folder, sizeof repo->folder, "models--");
    for (size_t i = 0; i < bytes; i++) {
        unsigned char letter = (unsigned char) text[i];
        if (letter == '/') {
            slashes++;
            repo->folder[used++] = '-';
            repo->folder[used++] = '-';
        } else if (isalnum(letter) || letter == '.' || letter == '_' || letter == '-') {
            repo->folder[used++] = (char) letter;
        } else {
            return false;
        }
    }
    repo->folder[used] = '\0';
    snprintf(repo->id, sizeof repo->id, "%.*s", (int) bytes, text);
    const char *revision = at ? at + 1 : "main";
    for (const char *c = revision; *c; c++)
        if (!isalnum((unsigned char) *c) && !strchr("._-/", *c)) return false;
    int written = snprintf(repo->revision, sizeof repo->revision, "%s", revision);
    return slashes <= 1 && written > 0 && (size_t) written < sizeof repo->revision &&
           revision[0] != '/';
}

static enum err not_here(const char *path_or_name, const struct repo *repo, struct err_text *text) {
    char command[320] = "";
    bool is_main = repo && strcmp(repo->revision, "main") == 0;
    if (repo)
        snprintf(command, sizeof command, "; get it with: hf download %s%s%s", repo->id,
                 is_main ? "" : " --revision ", is_main ? "" : repo->revision);
    if (!repo || ends_with(path_or_name, ".gguf"))
        return err_set(text, ERR_NOT_FOUND, "%s: no such file or folder", path_or_name);
    char folder[MODEL_PATH_BYTES];
    if (hub[0] && model_resolve_join(folder, hub, repo->folder) && is_folder(folder))
        return err_set(text, ERR_NOT_FOUND,
                       "%s: the Hugging Face cache has no snapshot of the revision %s in %s%s",
                       path_or_name, repo->revision, folder, command);
    return err_set(text, ERR_NOT_FOUND,
                   "%s: no such file or folder here, and %s/%s is not in the Hugging Face cache%s",
                   path_or_name, hub[0] ? hub : "(no HOME, HF_HOME or HF_HUB_CACHE)", repo->folder,
                   command);
}

/* The snapshot of a revision: the commit that refs/REVISION names, or a commit itself. */
static bool find_snapshot(const char *folder, const char *revision, char out[MODEL_PATH_BYTES]) {
    char path[MODEL_PATH_BYTES], snapshots[MODEL_PATH_BYTES], commit[128];
    snprintf(commit, sizeof commit, "%s", revision);
    char *ref = NULL;
    size_t bytes = 0;
    if (model_resolve_join(path, folder, "refs") && model_resolve_join(snapshots, path, revision) &&
        model_file_read(snapshots, sizeof commit - 1, NULL, &ref, &bytes) == ERR_OK) {
        while (bytes && isspace((unsigned char) ref[bytes - 1])) bytes--;
        snprintf(commit, sizeof commit, "%.*s", (int) bytes, ref);
    }
    alloc_free(ref);
    if (!commit[0] || strchr(commit, '/') || strstr(commit, "..")) return false;
    return model_resolve_join(snapshots, folder, "snapshots") &&
           model_resolve_join(out, snapshots, commit) && is_folder(out);
}

static enum err resolve_cached(const char *path_or_name, struct err_text *text,
                               struct model_source *out) {
    struct repo repo;
    if (!parse_repo(path_or_name, &repo)) return not_here(path_or_name, NULL, text);
    char folder[MODEL_PATH_BYTES], snapshot[MODEL_PATH_BYTES];
    if (!hub[0] || !model_resolve_join(folder, hub, repo.folder) || !is_folder(folder) ||
        !find_snapshot(folder, repo.revision, snapshot))
        return not_here(path_or_name, &repo, text);
    enum err e = resolve_folder(snapshot, text, out);
    if (e) return e;
    out->is_cached = true;
    if (out->kind == MODEL_SOURCE_FOLDER || strlen(repo.id) < sizeof out->name)
        snprintf(out->name, sizeof out->name, "%s", repo.id);
    return ERR_OK;
}

enum err model_resolve(const char *path_or_name, struct err_text *text, struct model_source *out) {
    struct stat status;
    struct model_source source = {0};
    enum err e;
    if (!*path_or_name)
        return err_set(text, ERR_USAGE, "no model is named: expected a path or org/name");
    if (stat(path_or_name, &status) == 0) {
        if (S_ISDIR(status.st_mode)) e = resolve_folder(path_or_name, text, &source);
        else if (S_ISREG(status.st_mode)) e = resolve_file(path_or_name, text, &source);
        else e = err_set(text, ERR_USAGE, "%s: neither a file nor a folder", path_or_name);
    } else if (errno != ENOENT && errno != ENOTDIR && errno != ENAMETOOLONG)
        e = err_set(text, ERR_IO, "%s: cannot look at it: %m", path_or_name);
    else e = resolve_cached(path_or_name, text, &source);
    if (!e) *out = source;
    return e;
}
