/* Reading whole files: sizes round the buffer's, the limit, zero bytes, what cannot be read. */
#include "runtime/readfile.h"
#include "tests/scratch.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[512];

static void make(size_t size)
{
    FILE *f = fopen(path, "wb");

    for (size_t i = 0; f != NULL && i < size; i++)
        fputc('a' + (int)(i % 23), f);
    CHECK(f != NULL && fclose(f) == 0, "%s cannot be written", path);
}

static void test_sizes(void)
{
    const size_t sizes[] = { 0, 1, 16383, 16384, 16385, 32768, 100000 };

    for (size_t i = 0; i < COUNT(sizes); i++) {
        char *text = NULL;
        bool right = true;

        make(sizes[i]);
        CHECK(readfile_text(path, sizes[i], &text) == ST_OK, "%s", status_line());
        right = text != NULL && strlen(text) == sizes[i];
        for (size_t n = 0; right && n < sizes[i]; n++)
            right = text[n] == 'a' + (int)(n % 23);
        CHECK(right, "%zu bytes", sizes[i]);
        free(text);
        if (sizes[i] > 0)
            CHECK(readfile_text(path, sizes[i] - 1, &text) == ST_FORMAT, "%zu bytes", sizes[i]);
    }
}

static void test_refused(void)
{
    char *data = NULL;
    size_t size = 0;
    char line[512];
    FILE *f = fopen(path, "wb");

    CHECK(f != NULL && fwrite("a\0b", 1, 3, f) == 3 && fclose(f) == 0, "%s", path);
    CHECK(readfile_text(path, 10, &data) == ST_FORMAT && data == NULL, "%s", status_line());
    CHECK(readfile_bytes(path, 10, &data, &size) == ST_OK && size == 3, "%s", status_line());
    free(data);
    CHECK(readfile_text(scratch_path("nowhere"), 10, &data) == ST_IO, "%s", status_line());
    CHECK(readfile_text(scratch, 10, &data) == ST_IO, "%s", status_line());
    snprintf(line, sizeof(line), "%s: Is a directory", scratch);
    CHECK(strcmp(status_line(), line) == 0, "%s", status_line());
}

int main(void)
{
    if (!scratch_open("readfile"))
        return 1;
    snprintf(path, sizeof(path), "%s", scratch_path("a"));
    test_sizes();
    test_refused();
    unlink(path);
    scratch_close();
    return check_end("readfile");
}
