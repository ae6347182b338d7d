/* replay - runs a fuzz entry once over every file of a folder: the committed corpus is a test. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static int replay_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return 1;
    struct stat status;
    if (fstat(fileno(file), &status) || !S_ISREG(status.st_mode)) {
        fclose(file);
        return 0;
    }
    size_t bytes = (size_t) status.st_size;
    uint8_t *data = malloc(bytes + 1);
    int failed = !data || fread(data, 1, bytes, file) != bytes;
    fclose(file);
    if (!failed) LLVMFuzzerTestOneInput(data, bytes);
    free(data);
    return failed;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    DIR *folder = opendir(argv[1]);
    if (!folder) {
        perror(argv[1]);
        return 1;
    }
    int count = 0, failed = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
        failed += replay_file(path);
        count++;
    }
    closedir(folder);
    printf("%d inputs replayed\n", count);
    return failed || count == 0;
}
