/* PyTorch's .pth: a zip of ROOT/data.pkl, which describes the tensors, and ROOT/data/KEY, their
 * storages as plain little-endian bytes, stored and not compressed, so that ranges can be read. */
#include "runtime/tensorfile_internal.h"

#include <errno.h>
#include <minizip/unzip.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define PICKLE_BYTES_MAX ((uint64_t)16 << 20) // of 242 tensors: 30 KB
#define MEMBER_NAME_BYTES 512

struct member {
    char *key; // of the name ROOT/data/KEY
    uint64_t offset, bytes;
    uint32_t crc;
    bool stored;
};

struct archive {
    const struct tensor_source *src;
    unzFile zip;
    char root[MEMBER_NAME_BYTES]; // with its '/'
    struct member *members;       // sorted by key
    size_t count, room;
};

static status damaged(const struct archive *a, const char *member)
{
    return fail(ST_FORMAT, "%s: its zip directory is damaged%s%s; was the file truncated?",
                a->src->path, member ? " at " : "", member ? member : "");
}

/* The current member's name and size. */
static status current(struct archive *a, char *name, unz_file_info64 *info)
{
    if (unzGetCurrentFileInfo64(a->zip, info, name, MEMBER_NAME_BYTES, NULL, 0, NULL, 0) != UNZ_OK)
        return damaged(a, NULL);
    if (info->size_filename >= MEMBER_NAME_BYTES || strlen(name) != info->size_filename)
        return fail(ST_FORMAT, "%s: a zip member has an unusable name", a->src->path);
    for (char *c = name; *c; c++) {
        if (*c < ' ' || *c == 0x7f)
            return fail(ST_FORMAT, "%s: a zip member has an unusable name", a->src->path);
    }
    return ST_OK;
}

/* The root is the folder that has data.pkl in it. */
static status find_root(struct archive *a)
{
    char name[MEMBER_NAME_BYTES];
    unz_file_info64 info;
    int more = unzGoToFirstFile(a->zip);

    for (; more == UNZ_OK; more = unzGoToNextFile(a->zip)) {
        const char *slash;

        TRY(current(a, name, &info));
        slash = strchr(name, '/');
        if (slash != NULL && strcmp(slash, "/data.pkl") == 0) {
            if (a->root[0] != '\0')
                return fail(ST_FORMAT, "%s: has data.pkl twice", a->src->path);
            memcpy(a->root, name, (size_t)(slash - name) + 1);
        }
    }
    if (more != UNZ_END_OF_LIST_OF_FILE)
        return damaged(a, NULL);
    if (a->root[0] == '\0')
        return fail(ST_FORMAT, "%s: is a zip without data.pkl, so not from torch.save",
                    a->src->path);
    return ST_OK;
}

static uint64_t little(const uint8_t *p, int bytes)
{
    uint64_t v = 0;

    while (bytes-- > 0)
        v = v << 8 | p[bytes];
    return v;
}

/* The range of the current member's bytes, from its central and its local record: minizip 1.1,
 * which Debian has, misreads the 64-bit fields, and so all members beyond 4 GiB. Source: PKWARE
 * APPNOTE 4.3.7, 4.3.12, 4.5.3. */
