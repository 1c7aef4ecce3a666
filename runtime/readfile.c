#include "runtime/readfile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES ((size_t)16 << 10)

status readfile_bytes(const char *path, size_t limit, char **out, size_t *size)
{
    status st = ST_OK;
    FILE *f = fopen(path, "rbe");
    char *data = NULL;
    size_t used = 0, room = 0;

    if (f == NULL)
        return fail(status_of_errno(), "%s: %s", path, strerror(errno));
    do {
        if (used == room) {
            const size_t more = room > 0 ? 2 * room : FIRST_BYTES;
            char *grown = realloc(data, more + 1);

            if (grown == NULL) {
                st = fail(ST_MEMORY, "%s: no memory for %zu bytes", path, more);
                goto out;
            }
            data = grown;
            room = more;
        }
        used += fread(data + used, 1, room - used, f);
        if (used > limit) {
            st =
                fail(ST_FORMAT, "%s: has more than %zu bytes, which no such file has", path, limit);
            goto out;
        }
    } while (!feof(f) && !ferror(f));
    if (ferror(f)) {
        st = fail(status_of_errno(), "%s: %s", path, strerror(errno));
        goto out;
    }
    data[used] = '\0';
    *out = data;
    *size = used;
    data = NULL;
out:
    free(data);
    fclose(f);
    return st;
}

status readfile_text(const char *path, size_t limit, char **text)
{
    char *data = NULL;
    size_t size = 0;

    TRY(readfile_bytes(path, limit, &data, &size));
    if (strlen(data) != size) {
        free(data);
        return fail(ST_FORMAT, "%s: holds zero bytes; text was expected", path);
    }
    *text = data;
    return ST_OK;
}
