/* Weight files as PyTorch and safetensors write them; and damaged ones: truncated at every byte,
 * with changed bytes, and hostile ones. argv[1]: the folder of golden files. */
#include "runtime/tensorfile_internal.h"
#include "runtime/tensorwriter.h"
#include "tests/check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *golden;
static int memory;       // descriptor of a file in memory
static char scratch[32]; // its path

static status open_golden(struct tensorfile *f, const char *name)
{
    char path[512];
    const char *paths[] = { path };

    snprintf(path, sizeof(path), "%s/%s", golden, name);
    return tensorfile_open(f, paths, 1);
}

static status open_bytes(struct tensorfile *f, const void *bytes, size_t size)
{
    const char *paths[] = { scratch };

    if (ftruncate(memory, 0) != 0 || pwrite(memory, bytes, size, 0) != (ssize_t)size)
        exit(2);
    return tensorfile_open(f, paths, 1);
}

/* Element (r, c) of the tensor, which has `columns` columns, is (first + r * step + c *
 * column_step) / 4, whether the tensor is read as a whole or one element at a time. */
static void check_values(struct tensorfile *f, const char *name, enum dtype dt, int64_t count,
                         float first, float step, int64_t columns, float column_step)
{
    const struct file_tensor *t = tensorfile_find(f, name);
    float whole[32], one = 0;

    CHECK(t != NULL, "no %s", name);
    if (t == NULL)
        return;
    CHECK(t->shape.dtype == dt && tensor_count(t->shape) == count, "%s is %s", name,
          tensor_text(t->shape));
    CHECK(tensorfile_read(f, t, 0, count, DT_F32, whole) == ST_OK, "%s", status_line());
    for (int64_t i = 0; i < count; i++) {
        const float expected =
            (first + (float)(i / columns) * step + (float)(i % columns) * column_step) / 4;
        uint16_t narrow = 0;

        CHECK(whole[i] == expected, "%s[%d] is %g, not %g", name, (int)i, whole[i], expected);
        CHECK(tensorfile_read(f, t, i, 1, DT_F32, &one) == ST_OK && one == expected,
              "%s[%d] read separately is %g, not %g", name, (int)i, one, expected);
        CHECK(tensorfile_read(f, t, i, 1, DT_BF16, &narrow) == ST_OK &&
                  (uint32_t)narrow << 16 == ((union {
                                                float f;
                                                uint32_t u;
                                            }){ expected })
                                                .u,
              "%s[%d] as bf16 is %04x", name, (int)i, narrow);
    }
}