static status locate(struct archive *a, const char *name, struct member *m)
{
    const uint64_t at = (uint64_t)unzGetOffset64(a->zip);
    uint8_t head[46], local[30], extra[1024];
    uint64_t field[3]; // bytes, compressed bytes, offset of the local record
    size_t extra_size;

    TRY(read_exactly(a->src, head, sizeof(head), at));
    extra_size = (size_t)little(head + 30, 2);
    if (memcmp(head, "PK\1\2", 4) != 0 || extra_size > sizeof(extra))
        return damaged(a, name);
    TRY(read_exactly(a->src, extra, extra_size, at + sizeof(head) + little(head + 28, 2)));
    field[0] = little(head + 24, 4);
    field[1] = little(head + 20, 4);
    field[2] = little(head + 42, 4);
    for (size_t i = 0; i + 4 <= extra_size;) {
        const size_t size = (size_t)little(extra + i + 2, 2), end = i + 4 + size;
        size_t next = i + 4;

        if (end > extra_size)
            return damaged(a, name);
        for (int f = 0; f < 3 && little(extra + i, 2) == 1;
             f++) { // the 64-bit fields, in this order
            if (field[f] != 0xffffffff)
                continue;
            if (next + 8 > end)
                return damaged(a, name);
            field[f] = little(extra + next, 8);
            next += 8;
        }
        i = end;
    }
    if (field[2] > a->src->size - sizeof(local)) // a zip is longer than this record
        return damaged(a, name);
    TRY(read_exactly(a->src, local, sizeof(local), field[2]));
    if (memcmp(local, "PK\3\4", 4) != 0)
        return damaged(a, name);
    m->offset = field[2] + sizeof(local) + little(local + 26, 2) + little(local + 28, 2);
    m->bytes = field[0];
    m->crc = (uint32_t)little(head + 16, 4);
    m->stored = little(head + 10, 2) == 0 && field[1] == field[0] && !(little(head + 8, 2) & 1);
    if (m->stored && (m->offset > a->src->size || m->bytes > a->src->size - m->offset))
        return fail(ST_FORMAT,
                    "%s: %s has %llu bytes at %llu, the file ends at %llu; was it truncated?",
                    a->src->path, name, (unsigned long long)m->bytes, (unsigned long long)m->offset,
                    (unsigned long long)a->src->size);
    return ST_OK;
}

static status compressed(const struct archive *a, const char *name)
{
    return fail(ST_FORMAT,
                "%s: %s is compressed or encrypted, which torch.save never does; load and save it "
                "with PyTorch",
                a->src->path, name);
}

/* Reads the current member, a small one. *data is the caller's. */
static status read_member(struct archive *a, const char *name, uint64_t limit, uint8_t **data,
                          size_t *size)
{
    struct member m = { 0 };
    uint8_t *bytes;
    status st;

    TRY(locate(a, name, &m));
    if (!m.stored)
        return compressed(a, name);
    if (m.bytes > limit)
        return fail(ST_FORMAT, "%s: %s has %llu bytes; at most %llu are read", a->src->path, name,
                    (unsigned long long)m.bytes, (unsigned long long)limit);
    bytes = malloc((size_t)m.bytes + 1);
    if (bytes == NULL)
        return fail(ST_MEMORY, "%s: no memory for %s", a->src->path, name);
    TRY_OUT(read_exactly(a->src, bytes, (size_t)m.bytes, m.offset));
    if (crc32(0, bytes, (uInt)m.bytes) != m.crc)
        st = damaged(a, name);
out:
    if (st != ST_OK) {
        free(bytes);
        return st;
    }
    *data = bytes;
    *size = (size_t)m.bytes;
    return ST_OK;
}

static status add_storage(struct archive *a, const char *name, const char *key)
{
    struct member m = { 0 };

    if (a->count == a->room) {
        const size_t room = a->room ? 2 * a->room : 256;
        struct member *more = realloc(a->members, room * sizeof(*more));

        if (more == NULL)
            return fail(ST_MEMORY, "%s: no memory for its %zu storages", a->src->path, room);
        a->members = more;
        a->room = room;
    }
    TRY(locate(a, name, &m));
    m.key = strdup(key);
    if (m.key == NULL)
        return fail(ST_MEMORY, "%s: no memory for its zip directory", a->src->path);
    a->members[a->count++] = m;
    return ST_OK;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(((const struct member *)a)->key, ((const struct member *)b)->key);
}

