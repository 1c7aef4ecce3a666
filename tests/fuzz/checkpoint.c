/* A checkpoint's folder: config.json, the index of its shards, and the header of one shard, as
 * `inspect` and `generate` read them. The input is these three, each up to a byte 0xff, which no
 * JSON text has. The shard is as long as its header says, at most 1 TiB, and empty but for it. It
 * is read as a transformer and as an image encoder. */
#include "model/checkpoint/checkpoint.h"
#include "model/pipeline/model.h"
#include "model/pipeline/task.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {
    "config.json",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model-00001-of-00001.safetensors",
};
static const char clip_name[] = "models_clip.safetensors"; // a link to the shard, for part_clip
static char folder[] = "/tmp/wanmpi-fuzz-XXXXXX";

static void remove_folder(void)
{
    char path[512];

    for (size_t i = 0; i < COUNT(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        unlink(path);
    }
    snprintf(path, sizeof(path), "%s/%s", folder, clip_name);
    unlink(path);
    rmdir(folder);
}

/* Where the last tensor ends: the largest "N]" of the header. */
static uint64_t data_bytes(const uint8_t *header, size_t size)
{
    uint64_t most = 0, n = 0;

    for (size_t i = 0; i < size; i++) {
        if (header[i] >= '0' && header[i] <= '9') {
            n = n < (uint64_t)1 << 36 ? 10 * n + header[i] - '0' : n;
            continue;
        }
        most = header[i] == ']' && n > most ? n : most;
        n = 0;
    }
    return most;
}

static void write_shard(const uint8_t *header, size_t size)
{
    char *file = malloc(8 + size);
    const uint64_t length = size;

    if (file == NULL)
        exit(1);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, size);
    fuzz_write(folder, names[2], file, 8 + size, 8 + size + data_bytes(header, size));
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct checkpoint c = { 0 };
    const struct task *task;
    struct model model;
    struct checkpoint_report report = { 0 };

    if (folder[strlen(folder) - 1] == 'X') {
        char path[512];

        if (mkdtemp(folder) == NULL)
            exit(1);
        atexit(remove_folder);
        snprintf(path, sizeof(path), "%s/%s", folder, clip_name);
        if (symlink(names[2], path) != 0)
            exit(1);
    }
    for (size_t i = 0; i < 2; i++) {
        const uint8_t *end = size > 0 ? memchr(data, 0xff, size) : NULL;

        if (end == NULL)
            return 0;
        fuzz_write(folder, names[i], data, (size_t)(end - data), (size_t)(end - data));
        size -= (size_t)(end - data) + 1;
        data = end + 1;
    }
    write_shard(data, size);
    if (fuzz_ok(checkpoint_open(&c, folder, model_parts))) {
        fuzz_ok(checkpoint_report(&c, &report, true));
        for (int i = 0; i < c.count; i++)
            fuzz_ok(checkpoint_part(&c, model_parts[i]));
        model = model_of_checkpoint(&c);
        fuzz_ok(model_check(&model, folder));
        if (model_dit(&model) != NULL)
            fuzz_ok(task_for_checkpoint(&task, &c));
    }
    checkpoint_report_done(&report);
    checkpoint_close(&c);
    return 0;
}