static void test_pth(void)
{
    struct tensorfile f;
    int64_t longs[3] = { 0 };
    float x;

    CHECK(open_golden(&f, "flat.pth") == ST_OK, "%s", status_line());
    CHECK(f.count == 11, "%d tensors", f.count);
    check_values(&f, "a", DT_F32, 15, 0, 5, 5, 1);
    check_values(&f, "transposed", DT_F32, 15, 0, 1, 3, 5);
    check_values(&f, "row", DT_F32, 5, 5, 0, 5, 1);
    check_values(&f, "column", DT_F32, 3, 2, 5, 1, 0);
    check_values(&f, "half", DT_F16, 15, 0, 5, 5, 1);
    check_values(&f, "bf16", DT_BF16, 15, 0, 5, 5, 1);
    check_values(&f, "double", DT_F64, 15, 0, 5, 5, 1);
    check_values(&f, "scalar", DT_F32, 1, 1, 0, 1, 0);
    check_values(&f, "expanded", DT_F32, 8, 1, 0, 8, 0);
    check_values(&f, "empty", DT_F32, 0, 0, 0, 1, 0);
    CHECK(tensorfile_read(&f, tensorfile_find(&f, "long"), 0, 3, DT_I64, longs) == ST_OK &&
              longs[2] == 2,
          "long[2] is %d", (int)longs[2]);
    CHECK(tensorfile_read(&f, tensorfile_find(&f, "long"), 0, 1, DT_F32, &x) == ST_FORMAT,
          "integers became floats");
    CHECK(tensorfile_read(&f, tensorfile_find(&f, "long"), 0, 1, DT_BF16, &x) == ST_FORMAT,
          "integers became bf16");
    // four tensors share the storage of a; each is read at its offset
    CHECK(tensorfile_find(&f, "row")->offset == tensorfile_find(&f, "a")->offset + 20, "row");
    tensorfile_close(&f);

    CHECK(open_golden(&f, "wrapped.pth") == ST_OK, "%s", status_line());
    CHECK(f.count == 2, "%d tensors", f.count);
    check_values(&f, "inner.weight", DT_F32, 15, 0, 5, 5, 1);
    tensorfile_close(&f);

    for (int i = 0; i < 2; i++) { // the second in 64-bit fields, as members beyond 4 GiB have
        CHECK(open_golden(&f, i == 0 ? "nested.pth" : "zip64.pth") == ST_OK, "%s", status_line());
        CHECK(f.count == 2, "%d tensors", f.count);
        check_values(&f, "outer.inner.x", DT_F32, 15, 0, 5, 5, 1);
        check_values(&f, "p", DT_F32, 15, 0, 5, 5, 1);
        tensorfile_close(&f);
    }

    CHECK(open_golden(&f, "evil.pth") == ST_FORMAT && strstr(status_line(), "posix.system"), "%s",
          status_line());
    CHECK(open_golden(&f, "deflated.pth") == ST_FORMAT && strstr(status_line(), "compressed"), "%s",
          status_line());
}

static void test_safetensors(void)
{
    struct tensorfile f;
    uint64_t before;
    float x[2];

    CHECK(open_golden(&f, "dtypes.safetensors") == ST_OK, "%s", status_line());
    CHECK(f.count == 14, "%d tensors", f.count);
    check_values(&f, "f32", DT_F32, 15, 0, 5, 5, 1);
    check_values(&f, "f16", DT_F16, 15, 0, 5, 5, 1);
    check_values(&f, "bf16", DT_BF16, 15, 0, 5, 5, 1);
    check_values(&f, "f64", DT_F64, 15, 0, 5, 5, 1);
    check_values(&f, "e4m3", DT_F8_E4M3, 8, 0, 0, 8, 4);
    check_values(&f, "e5m2", DT_F8_E5M2, 8, 0, 0, 8, 4);
    before = f.bytes_read;
    CHECK(tensorfile_read(&f, tensorfile_find(&f, "f16"), 3, 2, DT_F32, x) == ST_OK &&
              f.bytes_read == before + 4,
          "%d bytes for two halves", (int)(f.bytes_read - before));
    tensorfile_close(&f);
}