/* All members of the root: storages into the table, data.pkl into *pickle, byteorder checked. */
static status list_members(struct archive *a, uint8_t **pickle, size_t *pickle_size)
{
    const size_t root = strlen(a->root);
    char name[MEMBER_NAME_BYTES];
    unz_file_info64 info;
    int more = unzGoToFirstFile(a->zip);

    for (; more == UNZ_OK; more = unzGoToNextFile(a->zip)) {
        TRY(current(a, name, &info));
        if (strncmp(name, a->root, root) != 0)
            continue;
        if (strcmp(name + root, "data.pkl") == 0) {
            TRY(read_member(a, name, PICKLE_BYTES_MAX, pickle, pickle_size));
        } else if (strcmp(name + root, "byteorder") == 0) {
            uint8_t *order = NULL;
            size_t size = 0;
            bool right;

            TRY(read_member(a, name, 64, &order, &size));
            right = size == 6 && memcmp(order, "little", 6) == 0;
            free(order);
            if (!right)
                return fail(ST_FORMAT, "%s: its numbers are not little-endian", a->src->path);
        } else if (strncmp(name + root, "data/", 5) == 0 && name[root + 5] != '\0') {
            TRY(add_storage(a, name, name + root + 5));
        }
    }
    if (more != UNZ_END_OF_LIST_OF_FILE)
        return damaged(a, NULL);
    if (a->count > 0)
        qsort(a->members, a->count, sizeof(*a->members), by_key);
    for (size_t i = 1; i < a->count; i++) {
        if (strcmp(a->members[i - 1].key, a->members[i].key) == 0)
            return fail(ST_FORMAT, "%s: %sdata/%s occurs twice", a->src->path, a->root,
                        a->members[i].key);
    }
    return ST_OK;
}

static status find_storage(void *payload, const char *key, uint64_t *offset, uint64_t *bytes)
{
    const struct archive *a = payload;
    const struct member wanted = { .key = (char *)key };
    const struct member *m = NULL;

    if (a->count > 0)
        m = bsearch(&wanted, a->members, a->count, sizeof(*a->members), by_key);
    if (m == NULL)
        return fail(ST_FORMAT, "%s: its pickle names the storage %sdata/%s, which does not exist",
                    a->src->path, a->root, key);
    if (!m->stored)
        return compressed(a, key);
    *offset = m->offset;
    *bytes = m->bytes;
    return ST_OK;
}

/* A zip ends in a record of 22 bytes and a comment, whose length is in the record. minizip accepts
 * the 64-bit record before it, and so opens files that lack their last bytes. */
static status check_end(const struct tensor_source *src)
{
    const size_t size = src->size < 22 + 0xffff ? (size_t)src->size : 22 + 0xffff;
    uint8_t *tail = malloc(size);
    bool found = false;
    status st = ST_OK;

    if (tail == NULL)
        return fail(ST_MEMORY, "%s: no memory to read it", src->path);
    TRY_OUT(read_exactly(src, tail, size, src->size - size));
    for (size_t at = size; at >= 22 && !found; at--) {
        const uint8_t *end = tail + at - 22;

        found = memcmp(end, "PK\5\6", 4) == 0 && (size_t)(end[20] | end[21] << 8) == size - at;
    }
    if (!found)
        st = fail(ST_FORMAT, "%s: begins like a zip but does not end like one; was it truncated?",
                  src->path);
out:
    free(tail);
    return st;
}

status pth_list(const struct tensor_source *src, struct tensor_list *list)
{
    struct archive a = { .src = src };
    uint8_t *pickle = NULL;
    size_t pickle_size = 0;
    status st = ST_OK;

    TRY_OUT(check_end(src));
    errno = 0;
    a.zip = unzOpen64(src->path);
    if (a.zip == NULL && (errno == EMFILE || errno == ENFILE))
        TRY_OUT(fail(status_of_errno(), "%s: %s", src->path, strerror(errno)));
    if (a.zip == NULL)
        TRY_OUT(fail(ST_FORMAT,
                     "%s: begins like a zip but has no directory at its end; was it truncated?",
                     src->path));
    TRY_OUT(find_root(&a));
    TRY_OUT(list_members(&a, &pickle, &pickle_size));
    TRY_OUT(
        pickle_list(src, pickle, pickle_size, (struct pickle_storages){ find_storage, &a }, list));
out:
    for (size_t i = 0; i < a.count; i++)
        free(a.members[i].key);
    free(a.members);
    free(pickle);
    if (a.zip != NULL)
        unzClose(a.zip);
    return st;
}
