#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fuzz_accepted;

static void need(int done, const char *what)
{
    if (!done) {
        perror(what);
        exit(1);
    }
}

static void fill(int fd, const void *data, size_t size, uint64_t bytes)
{
    need(ftruncate(fd, 0) == 0 && ftruncate(fd, (off_t)bytes) == 0, "ftruncate");
    need(pwrite(fd, data, size, 0) == (ssize_t)size, "pwrite");
}

static char path[256];

static void remove_file(void)
{
    unlink(path);
}

const char *fuzz_file(const uint8_t *data, size_t size) // HDF5 opens no file without a name
{
    const char *folder = getenv("TMPDIR");
    static int fd = -1;

    if (fd < 0) {
        if (folder == NULL)
            folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
        snprintf(path, sizeof(path), "%s/wanmpi-fuzz-XXXXXX", folder);
        fd = mkstemp(path);
        need(fd >= 0, path);
        atexit(remove_file);
    }
    fill(fd, data, size, size);
    return path;
}

void fuzz_write(const char *folder, const char *name, const void *data, size_t size, uint64_t bytes)
{
    char path[512];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    need(fd >= 0, path);
    fill(fd, data, size, bytes);
    close(fd);
}

int fuzz_ok(status st)
{
    fuzz_accepted += st == ST_OK;
    if (st == ST_MEMORY || (st != ST_OK && status_line()[0] == '\0')) {
        fprintf(stderr, "fuzz: status %d: %s\n", (int)st, status_line());
        abort();
    }
    return st == ST_OK;
}

char *fuzz_text(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);

    need(text != NULL, "malloc");
    if (size > 0)
        memcpy(text, data, size);
    text[size] = '\0';
    return text;
}
