/* The pickle of a .pth file, without the zip: its checksum would stop most changed inputs. */
#include "runtime/tensorfile_internal.h"
#include "tests/fuzz/fuzz.h"

/* Storages "0" to "9" of 64 bytes each. */
static status find(void *payload, const char *key, uint64_t *offset, uint64_t *bytes)
{
    if (key[0] < '0' || key[0] > '9' || key[1] != '\0')
        return fail(ST_FORMAT, "no storage %s", key);
    *offset = (uint64_t)(key[0] - '0') * 64;
    *bytes = 64;
    return ST_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct tensor_source src = { .path = "fuzz", .fd = -1, .size = 640 };
    struct tensor_list list = { 0 };

    fuzz_ok(pickle_list(&src, data, size, (struct pickle_storages){ find, NULL }, &list));
    for (int i = 0; i < list.count; i++)
        if (tensor_count(list.tensors[i].shape) > 0 && list.tensors[i].offset >= src.size)
            __builtin_trap();
    tensor_list_done(&list);
    return 0;
}
