/* vae_psnr CHECKPOINT CLIPS.safetensors [threads]
 *
 * The reconstruction error of a trained VAE: encodes and decodes every tensor of the file, frames
 * [F, H, W, 3] f32 in [-1, 1], F = 4n + 1, and prints the PSNR of each and their mean.
 * model/demo/recipe/vae_psnr.py writes such a file and compares with PyTorch. */
#include "kernels/table.h"
#include "model/pipeline/model.h"
#include "model/vae/vae.h"
#include "parallel/world.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct job {
    struct world world;
    struct group group;
    struct device dev;
    struct vae vae;
    struct arena weights, step;
    struct checkpoint checkpoint;
    struct tensorfile clips;
};

static status open_all(struct job *j, struct world *w, size_t weights, size_t step)
{
    TRY(group_open(&j->group, "vae", w, &j->dev, 0, (const int[]){ 0 }, 1));
    TRY(arena_init(&j->weights, &j->dev, "weights", weights));
    TRY(arena_init(&j->step, &j->dev, "step", step));
    return vae_open(&j->vae, checkpoint_config(&j->checkpoint, &part_vae), &j->group, &j->dev,
                    &j->weights, DT_F32, true, true, checkpoint_source(&j->checkpoint, &part_vae));
}

static void close_all(struct job *j)
{
    vae_close(&j->vae);
    arena_done(&j->weights);
    arena_done(&j->step);
    group_close(&j->group);
    device_close(&j->dev);
}

/* Encodes and decodes. On the plan device the frames are not read. */
static status reconstruct(struct job *j, const struct tensor *shape, float *latent, float *before,
                          float *after)
{
    const struct vae_tiling whole = { 0 };
    const struct clip clip = { before, shape->dim[0], shape->dim[1], shape->dim[2] };
    const int64_t px = j->vae.config.stride;

    TRY(vae_encode(&j->vae, &j->step, latent, clip_source(&clip), whole));
    return vae_decode(&j->vae, &j->step, latent, (clip.frames + 3) / 4, clip.h / px, clip.w / px,
                      whole, (struct frame_sink){ .put = NULL }, after);
}

static double psnr(const float *a, const float *b, int64_t count)
{
    double sum = 0;

    for (int64_t i = 0; i < count; i++) {
        const double d = a[i] - fmin(1, fmax(-1, b[i]));

        sum += d * d / 4; // the range is 2
    }
    return -10 * log10(sum / count);
}

static status check_shapes(const struct tensorfile *f)
{
    for (int i = 0; i < f->count; i++) {
        const struct tensor *s = &f->tensors[i].shape;

        if (s->ndim != 4 || s->dtype != DT_F32 || s->dim[0] % 4 != 1 || s->dim[3] != 3)
            return fail(ST_FORMAT, "%s is not frames [4n+1, H, W, 3] f32", f->tensors[i].name);
    }
    return f->count > 0 ? ST_OK : fail(ST_FORMAT, "the file has no clips");
}

static status measure(struct job *j, struct file_tensor *clip, double *found)
{
    const int64_t count = tensor_count(clip->shape);
    const size_t bytes = (size_t)count * sizeof(float);
    // a latent is smaller than its clip: 16 values for 4 x 8 x 8 pixels of 3, or 8 x 8 in frame 0
    float *before = malloc(bytes), *after = malloc(bytes), *latent = malloc(bytes);
    status st;

    if (before == NULL || after == NULL || latent == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate memory for %s", clip->name));
    TRY_OUT(tensorfile_read(&j->clips, clip, 0, count, DT_F32, before));
    TRY_OUT(reconstruct(j, &clip->shape, latent, before, after));
    *found = psnr(before, after, count);
out:
    free(before);
    free(after);
    free(latent);
    return st;
}

int main(int argc, char **argv)
{
    struct job j = { 0 };
    struct world described;
    struct table table;
    double sum = 0, least = INFINITY;
    size_t weights, step;
    float planned; // stands for the pixels on the plan device, never accessed
    status st;

    TRY_OUT(world_open(&j.world, &argc, &argv));
    if (argc < 3)
        TRY_OUT(fail(ST_USAGE, "vae_psnr CHECKPOINT CLIPS.safetensors [threads]"));
    TRY_OUT(tensorfile_open(&j.clips, (const char *const[]){ argv[2] }, 1));
    TRY_OUT(check_shapes(&j.clips));
    TRY_OUT(checkpoint_open(&j.checkpoint, argv[1], model_parts));
    TRY_OUT(checkpoint_part(&j.checkpoint, &part_vae));

    world_describe(&described, 0, 1, 1);
    TRY_OUT(device_open_plan(&j.dev, &table_plan, 0));
    TRY_OUT(open_all(&j, &described, 0, 0));
    for (int i = 0; i < j.clips.count; i++)
        TRY_OUT(reconstruct(&j, &j.clips.tensors[i].shape, NULL, NULL, &planned));
    weights = j.weights.peak, step = j.step.peak;
    close_all(&j);

    table_cpu(&table);
    TRY_OUT(device_open_cpu(&j.dev, argc > 3 ? atoi(argv[3]) : 1, &table, table.workspace));
    TRY_OUT(open_all(&j, &j.world, weights, step));
    for (int i = 0; i < j.clips.count; i++) {
        double found;

        TRY_OUT(measure(&j, &j.clips.tensors[i], &found));
        printf("%s %.3f\n", j.clips.tensors[i].name, found);
        sum += found, least = fmin(least, found);
    }
    printf("mean %.3f min %.3f of %d\n", sum / j.clips.count, least, j.clips.count);
out:
    if (st != ST_OK)
        fprintf(stderr, "vae_psnr: %s\n", status_line());
    close_all(&j);
    tensorfile_close(&j.clips);
    checkpoint_close(&j.checkpoint);
    world_close(&j.world);
    return st == ST_OK ? 0 : 1;
}
