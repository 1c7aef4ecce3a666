/* Encoding of images and clips, for the conditioning. */
#include "model/pipeline/pipeline.h"
#include "runtime/alive.h"

#include <math.h>
#include <stdlib.h>

/* frame_source.ready: from here on an error of one rank is not known to the others. */
static status begin(void *payload, status st)
{
    struct pipeline *p = payload;

    st = agree(p->world, st);
    p->must_abort = st == ST_OK;
    return st;
}

/* Copies [T, H, W, C] to [C, T, H, W]. ST_FORMAT if a value is not finite. */
static status channels_first(float *out, const float *in, struct latent_shape s)
{
    const int64_t cells = s.t * s.h * s.w;

    for (int64_t i = 0; i < cells; i++)
        for (int64_t c = 0; c < s.c; c++) {
            if (!isfinite(in[i * s.c + c]))
                return fail(ST_FORMAT, "the VAE's encoder gives values that are not finite: its "
                                       "weights are damaged");
            out[c * cells + i] = in[i * s.c + c];
        }
    return ST_OK;
}

status pipeline_encode(struct pipeline *p, struct frame_source source, float *latent)
{
    const struct plan_stage *sizes = plan_stage(&p->sizes, STAGE_ENCODE);
    const struct vae_config *config = model_vae(&p->plan.model);
    const struct latent_shape s = { config->z, 1 + (source.frames - 1) / config->stride_t,
                                    source.h / config->stride, source.w / config->stride };
    struct arena weights = { 0 }, scratch = { 0 };
    struct vae vae = { 0 };
    float *thwc = malloc((size_t)latent_count(s) * sizeof(float));
    status st = ST_OK;

    alive_at("encoding", -1);
    if (thwc == NULL)
        st = fail(ST_MEMORY, "cannot allocate host memory for a latent of %lld values",
                  (long long)latent_count(s));
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
    source.ready = begin;
    source.ready_payload = p;
    TRY_OUT(vae_encode(&vae, &scratch, thwc, source, (struct vae_tiling){ 0 }));
    st = agree(p->world, channels_first(latent, thwc, s));
    p->must_abort = false; // all ranks have this status
out:
    if (!p->must_abort) { // else the job ends, and frees nothing
        vae_close(&vae);
        arena_done(&scratch);
        arena_done(&weights);
    }
    free(thwc);
    return st;
}
