/* Encoding of a sound, for the conditioning. */
#include "model/audio/speech.h"
#include "model/media/sound_input.h"
#include "model/pipeline/pipeline.h"
#include "model/transformer/dit.h"
#include "model/transformer/features.h"
#include "runtime/alive.h"
#include "runtime/half.h"

#include <stdlib.h>
#include <string.h>

/* The factors of the states, [count]: from the transformer's file. */
static status read_factors(struct pipeline *p, float **factors, int64_t *count)
{
    const struct dit_config *config = model_dit(&p->plan.model);
    const struct weight_source source = checkpoint_source(p->checkpoint, &part_dit);
    const struct weight_spec *found = NULL;
    struct tensor_list list = { 0 };
    status st;

    TRY_OUT(checkpoint_part(p->checkpoint, &part_dit));
    dit_tensors(&list, config, DT_F32, (struct dit_matmul){ 0 });
    TRY_OUT(tensors_status(&list));
    for (int i = 0; i < list.count && found == NULL; i++)
        if (strcmp(list.specs[i].name, feature_audio.detected_by) == 0)
            found = &list.specs[i];
    if (found == NULL)
        TRY_OUT(fail(ST_FORMAT, "the transformer has no %s", feature_audio.detected_by));
    *count = found->file_dim[1];
    *factors = malloc((size_t)*count * sizeof(float));
    if (*factors == NULL)
        TRY_OUT(fail(ST_MEMORY, "cannot allocate host memory for %lld factors", (long long)*count));
    TRY_OUT(source.read(source.payload, found, found->name, 0, *count, *factors));
    speech_weights(*factors, *count);
out:
    tensors_done(&list);
    return st;
}

/* Payload of the encoder's sink. */
struct mean {
    const float *factors;
    int64_t count, rows, width, frames;
    bool bf16; // the states are rounded, as the official program does
    float *out;
};

static status add_state(void *payload, int index, const float *rows)
{
    const struct mean *m = payload;
    const int64_t w = m->width;

    for (int64_t f = 0; f < m->frames; f++) {
        const struct speech_row r = speech_row(m->rows, f);
        const float *a = rows + r.row[0] * w, *b = rows + r.row[1] * w;
        float *to = m->out + f * w;

        for (int64_t i = 0; i < w; i++) {
            float v = r.weight[0] * a[i] + r.weight[1] * b[i];

            if (m->bf16)
                v = f32_from_bf16(bf16_from_f32(v));
            to[i] += m->factors[index] * v;
        }
    }
    return ST_OK;
}

static status encode_sound(struct pipeline *p, const struct sound_input *sound, int64_t frames,
                           float *out)
{
    const struct wav2vec2_config *config = model_wav2vec2(&p->plan.model);
    struct mean mean = {
        .width = config->dim, .frames = frames, .bf16 = p->plan.cdt == DT_BF16, .out = out
    };
    float *samples = NULL, *factors = NULL;
    int64_t count = 0;
    struct arena a = { 0 };
    status st;

    memset(out, 0, (size_t)(frames * config->dim) * sizeof(float));
    TRY_OUT(read_factors(p, &factors, &mean.count));
    mean.factors = factors;
    TRY_OUT(sound->read(sound->payload, &samples, &count));
    mean.rows = wav2vec2_rows(config, count);
    if (mean.rows != speech_rows(count) || mean.count != config->layers + 1)
        TRY_OUT(fail(ST_FORMAT,
                     "the audio encoder makes %lld rows of %lld samples and %d states, S2V needs "
                     "%lld and %lld: use wav2vec2-large-xlsr-53-english",
                     (long long)mean.rows, (long long)count, config->layers + 1,
                     (long long)speech_rows(count), (long long)mean.count));
    wav2vec2_normalize(samples, count);
    TRY_OUT(checkpoint_part(p->checkpoint, &part_wav2vec2));
    TRY_OUT(arena_init(&a, p->dev, "audio", plan_stage(&p->sizes, STAGE_AUDIO)->scratch));
    TRY_OUT(wav2vec2_encode(config, p->dev, &a, checkpoint_source(p->checkpoint, &part_wav2vec2),
                            samples, count, (struct wav2vec2_sink){ add_state, &mean }));
    TRY_OUT(pipeline_finite(out, frames * config->dim, "audio encoder"));
out:
    arena_done(&a);
    free(samples);
    free(factors);
    return st;
}

status pipeline_audio(struct pipeline *p, const struct sound_input *sound, int64_t frames,
                      float *rows)
{
    const int64_t width = model_wav2vec2(&p->plan.model)->dim;

    alive_at("audio encoding", -1);
    TRY(agree(p->world, p->world->rank == 0 ? encode_sound(p, sound, frames, rows) : ST_OK));
    for (int64_t f = 0; f < frames; f += 1024) {
        const int64_t n = frames - f < 1024 ? frames - f : 1024;

        world_broadcast(p->world, rows + f * width, (size_t)(n * width) * sizeof(float), 0);
    }
    return ST_OK;
}
