/* Encoding of images and clips, for the conditioning. */
#include "model/pipeline/pipeline.h"
#include "runtime/alive.h"

#include <stdlib.h>

/* Copies [T, H, W, C] to [C, T, H, W]. */
static void channels_first(float *out, const float *in, struct latent_shape s)
{
    const int64_t cells = s.t * s.h * s.w;

    for (int64_t i = 0; i < cells; i++)
        for (int64_t c = 0; c < s.c; c++)
            out[c * cells + i] = in[i * s.c + c];
}

static struct latent_shape shape_of(const struct vae_config *config, struct frame_source source)
{
    return (struct latent_shape){ config->z, 1 + (source.frames - 1) / config->stride_t,
                                  source.h / config->stride, source.w / config->stride };
}

status pipeline_encode_all(struct pipeline *p, int count, const struct frame_source *sources,
                           float *const *latents)
{
    const struct plan_stage *sizes = plan_stage(&p->sizes, STAGE_ENCODE);
    const struct vae_config *config = model_vae(&p->plan.model);
    struct arena weights = { 0 }, scratch = { 0 };
    struct vae vae = { 0 };
    int64_t most = 0;
    float *thwc = NULL;
    status st = ST_OK;

    alive_at("encoding", -1);
    for (int i = 0; i < count; i++) {
        const int64_t values = latent_count(shape_of(config, sources[i]));

        most = values > most ? values : most;
    }
    thwc = malloc((size_t)most * sizeof(float));
    if (thwc == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for a latent of %lld values",
                  (long long)most);
    if (st == ST_OK)
        st = checkpoint_part(p->checkpoint, &part_vae);
    if (st == ST_OK)
        st = arena_init(&weights, p->dev, "vae encoder", sizes->weights);
    if (st == ST_OK)
        st = vae_open(&vae, config, &p->mesh.all, p->dev, &weights, p->plan.vae_dtype, true, false,
                      checkpoint_source(p->checkpoint, &part_vae));
    if (st == ST_OK)
        st = arena_init(&scratch, p->dev, "encode", sizes->scratch);
    TRY_OUT(agree(p->world, st));
    for (int i = 0; i < count && st == ST_OK; i++) {
        const struct latent_shape s = shape_of(config, sources[i]);
        struct frame_source source = sources[i];

        source.ready = pipeline_ready;
        source.ready_payload = p;
        TRY_OUT(vae_encode(&vae, &scratch, thwc, source, p->encode_tiling));
        channels_first(latents[i], thwc, s);
        st = agree(p->world, pipeline_finite(latents[i], latent_count(s), "VAE's encoder"));
        p->must_abort = false; // all ranks have this status
    }
out:
    if (!p->must_abort) { // else the job ends, and frees nothing
        vae_close(&vae);
        arena_done(&scratch);
        arena_done(&weights);
    }
    free(thwc);
    return st;
}

status pipeline_encode(struct pipeline *p, struct frame_source source, float *latent)
{
    return pipeline_encode_all(p, 1, &source, &latent);
}

/* ---- the image encoder ---- */

void pipeline_close_clip(struct pipeline *p)
{
    clip_close(&p->clip);
    p->clip_ready = false;
    arena_done(&p->clip_weights);
}

static status encode_pictures(struct pipeline *p, int count, const struct picture *pictures,
                              float *tokens)
{
    const struct clip_config *config = model_clip(&p->plan.model);
    const int64_t values = clip_patches_count(config);
    float *patches = malloc((size_t)(count * values) * sizeof(float));
    const struct plan_stage *sizes = plan_stage(&p->sizes, STAGE_IMAGE);
    const bool keep = p->plan.keep_images;
    struct arena a = { 0 };
    status st = ST_OK;

    if (patches == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for %d images", count);
    for (int i = 0; i < count && st == ST_OK; i++)
        st = clip_patches(patches + i * values, config, pictures[i].image, pictures[i].window);
    TRY_OUT(st);
    TRY_OUT(checkpoint_part(p->checkpoint, &part_clip));
    TRY_OUT(arena_init(&a, p->dev, "image", sizes->scratch));
    if (keep && p->clip_weights.base == NULL)
        TRY_OUT(arena_init(&p->clip_weights, p->dev, "image encoder", sizes->weights));
    if (!p->clip_ready)
        TRY_OUT(clip_open(&p->clip, config, keep ? &p->clip_weights : &a,
                          checkpoint_source(p->checkpoint, &part_clip), keep));
    p->clip_ready = true;
    TRY_OUT(clip_encode(config, p->dev, &a, &p->clip, count, patches, tokens));
    TRY_OUT(pipeline_finite(tokens, count * clip_tokens(config) * config->dim, "image encoder"));
out:
    if (!keep || st != ST_OK)
        pipeline_close_clip(p);
    arena_done(&a);
    free(patches);
    return st;
}

status pipeline_images(struct pipeline *p, int count, const struct picture *pictures, float *tokens)
{
    const struct clip_config *config = model_clip(&p->plan.model);

    alive_at("image encoding", -1);
    TRY(agree(p->world, p->world->rank == 0 ? encode_pictures(p, count, pictures, tokens) : ST_OK));
    world_broadcast(p->world, tokens,
                    (size_t)(count * clip_tokens(config) * config->dim) * sizeof(float), 0);
    return ST_OK;
}
