/* Weight files: .safetensors, .pth and GGUF, all headers and all values. */
#include "runtime/tensorfile.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

#define ELEMENTS_MAX 4096 // read of each tensor: from its start and from its end

static void read_ends(struct tensorfile *f, const struct file_tensor *t, enum dtype dt)
{
    static char values[ELEMENTS_MAX * 8];
    const int64_t count = tensor_count(t->shape),
                  take = count < ELEMENTS_MAX ? count : ELEMENTS_MAX;

    fuzz_ok(tensorfile_read(f, t, 0, take, dt, values));
    fuzz_ok(tensorfile_read(f, t, count - take, take, dt, values));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file(data, size);
    struct tensorfile f = { 0 };
    struct file_value v = { 0 };

    if (fuzz_ok(tensorfile_open(&f, &path, 1))) {
        fuzz_ok(tensorfile_value(&f, 0, "tokenizer.ggml.tokens", &v));
        free(v.bytes);
        for (int i = 0; i < f.count; i++) {
            read_ends(&f, &f.tensors[i], DT_F32);
            read_ends(&f, &f.tensors[i], DT_BF16);
            read_ends(&f, &f.tensors[i], f.tensors[i].shape.dtype);
        }
    }
    tensorfile_close(&f);
    return 0;
}
