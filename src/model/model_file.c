/* model_file - see model_file.h. */
#include "model/model_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"

static enum err open_regular(const char *path, struct err_text *text, int *out, uint64_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (fd < 0) {
        enum err e = errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO;
        return err_set(text, e, "%s: cannot open: %m", path);
    }
    struct stat status;
    if (fstat(fd, &status)) {
        enum err e = err_set(text, ERR_IO, "%s: cannot look at it: %m", path);
        close(fd);
        return e;
    }
    if (!S_ISREG(status.st_mode)) {
        close(fd);
        return err_set(text, ERR_IO, "%s: not a regular file", path);
    }
    *out = fd;
    *size = (uint64_t) status.st_size;
    return ERR_OK;
}

enum err model_file_open(const char *path, struct err_text *text, struct model_file *out) {
    struct model_file file = {0};
    int fd = -1;
    enum err e = open_regular(path, text, &fd, &file.size);
    if (e) return e;
    if (file.size) {
        void *bytes = mmap(NULL, file.size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED) {
            e = err_set(text, ERR_IO, "%s: cannot map %llu bytes: %m", path,
                        (unsigned long long) file.size);
            goto out;
        }
        file.bytes = bytes;
    }
    file.path = alloc_string(path, strlen(path));
    if (!file.path) e = err_set(text, ERR_MEMORY, "%s: no memory for its path", path);
out:
    close(fd);
    if (e) model_file_close(&file);
    else *out = file;
    return e;
}

void model_file_close(struct model_file *file) {
    if (file->bytes) munmap((void *) file->bytes, file->size);
    alloc_free(file->path);
    *file = (struct model_file){0};
}

enum err model_file_read(const char *path, size_t bytes_max, struct err_text *text, char **out,
                         size_t *bytes) {
    struct err_text reason = {""};
    int fd = -1;
    uint64_t size = 0;
    char *data = NULL;
    enum err e = open_regular(path, &reason, &fd, &size);
    if (e == ERR_NOT_FOUND) return e;
    if (e) return err_set(text, e, "%s", reason.text);
    if (size > bytes_max) {
        e = err_set(text, ERR_LIMIT, "%s: %llu bytes: expected at most %zu", path,
                    (unsigned long long) size, bytes_max);
        goto out;
    }
    data = alloc_bytes(size + 1);
    if (!data) {
        e = err_set(text, ERR_MEMORY, "%s: no memory for its %llu bytes", path,
                    (unsigned long long) size);
        goto out;
    }
    size_t done = 0;
    while (done < size) {
        ssize_t got = read(fd, data + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            e = err_set(text, ERR_IO, "%s: cannot read: %m", path);
            goto out;
        }
        if (got == 0) break; /* it was shortened meanwhile: what is there counts */
        done += (size_t) got;
    }
    data[done] = '\0';
    *bytes = done;
    *out = data;
    data = NULL;
out:
    alloc_free(data);
    close(fd);
    return e;
}
