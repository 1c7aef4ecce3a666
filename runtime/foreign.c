#include "runtime/foreign.h"

#include "runtime/status.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

/* Whether the text begins with the word; upper and lower case are the same. */
static bool begins(const char *text, size_t bytes, const char *word)
{
    return bytes >= strlen(word) && strncasecmp(text, word, strlen(word)) == 0;
}

static bool is_text(const char *start, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (!isprint((unsigned char)start[i]) && !isspace((unsigned char)start[i]))
            return false;
    return true;
}

static bool is_zero(const char *start, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (start[i] != 0)
            return false;
    return true;
}

static const char *kind_of_text(const char *text, size_t bytes)
{
    if (begins(text, bytes, "version https://git-lfs"))
        return "a Git LFS pointer, not the file: run git lfs pull in its folder";
    while (bytes > 0 && isspace((unsigned char)*text)) {
        text++;
        bytes--;
    }
    if (begins(text, bytes, "<!doctype html") || begins(text, bytes, "<html"))
        return "an HTML page, as a failed download leaves: download the file again";
    return "a text, as a failed download leaves: read it, and download the file again";
}

const char *foreign_kind(const void *start, size_t bytes)
{
    static const struct {
        const char *magic;
        size_t length, at;
        const char *kind;
    } kinds[] = {
        { "GGML", 4, 0, "a GGML file, the format before GGUF: use a newer one" },
        { "\x89HDF\r\n", 6, 0, "an HDF5 file: run files and caches are not checkpoints" },
        { "\x1f\x8b", 2, 0, "a gzip archive: unpack it" },
        { "7z\xbc\xaf", 4, 0, "a 7z archive: unpack it" },
        { "Rar!", 4, 0, "a RAR archive: unpack it" },
        { "\x89PNG", 4, 0, "an image" },
        { "\xff\xd8\xff", 3, 0, "an image" },
        { "ftyp", 4, 4, "a video" },
    };

    if (bytes == 0)
        return "empty: download it again";
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (bytes >= kinds[i].at + kinds[i].length &&
            memcmp((const char *)start + kinds[i].at, kinds[i].magic, kinds[i].length) == 0)
            return kinds[i].kind;
    // the length at the beginning of a .safetensors file has zeros, and a zip has control codes
    if (is_text(start, bytes))
        return kind_of_text(start, bytes);
    if (bytes >= 16 && is_zero(start, bytes))
        return "without data at its beginning, as an unfinished download: download it again";
    return NULL;
}
