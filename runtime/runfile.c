#include "runtime/runfile_internal.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <sha2.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool runfile_plain_name(const char *name)
{
    size_t n = 0;

    for (; name[n] != '\0'; n++) {
        if (!isalnum((unsigned char)name[n]) && strchr("_-.", name[n]) == NULL)
            return false;
    }
    return n > 0 && n < RUNFILE_NAME_BYTES && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Room for one element of `bytes` after `count` of them. */
static status grow(void **list, int count, size_t bytes)
{
    void *more = realloc(*list, ((size_t)count + 1) * bytes);

    if (more == NULL)
        return fail(ST_MEMORY, "no memory for a run file of %d objects", count + 1);
    *list = more;
    return ST_OK;
}

status runfile_add(struct runfile *f, const char *name, struct tensor value)
{
    struct run_array *a;
    void *list = f->arrays;

    assert(name[0] == '/' && strlen(name) < RUNFILE_NAME_BYTES);
    assert(value.data == NULL || tensor_contiguous(value));
    TRY(grow(&list, f->array_count, sizeof(*f->arrays)));
    f->arrays = list;
    a = &f->arrays[f->array_count++];
    *a = (struct run_array){ .value = value };
    strcpy(a->name, name);
    return ST_OK;
}

status runfile_add_text(struct runfile *f, const char *name, const char *text)
{
    struct run_text *t;
    void *list = f->texts;
    char *copy;

    assert(runfile_plain_name(name));
    TRY(grow(&list, f->text_count, sizeof(*f->texts)));
    f->texts = list;
    copy = strdup(text);
    if (copy == NULL)
        return fail(ST_MEMORY, "no memory for the text %s", name);
    t = &f->texts[f->text_count++];
    *t = (struct run_text){ .text = copy };
    strcpy(t->name, name);
    return ST_OK;
}

struct tensor runfile_find(const struct runfile *f, const char *name)
{
    for (int i = 0; i < f->array_count; i++) {
        if (strcmp(f->arrays[i].name, name) == 0)
            return f->arrays[i].value;
    }
    return (struct tensor){ 0 };
}

const char *runfile_text(const struct runfile *f, const char *name)
{
    for (int i = 0; i < f->text_count; i++) {
        if (strcmp(f->texts[i].name, name) == 0)
            return f->texts[i].text;
    }
    return NULL;
}

void runfile_done(struct runfile *f)
{
    for (int i = 0; i < f->array_count; i++)
        free(f->arrays[i].memory);
    for (int i = 0; i < f->text_count; i++)
        free(f->texts[i].text);
    free(f->arrays);
    free(f->texts);
    *f = (struct runfile){ 0 };
}

status runfile_digest(int fd, int64_t bytes, const char *path, char digest[RUNFILE_DIGEST_BYTES])
{
    static const int64_t block = 1 << 20;
    uint8_t *buffer = malloc((size_t)block);
    status st = ST_OK;
    SHA2_CTX sha;

    if (buffer == NULL)
        return fail(ST_MEMORY, "%s: no memory to read it", path);
    SHA256Init(&sha);
    for (int64_t at = 0; at < bytes;) {
        const int64_t left = bytes - at;
        const ssize_t n = pread(fd, buffer, (size_t)(left < block ? left : block), at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            st = fail(ST_IO, "%s: cannot read: %s", path, n < 0 ? strerror(errno) : "it was cut");
            goto out;
        }
        SHA256Update(&sha, buffer, (size_t)n);
        at += n;
    }
    SHA256End(&sha, digest);
out:
    free(buffer);
    return st;
}