/* Headers with one error each, followed by `data` bytes. text NULL: the header is valid. */
static void test_hostile_headers(void)
{
    static const struct {
        const char *header;
        int data;
        const char *text;
    } cases[] = {
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, NULL },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}   ", 8, NULL },
        { "{}", 0, NULL },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, "truncated" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, "after its last" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "takes 8" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "no size" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[0.5],\"data_offsets\":[0,2]}}", 2, "no size" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1e300],\"data_offsets\":[0,8]}}", 8, "no size" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4503599627370496,4503599627370496],"
          "\"data_offsets\":[0,8]}}",
          8, "63 bits" },
        { "{\"a\":{\"dtype\":\"F64\",\"shape\":[2147483648,4294967296],\"data_offsets\":[0,0]}}", 0,
          "63 bits" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "axes" },
        { "{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "F33" },
        { "{\"a\":{\"dtype\":7,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "no dtype" },
        { "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "no shape" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "offsets" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "offsets" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8,
          "the bytes 8 to 0" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
          "twice" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8,
          "does not know" },
        { "{\"a\":[1]}", 0, "no object" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
          "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
          6, "overlaps" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
          "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[6,10]}}",
          10, "gap" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
          "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
          8, "twice" },
        { "{\"\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "name" },
        { "{\"a\\u001b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "control" },
        { "[1]", 0, "JSON" },
        { " {}", 0, "JSON" },
        { "{} x", 0, "JSON" },
        { "{\"a\":", 0, "JSON" },
    };
    char bytes[1024] = { 0 };
    struct tensorfile f;

    for (size_t i = 0; i < COUNT(cases); i++) {
        const size_t length = strlen(cases[i].header);
        status st;

        bytes[0] = (char)(length & 0xff);
        bytes[1] = (char)(length >> 8);
        memcpy(bytes + 8, cases[i].header, length);
        memset(bytes + 8 + length, 0, (size_t)cases[i].data);
        st = open_bytes(&f, bytes, 8 + length + (size_t)cases[i].data);
        if (cases[i].text == NULL)
            CHECK(st == ST_OK, "%s: %s", cases[i].header, status_line());
        else
            CHECK(st == ST_FORMAT && strstr(status_line(), cases[i].text), "%s: %d %s",
                  cases[i].header, st, status_line());
        tensorfile_close(&f);
    }
    memset(bytes, 0xff, 8); // a header of 2^64 - 1 bytes
    CHECK(open_bytes(&f, bytes, 100) == ST_FORMAT, "a header without end");
    CHECK(open_bytes(&f, "\x80\x02}q\0.........", 12) == ST_FORMAT &&
              strstr(status_line(), "without a zip"),
          "%s", status_line());
}

/* One storage, "0", of 60 bytes at offset 1000. */
static status one_storage(void *payload, const char *key, uint64_t *offset, uint64_t *bytes)
{
    if (strcmp(key, "0") != 0)
        return fail(ST_FORMAT, "no storage %s", key);
    *offset = 1000;
    *bytes = 60;
    return ST_OK;
}

#define STORAGE "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\17tQ"
#define HOOKS                                                                                      \
    "\x89"                                                                                         \
    "ccollections\nOrderedDict\n)RtR"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define NAMED "\x80\2}(X\1\0\0\0a"
#define P(text) text, sizeof(text) - 1

static void test_hostile_pickles(void)
{
    static const struct {
        const char *bytes;
        size_t size;
        int tensors; // -1: refused
        const char *text;
    } cases[] = {
        { P(NAMED REBUILD STORAGE "K\0K\3K\5\x86K\5K\1\x86" HOOKS "u."), 1, NULL },
        { P("\x80\2}."), 0, NULL },
        { P(NAMED REBUILD STORAGE "K\1K\3K\5\x86K\5K\1\x86" HOOKS "u."), -1, "beyond its storage" },
        { P(NAMED REBUILD STORAGE "K\0K\3K\5\x86K\6K\1\x86" HOOKS "u."), -1, "beyond its storage" },
        { P(NAMED REBUILD STORAGE "J\xff\xff\xff\xffK\3K\5\x86K\5K\1\x86" HOOKS "u."), -1,
          "not built from" },
        { P(NAMED REBUILD STORAGE "K\0J\xfe\xff\xff\xffK\5\x86K\5K\1\x86" HOOKS "u."), -1,
          "negative" },
        { P(NAMED REBUILD STORAGE "K\0K\3K\5\x86J\xff\xff\xff\xffK\1\x86" HOOKS "u."), -1,
          "negative" },
        { P(NAMED REBUILD STORAGE
            "K\0\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\5\x86K\0K\0\x86" HOOKS "u."),
          -1, "63 bits" },
        { P(NAMED REBUILD STORAGE "K\0K\3\x85K\5K\1\x86" HOOKS "u."), -1, "not built from" },
        { P(NAMED REBUILD "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\20tQ"
                          "K\0K\3K\5\x86K\5K\1\x86" HOOKS "u."),
          -1, "60 bytes where 16" },
        { P(NAMED REBUILD "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0009X\3\0\0\0cpuK\17tQ"
                          "K\0K\3K\5\x86K\5K\1\x86" HOOKS "u."),
          -1, "no storage 9" },
        { P("\x80\2cos\nsystem\nX\4\0\0\0true\x85R."), -1, "os.system" },
        { P("\x80\4\x8c\x08"
            "builtins\x8c\x04"
            "eval\x93\x8c\x01"
            "1\x85R."),
          -1, "builtins.eval" },
        { P("\x80\2c__builtin__\nexec\n."), -1, "__builtin__.exec" },
        { P("\x80\2ctorch._utils\n_rebuild_tensor_v9\n."), -1, "_rebuild_tensor_v9" },
        { P("\x80\2ctorch\nfloat8_e5m2\n)R."), -1, "storage class or a dtype" },
        { P(NAMED "ctorch._utils\n_rebuild_tensor_v3\n" STORAGE "K\0K\3K\5\x86K\5K\1\x86" HOOKS
                  "u."),
          -1, "not built from" },
        { P("\x80\2ctorch\nFloatStorage\n)R."), -1, "storage class" },
        { P("\x80\2i__main__\nX\n."), -1, "0x69" },
        { P("\x80\6}."), -1, "protocol" },
        { P("\x80\2r\xff\xff\xff\xff."), -1, "memo" },
        { P("\x80\2}j\xff\xff\xff\xff."), -1, "memo" },
        { P("\x80\2X\xff\xff\xff\xff."), -1, "longer than" },
        { P("\x80\4\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), -1, "longer than" },
        { P("\x80\2u."), -1, "no mark" },
        { P("\x80\2(u."), -1, "holds none" },
        { P("\x80\2\x87."), -1, "tuple" },
        { P("\x80\2R."), -1, "nothing is on the stack" },
        { P("\x80\2Q."), -1, "nothing is on the stack" },
        { P("\x80\2}Q."), -1, "no storage" },
        { P("\x80\2."), -1, "nothing is on the stack" },
        { P("\x80\2K\1."), -1, "no dict" },
        { P("\x80\2}(K\1u."), -1, "no value" },
        { P("\x80\2}q\0X\1\0\0\0ah\0s."), -1, "inside itself" },
        { P("\x80\2}(X\1\0\0\0a}(X\1\0\0\0a}(X\1\0\0\0a}(X\1\0\0\0a}(X\1\0\0\0a}(X\1\0\0\0a}("
            "X\1\0\0\0a}(X\1\0\0\0a}(X\1\0\0\0a}uuuuuuuuu."),
          -1, "nested" },
        { P("\x80\2}"), -1, "ends inside" },
    };
    const struct tensor_source src = { .path = "pickle", .fd = -1, .size = 2000 };
    const struct pickle_storages storages = { one_storage, NULL };

    for (size_t i = 0; i < COUNT(cases); i++) {
        struct tensor_list list = { 0 };
        const status st =
            pickle_list(&src, (const uint8_t *)cases[i].bytes, cases[i].size, storages, &list);

        if (cases[i].tensors >= 0)
            CHECK(st == ST_OK && list.count == cases[i].tensors, "%d: %s", (int)i, status_line());
        else
            CHECK(st == ST_FORMAT && strstr(status_line(), cases[i].text), "%d: %d %s", (int)i, st,
                  status_line());
        tensor_list_done(&list);
    }

    // a million nested lists need neither stack nor time
    char *deep = malloc(1 << 20);
    struct tensor_list list = { 0 };
    memset(deep, ']', 1 << 20);
    memcpy(deep, "\x80\2", 2);
    memset(deep + (1 << 19), 'a', (1 << 19) - 1);
    deep[(1 << 20) - 1] = '.';
    CHECK(pickle_list(&src, (const uint8_t *)deep, 1 << 20, storages, &list) == ST_FORMAT, "deep");
    tensor_list_done(&list);
    free(deep);
}

static uint8_t *read_golden(const char *name, size_t *size)
{
    char path[512];
    uint8_t *bytes = malloc(1 << 16);
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", golden, name);
    file = fopen(path, "rb");
    if (file == NULL || bytes == NULL)
        exit(2);
    *size = fread(bytes, 1, 1 << 16, file);
    fclose(file);
    return bytes;
}

/* Reads all tensors of a file; reading may fail, but only with a status. */
static void read_everything(struct tensorfile *f)
{
    for (int i = 0; i < f->count; i++) {
        const struct file_tensor *t = &f->tensors[i];
        const int64_t count = tensor_count(t->shape);
        float values[512];

        if (count <= (int64_t)COUNT(values))
            (void)tensorfile_read(f, t, 0, count, DT_F32, values);
        else
            (void)tensorfile_read(f, t, count - 1, 1, DT_F32, values);
    }
}

static const char *const files[] = { "flat.pth", "wrapped.pth", "nested.pth", "zip64.pth",
                                     "dtypes.safetensors" };

/* Files truncated after every byte are refused with a line that names the file. */
static void test_cut(void)
{
    for (size_t i = 0; i < COUNT(files); i++) {
        size_t size;
        uint8_t *bytes = read_golden(files[i], &size);

        for (size_t length = 0; length < size; length++) {
            struct tensorfile f;
            const status st = open_bytes(&f, bytes, length);

            CHECK((st == ST_FORMAT || st == ST_IO) && strstr(status_line(), scratch),
                  "%s cut to %zu of %zu bytes: %d %s", files[i], length, size, st, status_line());
            tensorfile_close(&f);
        }
        free(bytes);
    }
}

/* Files with up to four random bytes changed are opened or refused; nothing crashes. */
static void test_mutations(void)
{
    uint64_t random = 42;
    int opened = 0, refused = 0;

    for (size_t i = 0; i < COUNT(files); i++) {
        size_t size;
        uint8_t *bytes = read_golden(files[i], &size), *changed = malloc(size);

        for (int round = 0; round < 2500; round++) {
            struct tensorfile f;
            status st;

            memcpy(changed, bytes, size);
            for (int k = 0; k <= round % 4; k++) {
                random = random * 6364136223846793005u + 1442695040888963407u;
                changed[(random >> 33) % size] = (uint8_t)(random >> 25);
            }
            st = open_bytes(&f, changed, size);
            CHECK(st == ST_OK || st == ST_FORMAT || st == ST_IO, "%s: %d %s", files[i], st,
                  status_line());
            opened += st == ST_OK;
            refused += st != ST_OK;
            if (st == ST_OK)
                read_everything(&f);
            tensorfile_close(&f);
        }
        free(bytes);
        free(changed);
    }
    CHECK(opened > 500 && refused > 500, "%d opened, %d refused: the changes test too little",
          opened, refused);
}

/* A file that shrinks after it was opened. */
static void test_shrunk(void)
{
    size_t size;
    uint8_t *bytes = read_golden("dtypes.safetensors", &size);
    struct tensorfile f;
    float x[15];

    CHECK(open_bytes(&f, bytes, size) == ST_OK, "%s", status_line());
    CHECK(truncate(scratch, (off_t)(size - 100)) == 0, "truncate");
    CHECK(tensorfile_read(&f, tensorfile_find(&f, "bf16"), 0, 15, DT_F32, x) == ST_IO ||
              tensorfile_read(&f, tensorfile_find(&f, "u8"), 0, 3, DT_U8, x) == ST_IO,
          "read data after the end of the file");
    tensorfile_close(&f);
    free(bytes);
}

int main(int argc, char **argv)
{
    memory = memfd_create("scratch", MFD_CLOEXEC);
    if (argc != 2 || memory < 0)
        return 2;
    snprintf(scratch, sizeof(scratch), "/proc/self/fd/%d", memory);
    golden = argv[1];
    test_pth();
    test_safetensors();
    test_hostile_headers();
    test_hostile_pickles();
    test_cut();
    test_mutations();
    test_shrunk();
    close(memory);
    return check_end("tensorfile");
}
